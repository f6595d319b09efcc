//! Every metric, its labels and its help text. Nothing is registered elsewhere.
//!
//! Names are the contract of the product page, prefix `podpin_`. A metric is declared once, as one entry of a list: the entry
//! makes its field, its documentation and its registration.
//!
//! Counters of events are sharded, one cell a worker, so that workers never contend for a cache line; gauges over
//! endpoints are read from the snapshots when Prometheus scrapes.

mod choice;
pub mod family;
mod service;
mod sharded;

use podpin_h2::Excess;
use prometheus::{Encoder, Gauge, IntCounter, IntGauge, Registry, TextEncoder};

use crate::telemetry::labels::{
    ConnectionLimit, ConnectionProtocol, HandshakeError, HandshakeResumed, HandshakeVersion,
    ProxyHeaderError, ReloadResult, TlsFailure,
};
use crate::telemetry::metrics::family::{
    Counters, CountersBy, CountersByCode, CountersByPair, EndpointGauges, Family, Gauges, GaugesByEndpoint,
    Metric, ReloadCounters, RequestCounters, StreamGauges,
};
use crate::telemetry::metrics::service::ServiceFamilies;
pub use crate::telemetry::metrics::service::ServiceMetrics;
pub use crate::telemetry::metrics::sharded::ShardedCounter;

