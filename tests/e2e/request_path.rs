//! Ordinary requests whose client or pod bends the rules: neither may take the bytes of one message for another's.

use podpin_testkit::{Answer, Connection, H2Frame, Pod, Proxy, Reply, Request, Setup, in_time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::h2_front::Front;

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
