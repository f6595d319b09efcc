//! The replay at the beginning of a successor's stream: blocks that the client has already are dropped here.
//!
//! Which blocks, is decided by the cursor; see there for the rules. Here stands what it needs to know: the bytes at
//! hand are looked through for the last known id before anything is decided, because a replay may reach back farther
//! than the cursor remembers. That look ahead ends with the push, so the caller does well to push all that one read
//! brought at once while [`Framer::awaits_replay`] holds.
//!
//! Comments and blocks that say nothing but `retry` are no part of the stream's history and always pass.

use std::mem;

use super::pass_through::PassThrough;
use super::{Block, Framer, Tail, after_block, before};
use crate::cursor::{Ahead, Cursor, Verdict};
use crate::frame::Pushed;

impl Framer {
    /// The id from which a successor can resume for the client: the last one, if it is known, not empty and not too
    /// long, on a stream with a cursor that never passed an event through.
    pub fn resume_id(&self) -> Option<&[u8]> {
        self.last_event_id().filter(|id| self.has_cursor && !id.is_empty())
    }

    /// [`Framer::resume_id`], to be told to a successor as `Last-Event-ID` (WHATWG HTML, section 9.2.4).
    ///
    /// From here on it is counted what the old pod still sends: the successor will replay that, even if it is more than
    /// the cursor remembers.
    pub fn mark_resume_point(&mut self) -> Option<&[u8]> {
        if let Some(cursor) = &mut self.cursor {
            cursor.told();
        }
        self.resume_id()
    }

    /// Drops what is held of the old pod; the next bytes pushed are the beginning of the successor's body, and what
    /// they replay is dropped. Without a cursor, or in pass-through, the same as [`Framer::discard`].
    pub fn adopt(&mut self) {
        self.discard();
        if let Some(cursor) = &mut self.cursor {
            cursor.arm();
        }
    }

    /// Whether the next bytes may be a replay. Ends with the first event that is new.
    pub fn awaits_replay(&self) -> bool {
        self.cursor.as_ref().is_some_and(|cursor| cursor.is_armed())
    }

    /// Whether the pod was seen to use one id for several events, so that nothing of a replay can be dropped.
    pub fn repeats_ids(&self) -> bool {
        self.cursor.as_ref().is_some_and(|cursor| cursor.repeats_ids())
    }

    /// Bytes that the cursor holds on the heap.
    pub fn cursor_bytes(&self) -> usize {
        self.cursor.as_ref().map_or(0, |cursor| size_of_val::<Cursor>(cursor))
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
        let after_known = self.after_last_known(bytes).map_or(usize::MAX, <[u8]>::len);
        let mut rest = bytes;
        while let Some((block, after)) = Block::split(rest) {
            let ahead = if after.len() >= after_known { Ahead::Known } else { Ahead::Nothing };
            let Some(cursor) = &mut self.cursor else { break };
            match cursor.judge(block.id, block.has_data, ahead) {
                Verdict::Drop => pushed.dropped += u32::from(block.has_data),
                Verdict::Forward => {
                    // A greeting of the successor is no event behind the last id.
                    let followers = cursor.followers();
                    self.take_blocks(before(rest, after), out, pushed);
                    if let Some(cursor) = &mut self.cursor {
                        cursor.set_followers(followers);
                    }
                }
                Verdict::Resumed => return self.take_blocks(rest, out, pushed),
            }
            rest = after;
        }
        self.hold(rest, out, pushed);
    }

