//! Protocol upgrades, through Pingora.

pub mod client_stream;
pub mod pipeline;
pub mod response;
