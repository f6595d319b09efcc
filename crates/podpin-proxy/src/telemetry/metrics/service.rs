//! The metrics of one service: labels resolved once, so that counting is an addition.

use podpin_endpoints::MoveReason;
use podpin_sse::session::{HandoverCause as Cause, Outcome};
use prometheus::Registry;

use crate::telemetry::labels::{
    AffinityDecision, CloseReason, DepartureKind, DiscoveryError, Join, MismatchReason, OpenedStream,
    ReconnectOutcome, RefusalKind, RelistReason, RetryReason, UpstreamErrorKind,
};
use crate::telemetry::metrics::choice::GaugesBy;
use crate::telemetry::metrics::family::{
    Counters, CountersBy, CountersByPair, Family, Gauges, Histograms, Latency, Metric, PerService,
    ReconnectGap, StreamLifetime, TimeGauges, TlsFailures,
};
use crate::telemetry::metrics::sharded::ShardedFamily;

/// Declares the families of all services and the handles of one in a single list, so that a metric is named once.
macro_rules! service_metrics {
    ($($field:ident: $family:ty = $name:literal, $help:literal;)*) => {
        /// The families of metrics that have a `service` label.
        pub(super) struct ServiceFamilies {
            $(pub(super) $field: $family,)*
        }

        impl ServiceFamilies {
            /// Registers every family.
            pub(super) fn register(registry: &Registry) -> prometheus::Result<ServiceFamilies> {
                Ok(ServiceFamilies {
                    $($field: {
                        let metric = Metric { name: $name, help: $help, owner: "service" };
                        Family::register(registry, &metric)?
                    },)*
                })
            }

            /// Resolves the series of one service.
            pub(super) fn resolve(&self, service: &str) -> ServiceMetrics {
                ServiceMetrics {
                    $($field: self.$field.resolve(service),)*
                }
            }
        }

        /// The metrics of one service.
        pub struct ServiceMetrics {
            $(
                #[doc = $help]
                pub $field: <$family as PerService>::Handle,
            )*
        }
    };
}

service_metrics! {
    request_duration: Histograms<Latency> = "request_duration_seconds",
        "Time from the request head to the end of the response; event streams are not in it.";
    streams_opened: CountersBy<OpenedStream> = "streams_opened_total",
        "Event streams begun, by what the client had: new, pinned, repinned, or resumed (Last-Event-ID without a valid token).";
    streams_closed: CountersBy<CloseReason> = "streams_closed_total",
        "Event streams ended, by reason.";
    stream_duration: Histograms<StreamLifetime> = "stream_duration_seconds",
        "How long event streams lived.";
    stream_first_event: Histograms<Latency> = "stream_first_event_seconds",
        "Time from the request head to the first event to the client.";
    stream_events: ShardedFamily = "stream_events_total",
        "Events forwarded to clients.";
    stream_bytes: ShardedFamily = "stream_bytes_total",
        "Body bytes of event streams forwarded to clients.";
    stream_keepalives: ShardedFamily = "stream_keepalives_total",
        "Keep-alive comments written into silence.";
    upgrades_opened: CountersBy<OpenedStream> = "upgrades_opened_total",
        "Connections upgraded to another protocol, by what the client had: new, pinned or repinned.";
    upgrades_closed: CountersBy<CloseReason> = "upgrades_closed_total",
        "Upgraded connections ended, by reason.";
    upgrade_duration: Histograms<StreamLifetime> = "upgrade_duration_seconds",
        "How long upgraded connections lived.";
    upgrade_bytes: ShardedFamily = "upgrade_bytes_total",
        "Bytes of upgraded connections forwarded to clients.";
    upgrade_received_bytes: ShardedFamily = "upgrade_received_bytes_total",
        "Bytes of upgraded connections received from clients.";
    affinity_decisions: CountersBy<AffinityDecision> = "affinity_decisions_total",
        "Requests by result of checking the affinity token.";
    affinity_repins: CountersBy<MoveReason> = "affinity_repins_total",
        "Pinned clients moved to another endpoint, by reason.";
    upstream_connect: Histograms<Latency> = "upstream_connect_seconds",
        "Time to connect to an endpoint.";
    upstream_retries: CountersBy<RetryReason> = "upstream_retries_total",
        "Requests tried again on another endpoint, by what failed.";
    tls_failures: TlsFailures = "tls_failures_total",
        "TLS handshakes that failed, with clients of a listener or with pods of a service, by reason.";
    upstream_errors: CountersBy<UpstreamErrorKind> = "upstream_errors_total",
        "Failures of endpoints: connect, timeout, reset, protocol.";
    refusals: CountersBy<RefusalKind> = "refusals_total",
        "Requests that nothing could serve, by what was missing.";
    ejections: Counters = "endpoint_ejections_total",
        "Endpoints taken out for a while after consecutive failures.";
    ejections_disregarded: Counters = "endpoint_ejections_disregarded_total",
        "Requests and streams sent to an ejected endpoint, because more than half of those in use were ejected.";
    discovery_errors: CountersBy<DiscoveryError> = "discovery_errors_total",
        "What discovery could not read or use, by reason; the last good endpoints were kept.";
    discovery_mismatch: GaugesBy<MismatchReason> = "discovery_mismatch",
        "1 while the cluster does not have what the configuration names: the service, the port, or addresses of the family.";
    discovery_refused_updates: Counters = "discovery_refused_updates_total",
        "Updates of discovery that cannot be true and were refused: a terminating endpoint that is said to be ready again.";
    discovery_last_event: TimeGauges = "discovery_last_event_timestamp_seconds",
        "When discovery last said something about the service, Unix seconds.";
    discovery_connected: Gauges = "discovery_connected",
        "1 while the source of the service's endpoints can be read.";
    discovery_relists: CountersBy<RelistReason> = "discovery_relists_total",
        "Whole lists from the Kubernetes API server, by reason.";
    drain_departures: CountersBy<DepartureKind> = "drain_departures_total",
        "Streams that left an endpoint because it drained: polite (retry: and a clean end between two events, or a Close between two messages of a WebSocket) or forced (cut at the deadline).";
    reconnects: CountersBy<ReconnectOutcome> = "reconnects_total",
        "Clients whose stream was ended or broken: returned, counted at the replica that saw them come, or lost, not back within drain.returnWindow at the replica that they left.";
    reconnect_gap: Histograms<ReconnectGap> = "reconnect_gap_seconds",
        "How long clients that returned were without their stream.";
    budget_exceeded: Counters = "disconnect_budget_exceeded_total",
        "Disconnects beyond drain.budget, because a deadline left no time for it.";
    handovers: CountersByPair<Cause, Outcome> = "handovers_total",
        "Streams that were to go on at another pod, by cause (planned: theirs leaves; crash: it died) and final result.";
    handover_joins: CountersBy<Join> = "handover_joins_total",
        "Handovers that succeeded, by what the successor began with.";
    handover_duration: Histograms<Latency> = "handover_seconds",
        "Time from the beginning of a handover to its result; when it is planned, events flow meanwhile.";
    handover_duplicates: Counters = "handover_duplicates_dropped_total",
        "Events that a successor replayed although the client had them, and that were dropped.";
}
