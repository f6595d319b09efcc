//! Routes, and the snapshot of the configuration that a request sees.

pub(crate) mod snapshot;
pub(crate) mod table;
