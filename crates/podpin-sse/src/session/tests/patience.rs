//! Patience: while the old upstream flows, only the deadline of its order disconnects a client.

use super::*;

/// Session whose first request for a successor came to this, 10 milliseconds after the order.
fn refused(outcome: Outcome) -> Session {
    let mut session = eligible();
    assert_eq!(feed(&mut session, DRAIN, ResumePoint::Known, 0), open(Target::Chosen));
    let answer = A(Answer::Failed(outcome));
    assert_eq!(feed(&mut session, answer, ResumePoint::Known, 10), Step::CONTINUE);
    assert!(session.has_upstream() && session.reads_upstream() && !session.is_opening());
    assert!(session.is_moving() && !session.takes_orders());
    session
}

#[test]
fn a_successor_that_fails_is_requested_again_until_the_deadline() {
    for outcome in [Outcome::Connect, Outcome::Status5xx, Outcome::NoEndpoint, Outcome::Cap, Outcome::Timeout]
    {
        let mut session = refused(outcome);
        let mut moments = Vec::new();
        while let Some(due) = session.due().filter(|due| due.0 < 1_000) {
            moments.push(due.0);
            assert_eq!(session.on_time(LEAVING, due), open(Target::Chosen));
            let failed = Answer::Failed(outcome);
            assert_eq!(session.on_answer(failed, ResumePoint::Known, due), Step::CONTINUE);
        }
        let [first, second, ..] = moments[..] else { panic!("asked too seldom: {moments:?}") };
        assert!((110..=210).contains(&first) && (first + 200..=first + 400).contains(&second), "{moments:?}");
        let over = done(GOODBYE, PLANNED, (outcome, 1_000), Reason::Drain);
        assert_eq!(session.on_time(LEAVING, Millis(1_000)), charged(over), "{outcome:?}");
    }
}

#[test]
fn a_successor_that_takes_the_stream_after_all_is_used() {
    let mut session = refused(Outcome::Status5xx);
    let due = session.due().unwrap();
    assert_eq!(session.on_time(LEAVING, due), open(Target::Chosen));
    let moved = session.on_answer(Answer::EventStream(Eligibility::Eligible), ResumePoint::Known, due);
    assert_eq!(moved, swap(PLANNED, due.0, Reason::Drain));
}

#[test]
fn an_applications_refusal_is_not_questioned_and_ends_the_stream_at_the_deadline() {
    let mut session = refused(Outcome::Status4xx);
    while let Some(due) = session.due().filter(|due| due.0 < 1_000) {
        assert_eq!(session.on_time(LEAVING, due), Step::CONTINUE);
        assert!(session.due() > Some(due) && !session.is_opening());
    }
    let over = done(GOODBYE, PLANNED, (Outcome::Status4xx, 1_000), Reason::Drain);
    assert_eq!(session.on_time(LEAVING, Millis(1_000)), charged(over));
}

#[test]
fn a_drain_that_is_taken_back_between_two_requests_lets_the_stream_stay() {
    for outcome in [Outcome::Status5xx, Outcome::Status4xx] {
        let mut session = refused(outcome);
        let due = session.due().unwrap();
        assert_eq!(session.on_time(SERVING, due), Step::of(Action::Stay), "{outcome:?}");
        assert!(session.takes_orders() && session.due().is_none());
    }
}

#[test]
fn an_upstream_that_ends_between_two_requests_is_replaced_at_once() {
    for (end, averted) in
        [(DEAD, Reason::UpstreamReset), (E(UpstreamEnd::Clean, Standing::Leaving), Reason::Drain)]
    {
        let mut session = refused(Outcome::Status5xx);
        assert_eq!(feed(&mut session, end, ResumePoint::Known, 50), open(Target::Chosen));
        assert_eq!(session.due(), Some(Millis(150)), "as long as after any death");
        assert_eq!(feed(&mut session, MADE, ResumePoint::Known, 60), swap(PLANNED, 10, averted));
    }
}

#[test]
fn an_id_that_is_lost_between_two_requests_ends_the_handover() {
    let mut session = refused(Outcome::Connect);
    let due = session.due().unwrap();
    let lost = Upstream { resume: ResumePoint::Unknown, ..LEAVING };
    let over = done(GOODBYE, PLANNED, (Outcome::NoId, due.0), Reason::Drain);
    assert_eq!(session.on_time(lost, due), charged(over));
}

#[test]
fn the_proxys_own_shutdown_ends_a_pause() {
    let mut session = refused(Outcome::Connect);
    session.on_shutdown(Millis(50));
    assert_eq!(session.due(), Some(Millis(50)));
    assert_eq!(session.on_time(LEAVING, Millis(50)), farewell(Farewell::Goodbye));
}
