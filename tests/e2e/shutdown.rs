//! SIGTERM: not ready, then gone, with exit code 0.

mod load;

use std::time::{Duration, Instant};

use podpin_testkit::{
    Answer, Connection, Ending, H2Connection, Item, Pod, Proxy, Request, Setup, Signal, wait_for,
};
use serde_json::Value;

/// Half an event is withheld from clients of streams that may move.
const HELD: &str = "drain: {handover: lastEventId}";

/// An event stream request at a pod that has not answered when the listener has been closed.
async fn waiting_while_we_leave(pod: &Pod, proxy: &Proxy) -> (Connection, podpin_testkit::PodStream) {
    pod.answer("/events", Answer::ByHand);
    let mut connection = proxy.connect().await;
    connection.send(Request::events("/events").bytes()).await;
    let stream = pod.next_stream().await;
    proxy.signal(Signal::TERM);
    wait_for("the listener to be closed", async || {
        tokio::net::TcpStream::connect(proxy.address).await.is_err()
    })
    .await;
    (connection, stream)
}

/// The lines of the access log about `/events`, after the process has ended.
fn logged(proxy: &Proxy) -> Vec<Value> {
    let lines =
        proxy.process.stdout().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    lines.filter(|line| line["path"] == "/events").collect()
}

#[tokio::test]
async fn sigterm_ends_the_process_with_exit_code_0() {
    let pod = Pod::start("pod-a").await;
    let mut proxy =
        Setup::chat(&[&pod]).top("shutdown: {announce: 0s, spread: 0s, timeout: 5s}").start().await;
    proxy.get("/").await;
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit().await, 0);
}

#[tokio::test]
async fn sighup_reads_the_configuration_again_and_ends_no_stream() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/events", Answer::Stream(podpin_testkit::StreamAnswer::new()));
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut client = Request::events("/events").open(proxy.address).await;
    let mut stream = pod.next_stream().await;
    proxy.reload_with("success", || proxy.signal(Signal::HUP)).await;
    stream.event("after").await;
    client.next_event().await;
    assert_eq!(proxy.admin_get("/readyz").await.status, 200);
}

#[tokio::test]
async fn while_it_announces_its_end_it_is_not_ready_and_still_serves() {
    let pod = Pod::start("pod-a").await;
    let mut proxy =
        Setup::chat(&[&pod]).top("shutdown: {announce: 3s, spread: 0s, timeout: 6s}").start().await;
    proxy.signal(Signal::TERM);
    podpin_testkit::wait_for("not ready", async || proxy.admin_get("/readyz").await.status == 503).await;
    assert_eq!(proxy.get("/").await.status, 200, "a new connection");
    assert_eq!(proxy.admin_get("/livez").await.status, 200);
    proxy.wait_metric("podpin_shutdown_in_progress", &[], 1.0).await;
    assert_eq!(proxy.wait_exit().await, 0);
}

#[tokio::test]
async fn open_streams_end_cleanly_between_events() {
    let pods = Pod::start_three().await;
    let mut proxy = Setup::chat(&[&pods[0]])
        .with(HELD)
        .top("shutdown: {announce: 0s, spread: 0s, timeout: 5s}")
        .start()
        .await;
    let mut client = Request::events("/events").open(proxy.address).await;
    client.next_event().await;
    let mut stream = pods[0].next_stream().await;
    stream.send("data: half").await;
    proxy.signal(Signal::TERM);
    let (_, ending) = client.rest().await;
    assert_eq!((ending, client.is_inside_event()), (Ending::Clean, false));
    assert_eq!(proxy.wait_exit().await, 0);
    let line = proxy.access_log_line(|line| line.get("path").is_some_and(|path| path == "/events")).await;
    assert_eq!(line.get("reason").and_then(|reason| reason.as_str()), Some("shutdown"), "{line}");
}

#[tokio::test]
async fn a_request_in_flight_is_finished() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/slow", podpin_testkit::Answer::ByHand);
    let mut proxy =
        Setup::chat(&[&pod]).top("shutdown: {announce: 0s, spread: 0s, timeout: 8s}").start().await;
    let mut connection = proxy.connect().await;
    connection.send(Request::get("/slow").bytes()).await;
    let mut answer = pod.next_stream().await;
    proxy.signal(Signal::TERM);
    podpin_testkit::wait_for("the shutdown to begin", async || {
        tokio::net::TcpStream::connect(proxy.address).await.is_err() || !proxy.is_ready().await
    })
    .await;
    answer.raw("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
    assert_eq!(connection.response("GET").await.text(), "done");
    assert_eq!(proxy.wait_exit().await, 0);
}

