//! The head of an HTTP/1.1 request, read strictly before anyone routes on it (RFC 9112).
//!
//! Shapes that two parsers could read differently are refused here, once, for all data paths: bare LF, folded lines,
//! several or malformed `Content-Length`s, `Content-Length` beside `Transfer-Encoding`, codings other than a single
//! `chunked`, several `Host`s. Requests that pass are served from the parsed head; only an offer of another protocol goes on byte for byte.

use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::net::Ipv6Addr;
use std::ops::Range;

use bytes::Bytes;
use http::{HeaderValue, Method, Version};

use crate::fields::{self, Fields, Span};
use crate::upgrade;

/// Fields of one head or one trailer section, from clients and from pods, over every version of HTTP. While a field is
/// passed on it costs about 250 bytes of memory whatever its size, and over HTTP/2 one byte on the wire. nginx and HAProxy stop near 100; too low
/// shows as `podpin_request_heads_refused_total{code="431"}` without an attack.
pub const FIELDS_MAX: usize = 128;

/// Bytes of a host without its port; a name in the DNS has 253 at most (RFC 1035 section 2.3.4).
const HOST_BYTES_MAX: usize = 255;

/// Bytes of the name of a field: as many as the library for header fields takes.
pub const NAME_BYTES_MAX: usize = 65_535;

/// The reason why a request head is refused; the proxy's replies say what that is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not the grammar of RFC 9112, or a shape that parsers disagree about.
    #[error("malformed request head: {0}")]
    Malformed(&'static str),
    /// The head passes `limits.requestHeaderBytes`, or has more than [`FIELDS_MAX`] fields.
    #[error("request head too large")]
    TooLarge,
    /// The request line alone passes `limits.requestHeaderBytes`.
    #[error("request target too long")]
    TargetTooLong,
    /// `CONNECT` is not proxied.
    #[error("CONNECT is not supported")]
    Connect,
    /// `TRACE` would show scripts what the proxy and the endpoints add to requests (RFC 9110 section 9.3.8).
    #[error("TRACE is not supported")]
    Trace,
    /// A major version other than 1 in HTTP/1 framing.
    #[error("HTTP version not supported")]
    Version,
}

/// How much of the input is a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// No end of the head yet.
    Partial,
    /// The head ends before this offset.
    Complete(usize),
}

/// Looks for the blank line, and refuses at once what can never become a valid head.
///
/// `from` is how much an earlier scan has seen, so that a head that comes byte by byte costs linear time.
pub fn scan(input: &[u8], from: usize) -> Result<Scan, HeadError> {
    let mut at = from.saturating_sub(1);
    while let Some(found) = input.get(at..).and_then(|rest| memchr::memchr(b'\n', rest)) {
        let newline = at + found;
        if newline == 0 || input.get(newline - 1) != Some(&b'\r') {
            return Err(HeadError::Malformed("a line ends in a bare LF"));
        }
        if newline >= 3 && input.get(newline - 3..newline) == Some(b"\r\n\r") {
            return Ok(Scan::Complete(newline + 1));
        }
        at = newline + 1;
    }
    Ok(Scan::Partial)
}

/// How the body of a request is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// So many bytes; 0 for none.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// The end of a request on its connection, and the data path that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFraming {
    /// Where the request ends on the connection.
    pub body: RequestBody,
    /// A GET without a body that accepts `text/event-stream`.
    pub event_stream: bool,
    /// The connection may serve another request after this one.
    pub keep_alive: bool,
    /// The client offers another protocol for the connection (RFC 9110 section 7.8).
    pub offers_upgrade: bool,
}

/// A request head that was read and checked, in one piece of memory.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// Method of the request.
    pub method: Method,
    /// Version of the protocol: 1.0, 1.1 or 2.
    pub version: Version,
    /// Header fields, as they came.
    pub fields: Fields,
    target: Span,
    authority: Span,
}

