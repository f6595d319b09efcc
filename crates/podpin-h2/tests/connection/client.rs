//! A client that writes frames by hand, and the server that it talks to.

use std::sync::Arc;

use podpin_h2::{Closed, Config, Connection, ErrorCode, Event, Millis, Side, StreamId, StreamMut, Trust};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// An event whose bytes are its own; those of a body are merged where they follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Request { stream: u32, path: String, ends: bool },
    Refused { stream: u32, status: u16 },
    Data { stream: u32, bytes: Vec<u8>, ends: bool },
    Trailers { stream: u32, lines: String },
    Reset { stream: u32, code: ErrorCode, by: Side },
    Closed(Closed),
}

impl Seen {
    pub(crate) fn of(event: &Event<'_>) -> Seen {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match event {
            Event::Request { stream, head, ends } => {
                Seen::Request { stream: stream.get(), path: text(head.path().unwrap_or(b"")), ends: *ends }
            }
            Event::Refused { stream, refusal } => {
                Seen::Refused { stream: stream.get(), status: refusal.status() }
            }
            Event::Data { stream, bytes, ends } => {
                Seen::Data { stream: stream.get(), bytes: bytes.to_vec(), ends: *ends }
            }
            Event::Trailers { stream, trailers } => {
                Seen::Trailers { stream: stream.get(), lines: text(trailers.lines()) }
            }
            Event::Reset { stream, code, by } => Seen::Reset { stream: stream.get(), code: *code, by: *by },
            Event::Closed(closed) => Seen::Closed(*closed),
        }
    }

    /// Adds an event, merging pieces of a body.
    pub(crate) fn add(self, seen: &mut Vec<Seen>) {
        if let Seen::Data { stream, bytes, ends } = &self
            && let Some(Seen::Data { stream: before, bytes: merged, ends: ended }) = seen.last_mut()
            && before == stream
            && !*ended
        {
            merged.extend_from_slice(bytes);
            *ended = *ends;
            return;
        }
        seen.push(self);
    }
}

/// A frame as it stands on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Reads whole frames.
    pub(crate) fn all(mut bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let (payload, rest) = rest.split_at(length);
            frames.push(Frame { kind: head[3], flags: head[4], stream, payload: payload.to_vec() });
            bytes = rest;
        }
        assert!(bytes.is_empty(), "output ends with a frame");
        frames
    }

    /// The last four bytes: an error code, or the increment of a window.
    pub(crate) fn number(&self) -> u32 {
        u32::from_be_bytes(*self.payload.last_chunk().unwrap())
    }

    pub(crate) fn is_reset(&self, stream: u32, code: ErrorCode) -> bool {
        (self.kind, self.stream) == (RST_STREAM, stream) && self.number() == code.0
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literals that are not indexed.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            match u8::try_from(text.len()) {
                Ok(length) if length < 127 => block.push(length),
                _ => {
                    block.push(127);
                    let mut left = text.len() - 127;
                    while left >= 128 {
                        block.push(u8::try_from(left & 127).unwrap() | 128);
                        left >>= 7;
                    }
                    block.push(u8::try_from(left).unwrap());
                }
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

pub(crate) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "app")];
pub(crate) const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "app")];

pub(crate) fn request(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &block(fields))
}

pub(crate) fn get(stream: u32) -> Vec<u8> {
    request(stream, END_STREAM, &GET)
}

pub(crate) fn post(stream: u32) -> Vec<u8> {
    request(stream, 0, &POST)
}

pub(crate) fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, flags, stream, bytes)
}

pub(crate) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub(crate) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// A connection and its output.
pub(crate) struct Server {
    pub(crate) connection: Connection,
    pub(crate) out: Vec<u8>,
    pub(crate) now: Millis,
    /// Bodies are consumed as they come.
    pub(crate) consumes: bool,
}

impl Server {
    /// A connection before the client's preface.
    pub(crate) fn fresh(config: Config, trust: Trust) -> Server {
        let mut out = Vec::new();
        let connection = Connection::accept(Arc::new(config), trust, Millis(0), &mut out);
        Server { connection, out, now: Millis(0), consumes: true }
    }

    /// A connection whose settings are exchanged.
    pub(crate) fn with(config: Config) -> Server {
        Server::trusting(config, Trust::Client)
    }

    pub(crate) fn trusting(config: Config, trust: Trust) -> Server {
        let mut server = Server::fresh(config, trust);
        let begin = [PREFACE, &settings(&[]), &frame(SETTINGS, 1, 0, &[])].concat();
        assert_eq!(server.feed(&begin), []);
        server.out.clear();
        server
    }

    pub(crate) fn new() -> Server {
        Server::with(Config::default())
    }

    /// Takes bytes; returns the events.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut input = bytes;
        while let Some(event) = self.connection.receive(self.now, &mut input, &mut self.out) {
            if let Event::Data { stream, bytes, .. } = &event
                && self.consumes
                && let Some(mut stream) = self.connection.stream(*stream, self.now, &mut self.out)
            {
                stream.consumed(bytes.len());
            }
            Seen::of(&event).add(&mut seen);
        }
        assert!(input.is_empty());
        seen
    }

    /// Takes the frames that were written.
    pub(crate) fn sent(&mut self) -> Vec<Frame> {
        Frame::all(&std::mem::take(&mut self.out))
    }

    pub(crate) fn stream(&mut self, stream: u32) -> StreamMut<'_> {
        self.find(stream).unwrap_or_else(|| panic!("stream {stream} is gone"))
    }

    pub(crate) fn find(&mut self, stream: u32) -> Option<StreamMut<'_>> {
        self.connection.stream(StreamId::from_number(stream), self.now, &mut self.out)
    }

    /// How the connection ended after these bytes.
    pub(crate) fn closed_by(&mut self, bytes: &[u8]) -> Option<Closed> {
        self.feed(bytes);
        self.connection.closed()
    }
}
