//! Connections to endpoints, and the exchange of a request head for a response head.
//!
//! Event streams and ordinary requests connect here; kept connections are in `pool.rs`, an upload beside the response in
//! `request/transfer.rs`.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Method;
use podpin_wire::http1::response_head::{ResponseHead, ResponseHeadReader, ResponseStart};
use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::net::scratch::{self, Scratch};
use crate::net::tls::UpstreamTls;
use crate::net::transport::Transport;
use crate::upstream::error::UpstreamError;

/// A response whose head was read, with its connection.
#[derive(Debug)]
pub(crate) struct UpstreamResponse {
    /// Response head, framing, and the first bytes of the body.
    pub start: ResponseStart,
    /// Connection that the rest of the body comes over.
    pub transport: Transport,
}

/// Connects to an endpoint, with `tls` up to the end of its handshake.
///
/// # Errors
/// [`UpstreamError::Connect`], [`UpstreamError::Tls`], [`UpstreamError::Local`], [`UpstreamError::ConnectTimeout`].
pub(crate) async fn connect(
    address: SocketAddr,
    tls: Option<&UpstreamTls>,
    limit: Duration,
) -> Result<Transport, UpstreamError> {
    let connected = async {
        let tcp = TcpStream::connect(address).await.map_err(UpstreamError::unconnected)?;
        tcp.set_nodelay(true).and_then(|()| keep_alive(&tcp)).map_err(UpstreamError::unconnected)?;
        match tls {
            None => Ok(Transport::Plain(tcp)),
            // Boxed: the handshake is much larger than all else that a request waits for.
            Some(tls) => Box::pin(tls.connect(tcp, address)).await.map_err(UpstreamError::Tls),
        }
    };
    timeout(limit, connected).await.unwrap_or(Err(UpstreamError::ConnectTimeout))
}

impl UpstreamError {
    fn unconnected(error: io::Error) -> UpstreamError {
        if is_local(&error) { UpstreamError::Local(error) } else { UpstreamError::Connect(error) }
    }
}

/// Whether a failure to connect says something about this machine only.
pub(crate) fn is_local(error: &io::Error) -> bool {
    let local = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|code| local.contains(&code))
}

/// Turns keep-alive probes on for a connection that may be silent for hours: a peer that vanished is noticed within a
/// minute and a half.
///
/// # Errors
/// If the socket is closed already.
fn keep_alive(tcp: &TcpStream) -> io::Result<()> {
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    SockRef::from(tcp).set_tcp_keepalive(&probes)
}

/// Sends a GET request head and reads the response head. Interim responses go to `interim`.
///
/// # Errors
/// All but the two about connecting.
pub(crate) async fn exchange(
    mut transport: Transport,
    request: &[u8],
    limit: Option<Duration>,
    mut interim: impl FnMut(ResponseHead),
) -> Result<UpstreamResponse, UpstreamError> {
    let answered = async {
        transport.write_all(request).await.map_err(UpstreamError::broken)?;
        transport.flush().await.map_err(UpstreamError::broken)?;
        let mut reader = ResponseHeadReader::new(Method::GET);
        loop {
            let read = poll_fn(|context| poll_head(&mut transport, context, &mut reader, &mut interim));
            if let Some(start) = read.await? {
                return Ok::<_, UpstreamError>(start);
            }
        }
    };
    let start = match limit {
        Some(limit) => timeout(limit, answered).await.map_err(|_| UpstreamError::ResponseTimeout)??,
        None => answered.await?,
    };
    Ok(UpstreamResponse { start, transport })
}

/// Reads once and gives the bytes to `reader`; `None` if the final head is still incomplete. Interim responses go to
/// `interim`.
///
/// # Errors
/// If the connection breaks or ends, or the head is malformed or too large.
pub(crate) fn poll_head(
    transport: &mut Transport,
    context: &mut Context<'_>,
    reader: &mut ResponseHeadReader,
    interim: impl FnMut(ResponseHead),
) -> Poll<Result<Option<ResponseStart>, UpstreamError>> {
    scratch::with(|Scratch { read, .. }| {
        let mut buffer = ReadBuf::new(read);
        let filled = match ready!(Pin::new(transport).poll_read(context, &mut buffer)) {
            Ok(()) => buffer.filled(),
            Err(error) => return Poll::Ready(Err(UpstreamError::broken(error))),
        };
        if filled.is_empty() {
            return Poll::Ready(Err(UpstreamError::Reset(io::ErrorKind::UnexpectedEof.into())));
        }
        Poll::Ready(reader.push(filled, interim).map_err(UpstreamError::from))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_on_this_machine_is_not_the_endpoints_failure() {
        let error = |code: Errno| io::Error::from(code);
        assert!(is_local(&error(Errno::MFILE)) && is_local(&error(Errno::ADDRNOTAVAIL)));
        assert!(!is_local(&error(Errno::CONNREFUSED)) && !is_local(&error(Errno::HOSTUNREACH)));
    }
}
