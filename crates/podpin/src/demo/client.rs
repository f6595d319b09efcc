//! An event stream client of the demo: HTTP/1.1 over a plain socket, keeping its cookie and last event id.
//!
//! It does by hand what a browser's EventSource does (WHATWG HTML, section 9.2) and checks what no browser tells:
//! whether ids are contiguous and whether it is still on its pod. Small on purpose: no connection pool, no TLS, and
//! of the event stream format only what pods and proxy write (line feeds as line ends).

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A head or an event longer than this is not ours.
const BUFFERED_BYTES_MAX: usize = 1 << 20;

/// State that a client keeps from one connection to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// `name=value` of the last cookie that was set.
    pub(super) cookie: Option<String>,
    pub(super) last_event_id: Option<u64>,
    /// The last reconnection time that it was told; `None` if it was told none.
    pub(super) retry: Option<Duration>,
}

/// An event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// `message` unless the stream says otherwise.
    pub(super) kind: String,
    pub(super) data: String,
}

/// An open stream.
pub(super) struct EventStream {
    socket: TcpStream,
    /// Received and not yet decoded.
    received: Vec<u8>,
    body: BodyFraming,
    /// Decoded and not yet a whole event.
    text: Vec<u8>,
    /// The last reconnection time that it said; `None` if it said none.
    pub(super) retry: Option<Duration>,
}

impl EventStream {
    /// Connects and reads the answer's head; keeps the cookie it sets.
    pub(super) async fn open(address: SocketAddr, memory: &mut Memory) -> anyhow::Result<Self> {
        let mut socket = TcpStream::connect(address).await.context("cannot connect")?;
        socket.set_nodelay(true)?;
        socket.write_all(request(address, memory).as_bytes()).await?;
        let mut received = Vec::new();
        let head = read_head(&mut socket, &mut received).await?;
        if let Some(cookie) = head.cookie {
            memory.cookie = Some(cookie);
        }
        if head.status != 200 || !head.is_event_stream {
            bail!("the answer was {}, not an event stream", head.status);
        }
        let body = match head.length {
            _ if head.is_chunked => BodyFraming::ChunkSize,
            Some(length) => BodyFraming::Length(length),
            None => BodyFraming::UntilClose,
        };
        Ok(Self { socket, received, body, text: Vec::new(), retry: None })
    }

    /// Returns the next event; `None` if the stream has ended, in whatever way. Nothing is lost if it is cancelled.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            self.body.decode(&mut self.received, &mut self.text)?;
            while let Some(block) = take_block(&mut self.text) {
                self.retry = parse_retry(&block).or(self.retry);
                if let Some(event) = parse_event(&block) {
                    return Ok(Some(event));
                }
            }
            if self.body == BodyFraming::Ended || self.socket.read_buf(&mut self.received).await? == 0 {
                // A goodbye ends without an empty line: its line counts, as browsers read it.
                self.retry = parse_retry(&String::from_utf8_lossy(&self.text)).or(self.retry);
                return Ok(None);
            }
            if self.received.len() + self.text.len() > BUFFERED_BYTES_MAX {
                bail!("an event is too long");
            }
        }
    }
}

fn request(address: SocketAddr, memory: &Memory) -> String {
    let mut request = format!("GET /events HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n");
    if let Some(cookie) = &memory.cookie {
        request.push_str(&format!("Cookie: {cookie}\r\n"));
    }
    if let Some(id) = memory.last_event_id {
        request.push_str(&format!("Last-Event-ID: {id}\r\n"));
    }
    request.push_str("\r\n");
    request
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    status: u16,
    cookie: Option<String>,
    is_event_stream: bool,
    is_chunked: bool,
    length: Option<usize>,
}

async fn read_head(socket: &mut TcpStream, received: &mut Vec<u8>) -> anyhow::Result<Head> {
    loop {
        if let Some(end) = find(received, b"\r\n\r\n") {
            let head: Vec<u8> = received.drain(..end + 4).collect();
            return parse_head(&String::from_utf8_lossy(&head));
        }
        if received.len() > BUFFERED_BYTES_MAX || socket.read_buf(received).await? == 0 {
            bail!("the connection ended without an answer");
        }
    }
}

fn parse_head(text: &str) -> anyhow::Result<Head> {
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let mut head = Head { status: status.context("the answer is not HTTP")?, ..Head::default() };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "set-cookie" => head.cookie = value.split(';').next().map(str::to_owned),
            "content-type" => head.is_event_stream = value.starts_with("text/event-stream"),
            "content-length" => head.length = value.parse().ok(),
            "transfer-encoding" => head.is_chunked = value.eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    Ok(head)
}

/// How far the body has been decoded (RFC 9112, section 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyFraming {
    UntilClose,
    /// So many bytes are left of a body whose length is known.
    Length(usize),
    /// At the line with the size of the next chunk.
    ChunkSize,
    /// Inside a chunk with this many bytes left.
    Chunk(usize),
    /// At the line end after a chunk.
    ChunkEnd,
    /// After the last chunk.
    Ended,
}

