//! When does one stream change pods? A state machine without sockets and clocks: the proxy reports what happened and
//! does what the answer says.
//!
//! ```text
//!             on_drain                          EventStream: Swap
//! streaming ------------> opening ------------------------------------> streaming
//!     |                      | the old pod ends                             ^
//!     | the pod dies, or     v                  EventStream: Swap           |
//!     +-----------------> broken -------------------------------------------+
//!     |  a leaving one       |
//!     |  ends                | refused, NoContent, deadline
//!     |  not possible        v
//!     +-----------------> finishing      (from opening, too)
//! ```
//!
//! While *opening* the old pod's events still flow (make before break); while *broken* none do. A death is handed over
//! or passed on as a death, so that nobody takes half a stream for a whole one. A departure that was planned is handed
//! over or ends politely, with a `retry:` and a clean end, and so does whatever failed after the client was already
//! promised a successor: the client reconnects by itself, and says where it was.
//!
//! A stream may be handed over only so often within a time, so that two failing pods can not play it to and fro, and
//! each time has one deadline over all successors that are tried. Every handover has exactly one outcome, also one that
//! could not begin. One during which the client leaves, or a ready pod ends the stream of its own will, has none:
//! nothing was left to be handed over.
//!
//! Choosing successors, trying a next one, and the bytes (see [`Framer::tell`](crate::Framer::tell) and
//! [`Framer::adopt`](crate::Framer::adopt)) are left to the proxy.

use std::time::Duration;

use podpin_time::Millis;

/// Whether a stream may be handed over at all. Decided once, when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eligibility {
    /// A GET on a route with `drain.handover: lastEventId`, and the application did not say no.
    Eligible,
    /// Anything else. Its end is still decided here, without an outcome to count.
    Ineligible,
}

/// How often and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Handovers that may begin within `window_ms`. Zero: none.
    pub handovers: u16,
    /// Milliseconds that `handovers` are counted for, from the first of them on.
    pub window_ms: u32,
    /// Milliseconds from the beginning of a handover until it is given up, over all successors that are tried.
    pub handover_ms: u32,
}

impl Default for Limits {
    /// Five in a minute: a rolling update moves a stream once or twice, three times when it meets pods that are next.
    /// Ten seconds for each: three successors with two seconds to connect and some to answer; a client that waits
    /// longer had better choose anew. If they are too small, `limit` and `timeout` are counted while pods are well.
    fn default() -> Self {
        Self { handovers: 5, window_ms: 60_000, handover_ms: 10_000 }
    }
}

/// How a pod's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As HTTP wants it: last chunk, END_STREAM, or a close where the close is the end.
    Clean,
    /// Cut off.
    Reset,
    /// Nothing came for longer than `timeouts.upstreamIdle`. As good as dead; the client is told politely, though, for
    /// it is not missing the end of anything that is known to have begun.
    Silent,
}

/// What the pod whose body ended is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pod {
    /// It takes new clients: its clean end is its own will and is passed on.
    Ready,
    /// It is draining or gone: its clean end is that of the process, not of the stream.
    Leaving,
}

/// What came of opening a successor, all tries together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200 with `text/event-stream`.
    EventStream,
    /// 204: the stream is over, clients shall not reconnect (WHATWG HTML, section 9.2.3).
    NoContent,
    /// Any other response.
    Refused,
    /// No response, or no pod to ask.
    Failed,
}

/// Why a handover began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The pod leaves.
    Planned,
    /// The pod died.
    Crash,
}

/// How a handover ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client is served by another pod and did not notice.
    Ok,
    /// No successor took the stream.
    Refused,
    /// None did in time.
    Timeout,
    /// There is no id to resume from: none came, it was reset or is too long, or an event was too large to be held.
    NoId,
    /// The stream was handed over too often.
    Limit,
}

/// What is to be counted of one handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Why it began.
    pub cause: Cause,
    /// How it ended.
    pub outcome: Outcome,
    /// Milliseconds that it took. Zero for one that could not begin.
    pub took_ms: u64,
}

