//! A request as the test writes it.

use std::net::SocketAddr;

use super::{Connection, EventStream, Response, status};

/// A request, built field by field and sent as written.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    target: String,
    version: &'static str,
    host: Option<String>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// `method` for `target`, HTTP/1.1, `Host: localhost`.
    pub fn new(method: &str, target: &str) -> Request {
        Request {
            method: method.to_owned(),
            target: target.to_owned(),
            version: "HTTP/1.1",
            host: Some("localhost".to_owned()),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// An ordinary GET.
    pub fn get(target: &str) -> Request {
        Request::new("GET", target)
    }

    /// A GET that accepts an event stream, as EventSource sends it.
    pub fn events(target: &str) -> Request {
        Request::get(target).header("Accept", "text/event-stream").header("Cache-Control", "no-cache")
    }

    /// The upgrade to a WebSocket with the key of RFC 6455's example.
    pub fn websocket(target: &str) -> Request {
        Request::get(target)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    }

    /// With one more field.
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// For another host.
    pub fn host(mut self, host: &str) -> Request {
        self.host = Some(host.to_owned());
        self
    }

    /// As HTTP/1.0.
    pub fn http10(mut self) -> Request {
        self.version = "HTTP/1.0";
        self
    }

    /// With a body, announced by its length.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Content-Length", &length)
    }

    /// With a body in chunks.
    pub fn chunked(mut self, chunks: &[&str]) -> Request {
        for chunk in chunks {
            self.body.extend_from_slice(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes());
        }
        self.body.extend_from_slice(b"0\r\n\r\n");
        self.header("Transfer-Encoding", "chunked")
    }

    /// Returns the method.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The fields that were added.
    pub(crate) fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// Returns the body, chunks and all.
    pub(crate) fn body_bytes(&self) -> &[u8] {
        &self.body
    }

    /// Returns the target.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// Returns the host; `None` if the request has none.
    pub(crate) fn host_name(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Returns the bytes of the request.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} {}\r\n", self.method, self.target, self.version);
        if let Some(host) = &self.host {
            head.push_str(&format!("Host: {host}\r\n"));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Sends it over a connection of its own and reads the whole response.
    pub async fn send(&self, address: SocketAddr) -> Response {
        Connection::open(address).await.ask(self).await
    }

    /// Sends it over a connection of its own and reads the head of the event stream.
    ///
    /// # Panics
    /// When the answer is not an event stream.
    pub async fn open(&self, address: SocketAddr) -> EventStream {
        let mut connection = Connection::open(address).await;
        connection.send(self.bytes()).await;
        let head = connection.head().await;
        let kind = head.header("content-type").unwrap_or_default();
        let is_stream = status(&head) == 200 && kind.starts_with("text/event-stream");
        assert!(is_stream, "not an event stream: {}", String::from_utf8_lossy(&head.raw));
        connection.into_events(head)
    }
}
