//! The law of handover: several pods that serve one log, one client. However often its stream changes pods, wherever
//! they die and however their bytes are cut, the client reads every event once, in order and whole.
//!
//! The premises, as `cursor.rs` has them: an id names one event; every pod has the same events in the same order; a
//! successor begins at or before the event after the id that it was told; and
//!
//! - what it replays has at most 64 ids, or no more than was forwarded since it was told, or comes in one push;
//! - events without an id follow one with an id, and if there are any behind the id that the successor was told, its
//!   replay begins at that id or before, with an event that has one.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

mod moves;
#[path = "../framing/reference.rs"]
mod reference;

use podpin_sse::{Framer, ReplayStart};
use proptest::prelude::*;
use proptest::sample::select;

use crate::reference::{Event, interpret};

/// An event of the log.
#[derive(Clone, Debug)]
struct Entry {
    has_id: bool,
    kind: Option<&'static str>,
    data: Vec<&'static str>,
}

/// How a pod writes the log down.
#[derive(Clone, Debug)]
struct Style {
    line_end: &'static str,
    begins_with: &'static str,
    between: Vec<&'static str>,
    id_comes_last: bool,
}

/// The part of the stream that a single pod serves.
#[derive(Clone, Debug)]
struct Leg {
    style: Style,
    cuts: Vec<usize>,
    /// Events before the one after the told id with which it begins.
    overlap: usize,
    /// Where it dies, in 65536ths of its bytes; what comes of it after the successor was told, of the rest.
    told_at: u16,
    dies_at: u16,
}

fn entry() -> impl Strategy<Value = Entry> {
    let data = proptest::collection::vec(select(&["", "x", " two words", "id: 3", ":", "\u{e9}"][..]), 1..4);
    let kind = select(&[None, None, Some("kind")][..]);
    (data, kind, prop::bool::weighted(0.6)).prop_map(|(mut data, kind, has_id)| {
        // Without any character clients dispatch nothing.
        data.push("end");
        Entry { has_id, kind, data }
    })
}

fn style() -> impl Strategy<Value = Style> {
    let between = select(&["", "", ":", ": ping", "retry: 7\n", ": ping\n", "event: lost\n", "\n"][..]);
    (
        select(&["\n", "\r", "\r\n"][..]),
        select(&["", "\u{feff}", ":\n\n"][..]),
        proptest::collection::vec(between, 1..6),
        any::<bool>(),
    )
        .prop_map(|(line_end, begins_with, between, id_comes_last)| Style {
            line_end,
            begins_with,
            between,
            id_comes_last,
        })
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), Just(vec![usize::MAX]), proptest::collection::vec(1..60_usize, 1..6)]
}

fn leg(overlap_max: usize) -> impl Strategy<Value = Leg> {
    (style(), cuts(), 0..=overlap_max, any::<u16>(), any::<u16>())
        .prop_map(|(style, cuts, overlap, told_at, dies_at)| Leg { style, cuts, overlap, told_at, dies_at })
}

/// An id that says nothing about its place in the log.
fn id_of(place: usize) -> String {
    format!("{:x}", place.wrapping_mul(2_654_435_761) % (1 << 32))
}

/// Returns the bytes that a pod writes if it begins at `from`.
fn written(log: &[Entry], from: usize, style: &Style) -> Vec<u8> {
    let mut text = style.begins_with.to_owned();
    for (place, entry) in log.iter().enumerate().skip(from) {
        let between = style.between[place % style.between.len()];
        if !between.is_empty() {
            text += &format!("{between}\n");
        }
        let id = if entry.has_id { format!("id: {}\n", id_of(place)) } else { String::new() };
        let kind = entry.kind.map(|kind| format!("event: {kind}\n")).unwrap_or_default();
        let data: String = entry.data.iter().map(|line| format!("data: {line}\n")).collect();
        text += &if style.id_comes_last { data + &kind + &id } else { id + &kind + &data };
        text += "\n";
    }
    text.replace('\n', style.line_end).into_bytes()
}

/// Returns the events that the client has to read, where the ids of `log` are in effect.
fn expected(log: &[Entry]) -> Vec<Event> {
    let mut last_event_id = String::new();
    let event = |(place, entry): (usize, &Entry)| {
        if entry.has_id {
            last_event_id = id_of(place);
        }
        Event {
            kind: entry.kind.unwrap_or("message").to_owned(),
            data: entry.data.join("\n"),
            last_event_id: last_event_id.clone(),
        }
    };
    log.iter().enumerate().map(event).collect()
}

