//! A request on its way between a client and an endpoint: the body one way, the response the other, both at once.
//!
//! Driven by polls, so that both directions move independently and a request that waits costs one timer. Bytes that are
//! read are written at once from the buffers of the thread; only those that the other side does not take are kept, and
//! nothing more is read from this side until they are gone: a slow client holds back its endpoint, a slow endpoint its
//! client, and neither the proxy's memory.

use std::pin::Pin;
use std::task::{Context, Poll};

use podpin_sse::session::Fault;
use podpin_time::Millis;
use podpin_wire::http1::body::{BodyDecoder, Piece};
use podpin_wire::http1::response_head::{HEAD_BYTES_MAX, ResponseHead, ResponseHeadReader, ResponseStart};
use podpin_wire::trailers;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

use crate::clock;
use crate::downstream::gone::Gone;
use crate::downstream::pending::{BodyLength, PendingResponse};
use crate::net::scratch::{self, READ_BYTES, Scratch};
use crate::net::transport::Transport;
use crate::request::transfer_error::TransferError;
use crate::request::transfer_limits::{Moved, TransferLimits, poll_due};
use crate::request::unsent::Unsent;
use crate::upstream::connect::{self, UpstreamResponse};
use crate::upstream::rewrite;
use crate::upstream::upload::{BlockedOn, Upload};

/// Reads in one turn before other requests of the worker get theirs.
const READS_PER_TURN: usize = 4;

/// A request that is served by an endpoint.
pub(crate) struct Transfer<'a> {
    client: &'a mut PendingResponse,
    upstream: Transport,
    upload: Upload,
    limits: TransferLimits,
    reader: ResponseHeadReader,
    decoder: BodyDecoder,
    /// Bytes of the body that came with the head.
    early: Vec<u8>,
    /// Lines of the response's trailer section.
    trailers: Vec<u8>,
    /// Whether the connection may be kept: the response was complete, and nothing came behind it.
    is_reusable: bool,
    ended: bool,
    /// Body bytes of the response that were framed for the client.
    delivered: u64,
    unsent: Unsent,
    received: Millis,
}

/// The rest of a transfer that ended early.
pub(crate) struct TransferRest {
    /// Bytes of the response that the client has not taken.
    pub unsent: Vec<u8>,
    /// The upload, for another attempt.
    pub upload: Upload,
}

