//! The admin port: liveness, readiness, metrics, the state of endpoints and streams as JSON, and the status page.
//!
//! It runs on the control thread, so that it answers however busy the workers are.

mod drain_wait;
mod status_page;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::{get, post};
use podpin_endpoints::{Endpoint, Phase, Snapshot};
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpListener;

use crate::readiness::Readiness;
use podpin_proxy::balance::service::Kind;
use podpin_proxy::balance::service::{Operation, ServiceState};
use podpin_proxy::clock;
use podpin_proxy::shared::Shared;
use podpin_proxy::stream_registry::StreamRecord;

/// Streams in one answer unless `limit` says otherwise; there may be a hundred thousand.
const STREAMS_LIMIT_DEFAULT: usize = 100;

/// Serves the admin port for as long as the process runs.
pub(crate) async fn serve(socket: TcpListener, readiness: Arc<Readiness>) {
    let routes = Router::new()
        .route("/", get(status))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/endpoints", get(endpoints))
        .route("/api/endpoints/{service}/{endpoint}/drain", post(drain))
        .route("/api/endpoints/{service}/{endpoint}/undrain", post(undrain))
        .route("/api/drain/wait", get(drain_wait::wait))
        .route("/api/streams", get(streams))
        .method_not_allowed_fallback(async || {
            problem(StatusCode::METHOD_NOT_ALLOWED, "method not allowed here")
        })
        .fallback(async || problem(StatusCode::NOT_FOUND, "no such path"))
        .with_state(readiness);
    if let Err(error) = axum::serve(socket, routes).await {
        tracing::error!(%error, "the admin port is closed");
    }
}

fn problem(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

async fn ready(State(readiness): State<Arc<Readiness>>) -> Response {
    let waiting: Vec<_> = readiness.waiting_for().iter().map(|service| named_with_reason(service)).collect();
    if readiness.is_ready() {
        return match waiting.is_empty() {
            true => "ok\n".into_response(),
            false => format!("ok, but without endpoints yet: {}\n", waiting.join(", ")).into_response(),
        };
    }
    let why = match readiness.shared().lifecycle.is_draining() {
        true => "leaving\n".to_owned(),
        false => format!("waiting for the endpoints of: {}\n", waiting.join(", ")),
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

/// Returns the name of a service without endpoints, and why it has none if that is known.
fn named_with_reason(service: &ServiceState) -> String {
    match service.discovery_failure() {
        Some(reason) => format!("{} ({reason})", service.name),
        None => service.name.to_string(),
    }
}

async fn metrics(State(readiness): State<Arc<Readiness>>) -> Response {
    let shared = readiness.shared();
    measure(&shared);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.render())
        .into_response()
}

/// Sets the gauges that are read from state rather than counted.
fn measure(shared: &Shared) {
    let gauges = &shared.metrics;
    gauges.streams_active.reset();
    gauges.drain_remaining.reset();
    gauges.endpoints.reset();
    for service in shared.snapshot().services.iter() {
        let view = service.view();
        let mut counts = HashMap::from([("ready", 0), ("resting", 0), ("draining", 0), ("ejected", 0)]);
        for endpoint in view.snapshot.endpoints() {
            *counts.entry(endpoint.phase.as_str()).or_default() += 1;
            *counts.entry("ejected").or_default() += i64::from(is_ejected(&view.snapshot, endpoint));
            let labels = [&*service.name, &*endpoint.name, stream_state(endpoint.phase)];
            gauges.streams_active.with_label_values(&labels).set(0);
            if endpoint.phase == Phase::Draining {
                gauges.drain_remaining.with_label_values(&[&*service.name, &*endpoint.name]).set(0);
            }
        }
        for (state, count) in counts {
            gauges.endpoints.with_label_values(&[&*service.name, state]).set(count);
        }
    }
    // From the streams themselves: those of an endpoint that left the list are open all the same.
    shared.streams.for_each(|record| {
        if record.kind == Kind::Stream {
            let at = record.endpoint();
            let (service, endpoint) = (&*record.route.service.name, &*at.name);
            let state = state_of(record);
            let labels = [service, endpoint, state];
            gauges.streams_active.with_label_values(&labels).inc();
            if state == "draining" {
                gauges.drain_remaining.with_label_values(&[service, endpoint]).inc();
            }
        }
    });
}

/// `active`, or `draining` when its endpoint is.
fn state_of(record: &StreamRecord) -> &'static str {
    let service = &record.route.service;
    stream_state(service.endpoint(&record.endpoint().id).map_or(Phase::Gone, |endpoint| endpoint.phase))
}

/// Ejected and left out: when too many are, nobody is.
fn is_ejected(snapshot: &Snapshot, endpoint: &Endpoint) -> bool {
    let now = clock::now();
    endpoint.load.is_ejected(now) && snapshot.honours_ejection(now)
}

fn stream_state(phase: Phase) -> &'static str {
    match phase {
        Phase::Ready | Phase::NotReady => "active",
        Phase::Draining | Phase::Gone => "draining",
    }
}

/// An endpoint as the admin API shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointView {
    pub(crate) name: String,
    uid: Option<String>,
    pub(crate) address: String,
    pub(crate) state: &'static str,
    pub(crate) ejected: bool,
    pub(crate) since: String,
    /// When its pod will be killed, where that is known.
    deadline: Option<String>,
    zone: Option<String>,
    node: Option<String>,
    weight: u32,
    pub(crate) streams: u32,
}

