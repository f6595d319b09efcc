//! The body of a request, as it comes from its client, before and while the response goes there.

use std::task::{Context, Poll};

use crate::downstream::http1::Http1Side;
use crate::downstream::http2::Http2Stream;
use crate::http::reply::ErrorReply;

/// The request body of a client.
pub(crate) enum RequestBody<'a> {
    /// Body on a socket of HTTP/1.0 or 1.1.
    H1(&'a mut Http1Side),
    /// Body of a stream of an HTTP/2 connection.
    H2(&'a mut Http2Stream),
}

impl RequestBody<'_> {
    /// Whether the whole body was read.
    pub(crate) fn is_read(&self) -> bool {
        match self {
            RequestBody::H1(side) => side.is_body_read(),
            RequestBody::H2(stream) => stream.is_body_read(),
        }
    }

    /// Appends bytes of the body, at least one, or notes its end.
    ///
    /// # Errors
    /// [`ErrorReply::ClientGone`], and what is wrong with a body.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Result<(), ErrorReply>> {
        match self {
            RequestBody::H1(side) => side.poll_body(context, out),
            RequestBody::H2(stream) => stream.poll_body(context, out),
        }
    }

    /// Appends the bytes of the body that were read already.
    ///
    /// # Errors
    /// As [`RequestBody::poll`].
    pub(crate) fn take_ahead(&mut self, out: &mut Vec<u8>) -> Result<(), ErrorReply> {
        match self {
            RequestBody::H1(side) => side.body_at_hand(out),
            RequestBody::H2(_) => Ok(()),
        }
    }

    /// Takes out the lines of the trailer section, once the whole body was read.
    pub(crate) fn take_trailers(&mut self) -> Vec<u8> {
        match self {
            RequestBody::H1(side) => side.take_trailers(),
            RequestBody::H2(stream) => stream.take_trailers(),
        }
    }
}
