//! As much of an HTTP/1.1 client as the measurements need: a request with or without a cookie, and its answer.

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::request::{Accept, Request};
use super::target::Wire;

/// The head of a request for an event stream as an `EventSource` sends it when it comes back: with its cookie, and the
/// last id that it saw.
pub(crate) fn returning_request(path: &str, cookie: Option<&str>, last_event_id: Option<u64>) -> String {
    let mut request = Request::event_stream(path, Accept::EventStream);
    if let Some(cookie) = cookie {
        request = request.with("Cookie", cookie);
    }
    if let Some(id) = last_event_id {
        request = request.with("Last-Event-ID", &format!("{id:012}"));
    }
    request.http1_head()
}

/// A keep-alive connection with at most one request in flight.
pub(crate) struct Connection {
    stream: Box<dyn Wire>,
    received: Vec<u8>,
}

/// The parts of a response that the measurements need.
#[derive(Debug)]
pub(crate) struct Answer {
    status: u16,
    /// `name=value` of the first `Set-Cookie`.
    pub(crate) cookie: Option<String>,
    bytes: usize,
}

/// The parts of a response head that the measurements need.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// `name=value` of the first `Set-Cookie`.
    pub(crate) cookie: Option<String>,
    /// The head itself.
    pub(crate) bytes: usize,
    /// Length of the body, where the head has it.
    pub(crate) content_length: Option<usize>,
}

impl Connection {
    /// A connection that is open.
    pub(crate) fn new(stream: Box<dyn Wire>) -> Self {
        Self { stream, received: Vec::with_capacity(2048) }
    }

    /// Sends `request` and reads the whole answer, which must be a 200 with a `Content-Length`.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        self.received.clear();
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let mut found = None;
        loop {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                bail!("the connection was closed instead of an answer");
            }
            if found.is_none() {
                found = parse(&self.received)?;
            }
            if let Some(answer) = found.take_if(|answer| self.received.len() >= answer.bytes) {
                if answer.status != 200 {
                    bail!("status {} instead of 200", answer.status);
                }
                return Ok(answer);
            }
        }
    }
}

/// An answer with a `Content-Length`, or nothing while its head is incomplete.
fn parse(bytes: &[u8]) -> anyhow::Result<Option<Answer>> {
    let Some(head) = parse_head(bytes)? else { return Ok(None) };
    let length = head.content_length.context("an answer without Content-Length")?;
    Ok(Some(Answer { status: head.status, cookie: head.cookie, bytes: head.bytes + length }))
}

/// The head of an answer, or nothing while it is incomplete.
pub(crate) fn parse_head(bytes: &[u8]) -> anyhow::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(bytes) = response.parse(bytes).context("the answer is not HTTP")? else {
        return Ok(None);
    };
    let value_of = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let content_length = value_of("content-length").map(|value| value.trim().parse()).transpose()?;
    let cookie =
        value_of("set-cookie").and_then(|value| value.split(';').next()).map(|pair| pair.trim().to_owned());
    Ok(Some(Head { status: response.code.unwrap_or(0), cookie, bytes, content_length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_its_first_cookie_and_its_whole_length() {
        let head = b"HTTP/1.1 200 OK\r\nset-cookie: a=b; Path=/\r\nContent-Length: 3\r\n\r\nxyz";
        let answer = parse(head).unwrap().unwrap();
        assert_eq!((answer.status, answer.cookie.as_deref(), answer.bytes), (200, Some("a=b"), head.len()));
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-").unwrap().is_none());
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse(b"SSH-2.0-x\r\n").is_err());
    }

    #[test]
    fn a_client_that_comes_back_shows_its_cookie_and_the_last_id_in_one_head() {
        let request = returning_request("/events", Some("a=b"), Some(7));
        assert!(request.starts_with("GET /events HTTP/1.1\r\n"));
        assert!(request.ends_with("\r\nCookie: a=b\r\nLast-Event-ID: 000000000007\r\n\r\n"));
        assert_eq!(request.matches("\r\n\r\n").count(), 1);
    }
}
