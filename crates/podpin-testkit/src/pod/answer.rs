//! The answers of a scripted pod.

/// A scripted answer to a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Send the head of an event stream; the test drives the rest through a `PodStream`.
    Stream(StreamAnswer),
    /// A complete response, then wait for the next request (or close when asked to).
    Reply(Reply),
    /// Send nothing: the test writes every byte through a `PodStream`, or none.
    ByHand,
    /// Header fields for ever.
    EndlessHead,
    /// `100 Continue` before the body is read, then the rest.
    Continue(Reply),
    /// Accept a WebSocket upgrade and send every byte back.
    WebSocketEcho,
    /// Close without a word.
    Close,
    /// Reset without a word.
    Reset,
}

impl From<StreamAnswer> for Answer {
    fn from(stream: StreamAnswer) -> Answer {
        Answer::Stream(stream)
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Answer {
        Answer::Reply(reply)
    }
}

/// How the body of an event stream is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// HTTP/1.1 with chunks.
    Chunked,
    /// HTTP/1.1 until the connection closes.
    UntilClose,
    /// HTTP/1.0 until the connection closes.
    Http10,
}

/// The beginning of an event stream.
#[derive(Clone, Debug)]
pub struct StreamAnswer {
    pub(super) framing: Framing,
    pub(super) headers: Vec<(String, String)>,
    pub(super) opening: Vec<u8>,
}

impl Default for StreamAnswer {
    fn default() -> StreamAnswer {
        StreamAnswer::new()
    }
}

impl StreamAnswer {
    /// 200, `text/event-stream`, chunked.
    pub fn new() -> StreamAnswer {
        let headers = vec![("Content-Type".to_owned(), "text/event-stream".to_owned())];
        StreamAnswer { framing: Framing::Chunked, headers, opening: Vec::new() }
    }

    /// With another framing.
    pub fn framing(mut self, framing: Framing) -> StreamAnswer {
        self.framing = framing;
        self
    }

    /// With one more field.
    pub fn header(mut self, name: &str, value: &str) -> StreamAnswer {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With these bytes of the body at once.
    pub fn opening(mut self, bytes: &str) -> StreamAnswer {
        self.opening = bytes.as_bytes().to_vec();
        self
    }

    pub(super) fn head(&self) -> Vec<u8> {
        let version = if self.framing == Framing::Http10 { "HTTP/1.0" } else { "HTTP/1.1" };
        let mut head = format!("{version} 200 OK\r\n");
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.framing == Framing::Chunked {
            head.push_str("Transfer-Encoding: chunked\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// A complete response.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    chunked: bool,
}

impl Reply {
    /// A response without fields and body.
    pub fn new(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: Vec::new(), chunked: false }
    }

    /// With one more field.
    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a body, announced by its length.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Reply {
        self.body = body.into();
        self
    }

    /// With the body in chunks.
    pub fn chunked(mut self) -> Reply {
        self.chunked = true;
        self
    }

    /// Whether it asks for the connection to be closed.
    pub(super) fn closes(&self) -> bool {
        self.headers.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("connection") && value.to_ascii_lowercase().contains("close")
        })
    }

    /// Returns the bytes of the answer to `method`.
    pub(super) fn bytes(&self, method: &str) -> Vec<u8> {
        let mut bytes = format!("HTTP/1.1 {} Scripted\r\n", self.status).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        let bodiless = self.status < 200 || self.status == 204 || self.status == 304;
        match (bodiless, self.chunked) {
            (true, _) => bytes.extend_from_slice(b"\r\n"),
            (false, true) => bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n"),
            (false, false) => {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", self.body.len()).as_bytes());
            }
        }
        if bodiless || method == "HEAD" {
            return bytes;
        }
        if !self.chunked {
            bytes.extend_from_slice(&self.body);
            return bytes;
        }
        for part in self.body.chunks(1000) {
            bytes.extend(chunk(part));
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }
}

/// `data` as one chunk.
pub(super) fn chunk(data: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{:x}\r\n", data.len()).into_bytes();
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(b"\r\n");
    bytes
}
