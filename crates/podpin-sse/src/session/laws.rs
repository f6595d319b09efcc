//! Laws of the session, for any script: a relay that obeys, an upstream, a client and a clock do whatever they like.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Event of a script. One that cannot happen where the script has come to is left out.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Bytes of the upstream that bring this many events to the client, and where they end.
    Read(u32, Position),
    /// Bytes that are held back after a read.
    Held(Held),
    /// End of the upstream's body.
    End(UpstreamEnd),
    Answer(Answer),
    Meeting(Meeting),
    Client(Client),
    Order(LeaveOrder),
    /// Shutdown of the proxy that gives up handovers this many milliseconds later.
    Shutdown(u64),
    /// Milliseconds that pass, each timer being served in time.
    Pass(u64),
    /// Milliseconds that pass in one step, since the machine is busy.
    Stall(u64),
}

const KEEP_ALIVE_MS: u64 = 100;
const IDLE_MS: u64 = 350;
const CLIENT_WRITE_MS: u64 = 200;
const DURATION_MS: u64 = 700;
const HANDOVER_MS: u64 = 150;
const OVERLAP_MS: u32 = 60;
/// Steps that may follow each other without time passing: more would be a relay that spins.
const STEPS_MAX: u32 = 8;

/// Relay that does what the session says and remembers what that was.
struct Relay {
    session: Session,
    now: u64,
    upstream: Upstream,
    last_read: u64,
    last_write: u64,
    position: Position,
    client: Client,
    has_upstream: bool,
    order: Option<LeaveOrder>,
    shutdown_ends: u64,
    /// Beginning of the handover that is under way, or of the time without an upstream.
    moving: Option<u64>,
    held_until: u64,
    /// Last bytes, and when they were written.
    farewell: Option<(Farewell, u64)>,
    close: Option<Close>,
}

impl Relay {
    fn new(content: Content, upstream: Upstream) -> Relay {
        let settings = Settings {
            content,
            keep_alive: Some(Duration::from_millis(KEEP_ALIVE_MS)),
            upstream_idle: Some(Duration::from_millis(IDLE_MS)),
            client_write: Some(Duration::from_millis(CLIENT_WRITE_MS)),
            max_duration: Some(Duration::from_millis(DURATION_MS)),
            tells_retry: true,
            handover: Some(Limits {
                handovers: 3,
                window_ms: 1_000,
                handover_ms: HANDOVER_MS as u32,
                overlap_ms: OVERLAP_MS,
            }),
            recovery: Recovery::Reconnects,
        };
        Relay {
            session: Session::new(&settings, 0.0, Millis(0)),
            now: 0,
            upstream,
            last_read: 0,
            last_write: 0,
            position: Position::of(content == Content::Events),
            client: Client::Ready,
            has_upstream: true,
            order: None,
            shutdown_ends: u64::MAX,
            moving: None,
            held_until: u64::MAX,
            farewell: None,
            close: None,
        }
    }

    fn happens(&mut self, event: Event) {
        let now = Millis(self.now);
        match event {
            Event::Read(events, position) if self.session.reads_upstream() => self.read(events, position),
            Event::Held(held) if self.session.reads_upstream() => {
                self.session.on_held(held, now);
                let wait = match held {
                    Held::Nothing => u64::MAX,
                    Held::Block => 1_000,
                    Held::Undecided => 30,
                };
                let kept = if held == Held::Nothing { u64::MAX } else { self.held_until };
                self.held_until = kept.min(self.now.saturating_add(wait));
            }
            Event::End(end) if self.session.reads_upstream() => {
                let step = self.session.on_upstream_end(end, self.upstream, now);
                self.obey(step);
            }
            Event::Answer(answer) if self.session.is_opening() => {
                let step = self.session.on_answer(answer, self.upstream.resume, now);
                let follows =
                    matches!(answer, Answer::EventStream(_)) && self.upstream.resume == ResumePoint::Known;
                assert_eq!(step.action == Action::Swap, follows);
                self.obey(step);
            }
            Event::Meeting(meeting) if self.session.is_overlapping() => {
                let step = self.session.on_meeting(meeting, now);
                assert_eq!(step.action == Action::Swap, meeting == Meeting::Recognised);
                self.obey(step);
            }
            Event::Client(client) if self.close.is_none() => self.client_is(client),
            Event::Order(order) if self.session.takes_orders() => {
                let at = Millis(self.now + order.at.0);
                let order = LeaveOrder {
                    at,
                    by: Millis(self.now + order.by.0),
                    deadline: Millis(self.now + order.deadline.0),
                    ..order
                };
                self.session.on_order(order);
                self.order = Some(LeaveOrder { by: order.by.max(at), ..order });
            }
            Event::Shutdown(delay) => {
                self.shutdown_ends = self.now + delay;
                self.session.on_shutdown(Millis(self.shutdown_ends));
            }
            Event::Pass(time) => self.pass(time),
            Event::Stall(time) => {
                self.now += time;
                self.serve_timers();
            }
            _ => {}
        }
        self.check();
    }