#[tokio::test]
async fn an_event_stream_that_still_waits_for_its_pod_begins_and_is_told_goodbye() {
    let pod = Pod::start("pod-a").await;
    let times = "shutdown: {announce: 0s, spread: 500ms, timeout: 8s}";
    let mut proxy = Setup::chat(&[&pod]).with(HELD).top(times).start().await;
    let (mut connection, mut stream) = waiting_while_we_leave(&pod, &proxy).await;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.raw(&format!("{head}d\r\ndata: whole\n\n\r\n8\r\ndata: ha\r\n")).await;
    let head = connection.head().await;
    assert_eq!(head.header("content-type"), Some("text/event-stream"), "{head:?}");
    let mut client = connection.into_events(head);
    assert_eq!(client.next_data().await, "whole");
    let (items, ending) = client.rest().await;
    assert!(matches!(items.as_slice(), [Item::Retry(500..=2_000)]), "{items:?}");
    assert_eq!((ending, client.is_inside_event()), (Ending::Clean, false));
    assert_eq!(proxy.wait_exit().await, 0);
    let lines = logged(&proxy);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((&lines[0]["reason"], &lines[0]["status"]), (&"shutdown".into(), &200.into()), "{lines:?}");
}

#[tokio::test]
async fn an_answer_to_a_post_that_has_shown_an_id_ends_politely_at_the_pace() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/mcp", Answer::Stream(podpin_testkit::StreamAnswer::new()));
    // Longer than any wait of a test: what is left to the end of the shutdown is a failure.
    let times = "shutdown: {announce: 0s, spread: 500ms, timeout: 1m}";
    let mut proxy = Setup::chat(&[&pod]).top(times).start().await;
    let mut client = Request::new("POST", "/mcp").body("{}").open(proxy.address).await;
    pod.next_stream().await.event_with_id("1", "half").await;
    assert_eq!(client.next_data().await, "half");
    proxy.signal(Signal::TERM);
    let (items, ending) = client.rest().await;
    assert!(matches!(items[..], [Item::Retry(500..=2_000)]), "{items:?}");
    assert_eq!(ending, Ending::Clean);
    assert_eq!(proxy.wait_exit().await, 0);
}

#[tokio::test]
async fn an_event_stream_whose_pod_never_answers_is_refused_and_logged_before_the_end() {
    let pod = Pod::start("pod-a").await;
    let times = "shutdown: {announce: 0s, spread: 0s, timeout: 8s}";
    let setup = Setup::chat(&[&pod]).with("timeouts: {responseHeader: 2s}").top(times);
    let mut proxy = setup.start().await;
    let (mut connection, _silent) = waiting_while_we_leave(&pod, &proxy).await;
    let refusal = connection.response("GET").await;
    assert_eq!((refusal.status, refusal.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(proxy.wait_exit().await, 0);
    let lines = logged(&proxy);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((&lines[0]["reason"], &lines[0]["status"]), (&"refused".into(), &200.into()), "{lines:?}");
}

#[tokio::test]
async fn streams_begun_while_it_announces_its_end_are_told_goodbye_within_the_spread() {
    let pods = Pod::start_three().await;
    let times = "shutdown: {announce: 1500ms, spread: 1s, timeout: 9s}";
    let mut proxy = Setup::chat(&[&pods[0]]).top(times).start().await;
    let mut clients = vec![Request::events("/events").open(proxy.address).await];
    proxy.signal(Signal::TERM);
    let told = Instant::now();
    wait_for("not ready", async || !proxy.is_ready().await).await;
    for _ in 0..3 {
        clients.push(Request::events("/events").open(proxy.address).await);
    }
    for client in &mut clients {
        assert_eq!(client.next_data().await, "pod-a");
        let (items, ending) = client.rest().await;
        assert!(matches!(items.as_slice(), [Item::Retry(500..=2_000)]), "{items:?}");
        assert_eq!(ending, Ending::Clean);
    }
    // 1.5 s and 1 s, and what a busy machine adds.
    assert!(told.elapsed() < Duration::from_millis(4_500), "after {:?}", told.elapsed());
    assert!(told.elapsed() >= Duration::from_millis(1_400), "after {:?}", told.elapsed());
    assert_eq!(proxy.wait_exit().await, 0);
    let lines = logged(&proxy);
    assert_eq!(lines.len(), clients.len(), "a line for every stream: {lines:?}");
    assert!(lines.iter().all(|line| line["reason"] == "shutdown"), "{lines:?}");
}

#[tokio::test]
async fn an_http_2_connection_without_a_stream_is_closed_while_others_are_still_served() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/slow", Answer::ByHand);
    // The process would take every connection with it, later than any wait of a test.
    let times = "shutdown: {announce: 0s, spread: 0s, timeout: 1m}";
    let mut proxy = Setup::chat(&[&pod]).top(times).h2c().start().await;
    let mut idle = H2Connection::open(proxy.address).await;
    assert_eq!(idle.send(&Request::get("/who")).await.status, 200);
    let mut busy = proxy.connect().await;
    busy.send(Request::get("/slow").bytes()).await;
    let mut stream = pod.next_stream().await;
    proxy.signal(Signal::TERM);
    idle.closed_by_server().await;
    stream.raw("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
    assert_eq!(busy.response("GET").await.text(), "done");
    assert_eq!(proxy.wait_exit().await, 0);
}
