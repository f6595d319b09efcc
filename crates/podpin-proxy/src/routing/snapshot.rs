//! Everything that a reload changes, as one immutable value: routes, services, limits, trusted proxies, keys, listeners, log.
//!
//! A request loads the snapshot once and keeps it, so it never sees half of a reload. Endpoints, counts and queues outlive a
//! snapshot: the next one shares them, see [`ServiceState::successor`].

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use podpin_affinity::Keyring;
use podpin_config::{Cidr, ListenerLimits, Shutdown};

use crate::balance::service::ServiceState;
use crate::net::listener::ListenerSettings;
use crate::routing::route::Route;
use crate::routing::table::RouteTable;
use crate::telemetry::access_log::LogSink;

/// The configuration in force, resolved.
#[derive(Clone)]
pub struct ConfigSnapshot {
    /// Routes by host and path.
    pub table: Arc<RouteTable>,
    /// Every route, once for each of its services.
    pub routes: Arc<[Arc<Route>]>,
    /// Every service.
    pub services: Arc<[Arc<ServiceState>]>,
    /// Settings of the listeners, in the order in which they were bound.
    pub listeners: Arc<[Arc<ListenerSettings>]>,
    /// Limits on connections and requests of clients.
    pub limits: ListenerLimits,
    /// The same limits, as HTTP/2 connections share them.
    pub http2: Arc<podpin_h2::Config>,
    /// Times of a shutdown of the process.
    pub shutdown: Shutdown,
    /// Peers whose header fields about their clients are believed.
    pub trusted_proxies: Arc<[Cidr]>,
    /// Keys that sign and verify affinity tokens.
    pub keyring: Arc<Keyring>,
    /// The sink of access log lines; `None` if there is no log.
    pub access_log: Option<Arc<LogSink>>,
}

impl std::fmt::Debug for ConfigSnapshot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ConfigSnapshot").finish_non_exhaustive()
    }
}

impl ConfigSnapshot {
    /// Returns the service called `name`; `None` if there is none.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Arc<ServiceState>> {
        self.services.iter().find(|service| *service.name == *name)
    }

    /// Returns what `service` became in this snapshot; `None` if it is gone, even if another has its name.
    #[must_use]
    pub fn counterpart(&self, service: &ServiceState) -> Option<&Arc<ServiceState>> {
        self.service(&service.name).filter(|one| one.is_same(service))
    }

    /// Returns the same route as it is in this snapshot; `None` if it is gone.
    #[must_use]
    pub fn route(&self, route: &Route) -> Option<&Arc<Route>> {
        self.routes.iter().find(|one| one.is_same(route))
    }

    /// Returns whether `peer` is in `trustedProxies`.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|range| range.contains(peer))
    }

    /// Returns this snapshot with other keys.
    #[must_use]
    pub fn with_keyring(&self, keyring: Keyring) -> ConfigSnapshot {
        ConfigSnapshot { keyring: Arc::new(keyring), ..self.clone() }
    }

    /// Marks the routes that `next` does not have as withdrawn.
    pub fn withdraw_routes_missing_in(&self, next: &ConfigSnapshot) {
        let missing = self.routes.iter().filter(|route| next.route(route).is_none());
        missing.for_each(|route| route.withdrawn.store(true, Ordering::SeqCst));
    }

    /// Returns the services that `next` does not have.
    pub fn services_missing_in(&self, next: &ConfigSnapshot) -> impl Iterator<Item = &Arc<ServiceState>> {
        self.services.iter().filter(|service| next.counterpart(service).is_none())
    }
}