impl RequestHead {
    /// Returns the head of a request with these fields, for a target in origin form and an authority that are part of the
    /// text of `fields`; `None` if they are not.
    #[must_use]
    pub fn new(
        method: Method,
        version: Version,
        fields: Fields,
        target: Range<usize>,
        authority: Range<usize>,
    ) -> Option<RequestHead> {
        let (target, authority) = (Span::of(target)?, Span::of(authority)?);
        Some(RequestHead { method, version, fields, target, authority })
    }

    /// Returns the memory that the head holds, in bytes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        size_of::<RequestHead>() + self.fields.held_bytes()
    }

    /// Returns path and query in origin form, as they were sent.
    #[must_use]
    pub fn target(&self) -> &str {
        self.fields.text_at(self.target)
    }

    /// Returns host and port as the client wrote them; empty if it did not (HTTP/1.0).
    #[must_use]
    pub fn authority(&self) -> &str {
        self.fields.text_at(self.authority)
    }

    /// Returns the target without its query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or("/")
    }

    /// Returns the query of the target.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.target().split_once('?').map(|(_, query)| query)
    }
}

/// Checks and parses a complete head (as [`scan`] measured it).
pub fn read(head: &[u8]) -> Result<(RequestFraming, RequestHead), HeadError> {
    with_parsed(head, |request| Ok((framing(request)?, build(request)?)))
}

fn with_parsed<T>(
    head: &[u8],
    then: impl FnOnce(&httparse::Request<'_, '_>) -> Result<T, HeadError>,
) -> Result<T, HeadError> {
    // RFC 9112 section 2.2: an empty line before the request line is skipped.
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut lines) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => then(&request),
        Ok(_) => Err(HeadError::Malformed("the head does not end where its blank line is")),
        Err(httparse::Error::TooManyHeaders) => Err(HeadError::TooLarge),
        Err(httparse::Error::Version) => Err(version_error(head)),
        Err(httparse::Error::HeaderName) => Err(HeadError::Malformed("a header name is not a token")),
        Err(httparse::Error::HeaderValue) => {
            Err(HeadError::Malformed("a header value has a control character"))
        }
        Err(_) => Err(HeadError::Malformed("the request line is not `METHOD target HTTP/1.1`")),
    }
}

fn version_error(head: &[u8]) -> HeadError {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|byte| *byte == b' ').skip(2);
    let version = parts.next().unwrap_or_default();
    match version.strip_prefix(b"HTTP/") {
        Some([major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() && parts.next().is_none() =>
        {
            HeadError::Version
        }
        _ => HeadError::Malformed("the request line is not `METHOD target HTTP/1.1`"),
    }
}

fn framing(request: &httparse::Request<'_, '_>) -> Result<RequestFraming, HeadError> {
    let minor = request.version.unwrap_or(0);
    let method = request.method.unwrap_or_default();
    match method {
        "CONNECT" => return Err(HeadError::Connect),
        "TRACE" => return Err(HeadError::Trace),
        _ => {}
    }
    check_target(method, request.path.unwrap_or_default())?;
    let framing = FramingFields::of(request)?;
    framing.check(minor)?;
    Ok(RequestFraming {
        event_stream: method == "GET"
            && framing.accepts_events
            && framing.body() == RequestBody::Length(0)
            && !framing.offers_upgrade(minor),
        body: framing.body(),
        offers_upgrade: framing.offers_upgrade(minor),
        keep_alive: if minor == 0 { framing.keep_alive && !framing.close } else { !framing.close },
    })
}

fn check_target(method: &str, target: &str) -> Result<(), HeadError> {
    if target.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'#') {
        return Err(HeadError::Malformed("the request target has a forbidden character"));
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(());
    }
    let scheme = target.split("://").next().unwrap_or_default();
    match split_target(target).0 {
        Some(authority) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => {
            check_authority(authority)
        }
        _ => Err(HeadError::Malformed("the request target is neither a path nor an absolute URI")),
    }
}

