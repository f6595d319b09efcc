//! Where is the client in its stream? Recent event ids of what was forwarded, so that what a successor replays is
//! distinguished from what is new.
//!
//! Ids are opaque (WHATWG HTML, section 9.2.6): they are compared for equality, never ordered. What is remembered of
//! one is a 48-bit hash, so that an id costs one hash and one store. An id that is new has the hash of one of 64
//! remembered ones once in 2^42; then its event is taken for a replayed one.
//!
//! *Premise*: an id names one event, and every endpoint has the same events in the same order. Streams that use ids
//! otherwise give themselves away by repeating one; then nothing is ever dropped, and the successor is trusted to
//! resume exactly after the id that it was sent. Only a repetition by one endpoint counts: what comes twice because the
//! stream moved was repeated by the proxy. Repetition is looked for when as many ids came as are remembered and at a
//! handover, not for each event: what recurs farther apart can not be mistaken for a replay.
//!
//! ```text
//!             arm                     known id                  new id                as many new ids
//! streaming -------> awaiting replay ----------> within replay --------> resumed -----------------------> streaming
//!     |                    | new id, and no known one follows               ^          as are remembered
//!     |                    +------------------------------------------------+
//!     | an id twice from one endpoint
//!     +------------> repeating
//! ```
//!
//! *An unknown id* is new, unless the oldest known one comes after it before the proxy stops waiting for that: then it is
//! history from before the memory, or from before the stream. A new id is never dropped for being too early. *A known id* is
//! dropped wherever it stands, also behind a new one, until so many new ones have come that no replay is left.
//!
//! *Memory* is frozen while a replay is judged: new ids are added and none is forgotten. The same holds from the moment
//! at which a successor is requested, because it replays what the old endpoint still sends.
//!
//! *Events without an id of their own* belong to the last id before them. How many followed the client's last id is
//! counted: exactly as many are dropped after that id in a replay, so that the one on which the old endpoint died arrives.
//! After an older id at most as many are dropped as ever followed one. Before any id of the successor nothing says
//! whether such an event is new; it is forwarded, as the client would have got it by reconnecting, since an event too
//! much does less harm than one that is lost. That also lets what an endpoint greets each connection with pass.
//!
//! Blocks and bytes are `frame.rs`; when to arm is decided by `session.rs` and the proxy.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};

/// Bytes kept of a hash: with 64 ids remembered, a new event is taken for a known one once in 2^42 handovers, and two bytes
/// less an id are 128 a stream.
const HASH_BYTES: usize = 6;
/// Largest number of ids remembered while a successor is requested or judged. 24 KiB for a moment, for streams of
/// thousands of events a second; beyond it clients of such streams see events twice after a handover.
const FROZEN_IDS_MAX: usize = 4_096;

/// The hash of an id.
type Hash = [u8; HASH_BYTES];

/// The recent ids of a stream, from the first id that it has shown.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// Hashes, the oldest first.
    hashes: VecDeque<Hash>,
    /// Events without an id that were forwarded since the last id.
    followers: u32,
    /// The most of them that ever followed one id.
    followers_max: u32,
    /// In a replay: how many events without an id may still be dropped after the id at hand.
    followers_left: u32,
    /// Number of the newest hashes that came from the present endpoint.
    of_endpoint: u16,
    /// Number of the newest hashes that no repetition was looked for in.
    unchecked: u16,
    /// Number of ids remembered while nothing is frozen.
    ids_max: u16,
    /// New ids that may still come before nothing known is expected any more.
    judged_left: u16,
    /// Known ids that may still be dropped: a replay names each one once.
    known_left: u16,
    /// Whether a successor is requested, so that nothing is forgotten.
    is_frozen: bool,
    /// Whether an unknown id waits for a known one behind it.
    waits: bool,
    phase: Phase,
    /// Blocks that wait for the decision whether they are history; `None` if there are none.
    undecided: Option<Box<Undecided>>,
}

