//! An accepted connection: its client, its count, and what happens before its first request.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use podpin_config::{CertificatePart, ProxyProtocol};
use podpin_wire::client::{Client, ClientCertificate};
use podpin_wire::http1::request_head::{RequestHead, without_port};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::Span;

use crate::balance::service::Kind;
use crate::clock;
use crate::connection::listener::Listener;
use crate::downstream::http1::write_and_linger;
use crate::downstream::lease::ConnectionLease;
use crate::http::reply::ErrorReply;
use crate::limits::connections::ConnectionPermit;
use crate::net::proxy_protocol::{Unheard, introduction};
use crate::net::tls::{Accepted, ServerTls};
use crate::net::transport::Transport;
use crate::request_context::RequestContext;
use crate::routing::snapshot::ConfigSnapshot;
use crate::telemetry::access_log::Record;
use crate::telemetry::labels::{ConnectionProtocol, HandshakeError, Label as _, TlsFailure};

/// An accepted connection without its socket.
pub(crate) struct Connection {
    /// Listener that accepted it.
    pub listener: Arc<Listener>,
    /// Address of the client: the other end, or the one that a trusted peer names in its PROXY header.
    pub peer: SocketAddr,
    /// Number of requests that it has carried.
    pub requests: u32,
    /// Count of the connection; `None` if it is refused.
    pub permit: Option<ConnectionPermit>,
}

/// A connection to a port of TLS.
pub(crate) enum Shaken {
    /// The handshake succeeded.
    Secured {
        /// The encrypted connection.
        transport: Transport,
        /// Whether the client chose HTTP/2.
        is_http2: bool,
    },
    /// The client speaks HTTP in plain text; nothing of it was read.
    Plain(TcpStream),
}

/// The alert `protocol_version` in a record of TLS 1.0 (RFC 8446 section 6, RFC 5246 appendix E.1).
const PROTOCOL_VERSION_ALERT: [u8; 7] = [21, 3, 1, 0, 2, 2, 70];

/// The first bytes of a connection to a port of TLS, of which nothing is read.
enum Beginning {
    /// Letters, as HTTP has them. No record of TLS begins with one.
    Plain,
    /// ClientHello of a client that speaks TLS 1.1 at most. rustls finds fault with the extensions that such a hello lacks first, and its
    /// alert does not say what is wrong.
    TooOld,
    /// Anything else.
    Tls,
}

impl Beginning {
    async fn of(tcp: &TcpStream) -> Beginning {
        // The header of the record, type and length of the hello, the newest version of the client (all from 1.2 on say 1.2).
        let mut first = [0; 11];
        let count = tcp.peek(&mut first).await.unwrap_or(0);
        match first {
            [letter, ..] if count > 0 && letter.is_ascii_alphabetic() => Beginning::Plain,
            [22, 3, _, _, _, 1, _, _, _, 3, minor] if count == first.len() && minor < 3 => Beginning::TooOld,
            _ => Beginning::Tls,
        }
    }
}

impl Connection {
    /// Counts a new connection; without a permit if `limits.connections` is reached.
    pub(crate) fn new(listener: &Arc<Listener>, peer: SocketAddr) -> Connection {
        let shared = &listener.shared;
        let active = shared.metrics.listeners.connections_active.of(&listener.name);
        let permit = shared.connections.try_open(shared.current().limits.connections, active);
        Connection { listener: Arc::clone(listener), peer, requests: 0, permit }
    }

    /// Returns the span of the connection's debug lines.
    pub(crate) fn span(&self) -> Span {
        static IDS: AtomicU64 = AtomicU64::new(1);
        tracing::debug_span!(
            "connection",
            id = IDS.fetch_add(1, Ordering::Relaxed),
            peer = %self.peer,
            listener = %self.listener.name,
        )
    }

    /// Counts the connection among those of its client's network; false if there are too many. A trusted proxy stands for
    /// many clients and has no limit.
    pub(crate) fn limit_network(&mut self) -> bool {
        let snapshot = self.listener.shared.current();
        let address = self.peer.ip();
        match (snapshot.limits.connections_per_client_ip, &mut self.permit) {
            (Some(limit), Some(permit)) if !snapshot.trusts(address) => {
                permit.try_limit_network(address, limit)
            }
            _ => true,
        }
    }

