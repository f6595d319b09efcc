//! The client's side of an event stream, after its request: write bytes, notice that it left, end well or badly.
//!
//! HTTP/1.1 owns the client's socket; HTTP/2 owns the sending half of one h2 stream. Both are polled by the one task
//! that relays the stream and hold no buffer of their own.

use podpin_wire::http1::encode::{CHUNK_PREFIX_BYTES, Framing, seal_chunk};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::net::transport::Transport;

/// Bytes a client may send while its stream runs (a pipelined request we will not serve) before it is cut.
const STRAY_BYTES_MAX: usize = 64 * 1024;

/// The client is gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// The client's side.
pub(crate) enum Downstream {
    /// HTTP/1.0 or 1.1.
    H1 { tcp: Transport, framing: Framing, stray_bytes: usize },
    /// HTTP/2.
    H2 { stream: SendStream<Bytes>, queue: Arc<Queue> },
}

impl Downstream {
    /// An HTTP/1 client whose response head is still to be written.
    pub(crate) fn h1(tcp: Transport, framing: Framing) -> Downstream {
        Downstream::H1 { tcp, framing, stray_bytes: 0 }
    }

    /// The sending half of an h2 stream whose response head was written.
    pub(crate) fn h2(stream: SendStream<Bytes>) -> Downstream {
        Downstream::H2 { stream, queue: Arc::default() }
    }

    /// Frames `piece[CHUNK_PREFIX_BYTES..]` in place; gives the offset where the framed bytes begin.
    pub(crate) fn frame(&self, piece: &mut Vec<u8>) -> usize {
        match self {
            Downstream::H1 { framing: Framing::Chunked, .. } => seal_chunk(piece),
            Downstream::H1 { .. } | Downstream::H2 { .. } => CHUNK_PREFIX_BYTES,
        }
    }

    /// Resolves when the client has left: closed, half-closed or reset. Other bytes of an HTTP/1 client are dropped.
    pub(crate) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<Gone> {
        match self {
            Downstream::H2 { stream, .. } => stream.poll_reset(context).map(|_| Gone),
            Downstream::H1 { tcp, stray_bytes, .. } => loop {
                let mut bytes = [0; 512];
                let mut buffer = ReadBuf::new(&mut bytes);
                if ready!(Pin::new(&mut *tcp).poll_read(context, &mut buffer)).is_err()
                    || buffer.filled().is_empty()
                {
                    return Poll::Ready(Gone);
                }
                *stray_bytes = stray_bytes.saturating_add(buffer.filled().len());
                if *stray_bytes > STRAY_BYTES_MAX {
                    return Poll::Ready(Gone);
                }
            },
        }
    }

    /// Writes what the client takes now; gives how much that was, at least one byte.
    pub(crate) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Gone>> {
        match self {
            Downstream::H1 { tcp, .. } => match ready!(Pin::new(tcp).poll_write(context, bytes)) {
                Ok(count) if count > 0 => Poll::Ready(Ok(count)),
                Ok(_) | Err(_) => Poll::Ready(Err(Gone)),
            },
            Downstream::H2 { stream, queue } => {
                while stream.capacity() == 0 {
                    stream.reserve_capacity(bytes.len());
                    match ready!(stream.poll_capacity(context)) {
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return Poll::Ready(Err(Gone)),
                    }
                }
                let piece = bytes.get(..stream.capacity()).unwrap_or(bytes);
                let sent = stream.send_data(queue.piece(piece), false);
                Poll::Ready(sent.map(|()| piece.len()).map_err(|_| Gone))
            }
        }
    }

    /// Whether bytes that count as written wait within TLS; [`Downstream::poll_flush`] sends them on.
    pub(crate) fn holds_bytes(&self) -> bool {
        match self {
            Downstream::H1 { tcp, .. } => tcp.holds_bytes(),
            Downstream::H2 { .. } => false,
        }
    }

    /// Resolves when nothing waits within TLS.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        match self {
            Downstream::H1 { tcp, .. } => Pin::new(tcp).poll_flush(context).map_err(|_| Gone),
            Downstream::H2 { .. } => Poll::Ready(Ok(())),
        }
    }

    /// What must still be written for a clean end.
    pub(crate) fn last_bytes(&self) -> &'static [u8] {
        match self {
            Downstream::H1 { framing: Framing::Chunked, .. } => b"0\r\n\r\n",
            Downstream::H1 { .. } | Downstream::H2 { .. } => b"",
        }
    }

    /// Ends well, after [`Downstream::last_bytes`]; gives the socket back when it may carry another request.
    pub(crate) fn finish(self) -> Option<Transport> {
        match self {
            Downstream::H1 { tcp, stray_bytes: 0, .. } => Some(tcp),
            Downstream::H1 { tcp, .. } => {
                tcp.close();
                None
            }
            Downstream::H2 { mut stream, .. } => {
                if let Err(error) = stream.send_data(Bytes::new(), true) {
                    tracing::debug!(%error, "the client left before the end of its stream");
                }
                None
            }
        }
    }

    /// Ends so that the client can tell the body is not complete: no last chunk, or a reset. What is left to do then
    /// for HTTP/2 is the caller's to await.
    pub(crate) fn abort(self) -> Option<Dying> {
        match self {
            Downstream::H1 { framing: Framing::Chunked, .. } => None,
            Downstream::H1 { tcp, .. } => {
                // Without chunks only a reset tells an early end from a proper one; what the client has not read is
                // lost with it.
                if let Err(error) = socket2::SockRef::from(tcp.tcp()).set_linger(Some(Duration::ZERO)) {
                    tracing::debug!(%error, "the connection ends without a reset");
                }
                None
            }
            Downstream::H2 { stream, queue } => Some(Dying { stream, queue }),
        }
    }
}

/// Pieces of one h2 stream that its connection has not written yet.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pieces: AtomicUsize,
    written: Notify,
}

/// A piece that tells when it is written or thrown away.
struct Piece {
    bytes: Box<[u8]>,
    queue: Arc<Queue>,
}

impl Queue {
    fn piece(self: &Arc<Self>, bytes: &[u8]) -> Bytes {
        self.pieces.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Piece { bytes: bytes.into(), queue: Arc::clone(self) })
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if self.queue.pieces.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.queue.written.notify_one();
        }
    }
}

/// An h2 stream that ends badly: a reset throws away what is queued, so the reset waits for that.
pub(crate) struct Dying {
    stream: SendStream<Bytes>,
    queue: Arc<Queue>,
}

impl Dying {
    /// Resets the stream once everything before is written, at the latest after `limit`.
    pub(crate) async fn reset(mut self, limit: Duration) {
        let written = async {
            while self.queue.pieces.load(Ordering::Relaxed) > 0 {
                self.queue.written.notified().await;
            }
        };
        if tokio::time::timeout(limit, written).await.is_err() {
            tracing::debug!("a client did not take the end of its stream");
        }
        self.stream.send_reset(Reason::INTERNAL_ERROR);
    }
}
