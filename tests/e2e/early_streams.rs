//! Event streams that begin before the last byte of their request: an endpoint may answer on the head alone, and a client may
//! send for as long as it likes. They are streams as all others are.

use podpin_testkit::{Ending, EndpointsFile, H2Connection, Proxy, Request, Setup, in_time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
    13\r\nid: 1\ndata: first\n\n\r\n";
const POST: &str = "POST /chat HTTP/1.1\r\nHost: app\r\nContent-Length: 10\r\n\r\n";

/// A pod that answers on the head of a request, and reads nothing of the body by itself.
struct EagerPod(TcpListener);

impl EagerPod {
    async fn start() -> EagerPod {
        EagerPod(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn setup(&self) -> Setup {
        Setup::new().service_at("chat", &[("pod-a", self.0.local_addr().unwrap())]).h2c()
    }

    /// A stream that has begun.
    async fn begin(&self) -> TcpStream {
        let (mut pod, _) = in_time("a connection to the pod", self.0.accept()).await.unwrap();
        until(&mut pod, "\r\n\r\n").await;
        pod.write_all(STREAM.as_bytes()).await.unwrap();
        pod
    }
}

/// Reads until `text` is there; returns everything.
async fn until(stream: &mut TcpStream, text: &str) -> String {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(text) {
        let read = in_time(text, stream.read_buf(&mut seen)).await.unwrap();
        assert_ne!(read, 0, "the end before {text:?}: {}", String::from_utf8_lossy(&seen));
    }
    String::from_utf8(seen).unwrap()
}

/// Reads to the end of the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    let _reset = in_time("the end of a connection", stream.read_to_end(&mut seen)).await;
    String::from_utf8(seen).unwrap()
}

async fn client(proxy: &Proxy, bytes: &str) -> TcpStream {
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.set_nodelay(true).unwrap();
    client.write_all(bytes.as_bytes()).await.unwrap();
    client
}

#[tokio::test]
async fn it_is_kept_alive_while_the_pod_gets_the_rest_and_leaves_its_connection_to_the_next() {
    let pod = EagerPod::start().await;
    let proxy = pod.setup().with("sse: {keepAlive: 1s}").start().await;
    let mut client = client(&proxy, POST).await;
    let mut stream = pod.begin().await;
    client.write_all(b"12345").await.unwrap();
    until(&mut stream, "12345").await;
    until(&mut client, "data: first\n\n").await;
    until(&mut client, ":\n").await;
    assert_eq!(proxy.metric("podpin_streams_active", &[("endpoint", "pod-a")]).await, 1.0);
    client.write_all(b"67890GET /next HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n").await.unwrap();
    until(&mut stream, "67890").await;
    until(&mut client, ":\n").await;
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let (mut next, _) = in_time("the next request", pod.0.accept()).await.unwrap();
    assert!(until(&mut next, "\r\n\r\n").await.starts_with("GET /next "));
    next.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    let rest = rest(&mut client).await;
    assert!(rest.contains("0\r\n\r\nHTTP/1.1 204 "), "{rest}");
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "upstream_end")], 1.0).await;
}

#[tokio::test]
async fn over_http_2_it_is_kept_alive_too_and_its_trailers_pass() {
    let pod = EagerPod::start().await;
    let proxy = pod.setup().with("sse: {keepAlive: 1s}").start().await;
    let mut h2 = H2Connection::open(proxy.address).await;
    let mut upload = h2.begin(&Request::new("POST", "/chat")).await;
    let mut stream = pod.begin().await;
    assert!(upload.body.send(b"half ").await);
    let (status, mut events) = upload.head().await;
    assert_eq!((status, events.next_data().await.as_str()), (200, "first"));
    events.until_contains(":\n").await;
    assert!(upload.body.send(b"whole").await);
    upload.body.finish();
    until(&mut stream, "0\r\n\r\n").await;
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(events.rest().await.1, Ending::Clean);
    let upload = h2.begin(&Request::events("/chat")).await;
    let mut stream = pod.begin().await;
    stream.write_all(b"0\r\nX-Checksum: 7\r\nContent-Length: 5\r\n\r\n").await.unwrap();
    assert_eq!(upload.trailers().await, [("x-checksum".to_owned(), "7".to_owned())]);
}

#[tokio::test]
async fn it_says_goodbye_at_the_deadline_of_a_drain() {
    let pod = EagerPod::start().await;
    let address = pod.0.local_addr().unwrap();
    let file = EndpointsFile::with(&[("pod-a", address, "ready")]);
    let proxy = Setup::new().service_in("chat", &file).with("drain: {spread: 0s, timeout: 1s}").start().await;
    let mut client = client(&proxy, POST).await;
    let _stream = pod.begin().await;
    until(&mut client, "data: first\n\n").await;
    file.write(&[("pod-a", address, "draining")]);
    let end = until(&mut client, "0\r\n\r\n").await;
    assert!(end.contains("retry: "), "{end}");
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "drain")], 1.0).await;
}

