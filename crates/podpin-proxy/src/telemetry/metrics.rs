//! Every metric, its labels and its help text. Nothing is registered elsewhere.
//!
//! Names are the contract of the product page, prefix `podpin_`. Whatever is counted for each event goes to counters
//! of the stream itself and to one sharded cell a service, so that workers never fight for a cache line; gauges over
//! endpoints are read from the snapshots when Prometheus asks.

mod service;
mod sharded;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

pub use crate::telemetry::metrics::service::ServiceMetrics;
use crate::telemetry::metrics::sharded::ShardedFamily;

/// `stream_duration_seconds`: from a second to a day.
const STREAM_SECONDS: &[f64] = &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0];
/// Latencies: from half a millisecond to half a minute.
const LATENCY_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// `reconnect_gap_seconds`: a client waits for its `retry:`, by default 1 to 10 s.
const GAP_SECONDS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0];
/// `config_reloads_total{result}`.
const RELOADED: &str = "success";
const REFUSED: &str = "failure";

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    pub requests: IntCounterVec,
    request_duration: HistogramVec,
    streams_opened: IntCounterVec,
    streams_closed: IntCounterVec,
    stream_duration: HistogramVec,
    stream_first_event: HistogramVec,
    stream_events: ShardedFamily,
    stream_bytes: ShardedFamily,
    stream_keepalives: ShardedFamily,
    affinity_decisions: IntCounterVec,
    affinity_repins: IntCounterVec,
    upstream_connect: HistogramVec,
    upstream_retries: IntCounterVec,
    upstream_errors: IntCounterVec,
    refusals: IntCounterVec,
    ejections: IntCounterVec,
    drain_departures: IntCounterVec,
    reconnects: IntCounterVec,
    reconnect_gap: HistogramVec,
    budget_exceeded: IntCounterVec,
    handovers: IntCounterVec,
    handover_duration: HistogramVec,
    handover_duplicates: IntCounterVec,
    discovery_errors: IntCounterVec,
    discovery_last_event: GaugeVec,
    discovery_connected: IntGaugeVec,
    discovery_relists: IntCounterVec,
    pub streams_active: IntGaugeVec,
    pub drain_remaining: IntGaugeVec,
    pub endpoints: IntGaugeVec,
    pub connections_active: IntGaugeVec,
    pub connections_total: IntCounterVec,
    pub tls_reloads: IntCounterVec,
    pub tls_not_after: IntGaugeVec,
    pub tls_handshakes_failed: IntCounterVec,
    pub connections_refused: IntCounterVec,
    pub accept_errors: IntCounterVec,
    pub heads_refused: IntCounterVec,
    pub proxy_protocol_errors: IntCounterVec,
    pub h2_connections_cut: IntCounterVec,
    pub access_log_dropped: IntCounter,
    pub keys_reloads: IntCounterVec,
    config_reloads: IntCounterVec,
    config_last_reload: IntGauge,
    config_last_reload_at: Gauge,
    pub shutdown_in_progress: IntGauge,
}

/// Registers while building, so that a metric cannot be forgotten.
struct Builder(Registry);

impl Builder {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> prometheus::Result<C> {
        let collector = made?;
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(format!("podpin_{name}"), help), labels))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(format!("podpin_{name}"), help), labels))
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(format!("podpin_{name}"), help).buckets(buckets.to_vec());
        self.add(HistogramVec::new(options, labels))
    }

    fn sharded(&self, name: &str, help: &str) -> prometheus::Result<ShardedFamily> {
        self.add(ShardedFamily::new(name, help))
    }
}

