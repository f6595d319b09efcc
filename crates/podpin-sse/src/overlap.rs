//! Where do two endpoints send the same? For streams whose events have no ids that a successor could resume from: both are
//! read, what the old one sends goes to the client, what the successor sends is kept, until one event has come from both.
//!
//! *Premise*: both endpoints send the same events in the same order. Then what the successor sent before that event is
//! history, and what it sends behind it is new, or was sent by the old endpoint meanwhile ([`Outstanding`]).
//!
//! An event is recognised by its id, or if one of the two has none by a hash of its type and data. An event that either
//! endpoint has sent twice says nothing, and neither does one that the old endpoint sent before the successor had answered: it
//! may be as old as the repetition that would show that.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};
use std::mem;

use crate::frame::block::{Block, after_block, before};
use crate::line::{is_comment, split_line, value};

/// Largest number of events of one endpoint that are remembered, for streams of several hundred events a second. Busier ones
/// than that are not recognised.
const EVENTS_MAX: usize = 4_096;
/// Number of outstanding events that one may be compared with, and of events that are none of them before no more is dropped.
/// An endpoint that is some milliseconds behind has fewer; beyond it clients of very busy streams see events twice.
const REACH: usize = 64;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Two endpoints of one stream, compared event by event.
///
/// ```
/// use podpin_sse::Overlap;
///
/// let mut overlap = Overlap::new(64 * 1024);
/// overlap.answered();
/// // The old endpoint is one event ahead.
/// overlap.sent(b"data: a\n\ndata: b\n\n");
/// overlap.received(b"data: a\n\n");
/// assert!(overlap.is_recognised());
/// let (rest, mut outstanding) = overlap.join();
/// assert_eq!(rest, b"");
/// let mut out = b"data: b\n\ndata: c\n\n".to_vec();
/// assert_eq!(outstanding.drop_from(&mut out, 0), 1);
/// assert_eq!(out, b"data: c\n\n");
/// ```
#[derive(Debug)]
pub struct Overlap {
    old: Side,
    new: Side,
    /// Events by what they are recognised by.
    seen: HashMap<Key, Seen>,
    /// Events of the old endpoint before the successor answered.
    early: usize,
    /// Bytes of the successor in whole blocks, and the end of each event in them.
    held: Vec<u8>,
    ends: Vec<usize>,
    bytes_max: usize,
    /// Places of the event that both have sent.
    recognised: Option<Pair>,
}

/// Events of one endpoint.
#[derive(Debug, Default)]
struct Side {
    events: Vec<Mark>,
    /// Beginning of a block.
    tail: Vec<u8>,
    /// More came than is remembered.
    is_lost: bool,
}

/// Places of one event.
#[derive(Clone, Copy, Debug)]
struct Pair {
    old: usize,
    new: usize,
}

/// Fingerprint that an event is recognised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    id: Option<u64>,
    data: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Id(u64),
    Data(u64),
}

/// Occurrences of one key.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    old: Occurrences,
    new: Occurrences,
}

#[derive(Clone, Copy, Debug, Default)]
struct Occurrences {
    count: usize,
    last: usize,
    has_id: bool,
}

/// Endpoint of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Old,
    New,
}

