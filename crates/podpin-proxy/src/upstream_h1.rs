//! A small HTTP/1.1 client: connects to pods, reads the heads of their responses.
//!
//! For event streams it does both in one go and keeps no buffer while nothing comes; ordinary requests (`request/`)
//! read heads while they write bodies, over connections that `pool.rs` keeps. Every length that a pod could stretch has a
//! limit. Framing follows RFC 9112 section 6; what is ambiguous there (`Content-Length` beside `Transfer-Encoding`,
//! differing lengths) is refused.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::body_decoder::{BodyDecoder, FIRST_CHUNK};
use crate::head::{self, FIELDS_MAX};
use crate::tls::PodTls;
use crate::transport::Transport;

/// A response head larger than this is refused; pods send a few hundred bytes.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Interim responses (100, 103) before the final one.
pub(crate) const INTERIM_RESPONSES_MAX: usize = 8;

/// What went wrong between us and an endpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// No connection: nothing was sent.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// No connection for want of something of our own (descriptors, ports, memory): the endpoint is not to blame.
    #[error("cannot connect from here: {0}")]
    Local(io::Error),
    /// No connection within `timeouts.connect`: nothing was sent.
    #[error("no connection in time")]
    ConnectTimeout,
    /// The connection broke before the response head was complete.
    #[error("the connection broke before the response: {0}")]
    Reset(io::Error),
    /// No response head within `timeouts.responseHeader`.
    #[error("no response in time")]
    ResponseTimeout,
    /// What came is not an HTTP/1.1 response that we may forward.
    #[error("malformed response: {0}")]
    Protocol(&'static str),
}

/// The head of the final response.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The connection may carry another request afterwards (RFC 9112 section 9.3).
    pub(crate) keep_alive: bool,
}

impl ResponseHead {
    /// 200 and `text/event-stream`, encoded or not.
    pub(crate) fn is_event_stream(&self) -> bool {
        let kind = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        self.status == StatusCode::OK && essence.eq_ignore_ascii_case("text/event-stream")
    }
}

/// An answered request: the head, and all that is needed to read the body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: ResponseHead,
    pub(crate) transport: Transport,
    pub(crate) body: BodyDecoder,
    /// Bytes of the body that came with the head.
    pub(crate) rest: Vec<u8>,
}

/// Connects to an endpoint, with `tls` up to the end of its handshake.
///
/// # Errors
/// [`UpstreamError::Connect`], [`UpstreamError::Local`], [`UpstreamError::ConnectTimeout`].
pub(crate) async fn connect(
    address: SocketAddr,
    tls: Option<&PodTls>,
    limit: Duration,
) -> Result<Transport, UpstreamError> {
    let connected = async {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true).and_then(|()| keep_alive(&tcp))?;
        match tls {
            None => Ok(Transport::Plain(tcp)),
            // Its handshake is much larger than all else that a request waits for.
            Some(tls) => Box::pin(tls.connect(tcp, address)).await,
        }
    };
    match timeout(limit, connected).await {
        Ok(Ok(transport)) => Ok(transport),
        Ok(Err(error)) if is_local(&error) => Err(UpstreamError::Local(error)),
        Ok(Err(error)) => Err(UpstreamError::Connect(error)),
        Err(_) => Err(UpstreamError::ConnectTimeout),
    }
}

/// Whether a failure to connect says something about this machine only.
pub(crate) fn is_local(error: &io::Error) -> bool {
    let local = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| local.contains(&code))
}

/// Has the kernel look after a connection that may be silent for hours: a peer that vanished without a word is
/// noticed within a minute and a half.
///
/// # Errors
/// When the socket is closed already.
pub(crate) fn keep_alive(tcp: &TcpStream) -> io::Result<()> {
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    SockRef::from(tcp).set_tcp_keepalive(&probes)
}

/// Sends a request head and reads the response head.
///
/// # Errors
/// All but the two about connecting.
pub(crate) async fn exchange(
    mut transport: Transport,
    request: &[u8],
    limit: Option<Duration>,
) -> Result<Answer, UpstreamError> {
    let answered = async {
        transport.write_all(request).await.map_err(UpstreamError::Reset)?;
        transport.flush().await.map_err(UpstreamError::Reset)?;
        read_head(&mut transport).await
    };
    let (head, body, rest) = match limit {
        Some(limit) => timeout(limit, answered).await.map_err(|_| UpstreamError::ResponseTimeout)??,
        None => answered.await?,
    };
    Ok(Answer { head, transport, body, rest })
}

