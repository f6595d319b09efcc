//! The upstream side: attempts at endpoints, connections, and the header fields that cross the proxy.

pub(crate) mod attempts;
pub(crate) mod connect;
pub(crate) mod error;
pub(crate) mod http2;
pub(crate) mod pod_upload;
pub(crate) mod pool;
pub(crate) mod rewrite;
pub(crate) mod unserved;
pub(crate) mod upload;
pub(crate) mod websocket_key;
