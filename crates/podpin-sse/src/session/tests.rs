//! Every transition of the session, in tables; here the inputs and steps that they are written with.

mod ends;
mod handovers;
mod orders;
mod overlaps;
mod patience;
mod rebalancing;
mod timers;

use super::*;

const LIMITS: Limits = Limits { handovers: 2, window_ms: 1_000, handover_ms: 100, overlap_ms: 50 };
const FAILED: Answer = Answer::Failed(Outcome::Connect);
const SERVING: Upstream = Upstream { standing: Standing::Serving, resume: ResumePoint::Known };
const LEAVING: Upstream = Upstream { standing: Standing::Leaving, resume: ResumePoint::Known };
const PLANNED: HandoverCause = HandoverCause::Planned;
const CRASH: HandoverCause = HandoverCause::Crash;

fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

/// Settings of a stream that may be handed over, without timers.
fn settings() -> Settings {
    Settings { handover: Some(LIMITS), ..Settings::default() }
}

/// Settings with all timers, 10 to 60 seconds.
fn timed() -> Settings {
    Settings {
        keep_alive: seconds(10),
        upstream_idle: seconds(30),
        client_write: seconds(20),
        max_duration: seconds(60),
        ..settings()
    }
}

fn session(settings: &Settings) -> Session {
    Session::new(settings, 0.0, Millis(0))
}

fn eligible() -> Session {
    session(&settings())
}

fn ineligible() -> Session {
    session(&Settings { handover: None, ..settings() })
}

/// Order to leave at `at`; its last moment comes 50 milliseconds later, its deadline after a second.
fn order(cause: LeaveCause, at: u64) -> LeaveOrder {
    let deadline = Millis(at + 1_000);
    LeaveOrder { at: Millis(at), by: Millis(at + 50), deadline, cause, already_charged: false }
}

/// Input of a session.
#[derive(Clone, Copy, Debug)]
enum Input {
    /// Order to leave now, and its moment.
    Leave(LeaveCause),
    End(UpstreamEnd, Standing),
    Answer(Answer),
    Time,
}

use Input::{Answer as A, End as E, Leave, Time};

const DRAIN: Input = Leave(LeaveCause::Drain);
const REBALANCE: Input = Leave(LeaveCause::Rebalance);
const RESET: UpstreamEnd = UpstreamEnd::Broken(Fault::Reset);
const SILENT: UpstreamEnd = UpstreamEnd::Broken(Fault::Silent);
const DEAD: Input = E(RESET, Standing::Serving);
const MADE: Input = A(Answer::EventStream(Eligibility::Eligible));

fn feed(session: &mut Session, input: Input, resume: ResumePoint, now: u64) -> Step {
    let leaving = Upstream { standing: Standing::Leaving, resume };
    let now = Millis(now);
    match input {
        Leave(cause) => {
            session.on_order(order(cause, now.0));
            session.on_time(leaving, now)
        }
        E(end, standing) => session.on_upstream_end(end, Upstream { standing, resume }, now),
        A(answer) => session.on_answer(answer, resume, now),
        Time => session.on_time(leaving, now),
    }
}

fn open(target: Target) -> Step {
    Step::of(Action::Open { target })
}

fn farewell(farewell: Farewell) -> Step {
    Step::of(Action::Finish(farewell))
}

/// Step that ends a handover that was to avert `otherwise_ends_with`.
fn done(
    action: Action,
    cause: HandoverCause,
    (outcome, took_ms): (Outcome, u64),
    otherwise_ends_with: Reason,
) -> Step {
    let fault = match otherwise_ends_with {
        Reason::UpstreamReset => Some(Fault::Reset),
        Reason::Idle => Some(Fault::Silent),
        _ => None,
    };
    let report =
        Some(Report { cause, outcome, took_ms, otherwise_ends_with: Some(otherwise_ends_with), fault });
    Step { report, ..Step::of(action) }
}

/// Step that charges a disconnect to the budget.
fn charged(step: Step) -> Step {
    Step { charges_budget: true, ..step }
}

const GOODBYE: Action = Action::Finish(Farewell::Goodbye);
const CLEAN: Action = Action::Finish(Farewell::Clean);
const BROKEN: Action = Action::Finish(Farewell::BrokenGoodbye);
const CUT_OFF: Action = Action::Finish(Farewell::Broken);

/// Feeds inputs with their times, and compares the step that each gives; then whether the old upstream flows.
fn check(name: &str, inputs: &[(Input, u64, Step)], flows: bool) {
    let mut session = eligible();
    for (input, now, expected) in inputs {
        assert_eq!(feed(&mut session, *input, ResumePoint::Known, *now), *expected, "{name}: {input:?}");
    }
    assert_eq!(session.has_upstream(), flows, "{name}");
}

fn swap(cause: HandoverCause, took_ms: u64, otherwise_ends_with: Reason) -> Step {
    done(Action::Swap, cause, (Outcome::Ok, took_ms), otherwise_ends_with)
}

#[test]
fn a_session_is_small() {
    assert!(size_of::<Session>() <= 144, "{}", size_of::<Session>());
    assert!(size_of::<Step>() <= 32, "{}", size_of::<Step>());
}