impl<'a> Transfer<'a> {
    /// Returns the transfer of a request before anything of it is sent; `reader` reads the response to it.
    pub(crate) fn new(
        client: &'a mut PendingResponse,
        upstream: Transport,
        upload: Upload,
        reader: ResponseHeadReader,
        limits: TransferLimits,
    ) -> Transfer<'a> {
        let now = clock::now();
        Transfer {
            client,
            upstream,
            upload,
            limits,
            reader,
            decoder: BodyDecoder::Done,
            early: Vec::new(),
            trailers: Vec::new(),
            is_reusable: false,
            ended: false,
            delivered: 0,
            unsent: Unsent::new(now),
            received: now,
        }
    }

    /// Sends the request, at least its head, and reads the response head.
    pub(crate) fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        timer: Pin<&mut Sleep>,
    ) -> Poll<Result<ResponseHead, TransferError>> {
        let blocked_on = self.poll_upload(context)?;
        let blocked = self.poll_send(context)?.is_pending();
        if !blocked && let Poll::Ready(head) = self.poll_read_head(context)? {
            return Poll::Ready(Ok(head));
        }
        // While the client's body is read, that read notices its leaving.
        if blocked_on != BlockedOn::Client && self.client.poll_gone(context).is_ready() {
            return Poll::Ready(Err(Gone.into()));
        }
        let due = self.limits.before_head(blocked_on, self.upload.moved());
        poll_due(context, timer, [due])
    }

    /// Begins the response that `head` was read of, with the `fields` for the client.
    pub(crate) fn begin(
        &mut self,
        head: &ResponseHead,
        fields: &http::HeaderMap,
    ) -> Result<(), TransferError> {
        self.is_reusable = head.keep_alive && self.decoder != BodyDecoder::UntilClose;
        self.received = clock::now();
        self.unsent.note_written(self.received);
        let mut unsent = std::mem::take(self.unsent.bytes());
        unsent.reserve(1024);
        self.client.begin(head.status, fields, BodyLength::of(&self.decoder), &mut unsent)?;
        let early = std::mem::take(&mut self.early);
        let absorbed = self.absorb(&early, &mut unsent);
        *self.unsent.bytes() = unsent;
        absorbed
    }

    /// Passes the response body on, and the rest of the request's.
    pub(crate) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        timer: Pin<&mut Sleep>,
    ) -> Poll<Result<(), TransferError>> {
        let mut reads = 0;
        let (blocked, blocked_on) = loop {
            let blocked = self.poll_send(context)?.is_pending();
            // Looked at after each read, the last one too: a response that is whole is not cut.
            if !blocked && self.ended {
                return Poll::Ready(Ok(()));
            }
            let blocked_on = self.poll_upload(context)?;
            if !blocked && reads == READS_PER_TURN {
                context.waker().wake_by_ref();
                break (blocked, blocked_on);
            }
            if blocked || self.poll_upstream(context)?.is_pending() {
                break (blocked, blocked_on);
            }
            reads += 1;
        };
        if blocked_on != BlockedOn::Client && self.client.poll_gone(context).is_ready() {
            return Poll::Ready(Err(Gone.into()));
        }
        let (upload, written) = (self.upload.moved(), self.unsent.written());
        let moved = Moved { upload, received: self.received, written };
        poll_due(context, timer, self.limits.within_body(blocked, blocked_on, moved))
    }

    /// Whether nothing of a response has come, and all of the request is still there.
    pub(crate) fn may_be_repeated(&self) -> bool {
        self.reader.is_untouched() && self.upload.may_be_repeated()
    }

    /// Whether all of the request was sent, or the endpoint takes no more of it.
    pub(crate) fn is_sent(&self) -> bool {
        self.upload.is_over()
    }

    /// Whether the client has taken a part of an interim response, so that no reply can follow.
    pub(crate) fn is_within_interim(&self) -> bool {
        self.unsent.is_begun()
    }

    /// Returns the connection to the endpoint; `None` if it may not carry another request.
    pub(crate) fn into_kept(self) -> Option<Transport> {
        let is_sent = self.upload.is_sent() && !self.upstream.holds_bytes();
        let is_whole = self.decoder == BodyDecoder::Done && self.is_reusable && is_sent;
        is_whole.then_some(self.upstream)
    }

    /// Returns the body bytes of the response that went to the client, or will.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Returns the response that `head` was read of, with its connection and the rest of the transfer.
    pub(crate) fn into_response(self, head: ResponseHead) -> (UpstreamResponse, TransferRest) {
        let start = ResponseStart { head, body: self.decoder, rest: self.early };
        let rest = TransferRest { unsent: self.unsent.into_rest(), upload: self.upload };
        (UpstreamResponse { start, transport: self.upstream }, rest)
    }

    /// Returns what is left of a transfer that ended early.
    pub(crate) fn into_rest(self) -> TransferRest {
        TransferRest { unsent: self.unsent.into_rest(), upload: self.upload }
    }

    /// Sends what there is of the request; returns the side that the rest waits for.
    fn poll_upload(&mut self, context: &mut Context<'_>) -> Result<BlockedOn, TransferError> {
        let blocked_on = self.upload.poll(context, self.client.body(), &mut self.upstream);
        blocked_on.map_err(TransferError::Client)
    }

    /// Reads the response head; interim responses are passed on.
    fn poll_read_head(&mut self, context: &mut Context<'_>) -> Result<Poll<ResponseHead>, TransferError> {
        loop {
            let (client, unsent) = (&mut *self.client, self.unsent.bytes());
            let mut passed = Ok(());
            let read = connect::poll_head(&mut self.upstream, context, &mut self.reader, |interim| {
                if client.takes_interim() {
                    let fields = rewrite::interim_headers(interim.headers);
                    passed = client.interim(interim.status, &fields, unsent);
                }
            });
            passed?;
            match read.map_err(TransferError::Upstream)? {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Some(start)) => {
                    (self.decoder, self.early) = (start.body, start.rest);
                    return Ok(Poll::Ready(start.head));
                }
                // An interim response goes out before anything else is waited for.
                Poll::Ready(None) if self.poll_send(context)?.is_pending() => return Ok(Poll::Pending),
                Poll::Ready(None) => {}
            }
        }
    }

    /// Writes the kept bytes to the client.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, TransferError> {
        if self.unsent.poll_write(context, self.client)?.is_pending() {
            return Ok(Poll::Pending);
        }
        Ok(self.client.poll_flush(context)?)
    }

    /// Reads once from the endpoint and passes the bytes on.
    fn poll_upstream(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, TransferError> {
        scratch::with(|Scratch { read, write }| {
            let mut buffer = ReadBuf::new(read);
            match Pin::new(&mut self.upstream).poll_read(context, &mut buffer) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Err(_)) => return Err(TransferError::Broken(Fault::Reset)),
                Poll::Ready(Ok(())) => {}
            }
            self.received = clock::now();
            write.clear();
            if buffer.filled().is_empty() {
                if !self.decoder.ends_at_close() {
                    return Err(TransferError::Broken(Fault::Truncated));
                }
                self.decoder = BodyDecoder::Done;
                self.end(write)?;
            }
            let absorbed = self.absorb(buffer.filled(), write);
            self.pass_on(context, write)?;
            absorbed.map(Poll::Ready)
        })
    }

    /// Decodes bytes of the endpoint, and frames them for the client.
    fn absorb(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), TransferError> {
        if self.ended {
            return Ok(());
        }
        loop {
            match self.decoder.decode_padded(&mut bytes) {
                Ok(Piece::Data(data)) => {
                    self.delivered += u64::try_from(data.len()).unwrap_or(0);
                    self.client.frame(data, out);
                }
                Ok(Piece::Trailers(lines)) => self.trailers.extend_from_slice(lines),
                Ok(Piece::More) => break,
                Ok(Piece::End) => {
                    // Bytes behind a response belong to no request.
                    self.is_reusable &= bytes.is_empty();
                    return self.end(out);
                }
                Err(_) => return Err(TransferError::Broken(Fault::Malformed)),
            }
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), TransferError> {
        let trailers = trailers::passed(&std::mem::take(&mut self.trailers));
        let trailers = trailers.map_err(|_| TransferError::Broken(Fault::Malformed))?;
        self.ended = true;
        self.client.end_body(trailers, out);
        Ok(())
    }

    /// Writes to the client, and keeps the bytes that it does not take at once.
    fn pass_on(&mut self, context: &mut Context<'_>, out: &[u8]) -> Result<(), TransferError> {
        let mut from = 0;
        self.unsent.note_written(self.received);
        while let Some(rest) = out.get(from..).filter(|rest| !rest.is_empty()) {
            match self.client.poll_write(context, rest)? {
                Poll::Ready(count) => from += count,
                Poll::Pending => {
                    self.unsent.bytes().extend_from_slice(rest);
                    break;
                }
            }
        }
        Ok(())
    }
}

