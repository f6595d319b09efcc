//! Orders of rebalancing, which a stream may decline.

use super::*;

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
    let four = Outcome::Status4xx;
    let answers =
        [(FAILED, Outcome::Connect), (Answer::NoContent, Outcome::Refused), (Answer::Failed(four), four)];
    for (answer, outcome) in answers {
        let mut session = begun(5);
        assert_eq!(feed(&mut session, A(answer), known, 7), stays(outcome, 2));
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
    for (mut session, cause, took) in [(opening, PLANNED, 2), (waiting, CRASH, 3), (broken, CRASH, 3)] {
        assert_eq!(feed(&mut session, A(FAILED), known, 7), open(Target::Chosen));
        let over = done(GOODBYE, cause, (Outcome::Connect, took), Reason::UpstreamReset);
        assert_eq!(feed(&mut session, A(FAILED), known, 8), charged(over));
    }
    let mut without_id = eligible();
    let _ = feed(&mut without_id, REBALANCE, known, 5);
    let over = done(BROKEN, PLANNED, (Outcome::NoId, 1), Reason::UpstreamReset);
    assert_eq!(feed(&mut without_id, DEAD, ResumePoint::Unknown, 6), over);
}
