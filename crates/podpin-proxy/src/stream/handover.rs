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

use http::header::{HeaderMap, HeaderName, HeaderValue};
use podpin_affinity::SessionId;
use podpin_config::Service;
use podpin_endpoints::{Endpoint, EndpointId, Permit, Phase};
use podpin_sse::session::{Answer, Eligibility, Limits};
use podpin_wire::http1::encode;

use crate::affinity::routed_request::RoutedRequest;
use crate::affinity::session_headers;
use crate::net::tls::UpstreamTls;
use crate::routing::route::Route;
use crate::shared::Shared;
use crate::upstream::attempts::{Attempts, Purpose};
use crate::upstream::connect::{self, UpstreamResponse};
use crate::upstream::error::UpstreamError;

/// Field in which an event stream client names the last event it has seen.
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Field by which an application forbids the handover of a stream.
const HANDOVER: HeaderName = HeaderName::from_static("x-podpin-handover");

/// A request for a successor under way; `Err` with the answer of one that cannot be used.
type PendingSuccessor = Pin<Box<dyn Future<Output = Result<Box<Successor>, Answer>> + Send>>;

/// Handovers of one stream, and what is kept of its request to resume it elsewhere.
pub(crate) struct HandoverDriver {
    shared: Arc<Shared>,
    session: SessionId,
    /// Upstream request head without the fields that differ from endpoint to endpoint, and without the empty line.
    head: Box<[u8]>,
    /// Request under way.
    request: Option<PendingSuccessor>,
    /// Successor that has answered with an event stream.
    successor: Option<Box<Successor>>,
}

/// A request for a successor.
pub(crate) struct SuccessorRequest {
    route: Arc<Route>,
    /// TLS as it is now: the stream may be older than the certificates.
    tls: Option<Arc<UpstreamTls>>,
    session: SessionId,
    head: Vec<u8>,
    last_event_id: Vec<u8>,
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

/// The endpoint that a successor is looked for at.
pub(crate) enum SuccessorTarget {
    /// The endpoint for all requests of a client that is pinned to this one.
    PinnedTo(EndpointId),
    /// The same, for a stream that still flows: an endpoint that leaves as well is no better than its own.
    AwayFrom(EndpointId),
    /// This endpoint and no other.
    Endpoint(Arc<Endpoint>),
}

impl HandoverDriver {
    /// Returns the driver of a stream that may be handed over; `head` is its request head without `Last-Event-ID` and
    /// session fields.
    pub(crate) fn new(shared: Arc<Shared>, session: SessionId, head: Vec<u8>) -> HandoverDriver {
        HandoverDriver { shared, session, head: head.into_boxed_slice(), request: None, successor: None }
    }

