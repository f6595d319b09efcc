//! WebSockets over HTTP/2 (RFC 8441): streams for the client, upgrades for the pod.

use std::future::poll_fn;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use podpin_testkit::{Authority, EndpointsFile, Pod, Reply, Setup, in_time, wait_for, wait_for_some};
use serde_json::json;
use tokio::net::TcpStream;

use super::{CLOSE, End, RawPod, TEXT, masked, plain};
use crate::browser::Browser;
use crate::python_sdks::{lines, script};

/// A stream of an HTTP/2 connection that may become a WebSocket.
struct Stream {
    to: SendStream<Bytes>,
    response: http::Response<RecvStream>,
    read: Vec<u8>,
}

impl Stream {
    async fn send(&mut self, bytes: Vec<u8>) {
        self.to.send_data(bytes.into(), false).unwrap();
    }

    /// Reads until so many bytes are there.
    async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            let data =
                in_time("bytes", self.response.body_mut().data()).await.expect("no end").expect("no reset");
            self.response.body_mut().flow_control().release_capacity(data.len()).unwrap();
            self.read.extend_from_slice(&data);
        }
        self.read.drain(..count).collect()
    }

    /// Whether the stream has ended with END_STREAM, and not with a reset.
    async fn has_ended(&mut self) -> bool {
        loop {
            match in_time("the end", self.response.body_mut().data()).await {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => panic!("more data: {data:?}"),
                Some(Err(_)) => return false,
                None => return true,
            }
        }
    }
}

/// Connects over HTTP/2; waits until the proxy has announced that it takes WebSockets.
async fn connect(proxy: std::net::SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(proxy).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move {
        let _reported = connection.await;
    });
    wait_for("ENABLE_CONNECT_PROTOCOL", async || sender.is_extended_connect_protocol_enabled()).await;
    sender
}

/// Sends the offer of a protocol; the stream and the future response.
fn offer(
    sender: &mut SendRequest<Bytes>,
    protocol: &'static str,
) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
    let request = http::Request::builder()
        .method("CONNECT")
        .uri("http://localhost/ws?a=b")
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .header("origin", "http://localhost");
    sender.send_request(request.body(()).unwrap(), false).unwrap()
}

/// The fields of a pod that takes a WebSocket with the key in this head.
fn accepted(head: &str) -> String {
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-Websocket-Key: ")).expect("a key");
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let proof = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()));
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {proof}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
}

/// A proxy for HTTP/2 without TLS, its pods, and their list.
async fn scene(names: &[&'static str]) -> (podpin_testkit::Proxy, Vec<RawPod>, EndpointsFile) {
    let mut pods = Vec::new();
    for name in names {
        pods.push(RawPod::start(name).await);
    }
    let file = EndpointsFile::absent();
    super::list(&file, &pods, &[]);
    let setup = Setup::new().service_in("chat", &file).with("balance: {slowStart: off}");
    let setup = setup.with("drain: {spread: 0s, timeout: 60s}").with("health: off").h2c();
    (setup.start().await, pods, file)
}

/// Opens a WebSocket at the pod.
async fn open(sender: &mut SendRequest<Bytes>, pod: &RawPod) -> (Stream, End, String) {
    let (response, to) = offer(sender, "websocket");
    let (mut end, head) = pod.request().await;
    end.send(accepted(&head)).await;
    let response = in_time("the response", response).await.unwrap();
    (Stream { to, response, read: Vec::new() }, end, head)
}

#[tokio::test]
async fn a_stream_is_an_upgrade_at_the_pod_and_others_of_its_connection_go_on_beside_it() {
    let (proxy, pods, _file) = scene(&["pod-a"]).await;
    let mut sender = connect(proxy.address).await;
    let (mut first, mut first_pod, head) = open(&mut sender, &pods[0]).await;
    assert!(head.starts_with("GET /ws?a=b HTTP/1.1\r\n"), "{head}");
    for line in [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-Websocket-Version: 13",
        "Sec-Websocket-Protocol: chat",
    ] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} is not in {head}");
    }
    assert!(!head.contains("ransfer-"), "{head}");
    let fields = first.response.headers();
    assert_eq!(
        (first.response.status().as_u16(), &fields["sec-websocket-protocol"]),
        (200, &"chat".parse().unwrap())
    );
    assert!(!fields.contains_key("sec-websocket-accept") && fields.contains_key("set-cookie"), "{fields:?}");
    let (mut second, mut second_pod, _) = open(&mut sender, &pods[0]).await;
    for (stream, pod, word) in [(&mut first, &mut first_pod, "one"), (&mut second, &mut second_pod, "two")] {
        stream.send(masked(TEXT, word.as_bytes())).await;
        assert_eq!(pod.frame().await.payload, word.as_bytes());
        pod.say(TEXT, word.as_bytes()).await;
        assert_eq!(stream.bytes(5).await, plain(TEXT, word.as_bytes()));
    }
    let listed = proxy.admin_get("/api/streams").await.json();
    assert_eq!((&listed["total"], &listed["streams"][0]["protocol"]), (&json!(2), &json!("websocket")));
    first.to.send_data(Bytes::new(), true).unwrap();
    assert_eq!(first_pod.rest().await.as_deref(), Some(&b""[..]), "END_STREAM is a FIN");
    drop(first_pod);
    assert!(first.has_ended().await, "and the other way round");
    let line = proxy.access_log_line(|line| line["kind"] == "upgrade").await;
    assert_eq!(
        (&line["status"], &line["protocol"], &line["reason"]),
        (&json!(200), &json!("HTTP/2"), &json!("client"))
    );
    second.to.send_reset(h2::Reason::CANCEL);
    assert_eq!(second_pod.rest().await.as_deref(), Some(&b""[..]), "a reset frees the pod");
}