    fn read(&mut self, events: u32, position: Position) {
        assert!(self.has_upstream && self.farewell.is_none(), "read without an upstream");
        (self.last_read, self.last_write) = (self.now, self.now);
        if self.session.flow.content == Content::Events {
            self.position = position;
        }
        self.session.on_read(Millis(self.now));
        self.session.on_forwarded(events, position, Millis(self.now));
    }

    fn client_is(&mut self, client: Client) {
        self.client = client;
        if let Some(close) = self.session.on_client(client) {
            self.closes(close);
        } else if client == Client::Ready {
            self.last_write = self.now;
            self.session.on_taken(Millis(self.now));
        }
    }

    /// Lets time pass, and serves each timer at its moment.
    fn pass(&mut self, time: u64) {
        let until = self.now + time;
        while let Some(due) = self.session.due().filter(|due| due.0 <= until) {
            self.now = self.now.max(due.0);
            self.serve_timers();
            self.check();
        }
        self.now = until;
    }

    fn serve_timers(&mut self) {
        let mut steps = 0;
        while self.session.due().is_some_and(|due| due.0 <= self.now) {
            let step = self.session.on_time(self.upstream, Millis(self.now));
            // The old upstream falls silent while its successor is opened, or a pause goes on.
            let is_left = step == Step::CONTINUE && self.session.due().is_some_and(|due| due.0 <= self.now);
            assert!(!is_left, "a moment that was due was left: {:?}", self.session);
            self.obey(step);
            steps += 1;
            assert!(steps < STEPS_MAX, "the session spins: {:?}", self.session);
        }
        let step = self.session.on_time(self.upstream, Millis(self.now));
        assert_eq!(step, Step::CONTINUE, "something was due that was not announced");
    }

    fn obey(&mut self, step: Step) {
        let Step { action, report, charges_budget } = step;
        assert!(self.close.is_none(), "{action:?} after the end");
        assert!(
            self.farewell.is_none() || matches!(action, Action::Close(_)),
            "{action:?} after the last bytes"
        );
        assert!(!charges_budget || self.order.is_some(), "a disconnect charged that no order caused");
        let was_moving = self.moving;
        match action {
            Action::Continue => {}
            Action::KeepAlive => {
                assert_eq!((self.position, self.client), (Position::Boundary, Client::Ready));
                self.last_write = self.now;
            }
            Action::Open { target, .. } => {
                let may_be_ordered = self.order.is_some_and(|order| order.cause == LeaveCause::Rebalance);
                assert!(target != Target::Ordered || may_be_ordered);
                self.moving = self.moving.or(Some(self.now));
                assert!(self.session.is_opening());
            }
            Action::Overlap => {
                assert!(self.has_upstream && self.session.is_overlapping() && !self.session.is_opening());
            }
            Action::Swap => {
                (self.has_upstream, self.last_read) = (true, self.now);
                (self.moving, self.order) = (None, None);
                self.held_until = u64::MAX;
                assert!(self.session.has_upstream() && self.session.takes_orders());
            }
            Action::Stay => {
                assert!(self.order.take().is_some() && self.has_upstream);
                self.moving = None;
                assert!(self.session.has_upstream() && self.session.takes_orders());
            }
            Action::PassHeld => {
                assert!(self.has_upstream && self.client == Client::Ready && self.held_until <= self.now);
                self.held_until = u64::MAX;
            }
            Action::Finish(farewell) => self.finish(farewell),
            Action::Close(close) => self.closes(close),
        }
        if let Some(report) = report {
            let never_began = matches!(report.outcome, Outcome::NoId | Outcome::Limit);
            assert!(was_moving.is_some() || never_began, "{report:?} of no handover");
            assert_eq!(report.took_ms, self.now - was_moving.unwrap_or(self.now));
            assert_eq!(self.moving, None, "{report:?} of a handover that goes on");
        }
        // An upstream may be given up, but only a swap brings another one.
        assert!(self.has_upstream || !self.session.has_upstream());
        if self.has_upstream && !self.session.has_upstream() {
            self.moving = self.moving.map(|_| self.now);
            self.held_until = u64::MAX;
        }
        self.has_upstream = self.session.has_upstream();
        assert_eq!(self.moving.is_some(), self.session.is_moving());
        let is_orphan = !self.has_upstream && self.moving.is_some();
        assert!(
            self.session.is_opening() || !is_orphan,
            "nothing is requested for a stream without an upstream"
        );
    }

