//! Costs counted by the allocator: of an event, an idle stream, a request, an idle connection.
//!
//! The worker runs on the thread of the test, endpoint and client on another.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;

use allocation_counter::AllocationInfo;
use tokio::sync::{oneshot, watch};

use podpin_proxy::worker::{BoundListener, run};

use crate::fixture;

const EVENTS: usize = 1_000;
const STREAMS: usize = 100;
/// The bytes of an idle stream; docs/performance.md says where they are.
const BYTES_MAX: usize = 1_700;
const BYTES_MAX_WITH_HANDOVER: usize = 2_450;
/// Allocations of the runtime itself within so many turns.
const ALLOCATIONS_MAX: u64 = 20;
/// Fewer than `limits.requestsPerConnection`.
const REQUESTS: usize = 500;
/// Allocations of an ordinary request on kept connections, with six header fields and as many of its response.
const ALLOCATIONS_MAX_OF_REQUEST: u64 = 30;
/// Bytes of a client's connection and its task between two requests.
const IDLE_CONNECTION_BYTES_MAX: usize = 2_000;

/// The bytes of an idle WebSocket.
const WEBSOCKET_BYTES_MAX: usize = 2_048;

/// Both ends of one stream.
struct Ends {
    pod: TcpStream,
    client: TcpStream,
}

impl Ends {
    /// Opens an event stream of `proxy`; `pods` is where the pod listens.
    fn open(proxy: SocketAddr, pods: &TcpListener) -> Ends {
        let mut client = TcpStream::connect(proxy).unwrap();
        client.set_nodelay(true).unwrap();
        client.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n").unwrap();
        let (mut pod, _) = pods.accept().unwrap();
        pod.set_nodelay(true).unwrap();
        skip_head(&pod);
        pod.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        )
        .unwrap();
        skip_head(&client);
        Ends { pod, client }
    }

    /// Opens a WebSocket, with a message each way.
    fn open_websocket(proxy: SocketAddr, pods: &TcpListener) -> Ends {
        let mut client = TcpStream::connect(proxy).unwrap();
        let offer = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        client.write_all(format!("GET /ws HTTP/1.1\r\nHost: x\r\n{offer}").as_bytes()).unwrap();
        let (mut pod, _) = pods.accept().unwrap();
        skip_head(&pod);
        pod.write_all(format!("HTTP/1.1 101 Switching Protocols\r\n{offer}").as_bytes()).unwrap();
        skip_head(&client);
        client.write_all(b"\x81\x82\0\0\0\0hi").unwrap();
        pod.read_exact(&mut [0; 8]).unwrap();
        pod.write_all(b"\x81\x02hi").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
        Ends { pod, client }
    }

    /// Sends events through, one after the other, each when the one before has come.
    fn pass(&mut self, numbers: std::ops::Range<usize>) {
        let mut read = vec![0; 4096];
        for number in numbers {
            let event = format!("id: {number:04}\ndata: {}\n\n", "x".repeat(100));
            let chunk = format!("{:x}\r\n{event}\r\n", event.len());
            self.pod.write_all(chunk.as_bytes()).unwrap();
            let mut seen = Vec::new();
            while !seen.windows(event.len()).any(|window| window == event.as_bytes()) {
                let length = self.client.read(&mut read).unwrap();
                assert!(length > 0, "the stream ended");
                seen.extend_from_slice(&read[..length]);
            }
        }
    }
}

/// A client that asks over one connection, and the pod's end of the kept connection that its requests come by.
struct Asking {
    client: TcpStream,
    pod: Option<TcpStream>,
    cookie: String,
}

impl Asking {
    fn open(proxy: SocketAddr) -> Asking {
        let client = TcpStream::connect(proxy).unwrap();
        client.set_nodelay(true).unwrap();
        Asking { client, pod: None, cookie: String::new() }
    }

    /// A request with its response, by connections that are there already if there are any.
    fn ask(&mut self, pods: &TcpListener) {
        let lines =
            "Accept: */*\r\nAccept-Language: en\r\nUser-Agent: test\r\nReferer: https://app.example.com/";
        let request = format!("GET /who HTTP/1.1\r\nHost: x\r\n{lines}\r\n{}\r\n", self.cookie);
        self.client.write_all(request.as_bytes()).unwrap();
        let pod = self.pod.get_or_insert_with(|| pods.accept().unwrap().0);
        read_head(pod);
        let lines =
            "Content-Type: text/plain\r\nContent-Length: 2\r\nETag: \"1\"\r\nVary: Accept\r\nServer: pod";
        pod.write_all(format!("HTTP/1.1 200 OK\r\n{lines}\r\nX-Own: 1\r\n\r\nok").as_bytes()).unwrap();
        let head = read_head(&mut self.client);
        self.client.read_exact(&mut [0; 2]).unwrap();
        if let Some(cookie) = head.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")) {
            let pair = cookie.split(';').next().unwrap();
            self.cookie = format!("Cookie: {pair}\r\n");
        }
    }
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.extend_from_slice(&byte);
    }
    String::from_utf8(head).unwrap()
}

fn skip_head(stream: &TcpStream) {
    // Byte by byte, so that nothing of the body is lost with the reader.
    let mut lines = BufReader::with_capacity(1, stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the head ended early");
    }
}

