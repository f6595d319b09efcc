//! `GET /api/drain/wait?pod=<name or uid>&timeout=25s`: answers when this proxy holds no stream to that pod.
//!
//! For a pod's preStop hook: Kubernetes sends SIGTERM when the hook has returned, so the pod serves on until its streams
//! have left. A pod that this proxy does not know has no stream here, and is answered at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use podpin_endpoints::Load;
use serde_json::json;
use tokio::time::Instant;

use crate::admin::problem;
use podpin_proxy::shared::Shared;

use crate::readiness::Readiness;

/// Between two looks. What is looked at are a few counters.
const LOOK: Duration = Duration::from_millis(20);
/// How long is waited unless `timeout` says otherwise: what a pod with the usual grace period of 30 s can spare.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(25);
/// A longer wait is a mistake, or holds a connection for nothing.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Waits until the pod has no stream here, or the time is over.
pub(crate) async fn wait(
    State(readiness): State<Arc<Readiness>>,
    Query(asked): Query<HashMap<String, String>>,
) -> Response {
    if let Some(unknown) = asked.keys().find(|key| !matches!(key.as_str(), "pod" | "timeout")) {
        return problem(StatusCode::BAD_REQUEST, &format!("unknown parameter `{unknown}`: pod, timeout"));
    }
    let Some(pod) = asked.get("pod").filter(|pod| !pod.is_empty()) else {
        return problem(StatusCode::BAD_REQUEST, "the parameter `pod` is missing: a pod's name or uid");
    };
    let timeout = match asked.get("timeout").map(|text| podpin_config::parse_duration(text)) {
        None => TIMEOUT_DEFAULT,
        Some(Ok(timeout)) if timeout <= TIMEOUT_MAX => timeout,
        Some(Ok(_)) => return problem(StatusCode::BAD_REQUEST, "timeout is longer than 24h"),
        Some(Err(error)) => {
            return problem(StatusCode::BAD_REQUEST, &format!("timeout: {error}, such as 25s"));
        }
    };
    let deadline = Instant::now() + timeout;
    let mut looks = tokio::time::interval(LOOK);
    let mut loads = Vec::new();
    loop {
        looks.tick().await;
        // Counters of streams that are open stay the same; new ones may have come when these are at zero.
        if open(&loads) == 0 {
            loads = loads_of(readiness.shared(), pod);
        }
        let streams = open(&loads);
        if streams == 0 {
            return Json(json!({ "pod": pod, "streams": 0 })).into_response();
        }
        if Instant::now() >= deadline {
            let rest = Json(json!({ "pod": pod, "streams": streams }));
            return (StatusCode::GATEWAY_TIMEOUT, rest).into_response();
        }
    }
}

fn open(loads: &[Arc<Load>]) -> u32 {
    loads.iter().map(|load| load.open_streams()).sum()
}

/// The counters of all endpoints of the pod: those that are listed, and those that only streams know.
fn loads_of(shared: &Shared, pod: &str) -> Vec<Arc<Load>> {
    let mut loads: Vec<Arc<Load>> = Vec::new();
    let mut add = |load: &Arc<Load>| {
        if !loads.iter().any(|known| Arc::ptr_eq(known, load)) {
            loads.push(Arc::clone(load));
        }
    };
    for service in shared.snapshot().services.iter() {
        service.view().snapshot.called(pod).for_each(|endpoint| add(&endpoint.load));
    }
    let is_of = |name: &str, uid: Option<&str>| name == pod || uid == Some(pod);
    let of_pod = shared.streams.select(|record| {
        let endpoint = record.endpoint();
        is_of(&endpoint.name, endpoint.uid.as_deref())
    });
    of_pod.iter().for_each(|record| add(&record.endpoint().load));
    loads
}
