//! Orders to leave: their moment, the boundary, and what they cost.

use super::*;

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
    assert_eq!(feed(&mut late, Time, ResumePoint::Known, 1_005).action, GOODBYE);
    assert_eq!(late.due(), Some(Millis(1_305)));
    // So has any other end an order's last moment, also of an order that comes later.
    let mut ended = eligible();
    let _ = feed(&mut ended, E(UpstreamEnd::Clean, Standing::Serving), ResumePoint::Unknown, 5);
    assert_eq!(ended.due(), None);
    assert!(ended.takes_orders());
    ended.on_order(order(LeaveCause::Drain, 100));
    assert!(!ended.takes_orders());
    assert_eq!(ended.on_time(LEAVING, Millis(150)), cut(Reason::UpstreamEnd));
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
        let failed = feed(&mut opening, Time, ResumePoint::Known, 1_005);
        let mut early = eligible();
        early.on_order(paid(LeaveCause::Drain));
        let ended = feed(&mut early, clean, ResumePoint::Unknown, 4);
        let mut broken = eligible();
        let _ = feed(&mut broken, DEAD, ResumePoint::Known, 4);
        broken.on_order(paid(LeaveCause::Drain));
        let dead = feed(&mut broken, A(FAILED), ResumePoint::Known, 6);
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
