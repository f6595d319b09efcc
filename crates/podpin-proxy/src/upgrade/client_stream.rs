//! A client's socket in the shape of Pingora's streams: bytes that were read already come first, small writes are gathered.
//!
//! For a connection that may become another protocol. While Pingora waits for an endpoint's response
//! to an upgrade it watches the client by reading from here, so the deadline of `timeouts.responseHeader` is kept here:
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
use futures_util::task::AtomicWaker;
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
use crate::downstream::gone::Gone;
use crate::downstream::hang_up::HangUp;
use crate::downstream::http1::{AHEAD_BYTES_MAX, IdleConnection};
use crate::net::transport::Transport;

/// Enough for a response head and a small body in one packet.
const WRITE_BUFFER_BYTES: usize = 4096;
/// Bytes of one read; the memory is zeroed first, so it is smaller than Pingora's buffers.
const READ_BYTES_MAX: usize = 16 * 1024;

/// The progress of a request at its endpoint; written by the pipeline, watched by the client's stream.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    limit: AtomicU64,
    since: AtomicU64,
    answered: AtomicBool,
    switched: AtomicBool,
    on_switch: AtomicWaker,
}

impl Progress {
    /// Gives the endpoint this time for its response head, from now on.
    pub(crate) fn await_answer(&self, limit: Option<Duration>) {
        self.touch();
        self.limit.store(limit.map_or(0, clock::duration_millis), Ordering::Relaxed);
    }

    /// Notes that the request itself moved: the endpoint's time begins anew.
    pub(crate) fn touch(&self) {
        self.since.store(clock::now().0, Ordering::Relaxed);
    }

    /// Notes that the response head is there.
    pub(crate) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Notes that the connection is another protocol's from now on: what the client sends belongs to it.
    pub(crate) fn switched(&self) {
        self.switched.store(true, Ordering::Release);
        self.on_switch.wake();
    }

