//! One client connection: reads each request head itself, within its limits, and sends it down one of the data paths.
//!
//! Reading the head before Pingora does gives what Pingora has no hook for: a deadline over the whole head, a size
//! limit before anything is buffered, strict framing for both paths, no buffer while the connection is idle - and a
//! socket that an event stream can take with it when it leaves this task.

pub(crate) mod admit;
pub(crate) mod http2;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Version, header};
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::admit::Place;
use crate::downstream::pending::{Exchange, answer_h1};
use crate::http::reply::Failure;
use crate::net::listener::ListenerSettings;
use crate::net::scratch::{self, Scratch};
use crate::net::tls::ServerTls;
use crate::net::transport::Transport;
use crate::request::serve::{self, ClientSide, Idle};
use crate::shared::Shared;
use crate::stream::open;
use crate::telemetry::labels::{ConnectionProtocol, HandshakeError};
use crate::upgrade::client_stream::ClientStream;
use crate::upgrade::pipeline::Pipeline;
pub(crate) use http2::StreamGuard;
use podpin_wire::client::Client;
use podpin_wire::http1::body::{BodyDecoder, FIRST_CHUNK};
use podpin_wire::http1::request_head::{self, Facts, HeadError, RequestBody, RequestHead, Scan};

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// One read of a request head: most fit.
const READ_BYTES: usize = 16 * 1024;

/// A listener as one worker serves it.
pub(crate) struct Listener {
    pub name: Arc<str>,
    pub settings: Arc<ListenerSettings>,
    pub shared: Arc<Shared>,
    pub proxy: Arc<HttpProxy<Pipeline>>,
}

impl Listener {
    /// The same listener after a reload.
    pub(crate) fn with_settings(&self, settings: Arc<ListenerSettings>) -> Listener {
        let (shared, proxy) = (Arc::clone(&self.shared), Arc::clone(&self.proxy));
        Listener { name: Arc::clone(&self.name), settings, shared, proxy }
    }

    fn tls(&self) -> Option<&Arc<ServerTls>> {
        self.settings.tls.as_ref()
    }
}

/// An accepted connection, counted as long as this lives.
pub(crate) struct Connection {
    listener: Arc<Listener>,
    /// The client: the other end, or whom a trusted one names in its PROXY header.
    peer: SocketAddr,
    /// How many it has sent.
    requests: u32,
    place: Place,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.vacate();
    }
}

/// A request as it was read.
struct Asked {
    head: RequestHead,
    facts: Facts,
    bytes: Bytes,
    /// What came behind the head.
    ahead: BytesMut,
}

/// What a client sent next.
enum Next {
    /// A whole request head, as bytes too, and perhaps more.
    Request(Box<Asked>),
    /// The preface of HTTP/2 and perhaps more.
    H2(BytesMut),
    Refused(Failure),
    /// Nothing, in good order.
    Closed,
}

impl Connection {
    /// Serves the connection to its end, or until an event stream takes the socket.
    pub(crate) async fn serve(mut self, mut tcp: TcpStream) {
        let Some(ahead) = self.introduced(&mut tcp).await else { return };
        if !self.take_place_of_address() {
            return self.turn_away(tcp, Some(ahead), Failure::ClientConnections);
        }
        if self.listener.tls().is_none() {
            return self.serve_from((Transport::Plain(tcp), ahead), true).await;
        }
        let Some((tls, is_h2)) = Box::pin(self.handshake(tcp)).await else { return };
        if is_h2 {
            self.count(ConnectionProtocol::Http2);
            let closing = self.listener.shared.lifecycle.closing();
            return Box::pin(http2::serve(self, (tls, BytesMut::new()), closing, None)).await;
        }
        self.serve_from((tls, BytesMut::new()), true).await;
    }

    /// TLS within the time that a request head may take; and whether the client chose HTTP/2. `None`: it has ended.
    async fn handshake(&self, tcp: TcpStream) -> Option<(Transport, bool)> {
        let tls = self.listener.tls()?;
        let shared = &self.listener.shared;
        let mut closing = shared.lifecycle.closing();
        let shaken = tokio::select! {
            shaken = timeout(shared.current().limits.request_header_timeout, tls.accept(tcp)) => shaken,
            _ = closing.wait_for(|closing| *closing) => return None,
        };
        let reason = match shaken {
            Ok(Ok((transport, is_h2))) => return Some((transport, is_h2)),
            Ok(Err(error)) => {
                tracing::debug!(peer = %self.peer, %error, "no TLS handshake");
                HandshakeError::Failed
            }
            Err(_) => HandshakeError::Timeout,
        };
        shared.metrics.listeners.tls_handshakes_failed.inc(&self.listener.name, reason);
        None
    }

