//! Streams that have shown nothing yet: they move all the same, and nothing is lost.

use super::*;

#[tokio::test]
async fn a_stream_that_has_shown_nothing_moves_and_its_successor_begins_at_the_present() {
    let scene = Scene::new(2, &[QUICK]).await;
    let Open { mut client, mut stream, at, .. } = scene.open().await;
    stream.send(": hello\n\n").await;
    client.until_contains(": hello\n").await;
    scene.pods[1 - at].answer("/events", Answer::ByHand);
    scene.drain(at);
    let (_, mut next) = successor(&scene.pods, at).await;
    assert_eq!(next.request.header("last-event-id"), None);
    next.raw(OPENED).await;
    stream.client_gone().await;
    next.event_with_id("1", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["1"]);
    scene.wait_handover("planned", "ok", 1.0).await;
    scene.wait_join("exact", 1.0).await;
}

#[tokio::test]
async fn an_event_that_comes_while_the_successor_is_opened_is_not_the_last_one_that_arrives() {
    let scene = Scene::new(2, &[QUICK]).await;
    let Open { mut client, mut stream, at, .. } = scene.open().await;
    scene.pods[1 - at].answer("/events", Answer::ByHand);
    scene.drain(at);
    let (_, mut silent) = successor(&scene.pods, at).await;
    stream.event_with_id("1", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["1"]);
    silent.raw(OPENED).await;
    // What began at the present moment may have missed what the old pod was about to send.
    let (_, mut next) = successor(&scene.pods, at).await;
    assert_eq!(next.request.header("last-event-id"), Some("1"));
    silent.client_gone().await;
    next.raw(OPENED).await;
    next.send("id: 1\ndata: x\n\nid: 2\ndata: x\n\n").await;
    assert_eq!(ids(&mut client, 1).await, ["2"]);
    scene.wait_handover("planned", "ok", 1.0).await;
}

#[tokio::test]
async fn a_client_that_came_with_an_id_is_moved_by_it_before_any_event() {
    for cause in ["planned", "crash"] {
        let scene = Scene::new(2, &[QUICK]).await;
        let request = Request::events("/events").header("Last-Event-ID", "41");
        let mut client = request.open(scene.proxy.address).await;
        let at = usize::from(scene.pods[0].requests().is_empty());
        let stream = scene.pods[at].next_stream().await;
        if cause == "planned" {
            scene.drain(at);
        } else {
            stream.reset();
        }
        let mut next = if cause == "planned" {
            successor(&scene.pods, at).await.1
        } else {
            scene.pods[at].next_stream().await
        };
        assert_eq!(next.request.header("last-event-id"), Some("41"), "{cause}");
        next.send("id: 41\ndata: seen\n\nid: 42\ndata: x\n\n").await;
        assert_eq!(ids(&mut client, 1).await, ["42"], "{cause}");
        scene.wait_handover(cause, "ok", 1.0).await;
        scene.wait_join("exact", 1.0).await;
    }
}

#[tokio::test]
async fn an_id_without_an_event_is_a_point_to_resume_from() {
    let scene = Scene::new(2, &[QUICK]).await;
    let Open { mut client, mut stream, at, .. } = scene.open().await;
    stream.send("id: 7\n\n").await;
    client.until_contains("id: 7\n\n").await;
    scene.drain(at);
    let (_, mut next) = successor(&scene.pods, at).await;
    assert_eq!(next.request.header("last-event-id"), Some("7"));
    next.event_with_id("8", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["8"]);
}

#[tokio::test]
async fn a_silent_stream_whose_pod_dies_goes_on_and_says_that_it_does_not_know_what_it_missed() {
    let scene = Scene::new(2, &[QUICK]).await;
    let Open { mut client, stream, at, .. } = scene.open().await;
    stream.reset();
    let mut next = scene.pods[at].next_stream().await;
    assert_eq!(next.request.header("last-event-id"), None);
    next.event_with_id("1", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["1"]);
    scene.wait_handover("crash", "ok", 1.0).await;
    scene.wait_join("unknown", 1.0).await;
}

#[tokio::test]
async fn an_answer_that_is_labelled_as_a_stream_and_is_none_arrives_once_and_whole() {
    let scene = Scene::new(2, &[QUICK]).await;
    let Open { mut client, mut stream, .. } = scene.open().await;
    stream.send("{\"error\":").await;
    stream.send("\"no\"}").await;
    stream.finish().await;
    let (_, ending) = client.rest().await;
    assert_eq!(ending, Ending::Clean);
    assert!(client.text().ends_with("{\"error\":\"no\"}"), "{}", client.text());
    assert_eq!(scene.pods.iter().map(|pod| pod.requests().len()).sum::<usize>(), 1);
}

/// A rolling update of three pods, with many streams of which nine in ten are silent.
#[tokio::test]
async fn nobody_is_disconnected_by_a_rolling_update_whatever_the_streams_have_shown() {
    const STREAMS: usize = 60;
    let scene = Scene::new(3, &[QUICK]).await;
    let mut clients = Vec::new();
    for _ in 0..STREAMS {
        clients.push(scene.proxy.visitor().events("/events").await);
    }
    let mut streams = Vec::new();
    for pod in &scene.pods {
        streams.push(pod.waiting_streams().await);
    }
    for (index, stream) in streams.iter_mut().flatten().enumerate().filter(|(index, _)| index % 10 == 0) {
        stream.event_with_id(&index.to_string(), "x").await;
    }
    for at in 0..3 {
        scene.drain(at);
        for stream in &mut streams[at] {
            stream.client_gone().await;
        }
        let (mut arrived, gone) = (0, streams[at].len());
        streams[at].clear();
        while arrived < gone {
            let (to, stream) = successor(&scene.pods, at).await;
            streams[to].push(stream);
            arrived += 1;
        }
    }
    for stream in streams.iter_mut().flatten() {
        stream.event_with_id("last", "x").await;
    }
    for client in &mut clients {
        while client.next_event().await.id != "last" {}
    }
    assert_eq!(scene.proxy.metric("podpin_streams_closed_total", &[]).await, 0.0);
}
