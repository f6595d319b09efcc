//! The open streams of a connection, and what is remembered of closed ones.
//!
//! Streams stand in the order of their numbers, which is the order in which clients open them: no hashing, no memory
//! beside the streams themselves.

use crate::stream::{Stream, StreamId};
use crate::work;

/// Streams that this side reset and whose frames may still be on their way. One more than these is answered with
/// another reset, which costs its sender a little of a budget and nothing else.
const RECENT: usize = 16;

/// The meaning of a stream number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// An open stream, by its place.
    Open(usize),
    /// A stream that was never opened.
    Idle,
    /// A stream that this side reset just now: what comes of it was sent before the client knew.
    Recent,
    /// A stream that ended.
    Closed,
}

/// The streams of one connection.
#[derive(Debug)]
pub(crate) struct Streams {
    open: Vec<Stream>,
    last: u32,
    opened: u32,
    /// The client left numbers out: a closed number may never have been opened.
    has_gaps: bool,
    recent: [u32; RECENT],
    recent_next: u8,
}

impl Streams {
    /// Returns no streams.
    pub(crate) fn new() -> Streams {
        Streams { open: Vec::new(), last: 0, opened: 0, has_gaps: false, recent: [0; RECENT], recent_next: 0 }
    }

    /// Returns what a number means.
    pub(crate) fn place(&self, id: u32) -> Place {
        if let Some(place) = self.find(StreamId(id)) {
            Place::Open(place)
        } else if id > self.last || id.is_multiple_of(2) {
            Place::Idle
        } else if self.recent.contains(&id) {
            Place::Recent
        } else {
            Place::Closed
        }
    }

    /// Returns the place of an open stream.
    pub(crate) fn find(&self, id: StreamId) -> Option<usize> {
        self.open.binary_search_by_key(&id, |stream| stream.id).ok()
    }

    /// Returns an open stream by its place.
    pub(crate) fn at(&mut self, place: usize) -> Option<&mut Stream> {
        self.open.get_mut(place)
    }

    /// Returns an open stream.
    pub(crate) fn get(&mut self, id: StreamId) -> Option<&mut Stream> {
        let place = self.find(id)?;
        self.open.get_mut(place)
    }

    /// Takes note that the client uses a number above all before.
    pub(crate) fn open_number(&mut self, id: u32) {
        self.has_gaps |= id - self.last > 2 || (self.last == 0 && id != 1);
        self.last = id;
        self.opened = self.opened.saturating_add(1);
    }

    /// Adds the stream of the highest number; memory grows by a few streams, not by half.
    pub(crate) fn push(&mut self, stream: Stream) {
        if self.open.len() == self.open.capacity() {
            self.open.reserve_exact((self.open.len() / 4).max(1));
        }
        self.open.push(stream);
    }

    /// Removes the stream at a place.
    pub(crate) fn remove(&mut self, place: usize) -> Option<Stream> {
        if place >= self.open.len() {
            return None;
        }
        work::count(self.open.len() - place);
        let stream = self.open.remove(place);
        if self.open.is_empty() || self.open.capacity() > 2 * self.open.len() + 4 {
            self.open.shrink_to(self.open.len().max(1));
        }
        Some(stream)
    }

    /// Removes all.
    pub(crate) fn clear(&mut self) {
        self.open = Vec::new();
    }

    /// Remembers a stream that this side reset.
    pub(crate) fn remember(&mut self, id: u32) {
        if let Some(slot) = self.recent.get_mut(usize::from(self.recent_next)) {
            *slot = id;
        }
        self.recent_next = (self.recent_next + 1) % 16;
    }

    /// Returns all, lowest number first.
    pub(crate) fn all(&mut self) -> &mut [Stream] {
        &mut self.open
    }

    /// Returns how many are open.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Returns how many there ever were, those that were refused included.
    pub(crate) fn opened(&self) -> u32 {
        self.opened
    }

    /// Returns the highest number that the client used.
    pub(crate) fn last(&self) -> u32 {
        self.last
    }

    /// Whether the client left numbers out.
    pub(crate) fn has_gaps(&self) -> bool {
        self.has_gaps
    }

    /// Returns the bytes of heap that streams occupy.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.open.capacity() * size_of::<Stream>()
    }
}
