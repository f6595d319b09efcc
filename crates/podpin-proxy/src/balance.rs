//! A service at run time: its endpoints, ring, queue and limits.

pub mod asks;
pub mod client_limit;
mod flaps;
pub mod queue;
pub mod ring;
pub mod service;
