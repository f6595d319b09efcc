//! A service at run time: its configuration, the newest view of its endpoints, its metrics.
//!
//! Readers load an immutable view and never wait; one writer, the [`TableWriter`] that its discovery owns, publishes.
//!
//! A reload that changes a service makes a [`ServiceState::successor`]: a new configuration over the same endpoints,
//! counts and queue. Streams keep the state that they began with, so everything that outlives a configuration is shared.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, Guard};
use http::HeaderName;
use parking_lot::Mutex;
use podpin_config::{
    Discovery, Drain, EndpointAddress, KubernetesService, Pinned, Service as Configuration, ZonePreference,
};
use podpin_drain::DrainInbox;
use podpin_endpoints::{
    Applied, Departed, DrainTimes, EjectionPolicy, Endpoint, EndpointId, FailureSource, HeirPolicy, Load,
    Snapshot, Table, Update,
};
use podpin_time::Millis;
use podpin_wire::via::Via;

use crate::balance::asks::Asks;
use crate::balance::client_limit::ClientStreams;
use crate::balance::flaps::{Flapping, Flaps};
use crate::balance::queue::Queue;
use crate::balance::ring::{KetamaRing, SteadyRing};
use crate::balance::source::Source;
use crate::clock;
use crate::net::tls::UpstreamTls;
use crate::telemetry::labels::RefusalKind;
use crate::telemetry::metrics::ServiceMetrics;

/// The kind of a client's request, which decides whether it counts as a stream of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An event stream: holds a permit of its endpoint, leaves when the endpoint drains.
    Stream,
    /// An ordinary request or an upgraded connection.
    Request,
}

/// The endpoints of a service at one moment, with the ring over them.
#[derive(Debug)]
pub struct View {
    /// The endpoints.
    pub snapshot: Arc<Snapshot>,
    /// The consistent-hashing ring over all of them, whatever their state.
    pub ring: Arc<KetamaRing>,
    flapping: Arc<Flapping>,
}

impl View {
    fn new(snapshot: Arc<Snapshot>, ring: Arc<KetamaRing>, flapping: Flapping) -> View {
        View { snapshot, ring, flapping: Arc::new(flapping) }
    }

    /// Returns the ring as clients see it that name themselves: endpoints that flap are passed over, or they would be sent
    /// to and fro with every change.
    #[must_use]
    pub fn steady_ring(&self, now: Millis) -> SteadyRing<'_> {
        SteadyRing::new(&self.ring, &self.flapping, now)
    }

    /// Returns whether an endpoint changes its state so often that the log leaves it out.
    #[must_use]
    pub fn is_flapping(&self, id: &EndpointId, now: Millis) -> bool {
        self.flapping.get(id).is_some_and(|until| now < *until)
    }
}

/// A service that requests are routed to.
pub struct ServiceState {
    /// The name in the configuration.
    pub name: Arc<str>,
    /// The configuration of the service.
    pub configuration: Configuration,
    /// The metrics of the service.
    pub metrics: Arc<ServiceMetrics>,
    ejection: Option<EjectionPolicy>,
    /// The zone that new clients are kept in, with `balance.zone: prefer`; `None` if any zone will do.
    pub near: Option<String>,
    /// The field of `affinity.header`.
    pub session_header: Option<HeaderName>,
    /// The name of the proxy in `Via` of requests for this service.
    pub via: Arc<Via>,
    /// The TLS towards the endpoints.
    pub tls: Option<Arc<UpstreamTls>>,
    first_list: FirstList,
    /// Open streams by client, for `limits.streamsPerClient`.
    pub client_streams: Arc<ClientStreams>,
    /// Requests that wait for a place, for `affinity.onUnavailable: wait`.
    pub queue: Arc<Queue>,
    /// Requests for successors of streams that are under way.
    pub asks: Arc<Asks>,
    /// Events for the drain of the service, and counts of its streams; identifies the service over reloads.
    pub drain: Arc<DrainInbox>,
    /// The table is changed on the control thread only; requests never take the lock.
    table: Arc<Mutex<Table>>,
    view: Arc<ArcSwap<View>>,
    /// The source of the endpoints: what is wrong with it.
    pub source: Arc<Source>,
    /// Whether the log says already that ejection is disregarded.
    ejection_disregarded: Arc<AtomicBool>,
    /// The recent changes of endpoints, for the log.
    flaps: Arc<Mutex<Flaps>>,
}

/// Whether readiness waits for the first list of endpoints of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstList {
    /// The service was configured when the process started.
    Awaited,
    /// A reload brought the service: it does not make a replica unready that serves others.
    NotAwaited,
}

