//! Event streams of five innocent clients behind a load balancer that speaks HTTP/2 to the proxy, beside a neighbour behind the same one
//! which sends whatever may break a connection: theirs go on, over the same connection, to the same pod.
//!
//! One round sends each kind of malice a few times. `scripts/neighbour.sh` has the rounds go on for ten minutes.

use std::time::{Duration, Instant};

use podpin_testkit::{Answer, Connection, EventStream, Pod, PodStream, Proxy, Request, Setup};

use tokio::time::timeout;

use crate::http2_clients::{LARGE, pod};
use crate::http2_peers::Front;

/// Seconds that the rounds go on for; one round without.
const SECONDS: &str = "PODPIN_NEIGHBOUR_SECONDS";
/// Time for an answer to one of them.
const ANSWER: Duration = Duration::from_millis(200);
/// Requests of each kind in a round.
const OF_KIND: usize = 8;
/// Clients with manners.
const INNOCENTS: usize = 5;

/// A request of the neighbour, and how it goes on.
struct Malice {
    bytes: Vec<u8>,
    then: Then,
}

#[derive(Clone, Copy)]
enum Then {
    /// Reads an answer, if one comes.
    Reads,
    /// Resets the connection at once.
    Resets,
    /// Resets the connection as soon as its pod was asked.
    ResetsLater,
    /// Reads the head of the answer and resets the connection.
    ReadsALittle,
}

fn malice(bytes: impl Into<Vec<u8>>, then: Then) -> Malice {
    Malice { bytes: bytes.into(), then }
}

/// A request with this line and these further lines.
fn lines(line: &[u8], more: &str) -> Vec<u8> {
    [line, b"\r\nHost: app\r\n", more.as_bytes(), b"\r\n"].concat()
}

fn get(more: &str) -> Vec<u8> {
    lines(b"GET /small HTTP/1.1", more)
}

