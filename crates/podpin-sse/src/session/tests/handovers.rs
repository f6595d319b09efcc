//! Handovers: those that are planned, and those after a death.

use super::*;

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
