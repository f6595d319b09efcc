//! The order in which streams send: by urgency, then round robin by frame; small writes go at once.
//!
//! No bytes are queued here: a stream whose bytes do not go keeps them, and is granted its turn when there is a
//! window, room in the output and no other stream before it. A turn is one frame. An event or a small answer waits for no
//! other stream's turn and has room of its own behind the output that others have filled.

use crate::stream::{Stream, StreamId, Turn};
use crate::work;

/// The payload of a DATA frame that fills a TLS record (16 KiB) together with its head.
pub(crate) const FRAME_PAYLOAD_MAX: usize = 16 * 1024 - 9;
/// A write of up to this size is an event or a small answer. Too large, and downloads overtake each other with it.
pub(crate) const SMALL: usize = 2048;
/// Room for small writes behind a full output.
pub(crate) const SMALL_ROOM: usize = 16 * 1024;

/// The turns of a connection's streams.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    waiting: u32,
    granted: u32,
    /// The stream that was granted a turn last.
    cursor: u32,
}

impl Schedule {
    /// Changes the turn of a stream, or forgets one that is gone.
    pub(crate) fn set(&mut self, stream: &mut Stream, turn: Turn) {
        let count = |turn| (u32::from(turn == Turn::Waiting), u32::from(turn == Turn::Granted));
        let ((left, ungranted), (entered, granted)) = (count(stream.turn), count(turn));
        self.waiting = self.waiting + entered - left;
        self.granted = self.granted + granted - ungranted;
        stream.turn = turn;
    }

    /// Returns the stream that sends next and grants it a turn; `None` if none can, or if `turns` are granted
    /// already.
    pub(crate) fn next(&mut self, streams: &mut [Stream], turns: usize) -> Option<StreamId> {
        let granted = usize::try_from(self.granted).unwrap_or(usize::MAX);
        if self.waiting == 0 || granted >= turns {
            return None;
        }
        work::count(streams.len());
        let cursor = self.cursor;
        let able =
            streams.iter_mut().filter(|stream| stream.turn == Turn::Waiting && stream.send.bytes() > 0);
        let next = able.min_by_key(|stream| (stream.urgency, stream.id.0 <= cursor, stream.id))?;
        self.cursor = next.id.0;
        let id = next.id;
        self.set(next, Turn::Granted);
        Some(id)
    }

    /// Whether a stream has to let others go first with bytes that are not small.
    pub(crate) fn yields(&self, stream: &Stream, streams: &[Stream]) -> bool {
        if self.waiting + self.granted == 0 || stream.turn == Turn::Granted {
            return false;
        }
        work::count(streams.len());
        streams.iter().any(|other| {
            other.id != stream.id
                && other.turn != Turn::Content
                && other.send.bytes() > 0
                && other.urgency <= stream.urgency
        })
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        (self.waiting, self.granted) = (0, 0);
    }
}
