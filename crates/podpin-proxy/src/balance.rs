//! A service at run time: its endpoints, ring, queue and limits.

pub mod client_limit;
pub mod queue;
pub mod ring;
pub mod service;