/// The parts that a new service is made of.
pub struct ServiceParts {
    /// The metrics of the service.
    pub metrics: ServiceMetrics,
    /// The inbox of its drain.
    pub drain: DrainInbox,
    /// The TLS towards its endpoints.
    pub tls: Option<Arc<UpstreamTls>>,
    /// Whether readiness waits for its first list of endpoints.
    pub first_list: FirstList,
}

fn ejection(configuration: &Configuration) -> Option<EjectionPolicy> {
    let health = configuration.health.passive.as_ref()?;
    Some(EjectionPolicy { failures: health.failures, ejection: health.ejection })
}

fn near(configuration: &Configuration, own_zone: Option<&str>) -> Option<String> {
    own_zone.filter(|_| configuration.balance.zone == ZonePreference::Prefer).map(str::to_owned)
}

fn drain_times(drain: &Drain) -> DrainTimes {
    DrainTimes { spread: drain.spread, timeout: drain.timeout, margin: drain.margin }
}

/// Returns the policy of heirs; `None` if there are none: clients that name themselves always go where the ring sends them, and
/// so do their streams.
fn heir_policy(configuration: &Configuration) -> Option<HeirPolicy> {
    let affinity = &configuration.affinity;
    let is_named = affinity.header.is_some() || affinity.query.is_some() || affinity.client_ip.is_some();
    let namesakes = !configuration.drain.handover.moves_streams();
    let times = drain_times(&configuration.drain);
    (!is_named).then_some(HeirPolicy { lifetime: affinity.absolute_timeout, namesakes, times })
}

/// Returns the field of `affinity.header`; podpin-config refuses names that are no field names.
fn session_header(configuration: &Configuration) -> Option<HeaderName> {
    configuration.affinity.header.as_deref().and_then(|name| name.parse().ok())
}

/// An operation on an endpoint by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The endpoint takes no new clients, and its streams leave.
    Drain,
    /// The endpoint is again what discovery says.
    Undrain,
}

