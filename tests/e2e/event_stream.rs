//! Event streams: whole events at once, honest ends, and no connection kept that has lost its other side.

use std::time::{Duration, Instant};

use podpin_testkit::{
    Connection, Ending, EventStream, Framing, Item, PATIENCE, Pod, PodStream, Proxy, Reply, Request, Setup,
    StreamAnswer, wait_for,
};

/// A proxy with one pod, and one stream through both.
async fn open(lines: &[&str]) -> (Pod, Proxy, EventStream, PodStream) {
    let pod = Pod::start("pod-a").await;
    let setup = lines.iter().fold(Setup::chat(&[&pod]), |setup, line| setup.with(line));
    let proxy = setup.start().await;
    let client = Request::events("/events").open(proxy.address).await;
    let stream = pod.next_stream().await;
    (pod, proxy, client, stream)
}

async fn closed(proxy: &Proxy, reason: &str) {
    let labels = [("service", "chat"), ("reason", reason)];
    proxy.wait_metric("podpin_streams_closed_total", &labels, 1.0).await;
    proxy.wait_metric("podpin_streams_active", &[("service", "chat")], 0.0).await;
    let line = proxy.access_log_line(|line| line.get("path").is_some_and(|path| path == "/events")).await;
    assert_eq!(line.get("reason").and_then(|value| value.as_str()), Some(reason), "{line}");
}

fn is_comment(item: &Item) -> bool {
    matches!(item, Item::Comment(_))
}

#[tokio::test]
async fn events_arrive_one_by_one_while_more_are_to_come() {
    for framing in [Framing::Chunked, Framing::UntilClose, Framing::Http10] {
        let pod = Pod::start("pod-a").await;
        pod.answer("/events", StreamAnswer::new().framing(framing));
        let proxy = Setup::chat(&[&pod]).start().await;
        let mut client = Request::events("/events").open(proxy.address).await;
        let mut stream = pod.next_stream().await;
        for number in 0..20 {
            stream.event_with_id(&number.to_string(), "x").await;
            assert_eq!(client.next_event().await.id, number.to_string(), "{framing:?}");
        }
        stream.finish().await;
        assert_eq!(client.rest().await, (vec![], Ending::Clean), "{framing:?}");
    }
}

#[tokio::test]
async fn the_head_is_fit_for_an_event_stream() {
    let (pod, proxy, client, _stream) = open(&[]).await;
    assert_eq!(client.header("content-length"), None);
    assert_eq!(client.header("content-encoding"), None);
    assert_eq!(client.header("transfer-encoding"), Some("chunked"));
    assert_eq!(pod.next_request().await.header("accept-encoding"), Some("identity"));
    proxy.wait_metric("podpin_streams_active", &[("service", "chat"), ("endpoint", "pod-a")], 1.0).await;
}

#[tokio::test]
async fn an_event_in_many_pieces_arrives_whole_and_the_bytes_are_the_pods_own() {
    let (_pod, _proxy, mut client, mut stream) = open(&["sse: {keepAlive: off}"]).await;
    let text = "id: 1\r\nevent: x\r\ndata: a\r\ndata: b\r\n\r\n: comment\n\ndata: c\r\rdata: d\n\n";
    for byte in text.as_bytes() {
        assert!(stream.try_send(&[*byte]).await);
    }
    client.until_contains("data: d\n\n").await;
    assert_eq!(client.text(), text);
}

#[tokio::test]
async fn half_an_event_of_a_stream_that_may_move_is_withheld_until_it_is_whole() {
    let lines = ["sse: {keepAlive: off}", "drain: {handover: lastEventId}"];
    let (_pod, _proxy, mut client, mut stream) = open(&lines).await;
    stream.send("data: whole\n\ndata: ha").await;
    assert_eq!(client.next_data().await, "whole");
    assert_eq!(client.text(), "data: whole\n\n");
    stream.send("lf\n").await;
    stream.send("\n").await;
    assert_eq!(client.next_data().await, "half");
    // One that is left open passes after a second, and its end follows.
    stream.send("data: open\n").await;
    client.until_contains("data: open\n").await;
    stream.send(": ping\n").await;
    stream.send("data: closed\n\n").await;
    assert_eq!(client.next_data().await, "open\nclosed");
}

#[tokio::test]
async fn bytes_of_a_stream_that_stays_pass_as_they_come() {
    let (_pod, _proxy, mut client, mut stream) = open(&["sse: {keepAlive: off}"]).await;
    let mut sent = String::new();
    for piece in ["data: a", "\n", ": ping\n", "data: b\n", "\n", "\n", "data: the end"] {
        stream.send(piece).await;
        sent += piece;
        client.until_contains(&sent).await;
    }
    stream.finish().await;
    assert_eq!(client.rest().await.1, Ending::Clean);
    assert_eq!(client.text(), sent);
}

