//! Ends of a stream that is not handed over, and the fault that they keep.

use super::*;

#[test]
fn a_stream_that_cannot_be_handed_over_ends_as_it_must() {
    let no_id =
        |action, cause, otherwise_ends_with| done(action, cause, (Outcome::NoId, 0), otherwise_ends_with);
    let (drain, reset) = (Reason::Drain, Reason::UpstreamReset);
    let clean = UpstreamEnd::Clean;
    let (serving, leaving) = (Standing::Serving, Standing::Leaving);
    // Input; step of a stream without an id; step of one that may not be handed over.
    let table = [
        // The budget is asked first: another order comes.
        (DRAIN, no_id(Action::Stay, PLANNED, drain), charged(Step::of(GOODBYE))),
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
fn a_response_that_cannot_be_asked_for_again_is_broken_off_unless_it_has_shown_an_id() {
    let once = Settings { handover: None, recovery: Recovery::NeedsEventId, ..timed() };
    let (serving, max_duration) = (Standing::Serving, 60_000);
    // Input; its time; reason; whether it counts as forced.
    let table = [
        (DRAIN, 5, Reason::Drain, true),
        (Leave(LeaveCause::Shutdown), 5, Reason::Shutdown, true),
        (E(SILENT, serving), 5, Reason::Idle, false),
        (Time, max_duration, Reason::MaxDuration, false),
    ];
    for (input, now, reason, is_forced) in table {
        let mut anonymous = session(&once);
        anonymous.on_read(Millis(now));
        assert!(!anonymous.is_resumable());
        assert_eq!(feed(&mut anonymous, input, ResumePoint::Unknown, now).action, CUT_OFF, "{input:?}");
        let close = anonymous.on_client(Client::Ready).unwrap();
        assert_eq!((close.reason, close.body), (reason, ResponseBody::Broken), "{input:?}");
        assert_eq!((close.is_forced, close.fault), (is_forced, Close::clean(reason).fault), "{input:?}");
        let mut resumable = session(&once);
        resumable.on_read(Millis(now));
        resumable.on_event_id();
        let action = if reason == Reason::MaxDuration { CLEAN } else { GOODBYE };
        assert_eq!(feed(&mut resumable, input, ResumePoint::Unknown, now).action, action, "{input:?}");
        assert_eq!(resumable.on_client(Client::Ready), Some(Close::clean(reason)), "{input:?}");
    }
    // Within an event a clean end would pass for that of the whole answer, except to `EventSource`, which comes back.
    for (recovery, body) in [(Recovery::NeedsEventId, CUT_OFF), (Recovery::Reconnects, CLEAN)] {
        let mut within = session(&Settings { recovery, ..once });
        within.on_event_id();
        within.on_forwarded(0, Position::WithinEvent, Millis(1));
        let step = feed(&mut within, E(SILENT, serving), ResumePoint::Unknown, 5);
        assert_eq!(step.action, body, "{recovery:?}");
    }
    // The end of the whole answer is that, with or without ids.
    let step = feed(&mut session(&once), E(UpstreamEnd::Clean, serving), ResumePoint::Unknown, 5);
    assert_eq!(step, Step::of(CLEAN));
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
fn an_encoded_stream_leaves_anywhere_and_without_a_retry() {
    let settings = Settings { content: Content::Encoded, ..timed() };
    // Input; its time; reason.
    let table = [
        (DRAIN, 5, Reason::Drain),
        (Leave(LeaveCause::Shutdown), 5, Reason::Shutdown),
        (E(SILENT, Standing::Serving), 5, Reason::Idle),
        (Time, 60_000, Reason::MaxDuration),
    ];
    for (input, now, reason) in table {
        let mut session = session(&settings);
        assert_eq!(session.due(), Some(Millis(30_000)), "no comment is written");
        session.on_read(Millis(now));
        session.on_forwarded(0, Position::WithinEvent, Millis(now));
        let step = feed(&mut session, input, ResumePoint::Unknown, now);
        assert_eq!(step.action, CLEAN, "{input:?}");
        assert_eq!(session.on_client(Client::Ready), Some(Close::clean(reason)), "{input:?}");
    }
    let broken = feed(&mut session(&settings), DEAD, ResumePoint::Unknown, 5);
    assert_eq!(broken, Step::of(CUT_OFF));
}

#[test]
fn a_goodbye_instead_of_a_failed_handover_keeps_the_fault() {
    let faults = [Fault::Truncated, Fault::Reset, Fault::Malformed, Fault::Silent];
    let ends: [(Input, u64, Reason); 4] = [
        (A(FAILED), 6, Reason::UpstreamReset),
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