    /// Reads the PROXY header, if the listener has them; returns the client's own bytes that were read with it. `None` if
    /// the connection has ended.
    pub(crate) async fn read_proxy_header(&mut self, tcp: &mut TcpStream) -> Option<BytesMut> {
        match self.listener.settings.proxy_protocol {
            ProxyProtocol::Off => Some(BytesMut::new()),
            header => Box::pin(self.read_header_of_proxy(tcp, header)).await,
        }
    }

    /// Lets a trusted peer name the client, within the time limit of a request head.
    async fn read_header_of_proxy(&mut self, tcp: &mut TcpStream, header: ProxyProtocol) -> Option<BytesMut> {
        let shared = &self.listener.shared;
        let snapshot = shared.snapshot();
        let mut closing = shared.lifecycle.closing();
        let error = if snapshot.trusts(self.peer.ip()) {
            let limit = snapshot.limits.request_header_timeout;
            let read = tokio::select! {
                read = timeout(limit, introduction(tcp, header)) => read,
                _ = closing.wait_for(|closing| *closing) => Ok(Err(Unheard::Closed)),
            };
            match read {
                // Nothing of TLS begins like a header, so bytes that did are neither.
                Ok(Ok(read)) if self.listener.tls().is_some() && !read.ahead.is_empty() => Unheard::Missing,
                Ok(Ok(read)) => {
                    self.peer = read.client.unwrap_or(self.peer);
                    return Some(read.ahead);
                }
                Ok(Err(error)) => error,
                Err(_) => Unheard::Timeout,
            }
        } else if header == ProxyProtocol::Optional {
            return Some(BytesMut::new());
        } else {
            Unheard::Untrusted
        };
        if let Some(reason) = error.label() {
            tracing::debug!(peer = %self.peer, %error, "closed");
            shared.metrics.listeners.proxy_protocol_errors.inc(&self.listener.name, reason);
        }
        None
    }

    /// Makes the TLS handshake within the time limit of a request head; `None` if the connection has ended.
    pub(crate) async fn handshake(&self, tcp: TcpStream) -> Option<Shaken> {
        let tls = self.listener.tls()?;
        let shared = &self.listener.shared;
        let mut closing = shared.lifecycle.closing();
        let limit = shared.current().limits.request_header_timeout;
        let shake = async {
            match Beginning::of(&tcp).await {
                Beginning::Tls => Ok(tls.accept(tcp).await),
                other => Err((other, tcp)),
            }
        };
        let shaken = tokio::select! {
            shaken = timeout(limit, shake) => shaken,
            _ = closing.wait_for(|closing| *closing) => return None,
        };
        let listeners = &shared.metrics.listeners;
        match shaken {
            Ok(Ok(Ok(Accepted { transport, is_http2, version, resumed }))) => {
                listeners.tls_handshakes.inc(&self.listener.name, version, resumed);
                return Some(Shaken::Secured { transport, is_http2 });
            }
            Ok(Ok(Err(failure))) => {
                listeners.tls_handshakes_failed.inc(&self.listener.name, HandshakeError::Failed);
                self.handshake_failed(tls, failure.reason, &failure);
            }
            Ok(Err((Beginning::Plain, tcp))) => {
                listeners.tls_handshakes_failed.inc(&self.listener.name, HandshakeError::Failed);
                self.handshake_failed(tls, TlsFailure::PlainHttp, &"HTTP in plain text on a port of TLS");
                return Some(Shaken::Plain(tcp));
            }
            Ok(Err((_, tcp))) => {
                listeners.tls_handshakes_failed.inc(&self.listener.name, HandshakeError::Failed);
                self.handshake_failed(tls, TlsFailure::Version, &"the client speaks TLS 1.1 at most");
                Box::pin(write_and_linger(Transport::Plain(tcp), &PROTOCOL_VERSION_ALERT)).await;
            }
            Err(_) => {
                listeners.tls_handshakes_failed.inc(&self.listener.name, HandshakeError::Timeout);
                self.handshake_failed(tls, TlsFailure::Timeout, &"no TLS handshake in time");
            }
        }
        None
    }

