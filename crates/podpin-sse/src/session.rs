//! When does one event stream end, and when does it change its upstream? A state machine without sockets and clocks: the
//! relay reports what happened (`on_*`), does what the [`Step`] says, and returns with [`Session::on_time`] at
//! [`Session::due`].
//!
//! Each state is named by what it waits for:
//!
//! ```text
//!             order          its moment              answer: Swap
//! Streaming ---------> Leaving ---------> Opening -----------------> Streaming
//!     |                 |   |              |  ^ |
//!     |                 |   |      refused v  | | the upstream ends
//!     | the upstream    |   |           Pausing |
//!     | ends            v   |              |    v    answer: Swap
//!     +------> AwaitingSuccessor <---------+----+------------------> Streaming
//!     |                     |              |
//!     | sse.maxDuration     | goodbye      | the order's deadline, shutdown
//!     |                     v              v                   the client took all
//!     +----------------------------------> Finishing ------------------------------> Closed
//!
//! any ------- the client is gone, or blocked for timeouts.clientWrite -------------> Closed
//!
//! Streaming   the upstream's next bytes         AwaitingSuccessor   a successor; no upstream flows
//! Leaving     the moment of an order to leave   Finishing           the client, to take the last bytes
//! Opening     a successor; the old one flows    Closed              nothing
//! Pausing     to ask again; the old one flows
//! Overlapping an event that comes from both; the old one flows
//! ```
//!
//! A stream whose events cannot be resumed by an id goes from *Opening* to *Overlapping*, where both upstreams are read
//! ([`Overlap`](crate::Overlap)), and from there to *Streaming*: at the successor, once an event of both is recognised or the
//! old one ends; where it was, if that does not happen in time.
//!
//! From *Opening* or *Leaving* a rebalanced stream returns to *Streaming* when its handover is not possible (`Stay`). Apart
//! from that the client is *ready* or *blocked* in each state; while blocked the upstream is not read, so the silence of
//! neither side means anything, and only `timeouts.clientWrite` runs.
//!
//! While *Opening* or *Pausing* the old upstream's events still flow (make before break); while *AwaitingSuccessor* none do.
//! No client is disconnected whose old upstream flows: a successor that cannot be had is requested again with growing pauses,
//! until the order's deadline; one that answers 4xx is not, since that is the application's answer. A clean end is no
//! different from a death, since an endpoint that stops ends its streams before discovery says so: the stream goes on
//! at the same endpoint, or another; after two such ends without an event between them it is over. A death is handed
//! over, or passed on as a death, so that no client takes half a stream for a whole one. A planned departure is handed
//! over, or ends with a goodbye: `retry:` and a clean end. So does each handover that fails after it began: the client
//! reconnects by itself, and sends its last event id.
//!
//! Within an event that passes through, a goodbye waits for the boundary until the order's last moment; then the end
//! comes without a `retry:`. Choosing successors, trying a next one, and the bytes (see
//! [`Framer::mark_resume_point`](crate::Framer::mark_resume_point) and [`Framer::adopt`](crate::Framer::adopt)) are left to
//! the relay.

mod action;
mod flow;
mod handovers;
mod input;
mod jitter;
mod settings;
mod state;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;

use std::time::Duration;

use podpin_time::Millis;

pub use self::action::{Action, Close, Farewell, HandoverCause, Reason, Report, ResponseBody, Step, Target};
pub use self::input::{
    Answer, Client, Eligibility, Fault, Held, LeaveCause, LeaveOrder, Meeting, Outcome, Position,
    ResumePoint, Standing, Upstream, UpstreamEnd,
};
pub use self::settings::{Content, Limits, Recovery, Settings};

use self::flow::{BOUNDARY_WAIT, Flow, NEVER, Return};
use self::handovers::Handovers;
use self::jitter::Jitter;
use self::state::{Attempt, State};