impl Overlap {
    /// Returns the comparison for a successor that is requested now; at most `bytes_max` bytes of it are kept.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            old: Side::default(),
            new: Side::default(),
            seen: HashMap::new(),
            early: 0,
            held: Vec::new(),
            ends: Vec::new(),
            bytes_max,
            recognised: None,
        }
    }

    /// Records that the successor has answered.
    pub fn answered(&mut self) {
        self.early = self.old.events.len();
    }

    /// Takes bytes of the old endpoint that the client was sent.
    pub fn sent(&mut self, bytes: &[u8]) {
        let mut old = mem::take(&mut self.old);
        old.push(bytes, |place, mark, _| {
            if let Some(mark) = mark {
                self.note(From::Old, place, mark);
            }
        });
        old.is_lost |= old.tail.len() > self.bytes_max;
        self.old = old;
    }

    /// Takes bytes of the successor's body.
    pub fn received(&mut self, bytes: &[u8]) {
        let mut new = mem::take(&mut self.new);
        new.push(bytes, |place, mark, block| {
            self.held.extend_from_slice(block);
            if let Some(mark) = mark {
                self.ends.push(self.held.len());
                self.note(From::New, place, mark);
            }
        });
        self.new = new;
    }

    /// Whether more of the successor can be kept. If not, it is not read until the old endpoint has come as far.
    pub fn takes_more(&self) -> bool {
        self.held.len() + self.new.tail.len() < self.bytes_max
    }

    /// Whether both endpoints have sent the same event.
    pub fn is_recognised(&self) -> bool {
        self.recognised.is_some() && !self.old.is_lost && !self.new.is_lost
    }

    /// Ends the comparison. Returns the successor's bytes behind the event that was recognised, all of them if none was; and the
    /// events that the old endpoint has sent since.
    pub fn join(self) -> (Vec<u8>, Outstanding) {
        let Self { old, new, mut held, ends, early, recognised, .. } = self;
        let end = recognised.and_then(|pair| ends.get(pair.new).copied()).unwrap_or(0);
        held.drain(..end.min(held.len()));
        held.extend_from_slice(&new.tail);
        let from = recognised.map_or(early, |pair| pair.old + 1);
        let events = old.events.into_iter().skip(from).collect();
        (held, Outstanding { events, strangers: 0 })
    }

    fn note(&mut self, from: From, place: usize, mark: Mark) {
        let by_id = mark.id.map(Key::Id);
        for key in by_id.into_iter().chain([Key::Data(mark.data)]) {
            let seen = self.seen.entry(key).or_default();
            let side = if from == From::Old { &mut seen.old } else { &mut seen.new };
            *side = Occurrences { count: side.count + 1, last: place, has_id: mark.id.is_some() };
            let Seen { old, new } = *seen;
            let is_distinct = matches!(key, Key::Data(_)) && old.has_id && new.has_id;
            let is_once = (old.count, new.count) == (1, 1) && old.last >= self.early;
            if is_once && !is_distinct && self.recognised.is_none() {
                self.recognised = Some(Pair { old: old.last, new: new.last });
            }
        }
    }
}

impl Side {
    /// Takes bytes, and shows each whole block to `each`: with the event's place and mark, if it is one.
    fn push(&mut self, bytes: &[u8], mut each: impl FnMut(usize, Option<Mark>, &[u8])) {
        let mut rest = bytes;
        if !self.tail.is_empty() {
            let Some(after) = after_block(&self.tail, bytes) else {
                return self.tail.extend_from_slice(bytes);
            };
            let mut block = mem::take(&mut self.tail);
            block.extend_from_slice(before(bytes, after));
            self.add(&block, &mut each);
            rest = after;
        }
        while let Some((_, after)) = Block::split(rest) {
            self.add(before(rest, after), &mut each);
            rest = after;
        }
        self.tail.extend_from_slice(rest);
    }

    fn add(&mut self, block: &[u8], each: &mut impl FnMut(usize, Option<Mark>, &[u8])) {
        let place = self.events.len();
        let mark = Mark::of(block);
        self.is_lost |= mark.is_some() && place >= EVENTS_MAX;
        match mark.filter(|_| !self.is_lost) {
            Some(mark) => {
                self.events.push(mark);
                each(place, Some(mark), block);
            }
            None => each(place, None, block),
        }
    }
}

impl Mark {
    /// Returns the mark of a whole block; `None` if it is no event.
    fn of(block: &[u8]) -> Option<Self> {
        let (mut id, mut has_data, mut kind) = (None, false, &b""[..]);
        let mut data = DefaultHasher::new();
        let mut lines = block.strip_prefix(BYTE_ORDER_MARK).unwrap_or(block);
        while let Some((line, rest)) = split_line(lines) {
            lines = rest;
            match line {
                _ if is_comment(line) => {}
                [b'd', b'a', b't', b'a', after @ ..] => {
                    if let Some(line) = value(after) {
                        has_data = true;
                        data.write(line);
                        data.write_u8(b'\n');
                    }
                }
                [b'i', b'd', after @ ..] => id = value(after).filter(|id| !id.contains(&0)).or(id),
                [b'e', b'v', b'e', b'n', b't', after @ ..] => kind = value(after).unwrap_or(kind),
                _ => {}
            }
        }
        data.write_u8(0);
        data.write(kind);
        let id = id.filter(|id| !id.is_empty()).map(|id| {
            let mut hasher = DefaultHasher::new();
            hasher.write(id);
            hasher.finish()
        });
        has_data.then(|| Self { id, data: data.finish() })
    }