#[tokio::test]
async fn a_client_that_stops_within_its_body_is_cut_and_the_log_says_why() {
    let pod = EagerPod::start().await;
    let proxy = pod.setup().top("limits: {requestBodyTimeout: 1s}").start().await;
    let mut client = client(&proxy, &format!("{POST}12345")).await;
    let _stream = pod.begin().await;
    let rest = rest(&mut client).await;
    assert!(rest.contains("data: first") && !rest.contains("0\r\n\r\n"), "{rest}");
    let line = proxy.access_log_line(|line| line["kind"] == "stream").await;
    assert_eq!(line["reason"], "client");
    assert!(line["error"].as_str().unwrap().contains("request body"), "{line}");
}

#[tokio::test]
async fn a_body_that_no_pod_reads_is_discarded_behind_the_stream() {
    let pod = EagerPod::start().await;
    let proxy = pod.setup().with("sse: {keepAlive: 1s}").start().await;
    // More than sockets hold.
    let length = 16 * 1024 * 1024;
    let head = format!("POST /chat HTTP/1.1\r\nHost: app\r\nContent-Length: {length}\r\n\r\n");
    let client = client(&proxy, &head).await;
    let (mut from_proxy, mut to_proxy) = client.into_split();
    let sending = tokio::spawn(async move {
        let sent = to_proxy.write_all(&vec![b'x'; length]).await;
        sent.map(|()| to_proxy)
    });
    let mut stream = pod.begin().await;
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("data: first\n\n\r\n2\r\n:\n") {
        assert_ne!(in_time("a comment", from_proxy.read_buf(&mut seen)).await.unwrap(), 0);
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    while !String::from_utf8_lossy(&seen).ends_with("0\r\n\r\n") {
        assert_ne!(in_time("the end", from_proxy.read_buf(&mut seen)).await.unwrap(), 0);
    }
    let mut to_proxy = in_time("the whole upload", sending).await.unwrap().unwrap();
    to_proxy.write_all(b"GET /next HTTP/1.1\r\nHost: app\r\n\r\n").await.unwrap();
    let (mut next, _) = in_time("the next request", pod.0.accept()).await.unwrap();
    assert!(until(&mut next, "\r\n\r\n").await.starts_with("GET /next "));
}

#[tokio::test]
async fn requests_that_come_while_a_stream_runs_are_answered_behind_it() {
    let pod = EagerPod::start().await;
    let proxy = pod.setup().start().await;
    for accept in ["text/event-stream", "*/*"] {
        for is_together in [true, false] {
            let first = format!("GET /chat HTTP/1.1\r\nHost: app\r\nAccept: {accept}\r\n\r\n");
            let second = "GET /next HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n";
            let (now, later) = if is_together { (first + second, "") } else { (first, second) };
            let mut client = client(&proxy, &now).await;
            let mut stream = pod.begin().await;
            until(&mut client, "data: first\n\n").await;
            client.write_all(later.as_bytes()).await.unwrap();
            stream.write_all(b"0\r\n\r\n").await.unwrap();
            let (mut next, _) = in_time("the next request", pod.0.accept()).await.unwrap();
            assert!(until(&mut next, "\r\n\r\n").await.starts_with("GET /next "));
            next.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            assert!(rest(&mut client).await.contains("HTTP/1.1 204 "), "{accept} {is_together}");
        }
    }
}

#[tokio::test]
async fn an_announced_stream_that_is_none_is_answered_like_any_request() {
    let pod = EagerPod::start().await;
    let proxy = pod.setup().start().await;
    let request = "GET /chat HTTP/1.1\r\nHost: app\r\nAccept: text/event-stream\r\n\r\n";
    let mut client = client(&proxy, &request.repeat(2)).await;
    let (mut asked, _) = in_time("a connection to the pod", pod.0.accept()).await.unwrap();
    until(&mut asked, "\r\n\r\n").await;
    let answer =
        "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\nX-Checksum: 7\r\n\r\n";
    asked.write_all(answer.as_bytes()).await.unwrap();
    let first = until(&mut client, "0\r\n").await;
    assert!(first.starts_with("HTTP/1.1 404 ") && !first.contains("Connection: close"), "{first}");
    let (mut asked, _) = in_time("the second request", pod.0.accept()).await.unwrap();
    until(&mut asked, "\r\n\r\n").await;
    asked.write_all(answer.as_bytes()).await.unwrap();
    let second = until(&mut client, "HTTP/1.1 404 ").await;
    assert!((first + &second).contains("0\r\nX-Checksum: 7\r\n\r\nHTTP/1.1 404 "), "{second}");
    let log = proxy.access_log_line(|line| line["status"] == 404).await;
    assert_eq!((&log["kind"], &log["reason"]), (&"request".into(), &"complete".into()));
}
