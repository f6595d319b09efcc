//! `GET /api/drain/wait`: what a pod's preStop hook asks.

use std::time::{Duration, Instant};

use podpin_testkit::{
    Answer, ApiServer, EndpointsFile, Pod, Proxy, Request, Response, Setup, Slice, SlicePod, start_pods,
};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::crowd::{BALANCE, Client, listed};

/// Asks in a task of its own; for the answer and when it came.
fn ask(proxy: &Proxy, query: &str) -> JoinHandle<(Response, Instant)> {
    let request = Request::get(&format!("/api/drain/wait?{query}")).header("Connection", "close");
    let admin = proxy.admin;
    tokio::spawn(async move { (request.send(admin).await, Instant::now()) })
}

fn assert_free(response: &Response, pod: &str) {
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json(), json!({"pod": pod, "streams": 0}));
}

#[tokio::test]
async fn a_pod_that_is_unknown_or_has_no_stream_is_answered_at_once() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0], &pods[1]]).with(BALANCE).start().await;
    let _client = Client::on(&proxy, "pod-b").await;
    for pod in ["pod-a", "pod-z", "1f2e-uid"] {
        // An hour is far beyond the patience of the test.
        assert_free(&proxy.admin_get(&format!("/api/drain/wait?pod={pod}&timeout=1h")).await, pod);
        assert_free(&proxy.admin_get(&format!("/api/drain/wait?pod={pod}")).await, pod);
    }
}

#[tokio::test]
async fn it_answers_when_the_last_stream_has_left_and_not_before() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0], &pods[1]]).with(BALANCE).start().await;
    let first = Client::on(&proxy, "pod-a").await;
    let last = Client::on(&proxy, "pod-a").await;
    let _other = Client::on(&proxy, "pod-b").await;
    let asked = ask(&proxy, "pod=pod-a&timeout=1h");
    // The wait has begun when a second one has been through its first look.
    let held = proxy.admin_get("/api/drain/wait?pod=pod-a&timeout=100ms").await;
    assert_eq!((held.status, held.json()), (504, json!({"pod": "pod-a", "streams": 2})));
    drop(first);
    proxy.wait_metric("podpin_streams_active", &[("endpoint", "pod-a")], 1.0).await;
    let held = proxy.admin_get("/api/drain/wait?pod=pod-a&timeout=100ms").await;
    assert_eq!((held.status, held.json()), (504, json!({"pod": "pod-a", "streams": 1})));
    assert!(!asked.is_finished());
    let left = Instant::now();
    drop(last);
    let (answer, at) = asked.await.unwrap();
    assert_free(&answer, "pod-a");
    assert!(at >= left);
}

#[tokio::test]
async fn at_the_timeout_it_says_how_many_are_left() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0]]).start().await;
    let _client = Client::of(&proxy).await;
    for (timeout, least) in [("0s", 0), ("400ms", 400)] {
        let began = Instant::now();
        let answer = proxy.admin_get(&format!("/api/drain/wait?pod=pod-a&timeout={timeout}")).await;
        assert_eq!((answer.status, answer.json()), (504, json!({"pod": "pod-a", "streams": 1})), "{timeout}");
        assert!(began.elapsed() >= Duration::from_millis(least), "{timeout}: after {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_pod_is_known_by_its_uid_too() {
    let api = ApiServer::start().await;
    let kubeconfig = api.kubeconfig();
    let pods = start_pods(&["pod-a", "pod-b"]).await;
    let slice = Slice::of("chat", pods[0].address().port());
    api.put(&slice.pods(pods.iter().map(SlicePod::of)));
    let setup =
        Setup::new().service_from("chat", "{kubernetes: {namespace: lab, service: chat, port: http}}");
    let proxy = setup.with(BALANCE).top(&kubeconfig.setting()).start().await;
    let client = Client::on(&proxy, "pod-a").await;
    assert_free(&proxy.admin_get("/api/drain/wait?pod=uid-pod-b&timeout=1h").await, "uid-pod-b");
    let held = proxy.admin_get("/api/drain/wait?pod=uid-pod-a&timeout=0s").await;
    assert_eq!((held.status, held.json()), (504, json!({"pod": "uid-pod-a", "streams": 1})));
    let asked = ask(&proxy, "pod=uid-pod-a&timeout=1h");
    drop(client);
    assert_free(&asked.await.unwrap().0, "uid-pod-a");
}

#[tokio::test]
async fn a_pod_that_is_no_longer_listed_is_waited_for_while_its_streams_are_open() {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&listed(&pods, &["ready"; 3]));
    let setup = Setup::new().service_in("chat", &file).with(BALANCE);
    let proxy = setup.with("drain: {spread: 3s, timeout: 5s}").start().await;
    let client = Client::on(&proxy, "pod-a").await;
    file.write(&listed(&pods[1..], &["ready"; 2]));
    proxy.wait_endpoints("chat", &[("pod-b", "ready"), ("pod-c", "ready")]).await;
    let held = proxy.admin_get("/api/drain/wait?pod=pod-a&timeout=0s").await;
    assert_eq!((held.status, held.json()), (504, json!({"pod": "pod-a", "streams": 1})));
    let asked = ask(&proxy, "pod=pod-a&timeout=1h");
    let left = client.left().await;
    left.goodbye();
    assert_free(&asked.await.unwrap().0, "pod-a");
}

#[tokio::test]
async fn a_pod_of_two_services_is_waited_for_in_both() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0]]).service("news", &[&pods[0]]);
    let setup = setup.route("{name: n, service: news, matches: [{path: {type: PathPrefix, value: /news}}]}");
    let proxy = setup.route("{name: c, service: chat}").start().await;
    let one = Request::events("/events").open(proxy.address).await;
    let other = Request::events("/news").open(proxy.address).await;
    let asked = ask(&proxy, "pod=pod-a&timeout=1h");
    drop(one);
    proxy.wait_metric("podpin_streams_active", &[("service", "chat")], 0.0).await;
    let held = proxy.admin_get("/api/drain/wait?pod=pod-a&timeout=100ms").await;
    assert_eq!((held.status, held.json()), (504, json!({"pod": "pod-a", "streams": 1})));
    assert!(!asked.is_finished());
    drop(other);
    assert_free(&asked.await.unwrap().0, "pod-a");
}

#[tokio::test]
async fn a_stream_that_still_waits_for_its_pod_counts() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/events", Answer::ByHand);
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut connection = proxy.connect().await;
    connection.send(Request::events("/events").bytes()).await;
    let _silent = pod.next_stream().await;
    assert_eq!(proxy.admin_get("/api/drain/wait?pod=pod-a&timeout=0s").await.status, 504);
    let asked = ask(&proxy, "pod=pod-a&timeout=1h");
    drop(connection);
    assert_free(&asked.await.unwrap().0, "pod-a");
}

#[tokio::test]
async fn what_makes_no_sense_is_400() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let bad = [
        "",
        "pod=",
        "timeout=1s",
        "pod=pod-a&timeout=soon",
        "pod=pod-a&timeout=5",
        "pod=pod-a&timeout=-1s",
        "pod=pod-a&timeout=25h",
        "pod=pod-a&timeout=",
        "pod=pod-a&timout=1s",
    ];
    for query in bad {
        let answer = proxy.admin_get(&format!("/api/drain/wait?{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        assert!(answer.json()["error"].is_string(), "{query}");
    }
    let post = Request::new("POST", "/api/drain/wait?pod=pod-a").header("Connection", "close").body("");
    assert_eq!(post.send(proxy.admin).await.status, 405);
}
