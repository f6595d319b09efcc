//! The bytes of HTTP/1.1 as they are: one buffered socket (with or without TLS), heads, and bodies with the way they ended.
//!
//! Used by both sides, the scripted pod and the client. Strict where a proxy must be strict (a chunk size is hex
//! digits and CRLF, nothing else), so that a sloppy message fails the test that received it. All reads are
//! cancel safe: nothing is consumed before it is complete.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// How a message or a connection ended, as the receiver saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As the framing says: last chunk, full length, END_STREAM, or a FIN where the body runs until the close.
    Clean,
    /// A FIN in the middle of the message.
    Cut,
    /// RST or RST_STREAM.
    Reset,
    /// The framing itself was wrong; the text says how.
    Malformed(String),
}

/// The head of a request or a response.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// Every byte of it with the blank line.
    pub raw: Vec<u8>,
    /// Request line or status line.
    pub start_line: String,
    /// Header fields in order, names as they were written, values trimmed.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Splits `raw` at its line ends; a line without a colon is kept as a name without a value.
    pub(crate) fn parse(raw: &[u8]) -> Head {
        let text = String::from_utf8_lossy(raw);
        let mut lines = text.split("\r\n");
        let start_line = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter(|line| !line.is_empty())
            .map(|line| line.split_once(':').unwrap_or((line, "")))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Head { raw: raw.to_vec(), start_line, headers }
    }

    /// The value of the first field of that name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// The values of all fields of that name, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let wanted = |(have, _): &&(String, String)| have.eq_ignore_ascii_case(name);
        self.headers.iter().filter(wanted).map(|(_, value)| value.as_str()).collect()
    }

    /// The `index`th word of the first line, or nothing.
    pub(crate) fn word(&self, index: usize) -> &str {
        self.start_line.split(' ').nth(index).unwrap_or_default()
    }
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Both directions of a connection, whatever it is made of.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A socket with the bytes that were read and not yet used.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Stream,
    buffer: BytesMut,
    /// Lines of the trailer sections that were read.
    pub(crate) trailers: String,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Wire {
        // Without it Nagle holds back a second small write for the peer's delayed acknowledgement: 40 ms of noise.
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Wire { stream: Stream::Plain(stream), buffer: BytesMut::new(), trailers: String::new() }
    }

    /// TLS, where an end without `close_notify` is a `Reset`.
    pub(crate) fn over_tls(stream: impl Into<TlsStream<TcpStream>>) -> Wire {
        Wire {
            stream: Stream::Tls(Box::new(stream.into())),
            buffer: BytesMut::new(),
            trailers: String::new(),
        }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(stream) => stream.get_ref().0,
        }
    }

    pub(crate) fn into_duplex(self) -> Box<dyn Duplex> {
        match self.stream {
            Stream::Plain(tcp) => Box::new(tcp),
            Stream::Tls(stream) => stream,
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.stream {
            Stream::Plain(tcp) => tcp.write_all(bytes).await,
            Stream::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Sends our FIN and keeps reading.
    pub(crate) async fn finish_sending(&mut self) {
        // The peer may have closed already: then there is nothing to finish.
        let _gone = match &mut self.stream {
            Stream::Plain(tcp) => tcp.shutdown().await,
            Stream::Tls(stream) => stream.shutdown().await,
        };
    }

    /// Makes the coming close a RST.
    pub(crate) fn reset_on_close(&self) {
        self.stream().set_zero_linger().expect("SO_LINGER");
    }

    /// Reads more bytes.
    ///
    /// # Errors
    /// How the peer ended the connection: `Cut` for a FIN, `Reset` for anything else.
    pub(crate) async fn fill(&mut self) -> Result<(), Ending> {
        let read = match &mut self.stream {
            Stream::Plain(tcp) => tcp.read_buf(&mut self.buffer).await,
            Stream::Tls(stream) => stream.read_buf(&mut self.buffer).await,
        };
        match read {
            Ok(0) => Err(Ending::Cut),
            Ok(_) => Ok(()),
            Err(_) => Err(Ending::Reset),
        }
    }

    /// Throws away what comes until the peer ends the connection.
    pub(crate) async fn until_closed(&mut self) -> Ending {
        loop {
            self.buffer.clear();
            if let Err(ending) = self.fill().await {
                return ending;
            }
        }
    }

    /// Returns the bytes that were read and not used.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.buffer
    }

    /// The next head, through its blank line.
    ///
    /// # Errors
    /// How the connection ended when it ended first.
    pub(crate) async fn head(&mut self) -> Result<Head, Ending> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                return Ok(Head::parse(&self.buffer.split_to(at + 4)));
            }
            self.fill().await?;
        }
    }

    async fn line(&mut self) -> Result<Bytes, Ending> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                return Ok(self.buffer.split_to(at + 2).freeze());
            }
            if self.buffer.len() > 4096 {
                return Err(Ending::Malformed("a line without an end".to_owned()));
            }
            self.fill().await?;
        }
    }

    /// At most `most` bytes, at least one.
    async fn some(&mut self, most: u64) -> Result<Bytes, Ending> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        let take = self.buffer.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(self.buffer.split_to(take).freeze())
    }
}

