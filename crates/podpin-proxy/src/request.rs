//! Ordinary requests: served by an endpoint, transferred both ways, accounted for.

pub(crate) mod account;
mod call;
mod http2;
mod pod_transfer;
pub(crate) mod serve;
pub(crate) mod transfer;
