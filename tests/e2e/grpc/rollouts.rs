//! Calls whose pod drains or dies, and the proxy's own end.

use podpin_testkit::{EndpointsFile, Setup, Signal, wait_for};
use serde_json::{Value, json};

use super::{GrpcPod, calls, setup};
use crate::python_sdks::{lines, script};

/// A call that is held, from its first message on.
async fn held(port: u16) -> podpin_testkit::Process {
    let mut client = script("grpc_calls.py", &[&port.to_string(), "hold"]);
    lines(&mut client, 1).await;
    client
}

/// Status and words that the client of a held call saw at its end.
async fn ended(mut client: podpin_testkit::Process) -> Value {
    lines(&mut client, 2).await[1].clone()
}

#[tokio::test]
async fn a_drain_gives_a_pod_no_new_calls_and_ends_the_open_ones_at_its_deadline() {
    let (leaving, staying) = (GrpcPod::start("pod-a").await, GrpcPod::start("pod-b").await);
    let (a, b) = (leaving.address, staying.address);
    let file = EndpointsFile::with(&[("pod-a", a, "ready")]);
    let drain = "drain: {timeout: 1s, spread: 200ms}";
    let proxy = Setup::new().service_in("chat", &file).with("protocol: grpc").with(drain).h2c().start().await;
    let client = held(proxy.address.port()).await;
    let waits = proxy.admin_get("/api/drain/wait?pod=pod-a&timeout=10ms").await;
    assert_eq!((waits.status, waits.json()["streams"].as_u64()), (504, Some(1)), "{waits:?}");
    file.write(&[("pod-a", a, "draining"), ("pod-b", b, "ready")]);
    proxy.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "ready")]).await;
    assert_eq!(calls(&proxy, "where", None).await, [json!(["where", "pod-b:hello"])]);
    assert_eq!(ended(client).await, json!(["ended", "UNAVAILABLE", "podpin: the endpoint is leaving"]));
    leaving.said("Hold", "ended").await;
    let done = proxy.admin_get("/api/drain/wait?pod=pod-a&timeout=10s").await;
    assert_eq!(done.json()["streams"], 0, "{done:?}");
    let closed = [("reason", "drain")];
    proxy.wait_metric("podpin_streams_closed_total", &closed, 1.0).await;
    let line = proxy.access_log_line(|line| line["reason"] == "drain").await;
    assert_eq!((&line["grpcStatus"], &line["kind"]), (&json!(14), &json!("call")), "{line}");
}

#[tokio::test]
async fn a_pod_that_dies_ends_its_calls_in_words_and_the_next_ones_go_elsewhere() {
    let (dying, other) = (GrpcPod::start("pod-a").await, GrpcPod::start("pod-b").await);
    let file = EndpointsFile::with(&[("pod-a", dying.address, "ready")]);
    let proxy = Setup::new().service_in("chat", &file).with("protocol: grpc").h2c().start().await;
    let client = held(proxy.address.port()).await;
    let mut unanswered = script("grpc_calls.py", &[&proxy.address.port().to_string(), "slow"]);
    dying.said("Slow", "begun").await;
    file.write(&[("pod-a", dying.address, "ready"), ("pod-b", other.address, "ready")]);
    proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready")]).await;
    dying.process.signal(Signal::KILL);
    let broken = json!(["ended", "UNAVAILABLE", "podpin: the endpoint broke the call off"]);
    assert_eq!(ended(client).await, broken);
    // What a pod may have begun is not sent to another one.
    let broken = json!(["slow", "UNAVAILABLE", "podpin: the endpoint closed the connection"]);
    assert_eq!(lines(&mut unanswered, 1).await, [broken]);
    for _ in 0..3 {
        assert_eq!(calls(&proxy, "where", None).await, [json!(["where", "pod-b:hello"])]);
    }
    proxy.wait_metric("podpin_streams_active", &[], 0.0).await;
}

#[tokio::test]
async fn the_end_of_the_proxy_ends_calls_in_words() {
    let pod = GrpcPod::start("pod-a").await;
    let shutdown = "shutdown: {announce: 0s, spread: 200ms, timeout: 3s}";
    let mut proxy = setup(&[&pod]).top(shutdown).start().await;
    let client = held(proxy.address.port()).await;
    proxy.signal(Signal::TERM);
    let ended = ended(client).await;
    assert_eq!(ended[1], "UNAVAILABLE", "{ended}");
    assert_eq!(proxy.wait_exit().await, 0);
    pod.said("Hold", "ended").await;
}

#[tokio::test]
async fn calls_have_places_under_the_limits_and_give_them_back() {
    let pod = GrpcPod::start("pod-a").await;
    let proxy = setup(&[&pod]).with("limits: {streamsPerEndpoint: 1}").start().await;
    let client = held(proxy.address.port()).await;
    let full = json!(["echo", "UNAVAILABLE", "podpin: every endpoint is at its limit"]);
    assert_eq!(calls(&proxy, "echo", None).await, [full]);
    client.signal(Signal::KILL);
    proxy.wait_metric("podpin_streams_active", &[], 0.0).await;
    wait_for("a place", async || calls(&proxy, "echo", None).await == [json!(["echo", "OK", ""])]).await;
}