    /// Counts a handshake that failed, and logs it within a rate.
    fn handshake_failed(&self, tls: &ServerTls, reason: TlsFailure, words: &dyn fmt::Display) {
        let Listener { name, shared, .. } = &*self.listener;
        shared.metrics.listener_tls_failed(name, reason);
        let (peer, label) = (self.peer, reason.label());
        match tls.permits_line(reason, clock::now()) {
            Some(unsaid) => tracing::info!(listener = %name, %peer, reason = label, unsaid, "{words}"),
            None => tracing::debug!(listener = %name, %peer, reason = label, "{words}"),
        }
    }

    /// Counts the connection by its protocol.
    pub(crate) fn count_protocol(&self, protocol: ConnectionProtocol) {
        let listener = &self.listener;
        listener.shared.metrics.listeners.connections_total.inc(&listener.name, protocol);
    }

    /// Counts a request head that is refused.
    pub(crate) fn count_refused(&self, reply: ErrorReply) {
        let code = reply.status().map_or(0, |status| status.as_u16());
        self.listener.shared.metrics.listeners.heads_refused.inc(&self.listener.name, code);
        tracing::debug!(peer = %self.peer, %reply, "request refused");
        let shared = &self.listener.shared;
        if shared.is_logging() {
            let mut log = Record::begun("request", clock::now());
            (log.client, log.status) = (Some(self.peer.ip()), code);
            (log.reason, log.error) = (reply.log_reason(), Some(reply.to_string()));
            shared.log(&log);
        }
    }

    /// Whether a request for this authority belongs on another connection (RFC 9110 section 7.4): the certificate that the
    /// client was shown is not for the host, whatever others are in use by now. Without a name in the TLS hello, for addresses and for a peer in `trustedProxies`,
    /// which speaks for clients of any host, it never does.
    pub(crate) fn is_misdirected(
        &self,
        transport: &Transport,
        authority: &str,
        snapshot: &ConfigSnapshot,
    ) -> bool {
        let host = without_port(authority);
        let is_address = host.is_empty() || host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
        !is_address && transport.covers(host) == Some(false) && !snapshot.trusts(self.peer.ip())
    }

    /// Returns the parts of a client's certificate that endpoints are told.
    pub(crate) fn certificate_parts(&self) -> &[CertificatePart] {
        self.listener.tls().map(|tls| tls.certificate_parts()).unwrap_or_default()
    }

    /// Returns what endpoints are told of the certificate that the client has shown; `None` if it has shown none.
    pub(crate) fn certificate(&self, transport: &Transport) -> Option<Box<ClientCertificate>> {
        transport.certificate(self.certificate_parts())
    }

    /// Counts a request; returns whether it is the last one that the connection may carry.
    pub(crate) fn is_last_request(&mut self, snapshot: &ConfigSnapshot) -> bool {
        self.requests = self.requests.saturating_add(1);
        snapshot.limits.requests_per_connection.is_some_and(|limit| self.requests >= limit)
    }

    /// Returns a request of the connection with the configuration that it sees, not counted; `certificate` is
    /// the client's.
    pub(crate) fn request_context(
        &self,
        snapshot: Arc<ConfigSnapshot>,
        head: RequestHead,
        kind: Kind,
        certificate: Option<Box<ClientCertificate>>,
    ) -> RequestContext {
        let is_tls = self.listener.tls().is_some();
        let mut client = Client::of(self.peer.ip(), is_tls, &head.fields, &snapshot.trusted_proxies);
        client.certificate = certificate;
        let shared = Arc::clone(&self.listener.shared);
        let listener = Arc::clone(&self.listener.name);
        let began = clock::now();
        RequestContext { shared, snapshot, listener, head, kind, client, began, permit: None, offer: None }
    }

    /// Lends the connection to a stream; `None` if it is refused.
    pub(crate) fn into_lease(self) -> Option<ConnectionLease> {
        let Connection { listener, peer, requests, permit } = self;
        Some(ConnectionLease { listener, peer, requests, permit: permit? })
    }
}
