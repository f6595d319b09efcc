//! Events: actions of a client that the caller has to know of.

use crate::error::{Closed, ErrorCode};
use crate::head::{Head, Refusal, Trailers};
use crate::stream::StreamId;

/// An action of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A request; body and trailers may follow unless it ends here.
    Request {
        /// The new stream.
        stream: StreamId,
        /// The head, which keeps all rules.
        head: Box<Head>,
        /// No body follows.
        ends: bool,
    },
    /// A request that must not be passed on. On a new stream instead of [`Event::Request`], or on one whose
    /// response has not begun: answer it with [`Refusal::status`]. No more of its request comes.
    Refused {
        /// The stream, which is open for the answer.
        stream: StreamId,
        /// The reason.
        refusal: Refusal,
    },
    /// A piece of a body, to be given back by [`crate::StreamMut::consumed`].
    Data {
        /// The stream.
        stream: StreamId,
        /// The bytes, empty only where the body ends.
        bytes: &'a [u8],
        /// The body is complete.
        ends: bool,
    },
    /// The trailers, which end a request.
    Trailers {
        /// The stream.
        stream: StreamId,
        /// The fields.
        trailers: Trailers,
    },
    /// The end of a stream before both sides have ended it.
    Reset {
        /// The stream, which is gone.
        stream: StreamId,
        /// The error code.
        code: ErrorCode,
        /// The side that sent it.
        by: Side,
    },
    /// The end of the connection: a GOAWAY was written, all streams are gone, nothing more is read.
    Closed(Closed),
}

/// A side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// This side, because the client broke a rule of streams.
    Server,
}
