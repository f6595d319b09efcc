//! Sockets, TLS, and the buffers of a worker thread.

pub mod certificate_text;
pub mod client_certificate;
pub mod listener;
pub mod peer;
pub mod proxy_protocol;
pub mod scratch;
pub mod socket_options;
pub mod tls;
pub mod transport;
