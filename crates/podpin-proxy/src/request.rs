//! Ordinary requests.

pub(crate) mod account;
pub(crate) mod serve;
pub(crate) mod transfer;
pub(crate) mod upload;
