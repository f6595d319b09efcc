//! Ordinary requests whose client or pod bends the rules: neither may take the bytes of one message for another's.

use podpin_testkit::{
    Answer, Authority, Connection, Ending, H2Connection, H2Frame, Pod, Proxy, Reply, Request, Setup, in_time,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::h2_front::Front;

/// More than sockets hold.
const LARGE: usize = 8 * 1024 * 1024;

/// A pod that reads nothing by itself.
struct RawPod(TcpListener);

impl RawPod {
    async fn start() -> RawPod {
        RawPod(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn setup(&self) -> Setup {
        Setup::new()
            .service_at("chat", &[("raw", self.0.local_addr().unwrap())])
            .with("health: {passive: off}")
    }

    /// The next connection, after the head of its request.
    async fn asked(&self) -> TcpStream {
        let (mut stream, _) = in_time("a connection to the pod", self.0.accept()).await.unwrap();
        read_head(&mut stream).await;
        stream
    }
}

/// Reads a head and whatever came with it.
async fn read_head(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
        assert_ne!(in_time("a request head", stream.read_buf(&mut seen)).await.unwrap(), 0);
    }
}

async fn answer(stream: &mut TcpStream, bytes: &str) {
    stream.write_all(bytes.as_bytes()).await.unwrap();
}

async fn ok(connection: &mut Connection, pod: &Pod) {
    assert_eq!(connection.ask(&Request::get("/who")).await.text(), pod.name());
}

#[tokio::test]
async fn a_pod_that_nominates_the_length_does_not_take_it_from_the_client() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/x", Reply::new(200).header("Connection", "Content-Length").body("abc"));
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut connection = proxy.connect().await;
    let response = connection.ask(&Request::get("/x")).await;
    assert_eq!((response.text().as_str(), response.header("content-length")), ("abc", Some("3")));
    ok(&mut connection, &pod).await;
}

#[tokio::test]
async fn connect_over_http_2_is_refused_and_reaches_no_pod() {
    let pod = Pod::start("pod-a").await;
    for front in Front::both(&Setup::chat(&[&pod])).await {
        let mut connection = front.begun().await;
        let head = [(":method", "CONNECT"), (":authority", "app:443")];
        assert!(connection.try_frames(&[H2Frame::request(1, &head)]).await);
        let wanted = |frame: &H2Frame| {
            frame.stream() == 1 && (frame.status().is_some() || frame.reset_code().is_some())
        };
        let refused = connection.h2_frame_that(wanted).await.unwrap();
        assert_ne!(refused.status(), Some(200));
    }
    assert!(pod.requests().is_empty(), "{:?}", pod.targets());
}

#[tokio::test]
async fn an_interim_response_has_no_length() {
    let pod = RawPod::start().await;
    let proxy = pod.setup().start().await;
    let mut connection = proxy.connect().await;
    connection.send(Request::get("/x").bytes()).await;
    let mut stream = pod.asked().await;
    answer(&mut stream, "HTTP/1.1 103 Early Hints\r\nContent-Length: 40\r\nLink: </a>\r\n\r\n").await;
    let head = connection.head().await;
    assert_eq!((head.header("link"), head.header("content-length")), (Some("</a>"), None));
    answer(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").await;
    assert_eq!(connection.response("GET").await.text(), "abc");
}

/// Sends a whole body before it reads anything, as many clients do.
async fn upload(connection: &mut Connection, bytes: usize) {
    let head = format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n");
    connection.send(head).await;
    assert!(connection.try_send(vec![b'x'; bytes]).await, "the upload was broken off");
}

#[tokio::test]
async fn who_uploads_more_than_its_pod_reads_gets_the_answer_and_keeps_its_connection() {
    let pod = RawPod::start().await;
    let proxy = pod.setup().start().await;
    for persistence in ["", "Connection: close\r\n"] {
        let mut connection = proxy.connect().await;
        let refuse = async {
            let mut stream = pod.asked().await;
            answer(&mut stream, &format!("HTTP/1.1 413 No\r\n{persistence}Content-Length: 3\r\n\r\nbig"))
                .await;
            stream
        };
        let (_stream, ()) = tokio::join!(refuse, upload(&mut connection, LARGE));
        let response = connection.response("POST").await;
        assert_eq!((response.status, response.text().as_str()), (413, "big"), "{persistence}");
        let (mut stream, ()) = tokio::join!(pod.asked(), connection.send(Request::get("/next").bytes()));
        answer(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext").await;
        assert_eq!(connection.response("GET").await.text(), "next", "{persistence}");
    }
}

#[tokio::test]
async fn an_answer_reaches_its_client_though_its_pod_resets_the_upload() {
    let pod = RawPod::start().await;
    let proxy = pod.setup().h2c().start().await;
    let mut http2 = H2Connection::open(proxy.address).await;
    let mut http1 = proxy.connect().await;
    let refuse = async || {
        let mut stream = pod.asked().await;
        answer(&mut stream, "HTTP/1.1 413 No\r\nContent-Length: 3\r\n\r\nbig").await;
        // What is unread makes a reset of this.
        drop(stream);
    };
    for _ in 0..10 {
        tokio::join!(refuse(), upload(&mut http1, LARGE));
        assert_eq!(http1.response("POST").await.text(), "big");
        let mut upload = http2.begin(&Request::new("POST", "/x")).await;
        let piece = vec![b'x'; 64 * 1024];
        tokio::join!(refuse(), async { while upload.body.send(&piece).await {} });
        assert_eq!(upload.response().await.text(), "big");
    }
    assert_eq!(proxy.metric("podpin_upstream_errors_total", &[]).await, 0.0);
}

#[tokio::test]
async fn who_uploads_what_nobody_takes_reads_why() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).route("{name: app, hostnames: [app], service: chat}").start().await;
    let mut connection = proxy.connect().await;
    upload(&mut connection, LARGE).await;
    let response = connection.response("POST").await;
    assert_eq!((response.status, response.header("connection")), (404, Some("close")));
    assert_eq!(connection.ending().await, Ending::Cut);
}

#[tokio::test]
async fn what_comes_instead_of_a_body_that_was_asked_for_first_is_no_body() {
    let pod = RawPod::start().await;
    let proxy = pod.setup().start().await;
    let mut connection = proxy.connect().await;
    let next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = "POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n";
    connection.send(format!("{head}Content-Length: {}\r\n\r\n", next.len())).await;
    let mut stream = pod.asked().await;
    answer(&mut stream, "HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno").await;
    assert_eq!(connection.response("POST").await.status, 417);
    // Taken for the body, it would make the connection good for another request.
    assert!(connection.try_send(next).await);
    connection.ending().await;
}

#[tokio::test]
async fn large_bodies_pass_over_tls_on_both_sides() {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    let pod = Pod::start_tls("pod-a", authority.acceptor(&["pod.test"], None)).await;
    let large: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
    pod.answer("/x", Reply::new(200).body(large.clone()));
    let ca = authority.file("ca.pem").display().to_string();
    let proxy = Setup::chat(&[&pod]).with(&format!("tls: {{serverName: pod.test, caFile: \"{ca}\"}}"));
    let words = format!("{{certificates: [{}]}}", authority.entry("one"));
    let proxy = proxy.tls(&words).start().await;
    let mut connection = authority.client(&[]).connect(proxy.address, "localhost").await;
    for _ in 0..3 {
        let response = connection.ask(&Request::new("POST", "/x").body(large.clone())).await;
        assert!(response.body == large, "{} bytes, {:?}", response.body.len(), response.ending);
        assert!(pod.next_request().await.body == large);
    }
    assert_eq!(pod.connections(), 1);
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_a_response_is_cut_and_its_pod_let_go() {
    let pod = RawPod::start().await;
    let proxy = pod.setup().with("timeouts: {clientWrite: 500ms}").start().await;
    let mut connection = Connection::open_with_receive_buffer(proxy.address, 4096).await;
    connection.send(Request::get("/x").bytes()).await;
    let mut stream = pod.asked().await;
    answer(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 900000000\r\n\r\n").await;
    let piece = vec![b'x'; 64 * 1024];
    in_time("the end of the response", async { while stream.write_all(&piece).await.is_ok() {} }).await;
    let line = proxy.access_log_line(|line| line["path"] == "/x").await;
    assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"slow_client".into()));
    let counted = proxy.metric("podpin_requests_total", &[("code", "200")]).await;
    assert_eq!(counted, 1.0);
    assert_eq!(proxy.metric("podpin_upstream_errors_total", &[]).await, 0.0);
}

#[tokio::test]
async fn an_answer_before_the_end_of_an_upload_reaches_a_client_of_http_2_whole() {
    let pod = RawPod::start().await;
    let proxy = pod.setup().h2c().start().await;
    let mut connection = H2Connection::open(proxy.address).await;
    let mut upload = connection.begin(&Request::new("POST", "/x")).await;
    assert!(upload.body.send(b"begun").await);
    let mut stream = pod.asked().await;
    let body = "y".repeat(300_000);
    answer(&mut stream, &format!("HTTP/1.1 413 No\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    let response = upload.response().await;
    assert_eq!((response.status, response.ending.clone()), (413, Ending::Clean));
    assert!(response.text() == body);
    // Half of a request was on that connection.
    assert_eq!(in_time("the end of the connection", read_to_end(&mut stream)).await, "gone");
}

async fn read_to_end(stream: &mut TcpStream) -> &'static str {
    let mut rest = Vec::new();
    // A reset is an end as well.
    stream.read_to_end(&mut rest).await.map_or("gone", |_| "gone")
}

#[tokio::test]
async fn a_client_that_does_not_read_our_answers_is_let_go() {
    let pod = Pod::start("pod-a").await;
    // Each answer carries its request's target back: a few hundred of them fill what the kernel buffers.
    let setup = Setup::chat(&[&pod]).route("{name: all, service: chat, redirect: {scheme: https}}");
    let proxy = setup.top("limits: {requestsPerConnection: off}").start().await;
    let mut connection = Connection::open_with_receive_buffer(proxy.address, 4096).await;
    let asked = format!("GET /{} HTTP/1.1\r\nHost: app\r\n\r\n", "x".repeat(15_000)).repeat(50);
    in_time("the end of the connection", async { while connection.try_send(&asked).await {} }).await;
    proxy.wait_metric("podpin_connections_active", &[("listener", "http")], 0.0).await;
}

/// The metric of retries, and that of errors.
async fn retries_and_errors(proxy: &Proxy) -> (f64, f64) {
    let retries = proxy.metric("podpin_upstream_retries_total", &[("reason", "reset")]).await;
    (retries, proxy.metric("podpin_upstream_errors_total", &[("kind", "reset")]).await)
}

#[tokio::test]
async fn nothing_is_asked_again_once_an_answer_has_begun() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/half", Answer::ByHand);
    let proxy = Setup::chat(&[&pod]).with("health: {passive: off}").start().await;
    for (count, begun) in (1_u32..).zip(["HTTP/1.1 200 OK\r\nConte", "HTTP/1.1 103 Early Hints\r\n\r\n"]) {
        let mut connection = proxy.connect().await;
        ok(&mut connection, &pod).await;
        connection.send(Request::get("/half").bytes()).await;
        let mut stream = pod.next_stream().await;
        stream.raw(begun).await;
        stream.close();
        assert_eq!(connection.response("GET").await.status, 502, "{begun:?}");
        assert_eq!(retries_and_errors(&proxy).await, (0.0, f64::from(count)), "{begun:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_sent_again_is_a_failure_of_the_pod_and_no_retry() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).with("health: {passive: off}").start().await;
    let mut connection = proxy.connect().await;
    ok(&mut connection, &pod).await;
    pod.answer_once("/put", Answer::Close);
    let large = Request::new("PUT", "/put").body(vec![b'x'; 200_000]);
    assert_eq!(connection.ask(&large).await.status, 502);
    assert_eq!(retries_and_errors(&proxy).await, (0.0, 1.0));
    assert_eq!(pod.connections(), 1, "nothing was asked again");
}

#[tokio::test]
async fn a_pod_that_takes_nothing_is_a_504_and_a_client_that_sends_nothing_a_408() {
    let pod = RawPod::start().await;
    let setup = pod.setup().with("timeouts: {responseHeader: 500ms}");
    let proxy = setup.top("limits: {requestBodyTimeout: 1s}").start().await;
    let mut connection = proxy.connect().await;
    let (_stream, ()) = tokio::join!(pod.asked(), upload(&mut connection, LARGE));
    assert_eq!(connection.response("POST").await.status, 504);
    let mut connection = proxy.connect().await;
    connection.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab").await;
    let _stream = pod.asked().await;
    assert_eq!(connection.response("POST").await.status, 408);
    assert_eq!(proxy.metric("podpin_upstream_errors_total", &[("kind", "timeout")]).await, 1.0);
}

#[tokio::test]
async fn a_response_that_pauses_for_too_long_is_cut_and_said_to_be() {
    let pod = RawPod::start().await;
    let proxy = pod.setup().with("timeouts: {upstreamIdle: 300ms}").h2c().start().await;
    for framing in ["Content-Length: 10\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let mut connection = proxy.connect().await;
        connection.send(Request::get("/x").bytes()).await;
        let mut stream = pod.asked().await;
        answer(&mut stream, &format!("HTTP/1.1 200 OK\r\n{framing}")).await;
        let response = connection.response("GET").await;
        assert_eq!((response.text().as_str(), response.ending), ("half", Ending::Cut), "{framing}");
        let mut http2 = H2Connection::open(proxy.address).await;
        let asked = Request::get("/x");
        let ((), response) = tokio::join!(
            async {
                let mut stream = pod.asked().await;
                answer(&mut stream, &format!("HTTP/1.1 200 OK\r\n{framing}")).await;
                read_to_end(&mut stream).await;
            },
            http2.send(&asked)
        );
        assert_eq!((response.text().as_str(), response.ending), ("half", Ending::Reset), "{framing}");
    }
    proxy.wait_metric("podpin_requests_total", &[("code", "200")], 4.0).await;
    let line = proxy.access_log_line(|line| line["path"] == "/x").await;
    assert_eq!((&line["reason"], &line["bytes"]), (&"idle".into(), &4.into()));
}

#[tokio::test]
async fn an_http_1_0_client_that_asks_keeps_its_connection_as_long_as_lengths_are_known() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/chunks", Reply::new(200).body("abc").chunked());
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut connection = proxy.connect().await;
    for _ in 0..2 {
        let response =
            connection.ask(&Request::get("/who").http10().header("Connection", "keep-alive")).await;
        assert_eq!((response.text().as_str(), response.header("connection")), ("pod-a", Some("keep-alive")));
    }
    let response = connection.ask(&Request::get("/chunks").http10().header("Connection", "keep-alive")).await;
    assert_eq!((response.text().as_str(), response.header("connection")), ("abc", Some("close")));
}

#[tokio::test]
async fn a_connection_over_tls_on_which_its_pod_said_more_carries_no_post() {
    let authority = Authority::new();
    let pod = Pod::start_tls("pod-a", authority.acceptor(&["pod.test"], None)).await;
    pod.answer("/last", Answer::ByHand);
    let ca = authority.file("ca.pem").display().to_string();
    let tls = format!("tls: {{serverName: pod.test, caFile: \"{ca}\"}}");
    let proxy = Setup::chat(&[&pod]).with(&tls).start().await;
    let mut connection = proxy.connect().await;
    connection.send(Request::get("/last").bytes()).await;
    let mut stream = pod.next_stream().await;
    stream.raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx").await;
    assert_eq!(connection.response("GET").await.text(), "x");
    stream.raw("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n").await;
    stream.client_gone().await;
    let response = connection.ask(&Request::new("POST", "/who").body("abc")).await;
    assert_eq!((response.status, response.text().as_str()), (200, "pod-a"));
}
