//! Handovers: those that are planned, and those after a death.

use super::*;

#[test]
fn an_endpoint_that_drains_is_replaced_before_it_is_let_go() {
    let begun = (DRAIN, 5, open(Target::Chosen));
    let timeout = done(GOODBYE, PLANNED, (Outcome::Timeout, 1_000), Reason::Drain);
    let nothing = Step::CONTINUE;
    let reset = Reason::UpstreamReset;
    let over = (E(UpstreamEnd::Clean, Standing::Serving), 6, nothing);
    check("make before break", &[begun, (MADE, 15, swap(PLANNED, 10, Reason::Drain))], true);
    check("the old upstream flows", &[begun], true);
    check("a second order", &[begun, (DRAIN, 6, nothing)], true);
    check("death meanwhile", &[begun, (DEAD, 50, nothing), (MADE, 60, swap(PLANNED, 10, reset))], true);
    check("an order after that", &[begun, (DEAD, 50, nothing), (DRAIN, 51, nothing)], false);
    check("the deadline", &[begun, (Time, 1_004, nothing), (Time, 1_005, charged(timeout))], false);
    let timeout = done(GOODBYE, PLANNED, (Outcome::Timeout, 100), reset);
    let late = (Time, 150, charged(timeout));
    check("nothing flows any more", &[begun, (DEAD, 50, nothing), (Time, 149, nothing), late], false);
    check("an answer too late", &[begun, (DEAD, 50, nothing), late, (MADE, 151, nothing)], false);
    let moved = (MADE, 7, swap(PLANNED, 1, Reason::UpstreamEnd));
    check("the upstream ends meanwhile", &[begun, over, moved], true);
}

#[test]
fn a_dead_upstream_is_replaced_in_time_or_the_client_gets_a_goodbye() {
    let begun = (DEAD, 5, open(Target::Chosen));
    let reset = Reason::UpstreamReset;
    let failed = (A(FAILED), 6, done(GOODBYE, CRASH, (Outcome::Connect, 1), reset));
    let no_content = (A(Answer::NoContent), 6, done(CLEAN, CRASH, (Outcome::Refused, 1), reset));
    let left = (E(UpstreamEnd::Clean, Standing::Leaving), 5, open(Target::Chosen));
    let nothing = Step::CONTINUE;
    check("break before make", &[begun, (MADE, 15, swap(CRASH, 10, reset))], true);
    check("nothing flows", &[begun, (DRAIN, 6, nothing)], false);
    check("a leaving upstream ends", &[left, (MADE, 6, swap(PLANNED, 1, Reason::Drain))], true);
    check("a leaving upstream dies", &[(E(RESET, Standing::Leaving), 5, open(Target::Chosen))], false);
    let silent = (E(SILENT, Standing::Serving), 5, open(Target::Another));
    check("a silent upstream", &[silent, (MADE, 6, swap(CRASH, 1, Reason::Idle))], true);
    check("failed", &[begun, failed, (Time, 500, nothing)], false);
    check("the successor says that the stream is over", &[begun, no_content], false);
    let again = (DEAD, 16, open(Target::Chosen));
    check("the successor dies, too", &[begun, (MADE, 15, swap(CRASH, 10, reset)), again], false);
}

