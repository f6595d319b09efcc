//! HTTP/2 to endpoints: streams on connections of Pingora's connector, which makes, pools and drives them.
//!
//! What goes over a stream is polled by its request, both directions by themselves ([ADR 5](../../../docs/adr/0005-http2-behind-downstream.md)
//! says why that is not left to Pingora's request loop). A stream that is dropped before its end is cancelled at the endpoint,
//! and its connection goes back to the pool.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::header::{self, HeaderMap};
use http::{Method, StatusCode, Uri, Version};
use pingora::http::RequestHeader;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::v2::{ConnectionRef, Connector};
use pingora_core::protocols::UniqueIDType;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::v2::client::Http2Session;
use pingora_core::protocols::l4::ext::TcpKeepalive;
use pingora_core::upstreams::peer::{HttpPeer, Peer as _};
use pingora_core::{Error, ErrorType};
use podpin_endpoints::{Endpoint, EndpointId};
use podpin_wire::http1::request_head::FIELDS_MAX;
use podpin_wire::http1::response_head::{HEAD_BYTES_MAX, ResponseHead};

use crate::balance::service::ServiceState;
use crate::net::tls::HandshakeFailure;
use crate::net::tls::provider::provider;
use crate::upstream::connect::is_local;
use crate::upstream::error::UpstreamError;

/// Cancelled streams after which a connection takes no new ones. The library below ends a connection, with all calls on it, at
/// a thousand that the endpoint still sends to.
const CANCELS_MAX: u32 = 500;
/// Idle connections kept by a worker; they take descriptors that streams could have.
const IDLE_MAX: usize = 1024;
/// Streams on one connection; what most servers allow. One that allows fewer says so.
const STREAMS_MAX: usize = 100;
/// Bytes of a response that an endpoint may send before the client has taken them: within a cluster enough for a gigabit.
const STREAM_WINDOW: u32 = 128 * 1024;
/// Room for all streams of a connection, so that a client which takes nothing holds up no other.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 100;

/// Endpoints whose settings a worker remembers; they are made again if there are more.
const PEERS_MAX: usize = 4096;

/// Everything that the settings of connections to an endpoint depend on.
#[derive(PartialEq, Eq, Hash)]
struct PeerKey {
    endpoint: EndpointId,
    address: SocketAddr,
    group: u64,
    connect: Duration,
    keep: Option<Duration>,
}

thread_local! {
    /// The settings of connections to each endpoint.
    static PEERS: RefCell<HashMap<PeerKey, Arc<HttpPeer>>> = RefCell::default();
    /// The connections of one worker: a connection stays on the thread that made it.
    static CONNECTOR: Arc<Connector> = {
        // Before Pingora makes its first connector, which would choose a provider of its own.
        let _ours = provider();
        Arc::new(Connector::new(Some(ConnectorOptions::new(IDLE_MAX))))
    };
    /// Streams that were cancelled on each connection, by its number.
    static CANCELS: RefCell<HashMap<UniqueIDType, u32>> = RefCell::default();
}

/// Age of the connection that a stream is opened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// A connection that is there, if there is one.
    Any,
    /// A connection of its own.
    New,
}

/// A stream of an HTTP/2 connection to an endpoint, for one request and its response.
pub(crate) struct PodStream {
    /// Pingora's side of the stream; `None` if it was given back.
    session: Option<Http2Session>,
    /// Side that the request body goes to; `None` if the head was not sent.
    body: Option<SendStream<Bytes>>,
    connector: Arc<Connector>,
    peer: Arc<HttpPeer>,
    /// Time for which an idle connection is kept.
    keep: Duration,
    /// Whether the connection has carried requests before.
    pub is_kept: bool,
}

/// The head of an endpoint's response.
#[derive(Debug)]
pub(crate) struct PodHead {
    /// Status and fields.
    pub head: ResponseHead,
    /// Whether the response has no body and no trailers.
    pub ends: bool,
}

