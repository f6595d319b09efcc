//! An HTTP/2 connection: drives its socket, sends each request down one of the data paths, and ends it.
//!
//! The protocol is that of `podpin_h2`, which also bounds what one client can cost; the streams' side of the connection is
//! in `downstream/http2_connection.rs`. A connection that is cut gets a GOAWAY that says so (RFC 9113 section 5.4.1).

use std::future::{Future, poll_fn, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;

use futures_util::FutureExt as _;
use http::{Method, Version};
use podpin_h2::{Cause, Closed, Head, HeadText, Trust};
use podpin_wire::client::ClientCertificate;
use podpin_wire::fields::Fields;
use podpin_wire::http1::request_head::{self, HeadError, RequestHead};
use tokio::time::Instant;
use tracing::Instrument;

use crate::balance::service::Kind;
use crate::clock;
use crate::connection::accepted::Connection;
use crate::downstream::http1::IdleConnection;
use crate::downstream::http1::write_and_linger;
use crate::downstream::http2::Http2Stream;
use crate::downstream::http2_connection::{Arrival, Http2Connection, Progress, Remainder};
use crate::downstream::pending::{PendingResponse, Reuse};
use crate::http::reply::{ErrorReply, ResponseBody};
use crate::net::transport::Transport;
use crate::request::serve;
use crate::request::served::Served;
use crate::upstream::{unserved, websocket_key};

/// Multiple of the flood budgets for a peer in `trustedProxies`, which speaks for many clients.
const TRUSTED_FACTOR: u16 = 1000;

/// The task of a request.
type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The parts of a connection that its requests need.
struct Requests {
    connection: Connection,
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

/// Something that happened to a connection.
enum Happened {
    Progress(Progress),
    /// The process takes no more requests.
    Closing,
    /// The deadline of a refused connection.
    Deadline,
}

/// Serves a connection to its end.
#[expect(clippy::manual_async_fn, reason = "an async function has room for each argument twice")]
pub(crate) fn serve(
    connection: Connection,
    idle: IdleConnection,
    refusal: Option<Refusal>,
) -> impl Future<Output = ()> + Send {
    async move {
        let shared = Arc::clone(&connection.listener.shared);
        let trusted = shared.current().trusts(connection.peer.ip());
        let trust = if trusted { Trust::Proxy(TRUSTED_FACTOR) } else { Trust::Client };
        let config = Arc::clone(&shared.current().http2);
        let http2 = Http2Connection::new(idle.transport, idle.ahead, config, trust);
        let requests = Requests { connection, refusal };
        let mut closing = shared.lifecycle.closing();
        let mut timer = pin!(clock::unset_timer());
        let mut is_leaving = false;
        let closed = loop {
            // Limits in force hold for the next head, whenever it comes.
            let progress = poll_fn(|context| http2.poll(context, timer.as_mut(), &shared.current().http2));
            let happened = tokio::select! {
                biased;
                // An error means that the sender is gone, as after a shutdown.
                _ = closing.wait_for(|closing| *closing), if !is_leaving => Happened::Closing,
                () = requests.refusal_deadline() => Happened::Deadline,
                progress = progress => Happened::Progress(progress),
            };
            let leaves = match happened {
                Happened::Progress(Progress::Ended(closed)) => break closed,
                Happened::Progress(Progress::Arrivals(arrivals)) => {
                    for Arrival { stream, head } in arrivals {
                        let client = PendingResponse::H2(Http2Stream::new(Arc::clone(&http2), stream));
                        let request = requests.task(
                            client,
                            head,
                            http2.certificate(requests.connection.certificate_parts()),
                        );
                        shared.lifecycle.spawn(request.in_current_span());
                    }
                    requests.takes_no_more(http2.opened_streams())
                }
                Happened::Closing => true,
                Happened::Deadline => {
                    http2.close();
                    break None;
                }
            };
            if leaves && !is_leaving {
                http2.shut_down();
                is_leaving = true;
            }
        };
        if let Some(closed) = closed {
            requests.count_end(closed);
        }
        if let Some(Remainder { transport, output }) = http2.take_remainder() {
            if output.is_empty() && closed.is_none() {
                transport.close();
            } else {
                Box::pin(write_and_linger(transport, &output)).await;
            }
        }
    }
}

impl Requests {
    /// Whether the connection takes no new streams any more; open ones go on to their end.
    fn takes_no_more(&self, opened: u32) -> bool {
        if self.refusal.is_some() {
            return true;
        }
        let limit = self.connection.listener.shared.current().limits.requests_per_connection;
        limit.is_some_and(|limit| opened >= limit)
    }

    /// Resolves at the deadline of a refused connection, else never.
    async fn refusal_deadline(&self) {
        match self.refusal {
            Some(refusal) => tokio::time::sleep_until(refusal.deadline).await,
            None => std::future::pending().await,
        }
    }

    /// Counts and logs a connection that ended before its client had closed it.
    fn count_end(&self, closed: Closed) {
        let (listener, peer) = (&self.connection.listener, self.connection.peer);
        tracing::debug!(%peer, code = ?closed.code, cause = %closed.cause, "an HTTP/2 connection ends");
        if let Cause::Excess(excess) = closed.cause {
            listener.shared.metrics.listeners.http2_connections_cut.inc(&listener.name, excess);
        }
    }

    /// Returns the task of one request, which serves it or refuses it: no more than the path that it takes, as many wait
    /// at a time.
    fn task(
        &self,
        client: PendingResponse,
        head: Result<Box<Head>, HeadError>,
        certificate: Option<Box<ClientCertificate>>,
    ) -> Task {
        let offers_web_socket = matches!(&head, Ok(head) if head.protocol() == Some(b"websocket"));
        let head = match head.and_then(|head| request_head(*head)) {
            Ok(head) => head,
            Err(error) => {
                self.connection.count_refused(error.into());
                return refuse(client, error.into(), ResponseBody::Whole);
            }
        };
        // The one configuration that the request sees, from here to its end.
        let snapshot = self.connection.listener.shared.snapshot();
        let is_misdirected =
            |transport: &Transport| self.connection.is_misdirected(transport, head.authority(), &snapshot);
        if client.transport(is_misdirected) == Some(true) {
            self.connection.count_refused(ErrorReply::Misdirected);
            return refuse(client, ErrorReply::Misdirected, ResponseBody::to(&head.method));
        }
        let wants_events = wants_events(&head, client.is_body_read());
        if let Some(refusal) = self.refusal.filter(|_| !wants_events) {
            return refuse(client, refusal.reply, ResponseBody::Whole);
        }
        let kind = if wants_events { Kind::Stream } else { Kind::Request };
        let context = self.connection.request_context(snapshot, head, kind, certificate);
        let context =
            if offers_web_socket { context.with_web_socket(websocket_key::draw()) } else { context };
        if let Some(refusal) = self.refusal {
            return Box::pin(unserved::turn_away(context, refusal.reply, client).map(drop));
        }
        Box::pin(serve::serve(context.counted(), client).map(|served| match served {
            Served::Stream(stream) => stream.begin(None),
            Served::Tunnel(tunnel) => tunnel.begin(None),
            Served::Idle(_) | Served::Closed => {}
        }))
    }
}

fn refuse(client: PendingResponse, reply: ErrorReply, body: ResponseBody) -> Task {
    match reply.response() {
        Some(response) => Box::pin(client.answer(response, body, Reuse::Refused).map(drop)),
        None => Box::pin(ready(())),
    }
}

fn wants_events(head: &RequestHead, is_complete: bool) -> bool {
    head.method == Method::GET && is_complete && request_head::names_event_streams(&head.fields)
}

/// Returns a head as HTTP/1 has it, in the memory that it has already. The offer of a WebSocket is a GET there.
fn request_head(head: Head) -> Result<RequestHead, HeadError> {
    const MALFORMED: HeadError = HeadError::Malformed("a field that HTTP/1.1 does not allow");
    let method = match head.protocol() {
        Some(b"websocket") => Method::GET,
        Some(_) | None => Method::from_bytes(head.method()).map_err(|_| MALFORMED)?,
    };
    let Some(path) = head.path().filter(|_| method != Method::CONNECT) else {
        return Err(HeadError::Connect);
    };
    if method == Method::TRACE {
        return Err(HeadError::Trace);
    }
    std::str::from_utf8(path).map_err(|_| HeadError::Malformed("the request target is not UTF-8"))?;
    request_head::check_authority(std::str::from_utf8(head.authority()).map_err(|_| MALFORMED)?)?;
    let HeadText { text, path, authority, lines } = head.into_text();
    let fields = Fields::within(text.into(), lines).ok_or(HeadError::TooLarge)?;
    if fields.iter().any(|(name, _)| name.len() > request_head::NAME_BYTES_MAX) {
        return Err(HeadError::TooLarge);
    }
    let target = path.unwrap_or_default();
    RequestHead::new(method, Version::HTTP_2, fields, target, authority).ok_or(HeadError::TooLarge)
}
