//! Connections whose peers say nothing: limits of silence, and pings of the proxy's own.

use std::time::{Duration, Instant};

use podpin_testkit::Request;
use serde_json::json;

use super::passing::assert_ended;
use super::{PING, PONG, Scene, TEXT};

#[tokio::test]
async fn silence_both_ways_ends_a_connection_where_that_is_wanted() {
    let scene = Scene::one("timeouts: {upgradeIdle: 1s}\ndrain: {closeTimeout: 0s}").await;
    let (mut client, mut pod) = scene.open().await;
    let began = Instant::now();
    client.silence(Duration::from_millis(600)).await;
    pod.say(TEXT, b"x").await;
    client.frame().await;
    let close = client.frame().await;
    assert_eq!((close.code(), close.reason()), (1001, "idle".to_owned()));
    assert!(began.elapsed() >= Duration::from_millis(1_500), "a byte begins it anew");
    assert_eq!(pod.frame().await.code(), 1001);
    assert_ended(&mut client).await;
    let line = scene.proxy.access_log_line(|line| line["kind"] == "upgrade").await;
    assert_eq!(line["reason"], json!("idle"), "{line}");

    let request = Request::get("/x").header("Connection", "Upgrade").header("Upgrade", "tcp");
    let answer = "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    let (mut client, mut pod) = scene.open_by(&request, answer).await;
    assert_ended(&mut client).await;
    assert_ended(&mut pod).await;
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_its_pongs_do_not_reach_the_pod() {
    let scene = Scene::one("websocket: {ping: 1s}").await;
    let (mut client, mut pod) = scene.open().await;
    for _ in 0..3 {
        let ping = client.frame().await;
        assert_eq!((ping.first, ping.payload.len(), ping.is_masked), (PING, 8, false));
        client.say_masked(PONG, &ping.payload).await;
    }
    // A pong of its own, and one to a ping of the pod, pass.
    pod.say(PING, b"of the pod").await;
    assert_eq!(client.frame().await.payload, b"of the pod");
    client.say_masked(PONG, b"of the pod").await;
    assert_eq!(pod.frame().await.payload, b"of the pod", "the first frame that it sees");
}

#[tokio::test]
async fn a_ping_waits_for_the_end_of_a_message() {
    let scene = Scene::one("websocket: {ping: 1s}").await;
    let (mut client, mut pod) = scene.open().await;
    pod.say(0x01, b"begun").await;
    client.frame().await;
    client.silence(Duration::from_millis(1_400)).await;
    pod.send([super::plain(0x80, b"end"), super::plain(0x01, b"next")].concat()).await;
    let frames = [client.frame().await, client.frame().await, client.frame().await];
    assert_eq!(frames.map(|frame| frame.first), [0x80, PING, 0x01]);
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_gone() {
    let scene = Scene::one("websocket: {ping: 1s}").await;
    let (mut client, mut pod) = scene.open().await;
    assert_eq!([client.frame().await.first, client.frame().await.first], [PING, PING]);
    assert_eq!(pod.frame().await.code(), 1001);
    assert_ended(&mut client).await;
    let line = scene.proxy.access_log_line(|line| line["kind"] == "upgrade").await;
    assert_eq!(line["reason"], json!("client"), "{line}");
    assert!(line["error"].as_str().is_some_and(|error| error.contains("ping")), "{line}");
}