impl Metrics {
    /// Makes and registers every metric.
    ///
    /// # Errors
    /// Only if two metrics had one name, which is a bug.
    #[expect(clippy::too_many_lines, reason = "one line a metric: a list, not a program")]
    pub fn new(version: &str) -> prometheus::Result<Metrics> {
        let make = Builder(Registry::new());
        let service = &["service"][..];
        let metrics = Metrics {
            requests: make.counters(
                "requests_total",
                "Requests answered, event streams included when their head was sent.",
                &["service", "route", "method", "code"],
            )?,
            request_duration: make.histograms(
                "request_duration_seconds",
                "Time from the request head to the end of the response; event streams are not in it.",
                service,
                LATENCY_SECONDS,
            )?,
            streams_opened: make.counters(
                "streams_opened_total",
                "Event streams begun, by what the client had: new, pinned, repinned, or resumed (Last-Event-ID without a valid token).",
                &["service", "result"],
            )?,
            streams_closed: make.counters(
                "streams_closed_total",
                "Event streams ended, by reason.",
                &["service", "reason"],
            )?,
            stream_duration: make.histograms(
                "stream_duration_seconds",
                "How long event streams lived.",
                service,
                STREAM_SECONDS,
            )?,
            stream_first_event: make.histograms(
                "stream_first_event_seconds",
                "Time from the request head to the first event to the client.",
                service,
                LATENCY_SECONDS,
            )?,
            stream_events: make.sharded("stream_events_total", "Events forwarded to clients.")?,
            stream_bytes: make.sharded("stream_bytes_total", "Body bytes of event streams forwarded to clients.")?,
            stream_keepalives: make.sharded("stream_keepalives_total", "Keep-alive comments written into silence.")?,
            affinity_decisions: make.counters(
                "affinity_decisions_total",
                "What the affinity token of a request was worth.",
                &["service", "result"],
            )?,
            affinity_repins: make.counters(
                "affinity_repins_total",
                "Pinned clients moved to another endpoint, by what was wrong with theirs.",
                &["service", "reason"],
            )?,
            upstream_connect: make.histograms(
                "upstream_connect_seconds",
                "Time to connect to an endpoint.",
                service,
                LATENCY_SECONDS,
            )?,
            upstream_retries: make.counters(
                "upstream_retries_total",
                "Requests tried again on another endpoint, by what failed.",
                &["service", "reason"],
            )?,
            upstream_errors: make.counters(
                "upstream_errors_total",
                "Failures of endpoints: connect, timeout, reset, protocol.",
                &["service", "kind"],
            )?,
            refusals: make.counters(
                "refusals_total",
                "Requests that nothing could serve, by what was missing.",
                &["service", "kind"],
            )?,
            ejections: make.counters(
                "endpoint_ejections_total",
                "Endpoints taken out for a while after consecutive failures.",
                service,
            )?,
            discovery_errors: make.counters(
                "discovery_errors_total",
                "What discovery could not use (garbled, missing, malformed, pods); the last good endpoints were kept.",
                &["service", "reason"],
            )?,
            discovery_last_event: make.add(GaugeVec::new(
                Opts::new(
                    "podpin_discovery_last_event_timestamp_seconds",
                    "When discovery last said something about the service, Unix seconds.",
                ),
                service,
            ))?,
            drain_departures: make.counters(
                "drain_departures_total",
                "Event streams that left an endpoint because it drained: polite (retry: and a clean end between two events) or forced (cut at the deadline).",
                &["service", "kind"],
            )?,
            reconnects: make.counters(
                "reconnects_total",
                "Clients whose stream was ended or broken: returned within drain.returnWindow, or lost.",
                &["service", "outcome"],
            )?,
            reconnect_gap: make.histograms(
                "reconnect_gap_seconds",
                "How long clients that returned were without their stream.",
                service,
                GAP_SECONDS,
            )?,
            budget_exceeded: make.counters(
                "disconnect_budget_exceeded_total",
                "Disconnects beyond drain.budget, because a deadline left no time for it.",
                service,
            )?,
            handovers: make.counters(
                "handovers_total",
                "Streams that were to go on at another pod, by cause (planned: theirs leaves; crash: it died) and final result.",
                &["service", "cause", "result"],
            )?,
            handover_duration: make.histograms(
                "handover_seconds",
                "Time from the beginning of a handover to its result; when it is planned, events flow meanwhile.",
                service,
                LATENCY_SECONDS,
            )?,
            handover_duplicates: make.counters(
                "handover_duplicates_dropped_total",
                "Events that a successor replayed although the client had them, and that were dropped.",
                service,
            )?,
            discovery_connected: make.gauges(
                "discovery_connected",
                "1 while the source of the service's endpoints can be read.",
                service,
            )?,
            discovery_relists: make.counters(
                "discovery_relists_total",
                "Whole lists asked of the Kubernetes API server, by why.",
                &["service", "reason"],
            )?,
            streams_active: make.gauges(
                "streams_active",
                "Open event streams; state is active, or draining when their endpoint is.",
                &["service", "endpoint", "state"],
            )?,
            drain_remaining: make.gauges(
                "drain_streams_remaining",
                "Event streams still open on endpoints that drain or are no longer listed.",
                &["service", "endpoint"],
            )?,
            endpoints: make.gauges("endpoints", "Endpoints by state.", &["service", "state"])?,
            connections_active: make.gauges("connections_active", "Open client connections.", &["listener"])?,
            connections_total: make.counters(
                "connections_total",
                "Client connections accepted, by protocol.",
                &["listener", "protocol"],
            )?,
            connections_refused: make.counters(
                "connections_refused_total",
                "Client connections turned away, by limit: connections or connections_per_client_ip.",
                &["listener", "limit"],
            )?,
            accept_errors: make.counters(
                "accept_errors_total",
                "Times that no connection could be accepted, for want of descriptors or memory; clients wait meanwhile.",
                &["listener"],
            )?,
            h2_connections_cut: make.counters(
                "http2_connections_cut_total",
                "HTTP/2 connections cut for what their client did: resets, provoked resets, frames, unfinished heads, trailers with too many fields.",
                &["listener", "reason"],
            )?,
            heads_refused: make.counters(
                "request_heads_refused_total",
                "Requests refused before routing, by status code.",
                &["listener", "code"],
            )?,
            proxy_protocol_errors: make.counters(
                "proxy_protocol_errors_total",
                "Client connections closed at their PROXY header, by reason: untrusted, missing, malformed, too_long, timeout or cut_short.",
                &["listener", "reason"],
            )?,
            access_log_dropped: make.add(IntCounter::new(
                "podpin_access_log_dropped_total",
                "Access log lines lost because the log could not keep up.",
            ))?,
            keys_reloads: make.counters(
                "affinity_key_reloads_total",
                "Times the affinity key files were read again, by result.",
                &["result"],
            )?,
            tls_reloads: make.counters(
                "tls_reloads_total",
                "Times the certificate files of a listener, or of the TLS to pods, were read again, by result.",
                &["result"],
            )?,
            tls_not_after: make.gauges(
                "tls_certificate_not_after_seconds",
                "When a certificate in use expires, Unix seconds; by its first DNS name, or its file.",
                &["name"],
            )?,
            tls_handshakes_failed: make.counters(
                "tls_handshakes_failed_total",
                "Client connections that ended before TLS was agreed upon, by reason: failed or timeout.",
                &["listener", "reason"],
            )?,
            config_reloads: make.counters(
                "config_reloads_total",
                "Times the configuration was read again, by result; a failure keeps the one in force.",
                &["result"],
            )?,
            config_last_reload: make.add(IntGauge::new(
                "podpin_config_last_reload_success",
                "1 when the configuration in force is the newest one that was given.",
            ))?,
            config_last_reload_at: make.add(Gauge::new(
                "podpin_config_last_reload_success_timestamp_seconds",
                "When the configuration in force was read, Unix seconds.",
            ))?,
            shutdown_in_progress: make
                .add(IntGauge::new("podpin_shutdown_in_progress", "1 from SIGTERM to the end of the process."))?,
            registry: make.0.clone(),
        };
        for result in [RELOADED, REFUSED] {
            metrics.config_reloads.with_label_values(&[result]).reset();
        }
        make.gauges("build_info", "The version of the running program.", &["version"])?
            .with_label_values(&[version])
            .set(1);
        make.0.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// A configuration is in force that was read at this moment, the first of the process or another.
    pub fn config_loaded(&self, at: f64) {
        self.config_last_reload.set(1);
        self.config_last_reload_at.set(at);
    }

    /// The configuration was read again and is in force.
    pub fn config_reloaded(&self, at: f64) {
        self.config_reloads.with_label_values(&[RELOADED]).inc();
        self.config_loaded(at);
    }

    /// The configuration was read again and cannot be used.
    pub fn config_refused(&self) {
        self.config_reloads.with_label_values(&[REFUSED]).inc();
        self.config_last_reload.set(0);
    }

    /// A service is gone from the configuration: what tells of its state would never change again. Counters stay.
    pub fn forget_service(&self, name: &str) {
        let gauges = [
            self.discovery_connected.remove_label_values(&[name]),
            self.discovery_last_event.remove_label_values(&[name]),
        ];
        if gauges.iter().any(Result::is_err) {
            tracing::debug!(service = name, "had no discovery metrics");
        }
    }

    /// Everything in the Prometheus text format.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 * 1024);
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics cannot be rendered");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::labels::CloseReason;

    #[test]
    fn every_metric_registers_and_a_service_shows_its_zeros() {
        let metrics = Metrics::new("0.0.0").unwrap();
        let service = metrics.service("chat");
        service.stream_events.add(3);
        service.streams_closed.inc(CloseReason::SlowClient.label());
        let text = String::from_utf8(metrics.render()).unwrap();
        for line in [
            "podpin_stream_events_total{service=\"chat\"} 3",
            "podpin_streams_closed_total{reason=\"slow_client\",service=\"chat\"} 1",
            "podpin_affinity_decisions_total{result=\"forged\",service=\"chat\"} 0",
            "podpin_build_info{version=\"0.0.0\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_sharded_counter_is_exported_once_however_often_it_is_read() {
        let metrics = Metrics::new("0.0.0").unwrap();
        let service = metrics.service("chat");
        service.stream_bytes.add(10);
        metrics.render();
        service.stream_bytes.add(5);
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(text.contains("podpin_stream_bytes_total{service=\"chat\"} 15"), "{text}");
    }
}
