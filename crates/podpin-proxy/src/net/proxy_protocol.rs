//! Reads a PROXY header off a socket, and nothing behind it.
//!
//! What follows may be TLS, whose library reads the socket itself. So bytes are looked at where they are (`MSG_PEEK`)
//! and taken only when they belong to a header, or could: nothing has to be given back, and an idle connection keeps
//! nothing of it.

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

/// Who has come.
#[derive(Debug)]
pub struct Introduced {
    /// The client; `None`: the other end of the connection.
    pub client: Option<SocketAddr>,
    /// Bytes of the client that looked as if they became a header; never the beginning of a TLS handshake.
    pub ahead: BytesMut,
}

/// Why a connection is closed at its beginning.
#[derive(Debug, thiserror::Error)]
pub enum Unheard {
    /// It is not from a trusted proxy, and no other may come.
    #[error("not from a trusted proxy")]
    Untrusted,
    /// It begins with something else.
    #[error("no PROXY header")]
    Missing,
    /// It begins with a broken header.
    #[error(transparent)]
    Broken(#[from] HeaderError),
    /// The header did not come within `limits.requestHeaderTimeout`.
    #[error("the PROXY header took too long")]
    Timeout,
    /// It ended within the header.
    #[error("closed within the PROXY header")]
    CutShort,
    /// It ended without a byte, as a health check does that only connects; or while we leave.
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
/// When there is none although there must be, and when it is broken or cut short.
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
            // Nothing but a header begins so, or the next bytes tell: it is safe to take them.
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

/// Takes what was seen already off the socket.
async fn take(tcp: &mut TcpStream, bytes: &mut [u8]) -> io::Result<()> {
    tcp.read_exact(bytes).await.map(drop)
}