/// Time that a client has at least for a goodbye that comes late: instead of a handover, or at the proxy's own end.
const LATE_GOODBYE: Duration = Duration::from_millis(300);
/// Longest time that the beginning of an event is held back. Endpoints write an event at once, or in pieces that follow
/// each other within milliseconds; one that leaves events open for longer has clients that read them line by line.
const BLOCK_WAIT: Duration = Duration::from_secs(1);
/// Longest time that a successor's events are held back for the decision whether they are history: several packets of a
/// replay, and no delay that is noticed. If it is too short, clients see history from before their stream after a handover.
const DECISION_WAIT: Duration = Duration::from_millis(30);

/// State machine of one event stream. At most 144 bytes, without heap.
///
/// ```
/// use std::time::Duration;
///
/// use podpin_sse::session::*;
/// use podpin_time::Millis;
///
/// let settings = Settings {
///     keep_alive: Some(Duration::from_secs(15)),
///     handover: Some(Limits::default()),
///     ..Settings::default()
/// };
/// let mut session = Session::new(&settings, 0.5, Millis(0));
///
/// // The upstream sends an event, then nothing: a comment is due 15 seconds later.
/// session.on_read(Millis(1_000));
/// session.on_forwarded(1, Position::Boundary, Millis(1_000));
/// assert_eq!(session.due(), Some(Millis(16_000)));
/// let upstream = Upstream { standing: Standing::Leaving, resume: ResumePoint::Known };
/// assert_eq!(session.on_time(upstream, Millis(16_000)).action, Action::KeepAlive);
///
/// // The endpoint drains, and this stream is to leave at 20 s: a successor is opened while the old upstream flows.
/// session.on_order(LeaveOrder {
///     at: Millis(20_000),
///     by: Millis(25_000),
///     deadline: Millis(50_000),
///     cause: LeaveCause::Drain,
///     already_charged: false,
/// });
/// assert_eq!(session.due(), Some(Millis(20_000)));
/// let step = session.on_time(upstream, Millis(20_000));
/// assert_eq!(step.action, Action::Open { target: Target::Chosen });
/// assert!(session.has_upstream());
///
/// // The successor answers with an event stream, and the client notices nothing.
/// let answer = Answer::EventStream(Eligibility::Eligible);
/// let step = session.on_answer(answer, ResumePoint::Known, Millis(20_040));
/// assert_eq!(step.action, Action::Swap);
/// assert_eq!(step.report.map(|report| report.took_ms), Some(40));
///
/// // The new upstream dies and no other takes the stream: a goodbye, and the end once the client took it.
/// let reset = UpstreamEnd::Broken(Fault::Reset);
/// let step = session.on_upstream_end(reset, upstream, Millis(21_000));
/// assert_eq!(step.action, Action::Open { target: Target::Chosen });
/// let step = session.on_answer(Answer::Failed(Outcome::Connect), ResumePoint::Known, Millis(21_500));
/// assert_eq!(step.action, Action::Finish(Farewell::Goodbye));
/// let close = session.on_client(Client::Ready).unwrap();
/// assert_eq!((close.reason, close.body), (Reason::UpstreamReset, ResponseBody::Clean));
/// ```
#[derive(Debug)]
pub struct Session {
    state: State,
    flow: Flow,
    handovers: Handovers,
    /// Moment from which the proxy's own shutdown gives up handovers that are under way.
    shutdown_ends: Millis,
    /// Moment at which the bytes that are held back pass.
    held_until: Millis,
    tells_retry: bool,
    /// Source of the jitter of pauses.
    jitter: Jitter,
}

impl Session {
    /// Returns the session of a stream that begins at `now`. `draw`, from 0 to 1, decides the jitter of `max_duration`.
    pub fn new(settings: &Settings, draw: f64, now: Millis) -> Self {
        Self {
            state: State::Streaming,
            flow: Flow::new(settings, draw, now),
            handovers: Handovers::new(settings.handover.filter(|_| settings.content == Content::Events)),
            shutdown_ends: NEVER,
            held_until: NEVER,
            tells_retry: settings.tells_retry,
            jitter: Jitter::new(draw),
        }
    }

