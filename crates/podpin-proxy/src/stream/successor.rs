//! The endpoint that a stream in flight goes on at: its selection, and the request for what follows the last event id.
//!
//! The endpoint is the one that `select` returns for the session, so that the stream and all other requests of its client
//! meet at one. The request is the client's own, kept as bytes since the beginning of the stream, with `Last-Event-ID` and
//! the session fields. When to send one, and what the result means for the stream, is decided by
//! `podpin_sse::session`.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use podpin_affinity::SessionId;
use podpin_config::Service;
use podpin_endpoints::{Endpoint, EndpointId, Permit, Phase};
use podpin_sse::session::Limits;
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

/// The part of a stream's request that is kept to resume it elsewhere.
pub(crate) struct ResumePlan {
    shared: Arc<Shared>,
    session: SessionId,
    /// Upstream request head without the fields that differ from endpoint to endpoint, and without the empty line.
    head: Box<[u8]>,
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

/// The result of a request for a successor.
pub(crate) enum SuccessorResult {
    /// An event stream that follows.
    Stream(Box<Successor>),
    /// 204: the stream is over.
    NoContent,
    /// Any other response.
    Refused,
    /// No response, or no endpoint to try.
    Failed,
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

impl ResumePlan {
    /// Keeps a stream's request head, without `Last-Event-ID` and session fields.
    pub(crate) fn new(shared: Arc<Shared>, session: SessionId, head: Vec<u8>) -> ResumePlan {
        ResumePlan { shared, session, head: head.into_boxed_slice() }
    }

    /// Returns a request for what follows `last_event_id`.
    pub(crate) fn request(&self, route: &Arc<Route>, last_event_id: Vec<u8>) -> SuccessorRequest {
        let snapshot = self.shared.snapshot();
        let tls = snapshot.counterpart(&route.service).unwrap_or(&route.service).tls.clone();
        let route = Arc::clone(route);
        SuccessorRequest { route, tls, session: self.session, head: self.head.to_vec(), last_event_id }
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

impl SuccessorRequest {
    /// Tries endpoints until one answers with an event stream, within `retries`.
    pub(crate) async fn send(self, target: SuccessorTarget) -> SuccessorResult {
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
    ) -> SuccessorResult {
        let mut attempts = self.attempts(pinned_to);
        let mut outcome = SuccessorResult::Failed;
        while attempts.may_retry() {
            let Ok(permit) = attempts.select_successor() else { break };
            if !attempts.endpoint().is_some_and(|endpoint| is_better(endpoint)) {
                break;
            }
            match self.attempt(&mut attempts, permit).await {
                result @ (SuccessorResult::Refused | SuccessorResult::Failed) => outcome = result,
                decided => return decided,
            }
        }
        outcome
    }

    async fn send_to(&self, endpoint: Arc<Endpoint>) -> SuccessorResult {
        let limit = self.route.service.configuration.limits.streams_per_endpoint;
        let Some(permit) = endpoint.load.try_open(limit) else {
            return SuccessorResult::Failed;
        };
        let mut attempts = self.attempts(endpoint.id);
        attempts.select_fixed(endpoint);
        self.attempt(&mut attempts, permit).await
    }

    fn attempts(&self, pinned_to: EndpointId) -> Attempts {
        let request = RoutedRequest::of_stream(Arc::clone(&self.route), self.session, pinned_to);
        Attempts::new(request, Purpose::Successor { pinned_to })
    }

    async fn attempt(&self, attempts: &mut Attempts, permit: Permit) -> SuccessorResult {
        let Some(endpoint) = attempts.endpoint().map(Arc::clone) else {
            return SuccessorResult::Failed;
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
            return SuccessorResult::NoContent;
        }
        if !response.start.head.is_plain_event_stream() {
            tracing::debug!(endpoint = %endpoint.name, %status, "no successor");
            attempts.rejected(status);
            return SuccessorResult::Refused;
        }
        SuccessorResult::Stream(Box::new(Successor { endpoint, permit, response }))
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
        connect::exchange(transport, &request, Some(limit)).await
    }

    fn failed(&self, attempts: &mut Attempts, error: &UpstreamError) -> SuccessorResult {
        attempts.failed(error);
        SuccessorResult::Failed
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

/// Whether the application lets a stream be handed over.
pub(crate) fn allows_handover(headers: &HeaderMap) -> bool {
    let is_no = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"no");
    !headers.get_all(HANDOVER).iter().any(is_no)
}

#[cfg(test)]
mod tests {
    use podpin_sse::session::{Fault, ResumePoint, Session, Settings, Standing, Upstream, UpstreamEnd};
    use podpin_time::Millis;
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::Scene;

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
        let head = b"GET / HTTP/1.1\r\nhost: x\r\n".to_vec();
        let plan = ResumePlan::new(Arc::clone(&scene.shared), SessionId::from_bytes([1; 16]), head);
        let request = plan.request(&scene.route, b"1".to_vec());
        let from = SuccessorTarget::PinnedTo(EndpointId::of_pod("a", 80));
        assert!(matches!(request.send(from).await, SuccessorResult::Failed));
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
