//! TLS: of the listeners towards clients, and towards the endpoints of services.

pub mod certificate;
pub mod error;
pub mod provider;
mod server;
mod upstream;
mod verifier;

pub use crate::net::tls::error::TlsError;
pub use crate::net::tls::server::{LoadedTls, ServerTls, load};
pub use crate::net::tls::upstream::{UpstreamTls, files as upstream_tls_files};
