//! The endpoint side: connections, their pool, and the headers that are sent and forwarded.

pub(crate) mod connect;
pub(crate) mod pool;
pub(crate) mod rewrite;
