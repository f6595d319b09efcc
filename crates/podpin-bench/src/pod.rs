//! A scripted pod: one process, one thread, as little HTTP as the measurements need.
//!
//! | request | answer |
//! |---|---|
//! | `GET /events?rate=R` | event stream: one event at once, then R a second (0 = silence), each in a chunk of its own |
//! | the same with `Upgrade` | a WebSocket: the same events, each as a message of its own |
//! | `GET /burst?mb=N` | event stream: N MB of events as fast as they are taken, then the end of the body |
//! | `GET /wait` | nothing until `/end`, then a small answer; until then it counts as an open event stream |
//! | `GET /bytes?count=N` | N bytes with a `Content-Length`, keep-alive |
//! | `POST` anything, with a `Content-Length` | a small answer after the last byte of the body, keep-alive |
//! | `GET /stats` | the number of event streams that are open and, after a space, of all requests so far but these |
//! | `GET /end` | ends every event stream cleanly and answers what waits |
//! | `GET` anything else | a small answer, keep-alive |
//!
//! An event is 120 bytes: `id: <12 digits>`, `data: @<19 digits> <port><padding>`, an empty line. The 19 digits are the
//! moment of writing on the clock of `clock.rs`, so the client can tell the latency; the port is the pod's own. The ids
//! count the events of one stream. A stream that is asked for with `Last-Event-ID: N` goes on at once with N + 1, whichever
//! pod sent N: a client sees what was lost on the way or came twice as a gap or a step back.

use std::cell::Cell;
use std::io::{self, Write};
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::cli::PodArgs;
use crate::clock::now_ns;

/// Bytes of one event.
pub(crate) const EVENT_BYTES: usize = 120;
/// The length of the queue of connections not yet accepted; the kernel caps it at `somaxconn` (4,096 on Debian).
const BACKLOG: i32 = 4_096;
/// A request head of the load client is far smaller; more is an error of the benchmark.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How much of a burst is written at once. Large, so that the pod is never the slowest part.
const BURST_WRITE_BYTES: usize = 128 * 1024;
/// How much of a request body is read at once.
const SINK_BYTES: usize = 64 * 1024;
const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
/// For the key of RFC 6455's example, which the load client has.
const MESSAGES_HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Serves until the process is ended.
pub(crate) fn run(arguments: &PodArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener =
            listen(arguments.listen).with_context(|| format!("cannot listen on {}", arguments.listen))?;
        accept_all(listener, arguments.listen.port()).await
    })
}

#[derive(Default)]
struct Pod {
    /// Where it listens; its name in events.
    port: u16,
    requests: Cell<u64>,
    streams: Cell<u32>,
    /// All event streams so far; gives each another phase.
    streams_ever: Cell<u32>,
    end_streams: Notify,
}

/// Counts a stream for as long as it lives.
struct OpenStream<'a>(&'a Pod);

impl<'a> OpenStream<'a> {
    fn new(pod: &'a Pod) -> Self {
        pod.streams.set(pod.streams.get() + 1);
        pod.streams_ever.set(pod.streams_ever.get().wrapping_add(1));
        Self(pod)
    }
}

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

fn listen(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

async fn accept_all(listener: TcpListener, port: u16) -> anyhow::Result<()> {
    let pod = Rc::new(Pod { port, ..Pod::default() });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (socket, _) = accepted.context("cannot accept a connection")?;
                let pod = Rc::clone(&pod);
                // A connection that breaks is the other side's affair: the next one is served all the same.
                connections.spawn_local(async move { drop(serve(socket, &pod).await) });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(mut socket: TcpStream, pod: &Pod) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut head = Vec::with_capacity(1024);
    loop {
        let Some(request) = read_request(&mut socket, &mut head).await? else { return Ok(()) };
        skip_body(&mut socket, &mut head, request.body_bytes).await?;
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        match path {
            "/stats" => {
                answer(&mut socket, &format!("{} {}", pod.streams.get(), pod.requests.get())).await?;
                continue;
            }
            "/end" => {
                pod.end_streams.notify_waiters();
                answer(&mut socket, "ended").await?;
                continue;
            }
            _ => pod.requests.set(pod.requests.get() + 1),
        }
        match path {
            "/events" if request.offers_upgrade => {
                return send_messages(&mut socket, pod, number_in(query, "rate")).await;
            }
            "/events" => {
                let first = request.last_event_id.map_or(0, |id| id.saturating_add(1));
                return stream_events(&mut socket, pod, number_in(query, "rate"), first).await;
            }
            "/burst" => burst(&mut socket, pod.port, number_in(query, "mb")).await?,
            "/wait" => {
                if wait(&mut socket, pod).await? == Waited::UntilTheClientLeft {
                    return Ok(());
                }
            }
            "/bytes" => send_bytes(&mut socket, number_in(query, "count")).await?,
            _ => answer(&mut socket, "a small answer\n").await?,
        }
    }
}

/// The parts of a request that a pod looks at.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    target: String,
    last_event_id: Option<u64>,
    offers_upgrade: bool,
    body_bytes: usize,
}

