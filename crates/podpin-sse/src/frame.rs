//! Where does an event end? The framer forwards whole blocks only, so that a client which changes pods between two
//! of them never receives part of an event followed by another event.
//!
//! A *block* is what comes before an empty line, that line included. A comment line at the beginning of a block is
//! forwarded on its own: it belongs to no event, and upstream pings must not wait for one. Between blocks the client
//! holds nothing that a later byte could change (WHATWG HTML, section 9.2.6: the buffers are empty after each
//! dispatch), so that the proxy may write something of its own there; this position is called a *boundary*.
//!
//! ```text
//!               first byte that ends no block               tail > event_bytes_max
//!   at boundary ------------------------------> holding tail ----------------------> passing through
//!        ^                                           |                                     |
//!        +----------- end of the block --------------+-------------------------------------+
//! ```
//!
//! A line that ends in CR is taken as ended at once, for an event must not wait for a byte that may never come. An LF
//! that follows is forwarded when it comes; between blocks it would be an empty line at worst, which says nothing.
//!
//! Bytes are never changed. The one exception is the byte order mark at the very beginning, which clients skip there
//! and only there: written after something of ours it would become part of a field's name. A second one right behind
//! it makes that very line meaningless to clients; then both are left as they are, to the same effect.
//!
//! What is between a boundary and the end of input is held, not its lines nor its fields: the block is parsed when it
//! is whole. Only in pass-through are lines followed one by one. Reading and timing are left to the proxy.
//!
//! A stream that may be handed over has a `Cursor`, which is told of every block that is forwarded; what a successor
//! replays of them is dropped in `frame/replay.rs`.

mod block;
mod pass_through;
mod replay;

pub use self::replay::Resumption;

use std::mem;

use self::block::{Block, Blocks, after_block, append, before};
use self::pass_through::{Destination, PassThrough};
use crate::cursor::Cursor;
use crate::insert::retry_line;
use crate::line::{CR, ID_BYTES_MAX, LF, is_comment};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const TWO_BYTE_ORDER_MARKS: &[u8] = b"\xef\xbb\xbf\xef\xbb\xbf";

/// Cuts one event stream into whole blocks.
///
/// An idle one is at most 72 bytes, and on the heap only the last event id (`ID_BYTES_MAX` at most); with a cursor
/// 152 bytes more on the heap from the first event id on, and 536 once it remembers 64 ids.
///
/// ```
/// use podpin_sse::{Framer, KEEP_ALIVE, Resumption, ReplayStart};
///
/// let mut framer = Framer::with_cursor(64 * 1024, 64);
/// let mut out = Vec::new();
///
/// // Half an event is held back, so that the client is between two events and a comment can be inserted.
/// assert_eq!(framer.push(b"id: 1\ndata: a\n\nid: 2\nda", &mut out).events, 1);
/// assert!(framer.at_boundary());
/// out.extend_from_slice(KEEP_ALIVE);
/// assert_eq!(framer.push(b"ta: b\n\nid: 3\nda", &mut out).events, 1);
/// assert_eq!(out, b"id: 1\ndata: a\n\n:\nid: 2\ndata: b\n\n");
///
/// // The endpoint leaves. Its successor is asked for what follows event 2, and its replay of that is dropped.
/// out.clear();
/// assert_eq!(framer.mark_resume_point(), Resumption::After(b"2"));
/// framer.adopt(ReplayStart::Unnamed);
/// let pushed = framer.push(b"id: 2\ndata: b\n\nid: 3\ndata: c\n\n", &mut out);
/// assert_eq!((pushed.events, pushed.dropped), (1, 1));
/// assert_eq!(out, b"id: 3\ndata: c\n\n");
/// ```
#[derive(Debug)]
pub struct Framer {
    tail: Tail,
    /// The last event id, if `id_state` says that it is known. Kept for its capacity otherwise.
    id: Vec<u8>,
    /// The ids that were forwarded lately. Empty before the first id.
    cursor: Option<Box<Cursor>>,
    event_bytes_max: u32,
    /// Reconnection time to be written before the next event, in milliseconds; 0 if there is none.
    retry_ms: u32,
    /// Number of ids that the cursor remembers; 0 if the stream may not be handed over.
    cursor_ids: u16,
    id_state: IdState,
    /// An event was forwarded, or a part of one.
    has_shown_event: bool,
    /// Nothing was decided about a byte order mark yet.
    opening: bool,
    /// The last byte pushed was a CR: an LF that comes next belongs to it.
    after_carriage_return: bool,
    ever_overflowed: bool,
}

