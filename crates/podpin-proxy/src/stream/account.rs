//! Account of one event stream or upgraded connection: the permits that it holds, and everything that is counted and logged
//! when it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use podpin_drain::{EndKind, StreamEnd};
use podpin_endpoints::Permit;
use podpin_sse::session::{Close, Fault, Reason};
use podpin_time::Millis;
use podpin_wire::upgrade::is_web_socket;

use crate::balance::client_limit::ClientPermit;
use crate::balance::queue::Queue;
use crate::balance::service::ServiceState;
use crate::clock;
use crate::downstream::http1::Http1Side;
use crate::http::reply::ErrorReply;
use crate::request_context::RequestContext;
use crate::shared::Shared;
use crate::stream_registry::{Opening, StreamRecord};
use crate::telemetry::access_log::Record;
use crate::telemetry::labels::{CloseReason, DepartureKind, Label, ReconnectOutcome, UpstreamErrorKind};
use crate::upstream::attempts::Attempts;

/// Permits of a stream, returned when it ends.
pub(crate) struct Permits {
    endpoint: Option<Permit>,
    client: Option<ClientPermit>,
    queue: Arc<Queue>,
}

impl Permits {
    /// Collects the permits of a stream that begins.
    pub(crate) fn new(endpoint: Permit, client: Option<ClientPermit>, service: &ServiceState) -> Permits {
        Permits { endpoint: Some(endpoint), client, queue: Arc::clone(&service.queue) }
    }

    /// Exchanges the permit of the endpoint for one of another endpoint.
    pub(crate) fn move_to(&mut self, permit: Permit) {
        self.endpoint = Some(permit);
        self.queue.wake();
    }

    /// Returns the client's permit; `None` if clients have no limit.
    pub(crate) fn of_client(&self) -> Option<&ClientPermit> {
        self.client.as_ref()
    }

    /// Takes out the client's permit, for another attempt.
    pub(crate) fn take_client(&mut self) -> Option<ClientPermit> {
        self.client.take()
    }
}

impl Drop for Permits {
    /// Returns the permits, then wakes requests that wait for one.
    fn drop(&mut self) {
        drop((self.endpoint.take(), self.client.take()));
        self.queue.wake();
    }
}

/// Failure that a stream ended with, as the access log spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Fault of the upstream.
    #[error("{}", fault_text(*.0))]
    Upstream(Fault),
    /// Request body that broke or stalled while the response was under way.
    #[error("{0}")]
    Request(ErrorReply),
    /// Client that left pings unanswered.
    #[error("the client answered no ping")]
    Vanished,
    /// Task that was dropped before the stream ended.
    #[error("cut in the middle")]
    Dropped,
}

/// End of a stream, with what is left of its client's connection.
pub(crate) struct Finished {
    /// Reason to be counted.
    pub reason: CloseReason,
    /// Failure that the stream ended with; `None` if there was none.
    pub failure: Option<Failure>,
    /// Moment of the first event; `None` if there was none.
    pub first_event: Option<Millis>,
    /// Whether a stream that had to leave was cut: within an event, or before the client took its goodbye.
    pub forced: bool,
    /// Client of HTTP/1, behind a clean end.
    pub client: Option<Http1Side>,
}

impl Finished {
    /// Returns the end of a stream whose client left before it began.
    pub(crate) fn client_gone() -> Finished {
        Finished {
            reason: CloseReason::Client,
            failure: None,
            forced: false,
            first_event: None,
            client: None,
        }
    }

    /// Returns the end that a session decided.
    pub(crate) fn of(close: Close, first_event: Option<Millis>) -> Finished {
        Finished {
            reason: close_reason(close.reason),
            failure: close.fault.map(Failure::Upstream),
            forced: close.is_forced,
            first_event,
            ..Finished::client_gone()
        }
    }

    fn upstream_fault(&self) -> Option<Fault> {
        match self.failure {
            Some(Failure::Upstream(fault)) => Some(fault),
            Some(Failure::Request(_) | Failure::Vanished | Failure::Dropped) | None => None,
        }
    }
}

/// Returns the label of a session's reason.
pub(crate) fn close_reason(reason: Reason) -> CloseReason {
    match reason {
        Reason::ClientGone => CloseReason::Client,
        Reason::SlowClient => CloseReason::SlowClient,
        Reason::UpstreamEnd => CloseReason::UpstreamEnd,
        Reason::UpstreamReset => CloseReason::UpstreamReset,
        Reason::Idle => CloseReason::Idle,
        Reason::Drain => CloseReason::Drain,
        Reason::Shutdown => CloseReason::Shutdown,
        Reason::MaxDuration => CloseReason::MaxDuration,
    }
}

/// Returns the label of a body that broke with this fault.
pub(crate) fn upstream_error_kind(fault: Option<Fault>) -> UpstreamErrorKind {
    match fault {
        Some(Fault::Malformed) => UpstreamErrorKind::Protocol,
        Some(Fault::Truncated | Fault::Reset | Fault::Silent) | None => UpstreamErrorKind::Reset,
    }
}

