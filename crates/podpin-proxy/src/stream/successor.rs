//! The pod that a stream in flight goes on at: which one, and asking it for what follows the last event id.
//!
//! It is what `pick` says for the session, so that the stream and all other requests of its client meet at one pod. The
//! request is the client's own, kept as bytes since the beginning of the stream, with `Last-Event-ID` and what we tell
//! every pod of the session. When to ask, and what an answer means for the stream, is decided by `podpin_sse::session`.

use podpin_wire::http1::encode;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use podpin_affinity::SessionId;
use podpin_config::Service;
use podpin_endpoints::{Endpoint, EndpointId, Permit};
use podpin_sse::session::Limits;

use crate::affinity::select::{Admission, Placement};
use crate::clock;
use crate::net::tls::UpstreamTls;
use crate::routing::route::Route;
use crate::shared::Shared;
use crate::stream::open::{count_failure, is_event_stream, is_unavailable};
use crate::upstream::connect::{self, UpstreamError};

pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// What an application says of a stream that must stay where it is.
const KEEP_HERE: HeaderName = HeaderName::from_static("x-podpin-handover");

/// What a stream keeps to be asked for again.
pub(crate) struct ResumePlan {
    shared: Arc<Shared>,
    session: SessionId,
    /// The upstream request head without its last lines: those that differ from pod to pod, and the empty one.
    head: Box<[u8]>,
}

/// One attempt to find a successor.
pub(crate) struct SuccessorRequest {
    route: Arc<Route>,
    /// As it is now: the stream may be older than the certificates.
    tls: Option<Arc<UpstreamTls>>,
    session: SessionId,
    head: Vec<u8>,
    last_event_id: Vec<u8>,
}

/// What came of asking.
pub(crate) enum SuccessorResult {
    /// An event stream that follows.
    Stream(Box<Successor>),
    /// 204: the stream is over.
    NoContent,
    /// Any other response.
    Refused,
    /// No response, or no endpoint to request.
    Failed,
}

/// A pod that has answered with an event stream.
pub(crate) struct Successor {
    pub endpoint: Arc<Endpoint>,
    pub permit: Permit,
    pub answer: connect::Answer,
}

/// Where to go.
pub(crate) enum SuccessorTarget {
    /// Where all requests of the client go that are pinned to this endpoint.
    PinnedTo(EndpointId),
    /// To this endpoint and no other.
    Endpoint(Arc<Endpoint>),
}

impl ResumePlan {
    /// Keeps a stream's request head, whose `Last-Event-ID` and session lines are left out.
    pub(crate) fn new(shared: Arc<Shared>, session: SessionId, head: Vec<u8>) -> ResumePlan {
        ResumePlan { shared, session, head: head.into_boxed_slice() }
    }

    /// Asks for what follows `last_event_id`.
    pub(crate) fn request(&self, route: &Arc<Route>, last_event_id: Vec<u8>) -> SuccessorRequest {
        let snapshot = self.shared.snapshot();
        let tls = snapshot.counterpart(&route.service).unwrap_or(&route.service).tls.clone();
        let route = Arc::clone(route);
        SuccessorRequest { route, tls, session: self.session, head: self.head.to_vec(), last_event_id }
    }
}

/// How often and how long streams of a service are handed over.
pub(crate) fn limits(service: &Service) -> Limits {
    let (per_stream, each) = (service.drain.handovers_per_stream, service.drain.handover_timeout);
    let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    Limits {
        handovers: u16::try_from(per_stream.limit).unwrap_or(u16::MAX),
        window_ms: millis(per_stream.window),
        handover_ms: millis(each.saturating_mul(service.retries.attempts.saturating_add(1))),
    }
}