/// Whether this is a host and port, and nothing that a pod or another proxy could read otherwise.
pub fn check_authority(authority: &str) -> Result<(), HeadError> {
    if authority.is_empty() {
        Err(HeadError::Malformed("the request target has no host"))
    } else {
        check_host(authority.as_bytes())
    }
}

/// Returns the host of an authority, without its port.
#[must_use]
pub fn without_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(colon) if !authority.ends_with(']') => authority.get(..colon).unwrap_or(authority),
        _ => authority,
    }
}

/// Header fields that say where the request ends and where it goes.
#[derive(Default)]
struct FramingFields {
    hosts: usize,
    content_lengths: usize,
    transfer_encodings: usize,
    length: u64,
    upgrade: bool,
    nominates_upgrade: bool,
    /// Items of `Connection`: no more fields than a head may have can be nominated.
    nominations: usize,
    close: bool,
    keep_alive: bool,
    accepts_events: bool,
}

impl FramingFields {
    fn of(request: &httparse::Request<'_, '_>) -> Result<FramingFields, HeadError> {
        let mut framing = FramingFields::default();
        for line in request.headers.iter() {
            framing.line(line.name, line.value)?;
        }
        Ok(framing)
    }

    fn line(&mut self, name: &str, value: &[u8]) -> Result<(), HeadError> {
        if name.is_empty() {
            return Err(HeadError::Malformed("a header name is not a token"));
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(HeadError::TooLarge);
        }
        if name.eq_ignore_ascii_case("host") {
            self.hosts += 1;
            check_host(value)?;
        } else if name.eq_ignore_ascii_case("content-length") {
            self.content_lengths += 1;
            self.length = content_length(value)?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            self.transfer_encodings += 1;
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::Malformed("Transfer-Encoding is not exactly `chunked`"));
            }
        } else if name.eq_ignore_ascii_case("connection") {
            self.nominations += value.split(|byte| *byte == b',').count();
            if self.nominations > FIELDS_MAX {
                return Err(HeadError::TooLarge);
            }
            self.close |= has_token(value, b"close");
            self.keep_alive |= has_token(value, b"keep-alive");
            self.nominates_upgrade |= has_token(value, b"upgrade");
        } else if name.eq_ignore_ascii_case("upgrade") {
            self.upgrade |= upgrade::has_offer(value);
        } else if name.eq_ignore_ascii_case("accept") {
            self.accepts_events |= accepts_event_stream(value);
        }
        Ok(())
    }

    /// Returns where the body ends.
    fn body(&self) -> RequestBody {
        if self.transfer_encodings > 0 { RequestBody::Chunked } else { RequestBody::Length(self.length) }
    }

    /// Whether the client offers another protocol than HTTP/2, which would not be taken this way: RFC 9113 section 3.1 has
    /// done away with that, and clients that offer it with every request (Java's) are content with HTTP/1.1. HTTP/1.0 has no
    /// upgrades (RFC 9110 section 7.8).
    fn offers_upgrade(&self, minor: u8) -> bool {
        self.upgrade && self.nominates_upgrade && minor > 0
    }

    fn check(&self, minor: u8) -> Result<(), HeadError> {
        if self.hosts > 1 || (self.hosts == 0 && minor > 0) {
            return Err(HeadError::Malformed("there is not exactly one Host"));
        }
        if self.content_lengths > 1 {
            return Err(HeadError::Malformed("there are several Content-Length lines"));
        }
        if self.transfer_encodings > 1 {
            return Err(HeadError::Malformed("there are several Transfer-Encoding lines"));
        }
        if self.transfer_encodings > 0 && (self.content_lengths > 0 || minor == 0) {
            return Err(HeadError::Malformed("Transfer-Encoding beside Content-Length, or in HTTP/1.0"));
        }
        Ok(())
    }
}

