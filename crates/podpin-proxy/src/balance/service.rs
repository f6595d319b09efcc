//! One service at run time: its configuration, the newest view of its endpoints, its metrics.
//!
//! Readers load an immutable view and never wait; one writer, the [`TableWriter`] that its discovery owns, publishes.
//!
//! A reload that changes a service makes a [`ServiceState::successor`]: a new configuration over the same endpoints,
//! accounts and queue. Streams keep the one that they began with, so everything that outlives a configuration is
//! shared.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use http::HeaderName;
use parking_lot::Mutex;
use podpin_config::{Discovery, KubernetesService, Pinned, Service as Configuration, ZonePreference};
use podpin_drain::DrainInbox;
use podpin_endpoints::{
    Applied, DrainTimes, EjectionPolicy, Endpoint, EndpointId, Load, Phase, Snapshot, Table, Transition,
    Update,
};

use crate::balance::client_limit::ClientStreams;
use crate::balance::queue::Queue;
use crate::balance::ring::KetamaRing;
use crate::clock;
use crate::net::tls::PodTls;
use crate::telemetry::labels::{RefusalKind, UpstreamErrorKind};
use crate::telemetry::metrics::ServiceMetrics;

/// Changes of state of one update that get a line each in the log.
const LINES_MAX: usize = 20;

/// Whether a request counts as a stream of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Stream,
    Request,
}

/// Endpoints as of now, with the ring over them.
#[derive(Debug)]
pub struct View {
    pub snapshot: Arc<Snapshot>,
    pub ring: Arc<KetamaRing>,
}

/// A service that requests are routed to.
pub struct ServiceState {
    pub name: Arc<str>,
    pub configuration: Configuration,
    pub metrics: Arc<ServiceMetrics>,
    ejection: Option<EjectionPolicy>,
    /// The zone that new clients are kept in, with `balance.zone: prefer`.
    pub near: Option<String>,
    /// `affinity.header`.
    pub session_header: Option<HeaderName>,
    /// `tls`, read.
    pub tls: Option<Arc<PodTls>>,
    /// Readiness waits for its first list of endpoints: it was there at the start.
    pub is_awaited: bool,
    /// For `limits.streamsPerClient`.
    pub client_streams: Arc<ClientStreams>,
    /// For `affinity.onUnavailable: wait`.
    pub queue: Arc<Queue>,
    /// Events for its drains, and counts of its streams; identifies the service over reloads.
    pub drain: Arc<DrainInbox>,
    /// Changed on the control thread only; the lock is never waited for by a request.
    table: Arc<Mutex<Table>>,
    view: Arc<ArcSwap<View>>,
    /// Why discovery failed last.
    discovery_failure: Arc<Mutex<Option<Arc<str>>>>,
}

fn ejection(configuration: &Configuration) -> Option<EjectionPolicy> {
    let health = configuration.health.passive.as_ref()?;
    Some(EjectionPolicy { failures: health.failures, ejection: health.ejection })
}

fn near(configuration: &Configuration, own_zone: Option<&str>) -> Option<String> {
    own_zone.filter(|_| configuration.balance.zone == ZonePreference::Prefer).map(str::to_owned)
}

/// The configuration has none that is no header's name.
fn session_header(configuration: &Configuration) -> Option<HeaderName> {
    configuration.affinity.header.as_deref().and_then(|name| name.parse().ok())
}

/// What an operator may do to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Drain,
    Undrain,
}

