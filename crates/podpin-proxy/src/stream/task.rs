//! The task that owns a stream to its end: the relay, its place at the endpoint, and the accounts to settle.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use podpin_endpoints::Permit;

use crate::balance::client_limit::ClientPermit;
use crate::balance::queue::Queue;
use crate::balance::service::Kind;
use crate::balance::service::ServiceState;
use crate::clock;
use crate::downstream::lease::ConnectionReturn;
use crate::shared::Shared;
use crate::stream::relay::{Finished, Relay};
use crate::stream_registry::StreamRecord;
use crate::telemetry::access_log::Record;
use crate::telemetry::labels::{CloseReason, DepartureKind, UpstreamErrorKind};

/// How long a client may take for the last events before the reset that says the stream broke.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// The places a stream takes, given back when it ends.
pub(crate) struct Permits {
    endpoint: Option<Permit>,
    client: Option<ClientPermit>,
    queue: Arc<Queue>,
}

impl Permits {
    pub(crate) fn new(endpoint: Permit, client: Option<ClientPermit>, service: &ServiceState) -> Permits {
        Permits { endpoint: Some(endpoint), client, queue: Arc::clone(&service.queue) }
    }
}

impl Permits {
    /// The stream goes on at another endpoint.
    pub(crate) fn move_to(&mut self, permit: Permit) {
        self.endpoint = Some(permit);
        self.queue.wake();
    }

    /// The client's place, for another attempt.
    pub(crate) fn take_client(&mut self) -> Option<ClientPermit> {
        self.client.take()
    }
}

impl Drop for Permits {
    /// Whoever waits for a place may look now.
    fn drop(&mut self) {
        drop((self.endpoint.take(), self.client.take()));
        self.queue.wake();
    }
}

/// What is known of a stream when it begins and written down when it ends.
pub(crate) struct Accounts {
    shared: Arc<Shared>,
    record: Arc<StreamRecord>,
    log: Option<Box<Record>>,
    settled: bool,
}

impl Accounts {
    pub(crate) fn new(shared: Arc<Shared>, record: Arc<StreamRecord>, log: Option<Box<Record>>) -> Accounts {
        Accounts { shared, record, log, settled: false }
    }

    pub(crate) fn record(&self) -> &Arc<StreamRecord> {
        &self.record
    }

    /// The line that will be written, where it was not known at the beginning.
    pub(crate) fn set_log(&mut self, log: Option<Record>) {
        self.log = log.map(Box::new);
    }

    /// Counts and logs the end of the stream.
    pub(crate) fn settle(mut self, finished: &Finished) {
        self.write_down(finished);
    }

    fn write_down(&mut self, finished: &Finished) {
        self.settled = true;
        let record = Arc::clone(&self.record);
        self.shared.streams.close(&record);
        let metrics = &record.route.service.metrics;
        let lived = clock::now().since(record.since);
        let first = finished.first_event.map(|moment| moment.since(record.since));
        if record.kind == Kind::Stream {
            metrics.streams_closed.inc(finished.reason.label());
            metrics.stream_duration.observe(lived.as_secs_f64());
            depart(&record, finished);
        } else {
            metrics.request_duration.observe(lived.as_secs_f64());
        }
        if finished.reason == CloseReason::UpstreamReset {
            let kind = if finished.protocol { UpstreamErrorKind::Protocol } else { UpstreamErrorKind::Reset };
            metrics.upstream_errors.inc(kind.label());
        }
        let Some(mut log) = self.log.take() else { return };
        log.route = Some(record.route.name.to_string());
        log.service = Some(record.route.service.name.to_string());
        log.endpoint = Some(record.endpoint().name.to_string());
        log.endpoints_before = record.endpoints_before().iter().map(|name| name.to_string()).collect();
        log.reason = finished.reason.label();
        log.error = finished.error.map(str::to_owned);
        log.bytes = record.bytes.load(Ordering::Relaxed);
        log.events = (record.kind == Kind::Stream).then(|| record.events.load(Ordering::Relaxed));
        log.duration_ms = clock::duration_millis(lived);
        log.first_event_ms = first.map(clock::duration_millis);
        self.shared.log(&log);
    }
}

