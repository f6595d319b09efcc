//! The limit for the number of header fields, on every path: HTTP/1.1 and HTTP/2, clients and pods, heads and trailers.

use podpin_testkit::{Answer, Ending, H2Connection, H2Frame, Pod, Request, Setup, wait_for};

use crate::h2_front::{Front, GET, POST, asked, with_path};

/// The most fields of a head or a trailer section.
const FIELDS_MAX: usize = 128;
/// Fields of a bomb: about 900 bytes on the wire.
const BOMB_FIELDS: usize = 900;
/// Streams that a connection may have open.
const STREAMS: u32 = 100;
/// By how much a proxy may grow through what it refuses: allocators keep a little.
const GROWTH_BYTES: u64 = 4 * 1024 * 1024;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const HEADERS: u8 = 1;

/// A request of each data path.
fn each_path() -> [Request; 4] {
    let post = Request::new("POST", "/post").body("a body");
    [Request::get("/get"), Request::events("/events"), post, Request::websocket("/upgrade")]
}

/// The request with this many fields, `Host` among them.
fn with_fields(request: Request, count: usize) -> Request {
    let head = String::from_utf8_lossy(&request.bytes()).split("\r\n\r\n").next().unwrap().to_owned();
    let missing = count + 1 - head.lines().count();
    (0..missing).fold(request, |request, number| request.header(&format!("x-{number}"), ""))
}

/// These fields, then one that enters the dynamic table, then references to it.
fn bomb(fields: &[(&str, &str)], name: &str) -> Vec<u8> {
    let mut block = podpin_testkit::h2_block(fields);
    block.extend([&[0x40, u8::try_from(name.len()).unwrap()], name.as_bytes(), &[1, b'v']].concat());
    block.resize(block.len() + BOMB_FIELDS, 0xbe);
    block
}

#[tokio::test]
async fn a_request_with_one_field_too_many_is_a_431_over_http_1() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    for request in each_path() {
        let mut connection = proxy.connect().await;
        connection.send(with_fields(request.clone(), FIELDS_MAX + 1).bytes()).await;
        assert_eq!(connection.response("GET").await.status, 431, "{request:?}");
        connection.ending().await;
    }
    assert!(pod.requests().is_empty(), "{:?}", pod.targets());
    for request in each_path() {
        let mut connection = proxy.connect().await;
        connection.send(with_fields(request.clone(), FIELDS_MAX).bytes()).await;
        let head = connection.head().await;
        let begun = ["HTTP/1.1 200", "HTTP/1.1 101"].iter().any(|start| head.start_line.starts_with(start));
        assert!(begun, "{}", head.start_line);
    }
}

#[tokio::test]
async fn a_request_with_too_many_fields_is_a_431_of_its_stream_over_http_2() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).h2c().start().await;
    let mut connection = H2Connection::open(proxy.address).await;
    let paths = each_path().into_iter().take(3);
    let many = |name: &'static str| {
        move |request: Request| (0..=FIELDS_MAX).fold(request, |request, _| request.header(name, "a=b"))
    };
    for request in paths.clone().map(many("x-many")).chain(paths.map(many("cookie"))) {
        let answer = connection.send(&request).await;
        assert_eq!(answer.status, 431, "{request:?}");
    }
    assert!(pod.requests().is_empty(), "{:?}", pod.targets());
    let crumbs = (0..100).fold(Request::get("/crumbs"), |request, _| request.header("cookie", "a=b"));
    assert_eq!(connection.send(&crumbs).await.status, 200, "the connection goes on");
    assert_eq!(pod.next_request().await.head.all("cookie").len(), 1);
    let name = "podpin_request_heads_refused_total";
    proxy.wait_metric(name, &[("code", "431")], 6.0).await;
}

