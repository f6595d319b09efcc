//! Failures in the middle of a handover or before it, and the metrics that count them.

use podpin_testkit::{Connection, Signal};

use super::*;

/// The goodbye: a `retry:` and a clean end.
async fn assert_goodbye(client: &mut EventStream, what: &str) {
    let (items, ending) = client.rest().await;
    assert!(matches!(items.as_slice(), [Item::Retry(_)]), "{what}: {items:?}");
    assert_eq!(ending, Ending::Clean, "{what}");
}

/// A stream that has shown the id 1, and whose pod drains; the other pods answer when the test says so.
async fn on_its_way(scene: &Scene) -> (Open, usize, PodStream) {
    let mut open = scene.open().await;
    open.stream.event_with_id("1", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["1"]);
    scene.pods.iter().for_each(|pod| pod.answer("/events", Answer::ByHand));
    scene.drain(open.at);
    let (to, next) = successor(&scene.pods, open.at).await;
    (open, to, next)
}

#[tokio::test]
async fn when_both_pods_are_dead_the_client_is_told_politely() {
    let mut scene = Scene::new(2, &[QUICK]).await;
    let mut open = scene.open().await;
    open.stream.event_with_id("1", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["1"]);
    for pod in &mut scene.pods {
        pod.stop().await;
    }
    assert_goodbye(&mut open.client, "both dead").await;
    scene.wait_handover("crash", "connect", 1.0).await;
    let idle = async || scene.proxy.endpoints("chat").await.iter().all(|endpoint| endpoint["streams"] == 0);
    wait_for("no place taken", idle).await;
}

#[tokio::test]
async fn when_both_pods_die_in_the_middle_of_it_the_client_is_told_politely() {
    let scene = Scene::new(2, &[QUICK]).await;
    let (mut open, _, next) = on_its_way(&scene).await;
    scene.pods.iter().for_each(|pod| pod.answer("/events", Answer::Close));
    open.stream.reset();
    next.reset();
    assert_goodbye(&mut open.client, "both dead").await;
    scene.wait_handover("planned", "connect", 1.0).await;
}

#[tokio::test]
async fn when_the_old_pod_dies_in_the_middle_of_it_the_client_waits_for_the_successor() {
    let scene = Scene::new(2, &[QUICK]).await;
    let (mut open, _, mut next) = on_its_way(&scene).await;
    open.stream.send("id: 2\ndata: whole\n\nid: 3\ndata: ha").await;
    assert_eq!(ids(&mut open.client, 1).await, ["2"]);
    open.stream.reset();
    next.raw(OPENED).await;
    next.send("id: 2\ndata: whole\n\nid: 3\ndata: whole\n\n").await;
    assert_eq!(open.client.next_event().await.id, "3");
    assert!(!open.client.text().contains("data: ha\n"), "{}", open.client.text());
    scene.wait_handover("planned", "ok", 1.0).await;
}

#[tokio::test]
async fn a_stream_whose_event_passed_the_limit_is_not_handed_over() {
    let lines = [QUICK, "sse: {eventBytesMax: 1KiB}"];
    for cause in ["planned", "crash"] {
        let scene = Scene::new(2, &lines).await;
        let mut open = scene.open().await;
        open.stream.event_with_id("1", "x").await;
        let long = "x".repeat(4 * 1024);
        open.stream.send(&format!("id: 2\ndata: {long}")).await;
        open.client.until_contains(&long).await;
        open.stream.send("\n\n").await;
        assert_eq!(ids(&mut open.client, 2).await, ["1", "2"]);
        if cause == "planned" {
            scene.drain(open.at);
            assert_goodbye(&mut open.client, cause).await;
        } else {
            open.stream.reset();
            let (items, ending) = open.client.rest().await;
            assert!(matches!(items.as_slice(), [Item::Retry(_)]), "{items:?}");
            assert_eq!(ending, Ending::Cut, "an honest death");
        }
        scene.wait_handover(cause, "no_id", 1.0).await;
        assert_eq!(scene.pods[1 - open.at].requests().len(), 0, "{cause}");
    }
}

