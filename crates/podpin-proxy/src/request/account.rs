//! Metrics and access log of ordinary requests, and the replies of the proxy to them.

use http::{Method, StatusCode};
use podpin_sse::session::Fault;

use crate::affinity::routed_request::RoutedRequest;
use crate::clock;
use crate::downstream::pending::{IdleConnection, PendingResponse, Reuse};
use crate::http::reply::{ErrorReply, LocalResponse, ResponseBody};
use crate::request::transfer::{ResponseSink, TransferError};
use crate::request_context::RequestContext;
use crate::stream::account::Failure;
use crate::stream::post::{PostEnd, PostStream};
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
    delivered: Delivered,
    status: StatusCode,
    ending: &Ending,
) {
    if let Some(stream) = delivered.stream {
        let log = context.shared.is_logging().then(|| {
            let mut log = context.record("stream");
            log.status = status.as_u16();
            attempts.describe(true, &mut log);
            log
        });
        return stream.settle(stream_end(ending), log);
    }
    observe_duration(context, &attempts.request);
    let reply = match ending {
        Ending::Complete => None,
        Ending::Cut(error) => Some(count_cut(attempts, error)),
    };
    if context.shared.is_logging() {
        let mut log = attempts_record(context, attempts, true, status.as_u16());
        log.bytes = delivered.bytes;
        if let Some(reply) = reply {
            log.reason = reply.log_reason();
            log.error = Some(reply.to_string());
        }
        context.shared.log(&log);
    }
}

/// Counts a failure of the endpoint within its response; returns its form in the log.
fn count_cut(attempts: &Attempts, error: &TransferError) -> ErrorReply {
    let error = match error {
        TransferError::Client(reply) => return *reply,
        TransferError::SlowClient | TransferError::Drained => return ErrorReply::ClientGone,
        // A response that pauses for too long is cut; the endpoint did answer.
        TransferError::Idle => return ErrorReply::UpstreamReset,
        TransferError::Broken(Fault::Malformed) => UpstreamError::Protocol("the response body"),
        TransferError::Broken(_) | TransferError::Upstream(_) => {
            UpstreamError::Reset(std::io::ErrorKind::UnexpectedEof.into())
        }
    };
    attempts.count_failure(&error);
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
    attempts.describe(answered, &mut log);
    log
}

/// A request body that broke or stalled may not be over: what follows is no request.
fn reuse_after(reply: ErrorReply) -> Reuse {
    match reply {
        ErrorReply::Body | ErrorReply::BodyTimeout | ErrorReply::Internal => Reuse::Refused,
        _ => Reuse::Allowed,
    }
}

/// Returns the end of an event stream that a transfer carried.
fn stream_end(ending: &Ending) -> PostEnd {
    let (reason, failure) = match ending {
        Ending::Complete => (CloseReason::UpstreamEnd, None),
        Ending::Cut(TransferError::Drained) => return PostEnd::Drained,
        Ending::Cut(TransferError::Idle) => (CloseReason::Idle, Some(Failure::Upstream(Fault::Silent))),
        Ending::Cut(TransferError::Broken(fault)) => {
            (CloseReason::UpstreamReset, Some(Failure::Upstream(*fault)))
        }
        Ending::Cut(TransferError::Upstream(_)) => (CloseReason::UpstreamReset, None),
        Ending::Cut(TransferError::SlowClient) => (CloseReason::SlowClient, None),
        Ending::Cut(TransferError::Client(ErrorReply::ClientGone)) => (CloseReason::Client, None),
        Ending::Cut(TransferError::Client(reply)) => (CloseReason::Client, Some(Failure::Request(*reply))),
    };
    PostEnd::Ended { reason, failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_ends_for_the_side_that_ended_it() {
        let upstream = |fault| Some(Failure::Upstream(fault));
        let cut = [
            (TransferError::Idle, CloseReason::Idle, upstream(Fault::Silent)),
            (TransferError::Broken(Fault::Reset), CloseReason::UpstreamReset, upstream(Fault::Reset)),
            (TransferError::Broken(Fault::Malformed), CloseReason::UpstreamReset, upstream(Fault::Malformed)),
            (TransferError::SlowClient, CloseReason::SlowClient, None),
            (TransferError::Client(ErrorReply::ClientGone), CloseReason::Client, None),
            (
                TransferError::Client(ErrorReply::Body),
                CloseReason::Client,
                Some(Failure::Request(ErrorReply::Body)),
            ),
        ];
        let whole = PostEnd::Ended { reason: CloseReason::UpstreamEnd, failure: None };
        assert_eq!(stream_end(&Ending::Complete), whole);
        assert_eq!(stream_end(&Ending::Cut(TransferError::Drained)), PostEnd::Drained);
        for (error, reason, failure) in cut {
            assert_eq!(stream_end(&Ending::Cut(error)), PostEnd::Ended { reason, failure });
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