#[tokio::test]
async fn heads_of_references_pin_no_memory_while_their_answers_wait() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/bomb", Answer::ByHand);
    for front in Front::both(&Setup::chat(&[&pod]).top("workers: 1")).await {
        front.serves(&pod).await;
        let before = front.proxy.process.memory_bytes();
        let mut kept = Vec::new();
        for (name, fields) in [("x", &GET), ("cookie", &GET), ("x", &POST)] {
            let mut connection = front.connect().await;
            connection.begin_h2(&H2Frame::initial_window(0)).await;
            let flags = if fields == &GET { END_HEADERS | END_STREAM } else { END_HEADERS };
            let frames: Vec<_> = (0..STREAMS)
                .map(|number| {
                    let block = bomb(&with_path(fields, "/bomb"), name);
                    H2Frame::new(HEADERS, flags, 2 * number + 1, block)
                })
                .collect();
            assert!(connection.try_frames(&frames).await);
            for _ in 0..STREAMS {
                // 431 is not one of HPACK's static table.
                let answer = connection.h2_frame_that(|frame| frame.status().is_some()).await.unwrap();
                assert_eq!(answer.status(), Some(0), "stream {}", answer.stream());
            }
            kept.push(connection);
        }
        let grown = || front.proxy.process.memory_bytes().saturating_sub(before);
        wait_for("the memory of refused heads to be given back", async || grown() <= GROWTH_BYTES).await;
        front.serves(&pod).await;
    }
    assert_eq!(asked(&pod, "/bomb"), 0);
}

#[tokio::test]
async fn trailers_have_the_same_limit_over_http_1() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    for (fields, expected) in [(FIELDS_MAX, 200), (FIELDS_MAX + 1, 431)] {
        let mut connection = proxy.connect().await;
        let head = "POST /trailers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        connection.send([head, "1\r\na\r\n0\r\n", &"x: y\r\n".repeat(fields), "\r\n"].concat()).await;
        assert_eq!(connection.response("POST").await.status, expected);
    }
}

#[tokio::test]
async fn trailers_have_the_same_limit_over_http_2() {
    let pod = Pod::start("pod-a").await;
    let head = |stream| H2Frame::head(stream, &with_path(&POST, "/upload"));
    let last = |stream, block| H2Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, block);
    for front in Front::both(&Setup::chat(&[&pod])).await {
        let mut connection = front.begun().await;
        for number in 0..200 {
            // The connection goes on, however often; 431 is not one of HPACK's static table.
            let (stream, is_bomb) = (2 * number + 1, number % 2 == 0);
            let block = if is_bomb { bomb(&[], "x") } else { Vec::new() };
            assert!(connection.try_frames(&[head(stream), last(stream, block)]).await);
            let answer = connection.h2_frame_that(|frame| frame.status().is_some()).await.unwrap();
            assert_eq!((answer.stream(), answer.status() == Some(200)), (stream, !is_bomb));
        }
        front.serves(&pod).await;
    }
}

#[tokio::test]
async fn a_pod_has_the_same_limit_on_every_path() {
    let pod = Pod::start("pod-a").await;
    for path in ["/get", "/events", "/post", "/upgrade"] {
        pod.answer(path, Answer::ByHand);
    }
    let setup = Setup::chat(&[&pod])
        .with("retries: {attempts: 0}")
        .with("health: {passive: off}")
        .with("sse: {unavailable: status}");
    let proxy = setup.start().await;
    let fields = |count: usize| "x: y\r\n".repeat(count);
    let heads = [
        format!("HTTP/1.1 200 OK\r\n{}\r\n", fields(FIELDS_MAX + 1)),
        format!("HTTP/1.1 103 Early Hints\r\n{}\r\nHTTP/1.1 200 OK\r\n\r\n", fields(FIELDS_MAX + 1)),
    ];
    for request in each_path() {
        for head in &heads {
            let mut connection = proxy.connect().await;
            connection.send(request.bytes()).await;
            let mut stream = pod.next_stream().await;
            assert!(stream.try_raw(head.as_bytes()).await);
            assert_eq!(connection.response("GET").await.status, 502, "{request:?}");
        }
    }
    let mut connection = proxy.connect().await;
    connection.send(Request::get("/get").bytes()).await;
    let mut stream = pod.next_stream().await;
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n";
    assert!(stream.try_raw([head, &fields(FIELDS_MAX + 1), "\r\n"].concat().as_bytes()).await);
    let response = connection.try_response("GET").await;
    assert!(response.is_err() || response.is_ok_and(|response| response.ending != Ending::Clean));
}
