//! Handovers of one stream: requests successors, and keeps one that has answered until the session decides.
//!
//! ```text
//! Action::Open ──▶ begin ──▶ the request is polled with the relay ──▶ Answer ──▶ Session::on_answer ──▶ take_successor
//!                                                                                   └▶ cancel
//! ```
//!
//! When to open, to swap and to give up is decided by [`podpin_sse::session`]. The successor is the endpoint that `select`
//! returns for the session, so that the stream and all other requests of its client meet at one. The request is the client's
//! own, kept as bytes since the beginning of the stream, with `Last-Event-ID` and the session fields.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use podpin_affinity::SessionId;
use podpin_config::{Handover, Service};
use podpin_drain::DrainMember;
use podpin_endpoints::{Endpoint, EndpointId, Permit, Phase};
use podpin_sse::session::{
    Answer, Eligibility, HandoverCause, Limits, Meeting, Outcome, Reason, Report, Target,
};
use podpin_sse::{KnownIds, Outstanding, ReplayStart};
use podpin_wire::compact_head::CompactHead;
use podpin_wire::header_list::HeaderList;
use podpin_wire::http1::response_head::ResponseStart;

use crate::affinity::routed_request::RoutedRequest;
use crate::affinity::session_headers;
use crate::http::reply::ErrorReply;
use crate::net::tls::UpstreamTls;
use crate::routing::route::Route;
use crate::shared::Shared;
use crate::stream::account::upstream_error_kind;
use crate::stream::body::Body;
use crate::stream::overlap::{Beside, Continuation, TwoUpstreams};
use crate::stream::upstream_reader::UpstreamReader;
use crate::stream_registry::StreamRecord;
use crate::telemetry::labels::{DepartureKind, Join, UpstreamErrorKind};
use crate::upstream::attempts::{Attempts, Purpose};
use crate::upstream::connect::{self, UpstreamResponse};
use crate::upstream::error::UpstreamError;

/// Field in which an event stream client names the last event it has seen.
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Id by which a successor says that its history does not reach back to the requested event (Mercure specification).
pub(crate) const EARLIEST: &[u8] = b"earliest";
/// Field by which an application forbids the handover of a stream.
const HANDOVER: HeaderName = HeaderName::from_static("x-podpin-handover");

/// A request for a successor under way; `Err` with the answer of one that cannot be used.
type PendingSuccessor = Pin<Box<dyn Future<Output = Result<Box<Successor>, Answer>> + Send>>;

/// Handovers of one stream, and what is kept of its request to resume it elsewhere.
pub(crate) struct HandoverDriver {
    shared: Arc<Shared>,
    session: SessionId,
    /// Upstream request head without the fields that differ from endpoint to endpoint, and without the empty line.
    head: CompactHead,
    /// Request under way.
    request: Option<PendingSuccessor>,
    /// Successor that has answered with an event stream.
    successor: Option<Box<Successor>>,
    /// Whether the last request named an event.
    resumes: bool,
    /// Both upstreams, from a request on, where the service reads two of them; `None` otherwise.
    two: Option<Box<TwoUpstreams>>,
    /// Events that are dropped when they come again; `None` if there are none.
    outstanding: Option<Box<Outstanding>>,
}

/// A request for a successor.
pub(crate) struct SuccessorRequest {
    route: Arc<Route>,
    /// TLS as it is now: the stream may be older than the certificates.
    tls: Option<Arc<UpstreamTls>>,
    session: SessionId,
    head: Vec<u8>,
    resume: ResumeFrom,
    /// Time before the first attempt.
    wait: Duration,
}

/// The point that a successor is requested from.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResumeFrom {
    /// Id to be sent; `None` if the client has seen nothing, so that the successor begins at the present moment.
    pub last_event_id: Option<Vec<u8>>,
    /// Ids that the client has seen, by which a successor's own word on where it begins is judged.
    pub known: KnownIds,
}

/// An endpoint that has answered with an event stream.
pub(crate) struct Successor {
    /// The endpoint itself.
    pub endpoint: Arc<Endpoint>,
    /// The slot for the stream.
    pub permit: Permit,
    /// The response, with its connection.
    pub response: UpstreamResponse,
}

/// A successor that takes over.
pub(crate) struct Takeover {
    /// The endpoint itself.
    pub endpoint: Arc<Endpoint>,
    /// The slot for the stream.
    pub permit: Permit,
    /// The response.
    pub upstream: UpstreamReader,
    /// Bytes that came before the ones to be read, without framing.
    pub first: Vec<u8>,
    /// Knowledge of the seam.
    pub join: Join,
}

