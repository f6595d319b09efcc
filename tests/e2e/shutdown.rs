//! SIGTERM: not ready, then gone, with exit code 0.

use podpin_testkit::{Ending, Pod, Request, Setup, Signal};

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
    let mut proxy =
        Setup::chat(&[&pods[0]]).top("shutdown: {announce: 0s, spread: 0s, timeout: 5s}").start().await;
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
