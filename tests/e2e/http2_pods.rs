//! Pods that speak HTTP/2 and do odd things with it, for ordinary requests of HTTP/1.1 and HTTP/2 clients.

use std::net::SocketAddr;

use podpin_testkit::{Ending, H2Connection, Pod, Proxy, Request, Response, Setup, wait_for};
use serde_json::Value;

use crate::grpc::GrpcPod;
use crate::python_sdks::script;

/// A pod with these settings, and a proxy before it.
async fn scene(settings: &[&str]) -> (GrpcPod, Proxy) {
    let pod = GrpcPod::of(script("h2_pod.py", settings)).await;
    let proxy = setup(pod.address).start().await;
    (pod, proxy)
}

fn setup(address: SocketAddr) -> Setup {
    Setup::new().service_at("chat", &[("pod-a", address)]).with("protocol: h2c").h2c()
}

/// The answers over HTTP/1.1 and over HTTP/2.
async fn both(proxy: &Proxy, request: &Request) -> [Response; 2] {
    let mut h2 = H2Connection::open(proxy.address).await;
    [request.send(proxy.address).await, h2.send(request).await]
}

/// How often a pod was asked for `path`.
fn asked(pod: &GrpcPod, path: &str) -> usize {
    lines_of(pod, path).iter().filter(|line| line["fields"].is_object()).count()
}

/// The lines of a pod about requests for `path`.
fn lines_of(pod: &GrpcPod, path: &str) -> Vec<Value> {
    let lines = pod.process.stdout().into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
    lines.filter(|line| line["path"] == path).collect()
}

#[tokio::test]
async fn a_request_that_was_not_processed_is_sent_again_and_no_other() {
    let (pod, proxy) = scene(&[]).await;
    for path in ["/goaway", "/refused"] {
        let sent = Request::new("POST", path).body("hello").send(proxy.address).await;
        assert_eq!(sent.status, 200, "{path}");
        assert!(sent.text().ends_with(" 5"), "all of the body, again: {}", sent.text());
    }
    for answer in both(&proxy, &Request::get("/always-refused")).await {
        assert_eq!(answer.status, 502);
    }
    assert_eq!(asked(&pod, "/always-refused"), 4, "twice each");
    let reset = Request::new("POST", "/reset").body("hello").send(proxy.address).await;
    assert_eq!((reset.status, asked(&pod, "/reset")), (502, 1));
}

#[tokio::test]
async fn trailers_pass_both_ways_but_for_those_that_could_frame_or_forge() {
    let (pod, proxy) = scene(&[]).await;
    let mut h2 = H2Connection::open(proxy.address).await;
    let mut request = h2.begin(&Request::new("POST", "/trailers").header("TE", "trailers")).await;
    assert!(request.body.send(b"ok").await);
    request.body.finish_with_trailer("x-sum", "abc");
    assert_eq!(request.trailers().await, [("x-sum".to_owned(), "abc".to_owned())]);
    assert_eq!(lines_of(&pod, "/trailers")[0]["fields"]["te"], "trailers");
    let sent = lines_of(&pod, "/trailers").into_iter().find(|line| line["trailers"].is_array()).unwrap();
    assert_eq!(sent["trailers"], serde_json::json!([["x-sum", "abc"]]));
}

#[tokio::test]
async fn a_response_that_breaks_off_or_breaks_a_rule_is_no_whole_one() {
    let (_pod, proxy) = scene(&[]).await;
    for path in ["/many-fields", "/two-lengths"] {
        for answer in both(&proxy, &Request::get(path)).await {
            assert_eq!(answer.status, 502, "{path}");
        }
    }
    for path in ["/reset-late", "/cut", "/huge-trailers", "/wrong-length"] {
        let answer = Request::get(path).send(proxy.address).await;
        assert_ne!(answer.ending, Ending::Clean, "{path}: {answer:?}");
    }
    let answers = both(&proxy, &Request::get("/no-content")).await;
    assert_eq!(answers.map(|answer| answer.status), [204, 204]);
}