/// Checks `uri-host [":" port]` (RFC 9110 section 7.2).
fn check_host(value: &[u8]) -> Result<(), HeadError> {
    const MALFORMED: HeadError = HeadError::Malformed("Host is not a host and port");
    let (host, port) = match value.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !value.ends_with(b"]") => value.split_at(colon),
        _ => (value, &b""[..]),
    };
    if host.len() > HOST_BYTES_MAX {
        return Err(HeadError::Malformed("Host is longer than 255 bytes"));
    }
    let port = port.strip_prefix(b":").unwrap_or(port);
    let is_port = port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
    let is_host = match host.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")) {
        Some(inside) => std::str::from_utf8(inside).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok()),
        None => host.iter().all(|byte| HOST_BYTES.get(usize::from(*byte)) == Some(&true)),
    };
    if is_host && is_port { Ok(()) } else { Err(MALFORMED) }
}

/// The bytes that a host may have: nothing that a pod or another proxy could read otherwise.
static HOST_BYTES: [bool; 256] = host_bytes();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler: a wrong index does not build")]
#[expect(clippy::cast_possible_truncation, reason = "the loop ends at 256")]
const fn host_bytes() -> [bool; 256] {
    let mut bytes = [false; 256];
    let mut number = 0;
    while number < 256 {
        let byte = number as u8;
        let is_other = matches!(byte, b'/' | b'@' | b'?' | b'#' | b'\\' | b',' | b'"' | b':' | b'[' | b']')
            || matches!(byte, b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}');
        bytes[number] = byte.is_ascii_graphic() && !is_other;
        number += 1;
    }
    bytes
}

fn content_length(value: &[u8]) -> Result<u64, HeadError> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    match (digits, number) {
        (true, Some(number)) => Ok(number),
        _ => Err(HeadError::Malformed("Content-Length is not a number")),
    }
}

/// Whether a comma-separated header value has this token (RFC 9110 section 5.6.1), in any case.
pub fn has_token(value: &[u8], token: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}

/// Whether an `Accept` value names `text/event-stream` itself with a weight above zero (RFC 9110 section 12.5.1).
///
/// Wildcards do not count: every ordinary request of a browser has `*/*`.
fn accepts_event_stream(value: &[u8]) -> bool {
    // Few values are as long, and fewer name it.
    value.len() >= EVENT_STREAM.len() && accepted(value).any(is_event_stream)
}

const EVENT_STREAM: &[u8] = b"text/event-stream";

fn is_event_stream(kind: &[u8]) -> bool {
    kind.eq_ignore_ascii_case(EVENT_STREAM)
}

/// Returns the media ranges of an `Accept` value with a weight above zero, without their parameters.
fn accepted(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').filter_map(|range| {
        let (kind, parameters) = match memchr::memchr(b';', range) {
            Some(at) => range.split_at(at),
            None => (range, &b""[..]),
        };
        let is_refused =
            || parameters.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).any(is_weight_zero);
        Some(kind.trim_ascii()).filter(|kind| !kind.is_empty() && (parameters.is_empty() || !is_refused()))
    })
}

/// Whether a request names `text/event-stream` in its `Accept` fields and nothing else, as a browser's `EventSource` does.
pub fn accepts_only_event_streams(fields: &Fields) -> bool {
    let mut all = fields.all(&http::header::ACCEPT).flat_map(accepted).peekable();
    all.peek().is_some() && all.all(is_event_stream)
}

/// Whether a request names `text/event-stream` in one of its `Accept` fields, with any weight but zero. Clients of the
/// Model Context Protocol name JSON, too: which of the two answers such a request is known from the response only.
pub fn names_event_streams(fields: &Fields) -> bool {
    fields.all(&http::header::ACCEPT).any(accepts_event_stream)
}

fn is_weight_zero(parameter: &[u8]) -> bool {
    let Some(weight) = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q=")) else {
        return false;
    };
    std::str::from_utf8(weight).ok().and_then(|text| text.parse::<f32>().ok()) == Some(0.0)
}

