//! Protocol upgrades, through Pingora.

pub(crate) mod client_stream;
pub(crate) mod pipeline;
pub(crate) mod response;
