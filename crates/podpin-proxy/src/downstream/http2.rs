//! The client side over HTTP/2: the sending half of one stream, and the responses of the proxy itself.
//!
//! The one file of the client side that names the HTTP/2 library and Pingora's session over it, so that another
//! implementation takes their place here (ADR 5).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::StatusCode;
use http::header::HeaderMap;
use pingora::http::ResponseHeader;
use pingora::protocols::http::v2::server::HttpSession;
use tokio::sync::Notify;

use crate::downstream::gone::{Gone, LINGER};
use crate::http::reply::{ErrorReply, LocalResponse, ResponseBody};

/// An HTTP/2 stream whose request head was read and whose response has not begun.
pub(crate) struct Http2Request(Box<HttpSession>);

/// The sending half of an HTTP/2 stream whose response head was written.
pub(crate) struct Http2Side {
    stream: SendStream<Bytes>,
    queue: Arc<SendQueue>,
}

impl Http2Request {
    /// Returns the stream of a session.
    pub(crate) fn new(session: HttpSession) -> Http2Request {
        Http2Request(Box::new(session))
    }

    /// Whether the request has no body.
    pub(crate) fn is_body_empty(&self) -> bool {
        self.0.is_body_empty()
    }

    /// Appends bytes of the request body; false at its end.
    pub(crate) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Result<bool, ErrorReply>> {
        match ready!(self.0.poll_read_body_bytes(context)) {
            Some(Ok(bytes)) => {
                out.extend_from_slice(&bytes);
                Poll::Ready(Ok(true))
            }
            None => Poll::Ready(Ok(false)),
            Some(Err(_)) => Poll::Ready(Err(ErrorReply::ClientGone)),
        }
    }

    /// Polls for a reset of the stream, or the end of its connection.
    pub(crate) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<Gone> {
        Pin::new(&mut self.0.idle()).poll(context).map(|_| Gone)
    }

    /// Writes a response head that is all of the response.
    pub(crate) fn write_head(&mut self, status: StatusCode, headers: &HeaderMap) -> Result<(), Gone> {
        let head = response_head(status, headers).map_err(|_| Gone)?;
        self.0.write_response_header(head, true).map_err(|_| Gone)
    }

    /// Writes a response head; returns the sending half for the body.
    pub(crate) fn begin(&mut self, status: StatusCode, headers: &HeaderMap) -> Result<Http2Side, Gone> {
        let head = response_head(status, headers).map_err(|_| Gone)?;
        self.0.write_response_header(head, false).map_err(|_| Gone)?;
        let stream = self.0.take_response_body_writer().ok_or(Gone)?;
        Ok(Http2Side { stream, queue: Arc::default() })
    }

    /// Sends a response of the proxy.
    pub(crate) async fn answer(mut self, response: LocalResponse, body: ResponseBody) {
        let answered = async {
            let mut headers = response.standard_headers();
            headers.extend(response.headers);
            let ends = body == ResponseBody::Omitted || response.body.is_empty();
            self.0.write_response_header(response_head(response.status, &headers)?, ends)?;
            if ends {
                return Ok(());
            }
            self.0.set_write_timeout(Some(LINGER));
            self.0.write_body(response.body.into(), true).await
        };
        if let Err(error) = answered.await {
            tracing::debug!(%error, "the client left before its response");
        }
    }
}

impl Http2Side {
    /// Polls for a reset of the stream.
    pub(crate) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<Gone> {
        self.stream.poll_reset(context).map(|_| Gone)
    }

    /// Queues what the client's window takes now; returns how much, at least one byte.
    pub(crate) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Gone>> {
        while self.stream.capacity() == 0 {
            self.stream.reserve_capacity(bytes.len());
            match ready!(self.stream.poll_capacity(context)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(Gone)),
            }
        }
        let piece = bytes.get(..self.stream.capacity()).unwrap_or(bytes);
        let sent = self.stream.send_data(self.queue.piece(piece), false);
        Poll::Ready(sent.map(|()| piece.len()).map_err(|_| Gone))
    }

    /// Ends the stream well.
    pub(crate) fn finish(mut self) {
        if let Err(error) = self.stream.send_data(Bytes::new(), true) {
            tracing::debug!(%error, "the client left before the end of its stream");
        }
    }

    /// Ends the stream badly; a reset throws away what is queued, so it is delayed.
    pub(crate) fn abort(self) -> DelayedReset {
        DelayedReset { stream: self.stream, queue: self.queue }
    }
}

fn response_head(status: StatusCode, headers: &HeaderMap) -> pingora::Result<Box<ResponseHeader>> {
    let mut head = ResponseHeader::build(status, Some(headers.len()))?;
    for (name, value) in headers {
        head.append_header(name.clone(), value.clone())?;
    }
    Ok(Box::new(head))
}

/// Pieces of one stream that its connection has not written yet.
#[derive(Debug, Default)]
struct SendQueue {
    pieces: AtomicUsize,
    written: Notify,
}

/// A piece that notifies its queue when it is written or thrown away.
struct Piece {
    bytes: Box<[u8]>,
    queue: Arc<SendQueue>,
}

impl SendQueue {
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

/// The reset of an HTTP/2 stream that ends badly, to be sent behind what is queued.
pub(crate) struct DelayedReset {
    stream: SendStream<Bytes>,
    queue: Arc<SendQueue>,
}

impl DelayedReset {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_queue_is_written_when_its_last_piece_is_gone() {
        let queue = Arc::<SendQueue>::default();
        let pieces = [queue.piece(b"a"), queue.piece(b"b")];
        assert_eq!(queue.pieces.load(Ordering::Relaxed), 2);
        drop(pieces);
        queue.written.notified().await;
        assert_eq!(queue.pieces.load(Ordering::Relaxed), 0);
    }
}
