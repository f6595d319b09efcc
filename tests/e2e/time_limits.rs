//! Limits of time end what they are meant for, and nothing that is only silent.
//!
//! Silence is measured by the proxy itself: the keep-alive comments of another stream say that it has passed.

use std::time::{Duration, Instant};

use podpin_testkit::{
    Answer, Ending, H2_PREFACE, H2_SETTINGS, H2Connection, Pod, Proxy, Reply, Request, Setup,
};

const ERRORS: &str = "podpin_upstream_errors_total";

/// A proxy with one pod whose heads must come within half a second, and keep-alive comments every second.
fn impatient(pod: &Pod) -> Setup {
    pod.answer("/slow", Answer::ByHand);
    Setup::chat(&[pod])
        .with("timeouts: {responseHeader: 500ms}")
        .with("sse: {keepAlive: 1s}")
        .with("health: {passive: {failures: 1, ejection: 60s}}")
        .top("limits: {requestBodyTimeout: 200ms}")
}

/// No failure of the pod was counted, and it was not ejected.
async fn nothing_is_held_against_the_pod(proxy: &Proxy) {
    let metrics = proxy.metrics().await;
    assert_eq!(metrics.sum(ERRORS, &[]), 0.0);
    assert_eq!(metrics.sum("podpin_endpoint_ejections_total", &[]), 0.0);
    assert_eq!(proxy.endpoints("chat").await[0]["ejected"], false);
}

#[tokio::test]
async fn a_websocket_stays_open_through_silence_longer_than_any_limit_of_a_request() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/ws", Answer::WebSocketEcho);
    let proxy = impatient(&pod).start().await;
    let mut silent_from_the_start = proxy.connect().await;
    assert_eq!(silent_from_the_start.ask(&Request::websocket("/ws")).await.status, 101);
    let mut silent_later = proxy.connect().await;
    assert_eq!(silent_later.ask(&Request::websocket("/ws")).await.status, 101);
    silent_later.send("first").await;
    assert_eq!(silent_later.raw(5).await, b"first");
    proxy.pass_keep_alives("/clock", 2).await;
    for connection in [&mut silent_from_the_start, &mut silent_later] {
        connection.send("after").await;
        assert_eq!(connection.raw(5).await, b"after");
    }
    nothing_is_held_against_the_pod(&proxy).await;
}

#[tokio::test]
async fn a_websocket_whose_pod_speaks_first_after_long_silence_is_heard() {
    let pod = Pod::start("pod-a").await;
    let proxy = impatient(&pod).start().await;
    let mut connection = proxy.connect().await;
    connection.send(Request::websocket("/slow").bytes()).await;
    let mut stream = pod.next_stream().await;
    stream.raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").await;
    assert!(connection.head().await.start_line.starts_with("HTTP/1.1 101"));
    proxy.pass_keep_alives("/clock", 2).await;
    stream.raw("\x01\x05hello").await;
    assert_eq!(connection.raw(7).await, b"\x01\x05hello");
    nothing_is_held_against_the_pod(&proxy).await;
}

#[tokio::test]
async fn a_response_that_pauses_in_its_body_is_not_cut() {
    let pod = Pod::start("pod-a").await;
    let proxy = impatient(&pod).start().await;
    let framings = [
        ("Content-Length: 8\r\n\r\nhalf", "full"),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "4\r\nfull\r\n0\r\n\r\n"),
    ];
    let requests = [Request::get("/slow"), Request::new("POST", "/slow").body("x")];
    let mut paused = Vec::new();
    for (request, (first, second)) in requests.iter().flat_map(|one| framings.map(|framing| (one, framing))) {
        let mut connection = proxy.connect().await;
        connection.send(request.bytes()).await;
        let mut stream = pod.next_stream().await;
        stream.raw(&format!("HTTP/1.1 200 OK\r\n{first}")).await;
        paused.push((connection, stream, request.method(), second));
    }
    proxy.pass_keep_alives("/clock", 2).await;
    for (mut connection, mut stream, method, second) in paused {
        assert!(stream.try_raw(second.as_bytes()).await, "{method}: the pod was left");
        let response = connection.response(method).await;
        assert_eq!((response.status, response.text().as_str()), (200, "halffull"), "{method}");
        assert_eq!(response.ending, Ending::Clean, "{method}");
    }
    nothing_is_held_against_the_pod(&proxy).await;
}

