//! Timers of silence, of a blocked client, and of the longest life.

use super::*;

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
    assert_eq!(moved.on_time(SERVING, due), open(Target::Another));
    let mut fixed = session(&Settings { handover: None, ..idle });
    assert_eq!(fixed.on_time(SERVING, due), farewell(Farewell::Goodbye));
    assert_eq!(fixed.on_client(Client::Ready), Some(Close::clean(Reason::Idle)));
    let mut within = session(&Settings { handover: None, ..idle });
    within.on_forwarded(0, Position::WithinEvent, Millis(1));
    assert_eq!(within.on_time(SERVING, due), farewell(Farewell::Clean));
    assert_eq!(within.on_client(Client::Ready), Some(Close::clean(Reason::Idle)));
}

#[test]
fn what_is_held_back_passes_in_time_and_is_not_put_off_by_more_of_it() {
    let mut session = eligible();
    session.on_held(Held::Block, Millis(100));
    session.on_held(Held::Block, Millis(900));
    assert_eq!(session.due(), Some(Millis(1_100)));
    assert_eq!(session.on_client(Client::Blocked), None);
    assert_eq!(session.due(), None, "nothing can be sent");
    assert_eq!(session.on_client(Client::Ready), None);
    assert_eq!(session.on_time(SERVING, Millis(1_099)), Step::CONTINUE);
    assert_eq!(session.on_time(SERVING, Millis(1_100)), Step::of(Action::PassHeld));
    assert_eq!(session.due(), None);
    session.on_held(Held::Undecided, Millis(2_000));
    assert_eq!(session.due(), Some(Millis(2_030)));
    session.on_held(Held::Nothing, Millis(2_001));
    assert_eq!(session.due(), None);
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
        if let State::Opening { order, .. } = &mut session.state {
            order.deadline = NEVER;
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