    /// Records that bytes of the upstream arrived.
    #[inline]
    pub fn on_read(&mut self, now: Millis) {
        self.flow.last_read = now;
    }

    /// Records that bytes with this many whole events were written or queued for the client, and where they end.
    #[inline]
    pub fn on_forwarded(&mut self, events: u32, position: Position, now: Millis) {
        self.flow.last_write = now;
        if self.flow.content == Content::Events {
            self.flow.position = position;
        }
        if events > 0 {
            self.handovers.note_event();
        }
    }

    /// Records which bytes the framer keeps back after a read. They pass if that lasts too long.
    #[inline]
    pub fn on_held(&mut self, held: Held, now: Millis) {
        let wait = match held {
            Held::Nothing => {
                self.held_until = NEVER;
                return;
            }
            Held::Block => BLOCK_WAIT,
            Held::Undecided => DECISION_WAIT,
        };
        self.held_until = self.held_until.min(now.after(wait));
    }

    /// Whether the client can go on after an early end. If not, the relay reports the first event id that it forwards.
    #[inline]
    pub fn is_resumable(&self) -> bool {
        self.flow.return_of_client != Return::Impossible
    }

    /// Records that an event id was forwarded, by which the client can request the rest of the stream.
    pub fn on_event_id(&mut self) {
        if !self.is_resumable() {
            self.flow.return_of_client = Return::ByEventId;
        }
    }

    /// Records that the client took bytes that were queued.
    #[inline]
    pub fn on_taken(&mut self, now: Millis) {
        self.flow.last_write = now;
    }

    /// Records the client's side after a write. Returns the end of the stream if that is it: the client is gone, or took
    /// everything of a stream that was finishing. `None` if the stream goes on.
    #[inline]
    pub fn on_client(&mut self, client: Client) -> Option<Close> {
        match (client, &self.state) {
            (_, State::Closed) => return None,
            (Client::Gone, _) | (Client::Ready, State::Finishing { .. }) => {
                return Some(self.client_is_done(client));
            }
            (Client::Ready | Client::Blocked, _) => {}
        }
        self.flow.client = client;
        None
    }

    /// Adds an order to leave. Ignored if there is one already (see [`Session::takes_orders`]).
    pub fn on_order(&mut self, order: LeaveOrder) {
        let by = order.by.min(order.at.after(BOUNDARY_WAIT)).max(order.at);
        self.state.add_order(LeaveOrder { by, ..order });
    }

    /// Limits handovers by the proxy's own shutdown: one under way at `ends` is given up for a goodbye.
    pub fn on_shutdown(&mut self, ends: Millis) {
        self.shutdown_ends = ends;
    }

    /// Reacts to the end of the upstream's body.
    pub fn on_upstream_end(&mut self, end: UpstreamEnd, upstream: Upstream, now: Millis) -> Step {
        if !self.has_upstream() {
            return Step::CONTINUE;
        }
        self.held_until = NEVER;
        if !self.handovers.is_eligible() {
            return self.pass_on(end, now);
        }
        let otherwise_ends_with = Some(Reason::unless_moved(end, upstream.standing));
        if let State::Overlapping { attempt, eligibility, .. } = self.state
            && upstream.resume == ResumePoint::Overlap
        {
            // What the client had of the old upstream is known, and the successor flows.
            return self.swap(
                Attempt { otherwise_ends_with, fault: end.fault(), ..attempt },
                eligibility,
                now,
            );
        }
        let Some(target) = self.target_after(end, upstream) else { return self.pass_on(end, now) };
        let order = self.state.order();
        let (attempt, begun) = match self.state.attempt() {
            Some(attempt) if upstream.resume == ResumePoint::Known => (attempt, Ok(())),
            Some(attempt) => (attempt, Err(Outcome::NoId)),
            None => {
                let attempt = Attempt::new(HandoverCause::of(end), otherwise_ends_with, now);
                (attempt, self.handovers.begin(upstream.resume.after_end(), now))
            }
        };
        let attempt = Attempt { otherwise_ends_with, fault: end.fault(), ..attempt };
        if let Err(outcome) = begun {
            let step = match end {
                UpstreamEnd::Broken(fault) if fault != Fault::Silent => self.break_off(fault, now),
                _ => self.late_goodbye(Reason::unless_moved(end, upstream.standing), now),
            };
            return Step { report: attempt.report(outcome, now), ..step };
        }
        // A request that is under way goes on; it has as long as one that begins now.
        let action = if self.state.is_opening() { Action::Continue } else { Action::Open { target } };
        self.state = State::AwaitingSuccessor { attempt: Attempt { from: now, ..attempt }, order };
        Step::of(action)
    }