    /// Begins to request a successor for what follows `last_event_id`. The task has to poll afterwards.
    pub(crate) fn begin(&mut self, route: &Arc<Route>, last_event_id: Vec<u8>, target: SuccessorTarget) {
        let snapshot = self.shared.snapshot();
        let request = SuccessorRequest {
            route: Arc::clone(route),
            tls: snapshot.counterpart(&route.service).unwrap_or(&route.service).tls.clone(),
            session: self.session,
            head: self.head.to_vec(),
            last_event_id,
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

    /// Takes the successor that has answered; `None` if none has.
    pub(crate) fn take_successor(&mut self) -> Option<Successor> {
        self.successor.take().map(|successor| *successor)
    }

    /// Drops the request that is under way, and a successor that is not wanted any more.
    pub(crate) fn cancel(&mut self) {
        (self.request, self.successor) = (None, None);
    }
}

impl SuccessorRequest {
    /// Tries endpoints until one answers with an event stream, within `retries`. `Err` with the last answer if none does, or
    /// with that which ends the stream.
    pub(crate) async fn send(self, target: SuccessorTarget) -> Result<Box<Successor>, Answer> {
        match target {
            SuccessorTarget::Endpoint(endpoint) => self.send_to(endpoint).await,
            SuccessorTarget::PinnedTo(pinned_to) => self.try_endpoints(pinned_to, |_| true).await,
            SuccessorTarget::AwayFrom(pinned_to) => {
                self.try_endpoints(pinned_to, |endpoint| endpoint.phase < Phase::Draining).await
            }
        }
    }

    async fn try_endpoints(
        &self,
        pinned_to: EndpointId,
        is_better: fn(&Endpoint) -> bool,
    ) -> Result<Box<Successor>, Answer> {
        let mut attempts = self.attempts(pinned_to);
        let mut outcome = Answer::Failed;
        while attempts.may_retry() {
            let Ok(permit) = attempts.select_successor() else { break };
            if !attempts.endpoint().is_some_and(|endpoint| is_better(endpoint)) {
                break;
            }
            match self.attempt(&mut attempts, permit).await {
                Err(again @ (Answer::Refused | Answer::Failed)) => outcome = again,
                decided => return decided,
            }
        }
        Err(outcome)
    }

    async fn send_to(&self, endpoint: Arc<Endpoint>) -> Result<Box<Successor>, Answer> {
        let limit = self.route.service.configuration.limits.streams_per_endpoint;
        let Some(permit) = endpoint.load.try_open(limit) else {
            return Err(Answer::Failed);
        };
        let mut attempts = self.attempts(endpoint.id);
        attempts.select_fixed(endpoint);
        self.attempt(&mut attempts, permit).await
    }

    fn attempts(&self, pinned_to: EndpointId) -> Attempts {
        let request = RoutedRequest::of_stream(Arc::clone(&self.route), self.session, pinned_to);
        Attempts::new(request, Purpose::Successor { pinned_to })
    }

    async fn attempt(&self, attempts: &mut Attempts, permit: Permit) -> Result<Box<Successor>, Answer> {
        let Some(endpoint) = attempts.endpoint().map(Arc::clone) else {
            return Err(Answer::Failed);
        };
        let limit = self.route.service.configuration.drain.handover_timeout;
        let response = match tokio::time::timeout(limit, self.exchange(attempts, &endpoint)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return self.failed(attempts, &error),
            Err(_) => return self.failed(attempts, &UpstreamError::ResponseTimeout),
        };
        let status = response.start.head.status;
        attempts.answered(status);
        if status == http::StatusCode::NO_CONTENT {
            return Err(Answer::NoContent);
        }
        if !response.start.head.is_plain_event_stream() {
            tracing::debug!(endpoint = %endpoint.name, %status, "no successor");
            attempts.rejected(status);
            return Err(Answer::Refused);
        }
        Ok(Box::new(Successor { endpoint, permit, response }))
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

    fn failed(&self, attempts: &mut Attempts, error: &UpstreamError) -> Result<Box<Successor>, Answer> {
        attempts.failed(error);
        Err(Answer::Failed)
    }

    /// Returns the whole request head for the endpoint of the current attempt.
    fn head(&self, attempts: &Attempts) -> Vec<u8> {
        let mut fields = HeaderMap::with_capacity(3);
        if let Some(selected) = attempts.selected() {
            session_headers::write_session(&attempts.request, selected, &mut fields);
        }
        if let Ok(id) = HeaderValue::from_bytes(&self.last_event_id) {
            fields.insert(LAST_EVENT_ID, id);
        }
        let mut head = self.head.clone();
        encode::write_headers(&mut head, &fields);
        head.extend_from_slice(b"\r\n");
        head
    }
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

    use podpin_sse::session::{Fault, ResumePoint, Session, Settings, Standing, Upstream, UpstreamEnd};
    use podpin_time::Millis;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::balance::service::Operation;
    use crate::testing::{Scene, nowhere};

    fn driver(scene: &Scene) -> HandoverDriver {
        let head = b"GET / HTTP/1.1\r\nhost: x\r\n".to_vec();
        HandoverDriver::new(Arc::clone(&scene.shared), SessionId::from_bytes([1; 16]), head)
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
            ("200 OK\r\nContent-Type: text/html", Answer::Refused),
            ("503 Service Unavailable", Answer::Refused),
        ];
        for (head, expected) in table {
            let successors = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let scene = Scene::new(&[("b", successors.local_addr().unwrap())]);
            let mut handover = driver(&scene);
            let from = SuccessorTarget::PinnedTo(EndpointId::of_pod("a", 80));
            handover.begin(&scene.route, b"7".to_vec(), from);
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
            let successor = handover.take_successor();
            assert_eq!(successor.is_some(), matches!(expected, Answer::EventStream(_)), "{head}");
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_does_not_answer_is_a_failure() {
        let scene = Scene::new(&[("b", nowhere())]);
        let mut handover = driver(&scene);
        handover.begin(&scene.route, b"7".to_vec(), SuccessorTarget::PinnedTo(EndpointId::of_pod("a", 80)));
        assert_eq!(answer(&mut handover).await, Answer::Failed);
        assert!(handover.take_successor().is_none());
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
        handover.begin(&scene.route, b"7".to_vec(), SuccessorTarget::AwayFrom(a));
        assert_eq!(answer(&mut handover).await, Answer::Failed, "nobody is ready");
        service.operate(&b, Operation::Undrain).unwrap();
        handover.begin(&scene.route, b"7".to_vec(), SuccessorTarget::AwayFrom(a));
        let accepted = async { drop(successors.accept().await.unwrap()) };
        assert_eq!(tokio::join!(answer(&mut handover), accepted).0, Answer::Failed, "it was asked, and left");
    }

    #[tokio::test]
    async fn a_request_that_is_cancelled_has_no_answer() {
        let scene = Scene::new(&[("b", nowhere())]);
        let mut handover = driver(&scene);
        handover.begin(&scene.route, b"7".to_vec(), SuccessorTarget::PinnedTo(EndpointId::of_pod("a", 80)));
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
        handover.begin(&scene.route, b"1".to_vec(), SuccessorTarget::PinnedTo(EndpointId::of_pod("a", 80)));
        assert_eq!(answer(&mut handover).await, Answer::Failed);
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