/// The endpoint that a successor is looked for at.
#[derive(Clone, Debug)]
pub(crate) enum SuccessorTarget {
    /// The endpoint for all requests of a client that is pinned to this one.
    PinnedTo(EndpointId),
    /// The same, for a stream that still flows: neither its own endpoint nor one that leaves as well.
    AwayFrom(EndpointId),
    /// Any but this one, which comes last.
    Another(EndpointId),
    /// This endpoint and no other.
    Endpoint(Arc<Endpoint>),
}

impl SuccessorTarget {
    /// Returns the endpoint that the session means for this stream; `flows` says whether its present one does.
    pub(crate) fn of(target: Target, record: &StreamRecord, flows: bool) -> SuccessorTarget {
        let ordered = match target {
            Target::Ordered => record.drain().take_target(),
            Target::Chosen | Target::Another => None,
        };
        let present = record.endpoint().id;
        match ordered {
            Some(endpoint) => SuccessorTarget::Endpoint(endpoint),
            None if target == Target::Another => SuccessorTarget::Another(present),
            None if flows => SuccessorTarget::AwayFrom(present),
            None => SuccessorTarget::PinnedTo(present),
        }
    }
}

/// The result of one attempt that brings no successor.
enum Refusal {
    /// Another endpoint may be tried.
    Next(Outcome),
    /// The answer holds for all endpoints.
    Final(Answer),
}

impl HandoverDriver {
    /// Returns the driver of a stream that may be handed over; `head` is its request head without `Last-Event-ID` and
    /// session fields.
    pub(crate) fn new(shared: Arc<Shared>, session: SessionId, head: &[u8]) -> HandoverDriver {
        let head = CompactHead::of(head);
        HandoverDriver {
            shared,
            session,
            head,
            request: None,
            successor: None,
            resumes: false,
            two: None,
            outstanding: None,
        }
    }

    /// Begins to request a successor for what follows `resume`. The task has to poll afterwards.
    pub(crate) fn begin(&mut self, route: &Arc<Route>, resume: ResumeFrom, target: SuccessorTarget) {
        let snapshot = self.shared.snapshot();
        self.resumes = resume.last_event_id.is_some();
        self.cancel();
        let configuration = &route.service.configuration;
        let reads_two = configuration.drain.handover == Handover::Overlap;
        self.two = reads_two.then(|| Box::new(TwoUpstreams::new(configuration.sse.event_bytes_max)));
        let request = SuccessorRequest {
            route: Arc::clone(route),
            tls: snapshot.counterpart(&route.service).unwrap_or(&route.service).tls.clone(),
            session: self.session,
            head: self.head.bytes(),
            resume,
            wait: match target {
                // The streams of an endpoint that died all come at one moment.
                SuccessorTarget::PinnedTo(_) => route.service.crash_wait(),
                _ => Duration::ZERO,
            },
        };
        self.request = Some(Box::pin(request.send(target)));
    }

