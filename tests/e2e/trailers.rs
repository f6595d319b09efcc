//! Fields behind a body, both ways and over both versions of HTTP (RFC 9110 section 6.5).

use podpin_testkit::{Answer, H2Connection, Pod, PodStream, Proxy, Request, Setup};

const CHUNKED: &str =
    "POST /by-hand HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n";
const SECTION: &str = "X-Sum: abc\r\nContent-Length: 3\r\nX-Podpin-Session: forged\r\n";

async fn by_hand() -> (Pod, Proxy) {
    let pod = Pod::start("pod-a").await;
    pod.answer("/by-hand", Answer::ByHand);
    let proxy = Setup::chat(&[&pod]).h2c().start().await;
    (pod, proxy)
}

/// Answers with a chunked body and a trailer section.
async fn answer(stream: &mut PodStream, section: &str) {
    let head = "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.raw(&format!("{head}2\r\nok\r\n0\r\n{section}\r\n")).await;
}

#[tokio::test]
async fn trailers_of_a_response_pass_but_for_those_that_could_frame_or_forge() {
    let (pod, proxy) = by_hand().await;
    let mut connection = proxy.connect().await;
    connection.send("GET /by-hand HTTP/1.1\r\nHost: a\r\n\r\n").await;
    answer(&mut pod.next_stream().await, SECTION).await;
    let head = connection.head().await;
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    let body = "2\r\nok\r\n0\r\nX-Sum: abc\r\n\r\n";
    assert_eq!(String::from_utf8(connection.raw(body.len()).await).unwrap(), body);
    let mut h2 = H2Connection::open(proxy.address).await;
    let mut request = h2.begin(&Request::get("/by-hand")).await;
    request.body.finish();
    answer(&mut pod.next_stream().await, SECTION).await;
    assert_eq!(request.trailers().await, [("x-sum".to_owned(), "abc".to_owned())]);
    // HTTP/1.0 has no place for them.
    let mut old = proxy.connect().await;
    old.send("GET /by-hand HTTP/1.0\r\nHost: a\r\n\r\n").await;
    answer(&mut pod.next_stream().await, SECTION).await;
    assert_eq!(old.response("GET").await.text(), "ok");
}

#[tokio::test]
async fn trailers_of_a_request_pass_behind_its_body() {
    let (pod, proxy) = by_hand().await;
    let expected = "X-Sum: abc\r\n";
    let mut connection = proxy.connect().await;
    connection.send(format!("{CHUNKED}2\r\nok\r\n0\r\n{SECTION}\r\n")).await;
    let stream = pod.next_stream().await;
    assert_eq!((&*stream.request.body, trailers(&stream)), (&b"ok"[..], expected.to_owned()));
    let mut h2 = H2Connection::open(proxy.address).await;
    let mut request = h2.begin(&Request::new("POST", "/by-hand")).await;
    assert!(request.body.send(b"ok").await);
    request.body.finish_with_trailer("x-sum", "abc");
    let stream = pod.next_stream().await;
    assert_eq!((&*stream.request.body, trailers(&stream)), (&b"ok"[..], expected.to_owned()));
}

#[tokio::test]
async fn no_field_passes_behind_a_body_that_the_head_must_not_have() {
    let fields = [
        ("x-sum", "abc"),
        ("x_real_ip", "192.0.2.1"),
        ("x_podpin_session", "forged"),
        ("content_length", "3"),
        ("x-session", "another's"),
        ("x_session", "another's"),
        ("x-role", "admin"),
        ("x_role", "admin"),
        ("foo_bar", "1"),
    ];
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    for (underscores, expected) in [("pass", "X-Sum: abc\r\nFoo_bar: 1\r\n"), ("drop", "X-Sum: abc\r\n")] {
        let pod = Pod::start("pod-a").await;
        pod.answer("/by-hand", Answer::ByHand);
        let setup = Setup::chat(&[&pod]).h2c().with("affinity: {header: X-Session}");
        let setup = setup.top(&format!("limits: {{headersWithUnderscores: {underscores}}}"));
        let route = "{name: one, service: chat, headers: {request: {remove: [X-Role]}}}";
        let proxy = setup.route(route).start().await;
        let mut connection = proxy.connect().await;
        connection.send(format!("{CHUNKED}2\r\nok\r\n0\r\n{lines}\r\n")).await;
        let seen = trailers(&pod.next_stream().await);
        assert_eq!(seen.to_ascii_lowercase(), expected.to_ascii_lowercase(), "HTTP/1.1, {underscores}");
        let mut h2 = H2Connection::open(proxy.address).await;
        let mut request = h2.begin(&Request::new("POST", "/by-hand")).await;
        request.body.finish_with_trailers(&fields);
        let seen = trailers(&pod.next_stream().await);
        assert_eq!(seen.to_ascii_lowercase(), expected.to_ascii_lowercase(), "HTTP/2, {underscores}");
    }
}

#[tokio::test]
async fn malformed_trailers_break_their_message() {
    let (pod, proxy) = by_hand().await;
    let mut connection = proxy.connect().await;
    connection.send(format!("{CHUNKED}2\r\nok\r\n0\r\nno colon\r\n\r\n")).await;
    assert_eq!(connection.response("POST").await.status, 400);
    let mut connection = proxy.connect().await;
    connection.send("GET /by-hand HTTP/1.1\r\nHost: a\r\n\r\n").await;
    answer(&mut pod.next_stream().await, ":status: 200\r\n").await;
    let response = connection.response("GET").await;
    assert_ne!(response.ending, podpin_testkit::Ending::Clean, "{response:?}");
}

/// The trailer section as the pod received it.
fn trailers(stream: &PodStream) -> String {
    stream.request.trailers.clone()
}
