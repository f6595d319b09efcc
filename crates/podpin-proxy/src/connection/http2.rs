//! One HTTP/2 connection: accepts its streams, sends each down one of the data paths, and cuts it when it only costs.
//!
//! The accept loop is the proxy's own and not Pingora's, because a connection that is cut says so (GOAWAY, RFC 9113 section
//! 5.4.1) and every task has an owner. The work that one client can cause is bounded in four places: by the h2 library
//! for the bytes of one head and for streams that end before they begin, here for the fields of a head, by
//! `podpin_wire::http2_flood` for trailers and for everything that costs and brings no request, and for silence by the
//! deadlines of `limits`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Method;
use http::header::{self, HeaderMap, HeaderValue};
use pingora::http::RequestHeader;
use pingora::protocols::http::v2::server::{H2Accept, H2Options, HttpSession, default_h2_options, handshake};
use pingora::protocols::{Digest, GetSocketDigest, Ssl, Stream};
use podpin_config::ListenerLimits;
use podpin_wire::http1::request_head::{self, FIELDS_MAX, HeadError, RequestHead};
use podpin_wire::http2_flood::{FloodAlarm, FloodKind, FrameWatch};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument;

use crate::clock;
use crate::connection::accepted::Connection;
use crate::downstream::http2::Http2Request;
use crate::downstream::lease::{OpenStreams, StreamLease};
use crate::downstream::pending::{IdleConnection, PendingResponse, Reuse};
use crate::http::reply::{ErrorReply, ResponseBody};
use crate::request::serve;
use crate::shared::Shared;
use crate::stream::open;
use crate::upgrade::client_stream::ClientStream;

/// Bytes that one HTTP/2 stream may hold for a client that does not read, beside those that the relay holds.
const SEND_BUFFER_BYTES: usize = 16 * 1024;
/// Time that a client has for the GOAWAY before its connection is closed under it.
const GOAWAY_GRACE: Duration = Duration::from_secs(1);

/// The state that the streams of a connection share.
struct Http2Connection {
    connection: Connection,
    streams: Arc<OpenStreams>,
    closing: watch::Receiver<bool>,
    refusal: Option<Refusal>,
}

/// The reply to each request of a connection that there is no room for, as each would get it over HTTP/1.
///
/// Not REFUSED_STREAM (RFC 9113 section 8.7), on which browsers try again at once on a connection that is as much one too
/// many as this one: an event stream that only says `retry:` keeps them away for a while.
#[derive(Clone, Copy)]
pub(crate) struct Refusal {
    /// The reply itself.
    pub reply: ErrorReply,
    /// End of the connection, whether a request was read or not.
    pub deadline: Instant,
}

/// Serves a connection to its end.
pub(crate) async fn serve(connection: Connection, idle: IdleConnection, refusal: Option<Refusal>) {
    let IdleConnection { transport, ahead } = idle;
    let alarm = Arc::<FloodAlarm>::default();
    let shared = Arc::clone(&connection.listener.shared);
    let limits = shared.current().limits;
    let watch = FrameWatch::new(Arc::clone(&alarm), limits.request_header_timeout, clock::now());
    let stream = ClientStream::http2(transport, connection.peer, ahead, watch);
    let streams = OpenStreams::new(clock::now());
    let closing = shared.lifecycle.closing();
    let app = Arc::new(Http2Connection { connection, streams: Arc::clone(&streams), closing, refusal });
    let digest = Arc::new(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: Vec::new(),
        proxy_digest: None,
        socket_digest: stream.get_socket_digest(),
    });
    let stream: Stream = Box::new(stream);
    let shaken = tokio::select! {
        shaken = handshake(stream, Some(options(&limits))) => shaken,
        () = idle_for_too_long(&streams, &shared) => return app.count_cut(FloodKind::Unfinished),
        () = app.refusal_deadline() => return,
    };
    let mut h2 = match shaken {
        Ok(h2) => h2,
        Err(error) => return tracing::debug!(%error, "no HTTP/2"),
    };
    let flood = tokio::select! {
        () = app.accept(&mut h2, digest) => return,
        flood = std::future::poll_fn(|context| alarm.poll_raised(context)) => Some(flood),
        () = idle_for_too_long(&streams, &shared) => None,
        () = app.refusal_deadline() => None,
    };
    if let Some(flood) = flood {
        app.count_cut(flood);
    }
    h2.abrupt_shutdown(flood.map_or(Reason::NO_ERROR, |_| Reason::ENHANCE_YOUR_CALM));
    let closed = std::future::poll_fn(|context| h2.poll_closed(context));
    if tokio::time::timeout(GOAWAY_GRACE, closed).await.is_err() {
        tracing::debug!(peer = %app.connection.peer, "a client did not take the end of its connection");
    }
}

fn options(limits: &ListenerLimits) -> H2Options {
    let mut options = default_h2_options();
    options.max_header_list_size(u32::try_from(limits.request_header_bytes).unwrap_or(u32::MAX));
    options.max_send_buffer_size(SEND_BUFFER_BYTES);
    // The flood guard counts these with a budget that refills: the library's count is for the life of a connection.
    options.max_local_error_reset_streams(None);
    options
}