/// Where `needle` begins in `haystack`.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// A body that is being received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes are still to come.
    Length(u64),
    /// Before the size line of the next chunk.
    Size,
    /// Inside a chunk, so many bytes before its CRLF.
    Chunk(u64),
    /// Behind the last chunk: trailers and the blank line.
    Trailers,
    /// Bytes until the connection ends (HTTP/1.0 style).
    UntilClose,
    /// All of it was received.
    Done,
}

impl Body {
    /// The framing of a request's body, RFC 9112 section 6.3.
    pub(crate) fn of_request(head: &Head) -> Body {
        Body::of_fields(head).unwrap_or(Body::Done)
    }

    /// The framing of the body of a response to `method`, RFC 9112 section 6.3.
    pub(crate) fn of_response(method: &str, head: &Head) -> Body {
        match head.word(1) {
            "204" | "304" => Body::Done,
            status if method == "HEAD" || status.starts_with('1') => Body::Done,
            _ => Body::of_fields(head).unwrap_or(Body::UntilClose),
        }
    }

    fn of_fields(head: &Head) -> Option<Body> {
        let chunked = head.header("transfer-encoding").is_some_and(|coding| coding.ends_with("chunked"));
        let length = head.header("content-length").and_then(|value| value.parse().ok());
        if chunked { Some(Body::Size) } else { length.map(Body::Length) }
    }

    /// The next bytes of the body, or how it ended.
    pub(crate) async fn next(&mut self, wire: &mut Wire) -> Result<Bytes, Ending> {
        loop {
            match *self {
                Body::Done | Body::Length(0) => return Err(Ending::Clean),
                Body::Length(left) => {
                    let data = wire.some(left).await?;
                    *self = Body::Length(left - data.len() as u64);
                    return Ok(data);
                }
                Body::UntilClose => {
                    return wire.some(u64::MAX).await.map_err(|ending| match ending {
                        Ending::Cut => Ending::Clean,
                        other => other,
                    });
                }
                Body::Size => *self = chunk_size(&wire.line().await?)?,
                Body::Chunk(0) => match wire.line().await?.as_ref() {
                    b"\r\n" => *self = Body::Size,
                    other => return Err(Ending::Malformed(format!("after a chunk: {other:?}"))),
                },
                Body::Chunk(left) => {
                    let data = wire.some(left).await?;
                    *self = Body::Chunk(left - data.len() as u64);
                    return Ok(data);
                }
                Body::Trailers => {
                    let line = wire.line().await?;
                    if line.as_ref() == b"\r\n" {
                        *self = Body::Done;
                    } else {
                        wire.trailers.push_str(&String::from_utf8_lossy(&line));
                    }
                }
            }
        }
    }

    /// The whole body and how it ended.
    pub(crate) async fn all(&mut self, wire: &mut Wire) -> (Vec<u8>, Ending) {
        let mut all = Vec::new();
        loop {
            match self.next(wire).await {
                Ok(data) => all.extend_from_slice(&data),
                Err(ending) => return (all, ending),
            }
        }
    }
}

fn chunk_size(line: &[u8]) -> Result<Body, Ending> {
    let text = String::from_utf8_lossy(line);
    let digits = text.trim_end_matches("\r\n");
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    match u64::from_str_radix(digits, 16) {
        Ok(0) if plain => Ok(Body::Trailers),
        Ok(size) if plain => Ok(Body::Chunk(size)),
        _ => Err(Ending::Malformed(format!("chunk size {digits:?}"))),
    }
}
