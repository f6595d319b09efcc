//! The endpoint side: connections, their pool, and the headers that are sent and forwarded.

pub mod connect;
pub mod pool;
pub mod rewrite;