#[tokio::test]
async fn a_successor_that_begins_to_drain_itself_is_used_and_left_again() {
    let scene = Scene::new(3, &[QUICK]).await;
    let (mut open, to, mut next) = on_its_way(&scene).await;
    let last = 3 - open.at - to;
    let mut all = ["draining"; 3];
    all[last] = "ready";
    scene.file.write(&states(&scene.pods, &all));
    let listed: Vec<_> = scene.pods.iter().zip(all).map(|(pod, state)| (pod.name(), state)).collect();
    scene.proxy.wait_endpoints("chat", &listed).await;
    next.raw(OPENED).await;
    next.event_with_id("2", "x").await;
    let mut third = scene.pods[last].next_stream().await;
    let told = third.request.header("last-event-id").unwrap().to_owned();
    third.raw(OPENED).await;
    third.send("id: 2\ndata: x\n\nid: 3\ndata: x\n\n").await;
    assert_eq!(ids(&mut open.client, 2).await, ["2", "3"], "it was told {told}");
    next.client_gone().await;
    scene.wait_handover("planned", "ok", 2.0).await;
    scene.is_over();
    third.finish().await;
    assert_eq!(open.client.rest().await, (vec![], Ending::Clean));
    let line = scene.proxy.access_log_line(|line| line["path"] == "/events").await;
    let names = [scene.pods[open.at].name(), scene.pods[to].name()];
    assert_eq!(line["endpointsBefore"], serde_json::json!(names), "{line}");
}

#[tokio::test]
async fn a_drain_that_is_taken_back_in_the_middle_of_it_disturbs_nobody() {
    let scene = Scene::new(2, &[QUICK]).await;
    let (mut open, _, mut next) = on_its_way(&scene).await;
    scene.file.write(&states(&scene.pods, &["ready", "ready"]));
    scene.proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready")]).await;
    open.stream.event_with_id("2", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["2"]);
    next.raw(OPENED).await;
    next.send("id: 2\ndata: x\n\nid: 3\ndata: x\n\n").await;
    assert_eq!(ids(&mut open.client, 1).await, ["3"]);
    scene.wait_handover("planned", "ok", 1.0).await;
}

#[tokio::test]
async fn a_successor_that_vanishes_from_the_list_before_it_answers_is_no_loss() {
    let scene = Scene::new(3, &[QUICK]).await;
    let (mut open, to, next) = on_its_way(&scene).await;
    let last = 3 - open.at - to;
    let kept = [&scene.pods[open.at], &scene.pods[last]];
    let listed =
        [(kept[0].name(), kept[0].address(), "draining"), (kept[1].name(), kept[1].address(), "ready")];
    scene.file.write(&listed);
    scene.proxy.wait_endpoints("chat", &listed.map(|(name, _, state)| (name, state))).await;
    next.close();
    let mut third = scene.pods[last].next_stream().await;
    third.raw(OPENED).await;
    third.event_with_id("2", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["2"]);
    scene.wait_handover("planned", "ok", 1.0).await;
}

