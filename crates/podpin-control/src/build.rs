//! Builds a configuration snapshot: known services go on with their state, new ones begin, routes lead to them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use podpin_affinity::Keyring;
use podpin_config::{Config, Route as RouteConfig, Service};
use podpin_proxy::balance::service::{FirstList, ServiceParts, ServiceState};
use podpin_proxy::http::filters::RouteFilters;
use podpin_proxy::limits::http2;
use podpin_proxy::net::listener::ListenerSettings;
use podpin_proxy::net::tls::UpstreamTls;
use podpin_proxy::routing::route::{Backend, Destination, Route};
use podpin_proxy::routing::snapshot::{ConfigSnapshot, ListenerTable};
use podpin_proxy::routing::table::{RouteEntry, RouteTable};
use podpin_proxy::stream_registry::StreamRegistry;
use podpin_proxy::telemetry::access_log::LogSink;
use podpin_proxy::telemetry::metrics::Metrics;

use crate::error::StartError;

/// The variable that names the proxy's own zone; in a Pod by the downward API or by the overlay for a zone.
const ZONE_VARIABLE: &str = "PODPIN_ZONE";

/// Parts of a snapshot that are read from files before it is built.
pub(crate) struct Files {
    pub(crate) keyring: Arc<Keyring>,
    /// In the order in which the listeners were bound.
    pub(crate) listeners: Vec<Arc<ListenerSettings>>,
    pub(crate) access_log: Option<Arc<LogSink>>,
}

/// The configuration in force, with its snapshot.
#[derive(Clone, Copy)]
pub(crate) struct InForce<'a> {
    pub(crate) config: &'a Config,
    pub(crate) snapshot: &'a ConfigSnapshot,
}

/// State that new services are joined to.
pub(crate) struct Surroundings<'a> {
    /// The configuration in force; `None` at the start.
    pub(crate) in_force: Option<InForce<'a>>,
    pub(crate) metrics: &'a Metrics,
    pub(crate) streams: &'a StreamRegistry,
}

impl<'a> Surroundings<'a> {
    fn before(&self) -> Option<&'a ConfigSnapshot> {
        self.in_force.as_ref().map(|in_force| in_force.snapshot)
    }
}

/// Builds the snapshot of a configuration; services of the snapshot in force go on.
///
/// # Errors
/// If the TLS to the endpoints of a service cannot be read from its files.
pub(crate) fn snapshot(
    config: &Config,
    files: Files,
    around: &Surroundings<'_>,
) -> Result<ConfigSnapshot, StartError> {
    let zone = std::env::var(ZONE_VARIABLE).ok().filter(|zone| !zone.is_empty());
    let services = config.services.iter().map(|service| build_service(service, zone.as_deref(), around));
    let services = services.collect::<Result<Vec<_>, _>>()?;
    let identities: Vec<String> = config.routes.iter().map(RouteConfig::identity).collect();
    let resolver = RouteResolver { services: &services, before: around.before(), identities: &identities };
    let destinations: Vec<_> = config.routes.iter().map(|route| resolver.destination(route)).collect();
    let table = |is_in: &dyn Fn(&RouteConfig) -> bool| {
        let routes = config.routes.iter().zip(&destinations).filter(|(route, _)| is_in(route));
        RouteTable::new(routes.map(|(route, destination)| RouteEntry {
            hosts: &route.hosts,
            matches: &route.matches,
            route: destination.clone(),
        }))
    };
    let is_divided = config.routes.iter().any(|route| !route.listeners.is_empty());
    let divided = config.listeners.iter().filter(|_| is_divided).map(|listener| ListenerTable {
        listener: listener.name.as_str().into(),
        table: table(&|route| route.is_on(&listener.name)),
    });
    Ok(ConfigSnapshot {
        table: Arc::new(table(&|route| route.listeners.is_empty())),
        listener_tables: divided.collect(),
        routes: destinations.iter().flat_map(Destination::routes).cloned().collect(),
        services: services.into(),
        listeners: files.listeners.into(),
        limits: config.limits,
        http2: http2::config(&config.limits),
        shutdown: config.shutdown.clone(),
        trusted_proxies: config.trusted_proxies.clone().into(),
        keyring: files.keyring,
        access_log: files.access_log,
    })
}

fn build_service(
    service: &Service,
    zone: Option<&str>,
    around: &Surroundings<'_>,
) -> Result<Arc<ServiceState>, StartError> {
    match around.before().and_then(|before| before.service(&service.name)) {
        Some(known) => succeed(known, service, zone),
        None => begin(service, zone, around),
    }
}