    /// Returns the endpoint at which a stream goes on whose upstream ended; `None` if the stream is over.
    fn target_after(&mut self, end: UpstreamEnd, upstream: Upstream) -> Option<Target> {
        match (end, self.state.order()) {
            (UpstreamEnd::Clean, _) if upstream.standing == Standing::Serving => {
                // The end of an endpoint's answer, as far as anything can be known of it.
                let may_follow = upstream.resume == ResumePoint::Known;
                if may_follow { self.handovers.after_clean_end() } else { None }
            }
            (UpstreamEnd::Broken(Fault::Silent), _) => Some(Target::Another),
            (_, Some(order)) => Some(Target::of(order.cause)),
            (_, None) => Some(Target::Chosen),
        }
    }

    /// Reacts to the answer of the successor that was to be opened.
    ///
    /// Without a point to resume from any more (the old upstream reset the id meanwhile, or sends an event too large to
    /// be held), the successor cannot be used.
    pub fn on_answer(&mut self, answer: Answer, resume: ResumePoint, now: Millis) -> Step {
        let Some(attempt) = self.state.attempt().filter(|_| self.is_opening()) else { return Step::CONTINUE };
        match answer {
            Answer::EventStream(_) if resume == ResumePoint::Unknown => {
                self.give_up(attempt, Outcome::NoId, now)
            }
            Answer::EventStream(eligibility) if resume == ResumePoint::Overlap => {
                self.overlap(attempt, eligibility, now)
            }
            Answer::EventStream(eligibility) => self.swap(attempt, eligibility, now),
            Answer::NoContent if attempt.otherwise_ends_with.is_some() => {
                let report = attempt.report(Outcome::Refused, now);
                Step { report, ..self.end(Reason::UpstreamEnd, now) }
            }
            Answer::Failed(_) if self.state.forget_target() => {
                Step::of(Action::Open { target: Target::Chosen })
            }
            Answer::NoContent => self.give_up(attempt, Outcome::Refused, now),
            Answer::Failed(outcome) => self.fail(attempt, outcome, now),
        }
    }

    /// Reacts to what came about between the old upstream and the successor that is read beside it.
    pub fn on_meeting(&mut self, meeting: Meeting, now: Millis) -> Step {
        match (self.state, meeting) {
            (State::Overlapping { attempt, eligibility, .. }, Meeting::Recognised) => {
                self.swap(attempt, eligibility, now)
            }
            (State::Overlapping { attempt, .. }, Meeting::Ended) => self.fail(attempt, Outcome::Connect, now),
            _ => Step::CONTINUE,
        }
    }

    fn swap(&mut self, attempt: Attempt, eligibility: Eligibility, now: Millis) -> Step {
        self.state = State::Streaming;
        self.handovers.set_eligibility(eligibility);
        self.flow.last_read = now;
        self.held_until = NEVER;
        Step { report: attempt.report(Outcome::Ok, now), ..Step::of(Action::Swap) }
    }

