//! Bytes of a response that its client has not taken yet.

use std::task::{Context, Poll};

use podpin_time::Millis;

use crate::clock;
use crate::downstream::gone::Gone;
use crate::downstream::pending::PendingResponse;

/// Framed bytes on their way to a client. The endpoint is not read as long as there are any.
pub(crate) struct Unsent {
    bytes: Vec<u8>,
    /// Offset of the first byte that the client has not taken.
    from: usize,
    /// Moment at which the client last took something, or was given something to take.
    written: Millis,
}

impl Unsent {
    /// Returns no bytes.
    pub(crate) fn new(now: Millis) -> Unsent {
        Unsent { bytes: Vec::new(), from: 0, written: now }
    }

    /// Returns the bytes, to append others.
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Whether the client has taken a part of them.
    pub(crate) fn is_begun(&self) -> bool {
        self.from > 0
    }

    /// Returns the moment from which the client's time for the next byte counts.
    pub(crate) fn written(&self) -> Millis {
        self.written
    }

    /// Begins the client's time for the next byte.
    pub(crate) fn note_written(&mut self, now: Millis) {
        self.written = now;
    }

    /// Writes them; `Ready` when the client has taken all.
    pub(crate) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        client: &mut PendingResponse,
    ) -> Result<Poll<()>, Gone> {
        while let Some(rest) = self.bytes.get(self.from..).filter(|rest| !rest.is_empty()) {
            match client.poll_write(context, rest)? {
                Poll::Ready(count) => {
                    self.from += count;
                    self.written = clock::now();
                }
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        if self.from > 0 {
            (self.bytes, self.from) = (Vec::new(), 0);
        }
        Ok(Poll::Ready(()))
    }

    /// Returns those that the client has not taken.
    pub(crate) fn into_rest(self) -> Vec<u8> {
        let mut bytes = self.bytes;
        bytes.drain(..self.from.min(bytes.len()));
        bytes
    }
}