#[tokio::test]
async fn silence_is_filled_with_comments() {
    let (_pod, proxy, mut client, _stream) = open(&["sse: {keepAlive: 1s}"]).await;
    assert!(is_comment(&client.next().await.unwrap()));
    assert!(is_comment(&client.next().await.unwrap()));
    proxy.wait_metric_at_least("podpin_stream_keepalives_total", &[("service", "chat")], 2.0).await;
}

#[tokio::test]
async fn a_comment_never_lands_inside_an_event() {
    // Both streams are silent for as long; the one at a boundary shows when a comment was due.
    let (pod, proxy, mut inside, mut stream) = open(&["sse: {keepAlive: 1s}"]).await;
    stream.send("data: first\n\ndata: ha").await;
    assert_eq!(inside.next_data().await, "first");
    let mut boundary = Request::events("/events").open(proxy.address).await;
    let _silent = pod.next_stream().await;
    assert!(is_comment(&boundary.next().await.unwrap()));
    assert!(is_comment(&boundary.next().await.unwrap()));
    stream.send("lf\n\n").await;
    assert_eq!(inside.next_data().await, "half");
    let text = inside.text();
    let halves = text.replace(":\n\n", "");
    assert_eq!(halves, "data: first\n\ndata: half\n\n", "{text:?}");
}

#[tokio::test]
async fn keep_alive_off_writes_nothing() {
    let pod = Pod::start("pod-a").await;
    let setup = Setup::new().service("quiet", &[&pod]).with("sse: {keepAlive: off}").service("loud", &[&pod]);
    let setup = setup
        .with("sse: {keepAlive: 1s}")
        .route("{name: q, service: quiet, matches: [{path: {type: PathPrefix, value: /quiet}}]}");
    let proxy = setup.route("{name: l, service: loud}").start().await;
    let mut quiet = Request::events("/quiet").open(proxy.address).await;
    let mut stream = pod.next_stream().await;
    let mut loud = Request::events("/loud").open(proxy.address).await;
    assert!(is_comment(&loud.next().await.unwrap()));
    assert!(is_comment(&loud.next().await.unwrap()));
    stream.event("only").await;
    quiet.next_event().await;
    assert_eq!(quiet.text(), "data: only\n\n");
}

#[tokio::test]
async fn a_returning_client_is_first_told_the_normal_reconnection_time() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0]]).start().await;
    let mut visitor = proxy.visitor();
    let mut first = visitor.events("/events").await;
    assert!(matches!(first.next().await, Ok(Item::Event(_))), "a new client is told nothing");
    let mut second = visitor.events("/events").await;
    assert!(matches!(second.next().await, Ok(Item::Retry(2_400..=3_600))), "by its token");
    assert!(matches!(second.next().await, Ok(Item::Event(_))));
    let mut third = Request::events("/events").header("Last-Event-ID", "7").open(proxy.address).await;
    assert!(matches!(third.next().await, Ok(Item::Retry(2_400..=3_600))), "by its Last-Event-ID");
    proxy.wait_metric("podpin_streams_opened_total", &[("result", "resumed")], 1.0).await;
}

#[tokio::test]
async fn a_reconnection_time_that_is_configured_is_told_to_all_and_differs_from_one_to_the_next() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0]]).with("sse: {retry: {normal: 2500ms}}").start().await;
    let mut told = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let mut stream = Request::events("/events").open(proxy.address).await;
        let Ok(Item::Retry(time @ 2_000..=3_000)) = stream.next().await else { panic!("{stream:?}") };
        told.insert(time);
    }
    assert!(told.len() > 10, "{told:?}");
}

#[tokio::test]
async fn a_reconnection_time_that_is_off_is_never_written() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0]]).with("sse: {retry: {normal: off}}").start().await;
    let mut stream = Request::events("/events").header("Last-Event-ID", "7").open(proxy.address).await;
    assert!(matches!(stream.next().await, Ok(Item::Event(_))));
}

#[tokio::test]
async fn the_pod_is_told_the_last_event_id() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let _stream =
        Request::events("/events?room=1").header("Last-Event-ID", "a b\u{e9}").open(proxy.address).await;
    let seen = pod.next_request().await;
    assert_eq!(seen.header("last-event-id"), Some("a b\u{e9}"));
    assert_eq!(seen.target, "/events?room=1");
}