/// Targets, methods and hosts that a server on the way may take for no message.
fn malformed() -> Vec<Malice> {
    let targets: [&[u8]; 9] = [
        b"GET /\xff\xfe HTTP/1.1",
        b"GET /\"<>\\^`{|} HTTP/1.1",
        b"GET /%zz%00%0d%0a HTTP/1.1",
        b"GET http://u:p@app/small HTTP/1.1",
        b"GET /small#fragment HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"TRACE /small HTTP/1.1",
        b"CONNECT app:1 HTTP/1.1",
        b"M-SEARCH+x /small HTTP/1.1",
    ];
    let hosts = ["a:b", "[::1", "a b", "a@b", "", "a:99999", "\u{fc}"];
    let host = |host: &str| format!("GET /small HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
    let heads = targets.iter().map(|line| lines(line, "")).chain(hosts.into_iter().map(host));
    heads.map(|head| malice(head, Then::Reads)).collect()
}

/// Fields that are malformed, many or large.
fn fields() -> Vec<Malice> {
    let many = |count: usize, field: &str| field.repeat(count);
    let more = [
        "X: \u{1}\r\n".to_owned(),
        "X: \u{7f}\r\n".to_owned(),
        "X: caf\u{e9}\r\n".to_owned(),
        "X\u{e9}: 1\r\n".to_owned(),
        ":path: /x\r\n".to_owned(),
        "TE: gzip, trailers\r\n".to_owned(),
        "Connection: x, te, cookie, host, content-length\r\n".to_owned(),
        "Proxy-Connection: keep-alive\r\nKeep-Alive: 1\r\nUpgrade: x\r\n".to_owned(),
        "Content-Length: 0\r\nContent-Length: 0\r\n".to_owned(),
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        "Transfer-Encoding: gzip, chunked\r\n".to_owned(),
        "X_Forwarded_For: 1\r\nX-Forwarded-For: \u{e9}\r\nForwarded: for=\"\r\n".to_owned(),
        format!("Cookie: {}\r\n", many(2_000, "a=b; ")),
        format!("X: {}\r\n", many(40_000, "y")),
        many(100, "Cookie: a\r\n"),
        many(200, "X: y\r\n"),
        many(90, "Empty:\r\n"),
    ];
    more.iter().map(|more| malice(get(more), Then::Reads)).collect()
}

/// Requests that are given up at any point, or whose bodies break.
fn broken_off() -> Vec<Malice> {
    let post = |more: &str, body: &str| [&lines(b"POST /small HTTP/1.1", more), body.as_bytes()].concat();
    let chunked = "Transfer-Encoding: chunked\r\n";
    let half = "x".repeat(20_000);
    let declared = format!("Content-Length: {LARGE}\r\n");
    let offer = Request::websocket("/small").bytes();
    let silent_post = lines(b"POST /silent?######## HTTP/1.1", "Content-Length: 3\r\n");
    let silent_post = [&silent_post[..], b"abc"].concat();
    vec![
        malice(get(""), Then::Resets),
        malice(lines(b"GET /silent?######## HTTP/1.1", ""), Then::ResetsLater),
        malice(lines(b"GET /events HTTP/1.1", "Accept: text/event-stream\r\n"), Then::Resets),
        malice(lines(b"GET /events HTTP/1.1", "Accept: text/event-stream\r\n"), Then::ReadsALittle),
        malice(lines(b"GET /large HTTP/1.1", ""), Then::ReadsALittle),
        malice(post(&declared, &half), Then::Resets),
        malice(silent_post, Then::ResetsLater),
        malice(post("Content-Length: 3\r\nExpect: 100-continue\r\n", ""), Then::Resets),
        malice(post(chunked, "5\r\nab"), Then::Resets),
        malice(post(chunked, "zz\r\nabc\r\n0\r\n\r\n"), Then::Reads),
        malice(post(chunked, "3\r\nabc\r\n0\r\n:path: /x\r\nHost: y\r\nX: y\r\n\r\n"), Then::Reads),
        malice(offer.clone(), Then::Reads),
        malice(offer, Then::Resets),
        malice(get("").repeat(20), Then::Resets),
    ]
}

/// Sends one of it through the front. Whether an answer comes is no matter here.
async fn commit(front: &Front, malice: &Malice, pod: &Pod, number: usize) {
    let number = format!("{number:08}");
    let mut bytes = malice.bytes.clone();
    if let Some(at) = bytes.windows(number.len()).position(|place| place == b"########") {
        bytes[at..at + number.len()].copy_from_slice(number.as_bytes());
    }
    let mut connection = Connection::open(front.address()).await;
    if !connection.try_send(&bytes).await {
        return;
    }
    match malice.then {
        Then::Reads => {
            // Some get no answer.
            drop(timeout(ANSWER, connection.try_head()).await);
        }
        Then::Resets => connection.reset(),
        Then::ResetsLater => {
            while !pod.next_request().await.target.ends_with(&number) {}
            connection.reset();
        }
        Then::ReadsALittle => {
            drop(connection.try_head().await);
            connection.reset();
        }
    }
}

/// A stream of a client, and the same stream at the pod.
type Both = (EventStream, PodStream);

/// Opens a stream through the front, and finds it at the pod among those that the neighbour left.
async fn open(front: &Front, pod: &Pod, name: usize) -> Both {
    let target = format!("/events?innocent={name}");
    let mut events = Request::events(&target).open(front.address()).await;
    assert_eq!(events.next_data().await, "first");
    loop {
        let stream = pod.next_stream().await;
        if stream.request.target == target {
            return (events, stream);
        }
    }
}

async fn all_go_on(streams: &mut [Both], event: &str) {
    // HAProxy waits for more before it passes an event on: not for each in turn.
    for (_, stream) in &mut *streams {
        stream.event(event).await;
    }
    for (events, _) in streams {
        assert_eq!(events.next_data().await, event);
    }
}

async fn survive(front: Front, pod: Pod, proxy: Proxy) {
    let began = Instant::now();
    let seconds = std::env::var(SECONDS).ok().and_then(|seconds| seconds.parse().ok());
    let lasts = Duration::from_secs(seconds.unwrap_or(0));
    let mut streams = Vec::new();
    for name in 0..INNOCENTS {
        streams.push(open(&front, &pod, name).await);
    }
    assert_eq!(proxy.metric("podpin_connections_active", &[]).await, 1.0, "they share one");
    let kinds: Vec<Malice> = [malformed(), fields(), broken_off()].into_iter().flatten().collect();
    let mut rounds = 0;
    loop {
        for malice in &kinds {
            for at in 0..OF_KIND {
                commit(&front, malice, &pod, rounds * OF_KIND + at).await;
            }
            rounds += 1;
            all_go_on(&mut streams, &format!("event {rounds}")).await;
        }
        assert!(pod.requests().len() > kinds.len(), "a good part of it reaches the pod");
        pod.forget().await;
        if began.elapsed() >= lasts {
            break;
        }
    }
    assert_eq!(proxy.metric("podpin_http2_connections_cut_total", &[]).await, 0.0);
    if seconds.is_some() {
        println!("{rounds} kinds of malice, {} requests, {:?}", rounds * OF_KIND, began.elapsed());
    }
}

async fn behind() -> (Pod, Proxy) {
    let pod = pod().await;
    pod.answer("/silent", Answer::ByHand);
    let setup = Setup::chat(&[&pod]).top("trustedProxies: [127.0.0.1]").top("workers: 1");
    // Requests without an answer are many here.
    let setup = setup.with("health: {passive: off}");
    (pod, setup.h2c().start().await)
}

#[tokio::test]
async fn innocent_streams_behind_haproxy_survive_a_malicious_neighbour() {
    let (pod, proxy) = behind().await;
    let front = Front::haproxy(&proxy).await;
    survive(front, pod, proxy).await;
}

#[tokio::test]
async fn innocent_streams_behind_envoy_survive_a_malicious_neighbour() {
    let (pod, proxy) = behind().await;
    let front = Front::envoy(&proxy).await;
    survive(front, pod, proxy).await;
}
