//! The pod's HTTP routes. Nothing it answers may be stored: every answer is about this pod at this moment.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::control::{ControlError, DemoControl};
use crate::log::EventId;
use crate::pod::{Phase, Pod};
use crate::stream::{self, Client};

/// A published text is a line or a page, not a file.
const PUBLISH_BYTES_MAX: usize = 16 << 10;

const PAGE: &str = include_str!("page.html");

/// The page carries its own style and script and connects to its origin only.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
     img-src data:; connect-src 'self' http://127.0.0.1:*; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const SESSION: HeaderName = HeaderName::from_static("x-podpin-session");
const REPINNED: HeaderName = HeaderName::from_static("x-podpin-repinned");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

type SharedPod = State<Arc<Pod>>;

pub(crate) fn router(pod: Arc<Pod>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/events", get(events))
        .route("/publish", post(publish).layer(DefaultBodyLimit::max(PUBLISH_BYTES_MAX)))
        .route("/whoami", get(whoami))
        .route("/healthz", get(health))
        .route("/demo/pods", get(pods))
        .route("/demo/pods/{name}/stop", post(stop_pod))
        .route("/demo/pods/{name}/kill", post(kill_pod))
        .route("/demo/pods/{name}/start", post(start_pod))
        .layer(map_response(never_stored))
        .with_state(pod)
}

async fn never_stored(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn page() -> Response {
    let headers = [(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, PAGE_POLICY)];
    (headers, PAGE).into_response()
}

/// A client that opens a stream anew, and so cannot send the header, may name its last id here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResumeQuery {
    last_event_id: Option<String>,
}

async fn events(State(pod): SharedPod, Query(resume): Query<ResumeQuery>, headers: HeaderMap) -> Response {
    let client = Client {
        session: text(&headers, &SESSION),
        repinned: text(&headers, &REPINNED),
        // An empty id is what a client sends that has none (WHATWG HTML, section 9.2.3).
        last_event_id: text(&headers, &LAST_EVENT_ID).or(resume.last_event_id).filter(|id| !id.is_empty()),
    };
    let headers = [(CONTENT_TYPE, "text/event-stream"), (ACCEL_BUFFERING, "no")];
    (headers, stream::open(&pod, client)).into_response()
}

async fn publish(State(pod): SharedPod, body: String) -> Response {
    match pod.log.append(&body).await {
        Ok(id) => Json(json!({"id": id_json(id), "pod": pod.name})).into_response(),
        Err(error) => {
            let problem = Json(json!({"error": error.to_string(), "pod": pod.name}));
            (StatusCode::SERVICE_UNAVAILABLE, problem).into_response()
        }
    }
}

fn id_json(id: EventId) -> Value {
    match id {
        EventId::Number(number) => number.into(),
        EventId::Entry(..) => id.to_string().into(),
    }
}

async fn whoami(State(pod): SharedPod, headers: HeaderMap) -> Json<Value> {
    let session = text(&headers, &SESSION);
    let meeting = pod.sessions.meet(&pod.log, session.as_deref().unwrap_or_default()).await;
    let requests = meeting.map(|meeting| meeting.requests);
    let first = meeting.map(|meeting| meeting.first);
    Json(json!({"pod": pod.name, "session": session, "requests": requests, "firstMet": first}))
}

async fn health(State(pod): SharedPod) -> Response {
    if *pod.phase.borrow() != Phase::Serving {
        (StatusCode::SERVICE_UNAVAILABLE, "ending\n").into_response()
    } else if !pod.log.is_readable() {
        (StatusCode::SERVICE_UNAVAILABLE, "no events from Redis\n").into_response()
    } else {
        (StatusCode::OK, "ok\n").into_response()
    }
}

async fn pods(State(pod): SharedPod) -> Response {
    match &pod.control {
        Some(control) => {
            Json(json!({"pods": control.pods(), "admin": control.admin_url(), "plain": control.plain_url()}))
                .into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn stop_pod(State(pod): SharedPod, Path(name): Path<String>) -> Response {
    command(&pod, |control| control.stop(&name))
}

async fn kill_pod(State(pod): SharedPod, Path(name): Path<String>) -> Response {
    command(&pod, |control| control.kill(&name))
}

async fn start_pod(State(pod): SharedPod, Path(name): Path<String>) -> Response {
    command(&pod, |control| control.start(&name))
}

fn command(pod: &Pod, wish: impl FnOnce(&dyn DemoControl) -> Result<(), ControlError>) -> Response {
    let Some(control) = &pod.control else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let Err(error) = wish(control.as_ref()) else {
        return (StatusCode::ACCEPTED, Json(json!({"pods": control.pods()}))).into_response();
    };
    let status = match error {
        ControlError::UnknownPod => StatusCode::NOT_FOUND,
        ControlError::AlreadySo | ControlError::LastPod => StatusCode::CONFLICT,
        ControlError::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, Json(json!({"error": error.to_string()}))).into_response()
}

/// A value that is not UTF-8 is kept recognisable instead of refused: an id is compared, never trusted.
fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}
