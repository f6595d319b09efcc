//! One stream: what is still to come of its request and to be sent of its response (RFC 9113 section 5.1).

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

/// What is still to come of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// Body and trailers, as the client likes.
    Open,
    /// What nobody wants: the request was refused.
    Discarded,
    /// Nothing.
    Ended,
}

/// What is still to be sent of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// Its head, perhaps after interim ones.
    Head,
    /// Body and trailers.
    Body,
    /// Nothing.
    Ended,
}

/// Whether a stream has bytes to send that did not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// None.
    Content,
    /// Some: it waits for a window, for room, or for others.
    Waiting,
    /// Some, and it was told to send them.
    Granted,
}

/// One open stream.
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
    /// What the body still owes to its content-length; `None` if there is none.
    pub(crate) body_left: Option<u64>,
}

impl Stream {
    /// Whether both sides have sent all.
    pub(crate) fn is_over(&self) -> bool {
        self.incoming == Incoming::Ended && self.outgoing == Outgoing::Ended
    }
}
