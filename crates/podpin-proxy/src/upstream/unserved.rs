//! Requests that no endpoint serves: the proxy's own responses to them, with their metrics and log lines, for event streams
//! and ordinary requests alike.

use http::Method;
use podpin_config::Unavailable;
use podpin_sse::session::RetryRange;

use crate::affinity::routed_request::RoutedRequest;
use crate::affinity::selected::Selected;
use crate::balance::service::Kind;
use crate::clock;
use crate::downstream::pending::{IdleConnection, PendingResponse, Reuse};
use crate::http::reply::{ErrorReply, LocalResponse, ResponseBody};
use crate::request_context::RequestContext;
use crate::telemetry::access_log::Record;
use crate::telemetry::labels::RefusalKind;
use crate::upstream::attempts::Attempts;

/// A request that no endpoint serves.
pub(crate) struct Unserved<'a> {
    /// The request.
    pub context: &'a RequestContext,
    /// Event stream, whose connection is given up, or ordinary request.
    pub kind: Kind,
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

/// An event stream that makes its client come back, and the kind of refusal that it is counted as.
struct RetryStream {
    kind: RefusalKind,
    response: LocalResponse,
}

impl<'a> Unserved<'a> {
    /// Refuses the request, and accounts for it. Returns the connection if it may carry another request.
    pub(crate) async fn refuse(self, reply: ErrorReply, client: PendingResponse) -> Option<IdleConnection> {
        let (context, request) = (self.context, self.progress.request());
        let retry = request.and_then(|request| self.retry_stream(request, reply));
        let retry_kind = retry.as_ref().map(|retry| retry.kind);
        let mut response = retry.map(|retry| retry.response).or_else(|| reply.response());
        if let (Some(response), Some(request)) = (&mut response, request) {
            request.route.filters.cross_origin(&context.head.headers, &mut response.headers);
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
            context.shared.log(&log);
        }
        let reuse = match self.kind {
            Kind::Stream => Reuse::Refused,
            Kind::Request => reuse_after(reply),
        };
        client.answer(response?, self.body(), reuse).await
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
        let reuse = match self.kind {
            Kind::Stream => Reuse::Refused,
            Kind::Request => Reuse::Allowed,
        };
        client.answer(response, self.body(), reuse).await
    }

    fn count(&self, request: &RoutedRequest, refusal: Option<RefusalKind>) {
        let service = request.service();
        request.count_decision(self.progress.answered_by());
        if self.kind == Kind::Request {
            let took = clock::now().since(self.context.began);
            service.metrics.request_duration.observe(took.as_secs_f64());
        }
        if let Some(refusal) = refusal {
            service.refused(refusal);
        }
    }

    fn record(&self, status: u16) -> Record {
        let mut log = self.context.record(match self.kind {
            Kind::Stream => "stream",
            Kind::Request => "request",
        });
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
        if self.context.head.method == Method::HEAD { ResponseBody::Omitted } else { ResponseBody::Whole }
    }

    /// Returns the response that brings an event stream client back; `None` if the service does not want that, or it is no
    /// help.
    fn retry_stream(&self, request: &RoutedRequest, reply: ErrorReply) -> Option<RetryStream> {
        let sse = &request.service().configuration.sse;
        let is_wanted = self.kind == Kind::Stream && sse.unavailable == Unavailable::Retry;
        let kind = reply.transient_refusal().filter(|_| is_wanted)?;
        let range = RetryRange::new(sse.retry.drain_min, sse.retry.drain_max);
        Some(RetryStream { kind, response: reply.retry_stream(range.pick(fastrand::u64(..))) })
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
    use super::*;

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
