//! What all workers share: routes, services, keys, metrics, open streams, and whether we are leaving.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use http::HeaderMap;
use parking_lot::Mutex;
use podpin_affinity::Keyring;
use podpin_config::{Cidr, Config, ListenerLimits, Shutdown};
use podpin_endpoints::{Millis, Phase};
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use crate::access_log::AccessLog;
use crate::clock;
use crate::drain::{Desk, ShutdownTimes};
use crate::forward::Client;
use crate::keys;
use crate::metrics::Metrics;
use crate::occupancy::Occupancy;
use crate::route::{Route, RouteTable};
use crate::service::{ServiceState, TableWriter};
use crate::start::StartError;
use crate::streams::{StreamRecord, Streams};
use crate::tls::PodTls;
use crate::treatment::Treatment;

impl std::fmt::Debug for Gateway {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Gateway").finish_non_exhaustive()
    }
}

/// Names our own zone; in a Pod by the downward API or by the overlay for a zone.
const ZONE_VARIABLE: &str = "PODPIN_ZONE";

/// The shared state of the proxy. Everything in it is read without waiting.
pub(crate) struct Gateway {
    routes: RouteTable,
    pub(crate) services: Vec<Arc<ServiceState>>,
    keyring: ArcSwap<Keyring>,
    pub(crate) metrics: Metrics,
    pub(crate) access_log: AccessLog,
    pub(crate) streams: Streams,
    pub(crate) limits: ListenerLimits,
    pub(crate) shutdown: Shutdown,
    trusted_proxies: Vec<Cidr>,
    /// Until when readiness waits for the first lists of the cluster's services.
    lists_awaited_until: Millis,
    /// Client connections open now.
    pub(crate) connections: AtomicUsize,
    /// Of those that count against `limits.connectionsPerClientIP`, how many each address has.
    pub(crate) addresses: Occupancy<IpAddr>,
    /// Refused connections that are listened to now.
    pub(crate) seats_taken: AtomicUsize,
    /// Ordinary requests in flight.
    pub(crate) requests: AtomicUsize,
    /// Owns every connection and stream of the workers.
    pub(crate) tasks: TaskTracker,
    /// Wakes the task that makes streams leave.
    pub(crate) drain_wake: Arc<Notify>,
    shutdown_times: Mutex<Option<ShutdownTimes>>,
    leaving: AtomicBool,
    /// Turns true when listeners must close and idle connections with them.
    closing: watch::Sender<bool>,
}

impl Gateway {
    /// Builds the shared state and, for each service, the writer of its endpoints.
    ///
    /// # Errors
    /// When a key file or the access log cannot be used.
    pub(crate) fn new(
        config: &Config,
        version: &str,
    ) -> Result<(Arc<Gateway>, Vec<TableWriter>), StartError> {
        let metrics = Metrics::new(version)?;
        let keyring = keys::load(&config.affinity_keys)?;
        let access_log = AccessLog::open(&config.access_log, metrics.access_log_dropped.clone())?;
        let zone = std::env::var(ZONE_VARIABLE).ok().filter(|zone| !zone.is_empty());
        let drain_wake = Arc::new(Notify::new());
        let pod_tls = config.services.iter().zip(1..).map(|(service, group)| PodTls::load(service, group));
        let pod_tls = pod_tls.collect::<Result<Vec<_>, _>>()?;
        let (services, writers): (Vec<_>, Vec<_>) = config
            .services
            .iter()
            .zip(pod_tls)
            .map(|(service, tls)| {
                let desk = Desk::new(Arc::clone(&drain_wake));
                let metrics = metrics.service(&service.name);
                ServiceState::new(service.clone(), metrics, zone.as_deref(), (desk, tls))
            })
            .unzip();
        let routes: Vec<Arc<Route>> =
            config.routes.iter().filter_map(|route| resolve(route, &services)).collect();
        let table = RouteTable::new(
            config
                .routes
                .iter()
                .zip(&routes)
                .map(|(route, to)| (&*route.hosts, &*route.paths, Arc::clone(to))),
        );
        metrics.config_last_reload.set(1);
        metrics.config_last_reload_at.set(crate::service::unix_seconds_f64());
        let gateway = Gateway {
            routes: table,
            services,
            keyring: ArcSwap::from_pointee(keyring),
            metrics,
            access_log,
            streams: Streams::default(),
            limits: config.limits,
            shutdown: config.shutdown.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            lists_awaited_until: clock::after(clock::now(), config.kubernetes.initial_list_timeout),
            connections: AtomicUsize::new(0),
            addresses: Occupancy::default(),
            seats_taken: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            tasks: TaskTracker::new(),
            drain_wake,
            shutdown_times: Mutex::default(),
            leaving: AtomicBool::new(false),
            closing: watch::Sender::new(false),
        };
        Ok((Arc::new(gateway), writers))
    }

