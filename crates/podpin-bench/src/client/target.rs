//! Where the load client connects, and what it speaks there.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::HandshakeKind;
use tokio_rustls::rustls::pki_types::ServerName;

use super::socket;
use crate::certificate::HOST;
use crate::protocol::Protocol;

/// The bytes of a connection: a socket, or TLS over one.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin {}

impl<W: AsyncRead + AsyncWrite + Unpin> Wire for W {}

/// Where to connect, and how.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Protocol,
    /// For the protocols over TLS.
    pub(crate) tls: Option<TlsConnector>,
}

impl Target {
    /// HTTP/1.1 in plaintext.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, protocol: Protocol::Http1, tls: None }
    }

    /// A connection, after its handshake if it has one.
    pub(crate) async fn connect(&self) -> anyhow::Result<Box<dyn Wire>> {
        Ok(self.connect_and_tell().await?.0)
    }

    /// A connection, and what handshake it began with.
    ///
    /// # Errors
    /// If the connection is refused, the handshake fails or did not agree on the version of HTTP asked for.
    pub(crate) async fn connect_and_tell(&self) -> anyhow::Result<(Box<dyn Wire>, Option<HandshakeKind>)> {
        let tcp = socket::connect(self.address).await?;
        let Some(connector) = &self.tls else { return Ok((Box::new(tcp), None)) };
        let stream = connector.connect(ServerName::try_from(HOST)?, tcp).await.context("no TLS handshake")?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol().is_none() {
            bail!("the proxy did not agree on a version of HTTP");
        }
        let kind = session.handshake_kind();
        Ok((Box::new(stream), kind))
    }
}
