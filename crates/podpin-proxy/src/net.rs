//! Sockets, TLS, and the buffers of a worker thread.

pub(crate) mod proxy_protocol;
pub(crate) mod scratch;
pub(crate) mod socket_options;
pub(crate) mod tls;
pub(crate) mod transport;
