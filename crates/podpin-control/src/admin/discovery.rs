//! `/api/status`: whether the replica is ready, and what is wrong with the sources of its endpoints.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Json;
use podpin_proxy::balance::service::ServiceState;
use podpin_proxy::clock;
use podpin_proxy::telemetry::labels::{DiscoveryError, MismatchReason};
use serde::Serialize;

use crate::readiness::Readiness;

/// The replica, and the discovery of its services.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusView {
    ready: bool,
    services: Vec<SourceView>,
}

/// The source of a service's endpoints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SourceView {
    service: String,
    /// Whether there was a list of endpoints, be it empty.
    listed: bool,
    /// Endpoints that are ready.
    ready_endpoints: usize,
    /// The failure of the source; `None` if it can be read.
    pub(super) failure: Option<FailureView>,
    /// A name that the source does not have; `None` if it has all.
    pub(super) mismatch: Option<MismatchView>,
}

/// A source that cannot be read.
#[derive(Serialize)]
pub(super) struct FailureView {
    reason: DiscoveryError,
    pub(super) message: String,
    since: String,
}

/// A name that the source does not have.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MismatchView {
    reason: MismatchReason,
    pub(super) message: String,
    /// Whether the endpoints of before are in use meanwhile.
    pub(super) keeps_endpoints: bool,
    since: String,
}

impl SourceView {
    /// Builds the view of a service's source.
    pub(super) fn new(service: &ServiceState) -> SourceView {
        let (report, view) = (service.source.report(), service.view());
        let ready = view.snapshot.endpoints().iter().filter(|one| one.phase.as_str() == "ready");
        SourceView {
            service: service.name.to_string(),
            listed: view.snapshot.first_list_seen(),
            ready_endpoints: ready.count(),
            failure: report.failure.map(|failure| FailureView {
                reason: failure.reason,
                message: failure.words.to_string(),
                since: clock::rfc3339(failure.since),
            }),
            mismatch: report.mismatch.map(|mismatch| MismatchView {
                reason: mismatch.reason,
                message: mismatch.words.to_string(),
                keeps_endpoints: mismatch.keeps,
                since: clock::rfc3339(mismatch.since),
            }),
        }
    }

    /// Returns what is wrong with the source, one sentence each.
    pub(super) fn problems(&self) -> Vec<String> {
        let failure = self.failure.as_ref().map(|failure| failure.message.clone());
        let mismatch = self.mismatch.as_ref().map(|mismatch| match mismatch.keeps_endpoints {
            true => format!("{} (the endpoints of before are kept)", mismatch.message),
            false => mismatch.message.clone(),
        });
        failure.into_iter().chain(mismatch).collect()
    }
}

/// Answers `GET /api/status`.
pub(super) async fn status(State(readiness): State<Arc<Readiness>>) -> Json<StatusView> {
    let snapshot = readiness.shared().snapshot();
    let services = snapshot.services.iter().map(|service| SourceView::new(service)).collect();
    Json(StatusView { ready: readiness.is_ready(), services })
}

#[cfg(test)]
mod tests {
    use podpin_proxy::balance::source::SourceMismatch;

    use super::*;
    use crate::fixture;

    #[test]
    fn a_source_shows_its_failure_and_the_name_that_it_does_not_have() {
        let shared = fixture::shared("{a: {discovery: {kubernetes: {service: a, port: 80}}}}");
        let service = Arc::clone(&shared.snapshot().services[0]);
        assert!(SourceView::new(&service).problems().is_empty());
        service.source.failed(DiscoveryError::Throttled, Some("429".into()));
        let (reason, words) = (MismatchReason::Port, "no port".into());
        service.source.settle(Some(SourceMismatch { reason, words, keeps: true, since: clock::now() }));
        let view = SourceView::new(&service);
        assert_eq!(view.problems(), ["429", "no port (the endpoints of before are kept)"]);
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(
            (&json["failure"]["reason"], &json["failure"]["message"]),
            (&"throttled".into(), &"429".into())
        );
        assert_eq!(json["mismatch"]["keepsEndpoints"], true);
        assert_eq!((&json["listed"], &json["readyEndpoints"]), (&false.into(), &0.into()));
    }
}