const _: () = assert!(READ_BYTES <= HEAD_BYTES_MAX, "one read brings no more than a head may have");

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;

    use bytes::BytesMut;
    use http::{HeaderMap, Method};
    use podpin_wire::http1::encode::Framing;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::downstream::http1::IdleConnection;
    use crate::downstream::pending::Http1Terms;
    use crate::testing::connected;

    const LIMITS: TransferLimits = TransferLimits {
        request_body: Some(Duration::from_secs(5)),
        response_header: None,
        upstream_idle: None,
        client_write: None,
    };

    /// Runs a transfer whose endpoint sends `response` once it has the request head; returns what became of it.
    async fn run(response: &[u8], limits: TransferLimits) -> Result<(bool, u64), TransferError> {
        let ((_client, near_client), (mut upstream, near_upstream)) = (connected().await, connected().await);
        let connection =
            IdleConnection { transport: Transport::Plain(near_client), ahead: BytesMut::from(&b"body"[..]) };
        let body = BodyDecoder::Length(4);
        let terms = Http1Terms { body, is_http10: false, keep_alive: true, expects_continue: false };
        let mut client = PendingResponse::http1(connection, terms);
        let upload = Upload::new(b"POST / HTTP/1.1\r\n\r\n".to_vec(), Framing::Plain);
        let transport = Transport::Plain(near_upstream);
        let mut transfer =
            Transfer::new(&mut client, transport, upload, ResponseHeadReader::new(Method::POST), limits);
        let endpoint = async {
            let mut request = [0; 23];
            upstream.read_exact(&mut request).await.unwrap();
            assert_eq!(&request, b"POST / HTTP/1.1\r\n\r\nbody", "head and body go in one write");
            upstream.write_all(response).await.unwrap();
            if !response.ends_with(b"\r\n\r\n") {
                upstream.shutdown().await.unwrap();
            }
            upstream
        };
        let proxy = async {
            let mut timer = pin!(tokio::time::sleep(Duration::from_secs(60)));
            let head = poll_fn(|context| transfer.poll_head(context, timer.as_mut())).await?;
            transfer.begin(&head, &HeaderMap::new())?;
            poll_fn(|context| transfer.poll_body(context, timer.as_mut())).await?;
            let delivered = transfer.delivered();
            Ok((transfer.into_kept().is_some(), delivered))
        };
        tokio::join!(endpoint, proxy).1
    }

    #[tokio::test]
    async fn a_response_passes_and_its_connection_is_kept() {
        let response = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
            5\r\nhello\r\n0\r\n\r\n";
        assert_eq!(run(response, LIMITS).await.unwrap(), (true, 5));
    }

    #[tokio::test]
    async fn a_body_that_ends_with_its_connection_is_whole_and_one_with_a_length_is_not() {
        assert_eq!(run(b"HTTP/1.1 200 OK\r\n\r\nall of it", LIMITS).await.unwrap(), (false, 9));
        let short = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort";
        let result = run(short, LIMITS).await;
        assert!(matches!(result, Err(TransferError::Broken(Fault::Truncated))), "{result:?}");
        let malformed = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz";
        let result = run(malformed, LIMITS).await;
        assert!(matches!(result, Err(TransferError::Broken(Fault::Malformed))), "{result:?}");
    }

    #[tokio::test]
    async fn a_silent_endpoint_ends_a_response() {
        let silent = TransferLimits { upstream_idle: Some(Duration::from_millis(1)), ..LIMITS };
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
        let result = run(head, silent).await;
        assert!(matches!(result, Err(TransferError::Idle)), "{result:?}");
    }
}
