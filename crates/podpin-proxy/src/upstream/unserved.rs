//! Requests that no endpoint serves: the proxy's own responses to them, with their metrics and log lines, for event streams
//! and ordinary requests alike.

use podpin_config::Unavailable;
use podpin_wire::http1::request_head;

use crate::affinity::routed_request::RoutedRequest;
use crate::affinity::selected::Selected;
use crate::balance::retry::Occasion;
use crate::balance::service::Kind;
use crate::clock;
use crate::downstream::http1::IdleConnection;
use crate::downstream::pending::{PendingResponse, Reuse};
use crate::http::reply::{ErrorReply, LocalResponse, ResponseBody};
use crate::request_context::RequestContext;
use crate::telemetry::access_log::Record;
use crate::telemetry::labels::RefusalKind;
use crate::upstream::attempts::Attempts;

/// A request that no endpoint serves.
pub(crate) struct Unserved<'a> {
    /// The request.
    pub context: &'a RequestContext,
    /// How far the request came.
    pub progress: Progress<'a>,
}

/// How far a request came before it was refused.
#[derive(Clone, Copy)]
pub(crate) enum Progress<'a> {
    /// No route leads anywhere.
    Unrouted,
    /// A route, and no attempt.
    Routed(&'a RoutedRequest),
    /// Attempts at endpoints.
    Tried {
        /// The attempts.
        attempts: &'a Attempts,
        /// Whether the response of an endpoint is there and cannot be passed on.
        answered: bool,
    },
}

/// A response of the proxy itself that is accounted for.
pub(crate) struct Settled {
    /// The response.
    pub response: LocalResponse,
    body: ResponseBody,
    reuse: Reuse,
}

/// An event stream that makes its client come back, and the kind of refusal that it is counted as.
struct RetryStream {
    kind: RefusalKind,
    response: LocalResponse,
}

/// Refuses a request that there is no room for, whatever its endpoints could do. Its head is given up before the response is
/// written, which may take as long as the client likes. Returns the connection if it may carry another request.
pub(crate) async fn turn_away(
    context: RequestContext,
    reply: ErrorReply,
    client: PendingResponse,
) -> Option<IdleConnection> {
    let Settled { response, body, reuse } = settle_without_room(context, reply)?;
    client.answer(response, body, reuse).await
}

fn settle_without_room(context: RequestContext, reply: ErrorReply) -> Option<Settled> {
    // Without a route there is no service that wants its clients back.
    let request = RoutedRequest::new(&context.snapshot, &context.view()).ok();
    let progress = request.as_ref().map_or(Progress::Unrouted, Progress::Routed);
    Unserved { context: &context, progress }.settle(reply)
}

impl<'a> Unserved<'a> {
    /// Refuses the request, and accounts for it. Returns the connection if it may carry another request.
    pub(crate) async fn refuse(self, reply: ErrorReply, client: PendingResponse) -> Option<IdleConnection> {
        let Settled { response, body, reuse } = self.settle(reply)?;
        client.answer(response, body, reuse).await
    }

    /// Accounts for the refusal of the request; returns the response to it, or `None` if the client is gone.
    pub(crate) fn settle(&self, reply: ErrorReply) -> Option<Settled> {
        let (context, request) = (self.context, self.progress.request());
        let retry = request.and_then(|request| self.retry_stream(request, reply));
        let retry_kind = retry.as_ref().map(|retry| retry.kind);
        let is_call = context.is_call();
        let own = || if is_call { reply.call_response() } else { reply.response() };
        let mut response = retry.map(|retry| retry.response).or_else(own);
        if let (Some(response), Some(request)) = (&mut response, request) {
            request.route.filters.cross_origin(&context.head.fields, &mut response.headers);
        }
        let status = response.as_ref().map_or(0, |response| response.status.as_u16());
        context.count(request.map(|request| &*request.route), status);
        if let Some(request) = request {
            self.count(request, retry_kind.or_else(|| reply.refusal()));
        }
        if context.shared.is_logging() {
            let mut log = self.record(status);
            log.reason = if retry_kind.is_some() { "refused" } else { reply.log_reason() };
            log.error = Some(reply.to_string());
            log.grpc_status = reply.grpc_status().filter(|_| is_call).map(|status| u32::from(status.code()));
            context.shared.log(&log);
        }
        Some(Settled { response: response?, body: self.body(), reuse: reuse_after(reply) })
    }

    /// Sends a response that the route has without an endpoint, and accounts for it. Returns the connection if it may carry
    /// another request.
    pub(crate) async fn respond(
        self,
        response: LocalResponse,
        client: PendingResponse,
    ) -> Option<IdleConnection> {
        let status = response.status.as_u16();
        self.context.count(self.progress.request().map(|request| &*request.route), status);
        if self.context.shared.is_logging() {
            let mut log = self.record(status);
            (log.kind, log.reason) = ("request", "complete");
            self.context.shared.log(&log);
        }
        client.answer(response, self.body(), Reuse::Allowed).await
    }

    fn count(&self, request: &RoutedRequest, refusal: Option<RefusalKind>) {
        let service = request.service();
        request.count_decision(self.progress.answered_by());
        if self.context.kind == Kind::Request {
            let took = clock::now().since(self.context.began);
            service.metrics.request_duration.observe(took.as_secs_f64());
        }
        if let Some(refusal) = refusal {
            service.refused(refusal);
        }
    }

    fn record(&self, status: u16) -> Record {
        let mut log = self.context.record(self.context.log_kind());
        match self.progress {
            Progress::Unrouted => {}
            Progress::Routed(request) => request.describe(None, false, &mut log),
            Progress::Tried { attempts, answered } => attempts.describe(answered, &mut log),
        }
        log.status = status;
        log.duration_ms = self.context.elapsed_millis();
        log
    }

