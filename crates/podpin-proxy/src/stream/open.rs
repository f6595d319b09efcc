//! A GET that accepts `text/event-stream`: pick an endpoint, open it, answer, and hand over to a relay of its own.
//!
//! Opening may take several endpoints and several seconds and is an ordinary async function; once the response head
//! is there, everything it needed is dropped and the stream goes on as a [`Relay`], detached from the connection that
//! began it. Answers that are no event stream (204, 302, 404, an error page) are relayed the same way, byte for byte.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{StatusCode, Version};
use podpin_config::{Handover, Unavailable};
use podpin_drain::Mobility;
use podpin_endpoints::{Endpoint, EndpointId, MoveReason};
use podpin_sse::session::{RetryRange, Settings};
use podpin_sse::{Framer, retry_line};
use podpin_time::Millis;

use crate::affinity::select::{Admission, Asked, Placement};
use crate::balance::service::Kind;
use crate::balance::service::ServiceState;
use crate::clock;
use crate::downstream::pending::Exchange;
use crate::http::reply::Failure;
use crate::shared::Shared;
use crate::stream::account::{Accounts, Finished, Permits};
use crate::stream::body::Body;
use crate::stream::handover::HandoverDriver;
use crate::stream::refuse;
use crate::stream::refuse::refuse;
pub(crate) use crate::stream::refuse::request_record;
use crate::stream::relay::{Relay, Start};
use crate::stream::successor::{LAST_EVENT_ID, ResumePlan, limits, may_go_on_elsewhere};
use crate::stream::task::StreamTask;
use crate::stream::upstream_reader::UpstreamReader;
use crate::stream_registry;
use crate::telemetry::labels::{MethodLabel, OpenedStream, Resumption, RetryReason, UpstreamErrorKind};
use crate::upstream::connect::{self, UpstreamError};
use crate::upstream::rewrite;
use podpin_wire::client::Client;
use podpin_wire::http1::request_head::RequestHead;

/// A request on its way to a pod.
pub(crate) struct Opening<'a> {
    pub shared: &'a Arc<Shared>,
    pub head: &'a RequestHead,
    pub client: &'a Client,
    pub admission: &'a Admission,
    pub began: Millis,
    pub retries: u32,
    pub connect_millis: u64,
    /// The endpoint that failed last.
    pub asked: Option<Placement>,
}

/// A pod that answered.
struct Opened {
    placement: Placement,
    permits: Permits,
    answer: connect::Answer,
}

/// An endpoint that did not help.
struct Attempt {
    failure: Failure,
    /// Why another one may be asked, if it may.
    again: Option<RetryReason>,
    /// It did answer: 502, 503 or 504.
    answered: Option<Box<Opened>>,
}

impl Attempt {
    fn answered(opened: Opened) -> Attempt {
        Attempt {
            failure: Failure::UpstreamStatus(opened.answer.head.status.as_u16()),
            again: Some(RetryReason::Status),
            answered: Some(Box::new(opened)),
        }
    }
}

