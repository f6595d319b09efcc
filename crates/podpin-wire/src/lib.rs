//! Wire formats of HTTP/1, the PROXY protocol and names in certificates, without sockets and clocks.
//!
//! Parsers of heads and bodies, the rules for header and trailer fields that cross a proxy, the statuses of gRPC. Each
//! of them takes bytes and returns facts; sockets and deadlines belong to `podpin-proxy`. Every length that a peer
//! could stretch has a limit here.

pub mod client;
pub mod compact_head;
pub mod distinguished_name;
pub mod fields;
mod forwarded;
pub mod forwarding;
pub mod grpc;
pub mod header_list;
pub mod headers;
pub mod http1;
pub mod proxy_protocol;
pub mod trailers;
pub mod upgrade;
pub mod via;
