//! The law of moves: endpoints that lag behind one log, streams that are young, silent or old, successors that begin where
//! they like. The client reads each event once, in order and whole, or the successor has said that it left a gap.
//!
//! Premises: a successor replays at once what it replays, and the event that it was told is part of that if it begins
//! before it; an endpoint that has not come as far as that event waits for it; the lag is less than what is remembered. One that
//! subscribes before it reads the log may send new events first; then its replay does not reach back to the oldest event that
//! is remembered. Of ids that repeat on purpose one has to repeat before the first move, and successors resume exactly.

use podpin_sse::{Framer, ReplayStart};
use proptest::prelude::*;

use crate::reference::interpret;
use crate::{cuts, id_of, push};

/// Ids remembered.
const RING: u16 = 16;
const LAG_MAX: usize = 8;

/// The beginning of a successor's body.
#[derive(Clone, Copy, Debug)]
enum Begin {
    /// After the event that it was told.
    Exact,
    /// This many events too early.
    Early(usize),
    /// With the first event of the log.
    History,
    /// With the next event, and it says after which one.
    Live,
    /// With so many new events, and so many that the client has behind them.
    NewFirst(usize, usize),
}

/// Change of the endpoint, and what happens before.
#[derive(Clone, Debug)]
struct Move {
    begin: Begin,
    /// Events that the successor lags behind.
    lag: usize,
    cuts: Vec<usize>,
    /// Events after an earlier request that was refused or answered too late, if there was one.
    refused: Option<usize>,
    /// Whether the stream was to stay after that.
    stays: bool,
    /// Events of the log before the successor is requested, and until it has answered.
    before: usize,
    meanwhile: usize,
    /// Whether the old endpoint dies when the successor is requested.
    is_crash: bool,
    /// Whether it dies within an event.
    is_torn: bool,
    /// Events that come before the next move.
    after: usize,
}

fn begin() -> impl Strategy<Value = Begin> {
    prop_oneof![
        Just(Begin::Exact),
        (1..6_usize).prop_map(Begin::Early),
        Just(Begin::History),
        Just(Begin::Live),
        (1..4_usize, 1..6_usize).prop_map(|(new, known)| Begin::NewFirst(new, known)),
    ]
}

fn change() -> impl Strategy<Value = Move> {
    let events = || prop_oneof![2 => Just(0_usize), 3 => 1..6_usize, 1 => 20..60_usize];
    let refused = (proptest::option::of(events()), any::<bool>());
    (begin(), 0..LAG_MAX, cuts(), events(), events(), any::<bool>(), any::<bool>(), events(), refused)
        .prop_map(|(begin, lag, cuts, before, meanwhile, is_crash, is_torn, after, (refused, stays))| Move {
            begin,
            lag,
            cuts,
            refused,
            stays,
            before,
            meanwhile,
            is_crash,
            is_torn,
            after,
        })
}

/// A client, the endpoint that its stream is at, and the log.
struct Scene {
    framer: Framer,
    out: Vec<u8>,
    cuts: Vec<usize>,
    /// Events in the log.
    log: usize,
    /// Events that the endpoint lags behind.
    lag: usize,
    /// Next event of the endpoint.
    next: usize,
    /// First event that the client has not had when it came.
    begins: usize,
    /// First event that the client has; `None` if it has none.
    first: Option<usize>,
    /// Whether a successor said that it left a gap.
    has_gap: bool,
}

impl Scene {
    /// Sends what the endpoint has of the log.
    fn flow(&mut self) {
        let bytes: Vec<u8> = (self.next..self.visible()).flat_map(event).collect();
        // What a seeded client had before it came is dropped.
        let first = self.next.max(self.begins);
        if first < self.visible() {
            self.first.get_or_insert(first);
        }
        self.next = self.next.max(self.visible());
        push(&mut self.framer, &bytes, &self.cuts, &mut self.out);
    }

    fn visible(&self) -> usize {
        self.log.saturating_sub(self.lag)
    }

    /// Returns the place in the log of the event that a successor is told; `None` if it is told nothing.
    fn told(&mut self) -> Option<usize> {
        let id = self.framer.mark_resume_point().id()?.to_vec();
        (0..self.log).find(|place| id_of(*place).as_bytes() == id)
    }

    /// Goes on at a successor that sends new events before it replays known ones.
    fn begin_with_new(&mut self, change: &Move) {
        let Begin::NewFirst(new, known) = change.begin else { unreachable!("as the caller found") };
        let Some(last) = self.told() else { unreachable!("it was told an event") };
        let known = known.min(last.saturating_sub(self.first.unwrap_or(last)));
        (self.lag, self.log) = (0, self.log.max(last + 1 + new));
        self.framer.adopt(ReplayStart::Unnamed);
        let sent = (last + 1..=last + new).chain(last + 1 - known..=last);
        let bytes: Vec<u8> = sent.flat_map(event).collect();
        push(&mut self.framer, &bytes, &self.cuts, &mut self.out);
        self.framer.pass_on(&mut self.out);
        self.next = last + new + 1;
        self.log += change.after;
        self.flow();
    }

