//! The replay at the beginning of a successor's stream: blocks that the client has already are dropped here.
//!
//! Which blocks, is decided by the cursor; see there for the rules. Here stands what it needs to know: a block with an
//! unknown id is kept back until a known one follows, until as many bytes wait as an event may have, or until the proxy
//! stops waiting ([`Framer::pass_on`]), because a replay may reach back farther than the cursor remembers.
//!
//! Comments and blocks that say nothing but `retry` are no part of the stream's history and always pass.

use std::mem;

use super::block::{Block, after_block, before};
use super::pass_through::PassThrough;
use super::{Framer, Tail};
use crate::cursor::{Ahead, Cursor, KnownIds, ReplayStart, Verdict};
use crate::frame::Pushed;

/// The point in a stream from which a successor can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumption<'a> {
    /// After the event with this id.
    After(&'a [u8]),
    /// At the present moment: the client has seen no event and no id, so there is nothing to be resumed.
    Now,
    /// Nowhere: events came without an id, or an id that cannot be sent, or the client has part of an event.
    Unknown,
}

/// Known ids among the blocks at hand.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Whether the first of them is the oldest id that is remembered.
    begins_at_oldest: bool,
    /// Bytes after the last of them.
    bytes_after: usize,
}

impl<'a> Resumption<'a> {
    /// Returns the id to be sent; `None` if there is none.
    pub fn id(self) -> Option<&'a [u8]> {
        match self {
            Self::After(id) => Some(id),
            Self::Now | Self::Unknown => None,
        }
    }
}

impl Framer {
    /// Makes `id` the client's last event id: the one that its request came with. Ignored without a cursor, and if a
    /// client could not have it.
    pub fn seed(&mut self, id: &[u8]) {
        let is_id = !id.is_empty() && !id.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'));
        if self.may_be_handed_over() && is_id {
            self.set_id(id);
        }
    }

