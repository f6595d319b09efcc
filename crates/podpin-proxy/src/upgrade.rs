//! Requests that offer another protocol, and everything else that goes through Pingora's types.

pub(crate) mod client_stream;
pub(crate) mod pipeline;
pub(crate) mod response;
