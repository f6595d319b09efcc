//! Upgraded connections count as event streams do: limits, lists, metrics, the log, the wait of a preStop hook.

use podpin_testkit::{Request, wait_for};
use serde_json::json;

use super::{Scene, TEXT};

#[tokio::test]
async fn they_take_places_of_their_endpoint_and_of_their_client() {
    let scene = Scene::one("limits: {streamsPerEndpoint: 1}").await;
    let (client, pod) = scene.open().await;
    let refused = scene.proxy.connect().await.ask(&Request::websocket("/ws")).await;
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (503, true));
    assert_ne!(refused.header("connection"), Some("close"), "the connection goes on");
    scene.proxy.wait_metric("podpin_refusals_total", &[("kind", "full")], 1.0).await;
    drop((client, pod));
    scene.proxy.wait_metric("podpin_upgrades_active", &[], 0.0).await;
    drop(scene.open().await);

    let scene = Scene::one("limits: {streamsPerClient: 1}").await;
    let _kept = scene.open().await;
    let refused = scene.proxy.connect().await.ask(&Request::websocket("/ws")).await;
    assert_eq!(refused.status, 429);
    scene.proxy.wait_metric("podpin_refusals_total", &[("kind", "client_limit")], 1.0).await;
}

#[tokio::test]
async fn an_offer_that_is_not_taken_gives_its_places_back() {
    let scene = Scene::one("limits: {streamsPerEndpoint: 1}").await;
    for _ in 0..2 {
        let mut client = scene.connect().await;
        client.send(Request::websocket("/ws").bytes()).await;
        let (mut pod, _) = scene.pods[0].request().await;
        pod.send("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno").await;
        assert!(client.head().await.starts_with("HTTP/1.1 426 "));
        assert_eq!(client.bytes(2).await, b"no");
    }
}

#[tokio::test]
async fn they_are_listed_with_their_protocol_and_bytes_both_ways() {
    let scene = Scene::one("").await;
    let (mut client, mut pod) = scene.open().await;
    pod.say(TEXT, b"hello").await;
    client.say_masked(TEXT, b"hi").await;
    assert_eq!(
        (client.frame().await.payload, pod.frame().await.payload),
        (b"hello".to_vec(), b"hi".to_vec())
    );
    let listed = || async { scene.proxy.admin_get("/api/streams").await.json() };
    wait_for("both counts", async || {
        let list = listed().await;
        list["streams"][0]["bytes"] == 7 && list["streams"][0]["bytesReceived"] == 8
    })
    .await;
    let list = listed().await;
    let stream = &list["streams"][0];
    assert_eq!(list["total"], 1);
    assert_eq!(
        (&stream["kind"], &stream["protocol"], &stream["events"], &stream["state"], &stream["endpoint"]),
        (&json!("upgrade"), &json!("websocket"), &json!(1), &json!("active"), &json!("pod-a"))
    );
    assert!(stream["lastActivity"].as_str() >= stream["since"].as_str(), "{stream}");
    let labels = [("service", "chat"), ("endpoint", "pod-a"), ("state", "active")];
    assert_eq!(scene.proxy.metric("podpin_upgrades_active", &labels).await, 1.0);
    assert_eq!(scene.proxy.metric("podpin_streams_active", &labels).await, 0.0);
    assert_eq!(scene.proxy.metric("podpin_upgrades_opened_total", &[("result", "new")]).await, 1.0);
    assert_eq!(scene.proxy.metric("podpin_requests_total", &[("code", "101")]).await, 1.0);
    let endpoints = scene.proxy.endpoints("chat").await;
    assert_eq!(endpoints[0]["streams"], 1);
    drop(client);
    let line = scene.proxy.access_log_line(|line| line["kind"] == "upgrade").await;
    assert_eq!(
        (&line["reason"], &line["status"], &line["upgrade"], &line["bytes"], &line["bytesReceived"]),
        (&json!("client"), &json!(101), &json!("websocket"), &json!(7), &json!(8)),
        "{line}"
    );
    assert_eq!((&line["events"], &line["path"]), (&json!(1), &json!("/ws")), "{line}");
    scene.proxy.wait_metric("podpin_upgrades_closed_total", &[("reason", "client")], 1.0).await;
    scene.proxy.wait_metric("podpin_upgrades_active", &[], 0.0).await;
    assert_eq!(scene.proxy.metric("podpin_upgrade_bytes_total", &[]).await, 7.0);
    assert_eq!(scene.proxy.metric("podpin_upgrade_received_bytes_total", &[]).await, 8.0);
}

#[tokio::test]
async fn a_pre_stop_hook_waits_for_them() {
    let scene = Scene::one("").await;
    let (client, pod) = scene.open().await;
    let held = scene.proxy.admin_get("/api/drain/wait?pod=pod-a&timeout=0s").await;
    assert_eq!((held.status, held.json()), (504, json!({"pod": "pod-a", "streams": 1})));
    drop((client, pod));
    let free = scene.proxy.admin_get("/api/drain/wait?pod=pod-a&timeout=1h").await;
    assert_eq!((free.status, free.json()), (200, json!({"pod": "pod-a", "streams": 0})));
}

#[tokio::test]
async fn the_connection_of_a_client_is_counted_as_long_as_it_is_open() {
    let scene = Scene::one("").await;
    let (client, pod) = scene.open().await;
    scene.proxy.wait_metric("podpin_connections_active", &[("listener", "http")], 1.0).await;
    drop((client, pod));
    scene.proxy.wait_metric("podpin_connections_active", &[("listener", "http")], 0.0).await;
}

#[tokio::test]
async fn they_are_not_among_the_requests_in_flight() {
    let scene = Scene::one("").await;
    let (_client, _pod) = scene.open().await;
    scene.proxy.wait_metric("podpin_requests_active", &[], 0.0).await;
}