impl EndpointView {
    fn of(snapshot: &Snapshot, endpoint: &Endpoint) -> EndpointView {
        EndpointView {
            name: endpoint.name.to_string(),
            uid: endpoint.uid.as_deref().map(str::to_owned),
            address: endpoint.address.to_string(),
            state: endpoint.phase.as_str(),
            ejected: is_ejected(snapshot, endpoint),
            since: clock::rfc3339(endpoint.phase_since),
            deadline: endpoint.deadline.map(clock::rfc3339),
            zone: endpoint.zone.as_deref().map(str::to_owned),
            node: endpoint.node.as_deref().map(str::to_owned),
            weight: endpoint.weight,
            streams: endpoint.load.open_streams(),
        }
    }

    /// The endpoints of a service, in the order of its list.
    pub(crate) fn all(service: &ServiceState) -> Vec<EndpointView> {
        let view = service.view();
        view.snapshot.endpoints().iter().map(|endpoint| EndpointView::of(&view.snapshot, endpoint)).collect()
    }
}

async fn endpoints(State(readiness): State<Arc<Readiness>>) -> Response {
    let shared = readiness.shared();
    let services: Vec<_> = shared
        .snapshot()
        .services
        .iter()
        .map(|service| json!({ "service": *service.name, "endpoints": EndpointView::all(service) }))
        .collect();
    Json(json!({ "services": services })).into_response()
}

async fn drain(State(readiness): State<Arc<Readiness>>, Path(named): Path<(String, String)>) -> Response {
    let shared = readiness.shared();
    operate(&shared, &named, Operation::Drain)
}

async fn undrain(State(readiness): State<Arc<Readiness>>, Path(named): Path<(String, String)>) -> Response {
    let shared = readiness.shared();
    operate(&shared, &named, Operation::Undrain)
}

/// Does it to every port of the pod that is meant; answers with the endpoint, the first of them where there are more.
fn operate(shared: &Shared, (service, called): &(String, String), operation: Operation) -> Response {
    let snapshot = shared.snapshot();
    let Some(service) = snapshot.service(service) else {
        return problem(StatusCode::NOT_FOUND, &format!("no service `{service}`"));
    };
    let view = service.view();
    let ids: Vec<_> = view.snapshot.called(called).map(|endpoint| endpoint.id).collect();
    drop(view);
    let operated: Vec<_> = ids.iter().filter_map(|id| service.operate(id, operation)).collect();
    let Some(first) = operated.first() else {
        return problem(
            StatusCode::NOT_FOUND,
            &format!("no endpoint `{called}` in the service `{}`", service.name),
        );
    };
    tracing::info!(service = %service.name, endpoint = %first.name, ?operation, "asked on the admin port");
    Json(EndpointView::of(&service.view().snapshot, first)).into_response()
}

/// A stream as the admin API shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StreamView {
    id: u64,
    service: String,
    endpoint: String,
    route: String,
    client: String,
    since: String,
    events: u64,
    bytes: u64,
    last_event_id: Option<String>,
    handovers: usize,
    state: &'static str,
}

impl StreamView {
    fn of(record: &StreamRecord) -> StreamView {
        let service = &record.route.service;
        let id = record.last_event_id();
        StreamView {
            id: record.id,
            service: service.name.to_string(),
            endpoint: record.endpoint().name.to_string(),
            route: record.route.name.to_string(),
            client: record.client.to_string(),
            since: clock::rfc3339(record.since),
            events: record.events.load(Ordering::Relaxed),
            bytes: record.bytes.load(Ordering::Relaxed),
            last_event_id: (!id.is_empty()).then(|| String::from_utf8_lossy(&id).into_owned()),
            handovers: record.handovers(),
            state: state_of(record),
        }
    }
}

async fn streams(
    State(readiness): State<Arc<Readiness>>,
    Query(asked): Query<HashMap<String, String>>,
) -> Response {
    let shared = readiness.shared();
    if let Some(unknown) = asked.keys().find(|key| !matches!(key.as_str(), "service" | "endpoint" | "limit"))
    {
        return problem(
            StatusCode::BAD_REQUEST,
            &format!("unknown parameter `{unknown}`: service, endpoint, limit"),
        );
    }
    let limit = match asked.get("limit").map(|text| text.parse::<usize>()) {
        None => STREAMS_LIMIT_DEFAULT,
        Some(Ok(limit)) => limit,
        Some(Err(_)) => return problem(StatusCode::BAD_REQUEST, "limit is not a number"),
    };
    let wanted = |record: &StreamRecord| {
        let endpoint = record.endpoint();
        let named = |key: &str, name: &str, uid: Option<&str>| {
            asked.get(key).is_none_or(|wanted| wanted == name || Some(wanted.as_str()) == uid)
        };
        record.kind == Kind::Stream
            && named("service", &record.route.service.name, None)
            && named("endpoint", &endpoint.name, endpoint.uid.as_deref())
    };
    let mut total = 0_usize;
    let mut found = Vec::new();
    shared.streams.for_each(|record| {
        if wanted(record) {
            total += 1;
            if found.len() < limit {
                found.push(StreamView::of(record));
            }
        }
    });
    Json(json!({ "total": total, "streams": found })).into_response()
}

async fn status(State(readiness): State<Arc<Readiness>>) -> Html<String> {
    Html(status_page::render(&readiness))
}