/// What the end of a stream means for the drain that it was part of, and for whether its client is awaited back.
fn depart(record: &StreamRecord, finished: &Finished) {
    let service = &record.route.service;
    let tally = record.take_order().map(|order| order.tally);
    let kind = if finished.forced { DepartureKind::Forced } else { DepartureKind::Polite };
    if finished.reason == CloseReason::Drain {
        service.metrics.drain_departures.inc(kind.label());
    }
    if let Some(tally) = &tally {
        match finished.reason {
            CloseReason::Drain | CloseReason::Shutdown => tally.departed(kind),
            CloseReason::UpstreamReset => tally.broke(),
            // What is moved for balance's sake does not end for it.
            CloseReason::Rebalance => tally.left(),
            CloseReason::Client
            | CloseReason::UpstreamEnd
            | CloseReason::MaxDuration
            | CloseReason::Idle
            | CloseReason::SlowClient
            | CloseReason::Error => tally.left(),
        }
    }
    let expected = match finished.reason {
        CloseReason::Drain | CloseReason::UpstreamReset | CloseReason::MaxDuration | CloseReason::Idle => {
            true
        }
        // The proxy will not be there to see it come back.
        CloseReason::Shutdown
        | CloseReason::Rebalance
        | CloseReason::Client
        | CloseReason::UpstreamEnd
        | CloseReason::SlowClient
        | CloseReason::Error => false,
    };
    if finished.reason == CloseReason::Shutdown {
        service.desk.look();
    }
    // Of a route that is gone nobody comes back to this service.
    let expected = expected && !record.route.is_withdrawn();
    if let Some(session) = record.session.filter(|_| expected) {
        service.returns.expect(session, tally, clock::now(), &service.metrics);
        service.desk.look();
    }
}

impl Drop for Accounts {
    /// A stream that was dropped in the middle: the shutdown's deadline, or a bug.
    fn drop(&mut self) {
        if !self.settled {
            let leaving = self.shared.lifecycle.is_draining();
            let reason = if leaving { CloseReason::Shutdown } else { CloseReason::Error };
            self.write_down(&Finished {
                reason,
                error: Some("cut in the middle"),
                ..Finished::client_gone()
            });
        }
    }
}

/// One detached stream. Written by hand because an async block would hold the relay twice.
pub(crate) struct StreamTask {
    relay: Relay,
    accounts: Option<Accounts>,
    connection: Option<ConnectionReturn>,
}

impl StreamTask {
    pub(crate) fn new(relay: Relay, accounts: Accounts, connection: ConnectionReturn) -> StreamTask {
        StreamTask { relay, accounts: Some(accounts), connection: Some(connection) }
    }
}

impl Future for StreamTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut finished = ready!(Pin::new(&mut self.relay).poll(context));
        drop(self.relay.take_permits());
        let tcp = finished.tcp.take();
        if let Some(accounts) = self.accounts.take() {
            if let Some(dying) = finished.dying.take() {
                // A client that reads nothing is not waited for.
                let limit =
                    if finished.reason == CloseReason::SlowClient { Duration::ZERO } else { LAST_EVENTS };
                accounts.shared.lifecycle.tasks.spawn(dying.reset(limit));
            }
            accounts.settle(&finished);
        }
        if let (Some(tcp), Some(connection)) = (tcp, self.connection.take()) {
            connection.give_back(tcp);
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_task_stays_small() {
        // What an idle stream costs beside its two sockets and its timer; see docs/performance.md.
        let bytes = size_of::<StreamTask>();
        assert!(bytes <= 640, "the stream task grew to {bytes} bytes");
    }
}