impl SuccessorRequest {
    /// Asks one endpoint after the other, within `retries`.
    pub(crate) async fn send(self, target: SuccessorTarget) -> SuccessorResult {
        let from = match target {
            SuccessorTarget::Endpoint(endpoint) => return self.ask_this(endpoint).await,
            SuccessorTarget::PinnedTo(id) => id,
        };
        let service = &self.route.service;
        let admission = Admission::of_stream(Arc::clone(&self.route), self.session, from);
        let mut tried: Vec<EndpointId> = Vec::new();
        let mut outcome = SuccessorResult::Failed;
        let mut left = service.configuration.retries.attempts.saturating_add(1);
        while left > 0 {
            let Ok((placement, permit)) = admission.place_stream(&tried) else { break };
            // The pod that just broke is asked again while it is said to be well, which is no try of another one.
            left -= u32::from(placement.endpoint.id != from);
            match self.ask_one(&admission, &placement, permit).await {
                result @ (SuccessorResult::Refused | SuccessorResult::Failed) => outcome = result,
                decided => return decided,
            }
            tried.push(placement.endpoint.id);
        }
        outcome
    }

    async fn ask_this(&self, endpoint: Arc<Endpoint>) -> SuccessorResult {
        let limit = self.route.service.configuration.limits.streams_per_endpoint;
        let Some(permit) = endpoint.load.try_open(limit) else { return SuccessorResult::Failed };
        let admission = Admission::of_stream(Arc::clone(&self.route), self.session, endpoint.id);
        let placement = Placement::at(endpoint);
        self.ask_one(&admission, &placement, permit).await
    }

    async fn ask_one(&self, admission: &Admission, placement: &Placement, permit: Permit) -> SuccessorResult {
        let service = &self.route.service;
        let request = self.request(admission, placement);
        let limit = service.configuration.drain.handover_timeout;
        let answered = async {
            let connect = service.configuration.timeouts.connect.min(limit);
            let asked = clock::now();
            let address = placement.endpoint.address;
            let transport = connect::connect(address, self.tls.as_deref(), connect).await?;
            service.metrics.upstream_connect.observe(clock::now().since(asked).as_secs_f64());
            connect::exchange(transport, &request, Some(limit)).await
        };
        let answer = match tokio::time::timeout(limit, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return self.failed(&placement.endpoint, &error),
            Err(_) => return self.failed(&placement.endpoint, &UpstreamError::ResponseTimeout),
        };
        if is_unavailable(answer.head.status) {
            service.endpoint_unavailable(&placement.endpoint);
        } else {
            service.endpoint_succeeded(&placement.endpoint.load);
        }
        if answer.head.status == http::StatusCode::NO_CONTENT {
            return SuccessorResult::NoContent;
        }
        if !is_event_stream(&answer) {
            tracing::debug!(endpoint = %placement.endpoint.name, status = %answer.head.status, "no successor");
            return SuccessorResult::Refused;
        }
        SuccessorResult::Stream(Box::new(Successor {
            endpoint: Arc::clone(&placement.endpoint),
            permit,
            answer,
        }))
    }

    fn failed(&self, endpoint: &Endpoint, error: &UpstreamError) -> SuccessorResult {
        tracing::debug!(endpoint = %endpoint.name, %error, "no successor");
        count_failure(&self.route.service, endpoint, error);
        SuccessorResult::Failed
    }

    fn request(&self, admission: &Admission, placement: &Placement) -> Vec<u8> {
        let mut lines = HeaderMap::with_capacity(3);
        admission.session_lines(&mut lines, placement);
        if let Ok(id) = HeaderValue::from_bytes(&self.last_event_id) {
            lines.insert(LAST_EVENT_ID, id);
        }
        let mut request = self.head.clone();
        encode::write_lines(&mut request, &lines);
        request.extend_from_slice(b"\r\n");
        request
    }
}

/// Whether the application lets a stream be handed over.
pub(crate) fn may_go_on_elsewhere(headers: &HeaderMap) -> bool {
    let says_no = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"no");
    !headers.get_all(KEEP_HERE).iter().any(says_no)
}
