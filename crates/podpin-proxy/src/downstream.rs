//! The client side of requests and streams, over HTTP/1.1 and HTTP/2 alike.
//!
//! A [`pending::PendingResponse`] is a client that has sent a request; it takes the response in place, or becomes a
//! [`body::Downstream`] that an event stream keeps for hours. Both write through the same two types, `http1.rs` and
//! `http2.rs`. The HTTP/2 library is named in the latter alone (ADR 5).

pub(crate) mod body;
pub(crate) mod gone;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod lease;
pub(crate) mod pending;
