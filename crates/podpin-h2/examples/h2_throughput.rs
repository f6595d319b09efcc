//! The cost of a request, an event and a megabyte: `cargo run --release -p podpin-h2 --example h2_throughput`.
//!
//! Give a name (`requests`, `events`, `download`, `upload`) and a number of rounds to run one of them alone, as under
//! `valgrind --tool=callgrind`, which counts instructions.
#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use podpin_h2::{Config, Connection, End, Event, Field, Millis, Trust};

const NOW: Millis = Millis(0);
const MEGABYTE: usize = 1 << 20;

/// A measurement that runs so many rounds.
type Run = fn(u32);

/// A connection with its output, as a worker has both.
struct Server {
    connection: Connection,
    out: Vec<u8>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let only = arguments.next();
    let rounds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let all: [(&str, Run); 4] =
        [("requests", requests), ("events", events), ("download", download), ("upload", upload)];
    if only.is_none() {
        sizes();
    }
    for (name, run) in all {
        if only.as_deref().is_none_or(|only| only == name) {
            let rounds = if name.ends_with("load") { rounds / 100 } else { rounds };
            let start = Instant::now();
            run(rounds);
            let each = start.elapsed() / rounds.max(1);
            println!("{name:10} {rounds:8} rounds {each:?} each");
        }
    }
}

impl Server {
    fn new() -> Server {
        let mut out = Vec::new();
        let connection = Connection::accept(Arc::new(Config::default()), Trust::Client, NOW, &mut out);
        let mut server = Server { connection, out };
        server.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        // An initial window of 2^31-1, and the connection's.
        server.feed(b"\0\0\x06\x04\0\0\0\0\0\0\x04\x7f\xff\xff\xff\0\0\x04\x08\0\0\0\0\0\x7f\xfe\0\0");
        server
    }

    /// Takes bytes; bodies are consumed as they come.
    fn feed(&mut self, mut input: &[u8]) {
        while let Some(event) = self.connection.receive(NOW, &mut input, &mut self.out) {
            match event {
                Event::Data { stream, bytes, .. } => {
                    black_box(bytes);
                    if let Some(mut stream) = self.connection.stream(stream, NOW, &mut self.out) {
                        stream.consumed(bytes.len());
                    }
                }
                Event::Closed(closed) => panic!("{closed:?}"),
                other => drop(black_box(other)),
            }
        }
    }

    fn head(&mut self, id: u32, end: End) {
        let fields = [
            Field::new("content-type", "application/json"),
            Field::new("date", "Sat, 28 Nov 2026 12:00:00 GMT"),
            Field::new("cache-control", "no-store"),
            Field::new("set-cookie", "podpin=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA; Path=/; HttpOnly"),
        ];
        self.stream(id).head(200, fields, end).expect("the first head");
    }

    fn stream(&mut self, id: u32) -> podpin_h2::StreamMut<'_> {
        let id = podpin_h2::StreamId::from_number(id);
        self.connection.stream(id, NOW, &mut self.out).expect("an open stream")
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&[high, middle, low, kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

/// A browser's head behind the first: references to what the table has, and a path.
fn block(first: bool) -> Vec<u8> {
    let mut block = b"\x82\x87\x04\x0d/api/messages".to_vec();
    if !first {
        block.extend([0xc3, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe]);
        return block;
    }
    let agent =
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36";
    let cookie = "podpin=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA; theme=dark";
    let fields =
        [(1, "app.example"), (58, agent), (19, "*/*"), (16, "gzip, deflate, br"), (17, "en"), (32, cookie)];
    for (index, value) in fields {
        block.push(0x40 | index);
        block.push(u8::try_from(value.len()).unwrap_or_default());
        block.extend_from_slice(value.as_bytes());
    }
    block
}

/// Prints what a connection holds: without a stream, with one, and what HPACK's table has after a browser's head.
fn sizes() {
    let mut server = Server::new();
    let idle = server.connection.heap_bytes();
    server.feed(&frame(1, 5, 1, b"\x82\x86\x84\x01\x03app"));
    let stream = server.connection.heap_bytes() - idle;
    server.feed(&frame(1, 5, 3, &block(true)));
    let table = server.connection.heap_bytes() - idle - 2 * stream;
    println!("connection {} bytes, stream {stream}, table {table}", size_of::<Connection>() + idle);
}

/// A request with a browser's head and an answer of 120 bytes.
fn requests(rounds: u32) {
    let mut server = Server::new();
    let blocks = [block(true), block(false)];
    for round in 0..rounds {
        let id = 2 * round + 1;
        let [first, other] = &blocks;
        server.feed(&frame(1, 5, id, if round == 0 { first } else { other }));
        server.head(id, End::No);
        server.stream(id).data(&[b'x'; 120], End::Yes).expect("a body");
        black_box(&server.out);
        server.out.clear();
    }
}

/// An event of 120 bytes.
fn events(rounds: u32) {
    let mut server = Server::new();
    server.feed(&frame(1, 5, 1, &block(true)));
    server.head(1, End::No);
    for _ in 0..rounds {
        server.out.clear();
        server.stream(1).data(&[b'x'; 120], End::No).expect("an event");
        black_box(&server.out);
    }
}

/// A megabyte down, framed where it stands.
fn download(rounds: u32) {
    let mut server = Server::new();
    let scratch = vec![b'x'; 16 * 1024];
    for round in 0..rounds {
        let id = 2 * round + 1;
        server.feed(&frame(1, 5, id, &block(true)));
        server.head(id, End::No);
        server.out.clear();
        let mut left = MEGABYTE;
        while left > 0 {
            let frame = server.stream(id).frame(scratch.len().min(left), End::No).expect("a body");
            left -= frame.payload;
            black_box((&scratch, frame));
        }
        server.stream(id).data(b"", End::Yes).expect("an end");
        let window = u32::try_from(MEGABYTE).unwrap_or_default().to_be_bytes();
        server.feed(&frame(8, 0, 0, &window));
    }
}

/// A megabyte up, in reads of 16 KiB.
fn upload(rounds: u32) {
    let mut server = Server::new();
    let body = frame(0, 0, 1, &[b'x'; 16 * 1024]).repeat(64);
    server.feed(&frame(1, 4, 1, &block(true)));
    for _ in 0..rounds {
        body.chunks(16 * 1024).for_each(|read| server.feed(read));
        server.out.clear();
    }
}
