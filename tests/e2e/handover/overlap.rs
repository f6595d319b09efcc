//! `drain.handover: overlap`: pods without event ids are both read until the same event has come from both.

use super::*;

const OVERLAP: &str = "drain: {handover: overlap, spread: 0s, handoverTimeout: 2s}";

async fn data(client: &mut EventStream, count: usize) -> Vec<String> {
    let mut data = Vec::new();
    for _ in 0..count {
        data.push(client.next_event().await.data);
    }
    data
}

async fn say(stream: &mut PodStream, all: &str) {
    for data in all.split(' ') {
        stream.send(&format!("data: {data}\n\n")).await;
    }
}

/// A stream that has shown an event without an id, whose pod drains, and the successor, which has answered.
async fn overlapping(line: &str) -> (Scene, Open, PodStream) {
    let scene = Scene::new(2, &[line]).await;
    let mut open = scene.open().await;
    say(&mut open.stream, "a").await;
    assert_eq!(data(&mut open.client, 1).await, ["a"]);
    scene.drain(open.at);
    let (_, next) = successor(&scene.pods, open.at).await;
    assert_eq!(next.request.header("last-event-id"), None);
    (scene, open, next)
}

/// Pod that is ahead of the other one by an event.
#[derive(Clone, Copy, PartialEq)]
enum Ahead {
    Old,
    Next,
}

/// Sends the same numbers from both pods, until the old one is left. Returns how many of them the successor has sent.
async fn meet(open: &mut Open, next: &mut PodStream, ahead: Ahead) -> usize {
    let (one, other) = match ahead {
        Ahead::Old => (1, 0),
        Ahead::Next => (0, 1),
    };
    if ahead == Ahead::Next {
        say(next, "0").await;
    }
    for number in 0.. {
        if !open.stream.try_send(format!("data: {}\n\n", number + one).as_bytes()).await {
            return number + other;
        }
        say(next, &(number + other).to_string()).await;
    }
    unreachable!("endless")
}

/// An event that comes before the successor has answered says nothing: both pods go on until they meet.
#[tokio::test]
async fn a_stream_without_ids_goes_on_where_both_pods_have_sent_the_same() {
    for ahead in [Ahead::Old, Ahead::Next] {
        let (scene, mut open, mut next) = overlapping(OVERLAP).await;
        say(&mut next, "history").await;
        if ahead == Ahead::Old {
            say(&mut open.stream, "0").await;
        }
        let sent = meet(&mut open, &mut next, ahead).await;
        let last = sent + 5;
        for number in sent..=last {
            say(&mut next, &number.to_string()).await;
        }
        let expected: Vec<String> = (0..=last).map(|number| number.to_string()).collect();
        assert_eq!(data(&mut open.client, last + 1).await, expected);
        scene.wait_handover("planned", "ok", 1.0).await;
        scene.wait_join("overlap", 1.0).await;
        let departures = [("service", "chat"), ("kind", "handover")];
        scene.proxy.wait_metric("podpin_drain_departures_total", &departures, 1.0).await;
        assert_eq!(open.visitor.get("/who").await.text(), scene.pods[1 - open.at].name());
    }
}

#[tokio::test]
async fn pods_that_have_nothing_in_common_end_the_stream_politely() {
    let line = "drain: {handover: overlap, spread: 0s, handoverTimeout: 200ms}";
    let (scene, Open { mut client, mut stream, .. }, mut next) = overlapping(line).await;
    say(&mut next, "x").await;
    say(&mut stream, "b").await;
    assert_eq!(data(&mut client, 1).await, ["b"]);
    let (_, ending) = client.rest().await;
    assert_eq!(ending, Ending::Clean);
    assert!(client.text().contains("retry: "), "{}", client.text());
    next.client_gone().await;
    stream.client_gone().await;
    scene.wait_handover("planned", "no_overlap", 1.0).await;
    let departures = [("service", "chat"), ("kind", "polite")];
    scene.proxy.wait_metric("podpin_drain_departures_total", &departures, 1.0).await;
}

#[tokio::test]
async fn a_pod_that_ends_while_its_successor_flows_is_left_for_it() {
    for dies in [true, false] {
        let (scene, Open { mut client, mut stream, .. }, mut next) = overlapping(OVERLAP).await;
        say(&mut next, "b").await;
        stream.send("data: ha").await;
        if dies {
            stream.reset();
        } else {
            stream.finish().await;
        }
        say(&mut next, "c").await;
        let seen = data(&mut client, 2).await;
        assert_eq!(seen, ["b", "c"], "{}", client.text());
        scene.wait_join("unknown", 1.0).await;
    }
}

#[tokio::test]
async fn a_successor_that_ends_meanwhile_is_asked_again() {
    let (scene, mut open, next) = overlapping(OVERLAP).await;
    next.reset();
    let (_, mut again) = successor(&scene.pods, open.at).await;
    let sent = meet(&mut open, &mut again, Ahead::Next).await;
    let expected: Vec<String> = (0..sent).map(|number| number.to_string()).collect();
    assert_eq!(data(&mut open.client, sent).await, expected);
    scene.wait_join("overlap", 1.0).await;
}

#[tokio::test]
async fn streams_with_ids_and_silent_ones_move_as_ever() {
    for last in [Some("1"), None] {
        let scene = Scene::new(2, &[OVERLAP]).await;
        let Open { mut client, mut stream, at, .. } = scene.open().await;
        if let Some(id) = last {
            stream.event_with_id(id, "x").await;
            assert_eq!(ids(&mut client, 1).await, [id]);
        }
        scene.drain(at);
        let (_, mut next) = successor(&scene.pods, at).await;
        assert_eq!(next.request.header("last-event-id"), last);
        stream.client_gone().await;
        next.event_with_id("2", "x").await;
        assert_eq!(ids(&mut client, 1).await, ["2"]);
        scene.wait_join("exact", 1.0).await;
    }
}