/// Result of one push: the bytes for the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Events that the client dispatches because of it: blocks completed that have at least one `data` field.
    pub events: u32,
    /// Whether a `retry` field was forwarded that clients obey.
    pub retry_seen: bool,
    /// Events that were dropped, because a successor replayed what the client has.
    pub dropped: u32,
}

#[derive(Debug)]
enum Tail {
    /// Bytes after the last boundary; empty, and then without heap, most of the time. Never a whole block.
    Held(Vec<u8>),
    /// The block at hand is too large to be held.
    PassThrough(Box<PassThrough>),
}

const NOTHING_HELD: Tail = Tail::Held(Vec::new());

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdState {
    NeverSet,
    Known,
    TooLong,
}

impl Framer {
    /// A framer at the beginning of a stream that holds at most `event_bytes_max` bytes of an unfinished event.
    ///
    /// An event that arrives whole within one push, or whose end does, is never too large: nothing more of it has to
    /// be held.
    pub fn new(event_bytes_max: usize) -> Self {
        Self {
            tail: NOTHING_HELD,
            id: Vec::new(),
            cursor: None,
            event_bytes_max: u32::try_from(event_bytes_max).unwrap_or(u32::MAX),
            retry_ms: 0,
            cursor_ids: 0,
            id_state: IdState::NeverSet,
            has_shown_event: false,
            opening: true,
            after_carriage_return: false,
            ever_overflowed: false,
        }
    }

    /// A framer like that of [`Framer::new`] for a stream that may be handed over: it remembers the last `ids_max` event
    /// ids, of which there is at least one.
    pub fn with_cursor(event_bytes_max: usize, ids_max: u16) -> Self {
        Self { cursor_ids: ids_max.max(1), ..Self::new(event_bytes_max) }
    }

    /// A framer that holds nothing back: bytes are appended as they come, and only the ends of blocks are followed.
    pub fn unbuffered() -> Self {
        Self::new(0)
    }

