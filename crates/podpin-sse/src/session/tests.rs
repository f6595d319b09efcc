//! Every transition of the session, in tables.

use super::*;

const LIMITS: Limits = Limits { handovers: 2, window_ms: 1_000, handover_ms: 100 };
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

/// Order to leave at `at`; its last moment comes 50 milliseconds later, its deadline never.
fn order(cause: LeaveCause, at: u64) -> LeaveOrder {
    LeaveOrder { at: Millis(at), by: Millis(at + 50), deadline: NEVER, cause, already_charged: false }
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
const BROKEN: Action = Action::Finish(Farewell::Broken);

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
fn an_endpoint_that_drains_is_replaced_before_it_is_let_go() {
    let begun = (DRAIN, 5, open(Target::Chosen));
    let timeout = done(GOODBYE, PLANNED, (Outcome::Timeout, 100), Reason::Drain);
    let refused = done(GOODBYE, PLANNED, (Outcome::Refused, 1), Reason::Drain);
    let refused = (A(Answer::Refused), 6, charged(refused));
    let over = (E(UpstreamEnd::Clean, Standing::Serving), 6, farewell(Farewell::Clean));
    let nothing = Step::CONTINUE;
    let reset = Reason::UpstreamReset;
    check("make before break", &[begun, (MADE, 15, swap(PLANNED, 10, Reason::Drain))], true);
    check("the old upstream flows", &[begun], true);
    check("a second order", &[begun, (DRAIN, 6, nothing)], true);
    check("death meanwhile", &[begun, (DEAD, 50, nothing), (MADE, 60, swap(PLANNED, 55, reset))], true);
    check("an order after that", &[begun, (DEAD, 50, nothing), (DRAIN, 51, nothing)], false);
    check("one deadline", &[begun, (Time, 104, nothing), (Time, 105, charged(timeout))], false);
    let timeout = done(GOODBYE, PLANNED, (Outcome::Timeout, 100), reset);
    let late = (Time, 105, charged(timeout));
    check("one deadline for both", &[begun, (DEAD, 50, nothing), (Time, 104, nothing), late], false);
    check("an answer too late", &[begun, (DEAD, 50, nothing), late, (MADE, 106, nothing)], false);
    check("refused", &[begun, refused, (DEAD, 7, nothing)], false);
    check("a serving upstream ends meanwhile", &[begun, over, (MADE, 7, nothing)], false);
}

#[test]
fn a_dead_upstream_is_replaced_in_time_or_the_client_gets_a_goodbye() {
    let begun = (DEAD, 5, open(Target::Chosen));
    let reset = Reason::UpstreamReset;
    let failed = (A(Answer::Failed), 6, done(GOODBYE, CRASH, (Outcome::Refused, 1), reset));
    let no_content = (A(Answer::NoContent), 6, done(CLEAN, CRASH, (Outcome::Refused, 1), reset));
    let left = (E(UpstreamEnd::Clean, Standing::Leaving), 5, open(Target::Chosen));
    let nothing = Step::CONTINUE;
    check("break before make", &[begun, (MADE, 15, swap(CRASH, 10, reset))], true);
    check("nothing flows", &[begun, (DRAIN, 6, nothing)], false);
    check("a leaving upstream ends", &[left, (MADE, 6, swap(PLANNED, 1, Reason::Drain))], true);
    check("a leaving upstream dies", &[(E(RESET, Standing::Leaving), 5, open(Target::Chosen))], false);
    let silent = (E(SILENT, Standing::Serving), 5, open(Target::Chosen));
    check("a silent upstream", &[silent, (MADE, 6, swap(CRASH, 1, Reason::Idle))], true);
    let own = (E(UpstreamEnd::Clean, Standing::Serving), 5, farewell(Farewell::Clean));
    check("a serving upstream ends", &[own], false);
    check("failed", &[begun, failed, (Time, 500, nothing)], false);
    check("the successor says that the stream is over", &[begun, no_content], false);
    let again = (DEAD, 16, open(Target::Chosen));
    check("the successor dies, too", &[begun, (MADE, 15, swap(CRASH, 10, reset)), again], false);
}

#[test]
fn a_rebalanced_stream_stays_when_it_cannot_be_handed_over() {
    let begun = |now| {
        let mut session = eligible();
        let step = feed(&mut session, REBALANCE, ResumePoint::Known, now);
        assert_eq!(step, open(Target::Ordered));
        session
    };
    let stays = |outcome, took_ms| {
        let report =
            Some(Report { cause: PLANNED, outcome, took_ms, otherwise_ends_with: None, fault: None });
        Step { report, ..Step::of(Action::Stay) }
    };
    let known = ResumePoint::Known;
    for answer in [Answer::Refused, Answer::Failed, Answer::NoContent] {
        let mut session = begun(5);
        assert_eq!(feed(&mut session, A(answer), known, 7), stays(Outcome::Refused, 2));
        assert!(session.has_upstream() && session.due().is_none() && session.takes_orders());
    }
    assert_eq!(feed(&mut begun(5), Time, known, 105), stays(Outcome::Timeout, 100));
    assert_eq!(feed(&mut begun(5), MADE, ResumePoint::Unknown, 9), stays(Outcome::NoId, 4));
    let moved = feed(&mut begun(5), MADE, known, 9);
    assert_eq!(moved, Step { action: Action::Swap, ..stays(Outcome::Ok, 4) });
    // Nothing begins without an id, beyond the limit, or where the application said no.
    let stays = Step::of(Action::Stay);
    assert_eq!(feed(&mut eligible(), REBALANCE, ResumePoint::Unknown, 1), stays);
    assert_eq!(feed(&mut ineligible(), REBALANCE, known, 1), stays);
    let mut often = eligible();
    for now in [1, 2] {
        assert_eq!(feed(&mut often, REBALANCE, known, now), open(Target::Ordered));
        assert_eq!(feed(&mut often, REBALANCE, known, now), Step::CONTINUE);
        assert_eq!(feed(&mut often, MADE, known, now).action, Action::Swap);
    }
    assert_eq!(feed(&mut often, REBALANCE, known, 3), stays);
    assert!(often.has_upstream());
}

#[test]
fn a_rebalanced_stream_that_loses_its_upstream_goes_anywhere() {
    let known = ResumePoint::Known;
    // Opened for balance, or waiting for the moment of that.
    let mut opening = eligible();
    assert_eq!(feed(&mut opening, REBALANCE, known, 5), open(Target::Ordered));
    assert_eq!(feed(&mut opening, DEAD, known, 6), Step::CONTINUE);
    let mut waiting = eligible();
    waiting.on_order(order(LeaveCause::Rebalance, 500));
    assert_eq!(feed(&mut waiting, DEAD, known, 5), open(Target::Ordered));
    // An order that arrives while the successor is opened makes for one more attempt.
    let mut broken = eligible();
    assert_eq!(feed(&mut broken, DEAD, known, 5), open(Target::Chosen));
    broken.on_order(order(LeaveCause::Rebalance, 6));
    for (mut session, cause, took) in [(opening, PLANNED, 3), (waiting, CRASH, 3), (broken, CRASH, 3)] {
        assert_eq!(feed(&mut session, A(Answer::Failed), known, 7), open(Target::Chosen));
        let over = done(GOODBYE, cause, (Outcome::Refused, took), Reason::UpstreamReset);
        assert_eq!(feed(&mut session, A(Answer::Refused), known, 8), charged(over));
    }
    let mut without_id = eligible();
    let _ = feed(&mut without_id, REBALANCE, known, 5);
    let over = done(BROKEN, PLANNED, (Outcome::NoId, 1), Reason::UpstreamReset);
    assert_eq!(feed(&mut without_id, DEAD, ResumePoint::Unknown, 6), over);
}

#[test]
fn a_stream_that_cannot_be_handed_over_ends_as_it_must() {
    let no_id =
        |action, cause, otherwise_ends_with| done(action, cause, (Outcome::NoId, 0), otherwise_ends_with);
    let (drain, reset) = (Reason::Drain, Reason::UpstreamReset);
    let clean = UpstreamEnd::Clean;
    let (serving, leaving) = (Standing::Serving, Standing::Leaving);
    // Input; step of a stream without an id; step of one that may not be handed over.
    let table = [
        (DRAIN, charged(no_id(GOODBYE, PLANNED, drain)), charged(Step::of(GOODBYE))),
        (E(clean, leaving), no_id(GOODBYE, PLANNED, drain), Step::of(CLEAN)),
        (E(clean, serving), Step::of(CLEAN), Step::of(CLEAN)),
        (E(RESET, leaving), no_id(BROKEN, CRASH, reset), Step::of(BROKEN)),
        (E(RESET, serving), no_id(BROKEN, CRASH, reset), Step::of(BROKEN)),
        (E(SILENT, serving), no_id(GOODBYE, CRASH, Reason::Idle), Step::of(GOODBYE)),
    ];
    for (input, without_id, fixed) in table {
        assert_eq!(feed(&mut eligible(), input, ResumePoint::Unknown, 5), without_id, "{input:?}");
        assert_eq!(feed(&mut ineligible(), input, ResumePoint::Known, 5), fixed, "{input:?}");
    }
}

#[test]
fn an_id_that_is_lost_while_opening_ends_the_handover() {
    let lost = |action, otherwise_ends_with| done(action, PLANNED, (Outcome::NoId, 2), otherwise_ends_with);
    let table = [
        (MADE, charged(lost(GOODBYE, Reason::Drain))),
        (E(RESET, Standing::Leaving), lost(BROKEN, Reason::UpstreamReset)),
        (E(UpstreamEnd::Clean, Standing::Leaving), charged(lost(GOODBYE, Reason::Drain))),
        (E(SILENT, Standing::Leaving), charged(lost(GOODBYE, Reason::Idle))),
    ];
    for (input, expected) in table {
        let mut session = eligible();
        let step = feed(&mut session, DRAIN, ResumePoint::Known, 5);
        assert_eq!(step, open(Target::Chosen));
        assert_eq!(feed(&mut session, input, ResumePoint::Unknown, 7), expected, "{input:?}");
    }
}

#[test]
fn two_failing_upstreams_cannot_pass_a_stream_to_and_fro() {
    let mut session = eligible();
    for now in [5, 10] {
        assert_eq!(feed(&mut session, DEAD, ResumePoint::Known, now), open(Target::Chosen));
        assert_eq!(feed(&mut session, MADE, ResumePoint::Known, now).action, Action::Swap);
    }
    let limited = done(BROKEN, CRASH, (Outcome::Limit, 0), Reason::UpstreamReset);
    assert_eq!(feed(&mut session, DEAD, ResumePoint::Known, 1_004), limited);
}

#[test]
fn a_planned_departure_beyond_the_limit_is_polite() {
    let none = Limits { handovers: 0, ..LIMITS };
    let mut session = session(&Settings { handover: Some(none), ..settings() });
    let limited = done(GOODBYE, PLANNED, (Outcome::Limit, 0), Reason::Drain);
    assert_eq!(feed(&mut session, DRAIN, ResumePoint::Known, 5), charged(limited));
}

#[test]
fn the_limit_is_forgotten_after_its_window() {
    let mut session = eligible();
    for now in [5, 1_004, 1_005, 2_004] {
        let step = feed(&mut session, DRAIN, ResumePoint::Known, now);
        assert_eq!(step, open(Target::Chosen), "{now}");
        assert_eq!(feed(&mut session, MADE, ResumePoint::Known, now).action, Action::Swap, "{now}");
    }
    assert_eq!(feed(&mut session, DRAIN, ResumePoint::Known, 2_004).action, GOODBYE);
}

#[test]
fn a_successor_may_say_that_it_is_the_last() {
    let mut session = eligible();
    let _ = feed(&mut session, DRAIN, ResumePoint::Known, 5);
    let last = A(Answer::EventStream(Eligibility::Ineligible));
    assert_eq!(feed(&mut session, last, ResumePoint::Known, 6).action, Action::Swap);
    assert_eq!(feed(&mut session, DEAD, ResumePoint::Known, 7), farewell(Farewell::Broken));
}

#[test]
fn a_stream_that_ends_for_another_reason_is_left_alone() {
    let short = Settings { max_duration: Some(Duration::from_millis(50)), ..settings() };
    for inputs in [&[][..], &[DRAIN], &[DRAIN, E(RESET, Standing::Leaving)]] {
        let mut session = session(&short);
        for input in inputs {
            let _ = feed(&mut session, *input, ResumePoint::Known, 5);
        }
        assert_eq!(session.due(), Some(Millis(50)));
        assert_eq!(feed(&mut session, Time, ResumePoint::Known, 50), farewell(Farewell::Clean));
        for input in [E(RESET, Standing::Serving), MADE] {
            assert_eq!(feed(&mut session, input, ResumePoint::Known, 51), Step::CONTINUE);
        }
        assert!(!session.has_upstream() && !session.is_opening());
        let close = session.on_client(Client::Ready).unwrap();
        assert_eq!((close.reason, close.body), (Reason::MaxDuration, ResponseBody::Clean));
        for input in [DRAIN, E(RESET, Standing::Serving), MADE, Time] {
            assert_eq!(feed(&mut session, input, ResumePoint::Known, 500), Step::CONTINUE);
        }
        assert_eq!((session.due(), session.on_client(Client::Gone)), (None, None));
    }
}

#[test]
fn every_handover_that_begins_has_exactly_one_report() {
    let inputs = [
        DRAIN,
        E(UpstreamEnd::Clean, Standing::Leaving),
        DEAD,
        MADE,
        A(Answer::Refused),
        A(Answer::NoContent),
        Time,
    ];
    let count = u32::try_from(inputs.len()).unwrap();
    for script in 0..count.pow(5) {
        let (mut session, mut open) = (eligible(), 0);
        for step in 0..5 {
            let input = inputs[(script / count.pow(step) % count) as usize];
            let step = feed(&mut session, input, ResumePoint::Known, u64::from(step) * 60);
            let begins = matches!(step.action, Action::Open { .. });
            let never_began =
                step.report.is_some_and(|report| matches!(report.outcome, Outcome::Limit | Outcome::NoId));
            open += i32::from(begins || never_began) - i32::from(step.report.is_some());
            assert_eq!(open, i32::from(session.is_opening()), "{script}: {input:?}");
        }
    }
}

#[test]
fn an_order_is_obeyed_at_its_moment_and_at_a_boundary() {
    // Cause; standing of the endpoint; action; whether the disconnect is charged.
    let table = [
        (LeaveCause::Drain, LEAVING, GOODBYE, true),
        (LeaveCause::Drain, SERVING, Action::Stay, false),
        (LeaveCause::Withdrawn, SERVING, GOODBYE, true),
        (LeaveCause::Shutdown, SERVING, GOODBYE, true),
        (LeaveCause::Rebalance, SERVING, Action::Stay, false),
    ];
    for (cause, upstream, action, charges_budget) in table {
        let mut session = ineligible();
        session.on_order(order(cause, 500));
        assert_eq!(session.due(), Some(Millis(500)), "{cause:?}");
        assert_eq!(session.on_time(upstream, Millis(499)), Step::CONTINUE, "{cause:?}");
        let expected = Step { charges_budget, ..Step::of(action) };
        assert_eq!(session.on_time(upstream, Millis(500)), expected, "{cause:?}");
        let mut paid = ineligible();
        paid.on_order(LeaveOrder { already_charged: true, ..order(cause, 500) });
        assert_eq!(paid.on_time(upstream, Millis(500)), Step::of(action), "{cause:?}");
    }
}

#[test]
fn a_withdrawn_stream_is_not_handed_over() {
    for (cause, reason) in [(LeaveCause::Withdrawn, Reason::Drain), (LeaveCause::Shutdown, Reason::Shutdown)]
    {
        let mut session = eligible();
        let step = feed(&mut session, Leave(cause), ResumePoint::Known, 5);
        assert_eq!(step, charged(farewell(Farewell::Goodbye)));
        assert_eq!(session.on_client(Client::Ready), Some(Close::clean(reason)));
    }
}

#[test]
fn a_goodbye_waits_for_its_boundary_until_the_last_moment() {
    let mut session = ineligible();
    session.on_forwarded(0, Position::WithinEvent, Millis(1));
    session.on_order(order(LeaveCause::Drain, 500));
    assert_eq!(session.due(), Some(Millis(550)));
    let mut patient = ineligible();
    patient.on_forwarded(0, Position::WithinEvent, Millis(1));
    patient.on_order(order(LeaveCause::Drain, 500));
    patient.on_forwarded(1, Position::Boundary, Millis(520));
    assert_eq!(patient.on_time(LEAVING, Millis(520)), charged(farewell(Farewell::Goodbye)));
    // Within the event there is no place for a `retry:`.
    assert_eq!(session.on_time(LEAVING, Millis(549)), Step::CONTINUE);
    assert_eq!(session.on_time(LEAVING, Millis(550)), charged(farewell(Farewell::Clean)));
    let forced = Close { is_forced: true, ..Close::clean(Reason::Drain) };
    assert_eq!(session.on_client(Client::Ready), Some(forced));
}

#[test]
fn a_goodbye_that_is_not_taken_is_cut() {
    let cut = |reason| {
        let close = Close { body: ResponseBody::Cut, is_forced: true, ..Close::clean(reason) };
        Step::of(Action::Close(close))
    };
    let mut session = ineligible();
    assert_eq!(feed(&mut session, DRAIN, ResumePoint::Known, 5).action, GOODBYE);
    assert_eq!(session.on_client(Client::Blocked), None);
    assert_eq!(session.due(), Some(Millis(55)));
    assert_eq!(session.on_time(LEAVING, Millis(55)), cut(Reason::Drain));
    // A goodbye instead of a handover has 300 milliseconds of its own.
    let mut late = eligible();
    let _ = feed(&mut late, DRAIN, ResumePoint::Known, 5);
    assert_eq!(feed(&mut late, A(Answer::Failed), ResumePoint::Known, 60).action, GOODBYE);
    assert_eq!(late.due(), Some(Millis(360)));
    // So has any other end an order's last moment, also of an order that comes later.
    let mut ended = eligible();
    let _ = feed(&mut ended, E(UpstreamEnd::Clean, Standing::Serving), ResumePoint::Known, 5);
    assert_eq!(ended.due(), None);
    assert!(ended.takes_orders());
    ended.on_order(order(LeaveCause::Drain, 100));
    assert!(!ended.takes_orders());
    assert_eq!(ended.on_time(LEAVING, Millis(150)), cut(Reason::UpstreamEnd));
}

#[test]
fn a_handover_gives_up_for_the_deadline_of_the_drain_while_the_old_upstream_flows() {
    let early = LeaveOrder { deadline: Millis(80), ..order(LeaveCause::Drain, 5) };
    let mut session = eligible();
    session.on_order(early);
    assert_eq!(session.on_time(LEAVING, Millis(5)), open(Target::Chosen));
    assert_eq!(session.due(), Some(Millis(80)));
    let timeout = done(GOODBYE, PLANNED, (Outcome::Timeout, 75), Reason::Drain);
    assert_eq!(session.on_time(LEAVING, Millis(80)), charged(timeout));
    let mut broken = eligible();
    broken.on_order(early);
    let _ = broken.on_time(LEAVING, Millis(5));
    assert_eq!(feed(&mut broken, DEAD, ResumePoint::Known, 6), Step::CONTINUE);
    assert_eq!(broken.due(), Some(Millis(105)));
}

#[test]
fn a_handover_gives_up_when_the_proxy_shuts_down() {
    for inputs in [&[DRAIN][..], &[DEAD], &[DRAIN, DEAD]] {
        let mut session = eligible();
        for input in inputs {
            let _ = feed(&mut session, *input, ResumePoint::Known, 5);
        }
        session.on_shutdown(Millis(50));
        assert_eq!(session.due(), Some(Millis(50)));
        assert_eq!(feed(&mut session, Time, ResumePoint::Known, 50), farewell(Farewell::Goodbye));
        assert_eq!(session.due(), Some(Millis(350)));
        let close = session.on_client(Client::Ready).unwrap();
        assert_eq!((close.reason, close.body), (Reason::Shutdown, ResponseBody::Clean));
    }
    let mut idle = eligible();
    idle.on_shutdown(Millis(50));
    assert_eq!(idle.due(), None, "a stream that is not on its way has an order of its own");
}

#[test]
fn silence_towards_the_client_is_broken_by_comments_between_events_only() {
    let mut session = session(&timed());
    session.on_forwarded(1, Position::Boundary, Millis(2_000));
    session.on_read(Millis(2_000));
    assert_eq!(session.due(), Some(Millis(12_000)));
    assert_eq!(session.on_time(SERVING, Millis(12_000)), Step::of(Action::KeepAlive));
    assert_eq!(session.due(), Some(Millis(22_000)));
    session.on_forwarded(0, Position::WithinEvent, Millis(13_000));
    session.on_read(Millis(13_000));
    assert_eq!(session.due(), Some(Millis(43_000)), "the upstream's silence");
    assert_eq!(session.on_time(SERVING, Millis(42_999)), Step::CONTINUE);
}

#[test]
fn comments_go_on_while_the_client_waits_for_a_successor() {
    let long = Limits { handover_ms: 60_000, ..LIMITS };
    let mut session = session(&Settings { keep_alive: seconds(10), handover: Some(long), ..settings() });
    let _ = feed(&mut session, DEAD, ResumePoint::Known, 5_000);
    assert_eq!(session.due(), Some(Millis(10_000)));
    assert_eq!(session.on_time(SERVING, Millis(10_000)), Step::of(Action::KeepAlive));
}

#[test]
fn a_silent_upstream_counts_as_dead() {
    let idle = Settings { upstream_idle: seconds(30), ..settings() };
    let due = Millis(30_000);
    let mut moved = session(&idle);
    assert_eq!(moved.on_time(SERVING, due), open(Target::Chosen));
    let mut fixed = session(&Settings { handover: None, ..idle });
    assert_eq!(fixed.on_time(SERVING, due), farewell(Farewell::Goodbye));
    assert_eq!(fixed.on_client(Client::Ready), Some(Close::clean(Reason::Idle)));
    let mut within = session(&Settings { handover: None, ..idle });
    within.on_forwarded(0, Position::WithinEvent, Millis(1));
    assert_eq!(within.on_time(SERVING, due), farewell(Farewell::Clean));
    assert_eq!(within.on_client(Client::Ready), Some(Close::clean(Reason::Idle)));
    let mut opaque = session(&Settings { content: Content::Opaque, ..idle });
    assert_eq!(opaque.on_time(SERVING, due), farewell(Farewell::Broken));
    assert_eq!(opaque.on_client(Client::Ready), Some(Close::broken(Fault::Silent)));
}

#[test]
fn a_client_that_takes_nothing_is_cut_in_any_state() {
    for inputs in [&[][..], &[DRAIN], &[DEAD], &[E(UpstreamEnd::Clean, Standing::Serving)]] {
        let long = Limits { handover_ms: 60_000, ..LIMITS };
        let mut session =
            session(&Settings { client_write: seconds(20), handover: Some(long), ..settings() });
        assert_eq!(session.on_client(Client::Blocked), None);
        session.on_taken(Millis(1_000));
        for input in inputs {
            let _ = feed(&mut session, *input, ResumePoint::Known, 1_000);
        }
        assert!(!session.reads_upstream());
        assert_eq!(session.due(), Some(Millis(21_000)), "{inputs:?}");
        let fault = session.state.fault();
        let close = Close { body: ResponseBody::Cut, fault, ..Close::clean(Reason::SlowClient) };
        assert_eq!(session.on_time(SERVING, Millis(21_000)), Step::of(Action::Close(close)));
    }
}

#[test]
fn a_blocked_client_stops_the_timers_of_silence() {
    let mut session = session(&Settings { client_write: None, max_duration: None, ..timed() });
    assert_eq!(session.on_client(Client::Blocked), None);
    assert_eq!(session.due(), None);
    assert_eq!(session.on_time(SERVING, Millis(100_000)), Step::CONTINUE);
    assert_eq!(session.on_client(Client::Ready), None);
    assert_eq!(session.due(), Some(Millis(10_000)));
}

#[test]
fn the_longest_life_ends_at_a_boundary_or_five_seconds_later() {
    let settings = Settings { max_duration: seconds(60), ..settings() };
    let mut session = session(&settings);
    assert_eq!(session.due(), Some(Millis(60_000)));
    session.on_forwarded(0, Position::WithinEvent, Millis(59_000));
    assert_eq!(session.due(), Some(Millis(65_000)));
    assert_eq!(session.on_time(SERVING, Millis(65_000)), farewell(Farewell::Clean));
    assert_eq!(session.on_client(Client::Ready), Some(Close::clean(Reason::MaxDuration)));
    let mut jittered = Session::new(&settings, 1.0, Millis(0));
    assert_eq!(jittered.on_time(SERVING, Millis(54_000)), farewell(Farewell::Clean));
}

#[test]
fn a_client_that_is_gone_ends_any_state() {
    for inputs in [&[][..], &[DRAIN], &[DEAD]] {
        let mut session = eligible();
        for input in inputs {
            let _ = feed(&mut session, *input, ResumePoint::Known, 5);
        }
        let fault = session.state.fault();
        let gone = Close { body: ResponseBody::Cut, fault, ..Close::clean(Reason::ClientGone) };
        assert_eq!(session.on_client(Client::Gone), Some(gone));
        assert_eq!((session.on_client(Client::Gone), session.due()), (None, None));
        assert!(!session.has_upstream() && !session.is_opening() && !session.takes_orders());
    }
    // The fault of an end that was decided before is kept for the log.
    let mut broken = ineligible();
    let _ =
        feed(&mut broken, E(UpstreamEnd::Broken(Fault::Malformed), Standing::Serving), ResumePoint::Known, 5);
    let close = broken.on_client(Client::Gone).unwrap();
    assert_eq!((close.reason, close.fault), (Reason::ClientGone, Some(Fault::Malformed)));
}

#[test]
fn an_opaque_body_is_left_alone() {
    let settings = Settings { content: Content::Opaque, upstream_idle: None, ..timed() };
    let mut session = session(&settings);
    assert!(session.on_forwarded(1, Position::Boundary, Millis(1)));
    session.on_order(order(LeaveCause::Drain, 5));
    assert_eq!(session.due(), None);
    assert_eq!(session.on_time(LEAVING, Millis(100_000)), Step::CONTINUE);
    let step = session.on_upstream_end(UpstreamEnd::Clean, LEAVING, Millis(100_000));
    assert_eq!(step, farewell(Farewell::Clean));
    // The order cuts a response that the client does not take.
    assert_eq!(session.due(), Some(Millis(55)));
}

#[test]
fn the_first_event_is_known() {
    let mut session = eligible();
    let forwarded = [(0, false), (2, true), (1, false)];
    for (at, (events, is_first)) in (1..).zip(forwarded) {
        assert_eq!(session.on_forwarded(events, Position::Boundary, Millis(at)), is_first, "{at}");
    }
    assert_eq!((session.first_event(), eligible().first_event()), (Some(Millis(2)), None));
}

#[test]
fn a_retry_is_drawn_from_its_range() {
    let (min, max) = (Duration::from_millis(10), Duration::from_millis(12));
    for (range, drawn) in
        [(RetryRange::new(min, max), [10, 11, 12, 10]), (RetryRange::new(max, min), [12; 4])]
    {
        let session = session(&Settings { goodbye_retry: range, ..settings() });
        assert_eq!([0, 1, 2, 3].map(|draw| session.retry_ms(draw)), drawn);
    }
}

#[test]
fn a_goodbye_instead_of_a_failed_handover_keeps_the_fault() {
    let faults = [Fault::Truncated, Fault::Reset, Fault::Malformed, Fault::Silent];
    let ends: [(Input, u64, Reason); 4] = [
        (A(Answer::Failed), 6, Reason::UpstreamReset),
        (A(Answer::NoContent), 6, Reason::UpstreamEnd),
        (Time, 105, Reason::UpstreamReset),
        (Time, 80, Reason::Shutdown),
    ];
    for fault in faults {
        for (input, now, expected) in ends {
            let mut session = eligible();
            let _ =
                feed(&mut session, E(UpstreamEnd::Broken(fault), Standing::Serving), ResumePoint::Known, 5);
            if expected == Reason::Shutdown {
                session.on_shutdown(Millis(80));
            }
            let _ = feed(&mut session, input, ResumePoint::Known, now);
            let close = session.on_client(Client::Ready).unwrap();
            let is_silent = fault == Fault::Silent && expected == Reason::UpstreamReset;
            let reason = if is_silent { Reason::Idle } else { expected };
            assert_eq!((close.reason, close.fault), (reason, Some(fault)), "{input:?}");
        }
        // So does a client that leaves while it waits for a successor.
        let mut left = eligible();
        let _ = feed(&mut left, E(UpstreamEnd::Broken(fault), Standing::Serving), ResumePoint::Known, 5);
        assert_eq!(left.on_client(Client::Gone).map(|close| close.fault), Some(Some(fault)));
    }
}

#[test]
fn a_disconnect_that_the_budget_has_paid_for_is_charged_once() {
    let clean = E(UpstreamEnd::Clean, Standing::Leaving);
    for already_charged in [false, true] {
        let paid = |cause| LeaveOrder { already_charged, ..order(cause, 5) };
        // The handover fails; the endpoint ends before the moment; the endpoint died first.
        let mut opening = eligible();
        opening.on_order(paid(LeaveCause::Drain));
        assert_eq!(opening.on_time(LEAVING, Millis(5)), open(Target::Chosen));
        let failed = feed(&mut opening, A(Answer::Failed), ResumePoint::Known, 6);
        let mut early = eligible();
        early.on_order(paid(LeaveCause::Drain));
        let ended = feed(&mut early, clean, ResumePoint::Unknown, 4);
        let mut broken = eligible();
        let _ = feed(&mut broken, DEAD, ResumePoint::Known, 4);
        broken.on_order(paid(LeaveCause::Drain));
        let dead = feed(&mut broken, A(Answer::Failed), ResumePoint::Known, 6);
        for (name, step) in [("failed", failed), ("ended", ended), ("dead", dead)] {
            assert_eq!((step.action, step.charges_budget), (GOODBYE, !already_charged), "{name}");
        }
    }
}

#[test]
fn no_order_waits_for_a_boundary_without_end() {
    let patient = |cause| LeaveOrder { by: NEVER, ..order(cause, 100) };
    let mut moved = eligible();
    moved.on_forwarded(0, Position::WithinEvent, Millis(1));
    moved.on_order(patient(LeaveCause::Rebalance));
    assert_eq!(moved.due(), Some(Millis(5_100)));
    let step = feed(&mut moved, Time, ResumePoint::Unknown, 5_100);
    assert_eq!(step, Step::of(Action::Stay), "so that a drain can have the stream");
    let mut drained = eligible();
    drained.on_forwarded(0, Position::WithinEvent, Millis(1));
    drained.on_order(patient(LeaveCause::Withdrawn));
    assert_eq!(feed(&mut drained, Time, ResumePoint::Known, 5_099), Step::CONTINUE);
    assert_eq!(feed(&mut drained, Time, ResumePoint::Known, 5_100).action, CLEAN);
}

#[test]
fn a_session_is_small() {
    assert!(size_of::<Session>() <= 144, "{}", size_of::<Session>());
    assert!(size_of::<Step>() <= 32, "{}", size_of::<Step>());
}
