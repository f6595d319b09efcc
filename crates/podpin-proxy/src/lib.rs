//! The proxy itself, on Pingora: listeners, both data paths, the admin port, and everything they share.
//!
//! Start with [`start()`]; all that comes back is [`Running`]. What the operator asked for is `podpin-config`'s, where
//! endpoints come from is `podpin-discovery`'s, who goes where is `podpin-endpoints`'s and `podpin-affinity`'s, how an
//! event stream is framed is `podpin-sse`'s: this crate joins them to sockets.

mod access_log;
mod admin;
mod admission;
mod body_decoder;
mod client_limit;
mod clock;
mod connection;
mod descriptors;
mod downstream;
mod drain;
mod event_stream;
mod exchange;
mod field;
mod followers;
mod forward;
#[doc(hidden)]
pub mod fuzz;
mod gateway;
mod head;
mod health_checks;
mod io;
mod keys;
mod labels;
mod lines;
mod metrics;
mod occupancy;
mod pipeline;
mod pool;
mod proxy_protocol;
mod queue;
mod rebalance;
mod relay;
mod reload;
mod reply;
mod request;
mod returns;
mod ring;
mod route;
mod scratch;
mod service;
mod site;
mod socket_options;
mod sources;
mod start;
mod status_page;
mod stream_task;
mod streams;
mod successor;
mod tally;
mod tls;
mod transport;
mod treatment;
mod upstream_h1;
mod worker;

pub use reload::{ReloadError, Reloader};
pub use start::{Running, StartError, start, verify};