    pub(crate) fn routes(&self) -> &RouteTable {
        &self.routes
    }

    pub(crate) fn keyring(&self) -> Guard<Arc<Keyring>> {
        self.keyring.load()
    }

    /// Puts new keys in force; tokens of streams that are open are not touched.
    pub(crate) fn set_keyring(&self, keyring: Keyring) {
        self.keyring.store(Arc::new(keyring));
    }

    /// Who the client is, as far as the other end may say.
    pub(crate) fn client(&self, peer: IpAddr, tls: bool, headers: &HeaderMap) -> Client {
        Client::of(peer, tls, headers, &self.trusted_proxies)
    }

    /// Whether this peer is in `trustedProxies`.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|range| range.contains(peer))
    }

    /// Ready for traffic: every service has had its first list of endpoints, and we are not leaving. One service that
    /// the cluster says nothing about does not keep the others waiting for longer than `kubernetes.initialListTimeout`.
    pub(crate) fn is_ready(&self) -> bool {
        let overdue = clock::now() >= self.lists_awaited_until;
        let awaited = |service: &&Arc<ServiceState>| !(overdue && service.is_of_the_cluster());
        !self.is_leaving() && !self.without_list().any(|service| awaited(&service))
    }

    /// How long readiness waits for the first lists of the cluster's services.
    pub(crate) fn lists_awaited_until(&self) -> Millis {
        self.lists_awaited_until
    }

    fn without_list(&self) -> impl Iterator<Item = &Arc<ServiceState>> {
        self.services.iter().filter(|service| !service.view().snapshot.first_list_seen())
    }

    /// Services that never had a list of endpoints.
    pub(crate) fn waiting_for(&self) -> impl Iterator<Item = &str> {
        self.without_list().map(|service| &*service.name)
    }

    /// SIGTERM has come.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Turns readiness off, for good.
    pub(crate) fn begin_leaving(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        self.metrics.shutdown_in_progress.set(1);
    }

    /// Closes listeners and idle connections.
    pub(crate) fn close_listeners(&self) {
        self.closing.send_replace(true);
        self.services.iter().filter_map(|service| service.queue.as_ref()).for_each(|queue| queue.close());
    }

    /// Listeners and idle connections watch this; Pingora takes it as its shutdown signal.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Nothing is left to wait for: no stream, no ordinary request.
    pub(crate) fn is_idle(&self) -> bool {
        self.streams.count() == 0 && self.requests.load(Ordering::Relaxed) == 0
    }

    /// Counts a request as in flight until the guard is dropped.
    pub(crate) fn in_flight(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// A stream that begins on an endpoint that is leaving, or while all are sent away, leaves with the others. To be
    /// asked after the stream is among [`Gateway::streams`], or it might be overlooked on both sides.
    pub(crate) fn leave_with_the_others(&self, stream: &Arc<StreamRecord>) {
        let service = &stream.route.service;
        let phase = || service.endpoint(&stream.endpoint().id).map_or(Phase::Gone, |endpoint| endpoint.phase);
        if *self.closing.borrow() || phase() >= Phase::Draining {
            service.desk.report_late(Arc::clone(stream));
        }
    }

    /// Sends every open stream away, evenly over `spread`, all before `deadline`.
    pub(crate) fn send_streams_away(&self, spread: Duration, deadline: Millis) {
        *self.shutdown_times.lock() = Some(ShutdownTimes { begins: clock::now(), spread, deadline });
        self.drain_wake.notify_one();
    }

    /// When all streams are to leave, if they are.
    pub(crate) fn shutdown_times(&self) -> Option<ShutdownTimes> {
        *self.shutdown_times.lock()
    }
}

/// A request on its way, which a shutdown waits for.
pub(crate) struct InFlight(Arc<Gateway>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

fn resolve(route: &podpin_config::Route, services: &[Arc<ServiceState>]) -> Option<Arc<Route>> {
    // The configuration has no route to an unknown service: podpin-config refuses it.
    let service = services.iter().find(|service| *service.name == *route.service)?;
    let (name, service) = (route.name.as_str().into(), Arc::clone(service));
    Some(Arc::new(Route { name, service, treatment: Treatment::new(route) }))
}