/// Whole blocks of a successor, of which nothing is known yet.
#[derive(Debug, Default)]
pub(crate) struct Undecided {
    pub(crate) bytes: Vec<u8>,
    /// Events among them.
    pub(crate) events: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Streaming,
    /// Ids do not name events: they are neither remembered nor compared.
    Repeating,
    AwaitingReplay,
    WithinReplay,
    /// New events come, among which known ones are dropped.
    Resumed,
}

/// The decision about the successor's next block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The client has it.
    Drop,
    /// Says nothing about the replay, or nothing proves that the client has it.
    Forward,
    /// New: it is forwarded and remembered.
    New,
    /// An unknown id: new, unless a known one follows.
    Undecided,
}

/// Whether a known id comes after a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// The oldest of the remembered ids is the first known one: what comes before it is history.
    Oldest,
    /// This block, or one after it, is known.
    Known,
    /// Nothing known has come yet.
    NotYet,
    /// Nothing known is waited for.
    Nothing,
}

/// The beginning of a successor's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayStart {
    /// After an event that the client has, as the response says: what is unknown is new.
    Known,
    /// Wherever the successor chose.
    Unnamed,
}

/// The ids that a stream has shown lately, to recognise the one that a successor names.
#[derive(Clone, Debug, Default)]
pub struct KnownIds(Vec<Hash>);

impl KnownIds {
    /// Returns the ids of a cursor, and the last one.
    pub(crate) fn new(cursor: Option<&Cursor>, last: Option<&[u8]>) -> Self {
        let ring = cursor.into_iter().flat_map(|cursor| cursor.hashes.iter().copied());
        Self(ring.chain(last.map(hash)).collect())
    }

    /// Returns whether the stream has shown this id.
    pub fn contains(&self, id: &[u8]) -> bool {
        self.0.contains(&hash(id))
    }
}

impl Cursor {
    pub(crate) fn new(ids_max: u16) -> Self {
        Self {
            hashes: VecDeque::new(),
            followers: 0,
            followers_max: 0,
            followers_left: 0,
            of_endpoint: 0,
            unchecked: 0,
            ids_max: ids_max.max(1),
            judged_left: 0,
            known_left: 0,
            waits: false,
            undecided: None,
            is_frozen: false,
            phase: Phase::Streaming,
        }
    }

    /// Remembers a block that was forwarded; allocates at the first id. An empty id names nothing.
    #[inline]
    pub(crate) fn note(cursor: &mut Option<Box<Self>>, ids_max: u16, id: Option<&[u8]>, has_data: bool) {
        match (id.filter(|id| !id.is_empty()), cursor) {
            (Some(id), cursor) => {
                cursor.get_or_insert_with(|| Box::new(Self::new(ids_max))).note_id(hash(id), has_data);
            }
            (None, Some(cursor)) => cursor.followers = cursor.followers.saturating_add(u32::from(has_data)),
            (None, None) => {}
        }
    }

    fn note_id(&mut self, hash: Hash, has_data: bool) {
        // Pings of the kind `id: 7`, without data, are no second event 7.
        if self.phase == Phase::Repeating || (!has_data && self.hashes.back() == Some(&hash)) {
            return;
        }
        self.followers_max = self.followers_max.max(self.followers);
        self.followers = 0;
        self.push(hash);
        self.of_endpoint = self.of_endpoint.saturating_add(1);
        self.unchecked = self.unchecked.saturating_add(1);
        if self.unchecked >= self.ids_max {
            self.look_for_repetition();
        }
    }

    /// Adds a hash, and forgets the oldest ones. Room grows by doubling, since most streams of a fleet show few ids.
    fn push(&mut self, hash: Hash) {
        let ids_max = usize::from(self.ids_max);
        let is_frozen = self.is_frozen || self.phase == Phase::Resumed;
        let limit = if is_frozen { FROZEN_IDS_MAX.max(ids_max) } else { ids_max };
        while self.hashes.len() >= limit {
            self.hashes.pop_front();
        }
        if self.hashes.len() == self.hashes.capacity() {
            self.hashes.reserve_exact(self.hashes.len().max(8).min(limit - self.hashes.len()));
        }
        self.hashes.push_back(hash);
    }