/// The reason why a stream to an endpoint ended early.
#[derive(Debug)]
pub(crate) enum PodFault {
    /// Request that was not processed.
    Refused,
    /// Reset by the endpoint, with its code.
    Reset(Reason),
    /// Connection that broke.
    Lost(io::Error),
    /// Bytes that break HTTP/2, or a response that may not be forwarded.
    Malformed(&'static str),
}

impl PodFault {
    /// Returns the fault that an error of the protocol tells of; `None` if it is one of the connection.
    fn of(error: &h2::Error) -> Option<PodFault> {
        let is_remote = error.is_remote();
        // Streams that the endpoint has accepted go on behind a GOAWAY: this one is not among them.
        if is_remote && error.is_go_away() {
            return Some(PodFault::Refused);
        }
        Some(match error.reason()? {
            Reason::REFUSED_STREAM if is_remote => PodFault::Refused,
            reason if is_remote => PodFault::Reset(reason),
            _ => PodFault::Malformed("HTTP/2"),
        })
    }
}

impl From<h2::Error> for PodFault {
    fn from(error: h2::Error) -> PodFault {
        let lost =
            |error: h2::Error| error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
        PodFault::of(&error).unwrap_or_else(|| PodFault::Lost(lost(error)))
    }
}

impl From<PodFault> for UpstreamError {
    fn from(fault: PodFault) -> UpstreamError {
        match fault {
            PodFault::Refused => UpstreamError::Refused,
            PodFault::Reset(reason) => UpstreamError::Reset(io::Error::other(reason.description())),
            PodFault::Lost(error) => UpstreamError::Reset(error),
            PodFault::Malformed(what) => UpstreamError::Protocol(what),
        }
    }
}

impl PodStream {
    /// Opens a stream to an endpoint of a service, before anything of the request is sent.
    ///
    /// # Errors
    /// [`UpstreamError::Connect`], [`UpstreamError::Tls`], [`UpstreamError::Local`], [`UpstreamError::ConnectTimeout`].
    pub(crate) async fn open(
        service: &ServiceState,
        endpoint: &Endpoint,
        freshness: Freshness,
    ) -> Result<PodStream, UpstreamError> {
        let connector = CONNECTOR.with(Arc::clone);
        let peer = known_peer(service, endpoint);
        if freshness == Freshness::Any
            && let Some(session) = reuse(&connector, &peer).await
        {
            return Ok(PodStream::new(session, connector, peer, true));
        }
        let connected = connector.new_http_session::<HttpPeer, ()>(&*peer);
        let connected = tokio::time::timeout(service.configuration.timeouts.connect, connected).await;
        match connected.map_err(|_| UpstreamError::ConnectTimeout)? {
            Ok(HttpSession::H2(session)) => {
                // How many streams the endpoint allows is known with its first answer.
                connector.in_use_pool().release(peer.reuse_hash(), session.conn.id());
                CANCELS.with_borrow_mut(|cancels| cancels.remove(&session.conn.id()));
                Ok(PodStream::new(session, connector, peer, false))
            }
            Ok(_) => {
                let words = "the endpoint does not offer HTTP/2 (ALPN)";
                Err(UpstreamError::Tls(HandshakeFailure::in_words(words.to_owned())))
            }
            Err(error) => Err(unconnected(&error)),
        }
    }

    fn new(
        session: Http2Session,
        connector: Arc<Connector>,
        peer: Arc<HttpPeer>,
        is_kept: bool,
    ) -> PodStream {
        let keep = peer.options.idle_timeout.unwrap_or_default();
        PodStream { session: Some(session), body: None, connector, peer, keep, is_kept }
    }

