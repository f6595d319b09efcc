//! Requests: select an endpoint, pass the request on, pass the response back.
//!
//! A response that is an event stream leaves this path with its first byte and goes on in a relay of its own
//! (`stream/open.rs`), whatever the request said. So does one that takes the client's offer of another protocol
//! (`tunnel/open.rs`); any other answer to an offer is a response like all.
//!
//! A request that announces an event stream ([`Kind::Stream`]: a GET without a body that names the type in `Accept`) goes the
//! same way. It has a fresh connection to its endpoint, where others use kept ones (`upstream/pool.rs`); it is sent again
//! after a reset or a status of `retries.statuses`, where others are only if nothing of them was sent; and while too many
//! clients come back at once, it is refused (`sse.reconnect.perSecond`).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::Either;
use http::header;
use http::{HeaderMap, Method, StatusCode};
use podpin_wire::headers::{is_of_connection, keep_alive_time};
use podpin_wire::http1::encode::Framing;
use podpin_wire::http1::response_head::{ResponseHead, ResponseHeadReader};
use podpin_wire::upgrade;
use tracing::{Instrument, Span};

use crate::affinity::routed_request::RoutedRequest;
use crate::balance::service::Kind;
use crate::clock;
use crate::downstream::pending::PendingResponse;
use crate::http::options;
use crate::http::reply::{ErrorReply, LocalResponse};
use crate::request::account::{self, Ending, Passed};
use crate::request::body_framing::{BodyFraming, body_framing};
use crate::request::http2::{self, Http2Request};
use crate::request::outcome::{Begun, Outcome, Reached};
use crate::request::served::Served;
use crate::request::transfer::{Transfer, TransferRest};
use crate::request::transfer_error::TransferError;
use crate::request::transfer_limits::TransferLimits;
use crate::request_context::RequestContext;
use crate::stream::account::Permits;
use crate::stream::open::{self, Opened, PendingStream};
use crate::stream::places::Places;
use crate::stream::upload::Rest;
use crate::stream::upstream_reader::UpstreamReader;
use crate::tunnel::open::{PendingTunnel, Switched};
use crate::upstream::attempts::{Attempts, Purpose};
use crate::upstream::connect::UpstreamResponse;
use crate::upstream::error::UpstreamError;
use crate::upstream::pool::{self, Age, Owner, Target};
use crate::upstream::rewrite;
use crate::upstream::unserved::{self, Progress, Unserved};
use crate::upstream::upload::{TrailerRule, Upload};
use crate::upstream::websocket_key::is_proven;

/// The reason why no endpoint is asked.
enum Early {
    /// Request without a route.
    Unrouted(ErrorReply),
    /// Response of the route's own.
    Local(Box<(RoutedRequest, LocalResponse)>),
    /// Response of the proxy about itself.
    Own(Box<LocalResponse>),
    /// Refusal of a client that comes back while too many do.
    TurnedAway(Box<RoutedRequest>),
}

/// A request on its way.
struct Exchange<'a> {
    context: &'a RequestContext,
    attempts: Attempts,
    /// Body bytes of the response that went to the client.
    delivered: u64,
    /// Whether the response head of an endpoint was there.
    answered: bool,
    places: Places,
    /// Time that the connection to the endpoint is kept after the response; `None` if it is not.
    keep_time: Option<Duration>,
}

/// Serves one request, up to its end or to the beginning of an event stream.
pub(crate) fn serve(context: RequestContext, client: PendingResponse) -> impl Future<Output = Served> {
    if context.permit.is_none() && !context.is_bounded_as_connection() {
        return Either::Left(Box::pin(
            unserved::turn_away(context, ErrorReply::Requests, client).map(Served::from),
        ));
    }
    let span = tracing::debug_span!(
        "request",
        host = %context.head.authority(),
        path = context.head.path(),
        client = %context.client.address,
        service = tracing::field::Empty,
        endpoint = tracing::field::Empty,
    );
    Either::Right(serve_in_span(context, client).instrument(span))
}

