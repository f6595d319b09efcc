//! The attempts of one request at endpoints: select, connect, count the outcome, select the next.
//!
//! All data paths and successors of streams go through here, so that `retries` and the row of failures of an endpoint mean
//! the same for each. Sending, and reading the response, is left to the caller.
//!
//! ```text
//! select ──▶ connect ──▶ send, read ──▶ succeeded
//!   ▲           │             │
//!   └── failed, rejected ◀────┘        until nothing is left to try
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use podpin_endpoints::{Endpoint, EndpointId, FailureSource, Permit};

use crate::affinity::routed_request::RoutedRequest;
use crate::affinity::select::{SelectedStream, SelectionTerms, select_stream};
use crate::affinity::selected::Selected;
use crate::affinity::wait::{await_request, await_stream};
use crate::balance::service::{Kind, ServiceState};
use crate::clock;
use crate::http::reply::ErrorReply;
use crate::net::tls::UpstreamTls;
use crate::net::transport::Transport;
use crate::telemetry::access_log::{FailedAttempt, Record};
use crate::telemetry::labels::RetryReason;
use crate::upstream::connect;
use crate::upstream::error::{Evidence, UpstreamError};

/// The purpose that endpoints are tried for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// An ordinary request, or one that offers another protocol.
    Request,
    /// An event stream.
    Stream,
    /// The successor of an event stream in flight. Retrying the endpoint `pinned_to` that just failed does not consume a retry:
    /// discovery may still list it as ready.
    Successor {
        /// Endpoint that the stream ran on, or the only one to try.
        pinned_to: EndpointId,
    },
}

/// The attempts of one request, and the endpoint of the current one.
pub(crate) struct Attempts {
    /// The request with its route.
    pub request: RoutedRequest,
    purpose: Purpose,
    tried: Vec<EndpointId>,
    /// Attempts that `retries` still allows.
    left: u32,
    retries: u32,
    connect_millis: Option<u64>,
    /// Endpoint of the current attempt, or of the last one.
    selected: Option<Selected>,
    last: Option<LastAttempt>,
    /// Attempts that failed, for the access log.
    failures: Vec<FailedAttempt>,
}

/// The last attempt, if it failed and another one may follow.
#[derive(Clone, Copy, Debug)]
struct LastAttempt {
    /// Reply to the client if no other endpoint can be selected.
    reply: ErrorReply,
    reason: RetryReason,
}

impl Attempts {
    /// Returns a request's attempts, before the first.
    pub(crate) fn new(request: RoutedRequest, purpose: Purpose) -> Attempts {
        let left = request.service().configuration.retries.attempts.saturating_add(1);
        Attempts {
            request,
            purpose,
            tried: Vec::new(),
            left,
            retries: 0,
            connect_millis: None,
            selected: None,
            last: None,
            failures: Vec::new(),
        }
    }

    /// Returns the service whose endpoints are tried.
    pub(crate) fn service(&self) -> &Arc<ServiceState> {
        self.request.service()
    }

    /// Returns the endpoint of the current attempt; `None` if there was no attempt yet.
    pub(crate) fn selected(&self) -> Option<&Selected> {
        self.selected.as_ref()
    }

