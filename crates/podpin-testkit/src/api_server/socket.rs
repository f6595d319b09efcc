//! A socket of the API server, plain or TLS, with the bytes that were read and not used.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::tls::Authority;
use crate::wire::{Head, find};

/// How connections are accepted.
pub(super) enum Acceptor {
    Plain,
    Tls { authority: Authority, acceptor: TlsAcceptor },
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(if self.authority().is_some() { "Tls" } else { "Plain" })
    }
}

impl Acceptor {
    /// TLS with a new authority.
    pub(super) fn tls() -> Acceptor {
        let (authority, configuration) = Authority::new();
        Acceptor::Tls { authority, acceptor: TlsAcceptor::from(Arc::new(configuration)) }
    }

    /// Returns the server's certificate in PEM.
    pub(super) fn authority(&self) -> Option<&str> {
        match self {
            Acceptor::Plain => None,
            Acceptor::Tls { authority, .. } => Some(authority.certificate()),
        }
    }

    /// The connection, after the handshake if there is one.
    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<Socket> {
        // Without it Nagle holds back a second small write for the peer's delayed acknowledgement: 40 ms of noise.
        stream.set_nodelay(true)?;
        let stream = match self {
            Acceptor::Plain => Stream::Plain(stream),
            Acceptor::Tls { acceptor, .. } => Stream::Tls(Box::new(acceptor.accept(stream).await?)),
        };
        Ok(Socket { stream, buffer: BytesMut::new(), pace: None })
    }
}

/// Writes so many bytes at once, so far apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) bytes: usize,
    pub(super) every: Duration,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A connection.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    buffer: BytesMut,
    pace: Option<Pace>,
}

impl Socket {
    fn duplex(&mut self) -> &mut dyn Duplex {
        match &mut self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.as_mut(),
        }
    }

    /// From now on everything is written at this pace.
    pub(super) fn drip(&mut self, pace: Pace) {
        self.pace = Some(pace);
    }

    /// Writes everything; `false` when the client is gone.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        let Some(pace) = self.pace else { return self.write(bytes).await };
        for piece in bytes.chunks(pace.bytes.max(1)) {
            if !self.write(piece).await {
                return false;
            }
            tokio::time::sleep(pace.every).await;
        }
        true
    }

    async fn write(&mut self, bytes: &[u8]) -> bool {
        let stream = self.duplex();
        // Over TLS a write alone may stay in its buffer.
        stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok()
    }

    /// A FIN that is not turned into a RST by bytes that were left unread.
    pub(super) async fn close(&mut self) {
        // The client may have closed already: then there is nothing to finish.
        let _gone = self.duplex().shutdown().await;
        self.client_gone().await;
    }

    /// Ends the connection with a RST.
    pub(super) fn reset(self) {
        let stream = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        };
        stream.set_zero_linger().expect("SO_LINGER");
    }

    /// Waits until the client ends the connection; what it sends is thrown away.
    pub(super) async fn client_gone(&mut self) {
        while self.fill().await {
            self.buffer.clear();
        }
    }

    async fn fill(&mut self) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        // Cancelled in between, the bytes of a client that is not listened to any more are lost: no request follows.
        let read = self.duplex().read_buf(&mut buffer).await;
        self.buffer = buffer;
        read.is_ok_and(|count| count > 0)
    }

    /// The head of the next request; nothing when the connection ended.
    pub(super) async fn head(&mut self) -> Option<Head> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                return Some(Head::parse(&self.buffer.split_to(at + 4)));
            }
            if !self.fill().await {
                return None;
            }
        }
    }
}
