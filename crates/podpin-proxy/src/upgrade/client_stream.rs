//! A client's socket as Pingora wants it: what was read already comes first, and small writes are gathered.
//!
//! For a connection that may become another protocol, and for all of HTTP/2. While Pingora waits for a pod's answer to an
//! upgrade it watches the client by reading from here, which is where the deadline of `timeouts.responseHeader` is kept:
//! Pingora's own read timeout would also cut an upgraded connection that is silent.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
use podpin_time::Millis;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::time::Sleep;

use crate::clock;
use crate::net::transport::Transport;
use podpin_wire::http2_flood::{Excess, FrameWatch};

/// Enough for a response head and a small body in one packet.
const WRITE_BUFFER_BYTES: usize = 4096;
/// One read; the memory is zeroed first, so it is not as large as Pingora's buffers.
const READ_BYTES_MAX: usize = 16 * 1024;

/// How far a request has come with its pod; written by the pipeline, watched by the client's stream.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    limit: AtomicU64,
    since: AtomicU64,
    answered: AtomicBool,
}

impl Progress {
    /// The pod has so long for its response head, from now on.
    pub(crate) fn await_answer(&self, limit: Option<Duration>) {
        self.touch();
        self.limit.store(limit.map_or(0, clock::duration_millis), Ordering::Relaxed);
    }

    /// The request itself moved: the pod's time begins anew.
    pub(crate) fn touch(&self) {
        self.since.store(clock::now().0, Ordering::Relaxed);
    }

    /// The response head is there.
    pub(crate) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// When the pod's time is up.
    fn deadline(&self) -> Option<Millis> {
        let limit = self.limit.load(Ordering::Relaxed);
        let waits = limit > 0 && !self.answered.load(Ordering::Relaxed);
        waits.then(|| Millis(self.since.load(Ordering::Relaxed).saturating_add(limit)))
    }
}

/// A client connection while Pingora serves it.
pub(crate) struct ClientStream {
    /// Read already and not handed out yet.
    ahead: BytesMut,
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
        ClientStream { frames: Some(frames), ..ClientStream::upgrade((tcp, peer), ahead) }
    }

    /// A connection that may become another protocol with its next request, which `ahead` begins with.
    pub(crate) fn upgrade((tcp, peer): (Transport, SocketAddr), ahead: BytesMut) -> ClientStream {
        let digest = SocketDigest::from_raw_fd(tcp.tcp().as_raw_fd());
        // A fresh cell takes the value; it spares a system call a request.
        let _fresh = digest.peer_addr.set(Some(PingoraAddress::Inet(peer)));
        ClientStream {
            ahead,
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

    fn poll_bytes(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            let room = buffer.remaining().min(READ_BYTES_MAX);
            let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(room));
            ready!(Pin::new(self.tcp.get_mut()).poll_read(context, &mut piece))?;
            let count = piece.filled().len();
            buffer.advance(count);
        } else {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(self.ahead.get(..count).unwrap_or_default());
            self.ahead.advance(count);
        }
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
        Poll::Pending
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
        match self.poll_bytes(context, buffer) {
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

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.frames.as_ref().and(self.tcp.get_ref().is_tls().then_some(ALPN::H2))
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