#[tokio::test]
async fn the_longest_allowed_duration_ends_a_stream_cleanly_at_a_boundary() {
    let lines = ["sse: {maxDuration: 1s, keepAlive: off}", "drain: {handover: lastEventId}"];
    let (_pod, proxy, mut client, mut stream) = open(&lines).await;
    stream.send("data: whole\n\ndata: half").await;
    assert_eq!(client.next_data().await, "whole");
    let (items, ending) = client.rest().await;
    assert!(items.iter().all(|item| matches!(item, Item::Retry(_))), "{items:?}");
    assert_eq!((ending, client.is_inside_event()), (Ending::Clean, false));
    stream.client_gone().await;
    closed(&proxy, "max_duration").await;
}

#[tokio::test]
async fn an_event_beyond_the_bound_passes_through_unbroken() {
    let (_pod, _proxy, mut client, mut stream) = open(&["sse: {eventBytesMax: 1KiB, keepAlive: 1s}"]).await;
    let half = "x".repeat(8 * 1024);
    stream.send(&format!("data: {half}")).await;
    client.until_contains(&half).await;
    stream.send(&format!("{half}\n\ndata: next\n\n")).await;
    assert_eq!(client.next_data().await, format!("{half}{half}"));
    assert_eq!(client.next_data().await, "next");
}

#[tokio::test]
async fn a_client_that_leaves_an_idle_stream_releases_the_pod_at_once() {
    for leave in [drop as fn(EventStream), EventStream::reset] {
        let (_pod, proxy, client, mut stream) = open(&["sse: {keepAlive: off}"]).await;
        let left = Instant::now();
        leave(client);
        stream.client_gone().await;
        // The goal is 100 ms; a debug build beside other tests on two cores gets some slack.
        assert!(left.elapsed() < Duration::from_secs(1), "after {:?}", left.elapsed());
        closed(&proxy, "client").await;
    }
}

#[tokio::test]
async fn a_reset_by_the_pod_is_an_unclean_end_and_says_when_to_come_back_between_events() {
    let (_pod, proxy, mut client, mut stream) = open(&[]).await;
    stream.send("data: whole\n\n").await;
    assert_eq!(client.next_data().await, "whole");
    stream.reset();
    let (items, ending) = client.rest().await;
    assert!(matches!(items.as_slice(), [Item::Retry(1_000..=10_000)]), "{items:?}");
    assert!(matches!(ending, Ending::Cut | Ending::Reset) && !client.is_inside_event(), "{ending:?}");
    closed(&proxy, "upstream_reset").await;
    let (_pod, _proxy, mut within, mut stream) = open(&[]).await;
    stream.send("data: half").await;
    within.until_contains("data: half").await;
    stream.reset();
    let (items, ending) = within.rest().await;
    assert!(items.is_empty() && matches!(ending, Ending::Cut | Ending::Reset), "{items:?} {ending:?}");
    assert_eq!(within.text(), "data: half");
    proxy.wait_metric("podpin_upstream_errors_total", &[("service", "chat"), ("kind", "reset")], 1.0).await;
}

#[tokio::test]
async fn a_missing_last_chunk_is_an_unclean_end() {
    let (_pod, proxy, mut client, mut stream) = open(&[]).await;
    stream.event("whole").await;
    assert_eq!(client.next_data().await, "whole");
    stream.close();
    assert!(matches!(client.next().await, Ok(Item::Retry(1_000..=10_000))), "not all come back at once");
    assert!(matches!(client.next().await, Err(Ending::Cut | Ending::Reset)));
    closed(&proxy, "upstream_reset").await;
}

#[tokio::test]
async fn a_clean_end_of_the_pod_is_a_clean_end() {
    let (_pod, proxy, mut client, mut stream) = open(&[]).await;
    stream.event("last").await;
    stream.finish().await;
    assert_eq!(client.next_data().await, "last");
    assert_eq!(client.next().await, Err(Ending::Clean));
    closed(&proxy, "upstream_end").await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_with_bounded_memory() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).with("timeouts: {clientWrite: 1s}").start().await;
    // One stream that reads warms up what the process needs once.
    drop(Request::events("/warm").open(proxy.address).await);
    let before = proxy.process.memory_bytes();
    let mut connection = Connection::open_with_receive_buffer(proxy.address, 4096).await;
    connection.send(Request::events("/events").bytes()).await;
    let mut stream = pod.next_stream().await;
    while stream.request.target != "/events" {
        stream = pod.next_stream().await;
    }
    let event = format!("data: {}\n\n", "x".repeat(16 * 1024));
    let began = Instant::now();
    let mut sent = 0;
    while stream.try_send(event.as_bytes()).await {
        sent += event.len();
        assert!(began.elapsed() < PATIENCE, "not cut after {sent} bytes");
    }
    closed(&proxy, "slow_client").await;
    let grown = proxy.process.memory_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes more after {sent} bytes to a client that does not read");
}