fn build(request: &httparse::Request<'_, '_>) -> Result<RequestHead, HeadError> {
    let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes())
        .map_err(|_| HeadError::Malformed("the method is not a token"))?;
    let version = if request.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let (named, target) = split_target(request.path.unwrap_or_default());
    let lines = request.headers.iter().map(|line| line.name.len() + line.value.len() + 4);
    let bytes = target.len() + named.map_or(0, str::len) + lines.sum::<usize>();
    let mut fields = fields::Builder::new(bytes, request.headers.len());
    let target = fields.append(&target).ok_or(HeadError::TargetTooLong)?;
    let mut authority = fields.append(named.unwrap_or_default()).ok_or(HeadError::TooLarge)?;
    for line in request.headers.iter() {
        let value = fields.push(line.name, line.value).ok_or(HeadError::TooLarge)?;
        if named.is_none() && line.name.eq_ignore_ascii_case("host") {
            authority = value;
        }
    }
    Ok(RequestHead { method, version, fields: fields.finish(), target, authority })
}

/// Returns `value`, which lies within `head`, as a header value in the memory of `bytes`, which begin with the same
/// bytes; `None` if it may not be a header value.
pub fn shared_value(bytes: &Bytes, head: &[u8], value: &[u8]) -> Option<HeaderValue> {
    let start = (value.as_ptr() as usize).checked_sub(head.as_ptr() as usize)?;
    let end = start.checked_add(value.len()).filter(|end| *end <= bytes.len())?;
    HeaderValue::from_maybe_shared(bytes.slice(start..end)).ok()
}

