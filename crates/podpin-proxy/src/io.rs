//! A client's socket as Pingora wants it for one request: what was read already comes first, small writes are gathered,
//! and nothing behind the request is handed out.
//!
//! Pingora takes bytes behind a request for an error or drops them; here they stay for the next request. A chunked body
//! is checked on its way, because Pingora takes chunk sizes that RFC 9112 section 7.1 does not allow. And while Pingora
//! waits for a pod's response head it watches the client by reading from here, which is where the deadline of
//! `timeouts.responseHeader` is kept: Pingora's own read timeout would also cut a response that pauses.

use std::fmt;
use std::future::Future;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::protocols::l4::socket::SocketAddr as PingoraAddress;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use podpin_endpoints::Millis;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Sleep;

use crate::clock;
use crate::connection::{Excess, FrameWatch};
use crate::head::RequestBody;
use crate::streams::StreamRecord;
use crate::transport::Transport;
use crate::upstream_h1::{BodyDecoder, FIRST_CHUNK, Piece};

/// Enough for a response head and a small body in one packet.
const WRITE_BUFFER_BYTES: usize = 4096;
/// Bytes of later requests that are kept while one is served; more stay in the socket.
const AHEAD_BYTES_MAX: usize = 64 * 1024;
/// One read; the memory is zeroed first, so it is not as large as Pingora's buffers.
const READ_BYTES_MAX: usize = 16 * 1024;

/// How far a request has come with its pod; written by the pipeline, watched by the client's stream.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    limit: AtomicU64,
    since: AtomicU64,
    answered: AtomicBool,
    changed: Notify,
    /// The event stream that the request turned out to be.
    stream: OnceLock<Arc<StreamRecord>>,
}