#[tokio::test]
async fn few_streams_small_windows_and_late_settings_hold_nobody_up() {
    for settings in [&["streams=1"][..], &["window=100"], &["late=1", "streams=1"]] {
        let (pod, proxy) = scene(settings).await;
        let mut h2 = H2Connection::open(proxy.address).await;
        let (status, _held) = h2.open_stream(&Request::get("/hold")).await;
        assert_eq!(status, 200);
        for _ in 0..3 {
            let sent = h2.send(&Request::new("POST", "/upload").body(vec![b'x'; 30_000])).await;
            assert!(sent.status == 200 && sent.text().ends_with(" 30000"), "{settings:?}: {sent:?}");
        }
        drop(pod);
    }
}

#[tokio::test]
async fn a_response_that_comes_before_the_request_is_over_is_whole() {
    let (_pod, proxy) = scene(&[]).await;
    let answer = Request::new("POST", "/early").body(vec![b'x'; 3_000_000]).send(proxy.address).await;
    assert_eq!((answer.status, &*answer.text()), (200, "early"));
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_stream_and_no_other() {
    let (pod, proxy) = scene(&[]).await;
    let mut h2 = H2Connection::open(proxy.address).await;
    let (_, kept) = h2.open_stream(&Request::get("/hold?kept")).await;
    let (_, left) = h2.open_stream(&Request::get("/hold?left")).await;
    drop(left);
    let reset = |path| lines_of(&pod, path).iter().any(|line| line["reset"] == 8);
    wait_for("the cancel", async || reset("/hold?left")).await;
    assert!(!reset("/hold?kept"));
    drop(kept);
    wait_for("the other", async || reset("/hold?kept")).await;
}

#[tokio::test]
async fn an_event_stream_is_one_whatever_its_pod_speaks() {
    let pod = GrpcPod::of(script("h2_pod.py", &[])).await;
    let drain = "drain: {timeout: 2s, spread: 100ms}";
    let keep_alive = "sse: {keepAlive: 1s}";
    let proxy = setup(pod.address).with(drain).with(keep_alive).start().await;
    let mut h2 = H2Connection::open(proxy.address).await;
    let mut events = h2.events(&Request::get("/events")).await;
    assert_eq!(events.next_data().await, "one");
    proxy.wait_metric("podpin_streams_active", &[], 1.0).await;
    proxy.wait_metric_at_least("podpin_stream_keepalives_total", &[], 1.0).await;
    let ordered = Request::new("POST", "/api/endpoints/chat/pod-a/drain").body("").send(proxy.admin).await;
    assert_eq!(ordered.status, 200);
    // A goodbye, and not a reset.
    let (_, ending) = events.rest().await;
    assert!(ending == Ending::Clean && events.text().contains("retry: "), "{ending:?} {}", events.text());
    wait_for("the cancel", async || lines_of(&pod, "/events").iter().any(|line| line["reset"] == 8)).await;
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "drain")], 1.0).await;
}

#[tokio::test]
async fn a_response_to_head_has_no_body_whatever_its_pod_sends() {
    let (_pod, proxy) = scene(&[]).await;
    let mut connection = proxy.connect().await;
    for _ in 0..2 {
        connection.send("HEAD /ok HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = connection.response("HEAD").await;
        assert_eq!((head.status, head.header("transfer-encoding")), (200, None));
        connection.send("GET /ok HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = connection.response("GET").await;
        assert!(answer.status == 200 && answer.text().ends_with(" 0"), "{answer:?}");
    }
}

#[tokio::test]
async fn another_protocol_is_not_offered_to_a_pod_that_speaks_http_2() {
    let (pod, proxy) = scene(&[]).await;
    assert_eq!(Request::websocket("/ok").send(proxy.address).await.status, 501);
    assert_eq!(asked(&pod, "/ok"), 0);
}

#[tokio::test]
async fn a_pod_without_http_2_is_one_that_cannot_be_reached() {
    let pod = Pod::start("pod-a").await;
    // It answers the preface in HTTP/1.1.
    let proxy = setup(pod.address()).start().await;
    let answer = Request::get("/").send(proxy.address).await;
    assert_eq!(answer.status, 502);
}
