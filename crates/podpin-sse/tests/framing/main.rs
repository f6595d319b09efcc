//! Laws of framing: whatever the stream and however it is cut, the client reads what the pod wrote, at once, and
//! never part of an event followed by something else. Checked against `reference.rs`.

mod reference;

use podpin_sse::{Framer, ID_BYTES_MAX, KEEP_ALIVE};
use proptest::prelude::*;
use proptest::sample::select;

use crate::reference::{Event, interpret};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Ends any unfinished line and block.
const END: &[u8] = b"\n\n";

/// Pieces of which event streams consist, and pieces of those.
const FRAGMENTS: &[&[u8]] = &[
    b"data",
    b"data: x",
    b"data:  y",
    b"data:",
    b"datum: x",
    b"id",
    b"id:",
    b"id: 7",
    b"id:8 \xc3\xa9",
    b"id: a\0b",
    b"id: \xff",
    b"event: kind",
    b"retry: 300",
    b"retry:4x",
    b"retry",
    b"unknown: field",
    b":",
    b": comment",
    b" ",
    b"\xef\xbb\xbf",
    b"\xef\xbb",
    b"\0",
];

const LINE_ENDS: &[&[u8]] = &[b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r", b"\r\n\n"];

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![select(FRAGMENTS), select(LINE_ENDS)];
    let opening = prop_oneof![
        3 => Just(b"".as_slice()),
        2 => Just(BYTE_ORDER_MARK),
        1 => Just(b"\xef\xbb\xbf\xef\xbb\xbf".as_slice()),
        1 => Just(b"\xef\xbb".as_slice()),
    ];
    (opening, proptest::collection::vec(piece, 0..40))
        .prop_map(|(opening, pieces)| [opening, &pieces.concat()].concat())
}

/// Sizes of pushes, used round and round; 0 is an empty push.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![1]),
        Just(vec![usize::MAX]),
        proptest::collection::vec(0..12_usize, 1..8).prop_map(|mut cuts| {
            cuts.push(1);
            cuts
        }),
    ]
}

fn limit() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1 << 20), 0..40_usize]
}

fn pushes<'a>(stream: &'a [u8], cuts: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = stream;
    cuts.iter().cycle().map_while(move |cut| {
        let (push, after) = rest.split_at((*cut).min(rest.len()));
        let ended = rest.is_empty();
        rest = after;
        (!ended).then_some(push)
    })
}

fn kinds_and_data(events: Vec<Event>) -> Vec<(String, String)> {
    events.into_iter().map(|event| (event.kind, event.data)).collect()
}

fn starts_with_two_marks(stream: &[u8]) -> bool {
    stream.strip_prefix(BYTE_ORDER_MARK).is_some_and(|rest| rest.starts_with(BYTE_ORDER_MARK))
}