    /// Returns the answer of the successor once there is one; `None` if nothing has changed.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Option<Answer> {
        let request = self.request.as_mut()?;
        let Poll::Ready(result) = request.as_mut().poll(context) else { return None };
        self.request = None;
        let successor = match result {
            Ok(successor) => successor,
            Err(answer) => return Some(answer),
        };
        let may_move_again = allows_handover(&successor.response.start.head.headers);
        self.successor = Some(successor);
        let eligibility = if may_move_again { Eligibility::Eligible } else { Eligibility::Ineligible };
        Some(Answer::EventStream(eligibility))
    }

    /// Whether the successor was sent an id; false if it began at the present moment.
    pub(crate) fn resumes(&self) -> bool {
        self.resumes
    }

    /// Begins to read the successor that has answered beside the old upstream.
    pub(crate) fn read_both(&mut self) {
        if let (Some(two), Some(successor)) = (&mut self.two, self.successor.take()) {
            let Successor { endpoint, permit, response } = *successor;
            let ResponseStart { body, rest, .. } = response.start;
            let reader = UpstreamReader::new(response.transport, body, rest);
            two.add(Beside { endpoint, permit, reader });
        }
    }

    /// Returns what has come about between the two upstreams; pending if there are no two, or nothing has.
    pub(crate) fn poll_both(&mut self, context: &mut Context<'_>) -> Poll<Meeting> {
        self.two.as_mut().map_or(Poll::Pending, |two| two.poll(context))
    }

    /// Takes what the client is sent of the present upstream, behind `from`. Removes events that it has already, and returns
    /// their number.
    pub(crate) fn pass(&mut self, out: &mut Vec<u8>, from: usize) -> u32 {
        let dropped = self.outstanding.as_mut().map_or(0, |outstanding| outstanding.drop_from(out, from));
        if self.outstanding.as_ref().is_some_and(|outstanding| outstanding.is_over()) {
            self.outstanding = None;
        }
        if let Some(two) = &mut self.two {
            two.sent(out.get(from..).unwrap_or_default());
        }
        dropped
    }

    /// Takes the successor that takes over, and makes `body` expect what it sends; `None` if there is none. `is_flowing` says
    /// whether the old upstream was there until now.
    pub(crate) fn take_successor(&mut self, body: &mut Body, is_flowing: bool) -> Option<Takeover> {
        self.outstanding = None;
        if let Some(Continuation { successor, rest, outstanding, is_recognised }) =
            self.two.take().and_then(|two| two.join())
        {
            body.adopt(ReplayStart::Unnamed);
            self.outstanding = (!outstanding.is_over()).then(|| Box::new(outstanding));
            let join = if is_recognised { Join::Overlap } else { Join::Unknown };
            let Beside { endpoint, permit, reader } = successor;
            return Some(Takeover { endpoint, permit, upstream: reader, first: rest, join });
        }
        let successor = *self.successor.take()?;
        let begins_after = successor.begins_after();
        let is_known = begins_after.is_some_and(|id| body.known_ids().contains(id));
        let join = match begins_after {
            Some(_) if self.resumes && is_known => Join::Exact,
            Some(_) if self.resumes => Join::Gap,
            _ if self.resumes && body.repeats_ids() => Join::Unknown,
            _ if self.resumes || is_flowing => Join::Exact,
            _ => Join::Unknown,
        };
        body.adopt(if is_known { ReplayStart::Known } else { ReplayStart::Unnamed });
        if let Some(id) = begins_after.filter(|id| *id != EARLIEST) {
            body.seed(id);
        }
        let Successor { endpoint, permit, response } = successor;
        let ResponseStart { body, rest, .. } = response.start;
        let upstream = UpstreamReader::new(response.transport, body, rest);
        Some(Takeover { endpoint, permit, upstream, first: Vec::new(), join })
    }

    /// Drops the request that is under way, and a successor that is not wanted any more.
    pub(crate) fn cancel(&mut self) {
        (self.request, self.successor) = (None, None);
        self.two = None;
    }
}

impl Successor {
    /// Returns the id of the event before the first one of the body, as the response says (the Mercure specification has
    /// that field); `None` if it says nothing.
    pub(crate) fn begins_after(&self) -> Option<&[u8]> {
        self.response.start.head.headers.get(LAST_EVENT_ID).map(HeaderValue::as_bytes)
    }
}

impl SuccessorRequest {
    /// Tries endpoints until one answers with an event stream, within `retries`. `Err` with the last answer if none does, or
    /// if one holds for all endpoints.
    pub(crate) async fn send(self, target: SuccessorTarget) -> Result<Box<Successor>, Answer> {
        if !self.wait.is_zero() {
            tokio::time::sleep(self.wait).await;
        }
        match target {
            SuccessorTarget::Endpoint(endpoint) => self.send_to(endpoint).await,
            SuccessorTarget::PinnedTo(id) => self.try_endpoints(self.attempts(id), |_| true).await,
            SuccessorTarget::AwayFrom(id) => {
                let is_good = |endpoint: &Endpoint| endpoint.phase < Phase::Draining && endpoint.id != id;
                self.try_endpoints(self.attempts(id), is_good).await
            }
            SuccessorTarget::Another(id) => {
                let mut attempts = self.attempts(id);
                attempts.pass_over(id);
                match self.try_endpoints(attempts, |_| true).await {
                    Err(Answer::Failed(_)) => self.try_endpoints(self.attempts(id), |_| true).await,
                    answered => answered,
                }
            }
        }
    }