/// Returns a fault as the access log spells it.
fn fault_text(fault: Fault) -> &'static str {
    match fault {
        Fault::Truncated => "the connection ended within the body",
        Fault::Reset => "the connection was reset",
        Fault::Malformed => "a chunk is malformed",
        Fault::Silent => "the upstream was silent for too long",
    }
}

/// Account of a stream, opened when it begins and settled when it ends.
pub(crate) struct Accounts {
    shared: Arc<Shared>,
    record: Arc<StreamRecord>,
    log: Option<Box<Record>>,
    settled: bool,
}

impl Accounts {
    /// Registers a stream, and begins its line of the access log with the `status` that its client gets.
    pub(crate) fn open(
        context: &RequestContext,
        attempts: &Attempts,
        opening: Opening,
        status: StatusCode,
    ) -> Accounts {
        let record = context.shared.streams.open(|id| opening.into_record(id));
        let log = context.shared.is_logging().then(|| {
            let mut log = context.record(if record.upgrade.is_some() { "upgrade" } else { "stream" });
            log.status = status.as_u16();
            attempts.describe(true, &mut log);
            Box::new(log)
        });
        Accounts::new(Arc::clone(&context.shared), record, log)
    }

    /// Opens the account of a registered stream; `log` is the access log line, as far as it is known.
    pub(crate) fn new(shared: Arc<Shared>, record: Arc<StreamRecord>, log: Option<Box<Record>>) -> Accounts {
        Accounts { shared, record, log, settled: false }
    }

    /// Returns the record of the stream.
    pub(crate) fn record(&self) -> &Arc<StreamRecord> {
        &self.record
    }

    /// Counts and logs the end of the stream. Returns the client of HTTP/1, behind a clean end.
    pub(crate) fn settle(mut self, finished: Finished) -> Option<Http1Side> {
        self.write_down(&finished);
        finished.client
    }

    /// Closes the record, counts the end, and writes the access log line.
    fn write_down(&mut self, finished: &Finished) {
        self.settled = true;
        let (record, now) = (Arc::clone(&self.record), clock::now());
        let metrics = &record.route.service.metrics;
        let lost = self.shared.streams.close(&record, stream_end(finished), now);
        (0..lost).for_each(|_| metrics.reconnects.inc(ReconnectOutcome::Lost));
        let lived = now.since(record.since);
        let (closed, duration) = match record.upgrade {
            None => (&metrics.streams_closed, &metrics.stream_duration),
            Some(_) => (&metrics.upgrades_closed, &metrics.upgrade_duration),
        };
        closed.inc(finished.reason);
        duration.observe(lived.as_secs_f64());
        if finished.reason == CloseReason::Drain {
            let kind = if finished.forced { DepartureKind::Forced } else { DepartureKind::Polite };
            metrics.drain_departures.inc(kind);
        }
        if finished.reason == CloseReason::UpstreamReset {
            metrics.upstream_errors.inc(upstream_error_kind(finished.upstream_fault()));
        }
        if let Some(mut log) = self.log.take() {
            fill_in(&mut log, &record, finished, lived);
            self.shared.log(&log);
        }
    }
}

impl Drop for Accounts {
    /// Settles a stream whose task was dropped: at the shutdown's deadline, or by a bug.
    fn drop(&mut self) {
        if !self.settled {
            self.write_down(&cut_in_the_middle(self.shared.lifecycle.is_draining()));
        }
    }
}

/// Returns the end of a stream whose task was dropped. A stream that the shutdown's deadline cuts did not leave gracefully.
fn cut_in_the_middle(is_draining: bool) -> Finished {
    Finished {
        reason: if is_draining { CloseReason::Shutdown } else { CloseReason::Error },
        failure: Some(Failure::Dropped),
        forced: is_draining,
        ..Finished::client_gone()
    }
}

/// Adds what is known at the end to an access log line; route, service and session are there already.
fn fill_in(log: &mut Record, record: &StreamRecord, finished: &Finished, lived: Duration) {
    log.endpoint = Some(record.endpoint().name.to_string());
    log.endpoints_before = record.endpoints_before().iter().map(|name| name.to_string()).collect();
    log.reason = finished.reason.label();
    log.error = finished.failure.map(|failure| failure.to_string());
    log.bytes = record.bytes.load(Ordering::Relaxed);
    log.events = Some(record.events.load(Ordering::Relaxed));
    if let Some(upgrade) = &record.upgrade {
        log.events = log.events.filter(|_| is_web_socket(&upgrade.protocol));
        log.upgrade = Some(upgrade.protocol.to_string());
        log.bytes_received = Some(upgrade.received.load(Ordering::Relaxed));
    }
    log.duration_ms = clock::duration_millis(lived);
    let first = finished.first_event.map(|moment| moment.since(record.since));
    log.first_event_ms = first.map(clock::duration_millis);
}