/// Authority and origin form of a request target (RFC 9112 section 3.2: an absolute form beats `Host`).
fn split_target(target: &str) -> (Option<&str>, Cow<'_, str>) {
    let Some((_, rest)) = target.split_once("://").filter(|_| !target.starts_with('/')) else {
        return (None, target.into());
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = if path.starts_with('/') { path.into() } else { format!("/{path}").into() };
    (Some(authority), path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_an_authority_is_dropped_and_an_address_is_not_cut() {
        for (authority, host) in
            [("a.b:8080", "a.b"), ("a.b", "a.b"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")]
        {
            assert_eq!(without_port(authority), host);
        }
    }

    fn verdict(head: &str) -> Result<RequestFraming, HeadError> {
        match scan(head.as_bytes(), 0)? {
            Scan::Complete(end) if end == head.len() => read(head.as_bytes()).map(|(facts, _)| facts),
            Scan::Complete(_) => Err(HeadError::Malformed("test: bytes after the head")),
            Scan::Partial => Err(HeadError::Malformed("test: no end")),
        }
    }

    fn parsed(head: &'static str) -> RequestHead {
        read(head.as_bytes()).unwrap().1
    }

    #[test]
    fn shapes_that_parsers_disagree_about_are_refused() {
        let refused = [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
            "GET http://x\";for=6.6.6.6;host=\"y/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://evil@app/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a\\b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
        ];
        for head in refused {
            assert!(matches!(verdict(head), Err(HeadError::Malformed(_))), "{head:?}: {:?}", verdict(head));
        }
        assert_eq!(verdict("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), Err(HeadError::Version));
        assert_eq!(verdict("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"), Err(HeadError::Connect));
        assert_eq!(verdict("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"), Err(HeadError::Trace));
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        let good = [
            "a",
            "a:80",
            "a:",
            "",
            "A.example.",
            "a_b",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:80",
            "a%41",
            "x:99999",
        ];
        for host in good {
            assert_eq!(check_host(host.as_bytes()), Ok(()), "{host:?}");
        }
        let bad = [
            "a:b",
            "a:8x",
            "a:-1",
            "a:80:80",
            "a:123456",
            "[::1",
            "::1]",
            "[::1]x",
            "[::1]:x",
            "[]",
            "[a]",
            "[fe80::1%25eth0]",
            "a]",
            "[a",
            "a b",
            "a,b",
            "a/b",
            "a@b",
            "a\\b",
            "a\"b",
            "a<b",
            "::1",
            "a:80]",
            "m\u{fc}",
        ];
        for host in bad {
            assert!(check_host(host.as_bytes()).is_err(), "{host:?}");
        }
    }

    #[test]
    fn only_a_plain_get_that_names_the_type_is_an_event_stream() {
        let cases = [
            ("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html, Text/Event-Stream;q=0.5\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\naccept: text/event-stream\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream;q=0.0\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nAccept: text/event-stream\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nAccept: text/event-stream\r\n\r\n", true),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nAccept: text/event-stream\r\n\r\n",
                false,
            ),
            ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nAccept: text/event-stream\r\n\r\n", true),
            (
                "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\nAccept: text/event-stream\r\n\r\n",
                true,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nAccept: text/event-stream\r\n\r\n",
                true,
            ),
        ];
        for (head, expected) in cases {
            assert_eq!(verdict(head).map(|facts| facts.event_stream), Ok(expected), "{head:?}");
        }
    }

    #[test]
    fn an_event_source_accepts_nothing_but_event_streams() {
        let cases = [
            ("Accept: text/event-stream", true),
            ("Accept: Text/Event-Stream; q=0.5, ,text/event-stream", true),
            ("Accept: text/event-stream, application/json;q=0", true),
            ("Accept: application/json, text/event-stream", false),
            ("Accept: text/event-stream\r\nAccept: */*", false),
            ("Accept: text/event-stream;q=0", false),
            ("Accept:", false),
            ("X-Other: 1", false),
        ];
        for (lines, expected) in cases {
            let (_, head) = read(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(accepts_only_event_streams(&head.fields), expected, "{lines:?}");
        }
    }

    #[test]
    fn keep_alive_follows_version_and_connection() {
        let cases = [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
        ];
        for (head, expected) in cases {
            assert_eq!(verdict(head).map(|facts| facts.keep_alive), Ok(expected), "{head:?}");
        }
    }

    #[test]
    fn a_head_that_comes_byte_by_byte_is_found_where_it_ends() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let mut seen = 0;
        for end in 1..=head.len() {
            match scan(&head[..end], seen).unwrap() {
                Scan::Partial => seen = end,
                Scan::Complete(length) => {
                    assert_eq!((length, end), (27, 27));
                    return;
                }
            }
        }
        panic!("the end was not found");
    }

    #[test]
    fn a_host_has_255_bytes_at_most_besides_its_port() {
        for (bytes, port, fits) in
            [(255, "", true), (255, ":65535", true), (256, "", false), (256, ":1", false), (9000, "", false)]
        {
            let host = format!("{}{port}", "a".repeat(bytes));
            assert_eq!(check_authority(&host).is_ok(), fits, "{bytes}{port}");
            let host = verdict(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert_eq!(host.is_ok(), fits, "{bytes}{port}");
        }
    }

    #[test]
    fn an_absolute_target_wins_over_host() {
        let head = parsed("GET http://b.example:81/x?y=1 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((head.authority(), head.target(), head.path()), ("b.example:81", "/x?y=1", "/x"));
        let head = parsed("GET http://b.example?y HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(head.target(), "/?y");
        let head = parsed("GET /go?to=http://c/ HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((head.authority(), head.target()), ("a", "/go?to=http://c/"));
    }

    #[test]
    fn as_many_fields_are_nominated_as_a_head_may_have() {
        let head = |count: usize| {
            format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {}x\r\n\r\n", "x,".repeat(count - 1))
        };
        assert!(verdict(&head(FIELDS_MAX)).is_ok());
        assert_eq!(verdict(&head(FIELDS_MAX + 1)).map(|facts| facts.keep_alive), Err(HeadError::TooLarge));
        let half = "x,".repeat(FIELDS_MAX / 2);
        let lines = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {half}\r\nConnection: {half}\r\n\r\n");
        assert_eq!(verdict(&lines).map(|facts| facts.keep_alive), Err(HeadError::TooLarge), "of all lines");
    }
}