    /// Returns the endpoint of the current attempt; `None` if there was no attempt yet.
    pub(crate) fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.selected.as_ref().map(|selected| &selected.endpoint)
    }

    /// Writes route, session, endpoint, connect time and retries into a line of the access log; `answered` if the endpoint's
    /// response was there.
    pub(crate) fn describe(&self, answered: bool, log: &mut Record) {
        self.request.describe(self.selected(), answered, log);
        log.connect_ms = self.connect_millis;
        log.retries = self.retries;
        log.attempts.clone_from(&self.failures);
    }

    /// Whether `retries` allows another attempt.
    pub(crate) fn may_retry(&self) -> bool {
        self.left > 0
    }

    /// Selects the endpoint of the next attempt of an ordinary request, and waits for it where the service has a queue.
    ///
    /// # Errors
    /// With the reply of the last failed attempt, or the reason why no endpoint can be selected for the first.
    pub(crate) async fn select_request(&mut self) -> Result<(), ErrorReply> {
        let selected = await_request(&self.request, &self.tried).await;
        let selected = selected.map_err(|reply| self.reply_after(reply))?;
        self.begin(selected);
        Ok(())
    }

    /// Selects the endpoint of the next attempt at a stream with one of its slots, and waits for it where the service has
    /// a queue.
    ///
    /// # Errors
    /// As [`Attempts::select_request`].
    pub(crate) async fn select_stream(&mut self) -> Result<Permit, ErrorReply> {
        let selected = Box::pin(await_stream(&self.request, &self.tried)).await;
        let SelectedStream { selected, permit } = selected.map_err(|reply| self.reply_after(reply))?;
        self.begin(selected);
        Ok(permit)
    }

    /// Selects the endpoint of the next attempt at a successor with one of its slots; a stream in flight does not wait.
    ///
    /// # Errors
    /// As [`Attempts::select_request`].
    pub(crate) fn select_successor(&mut self) -> Result<Permit, ErrorReply> {
        let selected = select_stream(&self.request, &SelectionTerms::after(&self.tried));
        let SelectedStream { selected, permit } = selected.map_err(|reply| self.reply_after(reply))?;
        self.begin(selected);
        Ok(permit)
    }

    /// Leaves out an endpoint without an attempt.
    pub(crate) fn pass_over(&mut self, endpoint: EndpointId) {
        self.tried.push(endpoint);
    }

    /// Makes `endpoint` the endpoint of the next attempt, past all rules.
    pub(crate) fn select_fixed(&mut self, endpoint: Arc<Endpoint>) {
        self.begin(Selected::fixed(endpoint));
    }

    /// Whether another endpoint has a place for an event stream now.
    pub(crate) fn has_next_place(&self) -> bool {
        select_stream(&self.request, &SelectionTerms::after(&self.tried)).is_ok()
    }

    /// Connects to the endpoint of the current attempt.
    ///
    /// # Errors
    /// Those of connecting; the caller reports them to [`Attempts::failed`].
    pub(crate) async fn connect(
        &mut self,
        address: SocketAddr,
        tls: Option<&UpstreamTls>,
        limit: Duration,
    ) -> Result<Transport, UpstreamError> {
        let began = clock::now();
        let transport = connect::connect(address, tls, limit).await?;
        self.connected(clock::now().since(began));
        Ok(transport)
    }

    /// Counts a new connection, which took so long.
    pub(crate) fn connected(&mut self, took: Duration) {
        self.service().metrics.upstream_connect.observe(took.as_secs_f64());
        self.connect_millis = Some(clock::duration_millis(took));
    }

    /// Counts a response of the endpoint.
    pub(crate) fn answered(&self, status: StatusCode) {
        let Some(endpoint) = self.endpoint() else { return };
        let passive = self.service().configuration.health.passive.as_ref();
        let failures = passive.map(|passive| &*passive.statuses).unwrap_or_default();
        self.weigh(endpoint, Evidence::of_status(status, failures), &format_args!("status {status}"));
    }

    fn weigh(&self, endpoint: &Endpoint, evidence: Evidence, cause: &dyn fmt::Display) {
        let service = self.service();
        match evidence {
            // Many streams ask a successor at once: what their burst breaks says nothing of it.
            Evidence::Failure | Evidence::Suspicion if self.is_successor() => {}
            Evidence::Success => service.endpoint_succeeded(&endpoint.load),
            Evidence::Failure => service.endpoint_failed(endpoint, FailureSource::Endpoint, cause),
            Evidence::Suspicion => {
                service.endpoint_failed(endpoint, FailureSource::Client(self.request.client), cause);
            }
            Evidence::Nothing => {}
        }
    }

    /// Returns whether a response is not the answer to an event stream as long as another endpoint can be tried. That of a
    /// client's own endpoint always is.
    pub(crate) fn is_retried(&self, status: StatusCode) -> bool {
        let statuses = &self.service().configuration.retries.statuses;
        statuses.contains(&status.as_u16()) && !self.selected().is_some_and(|selected| selected.is_pinned)
    }

    /// Counts the failure of the current attempt; returns whether another endpoint may be tried.
    pub(crate) fn failed(&mut self, error: &UpstreamError) -> bool {
        self.count_failure(error);
        if let Some(endpoint) = self.endpoint() {
            let failed = FailedAttempt { endpoint: endpoint.name.to_string(), error: error.to_string() };
            self.failures.push(failed);
        }
        let may_follow = self.set_last(error.reply(), error.retry_reason(self.kind()));
        may_follow && (error.is_before_request() || !self.is_at_issuer())
    }

    /// Notes that the endpoint's response does not help this request, as `answered` has counted it; returns whether
    /// another endpoint may be tried.
    pub(crate) fn rejected(&mut self, status: StatusCode) -> bool {
        let reply = ErrorReply::UpstreamStatus(status.as_u16());
        self.set_last(reply, Some(RetryReason::Status)) && !self.is_at_issuer()
    }

    /// Counts a failure of the endpoint after its response has begun: no attempt follows.
    pub(crate) fn count_failure(&self, error: &UpstreamError) {
        let Some(endpoint) = self.endpoint() else { return };
        tracing::debug!(endpoint = %endpoint.name, %error, "an endpoint failed");
        self.service().metrics.upstream_errors.inc(error.kind());
        if let UpstreamError::Tls(failure) = error {
            self.service().metrics.tls_failures.inc(failure.reason);
        }
        self.weigh(endpoint, error.evidence(), error);
    }

    /// Counts a retry of the same endpoint on a fresh connection: the endpoint had closed the kept one.
    pub(crate) fn retry_stale(&mut self) {
        self.count_retry(RetryReason::Reset);
    }

    /// Whether a stream in flight looks for another endpoint. All streams of an endpoint do so at once, and retry: what such
    /// a burst breaks says nothing about the endpoint.
    fn is_successor(&self) -> bool {
        matches!(self.purpose, Purpose::Successor { .. })
    }

    fn kind(&self) -> Kind {
        match self.purpose {
            Purpose::Request => Kind::Request,
            Purpose::Stream | Purpose::Successor { .. } => Kind::Stream,
        }
    }

    fn begin(&mut self, selected: Selected) {
        if let Some(last) = self.last.take() {
            self.count_retry(last.reason);
        }
        self.service().endpoint_selected(&selected.endpoint);
        let is_free = self.purpose == Purpose::Successor { pinned_to: selected.endpoint.id };
        self.left = self.left.saturating_sub(u32::from(!is_free));
        self.selected = Some(selected);
    }

    fn set_last(&mut self, reply: ErrorReply, reason: Option<RetryReason>) -> bool {
        self.tried.extend(self.selected.as_ref().map(|selected| selected.endpoint.id));
        self.last = reason.map(|reason| LastAttempt { reply, reason });
        self.last.is_some() && self.may_retry()
    }

    /// Whether the current attempt is at the endpoint that issued the client's session id, which no other one knows.
    pub(crate) fn is_at_issuer(&self) -> bool {
        self.request.is_bound() && self.selected().is_some_and(|selected| selected.is_pinned)
    }

    fn reply_after(&self, otherwise: ErrorReply) -> ErrorReply {
        self.last.map_or(otherwise, |last| last.reply)
    }

    fn count_retry(&mut self, reason: RetryReason) {
        self.retries += 1;
        // A handover has metrics of its own.
        if !self.is_successor() {
            self.service().metrics.upstream_retries.inc(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use podpin_affinity::SessionId;

    use super::*;
    use crate::testing::{Scene, nowhere};

    const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

    fn attempts(scene: &Scene, purpose: Purpose) -> Attempts {
        let from = EndpointId::of_pod("a", 80);
        let session = SessionId::from_bytes([1; 16]);
        Attempts::new(RoutedRequest::of_stream(Arc::clone(&scene.route), session, from), purpose)
    }

    #[tokio::test]
    async fn no_endpoint_is_tried_twice_and_retries_bound_the_attempts() {
        let scene = Scene::new(&NAMES.map(|name| (name, nowhere())));
        let limit = scene.route.service.configuration.retries.attempts;
        let mut attempts = attempts(&scene, Purpose::Request);
        let mut tried = HashSet::new();
        loop {
            attempts.select_request().await.unwrap();
            assert!(tried.insert(attempts.endpoint().unwrap().id), "tried twice");
            if !attempts.failed(&UpstreamError::ConnectTimeout) {
                break;
            }
        }
        assert_eq!((attempts.retries, tried.len()), (limit, usize::try_from(limit).unwrap() + 1));
    }

    #[tokio::test]
    async fn without_another_endpoint_the_client_gets_the_last_failure() {
        let scene = Scene::new(&[("a", nowhere())]);
        let mut attempts = attempts(&scene, Purpose::Stream);
        drop(attempts.select_stream().await.unwrap());
        assert!(attempts.rejected(StatusCode::SERVICE_UNAVAILABLE) && !attempts.has_next_place());
        assert_eq!(attempts.select_stream().await.err(), Some(ErrorReply::UpstreamStatus(503)));
        assert_eq!(attempts.retries, 0, "nothing was tried again");
    }

    #[tokio::test]
    async fn a_late_response_ends_the_attempts_and_a_stale_connection_does_not() {
        let scene = Scene::new(&NAMES.map(|name| (name, nowhere())));
        let mut attempts = attempts(&scene, Purpose::Request);
        attempts.select_request().await.unwrap();
        let first = attempts.endpoint().unwrap().id;
        attempts.retry_stale();
        attempts.select_request().await.unwrap();
        assert_eq!((attempts.endpoint().unwrap().id, attempts.retries), (first, 1), "the same one");
        assert!(!attempts.failed(&UpstreamError::ResponseTimeout));
    }

    #[tokio::test]
    async fn the_endpoint_of_a_broken_stream_is_retried_for_free() {
        let scene = Scene::new(&NAMES.map(|name| (name, nowhere())));
        let limit = scene.route.service.configuration.retries.attempts;
        let from = EndpointId::of_pod("a", 80);
        let mut attempts = attempts(&scene, Purpose::Successor { pinned_to: from });
        let mut count = 0;
        while attempts.may_retry() {
            drop(attempts.select_successor().unwrap());
            assert_eq!(attempts.endpoint().unwrap().id == from, count == 0, "it comes first, and once");
            attempts.failed(&UpstreamError::ConnectTimeout);
            count += 1;
        }
        assert_eq!(count, limit + 2);
    }
}
