//! The client side of a connection that carries another protocol: bytes both ways, each way with an end of its own.

use std::io;
use std::task::{Context, Poll, ready};

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
            TunnelClient::Socket(transport) => transport.poll_read_some(context, buffer),
            TunnelClient::Stream(stream) => {
                let count = ready!(stream.poll_read(context, buffer))?;
                Poll::Ready(Ok(buffer.get(..count).unwrap_or_default()))
            }
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