/// Counts the worker's thread while `act` does something with the result of `prepare`, both on a thread of their
/// own; they are given where the proxy and where its pod listens.
fn measured<T: Send>(
    settings: &str,
    prepare: impl FnOnce(SocketAddr, &TcpListener) -> T + Send,
    act: impl FnOnce(&mut T, SocketAddr, &TcpListener) + Send,
) -> AllocationInfo {
    let pods = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "listeners: [{{name: http, address: 127.0.0.1:1}}]\nadmin: {{address: 127.0.0.1:2}}\n\
         affinityKeys: ephemeral\naccessLog: off\nroutes: [{{service: chat}}]\nservices:\n  chat:\n    \
         discovery: {{static: [{{name: pod-a, address: \"{}\"}}]}}\n    {settings}\n",
        pods.local_addr().unwrap()
    );
    let config = fixture::parsed(&text);
    let shared = fixture::started(&config);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let proxy = socket.local_addr().unwrap();
    let bound = BoundListener { name: "http".to_owned(), index: 0, socket };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (stop, stopped) = watch::channel(false);
    let worker = runtime.spawn(run(shared, vec![bound], stopped));

    let ((ready, is_ready), (acted, has_acted)) = (oneshot::channel(), oneshot::channel());
    let ((begin, begun), (end, ended)) = (mpsc::channel(), mpsc::channel::<()>());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut left = prepare(proxy, &pods);
            ready.send(()).unwrap();
            begun.recv().unwrap();
            act(&mut left, proxy, &pods);
            acted.send(()).unwrap();
            // Everything stays open until the worker has ended.
            ended.recv().unwrap_err();
        });
        runtime.block_on(is_ready).unwrap();
        let counted = allocation_counter::measure(|| {
            begin.send(()).unwrap();
            runtime.block_on(has_acted).unwrap();
        });
        stop.send_replace(true);
        runtime.block_on(worker).unwrap();
        drop(end);
        counted
    })
}

#[test]
fn an_event_costs_no_allocation() {
    for handover in ["none", "lastEventId"] {
        let prepare = |proxy, pods: &TcpListener| {
            let mut ends = Ends::open(proxy, pods);
            ends.pass(0..100);
            ends
        };
        let settings = format!("drain: {{handover: {handover}}}");
        let counted = measured(&settings, prepare, |ends, _, _| ends.pass(100..100 + EVENTS));
        let count = counted.count_total;
        assert!(count <= ALLOCATIONS_MAX, "{count} allocations for {EVENTS} events, handover {handover}");
    }
}

#[test]
fn an_idle_stream_holds_few_bytes() {
    for (handover, most) in [("none", BYTES_MAX), ("lastEventId", BYTES_MAX_WITH_HANDOVER)] {
        let open = |count: usize, proxy, pods: &TcpListener| {
            let open = |_| {
                let mut ends = Ends::open(proxy, pods);
                ends.pass(0..1);
                ends
            };
            (0..count).map(open).collect::<Vec<_>>()
        };
        let settings = format!("drain: {{handover: {handover}}}");
        let counted = measured(
            &settings,
            // Tables double their size when they are full: from here to 512 streams they do not.
            |proxy, pods| open(300, proxy, pods),
            |streams, proxy, pods| streams.extend(open(STREAMS, proxy, pods)),
        );
        let each = usize::try_from(counted.bytes_current).unwrap() / STREAMS;
        assert!(each <= most, "{each} bytes for an idle stream, handover {handover}");
    }
}

#[test]
fn an_idle_websocket_holds_few_bytes() {
    let open = |count: usize, proxy, pods: &TcpListener| {
        (0..count).map(|_| Ends::open_websocket(proxy, pods)).collect::<Vec<_>>()
    };
    let counted = measured(
        "",
        |proxy, pods| open(300, proxy, pods),
        |sockets, proxy, pods| sockets.extend(open(STREAMS, proxy, pods)),
    );
    let each = usize::try_from(counted.bytes_current).unwrap() / STREAMS;
    assert!(each <= WEBSOCKET_BYTES_MAX, "{each} bytes for an idle WebSocket");
}

#[test]
fn a_request_on_kept_connections_costs_few_allocations() {
    let prepare = |proxy, pods: &TcpListener| {
        let mut asking = Asking::open(proxy);
        (0..10).for_each(|_| asking.ask(pods));
        assert!(!asking.cookie.is_empty());
        asking
    };
    let counted = measured("", prepare, |asking, _, pods| (0..REQUESTS).for_each(|_| asking.ask(pods)));
    let each = counted.count_total.div_ceil(u64::try_from(REQUESTS).unwrap());
    assert!(each <= ALLOCATIONS_MAX_OF_REQUEST, "{each} allocations for a request");
}

#[test]
fn a_connection_between_two_requests_holds_few_bytes() {
    let prepare = |proxy, pods: &TcpListener| {
        let mut first = Asking::open(proxy);
        first.ask(pods);
        (vec![], first.pod)
    };
    let counted = measured("", prepare, |(connections, pod), proxy, pods| {
        for _ in 0..STREAMS {
            let mut asking = Asking { pod: pod.take(), ..Asking::open(proxy) };
            asking.ask(pods);
            *pod = asking.pod.take();
            connections.push(asking);
        }
    });
    let each = usize::try_from(counted.bytes_current).unwrap() / STREAMS;
    assert!(each <= IDLE_CONNECTION_BYTES_MAX, "{each} bytes for an idle connection");
}