    fn finish(&mut self, farewell: Farewell) {
        let speaks = matches!(farewell, Farewell::Goodbye | Farewell::BrokenGoodbye);
        assert!(!speaks || self.position == Position::Boundary);
        self.farewell = Some((farewell, self.now));
        (self.client, self.moving, self.last_write) = (Client::Blocked, None, self.now);
    }

    /// Compares the end with what the client got: all of a clean one, all but the end of a broken one, or else a cut.
    fn closes(&mut self, close: Close) {
        assert_eq!(self.close.replace(close), None, "two ends");
        let farewell = self.farewell.map(|(farewell, _)| farewell).filter(|_| self.client == Client::Ready);
        let body = match farewell {
            Some(Farewell::Goodbye | Farewell::Clean) => ResponseBody::Clean,
            Some(Farewell::BrokenGoodbye | Farewell::Broken) => ResponseBody::Broken,
            None => ResponseBody::Cut,
        };
        assert_eq!(close.body, body, "{:?}", self.farewell);
        self.moving = None;
        self.has_upstream = false;
    }

    /// Compares the moment that the session announces with every reason there is.
    fn check(&self) {
        let due = self.session.due().map_or(u64::MAX, |due| due.0);
        if self.close.is_some() {
            return assert_eq!(due, u64::MAX);
        }
        for (reason, at) in self.reasons() {
            assert!(due <= at, "{due} is later than {at}, {reason}: {:?}", self.session);
        }
        assert!(due == u64::MAX || self.reasons().iter().any(|(_, at)| *at == due), "{due} without a reason");
    }

    fn reasons(&self) -> BTreeSet<(&'static str, u64)> {
        let mut reasons = BTreeSet::new();
        if self.client == Client::Blocked {
            reasons.insert(("client write", self.last_write + CLIENT_WRITE_MS));
        }
        if let Some((_, since)) = self.farewell {
            // A goodbye that came late has time of its own.
            let by = self.order.map(|order| order.by.0);
            let is_shutdown = self.session.state_due().0 == since + 300 && self.shutdown_ends <= since;
            let is_late = self.session.state_due().0 == since + 300 && by.is_some_and(|by| by < since + 300);
            match by {
                _ if is_shutdown || is_late => reasons.insert(("late goodbye", since + 300)),
                Some(by) => reasons.insert(("last moment", by)),
                None => false,
            };
            return reasons;
        }
        let is_boundary = self.position == Position::Boundary;
        let is_ready = self.client == Client::Ready;
        if is_ready && is_boundary {
            reasons.insert(("keep-alive", self.last_write + KEEP_ALIVE_MS));
        }
        if is_ready && self.has_upstream {
            reasons.insert(("upstream idle", self.last_read + IDLE_MS));
        }
        if is_ready && self.has_upstream {
            reasons.insert(("held", self.held_until));
        }
        let is_patient =
            self.has_upstream && self.order.is_some_and(|order| order.cause == LeaveCause::Drain);
        if let Some(from) = self.moving {
            reasons.insert(("shutdown", self.shutdown_ends));
            if !is_patient {
                reasons.insert(("handover", from + HANDOVER_MS));
            } else if !self.session.is_opening() {
                reasons.insert(("pause", self.session.state_due().0));
            }
        }
        let order = self.order.filter(|_| self.has_upstream);
        // Nothing is known of the events in an encoded body, so that it ends anywhere.
        let may_end = is_boundary || self.session.flow.content == Content::Encoded;
        reasons.insert(("duration", DURATION_MS + if may_end { 0 } else { 5_000 }));
        match (order, self.moving) {
            (Some(order), Some(_)) => reasons.insert(("deadline", order.deadline.0)),
            (Some(order), None) => reasons.insert(("order", if may_end { order.at.0 } else { order.by.0 })),
            (None, _) => false,
        };
        reasons
    }

