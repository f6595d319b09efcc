//! Limits with a count for each key, and permits under them.

pub mod connections;
pub mod http2;
pub mod keyed;
pub mod requests;
