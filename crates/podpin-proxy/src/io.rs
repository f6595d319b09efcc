//! A client's socket as Pingora wants it: bytes that were read already come first, small writes are gathered.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::protocols::l4::socket::SocketAddr as PingoraAddress;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::TcpStream;

use crate::upstream_h1::{BodyDecoder, FIRST_CHUNK, Piece};

/// Enough for a response head and a small body in one packet.
const WRITE_BUFFER_BYTES: usize = 4096;

/// A plaintext client connection while Pingora serves a request on it.
pub(crate) struct ClientStream {
    /// Read already, to be read again: the head that we looked at.
    prefix: BytesMut,
    tcp: BufWriter<TcpStream>,
    digest: Arc<SocketDigest>,
    body: Option<ChunkedBody>,
}

/// A chunked request body as it is read: Pingora takes chunk sizes that RFC 9112 section 7.1 does not allow.
struct ChunkedBody {
    /// Bytes of the head still to come.
    head_left: usize,
    decoder: BodyDecoder,
}

impl ChunkedBody {
    /// Looks at bytes on their way to Pingora.
    fn check(&mut self, bytes: &[u8]) -> io::Result<()> {
        let skipped = self.head_left.min(bytes.len());
        self.head_left -= skipped;
        let mut rest = bytes.get(skipped..).unwrap_or_default();
        loop {
            match self.decoder.decode(&mut rest) {
                Ok(Piece::Data(_)) => {}
                Ok(Piece::More | Piece::End) => return Ok(()),
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }
}

impl ClientStream {
    pub(crate) fn new(tcp: TcpStream, peer: SocketAddr, prefix: BytesMut) -> ClientStream {
        let digest = SocketDigest::from_raw_fd(tcp.as_raw_fd());
        // A fresh cell takes the value; it spares a system call a request.
        let _fresh = digest.peer_addr.set(Some(PingoraAddress::Inet(peer)));
        ClientStream {
            prefix,
            tcp: BufWriter::with_capacity(WRITE_BUFFER_BYTES, tcp),
            digest: Arc::new(digest),
            body: None,
        }
    }

    /// Refuses a chunked body that breaks its framing; the head ends after `head_bytes` of what is read.
    pub(crate) fn with_chunked_body(mut self, head_bytes: usize) -> ClientStream {
        let decoder = BodyDecoder::Chunked(FIRST_CHUNK);
        self.body = Some(ChunkedBody { head_left: head_bytes, decoder });
        self
    }

    fn check(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.body.as_mut().map_or(Ok(()), |body| body.check(bytes))
    }

    /// The socket, when nothing is left to read or write on it.
    pub(crate) fn into_idle(self) -> Option<TcpStream> {
        let idle = self.prefix.is_empty() && self.tcp.buffer().is_empty();
        idle.then(|| self.tcp.into_inner())
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
        if self.prefix.is_empty() {
            ready!(Pin::new(self.tcp.get_mut()).poll_read(context, buffer))?;
            return Poll::Ready(self.check(buffer.filled().get(before..).unwrap_or_default()));
        }
        let count = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(self.prefix.get(..count).unwrap_or_default());
        self.prefix.advance(count);
        if self.prefix.is_empty() {
            self.prefix = BytesMut::new();
        }
        Poll::Ready(self.check(buffer.filled().get(before..).unwrap_or_default()))
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
        self.tcp.get_ref().as_raw_fd()
    }
}

impl Ssl for ClientStream {}

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
        let Some(start) = self.prefix.get(..buffer.len()) else { return Ok(false) };
        buffer.copy_from_slice(start);
        Ok(true)
    }
}
