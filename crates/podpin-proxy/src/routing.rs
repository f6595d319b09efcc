//! Routes, and the snapshot of the configuration that a request sees.

pub mod route;
pub mod snapshot;
pub mod table;