#[expect(clippy::manual_async_fn, reason = "an async function has room for each argument twice")]
fn serve_in_span(context: RequestContext, mut client: PendingResponse) -> impl Future<Output = Served> {
    async move {
        let in_flight = context.shared.in_flight();
        let mut exchange = match admit(&context) {
            Ok(exchange) => exchange,
            Err(early) => return early.end(&context, client).await,
        };
        if exchange.attempts.service().configuration.protocol.is_http2() {
            let Exchange { attempts, .. } = exchange;
            if context.offer.is_some() {
                // HTTP/2 has no upgrades (RFC 9113 section 8.6).
                let progress = Progress::Tried { attempts: &attempts, answered: false };
                return refuse(&context, progress, ErrorReply::Upgrade, client).await;
            }
            let request = Http2Request { context, attempts, client, in_flight };
            return Box::pin(http2::serve(request)).await;
        }
        let has_body = !client.is_body_read();
        match exchange.run(&mut client).await {
            Outcome::Refused(reply) => {
                drop(std::mem::take(&mut exchange.places));
                let progress = Progress::Tried { attempts: &exchange.attempts, answered: exchange.answered };
                refuse(&context, progress, reply, client).await
            }
            Outcome::Stream(opened) => {
                let attempts = exchange.attempts;
                let stream =
                    PendingStream { context, attempts, opened: *opened, client, has_body, in_flight };
                Served::Stream(Box::new(stream))
            }
            Outcome::Switched(switched) => {
                let attempts = exchange.attempts;
                let tunnel = PendingTunnel { context, attempts, switched: *switched, client, in_flight };
                Served::Tunnel(Box::new(tunnel))
            }
            Outcome::Answered { status, ending, unsent } => {
                let passed = Passed { status, delivered: exchange.delivered, grpc_status: None };
                account::settle(&context, &exchange.attempts, &passed, &ending);
                if let Ending::Complete = ending {
                    return match client.finish() {
                        Ok(connection) => connection.into(),
                        Err(client) => Box::pin(client.finish_unread()).await.into(),
                    };
                }
                Box::pin(client.cut(&unsent)).await;
                Served::Closed
            }
        }
    }
}

/// Routes a request.
fn admit(context: &RequestContext) -> Result<Exchange<'_>, Early> {
    if let Some(response) = options::response(&context.head) {
        return Err(Early::Own(Box::new(response)));
    }
    let request = RoutedRequest::new(&context.snapshot, &context.view()).map_err(Early::Unrouted)?;
    Span::current().record("service", &*request.service().name);
    if let Some(response) = request.route.filters.local_response(&context.head, context.client.secure) {
        return Err(Early::Local(Box::new((request, response))));
    }
    let purpose = match context.kind {
        Kind::Stream if !request.service().admits(open::comer(context, &request)) => {
            return Err(Early::TurnedAway(Box::new(request)));
        }
        Kind::Stream => Purpose::Stream,
        Kind::Request => Purpose::Request,
    };
    Ok(Exchange {
        context,
        attempts: Attempts::new(request, purpose),
        delivered: 0,
        answered: false,
        places: Places::for_request(context),
        keep_time: None,
    })
}

impl Early {
    /// Answers a request that no endpoint is asked for. Boxed: every request that waits would have room for it.
    fn end(
        self,
        context: &RequestContext,
        client: PendingResponse,
    ) -> Pin<Box<dyn Future<Output = Served> + Send + '_>> {
        match self {
            Early::Unrouted(reply) => refuse(context, Progress::Unrouted, reply, client),
            Early::TurnedAway(request) => Box::pin(async move {
                // The connection goes on: the next handshake would cost more than the refusal.
                refuse(context, Progress::Routed(&request), ErrorReply::ReconnectRate, client).await
            }),
            Early::Own(response) => Box::pin(async move {
                unserved(context, Progress::Unrouted).respond(*response, client).await.into()
            }),
            Early::Local(local) => Box::pin(async move {
                let (request, response) = *local;
                unserved(context, Progress::Routed(&request)).respond(response, client).await.into()
            }),
        }
    }
}

/// Refuses a request. Boxed: every request that waits would have room for it.
fn refuse<'a>(
    context: &'a RequestContext,
    progress: Progress<'a>,
    reply: ErrorReply,
    client: PendingResponse,
) -> Pin<Box<dyn Future<Output = Served> + Send + 'a>> {
    Box::pin(async move { unserved(context, progress).refuse(reply, client).await.into() })
}

