//! Metrics and access log of ordinary requests, and the replies of the proxy to them.

use http::{Method, StatusCode};

use crate::affinity::routed_request::RoutedRequest;
use crate::clock;
use crate::downstream::pending::{IdleConnection, PendingResponse, Reuse};
use crate::http::reply::{ErrorReply, LocalResponse, ResponseBody};
use crate::request::transfer::{ResponseSink, TransferError};
use crate::request_context::RequestContext;
use crate::stream::post::PostStream;
use crate::telemetry::access_log::Record;
use crate::telemetry::labels::CloseReason;
use crate::upstream::attempts::Attempts;
use crate::upstream::error::UpstreamError;

/// Body bytes that went to the client, and the stream that they are part of.
#[derive(Default)]
pub(crate) struct Delivered {
    bytes: u64,
    /// The stream; `None` if the response is no event stream.
    pub stream: Option<PostStream>,
}

impl ResponseSink for Delivered {
    fn deliver(&mut self, bytes: &[u8]) {
        self.bytes += u64::try_from(bytes.len()).unwrap_or(0);
        if let Some(stream) = &mut self.stream {
            stream.deliver(bytes);
        }
    }

    fn has_to_leave(&self, context: &std::task::Context<'_>) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.has_to_leave(context))
    }
}

/// The end of a response that has begun.
pub(crate) enum Ending {
    /// Complete response.
    Complete,
    /// Response that was cut short.
    Cut(TransferError),
}

/// Whether a response to `head` has a body.
fn response_body(context: &RequestContext) -> ResponseBody {
    if context.head.method == Method::HEAD { ResponseBody::Omitted } else { ResponseBody::Whole }
}

/// Refuses a request that has no route, and accounts for it.
pub(crate) async fn refuse_unrouted(
    context: &RequestContext,
    reply: ErrorReply,
    client: PendingResponse,
) -> Option<IdleConnection> {
    let response = reply.response();
    let status = response.as_ref().map_or(0, |response| response.status.as_u16());
    context.count(None, status);
    if context.shared.is_logging() {
        let mut log = record(context, status);
        log.reason = reply.log_reason();
        log.error = Some(reply.to_string());
        context.shared.log(&log);
    }
    client.answer(response?, response_body(context), reuse_after(reply)).await
}

/// Sends a response that the route has without an endpoint, and accounts for it.
pub(crate) async fn respond_locally(
    context: &RequestContext,
    request: &RoutedRequest,
    response: LocalResponse,
    client: PendingResponse,
) -> Option<IdleConnection> {
    let status = response.status.as_u16();
    context.count(Some(&request.route), status);
    if context.shared.is_logging() {
        let mut log = record(context, status);
        request.describe(None, false, &mut log);
        context.shared.log(&log);
    }
    client.answer(response, response_body(context), Reuse::Allowed).await
}

/// Refuses a request that no endpoint has served, and accounts for it. `answered` if the endpoint's response is there and
/// cannot be passed on.
pub(crate) async fn refuse(
    context: &RequestContext,
    attempts: &Attempts,
    answered: bool,
    reply: ErrorReply,
    client: PendingResponse,
) -> Option<IdleConnection> {
    let response = reply.response();
    let status = response.as_ref().map_or(0, |response| response.status.as_u16());
    let request = &attempts.request;
    context.count(Some(&request.route), status);
    request.count_decision(attempts.selected().filter(|_| answered));
    observe_duration(context, request);
    if let Some(kind) = reply.refusal() {
        request.service().refused(kind);
    }
    if context.shared.is_logging() {
        let mut log = attempts_record(context, attempts, answered, status);
        log.reason = reply.log_reason();
        log.error = Some(reply.to_string());
        context.shared.log(&log);
    }
    let mut response = response?;
    request.route.filters.cross_origin(&context.head.headers, &mut response.headers);
    client.answer(response, response_body(context), reuse_after(reply)).await
}

/// Counts an endpoint's response before any of it goes out: a client that has seen it finds it counted.
pub(crate) fn count_response(
    context: &RequestContext,
    attempts: &Attempts,
    status: StatusCode,
    delivered: &Delivered,
) {
    context.count(Some(&attempts.request.route), status.as_u16());
    // A stream has counted the decision already.
    if delivered.stream.is_none() {
        attempts.request.count_decision(attempts.selected());
    }
}

