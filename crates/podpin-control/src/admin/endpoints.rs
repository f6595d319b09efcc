//! `/api/endpoints`: every endpoint of every service; drains and undrains by hand.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Json;
use podpin_proxy::balance::service::Operation;
use podpin_proxy::clock;
use podpin_proxy::shared::Shared;
use serde::{Deserialize, Serialize};

use crate::admin::problem::Problem;
use crate::admin::views::{DepartedView, EndpointView};
use crate::readiness::Readiness;

/// Endpoints that left and are shown of each service: those of the last rollouts.
const DEPARTED_MAX: usize = 200;

/// All services with their endpoints.
#[derive(Serialize)]
pub(super) struct EndpointList {
    services: Vec<ServiceEndpoints>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceEndpoints {
    service: String,
    endpoints: Vec<EndpointView>,
    /// The endpoints whose heirs are remembered, the last one first.
    departed: Vec<DepartedView>,
    /// How many those are in all.
    departed_total: usize,
}

/// The endpoint that a path names, by the name or the uid of its pod.
#[derive(Deserialize)]
pub(super) struct EndpointPath {
    service: String,
    endpoint: String,
}

/// Answers `GET /api/endpoints`.
pub(super) async fn list(State(readiness): State<Arc<Readiness>>) -> Json<EndpointList> {
    let snapshot = readiness.shared().snapshot();
    let services = snapshot.services.iter().map(|service| {
        let (departed, departed_total) = service.departed(DEPARTED_MAX);
        ServiceEndpoints {
            service: service.name.to_string(),
            endpoints: EndpointView::all(service, clock::now()),
            departed: departed.iter().map(|one| DepartedView::new(service, one)).collect(),
            departed_total,
        }
    });
    Json(EndpointList { services: services.collect() })
}

/// Answers `POST /api/endpoints/{service}/{endpoint}/drain`.
pub(super) async fn drain(
    State(readiness): State<Arc<Readiness>>,
    Path(path): Path<EndpointPath>,
) -> Result<Json<EndpointView>, Problem> {
    operate(readiness.shared(), &path, Operation::Drain).map(Json)
}

/// Answers `POST /api/endpoints/{service}/{endpoint}/undrain`.
pub(super) async fn undrain(
    State(readiness): State<Arc<Readiness>>,
    Path(path): Path<EndpointPath>,
) -> Result<Json<EndpointView>, Problem> {
    operate(readiness.shared(), &path, Operation::Undrain).map(Json)
}

/// Applies an operation to every port of the pod that the path names; returns the first of its endpoints.
///
/// # Errors
/// If there is no such service or endpoint.
fn operate(shared: &Shared, path: &EndpointPath, operation: Operation) -> Result<EndpointView, Problem> {
    let EndpointPath { service, endpoint } = path;
    let snapshot = shared.snapshot();
    let service =
        snapshot.service(service).ok_or_else(|| Problem::not_found(format!("no service `{service}`")))?;
    let ids: Vec<_> = service.view().snapshot.called(endpoint).map(|endpoint| endpoint.id).collect();
    let operated: Vec<_> = ids.iter().filter_map(|id| service.operate(id, operation)).collect();
    let first = operated.first().ok_or_else(|| {
        Problem::not_found(format!("no endpoint `{endpoint}` in the service `{}`", service.name))
    })?;
    tracing::info!(service = %service.name, endpoint = %first.name, ?operation, "requested on the admin port");
    Ok(EndpointView::new(service, first, clock::now()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn an_endpoint_is_drained_and_undrained_by_its_name() {
        let shared = fixture::started(&fixture::config(
            "{a: {discovery: {static: [{name: p, address: \"127.0.0.1:9\"}]}}}",
        ));
        let path = |service: &str, endpoint: &str| EndpointPath {
            service: service.to_owned(),
            endpoint: endpoint.to_owned(),
        };
        let drained = operate(&shared, &path("a", "p"), Operation::Drain).unwrap();
        let undrained = operate(&shared, &path("a", "p"), Operation::Undrain).unwrap();
        assert_eq!((drained.state, undrained.state), ("draining", "ready"));
        let missing = operate(&shared, &path("a", "q"), Operation::Drain).err();
        assert_eq!(missing, Some(Problem::not_found("no endpoint `q` in the service `a`")));
        let missing = operate(&shared, &path("b", "p"), Operation::Drain).err();
        assert_eq!(missing, Some(Problem::not_found("no service `b`")));
    }
}
