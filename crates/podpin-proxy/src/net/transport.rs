//! The bytes of one connection: a socket, or TLS over one.
//!
//! A plaintext connection costs its socket and nothing else; TLS is boxed, so that it does not make the others larger.
//! What TLS needs beyond reading and writing is here: that its own buffer is empty, and how it says that it ends well.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::net::tls::certificate;

/// What a client that does not read may have waiting within TLS; one record more than that is never begun.
pub const TLS_BUFFER_BYTES: usize = 16 * 1024;

/// A connection to a client or to a pod.
#[derive(Debug)]
pub enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// TLS after its handshake.
    pub fn tls(stream: impl Into<TlsStream<TcpStream>>) -> Transport {
        let mut stream = stream.into();
        match &mut stream {
            TlsStream::Client(client) => client.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES)),
            TlsStream::Server(server) => server.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES)),
        }
        Transport::Tls(Box::new(stream))
    }

    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Transport::Plain(tcp) => tcp,
            Transport::Tls(stream) => stream.get_ref().0,
        }
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Transport::Tls(_))
    }

    /// The subject of the certificate that the other end has shown.
    pub fn subject(&self) -> Option<String> {
        let Transport::Tls(stream) = self else { return None };
        stream.get_ref().1.peer_certificates()?.first().and_then(certificate::subject)
    }

    /// Whether TLS holds bytes that the socket has not taken.
    pub fn holds_bytes(&self) -> bool {
        match self {
            Transport::Plain(_) => false,
            Transport::Tls(stream) => stream.get_ref().1.wants_write(),
        }
    }

    /// Closes at once; TLS says that this is the end and not an accident, when the socket takes that.
    pub fn close(self) {
        let Transport::Tls(mut stream) = self else { return };
        // One attempt: a client that takes nothing is not waited for.
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(Err(error)) = Pin::new(&mut *stream).poll_shutdown(&mut context) {
            tracing::trace!(%error, "the other end was not told of the end");
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Plain(_) => Poll::Ready(Ok(())),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Transport::Tls(stream) => {
                ready!(Pin::new(&mut **stream).poll_flush(context))?;
                Pin::new(&mut **stream).poll_shutdown(context)
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write_vectored(context, pieces),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Transport::Plain(tcp) => tcp.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plaintext_connection_is_no_larger_than_its_socket() {
        assert_eq!(size_of::<Transport>(), size_of::<TcpStream>());
    }
}