    /// Brings the stream to its end, whatever state it is in.
    fn run_out(&mut self) {
        for _ in 0..STEPS_MAX {
            self.serve_timers();
            if self.close.is_some() {
                return;
            }
            let is_opening = self.session.is_opening();
            let event = match (is_opening, self.session.reads_upstream()) {
                (true, _) => Event::Answer(Answer::Failed(Outcome::Connect)),
                (false, true) => Event::End(UpstreamEnd::Broken(Fault::Reset)),
                (false, false) => Event::Client(Client::Ready),
            };
            self.happens(event);
        }
        panic!("the stream does not end: {:?}", self.session);
    }
}

fn position() -> impl Strategy<Value = Position> {
    prop_oneof![3 => Just(Position::Boundary), 1 => Just(Position::WithinEvent)]
}

fn held() -> impl Strategy<Value = Held> {
    prop_oneof![Just(Held::Nothing), Just(Held::Block), Just(Held::Undecided)]
}

fn end() -> impl Strategy<Value = UpstreamEnd> {
    let faults = [Fault::Truncated, Fault::Reset, Fault::Malformed].map(UpstreamEnd::Broken);
    prop_oneof![Just(UpstreamEnd::Clean), proptest::sample::select(faults.to_vec())]
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        4 => Just(Answer::EventStream(Eligibility::Eligible)),
        1 => Just(Answer::EventStream(Eligibility::Ineligible)),
        1 => Just(Answer::NoContent),
        1 => Just(Answer::Failed(Outcome::Connect)),
        1 => Just(Answer::Failed(Outcome::Status4xx)),
    ]
}

/// Order whose moments count from when it is given.
fn order() -> impl Strategy<Value = LeaveOrder> {
    let causes = vec![LeaveCause::Drain, LeaveCause::Withdrawn, LeaveCause::Shutdown, LeaveCause::Rebalance];
    (0..150_u64, 0..300_u64, 0..300_u64, proptest::sample::select(causes), any::<bool>()).prop_map(
        |(at, by, deadline, cause, already_charged)| LeaveOrder {
            at: Millis(at),
            by: Millis(by),
            deadline: Millis(deadline),
            cause,
            already_charged,
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let client = prop_oneof![3 => Just(Client::Ready), 3 => Just(Client::Blocked), 1 => Just(Client::Gone)];
    prop_oneof![
        6 => (0..3_u32, position()).prop_map(|(events, position)| Event::Read(events, position)),
        2 => end().prop_map(Event::End),
        1 => held().prop_map(Event::Held),
        4 => answer().prop_map(Event::Answer),
        2 => Just(Event::Meeting(Meeting::Recognised)),
        1 => Just(Event::Meeting(Meeting::Ended)),
        2 => client.prop_map(Event::Client),
        3 => order().prop_map(Event::Order),
        1 => (0..300_u64).prop_map(Event::Shutdown),
        6 => (0..250_u64).prop_map(Event::Pass),
        1 => (0..1_000_u64).prop_map(Event::Stall),
    ]
}

proptest! {
    /// In any case, the stream ends once, comments and goodbyes stand between events, every moment that is due was
    /// announced and is served, and a stream that was handed over goes on.
    #[test]
    fn a_stream_has_one_end_and_no_moment_is_missed(
        content in prop_oneof![5 => Just(Content::Events), 1 => Just(Content::Encoded)],
        script in proptest::collection::vec((event(), any::<bool>(), 0..8_u8), 1..40),
    ) {
        let upstream = Upstream { standing: Standing::Serving, resume: ResumePoint::Known };
        let mut relay = Relay::new(content, upstream);
        for (event, is_leaving, resume) in script {
            relay.upstream.standing = if is_leaving { Standing::Leaving } else { Standing::Serving };
            relay.upstream.resume = match resume {
                0 => ResumePoint::Unknown,
                1 | 2 => ResumePoint::Overlap,
                _ => ResumePoint::Known,
            };
            relay.happens(event);
        }
        relay.run_out();
        prop_assert!(relay.close.is_some());
    }
}