#[tokio::test]
async fn an_offer_counts_under_the_limit_of_requests_until_it_is_answered() {
    let pod = RawPod::start("pod-a").await;
    let file = EndpointsFile::absent();
    let pods = [pod];
    super::list(&file, &pods, &[]);
    let setup = Setup::new().service_in("chat", &file).with("health: off").top("limits: {requests: 1}");
    let proxy = setup.h2c().start().await;
    proxy.wait_metric("podpin_requests_active", &[], 0.0).await;
    let mut sender = connect(proxy.address).await;
    let (first, _to_first) = offer(&mut sender, "websocket");
    let (mut end, head) = pods[0].request().await;
    let (refused, _to_refused) = offer(&mut sender, "websocket");
    assert_eq!(in_time("the refusal", refused).await.unwrap().status(), 503);
    end.send(accepted(&head)).await;
    assert_eq!(in_time("the response", first).await.unwrap().status(), 200);
    proxy.wait_metric("podpin_requests_active", &[], 0.0).await;
    let (_stream, _end, _head) = open(&mut sender, &pods[0]).await;
}

#[tokio::test]
async fn bytes_that_the_client_takes_slowly_hold_back_the_pod() {
    const MANY: usize = 8 << 20;
    let (proxy, pods, _file) = scene(&["pod-a"]).await;
    let mut sender = connect(proxy.address).await;
    let (mut stream, mut pod, _) = open(&mut sender, &pods[0]).await;
    let message = vec![7; MANY];
    let frame = plain(0x82, &message);
    let expected = frame.clone();
    let sent = tokio::spawn(async move {
        pod.send(frame).await;
        pod
    });
    assert!(stream.bytes(expected.len()).await == expected);
    let mut pod = sent.await.unwrap();
    for _ in 0..64 {
        let mut rest = Bytes::from(masked(0x82, &[1; 120]));
        while !rest.is_empty() {
            stream.to.reserve_capacity(rest.len());
            let room = in_time("a window", poll_fn(|context| stream.to.poll_capacity(context))).await;
            let room = room.unwrap().unwrap();
            stream.to.send_data(rest.split_to(room.min(rest.len())), false).unwrap();
        }
        assert_eq!(pod.frame().await.payload, [1; 120]);
    }
}

