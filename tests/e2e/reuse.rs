//! Connections to pods that are kept for the next request: how long, for which requests, and whose they are.

use podpin_testkit::{Answer, EndpointsFile, Pod, Proxy, Reply, Request, Setup};

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
async fn a_connection_goes_on_behind_an_offer_that_is_not_taken() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/no", Reply::new(426).body("no"));
    pod.answer("/chunked", Reply::new(200).body("no").chunked());
    let redirect = "{name: secure, hostnames: [secure], service: chat, redirect: {scheme: https}}";
    let route = "{name: all, service: chat}";
    let proxy = Setup::chat(&[&pod]).route(redirect).route(route).start().await;
    let mut connection = proxy.connect().await;
    let offers = [
        (Request::websocket("/no"), 426),
        (Request::websocket("/chunked"), 200),
        (Request::websocket("/no").host("secure"), 302),
        (Request::websocket("/no").body("x"), 426),
        (Request::websocket("/no").chunked(&["x"]), 426),
    ];
    for (offer, status) in offers {
        let response = connection.ask(&offer).await;
        let said = response.header("connection");
        assert!(response.status == status && said != Some("close"), "{said:?} {offer:?}");
        assert_eq!(connection.ask(&Request::get("/who")).await.text(), "pod-a");
        // The next request is there before the offer is answered.
        connection.send([offer.bytes(), Request::get("/who").bytes()].concat()).await;
        assert_eq!(connection.response("GET").await.status, status);
        assert_eq!(connection.response("GET").await.text(), "pod-a");
    }
    assert_eq!(connection.unread(), b"");
}

#[tokio::test]
async fn a_connection_ends_behind_an_offer_where_that_is_said() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/no", Reply::new(426).body("no"));
    let proxy = start(&pod, "retries: {attempts: 0}").await;
    let mut connection = proxy.connect().await;
    let response = connection.ask(&Request::websocket("/no").header("Connection", "close")).await;
    assert_eq!((response.status, response.header("connection")), (426, Some("close")));
    connection.ending().await;
}

#[tokio::test]
async fn what_follows_an_offer_that_is_taken_reaches_the_pod() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/ws", Answer::ByHand);
    let proxy = start(&pod, "retries: {attempts: 0}").await;
    let mut connection = proxy.connect().await;
    connection.send([Request::websocket("/ws").bytes(), b"early".to_vec()].concat()).await;
    let mut upgraded = pod.next_stream().await;
    connection.send("bird").await;
    upgraded
        .raw("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
        .await;
    assert!(connection.head().await.start_line.starts_with("HTTP/1.1 101"));
    assert_eq!(connection.raw(5).await, b"hello");
    drop(connection);
    upgraded.client_gone().await;
}

#[tokio::test]
async fn a_client_that_left_many_bytes_behind_is_noticed() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/slow", Answer::ByHand);
    let proxy = start(&pod, "timeouts: {responseHeader: off}").await;
    let behind = Request::get("/who").bytes().repeat(16 << 10);
    for request in
        [Request::get("/slow"), Request::new("POST", "/slow").body("x"), Request::websocket("/slow")]
    {
        let mut connection = proxy.connect().await;
        connection.send(request.bytes()).await;
        let mut stream = pod.next_stream().await;
        // More than is kept of it; the rest, and the end behind it, waits in the kernel.
        connection.send(&behind[..80 << 10]).await;
        drop(connection);
        stream.client_gone().await;
    }
}

#[tokio::test]
async fn kept_connections_to_pods_that_drain_or_are_gone_are_closed() {
    let [drained, gone, _] = &Pod::start_three().await;
    let pods = [drained, gone];
    for pod in pods {
        pod.answer("/by-hand", Answer::ByHand);
    }
    let file =
        EndpointsFile::with(&[("pod-a", drained.address(), "ready"), ("pod-b", gone.address(), "ready")]);
    let setup = Setup::new().service_in("chat", &file).with("timeouts: {keepAlive: 1h}");
    let proxy = setup.start().await;
    // Pinned before: a connection that is answered by hand answers nothing else.
    let visitors = [proxy.pinned_to("pod-a").await, proxy.pinned_to("pod-b").await];
    let mut kept = Vec::new();
    for (pod, mut visitor) in pods.into_iter().zip(visitors) {
        let asked = tokio::spawn(async move { visitor.get("/by-hand").await });
        let mut stream = pod.next_stream().await;
        stream.raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx").await;
        assert_eq!(asked.await.unwrap().text(), "x");
        kept.push(stream);
    }
    assert!(kept.iter().all(|stream| !stream.is_client_gone()));
    file.write(&[("pod-a", drained.address(), "draining")]);
    for stream in &mut kept {
        stream.client_gone().await;
    }
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
