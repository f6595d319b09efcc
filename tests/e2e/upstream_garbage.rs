//! Pods that do not speak HTTP, or stop in the middle: an honest end, bounded memory, counted.

use podpin_testkit::{Answer, Ending, EventStream, Item, Pod, PodStream, Proxy, Request, Setup, wait_for};

/// A proxy with one pod that answers by hand, without second tries.
async fn by_hand() -> (Pod, Proxy) {
    let pod = Pod::start("pod-a").await;
    pod.answer("/events", Answer::ByHand);
    pod.answer("/plain", Answer::ByHand);
    let setup = Setup::chat(&[&pod])
        .with("retries: {attempts: 0}")
        .with("health: {passive: off}")
        .with("sse: {unavailable: status}");
    (pod, setup.start().await)
}

async fn errors(proxy: &Proxy) -> f64 {
    proxy.metric("podpin_upstream_errors_total", &[("service", "chat")]).await
}

#[tokio::test]
async fn a_head_that_is_not_http_is_a_502() {
    let (pod, proxy) = by_hand().await;
    let heads = [
        "garbage\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/3.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type : text/event-stream\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nab",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ];
    for head in heads {
        let before = errors(&proxy).await;
        let mut connection = proxy.connect().await;
        connection.send(Request::events("/events").bytes()).await;
        let mut stream = pod.next_stream().await;
        assert!(stream.try_raw(head.as_bytes()).await);
        let response = connection.response("GET").await;
        assert_eq!(response.status, 502, "{head:?}");
        stream.client_gone().await;
        wait_for("the error to be counted", async || errors(&proxy).await == before + 1.0).await;
    }
    assert_eq!(
        proxy.metric("podpin_upstream_errors_total", &[("kind", "protocol")]).await,
        heads.len() as f64
    );
}

#[tokio::test]
async fn a_pod_that_closes_before_it_answers_is_a_502() {
    let pod = Pod::start("pod-a").await;
    let setup = Setup::chat(&[&pod])
        .with("retries: {attempts: 0}")
        .with("health: {passive: off}")
        .with("sse: {unavailable: status}");
    let proxy = setup.start().await;
    for (answer, path) in [(Answer::Close, "/close"), (Answer::Reset, "/reset")] {
        pod.answer(path, answer);
        for request in [Request::get(path), Request::events(path)] {
            let response = request.send(proxy.address).await;
            assert_eq!(response.status, 502, "{request:?}");
        }
    }
    proxy.wait_metric("podpin_upstream_errors_total", &[("service", "chat"), ("kind", "reset")], 4.0).await;
}

#[tokio::test]
async fn with_nobody_else_to_ask_a_reset_is_no_retry_and_the_log_says_who_it_was() {
    let pod = Pod::start("pod-a").await;
    let proxy =
        Setup::chat(&[&pod]).with("health: {passive: off}").with("sse: {unavailable: status}").start().await;
    for (answer, name) in [(Answer::Close, "close"), (Answer::Reset, "reset")] {
        for (kind, request) in [("plain", Request::get as fn(&str) -> Request), ("events", Request::events)] {
            let path = format!("/{name}-{kind}");
            pod.answer(&path, answer.clone());
            assert_eq!(request(&path).send(proxy.address).await.status, 502, "{path}");
            let line = proxy.access_log_line(|line| line["path"] == path.as_str()).await;
            assert_eq!((&line["endpoint"], &line["service"]), (&"pod-a".into(), &"chat".into()), "{line}");
            assert_eq!((&line["reason"], &line["status"]), (&"error".into(), &502.into()), "{line}");
            assert_eq!(line["retries"], 0, "{line}");
            assert!(line["session"].as_str().is_some_and(|session| !session.is_empty()), "{line}");
            assert_eq!(pod.next_request().await.target, path);
        }
    }
    assert_eq!(pod.requests().len(), 4, "asked once each");
    assert_eq!(proxy.metric("podpin_upstream_retries_total", &[]).await, 0.0);
    proxy.wait_metric("podpin_upstream_errors_total", &[("service", "chat"), ("kind", "reset")], 4.0).await;
}

#[tokio::test]
async fn half_a_head_and_a_close_is_a_502() {
    let (pod, proxy) = by_hand().await;
    for request in [Request::get("/plain"), Request::events("/events")] {
        let mut connection = proxy.connect().await;
        connection.send(request.bytes()).await;
        let mut stream = pod.next_stream().await;
        stream.raw("HTTP/1.1 200 OK\r\nContent-Ty").await;
        stream.close();
        assert_eq!(connection.response("GET").await.status, 502, "{request:?}");
    }
}

#[tokio::test]
async fn a_head_without_end_is_cut_with_bounded_memory() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/events", Answer::EndlessHead);
    pod.answer("/plain", Answer::EndlessHead);
    let setup = Setup::chat(&[&pod])
        .with("retries: {attempts: 0}")
        .with("health: {passive: off}")
        .with("sse: {unavailable: status}");
    let proxy = setup.start().await;
    proxy.get("/warm").await;
    let before = proxy.process.memory_bytes();
    for request in [Request::events("/events"), Request::get("/plain")] {
        assert_eq!(request.send(proxy.address).await.status, 502, "{request:?}");
    }
    let grown = proxy.process.memory_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    proxy.wait_metric_at_least("podpin_upstream_errors_total", &[("service", "chat")], 2.0).await;
}