#[test]
fn an_endpoint_that_ends_cleanly_while_it_serves_is_not_believed_at_once() {
    let ended = E(UpstreamEnd::Clean, Standing::Serving);
    let moved = |took| swap(PLANNED, took, Reason::UpstreamEnd);
    let (first, second) = ((ended, 5, open(Target::Chosen)), (ended, 7, open(Target::Another)));
    let over = (ended, 9, farewell(Farewell::Clean));
    check("moved", &[first, (MADE, 6, moved(1))], true);
    check("twice", &[first, (MADE, 6, moved(1)), second, (MADE, 8, moved(1))], true);
    check("three times", &[first, (MADE, 6, moved(1)), second, (MADE, 8, moved(1)), over], false);
    let outcome = |action, outcome| done(action, PLANNED, (outcome, 1), Reason::UpstreamEnd);
    for (answer, expected) in [
        (FAILED, outcome(GOODBYE, Outcome::Connect)),
        (Answer::NoContent, outcome(CLEAN, Outcome::Refused)),
        (Answer::Failed(Outcome::Status4xx), outcome(CLEAN, Outcome::Status4xx)),
    ] {
        check("not moved", &[first, (A(answer), 6, expected)], false);
    }
    // An event says that there is more to come.
    let mut lively = session(&Settings { handover: Some(Limits { handovers: 9, ..LIMITS }), ..settings() });
    for now in 1..9 {
        assert_eq!(feed(&mut lively, ended, ResumePoint::Known, now), open(Target::Chosen), "{now}");
        assert_eq!(feed(&mut lively, MADE, ResumePoint::Known, now).action, Action::Swap);
        lively.on_forwarded(1, Position::Boundary, Millis(now));
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
fn a_planned_departure_beyond_the_limit_is_polite_once_the_budget_allows_it() {
    let none = Limits { handovers: 0, ..LIMITS };
    let mut session = session(&Settings { handover: Some(none), ..settings() });
    let limited = done(Action::Stay, PLANNED, (Outcome::Limit, 0), Reason::Drain);
    assert_eq!(feed(&mut session, DRAIN, ResumePoint::Known, 5), limited);
    assert!(!session.may_move(ResumePoint::Known));
    session.on_order(LeaveOrder { already_charged: true, ..order(LeaveCause::Drain, 10) });
    assert_eq!(feed(&mut session, Time, ResumePoint::Known, 10), Step::of(GOODBYE));
}

#[test]
fn the_limit_is_forgotten_after_its_window() {
    let mut session = eligible();
    for now in [5, 1_004, 1_005, 2_004] {
        let step = feed(&mut session, DRAIN, ResumePoint::Known, now);
        assert_eq!(step, open(Target::Chosen), "{now}");
        assert_eq!(feed(&mut session, MADE, ResumePoint::Known, now).action, Action::Swap, "{now}");
    }
    let limited = done(Action::Stay, PLANNED, (Outcome::Limit, 0), Reason::Drain);
    assert_eq!(feed(&mut session, DRAIN, ResumePoint::Known, 2_004), limited);
}

#[test]
fn a_successor_may_say_that_it_is_the_last() {
    let mut session = eligible();
    let _ = feed(&mut session, DRAIN, ResumePoint::Known, 5);
    let last = A(Answer::EventStream(Eligibility::Ineligible));
    assert_eq!(feed(&mut session, last, ResumePoint::Known, 6).action, Action::Swap);
    assert_eq!(feed(&mut session, DEAD, ResumePoint::Known, 7), farewell(Farewell::BrokenGoodbye));
}

#[test]
fn every_handover_that_begins_has_exactly_one_report() {
    let inputs = [
        DRAIN,
        E(UpstreamEnd::Clean, Standing::Leaving),
        DEAD,
        MADE,
        A(FAILED),
        A(Answer::NoContent),
        A(Answer::Failed(Outcome::Status4xx)),
        Time,
    ];
    let count = u32::try_from(inputs.len()).unwrap();
    for script in 0..count.pow(5) {
        let (mut session, mut open) = (eligible(), false);
        for step in 0..5 {
            let input = inputs[(script / count.pow(step) % count) as usize];
            let step = feed(&mut session, input, ResumePoint::Known, u64::from(step) * 300);
            let begins = !open && matches!(step.action, Action::Open { .. });
            let never_began =
                step.report.is_some_and(|report| matches!(report.outcome, Outcome::Limit | Outcome::NoId));
            assert!(step.report.is_none() || open || never_began, "{script}: {input:?}");
            open = (open || begins) && step.report.is_none();
            assert_eq!(open, session.is_moving(), "{script}: {input:?}");
        }
    }
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
