//! TLS: of the listeners towards clients, and towards the endpoints of services.

pub mod certificate;
pub mod error;
pub mod failure;
mod pem;
pub mod provider;
mod server;
mod tickets;
mod upstream;
mod verifier;

pub use crate::net::tls::error::TlsError;
pub use crate::net::tls::failure::HandshakeFailure;
pub use crate::net::tls::server::{Accepted, LoadedTls, ServerTls, load};
pub use crate::net::tls::upstream::{UpstreamTls, files as upstream_tls_files};