    /// Records that a successor is requested after `last`, the id of the client: nothing is forgotten until its replay has
    /// passed. The id with which the client came is remembered now, before others come behind it.
    pub(crate) fn freeze(&mut self, last: &[u8]) {
        self.is_frozen = true;
        self.remember(last);
    }

    /// Adds an id unless it is there, or ids name no events.
    fn remember(&mut self, id: &[u8]) {
        let hash = hash(id);
        if self.phase != Phase::Repeating && !self.hashes.contains(&hash) {
            self.push(hash);
        }
    }

    /// Records that the stream stays where it is.
    pub(crate) fn thaw(&mut self) {
        self.is_frozen = false;
        let surplus = self.hashes.len().saturating_sub(usize::from(self.ids_max));
        self.hashes.drain(..surplus);
        self.hashes.shrink_to(usize::from(self.ids_max));
    }

    /// Events without an id that were forwarded since the last id.
    pub(crate) fn followers(&self) -> u32 {
        self.followers
    }

    /// Records how many blocks were forwarded after the last id.
    pub(crate) fn set_followers(&mut self, followers: u32) {
        self.followers = followers;
    }

    /// Expects a replay: the next blocks come from a successor that was sent `last`, the id of the client. `start` says
    /// whether it named the event that it begins after.
    pub(crate) fn arm(&mut self, last: &[u8], start: ReplayStart) {
        self.undecided = None;
        self.look_for_repetition();
        if self.phase == Phase::Repeating {
            return;
        }
        self.remember(last);
        self.of_endpoint = 0;
        self.unchecked = 0;
        self.followers_max = self.followers_max.max(self.followers);
        self.followers_left = 0;
        self.known_left = u16::try_from(self.hashes.len()).unwrap_or(u16::MAX);
        self.waits = start == ReplayStart::Unnamed;
        self.is_frozen = true;
        self.phase = Phase::AwaitingReplay;
    }

    /// Whether what comes next may be a replay.
    #[inline]
    pub(crate) fn is_armed(&self) -> bool {
        matches!(self.phase, Phase::AwaitingReplay | Phase::WithinReplay | Phase::Resumed)
    }

    /// Returns the blocks that wait for a decision; `None` if there are none.
    pub(crate) fn undecided(&self) -> Option<&Undecided> {
        self.undecided.as_deref()
    }

    /// Adds a block that is undecided, or follows one that is.
    pub(crate) fn postpone(&mut self, block: &[u8], events: u32) {
        let undecided = self.undecided.get_or_insert_default();
        undecided.bytes.extend_from_slice(block);
        undecided.events += events;
    }

    /// Takes out the blocks that wait for a decision.
    pub(crate) fn take_undecided(&mut self) -> Undecided {
        self.undecided.take().map(|undecided| *undecided).unwrap_or_default()
    }

    /// Whether the endpoint uses one id for several events, as far as that was noticed.
    pub(crate) fn repeats_ids(&self) -> bool {
        self.phase == Phase::Repeating
    }

    /// Whether a block with this id is among what was forwarded before the stream came to its endpoint.
    pub(crate) fn knows(&self, id: Option<&[u8]>) -> bool {
        id.is_some_and(|id| !id.is_empty() && self.contains(hash(id)))
    }

    /// Whether this is the oldest of the ids that are remembered.
    pub(crate) fn is_oldest(&self, id: Option<&[u8]>) -> bool {
        id.is_some_and(|id| self.old_hashes().next() == Some(&hash(id)))
    }