/// Builds a service that is new.
fn begin(
    service: &Service,
    zone: Option<&str>,
    around: &Surroundings<'_>,
) -> Result<Arc<ServiceState>, StartError> {
    let awaited = match around.in_force {
        None => FirstList::Awaited,
        // A service that a reload brings does not make a replica unready that serves others.
        Some(_) => FirstList::NotAwaited,
    };
    let parts = ServiceParts {
        metrics: around.metrics.service(&service.name),
        drain: around.streams.inbox(),
        tls: UpstreamTls::load(service)?,
        first_list: awaited,
    };
    Ok(Arc::new(ServiceState::new(service.clone(), zone, parts)))
}

/// Returns a known service as it is if its configuration and files are the same, else its successor.
fn succeed(
    known: &Arc<ServiceState>,
    service: &Service,
    zone: Option<&str>,
) -> Result<Arc<ServiceState>, StartError> {
    let is_current = match (&known.tls, &service.tls) {
        (None, None) => true,
        (Some(tls), Some(files)) => tls.is_current(files),
        (None, Some(_)) | (Some(_), None) => false,
    };
    if known.configuration == *service && is_current {
        return Ok(Arc::clone(known));
    }
    // The TLS is kept where its files are the same: idle connections are pooled by it.
    let keeps_tls = is_current && known.configuration.tls == service.tls;
    let tls = if keeps_tls { known.tls.clone() } else { UpstreamTls::load(service)? };
    Ok(Arc::new(known.successor(service.clone(), zone, tls)))
}

/// Resolves the routes of a configuration to services.
struct RouteResolver<'a> {
    services: &'a [Arc<ServiceState>],
    before: Option<&'a ConfigSnapshot>,
    /// Identities of all routes of the configuration.
    identities: &'a [String],
}

impl RouteResolver<'_> {
    fn destination(&self, route: &RouteConfig) -> Destination {
        let backends = route.backends.iter().filter_map(|backend| {
            let route = self.resolve(route, &backend.service)?;
            Some(Backend { weight: backend.weight, route })
        });
        let backends: Arc<[Backend]> = backends.collect();
        match &*backends {
            [only] => Destination::One(Arc::clone(&only.route)),
            _ => Destination::Several(backends),
        }
    }

    /// Returns a route as it leads to one of its services; `None` if there is no such service, which podpin-config refuses.
    fn resolve(&self, route: &RouteConfig, service: &str) -> Option<Arc<Route>> {
        let service = self.services.iter().find(|known| *known.name == *service)?;
        let mut resolved = Route {
            name: route.name.as_str().into(),
            identity: route.identity().into(),
            service: Arc::clone(service),
            filters: RouteFilters::new(route),
            withdrawn: Arc::new(AtomicBool::new(false)),
        };
        let is_other = |identity: &str| self.identities.iter().any(|known| known == identity);
        if let Some(known) = self.before.and_then(|before| before.route(&resolved, is_other)) {
            resolved.withdrawn = Arc::clone(&known.withdrawn);
        }
        Some(Arc::new(resolved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    const ONE: &str = "{a: {discovery: {static: [{name: p, address: \"127.0.0.1:9\"}]}}}";

    /// Builds the snapshot of `next` over that of a process which runs `config`.
    fn rebuilt(config: &Config, next: &Config, before: &ConfigSnapshot) -> ConfigSnapshot {
        let (metrics, streams) = (Metrics::new("0").unwrap(), Arc::new(StreamRegistry::new()));
        let in_force = Some(InForce { config, snapshot: before });
        let files = Files {
            keyring: Arc::clone(&before.keyring),
            listeners: before.listeners.to_vec(),
            access_log: None,
        };
        snapshot(next, files, &Surroundings { in_force, metrics: &metrics, streams: &streams }).unwrap()
    }

    #[test]
    fn a_service_that_does_not_change_is_the_same_and_one_that_does_keeps_its_endpoints() {
        let config = fixture::config(ONE);
        let before = fixture::started(&config).snapshot();
        let same = rebuilt(&config, &config, &before);
        assert!(Arc::ptr_eq(&same.services[0], &before.services[0]));
        let changed = fixture::config(&ONE.replace("]}}}", "]}, limits: {streamsPerEndpoint: 7}}}"));
        let next = rebuilt(&config, &changed, &before);
        let (old, new) = (&before.services[0], &next.services[0]);
        assert!(!Arc::ptr_eq(old, new) && old.is_same(new));
        assert_eq!(new.view().snapshot.endpoints().len(), 1);
        assert!(Arc::ptr_eq(&next.routes[0].withdrawn, &before.routes[0].withdrawn));
    }

    #[test]
    fn a_service_that_comes_back_is_another_and_is_not_awaited() {
        let config = fixture::config(ONE);
        let before = fixture::started(&config).snapshot();
        let other = fixture::config("{b: {discovery: {static: []}}}");
        let without = rebuilt(&config, &other, &before);
        let again = rebuilt(&other, &config, &without);
        assert!(!again.services[0].is_same(&before.services[0]) && !again.services[0].is_awaited());
        assert!(before.services[0].is_awaited() && before.counterpart(&again.services[0]).is_none());
    }
}
