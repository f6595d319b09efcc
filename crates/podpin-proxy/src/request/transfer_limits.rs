//! Time limits of a request and its response, with the error of each that passes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use podpin_time::Millis;
use tokio::time::Sleep;

use crate::balance::service::ServiceState;
use crate::clock;
use crate::http::reply::ErrorReply;
use crate::request::transfer_error::TransferError;
use crate::request_context::RequestContext;
use crate::upstream::error::UpstreamError;
use crate::upstream::upload::BlockedOn;

/// Time limits of both sides; `None` if there is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TransferLimits {
    /// `limits.requestBodyTimeout`.
    pub request_body: Option<Duration>,
    /// `timeouts.responseHeader`.
    pub response_header: Option<Duration>,
    /// `timeouts.upstreamIdle`.
    pub upstream_idle: Option<Duration>,
    /// `timeouts.clientWrite`.
    pub client_write: Option<Duration>,
}

/// Moments at which something last moved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    /// The request's body.
    pub upload: Millis,
    /// The response, as the endpoint sends it.
    pub received: Millis,
    /// The response, as the client takes it.
    pub written: Millis,
}

/// A moment at which a transfer ends, with the reason.
pub(crate) type Due = Option<(Millis, TransferError)>;

impl TransferLimits {
    /// Returns the limits of a request for a service.
    pub(crate) fn of(context: &RequestContext, service: &ServiceState) -> TransferLimits {
        let times = &service.configuration.timeouts;
        TransferLimits {
            request_body: Some(context.snapshot.limits.request_body_timeout),
            response_header: times.response_header,
            upstream_idle: times.upstream_idle,
            client_write: times.client_write,
        }
    }

    /// Returns what is due before the response head: the time of the side that the upload waits for.
    pub(crate) fn before_head(&self, blocked_on: BlockedOn, upload: Millis) -> Due {
        if blocked_on == BlockedOn::Client {
            return self.body_due(blocked_on, upload);
        }
        let late = TransferError::Upstream(UpstreamError::ResponseTimeout);
        self.response_header.map(|limit| (upload.after(limit), late))
    }

    /// Returns what is due within the response. `blocked` if the client does not take it.
    pub(crate) fn within_body(&self, blocked: bool, blocked_on: BlockedOn, moved: Moved) -> [Due; 3] {
        let client = self.client_write.filter(|_| blocked);
        let upstream = self.upstream_idle.filter(|_| !blocked);
        [
            client.map(|limit| (moved.written.after(limit), TransferError::SlowClient)),
            upstream.map(|limit| (moved.received.after(limit), TransferError::Idle)),
            self.body_due(blocked_on, moved.upload),
        ]
    }

    fn body_due(&self, blocked_on: BlockedOn, upload: Millis) -> Due {
        let limit = self.request_body.filter(|_| blocked_on == BlockedOn::Client)?;
        Some((upload.after(limit), TransferError::Client(ErrorReply::BodyTimeout)))
    }
}

/// Polls for the first of these times that passes.
pub(crate) fn poll_due<T>(
    context: &mut Context<'_>,
    timer: Pin<&mut Sleep>,
    dues: impl IntoIterator<Item = Due>,
) -> Poll<Result<T, TransferError>> {
    let first = dues.into_iter().flatten().min_by_key(|(due, _)| *due);
    let Some((due, error)) = first else { return Poll::Pending };
    ready!(clock::poll_until(due, context, timer));
    Poll::Ready(Err(error))
}
