//! Where is the client in its stream? Recent event ids of what was forwarded, so that what a successor pod replays is
//! told from what is new.
//!
//! Ids are opaque (WHATWG HTML, section 9.2.6): they are compared for equality, never ordered. What is remembered of
//! one is a 48-bit hash in a ring, so that an id costs one hash and one store. An id that is new has the hash of one of
//! the 64 remembered ones once in 2^42; then its event is taken for a replayed one.
//!
//! *Premise*: an id names one event, and every pod has the same events in the same order. Streams that use ids
//! otherwise give themselves away by repeating one; then nothing is ever dropped, and the successor is trusted to
//! resume exactly after the id that it was told. It is looked for when the ring has gone round and at a handover, not
//! for each event: what recurs farther apart than the ring is wide can not be mistaken for a replay.
//!
//! ```text
//!             arm                     known id                         new id, or more events without an id
//! streaming -------> awaiting replay ----------> within the replay --------------------------> streaming
//!     | an id twice in the ring                      | more known ids than the ring holds
//!     +------------> repeating  <--------------------+
//! ```
//!
//! *Events without an id of their own* belong to the last id before them. How many followed the client's last id is
//! counted: exactly as many are dropped after that id in a replay, so that the one on which the old pod died arrives.
//! After an older id at most as many are dropped as ever followed one. Before any id of the successor nothing says
//! whether such an event is new; it is forwarded, as the client would have got it by reconnecting, since an event too
//! much does less harm than one that is lost. That also lets what a pod greets each connection with pass.
//!
//! *Bounds*. A replay names each id of the ring once, so at most as many known ids as the ring holds are dropped,
//! each with at most as many followers as were counted. Unknown ids are dropped only if a known one comes after them
//! in the same bytes, or if as many were forwarded since the successor was told where to resume (make before break on
//! a stream that is faster than the ring is wide). Nothing is held back, so there is no bound of bytes.
//!
//! Blocks and bytes are `frame.rs`; when to arm is decided by `session.rs` and the proxy.

use std::hash::{DefaultHasher, Hasher};

/// Ids remembered. A successor that is told the last id replays none or few; logs that are read in batches replay one
/// of some ten. If it is too small, clients see events twice after a handover and `Pushed::dropped` stays low.
pub(crate) const RING_IDS: usize = 64;

/// Bytes kept of a hash: with 64 ids remembered, a new event is taken for a known one once in 2^42 handovers, and two bytes
/// less an id are 128 a stream.
const HASH_BYTES: usize = 6;

/// The hash of an id.
type Hash = [u8; HASH_BYTES];

/// `ids_since_told` while no successor was told anything.
const NOT_TOLD: u32 = u32::MAX;

/// The recent ids of a stream, from the first id that it has shown.
#[derive(Debug)]
pub(crate) struct Cursor {
    hashes: [Hash; RING_IDS],
    /// Events without an id that were forwarded since the last id.
    followers: u32,
    /// The most of them that ever followed one id.
    followers_max: u32,
    /// Ids forwarded since a successor was told where to resume.
    ids_since_told: u32,
    /// In a replay: how many unknown ids may still be dropped before the first known one.
    unknown_left: u32,
    /// In a replay: how many events without an id may still be dropped after the id at hand.
    followers_left: u32,
    /// Number of entries of `hashes` that are in use.
    filled: u8,
    /// The place in `hashes` of the next id.
    next: u8,
    /// Events with a known id dropped in this replay.
    known_dropped: u8,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Streaming,
    /// Ids do not name events: they are neither remembered nor compared.
    Repeating,
    AwaitingReplay,
    WithinReplay,
}

/// The decision about the successor's next block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The client has it.
    Drop,
    /// Says nothing about the replay, or nothing proves that the client has it.
    Forward,
    /// New, and so is all that follows. The cursor is streaming again.
    Resumed,
}

/// Whether a known id comes after a block within the bytes at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// This block, or one after it, is known: it is part of the replay.
    Known,
    /// Nothing known comes.
    Nothing,
}

impl Cursor {
    pub(crate) fn new() -> Self {
        Self {
            hashes: [[0; HASH_BYTES]; RING_IDS],
            followers: 0,
            followers_max: 0,
            ids_since_told: NOT_TOLD,
            unknown_left: 0,
            followers_left: 0,
            filled: 0,
            next: 0,
            known_dropped: 0,
            phase: Phase::Streaming,
        }
    }

    /// Remembers a block that was forwarded; allocates at the first id. An empty id names nothing.
    #[inline]
    pub(crate) fn note(cursor: &mut Option<Box<Self>>, id: Option<&[u8]>, has_data: bool) {
        match (id.filter(|id| !id.is_empty()), cursor) {
            (Some(id), cursor) => {
                cursor.get_or_insert_with(|| Box::new(Self::new())).note_id(hash(id), has_data);
            }
            (None, Some(cursor)) => cursor.followers = cursor.followers.saturating_add(u32::from(has_data)),
            (None, None) => {}
        }
    }