    /// Sends the request head, which is all of the request if it `ends` there.
    ///
    /// # Errors
    /// If the connection has ended, or the head cannot be told in HTTP/2.
    pub(crate) fn send_head(&mut self, head: PodRequest, ends: bool) -> Result<(), PodFault> {
        let Some(session) = &mut self.session else { return Err(closed()) };
        let header = head.into_header().ok_or(PodFault::Malformed("the request cannot be told in HTTP/2"))?;
        // The errors that Pingora finds itself have been excluded; this is the connection's end.
        session.write_request_header(header, ends).map_err(|error| sent(&error))?;
        self.body = session.take_request_body_writer();
        Ok(())
    }

    /// Sends bytes of the request body as far as the endpoint takes them; `Ready` when all of them are on their way.
    ///
    /// # Errors
    /// If the endpoint takes no more. Its response may be there all the same.
    pub(crate) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        bytes: &mut Bytes,
        ends: bool,
    ) -> Poll<Result<(), ()>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Err(())) };
        loop {
            let mut room = 0;
            if !bytes.is_empty() {
                body.reserve_capacity(bytes.len());
                room = body.capacity();
                if room == 0 {
                    room = match ready!(body.poll_capacity(context)) {
                        Some(Ok(room)) => room,
                        Some(Err(_)) | None => return Poll::Ready(Err(())),
                    };
                    if room == 0 {
                        continue;
                    }
                }
            }
            let piece = bytes.split_to(room.min(bytes.len()));
            let is_last = bytes.is_empty();
            if (!piece.is_empty() || ends) && body.send_data(piece, is_last && ends).is_err() {
                return Poll::Ready(Err(()));
            }
            if is_last {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Ends the request with fields behind its body.
    ///
    /// # Errors
    /// If the endpoint takes no more.
    pub(crate) fn send_trailers(&mut self, trailers: HeaderMap) -> Result<(), ()> {
        let Some(body) = &mut self.body else { return Err(()) };
        body.send_trailers(trailers).map_err(drop)
    }

    /// Polls for the response head.
    pub(crate) fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<PodHead, PodFault>> {
        let Some(session) = &mut self.session else { return Poll::Ready(Err(closed())) };
        ready!(session.poll_read_response_header(context))?;
        if !self.is_kept && session.conn.more_streams_allowed() {
            self.connector.in_use_pool().insert(self.peer.reuse_hash(), session.conn.clone());
        }
        let Some(head) = session.response_header() else { return Poll::Ready(Err(closed())) };
        let (status, headers) = (head.status, head.headers.clone());
        if headers.len() > FIELDS_MAX || bytes_of(&headers) > HEAD_BYTES_MAX {
            return Poll::Ready(Err(PodFault::Malformed("too large a head")));
        }
        if status.is_informational() {
            return Poll::Ready(Err(PodFault::Malformed("an interim response in place of a final one")));
        }
        // What looks like the end may be an error.
        let ends = session.check_response_end_or_error().map_err(|error| sent(&error))?;
        let method = session.request_header().map(|request| &request.method);
        let is_bodiless = method == Some(&Method::HEAD)
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let length = headers.get(header::CONTENT_LENGTH).map(|length| length.as_bytes());
        if ends && !is_bodiless && length.is_some_and(|length| length.iter().any(|digit| *digit != b'0')) {
            return Poll::Ready(Err(PodFault::Malformed("a length without a body")));
        }
        // Whatever else an endpoint sends behind such a head is none of the client's.
        let ends = ends || is_bodiless;
        Poll::Ready(Ok(PodHead { head: ResponseHead { status, headers, keep_alive: true }, ends }))
    }

    /// Polls for bytes of the response body; `None` behind the last ones. The endpoint may send as many more.
    pub(crate) fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, PodFault>> {
        let Some(session) = &mut self.session else { return Poll::Ready(Err(closed())) };
        Poll::Ready(match ready!(session.poll_read_response_body(context)) {
            Some(Ok(bytes)) => Ok(Some(bytes)),
            None => Ok(None),
            // RFC 9113 section 8.1: the response is whole, and the rest of the request is not wanted.
            Some(Err(error)) if is_unneeded_rest(&error) => Ok(None),
            Some(Err(error)) => Err(error.into()),
        })
    }

    /// Polls for the fields behind the response body.
    pub(crate) fn poll_trailers(&mut self, context: &mut Context<'_>) -> Poll<Result<HeaderMap, PodFault>> {
        let Some(session) = &mut self.session else { return Poll::Ready(Err(closed())) };
        let read = std::pin::pin!(session.read_trailers());
        Poll::Ready(match ready!(read.poll(context)) {
            Ok(trailers) => {
                let trailers = trailers.unwrap_or_default();
                if bytes_of(&trailers) > HEAD_BYTES_MAX {
                    return Poll::Ready(Err(PodFault::Malformed("too large trailers")));
                }
                Ok(trailers)
            }
            Err(error) => Err(sent(&error)),
        })
    }
}

impl Drop for PodStream {
    /// Cancels the stream if it has not ended, and gives its connection back.
    fn drop(&mut self) {
        self.body = None;
        if let Some(session) = self.session.as_ref().filter(|session| !session.response_finished()) {
            count_cancel(&session.conn);
        }
        if let Some(session) = self.session.take()
            // Without a runtime nothing would watch the idle connection.
            && tokio::runtime::Handle::try_current().is_ok()
        {
            self.connector.release_http_session(session, &*self.peer, Some(self.keep));
        }
    }
}

/// The head of a request to an endpoint.
pub(crate) struct PodRequest {
    /// Method.
    pub method: Method,
    /// Authority, as `Host` would have it.
    pub host: String,
    /// Path and query.
    pub target: String,
    /// Whether the connection has TLS.
    pub is_secure: bool,
    /// End-to-end fields.
    pub fields: HeaderMap,
}

impl PodRequest {
    /// Returns the head as Pingora has it; `None` if HTTP/2 has no place for it.
    fn into_header(self) -> Option<Box<RequestHeader>> {
        let scheme = if self.is_secure { "https" } else { "http" };
        let uri = Uri::builder().scheme(scheme).authority(self.host).path_and_query(self.target);
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = self.method;
        parts.uri = uri.build().ok()?;
        parts.version = Version::HTTP_2;
        parts.headers = self.fields;
        Some(Box::new(parts.into()))
    }
}

/// Opens a stream on a connection that has room for it now; `None` if there is none. Pingora's own way takes connections as well
/// on which a stream waits for the end of another.
async fn reuse(connector: &Connector, peer: &HttpPeer) -> Option<Http2Session> {
    let group = peer.reuse_hash();
    loop {
        let idle = || connector.idle_pool().get(&group);
        let connection = connector.in_use_pool().get(group).or_else(idle)?;
        // One that is full comes back with the end of one of its streams.
        if !connection.can_accept_streams(1) {
            continue;
        }
        // One that broke meanwhile is no reason not to try another.
        if let Ok(Some(session)) = connection.spawn_stream().await {
            if connection.more_streams_allowed() {
                connector.in_use_pool().insert(group, connection);
            }
            return Some(session);
        }
    }
}

/// Counts a stream that is cancelled; with too many of them its connection takes no new ones.
fn count_cancel(connection: &ConnectionRef) {
    let cancels = CANCELS.with_borrow_mut(|cancels| {
        let count = cancels.entry(connection.id()).or_default();
        *count += 1;
        *count
    });
    if cancels >= CANCELS_MAX {
        connection.mark_shutdown();
    }
}

/// Returns the endpoint as Pingora's connector has it, made once.
fn known_peer(service: &ServiceState, endpoint: &Endpoint) -> Arc<HttpPeer> {
    let times = &service.configuration.timeouts;
    let key = PeerKey {
        endpoint: endpoint.id,
        address: endpoint.address,
        group: service.tls.as_ref().map_or(0, |tls| tls.group()),
        connect: times.connect,
        keep: times.keep_alive,
    };
    PEERS.with_borrow_mut(|peers| {
        if peers.len() >= PEERS_MAX && !peers.contains_key(&key) {
            peers.clear();
        }
        Arc::clone(peers.entry(key).or_insert_with(|| Arc::new(peer(service, endpoint))))
    })
}

/// Returns the endpoint as Pingora's connector has it.
fn peer(service: &ServiceState, endpoint: &Endpoint) -> HttpPeer {
    let times = &service.configuration.timeouts;
    let mut peer = HttpPeer::new(endpoint.address, service.tls.is_some(), String::new());
    if let Some(tls) = &service.tls {
        tls.apply(&mut peer, endpoint.address.ip().to_string());
    }
    // Another endpoint may get the address of one that is gone.
    let mut hasher = DefaultHasher::new();
    (peer.group_key, endpoint.id).hash(&mut hasher);
    peer.group_key = hasher.finish();
    let options = &mut peer.options;
    options.set_http_version(2, 2);
    options.connection_timeout = Some(times.connect);
    options.total_connection_timeout = Some(times.connect);
    options.idle_timeout = Some(times.keep_alive.unwrap_or_default());
    options.max_h2_streams = STREAMS_MAX;
    options.h2_stream_window_size = Some(STREAM_WINDOW);
    options.h2_connection_window_size = Some(CONNECTION_WINDOW);
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(10),
        count: 3,
        user_timeout: Duration::ZERO,
    });
    peer
}

