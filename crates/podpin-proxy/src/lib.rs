//! The proxy itself, on Pingora: listeners, both data paths, the admin port, and everything they share.
//!
//! Start with [`start()`]; all that comes back is [`Running`]. What the operator asked for is `podpin-config`'s, where
//! endpoints come from is `podpin-discovery`'s, who goes where is `podpin-endpoints`'s and `podpin-affinity`'s, how an
//! event stream is framed is `podpin-sse`'s: this crate joins them to sockets.

mod affinity;
mod balance;
mod clock;
mod connection;
mod control;
mod downstream;
mod drain;
mod http;
mod net;
mod request;
mod routing;
mod shared;
mod stream;
mod stream_registry;
mod telemetry;
mod upgrade;
mod upstream;
mod worker;

pub use control::reload::{ReloadError, Reloader};
pub use control::start::{Running, StartError, start, verify};