impl std::fmt::Debug for ServiceState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ServiceState").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ServiceState {
    /// Builds a service without endpoints, in a proxy that runs in `own_zone`.
    #[must_use]
    pub fn new(configuration: Configuration, own_zone: Option<&str>, parts: ServiceParts) -> ServiceState {
        let ServiceParts { metrics, drain, tls, first_list } = parts;
        let mut table = Table::new();
        table.keep_heirs(heir_policy(&configuration));
        let snapshot = table.snapshot();
        let ring = Arc::new(KetamaRing::new(snapshot.endpoints()));
        ServiceState {
            name: configuration.name.as_str().into(),
            ejection: ejection(&configuration),
            near: near(&configuration, own_zone),
            session_header: session_header(&configuration),
            via: Arc::new(Via::new(fastrand::u32(..))),
            tls,
            first_list,
            configuration,
            metrics: Arc::new(metrics),
            client_streams: Arc::default(),
            queue: Arc::default(),
            asks: Arc::default(),
            drain: Arc::new(drain),
            table: Arc::new(Mutex::new(table)),
            view: Arc::new(ArcSwap::from_pointee(View::new(snapshot, ring, Flapping::default()))),
            source: Arc::default(),
            ejection_disregarded: Arc::default(),
            flaps: Arc::default(),
        }
    }

    /// Builds the same service under a new configuration, over the same endpoints and counts.
    #[must_use]
    pub fn successor(
        &self,
        configuration: Configuration,
        own_zone: Option<&str>,
        tls: Option<Arc<UpstreamTls>>,
    ) -> ServiceState {
        self.table.lock().keep_heirs(heir_policy(&configuration));
        ServiceState {
            name: Arc::clone(&self.name),
            ejection: ejection(&configuration),
            near: near(&configuration, own_zone),
            session_header: session_header(&configuration),
            via: Arc::clone(&self.via),
            tls,
            first_list: self.first_list,
            configuration,
            metrics: Arc::clone(&self.metrics),
            client_streams: Arc::clone(&self.client_streams),
            queue: Arc::clone(&self.queue),
            asks: Arc::clone(&self.asks),
            drain: Arc::clone(&self.drain),
            table: Arc::clone(&self.table),
            view: Arc::clone(&self.view),
            source: Arc::clone(&self.source),
            ejection_disregarded: Arc::clone(&self.ejection_disregarded),
            flaps: Arc::clone(&self.flaps),
        }
    }

    /// Returns whether both are one service, under whatever configuration.
    #[must_use]
    pub fn is_same(&self, other: &ServiceState) -> bool {
        Arc::ptr_eq(&self.drain, &other.drain)
    }

    /// Returns whether readiness waits for the first list of endpoints.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.first_list == FirstList::Awaited
    }

    /// Returns the endpoints as of now.
    pub fn view(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// Returns whether the endpoints are told by a server, of a cluster or of names, which may be away.
    #[must_use]
    pub fn is_told_by_a_server(&self) -> bool {
        match &self.configuration.discovery {
            Discovery::Kubernetes(_) | Discovery::Dns(_) => true,
            Discovery::Static(list) => {
                list.iter().any(|one| matches!(one.address, EndpointAddress::Name { .. }))
            }
            Discovery::File(_) => false,
        }
    }

    /// Returns the place of the service in the cluster; `None` if it is not discovered there.
    #[must_use]
    pub fn cluster_source(&self) -> Option<&KubernetesService> {
        match &self.configuration.discovery {
            Discovery::Kubernetes(of) => Some(of),
            Discovery::Static(_) | Discovery::File(_) | Discovery::Dns(_) => None,
        }
    }

    /// Returns the file that lists the endpoints; `None` if they are not in a file.
    #[must_use]
    pub fn endpoints_file(&self) -> Option<&PathBuf> {
        match &self.configuration.discovery {
            Discovery::File(path) => Some(path),
            Discovery::Static(_) | Discovery::Kubernetes(_) | Discovery::Dns(_) => None,
        }
    }

    /// Returns the name of the affinity cookie; `None` if there is none.
    #[must_use]
    pub fn cookie_name(&self) -> Option<&str> {
        self.configuration.affinity.cookie.as_ref().map(|cookie| cookie.name.as_str())
    }

    /// Counts a failure of an endpoint, and ejects it if the policy says so; `cause` is the failure in words.
    pub fn endpoint_failed(&self, endpoint: &Endpoint, source: FailureSource, cause: &dyn fmt::Display) {
        let now = clock::now();
        if source == FailureSource::Endpoint && endpoint.load.reports_failure(now) {
            tracing::warn!(
                service = %self.name,
                endpoint = %endpoint.name,
                address = %endpoint.address,
                reason = %cause,
                "an endpoint cannot be reached"
            );
        }
        let Some(policy) = &self.ejection else { return };
        if endpoint.load.failed(policy, source, now) {
            tracing::warn!(
                service = %self.name,
                endpoint = %endpoint.name,
                address = %endpoint.address,
                reason = %cause,
                "ejected after consecutive failures"
            );
            self.endpoint_ejected();
        }
    }

    /// Counts an ejection, and logs when it is one too many: once, until ejections count again.
    pub fn endpoint_ejected(&self) {
        self.metrics.ejections.inc();
        let is_disregarded = !self.view.load().snapshot.honours_ejection(clock::now());
        let was_disregarded = self.ejection_disregarded.swap(is_disregarded, Ordering::Relaxed);
        if is_disregarded && !was_disregarded {
            tracing::warn!(
                service = %self.name,
                "more than half of the endpoints are ejected: ejection is disregarded"
            );
        }
    }

    /// Counts the use of an endpoint that is ejected.
    pub fn endpoint_selected(&self, endpoint: &Endpoint) {
        if endpoint.load.is_ejected(clock::now()) {
            self.metrics.ejections_disregarded.inc();
        }
    }

    /// Counts a success, which ends a run of failures.
    pub fn endpoint_succeeded(&self, load: &Load) {
        if self.ejection.is_some() {
            load.succeeded();
        }
    }

    /// Counts a request that nothing could serve.
    pub fn refused(&self, kind: RefusalKind) {
        self.metrics.refusals.inc(kind);
    }

    /// Returns how long drains of this service take.
    #[must_use]
    pub fn drain_times(&self) -> DrainTimes {
        drain_times(&self.configuration.drain)
    }

    /// Returns how long pinned clients stay on a draining endpoint; `None` if they do not.
    #[must_use]
    pub fn keep(&self) -> Option<DrainTimes> {
        (self.configuration.drain.pinned == Pinned::Keep).then(|| self.drain_times())
    }

    /// Drains an endpoint by hand, or takes that back; returns the endpoint afterwards, `None` if it is unknown.
    pub fn operate(&self, id: &EndpointId, operation: Operation) -> Option<Arc<Endpoint>> {
        let mut table = self.table.lock();
        let applied = match operation {
            Operation::Drain => table.drain(id, clock::now()),
            Operation::Undrain => table.undrain(id, clock::now()),
        }?;
        self.publish(applied);
        self.endpoint(id)
    }

    /// Returns up to `limit` endpoints that drain or are gone and whose heirs are remembered, the last one first, and how many
    /// there are in all.
    #[must_use]
    pub fn departed(&self, limit: usize) -> (Vec<Departed>, usize) {
        let table = self.table.lock();
        (table.departed().take(limit).collect(), table.departed().count())
    }

    /// Returns how many endpoints each of these has inherited from.
    #[must_use]
    pub fn inheritances(&self, endpoints: &[Arc<Endpoint>]) -> Vec<u32> {
        let table = self.table.lock();
        endpoints.iter().map(|endpoint| table.inheritances(&endpoint.id)).collect()
    }

    /// Publishes the outcome of an update: to readers, the log, the drain and waiting requests.
    fn publish(&self, applied: Applied) {
        let now = clock::now();
        let flapping = {
            let mut flaps = self.flaps.lock();
            flaps.log_transitions(&self.name, &applied.transitions, now);
            flaps.log_refused(&self.name, &applied.refused, now);
            flaps.flapping(now)
        };
        self.metrics.discovery_refused_updates.inc_by(u64::try_from(applied.refused.len()).unwrap_or(0));
        let ring = if applied.members_changed {
            Arc::new(KetamaRing::new(applied.snapshot.endpoints()))
        } else {
            Arc::clone(&self.view.load().ring)
        };
        self.view.store(Arc::new(View::new(applied.snapshot, ring, flapping)));
        self.drain.report(applied.transitions);
        self.queue.wake();
    }

    /// Returns an endpoint of the newest view; `None` if it is not a member.
    #[must_use]
    pub fn endpoint(&self, id: &EndpointId) -> Option<Arc<Endpoint>> {
        self.view.load().snapshot.get(id).cloned()
    }
}

