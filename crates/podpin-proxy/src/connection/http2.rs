//! One HTTP/2 connection: accepts its streams, sends each down one of the data paths, and cuts it when it only costs.
//!
//! The accept loop is ours and not Pingora's, because a connection that is cut says so (GOAWAY, RFC 9113 section
//! 5.4.1) and every task has an owner. What one client can make us do is bounded in four places: by the h2 library
//! for the bytes of one head and for streams that end before they begin, here for the fields of a head, by `frames.rs`
//! for trailers and for everything that costs and brings no request, and for silence by the deadlines of `limits`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::Reason;
use http::Method;
use http::header::{self, HeaderMap, HeaderValue};
use pingora::http::RequestHeader;
use pingora::protocols::http::v2::server::{H2Accept, H2Options, HttpSession, default_h2_options, handshake};
use pingora::protocols::{Digest, GetSocketDigest, Ssl, Stream};
use pingora::server::ShutdownWatch;
use podpin_config::ListenerLimits;
use podpin_time::Millis;
use tokio::time::Instant;

use crate::clock;
use crate::connection::Connection;
use crate::downstream::pending::Exchange;
use crate::http::reply::Failure;
use crate::net::transport::Transport;
use crate::request::serve::{self, ClientSide};
use crate::shared::Shared;
use crate::stream::open;
use crate::upgrade::client_stream::ClientStream;
use podpin_wire::client::Client;
use podpin_wire::http1::request_head::{self, FIELDS_MAX, HeadError, RequestHead};
use podpin_wire::http2_flood::{Alarm, Excess, FrameWatch};

/// What one HTTP/2 stream may hold for a client that does not read, beside what the relay holds.
const SEND_BUFFER_BYTES: usize = 16 * 1024;
/// How long a client may take for the GOAWAY before its connection is closed under it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What is shared by the streams of a connection.
struct H2Connection {
    connection: Connection,
    streams: Arc<OpenStreams>,
    closing: ShutdownWatch,
    refusal: Option<Refusal>,
}

/// How many streams an HTTP/2 connection has, and since when it has none.
struct OpenStreams {
    open: AtomicUsize,
    /// All that there ever were.
    opened: AtomicU32,
    idle_since: AtomicU64,
}

/// One stream of an HTTP/2 connection, counted as long as this lives.
pub(crate) struct StreamGuard(Arc<OpenStreams>);

/// There is no room for the connection: each of its requests is told so, as each would be over HTTP/1.
///
/// Not REFUSED_STREAM (RFC 9113 section 8.7), on which browsers try again at once on a connection that is as much one too
/// many as this one: an event stream that only says `retry:` keeps them away for a while.
#[derive(Clone, Copy)]
pub(crate) struct Refusal {
    pub failure: Failure,
    /// When the connection ends, heard or not.
    pub deadline: Instant,
}

/// Serves a connection to its end; `bytes` of it were read already.
pub(crate) async fn serve(
    connection: Connection,
    (tcp, bytes): (Transport, BytesMut),
    closing: ShutdownWatch,
    refusal: Option<Refusal>,
) {
    let alarm = Arc::<Alarm>::default();
    let shared = Arc::clone(&connection.listener.shared);
    let limits = shared.current().limits;
    let watch = FrameWatch::new(Arc::clone(&alarm), limits.request_header_timeout, clock::now());
    let stream = ClientStream::http2((tcp, connection.peer), bytes, watch);
    let streams = OpenStreams::new();
    let app = Arc::new(H2Connection { connection, streams: Arc::clone(&streams), closing, refusal });
    let digest = Arc::new(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: Vec::new(),
        proxy_digest: None,
        socket_digest: stream.get_socket_digest(),
    });
    let stream: Stream = Box::new(stream);
    let shaken = tokio::select! {
        shaken = handshake(stream, Some(options(&limits))) => shaken,
        () = streams.idle(&shared) => return app.count_cut(Excess::Unfinished),
        () = app.heard_enough() => return,
    };
    let mut h2 = match shaken {
        Ok(h2) => h2,
        Err(error) => return tracing::debug!(%error, "no HTTP/2"),
    };
    let excess = tokio::select! {
        () = app.accept(&mut h2, digest) => return,
        excess = std::future::poll_fn(|context| alarm.poll_raised(context)) => Some(excess),
        () = streams.idle(&shared) => None,
        () = app.heard_enough() => None,
    };
    if let Some(excess) = excess {
        app.count_cut(excess);
    }
    h2.abrupt_shutdown(excess.map_or(Reason::NO_ERROR, |_| Reason::ENHANCE_YOUR_CALM));
    let closed = std::future::poll_fn(|context| h2.poll_closed(context));
    if tokio::time::timeout(LAST_WORDS, closed).await.is_err() {
        tracing::debug!(peer = %app.connection.peer, "a client did not take the end of its connection");
    }
}