    /// Takes the next bytes of the body, cut anywhere, and appends to `out` every block that they complete.
    ///
    /// What follows the last whole block is held back, up to the limit; beyond it the block is appended as it comes.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Pushed {
        let mut pushed = Pushed::default();
        let boundary = (self.retry_ms > 0 && self.at_boundary()).then_some(out.len());
        if self.opening {
            self.open(input, out, &mut pushed);
        } else {
            self.take(input, out, &mut pushed);
        }
        if let Some(boundary) = boundary {
            self.write_retry(out, boundary);
        }
        pushed
    }

    /// Writes `retry: N` before the first line of the next event (WHATWG HTML, section 9.2.6: the field is processed when the
    /// line is read), since a block of its own would be an event to lenient clients. Not written if the endpoint's own
    /// comes first.
    pub fn set_retry(&mut self, milliseconds: u32) {
        self.retry_ms = milliseconds;
    }

    /// Appends what is kept back because no more of it came in time: blocks that may have been a replay, or the block at
    /// hand, which passes through from here on.
    pub fn pass_on(&mut self, out: &mut Vec<u8>) -> Pushed {
        let (mut pushed, boundary) = (Pushed::default(), out.len());
        if self.has_undecided() {
            self.pass_undecided(out, &mut pushed);
        } else if self.holds_block()
            && let Tail::Held(held) = &mut self.tail
        {
            let held = mem::take(held);
            self.pass_through(&held, &[], out, &mut pushed);
        }
        if self.retry_ms > 0 {
            self.write_retry(out, boundary);
        }
        pushed
    }

    /// Whether the beginning of a block is kept back that will pass in time: the next bytes are no replay.
    pub fn holds_block(&self) -> bool {
        matches!(&self.tail, Tail::Held(held) if !held.is_empty()) && !self.opening && !self.is_armed()
    }

    /// Whether the stream may be handed over, and remembers ids for that.
    pub fn may_be_handed_over(&self) -> bool {
        self.cursor_ids > 0
    }

    fn is_armed(&self) -> bool {
        self.cursor.as_ref().is_some_and(|cursor| cursor.is_armed())
    }

    /// Inserts the reconnection time before the first event in what follows `boundary`.
    #[cold]
    fn write_retry(&mut self, out: &mut Vec<u8>, boundary: usize) {
        let (_, mut rest) = out.split_at(boundary);
        while let Some((block, after)) = Block::split(rest) {
            if block.retry_seen {
                self.retry_ms = 0;
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
        let milliseconds = mem::take(&mut self.retry_ms);
        if !is_own {
            let place = out.len() - rest.len();
            out.splice(place..place, retry_line(milliseconds.into()).into_bytes());
        }
    }

    /// Whether what was appended so far ends between events, so that something of our own may be inserted.
    pub fn at_boundary(&self) -> bool {
        !self.is_pass_through()
    }

    /// Bytes held back: those after the last boundary, or in pass-through the beginning of the line at hand.
    pub fn held_bytes(&self) -> usize {
        match &self.tail {
            Tail::Held(held) => held.len(),
            Tail::PassThrough(passing) => passing.line.len(),
        }
    }

    /// Whether the block at hand is too large to be held and is appended as it comes.
    pub fn is_pass_through(&self) -> bool {
        matches!(&self.tail, Tail::PassThrough(passing) if passing.destination == Destination::Client)
    }

    /// Whether any block that was appended was too large to be held. Such a stream forgets its cursor.
    pub fn ever_overflowed(&self) -> bool {
        self.ever_overflowed
    }

    /// The last event id of the client, given what was appended so far: that of the last whole block that set one.
    ///
    /// `None` if no id has come yet or it is longer than [`ID_BYTES_MAX`]; empty if the pod reset it. These are
    /// the bytes of the stream; browsers send back their replacement characters where it is not UTF-8.
    pub fn last_event_id(&self) -> Option<&[u8]> {
        (self.id_state == IdState::Known).then_some(&self.id)
    }

    /// Whether the last event id is longer than [`ID_BYTES_MAX`] and therefore was not kept.
    pub fn id_too_long(&self) -> bool {
        self.id_state == IdState::TooLong
    }

    /// Takes out what is held back, because the stream ends cleanly behind it. Empty while a successor's replay is judged:
    /// the client may have received that before.
    pub fn take_held(&mut self) -> Vec<u8> {
        let is_judged = self.awaits_replay();
        match &mut self.tail {
            Tail::Held(held) if !is_judged => mem::take(held),
            Tail::Held(_) | Tail::PassThrough(_) => Vec::new(),
        }
    }

    /// Drops what is held back, because the rest of it will never come. The next bytes pushed begin another stream.
    ///
    /// In pass-through the client has part of the event already: the framer stays off any boundary, and the client's
    /// stream can only be ended.
    pub fn discard(&mut self) {
        if self.is_pass_through() {
            return;
        }
        self.tail = NOTHING_HELD;
        self.opening = true;
        self.after_carriage_return = false;
    }

    /// Takes the first bytes of the stream, and of them the byte order mark.
    fn open(&mut self, input: &[u8], out: &mut Vec<u8>, pushed: &mut Pushed) {
        let Tail::Held(held) = &mut self.tail else { return };
        let joined = if held.is_empty() { None } else { Some([held, input].concat()) };
        let bytes = joined.as_deref().unwrap_or(input);
        if bytes.len() < TWO_BYTE_ORDER_MARKS.len() && TWO_BYTE_ORDER_MARKS.starts_with(bytes) {
            *held = bytes.to_vec();
            return;
        }
        *held = Vec::new();
        self.opening = false;
        let one_mark = !bytes.starts_with(TWO_BYTE_ORDER_MARKS);
        let marked = bytes.strip_prefix(BYTE_ORDER_MARK).filter(|_| one_mark);
        self.take(marked.unwrap_or(bytes), out, pushed);
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, pushed: &mut Pushed) {
        let Some(last) = input.last() else { return };
        let after_carriage_return = mem::replace(&mut self.after_carriage_return, *last == CR);
        let mut rest = input;
        if let ([LF, after @ ..], true) = (input, after_carriage_return) {
            self.take_late_line_feed(out);
            rest = after;
        }
        let awaits_replay = self.awaits_replay();
        rest = match &self.tail {
            Tail::Held(held) if held.is_empty() || awaits_replay => rest,
            Tail::Held(_) => self.finish_held(rest, out, pushed),
            Tail::PassThrough(_) => self.finish_passing(rest, out, pushed),
        };
        if awaits_replay {
            return self.take_replay(rest, out, pushed);
        }
        self.take_blocks(rest, out, pushed);
    }

    /// Takes the LF of a line that ended at the CR before. The limit can wait for what comes with it.
    fn take_late_line_feed(&mut self, out: &mut Vec<u8>) {
        match &mut self.tail {
            Tail::Held(held) if !held.is_empty() => append(held, &[LF], self.event_bytes_max as usize),
            _ => out.push(LF),
        }
    }

    /// Appends the whole blocks of `input`, which starts at a boundary, in one piece; holds the rest.
    #[inline(always)]
    fn take_blocks(&mut self, input: &[u8], out: &mut Vec<u8>, pushed: &mut Pushed) {
        let blocks = self.scan(input);
        out.extend_from_slice(before(input, blocks.rest));
        self.apply(&blocks, pushed);
        if !blocks.rest.is_empty() {
            self.hold(blocks.rest, out, pushed);
        }
    }

    /// Looks for the end of the block that is held, and appends the block. Returns what follows it.
    fn finish_held<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>, pushed: &mut Pushed) -> &'a [u8] {
        let Tail::Held(held) = &mut self.tail else { return input };
        let Some(rest) = after_block(held, input) else {
            self.hold(input, out, pushed);
            return &[];
        };
        let start = out.len();
        out.extend_from_slice(&mem::take(held));
        out.extend_from_slice(before(input, rest));
        let (_, block) = out.split_at(start);
        let block = self.scan(block);
        self.apply(&block, pushed);
        rest
    }

    /// Appends what belongs to the block that passes through. Returns what follows it.
    fn finish_passing<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>, pushed: &mut Pushed) -> &'a [u8] {
        let Tail::PassThrough(passing) = &mut self.tail else { return input };
        let rest = passing.follow(input);
        if passing.destination == Destination::Nowhere {
            let Some(rest) = rest else { return &[] };
            pushed.dropped += u32::from(passing.has_data);
            self.tail = NOTHING_HELD;
            return rest;
        }
        out.extend_from_slice(before(input, rest.unwrap_or_default()));
        pushed.retry_seen |= mem::take(&mut passing.retry_seen);
        let Some(rest) = rest else { return &[] };
        pushed.events += u32::from(passing.has_data);
        let (id, has_data) = (passing.id.take(), passing.has_data);
        if self.may_be_handed_over() {
            Cursor::note(&mut self.cursor, self.cursor_ids, id.as_deref(), has_data);
        }
        if let Some(id) = id {
            self.set_id(&id);
        }
        self.tail = NOTHING_HELD;
        rest
    }

    /// Holds `more`, which ends no block, behind what is held already; if that is too much, passes both through.
    fn hold(&mut self, more: &[u8], out: &mut Vec<u8>, pushed: &mut Pushed) {
        let Tail::Held(held) = &mut self.tail else { return };
        if held.len() + more.len() <= self.event_bytes_max as usize {
            append(held, more, self.event_bytes_max as usize);
            return;
        }
        let held = mem::take(held);
        if self.pass_through(&held, more, out, pushed) {
            self.ever_overflowed = true;
            self.cursor_ids = 0;
            self.cursor = None;
        }
    }

    /// Passes a block through, of which `held` and `more` have come; false if the client has it, and it is dropped.
    fn pass_through(&mut self, held: &[u8], more: &[u8], out: &mut Vec<u8>, pushed: &mut Pushed) -> bool {
        let mut passing = Box::new(PassThrough::new(is_comment(if held.is_empty() { more } else { held })));
        passing.follow(held);
        passing.follow(more);
        if self.drops_unfinished(&passing) {
            passing.destination = Destination::Nowhere;
            self.tail = Tail::PassThrough(passing);
            return false;
        }
        out.extend_from_slice(held);
        out.extend_from_slice(more);
        pushed.retry_seen |= mem::take(&mut passing.retry_seen);
        self.has_shown_event |= !passing.is_comment;
        self.tail = Tail::PassThrough(passing);
        true
    }

    /// Reads whole blocks that are being forwarded, and lets the cursor know of them.
    ///
    /// Inlined by force, like its caller: called out of line from the two of them it costs each push 50 instructions.
    #[inline(always)]
    fn scan<'a>(&mut self, bytes: &'a [u8]) -> Blocks<'a> {
        if !self.may_be_handed_over() {
            return Blocks::scan(bytes, |_| {});
        }
        let (cursor, ids_max) = (&mut self.cursor, self.cursor_ids);
        Blocks::scan(bytes, |block| Cursor::note(cursor, ids_max, block.id, block.has_data))
    }

    fn apply(&mut self, blocks: &Blocks<'_>, pushed: &mut Pushed) {
        pushed.events += blocks.events;
        pushed.retry_seen |= blocks.retry_seen;
        self.has_shown_event |= blocks.events > 0;
        if let Some(id) = blocks.id {
            self.set_id(id);
        }
    }

    fn set_id(&mut self, id: &[u8]) {
        self.id.clear();
        if id.len() > ID_BYTES_MAX {
            self.id_state = IdState::TooLong;
        } else {
            self.id.extend_from_slice(id);
            self.id_state = IdState::Known;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 1 << 20;

    /// A framer after some pushes, and everything it appended.
    fn pushed(event_bytes_max: usize, pushes: &[&[u8]]) -> (Framer, Vec<u8>) {
        let (mut framer, mut out) = (Framer::new(event_bytes_max), Vec::new());
        for push in pushes {
            framer.push(push, &mut out);
        }
        (framer, out)
    }

    fn capacity_held(framer: &Framer) -> usize {
        match &framer.tail {
            Tail::Held(held) => held.capacity(),
            Tail::PassThrough(passing) => passing.line.capacity(),
        }
    }

    #[test]
    fn whole_blocks_are_forwarded_and_the_rest_is_held() {
        // Name; pushes; what is forwarded; how many bytes are held.
        type Case = (&'static str, &'static [&'static [u8]], &'static [u8], usize);
        let table: &[Case] = &[
            ("nothing", &[b""], b"", 0),
            ("an event", &[b"data: x\n\n"], b"data: x\n\n", 0),
            ("no final empty line", &[b"data: x\n"], b"", 8),
            ("no line end", &[b"data: x"], b"", 7),
            ("an event and a half", &[b"data: x\n\ndata: y\n"], b"data: x\n\n", 8),
            ("byte by byte", &[b"d", b"a", b"t", b"a", b"\n", b"\n"], b"data\n\n", 0),
            ("cut between the line ends", &[b"data: x\n", b"\ndata"], b"data: x\n\n", 4),
            ("CR", &[b"data: x\r\r"], b"data: x\r\r", 0),
            ("CRLF", &[b"data: x\r\n\r\n"], b"data: x\r\n\r\n", 0),
            ("CRLF is one line end", &[b"data: x\r\ndata: y"], b"", 16),
            ("CRLF cut in two is one line end", &[b"data: x\r", b"\ndata: y"], b"", 16),
            ("LF CR are two line ends", &[b"data: x\n\r"], b"data: x\n\r", 0),
            ("mixed line ends", &[b"data: x\r\n\rdata: y\n\r\n"], b"data: x\r\n\rdata: y\n\r\n", 0),
            ("an event does not wait for the LF", &[b"data: x\r\n\r"], b"data: x\r\n\r", 0),
            ("the LF follows when it comes", &[b"data: x\r\n\r", b"\n"], b"data: x\r\n\r\n", 0),
            ("and belongs to no later line", &[b"data: x\r\r", b"\ndata: y"], b"data: x\r\r\n", 7),
            ("empty pushes separate no CRLF", &[b"data: x\r", b"", b"\ndata: y"], b"", 16),
            ("an empty line alone", &[b"\n"], b"\n", 0),
            ("a ping", &[b": ping\n"], b": ping\n", 0),
            ("a ping in two pushes", &[b": pi", b"ng\nda"], b": ping\n", 2),
            ("an unfinished ping", &[b": ping"], b"", 6),
            ("pings with CR", &[b":a\r:b\r"], b":a\r:b\r", 0),
            ("a ping, then a field", &[b": ping\ndata: x"], b": ping\n", 7),
            ("a comment within a block", &[b"data: x\n: c\n"], b"", 12),
            ("a comment within a block, cut", &[b"data: x\n", b": c\n"], b"", 12),
            ("a ping after an event", &[b"data: x\n\n: c\n"], b"data: x\n\n: c\n", 0),
            ("an id without data", &[b"id: 1\n\n"], b"id: 1\n\n", 0),
            ("an unknown field", &[b"x\n"], b"", 2),
            ("byte order mark", &[b"\xef\xbb\xbfdata: x\n\n"], b"data: x\n\n", 0),
            ("byte order mark, cut", &[b"\xef", b"\xbb", b"\xbfdata: x\n\n"], b"data: x\n\n", 0),
            ("byte order mark alone", &[b"\xef\xbb\xbf"], b"", 3),
            ("not quite a byte order mark", &[b"\xef\xbb", b"x\n\n"], b"\xef\xbbx\n\n", 0),
            ("a byte order mark later", &[b"\n\xef\xbb\xbfdata\n\n"], b"\n\xef\xbb\xbfdata\n\n", 0),
            (
                "two byte order marks",
                &[b"\xef\xbb\xbf\xef\xbb\xbfdata\n\n"],
                b"\xef\xbb\xbf\xef\xbb\xbfdata\n\n",
                0,
            ),
            ("a ping behind a byte order mark", &[b"\xef\xbb\xbf: ping\n"], b": ping\n", 0),
        ];
        for (name, pushes, forwarded, held) in table {
            let (framer, out) = pushed(LARGE, pushes);
            assert_eq!(out.escape_ascii().to_string(), forwarded.escape_ascii().to_string(), "{name}");
            assert_eq!(framer.held_bytes(), *held, "{name}");
            assert!(framer.at_boundary() && !framer.ever_overflowed(), "{name}");
        }
    }

    #[test]
    fn events_are_counted_as_clients_dispatch_them() {
        let table: &[(&[u8], u32, bool)] = &[
            (b"data: x\n\n", 1, false),
            (b"data\n\n", 1, false),
            (b"data: x\ndata: y\n\ndata: z\n\n", 2, false),
            (b"id: 1\nevent: e\n\n", 0, false),
            (b"\n\n\n", 0, false),
            (b":\n\n", 0, false),
            (b"data: x", 0, false),
            (b"retry: 5\n\n", 0, true),
            (b"retry: 5\ndata: x\n\n", 1, true),
            (b"retry: 5s\n\n", 0, false),
            (b"retry: 5\n", 0, false),
        ];
        for (stream, events, retry_seen) in table {
            let pushed = Framer::new(LARGE).push(stream, &mut Vec::new());
            assert_eq!(
                pushed,
                Pushed { events: *events, retry_seen: *retry_seen, dropped: 0 },
                "{}",
                stream.escape_ascii()
            );
        }
    }

    #[test]
    fn the_last_event_id_is_that_of_the_last_whole_block_which_sets_one() {
        type Case<'a> = (&'a [&'a [u8]], Option<&'a [u8]>);
        let long = [b"id: ", [b'9'; ID_BYTES_MAX].as_slice(), b"\n\n"].concat();
        let too_long = [b"id: ", [b'9'; ID_BYTES_MAX + 1].as_slice(), b"\n\n"].concat();
        let table: &[Case<'_>] = &[
            (&[b"data: x\n\n"], None),
            (&[b"id: 1\ndata: x\n\n"], Some(b"1")),
            (&[b"id: 1\n\n"], Some(b"1")),
            (&[b"id: 1\n\ndata: x\n\n"], Some(b"1")),
            (&[b"id: 1\n\nid: 2\ndata: x\n"], Some(b"1")),
            (&[b"id: 1\n\nid: 2\n", b"\n"], Some(b"2")),
            (&[b"id: 1\nid: 2\n\n"], Some(b"2")),
            (&[b"id: 1\nid: a\0b\n\n"], Some(b"1")),
            (&[b"id: 1\n\nid: a\0b\n\n"], Some(b"1")),
            (&[b"id: 1\n\nid\n\n"], Some(b"")),
            (&[b"id: 1\n\nid:\n\n"], Some(b"")),
            (&[b"id: 1\n\n: id: 2\n\n"], Some(b"1")),
            (&[&long], Some(&[b'9'; ID_BYTES_MAX])),
            (&[b"id: 1\n\n", &too_long], None),
            (&[&too_long, b"id: 1\n\n"], Some(b"1")),
        ];
        // As they are; byte by byte; byte by byte and everything passing through.
        for (event_bytes_max, push_bytes_max) in [(LARGE, usize::MAX), (LARGE, 1), (0, 1)] {
            for (pushes, id) in table {
                let cut: Vec<_> = pushes.iter().flat_map(|push| push.chunks(push_bytes_max)).collect();
                let (framer, _) = pushed(event_bytes_max, &cut);
                let shown = pushes.concat().escape_ascii().to_string();
                assert_eq!(framer.last_event_id(), *id, "{shown} in pushes of {push_bytes_max}");
                assert_eq!(framer.id_too_long(), pushes.last() == Some(&too_long.as_slice()), "{shown}");
            }
        }
    }

    #[test]
    fn an_event_too_large_to_hold_passes_through_and_then_all_is_normal_again() {
        let (mut framer, mut out) = pushed(10, &[b"id: 1\n\ndata: 789"]);
        assert_eq!((framer.held_bytes(), framer.at_boundary()), (9, true));
        framer.push(b"0", &mut out);
        assert_eq!((out.as_slice(), framer.at_boundary()), (b"id: 1\n\n".as_slice(), true));

        framer.push(b"1", &mut out);
        assert_eq!(out, b"id: 1\n\ndata: 78901");
        assert!(framer.is_pass_through() && framer.ever_overflowed() && !framer.at_boundary());
        let more = framer.push(b"\r", &mut out);
        assert_eq!((more, out.as_slice()), (Pushed::default(), b"id: 1\n\ndata: 78901\r".as_slice()));
        let retry = framer.push(b"\nid: 2\nretry: 3\n", &mut out);
        assert_eq!(retry, Pushed { retry_seen: true, ..Pushed::default() });
        assert_eq!((framer.last_event_id(), framer.at_boundary()), (Some(b"1".as_slice()), false));

        let end = framer.push(b"\r\n\ndata: x", &mut out);
        assert_eq!(end, Pushed { events: 1, ..Pushed::default() });
        assert!(!framer.is_pass_through() && framer.ever_overflowed() && framer.at_boundary());
        assert_eq!((framer.last_event_id(), framer.held_bytes()), (Some(b"2".as_slice()), 7));
        assert_eq!(out, b"id: 1\n\ndata: 78901\r\nid: 2\nretry: 3\n\r\n\n");
    }

    #[test]
    fn a_comment_too_large_to_hold_passes_through_up_to_its_line_end() {
        let (mut framer, mut out) = pushed(4, &[b": comment"]);
        assert_eq!((out.as_slice(), framer.at_boundary()), (b": comment".as_slice(), false));
        framer.push(b" ends\nda", &mut out);
        assert_eq!((out.as_slice(), framer.at_boundary()), (b": comment ends\n".as_slice(), true));
    }

    #[test]
    fn an_event_that_comes_whole_or_is_completed_by_a_push_never_overflows() {
        let table: [&[&[u8]]; 3] = [
            &[b"data: 0123456789\n\n"],
            &[b"data: 01", b"23456789\n\n"],
            &[b"data: 012\r", b"\ndata: 5\n\n"],
        ];
        for pushes in table {
            let (framer, out) = pushed(10, pushes);
            assert_eq!((out.len(), framer.ever_overflowed()), (pushes.concat().len(), false));
        }
    }

    #[test]
    fn a_discarded_tail_never_reaches_the_client() {
        let (mut framer, mut out) = pushed(LARGE, &[b"id: 1\n\ndata: half\r"]);
        framer.discard();
        assert_eq!((framer.held_bytes(), framer.last_event_id()), (0, Some(b"1".as_slice())));
        framer.push(b"\xef\xbb\xbfdata: other\n\n", &mut out);
        assert_eq!(out, b"id: 1\n\ndata: other\n\n");
    }

    #[test]
    fn a_discard_can_not_take_back_what_passed_through() {
        let (mut framer, _) = pushed(4, &[b"data: half"]);
        framer.discard();
        assert!(framer.is_pass_through() && !framer.at_boundary());
    }

    #[test]
    fn an_idle_framer_is_small_and_holds_no_heap_but_the_id() {
        assert!(size_of::<Framer>() <= 72, "{}", size_of::<Framer>());
        let idle: [&[&[u8]]; 4] =
            [&[], &[b"data: x\n\n"], &[b"data", b": x\n", b"\n"], &[b"\xef", b"\xbb\xbfdata\n\n"]];
        for pushes in idle {
            let (framer, _) = pushed(LARGE, pushes);
            assert_eq!((capacity_held(&framer), framer.id.capacity()), (0, 0));
        }
        let (framer, _) = pushed(4, &[b"data: large", b"\n\n"]);
        assert_eq!((capacity_held(&framer), framer.is_pass_through()), (0, false));
    }

    #[test]
    fn a_tail_that_grows_byte_by_byte_takes_no_more_memory_than_the_limit() {
        let mut out = Vec::new();
        for event_bytes_max in [1, 100, 1_000] {
            let mut framer = Framer::new(event_bytes_max);
            for byte in b"x\r\n".iter().cycle().take(event_bytes_max) {
                framer.push(&[*byte], &mut out);
                assert!(capacity_held(&framer) <= event_bytes_max);
            }
            assert_eq!((framer.held_bytes(), framer.is_pass_through()), (event_bytes_max, false));
            for _ in 0..4 * ID_BYTES_MAX {
                framer.push(b"x", &mut out);
            }
            assert!(framer.is_pass_through() && capacity_held(&framer) <= 2 * PassThrough::LINE_BYTES_MAX);
        }
    }

    #[test]
    fn ids_of_one_length_are_stored_in_the_same_place() {
        let (mut framer, mut out) = pushed(LARGE, &[b"id: 100\ndata: x\n\n"]);
        let (place, capacity) = (framer.id.as_ptr(), framer.id.capacity());
        for number in 101..999 {
            framer.push(format!("id: {number}\ndata: x\n\n").as_bytes(), &mut out);
        }
        assert_eq!((framer.id.as_ptr(), framer.id.capacity()), (place, capacity));
    }
}
