//! Ordinary requests: served by an endpoint, transferred both ways, accounted for.

pub(crate) mod account;
mod body_framing;
mod call;
mod http2;
mod outcome;
mod pod_transfer;
pub(crate) mod serve;
pub(crate) mod served;
mod transfer;
pub(crate) mod transfer_error;
mod transfer_limits;
mod unsent;
