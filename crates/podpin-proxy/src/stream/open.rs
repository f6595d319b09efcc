//! Event stream requests: select an endpoint, open it, answer, and hand the stream to a relay of its own.
//!
//! Opening may take several endpoints and several seconds and is an ordinary async function; once the response head
//! is there, everything it needed is dropped and the stream goes on as a [`Relay`], detached from the connection that
//! began it. Responses that are no event stream (204, 302, 404, an error page) are relayed the same way, byte for byte.

use std::future::Future;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use podpin_config::{AcceptEncoding, Handover};
use podpin_drain::{Comer, Mobility};
use podpin_endpoints::MoveReason;
use podpin_sse::Framer;
use podpin_sse::session::{Content, Recovery, Settings};
use podpin_wire::http1::response_head::ResponseStart;
use tracing::{Instrument, Span};

use crate::affinity::routed_request::RoutedRequest;
use crate::affinity::selected::Selected;
use crate::balance::client_limit::ClientPermit;
use crate::balance::retry::Occasion;
use crate::balance::service::Kind;
use crate::clock;
use crate::downstream::lease::ConnectionLease;
use crate::downstream::pending::{BodyLength, IdleConnection, PendingResponse};
use crate::http::reply::ErrorReply;
use crate::limits::requests::RequestPermit;
use crate::request_context::RequestContext;
use crate::shared::InFlight;
use crate::stream::account::{Accounts, Finished, Permits, Slots};
use crate::stream::body::Body;
use crate::stream::handover::{EARLIEST, HandoverDriver, LAST_EVENT_ID, allows_handover, limits};
use crate::stream::interim::InterimResponses;
use crate::stream::relay::Relay;
use crate::stream::start::Start;
use crate::stream::task::StreamTask;
use crate::stream::upstream_reader::UpstreamReader;
use crate::stream_registry::{self, ReturnEvidence};
use crate::telemetry::labels::{OpenedStream, Resumption};
use crate::upstream::attempts::{Attempts, Purpose};
use crate::upstream::connect::{self, UpstreamResponse};
use crate::upstream::error::UpstreamError;
use crate::upstream::rewrite;
use crate::upstream::unserved::{Progress, Unserved};

/// An event stream request on its way to an endpoint.
struct Opening<'a> {
    context: &'a RequestContext,
    attempts: Attempts,
    repetition: Repetition,
}

/// Whether the request of a stream may be sent again, to another endpoint or by its client, without doing anything twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repetition {
    /// A GET without a body: the stream may go on elsewhere.
    Harmless,
    /// Any other request: the stream stays where it is.
    Forbidden,
}

/// An endpoint that answered, with the places of the stream.
pub(crate) struct Opened {
    /// The response, its head read.
    pub response: UpstreamResponse,
    /// Places under the limits of the endpoint and of the client.
    pub permits: Permits,
    /// Bytes of interim responses that an HTTP/1 client has not taken.
    pub interim: Vec<u8>,
}

/// An ordinary request that was answered with an event stream.
pub(crate) struct PendingStream {
    /// The request.
    pub context: RequestContext,
    /// The attempts, with the endpoint that answered.
    pub attempts: Attempts,
    /// The response.
    pub opened: Opened,
    /// The client.
    pub client: PendingResponse,
    /// Whether the request had a body, which is not kept.
    pub has_body: bool,
    /// The request's share in what a shutdown waits for, until the stream is registered.
    pub in_flight: InFlight,
}

impl PendingStream {
    /// Answers the client and starts the relay, which takes an HTTP/1 connection with it by its `lease`.
    pub(crate) fn begin(self, lease: Option<ConnectionLease>) {
        let PendingStream { context, attempts, opened, mut client, has_body, in_flight } = self;
        drop(client.exchange_lease(lease));
        let may_repeat = context.head.method == Method::GET && !has_body;
        let repetition = if may_repeat { Repetition::Harmless } else { Repetition::Forbidden };
        Opening { context: &context, attempts, repetition }.begin(opened, client, None);
        drop(in_flight);
    }
}