fn without_mark(stream: &[u8]) -> &[u8] {
    if starts_with_two_marks(stream) {
        return stream;
    }
    stream.strip_prefix(BYTE_ORDER_MARK).unwrap_or(stream)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn after_every_push_the_client_has_every_event_so_far_and_the_framer_knows_what_it_has(
        stream in stream(), cuts in cuts(), limit in limit(),
    ) {
        let (mut framer, mut out, mut came, mut events) = (Framer::new(limit), Vec::new(), Vec::new(), 0);
        for push in pushes(&stream, &cuts) {
            let retries_before = interpret(&out).reconnection_times.len();
            came.extend_from_slice(push);
            let pushed = framer.push(push, &mut out);
            events += pushed.events as usize;
            let (client, pod) = (interpret(&out), interpret(&came));

            prop_assert_eq!(&client.events, &pod.events);
            prop_assert_eq!(&client.last_event_id, &pod.last_event_id);
            prop_assert_eq!(events, client.events.len());
            prop_assert_eq!(pushed.retry_seen, client.reconnection_times.len() > retries_before);
            let id = String::from_utf8_lossy(framer.last_event_id().unwrap_or_default());
            prop_assert_eq!(id, client.last_event_id);
            prop_assert!(without_mark(&came).starts_with(&out));
        }
    }

    #[test]
    fn a_stream_that_ends_between_events_is_forwarded_whole(
        stream in stream(), cuts in cuts(), limit in limit(),
    ) {
        let stream = [&stream, END].concat();
        let (mut framer, mut out) = (Framer::new(limit), Vec::new());
        for push in pushes(&stream, &cuts) {
            framer.push(push, &mut out);
        }
        prop_assert_eq!(without_mark(&stream), &out);
        prop_assert_eq!(interpret(&stream), interpret(&out));
        prop_assert_eq!((framer.held_bytes(), framer.at_boundary()), (0, true));
    }

    #[test]
    fn what_is_inserted_at_boundaries_changes_no_event(
        stream in stream(),
        cuts in cuts(),
        limit in limit(),
        insert in proptest::collection::vec(any::<bool>(), 1..8),
        insertion in select(&[KEEP_ALIVE, b": ka\n\n", b":\r\r", b"retry: 5\n\n"][..]),
    ) {
        let stream = [&stream, END].concat();
        let (mut framer, mut out) = (Framer::new(limit), Vec::new());
        let mut inserts = insert.iter().cycle();
        for push in pushes(&stream, &cuts) {
            if *inserts.next().unwrap() && framer.at_boundary() {
                out.extend_from_slice(insertion);
            }
            framer.push(push, &mut out);
        }
        let (client, pod) = (interpret(&out), interpret(&stream));
        prop_assert_eq!(client.events, pod.events);
        prop_assert_eq!(client.last_event_id, pod.last_event_id);
    }

    #[test]
    fn every_position_is_a_boundary_unless_an_event_passes_through(
        stream in stream(), cuts in cuts(), limit in limit(),
    ) {
        let (mut framer, mut out, mut overflowed) = (Framer::new(limit), Vec::new(), false);
        for push in pushes(&stream, &cuts) {
            framer.push(push, &mut out);
            overflowed |= framer.is_pass_through();
            prop_assert_eq!(framer.at_boundary(), !framer.is_pass_through());
            prop_assert_eq!(framer.ever_overflowed(), overflowed);
            // Something was left out of an event only if it is held; nothing is ever held and forwarded.
            let bound = if framer.is_pass_through() { ID_BYTES_MAX + 5 } else { limit.max(5) };
            prop_assert!(framer.held_bytes() <= bound, "{} > {}", framer.held_bytes(), bound);
        }
        prop_assert!(!overflowed || limit < stream.len());
    }

    #[test]
    fn after_a_discard_another_stream_follows_without_a_trace_of_the_held_tail(
        first in stream(), second in stream(), cuts in cuts(),
    ) {
        let second = [&second, END].concat();
        let (mut framer, mut out) = (Framer::new(1 << 20), Vec::new());
        for push in pushes(&first, &cuts) {
            framer.push(push, &mut out);
        }
        framer.discard();
        prop_assert_eq!((framer.held_bytes(), framer.at_boundary()), (0, true));
        for push in pushes(&second, &cuts) {
            framer.push(push, &mut out);
        }
        let expected = [interpret(&first).events, interpret(&second).events].concat();
        prop_assert_eq!(kinds_and_data(interpret(&out).events), kinds_and_data(expected));
    }

    #[test]
    fn arbitrary_bytes_are_framed_like_any_stream(
        stream in proptest::collection::vec(any::<u8>(), 0..300), cuts in cuts(), limit in limit(),
    ) {
        let stream = [&stream, END].concat();
        let (mut framer, mut out) = (Framer::new(limit), Vec::new());
        for push in pushes(&stream, &cuts) {
            framer.push(push, &mut out);
        }
        prop_assert_eq!(without_mark(&stream), out);
    }
}
