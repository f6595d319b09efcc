//! The requests of the load clients, each in the same words over HTTP/1.1 and HTTP/2.

use std::fmt::Write;

use anyhow::Context;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};

use crate::certificate::HOST;
use crate::protocol::Protocol;

/// Header fields of a browser's request; the same for all peers.
const COMMON_FIELDS: [(&str, &str); 2] =
    [("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) podpin-bench"), ("Accept-Language", "en-US,en;q=0.9")];

/// Whether the client of an event stream says that it wants one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accept {
    /// `text/event-stream`, as an `EventSource` does.
    EventStream,
    /// `*/*`, as `fetch` and curl do.
    Anything,
    /// `*/*`, with the offer of a WebSocket, which carries messages then.
    WebSocket,
}

impl Accept {
    fn value(self) -> &'static str {
        match self {
            Self::EventStream => "text/event-stream",
            Self::Anything | Self::WebSocket => "*/*",
        }
    }
}

/// Head of a request, and how long its body is.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    method: &'static str,
    path: String,
    fields: Vec<(&'static str, String)>,
    body_bytes: usize,
}

/// A request in the form that its protocol sends, made once for many uses.
#[derive(Debug, Clone)]
pub(crate) enum Prepared {
    /// Head and body.
    Http1(Bytes),
    /// Head, and the body apart.
    Http2(Box<http::Request<()>>, Bytes),
}

impl Request {
    /// A GET of `path` by a client that takes any answer, with `cookie` as `name=value` if there is one.
    pub(crate) fn get(path: &str, cookie: Option<&str>) -> Self {
        Self::new("GET", path).with("Accept", "*/*").with_cookie(cookie)
    }

    /// A GET for an event stream.
    pub(crate) fn event_stream(path: &str, accept: Accept) -> Self {
        let request = Self::new("GET", path).with("Accept", accept.value()).with("Cache-Control", "no-cache");
        match accept {
            Accept::EventStream | Accept::Anything => request,
            Accept::WebSocket => request
                .with("Connection", "Upgrade")
                .with("Upgrade", "websocket")
                .with("Sec-WebSocket-Version", "13")
                .with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        }
    }

    /// A POST with a body of so many bytes.
    pub(crate) fn post(path: &str, cookie: Option<&str>, body_bytes: usize) -> Self {
        let request = Self::new("POST", path).with("Accept", "*/*").with_cookie(cookie);
        let request = request.with("Content-Length", &body_bytes.to_string());
        Self { body_bytes, ..request }
    }

    fn new(method: &'static str, path: &str) -> Self {
        let fields = COMMON_FIELDS.map(|(name, value)| (name, value.to_owned()));
        Self { method, path: path.to_owned(), fields: fields.to_vec(), body_bytes: 0 }
    }

    fn with_cookie(self, cookie: Option<&str>) -> Self {
        match cookie {
            Some(cookie) => self.with("Cookie", cookie),
            None => self,
        }
    }

    /// The same with one more field.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, value.to_owned()));
        self
    }

    /// Returns the head as HTTP/1.1 has it.
    pub(crate) fn http1_head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {HOST}\r\n", self.method, self.path);
        for (name, value) in &self.fields {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head + "\r\n"
    }

    /// Returns the form that goes over `protocol`.
    ///
    /// # Errors
    /// If a field is none for HTTP/2.
    pub(crate) fn prepare(&self, protocol: Protocol) -> anyhow::Result<Prepared> {
        if !protocol.is_h2() {
            let mut bytes = self.http1_head().into_bytes();
            bytes.resize(bytes.len() + self.body_bytes, b'x');
            return Ok(Prepared::Http1(bytes.into()));
        }
        let scheme = if protocol.is_tls() { "https" } else { "http" };
        let mut request = http::Request::builder()
            .method(self.method)
            .uri(format!("{scheme}://{HOST}{}", self.path))
            .body(())
            .context("a request that HTTP/2 does not have")?;
        for (name, value) in &self.fields {
            let name = HeaderName::from_bytes(name.as_bytes())?;
            request.headers_mut().append(name, HeaderValue::from_str(value)?);
        }
        Ok(Prepared::Http2(request.into(), vec![b'x'; self.body_bytes].into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_a_request_have_the_same_words() {
        let request = Request::post("/upload", Some("a=b"), 3);
        let Prepared::Http1(bytes) = request.prepare(Protocol::Http1Tls).unwrap() else {
            panic!("no HTTP/1.1");
        };
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        assert_eq!((lines.next(), body), (Some("POST /upload HTTP/1.1"), "xxx"));
        let Prepared::Http2(head, body) = request.prepare(Protocol::H2Tls).unwrap() else {
            panic!("no HTTP/2");
        };
        assert_eq!(
            (head.uri().to_string().as_str(), head.method().as_str()),
            ("https://bench.test/upload", "POST")
        );
        assert_eq!(&body[..], b"xxx");
        assert_eq!(lines.next(), Some("Host: bench.test"));
        let mut fields = 0;
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            assert_eq!(head.headers()[name], value);
            fields += 1;
        }
        assert_eq!(head.headers().len(), fields);
    }

    #[test]
    fn only_an_announced_stream_names_its_type() {
        let head = |accept| Request::event_stream("/events", accept).http1_head();
        assert!(head(Accept::EventStream).contains("\r\nAccept: text/event-stream\r\n"));
        assert!(!head(Accept::Anything).contains("event-stream"));
    }
}
