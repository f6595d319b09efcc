//! Event streams that no request asked for by name: `fetch` and curl accept anything, SDKs send a POST.

use podpin_testkit::{
    Answer, Ending, EndpointsFile, EventStream, H2Connection, Item, Pod, PodStream, Proxy, Reply, Request,
    Setup, StreamAnswer,
};

const POST_PATH: &str = "/v1/responses";

/// GET that says nothing of event streams.
fn unannounced() -> Request {
    Request::get("/events").header("Accept", "*/*")
}

fn post() -> Request {
    Request::new("POST", POST_PATH).body("{}")
}

/// A pod that answers both with a stream.
async fn pod(name: &str) -> Pod {
    let pod = Pod::start(name).await;
    pod.answer(POST_PATH, StreamAnswer::new());
    pod.answer("/events", StreamAnswer::new());
    pod
}

fn draining(one: &Pod, others: &[&Pod]) -> Vec<(String, std::net::SocketAddr, &'static str)> {
    let left = others.iter().map(|pod| (pod.name().to_owned(), pod.address(), "ready"));
    std::iter::once((one.name().to_owned(), one.address(), "draining")).chain(left).collect()
}

/// Opens a stream over HTTP/1.1 or HTTP/2.
async fn opened(proxy: &Proxy, request: &Request, over_h2: bool) -> (EventStream, Option<H2Connection>) {
    if !over_h2 {
        return (request.open(proxy.address).await, None);
    }
    let mut connection = H2Connection::open(proxy.address).await;
    let (status, stream) = connection.open_stream(request).await;
    assert_eq!(status, 200);
    (stream, Some(connection))
}

async fn any_stream(one: &Pod, other: &Pod) -> (bool, PodStream) {
    tokio::select! {
        stream = one.next_stream() => (true, stream),
        stream = other.next_stream() => (false, stream),
    }
}

#[tokio::test]
async fn an_unannounced_stream_is_kept_alive_counted_and_moved_unseen() {
    for over_h2 in [false, true] {
        let (one, other) = (pod("pod-a").await, pod("pod-b").await);
        let file =
            EndpointsFile::with(&[("pod-a", one.address(), "ready"), ("pod-b", other.address(), "ready")]);
        let setup = Setup::new().service_in("chat", &file).h2c().with("sse: {keepAlive: 1s}");
        let proxy = setup.with("drain: {handover: lastEventId, spread: 0s}").start().await;
        let (mut client, _connection) = opened(&proxy, &unannounced(), over_h2).await;
        let (is_one, mut stream) = any_stream(&one, &other).await;
        let (from, to) = if is_one { (&one, &other) } else { (&other, &one) };
        stream.event_with_id("1", "first").await;
        assert_eq!(client.next_data().await, "first");
        assert!(matches!(client.next().await, Ok(Item::Comment(_))), "a silent stream is kept alive");
        proxy.wait_metric("podpin_streams_active", &[("endpoint", from.name())], 1.0).await;
        let states = draining(from, &[to]);
        let states: Vec<_> = states.iter().map(|(name, at, state)| (name.as_str(), *at, *state)).collect();
        file.write(&states);
        let mut successor = to.next_stream().await;
        assert_eq!(successor.request.header("last-event-id"), Some("1"));
        successor.event_with_id("2", "second").await;
        assert_eq!(client.next_data().await, "second");
        proxy.wait_metric("podpin_handovers_total", &[("result", "ok")], 1.0).await;
        to.answer("/events", Reply::new(204));
        successor.finish().await;
        assert_eq!(client.rest().await.1, Ending::Clean);
        let line = proxy.access_log_line(|line| line["kind"] == "stream").await;
        assert_eq!((&line["events"], &line["reason"]), (&2.into(), &"upstream_end".into()), "{line}");
    }
}

#[tokio::test]
async fn what_cannot_be_sent_again_ends_at_the_deadline_in_words_if_its_client_can_ask_for_the_rest() {
    let get = || unannounced().body("{}");
    let table = [
        (post(), false, true),
        (post(), false, false),
        (post(), true, true),
        (post(), true, false),
        (get(), false, true),
        (get(), true, false),
    ];
    for (request, over_h2, has_id) in table {
        let pod = pod("pod-a").await;
        let other = self::pod("pod-b").await;
        let file = EndpointsFile::with(&[("pod-a", pod.address(), "ready")]);
        let lines = "drain: {handover: lastEventId, spread: 0s, timeout: 1s}";
        let proxy = Setup::new().service_in("chat", &file).h2c().with(lines).start().await;
        let (mut client, _connection) = opened(&proxy, &request, over_h2).await;
        let mut stream = pod.next_stream().await;
        if has_id {
            stream.event_with_id("1", "half").await;
        } else {
            stream.event("half").await;
        }
        assert_eq!(client.next_data().await, "half");
        file.write(&[("pod-a", pod.address(), "draining"), ("pod-b", other.address(), "ready")]);
        let (items, ending) = client.rest().await;
        let has_words = items.iter().any(|item| matches!(item, Item::Retry(_)));
        assert_eq!((has_words, ending == Ending::Clean), (has_id, has_id), "{over_h2}: {items:?} {ending:?}");
        proxy.wait_metric("podpin_streams_closed_total", &[("reason", "drain")], 1.0).await;
        assert!(other.requests().is_empty(), "it is sent once");
    }
}

