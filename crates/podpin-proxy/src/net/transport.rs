//! The bytes of one connection: a socket, or TLS over one.
//!
//! A plaintext connection costs its socket and nothing else; TLS is boxed, so that it does not make the others larger.
//! TLS needs more than reading and writing: whether its own buffer is empty, and the alert of a proper close.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

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
    Tls(Box<Tls>),
}

/// TLS over a socket.
#[derive(Debug)]
pub struct Tls {
    stream: TlsStream<TcpStream>,
    /// Certificates that the handshake chose from; `None` towards an endpoint.
    certificates: Option<Arc<dyn CertificateNames>>,
}

/// The certificates of a listener, as they were when a connection began.
pub trait CertificateNames: fmt::Debug + Send + Sync {
    /// Returns whether a request for `host` belongs on a connection whose client asked for `server_name` (SNI): `host` is that
    /// name, or one of the certificates that such a client is shown is for it (RFC 9110 section 7.4).
    fn covers(&self, server_name: &str, host: &str) -> bool;
}

impl Transport {
    /// Builds the transport of a TLS connection after its handshake, for which a server chose from `certificates`.
    #[must_use]
    pub fn tls(
        stream: impl Into<TlsStream<TcpStream>>,
        certificates: Option<Arc<dyn CertificateNames>>,
    ) -> Transport {
        let mut stream = stream.into();
        match &mut stream {
            TlsStream::Client(client) => client.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES)),
            TlsStream::Server(server) => server.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES)),
        }
        Transport::Tls(Box::new(Tls { stream, certificates }))
    }

    /// Returns the socket below.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Transport::Plain(tcp) => tcp,
            Transport::Tls(tls) => tls.stream.get_ref().0,
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
        let Transport::Tls(tls) = self else { return None };
        client_certificate::describe(tls.stream.get_ref().1.peer_certificates()?, parts)
    }

    /// Returns whether a request for `host` belongs on the connection, by the name that the client asked for in its TLS hello
    /// (RFC 6066 section 3) and the certificates of that moment; `None` without TLS or a name.
    #[must_use]
    pub fn covers(&self, host: &str) -> Option<bool> {
        let Transport::Tls(tls) = self else { return None };
        let TlsStream::Server(server) = &tls.stream else { return None };
        let server_name = server.get_ref().1.server_name()?;
        tls.certificates.as_ref().map(|certificates| certificates.covers(server_name, host))
    }

    /// Returns whether TLS holds bytes that the socket has not taken.
    #[must_use]
    pub fn holds_bytes(&self) -> bool {
        match self {
            Transport::Plain(_) => false,
            Transport::Tls(tls) => tls.stream.get_ref().1.wants_write(),
        }
    }

    /// Closes with a reset; what the peer has not read is lost.
    pub fn reset(self) {
        if let Err(error) = socket2::SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "the connection ends without a reset");
        }
    }

    /// Closes at once; TLS sends its close alert if the socket takes it.
    pub fn close(self) {
        let Transport::Tls(mut tls) = self else { return };
        // One attempt: a client that takes nothing is not waited for.
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(Err(error)) = Pin::new(&mut tls.stream).poll_shutdown(&mut context) {
            tracing::trace!(%error, "no close alert was sent");
        }
    }

    /// Reads once into `buffer`. Returns the bytes; none at the end, of TLS without its alert as well.
    pub fn poll_read_some<'b>(
        &mut self,
        context: &mut Context<'_>,
        buffer: &'b mut [u8],
    ) -> Poll<io::Result<&'b [u8]>> {
        let mut filled = ReadBuf::new(&mut *buffer);
        let read = ready!(Pin::new(self).poll_read(context, &mut filled));
        let count = filled.filled().len();
        match read {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Poll::Ready(Err(error)),
            Ok(()) | Err(_) => Poll::Ready(Ok(buffer.get(..count).unwrap_or_default())),
        }
    }

    /// Writes what the peer takes now; returns how much, at least one byte.
    pub fn poll_write_some(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(self).poll_write(context, bytes)) {
            Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => Poll::Ready(written),
        }
    }

    /// Polls until nothing waits within TLS.
    pub fn poll_flush_held(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.holds_bytes() { Pin::new(self).poll_flush(context) } else { Poll::Ready(Ok(())) }
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
            Transport::Tls(tls) => {
                let read = Pin::new(&mut tls.stream).poll_read(context, buffer);
                // What TLS itself has to say about the bytes (no_renegotiation, an update of keys) waits for nothing.
                if tls.stream.get_ref().1.wants_write()
                    && let Poll::Ready(Err(error)) = Pin::new(&mut tls.stream).poll_flush(context)
                {
                    tracing::trace!(%error, "TLS could not answer");
                }
                read
            }
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
            Transport::Tls(tls) => Pin::new(&mut tls.stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Plain(_) => Poll::Ready(Ok(())),
            Transport::Tls(tls) => Pin::new(&mut tls.stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Transport::Tls(tls) => {
                ready!(Pin::new(&mut tls.stream).poll_flush(context))?;
                Pin::new(&mut tls.stream).poll_shutdown(context)
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
            Transport::Tls(tls) => Pin::new(&mut tls.stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Transport::Plain(tcp) => tcp.is_write_vectored(),
            Transport::Tls(tls) => tls.stream.is_write_vectored(),
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