/// An endpoint that says it cannot serve now; another one may.
pub(crate) fn is_unavailable(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// Refuses an event stream request that there is no room for, whatever its pods could do.
pub(crate) async fn turn_away(
    shared: Arc<Shared>,
    head: RequestHead,
    client: Client,
    (failure, exchange): (Failure, Exchange),
) {
    let began = clock::now();
    // Without a route there is nobody who says how.
    let admission = Admission::new(&shared, &Asked::of(&head, &client)).ok();
    let who = (&shared, &head, &client);
    let opening = admission.as_ref().map(|admission| Opening::new(who, admission, began));
    refuse(who, opening.as_ref(), (failure, began), exchange).await;
}

/// Serves one event stream request from its head to the start of its relay, which goes on by itself.
pub(crate) async fn serve(shared: Arc<Shared>, head: RequestHead, client: Client, mut exchange: Exchange) {
    let _in_flight = shared.in_flight();
    let began = clock::now();
    let admission = match Admission::new(&shared, &Asked::of(&head, &client)) {
        Ok(admission) => admission,
        Err(failure) => return refuse((&shared, &head, &client), None, (failure, began), exchange).await,
    };
    let asked = (&head.method, &*head.authority, &*head.target);
    if let Some(answer) = admission.route.treatment.answer(asked, &head.headers, client.secure) {
        return refuse::tell((&shared, &head, &client), &admission, (answer, began), exchange).await;
    }
    let mut opening = Opening::new((&shared, &head, &client), &admission, began);
    let opened = tokio::select! {
        biased;
        () = exchange.gone() => Err(Failure::ClientGone),
        opened = opening.open() => opened,
    };
    match opened {
        Ok(opened) => opening.begin(opened, exchange),
        Err(failure) => {
            refuse((&shared, &head, &client), Some(&opening), (failure, began), exchange).await;
        }
    }
}

impl<'a> Opening<'a> {
    pub(crate) fn new(
        (shared, head, client): (&'a Arc<Shared>, &'a RequestHead, &'a Client),
        admission: &'a Admission,
        began: Millis,
    ) -> Opening<'a> {
        Opening { shared, head, client, admission, began, retries: 0, connect_millis: 0, asked: None }
    }

    /// Tries endpoints until one answers, within `retries`.
    pub(crate) async fn open(&mut self) -> Result<Opened, Failure> {
        let attempts = self.admission.service().configuration.retries.attempts;
        let mut of_client = self.admission.client_permit(self.client)?;
        let mut tried: Vec<EndpointId> = Vec::new();
        let mut last: Option<Attempt> = None;
        loop {
            let (placement, permit) = match Box::pin(self.admission.await_stream(&tried)).await {
                Ok(placed) => placed,
                // Nothing is left to try: the client is told what the last endpoint did.
                Err(failure) => return last.map_or(Err(failure), |last| self.give_up(last)),
            };
            if let Some(reason) = last.take().and_then(|last| last.again) {
                self.admission.service().metrics.upstream_retries.inc(reason);
                self.retries += 1;
            }
            let endpoint = Arc::clone(&placement.endpoint);
            let service = self.admission.service();
            let attempt = match self.ask(&placement).await {
                Ok(answer) => {
                    let opened = Opened {
                        placement,
                        permits: Permits::new(permit, of_client.take(), service),
                        answer,
                    };
                    let status = opened.answer.head.status;
                    if !is_unavailable(status) {
                        service.endpoint_succeeded(&endpoint.load);
                        return Ok(opened);
                    }
                    service.endpoint_unavailable(&endpoint);
                    Attempt::answered(opened)
                }
                Err(error) => {
                    tracing::debug!(endpoint = %endpoint.name, %error, "an endpoint failed");
                    self.asked = Some(placement);
                    self.failed(&endpoint, &error)
                }
            };
            if attempt.again.is_none() || self.retries >= attempts {
                return self.give_up(attempt);
            }
            tried.push(endpoint.id);
            let mut attempt = attempt;
            // The client's place goes with the next attempt.
            of_client =
                of_client.or_else(|| attempt.answered.as_mut().and_then(|it| it.permits.take_client()));
            last = Some(attempt);
        }
    }

    /// Counts what an endpoint did wrong, and says whether another one may be asked.
    pub(crate) fn failed(&self, endpoint: &Endpoint, error: &UpstreamError) -> Attempt {
        let failure = count_failure(self.admission.service(), endpoint, error);
        let again = match error {
            UpstreamError::Connect(_) | UpstreamError::ConnectTimeout => Some(RetryReason::Connect),
            // A GET may be asked again (RFC 9110 section 9.2.2).
            UpstreamError::Reset(_) => Some(RetryReason::Reset),
            UpstreamError::Local(_) | UpstreamError::ResponseTimeout | UpstreamError::Protocol(_) => None,
        };
        Attempt { failure, again, answered: None }
    }

    /// What the client is told when no other endpoint can be asked: the answer that there is, unless that would stop a
    /// browser for good.
    pub(crate) fn give_up(&mut self, last: Attempt) -> Result<Opened, Failure> {
        let passes = self.admission.service().configuration.sse.unavailable == Unavailable::Status;
        match last.answered {
            Some(opened) if passes => Ok(*opened),
            Some(opened) => {
                self.asked = Some(opened.placement);
                Err(last.failure)
            }
            None => Err(last.failure),
        }
    }

    pub(crate) async fn ask(&mut self, placement: &Placement) -> Result<connect::Answer, UpstreamError> {
        let service = self.admission.service();
        let times = &service.configuration.timeouts;
        let asked = clock::now();
        let address = placement.endpoint.address;
        let transport = connect::connect(address, service.tls.as_deref(), times.connect).await?;
        let took = clock::now().since(asked);
        service.metrics.upstream_connect.observe(took.as_secs_f64());
        self.connect_millis = clock::duration_millis(took);
        connect::exchange(transport, &self.request(placement), times.response_header).await
    }

    /// The upstream request head, from end-to-end lines and our own.
    pub(crate) fn request(&self, placement: &Placement) -> Vec<u8> {
        let mut lines = self.lines();
        self.admission.session_lines(&mut lines, placement);
        let mut request = self.head(&lines, &placement.endpoint);
        request.extend_from_slice(b"\r\n");
        request
    }

    /// What of it is the same for every pod; without the last event id, which changes.
    pub(crate) fn plan(&self, endpoint: &Endpoint) -> ResumePlan {
        let mut lines = self.lines();
        lines.remove(LAST_EVENT_ID);
        ResumePlan::new(Arc::clone(self.shared), self.admission.session, self.head(&lines, endpoint))
    }

    pub(crate) fn lines(&self) -> HeaderMap {
        let mut lines = rewrite::to_pod(self.admission, self.head, self.client);
        lines.remove(header::EXPECT);
        lines.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        lines
    }

    /// Request line and header lines, without the empty one at the end.
    pub(crate) fn head(&self, lines: &HeaderMap, endpoint: &Endpoint) -> Vec<u8> {
        rewrite::request_head(self.admission, self.head, lines, || endpoint.address.to_string())
    }

    /// Answers the client and starts the relay.
    pub(crate) fn begin(self, opened: Opened, exchange: Exchange) {
        let Opened { placement, permits, answer } = opened;
        let streams = is_event_stream(&answer);
        let status = answer.head.status;
        let length = answer.body.known_length().filter(|_| !streams);
        let lines = self.response_lines(&answer, &placement, streams);
        self.count(&placement, status, streams);
        let handover = self.handover(&answer, &placement, streams);
        let accounts = self.accounts(&placement, status, (streams, handover.is_some()));
        if streams {
            accounts.record().note_return(clock::now());
        }
        let Some(begun) = exchange.begin(status, &lines, self.head.version, length) else {
            accounts.settle(Finished::client_gone());
            return;
        };
        // Only event streams take a place of their endpoint.
        let permits = Some(permits).filter(|_| streams);
        let body = self.body(streams, handover.is_some());
        let relay = Relay::new(Start {
            downstream: begun.downstream,
            head: begun.head,
            preface: self.preface(streams),
            upstream: UpstreamReader::new(answer.transport, answer.body, answer.rest),
            settings: self.settings(&body, handover.is_some()),
            body,
            streams: Arc::clone(&self.shared.streams),
            record: Arc::clone(accounts.record()),
            permits,
            handover,
        });
        self.shared.lifecycle.tasks.spawn(StreamTask::new(relay, accounts, begun.after));
    }

    /// Returns the driver of the stream's handovers; `None` if it stays at its endpoint.
    fn handover(
        &self,
        answer: &connect::Answer,
        placement: &Placement,
        streams: bool,
    ) -> Option<Box<HandoverDriver>> {
        let wanted = self.admission.service().configuration.drain.handover == Handover::LastEventId;
        let may = streams && wanted && may_go_on_elsewhere(&answer.head.headers);
        may.then(|| Box::new(HandoverDriver::new(self.plan(&placement.endpoint))))
    }

    pub(crate) fn response_lines(
        &self,
        answer: &connect::Answer,
        placement: &Placement,
        streams: bool,
    ) -> HeaderMap {
        let answered = (answer.head.status, answer.head.headers.clone());
        let placed = (self.admission, placement);
        let mut lines = rewrite::to_client(self.shared, placed, (self.head, self.client), answered);
        if streams {
            lines.remove(header::CONTENT_LENGTH);
        }
        lines
    }

    pub(crate) fn count(&self, placement: &Placement, status: StatusCode, streams: bool) {
        let service = self.admission.service();
        self.admission.count(Some(placement));
        let requests = &self.shared.metrics.requests;
        requests.inc(&service.name, &self.admission.route.name, MethodLabel::Get, status.as_u16());
        if streams {
            let resumption = match self.head.headers.contains_key(LAST_EVENT_ID) {
                true => Resumption::Resumed,
                false => Resumption::Fresh,
            };
            let decision = self.admission.decision(Some(placement));
            service.metrics.streams_opened.inc(OpenedStream::of(decision, resumption));
        }
    }

    /// `retry:` for a client that comes back: a goodbye may have told it another.
    pub(crate) fn preface(&self, streams: bool) -> Vec<u8> {
        let returning = self.admission.returning() || self.head.headers.contains_key(LAST_EVENT_ID);
        let normal = self.admission.service().configuration.sse.retry.normal;
        match normal.filter(|_| streams && returning) {
            Some(retry) => retry_line(clock::duration_millis(retry)).into_bytes(),
            None => Vec::new(),
        }
    }

    pub(crate) fn body(&self, streams: bool, goes_on: bool) -> Body {
        let max = self.admission.service().configuration.sse.event_bytes_max;
        match (streams, goes_on) {
            (true, true) => Body::Events(Framer::with_cursor(max)),
            (true, false) => Body::Events(Framer::new(max)),
            (false, _) => Body::Opaque,
        }
    }

    /// Returns the timeouts and limits of the stream, as the configuration has them now.
    fn settings(&self, body: &Body, goes_on: bool) -> Settings {
        let service = &self.admission.service().configuration;
        let retry = &service.sse.retry;
        Settings {
            content: body.content(),
            keep_alive: service.sse.keep_alive,
            upstream_idle: service.timeouts.upstream_idle,
            client_write: service.timeouts.client_write,
            max_duration: service.sse.max_duration,
            goodbye_retry: RetryRange::new(retry.drain_min, retry.drain_max),
            handover: goes_on.then(|| limits(service)),
        }
    }

    pub(crate) fn accounts(
        &self,
        placement: &Placement,
        status: StatusCode,
        (streams, goes_on): (bool, bool),
    ) -> Accounts {
        let shared = self.shared;
        let kind = if streams { Kind::Stream } else { Kind::Request };
        let session = self.admission.is_recognised().then(|| *self.admission.session.as_bytes());
        let opening = stream_registry::Opening {
            kind,
            route: Arc::clone(&self.admission.route),
            endpoint: Arc::clone(&placement.endpoint),
            client: self.client.address,
            session,
            since: self.began,
            mobility: if goes_on && self.admission.may_be_rebalanced() {
                Mobility::Rebalances
            } else {
                Mobility::Leaves
            },
        };
        let record = shared.streams.open(|id| opening.into_record(id));
        let log = shared.is_logging().then(|| {
            let mut log = request_record(self.head, self.client, self.began);
            log.kind = if streams { "stream" } else { "request" };
            log.status = status.as_u16();
            log.affinity = Some(self.admission.decision(Some(placement)));
            log.repinned = placement.moved.map(MoveReason::as_str);
            log.session = Some(self.admission.session.to_string());
            log.connect_ms = Some(self.connect_millis);
            log.retries = self.retries;
            Box::new(log)
        });
        Accounts::new(Arc::clone(shared), record, log)
    }
}

/// The protocol as the access log spells it.
pub(crate) fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// Counts what an endpoint did wrong; gives what a client is told of it.
pub(crate) fn count_failure(service: &ServiceState, endpoint: &Endpoint, error: &UpstreamError) -> Failure {
    let (kind, failure) = classify(error);
    match error {
        UpstreamError::Local(_) => service.metrics.upstream_errors.inc(kind),
        _ => service.endpoint_failed(endpoint, kind),
    }
    failure
}

fn classify(error: &UpstreamError) -> (UpstreamErrorKind, Failure) {
    match error {
        UpstreamError::Local(_) | UpstreamError::Connect(_) | UpstreamError::ConnectTimeout => {
            (UpstreamErrorKind::Connect, Failure::UpstreamConnect)
        }
        UpstreamError::Reset(_) => (UpstreamErrorKind::Reset, Failure::UpstreamReset),
        UpstreamError::ResponseTimeout => (UpstreamErrorKind::Timeout, Failure::UpstreamTimeout),
        UpstreamError::Protocol(_) => (UpstreamErrorKind::Protocol, Failure::UpstreamProtocol),
    }
}

/// 200 and `text/event-stream`, not encoded: its framing can be read.
pub(crate) fn is_event_stream(answer: &connect::Answer) -> bool {
    let headers = &answer.head.headers;
    let encoded = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"));
    answer.head.is_event_stream() && !encoded
}
