//! Metrics and access log of the responses of endpoints that are no event streams.

use http::StatusCode;
use podpin_drain::Cause;
use podpin_sse::session::Fault;

use crate::clock;
use crate::http::reply::ErrorReply;
use crate::request::transfer_error::TransferError;
use crate::request_context::RequestContext;
use crate::telemetry::labels::{CloseReason, Label};
use crate::upstream::attempts::Attempts;
use crate::upstream::error::UpstreamError;

/// The end of a response that has begun.
pub(crate) enum Ending {
    /// Complete response.
    Complete,
    /// Response that was cut short.
    Cut(TransferError),
}

/// Counts an endpoint's response before any of it goes out: a client that has seen it finds it counted.
pub(crate) fn count_response(context: &RequestContext, attempts: &Attempts, status: StatusCode) {
    context.count(Some(&attempts.request.route), status.as_u16());
    attempts.request.count_decision(attempts.selected());
}

/// The facts of a response that has passed, or a part of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed {
    /// Status of the response.
    pub status: StatusCode,
    /// Body bytes that went to the client.
    pub delivered: u64,
    /// Status of a gRPC call.
    pub grpc_status: Option<u32>,
}

/// Accounts for the end of an endpoint's response.
pub(crate) fn settle(context: &RequestContext, attempts: &Attempts, passed: &Passed, ending: &Ending) {
    let took = clock::now().since(context.began);
    attempts.service().metrics.request_duration.observe(took.as_secs_f64());
    let cut = match ending {
        Ending::Complete => None,
        Ending::Cut(error) => Some(count_cut(attempts, error)),
    };
    if context.shared.is_logging() {
        let mut log = context.record(if context.is_call() { "call" } else { "request" });
        log.status = passed.status.as_u16();
        log.grpc_status = passed.grpc_status;
        attempts.describe(true, &mut log);
        log.reason = cut.as_ref().map_or("complete", |cut| cut.reason);
        log.error = cut.map(|cut| cut.error);
        log.bytes = passed.delivered;
        log.duration_ms = clock::duration_millis(took);
        context.shared.log(&log);
    }
}

/// The form in which the end of a cut response is logged.
struct Cut {
    reason: &'static str,
    error: String,
}

impl From<ErrorReply> for Cut {
    fn from(reply: ErrorReply) -> Cut {
        Cut { reason: reply.log_reason(), error: reply.to_string() }
    }
}

/// Counts a failure of the endpoint within its response; returns its form in the log.
fn count_cut(attempts: &Attempts, error: &TransferError) -> Cut {
    let own = |reason: CloseReason, error: &str| Cut { reason: reason.label(), error: error.to_owned() };
    let error = match error {
        TransferError::Client(reply) => return (*reply).into(),
        TransferError::SlowClient => {
            return own(CloseReason::SlowClient, "the client took nothing of its response in time");
        }
        // A response that pauses for too long is cut; the endpoint did answer.
        TransferError::Idle => return own(CloseReason::Idle, "the endpoint was silent within its response"),
        // The endpoint did nothing wrong, and the proxy nothing that it did not say.
        TransferError::Leaving(Cause::Shutdown) => {
            return own(CloseReason::Shutdown, "the proxy is leaving");
        }
        TransferError::Leaving(_) => return own(CloseReason::Drain, "the endpoint is leaving"),
        TransferError::Broken(Fault::Malformed) => UpstreamError::Protocol("the response body"),
        TransferError::Broken(_) | TransferError::Upstream(_) => {
            UpstreamError::Reset(std::io::ErrorKind::UnexpectedEof.into())
        }
    };
    attempts.count_failure(&error);
    error.reply().into()
}