    /// Reads the successor beside the old upstream, if that flows and the stream has to leave it.
    fn overlap(&mut self, attempt: Attempt, eligibility: Eligibility, now: Millis) -> Step {
        match self.state {
            State::Opening { order, .. } if attempt.otherwise_ends_with.is_some() => {
                let order = LeaveOrder { at: self.handovers.overlap_ends(now), ..order };
                self.state = State::Overlapping { attempt, order, eligibility };
                Step::of(Action::Overlap)
            }
            _ => self.give_up(attempt, Outcome::NoId, now),
        }
    }

    /// Pauses if the old upstream flows and has to be left; else the handover has failed.
    fn fail(&mut self, attempt: Attempt, outcome: Outcome, now: Millis) -> Step {
        match self.state {
            State::Overlapping { order, .. } => self.pause(Attempt { last: outcome, ..attempt }, order, now),
            State::Opening { order, .. } if attempt.otherwise_ends_with.is_some() => {
                self.pause(Attempt { last: outcome, ..attempt }, order, now)
            }
            // The application says that the rest of what ended cleanly is not there.
            _ if outcome == Outcome::Status4xx
                && attempt.otherwise_ends_with == Some(Reason::UpstreamEnd) =>
            {
                let report = attempt.report(outcome, now);
                Step { report, ..self.end(Reason::UpstreamEnd, now) }
            }
            _ => self.give_up(attempt, outcome, now),
        }
    }

    fn pause(&mut self, attempt: Attempt, order: LeaveOrder, now: Millis) -> Step {
        let at = now.after(self.jitter.pause(attempt.failed));
        let attempt = Attempt { failed: attempt.failed.saturating_add(1), ..attempt };
        self.state = State::Pausing { attempt, order: LeaveOrder { at, ..order } };
        Step::CONTINUE
    }

    /// Requests a successor once more, at the end of a pause or of the order. After the application's own refusal there
    /// is only to be seen whether the drain was taken back.
    fn retry(&mut self, attempt: Attempt, order: LeaveOrder, upstream: Upstream, now: Millis) -> Step {
        if order.cause == LeaveCause::Drain && upstream.standing == Standing::Serving {
            return self.stay();
        }
        if order.deadline <= now {
            return self.give_up(attempt, attempt.last, now);
        }
        if upstream.resume == ResumePoint::Unknown {
            return self.give_up(attempt, Outcome::NoId, now);
        }
        if attempt.last == Outcome::Status4xx {
            return self.pause(attempt, order, now);
        }
        self.state = State::Opening { attempt, order };
        Step::of(Action::Open { target: Target::of(order.cause) })
    }

    /// Reacts to the passing of time: does the first thing that is due. To be called again while [`Session::due`] has
    /// passed, after the client's side was written to and reported.
    pub fn on_time(&mut self, upstream: Upstream, now: Millis) -> Step {
        if self.flow.client_due() <= now {
            return Step::of(Action::Close(self.close(Reason::SlowClient, ResponseBody::Cut)));
        }
        match self.state {
            State::Finishing { ending, cut_at } if cut_at <= now => {
                let close = Close { is_forced: true, ..self.close(ending.reason, ResponseBody::Cut) };
                Step::of(Action::Close(close))
            }
            State::Finishing { .. } | State::Closed => Step::CONTINUE,
            State::Opening { .. }
            | State::Pausing { .. }
            | State::Overlapping { .. }
            | State::AwaitingSuccessor { .. }
                if self.shutdown_ends <= now =>
            {
                let step = self.goodbye(Reason::Shutdown, now);
                self.state.set_cut_at(now.after(LATE_GOODBYE));
                step
            }
            State::Pausing { attempt, order } if self.state_due() <= now => {
                self.retry(attempt, order, upstream, now)
            }
            State::Opening { attempt, order } if order.deadline <= now => {
                self.retry(attempt, order, upstream, now)
            }
            State::Overlapping { attempt, order, .. } if self.state_due() <= now => {
                match (order.cause, upstream.standing) {
                    (LeaveCause::Drain, Standing::Serving) => self.stay(),
                    _ => self.decline(attempt, order, Outcome::NoOverlap, now),
                }
            }
            State::Opening { attempt, .. } | State::AwaitingSuccessor { attempt, .. }
                if self.state_due() <= now =>
            {
                self.give_up(attempt, Outcome::Timeout, now)
            }
            State::Leaving(order) if self.state_due() <= now => self.leave(order, upstream, now),
            _ if self.duration_due() <= now && !self.is_resumable() => {
                self.break_off_early(Reason::MaxDuration, now)
            }
            _ if self.duration_due() <= now => self.end(Reason::MaxDuration, now),
            _ if self.idle_due() <= now => {
                self.on_upstream_end(UpstreamEnd::Broken(Fault::Silent), upstream, now)
            }
            _ if self.held_due() <= now => {
                self.held_until = NEVER;
                Step::of(Action::PassHeld)
            }
            _ if self.flow.keep_alive_due() <= now => {
                self.flow.last_write = now;
                Step::of(Action::KeepAlive)
            }
            _ => Step::CONTINUE,
        }
    }