#[tokio::test]
async fn a_drain_closes_it_and_leaves_its_connection_alone() {
    let (proxy, pods, file) = scene(&["pod-a", "pod-b"]).await;
    let mut sender = connect(proxy.address).await;
    let (response, to) = offer(&mut sender, "websocket");
    let (mut pod, head, home) = tokio::select! {
        (pod, head) = pods[0].request() => (pod, head, "pod-a"),
        (pod, head) = pods[1].request() => (pod, head, "pod-b"),
    };
    pod.send(accepted(&head)).await;
    let response = in_time("the response", response).await.unwrap();
    let mut stream = Stream { to, response, read: Vec::new() };
    super::list(&file, &pods, &[home]);
    let close = stream.bytes(2 + 2 + 15).await;
    assert_eq!((close[0], &close[2..4]), (CLOSE, &1012_u16.to_be_bytes()[..]));
    stream.send(masked(CLOSE, &close[2..])).await;
    assert_eq!(pod.frame().await.code(), 1001);
    pod.say(CLOSE, &1001_u16.to_be_bytes()).await;
    assert!(stream.has_ended().await);
    proxy.wait_metric("podpin_drain_departures_total", &[("kind", "polite")], 1.0).await;
    let heir = pods.iter().find(|pod| pod.name != home).unwrap();
    open(&mut sender, heir).await;
}

/// The status of a client when the pod answers with what `answer` makes of its request.
async fn status_of(answer: impl Fn(&str) -> String) -> u16 {
    let (proxy, pods, _file) = scene(&["pod-a"]).await;
    let mut sender = connect(proxy.address).await;
    let (response, _to) = offer(&mut sender, "websocket");
    let (mut pod, head) = pods[0].request().await;
    pod.send(answer(&head)).await;
    let status = in_time("the response", response).await.unwrap().status().as_u16();
    // The next stream of the connection is not concerned.
    open(&mut sender, &pods[0]).await;
    status
}

#[tokio::test]
async fn only_a_proven_switch_is_one_and_other_answers_pass() {
    let forged = |head: &str| accepted(head).replace("Accept: ", "Accept: x");
    assert_eq!(status_of(forged).await, 502);
    assert_eq!(status_of(|_| super::ACCEPTED.to_owned()).await, 502, "without a proof");
    assert_eq!(status_of(|_| "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno".to_owned()).await, 502);
    assert_eq!(status_of(|_| "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno".to_owned()).await, 403);
    let (proxy, _pods, _file) = scene(&["pod-a"]).await;
    let mut sender = connect(proxy.address).await;
    let (response, _to) = offer(&mut sender, "connect-udp");
    assert_eq!(in_time("the response", response).await.unwrap().status().as_u16(), 405);
}

/// The script of a page that says hello and keeps the answer.
const HELLO: &str = "(() => { window.answers = []; window.socket = new WebSocket('wss://' + location.host + '/ws');
    socket.onopen = () => socket.send('hello'); socket.onmessage = event => answers.push(event.data); return true; })()";

#[tokio::test]
async fn a_page_has_its_websocket_over_the_connection_that_it_has_already() {
    let mut server = script("websocket_server.py", &["websockets", "pod-a"]);
    let port = lines(&mut server, 1).await[0]["port"].as_u64().unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
    let pages = Pod::start("pages").await;
    pages.answer("/page", Reply::new(200).header("Content-Type", "text/html").body("<title>x</title>"));
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    let route = "{name: page, matches: [{path: {type: Exact, value: /page}}], service: pages}";
    let setup = Setup::new().service_at("chat", &[("pod-a", address)]).service("pages", &[&pages]);
    let setup = setup.route(route).route("{name: all, service: chat}");
    let proxy = setup.tls(&format!("{{certificates: [{}]}}", authority.entry("one"))).start().await;
    let browser = Browser::with(&["--ignore-certificate-errors"]).await;
    browser.open(&format!("https://localhost:{}/page", proxy.address.port())).await;
    let before = proxy.metric("podpin_connections_total", &[("protocol", "h1")]).await;
    browser.read(HELLO).await;
    let answer = wait_for_some("an answer", async || {
        browser.read("answers[0] ?? null").await.as_str().map(str::to_owned)
    })
    .await;
    assert_eq!(answer, "pod-a: hello");
    assert_eq!(
        proxy.metric("podpin_connections_total", &[("protocol", "h1")]).await,
        before,
        "no other connection"
    );
    browser.read("socket.close()").await;
    let line = proxy.access_log_line(|line| line["kind"] == "upgrade").await;
    assert_eq!(
        (&line["protocol"], &line["status"], &line["upgrade"]),
        (&json!("HTTP/2"), &json!(200), &json!("websocket"))
    );
}