    /// Polls for the switch of protocols.
    fn poll_switched(&self, context: &Context<'_>) -> Poll<()> {
        if !self.switched.load(Ordering::Acquire) {
            self.on_switch.register(context.waker());
        }
        if self.switched.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Returns when the endpoint's time is up; `None` if nothing is awaited.
    fn deadline(&self) -> Option<Millis> {
        let limit = self.limit.load(Ordering::Relaxed);
        let waits = limit > 0 && !self.answered.load(Ordering::Relaxed);
        waits.then(|| Millis(self.since.load(Ordering::Relaxed).saturating_add(limit)))
    }
}

/// A client connection while Pingora serves it.
pub(crate) struct ClientStream {
    /// Bytes that were read already and not handed out yet.
    ahead: BytesMut,
    tcp: BufWriter<Transport>,
    /// Bytes of the head that Pingora has not read. What follows is kept until the protocol is switched, for it may be the next
    /// request. `None` if Pingora reads everything.
    head_left: Option<usize>,
    hang_up: HangUp,
    digest: Arc<SocketDigest>,
    progress: Arc<Progress>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl ClientStream {
    /// Returns the stream of a connection that may become another protocol with the request that `ahead` begins with. With the length of
    /// the request's head the connection may go on if it does not; the request has no body then.
    pub(crate) fn upgrade(
        tcp: Transport,
        peer: SocketAddr,
        ahead: BytesMut,
        head_length: Option<usize>,
    ) -> ClientStream {
        let digest = SocketDigest::from_raw_fd(tcp.tcp().as_raw_fd());
        // A fresh cell takes the value; it spares a system call a request.
        let _fresh = digest.peer_addr.set(Some(PingoraAddress::Inet(peer)));
        ClientStream {
            ahead,
            tcp: BufWriter::with_capacity(WRITE_BUFFER_BYTES, tcp),
            head_left: head_length,
            hang_up: HangUp::default(),
            digest: Arc::new(digest),
            progress: Arc::default(),
            timer: None,
        }
    }

    /// Returns the progress for the pipeline to write.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Returns the connection for its next request; `None` if some of that was read, or the protocol was switched.
    pub(crate) fn into_idle(self) -> Option<IdleConnection> {
        let is_clean = self.head_left == Some(0) && self.tcp.buffer().is_empty();
        is_clean.then(|| IdleConnection { transport: self.tcp.into_inner(), ahead: self.ahead })
    }

    fn poll_bytes(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.head_left {
            Some(0) => ready!(self.poll_switched(context))?,
            Some(left) => {
                let count = left.min(self.ahead.len()).min(buffer.remaining());
                buffer.put_slice(self.ahead.get(..count).unwrap_or_default());
                self.ahead.advance(count);
                self.head_left = Some(left.saturating_sub(count));
                return Poll::Ready(Ok(()));
            }
            None => {}
        }
        if self.head_left.is_some() {
            // The client is gone.
            return Poll::Ready(Ok(()));
        }
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

    /// Polls for the switch of protocols, after which everything is read, or for the client's leaving before it. Other bytes are kept.
    fn poll_switched(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.progress.poll_switched(context).is_ready() {
            self.head_left = None;
            return Poll::Ready(Ok(()));
        }
        while self.ahead.len() < AHEAD_BYTES_MAX {
            let mut bytes = [0; 1024];
            let mut piece = ReadBuf::new(&mut bytes);
            ready!(Pin::new(self.tcp.get_mut()).poll_read(context, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.ahead.extend_from_slice(piece.filled());
        }
        self.hang_up.poll(context, self.tcp.get_ref().tcp()).map(|Gone| Ok(()))
    }

    /// Polls for the moment `due`.
    fn poll_until(&mut self, due: Millis, context: &mut Context<'_>) -> Poll<()> {
        let at = clock::instant(due);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        clock::poll_until(due, context, timer.as_mut())
    }

    /// Polls for the endpoint's deadline, which is an error.
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
        match self.poll_bytes(context, buffer) {
            Poll::Pending => self.poll_deadline(context),
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
        Pin::new(&mut self.tcp).poll_write(context, bytes)
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
        Pin::new(&mut self.tcp).poll_write_vectored(context, pieces)
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
    /// Returns that the client came over TLS. Of its certificate the pipeline knows by the request's context.
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        let Transport::Tls(_) = self.tcp.get_ref() else { return None };
        Some(Arc::new(SslDigest::new("", "", None, None, Vec::new())))
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        None
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
    /// Peeks into the bytes that were read already.
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let Some(start) = self.ahead.get(..buffer.len()) else { return Ok(false) };
        buffer.copy_from_slice(start);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;

    use super::*;
    use crate::testing::connected;

    async fn stream(ahead: &[u8]) -> (TcpStream, ClientStream) {
        let (client, proxy) = connected().await;
        let peer = client.local_addr().unwrap();
        (client, ClientStream::upgrade(Transport::Plain(proxy), peer, BytesMut::from(ahead), None))
    }

    #[tokio::test]
    async fn bytes_that_were_read_already_come_first() {
        let (mut client, mut stream) = stream(b"GET / HTTP/1.1\r\n").await;
        let mut peeked = [0; 3];
        assert!(stream.try_peek(&mut peeked).await.unwrap() && peeked == *b"GET");
        client.write_all(b"Host: x").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "GET / HTTP/1.1\r\nHost: x");
    }

    #[tokio::test]
    async fn what_follows_the_head_is_the_next_request_or_after_a_switch_the_new_protocols() {
        let (client, proxy) = connected().await;
        let peer = client.local_addr().unwrap();
        let stream = || async {
            let (mut client, proxy) = connected().await;
            let ahead = BytesMut::from(&b"GET / HTTP/1.1\r\n\r\nmore"[..]);
            let mut stream = ClientStream::upgrade(Transport::Plain(proxy), peer, ahead, Some(18));
            let mut head = [0; 30];
            assert_eq!(stream.read(&mut head).await.unwrap(), 18, "the head and nothing else");
            client.write_all(b" and more").await.unwrap();
            (client, stream)
        };
        drop(proxy);
        let (mut client, mut refused) = stream().await;
        let gone = tokio::time::timeout(Duration::from_millis(1), refused.read_u8()).await;
        assert!(gone.is_err(), "nothing is read of it");
        client.shutdown().await.unwrap();
        assert_eq!(refused.read(&mut [0; 8]).await.unwrap(), 0, "but its end is seen");
        assert_eq!(&*refused.into_idle().unwrap().ahead, b"more and more");

        let (client, mut switched) = stream().await;
        let progress = switched.progress();
        let mut text = [0; 13];
        let read = switched.read_exact(&mut text);
        let switch = async { progress.switched() };
        tokio::join!(read, switch).0.unwrap();
        assert_eq!(&text, b"more and more");
        assert!(switched.into_idle().is_none());
        drop(client);
    }

    #[tokio::test]
    async fn an_endpoint_that_is_late_is_an_error_until_it_has_answered() {
        let (mut client, mut stream) = stream(b"").await;
        let progress = stream.progress();
        progress.await_answer(Some(Duration::from_millis(1)));
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        progress.answered();
        client.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x', "an upgraded connection has no deadline");
    }
}
