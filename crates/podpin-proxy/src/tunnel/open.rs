//! The beginning of an upgraded connection: an endpoint has taken the client's offer of another protocol, and the connection
//! goes on as a [`Relay`], detached from what served the request.

use std::sync::Arc;

use http::StatusCode;
use podpin_drain::{Departure, Mobility};
use podpin_wire::upgrade::is_web_socket;
use podpin_ws::{Protocol, Settings};

use crate::affinity::selected::Selected;
use crate::clock;
use crate::downstream::lease::ConnectionLease;
use crate::downstream::pending::{PendingResponse, SwitchedClient};
use crate::net::socket_options;
use crate::request_context::RequestContext;
use crate::shared::InFlight;
use crate::stream::account::{Accounts, Finished, Permits};
use crate::stream_registry::{self, ReturnEvidence, StreamRecord};
use crate::telemetry::labels::{OpenedStream, Resumption};
use crate::tunnel::ends::Ends;
use crate::tunnel::relay::{Relay, Start};
use crate::tunnel::task::TunnelTask;
use crate::upstream::attempts::Attempts;
use crate::upstream::connect::UpstreamResponse;
use crate::upstream::rewrite;

/// An endpoint that takes another protocol, with the places of the connection.
pub(crate) struct Switched {
    /// The response, its head read.
    pub response: UpstreamResponse,
    /// Places under the limits of the endpoint and of the client.
    pub permits: Permits,
    /// Bytes of interim responses that an HTTP/1 client has not taken.
    pub interim: Vec<u8>,
    /// The protocol.
    pub protocol: Box<str>,
}

/// A request whose offer was taken, and its client, which does not know that yet.
pub(crate) struct PendingTunnel {
    /// The request.
    pub context: RequestContext,
    /// The attempts, with the endpoint that answered.
    pub attempts: Attempts,
    /// The response.
    pub switched: Switched,
    /// The client.
    pub client: PendingResponse,
    /// The request's share in what a shutdown waits for, until the connection is registered.
    pub in_flight: InFlight,
}

impl PendingTunnel {
    /// Answers the client and starts the relay, which takes an HTTP/1 connection with it by its `lease`.
    pub(crate) fn begin(self, lease: Option<ConnectionLease>) {
        let PendingTunnel { context, attempts, switched, client, in_flight } = self;
        let Switched { response: UpstreamResponse { start, transport }, permits, interim, protocol } =
            switched;
        let fields = rewrite::switch_headers(&context, &attempts, &protocol, start.head.headers);
        let protocol_kind = if is_web_socket(&protocol) { Protocol::WebSocket } else { Protocol::Other };
        let Some(accounts) = accounts(&context, &attempts, protocol) else { return };
        count(&context, &attempts);
        let record = Arc::clone(accounts.record());
        record.note_return(return_evidence(&attempts), clock::now());
        note_departure(&record, protocol_kind);
        let Some(SwitchedClient { client, head, ahead }) = client.switch(&fields) else {
            accounts.settle(Finished::client_gone());
            return;
        };
        if let Err(error) = socket_options::watch(transport.tcp(), &context.snapshot.limits) {
            tracing::debug!(%error, "an endpoint closed its connection at once");
        }
        let shared = &context.shared;
        let relay = Relay::new(Start {
            ends: Ends { client, upstream: transport },
            to_client: [interim, head].concat(),
            early: start.rest,
            ahead,
            settings: settings(&attempts, protocol_kind),
            streams: Arc::clone(&shared.streams),
            record,
            permits,
        });
        shared.lifecycle.spawn(TunnelTask::new(relay, accounts, lease));
        drop(in_flight);
    }
}

/// Returns whether the pin of the request shows that another connection of the client was ended, by whichever replica.
fn return_evidence(attempts: &Attempts) -> ReturnEvidence {
    let has_left = attempts.selected().is_some_and(Selected::has_left);
    if has_left { ReturnEvidence::LeftEndpoint } else { ReturnEvidence::None }
}

/// Counts the response and the connection that begins with it.
fn count(context: &RequestContext, attempts: &Attempts) {
    let (request, selected) = (&attempts.request, attempts.selected());
    request.count_decision(selected);
    context.count(Some(&request.route), status(context).as_u16());
    let opened = OpenedStream::of(request.decision(selected), Resumption::Fresh);
    request.service().metrics.upgrades_opened.inc(opened);
}

/// Returns the status that the client gets.
fn status(context: &RequestContext) -> StatusCode {
    if context.web_socket_key().is_some() { StatusCode::OK } else { StatusCode::SWITCHING_PROTOCOLS }
}

/// Notes how the connection would leave its endpoint.
fn note_departure(record: &StreamRecord, protocol: Protocol) {
    record.set_departure(match protocol {
        Protocol::WebSocket => Departure::Goodbye,
        Protocol::Other => Departure::Cut,
    });
}

fn settings(attempts: &Attempts, protocol: Protocol) -> Settings {
    let service = &attempts.service().configuration;
    Settings {
        protocol,
        idle: service.timeouts.upgrade_idle,
        ping: service.websocket.ping,
        close_timeout: service.drain.close_timeout,
    }
}

/// Registers the connection, and begins its line of the access log; `None` without an endpoint.
fn accounts(context: &RequestContext, attempts: &Attempts, protocol: Box<str>) -> Option<Accounts> {
    let (request, endpoint) = (&attempts.request, attempts.endpoint()?);
    let mobility = if is_web_socket(&protocol) { Mobility::DrainOnly } else { Mobility::CutAtDeadline };
    let opening = stream_registry::Opening {
        route: Arc::clone(&request.route),
        endpoint: Arc::clone(endpoint),
        client: context.client.address,
        session: request.is_recognised().then(|| *request.session.as_bytes()),
        since: context.began,
        mobility,
        upgrade: Some(protocol),
    };
    Some(Accounts::open(context, attempts, opening, status(context)))
}
