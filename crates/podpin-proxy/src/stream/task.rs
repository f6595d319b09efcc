//! Task that owns a stream to its end: the relay, the account to settle, and the client's connection behind it.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tracing::Span;

use crate::downstream::lease::ConnectionReturn;
use crate::stream::account::Accounts;
use crate::stream::relay::Relay;
use crate::stream_registry::StreamRecord;

/// Detached stream. Written by hand because an async block would hold the relay twice.
pub(crate) struct StreamTask {
    relay: Relay,
    stage: Stage,
    span: Span,
}

/// Progress of a stream's task.
enum Stage {
    /// The relay runs.
    Relaying {
        /// Account to be settled.
        accounts: Accounts,
        /// Connection of HTTP/1 to be given back.
        connection: Option<ConnectionReturn>,
    },
    /// The stream is over, and its connection goes back.
    Returning(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// Nothing is left to do.
    Over,
}

impl StreamTask {
    /// Returns the task of a stream whose response has begun.
    pub(crate) fn new(relay: Relay, accounts: Accounts, connection: Option<ConnectionReturn>) -> StreamTask {
        let span = span(accounts.record());
        StreamTask { relay, stage: Stage::Relaying { accounts, connection }, span }
    }
}

/// Returns the span that debug lines of a stream stand in; its endpoint changes with a handover.
fn span(record: &StreamRecord) -> Span {
    tracing::debug_span!(
        "stream",
        id = record.id,
        client = %record.client,
        service = %record.route.service.name,
        endpoint = %record.endpoint().name,
    )
}

impl Future for StreamTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let task = &mut *self;
        let _entered = task.span.enter();
        if let Stage::Relaying { .. } = task.stage {
            let finished = ready!(Pin::new(&mut task.relay).poll(context));
            // A request that waits for a place may have it before the account is settled.
            drop(task.relay.take_permits());
            if let Stage::Relaying { accounts, connection } = mem::replace(&mut task.stage, Stage::Over)
                && let (Some(client), Some(connection)) = (accounts.settle(finished), connection)
            {
                task.stage = Stage::Returning(Box::pin(connection.give_back(client)));
            }
        }
        match &mut task.stage {
            Stage::Returning(returning) => returning.as_mut().poll(context),
            Stage::Relaying { .. } | Stage::Over => Poll::Ready(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_task_stays_small() {
        // Memory of an idle stream beside its two sockets and its timer; see docs/performance.md.
        let bytes = size_of::<StreamTask>();
        assert!(bytes <= 640, "the stream task grew to {bytes} bytes");
    }
}
