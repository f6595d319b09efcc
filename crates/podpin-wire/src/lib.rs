//! Wire formats of HTTP/1 and the PROXY protocol, without sockets and clocks.
//!
//! Parsers of heads and bodies, the rules for header and trailer fields that cross a proxy. Each
//! of them takes bytes and returns facts; sockets and deadlines belong to `podpin-proxy`. Every length that a peer
//! could stretch has a limit here.

pub mod client;
pub mod fields;
mod forwarded;
pub mod headers;
pub mod http1;
pub mod proxy_protocol;
pub mod trailers;
pub mod upgrade;
pub mod via;