impl BodyFraming {
    /// Moves what is decoded from `received` to `text`.
    fn decode(&mut self, received: &mut Vec<u8>, text: &mut Vec<u8>) -> anyhow::Result<()> {
        loop {
            *self = match *self {
                Self::Ended => return Ok(()),
                Self::UntilClose => {
                    text.append(received);
                    return Ok(());
                }
                Self::Length(0) => Self::Ended,
                Self::Length(_) if received.is_empty() => return Ok(()),
                Self::Length(left) => {
                    let taken = left.min(received.len());
                    text.extend(received.drain(..taken));
                    Self::Length(left - taken)
                }
                Self::Chunk(0) => Self::ChunkEnd,
                Self::Chunk(_) if received.is_empty() => return Ok(()),
                Self::Chunk(left) => {
                    let taken = left.min(received.len());
                    text.extend(received.drain(..taken));
                    Self::Chunk(left - taken)
                }
                Self::ChunkEnd => match take_line(received) {
                    Some(_) => Self::ChunkSize,
                    None => return Ok(()),
                },
                Self::ChunkSize => match take_line(received) {
                    Some(line) => Self::sized(&line)?,
                    None => return Ok(()),
                },
            }
        }
    }

    fn sized(line: &[u8]) -> anyhow::Result<Self> {
        let line = String::from_utf8_lossy(line);
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).with_context(|| format!("chunk size {size:?}"))?;
        Ok(if size == 0 { Self::Ended } else { Self::Chunk(size) })
    }
}

fn take_line(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = find(received, b"\r\n")?;
    let mut line: Vec<u8> = received.drain(..end + 2).collect();
    line.truncate(end);
    Some(line)
}

fn take_block(text: &mut Vec<u8>) -> Option<String> {
    let end = find(text, b"\n\n")?;
    let block: Vec<u8> = text.drain(..end + 2).collect();
    Some(String::from_utf8_lossy(&block).into_owned())
}

/// Returns the last reconnection time among some lines; `None` if there is none.
fn parse_retry(lines: &str) -> Option<Duration> {
    let mut times = lines.lines().filter_map(|line| line.strip_prefix("retry:")?.trim().parse().ok());
    times.next_back().map(Duration::from_millis)
}

/// A block without data (a comment, a `retry`) is not an event.
fn parse_event(block: &str) -> Option<Event> {
    let mut event = Event { kind: "message".to_owned(), data: String::new() };
    for line in block.lines() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut event.kind),
            "data" => event.data.push_str(value),
            _ => {}
        }
    }
    (!event.data.is_empty()).then_some(event)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_decoded_alike_however_it_is_cut() {
        let body = b"5\r\n: hi\n\r\n8;x=y\r\n\ndata: a\r\n2\r\n\n\n\r\n0\r\n\r\n";
        for cut in 0..=body.len() {
            let (mut framing, mut received, mut text) = (BodyFraming::ChunkSize, Vec::new(), Vec::new());
            for part in [&body[..cut], &body[cut..]] {
                received.extend_from_slice(part);
                framing.decode(&mut received, &mut text).unwrap();
            }
            assert_eq!(framing, BodyFraming::Ended);
            assert_eq!(String::from_utf8(text).unwrap(), ": hi\n\ndata: a\n\n", "cut at {cut}");
        }
        let mut text = Vec::new();
        assert!(BodyFraming::ChunkSize.decode(&mut b"xyz\r\n".to_vec(), &mut text).is_err());
    }

    #[test]
    fn comments_and_hints_are_not_events() {
        let mut text =
            b": hello\n\nretry: 1000\n\nid: 7\nevent: news\ndata: {}\n\ndata:x\n\nid: 8\ndata".to_vec();
        let mut events = Vec::new();
        while let Some(block) = take_block(&mut text) {
            events.extend(parse_event(&block).map(|event| (event.kind, event.data)));
        }
        let expected =
            [("news", "{}"), ("message", "x")].map(|(kind, data)| (kind.to_owned(), data.to_owned()));
        assert_eq!(events, expected);
        assert_eq!(text, b"id: 8\ndata");
    }

    #[test]
    fn a_head_gives_status_cookie_and_framing() {
        let text = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nSet-Cookie: podpin-demo=abc; Path=/\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        let expected = Head {
            status: 200,
            cookie: Some("podpin-demo=abc".to_owned()),
            is_event_stream: true,
            is_chunked: true,
            length: None,
        };
        assert_eq!(parse_head(text).unwrap(), expected);
        assert_eq!(parse_head("HTTP/1.1 503 No\r\n\r\n").unwrap(), Head { status: 503, ..Head::default() });
        assert!(parse_head("garbage\r\n\r\n").is_err());
    }
}
