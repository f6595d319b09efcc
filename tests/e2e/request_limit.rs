//! How many requests may be in flight, what is told beyond that, and what the heads of all may hold.

use podpin_testkit::{
    Answer, Ending, H2Connection, H2Frame, Pod, PodStream, Proxy, Reply, Request, Setup, StreamAnswer,
    wait_for,
};

use crate::h2_front::{Front, GET, asked, with_path};
use crate::refusals::assert_invitation;

const ACTIVE: &str = "podpin_requests_active";
const TOO_MANY: &str = "too many requests in flight";

/// A pod that answers `/slow` when the test lets it.
async fn slow_pod() -> Pod {
    let pod = Pod::start("pod-a").await;
    pod.answer("/slow", Answer::ByHand);
    pod
}

async fn limited(pod: &Pod, requests: usize) -> Proxy {
    let proxy = Setup::chat(&[pod]).top(&format!("limits: {{requests: {requests}}}")).h2c().start().await;
    // The harness may have asked for something.
    proxy.wait_metric(ACTIVE, &[], 0.0).await;
    proxy
}

async fn answer(mut stream: PodStream) {
    stream.raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n").await;
    stream.finish().await;
}

#[tokio::test]
async fn a_request_over_the_limit_is_refused_and_its_connection_goes_on() {
    let pod = slow_pod().await;
    let proxy = limited(&pod, 2).await;
    let mut first = proxy.connect().await;
    first.send(Request::get("/slow").bytes()).await;
    let one = pod.next_stream().await;
    let mut second = H2Connection::open(proxy.address).await;
    let mut waiting = second.begin(&Request::get("/slow")).await;
    waiting.body.finish();
    let other = pod.next_stream().await;
    proxy.wait_metric(ACTIVE, &[], 2.0).await;
    let (mut h1, mut h2) = (proxy.connect().await, H2Connection::open(proxy.address).await);
    for request in [Request::get("/who"), Request::new("POST", "/who").body("x")] {
        let answers = [h1.ask(&request).await, h2.send(&request).await, second.send(&request).await];
        for response in answers {
            assert_eq!((response.status, response.text()), (503, format!("podpin: {TOO_MANY}\n")));
            assert!(response.header("retry-after").is_some());
            assert_ne!(response.header("connection"), Some("close"));
        }
    }
    for response in [h1.ask(&Request::events("/events")).await, h2.send(&Request::events("/events")).await] {
        assert_invitation(&response, TOO_MANY);
    }
    proxy.wait_metric("podpin_refusals_total", &[("service", "chat"), ("kind", "requests")], 8.0).await;
    assert_eq!(proxy.metric(ACTIVE, &[]).await, 2.0, "they are not counted");
    answer(one).await;
    assert_eq!(first.response("GET").await.status, 200);
    proxy.wait_metric(ACTIVE, &[], 1.0).await;
    assert_eq!(h1.ask(&Request::get("/who")).await.status, 200, "on the same connection");
    answer(other).await;
    assert_eq!(waiting.response().await.text(), "ok", "the stream beside the refused one");
    proxy.wait_metric(ACTIVE, &[], 0.0).await;
    assert_eq!(h2.send(&Request::get("/who")).await.status, 200);
    proxy.wait_metric(ACTIVE, &[], 0.0).await;
    assert_eq!(asked(&pod, "/events"), 0);
}

#[tokio::test]
async fn an_upload_over_the_limit_is_refused_before_its_body() {
    let pod = slow_pod().await;
    let proxy = limited(&pod, 1).await;
    let mut first = proxy.connect().await;
    first.send(Request::get("/slow").bytes()).await;
    let _one = pod.next_stream().await;
    let mut upload = proxy.connect().await;
    upload.send("POST /up HTTP/1.1\r\nHost: app\r\nContent-Length: 1000000\r\n\r\n").await;
    assert!(upload.head().await.start_line.starts_with("HTTP/1.1 503 "));
    let mut h2 = H2Connection::open(proxy.address).await;
    let mut upload = h2.begin(&Request::new("POST", "/up")).await;
    let response = upload.response().await;
    assert_eq!(response.status, 503);
    assert_eq!(asked(&pod, "/up"), 0);
}