async fn read_head(transport: &mut Transport) -> Result<(ResponseHead, BodyDecoder, Vec<u8>), UpstreamError> {
    let mut buffer = Vec::with_capacity(2048);
    let mut interim = 0;
    loop {
        while let Some((length, head, body)) = parse_head(&buffer, &Method::GET)? {
            let rest = buffer.split_off(length);
            if !head.status.is_informational() {
                return Ok((head, body, rest));
            }
            interim += 1;
            if interim > INTERIM_RESPONSES_MAX || head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(UpstreamError::Protocol("unexpected interim responses"));
            }
            buffer = rest;
        }
        if buffer.len() >= HEAD_BYTES_MAX {
            return Err(UpstreamError::Protocol("the response head is too large"));
        }
        let count = transport.read_buf(&mut buffer).await.map_err(UpstreamError::Reset)?;
        if count == 0 {
            return Err(UpstreamError::Reset(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// Length of the head of a response to `asked`, the head, and how its body is framed; `None` while it is incomplete.
pub(crate) fn parse_head(
    buffer: &[u8],
    asked: &Method,
) -> Result<Option<(usize, ResponseHead, BodyDecoder)>, UpstreamError> {
    let mut lines = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut lines);
    let length = match response.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(UpstreamError::Protocol("too many header lines")),
        Err(_) => return Err(UpstreamError::Protocol("the response head is not HTTP/1.1")),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(UpstreamError::Protocol("the status is not a number from 100 to 999"))?;
    let bytes = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
    let mut headers = HeaderMap::with_capacity(response.headers.len() + 4);
    for line in response.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let value = head::shared_value(&bytes, buffer, line.value);
        let (Ok(name), Some(value)) = (name, value) else {
            return Err(UpstreamError::Protocol("a header line is malformed"));
        };
        headers.append(name, value);
    }
    let minor = response.version.unwrap_or(0);
    let body = framing((status, minor), asked, &headers)?;
    let keep_alive = keeps_alive(minor, &headers);
    Ok(Some((length, ResponseHead { status, headers, keep_alive }, body)))
}

fn keeps_alive(minor: u8, headers: &HeaderMap) -> bool {
    let says = |token| {
        let mut lists = headers.get_all(header::CONNECTION).iter();
        lists.any(|list| head::has_token(list.as_bytes(), token))
    };
    if minor == 0 { says(b"keep-alive") && !says(b"close") } else { !says(b"close") }
}

/// How the body of a response is framed (RFC 9112 section 6.3).
fn framing(
    (status, minor): (StatusCode, u8),
    asked: &Method,
    headers: &HeaderMap,
) -> Result<BodyDecoder, UpstreamError> {
    if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(BodyDecoder::Done);
    }
    let lengths = headers.get_all(header::CONTENT_LENGTH);
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        if encodings.next().is_some() || !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") || minor == 0 {
            return Err(UpstreamError::Protocol("Transfer-Encoding is not exactly `chunked`"));
        }
        if lengths.iter().next().is_some() {
            return Err(UpstreamError::Protocol("Content-Length beside Transfer-Encoding"));
        }
        return Ok(if asked == Method::HEAD { BodyDecoder::Done } else { BodyDecoder::Chunked(FIRST_CHUNK) });
    }
    let mut length = None;
    for value in lengths {
        let number = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let number = number.and_then(|text| text.parse::<u64>().ok());
        if number.is_none() || length.is_some_and(|known| Some(known) != number) {
            return Err(UpstreamError::Protocol("Content-Length is not one number"));
        }
        length = number;
    }
    Ok(match length {
        _ if asked == Method::HEAD => BodyDecoder::Done,
        Some(0) => BodyDecoder::Done,
        Some(left) => BodyDecoder::Length(left),
        None => BodyDecoder::UntilClose,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str) -> Result<Option<(usize, ResponseHead, BodyDecoder)>, UpstreamError> {
        parse_head(text.as_bytes(), &Method::GET)
    }

    #[test]
    fn ambiguous_framing_of_a_response_is_refused() {
        for lines in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 3\r\nContent-Length: 4\r\n",
            "Content-Length: 3, 3\r\n",
            "Content-Length: -1\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            let result = head(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"));
            assert!(matches!(result, Err(UpstreamError::Protocol(_))), "{lines}: {result:?}");
        }
    }

    #[test]
    fn the_body_is_framed_as_the_head_says() {
        let cases = [
            ("HTTP/1.1 200 OK\r\n\r\n", BodyDecoder::UntilClose),
            ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", BodyDecoder::Length(3)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", BodyDecoder::Chunked(FIRST_CHUNK)),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", BodyDecoder::Done),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", BodyDecoder::Done),
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", BodyDecoder::Done),
        ];
        for (text, expected) in cases {
            assert_eq!(head(text).unwrap().unwrap().2, expected, "{text:?}");
        }
        for framing in ["Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", ""] {
            let text = format!("HTTP/1.1 200 OK\r\n{framing}\r\n");
            assert_eq!(parse_head(text.as_bytes(), &Method::HEAD).unwrap().unwrap().2, BodyDecoder::Done);
        }
        assert!(head("HTTP/1.1 200 OK\r\nA: b\r\n").unwrap().is_none());
        assert!(head("SIP/2.0 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn a_connection_goes_on_as_version_and_connection_say() {
        let cases = [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: x, Close\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", true),
        ];
        for (text, expected) in cases {
            assert_eq!(head(text).unwrap().unwrap().1.keep_alive, expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_head(&bytes, &Method::GET);
        }
    }
}
