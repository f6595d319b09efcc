//! A small HTTP/1.1 client: connects to pods, reads the heads of their responses.
//!
//! For event streams it does both in one go and keeps no buffer while nothing comes; ordinary requests (`request/`)
//! read heads while they write bodies, over connections that `pool.rs` keeps. Every length that a pod could stretch has a
//! limit. Framing follows RFC 9112 section 6; what is ambiguous there (`Content-Length` beside `Transfer-Encoding`,
//! differing lengths) is refused.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, StatusCode};
use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::net::tls::PodTls;
use crate::net::transport::Transport;
use podpin_wire::http1::body::BodyDecoder;
use podpin_wire::http1::response_head::{
    HEAD_BYTES_MAX, INTERIM_RESPONSES_MAX, ResponseError, ResponseHead, is_worth_parsing, parse_head,
};

/// What went wrong between us and an endpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// No connection: nothing was sent.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// No connection for want of something of our own (descriptors, ports, memory): the endpoint is not to blame.
    #[error("cannot connect from here: {0}")]
    Local(io::Error),
    /// No connection within `timeouts.connect`: nothing was sent.
    #[error("no connection in time")]
    ConnectTimeout,
    /// The connection broke before the response head was complete.
    #[error("the connection broke before the response: {0}")]
    Reset(io::Error),
    /// No response head within `timeouts.responseHeader`.
    #[error("no response in time")]
    ResponseTimeout,
    /// What came is not an HTTP/1.1 response that we may forward.
    #[error("malformed response: {0}")]
    Protocol(&'static str),
}

impl From<ResponseError> for UpstreamError {
    fn from(ResponseError(what): ResponseError) -> UpstreamError {
        UpstreamError::Protocol(what)
    }
}

/// An answered request: the head, and all that is needed to read the body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub head: ResponseHead,
    pub transport: Transport,
    pub body: BodyDecoder,
    /// Bytes of the body that came with the head.
    pub rest: Vec<u8>,
}

/// Connects to an endpoint, with `tls` up to the end of its handshake.
///
/// # Errors
/// [`UpstreamError::Connect`], [`UpstreamError::Local`], [`UpstreamError::ConnectTimeout`].
pub(crate) async fn connect(
    address: SocketAddr,
    tls: Option<&PodTls>,
    limit: Duration,
) -> Result<Transport, UpstreamError> {
    let connected = async {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true).and_then(|()| keep_alive(&tcp))?;
        match tls {
            None => Ok(Transport::Plain(tcp)),
            // Its handshake is much larger than all else that a request waits for.
            Some(tls) => Box::pin(tls.connect(tcp, address)).await,
        }
    };
    match timeout(limit, connected).await {
        Ok(Ok(transport)) => Ok(transport),
        Ok(Err(error)) if is_local(&error) => Err(UpstreamError::Local(error)),
        Ok(Err(error)) => Err(UpstreamError::Connect(error)),
        Err(_) => Err(UpstreamError::ConnectTimeout),
    }
}

/// Whether a failure to connect says something about this machine only.
pub(crate) fn is_local(error: &io::Error) -> bool {
    let local = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|code| local.contains(&code))
}

/// Has the kernel look after a connection that may be silent for hours: a peer that vanished without a word is
/// noticed within a minute and a half.
///
/// # Errors
/// When the socket is closed already.
pub(crate) fn keep_alive(tcp: &TcpStream) -> io::Result<()> {
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    SockRef::from(tcp).set_tcp_keepalive(&probes)
}

/// Sends a request head and reads the response head.
///
/// # Errors
/// All but the two about connecting.
pub(crate) async fn exchange(
    mut transport: Transport,
    request: &[u8],
    limit: Option<Duration>,
) -> Result<Answer, UpstreamError> {
    let answered = async {
        transport.write_all(request).await.map_err(UpstreamError::Reset)?;
        transport.flush().await.map_err(UpstreamError::Reset)?;
        read_head(&mut transport).await
    };
    let (head, body, rest) = match limit {
        Some(limit) => timeout(limit, answered).await.map_err(|_| UpstreamError::ResponseTimeout)??,
        None => answered.await?,
    };
    Ok(Answer { head, transport, body, rest })
}

async fn read_head(transport: &mut Transport) -> Result<(ResponseHead, BodyDecoder, Vec<u8>), UpstreamError> {
    let mut buffer = Vec::with_capacity(2048);
    let (mut interim, mut parsed) = (0, 0);
    loop {
        while is_worth_parsing(&buffer, parsed)
            && let Some((length, head, body)) = parse_head(&buffer, &Method::GET)?
        {
            let rest = buffer.split_off(length);
            if !head.status.is_informational() {
                return Ok((head, body, rest));
            }
            interim += 1;
            if interim > INTERIM_RESPONSES_MAX || head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(UpstreamError::Protocol("unexpected interim responses"));
            }
            (buffer, parsed) = (rest, 0);
        }
        parsed = buffer.len();
        if buffer.len() >= HEAD_BYTES_MAX {
            return Err(UpstreamError::Protocol("the response head is too large"));
        }
        let count = transport.read_buf(&mut buffer).await.map_err(UpstreamError::Reset)?;
        if count == 0 {
            return Err(UpstreamError::Reset(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}
