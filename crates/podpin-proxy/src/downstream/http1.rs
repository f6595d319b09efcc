//! The client side over HTTP/1: one socket, for one response at a time.

use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use podpin_wire::http1::body::{BodyDecoder, ChunkError, Piece};
use podpin_wire::http1::encode::{
    CHUNK_PREFIX_BYTES, Framing, LAST_CHUNK, Persistence, push_chunk, seal_chunk,
};
use podpin_wire::http1::request_head::HeadError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::downstream::gone::{Gone, LINGER};
use crate::http::reply::{ErrorReply, LocalResponse, ResponseBody};
use crate::net::transport::Transport;

/// Bytes that a client may send before its response is complete: kept for its next request, or dropped by a stream. A
/// request's client is not read beyond; a stream's client that sends more is cut.
pub(crate) const EARLY_BYTES_MAX: usize = 64 * 1024;
/// Bytes that a refused client may still send meanwhile: a reset would destroy the response before it is read.
const LINGER_BYTES: usize = 256 * 1024;

/// The socket of an HTTP/1 client, with the framing of the response that goes to it.
pub(crate) struct Http1Side {
    /// The connection itself.
    pub transport: Transport,
    /// Framing of the response body.
    pub framing: Framing,
    /// Bytes of the client that were dropped.
    dropped_bytes: usize,
}

impl Http1Side {
    /// Returns the client side of a response whose head is still to be written.
    pub(crate) fn new(transport: Transport) -> Http1Side {
        Http1Side { transport, framing: Framing::Plain, dropped_bytes: 0 }
    }

    /// Frames `piece[CHUNK_PREFIX_BYTES..]` in place; returns the offset where the framed bytes begin.
    pub(crate) fn frame_in_place(&self, piece: &mut Vec<u8>) -> usize {
        match self.framing {
            Framing::Chunked => seal_chunk(piece),
            Framing::Plain => CHUNK_PREFIX_BYTES,
        }
    }

    /// Appends framed body bytes to `out`.
    pub(crate) fn frame_into(&self, data: &[u8], out: &mut Vec<u8>) {
        match self.framing {
            Framing::Chunked => push_chunk(out, data),
            Framing::Plain => out.extend_from_slice(data),
        }
    }

    /// Returns the bytes that a clean end still needs.
    pub(crate) fn last_bytes(&self) -> &'static [u8] {
        match self.framing {
            Framing::Chunked => LAST_CHUNK,
            Framing::Plain => b"",
        }
    }

    /// Writes what the client takes now; returns how much, at least one byte.
    pub(crate) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Gone>> {
        match ready!(Pin::new(&mut self.transport).poll_write(context, bytes)) {
            Ok(count) if count > 0 => Poll::Ready(Ok(count)),
            Ok(_) | Err(_) => Poll::Ready(Err(Gone)),
        }
    }

    /// Polls until nothing waits within TLS.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        Pin::new(&mut self.transport).poll_flush(context).map_err(|_| Gone)
    }

    /// Polls for the client's leaving. Other bytes of the client go to `kept`, or are counted and dropped without it.
    pub(crate) fn poll_gone(
        &mut self,
        context: &mut Context<'_>,
        mut kept: Option<&mut BytesMut>,
    ) -> Poll<Gone> {
        loop {
            if kept.as_ref().is_some_and(|kept| kept.len() >= EARLY_BYTES_MAX) {
                return Poll::Pending;
            }
            let mut bytes = [0; 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut self.transport).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(Gone);
            }
            match &mut kept {
                Some(kept) => kept.extend_from_slice(buffer.filled()),
                None => self.dropped_bytes = self.dropped_bytes.saturating_add(buffer.filled().len()),
            }
            if self.dropped_bytes > EARLY_BYTES_MAX {
                return Poll::Ready(Gone);
            }
        }
    }

    /// Ends well; returns the socket if it may carry another request.
    pub(crate) fn finish(self) -> Option<Transport> {
        if self.dropped_bytes == 0 {
            return Some(self.transport);
        }
        self.transport.close();
        None
    }

    /// Ends with a reset. Without chunks only that tells an early end from a proper one; what the client has not read is
    /// lost with it.
    pub(crate) fn reset(self) {
        if let Err(error) = socket2::SockRef::from(self.transport.tcp()).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "the connection ends without a reset");
        }
    }
}

/// Appends body bytes of the input, and lines of its trailer section; returns what is behind the body.
pub(crate) fn decode_body<'a>(
    body: &mut BodyDecoder,
    mut input: &'a [u8],
    out: &mut Vec<u8>,
    trailers: &mut Vec<u8>,
) -> Result<&'a [u8], ErrorReply> {
    loop {
        match body.decode(&mut input) {
            Ok(Piece::Data(data)) => out.extend_from_slice(data),
            Ok(Piece::Trailers(lines)) => trailers.extend_from_slice(lines),
            Ok(Piece::More | Piece::End) => return Ok(input),
            Err(ChunkError::TOO_MANY_FIELDS) => return Err(HeadError::TooLarge.into()),
            Err(_) => return Err(ErrorReply::Body),
        }
    }
}

/// Writes a response of the proxy and closes the connection, so that the client can read it.
pub(crate) async fn close_with(transport: Transport, response: &LocalResponse) {
    write_and_linger(transport, &response.http1(Persistence::Close, ResponseBody::Whole)).await;
}

/// Writes the last bytes of a connection and closes it, so that the client can read them.
pub(crate) async fn write_and_linger(mut transport: Transport, bytes: &[u8]) {
    let written = async {
        transport.write_all(bytes).await?;
        transport.shutdown().await?;
        // Unread bytes of the client would turn the close into a reset, which destroys the response.
        let mut left = LINGER_BYTES;
        let mut unread = [0; 1024];
        loop {
            let count = transport.read(&mut unread).await?;
            left = left.saturating_sub(count);
            if count == 0 || left == 0 {
                return std::io::Result::Ok(());
            }
        }
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, Box::pin(written)).await {
        tracing::trace!(%error, "the client did not read its response");
    }
    if let Err(error) = socket2::SockRef::from(transport.tcp()).shutdown(Shutdown::Both) {
        tracing::trace!(%error, "the client closed first");
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::net::TcpStream;

    use super::*;
    use crate::testing::connected;

    async fn pair() -> (TcpStream, Http1Side) {
        let (client, proxy) = connected().await;
        (client, Http1Side::new(Transport::Plain(proxy)))
    }

    #[tokio::test]
    async fn a_request_keeps_early_bytes_and_a_stream_drops_them() {
        let (mut client, mut side) = pair().await;
        client.write_all(b"GET /next").await.unwrap();
        client.shutdown().await.unwrap();
        let mut kept = BytesMut::new();
        assert_eq!(poll_fn(|context| side.poll_gone(context, Some(&mut kept))).await, Gone);
        assert_eq!(&kept[..], b"GET /next");
        assert!(side.finish().is_some(), "nothing was dropped");

        let (mut client, mut side) = pair().await;
        client.write_all(b"GET /next").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(poll_fn(|context| side.poll_gone(context, None)).await, Gone);
        assert!(side.finish().is_none(), "a request was dropped");
    }

    #[tokio::test]
    async fn a_stream_whose_client_sends_too_much_is_over() {
        let (mut client, mut side) = pair().await;
        let sent = async { client.write_all(&vec![b'x'; EARLY_BYTES_MAX + 1]).await };
        let gone = poll_fn(|context| side.poll_gone(context, None));
        assert_eq!(tokio::join!(sent, gone).1, Gone);
    }
}
