//! The admin port: liveness, readiness, metrics, the state of endpoints and streams as JSON, and the status page.
//!
//! The port is served by the control thread, so that it answers however busy the workers are. Each page is a function of the
//! shared state; this file has the paths.

mod connections;
mod discovery;
mod drain_wait;
mod endpoints;
mod gauges;
mod guard;
mod problem;
mod status_page;
mod streams;
mod token;
mod views;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use podpin_config::Admin;
use podpin_proxy::balance::service::ServiceState;
use tokio::net::TcpListener;

use crate::admin::problem::Problem;
use crate::error::StartError;
use crate::readiness::Readiness;

/// Serves the admin port for as long as the process runs.
pub(crate) async fn serve(socket: TcpListener, admin: Arc<Admin>, readiness: Arc<Readiness>) {
    let routes = Router::new()
        .route("/", get(status))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/status", get(discovery::status))
        .route("/api/endpoints", get(endpoints::list))
        .route("/api/endpoints/{service}/{endpoint}/drain", post(endpoints::drain))
        .route("/api/endpoints/{service}/{endpoint}/undrain", post(endpoints::undrain))
        .route("/api/drain/wait", get(drain_wait::wait))
        .route("/api/streams", get(streams::list))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed here")
        })
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "no such path"))
        .layer(from_fn_with_state(admin, guard::guard))
        .with_state(readiness);
    connections::serve(socket, routes).await
}

/// Checks the file of the token.
///
/// # Errors
/// [`StartError::AdminToken`] if it cannot be read, or holds no token.
pub(crate) fn verify(admin: &Admin) -> Result<(), StartError> {
    let Some(file) = &admin.token else { return Ok(()) };
    let refused =
        |source| StartError::AdminToken { at: file.at, file: file.file.display().to_string(), source };
    token::read(&file.file).map(drop).map_err(refused)
}

async fn ready(State(readiness): State<Arc<Readiness>>) -> Response {
    match readiness_text(&readiness) {
        Ok(text) => text.into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
    }
}

/// Returns the body of a ready replica's answer; `Err` with the reason if the replica is not ready.
fn readiness_text(readiness: &Readiness) -> Result<String, String> {
    let waiting = readiness.waiting_for();
    let waiting: Vec<_> = waiting.iter().map(|service| name_with_reason(service)).collect();
    let waiting = waiting.join(", ");
    match (readiness.is_ready(), waiting.as_str()) {
        (true, "") => Ok("ok\n".to_owned()),
        (true, _) => Ok(format!("ok, but without endpoints yet: {waiting}\n")),
        (false, _) if readiness.shared().lifecycle.is_draining() => Err("leaving\n".to_owned()),
        (false, _) => Err(format!("waiting for the endpoints of: {waiting}\n")),
    }
}

/// Returns the name of a service without endpoints, and why it has none if that is known.
fn name_with_reason(service: &ServiceState) -> String {
    match service.source.failure() {
        Some(reason) => format!("{} ({reason})", service.name),
        None => service.name.to_string(),
    }
}

async fn metrics(State(readiness): State<Arc<Readiness>>) -> Response {
    let shared = readiness.shared();
    gauges::measure(shared);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.render())
        .into_response()
}

async fn status(State(readiness): State<Arc<Readiness>>) -> Html<String> {
    Html(status_page::render(&readiness))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use podpin_endpoints::Update;
    use podpin_proxy::balance::service::TableWriter;
    use podpin_proxy::clock;
    use podpin_proxy::telemetry::labels::DiscoveryError;

    use super::*;
    use crate::fixture;

    #[test]
    fn readiness_says_what_it_waits_for_and_why() {
        let shared = fixture::shared("{a: {discovery: {static: []}}}");
        let readiness = Readiness::new(Arc::clone(&shared), Duration::from_secs(9), clock::now());
        assert_eq!(readiness_text(&readiness), Err("waiting for the endpoints of: a\n".to_owned()));
        let service = Arc::clone(&shared.snapshot().services[0]);
        service.source.failed(DiscoveryError::Forbidden, Some("403".into()));
        assert_eq!(readiness_text(&readiness), Err("waiting for the endpoints of: a (403)\n".to_owned()));
        TableWriter::new(service).apply(Update::Replace(Vec::new()));
        assert_eq!(readiness_text(&readiness), Ok("ok\n".to_owned()));
        shared.begin_draining();
        assert_eq!(readiness_text(&readiness), Err("leaving\n".to_owned()));
    }
}
