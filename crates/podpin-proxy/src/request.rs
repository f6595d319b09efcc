//! Ordinary requests: served by an endpoint, transferred both ways, accounted for.

pub(crate) mod account;
pub(crate) mod serve;
pub(crate) mod transfer;