fn unserved<'a>(context: &'a RequestContext, progress: Progress<'a>) -> Unserved<'a> {
    Unserved { context, progress }
}

impl Exchange<'_> {
    /// Tries endpoints until one answers, and passes its response on.
    ///
    /// What a request keeps while it waits is in here: little more than the transfer, and nothing of its head twice.
    async fn run(&mut self, client: &mut PendingResponse) -> Outcome {
        let mut timer = pin!(clock::unset_timer());
        let is_tunnel = self.context.web_socket_key().is_some();
        let is_read = is_tunnel || (client.is_body_read() && !client.has_trailers());
        let body = body_framing(&self.context.head, is_read);
        // The upload of an attempt over a stale connection, to be sent again.
        let mut before: Option<Upload> = None;
        loop {
            let Reached { transport, target, is_kept } = match self.reach(client, before.is_some()).await {
                Ok(Some(reached)) => reached,
                Ok(None) => continue,
                Err(reply) => return Outcome::Refused(reply),
            };
            let head = self.upstream_head(client, &body);
            let upload = match before.take() {
                None if is_tunnel => Some(Upload::without_body(head)),
                None => Some(Upload::new(head, body.framing).with_trailers(self.trailer_rule(&body))),
                Some(before) => before.again(head),
            };
            let Some(mut upload) = upload else { return Outcome::Refused(ErrorReply::UpstreamReset) };
            let may_repeat = is_kept && self.context.head.method.is_idempotent() && self.attempts.may_retry();
            if may_repeat {
                upload.remember();
            }
            let limits = TransferLimits::of(self.context, self.attempts.service());
            let mut transfer = Transfer::new(client, transport, upload, self.reader(), limits);
            match poll_fn(|context| transfer.poll_head(context, timer.as_mut())).await {
                Ok(head) => match self.begin(&mut transfer, head) {
                    Begun::Response(status, mut passed) => {
                        if passed.is_ok() {
                            passed = poll_fn(|context| transfer.poll_body(context, timer.as_mut())).await;
                        }
                        return self.end(target, transfer, status, passed);
                    }
                    Begun::Stream(head, permits) => return open_stream(transfer, *head, permits),
                    Begun::Switch(head, permits, protocol) => {
                        return switched(transfer, *head, permits, protocol);
                    }
                    Begun::Retried => {}
                    Begun::Refused(reply) => return Outcome::Refused(reply),
                },
                // A kept connection that the endpoint closed meanwhile is not its failure: a fresh one is tried.
                Err(TransferError::Upstream(UpstreamError::Reset(_)))
                    if may_repeat && transfer.may_be_repeated() =>
                {
                    self.attempts.retry_stale();
                    before = Some(transfer.into_rest().upload);
                }
                Err(error) => {
                    // Behind a part of an interim response the client would take any reply for its rest.
                    let may_reply = !transfer.is_within_interim();
                    match self.fail(error) {
                        None if may_reply => {}
                        Some(reply) if may_reply => return Outcome::Refused(reply),
                        _ => return Outcome::Refused(ErrorReply::ClientGone),
                    }
                }
            }
        }
    }

    /// Selects an endpoint and connects to it, or takes a kept connection unless it has to be `fresh`; `None` if it cannot
    /// be reached and another one may be.
    async fn reach(
        &mut self,
        client: &mut PendingResponse,
        fresh: bool,
    ) -> Result<Option<Reached>, ErrorReply> {
        tokio::select! {
            biased;
            // Ready at once, as a rule.
            selected = self.places.select(&mut self.attempts, self.context.client.address) => selected?,
            _ = client.gone() => return Err(ErrorReply::ClientGone),
        }
        let Some(endpoint) = self.attempts.endpoint() else { return Err(ErrorReply::Internal) };
        Span::current().record("endpoint", &*endpoint.name);
        let address = endpoint.address;
        let service = Arc::clone(self.attempts.service());
        let tls = service.tls.as_deref();
        let target = Target::new(address, tls);
        let age = if self.context.head.method.is_idempotent() { Age::Any } else { Age::Fresh };
        let takes_kept = !fresh && self.context.kind == Kind::Request && self.context.offer.is_none();
        if takes_kept && let Some(transport) = pool::take(&target, age) {
            return Ok(Some(Reached { transport, target, is_kept: true }));
        }
        let limit = service.configuration.timeouts.connect;
        let connected = tokio::select! {
            biased;
            _ = client.gone() => return Err(ErrorReply::ClientGone),
            // Boxed: every request over a kept connection would have room for it.
            connected = Box::pin(self.attempts.connect(address, tls, limit)) => connected,
        };
        match connected {
            Ok(transport) => Ok(Some(Reached { transport, target, is_kept: false })),
            Err(error) if self.attempts.failed(&error) => Ok(None),
            Err(error) => Err(error.reply()),
        }
    }

    /// Begins the response whose head was read, unless it is a stream that goes on by itself.
    fn begin(&mut self, transfer: &mut Transfer<'_>, mut head: ResponseHead) -> Begun {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(transfer, head);
        }
        if self.context.web_socket_key().is_some() && head.status.is_success() {
            // Over HTTP/2 the client would take it for the switch (RFC 8441 section 5).
            return self.refuse_switch();
        }
        self.attempts.answered(head.status);
        if self.is_retried(transfer, head.status) {
            return Begun::Retried;
        }
        self.answered = true;
        self.attempts.request.renew_session(&head.headers);
        let Some(selected) = self.attempts.selected() else { return Begun::Refused(ErrorReply::Internal) };
        let (context, request) = (self.context, &self.attempts.request);
        let places = std::mem::take(&mut self.places);
        if context.head.method != Method::HEAD && head.is_event_stream() {
            let permits = match places.into_permits(request, selected, context.client.address) {
                Ok(permits) => permits,
                Err(reply) => return Begun::Refused(reply),
            };
            return Begun::Stream(Box::new(head), permits);
        }
        // Others may have them while this response passes.
        drop(places);
        account::count_response(context, &self.attempts, head.status);
        self.keep_time = self.keep_time(&head.headers);
        let received = std::mem::take(&mut head.headers);
        let fields = rewrite::client_headers(context, request, selected, head.status, received);
        let passed = transfer.begin(&head, &fields);
        Begun::Response(head.status, passed)
    }

    /// Takes a switch of protocols, if it is to one that was offered, once all of the request was sent.
    fn switch(&mut self, transfer: &Transfer<'_>, head: ResponseHead) -> Begun {
        let offer = self.context.offer.as_ref().map_or("", |offer| &offer.protocols);
        let is_proven = self.context.web_socket_key().is_none_or(|key| is_proven(key, &head.headers));
        let choice = upgrade::choice(offer, &head.headers).filter(|_| is_proven && transfer.is_sent());
        let Some(protocol) = choice else { return self.refuse_switch() };
        self.attempts.answered(head.status);
        self.answered = true;
        self.attempts.request.renew_session(&head.headers);
        let Some(selected) = self.attempts.selected() else { return Begun::Refused(ErrorReply::Internal) };
        let places = std::mem::take(&mut self.places);
        match places.into_permits(&self.attempts.request, selected, self.context.client.address) {
            Ok(permits) => Begun::Switch(Box::new(head), permits, protocol),
            Err(reply) => Begun::Refused(reply),
        }
    }

    /// Refuses a response that switches protocols where it must not, or does not where it must.
    fn refuse_switch(&mut self) -> Begun {
        let error = UpstreamError::Protocol("a switch of protocols that was not offered, or none that was");
        self.attempts.failed(&error);
        Begun::Refused(error.reply())
    }

    /// Returns whether a response of this status is not passed on, because another endpoint can be asked.
    fn is_retried(&mut self, transfer: &Transfer<'_>, status: StatusCode) -> bool {
        self.context.kind == Kind::Stream
            && self.attempts.is_retried(status)
            && !transfer.is_within_interim()
            && self.attempts.rejected(status)
            && self.attempts.has_next_place()
    }

    /// Returns how long the connection of a response with these fields is kept; `None` if it is not. One on which a client has
    /// authenticated is that client's (RFC 4559 section 6).
    fn keep_time(&self, received: &HeaderMap) -> Option<Duration> {
        let time = self.attempts.service().configuration.timeouts.keep_alive?;
        let mut challenges = received.get_all(header::WWW_AUTHENTICATE).iter();
        let is_personal = self.context.head.fields.all(&header::AUTHORIZATION).any(is_of_connection)
            || challenges.any(|value| is_of_connection(value.as_bytes()));
        (!is_personal).then(|| keep_alive_time(received).map_or(time, |said| said.min(time)))
    }

    /// Ends a response that has passed, or was cut; keeps the connection to the endpoint for another request if it may.
    fn end(
        &mut self,
        target: Target,
        transfer: Transfer<'_>,
        status: StatusCode,
        passed: Result<(), TransferError>,
    ) -> Outcome {
        self.delivered = transfer.delivered();
        if let Err(error) = passed {
            let unsent = transfer.into_rest().unsent;
            return Outcome::Answered { status, ending: Ending::Cut(error), unsent };
        }
        if let (Some(time), Some(endpoint), Some(transport)) =
            (self.keep_time, self.attempts.endpoint(), transfer.into_kept())
        {
            let service = Arc::downgrade(self.attempts.service());
            pool::keep(target, transport, time, Owner { service, endpoint: endpoint.id });
        }
        Outcome::Answered { status, ending: Ending::Complete, unsent: Vec::new() }
    }

    /// Counts a failure before the response has begun; returns the reply to the client, or `None` if another endpoint may be
    /// tried.
    fn fail(&mut self, error: TransferError) -> Option<ErrorReply> {
        match error {
            TransferError::Client(reply) => Some(reply),
            TransferError::Upstream(error) => (!self.attempts.failed(&error)).then(|| error.reply()),
            TransferError::Leaving(_) => Some(ErrorReply::Leaving),
            TransferError::Broken(_) | TransferError::Idle | TransferError::SlowClient => {
                Some(ErrorReply::Internal)
            }
        }
    }

    fn reader(&self) -> ResponseHeadReader {
        let method = self.context.head.method.clone();
        match self.context.offer {
            Some(_) => ResponseHeadReader::with_offer(method),
            None => ResponseHeadReader::new(method),
        }
    }

    /// Returns the rule for fields behind the request's body; `None` if it has no place for any.
    fn trailer_rule(&self, body: &BodyFraming) -> Option<TrailerRule> {
        let has_place = body.framing == Framing::Chunked;
        has_place.then(|| TrailerRule::new(self.context, &self.attempts.request))
    }

    /// Returns the whole head for the endpoint of the current attempt.
    fn upstream_head(&self, client: &PendingResponse, body: &BodyFraming) -> Vec<u8> {
        let Some(selected) = self.attempts.selected() else { return Vec::new() };
        let mut fields = rewrite::upstream_headers(self.context, &self.attempts.request);
        // A client that takes no interim response must not wait for one.
        if !client.takes_interim() {
            fields.remove(b"expect");
        }
        let mut head = rewrite::upstream_head(self.context, &self.attempts.request, selected, &mut fields);
        head.extend_from_slice(body.field.as_bytes());
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// Hands over a connection that speaks another protocol from here on.
fn switched(transfer: Transfer<'_>, head: ResponseHead, permits: Permits, protocol: Box<str>) -> Outcome {
    let (response, TransferRest { unsent: interim, .. }) = transfer.into_response(head);
    Outcome::Switched(Box::new(Switched { response, permits, interim, protocol }))
}

/// Hands over a response that is an event stream, which goes on by itself.
fn open_stream(transfer: Transfer<'_>, head: ResponseHead, permits: Permits) -> Outcome {
    let (response, TransferRest { unsent: interim, upload }) = transfer.into_response(head);
    let UpstreamResponse { start, transport } = response;
    let body = UpstreamReader::new(transport, start.body, start.rest);
    let (head, upload) = (start.head, Rest::Http1(upload));
    Outcome::Stream(Box::new(Opened { head, body, permits, interim, upload }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scene, connected, nowhere, pending};

    #[tokio::test]
    async fn a_request_that_waits_stays_small() {
        // Beside its two sockets and its head; see docs/performance.md. What is larger and rare is boxed.
        let scene = Scene::new(&[("a", nowhere())]);
        let (_client, proxy) = connected().await;
        let bytes = size_of_val(&serve(scene.context(HeaderMap::new()), pending(proxy)));
        assert!(bytes <= 2_300, "a request grew to {bytes} bytes");
    }
}