/// Returns the kind of a response's body: an event stream that the relay can frame, one that it cannot, or anything else.
fn content_of(start: &ResponseStart) -> Content {
    if start.head.is_plain_event_stream() {
        Content::Events
    } else if start.head.is_event_stream() {
        Content::Encoded
    } else {
        Content::Opaque
    }
}

/// Whether nothing may be written into a response but its endpoint's own bytes (RFC 9111 section 5.2.2.6).
fn is_fixed(headers: &HeaderMap) -> bool {
    let is_no_transform = |directive: &str| directive.trim().eq_ignore_ascii_case("no-transform");
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(is_no_transform)
}

/// Serves one event stream request from its head to the start of its relay, which goes on by itself.
pub(crate) fn serve(context: RequestContext, client: PendingResponse) -> impl Future<Output = ()> + Send {
    let span = tracing::debug_span!(
        "stream",
        host = %context.head.authority(),
        path = context.head.path(),
        client = %context.client.address,
        service = tracing::field::Empty,
        endpoint = tracing::field::Empty,
    );
    serve_in_span(context, client).instrument(span)
}

#[expect(clippy::manual_async_fn, reason = "an async function has room for each argument twice")]
fn serve_in_span(
    mut context: RequestContext,
    mut client: PendingResponse,
) -> impl Future<Output = ()> + Send {
    async move {
        // Counted until the response turns out to be a stream, or to the end of any other response.
        let permit = context.permit.take();
        let _in_flight = context.shared.in_flight();
        let request = match route(&context) {
            Ok(request) => request,
            Err(reply) => return drop(unserved(&context, Progress::Unrouted).refuse(reply, client).await),
        };
        Span::current().record("service", &*request.service().name);
        if let Some(response) = request.route.filters.local_response(&context.head, context.client.secure) {
            return drop(unserved(&context, Progress::Routed(&request)).respond(response, client).await);
        }
        if !request.service().admits(comer(&context, &request)) {
            return turn_away(&context, &request, client).await;
        }
        let attempts = Attempts::new(request, Purpose::Stream);
        let mut opening = Opening { context: &context, attempts, repetition: Repetition::Harmless };
        let interim = InterimResponses::default();
        let opened = interim.pass(&mut client, opening.open(&interim)).await;
        match opened {
            Ok((opened, interim)) => opening.begin(Opened { interim, ..opened }, client, permit),
            Err(reply) => {
                let progress = Progress::Tried { attempts: &opening.attempts, answered: false };
                unserved(&context, progress).refuse(reply, client).await;
            }
        }
    }
}

fn unserved<'a>(context: &'a RequestContext, progress: Progress<'a>) -> Unserved<'a> {
    Unserved { context, kind: Kind::Stream, progress }
}

/// Sends a client away that comes back while too many do. The connection goes on: the next handshake would cost more than the
/// refusal.
async fn turn_away(context: &RequestContext, request: &RoutedRequest, mut client: PendingResponse) {
    let lease = client.exchange_lease(None);
    let refused = unserved(context, Progress::Routed(request)).refuse(ErrorReply::ReconnectRate, client);
    let idle = Box::pin(refused).await;
    if let (Some(lease), Some(IdleConnection { transport, ahead })) = (lease, idle) {
        // A client that has sent more behind its request connects anew.
        if ahead.is_empty() { lease.resume(transport) } else { transport.close() }
    }
}

/// Returns whether a client had a stream before.
fn comer(context: &RequestContext, request: &RoutedRequest) -> Comer {
    let is_back = request.is_returning() || context.head.fields.contains(&LAST_EVENT_ID);
    if is_back { Comer::Returning } else { Comer::New }
}

fn route(context: &RequestContext) -> Result<RoutedRequest, ErrorReply> {
    RoutedRequest::new(&context.snapshot, &context.view())
}

