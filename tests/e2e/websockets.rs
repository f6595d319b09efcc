//! Connections that are upgraded to another protocol: what passes, what counts, and how they leave.

mod counts;
mod drain;
mod http2;
mod liveness;
mod passing;
mod published;

use std::net::SocketAddr;
use std::time::Duration;

use podpin_testkit::{EndpointsFile, Proxy, Request, Setup, in_time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Final text frame.
pub(super) const TEXT: u8 = 0x81;
/// Close frame.
pub(super) const CLOSE: u8 = 0x88;
/// Ping frame.
pub(super) const PING: u8 = 0x89;
/// Pong frame.
pub(super) const PONG: u8 = 0x8a;
/// The answer of a pod that takes a WebSocket.
pub(super) const ACCEPTED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
/// The key with which clients of these tests mask.
const KEY: [u8; 4] = [3, 1, 4, 1];

/// The client's or the pod's end of a connection, byte by byte.
#[derive(Debug)]
pub(super) struct End(pub(super) TcpStream);

/// A frame, unmasked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) first: u8,
    pub(super) is_masked: bool,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The status of a Close.
    pub(super) fn code(&self) -> u16 {
        assert_eq!(self.first, CLOSE, "{self:?}");
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }

    /// The reason of a Close.
    pub(super) fn reason(&self) -> String {
        assert_eq!(self.first, CLOSE, "{self:?}");
        String::from_utf8(self.payload[2..].to_vec()).unwrap()
    }
}

impl End {
    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        in_time("sending", self.0.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Reads a head, up to its empty line.
    pub(super) async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.bytes(1).await);
        }
        String::from_utf8(head).unwrap()
    }

    pub(super) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let read = in_time("bytes", self.0.read_exact(&mut bytes)).await;
        read.unwrap_or_else(|error| panic!("{error} before {count} bytes"));
        bytes
    }

    /// Reads everything up to the end; `None` if that is a reset.
    pub(super) async fn rest(&mut self) -> Option<Vec<u8>> {
        let mut rest = Vec::new();
        in_time("the end", self.0.read_to_end(&mut rest)).await.ok().map(|_| rest)
    }

    /// Waits for so long, in which nothing must come.
    pub(super) async fn silence(&mut self, time: Duration) {
        let came = tokio::time::timeout(time, self.0.peek(&mut [0; 64])).await;
        assert!(came.is_err(), "something came: {came:?}");
    }

    pub(super) async fn frame(&mut self) -> Frame {
        let head = self.bytes(2).await;
        let length = match head[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes(self.bytes(2).await.try_into().unwrap())),
            127 => u64::from_be_bytes(self.bytes(8).await.try_into().unwrap()),
            short => u64::from(short),
        };
        let is_masked = head[1] & 0x80 != 0;
        let key = if is_masked { self.bytes(4).await } else { vec![0; 4] };
        let payload = self.bytes(usize::try_from(length).unwrap()).await;
        let unmasked = payload.iter().zip(key.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        Frame { first: head[0], is_masked, payload: unmasked.collect() }
    }

    /// Sends a frame as a pod does.
    pub(super) async fn say(&mut self, first: u8, payload: &[u8]) {
        self.send(plain(first, payload)).await;
    }

    /// Sends a frame as a client does.
    pub(super) async fn say_masked(&mut self, first: u8, payload: &[u8]) {
        self.send(masked(first, payload)).await;
    }
}

/// A frame of a server.
pub(super) fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(u8::try_from(short).unwrap()),
        long => {
            bytes.push(127);
            bytes.extend(u64::try_from(long).unwrap().to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// A short frame of a client.
pub(super) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let head = [first, 0x80 | u8::try_from(payload.len()).unwrap()];
    let payload = payload.iter().zip(KEY.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    head.into_iter().chain(KEY).chain(payload).collect()
}

/// A pod whose connections are all the test's.
pub(super) struct RawPod {
    pub(super) name: &'static str,
    listener: TcpListener,
}

impl RawPod {
    pub(super) async fn start(name: &'static str) -> RawPod {
        RawPod { name, listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The next connection, and the head of its request.
    pub(super) async fn request(&self) -> (End, String) {
        let (stream, _) = in_time("a connection", self.listener.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut end = End(stream);
        let head = end.head().await;
        (end, head)
    }
}

/// Pods of a service, the file that lists them, and a proxy in front of them.
pub(super) struct Scene {
    pub(super) pods: Vec<RawPod>,
    pub(super) file: EndpointsFile,
    pub(super) proxy: Proxy,
}

impl Scene {
    /// A scene of one pod, with this in the configuration of its service.
    pub(super) async fn one(more: &str) -> Scene {
        Scene::of(&["pod-a"], more).await
    }

    pub(super) async fn of(names: &[&'static str], more: &str) -> Scene {
        let mut pods = Vec::new();
        for name in names {
            pods.push(RawPod::start(name).await);
        }
        let file = EndpointsFile::absent();
        list(&file, &pods, &[]);
        let setup = Setup::new().service_in("chat", &file).with("balance: {slowStart: off}");
        let proxy = more.lines().fold(setup, |setup, line| setup.with(line)).start().await;
        Scene { pods, file, proxy }
    }

    /// Drains the pods of these names.
    pub(super) fn drain(&self, names: &[&str]) {
        list(&self.file, &self.pods, names);
    }

    pub(super) async fn connect(&self) -> End {
        let stream = TcpStream::connect(self.proxy.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        End(stream)
    }

    /// A WebSocket through the proxy: the client's end, and that of the first pod.
    pub(super) async fn open(&self) -> (End, End) {
        self.open_by(&Request::websocket("/ws"), ACCEPTED).await
    }

    /// A connection that is upgraded by this request and this answer of the first pod.
    pub(super) async fn open_by(&self, request: &Request, answer: &str) -> (End, End) {
        let mut client = self.connect().await;
        client.send(request.bytes()).await;
        let (mut pod, _) = self.pods[0].request().await;
        pod.send(answer).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        (client, pod)
    }
}

fn list(file: &EndpointsFile, pods: &[RawPod], draining: &[&str]) {
    let state = |name: &str| if draining.contains(&name) { "draining" } else { "ready" };
    let lines: Vec<_> = pods.iter().map(|pod| (pod.name, pod.address(), state(pod.name))).collect();
    file.write(&lines);
}