#[tokio::test]
async fn a_response_that_pauses_in_its_body_is_not_cut_over_http_2() {
    let pod = Pod::start("pod-a").await;
    let proxy = impatient(&pod).h2c().start().await;
    let mut connection = H2Connection::open(proxy.address).await;
    let request = Request::get("/slow");
    let asking = connection.open_stream(&request);
    let answering = async {
        let mut stream = pod.next_stream().await;
        stream.raw("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await;
        stream
    };
    let ((status, mut response), mut stream) = tokio::join!(asking, answering);
    assert_eq!(status, 200);
    proxy.pass_keep_alives("/clock", 2).await;
    assert!(stream.try_raw(b"full").await, "the pod was left");
    let (_, ending) = response.rest().await;
    assert_eq!((response.text().as_str(), ending), ("halffull", Ending::Clean));
    nothing_is_held_against_the_pod(&proxy).await;
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_is_a_504_whatever_was_asked() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/slow", Answer::ByHand);
    let proxy = Setup::chat(&[&pod])
        .with("timeouts: {responseHeader: 500ms}")
        .with("health: {passive: off}")
        .start()
        .await;
    let requests = [
        Request::get("/slow"),
        Request::new("HEAD", "/slow"),
        Request::new("POST", "/slow").body("abc"),
        Request::new("POST", "/slow").chunked(&["ab", "c"]),
        Request::websocket("/slow"),
        Request::get("/slow").http10(),
    ];
    let mut count = 0.0;
    for request in &requests {
        let mut connection = proxy.connect().await;
        connection.send(request.bytes()).await;
        let mut stream = pod.next_stream().await;
        assert_eq!(connection.response(request.method()).await.status, 504, "{request:?}");
        stream.client_gone().await;
        count += 1.0;
        proxy.wait_metric(ERRORS, &[("service", "chat"), ("kind", "timeout")], count).await;
    }
    assert_eq!(proxy.metric(ERRORS, &[]).await, count, "counted as something else as well");
    assert_eq!(proxy.metric("podpin_upstream_retries_total", &[]).await, 0.0);
}

#[tokio::test]
async fn an_interim_response_does_not_put_the_head_off() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/slow", Answer::ByHand);
    let proxy = Setup::chat(&[&pod]).with("timeouts: {responseHeader: 500ms}").start().await;
    let mut connection = proxy.connect().await;
    connection.send(Request::get("/slow").bytes()).await;
    let mut stream = pod.next_stream().await;
    stream.raw("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await;
    assert_eq!(connection.response("GET").await.status, 504);
    proxy.wait_metric(ERRORS, &[("kind", "timeout")], 1.0).await;
}

#[tokio::test]
async fn an_http_2_connection_without_a_request_is_closed_when_a_head_is_due() {
    let pod = Pod::start("pod-a").await;
    // The other limit is its default, a minute: longer than any wait of a test.
    let proxy = Setup::chat(&[&pod]).top("limits: {requestHeaderTimeout: 300ms}").h2c().start().await;
    for opening in [H2_PREFACE.to_vec(), [H2_PREFACE, H2_SETTINGS].concat()] {
        let mut connection = proxy.connect().await;
        connection.send(&opening).await;
        connection.ending().await;
    }
    proxy.wait_metric("podpin_connections_active", &[("listener", "http")], 0.0).await;
}

#[tokio::test]
async fn an_idle_http_2_connection_is_kept_as_long_as_the_limit_says() {
    let pod = Pod::start("pod-a").await;
    let limits = "limits: {requestHeaderTimeout: 100ms, keepAliveTimeout: 1s}";
    let proxy = Setup::chat(&[&pod]).top(limits).h2c().start().await;
    for request in [Request::get("/who"), Request::events("/no-events")] {
        pod.answer("/no-events", Reply::new(404));
        let mut connection = H2Connection::open(proxy.address).await;
        let asked = Instant::now();
        connection.send(&request).await;
        connection.closed_by_server().await;
        assert!(asked.elapsed() >= Duration::from_millis(950), "closed after {:?}", asked.elapsed());
    }
    proxy.wait_metric("podpin_connections_active", &[("listener", "http")], 0.0).await;
}

#[tokio::test]
async fn an_http_2_connection_with_a_silent_event_stream_is_kept() {
    let pod = Pod::start("pod-a").await;
    let setup = Setup::new().service("quiet", &[&pod]).with("sse: {keepAlive: off}").service("loud", &[&pod]);
    let proxy = setup
        .with("sse: {keepAlive: 1s}")
        .route("{name: q, service: quiet, matches: [{path: {type: PathPrefix, value: /quiet}}]}")
        .route("{name: l, service: loud}")
        .top("limits: {requestHeaderTimeout: 100ms, keepAliveTimeout: 1s}")
        .h2c()
        .start()
        .await;
    let mut connection = H2Connection::open(proxy.address).await;
    let mut client = connection.events(&Request::events("/quiet")).await;
    let mut stream = pod.next_stream().await;
    proxy.pass_keep_alives("/clock", 3).await;
    stream.event("still here").await;
    assert_eq!(client.next_data().await, "still here");
    let ended = Instant::now();
    stream.finish().await;
    assert_eq!(client.next().await, Err(Ending::Clean));
    connection.closed_by_server().await;
    assert!(ended.elapsed() >= Duration::from_millis(950), "closed after {:?}", ended.elapsed());
}
