//! Connections that there is no room for, and request heads that are refused.
//!
//! A refused client's request is read before the reply, because a browser's `EventSource` stops for good on a 503 (WHATWG
//! HTML, section 9.2.3) and an event stream that only says `retry:` brings it back. A crowd must cost nothing, though:
//! there are few slots, each for a short time, and a client without one gets the 503 in one write, or over TLS, where that
//! would cost a handshake, nothing at all.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use podpin_wire::http1::body::BodyDecoder;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::balance::service::Kind;
use crate::connection::accepted::{Connection, Shaken};
use crate::connection::head_reader::{self, Next, ReceivedRequest};
use crate::connection::http2::{self, Refusal};
use crate::downstream::http1::IdleConnection;
use crate::downstream::http1::close_with;
use crate::downstream::pending::{Http1Terms, PendingResponse};
use crate::http::reply::ErrorReply;
use crate::limits::connections::RefusalSlot;
use crate::net::transport::Transport;
use crate::telemetry::labels::ConnectionLimit;
use crate::upstream::unserved;

/// Time in which the request of a refused client is read: it comes right behind the connection, one round trip is enough.
const READ_LIMIT: Duration = Duration::from_secs(1);
/// The same over TLS, whose handshake takes one or two round trips more.
const READ_LIMIT_TLS: Duration = Duration::from_secs(2);

/// Replies to a request head that is refused, and closes the connection.
pub(crate) async fn refuse_head(connection: &Connection, transport: Transport, reply: ErrorReply) {
    connection.count_refused(reply);
    if let Some(response) = reply.response() {
        Box::pin(close_with(transport, &response)).await;
    }
}

/// Refuses a connection that there is no room for. `ahead` are bytes that were read already; `None` if the PROXY header
/// was not read yet.
pub(crate) fn turn_away(
    mut connection: Connection,
    tcp: TcpStream,
    ahead: Option<BytesMut>,
    reply: ErrorReply,
) {
    connection.permit = None;
    let shared = Arc::clone(&connection.listener.shared);
    let limit = match reply {
        ErrorReply::Connections => ConnectionLimit::All,
        _ => ConnectionLimit::Client,
    };
    shared.metrics.listeners.connections_refused.inc(&connection.listener.name, limit);
    match shared.connections.try_refuse() {
        Some(slot) => {
            let span = connection.span();
            let refused = read_and_refuse(connection, slot, tcp, ahead, reply);
            shared.lifecycle.spawn_in(span, refused);
        }
        None if connection.listener.tls().is_some() => {}
        None => refuse_at_once(&tcp, reply),
    }
}

/// Reads a refused client's request and replies to it.
async fn read_and_refuse(
    mut connection: Connection,
    _slot: RefusalSlot,
    mut tcp: TcpStream,
    ahead: Option<BytesMut>,
    reply: ErrorReply,
) {
    let over_tls = connection.listener.tls().is_some();
    let deadline = Instant::now() + if over_tls { READ_LIMIT_TLS } else { READ_LIMIT };
    let ahead = match ahead {
        Some(ahead) => ahead,
        None => match timeout_at(deadline, connection.read_proxy_header(&mut tcp)).await {
            Ok(Some(ahead)) => ahead,
            Ok(None) | Err(_) => return,
        },
    };
    let refusal = Refusal { reply, deadline };
    let transport = if over_tls {
        match timeout_at(deadline, Box::pin(connection.handshake(tcp))).await {
            Ok(Some(Shaken::Secured { transport, is_http2: true })) => {
                let idle = IdleConnection { transport, ahead };
                return Box::pin(http2::serve(connection, idle, Some(refusal))).await;
            }
            Ok(Some(Shaken::Secured { transport, is_http2: false })) => transport,
            Ok(Some(Shaken::Plain(_)) | None) | Err(_) => return,
        }
    } else {
        Transport::Plain(tcp)
    };
    refuse_request(connection, IdleConnection { transport, ahead }, refusal).await;
}

async fn refuse_request(connection: Connection, mut idle: IdleConnection, refusal: Refusal) {
    let mut closing = connection.listener.shared.lifecycle.closing();
    let next = head_reader::next(&connection.listener, &mut idle, true, &mut closing);
    match timeout_at(refusal.deadline, next).await {
        Ok(Next::Request(received)) if received.framing.event_stream => {
            Box::pin(refuse_event_stream(connection, idle, *received, refusal.reply)).await;
        }
        Ok(Next::Request(_) | Next::Refused(_)) | Err(_) => {
            if let Some(response) = refusal.reply.response() {
                Box::pin(close_with(idle.transport, &response)).await;
            }
        }
        Ok(Next::Http2) => Box::pin(http2::serve(connection, idle, Some(refusal))).await,
        // The client left without a request.
        Ok(Next::Closed) => {}
    }
}

async fn refuse_event_stream(
    connection: Connection,
    idle: IdleConnection,
    received: ReceivedRequest,
    reply: ErrorReply,
) {
    let ReceivedRequest { head, .. } = received;
    let is_http10 = head.version == http::Version::HTTP_10;
    let snapshot = connection.listener.shared.snapshot();
    let context =
        connection.request_context(snapshot, head, Kind::Stream, connection.certificate(&idle.transport));
    let terms = Http1Terms { body: BodyDecoder::Done, is_http10, keep_alive: false, expects_continue: false };
    unserved::turn_away(context, reply, PendingResponse::http1(idle, terms)).await;
}

/// Writes the reply into a fresh socket's empty buffer, and closes.
fn refuse_at_once(tcp: &TcpStream, reply: ErrorReply) {
    if let Err(error) = socket2::SockRef::from(tcp).send(&reply.http1_close()) {
        tracing::trace!(%error, "a client left before it was turned away");
    }
}
