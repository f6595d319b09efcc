//! Connections to pods that are kept for the next request: how long, for which requests, and whose they are.

use podpin_testkit::{Answer, Pod, Proxy, Reply, Request, Setup};

async fn start(pod: &Pod, line: &str) -> Proxy {
    // Each worker has a pool of its own.
    Setup::chat(&[pod]).top("workers: 1").with("health: {passive: off}").with(line).start().await
}

#[tokio::test]
async fn a_connection_is_kept_as_long_as_the_key_and_the_pod_say() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/short", Reply::new(200).header("Keep-Alive", "timeout=1, max=100"));
    let proxy = start(&pod, "timeouts: {keepAlive: 1h}").await;
    for (path, connections) in [("/who", 1), ("/who", 1), ("/short", 1), ("/who", 2), ("/who", 2)] {
        proxy.get(path).await;
        assert_eq!(pod.connections(), connections, "{path}");
    }
    let proxy = start(&pod, "timeouts: {keepAlive: off}").await;
    for connections in [3, 4] {
        proxy.get("/who").await;
        assert_eq!(pod.connections(), connections, "none is kept");
    }
}

#[tokio::test]
async fn a_connection_that_is_old_carries_nothing_that_must_not_be_sent_twice() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod])
        .top("workers: 1")
        .with("timeouts: {keepAlive: 1h}")
        .with("sse: {keepAlive: 1s}")
        .start()
        .await;
    proxy.get("/who").await;
    assert_eq!(Request::new("POST", "/who").body("x").send(proxy.address).await.status, 200);
    assert_eq!(pod.connections(), 1, "it was used just now");
    proxy.pass_keep_alives("/clock", 2).await;
    let before = pod.connections();
    assert_eq!(Request::new("POST", "/who").body("x").send(proxy.address).await.status, 200);
    assert_eq!(pod.connections(), before + 1);
    proxy.get("/who").await;
    assert_eq!(pod.connections(), before + 1, "a GET takes a kept one");
}

#[tokio::test]
async fn a_connection_on_which_a_client_authenticated_is_given_to_no_other() {
    let pod = Pod::start("pod-a").await;
    pod.answer(
        "/challenge",
        Reply::new(401).header("WWW-Authenticate", "Basic").header("WWW-Authenticate", "NTLM"),
    );
    let proxy = start(&pod, "timeouts: {keepAlive: 1h}").await;
    let personal = [
        Request::get("/who").header("Authorization", "NTLM TlRMTVNTUAAB"),
        Request::get("/who").header("Authorization", "negotiate oYG2"),
        Request::get("/challenge"),
    ];
    for (at, request) in personal.iter().enumerate() {
        request.send(proxy.address).await;
        assert_eq!(pod.connections(), at + 1, "{request:?}");
    }
    proxy.get("/who").await;
    assert_eq!(pod.connections(), 4, "none of these");
    Request::get("/who").header("Authorization", "Bearer x").send(proxy.address).await;
    assert_eq!(pod.connections(), 4, "credentials of a request");
}

#[tokio::test]
async fn the_answer_to_an_offer_that_is_not_taken_says_that_the_connection_closes() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/no", Reply::new(426).body("no"));
    let proxy = start(&pod, "retries: {attempts: 0}").await;
    let response = Request::websocket("/no").send(proxy.address).await;
    assert_eq!((response.status, response.header("connection")), (426, Some("close")));
}

#[tokio::test]
async fn a_refused_head_is_in_the_access_log() {
    let pod = Pod::start("pod-a").await;
    let proxy = start(&pod, "retries: {attempts: 0}").await;
    let mut connection = proxy.connect().await;
    connection.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    assert_eq!(connection.response("GET").await.status, 400);
    let line = proxy.access_log_line(|line| line["status"] == 400).await;
    assert_eq!((&line["reason"], &line["client"]), (&"error".into(), &"127.0.0.1".into()), "{line}");
    assert!(line["error"].as_str().is_some_and(|error| error.contains("Host")), "{line}");
}

#[tokio::test]
async fn the_access_log_says_that_podpin_cut_a_response_and_why() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/silent", Answer::ByHand);
    let proxy = start(&pod, "timeouts: {upstreamIdle: 200ms}").await;
    let mut connection = proxy.connect().await;
    connection.send(Request::get("/silent").bytes()).await;
    let mut stream = pod.next_stream().await;
    stream.raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
    assert!(connection.try_response("GET").await.is_ok_and(|response| response.text() == "half"));
    let line = proxy.access_log_line(|line| line["path"] == "/silent").await;
    assert_eq!(line["reason"], "idle", "{line}");
    assert!(line["error"].as_str().is_some_and(|error| error.contains("silent")), "{line}");
}
