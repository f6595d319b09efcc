//! Metrics and access log of the responses that endpoints give to ordinary requests.

use http::StatusCode;
use podpin_sse::session::Fault;

use crate::clock;
use crate::http::reply::ErrorReply;
use crate::request::transfer::{ResponseSink, TransferError};
use crate::request_context::RequestContext;
use crate::stream::account::Failure;
use crate::stream::post::{PostEnd, PostStream};
use crate::telemetry::labels::{CloseReason, Label};
use crate::upstream::attempts::Attempts;
use crate::upstream::error::UpstreamError;

/// Body bytes that went to the client, and the stream that they are part of.
#[derive(Default)]
pub(crate) struct Delivered {
    bytes: u64,
    /// The stream; `None` if the response is no event stream.
    pub stream: Option<Box<PostStream>>,
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
    let log = context.shared.is_logging().then(|| {
        let mut log = context.record(if delivered.stream.is_some() { "stream" } else { "request" });
        log.status = status.as_u16();
        attempts.describe(true, &mut log);
        log
    });
    if let Some(stream) = delivered.stream {
        return stream.settle(stream_end(ending), log);
    }
    let took = clock::now().since(context.began);
    attempts.service().metrics.request_duration.observe(took.as_secs_f64());
    let cut = match ending {
        Ending::Complete => None,
        Ending::Cut(error) => Some(count_cut(attempts, error)),
    };
    if let Some(mut log) = log {
        log.reason = cut.as_ref().map_or("complete", |cut| cut.reason);
        log.error = cut.map(|cut| cut.error);
        log.bytes = delivered.bytes;
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
        TransferError::Drained => return ErrorReply::ClientGone.into(),
        TransferError::SlowClient => {
            return own(CloseReason::SlowClient, "the client took nothing of its response in time");
        }
        // A response that pauses for too long is cut; the endpoint did answer.
        TransferError::Idle => return own(CloseReason::Idle, "the endpoint was silent within its response"),
        TransferError::Broken(Fault::Malformed) => UpstreamError::Protocol("the response body"),
        TransferError::Broken(_) | TransferError::Upstream(_) => {
            UpstreamError::Reset(std::io::ErrorKind::UnexpectedEof.into())
        }
    };
    attempts.count_failure(&error);
    error.reply().into()
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
}