impl Request {
    fn parse(head: &str) -> Self {
        Self {
            target: head.split(' ').nth(1).unwrap_or("/").to_owned(),
            last_event_id: number_of(head, "last-event-id"),
            offers_upgrade: head.to_ascii_lowercase().contains("\r\nupgrade:"),
            body_bytes: number_of(head, "content-length").unwrap_or(0),
        }
    }
}

/// Returns the number in the field `name` of a head; `None` if there is none.
fn number_of<N: FromStr>(head: &str, name: &str) -> Option<N> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(own, _)| own.eq_ignore_ascii_case(name)).and_then(|(_, value)| value.trim().parse().ok())
}

/// The next request, or nothing when the client closed in between; `head` keeps the bytes that follow its head.
async fn read_request(socket: &mut TcpStream, head: &mut Vec<u8>) -> io::Result<Option<Request>> {
    loop {
        if let Some(at) = memchr::memmem::find(head, b"\r\n\r\n") {
            let request = Request::parse(&String::from_utf8_lossy(head.get(..at).unwrap_or_default()));
            head.drain(..at + 4);
            return Ok(Some(request));
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the request head is too large"));
        }
        if socket.read_buf(head).await? == 0 {
            return Ok(None);
        }
    }
}

/// Reads the body that follows a head; its first bytes are in `received` already.
async fn skip_body(socket: &mut TcpStream, received: &mut Vec<u8>, length: usize) -> io::Result<()> {
    let there = length.min(received.len());
    received.drain(..there);
    let mut left = length - there;
    let mut sink = Vec::with_capacity(left.min(SINK_BYTES));
    while left > 0 {
        sink.clear();
        let read = (&mut *socket).take(left as u64).read_buf(&mut sink).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= read;
    }
    Ok(())
}

fn number_in(query: &str, name: &str) -> u32 {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok()).unwrap_or(0)
}

async fn answer(socket: &mut TcpStream, body: &str) -> io::Result<()> {
    let length = body.len();
    let text =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}");
    socket.write_all(text.as_bytes()).await
}

/// The reason why a wait ended.
#[derive(PartialEq, Eq)]
enum Waited {
    UntilTold,
    UntilTheClientLeft,
}

/// Answers when all are told to end.
async fn wait(socket: &mut TcpStream, pod: &Pod) -> io::Result<Waited> {
    let open = OpenStream::new(pod);
    let mut sink = [0_u8; 64];
    tokio::select! {
        () = pod.end_streams.notified() => {}
        // The proxy sends no other request before the answer.
        _ = socket.read(&mut sink) => return Ok(Waited::UntilTheClientLeft),
    }
    drop(open);
    answer(socket, "a late answer\n").await?;
    Ok(Waited::UntilTold)
}

/// A response whose body has so many bytes, written in blocks of [`BURST_WRITE_BYTES`].
async fn send_bytes(socket: &mut TcpStream, count: u32) -> io::Result<()> {
    static BLOCK: [u8; BURST_WRITE_BYTES] = [b'x'; BURST_WRITE_BYTES];
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {count}\r\n\r\n"
    );
    let mut left = usize::try_from(count).unwrap_or(0);
    let mut out = head.into_bytes();
    while left > 0 {
        let block = BLOCK.get(..left.min(BURST_WRITE_BYTES)).unwrap_or_default();
        left -= block.len();
        out.extend_from_slice(block);
        socket.write_all(&out).await?;
        out.clear();
    }
    Ok(())
}

/// The event `first` at once, then `rate` a second.
async fn stream_events(socket: &mut TcpStream, pod: &Pod, rate: u32, first: u64) -> io::Result<()> {
    let open = OpenStream::new(pod);
    let mut ticks = (rate > 0).then(|| ticks(rate, pod.streams_ever.get()));
    let mut out = STREAM_HEAD.to_vec();
    let mut sequence = first;
    push_chunk(&mut out, sequence, now_ns(), pod.port)?;
    socket.write_all(&out).await?;
    out = Vec::with_capacity(if rate > 0 { EVENT_BYTES + 8 } else { 0 });
    let mut sink = [0_u8; 64];
    loop {
        tokio::select! {
            () = next(&mut ticks) => {
                sequence += 1;
                out.clear();
                push_chunk(&mut out, sequence, now_ns(), pod.port)?;
                socket.write_all(&out).await?;
            }
            () = pod.end_streams.notified() => break,
            read = socket.read(&mut sink) => if read? == 0 { return Ok(()) },
        }
    }
    drop(open);
    socket.write_all(LAST_CHUNK).await
}

/// Sends one message at once, then `rate` a second.
async fn send_messages(socket: &mut TcpStream, pod: &Pod, rate: u32) -> io::Result<()> {
    let _open = OpenStream::new(pod);
    let mut ticks = (rate > 0).then(|| ticks(rate, pod.streams_ever.get()));
    let mut out = MESSAGES_HEAD.to_vec();
    let mut sequence = 0;
    push_message(&mut out, sequence, now_ns(), pod.port)?;
    socket.write_all(&out).await?;
    out = Vec::with_capacity(if rate > 0 { EVENT_BYTES + 2 } else { 0 });
    let mut sink = [0_u8; 64];
    loop {
        tokio::select! {
            () = next(&mut ticks) => {
                sequence += 1;
                out.clear();
                push_message(&mut out, sequence, now_ns(), pod.port)?;
                socket.write_all(&out).await?;
            }
            () = pod.end_streams.notified() => return Ok(()),
            read = socket.read(&mut sink) => if read? == 0 { return Ok(()) },
        }
    }
}