impl Opening<'_> {
    /// Tries endpoints until one answers, within `retries`.
    async fn open(&mut self, interim: &InterimResponses) -> Result<Opened, ErrorReply> {
        let mut of_client: Option<ClientPermit> =
            self.attempts.request.claim_client_permit(self.context.client.address).await?;
        // The last response that was not taken for an answer; it is one if no other endpoint can be tried.
        let mut unavailable: Option<Opened> = None;
        loop {
            let permit = match self.attempts.select_stream().await {
                Ok(permit) => permit,
                Err(reply) => return unavailable.ok_or(reply),
            };
            // The client's slot goes with the newest attempt.
            if let Some(mut before) = unavailable.take() {
                of_client = of_client.or_else(|| before.permits.take_client());
            }
            let response = match self.exchange(interim).await {
                Ok(response) => response,
                Err(error) if self.attempts.failed(&error) => continue,
                Err(error) => return Err(error.reply()),
            };
            let status = response.start.head.status;
            self.attempts.answered(status);
            let permits = Permits::new(permit, of_client.take(), self.attempts.service());
            let opened = Opened { response, permits, interim: Vec::new() };
            if !self.attempts.is_retried(status) || !self.attempts.rejected(status) {
                return Ok(opened);
            }
            unavailable = Some(opened);
        }
    }

    /// Connects to the endpoint of the current attempt, sends the request and reads the response head.
    async fn exchange(&mut self, interim: &InterimResponses) -> Result<UpstreamResponse, UpstreamError> {
        let Some(endpoint) = self.attempts.endpoint() else {
            return Err(UpstreamError::Protocol("no endpoint was selected"));
        };
        Span::current().record("endpoint", &*endpoint.name);
        let address = endpoint.address;
        let service = Arc::clone(self.attempts.service());
        let times = &service.configuration.timeouts;
        let transport = self.attempts.connect(address, service.tls.as_deref(), times.connect).await?;
        let pass = |head| interim.push(head);
        connect::exchange(transport, &self.request(), times.response_header, pass).await
    }

    /// Returns the whole request head for the endpoint of the current attempt.
    fn request(&self) -> Vec<u8> {
        let Some(selected) = self.attempts.selected() else { return Vec::new() };
        let mut fields = self.fields();
        let mut request = rewrite::upstream_head(self.context, &self.attempts.request, selected, &mut fields);
        request.extend_from_slice(b"\r\n");
        request
    }

    fn fields(&self) -> HeaderMap {
        let mut fields = rewrite::upstream_headers(self.context, &self.attempts.request);
        fields.remove(header::EXPECT);
        let service = &self.attempts.service().configuration;
        let is_plain = match service.sse.accept_encoding {
            AcceptEncoding::Auto => service.drain.handover == Handover::LastEventId,
            AcceptEncoding::Identity => true,
            AcceptEncoding::Client => false,
        };
        // Without the field any encoding would do.
        if is_plain || !fields.contains_key(header::ACCEPT_ENCODING) {
            fields.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        fields
    }

    /// Answers the client and starts the relay. A response that is no event stream keeps the `request`'s place.
    fn begin(mut self, opened: Opened, client: PendingResponse, request: Option<RequestPermit>) {
        let Opened { response: UpstreamResponse { start, transport }, permits, interim } = opened;
        self.attempts.request.renew_session(&start.head.headers);
        let Some(selected) = self.attempts.selected() else { return };
        let content = content_of(&start);
        let length =
            if content.is_event_stream() { BodyLength::Unknown } else { BodyLength::of(&start.body) };
        let fields = self.response_fields(&start, selected, content);
        self.count(selected, start.head.status, content);
        let handover = self.handover(&start, selected, content);
        let handover_enabled = handover.is_some();
        let accounts = self.accounts(selected, start.head.status, content, handover_enabled);
        if content.is_event_stream() && self.repetition == Repetition::Harmless {
            accounts.record().note_return(self.return_evidence(selected), clock::now());
            self.attempts
                .service()
                .drain
                .herd()
                .served(self.attempts.request.client_name(self.context.client.address));
        }
        let Some(started) = client.start(start.head.status, &fields, length) else {
            accounts.settle(Finished::client_gone());
            return;
        };
        // Only event streams hold a slot of their endpoint.
        let slots = match content.is_event_stream() {
            true => Some(Slots::Stream(permits)),
            false => request.map(Slots::Request),
        };
        let is_fixed = is_fixed(&start.head.headers);
        let mut settings = self.settings(content, handover_enabled);
        settings.tells_retry &= !is_fixed;
        let body = self.body(&start, &settings);
        let relay = Relay::new(Start {
            downstream: started.downstream,
            head: [interim, started.head].concat(),
            upstream: UpstreamReader::new(transport, start.body, start.rest),
            settings,
            body,
            streams: Arc::clone(&self.context.shared.streams),
            record: Arc::clone(accounts.record()),
            slots,
            handover,
        });
        let task = StreamTask::new(relay, accounts, started.connection);
        self.context.shared.lifecycle.tasks.spawn(task);
    }

    /// Returns whether the request shows that another stream of the client was ended, by whichever replica.
    fn return_evidence(&self, selected: &Selected) -> ReturnEvidence {
        let has_left = matches!(selected.moved, Some(MoveReason::Draining | MoveReason::Gone));
        if has_left && self.context.head.fields.contains(&LAST_EVENT_ID) {
            ReturnEvidence::LeftEndpoint
        } else {
            ReturnEvidence::None
        }
    }

    /// Returns the driver of the stream's handovers; `None` if it stays at its endpoint.
    fn handover(
        &self,
        start: &ResponseStart,
        selected: &Selected,
        content: Content,
    ) -> Option<Box<HandoverDriver>> {
        let is_wanted = self.attempts.service().configuration.drain.handover == Handover::LastEventId;
        let may_move = content == Content::Events && self.repetition == Repetition::Harmless;
        if !(may_move && is_wanted && allows_handover(&start.head.headers)) {
            return None;
        }
        // The last event id changes, and the session fields differ from endpoint to endpoint.
        let (request, address) = (&self.attempts.request, selected.endpoint.address);
        let mut fields = self.fields();
        fields.remove(LAST_EVENT_ID);
        let head = rewrite::request_head(request, &self.context.head, &fields, address);
        Some(Box::new(HandoverDriver::new(Arc::clone(&self.context.shared), request.session, head)))
    }

    fn response_fields(&self, start: &ResponseStart, selected: &Selected, content: Content) -> HeaderMap {
        let (status, received) = (start.head.status, start.head.headers.clone());
        let request = &self.attempts.request;
        let mut fields = rewrite::client_headers(self.context, request, selected, status, received);
        if content.is_event_stream() {
            fields.remove(header::CONTENT_LENGTH);
        }
        fields
    }

    fn count(&self, selected: &Selected, status: StatusCode, content: Content) {
        let request = &self.attempts.request;
        request.count_decision(Some(selected));
        self.context.count(Some(&request.route), status.as_u16());
        if content.is_event_stream() {
            let is_resumed = self.context.head.fields.contains(&LAST_EVENT_ID);
            let resumption = if is_resumed { Resumption::Resumed } else { Resumption::Fresh };
            let decision = request.decision(Some(selected));
            request.service().metrics.streams_opened.inc(OpenedStream::of(decision, resumption));
        }
    }

    /// Returns the reconnection time in milliseconds for a client that comes back: a goodbye may have set another. For a new
    /// one as well, if it differs from the default. `None` if none is needed.
    fn normal_retry(&self) -> Option<u32> {
        let request = &self.attempts.request;
        let tells = comer(self.context, request) == Comer::Returning
            || request.service().configuration.sse.retry.tells_new();
        // Clients of other methods read a completion, and do not come back.
        let reconnects = self.repetition == Repetition::Harmless;
        let retry = request.service().retry_millis(Occasion::Normal).filter(|_| reconnects && tells)?;
        u32::try_from(retry).ok()
    }

    /// Returns the body of the response. Only a stream that may be handed over is held back event by event.
    fn body(&self, start: &ResponseStart, settings: &Settings) -> Body {
        if settings.content != Content::Events {
            return Body::Opaque;
        }
        let service = &self.attempts.service().configuration;
        let mut framer = match settings.handover {
            Some(_) => Framer::with_cursor(service.sse.event_bytes_max, service.drain.replay_ids),
            None => Framer::unbuffered(),
        };
        // The endpoint's word on where it begins is better than the client's.
        let named = start.head.headers.get(LAST_EVENT_ID).map(HeaderValue::as_bytes);
        let named = named.filter(|id| *id != EARLIEST);
        if let Some(id) = named.or_else(|| self.context.head.fields.get(&LAST_EVENT_ID)) {
            framer.seed(id);
        }
        if let Some(retry) = self.normal_retry().filter(|_| settings.tells_retry) {
            framer.set_retry(retry);
        }
        Body::Events(framer)
    }

    /// Returns the timeouts and limits of the stream, as the request's configuration has them.
    fn settings(&self, content: Content, handover_enabled: bool) -> Settings {
        let service = &self.attempts.service().configuration;
        Settings {
            content,
            keep_alive: service.sse.keep_alive,
            upstream_idle: service.timeouts.upstream_idle,
            client_write: service.timeouts.client_write,
            max_duration: service.sse.max_duration,
            tells_retry: true,
            handover: handover_enabled.then(|| limits(service)),
            recovery: match self.repetition {
                Repetition::Harmless => Recovery::Reconnects,
                Repetition::Forbidden => Recovery::NeedsEventId,
            },
        }
    }

    fn mobility(&self, handover_enabled: bool) -> Mobility {
        match self.repetition {
            Repetition::Forbidden => Mobility::CutAtDeadline,
            Repetition::Harmless if handover_enabled && self.attempts.request.may_be_rebalanced() => {
                Mobility::Rebalances
            }
            Repetition::Harmless => Mobility::DrainOnly,
        }
    }

    /// Registers the stream, and begins its line of the access log.
    fn accounts(
        &self,
        selected: &Selected,
        status: StatusCode,
        content: Content,
        handover_enabled: bool,
    ) -> Accounts {
        let (context, request) = (self.context, &self.attempts.request);
        // No client is expected back for the rest of a response to another method.
        let returns = self.repetition == Repetition::Harmless && request.is_recognised();
        let session = returns.then(|| *request.session.as_bytes());
        let opening = stream_registry::Opening {
            kind: if content.is_event_stream() { Kind::Stream } else { Kind::Request },
            route: Arc::clone(&request.route),
            endpoint: Arc::clone(&selected.endpoint),
            client: context.client.address,
            session,
            since: context.began,
            mobility: self.mobility(handover_enabled),
        };
        let record = context.shared.streams.open(|id| opening.into_record(id));
        let log = context.shared.is_logging().then(|| {
            let mut log = context.record(if content.is_event_stream() { "stream" } else { "request" });
            log.status = status.as_u16();
            self.attempts.describe(true, &mut log);
            Box::new(log)
        });
        Accounts::new(Arc::clone(&context.shared), record, log)
    }
}