/// Declares a struct of families with the same first label, so that a metric is named once.
macro_rules! families {
    (
        $(#[$doc:meta])*
        $set:ident by $owner:literal { $($field:ident: $family:ty = $name:literal, $help:literal;)* }
    ) => {
        $(#[$doc])*
        pub struct $set {
            $(
                #[doc = $help]
                pub $field: $family,
            )*
        }

        impl $set {
            fn register(registry: &Registry) -> prometheus::Result<$set> {
                Ok($set {
                    $($field: {
                        let metric = Metric { name: $name, help: $help, owner: $owner };
                        <$family as Family>::register(registry, &metric)?
                    },)*
                })
            }
        }
    };
}

families! {
    /// Metrics with a `listener` label.
    ListenerMetrics by "listener" {
        connections_active: Gauges = "connections_active", "Open client connections.";
        connections_total: CountersBy<ConnectionProtocol> = "connections_total",
            "Client connections accepted, by protocol.";
        connections_refused: CountersBy<ConnectionLimit> = "connections_refused_total",
            "Client connections turned away, by limit: connections or connections_per_client_ip.";
        accept_errors: Counters = "accept_errors_total",
            "Times that no connection could be accepted, for want of descriptors or memory; clients wait meanwhile.";
        http2_connections_cut: CountersBy<Excess> = "http2_connections_cut_total",
            "HTTP/2 connections cut for what their client did: resets, provoked resets, frames, unfinished heads, trailers with too many fields.";
        heads_refused: CountersByCode = "request_heads_refused_total",
            "Requests refused before routing, by status code.";
        proxy_protocol_errors: CountersBy<ProxyHeaderError> = "proxy_protocol_errors_total",
            "Client connections closed at their PROXY header, by reason: untrusted, missing, malformed, too_long, timeout or cut_short.";
        tls_handshakes: CountersByPair<HandshakeVersion, HandshakeResumed> = "tls_handshakes_total",
            "TLS handshakes with clients that succeeded, by version and whether a session went on.";
        tls_handshakes_failed: CountersBy<HandshakeError> = "tls_handshakes_failed_total",
            "Client connections that ended before TLS was agreed upon, by reason: failed or timeout.";
    }
}

families! {
    /// Gauges that are read from the state of endpoints and streams at each scrape.
    EndpointMetrics by "service" {
        streams_active: StreamGauges = "streams_active",
            "Open event streams; state is active, or draining when their endpoint is.";
        upgrades_active: StreamGauges = "upgrades_active",
            "Open connections of another protocol (WebSocket and the like); state as that of event streams.";
        drain_remaining: GaugesByEndpoint = "drain_streams_remaining",
            "Event streams and upgraded connections still open on endpoints that drain or are no longer listed.";
        inheritances: GaugesByEndpoint = "endpoint_inheritances",
            "Endpoints that left, in this rollout or before, and whose sessions this one took over.";
        endpoints: EndpointGauges = "endpoints", "Endpoints by state.";
    }
}

families! {
    /// Metrics of requests, by service and route.
    RequestMetrics by "service" {
        requests: RequestCounters = "requests_total",
            "Requests answered, event streams included when their head was sent.";
    }
}

families! {
    /// Metrics by certificate.
    CertificateMetrics by "name" {
        not_after: Gauges = "tls_certificate_not_after_seconds",
            "When a certificate in use expires, Unix seconds; by its first DNS name, or its file.";
    }
}

families! {
    /// Metrics of the process itself, with no label but the result of a reload.
    ProcessMetrics by "" {
        access_log_dropped: IntCounter = "access_log_dropped_total",
            "Access log lines lost because the log could not keep up.";
        keys_reloads: ReloadCounters = "affinity_key_reloads_total",
            "Times the affinity key files were read again, by result.";
        tls_reloads: ReloadCounters = "tls_reloads_total",
            "Times the certificate files of a listener, or of the TLS to pods, were read again, by result.";
        config_reloads: ReloadCounters = "config_reloads_total",
            "Times the configuration was read again, by result; a failure keeps the one in force.";
        config_reloads_degraded: IntCounter = "config_reloads_degraded_total",
            "Configurations that are in force although a service names what the cluster does not have: its endpoints are those of before.";
        config_last_reload: IntGauge = "config_last_reload_success",
            "1 when the configuration in force is the newest one that was given.";
        config_last_reload_at: Gauge = "config_last_reload_success_timestamp_seconds",
            "When the configuration in force was read, Unix seconds.";
        requests_active: IntGauge = "requests_active",
            "Requests in flight, from their head to the end of their response; event streams and upgraded connections apart.";
        shutdown_in_progress: IntGauge = "shutdown_in_progress",
            "1 from SIGTERM to the end of the process.";
    }
}

families! {
    /// The version, as a label of a gauge that is always 1.
    BuildMetrics by "version" {
        build_info: Gauges = "build_info", "The version of the running program.";
    }
}

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    services: ServiceFamilies,
    /// Counters of requests.
    pub requests: RequestCounters,
    /// Metrics of listeners and of the connections to them.
    pub listeners: ListenerMetrics,
    /// Gauges over endpoints and their streams.
    pub endpoints: EndpointMetrics,
    /// Metrics of certificates.
    pub certificates: CertificateMetrics,
    /// Metrics of the process itself.
    pub process: ProcessMetrics,
}

impl Metrics {
    /// Makes and registers every metric.
    ///
    /// # Errors
    /// If two metrics have one name, which is a bug.
    pub fn new(version: &str) -> prometheus::Result<Metrics> {
        let registry = Registry::new();
        let metrics = Metrics {
            services: ServiceFamilies::register(&registry)?,
            requests: RequestMetrics::register(&registry)?.requests,
            listeners: ListenerMetrics::register(&registry)?,
            endpoints: EndpointMetrics::register(&registry)?,
            certificates: CertificateMetrics::register(&registry)?,
            process: ProcessMetrics::register(&registry)?,
            registry,
        };
        metrics.process.config_reloads.show_zeros();
        BuildMetrics::register(&metrics.registry)?.build_info.set(version, 1);
        let process = prometheus::process_collector::ProcessCollector::for_self();
        metrics.registry.register(Box::new(process))?;
        Ok(metrics)
    }

    /// Returns the metrics of one service, labels resolved once.
    #[must_use]
    pub fn service(&self, name: &str) -> ServiceMetrics {
        self.services.resolve(name)
    }

    /// Counts a handshake with a client of a listener that failed.
    pub fn listener_tls_failed(&self, listener: &str, reason: TlsFailure) {
        self.services.tls_failures.inc_listener(listener, reason);
    }

    /// Records that a configuration which was read at `unix_seconds` is in force, the first of the process or another.
    pub fn config_loaded(&self, unix_seconds: f64) {
        self.process.config_last_reload.set(1);
        self.process.config_last_reload_at.set(unix_seconds);
    }

    /// Counts a configuration that was read again and is in force.
    pub fn config_reloaded(&self, unix_seconds: f64) {
        self.process.config_reloads.inc(ReloadResult::Success);
        self.config_loaded(unix_seconds);
    }

    /// Counts a configuration that was read again and cannot be used.
    pub fn config_refused(&self) {
        self.process.config_reloads.inc(ReloadResult::Failure);
        self.process.config_last_reload.set(0);
    }

    /// Removes the gauges of a service that is gone from the configuration: they would never change again. Counters stay.
    pub fn forget_service(&self, name: &str) {
        self.services.discovery_connected.remove(name);
        self.services.discovery_last_event.remove(name);
        self.services.discovery_mismatch.remove(name);
    }

    /// Renders all metrics in the Prometheus text format.
    #[must_use]
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
        service.streams_closed.inc(CloseReason::SlowClient);
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
        let _text = metrics.render();
        service.stream_bytes.add(5);
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(text.contains("podpin_stream_bytes_total{service=\"chat\"} 15"), "{text}");
    }
}
