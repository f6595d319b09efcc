//! Heads that two parsers could read differently, and heads without end: no client gets them through.

use std::time::Instant;

use podpin_testkit::{Ending, PATIENCE, Pod, Proxy, Request, Setup};

/// A request that must never reach a pod as one of its own.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends raw bytes: the status of the answer, after which the connection must have been closed.
async fn refused(proxy: &Proxy, bytes: &[u8]) -> u16 {
    let mut connection = proxy.connect().await;
    connection.send(bytes).await;
    let status = connection.try_response("GET").await.map_or(0, |response| response.status);
    connection.ending().await;
    status
}

/// A good request behind the bad ones: nothing else may have come.
async fn only_the_good_one_came(proxy: &Proxy, pod: &Pod) {
    assert_eq!(proxy.get("/good").await.status, 200);
    assert_eq!(pod.targets(), ["/good"]);
}

#[tokio::test]
async fn heads_that_parsers_disagree_about_are_refused_and_closed() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let heads = [
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 38\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /x HTTP/1.1\nHost: a\n\n",
        "GET /x HTTP/1.1\r\nHost: a\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nX: y\r\n\tfolded\r\n\r\n",
        "GET /x HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n",
        "GET /x\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n",
        "GET /x HTTP/1.1\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET  /x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /x y HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /x HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET /x\r\nHost: a\r\n\r\n",
        "GET x HTTP/1.1\r\nHost: a\r\n\r\n",
        "G@T /x HTTP/1.1\r\nHost: a\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\r\n\r\n",
    ];
    let mut wrong = Vec::new();
    for head in heads {
        for accept in ["", "Accept: text/event-stream\r\n"] {
            // The field goes in front of the first one, where it changes nothing about the flaw.
            let head = head.replacen("Host: a\r\n", &format!("{accept}Host: a\r\n"), 1);
            let status = refused(&proxy, [head.as_bytes(), SMUGGLED.as_bytes()].concat().as_slice()).await;
            wrong.extend((status != 400).then(|| format!("{status} for {head:?}")));
        }
    }
    assert!(wrong.is_empty(), "not refused with 400:\n{}", wrong.join("\n"));
    only_the_good_one_came(&proxy, &pod).await;
}

#[tokio::test]
async fn an_authority_that_is_not_a_host_and_port_is_refused() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let bad = ["u@app", "u:p@app", "@app", "x\";for=6.6.6.6;host=\"y", "a\\b", "\\", "a,b", ","];
    let mut heads: Vec<_> =
        bad.iter().map(|bad| format!("GET http://{bad}/x HTTP/1.1\r\nHost: app\r\n")).collect();
    heads.extend(bad.iter().map(|bad| format!("GET /x HTTP/1.1\r\nHost: {bad}\r\n")));
    heads.extend(bad.iter().map(|bad| format!("GET http://app/x HTTP/1.1\r\nHost: {bad}\r\n")));
    for empty in ["http:///x", "http://", "http://?x", "HTTP:///x", "https:///x"] {
        heads.push(format!("GET {empty} HTTP/1.1\r\nHost: app\r\n"));
    }
    let mut wrong = Vec::new();
    for head in heads {
        for accept in ["", "Accept: text/event-stream\r\n"] {
            let status = refused(&proxy, format!("{head}{accept}\r\n{SMUGGLED}").as_bytes()).await;
            wrong.extend((status != 400).then(|| format!("{status} for {head:?} {accept:?}")));
        }
    }
    assert!(wrong.is_empty(), "not refused with 400:\n{}", wrong.join("\n"));
    only_the_good_one_came(&proxy, &pod).await;
}

#[tokio::test]
async fn a_bad_chunk_in_the_segment_of_the_head_is_a_400() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let bodies = [
        "xyz\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\nnonsense\r\n",
    ];
    let mut wrong = Vec::new();
    for body in bodies {
        let head = "POST /broken HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let status = refused(&proxy, [head, body, SMUGGLED].concat().as_bytes()).await;
        wrong.extend((status != 400).then(|| format!("{status} for {body:?}")));
    }
    assert!(wrong.is_empty(), "not refused with 400:\n{}", wrong.join("\n"));
    assert_eq!(proxy.get("/good").await.status, 200);
    for request in pod.requests() {
        let broken = request.target == "/broken" && request.body_ending != Ending::Clean;
        assert!(broken || request.target == "/good", "{request:?}");
    }
    assert_eq!(proxy.metric("podpin_upstream_errors_total", &[]).await, 0.0, "it was not the pod's fault");
}

#[tokio::test]
async fn what_is_not_served_at_all_is_refused() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let cases = [
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("GET / HTTP/3.7\r\nHost: a\r\n\r\n", 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ];
    for (head, expected) in cases {
        let status = refused(&proxy, head.as_bytes()).await;
        assert!(status == expected || status == 400, "{head:?}: {status}");
    }
    only_the_good_one_came(&proxy, &pod).await;
}