#[tokio::test]
async fn a_pod_that_falls_silent_for_too_long_ends_the_stream() {
    let (_pod, proxy, mut client, mut stream) =
        open(&["timeouts: {upstreamIdle: 2s}", "sse: {keepAlive: 1s}"]).await;
    stream.event("one").await;
    assert_eq!(client.next_data().await, "one");
    let (items, ending) = client.rest().await;
    assert!(items.iter().any(is_comment), "our own comments must not hide the silence: {items:?}");
    assert_eq!(ending, Ending::Clean);
    stream.client_gone().await;
    closed(&proxy, "idle").await;
}

#[tokio::test]
async fn a_pod_that_never_answers_is_a_504() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/events", podpin_testkit::Answer::ByHand);
    pod.answer("/plain", podpin_testkit::Answer::ByHand);
    let setup = Setup::chat(&[&pod]).with("timeouts: {responseHeader: 1s}");
    let proxy = setup.with("sse: {unavailable: status}").start().await;
    for request in [Request::events("/events"), Request::get("/plain")] {
        let response = request.send(proxy.address).await;
        assert_eq!(response.status, 504, "{request:?}");
    }
    proxy.wait_metric("podpin_upstream_errors_total", &[("service", "chat"), ("kind", "timeout")], 2.0).await;
}

#[tokio::test]
async fn any_other_answer_is_relayed_as_it_is_and_the_connection_serves_on() {
    let pod = Pod::start("pod-a").await;
    let body: Vec<u8> = (0..100_000_u32).map(|number| (number % 251) as u8).collect();
    let answers = [
        ("/204", Reply::new(204).header("X-Why", "stop"), 204, vec![]),
        ("/302", Reply::new(302).header("Location", "/elsewhere").body("moved"), 302, b"moved".to_vec()),
        ("/404", Reply::new(404).header("Content-Type", "text/html").body("<p>no"), 404, b"<p>no".to_vec()),
        ("/500", Reply::new(500).body(body.clone()), 500, body.clone()),
        ("/500-chunked", Reply::new(500).body(body.clone()).chunked(), 500, body.clone()),
        (
            "/200-json",
            Reply::new(200).header("Content-Type", "application/json").body("{}"),
            200,
            b"{}".to_vec(),
        ),
        ("/304", Reply::new(304).header("ETag", "\"1\""), 304, vec![]),
    ];
    for (path, reply, ..) in &answers {
        pod.answer(path, reply.clone());
    }
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut connection = proxy.connect().await;
    for (path, _, status, body) in &answers {
        let response = connection.ask(&Request::events(path)).await;
        assert_eq!((response.status, &response.ending), (*status, &Ending::Clean), "{path}");
        assert_eq!(&response.body, body, "{path}");
        assert_eq!(connection.unread(), b"", "{path}");
    }
    let response = connection.ask(&Request::events("/204")).await;
    assert_eq!(response.header("x-why"), Some("stop"));
    assert_eq!(response.header("transfer-encoding"), None, "204 has no body (RFC 9112 section 6.1)");
    let response = connection.ask(&Request::events("/302")).await;
    assert_eq!(
        (response.header("location"), response.header("content-length")),
        (Some("/elsewhere"), Some("5"))
    );
    assert_eq!(connection.ask(&Request::events("/304")).await.header("etag"), Some("\"1\""));
    assert_eq!(connection.ask(&Request::get("/who")).await.text(), "pod-a");
}

#[tokio::test]
async fn an_answer_that_is_cut_short_is_not_made_whole() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/x", podpin_testkit::Answer::ByHand);
    let proxy = Setup::chat(&[&pod]).start().await;
    for framing in ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let mut connection = proxy.connect().await;
        connection.send(Request::events("/x").bytes()).await;
        let mut stream = pod.next_stream().await;
        stream.raw(&format!("HTTP/1.1 500 Oops\r\n{framing}")).await;
        stream.close();
        let response = connection.response("GET").await;
        assert_eq!((response.status, response.text().as_str()), (500, "half"), "{framing}");
        assert!(matches!(response.ending, Ending::Cut | Ending::Reset), "{framing}: {:?}", response.ending);
    }
}

