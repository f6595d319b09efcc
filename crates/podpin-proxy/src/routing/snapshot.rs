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
    /// Routes by host and path, of every listener that has no table of its own.
    pub table: Arc<RouteTable>,
    /// Tables of listeners by their names, where routes are for some of them only.
    pub listener_tables: Arc<[ListenerTable]>,
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

/// The routes of one listener.
#[derive(Debug)]
pub struct ListenerTable {
    /// The name of the listener.
    pub listener: Arc<str>,
    /// Routes by host and path.
    pub table: RouteTable,
}

impl std::fmt::Debug for ConfigSnapshot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ConfigSnapshot").finish_non_exhaustive()
    }
}

impl ConfigSnapshot {
    /// Returns the routes of the listener called `name`.
    #[must_use]
    pub fn table_of(&self, name: &str) -> &RouteTable {
        let own = self.listener_tables.iter().find(|one| &*one.listener == name);
        own.map_or(&self.table, |one| &one.table)
    }

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

    /// Returns the same route as it is in this snapshot; `None` if it is not there. A route whose hosts or matches changed is
    /// known by its name, unless the one of that name is another route of the other snapshot, by its `identity`: names of routes
    /// that the configuration does not name follow from their order.
    #[must_use]
    pub fn route(&self, route: &Route, is_other: impl Fn(&str) -> bool) -> Option<&Arc<Route>> {
        let same = self.routes.iter().find(|one| one.is_same(route));
        let namesake = || self.routes.iter().find(|one| one.is_namesake(route) && !is_other(&one.identity));
        same.or_else(namesake)
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
        let is_own = |identity: &str| self.routes.iter().any(|route| *route.identity == *identity);
        let missing = self.routes.iter().filter(|route| next.route(route, is_own).is_none());
        missing.for_each(|route| route.withdrawn.store(true, Ordering::SeqCst));
    }

    /// Returns the services that `next` does not have.
    pub fn services_missing_in(&self, next: &ConfigSnapshot) -> impl Iterator<Item = &Arc<ServiceState>> {
        self.services.iter().filter(|service| next.counterpart(service).is_none())
    }
}

#[cfg(test)]
mod tests {
    use podpin_affinity::Key;

    use super::*;
    use crate::testing::Scene;

    /// A snapshot with the services and routes of these scenes.
    fn snapshot(scenes: &[&Scene]) -> ConfigSnapshot {
        let first = scenes[0].shared.snapshot();
        ConfigSnapshot {
            routes: scenes.iter().map(|scene| Arc::clone(&scene.route)).collect(),
            services: scenes.iter().map(|scene| Arc::clone(&scene.route.service)).collect(),
            ..(*first).clone()
        }
    }

    #[test]
    fn a_service_that_began_anew_under_the_same_name_is_another_one() {
        let (before, after) = (Scene::new(&[]), Scene::new(&[]));
        let (old, new) = (snapshot(&[&before]), snapshot(&[&after]));
        assert!(old.service("chat").is_some() && old.service("else").is_none());
        assert!(old.counterpart(&before.route.service).is_some());
        assert!(new.counterpart(&before.route.service).is_none());
        let none = |_: &str| false;
        assert!(old.route(&before.route, none).is_some() && new.route(&before.route, none).is_none());
        let missing: Vec<&str> = old.services_missing_in(&new).map(|service| &*service.name).collect();
        assert_eq!(missing, ["chat"]);
    }

    #[test]
    fn a_reload_withdraws_the_routes_that_it_does_not_have() {
        let (stays, goes) = (Scene::named("one", "drain: {}", &[]), Scene::named("other", "drain: {}", &[]));
        let (old, new) = (snapshot(&[&stays, &goes]), snapshot(&[&stays]));
        old.withdraw_routes_missing_in(&new);
        assert!(goes.route.is_withdrawn() && !stays.route.is_withdrawn());
        assert_eq!(old.services_missing_in(&old).count(), 0);
    }

    #[test]
    fn only_peers_in_a_trusted_range_are_believed() {
        let ranges = ["10.0.0.0/8", "2001:db8::/32"].map(|range| range.parse::<Cidr>().unwrap());
        let snapshot = ConfigSnapshot { trusted_proxies: ranges.into(), ..snapshot(&[&Scene::new(&[])]) };
        for (peer, expected) in
            [("10.1.2.3", true), ("11.0.0.1", false), ("2001:db8::1", true), ("::1", false)]
        {
            assert_eq!(snapshot.trusts(peer.parse().unwrap()), expected, "{peer}");
        }
    }

    #[test]
    fn other_keys_change_nothing_else() {
        let before = snapshot(&[&Scene::new(&[])]);
        let after = before.with_keyring(Keyring::new(vec![Key::new("k2", &[8; 32]).unwrap()]).unwrap());
        assert!(!Arc::ptr_eq(&before.keyring, &after.keyring));
        assert!(Arc::ptr_eq(&before.routes, &after.routes) && Arc::ptr_eq(&before.table, &after.table));
    }
}