    /// Returns the earliest moment at which [`Session::on_time`] has something to do; `None` if only events count.
    #[inline]
    pub fn due(&self) -> Option<Millis> {
        let silence = self.idle_due().min(self.flow.keep_alive_due());
        let due = self.state_due().min(self.flow.client_due()).min(self.duration_due());
        let due = due.min(silence).min(self.held_due());
        (due != NEVER).then_some(due)
    }

    /// Whether a comment may be written now: between events, to a client that takes it, while the stream goes on.
    pub fn takes_comments(&self) -> bool {
        self.flow.takes_comments() && !matches!(self.state, State::Finishing { .. } | State::Closed)
    }

    /// Whether the stream would leave its endpoint by a handover now.
    #[inline]
    pub fn may_move(&self, resume: ResumePoint) -> bool {
        self.handovers.is_eligible() && resume != ResumePoint::Unknown
    }

    /// Whether the relay reads its upstream: it has one, and the client takes what comes.
    #[inline]
    pub fn reads_upstream(&self) -> bool {
        self.flow.client == Client::Ready && self.has_upstream()
    }

    /// Whether the relay keeps its upstream connection. If not, it closes the one it has.
    #[inline]
    pub fn has_upstream(&self) -> bool {
        self.state.has_upstream()
    }

    /// Whether a successor is being opened.
    #[inline]
    pub fn is_opening(&self) -> bool {
        self.state.is_opening()
    }

    /// Whether a successor is being opened, or read beside the old upstream. If not, the relay drops the one it has.
    #[inline]
    pub fn wants_successor(&self) -> bool {
        self.is_opening() || self.is_overlapping()
    }

    /// Whether a successor is read beside the old upstream.
    #[inline]
    pub fn is_overlapping(&self) -> bool {
        matches!(self.state, State::Overlapping { .. })
    }

    /// Whether a handover is under way, between two requests as well.
    #[inline]
    pub fn is_moving(&self) -> bool {
        self.state.attempt().is_some()
    }

    /// Whether [`Session::on_order`] would be heeded: there is no order yet.
    #[inline]
    pub fn takes_orders(&self) -> bool {
        self.state.takes_orders()
    }

    /// Returns whether [`Farewell::Goodbye`] and [`Farewell::BrokenGoodbye`] say `retry:`.
    pub fn tells_retry(&self) -> bool {
        self.tells_retry
    }

    // What is due, each reason once, for `due` and `on_time` alike.