#[tokio::test]
async fn a_place_is_taken_before_a_pod_is_asked_and_given_back_by_an_answer_that_is_no_stream() {
    let pod = pod("pod-a").await;
    pod.answer("/json", Reply::new(200).body("{}"));
    let proxy = Setup::chat(&[&pod]).h2c().with("limits: {streamsPerEndpoint: 1}").start().await;
    let naming = |path: &str| {
        Request::new("POST", path).header("Accept", "application/json, text/event-stream").body("{}")
    };
    for _ in 0..3 {
        assert_eq!(naming("/json").send(proxy.address).await.status, 200);
    }
    // The head has not come yet, and the place is taken.
    pod.answer("/slow", Answer::ByHand);
    let mut waiting = proxy.connect().await;
    waiting.send(naming("/slow").bytes()).await;
    let mut slow = pod.next_stream().await;
    let asked = pod.requests().len();
    assert_eq!(naming(POST_PATH).send(proxy.address).await.status, 503);
    let told = Request::events("/events").send(proxy.address).await;
    assert!(told.text().starts_with("retry:"), "{}", told.text());
    assert_eq!(pod.requests().len(), asked, "no pod works for nobody");
    slow.raw("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(waiting.response("POST").await.status, 200);
    let mut client = naming(POST_PATH).open(proxy.address).await;
    pod.next_stream().await.event("one").await;
    assert_eq!(client.next_data().await, "one");
}

#[tokio::test]
async fn a_connection_carries_its_next_request_behind_a_stream_that_nobody_announced() {
    let pod = pod("pod-a").await;
    pod.answer("/next", Reply::new(200).body("next"));
    let proxy = Setup::chat(&[&pod]).start().await;
    for request in [post(), unannounced()] {
        let mut connection = proxy.connect().await;
        connection.send(request.bytes()).await;
        let head = connection.head().await;
        let mut client = connection.into_events(head);
        let mut stream = pod.next_stream().await;
        stream.event("one").await;
        assert_eq!(client.next_data().await, "one");
        stream.finish().await;
        assert_eq!(client.rest().await.1, Ending::Clean);
        let next = client.into_connection().ask(&Request::get("/next")).await;
        assert_eq!(next.text(), "next");
    }
}

#[tokio::test]
async fn what_is_no_event_passes_as_it_is() {
    let pod = pod("pod-a").await;
    let body = "{\"error\": \"a JSON body that a framework labels as its stream\"}";
    for handover in ["off", "lastEventId"] {
        let proxy = Setup::chat(&[&pod]).with(&format!("drain: {{handover: {handover}}}")).start().await;
        for request in [post(), unannounced(), Request::events("/events")] {
            let mut client = request.open(proxy.address).await;
            let mut stream = pod.next_stream().await;
            stream.send(body).await;
            stream.finish().await;
            assert_eq!(client.rest().await.1, Ending::Clean);
            assert_eq!(client.text(), body, "{handover} {}", request.method());
        }
        // A POST's bytes wait for no end of an event.
        let mut client = post().open(proxy.address).await;
        let mut stream = pod.next_stream().await;
        stream.send("data: half a li").await;
        client.until_contains("half a li").await;
    }
}

#[tokio::test]
async fn a_pod_that_issued_a_session_id_answers_for_it_whatever_it_says() {
    const HEADER: &str = "Mcp-Session-Id";
    let (one, other) = (pod("pod-a").await, pod("pod-b").await);
    for pod in [&one, &other] {
        pod.answer("/mcp", Reply::new(200).header(HEADER, pod.name()).body(pod.name()));
    }
    let setup = Setup::chat(&[&one, &other])
        .with("affinity: {header: Mcp-Session-Id, cookie: off}")
        .with("sse: {unavailable: retry}")
        .with("retries: {attempts: 3}")
        .with("health: {passive: {failures: 1, ejection: 60s}}")
        .with("timeouts: {responseHeader: 300ms}");
    let proxy = setup.start().await;
    let issued = Request::new("POST", "/mcp").body("{}").send(proxy.address).await;
    let id = issued.header(HEADER).unwrap().to_owned();
    let (own, stranger) = if issued.text() == "pod-a" { (&one, &other) } else { (&other, &one) };
    let requests = || {
        let with_id = |request: Request| request.header(HEADER, &id);
        [with_id(Request::new("POST", "/work").body("{}")), with_id(Request::events("/work"))]
    };
    let table = [
        (Answer::from(Reply::new(503).body("busy")), 503),
        (Answer::from(Reply::new(502)), 502),
        (Answer::Close, 502),
        (Answer::ByHand, 504),
    ];
    for (answer, status) in table {
        own.answer("/work", answer.clone());
        for request in requests() {
            let response = request.send(proxy.address).await;
            // What podpin says itself to an event stream is a stream that brings it back.
            let is_own_words = response.status == 200 && response.text().starts_with("retry:");
            assert!(response.status == status || is_own_words, "{answer:?}: {}", response.status);
            if let Answer::Reply(reply) = &answer {
                assert_eq!(response.status, status, "{reply:?}");
            }
        }
    }
    assert!(stranger.requests().is_empty(), "another pod would end the session with its 404");
    // These failures have ejected the pod, and a client with its id is still its own.
    proxy.wait_metric_at_least("podpin_endpoint_ejections_total", &[], 1.0).await;
    own.answer("/work", Reply::new(200).body("alive"));
    assert_eq!(requests()[0].send(proxy.address).await.text(), "alive");
}
