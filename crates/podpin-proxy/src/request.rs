//! Ordinary requests: served by an endpoint, transferred both ways, accounted for.

pub(crate) mod account;
mod body_framing;
mod outcome;
pub(crate) mod serve;
pub(crate) mod transfer;