/// Opens a stream by hand with a chunked head and one event.
async fn opened(pod: &Pod, proxy: &Proxy) -> (podpin_testkit::EventStream, PodStream) {
    let mut connection = proxy.connect().await;
    connection.send(Request::events("/events").bytes()).await;
    let mut stream = pod.next_stream().await;
    stream
        .raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    stream.raw("d\r\ndata: whole\n\n\r\n").await;
    let head = connection.head().await;
    let mut client = connection.into_events(head);
    assert_eq!(client.next_data().await, "whole");
    (client, stream)
}

#[tokio::test]
async fn a_broken_chunk_ends_the_stream_as_a_death_after_what_came_before_it() {
    let (pod, proxy) = by_hand().await;
    // With what of it reaches the client: between two events it is told when to come back.
    let pieces = [
        ("xyz\r\n", ""),
        ("-1\r\n", ""),
        ("+3\r\nabc\r\n", ""),
        ("3\r\nabcXX", "abc"),
        ("fffffffffffffffffffff\r\n", ""),
        ("0x5\r\nabcde\r\n", ""),
        ("\r\n", ""),
        ("7\r\ndata: h\r\nnonsense\r\n", "data: h"),
    ];
    for (piece, passed) in pieces {
        let before = errors(&proxy).await;
        let (mut client, mut stream) = opened(&pod, &proxy).await;
        assert!(stream.try_raw(piece.as_bytes()).await);
        assert_broken_behind(&mut client, passed).await;
        stream.client_gone().await;
        wait_for("the error to be counted", async || errors(&proxy).await == before + 1.0).await;
    }
    let labels = [("service", "chat"), ("kind", "protocol")];
    proxy.wait_metric("podpin_upstream_errors_total", &labels, pieces.len() as f64).await;
}

/// Asserts that a stream breaks behind its first event and these bytes, or a `retry:` where there are none.
async fn assert_broken_behind(client: &mut EventStream, passed: &str) {
    let (items, ending) = client.rest().await;
    assert!(matches!(ending, Ending::Cut | Ending::Reset), "{passed:?}: {ending:?}");
    let text = client.text();
    let rest = text.strip_prefix("data: whole\n\n").unwrap();
    if passed.is_empty() {
        assert!(matches!(items.as_slice(), [Item::Retry(1_000..=10_000)]), "{items:?}");
        assert!(rest.starts_with("retry: ") && rest.lines().count() == 1, "{rest:?}");
    } else {
        assert_eq!((items.len(), rest), (0, passed));
    }
}

#[tokio::test]
async fn half_an_event_and_a_close_end_as_a_death() {
    let (pod, proxy) = by_hand().await;
    for (half, passed) in
        [("8\r\ndata: ha\r\n", "data: ha"), ("ff\r\ndata: ha", "data: ha"), ("5", ""), ("", "")]
    {
        let (mut client, mut stream) = opened(&pod, &proxy).await;
        assert!(stream.try_raw(half.as_bytes()).await);
        stream.close();
        assert_broken_behind(&mut client, passed).await;
    }
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "upstream_reset")], 4.0).await;
}

#[tokio::test]
async fn half_an_event_before_a_clean_end_passes_and_is_no_event() {
    let (pod, proxy) = by_hand().await;
    let (mut client, mut stream) = opened(&pod, &proxy).await;
    stream.raw("8\r\ndata: ha\r\n0\r\n\r\n").await;
    assert_eq!(client.rest().await, (vec![], Ending::Clean));
    assert_eq!(client.text(), "data: whole\n\ndata: ha");
}

#[tokio::test]
async fn chunk_extensions_and_trailers_are_read_past() {
    let (pod, proxy) = by_hand().await;
    let (mut client, mut stream) = opened(&pod, &proxy).await;
    stream.raw("B;name=\"value\"\r\ndata: two\n\n\r\n0;x\r\nX-Trailer: 1\r\n\r\n").await;
    assert_eq!(client.next_data().await, "two");
    assert_eq!(client.next().await, Err(Ending::Clean));
}

#[tokio::test]
async fn informational_responses_before_the_stream_are_passed_over() {
    let (pod, proxy) = by_hand().await;
    let mut connection = proxy.connect().await;
    connection.send(Request::events("/events").bytes()).await;
    let mut stream = pod.next_stream().await;
    stream.raw("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: x\n\n").await;
    let mut head = connection.head().await;
    while head.start_line.starts_with("HTTP/1.1 1") {
        head = connection.head().await;
    }
    assert_eq!(connection.into_events(head).next_data().await, "x");
}

#[tokio::test]
async fn a_compressed_stream_is_relayed_untouched() {
    let (pod, proxy) = by_hand().await;
    let mut connection = proxy.connect().await;
    connection.send(Request::events("/events").bytes()).await;
    let mut stream = pod.next_stream().await;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\nContent-Length: 6\r\n\r\n";
    stream.raw(head).await;
    stream.raw("\x1f\x0b\x08\n\nx").await;
    let response = connection.response("GET").await;
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    assert_eq!((response.body.as_slice(), response.ending), (&b"\x1f\x0b\x08\n\nx"[..], Ending::Clean));
}
