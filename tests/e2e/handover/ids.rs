//! Ids that pods should not send: longer than any header field, and with a NUL.

use super::*;

/// Longer than any header field that servers accept.
const LONG: usize = 10 * 1024;

#[tokio::test]
async fn an_id_of_ten_kilobytes_ends_the_stream_politely_and_says_why() {
    let scene = Scene::new(2, &[QUICK]).await;
    let Open { mut client, mut stream, at, .. } = scene.open().await;
    let id = "x".repeat(LONG);
    stream.event_with_id("1", "x").await;
    stream.event_with_id(&id, "x").await;
    assert_eq!(ids(&mut client, 2).await, ["1", &*id], "it reaches the client");
    scene.drain(at);
    let (items, ending) = client.rest().await;
    assert!(matches!(items.as_slice(), [Item::Retry(_)]), "{items:?}");
    assert_eq!(ending, Ending::Clean);
    scene.wait_handover("planned", "no_id", 1.0).await;
    assert_eq!(scene.pods[1 - at].requests().len(), 0);
}

#[tokio::test]
async fn an_id_of_ten_kilobytes_before_the_last_one_is_recognised_when_it_comes_again() {
    let scene = Scene::new(2, &[QUICK]).await;
    let Open { mut client, mut stream, at, .. } = scene.open().await;
    let id = "x".repeat(LONG);
    stream.event_with_id(&id, "x").await;
    stream.event_with_id("2", "x").await;
    assert_eq!(ids(&mut client, 2).await, [&*id, "2"]);
    scene.drain(at);
    let (_, mut next) = successor(&scene.pods, at).await;
    assert_eq!(next.request.header("last-event-id"), Some("2"));
    next.send(&format!("id: {id}\ndata: x\n\nid: 2\ndata: x\n\nid: 3\ndata: x\n\n")).await;
    assert_eq!(ids(&mut client, 1).await, ["3"]);
    scene.wait_join("exact", 1.0).await;
}

#[tokio::test]
async fn an_id_of_ten_kilobytes_is_recognised_where_two_pods_are_read() {
    let line = "drain: {handover: overlap, spread: 0s, handoverTimeout: 5s}";
    let scene = Scene::new(2, &[line]).await;
    let Open { mut client, mut stream, at, .. } = scene.open().await;
    let id = |number: usize| format!("{number}{}", "x".repeat(LONG));
    stream.event_with_id(&id(0), "x").await;
    assert_eq!(ids(&mut client, 1).await, [id(0)]);
    scene.drain(at);
    let (_, mut next) = successor(&scene.pods, at).await;
    assert_eq!(next.request.header("last-event-id"), None);
    // The data is the same in each: only ids can tell.
    let mut number = 1;
    while stream.try_send(format!("id: {}\ndata: x\n\n", id(number)).as_bytes()).await {
        next.event_with_id(&id(number), "x").await;
        number += 1;
    }
    next.event_with_id(&id(number), "x").await;
    for expected in 1..=number {
        assert_eq!(ids(&mut client, 1).await, [id(expected)]);
    }
    scene.wait_join("overlap", 1.0).await;
}

#[tokio::test]
async fn an_id_with_a_nul_is_none() {
    let scene = Scene::new(2, &[QUICK]).await;
    let Open { mut client, mut stream, at, .. } = scene.open().await;
    stream.event_with_id("1", "a").await;
    stream.send("id: 2\0\ndata: b\n\n").await;
    assert_eq!(client.next_data().await, "a");
    assert_eq!(client.next_data().await, "b");
    scene.drain(at);
    let (_, mut next) = successor(&scene.pods, at).await;
    assert_eq!(next.request.header("last-event-id"), Some("1"));
    // It belongs to the id before it, and comes once.
    next.send("id: 1\ndata: a\n\nid: 2\0\ndata: b\n\nid: 3\ndata: c\n\n").await;
    assert_eq!(client.next_data().await, "c");
    scene.wait_join("exact", 1.0).await;
}