    /// Decides about the next block of a successor, while armed.
    pub(crate) fn judge(&mut self, id: Option<&[u8]>, has_data: bool, ahead: Ahead) -> Verdict {
        match id {
            Some(id) if !id.is_empty() => self.judge_id(hash(id), has_data, ahead),
            None if !has_data => Verdict::Forward,
            _ if self.is_within(ahead) => Verdict::Drop,
            _ if self.phase == Phase::AwaitingReplay => Verdict::Forward,
            _ if self.followers_left == 0 => self.resume(),
            _ => {
                self.followers_left -= u32::from(has_data);
                Verdict::Drop
            }
        }
    }

    /// Whether a block without an id is part of the replay, because more of that follows.
    fn is_within(&self, ahead: Ahead) -> bool {
        match self.phase {
            Phase::AwaitingReplay => ahead == Ahead::Oldest,
            Phase::WithinReplay => matches!(ahead, Ahead::Oldest | Ahead::Known),
            Phase::Streaming | Phase::Repeating | Phase::Resumed => false,
        }
    }

    fn judge_id(&mut self, hash: Hash, has_data: bool, ahead: Ahead) -> Verdict {
        let is_known = self.contains(hash);
        let awaits = self.phase == Phase::AwaitingReplay;
        if !is_known && awaits && self.waits && ahead == Ahead::NotYet {
            return Verdict::Undecided;
        }
        let is_history = awaits && ahead == Ahead::Oldest;
        if !(is_known || is_history) {
            self.followers_left = 0;
            return self.resume();
        }
        if is_known && has_data && self.known_left == 0 {
            self.repeats();
            return Verdict::New;
        }
        self.known_left -= u16::from(is_known && has_data);
        if awaits && is_known {
            self.phase = Phase::WithinReplay;
        }
        let is_last = self.of_endpoint == 0 && self.hashes.back() == Some(&hash);
        self.followers_left = if is_last { self.followers } else { self.followers_max };
        Verdict::Drop
    }

    /// Counts something new. Once as much has come as is remembered, the next replay is the next endpoint's.
    fn resume(&mut self) -> Verdict {
        match self.phase {
            Phase::Resumed => self.judged_left = self.judged_left.saturating_sub(1),
            _ => self.judged_left = self.ids_max,
        }
        self.phase = Phase::Resumed;
        if self.judged_left == 0 {
            self.phase = Phase::Streaming;
            self.thaw();
        }
        Verdict::New
    }

    /// Returns the hashes of what came before the present endpoint.
    fn old_hashes(&self) -> impl DoubleEndedIterator<Item = &Hash> {
        self.hashes.iter().take(self.hashes.len().saturating_sub(usize::from(self.of_endpoint)))
    }

    fn contains(&self, hash: Hash) -> bool {
        self.old_hashes().any(|old| *old == hash)
    }

    /// The same id twice from one endpoint: it names no event.
    fn look_for_repetition(&mut self) {
        self.unchecked = 0;
        let own = usize::from(self.of_endpoint).min(self.hashes.len());
        let mut sorted: Vec<Hash> = self.hashes.iter().rev().take(own).copied().collect();
        sorted.sort_unstable();
        if sorted.is_sorted_by(|one, next| one < next) {
            return;
        }
        self.repeats();
    }

    fn repeats(&mut self) {
        self.phase = Phase::Repeating;
        (self.is_frozen, self.hashes) = (false, VecDeque::new());
    }

    /// Bytes on the heap, those of the cursor itself included.
    pub(crate) fn heap_bytes(&self) -> usize {
        size_of::<Self>() + self.hashes.capacity() * HASH_BYTES
    }
}

/// SipHash with a fixed key: ids come from the endpoint, which gains nothing by a collision among its own.
fn hash(id: &[u8]) -> Hash {
    let mut hasher = DefaultHasher::new();
    hasher.write(id);
    let whole = hasher.finish().to_ne_bytes();
    let mut kept = Hash::default();
    kept.iter_mut().zip(whole).for_each(|(to, from)| *to = from);
    kept
}