/// The writer of a service's endpoints, owned by its discovery.
pub struct TableWriter {
    service: Arc<ServiceState>,
}

impl std::fmt::Debug for TableWriter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("TableWriter").field(&self.service.name).finish()
    }
}

impl TableWriter {
    /// Builds the writer of a service; two for one service would overwrite each other's lists.
    #[must_use]
    pub fn new(service: Arc<ServiceState>) -> TableWriter {
        TableWriter { service }
    }

    /// Returns the service that is written to.
    #[must_use]
    pub fn service(&self) -> &Arc<ServiceState> {
        &self.service
    }

    /// Records a sign of life of the source, whether or not it says anything new.
    pub fn heard(&self) {
        self.service.metrics.discovery_last_event.set(clock::unix_seconds_f64());
    }

    /// Applies an update of discovery and publishes the outcome.
    pub fn apply(&self, update: Update) {
        self.heard();
        let mut table = self.service.table.lock();
        let applied = table.apply(update, clock::now());
        self.service.publish(applied);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use podpin_config::Config;
    use podpin_endpoints::{Condition, Observed, Phase};

    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn service(metrics: &Metrics) -> Arc<ServiceState> {
        let text = "listeners: [{name: http, address: 127.0.0.1:1}]\nadmin: {address: 127.0.0.1:2}\n\
                    affinityKeys: ephemeral\nroutes: [{service: chat}]\n\
                    services: {chat: {discovery: {static: []}}}\n";
        let config = Config::parse(text, "test", Path::new("")).unwrap();
        let parts = ServiceParts {
            metrics: metrics.service("chat"),
            drain: DrainInbox::new(Arc::default()),
            tls: None,
            first_list: FirstList::Awaited,
        };
        Arc::new(ServiceState::new(config.services[0].clone(), None, parts))
    }

    fn pod(condition: Condition) -> Observed {
        Observed {
            condition,
            ..Observed::ready(EndpointId::from_bytes([1; 16]), "pod-a", "127.0.0.1:9".parse().unwrap())
        }
    }

    #[test]
    fn an_update_that_cannot_be_true_is_counted_once_and_changes_nothing() {
        let metrics = Metrics::new("0").unwrap();
        let service = service(&metrics);
        let writer = TableWriter::new(Arc::clone(&service));
        writer.apply(Update::Replace(vec![pod(Condition::Draining { serving: true })]));
        assert_eq!(service.metrics.discovery_refused_updates.get(), 0);
        for _ in 0..3 {
            writer.apply(Update::Replace(vec![pod(Condition::Ready)]));
            assert_eq!(service.metrics.discovery_refused_updates.get(), 1);
        }
        assert_eq!(service.view().snapshot.endpoints()[0].phase, Phase::Draining);
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(text.contains("podpin_discovery_refused_updates_total{service=\"chat\"} 1"), "{text}");
    }

    #[test]
    fn a_successor_shares_endpoints_and_counts_and_a_namesake_does_not() {
        let metrics = Metrics::new("0").unwrap();
        let (one, other) = (service(&metrics), service(&metrics));
        let next = one.successor(one.configuration.clone(), Some("z"), None);
        assert!(next.is_same(&one) && !next.is_same(&other) && next.near.is_none());
        TableWriter::new(Arc::clone(&one)).apply(Update::Replace(vec![pod(Condition::Ready)]));
        assert_eq!((next.view().snapshot.endpoints().len(), other.view().snapshot.endpoints().len()), (1, 0));
        let id = next.view().snapshot.endpoints()[0].id;
        next.operate(&id, Operation::Drain).unwrap();
        assert_eq!(one.endpoint(&id).unwrap().phase, Phase::Draining);
    }
}