#[tokio::test]
async fn a_head_request_gets_the_head_only() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/events", Reply::new(200).header("Content-Type", "text/event-stream").body("data: x\n\n"));
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut connection = proxy.connect().await;
    let request = Request::new("HEAD", "/events").header("Accept", "text/event-stream");
    let response = connection.ask(&request).await;
    assert_eq!((response.status, response.body.len()), (200, 0));
    assert_eq!(pod.next_request().await.method, "HEAD");
    assert_eq!(connection.ask(&Request::get("/who")).await.text(), "pod-a");
}

#[tokio::test]
async fn an_http_1_0_client_gets_a_body_that_ends_with_the_connection() {
    let (_pod, proxy, _client, _stream) = open(&[]).await;
    let mut connection = proxy.connect().await;
    connection.send(Request::events("/old").http10().bytes()).await;
    let mut stream = _pod.next_stream().await;
    let head = connection.head().await;
    assert_eq!(head.header("transfer-encoding"), None, "{head:?}");
    let mut client = connection.into_events(head);
    stream.event("one").await;
    assert_eq!(client.next_data().await, "one");
    stream.finish().await;
    assert_eq!(client.next().await, Err(Ending::Clean));
}

#[tokio::test]
async fn what_happened_is_in_the_access_log_and_the_metrics() {
    let (_pod, proxy, mut client, mut stream) = open(&["sse: {keepAlive: off}"]).await;
    stream.event("one").await;
    stream.event("two").await;
    client.next_event().await;
    client.next_event().await;
    stream.finish().await;
    client.rest().await;
    closed(&proxy, "upstream_end").await;
    let line = proxy.access_log_line(|line| line.get("path").is_some_and(|path| path == "/events")).await;
    let text = |key: &str| line.get(key).and_then(|value| value.as_str().map(str::to_owned));
    let number = |key: &str| line.get(key).and_then(|value| value.as_u64());
    assert_eq!(text("endpoint").as_deref(), Some("pod-a"), "{line}");
    assert_eq!(text("affinity").as_deref(), Some("new"), "{line}");
    assert_eq!(text("service").as_deref(), Some("chat"), "{line}");
    assert_eq!((number("status"), number("events")), (Some(200), Some(2)), "{line}");
    assert_eq!(number("bytes"), Some(client.received().len() as u64), "{line}");
    proxy.wait_metric("podpin_stream_events_total", &[("service", "chat")], 2.0).await;
    proxy.wait_metric("podpin_stream_duration_seconds_count", &[("service", "chat")], 1.0).await;
    proxy.wait_metric("podpin_stream_first_event_seconds_count", &[("service", "chat")], 1.0).await;
}

#[tokio::test]
async fn the_first_event_is_measured_while_the_stream_is_open() {
    let (_pod, proxy, mut client, mut stream) = open(&["sse: {keepAlive: off}"]).await;
    let count = "podpin_stream_first_event_seconds_count";
    stream.send(": no event\n\ndata: ha").await;
    client.until_contains(": no event").await;
    assert_eq!(proxy.metric(count, &[("service", "chat")]).await, 0.0);
    stream.send("lf\n\n").await;
    assert_eq!(client.next_data().await, "half");
    proxy.wait_metric(count, &[("service", "chat")], 1.0).await;
    stream.event("second").await;
    assert_eq!(client.next_data().await, "second");
    let metrics = proxy.metrics().await;
    assert_eq!(metrics.sum("podpin_streams_active", &[("service", "chat")]), 1.0);
    assert_eq!(metrics.sum(count, &[("service", "chat")]), 1.0, "only the first event counts");
    stream.finish().await;
    closed(&proxy, "upstream_end").await;
    assert_eq!(proxy.metric(count, &[("service", "chat")]).await, 1.0, "not again at the end");
}

#[tokio::test]
async fn a_burst_arrives_complete_and_in_order() {
    let (_pod, _proxy, mut client, mut stream) = open(&[]).await;
    let burst: String = (0..5_000).map(|number| format!("id: {number}\ndata: {number}\n\n")).collect();
    let sending = async {
        for piece in burst.as_bytes().chunks(7_001) {
            assert!(stream.try_send(piece).await);
        }
    };
    let receiving = async {
        for number in 0..5_000 {
            assert_eq!(client.next_event().await.id, number.to_string());
        }
    };
    tokio::join!(sending, receiving);
}

#[tokio::test]
async fn streams_do_not_stay_in_the_books_when_they_are_gone() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Request::events("/events").open(proxy.address).await);
    }
    proxy.wait_metric("podpin_streams_active", &[("endpoint", "pod-a"), ("state", "active")], 20.0).await;
    let files = proxy.process.open_files();
    drop(clients);
    proxy.wait_metric("podpin_streams_active", &[], 0.0).await;
    wait_for("the descriptors to be closed", async || proxy.process.open_files() <= files - 40).await;
}