    #[inline]
    fn state_due(&self) -> Millis {
        match &self.state {
            State::Streaming | State::Closed => NEVER,
            State::Leaving(order) => match (self.flow.content, self.flow.position) {
                (Content::Encoded, _) | (Content::Events, Position::Boundary) => order.at,
                (Content::Events, Position::WithinEvent) => order.by,
            },
            State::Opening { attempt, order } if attempt.otherwise_ends_with.is_some() => {
                order.deadline.min(self.shutdown_ends)
            }
            State::Opening { attempt, order } => self.gives_up(attempt).min(order.deadline),
            State::Pausing { order, .. } | State::Overlapping { order, .. } => {
                order.at.min(order.deadline).min(self.shutdown_ends)
            }
            State::AwaitingSuccessor { attempt, .. } => self.gives_up(attempt),
            State::Finishing { cut_at, .. } => *cut_at,
        }
    }

    fn gives_up(&self, attempt: &Attempt) -> Millis {
        self.handovers.give_up_at(attempt.from).min(self.shutdown_ends)
    }

    #[inline]
    fn duration_due(&self) -> Millis {
        if self.state.is_ending() { NEVER } else { self.flow.duration_due() }
    }

    #[inline]
    fn held_due(&self) -> Millis {
        if self.reads_upstream() { self.held_until } else { NEVER }
    }

    #[inline]
    fn idle_due(&self) -> Millis {
        if self.has_upstream() { self.flow.idle_due() } else { NEVER }
    }

    // Departure.

    /// Leaves: for another endpoint if that can be done, else with a goodbye.
    fn leave(&mut self, order: LeaveOrder, upstream: Upstream, now: Millis) -> Step {
        let is_movable = self.handovers.is_eligible();
        match order.cause {
            LeaveCause::Withdrawn | LeaveCause::Shutdown => self.leave_for_good(order, now),
            // The drain was taken back after the order was given.
            LeaveCause::Drain if upstream.standing == Standing::Serving => self.stay(),
            LeaveCause::Drain if !is_movable => self.leave_for_good(order, now),
            // Rebalancing moves what moves unseen for certain.
            LeaveCause::Rebalance if !is_movable || upstream.resume == ResumePoint::Overlap => self.stay(),
            LeaveCause::Drain | LeaveCause::Rebalance => self.make_before_break(order, upstream.resume, now),
        }
    }

    fn make_before_break(&mut self, order: LeaveOrder, resume: ResumePoint, now: Millis) -> Step {
        let otherwise_ends_with = (order.cause == LeaveCause::Drain).then_some(Reason::Drain);
        let attempt = Attempt::new(HandoverCause::Planned, otherwise_ends_with, now);
        match self.handovers.begin(resume, now) {
            Ok(()) => {
                self.state = State::Opening { attempt, order };
                Step::of(Action::Open { target: Target::of(order.cause) })
            }
            // A rebalancing that cannot begin is none, and not reported.
            Err(_) if otherwise_ends_with.is_none() => self.stay(),
            Err(outcome) => self.decline(attempt, order, outcome, now),
        }
    }

    /// Gives up a handover that is not possible. A disconnect that the budget does not know of waits: the stream gets another
    /// moment, as one that cannot move.
    fn decline(&mut self, attempt: Attempt, order: LeaveOrder, outcome: Outcome, now: Millis) -> Step {
        if order.already_charged || order.deadline <= now {
            return self.give_up(attempt, outcome, now);
        }
        self.handovers.set_eligibility(Eligibility::Ineligible);
        Step { report: attempt.report(outcome, now), ..self.stay() }
    }

    fn leave_for_good(&mut self, order: LeaveOrder, now: Millis) -> Step {
        Step { charges_budget: !order.already_charged, ..self.goodbye(Reason::of(order.cause), now) }
    }

    fn stay(&mut self) -> Step {
        self.state = State::Streaming;
        Step::of(Action::Stay)
    }

    /// Ends a handover that found no successor.
    fn give_up(&mut self, attempt: Attempt, outcome: Outcome, now: Millis) -> Step {
        let step = match attempt.otherwise_ends_with {
            Some(reason) => self.late_goodbye(reason, now),
            None => self.stay(),
        };
        Step { report: attempt.report(outcome, now), ..step }
    }

