//! Limits with a count for each key, and permits under them.

pub mod connections;
pub mod keyed;