impl Progress {
    /// The pod has so long for its response head, from now on.
    pub(crate) fn await_answer(&self, limit: Option<Duration>) {
        self.touch();
        self.limit.store(limit.map_or(0, clock::duration_millis), Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// The request itself moved: the pod's time begins anew.
    pub(crate) fn touch(&self) {
        self.since.store(clock::now().0, Ordering::Relaxed);
    }

    /// The response head is there.
    pub(crate) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// The answer is an event stream, which may be told to leave.
    pub(crate) fn streams(&self, record: &Arc<StreamRecord>) {
        if self.stream.set(Arc::clone(record)).is_ok() {
            self.changed.notify_one();
        }
    }

    /// Ready when the event stream has to leave.
    fn poll_told(&self, context: &Context<'_>) -> Poll<()> {
        let told = self.stream.get().and_then(|record| record.poll_leave(context));
        if told.is_some() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Resolves when the pod's time is up, and never once it has answered, unless with a stream that has to leave.
    pub(crate) async fn expired(&self) {
        loop {
            match self.deadline() {
                Some(due) if due <= clock::now() => return,
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(clock::instant(due)) => {}
                    () = self.changed.notified() => {}
                },
                None => tokio::select! {
                    () = self.changed.notified() => {}
                    () = poll_fn(|context| self.poll_told(context)) => return,
                },
            }
        }
    }

    /// When the pod's time is up.
    fn deadline(&self) -> Option<Millis> {
        let limit = self.limit.load(Ordering::Relaxed);
        let waits = limit > 0 && !self.answered.load(Ordering::Relaxed);
        waits.then(|| Millis(self.since.load(Ordering::Relaxed).saturating_add(limit)))
    }
}

/// What of the request is still to be handed out.
enum Rest {
    /// This much of the head, then the body.
    Head(usize, RequestBody),
    Length(u64),
    Chunked(BodyDecoder),
    /// HTTP/2, or a connection that may be upgraded: everything.
    Endless,
}

/// A client connection while Pingora serves a request on it.
pub(crate) struct ClientStream {
    /// Read already and not handed out yet.
    ahead: BytesMut,
    rest: Rest,
    tcp: BufWriter<Transport>,
    digest: Arc<SocketDigest>,
    progress: Arc<Progress>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Over HTTP/2: what the client sends.
    frames: Option<FrameWatch>,
}

impl ClientStream {
    /// A whole connection of HTTP/2, beginning with `ahead`; the watch raises its alarm when the connection has to end, and
    /// from then on nothing more of it is read.
    pub(crate) fn http2(
        (tcp, peer): (Transport, SocketAddr),
        ahead: BytesMut,
        frames: FrameWatch,
    ) -> ClientStream {
        ClientStream { frames: Some(frames), ..ClientStream::new((tcp, peer), ahead, Rest::Endless) }
    }

    /// One request: its head is the first `head_bytes` of `ahead`.
    pub(crate) fn request(
        (tcp, peer): (Transport, SocketAddr),
        ahead: BytesMut,
        head_bytes: usize,
        body: RequestBody,
    ) -> ClientStream {
        ClientStream::new((tcp, peer), ahead, Rest::Head(head_bytes, body))
    }

    fn new((tcp, peer): (Transport, SocketAddr), ahead: BytesMut, rest: Rest) -> ClientStream {
        let digest = SocketDigest::from_raw_fd(tcp.tcp().as_raw_fd());
        // A fresh cell takes the value; it spares a system call a request.
        let _fresh = digest.peer_addr.set(Some(PingoraAddress::Inet(peer)));
        ClientStream {
            ahead,
            rest,
            tcp: BufWriter::with_capacity(WRITE_BUFFER_BYTES, tcp),
            digest: Arc::new(digest),
            progress: Arc::default(),
            timer: None,
            frames: None,
        }
    }

    /// Where the pipeline notes how far the request has come.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The socket and what came behind the request, when the request was read to its end and all is written.
    pub(crate) fn into_idle(self) -> Option<(Transport, BytesMut)> {
        let ended = match self.rest {
            Rest::Length(0) | Rest::Chunked(BodyDecoder::Done) => true,
            Rest::Head(..) | Rest::Length(_) | Rest::Chunked(_) | Rest::Endless => false,
        };
        (ended && self.tcp.buffer().is_empty()).then(|| (self.tcp.into_inner(), self.ahead))
    }

    /// How many of the next bytes may belong to the request; `None` when it has ended.
    fn allowed(&self) -> Option<usize> {
        match self.rest {
            Rest::Head(left, _) => Some(left),
            Rest::Length(0) | Rest::Chunked(BodyDecoder::Done) => None,
            Rest::Length(left) => Some(usize::try_from(left).unwrap_or(usize::MAX)),
            Rest::Chunked(_) | Rest::Endless => Some(usize::MAX),
        }
    }

    /// Takes note of bytes that are handed out; gives how many of them belong to the request.
    fn hand_out(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len();
        match &mut self.rest {
            Rest::Endless => {}
            Rest::Head(left, body) => {
                *left = left.saturating_sub(count);
                if *left == 0 {
                    self.rest = match body {
                        RequestBody::Length(length) => Rest::Length(*length),
                        RequestBody::Chunked => Rest::Chunked(BodyDecoder::Chunked(FIRST_CHUNK)),
                        RequestBody::Upgrade => Rest::Endless,
                    };
                }
            }
            Rest::Length(left) => *left = left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX)),
            Rest::Chunked(decoder) => return chunked(decoder, bytes),
        }
        Ok(count)
    }

    /// Reads what comes behind the request, for later; resolves only at the end of the connection.
    fn poll_ahead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ahead.len() < AHEAD_BYTES_MAX {
            let mut bytes = [0; 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(self.tcp.get_mut()).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.ahead.extend_from_slice(buffer.filled());
        }
        Poll::Pending
    }

