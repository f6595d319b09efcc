//! Replies of the proxy to event stream requests, with their metrics and log lines.

use podpin_config::Unavailable;

use crate::affinity::routed_request::RoutedRequest;
use crate::affinity::selected::Selected;
use crate::clock;
use crate::downstream::pending::{PendingResponse, Reuse};
use crate::http::reply::{ErrorReply, LocalResponse, ResponseBody};
use crate::request_context::RequestContext;
use crate::telemetry::labels::RefusalKind;

/// A request that has a route, as far as it came before it was refused.
pub(crate) struct Refused<'a> {
    /// The request with its route.
    pub request: &'a RoutedRequest,
    /// Endpoint that failed last; `None` if none was tried.
    pub failed: Option<&'a Selected>,
    /// Number of retries.
    pub retries: u32,
}

/// An event stream that makes its client come back, and the kind of refusal that it is counted as.
struct RetryStream {
    kind: RefusalKind,
    response: LocalResponse,
}

/// Refuses an event stream request, and accounts for it; `refused` is `None` if it has no route.
pub(crate) async fn refuse(
    context: &RequestContext,
    refused: Option<Refused<'_>>,
    reply: ErrorReply,
    client: PendingResponse,
) {
    let request = refused.as_ref().map(|refused| refused.request);
    let retry = request.and_then(|request| retry_stream(request, reply));
    let retry_kind = retry.as_ref().map(|retry| retry.kind);
    let mut response = retry.map(|retry| retry.response).or_else(|| reply.response());
    if let (Some(response), Some(request)) = (&mut response, request) {
        request.route.filters.cross_origin(&context.head.headers, &mut response.headers);
    }
    let status = response.as_ref().map_or(0, |response| response.status.as_u16());
    context.count(request.map(|request| &*request.route), status);
    if let Some(request) = request {
        request.count_decision(None);
        if let Some(kind) = retry_kind.or_else(|| reply.refusal()) {
            request.service().refused(kind);
        }
    }
    if context.shared.is_logging() {
        let mut log = context.record("stream");
        log.status = status;
        if let Some(Refused { request, failed, retries }) = refused {
            request.describe(None, false, &mut log);
            log.endpoint = failed.map(|failed| failed.endpoint.name.to_string());
            log.retries = retries;
        }
        log.reason = if retry_kind.is_some() { "refused" } else { reply.log_reason() };
        log.error = Some(reply.to_string());
        log.duration_ms = context.elapsed_millis();
        context.shared.log(&log);
    }
    if let Some(response) = response {
        client.answer(response, ResponseBody::Whole, Reuse::Refused).await;
    }
}

/// Sends a response that the route has without an endpoint, and accounts for it.
pub(crate) async fn respond_locally(
    context: &RequestContext,
    request: &RoutedRequest,
    response: LocalResponse,
    client: PendingResponse,
) {
    context.count(Some(&request.route), response.status.as_u16());
    if context.shared.is_logging() {
        let mut log = context.record("request");
        log.status = response.status.as_u16();
        log.route = Some(request.route.name.to_string());
        log.service = Some(request.service().name.to_string());
        log.reason = "complete";
        log.duration_ms = context.elapsed_millis();
        context.shared.log(&log);
    }
    client.answer(response, ResponseBody::Whole, Reuse::Refused).await;
}

/// Returns the response that brings an event stream client back; `None` if the service does not want that, or it is no
/// help.
fn retry_stream(request: &RoutedRequest, reply: ErrorReply) -> Option<RetryStream> {
    let sse = &request.service().configuration.sse;
    let kind = reply.transient_refusal().filter(|_| sse.unavailable == Unavailable::Retry)?;
    let retry = &sse.retry;
    let (min, max) = (clock::duration_millis(retry.drain_min), clock::duration_millis(retry.drain_max));
    Some(RetryStream { kind, response: reply.retry_stream(fastrand::u64(min..=max.max(min))) })
}