/// Ticks at `rate` a second. The golden ratio spreads the phases of any number of streams evenly over the period, the
/// same way in each run.
fn ticks(rate: u32, stream: u32) -> Interval {
    let period = Duration::from_secs(1) / rate;
    let phase = period.mul_f64((f64::from(stream) * 0.618_033_988_75).fract());
    let mut ticks = interval_at(Instant::now() + period + phase, period);
    // A pod that is late does not catch up in a burst, which would be another measurement.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

async fn next(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Appends one event in a chunk of its own.
fn push_chunk(out: &mut Vec<u8>, sequence: u64, sent_ns: u64, port: u16) -> io::Result<()> {
    write!(out, "{EVENT_BYTES:x}\r\nid: {sequence:012}\ndata: @{sent_ns:019} {port:.<74}\n\n\r\n")
}

/// Appends one event as a message of a WebSocket, in one frame.
fn push_message(out: &mut Vec<u8>, sequence: u64, sent_ns: u64, port: u16) -> io::Result<()> {
    out.extend_from_slice(&[0x81, u8::try_from(EVENT_BYTES).unwrap_or(0)]);
    write!(out, "id: {sequence:012}\ndata: @{sent_ns:019} {port:.<74}\n\n")
}

async fn burst(socket: &mut TcpStream, port: u16, mb: u32) -> io::Result<()> {
    let mut block = Vec::with_capacity(BURST_WRITE_BYTES);
    let mut events_in_block = 0_u64;
    while block.len() + EVENT_BYTES + 8 <= BURST_WRITE_BYTES {
        push_chunk(&mut block, events_in_block, now_ns(), port)?;
        events_in_block += 1;
    }
    socket.write_all(STREAM_HEAD).await?;
    let mut events = burst_events(mb);
    while events >= events_in_block {
        socket.write_all(&block).await?;
        events -= events_in_block;
    }
    let mut rest = Vec::new();
    for sequence in 0..events {
        push_chunk(&mut rest, sequence, now_ns(), port)?;
    }
    rest.extend_from_slice(LAST_CHUNK);
    socket.write_all(&rest).await
}

/// How many events make `mb` MB.
pub(crate) fn burst_events(mb: u32) -> u64 {
    u64::from(mb) * 1_000_000 / EVENT_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_holds_one_event_of_the_promised_size() {
        let mut out = Vec::new();
        push_chunk(&mut out, 7, 42, 21_003).unwrap();
        let text = String::from_utf8(out).unwrap();
        let (size, rest) = text.split_once("\r\n").unwrap();
        let event = rest.strip_suffix("\r\n").unwrap();
        assert_eq!(usize::from_str_radix(size, 16).unwrap(), EVENT_BYTES);
        assert_eq!(event.len(), EVENT_BYTES);
        assert!(event.starts_with("id: 000000000007\ndata: @0000000000000000042 21003."));
        assert!(event.ends_with(".\n\n"));
    }

    #[test]
    fn a_request_says_what_it_wants_and_which_event_it_saw_last() {
        let request =
            Request::parse("GET /events?rate=1 HTTP/1.1\r\nHost: a:1\r\nlast-event-id: 000000000041");
        let target = "/events?rate=1".to_owned();
        assert_eq!(
            request,
            Request { target, last_event_id: Some(41), offers_upgrade: false, body_bytes: 0 }
        );
        let request = Request::parse("POST / HTTP/1.1\r\nHost: a\r\nX-Last-Event-ID: 3\r\nContent-Length: 7");
        let target = "/".to_owned();
        assert_eq!(request, Request { target, last_event_id: None, offers_upgrade: false, body_bytes: 7 });
        assert!(Request::parse("GET / HTTP/1.1\r\nUpgrade: websocket").offers_upgrade);
    }

    #[tokio::test]
    async fn a_body_is_read_to_its_end_and_not_beyond() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        client.write_all(b"defgGET /next HTTP/1.1\r\n\r\n").await.unwrap();
        let mut received = b"abc".to_vec();
        skip_body(&mut socket, &mut received, 2).await.unwrap();
        assert_eq!(received, b"c");
        skip_body(&mut socket, &mut received, 5).await.unwrap();
        assert!(received.is_empty());
        let request = read_request(&mut socket, &mut received).await.unwrap().unwrap();
        assert_eq!(request.target, "/next");
    }

    #[test]
    fn a_number_is_found_by_its_name_in_the_query() {
        assert_eq!(number_in("mb=3&rate=10", "rate"), 10);
        assert_eq!(number_in("crate=9", "rate"), 0);
        assert_eq!(number_in("", "rate"), 0);
    }
}