    /// Whether the response has a body.
    fn body(&self) -> ResponseBody {
        ResponseBody::to(&self.context.head.method)
    }

    /// Returns the response that brings an event stream client back; `None` if the service does not want that, or it is no
    /// help.
    fn retry_stream(&self, request: &RoutedRequest, reply: ErrorReply) -> Option<RetryStream> {
        let sse = &request.service().configuration.sse;
        // Any other client can read a status.
        let is_wanted = self.context.kind == Kind::Stream
            && sse.unavailable == Unavailable::Retry
            && request_head::accepts_only_event_streams(&self.context.head.fields);
        let kind = reply.transient_refusal().filter(|_| is_wanted)?;
        let client = request.client_name(self.context.client.address);
        let retry_millis = request.service().retry_millis(Occasion::Refusal(client))?;
        Some(RetryStream { kind, response: reply.retry_stream(retry_millis) })
    }
}

impl<'a> Progress<'a> {
    fn request(self) -> Option<&'a RoutedRequest> {
        match self {
            Progress::Unrouted => None,
            Progress::Routed(request) => Some(request),
            Progress::Tried { attempts, .. } => Some(&attempts.request),
        }
    }

    /// Returns the endpoint whose response is there.
    fn answered_by(self) -> Option<&'a Selected> {
        match self {
            Progress::Tried { attempts, answered: true } => attempts.selected(),
            Progress::Unrouted | Progress::Routed(_) | Progress::Tried { .. } => None,
        }
    }
}

/// A request body that broke or stalled may not be over: what follows is no request.
fn reuse_after(reply: ErrorReply) -> Reuse {
    match reply {
        ErrorReply::Body | ErrorReply::BodyTimeout | ErrorReply::Internal => Reuse::Refused,
        _ => Reuse::Allowed,
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http::header::{ACCEPT, HeaderMap, HeaderValue};
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::testing::{Scene, connected, nowhere, pending};
    use crate::upstream::attempts::Purpose;

    /// Refuses a request of this kind. Returns whether the connection goes on, and the whole response.
    async fn refused(scene: &Scene, kind: Kind, progress: Progress<'_>, reply: ErrorReply) -> (bool, String) {
        let accept = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("text/event-stream"))]);
        let ((mut client, proxy), context) = (connected().await, scene.context_of(kind, accept));
        let unserved = Unserved { context: &context, progress };
        let goes_on = unserved.refuse(reply, pending(proxy)).await.is_some();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        (goes_on, text)
    }

    #[tokio::test]
    async fn an_event_stream_client_comes_back_and_any_other_sees_the_status() {
        let scene = Scene::new(&[("a", nowhere())]);
        let request = scene.pinned_to("a");
        for (kind, status, is_retried) in
            [(Kind::Stream, "200 OK", true), (Kind::Request, "503 Service", false)]
        {
            let (goes_on, text) =
                refused(&scene, kind, Progress::Routed(&request), ErrorReply::NoEndpoint).await;
            assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
            assert_eq!((goes_on, text.contains("retry: ")), (true, is_retried), "{text}");
        }
        let name = "podpin_refusals_total";
        assert_eq!(scene.metric(name, &["kind=\"no_endpoint\""]), 2.0);
        assert_eq!(scene.metric("podpin_request_duration_seconds_count", &[]), 1.0, "of the request");
    }

    #[tokio::test]
    async fn a_request_without_a_route_belongs_to_no_service() {
        let scene = Scene::new(&[("a", nowhere())]);
        let (_, text) = refused(&scene, Kind::Stream, Progress::Unrouted, ErrorReply::NoRoute).await;
        assert!(text.starts_with("HTTP/1.1 404 "), "{text}");
        assert_eq!(scene.metric("podpin_requests_total", &["code=\"404\"", "service=\"\""]), 1.0);
        assert_eq!(scene.metric("podpin_affinity_decisions_total", &[]), 0.0);
    }

    #[tokio::test]
    async fn a_client_that_left_gets_nothing_and_is_counted() {
        let scene = Scene::new(&[("a", nowhere())]);
        let mut attempts = Attempts::new(scene.pinned_to("a"), Purpose::Request);
        attempts.select_request().await.unwrap();
        let progress = Progress::Tried { attempts: &attempts, answered: true };
        let (goes_on, text) = refused(&scene, Kind::Request, progress, ErrorReply::ClientGone).await;
        assert_eq!((goes_on, &*text), (false, ""));
        assert_eq!(scene.metric("podpin_affinity_decisions_total", &["pinned"]), 1.0);
    }

    #[tokio::test]
    async fn a_response_of_the_route_leaves_the_connection_open() {
        let scene = Scene::new(&[("a", nowhere())]);
        for kind in [Kind::Request, Kind::Stream] {
            let ((_client, proxy), context) = (connected().await, scene.context_of(kind, HeaderMap::new()));
            let request = scene.pinned_to("a");
            let unserved = Unserved { context: &context, progress: Progress::Routed(&request) };
            let response = LocalResponse::empty(StatusCode::NO_CONTENT, HeaderMap::new());
            assert!(unserved.respond(response, pending(proxy)).await.is_some());
        }
        assert_eq!(scene.metric("podpin_affinity_decisions_total", &[]), 0.0, "none was needed");
    }

    #[test]
    fn only_a_broken_request_body_forbids_another_request() {
        for (reply, expected) in [
            (ErrorReply::Body, Reuse::Refused),
            (ErrorReply::BodyTimeout, Reuse::Refused),
            (ErrorReply::NoEndpoint, Reuse::Allowed),
            (ErrorReply::UpstreamTimeout, Reuse::Allowed),
        ] {
            assert_eq!(reuse_after(reply), expected, "{reply}");
        }
    }
}