    /// Returns the bytes after the last block of `bytes` whose id is known.
    fn after_last_known<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let cursor = self.cursor.as_ref()?;
        let (mut known, mut rest) = (None, bytes);
        while let Some((block, after)) = Block::split(rest) {
            rest = after;
            if cursor.knows(block.id) {
                known = Some(after);
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
    use crate::cursor::RING_IDS;

    const LARGE: usize = 1 << 20;

    fn events(ids: impl IntoIterator<Item = usize>) -> Vec<u8> {
        ids.into_iter().flat_map(|id| format!("id: {id}\ndata: {id}\n\n").into_bytes()).collect()
    }

    /// A client that got `first`, whose stream was adopted by a successor.
    fn adopted(first: &[u8]) -> Framer {
        let mut framer = Framer::with_cursor(LARGE);
        framer.push(first, &mut Vec::new());
        framer.mark_resume_point();
        framer.adopt();
        framer
    }

    /// Returns the bytes of `pushes` that reach the client, and the number of events that do not.
    fn replayed(framer: &mut Framer, pushes: &[&[u8]]) -> (String, u32) {
        let (mut out, mut dropped) = (Vec::new(), 0);
        for push in pushes {
            dropped += framer.push(push, &mut out).dropped;
        }
        (out.escape_ascii().to_string(), dropped)
    }

    const TWO: &[u8] = b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n";
    const THREE: &[u8] = b"id: 3\ndata: c\n\n";

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
        let three_and_two = [THREE, TWO].concat();
        check(&[
            ("an exact resume", TWO, &[THREE], THREE, 0),
            ("one too many", TWO, &[b"id: 2\ndata: b\n\nid: 3\ndata: c\n\n"], THREE, 1),
            ("cut within", TWO, &[b"id: 2\nda", b"ta: b\n", b"\nid: 3\ndata: c\n\n"], THREE, 1),
            ("all again", TWO, &[TWO, THREE], THREE, 2),
            ("from before the first", TWO, &[b"id: 0\ndata\n\nid: 2\ndata: b\n\n"], b"", 2),
            ("a new one ends it", TWO, &[THREE, TWO], &three_and_two, 0),
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
            ("a greeting, then a replay", TWO, &[b"data: hi\n\nid: 2\ndata: b\n\n"], b"", 2),
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
        let replay = events(500 - RING_IDS..501);
        let pushes: Vec<_> = replay.chunks(7).collect();
        let dropped = u32::try_from(RING_IDS).unwrap();
        assert_eq!(replayed(&mut framer, &pushes), (events([500]).escape_ascii().to_string(), dropped));
        assert!(!framer.awaits_replay());
    }

    #[test]
    fn a_replay_of_more_than_is_remembered_is_dropped_if_it_comes_in_one_push() {
        let mut framer = adopted(&events(0..500));
        let expected = (events([500]).escape_ascii().to_string(), 500);
        assert_eq!(replayed(&mut framer, &[&events(0..501)]), expected);
    }

    #[test]
    fn what_the_old_pod_sends_after_the_successor_was_told_is_dropped_however_much_it_is() {
        let mut framer = Framer::with_cursor(LARGE);
        framer.push(&events(0..10), &mut Vec::new());
        assert_eq!(framer.mark_resume_point(), Some(b"9".as_slice()));
        framer.push(&events(10..300), &mut Vec::new());
        framer.adopt();
        let replay = events(10..301);
        let pushes: Vec<_> = replay.chunks(5).collect();
        assert_eq!(replayed(&mut framer, &pushes), (events([300]).escape_ascii().to_string(), 290));
    }

    #[test]
    fn a_replay_goes_on_being_dropped_while_the_next_successor_is_opened() {
        let mut framer = Framer::with_cursor(LARGE);
        framer.push(&events([0]), &mut Vec::new());
        framer.mark_resume_point();
        framer.push(&events(1..100), &mut Vec::new());
        framer.adopt();
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
        assert_eq!((dropped as usize, framer.repeats_ids()), (RING_IDS, true));
    }

    #[test]
    fn a_replayed_event_too_large_to_be_held_is_dropped_as_it_comes() {
        let mut framer = Framer::with_cursor(20);
        framer.push(b"id: 1\ndata: 0123456789abcdef\n\n", &mut Vec::new());
        framer.adopt();
        let pushes: [&[u8]; 4] = [b"id: 1\ndata: 0123", b"456789", b"abcdef\n\r", b"\nid: 2\ndata\n\n"];
        let expected = ("\\nid: 2\\ndata\\n\\n".to_owned(), 1);
        assert_eq!(replayed(&mut framer, &pushes[..3]), (String::new(), 1));
        assert!(framer.at_boundary() && !framer.ever_overflowed());
        assert_eq!(replayed(&mut framer, &pushes[3..]), (expected.0, 0));
    }

    #[test]
    fn a_swallowed_event_is_forgotten_when_its_pod_dies_in_turn() {
        let mut framer = Framer::with_cursor(20);
        framer.push(b"id: 1\ndata: 0123456789abcdef\n\n", &mut Vec::new());
        framer.adopt();
        assert_eq!(replayed(&mut framer, &[b"id: 1\ndata: 0123456789abc"]), (String::new(), 0));
        assert_eq!(framer.resume_id(), Some(b"1".as_slice()));
        framer.adopt();
        assert_eq!(replayed(&mut framer, &[b"id: 2\ndata\n\n"]), ("id: 2\\ndata\\n\\n".into(), 0));
    }

    #[test]
    fn a_new_event_too_large_to_be_held_ends_all_handovers() {
        let mut framer = Framer::with_cursor(20);
        framer.push(b"id: 1\ndata\n\n", &mut Vec::new());
        framer.adopt();
        let push = b"id: 2\ndata: 0123456789abcdef";
        assert_eq!(replayed(&mut framer, &[push]), (push.escape_ascii().to_string(), 0));
        framer.push(b"\n\nid: 3\ndata\n\n", &mut Vec::new());
        assert!(framer.ever_overflowed() && !framer.awaits_replay());
        assert_eq!((framer.resume_id(), framer.cursor_bytes()), (None, 0));
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
            let mut framer = Framer::with_cursor(LARGE);
            framer.push(stream, &mut Vec::new());
            assert_eq!(framer.resume_id(), *id, "{}", stream.escape_ascii());
            let mut without_cursor = Framer::new(LARGE);
            without_cursor.push(stream, &mut Vec::new());
            assert_eq!(without_cursor.resume_id(), None);
        }
    }

    #[test]
    fn ids_that_repeat_far_apart_are_noticed_without_a_handover() {
        let mut framer = Framer::with_cursor(LARGE);
        for round in 0..20 {
            framer.push(&events([round, 1_000]), &mut Vec::new());
        }
        framer.push(&events(2_000..2_100), &mut Vec::new());
        assert!(framer.repeats_ids());
    }

    #[test]
    fn a_stream_that_may_be_handed_over_is_small_while_idle() {
        let mut framer = Framer::with_cursor(LARGE);
        framer.push(b"data: x\n\n: ping\n\n", &mut Vec::new());
        assert_eq!(framer.cursor_bytes(), 0);
        framer.push(b"id: 0190a6e2-7c3b-7def-8a51-2f6f0e4c9b1d\ndata: x\n\n", &mut Vec::new());
        assert!(framer.cursor_bytes() <= 412, "{}", framer.cursor_bytes());
        let bytes = size_of::<Framer>() + framer.cursor_bytes();
        assert!(bytes + framer.id.capacity() < 540, "{bytes} and the id");
    }
}