#[tokio::test]
async fn a_body_that_breaks_its_chunks_is_never_a_whole_request() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let bodies = [
        "xyz\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "\r\n\r\n0\r\n\r\n",
    ];
    let mut wrong = Vec::new();
    for body in bodies {
        let mut connection = proxy.connect().await;
        let head = "POST /broken HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        connection.send([head, body, SMUGGLED].concat()).await;
        if let Ok(response) = connection.try_response("POST").await {
            let refused = (400..500).contains(&response.status);
            wrong.extend((!refused).then(|| format!("{} for {body:?}", response.status)));
        }
        connection.ending().await;
    }
    assert!(wrong.is_empty(), "not refused:\n{}", wrong.join("\n"));
    assert_eq!(proxy.get("/good").await.status, 200);
    for request in pod.requests() {
        let broken = request.target == "/broken" && request.body_ending != Ending::Clean;
        assert!(broken || request.target == "/good", "{request:?}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_before_it_ends() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).top("limits: {requestHeaderBytes: 4KiB}").start().await;
    let long = "x".repeat(8 * 1024);
    let cases = [
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}"),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(2000)),
        format!("GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nX: {long}\r\n\r\n"),
    ];
    for head in cases {
        assert_eq!(refused(&proxy, head.as_bytes()).await, 431, "{} bytes", head.len());
    }
    let status = refused(&proxy, format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await;
    assert!(matches!(status, 414 | 431), "{status}");
    only_the_good_one_came(&proxy, &pod).await;
}

#[tokio::test]
async fn a_head_that_drips_is_cut_at_its_deadline() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).top("limits: {requestHeaderTimeout: 1s}").start().await;
    let began = Instant::now();
    let mut connection = proxy.connect().await;
    connection.send("GET /slow HTTP/1.1\r\nHost: a\r\n").await;
    // A byte whenever the proxy has answered another request: a deadline for each read would never pass.
    while connection.try_send("X").await {
        proxy.admin_get("/livez").await;
        assert!(began.elapsed() < PATIENCE, "not cut at the deadline");
    }
    let silent = {
        let mut connection = proxy.connect().await;
        connection.send("GET /slow HTTP/1.1\r\n").await;
        connection.try_response("GET").await
    };
    assert!(silent.is_err() || silent.is_ok_and(|response| response.status == 408));
    only_the_good_one_came(&proxy, &pod).await;
}

#[tokio::test]
async fn a_body_that_stalls_is_cut_at_its_deadline() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).top("limits: {requestBodyTimeout: 1s}").start().await;
    let mut connection = proxy.connect().await;
    connection.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
    if let Ok(response) = connection.try_response("POST").await {
        assert_eq!(response.status, 408);
    }
    connection.ending().await;
    assert_eq!(proxy.get("/good").await.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_head_does_no_harm() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    for bytes in ["", "G", "GET / HT", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let mut connection = proxy.connect().await;
        connection.send(bytes).await;
        connection.finish_sending().await;
        connection.ending().await;
        let mut connection = proxy.connect().await;
        connection.send(bytes).await;
        connection.reset();
    }
    only_the_good_one_came(&proxy, &pod).await;
}

#[tokio::test]
async fn bytes_after_the_request_of_an_event_stream_are_not_a_second_request() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0]]).start().await;
    let mut connection = proxy.connect().await;
    connection.send([Request::events("/events").bytes(), SMUGGLED.as_bytes().to_vec()].concat()).await;
    // Served or refused is the proxy's choice; a request of its own for the pod it must not become meanwhile.
    let head = connection.try_head().await;
    assert!(head.is_err() || head.is_ok_and(|head| head.start_line.starts_with("HTTP/1.1 ")));
    assert_eq!(proxy.get("/good").await.status, 200);
    assert!(!pods[0].targets().contains(&"/smuggled".to_owned()));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_turned_away() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0]]).top("limits: {connections: 4}").start().await;
    // Earlier probes of the harness stand before this request in the queue, and may still be closing.
    assert_eq!(proxy.get("/who").await.status, 200);
    proxy.wait_metric("podpin_connections_active", &[("listener", "http")], 0.0).await;
    let mut kept = Vec::new();
    for _ in 0..4 {
        kept.push(Request::events("/events").open(proxy.address).await);
    }
    let mut connection = proxy.connect().await;
    connection.try_send(Request::get("/who").bytes()).await;
    let turned_away = connection.try_response("GET").await;
    assert!(turned_away.is_err() || turned_away.is_ok_and(|response| response.status == 503));
    kept.pop();
    podpin_testkit::wait_for("the place to be free again", async || {
        let mut connection = proxy.connect().await;
        connection.try_send(Request::get("/who").header("Connection", "close").bytes()).await;
        connection.try_response("GET").await.is_ok_and(|response| response.status == 200)
    })
    .await;
}

#[tokio::test]
async fn event_streams_that_end_their_connection_count_as_connections_too() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).top("limits: {connections: 2}").start().await;
    let active = ("podpin_connections_active", [("listener", "http")]);
    // Earlier probes of the harness stand before this request in the queue, and may still be closing.
    assert_eq!(proxy.get("/who").await.status, 200);
    proxy.wait_metric(active.0, &active.1, 0.0).await;
    let mut kept = Vec::new();
    for request in [Request::events("/").http10(), Request::events("/").header("Connection", "close")] {
        let mut client = request.open(proxy.address).await;
        let mut stream = pod.next_stream().await;
        stream.event("open").await;
        assert_eq!(client.next_data().await, "open");
        kept.push((client, stream));
    }
    assert_eq!(proxy.metric(active.0, &active.1).await, 2.0);
    let mut connection = proxy.connect().await;
    connection.try_send(Request::get("/who").bytes()).await;
    let turned_away = connection.try_response("GET").await;
    assert!(turned_away.is_err() || turned_away.is_ok_and(|response| response.status == 503));
    for (left, (mut client, stream)) in kept.into_iter().enumerate() {
        stream.finish().await;
        assert_eq!(client.next().await, Err(Ending::Clean));
        let open = [1.0, 0.0][left];
        proxy.wait_metric(active.0, &active.1, open).await;
    }
    assert_eq!(proxy.get("/who").await.status, 200);
}
