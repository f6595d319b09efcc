//! Handover, drain and rebalancing meet: no stream stays behind, none goes in circles, all are gone in time.

use podpin_testkit::{Answer, Ending, EventStream, Item, Pod, PodStream, Setup, StreamAnswer};

use super::{Open, Scene, ids, states, successor};

#[tokio::test]
async fn a_handover_under_way_ends_with_the_deadline_of_its_drain() {
    // Three tries of 9 s are beyond the test's patience of 10 s.
    let lines = ["drain: {handover: lastEventId, spread: 0s, timeout: 1s, handoverTimeout: 9s}"];
    let scene = Scene::new(2, &lines).await;
    let Open { mut client, mut stream, at, .. } = scene.open().await;
    stream.event_with_id("1", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["1"]);
    scene.pods[1 - at].answer("/events", Answer::ByHand);
    scene.drain(at);
    let (_, mut silent) = successor(&scene.pods, at).await;
    stream.event_with_id("2", "x").await;
    let (items, ending) = client.rest().await;
    assert!(matches!(items.as_slice(), [Item::Event(_), Item::Retry(_)]), "{items:?}");
    assert_eq!(ending, Ending::Clean);
    silent.client_gone().await;
    scene.wait_handover("planned", "timeout", 1.0).await;
}

#[tokio::test]
async fn a_stream_that_was_kept_until_the_last_moment_is_not_handed_to_the_pod_it_leaves() {
    let lines = ["drain: {pinned: keep, handover: lastEventId, spread: 0s, timeout: 1s}"];
    let scene = Scene::new(2, &lines).await;
    let mut opens = Vec::new();
    for _ in 0..8 {
        let mut visitor = scene.proxy.visitor();
        let client = visitor.events("/events").await;
        opens.push(client);
    }
    let mut streams = Vec::new();
    let before: Vec<usize> = scene.pods.iter().map(|pod| pod.requests().len()).collect();
    for (pod, count) in scene.pods.iter().zip(&before) {
        for _ in 0..*count {
            let mut stream = pod.next_stream().await;
            stream.event_with_id("1", "x").await;
            streams.push(stream);
        }
    }
    for client in &mut opens {
        assert_eq!(ids(client, 1).await, ["1"]);
    }
    scene.drain(0);
    let ok = before[0] as f64;
    scene.wait_handover("planned", "ok", ok).await;
    assert_eq!(scene.pods[0].requests().len(), before[0], "nobody asked the pod that is going");
    assert_eq!(scene.pods[1].requests().len(), before[0] + before[1]);
}

/// Four streams of `pod-a`, and `pod-b`, which joins, is asked for two of them and answers by hand.
async fn four_streams_of_which_two_are_to_move() -> (Scene, Vec<(EventStream, PodStream)>, [PodStream; 2]) {
    let mut scene = Scene::new(1, &[]).await;
    scene.proxy = {
        let setup = Setup::new().service_in("chat", &scene.file);
        let setup = setup.with("balance: {slowStart: off, rebalance: {budgetPerSecond: 1000}}");
        setup.with("drain: {handover: lastEventId, spread: 0s}").start().await
    };
    let mut opens = Vec::new();
    for _ in 0..4 {
        let mut client = scene.proxy.visitor().events("/events").await;
        let mut stream = scene.pods[0].next_stream().await;
        stream.event_with_id("1", "x").await;
        assert_eq!(ids(&mut client, 1).await, ["1"]);
        opens.push((client, stream));
    }
    let fresh = Pod::start("pod-b").await;
    fresh.answer("/events", Answer::ByHand);
    scene.pods.push(fresh);
    scene.file.write(&states(&scene.pods, &["ready", "ready"]));
    let asked = [scene.pods[1].next_stream().await, scene.pods[1].next_stream().await];
    (scene, opens, asked)
}

#[tokio::test]
async fn a_move_for_balances_sake_that_fails_while_the_pod_drains_keeps_nobody_there() {
    let (scene, mut opens, mut asked) = four_streams_of_which_two_are_to_move().await;
    // Those two are on their way; meanwhile their pod begins to leave, and the other two follow.
    scene.pods[1].answer("/events", StreamAnswer::new());
    scene.drain(0);
    scene.wait_handover("planned", "ok", 2.0).await;
    for stream in &mut asked {
        stream.raw("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await;
    }
    scene.wait_handover("planned", "ok", 4.0).await;
    for (_, stream) in &mut opens {
        stream.client_gone().await;
    }
}

#[tokio::test]
async fn a_pod_that_dies_while_its_stream_is_to_move_for_balances_sake_is_replaced_by_any_other() {
    let (scene, opens, asked) = four_streams_of_which_two_are_to_move().await;
    // Two are on their way when the pod loses all four; the one that they were to go to refuses them.
    let (mut clients, streams): (Vec<_>, Vec<_>) = opens.into_iter().unzip();
    streams.into_iter().for_each(PodStream::reset);
    let mut again = vec![scene.pods[0].next_stream().await, scene.pods[0].next_stream().await];
    for mut stream in asked {
        stream.raw("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await;
    }
    again.extend([scene.pods[0].next_stream().await, scene.pods[0].next_stream().await]);
    for stream in &mut again {
        stream.event_with_id("2", "on").await;
    }
    for client in &mut clients {
        assert_eq!(ids(client, 1).await, ["2"]);
    }
}