/// Accounts for the end of an endpoint's response.
pub(crate) fn settle(
    context: &RequestContext,
    attempts: &Attempts,
    mut delivered: Delivered,
    status: StatusCode,
    ending: &Ending,
) {
    let stream = delivered.stream.take();
    if stream.is_none() {
        observe_duration(context, &attempts.request);
    }
    let reply = match ending {
        Ending::Complete => None,
        Ending::Cut(error) => Some(count_cut(attempts, error, stream.is_some())),
    };
    let log = context.shared.is_logging().then(|| {
        let mut log = attempts_record(context, attempts, true, status.as_u16());
        log.kind = if stream.is_some() { "stream" } else { "request" };
        log.bytes = delivered.bytes;
        if let Some(reply) = reply {
            log.reason = reply.log_reason();
            log.error = Some(reply.to_string());
        }
        log
    });
    match (stream, log) {
        (Some(stream), log) => stream.settle(close_reason(ending), log),
        (None, Some(log)) => context.shared.log(&log),
        (None, None) => {}
    }
}

/// Counts a failure of the endpoint within its response; returns its form in the log. A stream counts by itself.
fn count_cut(attempts: &Attempts, error: &TransferError, is_stream: bool) -> ErrorReply {
    let error = match error {
        TransferError::Client(reply) => return *reply,
        TransferError::SlowClient | TransferError::Drained => return ErrorReply::ClientGone,
        // A response that pauses for too long is cut; the endpoint did answer.
        TransferError::Idle => return ErrorReply::UpstreamReset,
        TransferError::Malformed => UpstreamError::Protocol("the response body"),
        TransferError::Broken | TransferError::Upstream(_) => {
            UpstreamError::Reset(std::io::ErrorKind::UnexpectedEof.into())
        }
    };
    if !is_stream {
        attempts.count_failure(&error);
    }
    error.reply()
}

fn observe_duration(context: &RequestContext, request: &RoutedRequest) {
    let took = clock::now().since(context.began);
    request.service().metrics.request_duration.observe(took.as_secs_f64());
}

fn record(context: &RequestContext, status: u16) -> Record {
    let mut log = context.record("request");
    log.status = status;
    log.reason = "complete";
    log.duration_ms = context.elapsed_millis();
    log
}

fn attempts_record(context: &RequestContext, attempts: &Attempts, answered: bool, status: u16) -> Record {
    let mut log = record(context, status);
    attempts.request.describe(attempts.selected(), answered, &mut log);
    log.connect_ms = attempts.connect_millis();
    log.retries = attempts.retries();
    log
}

/// A request body that broke or stalled may not be over: what follows is no request.
fn reuse_after(reply: ErrorReply) -> Reuse {
    match reply {
        ErrorReply::Body | ErrorReply::BodyTimeout | ErrorReply::Internal => Reuse::Refused,
        _ => Reuse::Allowed,
    }
}

/// Returns why an event stream ended, unless it had to leave.
fn close_reason(ending: &Ending) -> CloseReason {
    match ending {
        Ending::Complete => CloseReason::UpstreamEnd,
        Ending::Cut(TransferError::Idle) => CloseReason::Idle,
        Ending::Cut(TransferError::Broken | TransferError::Malformed | TransferError::Upstream(_)) => {
            CloseReason::UpstreamReset
        }
        Ending::Cut(TransferError::SlowClient) => CloseReason::SlowClient,
        Ending::Cut(TransferError::Client(_) | TransferError::Drained) => CloseReason::Client,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_ends_for_the_side_that_ended_it() {
        let cut = [
            (TransferError::Idle, CloseReason::Idle),
            (TransferError::Broken, CloseReason::UpstreamReset),
            (TransferError::Malformed, CloseReason::UpstreamReset),
            (TransferError::SlowClient, CloseReason::SlowClient),
            (TransferError::Client(ErrorReply::ClientGone), CloseReason::Client),
        ];
        assert_eq!(close_reason(&Ending::Complete), CloseReason::UpstreamEnd);
        for (error, expected) in cut {
            assert_eq!(close_reason(&Ending::Cut(error)), expected);
        }
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