/// Whether an endpoint says that its response is whole and the rest of the request unneeded.
fn is_unneeded_rest(error: &h2::Error) -> bool {
    error.is_reset() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR)
}

/// Returns the bytes of fields as HTTP/1.1 would have them.
fn bytes_of(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

fn closed() -> PodFault {
    PodFault::Lost(io::ErrorKind::NotConnected.into())
}

/// Returns the fault behind an error of Pingora's on a stream.
fn sent(error: &Error) -> PodFault {
    let cause = error.root_cause().downcast_ref::<h2::Error>();
    cause.and_then(PodFault::of).unwrap_or_else(|| PodFault::Lost(io::Error::other(error.to_string())))
}

/// Returns the failure to connect that Pingora reports.
fn unconnected(error: &Error) -> UpstreamError {
    let cause = error.cause.as_deref().and_then(|cause| cause.downcast_ref::<io::Error>());
    match (error.etype(), cause) {
        (ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout, _) => UpstreamError::ConnectTimeout,
        (_, Some(cause)) if is_local(cause) => UpstreamError::Local(io::Error::other(error.to_string())),
        (ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert, _) => {
            // Pingora keeps the words of the cause and nothing else.
            UpstreamError::Tls(HandshakeFailure::in_words(error.to_string()))
        }
        _ => UpstreamError::Connect(io::Error::other(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_to_connect_is_named_as_on_the_other_data_paths() {
        let late = unconnected(&Error::new_up(ErrorType::ConnectTimedout));
        assert!(matches!(late, UpstreamError::ConnectTimeout));
        let refused = unconnected(&Error::new_up(ErrorType::ConnectRefused));
        assert!(matches!(refused, UpstreamError::Connect(_)));
        let unverified = unconnected(&Error::new_up(ErrorType::InvalidCert));
        assert!(matches!(unverified, UpstreamError::Tls(_)));
    }

    #[test]
    fn a_reset_is_the_endpoints_word_unless_it_refused() {
        let of = |reason: Reason| UpstreamError::from(PodFault::Reset(reason));
        assert!(matches!(of(Reason::CANCEL), UpstreamError::Reset(_)));
        assert!(matches!(UpstreamError::from(PodFault::Refused), UpstreamError::Refused));
        assert!(matches!(UpstreamError::from(closed()), UpstreamError::Reset(_)));
        // An error of our own side: the endpoint has broken the protocol.
        assert!(matches!(PodFault::from(h2::Error::from(Reason::PROTOCOL_ERROR)), PodFault::Malformed(_)));
    }
}
