//! The client side of an event stream, after its request: writes bytes, notices that the client left, ends well or badly.
//!
//! Both variants are polled by the one task that relays the stream and hold no buffer of their own.

use std::task::{Context, Poll};

use http::HeaderMap;
use podpin_wire::http1::encode::{CHUNK_PREFIX_BYTES, Framing};

use crate::downstream::http1::Http1Side;
use crate::downstream::http2::Http2Stream;
use crate::downstream::request_body::RequestBody;
use crate::net::peer::Peer;

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
            Downstream::H1(side) => {
                let gone = side.poll_gone(context);
                // No client has so much to say before its stream ends.
                if side.is_full() && side.is_body_read() { Poll::Ready(Gone) } else { gone }
            }
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

    /// Returns the body of the request, which may be longer than the beginning of the stream.
    pub(crate) fn request_body(&mut self) -> RequestBody<'_> {
        match self {
            Downstream::H1(side) => RequestBody::H1(side),
            Downstream::H2(stream) => RequestBody::H2(stream),
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

    /// Ends the body with these fields behind it, where the client's framing has a place for them, and appends to `out` what
    /// has to be written for that.
    pub(crate) fn end_body(&mut self, trailers: HeaderMap, out: &mut Vec<u8>) {
        match self {
            Downstream::H1(side) => side.end_body(&trailers, out),
            Downstream::H2(stream) => stream.set_trailers(trailers),
        }
    }

    /// Ends well, after [`Downstream::end_body`]; returns the socket of HTTP/1.
    pub(crate) fn finish(self) -> Option<Http1Side> {
        match self {
            Downstream::H1(side) => Some(side),
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::testing::{connected, http1_side};

    async fn chunked() -> (TcpStream, Downstream) {
        let (client, proxy) = connected().await;
        let mut side = http1_side(proxy);
        side.framing = Framing::Chunked;
        (client, Downstream::H1(side))
    }

    #[tokio::test]
    async fn a_stream_whose_client_sends_too_much_is_over() {
        let (mut client, mut downstream) = chunked().await;
        let sent = async { client.write_all(&vec![b'x'; 128 * 1024]).await };
        let gone = std::future::poll_fn(|context| downstream.poll_gone(context));
        assert_eq!(tokio::join!(sent, gone).1, Gone);
    }

    #[tokio::test]
    async fn a_piece_is_one_chunk_and_the_socket_comes_back() {
        let (mut client, mut downstream) = chunked().await;
        let mut piece = vec![0; CHUNK_PREFIX_BYTES];
        piece.extend_from_slice(b"data: x\n\n");
        let from = downstream.frame(&mut piece);
        downstream.end_body(HeaderMap::new(), &mut piece);
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