#[tokio::test]
async fn event_streams_and_upgraded_connections_are_apart() {
    let pod = slow_pod().await;
    pod.answer("/unannounced", StreamAnswer::new());
    let proxy = limited(&pod, 1).await;
    let mut streams = Vec::new();
    for request in [
        Request::events("/events"),
        Request::get("/unannounced"),
        Request::new("POST", "/unannounced").body("{}"),
        Request::events("/events"),
    ] {
        let mut client = request.open(proxy.address).await;
        let mut stream = pod.next_stream().await;
        stream.event("one").await;
        assert_eq!(client.next_data().await, "one");
        streams.push((client, stream));
        proxy.wait_metric(ACTIVE, &[], 0.0).await;
    }
    let mut ordinary = proxy.connect().await;
    ordinary.send(Request::get("/slow").bytes()).await;
    let one = pod.next_stream().await;
    assert_eq!(proxy.get("/who").await.status, 503);
    let mut offer = proxy.connect().await;
    pod.answer("/ws", Answer::ByHand);
    offer.send(Request::websocket("/ws").bytes()).await;
    let mut upgraded = pod.next_stream().await;
    upgraded
        .raw("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert!(offer.head().await.start_line.starts_with("HTTP/1.1 101 "));
    assert_eq!(proxy.metric(ACTIVE, &[]).await, 1.0);
    answer(one).await;
    assert_eq!(ordinary.response("GET").await.status, 200);
    let (mut client, stream) = streams.remove(0);
    stream.finish().await;
    assert_eq!(client.next().await, Err(Ending::Clean));
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_back() {
    let pod = slow_pod().await;
    let proxy = limited(&pod, 1).await;
    for over_h2 in [false, true] {
        proxy.wait_metric(ACTIVE, &[], 0.0).await;
        if over_h2 {
            let mut client = H2Connection::open(proxy.address).await;
            let mut waiting = client.begin(&Request::get("/slow")).await;
            waiting.body.finish();
            pod.next_stream().await;
        } else {
            let mut client = proxy.connect().await;
            client.send(Request::get("/slow").bytes()).await;
            pod.next_stream().await;
        }
        proxy.wait_metric(ACTIVE, &[], 0.0).await;
        assert_eq!(proxy.get("/who").await.status, 200);
    }
}

#[tokio::test]
async fn another_limit_holds_at_once() {
    let pod = slow_pod().await;
    let setup = |requests: u32| Setup::chat(&[&pod]).top(&format!("limits: {{requests: {requests}}}")).h2c();
    let proxy = setup(1).start().await;
    proxy.wait_metric(ACTIVE, &[], 0.0).await;
    let mut first = proxy.connect().await;
    first.send(Request::get("/slow").bytes()).await;
    let _one = pod.next_stream().await;
    let mut kept = H2Connection::open(proxy.address).await;
    for (limit, status) in [(2, 200), (1, 503)] {
        proxy.reload(&setup(limit)).await;
        assert_eq!(kept.send(&Request::get("/who")).await.status, status, "a limit of {limit}");
    }
}

/// Bytes of the large head of a request, in one frame.
const HEAD_BYTES: usize = 15_000;
/// The least that all heads together may hold.
const HEADS_BYTES: usize = 4 << 20;

#[tokio::test]
async fn heads_are_bounded_in_bytes_besides() {
    let pod = slow_pod().await;
    pod.answer("/who", Reply::new(200).body("pod-a"));
    for front in Front::both(&Setup::chat(&[&pod]).top("limits: {requests: 500}")).await {
        let proxy = &front.proxy;
        proxy.wait_metric(ACTIVE, &[], 0.0).await;
        let large = "x".repeat(HEAD_BYTES);
        let fields = [with_path(&GET, "/slow"), vec![("x-large", &*large)]].concat();
        let frames: Vec<H2Frame> = (0..90).map(|number| H2Frame::request(2 * number + 1, &fields)).collect();
        let mut connections = Vec::new();
        for _ in 0..4 {
            let mut connection = front.begun().await;
            assert!(connection.try_frames(&frames).await);
            connections.push(connection);
        }
        let counts = async || {
            let metrics = proxy.metrics().await;
            (metrics.sum(ACTIVE, &[]), metrics.sum("podpin_refusals_total", &[("kind", "requests")]))
        };
        wait_for("all requests", async || counts().await.0 + counts().await.1 == 360.0).await;
        let (active, refused) = counts().await;
        assert!(refused > 0.0 && active <= (HEADS_BYTES / HEAD_BYTES) as f64, "{active} and {refused}");
        drop(connections);
        proxy.wait_metric(ACTIVE, &[], 0.0).await;
        front.serves(&pod).await;
    }
}

#[tokio::test]
async fn a_request_that_names_event_streams_counts_to_the_end_of_any_other_answer() {
    let pod = slow_pod().await;
    pod.greet("/events");
    let proxy = limited(&pod, 2).await;
    let mut clients = Vec::new();
    for count in [1.0, 2.0] {
        let mut client = proxy.connect().await;
        client.send(Request::events("/slow").bytes()).await;
        let mut stream = pod.next_stream().await;
        stream.raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n").await;
        client.head().await;
        proxy.wait_metric(ACTIVE, &[], count).await;
        clients.push((client, stream));
    }
    assert_eq!(Request::get("/who").send(proxy.address).await.status, 503);
    assert_invitation(&Request::events("/slow").send(proxy.address).await, TOO_MANY);
    for (_client, stream) in clients {
        stream.finish().await;
    }
    proxy.wait_metric(ACTIVE, &[], 0.0).await;
    let mut events = Request::events("/events").open(proxy.address).await;
    assert_eq!(events.next_data().await, "pod-a");
    assert_eq!(proxy.metric(ACTIVE, &[]).await, 0.0, "a stream is bounded by itself");
}
