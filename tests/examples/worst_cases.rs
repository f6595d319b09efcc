//! The processor time of the worst request of a size beside an ordinary one of that size, for every parser on the request path.
//!
//! Prints a table, and ends with 1 if one of them costs more than five times as much. The real binary serves; the time is that of its threads
//! as the kernel counts it. `make parts` runs it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a measurement that cannot go on says why")]

use std::fs;
use std::process::ExitCode;

use podpin_testkit::{Connection, H2Frame, Pod, Proxy, Setup, h2_block};

/// Bytes of a request head, below the default of `limits.requestHeaderBytes`.
const HEAD_BYTES: usize = 28_000;
/// Requests of one measurement.
const REQUESTS: usize = 200;
/// Measurements of each kind, of which the fastest counts.
const ROUNDS: usize = 3;
/// Cost that the worst request may have, in ordinary ones of its size.
const RATIO_MAX: f64 = 5.0;

/// Processor time of one request of a kind.
struct Cost {
    name: String,
    nanoseconds: f64,
}

/// Repeats a piece up to the size of a head.
fn many(piece: &str) -> String {
    piece.repeat(HEAD_BYTES / piece.len())
}

/// Numbered pieces, all different, up to the size of a head.
fn numbered(piece: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for number in 0.. {
        let next = piece(number);
        if text.len() + next.len() > HEAD_BYTES {
            break;
        }
        text.push_str(&next);
    }
    text
}

fn get(target: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: a.b.example.com\r\n{fields}\r\n").into_bytes()
}

fn field(name: &str, value: &str) -> Vec<u8> {
    get("/guarded/x", &format!("{name}: {value}\r\n"))
}

/// Sixty fields of letters, as large applications send.
fn ordinary() -> Vec<u8> {
    let line = |number: usize| format!("X-Field-{number:02}: {}\r\n", "abc def ".repeat(56));
    get("/guarded/x", &(0..HEAD_BYTES / 463).map(line).collect::<String>())
}

fn worst() -> Vec<(&'static str, Vec<u8>)> {
    let lines = |line: &dyn Fn(usize) -> String| get("/guarded/x", &(0..110).map(line).collect::<String>());
    let token = "AQJrMXNlc3Npb24gb2YgYSB0YWIAAAAAa0nSAKxDyPRzPc7ALCDPtMJZXY8fmtokymKsckOhzb3rVSa8";
    vec![
        ("path: slashes", get(&many("/"), "")),
        ("path: elements", get(&many("/a"), "")),
        ("path: dot segments", get(&format!("/guarded{}", many("/a/..")), "")),
        ("path: dots", get(&many("/."), "")),
        ("path: encoded letters", get(&format!("/{}", many("%61")), "")),
        ("path: encoded slashes", get(&format!("/{}", many("%2f")), "")),
        ("path: parameters", get(&format!("/guarded{}", many("/;a")), "")),
        ("path: backslashes", get(&format!("/{}", many("\\")), "")),
        ("query: separators", get(&format!("/guarded?{}", many("&")), "")),
        ("query: empty parameters", get(&format!("/guarded?{}", many("a=&")), "")),
        ("query: encoded names", get(&format!("/guarded?{}", many("%75=&")), "")),
        (
            "host: labels",
            format!("GET / HTTP/1.1\r\nHost: {}\r\nX: {}\r\n\r\n", "a.".repeat(120), many("x")).into_bytes(),
        ),
        ("cookies: many", field("Cookie", &many("a=b; "))),
        ("cookies: separators", field("Cookie", &many(";"))),
        ("cookies: bad tokens", field("Cookie", &many(&format!("podpin-chat={token}; ")))),
        ("cookies: lines", lines(&|number| format!("Cookie: c{number}={}\r\n", "x".repeat(230)))),
        ("Connection: names", field("Connection", &many("a,"))),
        ("Connection: different names", field("Connection", &numbered(|number| format!("x{number},")))),
        ("Connection: separators", field("Connection", &many(","))),
        ("X-Forwarded-For: trusted", field("X-Forwarded-For", &many("127.0.0.1, "))),
        ("X-Forwarded-For: separators", field("X-Forwarded-For", &many(","))),
        ("X-Forwarded-For: bytes", field("X-Forwarded-For", &many("\u{e9},"))),
        ("Forwarded: trusted", field("Forwarded", &many("for=127.0.0.1,"))),
        ("Forwarded: quotes", field("Forwarded", &many("for=\"\\\"\","))),
        ("X-Forwarded-Proto: list", field("X-Forwarded-Proto", &many("https,"))),
        ("Accept: list", field("Accept", &many("text/event-strean;q=0,"))),
        ("Accept: separators", field("Accept", &many(","))),
        ("Upgrade: list", field("Upgrade", &many("a,"))),
        ("Via: list", field("Via", &many("1.1 a,"))),
        ("names: long", lines(&|number| format!("X{}{number}: 1\r\n", "y".repeat(240)))),
        ("names: underscores", lines(&|number| format!("X_{}{number}: 1\r\n", "y_".repeat(120)))),
        ("names: one", lines(&|_| format!("X: {}\r\n", "y".repeat(245)))),
        ("matched by an expression", field("X-Match", &many("ab"))),
        ("session id", field("X-Session", &many("A"))),
    ]
}

