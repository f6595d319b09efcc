//! Reads a PROXY header off a socket, and nothing behind it.
//!
//! The bytes behind it may be TLS, whose library reads the socket itself. So bytes are looked at where they are (`MSG_PEEK`)
//! and taken only if they belong to a header, or could: nothing has to be given back, and an idle connection keeps no buffer
//! for it.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use podpin_config::ProxyProtocol;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::telemetry::labels::ProxyHeaderError;
use podpin_wire::proxy_protocol::{HEADER_BYTES_MAX, HeaderError, Parsed, parse};

/// Version 1, and version 2 with a few extensions.
const FIRST_BYTES: usize = 256;

/// A client connection after its PROXY header.
#[derive(Debug)]
pub struct Introduced {
    /// The client's address; `None` if it is that of the peer.
    pub client: Option<SocketAddr>,
    /// Bytes that looked like the beginning of a header; never the beginning of a TLS handshake.
    pub ahead: BytesMut,
}

/// Reasons for which a connection is closed at its beginning.
#[derive(Debug, thiserror::Error)]
pub enum Unheard {
    /// A peer that is not in `trustedProxies`, on a listener that requires the header.
    #[error("not from a trusted proxy")]
    Untrusted,
    /// A connection that begins with something else.
    #[error("no PROXY header")]
    Missing,
    /// A header that does not parse.
    #[error(transparent)]
    Broken(#[from] HeaderError),
    /// No header within `limits.requestHeaderTimeout`.
    #[error("the PROXY header took too long")]
    Timeout,
    /// An end within the header.
    #[error("closed within the PROXY header")]
    CutShort,
    /// An end without a byte, as of a health check that only connects; or a shutdown.
    #[error("closed")]
    Closed,
}

impl Unheard {
    /// Returns the label that counts this; `None` if the peer did nothing wrong.
    #[must_use]
    pub fn label(&self) -> Option<ProxyHeaderError> {
        match self {
            Unheard::Untrusted => Some(ProxyHeaderError::Untrusted),
            Unheard::Missing => Some(ProxyHeaderError::Missing),
            Unheard::Broken(HeaderError::TooLong) => Some(ProxyHeaderError::TooLong),
            Unheard::Broken(HeaderError::Malformed(_)) => Some(ProxyHeaderError::Malformed),
            Unheard::Timeout => Some(ProxyHeaderError::Timeout),
            Unheard::CutShort => Some(ProxyHeaderError::CutShort),
            Unheard::Closed => None,
        }
    }
}

/// Reads the header of a trusted proxy's connection.
///
/// # Errors
/// If a required header is missing, and if the header is malformed or cut short.
pub async fn introduction(tcp: &mut TcpStream, header: ProxyProtocol) -> Result<Introduced, Unheard> {
    let mut bytes = BytesMut::zeroed(FIRST_BYTES);
    let mut taken = 0;
    loop {
        if taken == bytes.len() {
            bytes.resize(HEADER_BYTES_MAX, 0);
        }
        let seen = match tcp.peek(bytes.get_mut(taken..).unwrap_or_default()).await {
            Ok(count) if count > 0 => taken + count,
            Ok(_) | Err(_) => return Err(if taken > 0 { Unheard::CutShort } else { Unheard::Closed }),
        };
        let parsed = parse(bytes.get(..seen).unwrap_or_default())?;
        let belongs = match parsed {
            // Either only a header begins like this, or the next bytes decide: taking them is safe.
            Parsed::Partial => seen,
            Parsed::Header { length, .. } => length,
            Parsed::Absent if header == ProxyProtocol::Required => return Err(Unheard::Missing),
            Parsed::Absent => {
                bytes.truncate(taken);
                return Ok(Introduced { client: None, ahead: bytes });
            }
        };
        take(tcp, bytes.get_mut(taken..belongs).unwrap_or_default()).await.map_err(|_| Unheard::CutShort)?;
        taken = belongs;
        if let Parsed::Header { client, .. } = parsed {
            return Ok(Introduced { client, ahead: BytesMut::new() });
        }
    }
}

/// Takes bytes off the socket that were seen already.
async fn take(tcp: &mut TcpStream, bytes: &mut [u8]) -> io::Result<()> {
    tcp.read_exact(bytes).await.map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// Sends `bytes` and ends; returns the outcome with everything that is left to read.
    async fn introduced(bytes: &[u8], header: ProxyProtocol) -> (Result<Introduced, Unheard>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let (mut tcp, _) = listener.accept().await.unwrap();
        let outcome = introduction(&mut tcp, header).await;
        let mut rest = Vec::new();
        tcp.read_to_end(&mut rest).await.unwrap();
        (outcome, rest)
    }

    #[tokio::test]
    async fn a_header_is_taken_off_and_nothing_behind_it() {
        let sent = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\nGET / HTTP/1.1\r\n";
        let (outcome, rest) = introduced(sent, ProxyProtocol::Required).await;
        assert_eq!(outcome.unwrap().client, Some("192.0.2.7:4711".parse().unwrap()));
        assert_eq!(rest, b"GET / HTTP/1.1\r\n");
    }

    #[tokio::test]
    async fn a_connection_without_a_header_is_refused_only_where_one_is_required() {
        let (outcome, rest) = introduced(b"GET / HTTP/1.1\r\n", ProxyProtocol::Optional).await;
        let client = outcome.unwrap();
        assert_eq!(
            (client.client, [&client.ahead[..], &rest].concat()),
            (None, b"GET / HTTP/1.1\r\n".to_vec())
        );
        let (outcome, _) = introduced(b"GET / HTTP/1.1\r\n", ProxyProtocol::Required).await;
        assert_eq!(outcome.unwrap_err().label(), Some(ProxyHeaderError::Missing));
    }

    #[tokio::test]
    async fn an_end_within_a_header_is_counted_and_one_before_it_is_not() {
        let (outcome, _) = introduced(b"PROXY TCP4 192", ProxyProtocol::Required).await;
        assert_eq!(outcome.unwrap_err().label(), Some(ProxyHeaderError::CutShort));
        let (outcome, _) = introduced(b"", ProxyProtocol::Required).await;
        assert_eq!(outcome.unwrap_err().label(), None);
    }
}
