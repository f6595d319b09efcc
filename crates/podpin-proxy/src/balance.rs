//! A service at run time: its endpoints, ring, queue and limits.

pub mod asks;
pub mod client_limit;
mod flaps;
pub mod queue;
pub(crate) mod retry;
pub mod ring;
pub mod service;
pub mod source;
