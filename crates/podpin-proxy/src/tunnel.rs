//! Connections that were upgraded to another protocol: WebSocket, SPDY, what Docker and others hijack.

mod ends;
mod flow;
mod frames;
pub(crate) mod open;
mod relay;
mod task;
