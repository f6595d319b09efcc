//! The client side of a connection that carries another protocol: bytes both ways, each way with an end of its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::peer::Peer;
use crate::net::transport::Transport;

/// The client of an upgraded connection.
pub(crate) enum TunnelClient {
    /// A whole connection, HTTP/1.1 before.
    Socket(Transport),
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
        }
    }

    /// Writes what the client takes now; returns how much, at least one byte.
    pub(crate) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            TunnelClient::Socket(transport) => poll_write(transport, context, bytes),
        }
    }

    /// Polls until nothing waits within TLS.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            TunnelClient::Socket(transport) => poll_flush(transport, context),
        }
    }

    /// Ends what goes to the client; it may go on sending.
    pub(crate) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            TunnelClient::Socket(transport) => Pin::new(transport).poll_shutdown(context),
        }
    }

    /// Returns the state of the client, as far as its connection tells.
    pub(crate) fn peer(&self) -> Peer {
        match self {
            TunnelClient::Socket(transport) => Peer::of(transport.tcp()),
        }
    }

    /// Closes both ways.
    pub(crate) fn close(self) {
        match self {
            TunnelClient::Socket(transport) => transport.close(),
        }
    }

    /// Closes both ways so that the client can tell it from an end of the other side.
    pub(crate) fn reset(self) {
        match self {
            TunnelClient::Socket(transport) => transport.reset(),
        }
    }
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