    fn note_id(&mut self, hash: Hash, has_data: bool) {
        // Pings of the kind `id: 7`, without data, are no second event 7.
        if self.phase == Phase::Repeating || (!has_data && self.last() == Some(hash)) {
            return;
        }
        self.followers_max = self.followers_max.max(self.followers);
        self.followers = 0;
        self.ids_since_told = self.ids_since_told.saturating_add(1);
        if let Some(place) = self.hashes.get_mut(usize::from(self.next)) {
            *place = hash;
        }
        self.next += 1;
        self.filled = self.filled.max(self.next);
        if usize::from(self.next) == RING_IDS {
            self.next = 0;
            self.look_for_repetition();
        }
    }

    /// A successor was told the last id: from here on ids are counted that it will replay although it was not asked to.
    pub(crate) fn told(&mut self) {
        self.ids_since_told = 0;
    }

    /// Events without an id that were forwarded since the last id.
    pub(crate) fn followers(&self) -> u32 {
        self.followers
    }

    /// Records how many blocks were forwarded after the last id.
    pub(crate) fn set_followers(&mut self, followers: u32) {
        self.followers = followers;
    }

    /// Expects a replay: the next blocks come from a successor.
    pub(crate) fn arm(&mut self) {
        self.look_for_repetition();
        if self.phase == Phase::Repeating {
            return;
        }
        let replayed = if self.ids_since_told == NOT_TOLD { 0 } else { self.ids_since_told };
        self.unknown_left = replayed.saturating_sub(u32::from(self.filled));
        self.ids_since_told = NOT_TOLD;
        self.followers_max = self.followers_max.max(self.followers);
        self.followers_left = 0;
        self.known_dropped = 0;
        self.phase = Phase::AwaitingReplay;
    }

    /// Whether what comes next may be a replay.
    pub(crate) fn is_armed(&self) -> bool {
        matches!(self.phase, Phase::AwaitingReplay | Phase::WithinReplay)
    }

    /// Whether the pod uses one id for several events, as far as that was noticed.
    pub(crate) fn repeats_ids(&self) -> bool {
        self.phase == Phase::Repeating
    }

    /// Whether a block with this id is among what was forwarded lately.
    pub(crate) fn knows(&self, id: Option<&[u8]>) -> bool {
        id.is_some_and(|id| !id.is_empty() && self.contains(hash(id)))
    }

    /// Decides about the next block of a successor, while armed.
    pub(crate) fn judge(&mut self, id: Option<&[u8]>, has_data: bool, ahead: Ahead) -> Verdict {
        match id {
            Some(id) if !id.is_empty() => self.judge_id(hash(id), has_data, ahead),
            None if !has_data => Verdict::Forward,
            _ if ahead == Ahead::Known => Verdict::Drop,
            _ if self.phase == Phase::AwaitingReplay => Verdict::Forward,
            _ if self.followers_left == 0 => self.resumed(),
            _ => {
                self.followers_left -= u32::from(has_data);
                Verdict::Drop
            }
        }
    }

    fn judge_id(&mut self, hash: Hash, has_data: bool, ahead: Ahead) -> Verdict {
        let known = self.contains(hash);
        if known && has_data {
            if usize::from(self.known_dropped) == RING_IDS {
                self.phase = Phase::Repeating;
                return Verdict::Resumed;
            }
            self.known_dropped += 1;
        } else if !known && ahead == Ahead::Nothing {
            if self.known_dropped > 0 || self.unknown_left == 0 {
                return self.resumed();
            }
            self.unknown_left -= 1;
        }
        self.phase = Phase::WithinReplay;
        self.followers_left = if self.last() == Some(hash) { self.followers } else { self.followers_max };
        Verdict::Drop
    }

    fn resumed(&mut self) -> Verdict {
        self.phase = Phase::Streaming;
        Verdict::Resumed
    }

    fn last(&self) -> Option<Hash> {
        let last = (usize::from(self.next) + RING_IDS - 1) % RING_IDS;
        self.filled().get(last).copied()
    }

    fn filled(&self) -> &[Hash] {
        self.hashes.get(..usize::from(self.filled)).unwrap_or_default()
    }

    fn contains(&self, hash: Hash) -> bool {
        self.filled().contains(&hash)
    }

    /// The same id twice among the last ones: it names no event.
    fn look_for_repetition(&mut self) {
        let mut sorted = self.hashes;
        let sorted = sorted.get_mut(..usize::from(self.filled)).unwrap_or_default();
        sorted.sort_unstable();
        if sorted.is_sorted_by(|one, next| one < next) {
            return;
        }
        self.phase = Phase::Repeating;
    }
}

/// SipHash with a fixed key: ids come from the pod, which gains nothing by a collision among its own.
fn hash(id: &[u8]) -> Hash {
    let mut hasher = DefaultHasher::new();
    hasher.write(id);
    let whole = hasher.finish().to_ne_bytes();
    let mut kept = Hash::default();
    kept.iter_mut().zip(whole).for_each(|(to, from)| *to = from);
    kept
}