    fn poll_request(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(allowed) = self.allowed() else { return self.poll_ahead(context) };
        let room = allowed.min(buffer.remaining()).min(READ_BYTES_MAX);
        let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(room));
        if self.ahead.is_empty() {
            ready!(Pin::new(self.tcp.get_mut()).poll_read(context, &mut piece))?;
        } else {
            let count = self.ahead.len().min(room);
            piece.put_slice(self.ahead.get(..count).unwrap_or_default());
            self.ahead.advance(count);
        }
        let belongs = self.hand_out(piece.filled())?;
        if let Some(behind) = piece.filled().get(belongs..).filter(|behind| !behind.is_empty()) {
            let mut kept = BytesMut::from(behind);
            kept.extend_from_slice(&self.ahead);
            self.ahead = kept;
        }
        buffer.advance(belongs);
        Poll::Ready(Ok(()))
    }

    /// Ready at that moment; one timer serves whichever deadline comes next.
    fn poll_until(&mut self, due: Millis, context: &mut Context<'_>) -> Poll<()> {
        let at = clock::instant(due);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(context)
    }

    /// An error when the pod has been silent for too long.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(due) = self.progress.deadline() {
            if due <= clock::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            ready!(self.poll_until(due, context));
        }
        self.progress.poll_told(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// What is watched over HTTP/2.
impl ClientStream {
    /// Takes note of what was read; false when the connection has to end.
    fn goes_on(&mut self, read: &[u8]) -> bool {
        let Some(watch) = &mut self.frames else { return true };
        watch.read(read, clock::now());
        !watch.alarm.is_raised()
    }

    /// Takes note of what was written, the first `count` bytes of these; gives the count back.
    fn wrote<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>, count: usize) -> usize {
        if let Some(watch) = &mut self.frames {
            let (mut left, now) = (count, clock::now());
            for piece in pieces {
                let written = piece.get(..left).unwrap_or(piece);
                watch.wrote(written, now);
                left -= written.len();
            }
        }
        count
    }

    /// Raises the alarm when a head is not finished in time, and wakes for that.
    fn poll_head_deadline(&mut self, context: &mut Context<'_>) {
        while let Some(watch) = &self.frames
            && let Some(due) = watch.deadline()
        {
            if due <= clock::now() {
                return watch.alarm.raise(Excess::Unfinished);
            }
            if self.poll_until(due, context).is_pending() {
                return;
            }
        }
    }
}

/// How many of these bytes belong to a chunked body.
fn chunked(decoder: &mut BodyDecoder, bytes: &[u8]) -> io::Result<usize> {
    let mut rest = bytes;
    loop {
        match decoder.decode(&mut rest) {
            Ok(Piece::Data(_)) => {}
            Ok(Piece::More | Piece::End) => return Ok(bytes.len() - rest.len()),
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

impl fmt::Debug for ClientStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientStream").field("tcp", self.tcp.get_ref()).finish_non_exhaustive()
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match self.poll_request(context, buffer) {
            Poll::Pending => {
                self.poll_head_deadline(context);
                self.poll_deadline(context)
            }
            Poll::Ready(Ok(())) if !self.goes_on(buffer.filled().get(before..).unwrap_or_default()) => {
                buffer.set_filled(before);
                Poll::Pending
            }
            ready => ready,
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.tcp).poll_write(context, bytes))?;
        Poll::Ready(Ok(self.wrote([bytes].into_iter(), count)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.tcp).poll_write_vectored(context, pieces))?;
        Poll::Ready(Ok(self.wrote(pieces.iter().map(|piece| &**piece), count)))
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            tracing::trace!(%error, "the client closed first");
        }
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        self.tcp.get_ref().tcp().as_raw_fd()
    }
}

impl Ssl for ClientStream {
    /// Tells Pingora and `pipeline.rs` that the client came over TLS, and with whose certificate: `organization` is the whole
    /// subject, for want of a better place.
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        let Transport::Tls(_) = self.tcp.get_ref() else { return None };
        Some(Arc::new(SslDigest::new("", "", self.tcp.get_ref().subject(), None, Vec::new())))
    }

    /// A whole connection over TLS is one of HTTP/2: those of HTTP/1.1 come here request by request.
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match (&self.rest, self.tcp.get_ref()) {
            (Rest::Endless, Transport::Tls(_)) => Some(ALPN::H2),
            _ => None,
        }
    }
}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

#[async_trait]
impl Peek for ClientStream {
    /// Answers from what was read already: that is where the HTTP/2 preface is.
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let Some(start) = self.ahead.get(..buffer.len()) else { return Ok(false) };
        buffer.copy_from_slice(start);
        Ok(true)
    }
}
