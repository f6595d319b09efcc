//! The data plane: accepts connections, routes requests, selects endpoints, relays responses and event streams.
//!
//! Modules stand on floors; each may use those below it. The control thread (`podpin-control`) builds the
//! [`shared::Shared`] state and starts [`worker`]s over it.

mod affinity;
pub mod balance;
pub mod clock;
mod connection;
mod downstream;
pub mod http;
pub mod lifecycle;
pub mod limits;
pub mod net;
mod request;
mod request_context;
pub mod routing;
pub mod shared;
mod stream;
pub mod stream_registry;
pub mod telemetry;
#[cfg(test)]
mod testing;
mod tunnel;
mod upstream;
pub mod worker;