impl std::fmt::Debug for ServiceState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ServiceState").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ServiceState {
    /// The service without endpoints.
    pub fn new(
        configuration: Configuration,
        metrics: ServiceMetrics,
        own_zone: Option<&str>,
        (drain, tls): (DrainInbox, Option<Arc<PodTls>>),
    ) -> ServiceState {
        let table = Table::new();
        let snapshot = table.snapshot();
        let ring = Arc::new(KetamaRing::new(snapshot.endpoints()));
        ServiceState {
            name: configuration.name.as_str().into(),
            ejection: ejection(&configuration),
            near: near(&configuration, own_zone),
            session_header: session_header(&configuration),
            tls,
            is_awaited: true,
            configuration,
            metrics: Arc::new(metrics),
            client_streams: Arc::default(),
            queue: Arc::default(),
            drain: Arc::new(drain),
            table: Arc::new(Mutex::new(table)),
            view: Arc::new(ArcSwap::from_pointee(View { snapshot, ring })),
            discovery_failure: Arc::default(),
        }
    }

    /// The same service as a new configuration wants it from now on.
    pub fn successor(
        &self,
        configuration: Configuration,
        own_zone: Option<&str>,
        tls: Option<Arc<PodTls>>,
    ) -> ServiceState {
        ServiceState {
            name: Arc::clone(&self.name),
            ejection: ejection(&configuration),
            near: near(&configuration, own_zone),
            session_header: session_header(&configuration),
            tls,
            is_awaited: self.is_awaited,
            configuration,
            metrics: Arc::clone(&self.metrics),
            client_streams: Arc::clone(&self.client_streams),
            queue: Arc::clone(&self.queue),
            drain: Arc::clone(&self.drain),
            table: Arc::clone(&self.table),
            view: Arc::clone(&self.view),
            discovery_failure: Arc::clone(&self.discovery_failure),
        }
    }

    /// Whether both are one service, under whatever configuration.
    pub fn is_same(&self, other: &ServiceState) -> bool {
        Arc::ptr_eq(&self.drain, &other.drain)
    }

    /// The endpoints as of now.
    pub fn view(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// Its endpoints are told by Kubernetes.
    pub fn is_of_the_cluster(&self) -> bool {
        self.cluster_source().is_some()
    }

    /// Where in the cluster its endpoints are, if they are there.
    pub fn cluster_source(&self) -> Option<&KubernetesService> {
        match &self.configuration.discovery {
            Discovery::Kubernetes(of) => Some(of),
            Discovery::Static(_) | Discovery::File(_) => None,
        }
    }

    /// The file that lists its endpoints, if one does.
    pub fn endpoints_file(&self) -> Option<&PathBuf> {
        match &self.configuration.discovery {
            Discovery::File(path) => Some(path),
            Discovery::Static(_) | Discovery::Kubernetes(_) => None,
        }
    }

    /// Keeps why discovery failed, for whoever wonders why there are no endpoints.
    pub fn discovery_failed(&self, reason: Arc<str>) {
        *self.discovery_failure.lock() = Some(reason);
    }

    /// Returns why discovery failed last; `None` if it never did.
    pub fn discovery_failure(&self) -> Option<Arc<str>> {
        self.discovery_failure.lock().clone()
    }

    /// Name of the affinity cookie, when there is one.
    pub fn cookie_name(&self) -> Option<&str> {
        self.configuration.affinity.cookie.as_ref().map(|cookie| cookie.name.as_str())
    }

    /// Counts a failure of an endpoint, and ejects it when the policy says so.
    pub fn endpoint_failed(&self, endpoint: &Endpoint, kind: UpstreamErrorKind) {
        self.metrics.upstream_errors.inc(kind.label());
        self.eject_if_due(endpoint);
    }

    fn eject_if_due(&self, endpoint: &Endpoint) {
        let Some(policy) = &self.ejection else { return };
        if endpoint.load.failed(policy, clock::now()) {
            self.metrics.ejections.inc();
            tracing::warn!(service = %self.name, endpoint = %endpoint.name, "ejected after consecutive failures");
        }
    }

    /// Counts an answer that says the endpoint cannot serve (502, 503, 504), and ejects it when the policy says so.
    pub fn endpoint_unavailable(&self, endpoint: &Endpoint) {
        self.eject_if_due(endpoint);
    }

    /// Counts a success, which ends a row of failures.
    pub fn endpoint_succeeded(&self, load: &Load) {
        if self.ejection.is_some() {
            load.succeeded();
        }
    }

    /// Counts a request that nothing could serve.
    pub fn refused(&self, kind: RefusalKind) {
        self.metrics.refusals.inc(kind.label());
    }

    /// How long drains of this service take.
    pub fn drain_times(&self) -> DrainTimes {
        let drain = &self.configuration.drain;
        DrainTimes { spread: drain.spread, timeout: drain.timeout, margin: drain.margin }
    }

    /// Until when pinned clients stay on a draining endpoint, if they do.
    pub fn keep(&self) -> Option<DrainTimes> {
        (self.configuration.drain.pinned == Pinned::Keep).then(|| self.drain_times())
    }

    /// Drains an endpoint by hand, or takes that back. `None` when it is unknown.
    pub fn operate(&self, id: &EndpointId, operation: Operation) -> Option<Arc<Endpoint>> {
        let mut table = self.table.lock();
        let applied = match operation {
            Operation::Drain => table.drain(id, clock::now()),
            Operation::Undrain => table.undrain(id, clock::now()),
        }?;
        self.publish(applied);
        self.endpoint(id)
    }

    /// Makes an outcome known to everyone whom it concerns.
    fn publish(&self, applied: Applied) {
        log_transitions(&self.name, &applied.transitions);
        let ring = if applied.members_changed {
            Arc::new(KetamaRing::new(applied.snapshot.endpoints()))
        } else {
            Arc::clone(&self.view.load().ring)
        };
        self.view.store(Arc::new(View { snapshot: applied.snapshot, ring }));
        self.drain.report(applied.transitions);
        self.queue.wake();
    }

    /// An endpoint of the newest view.
    pub fn endpoint(&self, id: &EndpointId) -> Option<Arc<Endpoint>> {
        self.view.load().snapshot.get(id).cloned()
    }
}

/// The only one that changes a service's endpoints.
pub struct TableWriter {
    service: Arc<ServiceState>,
}

impl TableWriter {
    /// There must be no other for the same service.
    pub fn new(service: Arc<ServiceState>) -> TableWriter {
        TableWriter { service }
    }

    /// The service written to.
    pub fn service(&self) -> &Arc<ServiceState> {
        &self.service
    }

    /// Notes that the source was heard of, whether or not it said anything new.
    pub fn heard(&self) {
        self.service.metrics.discovery_last_event.set(clock::unix_seconds_f64());
    }

    /// Applies what discovery said and publishes the outcome.
    pub fn apply(&self, update: Update) {
        self.heard();
        let mut table = self.service.table.lock();
        let applied = table.apply(update, clock::now());
        self.service.publish(applied);
    }
}

/// A line for each, or one for all when there are many: a cluster's first list may have ten thousand.
fn log_transitions(service: &str, transitions: &[Transition]) {
    if transitions.len() <= LINES_MAX {
        return transitions.iter().for_each(|transition| log_transition(service, transition));
    }
    let count = |phase: Phase| transitions.iter().filter(|transition| transition.to == phase).count();
    tracing::info!(
        service,
        ready = count(Phase::Ready),
        resting = count(Phase::NotReady),
        draining = count(Phase::Draining),
        gone = count(Phase::Gone),
        "many endpoints changed state"
    );
}

fn log_transition(service: &str, transition: &Transition) {
    let endpoint = &transition.endpoint;
    tracing::info!(
        service,
        endpoint = %endpoint.name,
        address = %endpoint.address,
        from = transition.from.map_or("new", Phase::as_str),
        to = transition.to.as_str(),
        "endpoint changed state"
    );
}
