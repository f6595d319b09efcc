//! An API server that is away, refuses or talks nonsense: nothing is taken away, and all is well when it is over.

use super::*;

#[tokio::test]
async fn an_outage_takes_nothing_away_and_is_over_within_three_seconds() {
    let server = server_with(&["a", "b"]).await;
    let followed = Followed::chat(&server).await;
    server.fail(On::Connect, Fault::Reset);
    server.cut_watches(Cut::Reset);
    followed.until("told of the outage", |seen| seen.connected.get(&0) == Some(&false)).await;
    server.put_unseen(&chat(&["b", "c"]));
    server.expire();
    // By then the wait between two attempts is at its longest.
    let before = server.count(On::Connect);
    wait_for("six attempts", async || server.count(On::Connect) >= before + 6).await;
    assert_eq!(followed.seen().endpoints[&0], ["a ready", "b ready"]);
    server.heal();
    let start = Instant::now();
    followed.expect(0, &["b ready", "c ready"]).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    followed.until("connected", |seen| seen.connected.get(&0) == Some(&true)).await;
    assert!(!followed.seen().emptied);
}

#[tokio::test]
async fn refusals_are_never_fatal() {
    let codes = [401, 403, 429, 500, 503];
    survives(&codes.map(Fault::Status)).await;
}

#[tokio::test]
async fn broken_connections_are_never_fatal() {
    survives(&[Fault::Reset, Fault::Close, Fault::Half]).await;
}

#[tokio::test]
async fn nonsense_is_never_fatal() {
    survives(&[Fault::Garbage, Fault::WrongType, Fault::EndAtOnce]).await;
}

/// Answers lists with `faults` and checks that no endpoint is lost and all is well when they are over.
async fn survives(faults: &[Fault]) {
    let server = server_with(&["a", "b"]).await;
    let followed = Followed::chat(&server).await;
    for (round, fault) in faults.iter().enumerate() {
        let name = ["c", "d"][round % 2];
        server.fail(On::List, fault.clone());
        let lists = server.count(On::List);
        server.put_unseen(&chat(&[name]));
        server.cut_watches(Cut::Expired);
        wait_for("two attempts", async || server.count(On::List) >= lists + 2).await;
        followed.until(&format!("told of {fault:?}"), |seen| seen.connected.get(&0) == Some(&false)).await;
        server.heal();
        followed.expect(0, &[&format!("{name} ready")]).await;
        server.wait_watches(1).await;
        followed.until("connected", |seen| seen.connected.get(&0) == Some(&true)).await;
        assert!(!followed.seen().emptied, "{fault:?}");
    }
}

#[tokio::test]
async fn a_refused_watch_is_told_and_lists_stand_in_for_it() {
    let server = server_with(&["a", "b"]).await;
    let followed = Followed::chat(&server).await;
    for code in [403, 429, 503] {
        server.fail(On::Watch, Fault::Status(code));
        server.cut_watches(Cut::Clean);
        followed.until("disconnected", |seen| seen.connected.get(&0) == Some(&false)).await;
        server.put_unseen(&chat(&["c", &code.to_string()]));
        followed.expect(0, &[&format!("{code} ready"), "c ready"]).await;
        server.heal();
        followed.until("connected", |seen| seen.connected.get(&0) == Some(&true)).await;
    }
    assert!(followed.seen().relisted(RelistReason::Error) >= 3);
}

#[tokio::test]
async fn a_watch_that_ends_at_once_is_not_asked_for_without_pause() {
    let server = server_with(&["a", "b"]).await;
    let followed = Followed::chat(&server).await;
    for fault in [Fault::EndAtOnce, Fault::ExpiredEvent, Fault::Garbage, Fault::WrongType, Fault::Status(410)]
    {
        server.fail(On::Watch, fault.clone());
        let (since, watches) = (Instant::now(), server.count(On::Watch));
        server.cut_watches(Cut::Clean);
        wait_for("three watches", async || server.count(On::Watch) >= watches + 3).await;
        // Each may have brought a list.
        let most = server.most_within(Duration::from_millis(1_900), since);
        assert!(most <= 5, "{fault:?}: {most} requests within two seconds");
        server.heal();
        server.wait_watches(1).await;
    }
    assert!(!followed.seen().emptied);
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_not_waited_for_for_ever() {
    let server = server_with(&["a", "b"]).await;
    let short = |settings: &mut KubeSettings| settings.list_timeout = Duration::from_millis(300);
    let followed = Followed::start(&server, &["chat"], short);
    followed.expect(0, &["a ready", "b ready"]).await;
    let drip = Fault::SlowDrip { bytes: 1, every: Duration::from_millis(50) };
    for (fault, name) in [(Fault::HangBeforeHeaders, "c"), (Fault::HangAfterHeaders, "d"), (drip, "e")] {
        server.wait_watches(1).await;
        server.fail_once(On::List, fault);
        server.put_unseen(&chat(&[name]));
        server.cut_watches(Cut::Expired);
        followed.expect(0, &[&format!("{name} ready")]).await;
    }
}

#[tokio::test]
async fn a_server_that_throttles_is_asked_again_when_it_said_and_not_before() {
    let server = server_with(&["a", "b"]).await;
    let followed = Followed::chat(&server).await;
    for code in [429, 503] {
        server.fail_once(On::List, Fault::Throttled { code, seconds: 2 });
        let lists = server.count(On::List);
        server.put_unseen(&chat(&["c", &code.to_string()]));
        server.cut_watches(Cut::Expired);
        followed.expect(0, &[&format!("{code} ready"), "c ready"]).await;
        let times = server.requests().into_iter().filter(|one| one.on == On::List).map(|one| one.at);
        let times: Vec<Instant> = times.skip(lists).take(2).collect();
        assert!(times[1] - times[0] >= Duration::from_secs(2), "{code}: {:?}", times[1] - times[0]);
        server.wait_watches(1).await;
    }
}

#[tokio::test]
async fn a_watch_without_a_bookmark_for_too_long_is_given_up_where_there_were_some() {
    let server = server_with(&["a", "b"]).await;
    let short = |settings: &mut KubeSettings| settings.silence_max = Duration::from_millis(400);
    let followed = Followed::start(&server, &["chat"], short);
    followed.expect(0, &["a ready", "b ready"]).await;
    let watches = server.count(On::Watch);
    wait_for("three more watches", async || server.count(On::Watch) >= watches + 3).await;
    let seen = followed.seen();
    assert_eq!(
        (seen.connected.get(&0), seen.relisted(RelistReason::Error)),
        (Some(&true), 0),
        "it sends none"
    );
    server.wait_watches(1).await;
    server.bookmark();
    followed.relisted(RelistReason::Error, 1).await;
    followed.until("connected", |seen| seen.connected.get(&0) == Some(&true)).await;
    assert!(!followed.seen().emptied);
}