/// What the proxy has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Go on.
    Nothing,
    /// Open a successor and tell it the last event id; report its answer with [`Handover::on_answer`].
    Open {
        /// For logs and for the request to the successor.
        cause: Cause,
        /// When [`Handover::on_time`] will give up.
        deadline: Millis,
    },
    /// Close the old connection, if it is still there, and go on with the successor's.
    Swap,
    /// End the client's stream politely at the next event boundary: `retry:` and a clean end. Close all upstreams.
    Goodbye,
    /// End the client's stream cleanly and add nothing. Close all upstreams.
    EndClean,
    /// End the client's stream as a death, after the last whole event and without a clean end.
    EndBroken,
}

/// The answer to anything that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// To be done now.
    pub action: Action,
    /// To be counted now.
    pub report: Option<Report>,
}

impl Step {
    const NOTHING: Self = Self { action: Action::Nothing, report: None };
}

/// The handovers of one stream. At most 48 bytes.
#[derive(Debug)]
pub struct Handover {
    state: State,
    limits: Limits,
    window_from: Millis,
    begun_in_window: u16,
    eligibility: Eligibility,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// One pod, whose events flow.
    Streaming,
    /// The successor is being opened; the old pod's events flow.
    Opening(Attempt),
    /// The successor is being opened; the old pod is gone.
    Broken(Attempt),
    /// The stream ends, or has ended.
    Finishing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attempt {
    cause: Cause,
    from: Millis,
    need: Need,
}

/// What becomes of the stream when a successor does not take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// It has to leave its pod all the same.
    Must,
    /// It stays where it is.
    May,
}

impl Handover {
    /// A stream that begins.
    pub fn new(eligibility: Eligibility, limits: Limits) -> Self {
        Self { state: State::Streaming, limits, window_from: Millis(0), begun_in_window: 0, eligibility }
    }

    /// The pod leaves, and it is this stream's turn. `resume_id` is that of the framer, here and below.
    pub fn on_drain(&mut self, resume_id: Option<&[u8]>, now: Millis) -> Step {
        if self.state != State::Streaming {
            return Step::NOTHING;
        }
        let attempt = Attempt { cause: Cause::Planned, from: now, need: Need::Must };
        self.begin(attempt, State::Opening(attempt), Action::Goodbye, resume_id)
    }

    /// Another pod would suit the stream better, but it need not leave: whatever stands in the way of a handover leaves it
    /// where it is.
    pub fn on_rebalance(&mut self, resume_id: Option<&[u8]>, now: Millis) -> Step {
        if self.state != State::Streaming || self.eligibility == Eligibility::Ineligible {
            return Step::NOTHING;
        }
        let attempt = Attempt { cause: Cause::Planned, from: now, need: Need::May };
        let is_possible = resume_id.is_some_and(|id| !id.is_empty()) && self.take_turn(now);
        if !is_possible {
            return Step::NOTHING;
        }
        self.state = State::Opening(attempt);
        Step {
            action: Action::Open { cause: attempt.cause, deadline: later(now, self.limits.handover_ms) },
            report: None,
        }
    }

    /// The body of the pod that is streaming ended.
    pub fn on_upstream_end(&mut self, end: End, pod: Pod, resume_id: Option<&[u8]>, now: Millis) -> Step {
        let (cause, otherwise) = match end {
            End::Clean => (Cause::Planned, Action::Goodbye),
            End::Reset => (Cause::Crash, Action::EndBroken),
            End::Silent => (Cause::Crash, Action::Goodbye),
        };
        match self.state {
            State::Streaming | State::Opening(_) if end == End::Clean && !self.is_departure(pod) => {
                self.finish(Action::EndClean)
            }
            State::Streaming => {
                let attempt = Attempt { cause, from: now, need: Need::Must };
                self.begin(attempt, State::Broken(attempt), otherwise, resume_id)
            }
            State::Opening(attempt) if resume_id.is_none() => {
                self.conclude(Attempt { need: Need::Must, ..attempt }, Outcome::NoId, otherwise, now)
            }
            State::Opening(attempt) => {
                self.state = State::Broken(Attempt { need: Need::Must, ..attempt });
                Step::NOTHING
            }
            State::Broken(_) | State::Finishing => Step::NOTHING,
        }
    }