    /// Tries endpoints that are good enough. One that begins somewhere else than was requested is used if no other does
    /// better: its history is gone, and so may be that of all.
    async fn try_endpoints(
        &self,
        mut attempts: Attempts,
        is_good: impl Fn(&Endpoint) -> bool,
    ) -> Result<Box<Successor>, Answer> {
        let mut outcome = Outcome::NoEndpoint;
        let mut astray = None;
        while attempts.may_retry() {
            let permit = match attempts.select_successor() {
                Ok(permit) => permit,
                Err(ErrorReply::Full) => {
                    outcome = if outcome == Outcome::NoEndpoint { Outcome::Cap } else { outcome };
                    break;
                }
                Err(_) => break,
            };
            if !attempts.endpoint().is_some_and(|endpoint| is_good(endpoint)) {
                break;
            }
            match self.attempt(&mut attempts, permit).await {
                Ok(successor) if self.follows(&successor) => return Ok(successor),
                Ok(successor) => {
                    attempts.rejected(successor.response.start.head.status);
                    astray = astray.or(Some(successor));
                }
                Err(Refusal::Next(failed)) => outcome = failed,
                Err(Refusal::Final(answer)) => return Err(answer),
            }
        }
        astray.ok_or(Answer::Failed(outcome))
    }

    /// Whether a successor begins where it was to, as far as it says.
    fn follows(&self, successor: &Successor) -> bool {
        let is_known = |id: &[u8]| self.resume.known.contains(id);
        self.resume.last_event_id.is_none() || successor.begins_after().is_none_or(is_known)
    }

    async fn send_to(&self, endpoint: Arc<Endpoint>) -> Result<Box<Successor>, Answer> {
        let limit = self.route.service.configuration.limits.streams_per_endpoint;
        let Some(permit) = endpoint.load.try_open(limit) else {
            return Err(Answer::Failed(Outcome::Cap));
        };
        let mut attempts = self.attempts(endpoint.id);
        attempts.select_fixed(endpoint);
        self.attempt(&mut attempts, permit).await.map_err(|refusal| match refusal {
            Refusal::Next(outcome) => Answer::Failed(outcome),
            Refusal::Final(answer) => answer,
        })
    }

    fn attempts(&self, pinned_to: EndpointId) -> Attempts {
        let request = RoutedRequest::of_stream(Arc::clone(&self.route), self.session, pinned_to);
        Attempts::new(request, Purpose::Successor { pinned_to })
    }

    async fn attempt(&self, attempts: &mut Attempts, permit: Permit) -> Result<Box<Successor>, Refusal> {
        let Some(endpoint) = attempts.endpoint().map(Arc::clone) else {
            return Err(Refusal::Next(Outcome::NoEndpoint));
        };
        let limit = self.route.service.configuration.drain.handover_timeout;
        let under_way = self.route.service.asks.permit(endpoint.id).await;
        let exchange = tokio::time::timeout(limit, self.exchange(attempts, &endpoint)).await;
        drop(under_way);
        let error = match exchange {
            Ok(Ok(response)) => return self.judge(attempts, Successor { endpoint, permit, response }),
            Ok(Err(error)) => error,
            Err(_) => UpstreamError::ResponseTimeout,
        };
        attempts.failed(&error);
        Err(Refusal::Next(match error.kind() {
            UpstreamErrorKind::Timeout => Outcome::Timeout,
            UpstreamErrorKind::Connect | UpstreamErrorKind::Reset | UpstreamErrorKind::Protocol => {
                Outcome::Connect
            }
        }))
    }

    /// Accepts an event stream. A response of 400 to 499 is the application's answer, which others would give as well.
    fn judge(&self, attempts: &mut Attempts, successor: Successor) -> Result<Box<Successor>, Refusal> {
        let head = &successor.response.start.head;
        attempts.answered(head.status);
        if head.is_plain_event_stream() {
            return Ok(Box::new(successor));
        }
        tracing::debug!(endpoint = %successor.endpoint.name, status = %head.status, "no successor");
        attempts.rejected(head.status);
        Err(match head.status {
            StatusCode::NO_CONTENT => Refusal::Final(Answer::NoContent),
            status if status.is_client_error() => Refusal::Final(Answer::Failed(Outcome::Status4xx)),
            status if status.is_server_error() => Refusal::Next(Outcome::Status5xx),
            _ => Refusal::Next(Outcome::Refused),
        })
    }

    async fn exchange(
        &self,
        attempts: &mut Attempts,
        endpoint: &Endpoint,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let configuration = &self.route.service.configuration;
        let limit = configuration.drain.handover_timeout;
        let request = self.head(attempts);
        let connect_limit = configuration.timeouts.connect.min(limit);
        let transport = attempts.connect(endpoint.address, self.tls.as_deref(), connect_limit).await?;
        connect::exchange(transport, &request, Some(limit), drop).await
    }