#[cfg(test)]
mod tests {
    use podpin_wire::http1::response_head::ResponseHeadReader;

    use super::*;

    #[test]
    fn nothing_is_written_into_a_response_that_forbids_it() {
        for (value, fixed) in [("no-transform", true), ("no-store, No-Transform", true), ("no-cache", false)]
        {
            let headers = HeaderMap::from_iter([(header::CACHE_CONTROL, HeaderValue::from_static(value))]);
            assert_eq!(is_fixed(&headers), fixed, "{value}");
        }
        assert!(!is_fixed(&HeaderMap::new()));
    }

    #[test]
    fn an_encoded_event_stream_is_relayed_as_it_is() {
        let cases = [
            ("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", Content::Events),
            ("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n", Content::Events),
            (
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: identity\r\n\r\n",
                Content::Events,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n",
                Content::Encoded,
            ),
            ("HTTP/1.1 503 Down\r\nContent-Type: text/event-stream\r\n\r\n", Content::Opaque),
            ("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", Content::Opaque),
        ];
        for (text, expected) in cases {
            let mut reader = ResponseHeadReader::new(http::Method::GET);
            let start = reader.push(text.as_bytes(), drop).unwrap().unwrap();
            assert_eq!(content_of(&start), expected, "{text}");
        }
    }
}