    /// Serves what comes after an event stream, in a task of its own.
    pub(crate) fn go_on(self, tcp: Transport) {
        let shared = Arc::clone(&self.listener.shared);
        shared.lifecycle.tasks.spawn(self.serve_from((tcp, BytesMut::new()), false));
    }

    async fn serve_from(mut self, (mut tcp, mut ahead): (Transport, BytesMut), mut first: bool) {
        let mut closing = self.listener.shared.lifecycle.closing();
        loop {
            match self.next((&mut tcp, std::mem::take(&mut ahead)), first, &mut closing).await {
                Next::Closed => return tcp.close(),
                Next::Refused(failure) => return self.refuse(tcp, failure).await,
                Next::H2(bytes) => {
                    self.count(ConnectionProtocol::Http2);
                    return Box::pin(http2::serve(self, (tcp, bytes), closing, None)).await;
                }
                Next::Request(mut asked) => {
                    if first {
                        self.count(ConnectionProtocol::Http1);
                    }
                    asked.facts.keep_alive &= !self.is_last_request() && !*closing.borrow();
                    if asked.facts.event_stream {
                        return Box::pin(self.serve_event_stream(tcp, *asked, None)).await;
                    }
                    match self.forward(tcp, *asked, &closing).await {
                        Some(idle) => (tcp, ahead) = idle,
                        None => return,
                    }
                }
            }
            first = false;
        }
    }

    /// Counts a request; whether it is the last one that the connection may carry.
    fn is_last_request(&mut self) -> bool {
        self.requests = self.requests.saturating_add(1);
        let limit = self.listener.shared.current().limits.requests_per_connection;
        limit.is_some_and(|limit| self.requests >= limit)
    }

    fn count(&self, protocol: ConnectionProtocol) {
        let listener = &self.listener;
        listener.shared.metrics.listeners.connections_total.inc(&listener.name, protocol);
    }

    fn count_refused(&self, failure: Failure) {
        let code = failure.status().map_or(0, |status| status.as_u16());
        self.listener.shared.metrics.listeners.heads_refused.inc(&self.listener.name, code);
        tracing::debug!(peer = %self.peer, %failure, "request refused");
    }

    async fn refuse(self, tcp: Transport, failure: Failure) {
        self.count_refused(failure);
        if let Some(answer) = failure.answer() {
            Box::pin(answer_h1(tcp, &answer)).await;
        }
    }

    /// Waits for the next head: for its first byte as long as an idle connection may live, for the rest as long as
    /// a head may take.
    async fn next(
        &self,
        (tcp, mut bytes): (&mut Transport, BytesMut),
        first: bool,
        closing: &mut ShutdownWatch,
    ) -> Next {
        let limits = self.listener.shared.current().limits;
        let mut scanned = 0;
        // A request that came behind the one before may be there already.
        if !bytes.is_empty()
            && let Some(next) = self.look(&mut bytes, &mut scanned)
        {
            return next;
        }
        let idle_for = if first || !bytes.is_empty() {
            limits.request_header_timeout
        } else {
            limits.keep_alive_timeout
        };
        let mut deadline = Instant::now() + idle_for;
        loop {
            if *closing.borrow() && bytes.is_empty() {
                return Next::Closed;
            }
            let before = bytes.len();
            tokio::select! {
                biased;
                read = timeout_at(deadline, poll_fn(|context| poll_read(tcp, &mut bytes, context))) => match read {
                    Err(_) if before == 0 => return Next::Closed,
                    Err(_) => return Next::Refused(Failure::HeadTimeout),
                    Ok(Ok(0) | Err(_)) => return Next::Closed,
                    Ok(Ok(_)) => {}
                },
                _ = closing.changed(), if before == 0 => return Next::Closed,
            }
            if before == 0 && !first {
                deadline = Instant::now() + limits.request_header_timeout;
            }
            if let Some(next) = self.look(&mut bytes, &mut scanned) {
                return next;
            }
        }
    }

