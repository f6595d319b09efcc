//! Patience: no client is disconnected while the old pod flows and the deadline has not come.

use super::*;

/// A stream that has shown the event 1, and whose pod drains; the other pods give this answer.
async fn draining(answer: impl Into<Answer>, line: &str) -> (Scene, Open) {
    let scene = Scene::new(2, &[line]).await;
    let mut open = scene.open().await;
    open.stream.event_with_id("1", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["1"]);
    scene.pods[1 - open.at].answer("/events", answer);
    scene.drain(open.at);
    (scene, open)
}

#[tokio::test]
async fn a_successor_that_is_not_warm_yet_is_asked_again_while_the_old_pod_flows() {
    let (scene, mut open) = draining(Reply::new(503), QUICK).await;
    let next = &scene.pods[1 - open.at];
    wait_for("a second request", async || next.requests().len() >= 2).await;
    open.stream.event_with_id("2", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["2"]);
    next.answer("/events", StreamAnswer::new());
    let mut next = next.next_stream().await;
    assert_eq!(next.request.header("last-event-id"), Some("2"), "as far as the client has come meanwhile");
    open.stream.client_gone().await;
    next.event_with_id("3", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["3"]);
    scene.wait_handover("planned", "ok", 1.0).await;
    assert_eq!(scene.proxy.metric(HANDOVERS, &[]).await, 1.0, "counted once");
    let ejections = scene.proxy.metric("podpin_endpoint_ejections_total", &[]).await;
    assert_eq!(ejections, 0.0, "our own requests eject no pod");
}

#[tokio::test]
async fn the_deadline_makes_it_a_goodbye_that_says_why() {
    let table: [(Answer, &str); 4] = [
        (Reply::new(503).into(), "status_5xx"),
        (Reply::new(403).into(), "status_4xx"),
        (Reply::new(200).header("Content-Type", "text/html").into(), "refused"),
        (Answer::Close, "connect"),
    ];
    for (answer, result) in table {
        let (scene, mut open) =
            draining(answer, "drain: {handover: lastEventId, spread: 0s, timeout: 1s}").await;
        let (items, ending) = open.client.rest().await;
        assert!(matches!(items.as_slice(), [Item::Retry(_)]), "{result}: {items:?}");
        assert_eq!(ending, Ending::Clean, "{result}");
        scene.wait_handover("planned", result, 1.0).await;
        let asked = scene.pods[1 - open.at].requests().len();
        assert_eq!(asked == 1, result == "status_4xx", "{result}: asked {asked} times");
    }
}

#[tokio::test]
async fn an_undrain_in_the_middle_of_it_lets_the_stream_stay() {
    let (scene, mut open) = draining(Reply::new(503), QUICK).await;
    wait_for("a refusal", async || !scene.pods[1 - open.at].requests().is_empty()).await;
    scene.file.write(&states(&scene.pods, &["ready", "ready"]));
    scene.proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready")]).await;
    // It is asked no more, and a second drain begins anew.
    scene.pods[1 - open.at].answer("/events", StreamAnswer::new());
    open.stream.event_with_id("2", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["2"]);
    let staying = async || {
        let listed = scene.proxy.admin_get("/api/streams").await.json();
        listed["streams"][0]["state"] == "active"
    };
    wait_for("the stream to stay", staying).await;
    assert!(!open.stream.is_client_gone());
}

#[tokio::test]
async fn an_heir_that_a_reload_removes_is_no_loss() {
    let (scene, mut open) = draining(Answer::ByHand, QUICK).await;
    let (_, next) = successor(&scene.pods, open.at).await;
    // The only successor is not listed any more, and closes; another pod takes its place.
    let fresh = Pod::start("pod-c").await;
    fresh.answer("/events", StreamAnswer::new());
    let old = &scene.pods[open.at];
    scene.file.write(&[(old.name(), old.address(), "draining"), (fresh.name(), fresh.address(), "ready")]);
    scene.proxy.wait_endpoints("chat", &[(old.name(), "draining"), ("pod-c", "ready")]).await;
    next.close();
    let mut third = fresh.next_stream().await;
    third.event_with_id("2", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["2"]);
    scene.wait_handover("planned", "ok", 1.0).await;
}

#[tokio::test]
async fn a_death_between_two_requests_is_replaced_at_once() {
    let (scene, mut open) = draining(Reply::new(503), QUICK).await;
    let next = &scene.pods[1 - open.at];
    wait_for("a refusal", async || !next.requests().is_empty()).await;
    next.answer("/events", StreamAnswer::new());
    open.stream.reset();
    let mut next = next.next_stream().await;
    next.event_with_id("2", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["2"]);
}
