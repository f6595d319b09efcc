//! The bytes of one connection: a socket, or TLS over one.
//!
//! A plaintext connection costs its socket and nothing else; TLS is boxed, so that it does not make the others larger.
//! TLS needs more than reading and writing: whether its own buffer is empty, and the alert of a proper close.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use podpin_config::CertificatePart;
use podpin_wire::client::ClientCertificate;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::net::client_certificate;

/// Bytes that may wait within TLS for a client that does not read; no record is begun beyond them.
pub const TLS_BUFFER_BYTES: usize = 16 * 1024;

/// A connection to a client or to an endpoint.
#[derive(Debug)]
pub enum Transport {
    /// A socket.
    Plain(TcpStream),
    /// TLS over a socket.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Builds the transport of a TLS connection after its handshake.
    #[must_use]
    pub fn tls(stream: impl Into<TlsStream<TcpStream>>) -> Transport {
        let mut stream = stream.into();
        match &mut stream {
            TlsStream::Client(client) => client.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES)),
            TlsStream::Server(server) => server.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES)),
        }
        Transport::Tls(Box::new(stream))
    }

    /// Returns the socket below.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Transport::Plain(tcp) => tcp,
            Transport::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Returns whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self, Transport::Tls(_))
    }

    /// Returns these parts of the peer's certificate; `None` if it has shown none.
    #[must_use]
    pub fn certificate(&self, parts: &[CertificatePart]) -> Option<Box<ClientCertificate>> {
        let Transport::Tls(stream) = self else { return None };
        client_certificate::describe(stream.get_ref().1.peer_certificates()?, parts)
    }

    /// Returns the name that the client asked for in its TLS hello (RFC 6066 section 3); `None` if there was none.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        match self {
            Transport::Tls(stream) => match &**stream {
                TlsStream::Server(server) => server.get_ref().1.server_name(),
                TlsStream::Client(_) => None,
            },
            Transport::Plain(_) => None,
        }
    }

    /// Returns whether TLS holds bytes that the socket has not taken.
    #[must_use]
    pub fn holds_bytes(&self) -> bool {
        match self {
            Transport::Plain(_) => false,
            Transport::Tls(stream) => stream.get_ref().1.wants_write(),
        }
    }

    /// Closes at once; TLS sends its close alert if the socket takes it.
    pub fn close(self) {
        let Transport::Tls(mut stream) = self else { return };
        // One attempt: a client that takes nothing is not waited for.
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(Err(error)) = Pin::new(&mut *stream).poll_shutdown(&mut context) {
            tracing::trace!(%error, "no close alert was sent");
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