    /// Returns the whole request head for the endpoint of the current attempt.
    fn head(&self, attempts: &Attempts) -> Vec<u8> {
        let mut fields = HeaderList::default();
        if let Some(selected) = attempts.selected() {
            session_headers::write_session(&attempts.request, selected, &mut fields);
        }
        // An id that no field can carry is left out.
        let id = self.resume.last_event_id.as_deref().filter(|id| HeaderValue::from_bytes(id).is_ok());
        if let Some(id) = id {
            fields.append(b"last-event-id", id);
        }
        let mut head = self.head.clone();
        fields.write(&mut head);
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// Counts a handover that is over.
pub(crate) fn count(record: &StreamRecord, report: &Report) {
    let metrics = &record.route.service.metrics;
    metrics.handovers.inc(report.cause, report.outcome);
    if report.outcome == Outcome::Ok {
        match report.otherwise_ends_with {
            // The end of a stream that ends for it is counted by its account.
            Some(Reason::UpstreamReset) => metrics.upstream_errors.inc(upstream_error_kind(report.fault)),
            Some(Reason::Drain) => metrics.drain_departures.inc(DepartureKind::Handover),
            _ => {}
        }
    }
    if !matches!(report.outcome, Outcome::NoId | Outcome::Limit) {
        metrics.handover_duration.observe(Duration::from_millis(report.took_ms).as_secs_f64());
    }
    tracing::debug!(
        stream = record.id,
        endpoint = %record.endpoint().name,
        planned = report.cause == HandoverCause::Planned,
        outcome = ?report.outcome,
        millis = report.took_ms,
        "handover"
    );
}

/// Returns the limits on handovers of the service's streams.
pub(crate) fn limits(service: &Service) -> Limits {
    let (per_stream, each) = (service.drain.handovers_per_stream, service.drain.handover_timeout);
    let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    // The first attempt, its retries, and one that is free: at the endpoint that the stream ran on.
    let attempts = service.retries.attempts.saturating_add(2);
    Limits {
        handovers: u16::try_from(per_stream.limit).unwrap_or(u16::MAX),
        window_ms: millis(per_stream.window),
        handover_ms: millis(each.saturating_mul(attempts)),
        overlap_ms: millis(each),
    }
}

/// Whether the application lets a stream be handed over.
pub(crate) fn allows_handover(headers: &HeaderMap) -> bool {
    let is_no = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"no");
    !headers.get_all(HANDOVER).iter().any(is_no)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use podpin_sse::Framer;
    use podpin_sse::session::{Fault, ResumePoint, Session, Settings, Standing, Upstream, UpstreamEnd};
    use podpin_time::Millis;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::balance::service::Operation;
    use crate::testing::{Scene, nowhere};

    fn driver(scene: &Scene) -> HandoverDriver {
        let head = b"GET / HTTP/1.1\r\nhost: x\r\n";
        HandoverDriver::new(Arc::clone(&scene.shared), SessionId::from_bytes([1; 16]), head)
    }

    fn resume() -> ResumeFrom {
        ResumeFrom { last_event_id: Some(b"7".to_vec()), known: KnownIds::default() }
    }

    async fn answer(handover: &mut HandoverDriver) -> Answer {
        poll_fn(|context| handover.poll(context).map_or(Poll::Pending, Poll::Ready)).await
    }

    #[tokio::test]
    async fn an_answer_says_whether_the_stream_goes_on_and_may_move_again() {
        let stream = "200 OK\r\nContent-Type: text/event-stream";
        let vetoed = format!("{stream}\r\nX-Podpin-Handover: no");
        let table = [
            (stream, Answer::EventStream(Eligibility::Eligible)),
            (&*vetoed, Answer::EventStream(Eligibility::Ineligible)),
            ("204 No Content", Answer::NoContent),
            ("200 OK\r\nContent-Type: text/html", Answer::Failed(Outcome::Refused)),
            ("404 Not Found", Answer::Failed(Outcome::Status4xx)),
            ("503 Service Unavailable", Answer::Failed(Outcome::Status5xx)),
        ];
        for (head, expected) in table {
            let successors = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let scene = Scene::new(&[("b", successors.local_addr().unwrap())]);
            let mut handover = driver(&scene);
            let from = SuccessorTarget::PinnedTo(EndpointId::of_pod("a", 80));
            handover.begin(&scene.route, resume(), from);
            let serve = async {
                let (mut socket, _) = successors.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    assert!(socket.read_buf(&mut request).await.unwrap() > 0);
                }
                socket.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes()).await.unwrap();
                socket
            };
            let (answered, _socket) = tokio::join!(answer(&mut handover), serve);
            assert_eq!(answered, expected, "{head}");
            let mut body = Body::Events(Framer::with_cursor(1_024, 64));
            let successor = handover.take_successor(&mut body, true);
            assert_eq!(successor.is_some(), matches!(expected, Answer::EventStream(_)), "{head}");
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_does_not_answer_is_a_failure() {
        let scene = Scene::new(&[("b", nowhere())]);
        let mut handover = driver(&scene);
        handover.begin(&scene.route, resume(), SuccessorTarget::PinnedTo(EndpointId::of_pod("a", 80)));
        assert_eq!(answer(&mut handover).await, Answer::Failed(Outcome::Connect));
        assert!(handover.take_successor(&mut Body::Encoded, true).is_none());
    }

    #[tokio::test]
    async fn a_stream_that_flows_does_not_go_on_at_an_endpoint_that_leaves_as_well() {
        let successors = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scene = Scene::new(&[("a", nowhere()), ("b", successors.local_addr().unwrap())]);
        let [a, b] = ["a", "b"].map(|name| EndpointId::of_pod(name, 80));
        let mut handover = driver(&scene);
        let service = &scene.route.service;
        service.operate(&a, Operation::Drain).unwrap();
        service.operate(&b, Operation::Drain).unwrap();
        handover.begin(&scene.route, resume(), SuccessorTarget::AwayFrom(a));
        assert_eq!(answer(&mut handover).await, Answer::Failed(Outcome::NoEndpoint), "none is ready");
        service.operate(&b, Operation::Undrain).unwrap();
        handover.begin(&scene.route, resume(), SuccessorTarget::AwayFrom(a));
        let accepted = async { drop(successors.accept().await.unwrap()) };
        assert_eq!(
            tokio::join!(answer(&mut handover), accepted).0,
            Answer::Failed(Outcome::Connect),
            "it was asked, and left"
        );
    }

    #[tokio::test]
    async fn a_request_that_is_cancelled_has_no_answer() {
        let scene = Scene::new(&[("b", nowhere())]);
        let mut handover = driver(&scene);
        handover.begin(&scene.route, resume(), SuccessorTarget::PinnedTo(EndpointId::of_pod("a", 80)));
        handover.cancel();
        let polled = poll_fn(|context| Poll::Ready(handover.poll(context))).await;
        assert_eq!(polled, None);
    }

    /// Listener whose connections are accepted by the system and get no answer.
    async fn silent() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.unwrap()
    }