    fn is_same(self, other: Self) -> bool {
        match (self.id, other.id) {
            (Some(one), Some(other)) => one == other,
            _ => self.data == other.data,
        }
    }
}

/// Events that the old endpoint sent and the successor has not sent yet: they are dropped when they come again, in their order.
#[derive(Debug, Default)]
pub struct Outstanding {
    events: VecDeque<Mark>,
    /// Events of the successor that were none of them.
    strangers: usize,
}

impl Outstanding {
    /// Whether nothing is dropped any more.
    pub fn is_over(&self) -> bool {
        self.events.is_empty()
    }

    /// Removes what the client has from the whole blocks of `out` behind `from`. Returns the number of events.
    pub fn drop_from(&mut self, out: &mut Vec<u8>, from: usize) -> u32 {
        let blocks = out.split_off(from.min(out.len()));
        let (mut rest, mut dropped) = (blocks.as_slice(), 0);
        while let Some((_, after)) = Block::split(rest).filter(|_| !self.is_over()) {
            let block = before(rest, after);
            if Mark::of(block).is_some_and(|mark| self.takes(mark)) {
                dropped += 1;
            } else {
                out.extend_from_slice(block);
            }
            rest = after;
        }
        out.extend_from_slice(rest);
        dropped
    }

    /// Whether an event is one of the outstanding ones, which are not waited for any longer up to there.
    fn takes(&mut self, mark: Mark) -> bool {
        let place = self.events.iter().take(REACH).position(|event| event.is_same(mark));
        match place {
            Some(place) => {
                self.events.drain(..=place);
            }
            None => self.strangers += 1,
        }
        if self.strangers > REACH {
            self.events.clear();
        }
        place.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Step of two endpoints.
    #[derive(Clone, Copy)]
    enum Step<'a> {
        Old(&'a str),
        New(&'a str),
        Answered,
    }

    use Step::{Answered, New, Old};

    fn events(all: &str) -> Vec<u8> {
        all.split(' ').filter(|one| !one.is_empty()).flat_map(event).collect()
    }

    /// `a` is an event without an id, `a#1` one with an id, `:` a comment.
    fn event(text: &str) -> Vec<u8> {
        match text.split_once('#') {
            Some((data, id)) => format!("id: {id}\ndata: {data}\n\n").into_bytes(),
            None if text == ":" => b": ping\n\n".to_vec(),
            None => format!("data: {text}\n\n").into_bytes(),
        }
    }

    fn names(bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        data.join(" ")
    }

    fn run(steps: &[Step<'_>], cut: usize) -> Overlap {
        let mut overlap = Overlap::new(1 << 16);
        for step in steps {
            match step {
                Old(all) => events(all).chunks(cut).for_each(|bytes| overlap.sent(bytes)),
                New(all) => events(all).chunks(cut).for_each(|bytes| overlap.received(bytes)),
                Answered => overlap.answered(),
            }
        }
        overlap
    }

    /// Name; what happens; what the client gets of the successor if that sends `late` after the join; `None` if nothing is
    /// recognised.
    type Case<'a> = (&'a str, &'a [Step<'a>], &'a str, Option<&'a str>);

    #[test]
    fn the_first_event_of_both_is_where_the_successor_goes_on() {
        let table: &[Case<'_>] = &[
            ("nothing", &[Answered], "", None),
            ("one at the same time", &[Answered, Old("a"), New("a")], "b", Some("b")),
            ("the old one lags", &[Answered, New("a b"), Old("a")], "c", Some("b c")),
            ("the successor lags", &[Answered, Old("a b"), New("a")], "b c", Some("c")),
            ("it lags far", &[Answered, Old("a b c d"), New("a")], "b c d e", Some("e")),
            ("it leaves one out", &[Answered, Old("a b c"), New("a")], "c d", Some("d")),
            ("it has one of its own", &[Answered, Old("a b"), New("a")], "x b c", Some("x c")),
            ("history before", &[Answered, New("x y a"), Old("a")], "b", Some("b")),
            ("a greeting, comments", &[Answered, New("hi : a :"), Old(": a")], ": b", Some("b")),
            ("before the answer", &[Old("a"), Answered, New("a")], "", None),
            ("a later one", &[Old("a"), Answered, New("a b"), Old("b")], "c", Some("c")),
            ("different events", &[Answered, Old("a b"), New("x y")], "", None),
            ("twice the same", &[Answered, Old("a a"), New("a")], "", None),
            ("twice at the successor", &[Answered, New("a a"), Old("a")], "", None),
            ("as before the answer", &[Old("a"), Answered, Old("a"), New("a")], "", None),
            ("among repetitions", &[Answered, Old("p p b"), New("p b")], "p c", Some("p c")),
            ("by id", &[Answered, Old("a#1"), New("other#1")], "b#2", Some("b")),
            ("another id", &[Answered, Old("a#1"), New("a#2")], "", None),
            ("an id on one side", &[Answered, Old("a"), New("a#2")], "b#3", Some("b")),
        ];
        for (name, steps, late, expected) in table {
            for cut in [1, 5, usize::MAX] {
                let overlap = run(steps, cut);
                assert_eq!(overlap.is_recognised(), expected.is_some(), "{name}");
                let Some(expected) = expected else { continue };
                let (mut out, mut outstanding) = overlap.join();
                out.extend(events(late));
                outstanding.drop_from(&mut out, 0);
                assert_eq!(names(&out), *expected, "{name}");
            }
        }
    }

    #[test]
    fn an_old_endpoint_that_ends_unrecognised_leaves_what_the_client_lacks() {
        for (steps, late, expected) in [
            (&[Old("a"), Answered, New("b")][..], "c", "b c"),
            (&[Answered, Old("a b")], "a b c", "c"),
            (&[Answered, Old("p p"), New("p")], "p q", "q"),
        ] {
            let (mut out, mut outstanding) = run(steps, usize::MAX).join();
            out.extend(events(late));
            outstanding.drop_from(&mut out, 0);
            assert_eq!(names(&out), expected);
        }
    }

    #[test]
    fn an_event_is_its_type_and_its_data() {
        let mark = |text: &str| Mark::of(text.as_bytes());
        assert_eq!(mark("data: a\n\n"), mark("\u{feff}data:a\r\n\r\n"));
        assert_eq!(mark("event: x\ndata: a\n\n"), mark(": hi\ndata: a\nevent: x\n\n"));
        for other in ["data: a\ndata: b\n\n", "data: ab\n\n", "event: a\ndata: b\n\n", "id: a\ndata: b\n\n"] {
            assert_ne!(mark("data: b\n\n"), mark(other), "{other:?}");
        }
        for none in ["\n", ": hi\n", "retry: 5\n\n", "id: 7\n\n", "datax\n\n"] {
            assert_eq!(mark(none), None, "{none:?}");
        }
    }

    #[test]
    fn memory_is_bounded_and_beyond_it_nothing_is_recognised() {
        let mut overlap = Overlap::new(1_000);
        overlap.answered();
        overlap.received(&vec![b'x'; 999]);
        assert!(overlap.takes_more());
        overlap.received(b"y");
        assert!(!overlap.takes_more());
        let mut overlap = Overlap::new(1 << 20);
        overlap.answered();
        let many: String = (0..=EVENTS_MAX).map(|number| format!("data: {number}\n\n")).collect();
        overlap.sent(many.as_bytes());
        overlap.received(b"data: 7\n\n");
        assert!(!overlap.is_recognised(), "what came since is not known");
        assert!(overlap.old.events.len() <= EVENTS_MAX);
    }

    #[test]
    fn strangers_end_the_search_for_what_is_outstanding() {
        let (_, mut outstanding) = run(&[Answered, Old("a b"), New("a")], usize::MAX).join();
        for number in 0..=REACH {
            assert!(!outstanding.is_over(), "{number}");
            assert_eq!(outstanding.drop_from(&mut events(&number.to_string()), 0), 0);
        }
        assert!(outstanding.is_over());
    }
}
