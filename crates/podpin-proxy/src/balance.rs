//! A service at run time: its endpoints, ring, queue and limits.

pub(crate) mod client_limit;
pub(crate) mod keyed_limit;
pub(crate) mod queue;
pub(crate) mod ring;
pub(crate) mod service;
