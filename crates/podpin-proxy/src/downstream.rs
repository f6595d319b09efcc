//! The client side of requests and streams, over HTTP/1.1 and HTTP/2 alike.
//!
//! A [`pending::PendingResponse`] is a client that has sent a request; it takes the response in place, or becomes a
//! [`body::Downstream`] that an event stream keeps for hours. Both write through the same two types, `http1.rs` and
//! `http2.rs`; the streams of a connection meet in `http2_connection.rs`, over the protocol of `podpin_h2` (ADR 3).

pub(crate) mod body;
pub(crate) mod gone;
pub(crate) mod hang_up;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod http2_connection;
mod http2_stream_state;
pub(crate) mod lease;
pub(crate) mod pending;
pub(crate) mod request_body;
pub(crate) mod tunnel_client;
