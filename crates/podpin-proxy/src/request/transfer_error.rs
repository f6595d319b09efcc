//! Reasons why a request or its response ends early.

use podpin_drain::Cause;
use podpin_sse::session::Fault;

use crate::downstream::gone::Gone;
use crate::http::reply::ErrorReply;
use crate::upstream::error::UpstreamError;

/// The reason why a transfer ends before its response does.
#[derive(Debug)]
pub(crate) enum TransferError {
    /// Client that left, or whose body is broken.
    Client(ErrorReply),
    /// Failure of the endpoint before its response head was complete.
    Upstream(UpstreamError),
    /// Response body that the endpoint broke off or malformed.
    Broken(Fault),
    /// Endpoint that was silent within the response body for `timeouts.upstreamIdle`.
    Idle,
    /// Client that took nothing of the response for `timeouts.clientWrite`.
    SlowClient,
    /// Endpoint, or the proxy itself, whose drain ends what is still open.
    Leaving(Cause),
}

impl From<Gone> for TransferError {
    fn from(Gone: Gone) -> TransferError {
        TransferError::Client(ErrorReply::ClientGone)
    }
}
