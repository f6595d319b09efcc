//! The metrics of one service: labels resolved once, so that counting is an addition.

use std::sync::Arc;

use podpin_sse::session::{HandoverCause as Cause, Outcome};
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge};

use crate::telemetry::labels::{
    CloseReason, DepartureKind, ReconnectOutcome, RefusalKind, UpstreamErrorKind, handover_cause,
    handover_result,
};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::sharded::ShardedCounter;

impl Metrics {
    /// The metrics of one service, labels resolved once.
    #[expect(clippy::too_many_lines, reason = "one line a metric: a list, not a program")]
    pub fn service(&self, name: &str) -> ServiceMetrics {
        ServiceMetrics {
            stream_events: self.stream_events.cell(name),
            stream_bytes: self.stream_bytes.cell(name),
            stream_keepalives: self.stream_keepalives.cell(name),
            stream_duration: self.stream_duration.with_label_values(&[name]),
            stream_first_event: self.stream_first_event.with_label_values(&[name]),
            request_duration: self.request_duration.with_label_values(&[name]),
            upstream_connect: self.upstream_connect.with_label_values(&[name]),
            ejections: self.ejections.with_label_values(&[name]),
            reconnect_gap: self.reconnect_gap.with_label_values(&[name]),
            budget_exceeded: self.budget_exceeded.with_label_values(&[name]),
            handover_duration: self.handover_duration.with_label_values(&[name]),
            handover_duplicates: self.handover_duplicates.with_label_values(&[name]),
            handovers: Handovers::new(&self.handovers, name),
            discovery_last_event: self.discovery_last_event.with_label_values(&[name]),
            discovery_connected: self.discovery_connected.with_label_values(&[name]),
            streams_opened: Labelled::new(
                &self.streams_opened,
                name,
                &["new", "pinned", "repinned", "resumed"],
            ),
            streams_closed: Labelled::new(
                &self.streams_closed,
                name,
                &CloseReason::ALL.map(CloseReason::label),
            ),
            affinity_decisions: Labelled::new(
                &self.affinity_decisions,
                name,
                &["pinned", "new", "repinned", "forged", "expired", "malformed", "unknown_key"],
            ),
            affinity_repins: Labelled::new(
                &self.affinity_repins,
                name,
                &["draining", "gone", "unready", "ejected", "full"],
            ),
            upstream_retries: Labelled::new(&self.upstream_retries, name, &["connect", "reset", "status"]),
            upstream_errors: Labelled::new(
                &self.upstream_errors,
                name,
                &UpstreamErrorKind::ALL.map(UpstreamErrorKind::label),
            ),
            drain_departures: Labelled::new(
                &self.drain_departures,
                name,
                &DepartureKind::ALL.map(DepartureKind::label),
            ),
            reconnects: Labelled::new(
                &self.reconnects,
                name,
                &ReconnectOutcome::ALL.map(ReconnectOutcome::label),
            ),
            refusals: Labelled::new(&self.refusals, name, &RefusalKind::ALL.map(RefusalKind::label)),
            discovery_relists: Labelled::new(
                &self.discovery_relists,
                name,
                &["start", "expired", "error", "periodic", "malformed", "confirm"],
            ),
            discovery_errors: Labelled::new(
                &self.discovery_errors,
                name,
                &["garbled", "missing", "malformed", "pods"],
            ),
        }
    }
}

/// The counters of one family for one service. Resolved at the start, so that all of them show as 0 before they move.
pub struct Labelled(Vec<(&'static str, IntCounter)>);

impl Labelled {
    fn new(family: &IntCounterVec, service: &str, labels: &[&'static str]) -> Labelled {
        Labelled(labels.iter().map(|label| (*label, family.with_label_values(&[service, label]))).collect())
    }

    /// Adds one under this label; an unknown label is a bug and is not counted.
    pub fn inc(&self, label: &'static str) {
        if let Some((_, counter)) = self.0.iter().find(|(known, _)| *known == label) {
            counter.inc();
        }
    }
}

/// The counters of handovers of one service.
pub struct Handovers(Vec<(Cause, Outcome, IntCounter)>);

impl Handovers {
    fn new(family: &IntCounterVec, service: &str) -> Handovers {
        let outcomes = [Outcome::Ok, Outcome::Refused, Outcome::Timeout, Outcome::NoId, Outcome::Limit];
        let counters = [Cause::Planned, Cause::Crash].into_iter().flat_map(|cause| {
            outcomes.map(|outcome| {
                let labels = [service, handover_cause(cause), handover_result(outcome)];
                (cause, outcome, family.with_label_values(&labels))
            })
        });
        Handovers(counters.collect())
    }

    /// Counts one with its final result.
    pub fn inc(&self, cause: Cause, outcome: Outcome) {
        let wanted = |counter: &&(Cause, Outcome, IntCounter)| (counter.0, counter.1) == (cause, outcome);
        if let Some((_, _, counter)) = self.0.iter().find(wanted) {
            counter.inc();
        }
    }
}

/// The metrics of one service.
pub struct ServiceMetrics {
    pub stream_events: Arc<ShardedCounter>,
    pub stream_bytes: Arc<ShardedCounter>,
    pub stream_keepalives: Arc<ShardedCounter>,
    pub stream_duration: Histogram,
    pub stream_first_event: Histogram,
    pub request_duration: Histogram,
    pub upstream_connect: Histogram,
    pub ejections: IntCounter,
    pub reconnect_gap: Histogram,
    pub budget_exceeded: IntCounter,
    pub drain_departures: Labelled,
    pub handovers: Handovers,
    pub handover_duration: Histogram,
    pub handover_duplicates: IntCounter,
    pub reconnects: Labelled,
    pub discovery_last_event: Gauge,
    pub discovery_connected: IntGauge,
    pub streams_opened: Labelled,
    pub streams_closed: Labelled,
    pub affinity_decisions: Labelled,
    pub affinity_repins: Labelled,
    pub upstream_retries: Labelled,
    pub upstream_errors: Labelled,
    pub refusals: Labelled,
    pub discovery_relists: Labelled,
    pub discovery_errors: Labelled,
}