    /// What the bytes so far amount to; `None` when more are needed.
    fn look(&self, bytes: &mut BytesMut, scanned: &mut usize) -> Option<Next> {
        if self.listener.settings.h2c && bytes.iter().zip(H2_PREFACE).all(|(one, other)| one == other) {
            return (bytes.len() >= H2_PREFACE.len()).then(|| Next::H2(std::mem::take(bytes)));
        }
        let limit = self.listener.shared.current().limits.request_header_bytes;
        let too_large = || {
            let line_ends = bytes.contains(&b'\n');
            Next::Refused(Failure::Head(if line_ends {
                HeadError::TooLarge
            } else {
                HeadError::TargetTooLong
            }))
        };
        match request_head::scan(bytes, *scanned) {
            Ok(Scan::Complete(length)) if length > limit => Some(too_large()),
            Ok(Scan::Complete(length)) => {
                let head = bytes.split_to(length).freeze();
                Some(match request_head::read(&head) {
                    Ok((facts, read)) => {
                        let ahead = std::mem::take(bytes);
                        Next::Request(Box::new(Asked { head: read, facts, bytes: head, ahead }))
                    }
                    Err(error) => Next::Refused(error.into()),
                })
            }
            Ok(Scan::Partial) if bytes.len() > limit => Some(too_large()),
            Ok(Scan::Partial) => {
                *scanned = bytes.len();
                None
            }
            Err(error) => Some(Next::Refused(error.into())),
        }
    }

    /// Serves a request for an event stream, or refuses it when there is no room for the connection.
    async fn serve_event_stream(self, tcp: Transport, asked: Asked, refusal: Option<Failure>) {
        let Asked { head, facts, ahead, .. } = asked;
        let client = self.client(&tcp, &head);
        let shared = Arc::clone(&self.listener.shared);
        let keep_alive = facts.keep_alive && refusal.is_none() && ahead.is_empty();
        let exchange = Exchange::H1 { tcp, connection: self, keep_alive };
        match refusal {
            None => open::serve(shared, head, client, exchange).await,
            Some(failure) => open::turn_away(shared, head, client, (failure, exchange)).await,
        }
    }

    fn client(&self, tcp: &Transport, head: &RequestHead) -> Client {
        let shared = &self.listener.shared;
        let mut client = Client::of(
            self.peer.ip(),
            self.listener.tls().is_some(),
            &head.headers,
            &shared.current().trusted_proxies,
        );
        client.subject = tcp.subject();
        client
    }

    /// Serves one ordinary request; gives the socket back when it may carry another.
    async fn forward(&self, tcp: Transport, asked: Asked, closing: &ShutdownWatch) -> Option<Idle> {
        let body = match asked.facts.body {
            RequestBody::Length(0) => BodyDecoder::Done,
            RequestBody::Length(length) => BodyDecoder::Length(length),
            RequestBody::Chunked => BodyDecoder::Chunked(FIRST_CHUNK),
            RequestBody::Upgrade => return Box::pin(self.upgrade(tcp, asked, closing)).await,
        };
        let Asked { head, facts, ahead, .. } = asked;
        let client = self.client(&tcp, &head);
        let http10 = head.version == Version::HTTP_10;
        let asked_first = head.headers.contains_key(header::EXPECT);
        let side = ClientSide::h1((tcp, ahead), body, (http10, facts.keep_alive, asked_first));
        Box::pin(serve::serve(Arc::clone(&self.listener.shared), head, client, side)).await
    }

    /// Lets Pingora serve a request that wants to become another protocol; the socket does not come back.
    async fn upgrade(&self, tcp: Transport, asked: Asked, closing: &ShutdownWatch) -> Option<Idle> {
        let mut bytes = BytesMut::from(asked.bytes);
        bytes.unsplit(asked.ahead);
        let stream = ClientStream::upgrade((tcp, self.peer), bytes);
        let progress = stream.progress();
        let mut session = ServerSession::new_http1(Box::new(stream));
        session.set_connection_user_context(Some(Box::new(progress)));
        session.set_keepalive(None);
        let _not_reused = self.listener.proxy.process_new_http(session, closing).await;
        None
    }
}

/// One read into the thread's buffer, appended to what there is.
fn poll_read(
    tcp: &mut Transport,
    bytes: &mut BytesMut,
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    scratch::with(|Scratch { read, .. }| {
        let mut buffer = ReadBuf::new(read.get_mut(..READ_BYTES).unwrap_or_default());
        ready!(Pin::new(tcp).poll_read(context, &mut buffer))?;
        bytes.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    })
}
