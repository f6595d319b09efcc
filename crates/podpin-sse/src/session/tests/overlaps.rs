//! Overlaps: both upstreams of a stream without usable ids are read until they meet.

use super::*;

const OVERLAP: ResumePoint = ResumePoint::Overlap;
const LEFT: Upstream = Upstream { standing: Standing::Leaving, resume: OVERLAP };

/// Session that began to read both upstreams at 10 milliseconds, until 60.
fn overlapping() -> Session {
    let mut session = eligible();
    assert_eq!(feed(&mut session, DRAIN, OVERLAP, 5), open(Target::Chosen));
    assert_eq!(feed(&mut session, MADE, OVERLAP, 10), Step::of(Action::Overlap));
    assert!(session.reads_upstream() && session.wants_successor() && !session.is_opening());
    assert!(session.is_moving() && !session.takes_orders());
    assert_eq!(session.due(), Some(Millis(60)));
    session
}

#[test]
fn a_stream_without_ids_goes_on_at_its_successor_once_they_have_met() {
    let mut session = overlapping();
    assert!(session.may_move(OVERLAP));
    assert_eq!(session.on_meeting(Meeting::Recognised, Millis(30)), swap(PLANNED, 25, Reason::Drain));
    assert!(session.takes_orders() && !session.wants_successor());
    assert_eq!(session.on_meeting(Meeting::Recognised, Millis(31)), Step::CONTINUE);
}

#[test]
fn a_stream_that_is_not_recognised_stays_until_the_budget_lets_it_go() {
    let unrecognised = |action, took| done(action, PLANNED, (Outcome::NoOverlap, took), Reason::Drain);
    let mut session = overlapping();
    assert_eq!(feed(&mut session, Time, OVERLAP, 60), unrecognised(Action::Stay, 55));
    assert!(!session.may_move(OVERLAP));
    session.on_order(LeaveOrder { already_charged: true, ..order(LeaveCause::Drain, 70) });
    assert_eq!(feed(&mut session, Time, OVERLAP, 70), Step::of(GOODBYE));
    // The deadline comes first.
    let mut session = eligible();
    session.on_order(LeaveOrder { deadline: Millis(40), ..order(LeaveCause::Drain, 5) });
    assert_eq!(feed(&mut session, Time, OVERLAP, 5), open(Target::Chosen));
    assert_eq!(feed(&mut session, MADE, OVERLAP, 10).action, Action::Overlap);
    assert_eq!(session.due(), Some(Millis(40)));
    assert_eq!(feed(&mut session, Time, OVERLAP, 40), charged(unrecognised(GOODBYE, 35)));
}

#[test]
fn a_drain_that_is_taken_back_meanwhile_lets_the_stream_stay_and_move_later() {
    let mut session = overlapping();
    let serving = Upstream { standing: Standing::Serving, resume: OVERLAP };
    assert_eq!(session.on_time(serving, Millis(60)), Step::of(Action::Stay));
    assert!(session.may_move(OVERLAP) && session.takes_orders());
}

#[test]
fn an_upstream_that_ends_while_its_successor_flows_is_left_for_it() {
    for (end, averted) in [(RESET, Reason::UpstreamReset), (UpstreamEnd::Clean, Reason::Drain)] {
        let mut session = overlapping();
        assert_eq!(session.on_upstream_end(end, LEFT, Millis(30)), swap(PLANNED, 25, averted));
        assert!(session.has_upstream());
    }
    // Half of an event is with the client.
    let mut session = overlapping();
    let torn = Upstream { resume: ResumePoint::Unknown, ..LEFT };
    let step = session.on_upstream_end(RESET, torn, Millis(30));
    assert_eq!(step.report.map(|report| report.outcome), Some(Outcome::NoId));
}

#[test]
fn a_successor_that_ends_meanwhile_is_requested_again() {
    let mut session = overlapping();
    assert_eq!(session.on_meeting(Meeting::Ended, Millis(20)), Step::CONTINUE);
    assert!(session.has_upstream() && session.is_moving() && !session.wants_successor());
    let due = session.due().unwrap();
    assert_eq!(session.on_time(LEFT, due), open(Target::Chosen));
    assert_eq!(session.on_meeting(Meeting::Ended, due), Step::CONTINUE, "it is not there yet");
}

#[test]
fn only_a_drain_reads_two_upstreams() {
    let mut rebalanced = eligible();
    assert_eq!(feed(&mut rebalanced, REBALANCE, OVERLAP, 5), Step::of(Action::Stay));
    // An event without an id came after the request.
    let mut rebalanced = eligible();
    assert_eq!(feed(&mut rebalanced, REBALANCE, ResumePoint::Known, 5), open(Target::Ordered));
    assert_eq!(feed(&mut rebalanced, MADE, OVERLAP, 6).action, Action::Stay);
    let mut silent = eligible();
    assert_eq!(feed(&mut silent, DRAIN, ResumePoint::Known, 5), open(Target::Chosen));
    assert_eq!(feed(&mut silent, MADE, OVERLAP, 6).action, Action::Overlap);
    let mut dead = eligible();
    let lost = done(BROKEN, CRASH, (Outcome::NoId, 0), Reason::UpstreamReset);
    assert_eq!(feed(&mut dead, DEAD, OVERLAP, 5), lost, "nothing tells what it sent last");
}

#[test]
fn the_proxys_own_shutdown_ends_an_overlap() {
    let mut session = overlapping();
    session.on_shutdown(Millis(50));
    assert_eq!(session.due(), Some(Millis(50)));
    assert_eq!(session.on_time(LEFT, Millis(50)), farewell(Farewell::Goodbye));
}
