//! The client side of an event stream, after its request: writes bytes, notices that the client left, ends well or badly.
//!
//! Both variants are polled by the one task that relays the stream and hold no buffer of their own.

use std::task::{Context, Poll};

use podpin_wire::http1::encode::{CHUNK_PREFIX_BYTES, Framing};

use crate::downstream::http1::Http1Side;
use crate::downstream::http2::Http2Stream;
use crate::net::peer::Peer;
use crate::net::transport::Transport;

pub(crate) use crate::downstream::gone::Gone;

/// The client side of a response body.
pub(crate) enum Downstream {
    /// A socket of HTTP/1.0 or 1.1.
    H1(Http1Side),
    /// A stream of an HTTP/2 connection.
    H2(Http2Stream),
}

impl Downstream {
    /// Frames `piece[CHUNK_PREFIX_BYTES..]` in place; returns the offset where the framed bytes begin.
    pub(crate) fn frame(&self, piece: &mut Vec<u8>) -> usize {
        match self {
            Downstream::H1(side) => side.frame_in_place(piece),
            Downstream::H2(_) => CHUNK_PREFIX_BYTES,
        }
    }

    /// Polls for the client's leaving: closed, half-closed or reset.
    pub(crate) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<Gone> {
        match self {
            Downstream::H1(side) => side.poll_gone(context, None),
            Downstream::H2(side) => side.poll_gone(context),
        }
    }

    /// Writes what the client takes now; returns how much, at least one byte.
    pub(crate) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Gone>> {
        match self {
            Downstream::H1(side) => side.poll_write(context, bytes),
            Downstream::H2(side) => side.poll_write(context, bytes),
        }
    }

    /// Returns the state of the client, as far as its connection tells.
    pub(crate) fn peer(&self) -> Peer {
        match self {
            Downstream::H1(side) => Peer::of(side.transport.tcp()),
            Downstream::H2(side) => side.peer(),
        }
    }

    /// Whether bytes that count as written wait within TLS; [`Downstream::poll_flush`] sends them on.
    pub(crate) fn holds_bytes(&self) -> bool {
        match self {
            Downstream::H1(side) => side.transport.holds_bytes(),
            Downstream::H2(_) => false,
        }
    }

    /// Polls until nothing waits within TLS.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        match self {
            Downstream::H1(side) => side.poll_flush(context),
            Downstream::H2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Returns the bytes that a clean end still needs.
    pub(crate) fn last_bytes(&self) -> &'static [u8] {
        match self {
            Downstream::H1(side) => side.last_bytes(),
            Downstream::H2(_) => b"",
        }
    }

    /// Ends well, after [`Downstream::last_bytes`]; returns the socket if it may carry another request.
    pub(crate) fn finish(self) -> Option<Transport> {
        match self {
            Downstream::H1(side) => side.finish(),
            Downstream::H2(side) => {
                side.finish();
                None
            }
        }
    }

    /// Ends so that the client can tell the body is not complete: no last chunk, or a reset.
    pub(crate) fn abort(self) {
        match self {
            Downstream::H1(side) if side.framing == Framing::Plain => side.reset(),
            Downstream::H1(_) => {}
            Downstream::H2(stream) => stream.abort(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;

    use super::*;
    use crate::testing::connected;

    async fn chunked() -> (TcpStream, Downstream) {
        let (client, proxy) = connected().await;
        let mut side = Http1Side::new(Transport::Plain(proxy));
        side.framing = Framing::Chunked;
        (client, Downstream::H1(side))
    }

    #[tokio::test]
    async fn a_piece_is_one_chunk_and_the_socket_comes_back() {
        let (mut client, mut downstream) = chunked().await;
        let mut piece = vec![0; CHUNK_PREFIX_BYTES];
        piece.extend_from_slice(b"data: x\n\n");
        let from = downstream.frame(&mut piece);
        piece.extend_from_slice(downstream.last_bytes());
        let written =
            std::future::poll_fn(|context| downstream.poll_write(context, &piece[from..])).await.unwrap();
        assert_eq!(written, piece.len() - from);
        drop(downstream.finish().unwrap());
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "9\r\ndata: x\n\n\r\n0\r\n\r\n");
    }

    #[tokio::test]
    async fn an_early_end_has_no_last_chunk() {
        let (mut client, downstream) = chunked().await;
        downstream.abort();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