    #[tokio::test]
    async fn an_endpoint_that_hangs_leaves_time_for_another_one_even_without_retries() {
        let (hanging, next) = (silent().await, silent().await);
        let endpoints = [("a", hanging.local_addr().unwrap()), ("b", next.local_addr().unwrap())];
        let service = "drain: {handover: lastEventId, handoverTimeout: 20ms}\nretries: {attempts: 0}";
        let scene = Scene::with(service, &endpoints);
        let settings =
            Settings { handover: Some(limits(&scene.route.service.configuration)), ..Settings::default() };
        let mut session = Session::new(&settings, 0.0, Millis(0));
        let upstream = Upstream { standing: Standing::Serving, resume: ResumePoint::Known };
        let _ = session.on_upstream_end(UpstreamEnd::Broken(Fault::Reset), upstream, Millis(0));
        assert_eq!(session.due(), Some(Millis(40)), "one attempt at the old endpoint, and one elsewhere");
        let mut handover = driver(&scene);
        handover.begin(&scene.route, resume(), SuccessorTarget::PinnedTo(EndpointId::of_pod("a", 80)));
        assert_eq!(answer(&mut handover).await, Answer::Failed(Outcome::Timeout));
        let (hanging, next) = tokio::join!(hanging.accept(), next.accept());
        assert!(hanging.is_ok() && next.is_ok(), "both were tried");
    }

    #[test]
    fn an_application_can_forbid_the_handover_of_a_stream() {
        for (value, allowed) in [("no", false), (" No ", false), ("yes", true), ("", true)] {
            let mut headers = HeaderMap::new();
            headers.insert(HANDOVER, HeaderValue::from_str(value).unwrap());
            assert_eq!(allows_handover(&headers), allowed, "{value:?}");
        }
        assert!(allows_handover(&HeaderMap::new()));
    }
}