#[tokio::test]
async fn the_proxys_own_shutdown_ends_a_handover_that_is_under_way_politely_and_in_time() {
    // A successor has far more time to answer than the proxy has.
    let line = "drain: {handover: lastEventId, spread: 0s, handoverTimeout: 60s}";
    let pods = [Pod::start("pod-a").await, Pod::start("pod-b").await];
    pods.iter().for_each(|pod| pod.answer("/events", StreamAnswer::new()));
    let file = EndpointsFile::with(&states(&pods, &["ready"; 2]));
    let setup = Setup::new().service_in("chat", &file).with("balance: {slowStart: off}").with(line);
    let setup = setup.top("shutdown: {announce: 0s, spread: 100ms, timeout: 8s}");
    let mut scene = Scene { pods: pods.into(), file, proxy: setup.start().await };
    let (mut open, _, mut next) = on_its_way(&scene).await;
    scene.proxy.signal(Signal::TERM);
    assert_goodbye(&mut open.client, "shutdown").await;
    open.stream.client_gone().await;
    next.client_gone().await;
    assert_eq!(scene.proxy.wait_exit().await, 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_nothing_while_its_stream_is_handed_over() {
    /// More than all buffers between a pod and a client hold.
    const EVENTS: u32 = 600;
    let scene = Scene::new(2, &[QUICK]).await;
    let mut connection = Connection::open_with_receive_buffer(scene.proxy.address, 4096).await;
    connection.send(Request::events("/events").bytes()).await;
    let head = connection.head().await;
    let at = usize::from(scene.pods[0].requests().is_empty());
    let mut stream = scene.pods[at].next_stream().await;
    let event = |id: u32| format!("id: {id}\ndata: {}\n\n", "x".repeat(64 * 1024));
    let sending = tokio::spawn(async move {
        let mut id = 1;
        while id <= EVENTS && stream.try_send(event(id).as_bytes()).await {
            id += 1;
        }
        id
    });
    scene.proxy.wait_metric_at_least("podpin_stream_events_total", &[], 10.0).await;
    scene.drain(at);
    let (_, mut next) = successor(&scene.pods, at).await;
    let told: u32 = next.request.header("last-event-id").unwrap().parse().unwrap();
    let refused = sending.await.unwrap();
    assert!(refused <= EVENTS, "the client was not slow enough to be in the way");
    let mut client = connection.into_events(head);
    let successor = tokio::spawn(async move {
        for id in told + 1..=told + 5 {
            next.send(&event(id)).await;
        }
        next
    });
    for id in 1..=told + 5 {
        assert_eq!(client.next_event().await.id, id.to_string());
    }
    successor.await.unwrap();
    scene.wait_handover("planned", "ok", 1.0).await;
}

#[tokio::test]
async fn a_pod_that_is_silent_for_too_long_is_replaced() {
    let scene = Scene::new(2, &[QUICK, "timeouts: {upstreamIdle: 500ms}"]).await;
    let mut open = scene.open().await;
    open.stream.event_with_id("1", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["1"]);
    let mut next = scene.pods[1 - open.at].next_stream().await;
    assert_eq!(next.request.header("last-event-id"), Some("1"));
    open.stream.client_gone().await;
    next.event_with_id("2", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["2"]);
    scene.proxy.wait_metric_at_least(HANDOVERS, &[("cause", "crash"), ("result", "ok")], 1.0).await;
}

/// Opens one more stream; whichever pod got it answers.
async fn one_more(scene: &Scene, visitor: &mut Visitor) -> (EventStream, PodStream, usize) {
    let count = || scene.pods.iter().map(|pod| pod.requests().len()).collect::<Vec<_>>();
    let before = count();
    let client = visitor.events("/events").await;
    let at = count().iter().zip(&before).position(|(now, before)| now > before).expect("a pod was asked");
    (client, scene.pods[at].next_stream().await, at)
}

#[tokio::test]
async fn a_full_successor_is_passed_over_and_when_all_are_full_there_is_a_goodbye() {
    let quick = "drain: {handover: lastEventId, spread: 0s, timeout: 2s}";
    let scene = Scene::new(3, &[quick, "limits: {streamsPerEndpoint: 1}"]).await;
    let (mut client, mut stream, at) = one_more(&scene, &mut scene.proxy.visitor()).await;
    let (_other_client, _other, full) = one_more(&scene, &mut scene.proxy.visitor()).await;
    stream.event_with_id("1", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["1"]);
    let free = 3 - at - full;
    scene.drain(at);
    let mut next = scene.pods[free].next_stream().await;
    next.event_with_id("2", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["2"]);
    scene.wait_handover("planned", "ok", 1.0).await;
    wait_for("a place given back, another taken", async || {
        let endpoints = scene.proxy.endpoints("chat").await;
        let streams = |at: usize| {
            let name = scene.pods[at].name();
            endpoints.iter().find(|endpoint| endpoint["name"] == name).map(|it| it["streams"].clone())
        };
        (streams(at), streams(free), streams(full)) == (Some(0.into()), Some(1.into()), Some(1.into()))
    })
    .await;
    let mut all = ["draining"; 3];
    all[full] = "ready";
    scene.file.write(&states(&scene.pods, &all));
    assert_goodbye(&mut client, "all full").await;
    scene.wait_handover("planned", "cap", 1.0).await;
    assert_eq!(scene.pods[full].requests().len(), 1, "nobody asked it");
}

#[tokio::test]
async fn what_a_drain_moved_is_measured_and_written_down() {
    let scene = Scene::new(2, &[QUICK]).await;
    let mut opens = Vec::new();
    let mut visitors: Vec<Visitor> = (0..6).map(|_| scene.proxy.visitor()).collect();
    for visitor in &mut visitors {
        let (mut client, mut stream, at) = one_more(&scene, visitor).await;
        stream.event_with_id("1", "x").await;
        assert_eq!(ids(&mut client, 1).await, ["1"]);
        opens.push((client, stream, at));
    }
    let here = f64::from(u32::try_from(opens.iter().filter(|(.., at)| *at == 0).count()).unwrap());
    assert!(here > 0.0, "two pods share six streams");
    scene.drain(0);
    scene.wait_handover("planned", "ok", here).await;
    let metrics = scene.proxy.metrics().await;
    let of_chat = [("service", "chat")];
    assert_eq!(metrics.sum("podpin_handover_seconds_count", &of_chat), here);
    let seconds = metrics.sum("podpin_handover_seconds_sum", &of_chat);
    assert!(seconds < 2.0 * here, "{seconds} s: each was in time");
    assert_eq!(metrics.sum(HANDOVERS, &[]), here, "and nothing else was counted");
    let record = podpin_testkit::wait_for_some("the record of the drain", async || {
        scene.proxy.process.stderr().into_iter().find(|line| line.contains(" drained "))
    })
    .await;
    for field in [format!("streams={here}"), format!("moved={here}"), "polite=0".into(), "lost=0".into()] {
        assert!(record.split_whitespace().any(|word| word == field), "{field} is not in {record}");
    }
}
