//! The client side of a connection that carries another protocol: bytes both ways, each way with an end of its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::downstream::gone::Gone;
use crate::downstream::http2::Http2Stream;
use crate::net::peer::Peer;
use crate::net::transport::Transport;

/// The client of an upgraded connection.
pub(crate) enum TunnelClient {
    /// A whole connection, HTTP/1.1 before.
    Socket(Transport),
    /// A stream of an HTTP/2 connection.
    Stream(Http2Stream),
}

impl TunnelClient {
    /// Reads once into `buffer`. Returns the bytes; none at the end of what the client sends.
    pub(crate) fn poll_read<'b>(
        &mut self,
        context: &mut Context<'_>,
        buffer: &'b mut [u8],
    ) -> Poll<io::Result<&'b [u8]>> {
        match self {
            TunnelClient::Socket(transport) => poll_read(transport, context, buffer),
            TunnelClient::Stream(stream) => {
                let count = ready!(stream.poll_read(context, buffer)).map_err(gone)?;
                Poll::Ready(Ok(buffer.get(..count).unwrap_or_default()))
            }
        }
    }

    /// Writes what the client takes now; returns how much, at least one byte.
    pub(crate) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            TunnelClient::Socket(transport) => poll_write(transport, context, bytes),
            TunnelClient::Stream(stream) => stream.poll_write(context, bytes).map_err(gone),
        }
    }

    /// Polls until nothing waits within TLS.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            TunnelClient::Socket(transport) => poll_flush(transport, context),
            TunnelClient::Stream(_) => Poll::Ready(Ok(())),
        }
    }

    /// Ends what goes to the client; it may go on sending.
    pub(crate) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            TunnelClient::Socket(transport) => Pin::new(transport).poll_shutdown(context),
            TunnelClient::Stream(stream) => Poll::Ready(stream.end().map_err(gone)),
        }
    }

    /// Returns the state of the client, as far as its connection tells.
    pub(crate) fn peer(&self) -> Peer {
        match self {
            TunnelClient::Socket(transport) => Peer::of(transport.tcp()),
            TunnelClient::Stream(stream) => stream.peer(),
        }
    }

    /// Closes both ways.
    pub(crate) fn close(self) {
        match self {
            TunnelClient::Socket(transport) => transport.close(),
            TunnelClient::Stream(mut stream) => {
                if !stream.is_ended() && stream.end().is_err() {
                    tracing::trace!("the client closed first");
                }
            }
        }
    }

    /// Closes both ways so that the client can tell it from an end of the other side.
    pub(crate) fn reset(self) {
        match self {
            TunnelClient::Socket(transport) => transport.reset(),
            TunnelClient::Stream(stream) => stream.abort(),
        }
    }
}

/// Returns the end of a stream as the error of a socket.
fn gone(Gone: Gone) -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// Reads once into `buffer`. Returns the bytes; none at the end, of TLS without its alert as well.
pub(crate) fn poll_read<'b>(
    transport: &mut Transport,
    context: &mut Context<'_>,
    buffer: &'b mut [u8],
) -> Poll<io::Result<&'b [u8]>> {
    let mut filled = ReadBuf::new(&mut *buffer);
    let read = ready!(Pin::new(transport).poll_read(context, &mut filled));
    let count = filled.filled().len();
    match read {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Poll::Ready(Err(error)),
        Ok(()) | Err(_) => Poll::Ready(Ok(buffer.get(..count).unwrap_or_default())),
    }
}

/// Writes what the peer takes now; returns how much, at least one byte.
pub(crate) fn poll_write(
    transport: &mut Transport,
    context: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(transport).poll_write(context, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(written),
    }
}

/// Polls until nothing waits within TLS.
pub(crate) fn poll_flush(transport: &mut Transport, context: &mut Context<'_>) -> Poll<io::Result<()>> {
    if transport.holds_bytes() { Pin::new(transport).poll_flush(context) } else { Poll::Ready(Ok(())) }
}
