//! Reads the next request head of an HTTP/1 connection, within its limits of time and size.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use podpin_wire::http1::request_head::{self, HeadError, RequestFraming, RequestHead, Scan};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::connection::listener::Listener;
use crate::downstream::http1::IdleConnection;
use crate::http::reply::ErrorReply;
use crate::net::scratch::{self, Scratch};

/// Preface of an HTTP/2 connection (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of one read: most heads fit.
const READ_BYTES: usize = 16 * 1024;

/// A request whose head was read.
pub(crate) struct ReceivedRequest {
    /// The parsed head.
    pub head: RequestHead,
    /// End of the request, and its data path.
    pub framing: RequestFraming,
}

/// The next thing that a client sends.
pub(crate) enum Next {
    /// A whole request head; the bytes behind it stay with the connection.
    Request(Box<ReceivedRequest>),
    /// The preface of HTTP/2, which stays with the connection.
    Http2,
    /// A head that is refused.
    Refused(ErrorReply),
    /// The end, in good order.
    Closed,
}

/// Waits for the next head: for its first byte as long as an idle connection may live, for the rest as long as a head may
/// take. The first head of a connection has no idle time.
pub(crate) async fn next(
    listener: &Listener,
    connection: &mut IdleConnection,
    is_first: bool,
    closing: &mut watch::Receiver<bool>,
) -> Next {
    let limits = listener.shared.current().limits;
    let mut scanned = 0;
    // A pipelined request may be there already.
    if !connection.ahead.is_empty()
        && let Some(next) = Look::of(listener).at(connection, &mut scanned)
    {
        return next;
    }
    let has_begun = is_first || !connection.ahead.is_empty();
    let limit = if has_begun { limits.request_header_timeout } else { limits.keep_alive_timeout };
    let mut deadline = Instant::now() + limit;
    loop {
        if *closing.borrow() && connection.ahead.is_empty() {
            return Next::Closed;
        }
        let before = connection.ahead.len();
        tokio::select! {
            biased;
            read = timeout_at(deadline, poll_fn(|context| poll_read(connection, context))) => match read {
                Err(_) if before == 0 => return Next::Closed,
                Err(_) => return Next::Refused(ErrorReply::HeadTimeout),
                Ok(Ok(0) | Err(_)) => return Next::Closed,
                Ok(Ok(_)) => {}
            },
            _ = closing.changed(), if before == 0 => return Next::Closed,
        }
        if before == 0 && !is_first {
            deadline = Instant::now() + listener.shared.current().limits.request_header_timeout;
        }
        // A reload may have come while the connection was idle: the limits in force now hold for this head.
        if let Some(next) = Look::of(listener).at(connection, &mut scanned) {
            return next;
        }
    }
}

/// The settings for a look at the bytes so far.
#[derive(Clone, Copy)]
struct Look {
    takes_http2: bool,
    bytes_max: usize,
}

impl Look {
    /// Returns the settings in force for a connection of this listener.
    fn of(listener: &Listener) -> Look {
        let bytes_max = listener.shared.current().limits.request_header_bytes;
        Look { takes_http2: listener.settings.h2c, bytes_max }
    }

    /// Returns what the bytes so far amount to; `None` if more are needed.
    fn at(self, connection: &mut IdleConnection, scanned: &mut usize) -> Option<Next> {
        let bytes = &mut connection.ahead;
        if self.takes_http2 && bytes.iter().zip(HTTP2_PREFACE).all(|(one, other)| one == other) {
            return (bytes.len() >= HTTP2_PREFACE.len()).then_some(Next::Http2);
        }
        match request_head::scan(bytes, *scanned) {
            Ok(Scan::Complete(length)) if length > self.bytes_max => Some(too_large(bytes)),
            Ok(Scan::Complete(length)) => {
                // The whole buffer, so that nothing of it stays with the connection.
                let whole = if length == bytes.len() { mem::take(bytes) } else { bytes.split_to(length) };
                let bytes = whole.freeze();
                Some(match request_head::read(&bytes) {
                    Ok((framing, head)) => Next::Request(Box::new(ReceivedRequest { head, framing })),
                    Err(error) => Next::Refused(error.into()),
                })
            }
            Ok(Scan::Partial) if bytes.len() > self.bytes_max => Some(too_large(bytes)),
            Ok(Scan::Partial) => {
                *scanned = bytes.len();
                None
            }
            Err(error) => Some(Next::Refused(error.into())),
        }
    }
}

fn too_large(bytes: &[u8]) -> Next {
    // Without a line end the request line alone is too long.
    let has_line = bytes.contains(&b'\n');
    Next::Refused(if has_line { HeadError::TooLarge } else { HeadError::TargetTooLong }.into())
}

/// Reads once into the thread's buffer, and appends to the bytes of the connection.
fn poll_read(connection: &mut IdleConnection, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
    scratch::with(|Scratch { read, .. }| {
        let mut buffer = ReadBuf::new(read.get_mut(..READ_BYTES).unwrap_or_default());
        ready!(Pin::new(&mut connection.transport).poll_read(context, &mut buffer))?;
        connection.ahead.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::transport::Transport;

    async fn look_at(bytes: &[u8], takes_http2: bool) -> Option<Next> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let transport = Transport::Plain(tcp);
        let mut connection = IdleConnection { transport, ahead: BytesMut::from(bytes) };
        Look { takes_http2, bytes_max: 64 }.at(&mut connection, &mut 0)
    }

    #[tokio::test]
    async fn the_bytes_so_far_are_a_request_a_preface_or_too_much() {
        let request = look_at(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET", false).await;
        assert!(matches!(request, Some(Next::Request(received)) if received.head.target() == "/"));
        assert!(look_at(b"GET / HTTP/1.1\r\n", false).await.is_none());
        assert!(matches!(look_at(HTTP2_PREFACE, true).await, Some(Next::Http2)));
        assert!(look_at(&HTTP2_PREFACE[..5], true).await.is_none());
        let long = format!("GET /{} HTTP/1.1", "x".repeat(64));
        assert!(matches!(
            look_at(long.as_bytes(), false).await,
            Some(Next::Refused(ErrorReply::Head(HeadError::TargetTooLong)))
        ));
        let large = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(64));
        assert!(matches!(
            look_at(large.as_bytes(), false).await,
            Some(Next::Refused(ErrorReply::Head(HeadError::TooLarge)))
        ));
    }
}