impl Http2Connection {
    /// Accepts streams until the connection ends.
    async fn accept(self: &Arc<Self>, h2: &mut h2::server::Connection<Stream, Bytes>, digest: Arc<Digest>) {
        let mut closing = self.closing.clone();
        let mut leaving = false;
        loop {
            let accepted = tokio::select! {
                biased;
                // An error means that the sender is gone, as after a shutdown.
                _ = closing.wait_for(|closing| *closing), if !leaving => {
                    h2.graceful_shutdown();
                    leaving = true;
                    continue;
                }
                accepted = HttpSession::from_h2_conn(h2, Arc::clone(&digest)) => accepted,
            };
            match accepted {
                Ok(Some(H2Accept::Session(mut session))) => {
                    let (app, lease) = (Arc::clone(self), self.streams.lease());
                    let bounded = bound_fields(&mut session);
                    let tasks = &self.connection.listener.shared.lifecycle.tasks;
                    tasks.spawn(app.request(session, lease, bounded).in_current_span());
                    if !leaving && self.takes_no_more() {
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

    /// Whether the connection takes no new streams any more; open ones go on to their end.
    fn takes_no_more(&self) -> bool {
        if self.refusal.is_some() {
            return true;
        }
        let limit = self.connection.listener.shared.current().limits.requests_per_connection;
        limit.is_some_and(|limit| self.streams.opened() >= limit)
    }

    /// Resolves at the deadline of a refused connection, else never.
    async fn refusal_deadline(&self) {
        match self.refusal {
            Some(refusal) => tokio::time::sleep_until(refusal.deadline).await,
            None => std::future::pending().await,
        }
    }

    fn count_cut(&self, flood: FloodKind) {
        let listener = &self.connection.listener;
        tracing::debug!(peer = %self.connection.peer, ?flood, "an HTTP/2 connection is cut");
        listener.shared.metrics.listeners.http2_connections_cut.inc(&listener.name, flood);
    }

    /// Serves one request, or refuses one whose head is not `bounded`.
    async fn request(
        self: Arc<Self>,
        session: HttpSession,
        lease: StreamLease,
        bounded: Result<(), HeadError>,
    ) {
        let head = request_head(session.req_header());
        let checked = bounded.and_then(|()| match head.method {
            Method::CONNECT => Err(HeadError::Connect),
            _ => request_head::check_authority(&head.authority),
        });
        let wants_events = wants_events(&session);
        let tls = session.digest().and_then(|digest| digest.ssl_digest.as_ref());
        let subject = tls.and_then(|tls| tls.organization.clone());
        let client = PendingResponse::http2(Http2Request::new(session), lease);
        if let Err(error) = checked {
            self.connection.count_refused(error.into());
            return refuse(client, error.into()).await;
        }
        if let Some(refusal) = self.refusal.filter(|_| !wants_events) {
            return refuse(client, refusal.reply).await;
        }
        // The one configuration that the request sees, from here to its end.
        let snapshot = self.connection.listener.shared.snapshot();
        let context = self.connection.request_context(snapshot, head, subject);
        if !wants_events {
            let _no_connection = Box::pin(serve::serve(context, client)).await;
            return;
        }
        if let Some(refusal) = self.refusal {
            return Box::pin(open::turn_away(context, refusal.reply, client)).await;
        }
        drop(self);
        Box::pin(open::serve(context, client)).await;
    }
}

async fn refuse(client: PendingResponse, reply: ErrorReply) {
    if let Some(response) = reply.response() {
        client.answer(response, ResponseBody::Whole, Reuse::Refused).await;
    }
}

/// Resolves when there was no first stream for as long as a head may take, or none at all for as long as an idle
/// connection is kept.
async fn idle_for_too_long(streams: &OpenStreams, shared: &Shared) {
    loop {
        let limits = shared.current().limits;
        let now = clock::now();
        let due = streams.idle_due(now, limits.request_header_timeout, limits.keep_alive_timeout);
        if due <= now {
            return;
        }
        tokio::time::sleep_until(clock::instant(due)).await;
    }
}

/// Refuses a head of more than [`FIELDS_MAX`] fields, each cookie field counted, and frees the fields at once: a client
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

fn request_head(head: &RequestHeader) -> RequestHead {
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

/// Joins the cookies: a client may send a field for each (RFC 9113 section 8.2.3), which HTTP/1.1 does not know.
fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_over_http1() {
        let mut head = RequestHeader::build(Method::GET, b"/a?b", None).unwrap();
        for cookie in ["a=1", "b=2"] {
            head.append_header(header::COOKIE, cookie).unwrap();
        }
        head.append_header(header::HOST, "example.com").unwrap();
        let read = request_head(&head);
        assert_eq!((read.path(), read.query(), &*read.authority), ("/a", Some("b"), "example.com"));
        assert_eq!(read.headers.get(header::COOKIE).unwrap(), "a=1; b=2");
    }
}
