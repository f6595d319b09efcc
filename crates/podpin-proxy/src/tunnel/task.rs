//! Task that owns an upgraded connection to its end: the relay, the account to settle, and the count of the client's connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tracing::Span;

use crate::downstream::lease::ConnectionLease;
use crate::stream::account::Accounts;
use crate::stream_registry::StreamRecord;
use crate::tunnel::relay::Relay;

/// Detached connection. Written by hand because an async block would hold the relay twice.
pub(crate) struct TunnelTask {
    relay: Relay,
    /// Account to be settled; `None` if it is.
    accounts: Option<Accounts>,
    /// Count of the client's connection, which ends with this; `None` if it is a stream of HTTP/2.
    _lease: Option<ConnectionLease>,
    span: Span,
}

impl TunnelTask {
    /// Returns the task of a connection that begins.
    pub(crate) fn new(relay: Relay, accounts: Accounts, lease: Option<ConnectionLease>) -> TunnelTask {
        let span = span(accounts.record());
        TunnelTask { relay, accounts: Some(accounts), _lease: lease, span }
    }
}

fn span(record: &StreamRecord) -> Span {
    tracing::debug_span!(
        "upgrade",
        id = record.id,
        client = %record.client,
        service = %record.route.service.name,
        endpoint = %record.endpoint().name,
    )
}

impl Future for TunnelTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let task = &mut *self;
        let _entered = task.span.enter();
        let finished = ready!(Pin::new(&mut task.relay).poll(context));
        // A request that waits for a place may have it before the account is settled.
        drop(task.relay.take_permits());
        if let Some(accounts) = task.accounts.take() {
            accounts.settle(finished);
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_stays_small() {
        // Memory of an idle connection beside its two sockets and its timer; see docs/performance.md.
        let bytes = size_of::<TunnelTask>();
        assert!(bytes <= 640, "the task of an upgraded connection grew to {bytes} bytes");
    }
}
