//! The side of an HTTP/2 stream that its connection keeps for the task which serves it.

use std::task::{Context, Waker};

use podpin_h2::StreamId;

use crate::http::reply::ErrorReply;

/// The connection's side of a stream that has a task.
pub(crate) struct StreamState {
    /// Number of the stream.
    pub(super) id: StreamId,
    waker: Option<Waker>,
    /// Request body that the task has not taken.
    pub body: Vec<u8>,
    /// Lines of the request's trailer section that the task has not taken.
    pub trailers: Vec<u8>,
    /// Progress of the request.
    pub request: RequestProgress,
    /// Whether the client reset the stream, or the connection ended.
    pub is_gone: bool,
    /// Whether the response is complete.
    pub is_answered: bool,
}

/// The progress of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestProgress {
    /// More of the body may come.
    Open,
    /// The request is complete.
    Complete,
    /// The request broke a rule within its body.
    Refused(ErrorReply),
}

impl StreamState {
    /// Returns the state of a stream that begins.
    pub(super) fn new(id: StreamId, request: RequestProgress) -> StreamState {
        StreamState {
            id,
            waker: None,
            body: Vec::new(),
            trailers: Vec::new(),
            request,
            is_gone: false,
            is_answered: false,
        }
    }

    /// Registers the task to be woken for anything that happens to the stream.
    pub(crate) fn wake_later(&mut self, context: &Context<'_>) {
        register(&mut self.waker, context);
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Replaces a waker unless it would wake the same task.
pub(super) fn register(waker: &mut Option<Waker>, context: &Context<'_>) {
    if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
        *waker = Some(context.waker().clone());
    }
}