/// A head of HTTP/2 as a block, and with it how often it is decoded to the same size.
fn h2_heads() -> [(&'static str, Vec<u8>); 4] {
    let pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "app"), (":path", "/guarded/x")];
    let value = "abc def ".repeat(28);
    let names: Vec<String> = (0..110).map(|number| format!("x-field-{number}")).collect();
    let lines: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
    let crumbs: Vec<(&str, &str)> = names.iter().map(|_| ("cookie", value.as_str())).collect();
    let block = |more: &[(&str, &str)]| h2_block(&[&pseudo[..], more].concat());
    // A literal that is indexed, and references to it (RFC 7541 section 6.1): the dynamic table begins at 62.
    let length = u8::try_from(value.len() - 127).unwrap();
    let literal = [&[0x40, 1, b'x', 127, 0x80 | (length & 0x7f), length >> 7], value.as_bytes()].concat();
    let references = [block(&[]), literal, vec![0xbe; 109]].concat();
    let updates = [&[0x20, 0x3f, 0xe1, 0x1f][..], &block(&lines)].concat();
    [
        ("HTTP/2: ordinary", block(&lines)),
        ("HPACK: references", references),
        ("HPACK: cookie crumbs", block(&crumbs)),
        ("HPACK: table updates", updates),
    ]
}

/// The processor time of all threads, in nanoseconds.
fn processor_time(proxy: &Proxy) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", proxy.process.id())).unwrap();
    let times = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("schedstat")).ok());
    times.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum()
}

async fn cost_of(proxy: &Proxy, name: &str, request: &[u8]) -> Cost {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let mut connection = proxy.connect().await;
        let before = processor_time(proxy);
        for _ in 0..REQUESTS {
            connection.send(request).await;
            let response = connection.response("GET").await;
            if response.header("connection") == Some("close") {
                connection = proxy.connect().await;
            }
        }
        best = best.min((processor_time(proxy) - before) as f64 / REQUESTS as f64);
    }
    eprintln!("{name}: {:.1} µs", best / 1_000.0);
    Cost { name: name.to_owned(), nanoseconds: best }
}

/// A HEADERS or CONTINUATION frame of a request without a body.
fn part(at: usize, is_last: bool, piece: &[u8]) -> H2Frame {
    let (kind, end_stream) = if at == 0 { (1, 1) } else { (9, 0) };
    H2Frame::new(kind, end_stream | if is_last { 4 } else { 0 }, 1, piece)
}

async fn h2_cost_of(proxy: &Proxy, name: &str, block: &[u8]) -> Cost {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let before = processor_time(proxy);
        for _ in 0..REQUESTS {
            // A new connection each, so that the dynamic table begins empty.
            let mut connection: Connection = proxy.connect().await;
            connection.begin_h2(&H2Frame::settings()).await;
            let last = block.chunks(16_000).count() - 1;
            let frames: Vec<_> =
                block.chunks(16_000).enumerate().map(|(at, piece)| part(at, at == last, piece)).collect();
            assert!(connection.try_frames(&frames).await);
            let ended = connection.h2_frame_that(|frame| frame.stream() == 1 && frame.ends_stream()).await;
            assert!(ended.is_ok(), "{name}: {ended:?}");
        }
        best = best.min((processor_time(proxy) - before) as f64 / REQUESTS as f64);
    }
    Cost { name: name.to_owned(), nanoseconds: best }
}

/// Prints the costs; returns the largest ratio to the first.
fn print(costs: &[Cost]) -> f64 {
    let first = costs[0].nanoseconds;
    let mut largest = 0_f64;
    for Cost { name, nanoseconds } in costs {
        let ratio = nanoseconds / first;
        largest = largest.max(ratio);
        println!("{name:32} {:8.1} µs {ratio:6.2}", nanoseconds / 1_000.0);
    }
    largest
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let pod = Pod::start("pod-a").await;
    let route = "{name: guarded, service: chat, hostnames: ['*.example.com', app], matches: [{path: {value: /guarded}, headers: []}]}";
    let matched = "{name: matched, service: chat, matches: [{path: {value: /}, headers: [{name: X-Match, type: RegularExpression, value: '(a|b|ab)*c'}]}]}";
    let setup = Setup::chat(&[&pod])
        .route(&route.replace(", headers: []", ""))
        .route(matched)
        .route("{name: rest, service: chat}")
        .top("trustedProxies: [127.0.0.0/8]")
        .top("limits: {requestsPerConnection: off}")
        .top("workers: 1")
        .with("affinity: {header: X-Session, query: user}")
        .with("health: {passive: off}");
    let proxy = setup.h2c().start().await;
    let mut costs = vec![cost_of(&proxy, "ordinary", &ordinary()).await];
    for (name, request) in worst() {
        costs.push(cost_of(&proxy, name, &request).await);
        pod.forget().await;
    }
    let mut h2_costs = Vec::new();
    for (name, block) in h2_heads() {
        h2_costs.push(h2_cost_of(&proxy, name, &block).await);
        pod.forget().await;
    }
    let largest = print(&costs).max(print(&h2_costs));
    println!("largest: {largest:.2} (at most {RATIO_MAX})");
    ExitCode::from(u8::from(largest > RATIO_MAX))
}
