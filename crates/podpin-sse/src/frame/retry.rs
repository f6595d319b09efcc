//! Reconnection time of the client: written once before an event, and remembered as it was told last, by us or by the endpoint, so
//! that nothing is said that the client knows.

use std::mem;

use super::block::{Block, Blocks};
use super::{BYTE_ORDER_MARK, Framer};
use crate::insert::retry_line;
use crate::line::is_comment;

/// Reconnection time of the client in milliseconds: one that is to be written before the next event, or the last one that it was
/// told. One word, of which the highest bit distinguishes the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retry(u32);

impl Retry {
    pub(super) const NONE: Self = Self(Self::MILLISECONDS);
    const PENDING: u32 = 1 << 31;
    /// Beyond any time that is told.
    const MILLISECONDS: u32 = Self::PENDING - 1;

    fn pending(milliseconds: u32) -> Self {
        Self(milliseconds.min(Self::MILLISECONDS - 1) | Self::PENDING)
    }

    fn said(milliseconds: u32) -> Self {
        Self(milliseconds.min(Self::MILLISECONDS - 1))
    }

    #[inline]
    pub(super) fn is_pending(self) -> bool {
        self.0 & Self::PENDING != 0
    }

    fn milliseconds(self) -> u32 {
        self.0 & Self::MILLISECONDS
    }

    fn told(self) -> Option<u32> {
        (!self.is_pending() && self != Self::NONE).then_some(self.0)
    }
}

impl Framer {
    /// Writes `retry: N` before the first line of the next event (WHATWG HTML, section 9.2.6: the field is processed when the
    /// line is read), since a block of its own would be an event to lenient clients. Not written if the endpoint's own
    /// comes first.
    pub fn set_retry(&mut self, milliseconds: u32) {
        self.retry = Retry::pending(milliseconds);
    }

    /// Returns the reconnection time that the client was told last in this response, in milliseconds: by us, or by the endpoint.
    /// `None` if it was told none.
    pub fn told_retry(&self) -> Option<u32> {
        self.retry.told()
    }

    /// Inserts the reconnection time before the first event in what follows `boundary`.
    #[cold]
    pub(super) fn write_retry(&mut self, out: &mut Vec<u8>, boundary: usize) {
        let (_, mut rest) = out.split_at(boundary);
        while let Some((block, after)) = Block::split(rest) {
            if let Some(time) = block.retry {
                self.retry = Retry::said(time);
                return;
            }
            if block.has_fields {
                break;
            }
            rest = after;
        }
        // Of a block that passes through, the beginning may be there only.
        let is_own = rest.starts_with(b"retry");
        if rest.is_empty()
            || is_comment(rest)
            || b"retry".starts_with(rest)
            || rest.starts_with(BYTE_ORDER_MARK)
        {
            return;
        }
        let milliseconds = mem::replace(&mut self.retry, Retry::NONE).milliseconds();
        if !is_own {
            let after = Blocks::scan(rest, |_| {}).retry;
            self.retry = Retry::said(after.unwrap_or(milliseconds));
            let place = out.len() - rest.len();
            out.splice(place..place, retry_line(milliseconds.into()).into_bytes());
        }
    }

    /// Records a reconnection time of the endpoint. Returns whether there is one. One of our own that is pending is judged by
    /// where the endpoint's stands.
    pub(super) fn note_retry(&mut self, retry: Option<u32>) -> bool {
        if let Some(time) = retry.filter(|_| !self.retry.is_pending()) {
            self.retry = Retry::said(time);
        }
        retry.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name; a time of ours; bytes of the endpoint; the time that was told last.
    type Case<'a> = (&'a str, Option<u32>, &'a [u8], Option<u32>);

    #[test]
    fn the_time_that_the_client_was_told_last_is_known() {
        let table: &[Case<'_>] = &[
            ("nothing", None, b"data: x\n\n", None),
            ("the endpoint", None, b"retry: 5\ndata: x\n\n", Some(5)),
            ("twice", None, b"retry: 5\n\nretry: 6\n\n", Some(6)),
            ("no number", None, b"retry: 5\n\nretry: x\n\n", Some(5)),
            ("a large number", None, b"retry: 99999999999\n\n", Some((1 << 31) - 2)),
            ("not yet", Some(7), b": ping\n", None),
            ("us", Some(7), b"data: x\n\n", Some(7)),
            ("the endpoint instead of us", Some(7), b"retry: 5\n\ndata: x\n\n", Some(5)),
            ("the endpoint after us", Some(7), b"data: x\n\nretry: 5\ndata: y\n\n", Some(5)),
            ("half of it", None, b"data: x\nretry: 5", None),
        ];
        for (name, ours, bytes, told) in table {
            for (event_bytes_max, cut) in [(1 << 20, usize::MAX), (1 << 20, 1), (0, usize::MAX)] {
                let mut framer = Framer::new(event_bytes_max);
                if let Some(time) = ours {
                    framer.set_retry(*time);
                }
                for push in bytes.chunks(cut) {
                    framer.push(push, &mut Vec::new());
                }
                assert_eq!(framer.told_retry(), *told, "{name}, {event_bytes_max}, {cut}");
            }
        }
    }
}