fn options(limits: &ListenerLimits) -> H2Options {
    let mut options = default_h2_options();
    options.max_header_list_size(u32::try_from(limits.request_header_bytes).unwrap_or(u32::MAX));
    options.max_send_buffer_size(SEND_BUFFER_BYTES);
    // Counted in `frames.rs`, where time heals: the library's count is for the life of a connection.
    options.max_local_error_reset_streams(None);
    options
}

impl H2Connection {
    /// Accepts streams until the connection ends.
    async fn accept(self: &Arc<Self>, h2: &mut h2::server::Connection<Stream, Bytes>, digest: Arc<Digest>) {
        let mut closing = self.closing.clone();
        let mut leaving = false;
        loop {
            let accepted = tokio::select! {
                biased;
                // An error means that nobody is left to say it.
                _ = closing.wait_for(|closing| *closing), if !leaving => {
                    h2.graceful_shutdown();
                    leaving = true;
                    continue;
                }
                accepted = HttpSession::from_h2_conn(h2, Arc::clone(&digest)) => accepted,
            };
            match accepted {
                Ok(Some(H2Accept::Session(mut session))) => {
                    let (app, guard) = (Arc::clone(self), self.streams.guard());
                    let bounded = bound_fields(&mut session);
                    self.connection
                        .listener
                        .shared
                        .lifecycle
                        .tasks
                        .spawn(app.request(session, guard, bounded));
                    if !leaving && self.has_had_enough() {
                        h2.graceful_shutdown();
                        leaving = true;
                    }
                }
                // Answered with 400, or reset and counted as such.
                Ok(Some(H2Accept::Rejected)) => {}
                Ok(None) => return,
                Err(error) => {
                    return tracing::debug!(peer = %self.connection.peer, %error, "an HTTP/2 connection ended");
                }
            }
        }
    }

    /// It takes no new streams any more; those that are open go on to their end.
    fn has_had_enough(&self) -> bool {
        if self.refusal.is_some() {
            return true;
        }
        let limit = self.connection.listener.shared.current().limits.requests_per_connection;
        limit.is_some_and(|limit| self.streams.opened.load(Ordering::Relaxed) >= limit)
    }

    /// Resolves when a connection that is refused has been heard for long enough.
    async fn heard_enough(&self) {
        match self.refusal {
            Some(refusal) => tokio::time::sleep_until(refusal.deadline).await,
            None => std::future::pending().await,
        }
    }

    fn count_cut(&self, excess: Excess) {
        let listener = &self.connection.listener;
        tracing::debug!(peer = %self.connection.peer, ?excess, "an HTTP/2 connection is cut");
        listener.shared.metrics.listeners.http2_connections_cut.inc(&listener.name, excess);
    }