fn share(bytes: &[u8], part: u16) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.len() * usize::from(part) / 65_536)
}

fn push(framer: &mut Framer, bytes: &[u8], cuts: &[usize], out: &mut Vec<u8>) -> u32 {
    let (mut rest, mut dropped) = (bytes, 0);
    for cut in cuts.iter().cycle() {
        let (push, after) = rest.split_at((*cut).min(rest.len()));
        dropped += framer.push(push, out).dropped;
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    dropped
}

/// The place of the event that a successor begins with.
fn resume(log: &[Entry], told: Option<&[u8]>, overlap: usize) -> usize {
    let place = |id: &[u8]| (0..log.len()).find(|place| log[*place].has_id && id_of(*place).as_bytes() == id);
    let Some(last) = told.and_then(place) else { return 0 };
    let mut from = (last + 1).saturating_sub(overlap);
    // Events without an id behind the last one with an id: the replay has to begin with one that has.
    let followed = log.get(last + 1).is_some_and(|entry| !entry.has_id);
    if followed && overlap == 0 {
        from = last;
    }
    while from <= last && !log[from].has_id && from > 0 {
        from -= 1;
    }
    from
}

/// Hands one client's stream from leg to leg. Returns what it reads and checks what was dropped.
fn hand_over(log: &[Entry], legs: &[Leg]) -> Vec<Event> {
    let (mut framer, mut out) = (Framer::with_cursor(1 << 20, 64), Vec::new());
    let (mut from, mut dropped, mut came) = (0, 0, 0);
    for (index, leg) in legs.iter().enumerate() {
        let bytes = written(log, from, &leg.style);
        let Some(next) = legs.get(index + 1) else {
            dropped += push(&mut framer, &bytes, &leg.cuts, &mut out);
            dropped += framer.pass_on(&mut out).dropped;
            came += interpret(&bytes).events.len();
            break;
        };
        let (before, after) = share(&bytes, leg.told_at);
        let (after, _) = share(after, leg.dies_at);
        dropped += push(&mut framer, before, &leg.cuts, &mut out);
        // No id, no handover: another client begins with the next pod.
        if framer.resumption().id().is_none() {
            return hand_over(log, &legs[index + 1..]);
        }
        from = resume(log, framer.mark_resume_point().id(), next.overlap);
        dropped += push(&mut framer, after, &leg.cuts, &mut out);
        came += interpret(&[before, after].concat()).events.len();
        framer.adopt(ReplayStart::Unnamed);
    }
    let events = interpret(&out).events;
    assert!(dropped as usize <= came - events.len());
    events
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn a_stream_that_changes_pods_is_read_as_if_there_were_one(
        mut log in proptest::collection::vec(entry(), 1..40),
        legs in proptest::collection::vec(leg(40), 2..5),
    ) {
        log[0].has_id = true;
        prop_assert_eq!(hand_over(&log, &legs), expected(&log));
    }

    #[test]
    fn a_replay_within_the_ring_is_dropped_however_long_the_stream_is(
        mut log in proptest::collection::vec(entry(), 150..250),
        mut legs in proptest::collection::vec(leg(64), 2..5),
    ) {
        for entry in &mut log {
            entry.has_id = true;
        }
        // Break before make: nothing comes between telling and adopting.
        for leg in &mut legs {
            leg.dies_at = 0;
        }
        prop_assert_eq!(hand_over(&log, &legs), expected(&log));
    }

    #[test]
    fn an_exact_resume_is_dropped_however_much_came_since_the_successor_was_told(
        mut log in proptest::collection::vec(entry(), 150..250),
        legs in proptest::collection::vec(leg(0), 2..5),
    ) {
        for entry in &mut log {
            entry.has_id = true;
        }
        prop_assert_eq!(hand_over(&log, &legs), expected(&log));
    }

    #[test]
    fn a_replay_in_one_push_is_dropped_however_far_it_reaches_back(
        mut log in proptest::collection::vec(entry(), 150..250),
        mut first in leg(0),
        mut second in leg(250),
    ) {
        log[0].has_id = true;
        (first.told_at, second.cuts) = (first.told_at.max(1_000), vec![usize::MAX]);
        prop_assert_eq!(hand_over(&log, &[first, second]), expected(&log));
    }
}
