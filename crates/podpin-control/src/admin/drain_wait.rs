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
use podpin_proxy::shared::Shared;
use serde_json::json;
use tokio::time::Instant;

use crate::admin::problem::{Problem, refuse_unknown};
use crate::readiness::Readiness;

/// The interval between two looks at a few counters.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The wait unless `timeout` says otherwise: as much as a pod with the usual grace period of 30 s can spare.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(25);
/// The longest wait; a longer one is a mistake, or holds a connection for nothing.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The pod to wait for, and how long.
#[derive(Debug, PartialEq, Eq)]
struct DrainWait {
    pod: String,
    timeout: Duration,
}

impl DrainWait {
    fn parse(mut parameters: HashMap<String, String>) -> Result<DrainWait, Problem> {
        refuse_unknown(parameters.keys(), &["pod", "timeout"])?;
        let pod = parameters
            .remove("pod")
            .filter(|pod| !pod.is_empty())
            .ok_or_else(|| Problem::bad_request("the parameter `pod` is missing: a pod's name or uid"))?;
        let timeout = match parameters.get("timeout").map(|text| podpin_config::parse_duration(text)) {
            None => TIMEOUT_DEFAULT,
            Some(Ok(timeout)) if timeout <= TIMEOUT_MAX => timeout,
            Some(Ok(_)) => return Err(Problem::bad_request("timeout is longer than 24h")),
            Some(Err(error)) => {
                return Err(Problem::bad_request(format!("timeout: {error}, such as 25s")));
            }
        };
        Ok(DrainWait { pod, timeout })
    }
}

/// Waits until the pod has no stream here, or the time is over.
pub(super) async fn wait(
    State(readiness): State<Arc<Readiness>>,
    Query(parameters): Query<HashMap<String, String>>,
) -> Result<Response, Problem> {
    let DrainWait { pod, timeout } = DrainWait::parse(parameters)?;
    let deadline = Instant::now() + timeout;
    let mut poll = tokio::time::interval(POLL_INTERVAL);
    let mut loads = Vec::new();
    loop {
        poll.tick().await;
        // An open stream keeps its counter. Only when all known ones are at zero may others have come.
        if open_streams(&loads) == 0 {
            loads = loads_of(readiness.shared(), &pod);
        }
        let streams = open_streams(&loads);
        let rest = Json(json!({ "pod": pod, "streams": streams }));
        if streams == 0 {
            return Ok(rest.into_response());
        }
        if Instant::now() >= deadline {
            return Ok((StatusCode::GATEWAY_TIMEOUT, rest).into_response());
        }
    }
}

fn open_streams(loads: &[Arc<Load>]) -> u32 {
    loads.iter().map(|load| load.open_streams()).sum()
}

/// Returns the counters of all endpoints of the pod: of listed ones, and of those that only streams know.
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
    let is_pod = |name: &str, uid: Option<&str>| name == pod || uid == Some(pod);
    let of_pod = shared.streams.select(|record| {
        let endpoint = record.endpoint();
        is_pod(&endpoint.name, endpoint.uid.as_deref())
    });
    of_pod.iter().for_each(|record| add(&record.endpoint().load));
    loads
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn parse(pairs: &[(&str, &str)]) -> Result<DrainWait, Problem> {
        let owned = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        DrainWait::parse(owned.collect())
    }

    #[test]
    fn a_wait_needs_a_pod_and_has_a_bounded_timeout() {
        let waits = |pod: &str, timeout| Ok(DrainWait { pod: pod.to_owned(), timeout });
        assert_eq!(parse(&[("pod", "p")]), waits("p", TIMEOUT_DEFAULT));
        assert_eq!(parse(&[("pod", "p"), ("timeout", "3s")]), waits("p", Duration::from_secs(3)));
        for refused in [&[][..], &[("pod", "")], &[("pod", "p"), ("timeout", "25h")], &[("x", "y")]] {
            assert!(parse(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn every_port_of_a_pod_counts_once() {
        let shared = fixture::started(&fixture::config(
            "{a: {discovery: {static: [{name: p, address: \"127.0.0.1:9\"}]}}, \
             b: {discovery: {static: [{name: p, address: \"127.0.0.1:8\"}, {name: q, address: \"127.0.0.1:7\"}]}}}",
        ));
        let loads = loads_of(&shared, "p");
        assert_eq!((loads.len(), open_streams(&loads)), (2, 0));
        let _permit = loads[0].try_open(None);
        assert_eq!(open_streams(&loads_of(&shared, "p")), 1);
        assert!(loads_of(&shared, "unknown").is_empty());
    }
}