    // Ends.

    /// Passes the end of the upstream on to the client.
    fn pass_on(&mut self, end: UpstreamEnd, now: Millis) -> Step {
        match end {
            UpstreamEnd::Clean => self.end(Reason::UpstreamEnd, now),
            UpstreamEnd::Broken(Fault::Silent) => self.goodbye(Reason::Idle, now),
            UpstreamEnd::Broken(fault) => self.break_off(fault, now),
        }
    }

    /// Says goodbye instead of a handover: the time that the order gave was spent on the attempt, and unless the order
    /// was charged no disconnect was expected.
    fn late_goodbye(&mut self, reason: Reason, now: Millis) -> Step {
        let order = self.state.order();
        let step = self.goodbye(reason, now);
        let Some(order) = order else { return step };
        self.state.set_cut_at(order.by.max(now.after(LATE_GOODBYE)));
        Step { charges_budget: !order.already_charged, ..step }
    }

    /// Says goodbye where that is possible, and ends the body.
    fn goodbye(&mut self, reason: Reason, now: Millis) -> Step {
        let is_within = self.flow.position == Position::WithinEvent;
        // A client that asks by itself throws half an event away; another one would take it for the end of the answer.
        let is_half = is_within && self.flow.return_of_client == Return::ByEventId;
        if !self.is_resumable() || is_half {
            return self.break_off_early(reason, now);
        }
        let is_torn = is_within && self.flow.content == Content::Events;
        let is_forced = is_torn && matches!(reason, Reason::Drain | Reason::Shutdown);
        let farewell = if is_within { Farewell::Clean } else { Farewell::Goodbye };
        self.finish(Close { is_forced, ..Close::clean(reason) }, farewell, now)
    }

    /// Ends the body and adds nothing.
    fn end(&mut self, reason: Reason, now: Millis) -> Step {
        self.finish(Close::clean(reason), Farewell::Clean, now)
    }

    /// Leaves the body without its end although nothing broke: a clean end would pass for that of the whole answer.
    fn break_off_early(&mut self, reason: Reason, now: Millis) -> Step {
        let is_forced = matches!(reason, Reason::Drain | Reason::Shutdown);
        let ending = Close { body: ResponseBody::Broken, is_forced, ..Close::clean(reason) };
        self.finish(ending, Farewell::Broken, now)
    }

    /// Leaves the body without its end, after the last whole event; a client that comes back by itself is told when.
    fn break_off(&mut self, fault: Fault, now: Millis) -> Step {
        let comes_back =
            self.flow.return_of_client == Return::Unasked && self.flow.position == Position::Boundary;
        let farewell = if comes_back { Farewell::BrokenGoodbye } else { Farewell::Broken };
        self.finish(Close::broken(fault), farewell, now)
    }

    fn finish(&mut self, ending: Close, farewell: Farewell, now: Millis) -> Step {
        self.state.finish(ending);
        // The client has its time for the end as for anything else.
        self.flow.client = Client::Blocked;
        self.flow.last_write = now;
        Step::of(Action::Finish(farewell))
    }

    #[cold]
    fn client_is_done(&mut self, client: Client) -> Close {
        match (client, self.state) {
            (Client::Ready, State::Finishing { ending, .. }) => self.close(ending.reason, ending.body),
            _ => self.close(Reason::ClientGone, ResponseBody::Cut),
        }
    }

    /// Closes; an end that was decided keeps its fault.
    fn close(&mut self, reason: Reason, body: ResponseBody) -> Close {
        let fault = self.state.fault();
        let is_forced = matches!(self.state, State::Finishing { ending, .. } if ending.is_forced);
        self.state = State::Closed;
        self.flow.client = Client::Gone;
        Close { reason, body, fault, is_forced }
    }
}