    /// Returns the point from which a successor can go on for the client. Only a stream with a cursor has one that no
    /// event was too large for.
    pub fn resumption(&self) -> Resumption<'_> {
        if !self.may_be_handed_over() || self.is_pass_through() {
            return Resumption::Unknown;
        }
        match self.last_event_id() {
            Some(id) if !id.is_empty() => Resumption::After(id),
            None if self.is_untouched() => Resumption::Now,
            _ => Resumption::Unknown,
        }
    }

    /// Whether the client has seen neither event nor id, and none has begun.
    fn is_untouched(&self) -> bool {
        self.id_state == super::IdState::NeverSet && !self.has_shown_event && self.held_bytes() == 0
    }

    /// [`Framer::resumption`], to be sent to a successor (WHATWG HTML, section 9.2.4).
    ///
    /// From here on no id is forgotten: the successor will replay what the old endpoint still sends.
    pub fn mark_resume_point(&mut self) -> Resumption<'_> {
        if let Resumption::After(id) = self.resumption() {
            let (id, ids_max) = (id.to_vec(), self.cursor_ids);
            self.cursor.get_or_insert_with(|| Box::new(Cursor::new(ids_max))).freeze(&id);
        }
        self.resumption()
    }

    /// Records that no successor is requested any more.
    pub fn stay(&mut self) {
        if let Some(cursor) = self.cursor.as_mut().filter(|cursor| !cursor.is_armed()) {
            cursor.thaw();
        }
    }

    /// Drops what is held of the old endpoint; the next bytes pushed are the beginning of the successor's body, and what
    /// they replay is dropped. Without a cursor, or in pass-through, the same as [`Framer::discard`].
    pub fn adopt(&mut self, start: ReplayStart) {
        self.discard();
        if self.may_be_handed_over()
            && let Some(id) = self.last_event_id().filter(|id| !id.is_empty()).map(<[u8]>::to_vec)
        {
            let ids_max = self.cursor_ids;
            self.cursor.get_or_insert_with(|| Box::new(Cursor::new(ids_max))).arm(&id, start);
        }
    }

    /// Whether the next bytes may be a replay.
    pub fn awaits_replay(&self) -> bool {
        self.cursor.as_ref().is_some_and(|cursor| cursor.is_armed())
    }

    /// Whether blocks wait for the decision whether they are a replay.
    pub fn has_undecided(&self) -> bool {
        self.cursor.as_ref().is_some_and(|cursor| cursor.undecided().is_some())
    }

    /// Whether the endpoint was seen to use one id for several events, so that nothing of a replay can be dropped.
    pub fn repeats_ids(&self) -> bool {
        self.cursor.as_ref().is_some_and(|cursor| cursor.repeats_ids())
    }

    /// Returns the ids that the stream has shown lately.
    pub fn known_ids(&self) -> KnownIds {
        KnownIds::new(self.cursor.as_deref(), self.last_event_id().filter(|id| !id.is_empty()))
    }

    /// Bytes that the cursor holds on the heap.
    pub fn cursor_bytes(&self) -> usize {
        self.cursor.as_ref().map_or(0, |cursor| cursor.heap_bytes())
    }

    /// Takes bytes of a successor: whole blocks are judged, the rest is held.
    #[cold]
    pub(super) fn take_replay(&mut self, input: &[u8], out: &mut Vec<u8>, pushed: &mut Pushed) {
        let Tail::Held(held) = &mut self.tail else { return };
        if !held.is_empty() && after_block(held, input).is_none() {
            return self.hold(input, out, pushed);
        }
        let held = mem::take(held);
        let joined = if held.is_empty() { None } else { Some([&held, input].concat()) };
        let bytes = joined.as_deref().unwrap_or(input);
        let known = self.find_known(bytes);
        match &known {
            Some(known) if known.begins_at_oldest => {
                pushed.dropped += self.cursor.as_mut().map_or(0, |cursor| cursor.take_undecided().events);
            }
            Some(_) => self.pass_undecided(out, pushed),
            None => {}
        }
        let rest = self.judge(bytes, known, out, pushed);
        self.hold(rest, out, pushed);
        let is_too_much = |cursor: &Cursor| {
            cursor.undecided().is_some_and(|undecided| undecided.bytes.len() > self.event_bytes_max as usize)
        };
        if self.cursor.as_deref().is_some_and(is_too_much) {
            self.pass_undecided(out, pushed);
        }
    }

    /// Judges the whole blocks of `bytes`. Returns the rest.
    fn judge<'a>(
        &mut self,
        bytes: &'a [u8],
        known: Option<Known>,
        out: &mut Vec<u8>,
        pushed: &mut Pushed,
    ) -> &'a [u8] {
        let mut rest = bytes;
        while let Some((block, after)) = Block::split(rest) {
            let ahead = match &known {
                None => Ahead::NotYet,
                Some(known) if after.len() < known.bytes_after => Ahead::Nothing,
                Some(known) if known.begins_at_oldest => Ahead::Oldest,
                Some(_) => Ahead::Known,
            };
            self.judge_block(&block, before(rest, after), ahead, out, pushed);
            rest = after;
        }
        rest
    }

    fn judge_block(
        &mut self,
        block: &Block<'_>,
        bytes: &[u8],
        ahead: Ahead,
        out: &mut Vec<u8>,
        pushed: &mut Pushed,
    ) {
        let events = u32::from(block.has_data);
        let Some(cursor) = self.cursor.as_mut().filter(|cursor| cursor.is_armed()) else {
            return self.take_blocks(bytes, out, pushed);
        };
        if cursor.undecided().is_some() && block.has_fields {
            return cursor.postpone(bytes, events);
        }
        match cursor.judge(block.id, block.has_data, ahead) {
            Verdict::Drop => pushed.dropped += events,
            Verdict::New => self.take_blocks(bytes, out, pushed),
            Verdict::Undecided => cursor.postpone(bytes, events),
            Verdict::Forward => {
                // A greeting of the successor is no event behind the last id.
                let followers = cursor.followers();
                self.take_blocks(bytes, out, pushed);
                if let Some(cursor) = &mut self.cursor {
                    cursor.set_followers(followers);
                }
            }
        }
    }

    /// Forwards the blocks that wait for a decision: nothing known has followed them in time.
    pub(super) fn pass_undecided(&mut self, out: &mut Vec<u8>, pushed: &mut Pushed) {
        let Some(cursor) = &mut self.cursor else { return };
        let undecided = cursor.take_undecided();
        let mut rest = undecided.bytes.as_slice();
        while let Some((block, after)) = Block::split(rest) {
            self.judge_block(&block, before(rest, after), Ahead::Nothing, out, pushed);
            rest = after;
        }
    }

    /// Returns where the known ids among the whole blocks of `bytes` are; `None` if there are none.
    fn find_known(&self, bytes: &[u8]) -> Option<Known> {
        let cursor = self.cursor.as_ref()?;
        let mut known: Option<Known> = None;
        let mut rest = bytes;
        while let Some((block, after)) = Block::split(rest) {
            rest = after;
            if cursor.knows(block.id) {
                let is_oldest = || cursor.is_oldest(block.id);
                let begins_at_oldest = known.map_or_else(is_oldest, |known| known.begins_at_oldest);
                known = Some(Known { begins_at_oldest, bytes_after: after.len() });
            }
        }
        known
    }

    /// Whether a block too large to be held is a replay, by what came of it. If its id did not come yet it is
    /// forwarded: an event too much does less harm than one that is lost.
    #[cold]
    pub(super) fn drops_unfinished(&mut self, passing: &PassThrough) -> bool {
        let Some(cursor) = self.cursor.as_mut().filter(|cursor| cursor.is_armed()) else { return false };
        let id = passing.id.as_deref();
        cursor.knows(id) && cursor.judge(id, true, Ahead::Nothing) == Verdict::Drop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 1 << 20;
    const RING: u16 = 64;

    fn events(ids: impl IntoIterator<Item = usize>) -> Vec<u8> {
        ids.into_iter().flat_map(|id| format!("id: {id}\ndata: {id}\n\n").into_bytes()).collect()
    }

    /// A client that got `first`, whose stream was adopted by a successor.
    fn adopted(first: &[u8]) -> Framer {
        let mut framer = Framer::with_cursor(LARGE, RING);
        framer.push(first, &mut Vec::new());
        framer.mark_resume_point();
        framer.adopt(ReplayStart::Unnamed);
        framer
    }

    /// Returns the bytes of `pushes` that reach the client, and the number of events that do not.
    fn replayed(framer: &mut Framer, pushes: &[&[u8]]) -> (String, u32) {
        let (mut out, mut dropped) = (Vec::new(), 0);
        for push in pushes {
            dropped += framer.push(push, &mut out).dropped;
        }
        dropped += framer.pass_on(&mut out).dropped;
        (out.escape_ascii().to_string(), dropped)
    }

    const TWO: &[u8] = b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n";
    const THREE: &[u8] = b"id: 3\ndata: c\n\n";
    const FOUR: &[u8] = b"id: 4\ndata: d\n\n";
    const TWO_AND_FOUR: &[u8] = b"id: 2\ndata: b\n\nid: 4\ndata: d\n\n";
    const ONE_TO_THREE: &[u8] = b"id: 1\ndata\n\nid: 2\ndata\n\nid: 3\ndata\n\n";

    /// Name; what the client got; pushes of the successor; what is forwarded; how many events are dropped.
    type Case<'a> = (&'a str, &'a [u8], &'a [&'a [u8]], &'a [u8], u32);

    fn check(table: &[Case<'_>]) {
        for (name, first, pushes, forwarded, dropped) in table {
            let expected = (forwarded.escape_ascii().to_string(), *dropped);
            assert_eq!(replayed(&mut adopted(first), pushes), expected, "{name}");
        }
    }

    #[test]
    fn what_the_client_has_is_dropped_and_nothing_else() {
        let three_and_four = [THREE, FOUR].concat();
        check(&[
            ("an exact resume", TWO, &[THREE], THREE, 0),
            ("one too many", TWO, &[b"id: 2\ndata: b\n\nid: 3\ndata: c\n\n"], THREE, 1),
            ("cut within", TWO, &[b"id: 2\nda", b"ta: b\n", b"\nid: 3\ndata: c\n\n"], THREE, 1),
            ("all again", TWO, &[TWO, THREE], THREE, 2),
            (
                "another one, then what is known",
                TWO,
                &[b"id: 0\ndata\n\nid: 2\ndata: b\n\n"],
                b"id: 0\ndata\n\n",
                1,
            ),
            ("a new one before what is known", TWO, &[THREE, TWO_AND_FOUR], &three_and_four, 1),
            ("history before the stream", TWO, &[b"id: 0\ndata\n\n", TWO, THREE], THREE, 3),
            ("known ones far apart", ONE_TO_THREE, &[b"id: 1\ndata\n\n", FOUR, THREE], FOUR, 2),
            ("a mark, CRLF", TWO, &[b"\xef\xbb\xbfid: 2\r\ndata: b\r\n\r\n", THREE], THREE, 1),
            ("CR", TWO, &[b"id: 2\rdata: b\r\rid: 3\rdata\r\r"], b"id: 3\rdata\r\r", 1),
            ("a comment", TWO, &[b": hi\n", b"id: 2\n: x\ndata: b\n\n: ho\n\n"], b": hi\n: ho\n\n", 1),
            ("a retry", TWO, &[b"retry: 5\n\n", b"id: 2\nretry: 6\ndata\n\n"], b"retry: 5\n\n", 1),
            ("a ping that has the id", TWO, &[b"id: 2\n\nid: 2\n\n", THREE], THREE, 0),
            (
                "ids that repeat",
                b"id: 1\ndata\n\nid: 1\ndata\n\n",
                &[b"id: 1\ndata\n\n"],
                b"id: 1\ndata\n\n",
                0,
            ),
            ("pings are no repetition", b"id: 1\ndata: a\n\nid: 1\n\n", &[b"id: 1\ndata: a\n\n"], b"", 1),
        ]);
    }

    #[test]
    fn events_without_an_id_go_with_the_id_before_them() {
        let one_and_two = b"id: 1\ndata\n\ndata: a\n\nid: 2\ndata\n\n";
        check(&[
            ("a greeting", TWO, &[b"data: hi\n\n", b"id: 2\ndata: b\n\n"], b"data: hi\n\n", 1),
            (
                "a greeting is no event behind the last id",
                TWO,
                &[b"data: hi\n\n", b"id: 2\ndata: b\n\n", b"data: new\n\n"],
                b"data: hi\n\ndata: new\n\n",
                1,
            ),
            ("a greeting, then a replay", TWO, &[b"data: hi\n\nid: 2\ndata: b\n\n"], b"data: hi\n\n", 1),
            ("a reset within a replay", TWO, &[b"id: 1\ndata\n\nid\n\nid: 2\ndata\n\n"], b"", 2),
            (
                "as many as there were",
                b"id: 1\ndata\n\ndata: a\n\n",
                &[b"id: 1\ndata\n\n", b"data: a\n\n", b"data: b\n\n"],
                b"data: b\n\n",
                2,
            ),
            (
                "behind an older id",
                one_and_two,
                &[b"id: 1\ndata\n\n", b"data: a\n\n", b"id: 2\ndata\n\n", b"data: b\n\n"],
                b"data: b\n\n",
                3,
            ),
            ("more than ever before", TWO, &[b"id: 1\ndata\n\n", b"data: x\n\n"], b"data: x\n\n", 1),
            ("no id at all", b"data: a\n\n", &[b"data: a\n\n"], b"data: a\n\n", 0),
        ]);
    }

    #[test]
    fn the_half_event_of_the_old_pod_is_gone_after_adoption() {
        let mut framer = adopted(b"id: 1\ndata: a\n\nid: 2\ndata: ha");
        assert_eq!(framer.held_bytes(), 0);
        assert_eq!(
            replayed(&mut framer, &[b"id: 2\ndata: half\n\n"]),
            ("id: 2\\ndata: half\\n\\n".into(), 0)
        );
    }

    #[test]
    fn a_replay_of_all_that_is_remembered_is_dropped_in_any_pushes() {
        let mut framer = adopted(&events(0..500));
        let replay = events(500 - usize::from(RING)..501);
        let pushes: Vec<_> = replay.chunks(7).collect();
        let dropped = u32::try_from(usize::from(RING)).unwrap();
        assert_eq!(replayed(&mut framer, &pushes), (events([500]).escape_ascii().to_string(), dropped));
    }

    #[test]
    fn a_replay_of_more_than_is_remembered_is_dropped_if_it_comes_in_one_push() {
        let mut framer = adopted(&events(0..500));
        let expected = (events([500]).escape_ascii().to_string(), 500);
        assert_eq!(replayed(&mut framer, &[&events(0..501)]), expected);
    }

    #[test]
    fn what_the_old_pod_sends_after_the_successor_was_told_is_dropped_however_much_it_is() {
        let mut framer = Framer::with_cursor(LARGE, RING);
        framer.push(&events(0..10), &mut Vec::new());
        assert_eq!(framer.mark_resume_point(), Resumption::After(b"9"));
        framer.push(&events(10..300), &mut Vec::new());
        framer.adopt(ReplayStart::Unnamed);
        let replay = events(10..301);
        let pushes: Vec<_> = replay.chunks(5).collect();
        assert_eq!(replayed(&mut framer, &pushes), (events([300]).escape_ascii().to_string(), 290));
    }

    #[test]
    fn a_replay_goes_on_being_dropped_while_the_next_successor_is_opened() {
        let mut framer = Framer::with_cursor(LARGE, RING);
        framer.push(&events([0]), &mut Vec::new());
        framer.mark_resume_point();
        framer.push(&events(1..100), &mut Vec::new());
        framer.adopt(ReplayStart::Unnamed);
        framer.mark_resume_point();
        let replay = events(1..101);
        let pushes: Vec<_> = replay.chunks(5).collect();
        assert_eq!(replayed(&mut framer, &pushes), (events([100]).escape_ascii().to_string(), 99));
    }

    #[test]
    fn a_successor_that_goes_round_in_circles_does_not_silence_the_stream() {
        let mut framer = adopted(&events(0..3));
        let mut dropped = 0;
        let circle = events(0..3);
        for _ in 0..100 {
            dropped += replayed(&mut framer, &[&circle]).1;
        }
        assert_eq!((dropped, framer.repeats_ids()), (3, true), "each is dropped once");
    }

    #[test]
    fn a_replayed_event_too_large_to_be_held_is_dropped_as_it_comes() {
        let mut framer = Framer::with_cursor(20, RING);
        framer.push(b"id: 1\ndata: 0123456789abcdef\n\n", &mut Vec::new());
        framer.adopt(ReplayStart::Unnamed);
        let pushes: [&[u8]; 4] = [b"id: 1\ndata: 0123", b"456789", b"abcdef\n\r", b"\nid: 2\ndata\n\n"];
        let expected = ("\\nid: 2\\ndata\\n\\n".to_owned(), 1);
        assert_eq!(replayed(&mut framer, &pushes[..3]), (String::new(), 1));
        assert!(framer.at_boundary() && !framer.ever_overflowed());
        assert_eq!(replayed(&mut framer, &pushes[3..]), (expected.0, 0));
    }

    #[test]
    fn a_swallowed_event_is_forgotten_when_its_pod_dies_in_turn() {
        let mut framer = Framer::with_cursor(20, RING);
        framer.push(b"id: 1\ndata: 0123456789abcdef\n\n", &mut Vec::new());
        framer.adopt(ReplayStart::Unnamed);
        assert_eq!(replayed(&mut framer, &[b"id: 1\ndata: 0123456789abc"]), (String::new(), 0));
        assert_eq!(framer.resumption().id(), Some(b"1".as_slice()));
        framer.adopt(ReplayStart::Unnamed);
        assert_eq!(replayed(&mut framer, &[b"id: 2\ndata\n\n"]), ("id: 2\\ndata\\n\\n".into(), 0));
    }

    #[test]
    fn a_new_event_too_large_to_be_held_ends_all_handovers() {
        let mut framer = Framer::with_cursor(20, RING);
        framer.push(b"id: 1\ndata\n\n", &mut Vec::new());
        framer.adopt(ReplayStart::Unnamed);
        let push = b"id: 2\ndata: 0123456789abcdef";
        assert_eq!(replayed(&mut framer, &[push]), (push.escape_ascii().to_string(), 0));
        framer.push(b"\n\nid: 3\ndata\n\n", &mut Vec::new());
        assert!(framer.ever_overflowed() && !framer.awaits_replay());
        assert_eq!((framer.resumption().id(), framer.cursor_bytes()), (None, 0));
    }

    #[test]
    fn only_an_id_that_clients_would_send_can_be_resumed_from() {
        let too_long = [b"id: ", [b'9'; crate::ID_BYTES_MAX + 1].as_slice(), b"\n\n"].concat();
        let table: &[(&[u8], Option<&[u8]>)] = &[
            (b"data: x\n\n", None),
            (b"id: 1\n\n", Some(b"1")),
            (b"id: 1\n\nid\n\n", None),
            (b"id: 1\n\nid\n\nid: 2\n\n", Some(b"2")),
            (&too_long, None),
        ];
        for (stream, id) in table {
            let mut framer = Framer::with_cursor(LARGE, RING);
            framer.push(stream, &mut Vec::new());
            assert_eq!(framer.resumption().id(), *id, "{}", stream.escape_ascii());
            let mut without_cursor = Framer::new(LARGE);
            without_cursor.push(stream, &mut Vec::new());
            assert_eq!(without_cursor.resumption().id(), None);
        }
    }

    #[test]
    fn ids_that_repeat_far_apart_are_noticed_without_a_handover() {
        let mut framer = Framer::with_cursor(LARGE, RING);
        for round in 0..20 {
            framer.push(&events([round, 1_000]), &mut Vec::new());
        }
        framer.push(&events(2_000..2_100), &mut Vec::new());
        assert!(framer.repeats_ids());
    }

    #[test]
    fn a_stream_that_may_be_handed_over_is_small_while_idle() {
        let mut framer = Framer::with_cursor(LARGE, RING);
        framer.push(b"data: x\n\n: ping\n\n", &mut Vec::new());
        assert_eq!(framer.cursor_bytes(), 0);
        framer.push(b"id: 0190a6e2-7c3b-7def-8a51-2f6f0e4c9b1d\ndata: x\n\n", &mut Vec::new());
        assert!(framer.cursor_bytes() <= 412, "{}", framer.cursor_bytes());
        let bytes = size_of::<Framer>() + framer.cursor_bytes();
        assert!(bytes + framer.id.capacity() < 540, "{bytes} and the id");
    }
}
