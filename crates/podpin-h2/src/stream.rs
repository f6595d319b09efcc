//! Stream states: the progress of a request and of its response (RFC 9113 section 5.1).

use crate::flow::{SendWindow, StreamWindow};

/// The number of a stream: odd, since only clients open them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(crate) u32);

impl StreamId {
    /// Returns the stream of a number, as it stands in a log.
    #[must_use]
    pub fn from_number(number: u32) -> StreamId {
        StreamId(number)
    }

    /// Returns the number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// The part of a request that is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// Body and trailers, as the client likes.
    Open,
    /// A body that is dropped: the request was refused.
    Discarded,
    /// The same of a request that is malformed: the stream is reset behind its answer.
    Malformed,
    /// No more.
    Ended,
}

/// The part of a response that is still to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// The head, perhaps after interim ones.
    Head,
    /// Body and trailers.
    Body,
    /// No more.
    Ended,
}

/// Whether a stream has bytes to send that did not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// No bytes that wait.
    Content,
    /// Bytes that wait for a window, for room, or for other streams.
    Waiting,
    /// Bytes that may go now: the caller was notified.
    Granted,
}

/// An open stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
    pub(crate) turn: Turn,
    /// From 0, which goes first, to 7 (RFC 9218).
    pub(crate) urgency: u8,
    pub(crate) send: SendWindow,
    pub(crate) receive: StreamWindow,
    /// The rest of the content-length; `None` if the request has none.
    pub(crate) body_left: Option<u64>,
}

impl Stream {
    /// Whether both sides have sent all.
    pub(crate) fn is_over(&self) -> bool {
        self.incoming == Incoming::Ended && self.outgoing == Outgoing::Ended
    }
}
