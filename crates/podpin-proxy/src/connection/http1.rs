//! The serve loop of one HTTP/1 connection, from its first byte to its end or to an event stream that takes its socket.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;
use http::{Version, header};
use podpin_wire::http1::body::{BodyDecoder, FIRST_CHUNK};
use podpin_wire::http1::request_head::{RequestBody, RequestFraming, RequestHead};
use tokio::net::TcpStream;

use crate::balance::service::Kind;
use crate::connection::accepted::{Connection, Shaken};
use crate::connection::head_reader::{self, Next, ReceivedRequest};
use crate::connection::http2;
use crate::connection::listener::Listener;
use crate::connection::plain_http;
use crate::connection::refusal::{refuse_head, turn_away};
use crate::downstream::http1::IdleConnection;
use crate::downstream::lease::{ConnectionLease, ResumeConnection};
use crate::downstream::pending::{Http1Terms, PendingResponse, Reuse};
use crate::http::reply::{ErrorReply, ResponseBody};
use crate::net::transport::Transport;
use crate::request::serve;
use crate::request::served::Served;
use crate::routing::snapshot::ConfigSnapshot;
use crate::telemetry::labels::ConnectionProtocol;

/// Serves a connection to its end, or until an event stream takes the socket.
#[expect(clippy::manual_async_fn, reason = "an async function has room for each argument twice")]
pub(crate) fn serve(mut connection: Connection, mut tcp: TcpStream) -> impl Future<Output = ()> + Send {
    async move {
        let Some(ahead) = connection.read_proxy_header(&mut tcp).await else { return };
        if !connection.limit_network() {
            return turn_away(connection, tcp, Some(ahead), ErrorReply::ClientConnections);
        }
        if connection.listener.tls().is_none() {
            let idle = IdleConnection { transport: Transport::Plain(tcp), ahead };
            return serve_requests(connection, idle, true).await;
        }
        let (transport, is_http2) = match Box::pin(connection.handshake(tcp)).await {
            Some(Shaken::Secured { transport, is_http2 }) => (transport, is_http2),
            Some(Shaken::Plain(tcp)) => return plain_http::answer(&connection, tcp).await,
            None => return,
        };
        let idle = IdleConnection { transport, ahead: BytesMut::new() };
        if is_http2 {
            connection.count_protocol(ConnectionProtocol::Http2);
            return Box::pin(http2::serve(connection, idle, None)).await;
        }
        serve_requests(connection, idle, true).await;
    }
}

impl ResumeConnection for Listener {
    fn resume(self: Arc<Self>, lease: ConnectionLease, idle: IdleConnection) {
        let shared = Arc::clone(&self.shared);
        let ConnectionLease { peer, requests, permit, .. } = lease;
        let connection = Connection { listener: self, peer, requests, permit: Some(permit) };
        let span = connection.span();
        shared.lifecycle.spawn_in(span, serve_requests(connection, idle, false));
    }
}

#[expect(clippy::manual_async_fn, reason = "an async function has room for each argument twice")]
fn serve_requests(
    mut connection: Connection,
    mut idle: IdleConnection,
    mut is_first: bool,
) -> impl Future<Output = ()> + Send {
    async move {
        let mut closing = connection.listener.shared.lifecycle.closing();
        loop {
            let next = head_reader::next(&connection.listener, &mut idle, is_first, &mut closing).await;
            let mut received = match next {
                Next::Closed => return idle.transport.close(),
                Next::Refused(reply) => return refuse_head(&connection, idle.transport, reply).await,
                Next::Http2 => {
                    connection.count_protocol(ConnectionProtocol::Http2);
                    return Box::pin(http2::serve(connection, idle, None)).await;
                }
                Next::Request(received) => received,
            };
            if is_first {
                connection.count_protocol(ConnectionProtocol::Http1);
            }
            // The one configuration that the request sees, from here to its end.
            let snapshot = connection.listener.shared.snapshot();
            received.framing.keep_alive &= !connection.is_last_request(&snapshot) && !*closing.borrow();
            if connection.is_misdirected(&idle.transport, received.head.authority(), &snapshot) {
                connection.count_refused(ErrorReply::Misdirected);
                let Some(next) = Box::pin(misdirect(idle, *received)).await else { return };
                (idle, is_first) = (next, false);
                continue;
            }
            match serve_request(&connection, idle, received, snapshot).await {
                Served::Idle(next) => idle = next,
                Served::Closed => return,
                Served::Stream(stream) => return stream.begin(connection.into_lease()),
                Served::Tunnel(tunnel) => return tunnel.begin(connection.into_lease()),
            }
            is_first = false;
        }
    }
}

/// Refuses a request that belongs on another connection, where its client may send it at once. Returns the connection if it
/// may carry another request.
async fn misdirect(idle: IdleConnection, received: ReceivedRequest) -> Option<IdleConnection> {
    let ReceivedRequest { head, framing, .. } = received;
    let client = PendingResponse::http1(idle, terms(&head, &framing));
    let response = ErrorReply::Misdirected.response()?;
    client.answer(response, ResponseBody::to(&head.method), Reuse::Allowed).await
}

/// Serves one request. Boxed: every idle connection would have room for it.
#[expect(clippy::boxed_local, reason = "the caller keeps it boxed beside an idle connection")]
fn serve_request<'a>(
    connection: &'a Connection,
    idle: IdleConnection,
    received: Box<ReceivedRequest>,
    snapshot: Arc<ConfigSnapshot>,
) -> Pin<Box<dyn Future<Output = Served> + Send + 'a>> {
    let ReceivedRequest { head, framing, .. } = *received;
    let terms = terms(&head, &framing);
    let kind = if framing.event_stream { Kind::Stream } else { Kind::Request };
    let context = connection.request_context(snapshot, head, kind, connection.certificate(&idle.transport));
    let context = if framing.offers_upgrade { context.with_offer() } else { context.counted() };
    Box::pin(serve::serve(context, PendingResponse::http1(idle, terms)))
}

/// Returns the decoder of a request body.
fn body_decoder(body: RequestBody) -> BodyDecoder {
    match body {
        RequestBody::Length(0) => BodyDecoder::Done,
        RequestBody::Length(length) => BodyDecoder::Length(length),
        RequestBody::Chunked => BodyDecoder::Chunked(FIRST_CHUNK),
    }
}

fn terms(head: &RequestHead, framing: &RequestFraming) -> Http1Terms {
    Http1Terms {
        body: body_decoder(framing.body),
        is_http10: head.version == Version::HTTP_10,
        keep_alive: framing.keep_alive,
        expects_continue: head.fields.contains(&header::EXPECT),
    }
}