    fn change(&mut self, change: &Move) {
        self.log += change.before;
        self.flow();
        if let Some(events) = change.refused {
            self.told();
            self.log += events;
            self.flow();
            if change.stays {
                self.framer.stay();
            }
        }
        let mut told = self.told();
        self.log += change.meanwhile;
        if !change.is_crash {
            self.flow();
            // An id that came meanwhile: the successor is requested once more.
            told = told.or_else(|| self.told());
        }
        if change.is_torn {
            let whole = event(self.next);
            self.framer.push(&whole[..whole.len() / 2], &mut self.out);
        }
        (self.lag, self.cuts) = (change.lag, change.cuts.clone());
        let visible = self.visible();
        let (from, named) = match (change.begin, told) {
            (Begin::Live, Some(_)) => (visible, visible.checked_sub(1)),
            (_, None) => (visible, None),
            (_, Some(last)) if visible <= last => (last + 1, None),
            (Begin::Exact, Some(last)) => (last + 1, None),
            (Begin::Early(count), Some(last)) => ((last + 1).saturating_sub(count), None),
            (Begin::History, Some(_)) => (0, None),
            (Begin::NewFirst(..), Some(_)) => return self.begin_with_new(change),
        };
        let known = self.framer.known_ids();
        let is_known = named.is_some_and(|place| known.contains(id_of(place).as_bytes()));
        self.has_gap |= matches!(change.begin, Begin::Live) && told.is_some() && !is_known;
        self.framer.adopt(if is_known { ReplayStart::Known } else { ReplayStart::Unnamed });
        self.next = from;
        self.flow();
        self.framer.pass_on(&mut self.out);
        self.log += change.after;
        self.flow();
    }
}

fn event(place: usize) -> Vec<u8> {
    format!("id: {}\ndata: {place}\n\n", id_of(place)).into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_stream_that_moves_is_read_once_in_order_and_whole_or_the_gap_was_said(
        history in 1..80_usize,
        is_seeded in any::<bool>(),
        moves in proptest::collection::vec(change(), 1..6),
    ) {
        let mut framer = Framer::with_cursor(1 << 20, RING);
        if is_seeded {
            framer.seed(id_of(history - 1).as_bytes());
        }
        let mut scene = Scene {
            framer,
            out: Vec::new(),
            cuts: vec![7],
            log: history,
            lag: 0,
            next: history,
            begins: if is_seeded { history } else { 0 },
            first: None,
            has_gap: false,
        };
        for change in &moves {
            scene.change(change);
        }
        scene.lag = 0;
        scene.flow();
        scene.framer.pass_on(&mut scene.out);
        let events = interpret(&scene.out).events;
        let places: Vec<usize> = events.iter().map(|event| event.data.parse().unwrap()).collect();
        for (event, place) in events.iter().zip(&places) {
            prop_assert_eq!(&event.last_event_id, &id_of(*place), "torn");
        }
        if scene.has_gap {
            return Ok(());
        }
        let Some(first) = places.first() else { return Ok(()) };
        prop_assert!(!is_seeded || *first == history, "the first is {}, after {}", first, history);
        let expected: Vec<usize> = (*first..scene.log).collect();
        prop_assert_eq!(places, expected);
    }

    #[test]
    fn of_ids_that_repeat_on_purpose_every_event_is_read_once_if_successors_resume_exactly(
        names in 1..4_usize,
        before in 0..100_usize,
        moves in proptest::collection::vec((0..30_usize, 0..30_usize, cuts(), any::<bool>()), 1..6),
    ) {
        let event = |place: usize| format!("id: {}\ndata: {place}\n\n", id_of(place % names)).into_bytes();
        let (mut framer, mut out) = (Framer::with_cursor(1 << 20, RING), Vec::new());
        let mut place = 0;
        let mut flow = |framer: &mut Framer, out: &mut Vec<u8>, count: usize, cuts: &[usize]| {
            let bytes: Vec<u8> = (place..place + count).flat_map(event).collect();
            push(framer, &bytes, cuts, out);
            place += count;
        };
        flow(&mut framer, &mut out, names + 1 + before, &[7]);
        for (meanwhile, after, cuts, stays) in &moves {
            framer.mark_resume_point();
            flow(&mut framer, &mut out, *meanwhile, cuts);
            if *stays {
                framer.stay();
                framer.mark_resume_point();
            }
            framer.adopt(ReplayStart::Unnamed);
            flow(&mut framer, &mut out, *after, cuts);
            framer.pass_on(&mut out);
        }
        let places: Vec<usize> =
            interpret(&out).events.iter().map(|event| event.data.parse().unwrap()).collect();
        prop_assert_eq!(places, (0..place).collect::<Vec<_>>());
    }
}