    /// The successor answered, or none could be asked.
    ///
    /// Without a `resume_id` any more (the old pod reset it meanwhile, or sends an event too large to be held), the
    /// successor can not be used.
    pub fn on_answer(&mut self, answer: Answer, resume_id: Option<&[u8]>, now: Millis) -> Step {
        let (State::Opening(attempt) | State::Broken(attempt)) = self.state else { return Step::NOTHING };
        match answer {
            Answer::EventStream if resume_id.is_none() => {
                self.conclude(attempt, Outcome::NoId, Action::Goodbye, now)
            }
            Answer::EventStream => {
                let step = self.conclude(attempt, Outcome::Ok, Action::Swap, now);
                self.state = State::Streaming;
                step
            }
            Answer::NoContent => self.conclude(attempt, Outcome::Refused, Action::EndClean, now),
            Answer::Refused | Answer::Failed => {
                self.conclude(attempt, Outcome::Refused, Action::Goodbye, now)
            }
        }
    }

    /// Time passed; at [`Handover::due`] at the latest.
    pub fn on_time(&mut self, now: Millis) -> Step {
        match (self.state, self.due()) {
            (State::Opening(attempt) | State::Broken(attempt), Some(due)) if due <= now => {
                self.conclude(attempt, Outcome::Timeout, Action::Goodbye, now)
            }
            _ => Step::NOTHING,
        }
    }

    /// The stream ends for another reason, such as its longest duration. Nothing is asked for from here on.
    pub fn on_finish(&mut self) {
        self.state = State::Finishing;
    }

    /// When [`Handover::on_time`] has something to do.
    pub fn due(&self) -> Option<Millis> {
        match self.state {
            State::Opening(attempt) | State::Broken(attempt) => {
                Some(later(attempt.from, self.limits.handover_ms))
            }
            State::Streaming | State::Finishing => None,
        }
    }

    /// Whether events of the pod that was streaming are still to be read.
    pub fn flows(&self) -> bool {
        matches!(self.state, State::Streaming | State::Opening(_))
    }

    /// Whether a clean end is the pod's leaving, and not the end of what the client asked for. A stream that may not be
    /// handed over is not tampered with.
    fn is_departure(&self, pod: Pod) -> bool {
        pod == Pod::Leaving && self.eligibility == Eligibility::Eligible
    }

    /// Begins a handover, or does `otherwise` if that is not possible.
    fn begin(&mut self, attempt: Attempt, state: State, otherwise: Action, resume_id: Option<&[u8]>) -> Step {
        if self.eligibility == Eligibility::Ineligible {
            return self.finish(otherwise);
        }
        if resume_id.is_none_or(<[u8]>::is_empty) {
            return self.conclude(attempt, Outcome::NoId, otherwise, attempt.from);
        }
        if !self.take_turn(attempt.from) {
            return self.conclude(attempt, Outcome::Limit, otherwise, attempt.from);
        }
        self.state = state;
        let deadline = later(attempt.from, self.limits.handover_ms);
        Step { action: Action::Open { cause: attempt.cause, deadline }, report: None }
    }

    /// Counts a handover, if it is within the limit.
    fn take_turn(&mut self, now: Millis) -> bool {
        if self.begun_in_window == 0 || later(self.window_from, self.limits.window_ms) <= now {
            self.window_from = now;
            self.begun_in_window = 0;
        }
        let within = self.begun_in_window < self.limits.handovers;
        self.begun_in_window += u16::from(within);
        within
    }

    fn conclude(&mut self, attempt: Attempt, outcome: Outcome, action: Action, now: Millis) -> Step {
        let took_ms = now.0.saturating_sub(attempt.from.0);
        let report = Some(Report { cause: attempt.cause, outcome, took_ms });
        if attempt.need == Need::May && action != Action::Swap {
            self.state = State::Streaming;
            return Step { action: Action::Nothing, report };
        }
        Step { report, ..self.finish(action) }
    }

    fn finish(&mut self, action: Action) -> Step {
        self.state = State::Finishing;
        Step { action, report: None }
    }
}