/// Returns what the end of a stream means for its drain, and whether its client is awaited back.
fn stream_end(finished: &Finished) -> StreamEnd {
    let end = match finished.reason {
        CloseReason::Drain | CloseReason::Shutdown if finished.forced => EndKind::Forced,
        CloseReason::Drain | CloseReason::Shutdown => EndKind::Graceful,
        CloseReason::UpstreamReset => EndKind::Broken,
        CloseReason::Rebalance
        | CloseReason::Client
        | CloseReason::UpstreamEnd
        | CloseReason::MaxDuration
        | CloseReason::Idle
        | CloseReason::SlowClient
        | CloseReason::Error => EndKind::Left,
    };
    let comes_back = match finished.reason {
        CloseReason::Drain | CloseReason::UpstreamReset | CloseReason::MaxDuration | CloseReason::Idle => {
            true
        }
        // After a shutdown the proxy does not see its clients come back.
        CloseReason::Shutdown
        | CloseReason::Rebalance
        | CloseReason::Client
        | CloseReason::UpstreamEnd
        | CloseReason::SlowClient
        | CloseReason::Error => false,
    };
    StreamEnd { kind: end, is_awaited: comes_back }
}

#[cfg(test)]
mod tests {
    use podpin_drain::Mobility;
    use podpin_sse::session::ResponseBody;

    use super::*;
    use crate::testing::{Scene, nowhere};

    fn finished(reason: CloseReason, forced: bool) -> Finished {
        Finished { reason, forced, ..Finished::client_gone() }
    }

    #[test]
    fn a_drain_counts_each_end_by_its_reason() {
        let table = [
            (CloseReason::Drain, false, EndKind::Graceful, true),
            (CloseReason::Drain, true, EndKind::Forced, true),
            (CloseReason::Shutdown, false, EndKind::Graceful, false),
            (CloseReason::Shutdown, true, EndKind::Forced, false),
            (CloseReason::UpstreamReset, false, EndKind::Broken, true),
            (CloseReason::UpstreamEnd, false, EndKind::Left, false),
            (CloseReason::MaxDuration, false, EndKind::Left, true),
            (CloseReason::Idle, false, EndKind::Left, true),
            (CloseReason::Client, false, EndKind::Left, false),
            (CloseReason::SlowClient, false, EndKind::Left, false),
            (CloseReason::Error, false, EndKind::Left, false),
        ];
        for (reason, forced, kind, is_awaited) in table {
            let end = stream_end(&finished(reason, forced));
            assert_eq!(end, StreamEnd { kind, is_awaited }, "{reason:?}");
        }
    }

    #[test]
    fn the_end_of_a_stream_is_counted_by_its_fault_and_logged_in_words() {
        for (fault, kind, text) in [
            (Fault::Malformed, "kind=\"protocol\"", "a chunk is malformed"),
            (Fault::Truncated, "kind=\"reset\"", "the connection ended within the body"),
        ] {
            let scene = Scene::new(&[("a", nowhere())]);
            let record = scene.open("a", Mobility::DrainOnly);
            let failure = Some(Failure::Upstream(fault));
            let finished = Finished { failure, ..finished(CloseReason::UpstreamReset, false) };
            let mut log = Record::default();
            fill_in(&mut log, &record, &finished, Duration::ZERO);
            assert_eq!((log.error.as_deref(), log.reason), (Some(text), "upstream_reset"));
            Accounts::new(Arc::clone(&scene.shared), record, None).settle(finished);
            assert_eq!(scene.metric("podpin_upstream_errors_total", &[kind]), 1.0);
            assert_eq!(scene.metric("podpin_upstream_errors_total", &[]), 1.0);
        }
    }

    #[test]
    fn a_stream_that_the_shutdown_cuts_in_the_middle_is_a_forced_end() {
        let kind = |is_draining| stream_end(&cut_in_the_middle(is_draining)).kind;
        assert_eq!((kind(true), kind(false)), (EndKind::Forced, EndKind::Left));
    }

    #[test]
    fn a_fault_is_logged_and_a_malformed_body_is_a_protocol_error() {
        for (fault, protocol) in [
            (Some(Fault::Malformed), true),
            (Some(Fault::Truncated), false),
            (Some(Fault::Reset), false),
            (Some(Fault::Silent), false),
            (None, false),
        ] {
            let reason = if fault.is_some() { Reason::UpstreamReset } else { Reason::UpstreamEnd };
            let close = Close { reason, body: ResponseBody::Broken, fault, is_forced: false };
            let finished = Finished::of(close, Some(Millis(7)));
            assert_eq!(finished.failure, fault.map(Failure::Upstream));
            let kind = if protocol { UpstreamErrorKind::Protocol } else { UpstreamErrorKind::Reset };
            assert_eq!(upstream_error_kind(fault), kind);
            assert_eq!((finished.reason, finished.first_event), (close_reason(reason), Some(Millis(7))));
        }
    }
}
