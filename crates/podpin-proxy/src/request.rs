//! Ordinary requests.

pub mod account;
pub mod serve;
pub mod transfer;
pub mod upload;