fn later(from: Millis, milliseconds: u32) -> Millis {
    from.after(Duration::from_millis(u64::from(milliseconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Option<&[u8]> = Some(b"7");
    const LIMITS: Limits = Limits { handovers: 2, window_ms: 1_000, handover_ms: 100 };

    /// What can happen to a stream, in the order of the table's columns.
    #[derive(Clone, Copy, Debug)]
    enum Input {
        Drain,
        End(End, Pod),
        Answer(Answer),
        Time,
    }

    use Input::{Answer as A, Drain, End as E, Time};

    fn eligible() -> Handover {
        Handover::new(Eligibility::Eligible, LIMITS)
    }

    fn feed(handover: &mut Handover, input: Input, id: Option<&[u8]>, now: u64) -> Step {
        match input {
            Drain => handover.on_drain(id, Millis(now)),
            E(end, pod) => handover.on_upstream_end(end, pod, id, Millis(now)),
            A(answer) => handover.on_answer(answer, id, Millis(now)),
            Time => handover.on_time(Millis(now)),
        }
    }

    fn open(cause: Cause, deadline: u64) -> Step {
        Step { action: Action::Open { cause, deadline: Millis(deadline) }, report: None }
    }

    fn only(action: Action) -> Step {
        Step { action, report: None }
    }

    fn done(action: Action, cause: Cause, outcome: Outcome, took_ms: u64) -> Step {
        Step { action, report: Some(Report { cause, outcome, took_ms }) }
    }

    const DEAD: Input = E(End::Reset, Pod::Ready);
    const MADE: Input = A(Answer::EventStream);
    const PLANNED: Cause = Cause::Planned;
    const CRASH: Cause = Cause::Crash;

    /// Inputs with their times, and the step that each gives; then whether the old pod's events flow.
    fn check(name: &str, inputs: &[(Input, u64, Step)], flows: bool) {
        let mut handover = eligible();
        for (input, now, expected) in inputs {
            assert_eq!(feed(&mut handover, *input, ID, *now), *expected, "{name}: {input:?}");
        }
        assert_eq!(handover.flows(), flows, "{name}");
    }

    fn swap(cause: Cause, took_ms: u64) -> Step {
        done(Action::Swap, cause, Outcome::Ok, took_ms)
    }

    #[test]
    fn a_pod_that_leaves_is_replaced_before_it_is_let_go() {
        let begun = (Drain, 5, open(PLANNED, 105));
        let late = (Time, 105, done(Action::Goodbye, PLANNED, Outcome::Timeout, 100));
        let refused = (A(Answer::Refused), 6, done(Action::Goodbye, PLANNED, Outcome::Refused, 1));
        let over = (E(End::Clean, Pod::Ready), 6, only(Action::EndClean));
        let nothing = Step::NOTHING;
        check("make before break", &[begun, (MADE, 15, swap(PLANNED, 10))], true);
        check("the old pod flows", &[begun], true);
        check("its turn comes twice", &[begun, (Drain, 6, nothing)], true);
        check("it dies meanwhile", &[begun, (DEAD, 50, nothing), (MADE, 60, swap(PLANNED, 55))], true);
        check("it is dead", &[begun, (DEAD, 50, nothing), (Drain, 51, nothing)], false);
        check("one deadline for both", &[begun, (DEAD, 50, nothing), (Time, 104, nothing), late], false);
        check("an answer too late", &[begun, late, (MADE, 106, nothing)], false);
        check("refused", &[begun, refused, (DEAD, 7, nothing)], false);
        check("a ready pod ends meanwhile", &[begun, over, (MADE, 7, nothing)], false);
    }

    #[test]
    fn a_stream_that_need_not_leave_stays_when_it_cannot_be_handed_over() {
        let begun = |now| {
            let mut handover = eligible();
            assert_eq!(handover.on_rebalance(ID, Millis(now)), open(PLANNED, now + 100));
            handover
        };
        let stays = |outcome, took| done(Action::Nothing, PLANNED, outcome, took);
        let mut handover = begun(5);
        assert_eq!(feed(&mut handover, A(Answer::Refused), ID, 7), stays(Outcome::Refused, 2));
        assert!(handover.flows() && handover.due().is_none());
        assert_eq!(feed(&mut begun(5), Time, ID, 105), stays(Outcome::Timeout, 100));
        assert_eq!(feed(&mut begun(5), A(Answer::NoContent), ID, 6), stays(Outcome::Refused, 1));
        assert_eq!(feed(&mut begun(5), MADE, ID, 9), swap(PLANNED, 4));
        // Its pod dies meanwhile: then it must.
        let mut broken = begun(5);
        assert_eq!(feed(&mut broken, DEAD, ID, 6), Step::NOTHING);
        assert_eq!(
            feed(&mut broken, A(Answer::Failed), ID, 7),
            done(Action::Goodbye, PLANNED, Outcome::Refused, 2)
        );
        assert_eq!(feed(&mut begun(5), DEAD, None, 6), done(Action::EndBroken, PLANNED, Outcome::NoId, 1));
        // Nothing begins without an id, beyond the limit, or twice.
        assert_eq!(eligible().on_rebalance(None, Millis(1)), Step::NOTHING);
        let mut often = eligible();
        for now in [1, 2] {
            assert_eq!(often.on_rebalance(ID, Millis(now)).report, None);
            assert_eq!(often.on_rebalance(ID, Millis(now)), Step::NOTHING);
            assert_eq!(feed(&mut often, MADE, ID, now), swap(PLANNED, 0));
        }
        assert_eq!(often.on_rebalance(ID, Millis(3)), Step::NOTHING);
        assert!(often.flows());
    }

    #[test]
    fn a_pod_that_is_gone_is_replaced_in_time_or_the_client_is_told() {
        let begun = (DEAD, 5, open(CRASH, 105));
        let failed = (A(Answer::Failed), 6, done(Action::Goodbye, CRASH, Outcome::Refused, 1));
        let no_content = (A(Answer::NoContent), 6, done(Action::EndClean, CRASH, Outcome::Refused, 1));
        let left = (E(End::Clean, Pod::Leaving), 5, open(PLANNED, 105));
        check("break before make", &[begun, (MADE, 15, swap(CRASH, 10))], true);
        check("nothing flows", &[begun, (Drain, 6, Step::NOTHING)], false);
        check("a leaving pod ends", &[left, (MADE, 6, swap(PLANNED, 1))], true);
        check("a leaving pod dies", &[(E(End::Reset, Pod::Leaving), 5, open(CRASH, 105))], false);
        check("a silent pod", &[(E(End::Silent, Pod::Ready), 5, open(CRASH, 105))], false);
        check("a ready pod ends", &[(E(End::Clean, Pod::Ready), 5, only(Action::EndClean))], false);
        check("failed", &[begun, failed, (Time, 500, Step::NOTHING)], false);
        check("the successor says that it is over", &[begun, no_content], false);
        let again = (DEAD, 16, open(CRASH, 116));
        check("the successor dies, too", &[begun, (MADE, 15, swap(CRASH, 10)), again], false);
    }

    #[test]
    fn what_can_not_be_handed_over_ends_as_it_must() {
        let no_id = |action, cause| done(action, cause, Outcome::NoId, 0);
        let (planned, crash) = (Cause::Planned, Cause::Crash);
        // What happens; to a stream without an id; to one that may not be handed over.
        let table = [
            (Drain, no_id(Action::Goodbye, planned), Action::Goodbye),
            (E(End::Clean, Pod::Leaving), no_id(Action::Goodbye, planned), Action::EndClean),
            (E(End::Clean, Pod::Ready), only(Action::EndClean), Action::EndClean),
            (E(End::Reset, Pod::Leaving), no_id(Action::EndBroken, crash), Action::EndBroken),
            (E(End::Reset, Pod::Ready), no_id(Action::EndBroken, crash), Action::EndBroken),
            (E(End::Silent, Pod::Ready), no_id(Action::Goodbye, crash), Action::Goodbye),
        ];
        for (input, without_id, ineligible) in table {
            for id in [None, Some(b"".as_slice())] {
                assert_eq!(feed(&mut eligible(), input, id, 5), without_id, "{input:?}");
            }
            let mut handover = Handover::new(Eligibility::Ineligible, LIMITS);
            assert_eq!(feed(&mut handover, input, ID, 5), only(ineligible), "{input:?}");
        }
    }

    #[test]
    fn an_id_that_is_lost_while_opening_ends_the_handover() {
        let planned = |action| done(action, Cause::Planned, Outcome::NoId, 2);
        let table = [
            (A(Answer::EventStream), planned(Action::Goodbye)),
            (E(End::Reset, Pod::Leaving), planned(Action::EndBroken)),
            (E(End::Clean, Pod::Leaving), planned(Action::Goodbye)),
        ];
        for (input, expected) in table {
            let mut handover = eligible();
            assert_eq!(feed(&mut handover, Drain, ID, 5), open(Cause::Planned, 105));
            assert_eq!(feed(&mut handover, input, None, 7), expected, "{input:?}");
        }
    }

    #[test]
    fn two_failing_pods_can_not_play_a_stream_to_and_fro() {
        let mut handover = eligible();
        let dead = E(End::Reset, Pod::Ready);
        for now in [5, 10] {
            assert_eq!(feed(&mut handover, dead, ID, now), open(Cause::Crash, now + 100));
            assert_eq!(feed(&mut handover, A(Answer::EventStream), ID, now).action, Action::Swap);
        }
        let limited = done(Action::EndBroken, Cause::Crash, Outcome::Limit, 0);
        assert_eq!(feed(&mut handover, dead, ID, 1_004), limited);
    }

    #[test]
    fn a_planned_departure_beyond_the_limit_is_polite() {
        let mut handover = Handover::new(Eligibility::Eligible, Limits { handovers: 0, ..LIMITS });
        let limited = done(Action::Goodbye, Cause::Planned, Outcome::Limit, 0);
        assert_eq!(feed(&mut handover, Drain, ID, 5), limited);
    }

    #[test]
    fn the_limit_is_forgotten_after_its_window() {
        let mut handover = eligible();
        for now in [5, 1_004, 1_005, 2_004] {
            assert_eq!(feed(&mut handover, Drain, ID, now), open(Cause::Planned, now + 100), "{now}");
            assert_eq!(feed(&mut handover, A(Answer::EventStream), ID, now).action, Action::Swap, "{now}");
        }
        assert_eq!(feed(&mut handover, Drain, ID, 2_004).action, Action::Goodbye);
    }

    #[test]
    fn a_stream_that_finishes_for_another_reason_is_left_alone() {
        for inputs in [&[][..], &[Drain], &[Drain, E(End::Reset, Pod::Leaving)]] {
            let mut handover = eligible();
            for input in inputs {
                let _ = feed(&mut handover, *input, ID, 5);
            }
            handover.on_finish();
            for input in [Drain, E(End::Reset, Pod::Ready), A(Answer::EventStream), Time] {
                assert_eq!(feed(&mut handover, input, ID, 500), Step::NOTHING);
            }
            assert_eq!(handover.due(), None);
        }
    }

    #[test]
    fn every_handover_that_begins_has_exactly_one_outcome() {
        let inputs = [
            Drain,
            E(End::Clean, Pod::Leaving),
            E(End::Reset, Pod::Ready),
            A(Answer::EventStream),
            A(Answer::Refused),
            A(Answer::NoContent),
            Time,
        ];
        let count = u32::try_from(inputs.len()).unwrap();
        for script in 0..count.pow(5) {
            let (mut handover, mut open) = (eligible(), 0);
            for step in 0..5 {
                let input = inputs[(script / count.pow(step) % count) as usize];
                let step = feed(&mut handover, input, ID, u64::from(step) * 60);
                let begins = matches!(step.action, Action::Open { .. });
                let never_began = step
                    .report
                    .is_some_and(|report| matches!(report.outcome, Outcome::Limit | Outcome::NoId));
                open += i32::from(begins || never_began) - i32::from(step.report.is_some());
                assert_eq!(open, i32::from(handover.due().is_some()), "{script}: {input:?}");
            }
        }
    }

    #[test]
    fn a_handover_is_small() {
        assert!(size_of::<Handover>() <= 48, "{}", size_of::<Handover>());
    }
}