    /// Serves one request, or refuses one whose head is not `bounded`.
    async fn request(
        self: Arc<Self>,
        session: HttpSession,
        guard: StreamGuard,
        bounded: Result<(), HeadError>,
    ) {
        let listener = &self.connection.listener;
        let head = h2_head(session.req_header());
        let checked = bounded.and_then(|()| match head.method {
            Method::CONNECT => Err(HeadError::Connect),
            _ => request_head::check_authority(&head.authority),
        });
        if let Err(error) = checked {
            self.connection.count_refused(error.into());
            return Exchange::H2(Box::new(session), guard).refuse(error.into()).await;
        }
        let wants_events = wants_events(&session);
        if let Some(refusal) = self.refusal.filter(|_| !wants_events) {
            return Exchange::H2(Box::new(session), guard).refuse(refusal.failure).await;
        }
        let shared = Arc::clone(&listener.shared);
        let mut client = Client::of(
            self.connection.peer.ip(),
            listener.tls().is_some(),
            &head.headers,
            &shared.current().trusted_proxies,
        );
        let tls = session.digest().and_then(|digest| digest.ssl_digest.as_ref());
        client.subject = tls.and_then(|tls| tls.organization.clone());
        if !wants_events {
            let side = ClientSide::h2(session, guard);
            let _no_connection = Box::pin(serve::serve(shared, head, client, side)).await;
            return;
        }
        let exchange = Exchange::H2(Box::new(session), guard);
        if let Some(refusal) = self.refusal {
            let refusal = (refusal.failure, exchange);
            return Box::pin(open::turn_away(shared, head, client, refusal)).await;
        }
        drop(self);
        Box::pin(open::serve(shared, head, client, exchange)).await;
    }
}

impl OpenStreams {
    fn new() -> Arc<OpenStreams> {
        let idle_since = AtomicU64::new(clock::now().0);
        Arc::new(OpenStreams { open: AtomicUsize::new(0), opened: AtomicU32::new(0), idle_since })
    }

    fn guard(self: &Arc<Self>) -> StreamGuard {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.opened.fetch_add(1, Ordering::Relaxed);
        StreamGuard(Arc::clone(self))
    }

    /// Resolves when there was no first stream for as long as a head may take, or none at all for as long as an idle
    /// connection is kept.
    async fn idle(&self, shared: &Shared) {
        loop {
            let limits = shared.current().limits;
            let opened = self.opened.load(Ordering::Relaxed) > 0;
            let limit = if opened { limits.keep_alive_timeout } else { limits.request_header_timeout };
            let busy = self.open.load(Ordering::Relaxed) > 0;
            let since = if busy { clock::now() } else { Millis(self.idle_since.load(Ordering::Relaxed)) };
            let due = clock::after(since, limit);
            if due <= clock::now() {
                return;
            }
            tokio::time::sleep_until(clock::instant(due)).await;
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.idle_since.store(clock::now().0, Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Refuses a head of more than [`FIELDS_MAX`] fields, each cookie line counted, and frees the fields at once: a client
/// whose window is shut would hold them for as long as the answer waits.
fn bound_fields(session: &mut HttpSession) -> Result<(), HeadError> {
    if session.req_header().headers.len() <= FIELDS_MAX {
        return Ok(());
    }
    if let Ok(empty) = RequestHeader::build(Method::GET, b"/", None) {
        *session.req_header_mut() = empty;
    }
    Err(HeadError::TooLarge)
}

fn wants_events(session: &HttpSession) -> bool {
    let head = session.req_header();
    let accepts = head.headers.get_all(header::ACCEPT).iter();
    head.method == Method::GET
        && session.is_body_empty()
        && accepts.into_iter().any(|value| request_head::accepts_event_stream(value.as_bytes()))
}

fn h2_head(head: &RequestHeader) -> RequestHead {
    let authority = head.uri.authority().map(|authority| authority.as_str().to_owned());
    let host = || head.headers.get(header::HOST).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut headers = head.headers.clone();
    join_cookies(&mut headers);
    RequestHead {
        method: head.method.clone(),
        target: head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        version: head.version,
        headers,
        authority: authority.or_else(host).unwrap_or_default(),
    }
}

/// RFC 9113 section 8.2.3: a client may send a line for each cookie, which HTTP/1.1 does not know.
fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}
