//! Builds a configuration snapshot: services that were there go on, others begin, routes lead to them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use podpin_affinity::Keyring;
use podpin_config::{Config, Service};
use podpin_proxy::balance::service::ServiceState;
use podpin_proxy::http::filters::RouteFilters;
use podpin_proxy::net::listener::ListenerSettings;
use podpin_proxy::net::tls::PodTls;
use podpin_proxy::routing::snapshot::ConfigSnapshot;
use podpin_proxy::routing::table::{Backend, Destination, Route, RouteTable};
use podpin_proxy::stream_registry::StreamRegistry;
use podpin_proxy::telemetry::access_log::LogSink;
use podpin_proxy::telemetry::metrics::Metrics;

use crate::error::StartError;

/// Names our own zone; in a Pod by the downward API or by the overlay for a zone.
const ZONE_VARIABLE: &str = "PODPIN_ZONE";

/// Parts of a snapshot that are read from files before it is built.
pub(crate) struct Files {
    pub(crate) keyring: Arc<Keyring>,
    /// In the order in which the listeners were bound.
    pub(crate) listeners: Vec<Arc<ListenerSettings>>,
    pub(crate) access_log: Option<Arc<LogSink>>,
}

/// State that new services are joined to.
pub(crate) struct Surroundings<'a> {
    /// The snapshot in force; `None` at the start.
    pub(crate) before: Option<&'a ConfigSnapshot>,
    pub(crate) metrics: &'a Metrics,
    pub(crate) streams: &'a StreamRegistry,
}

/// Builds what the configuration describes; services of the snapshot before go on.
///
/// # Errors
/// If the TLS to the pods of a service cannot be had from its files.
pub(crate) fn snapshot(
    config: &Config,
    files: Files,
    around: &Surroundings<'_>,
) -> Result<ConfigSnapshot, StartError> {
    let before = around.before;
    let zone = std::env::var(ZONE_VARIABLE).ok().filter(|zone| !zone.is_empty());
    let zone = zone.as_deref();
    let services = config.services.iter().map(|service| {
        let known = before.and_then(|before| before.service(&service.name));
        match known {
            Some(known) => go_on(known, service, zone),
            None => begin(service, zone, around),
        }
    });
    let services = services.collect::<Result<Vec<_>, _>>()?;
    let destinations: Vec<_> = config.routes.iter().map(|route| lead(route, &services, before)).collect();
    let routes = config.routes.iter().zip(&destinations);
    let table = RouteTable::new(routes.map(|(route, to)| (&*route.hosts, &*route.matches, to.clone())));
    Ok(ConfigSnapshot {
        table: Arc::new(table),
        routes: destinations.iter().flat_map(Destination::routes).cloned().collect(),
        services: services.into(),
        listeners: files.listeners.into(),
        limits: config.limits,
        shutdown: config.shutdown.clone(),
        trusted_proxies: config.trusted_proxies.clone().into(),
        keyring: files.keyring,
        access_log: files.access_log,
    })
}

/// A service that is new.
fn begin(
    service: &Service,
    zone: Option<&str>,
    around: &Surroundings<'_>,
) -> Result<Arc<ServiceState>, StartError> {
    let (drain, tls) = (around.streams.inbox(), PodTls::load(service)?);
    let metrics = around.metrics.service(&service.name);
    let mut state = ServiceState::new(service.clone(), metrics, zone, (drain, tls));
    state.is_awaited = around.before.is_none();
    Ok(Arc::new(state))
}

/// A service that was there: as it is, if nothing is asked of it that was not before.
fn go_on(
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
    // Connections that stand go on; the TLS itself is new only where its files are, so that they can be used again.
    let keeps_tls = is_current && known.configuration.tls == service.tls;
    let tls = if keeps_tls { known.tls.clone() } else { PodTls::load(service)? };
    Ok(Arc::new(known.successor(service.clone(), zone, tls)))
}

/// Where a route leads.
fn lead(
    route: &podpin_config::Route,
    services: &[Arc<ServiceState>],
    before: Option<&ConfigSnapshot>,
) -> Destination {
    let backends = route.backends.iter().filter_map(|backend| {
        let route = resolve(route, &backend.service, (services, before))?;
        Some(Backend { weight: backend.weight, route })
    });
    let backends: Arc<[Backend]> = backends.collect();
    match &*backends {
        [only] => Destination::One(Arc::clone(&only.route)),
        _ => Destination::Several(backends),
    }
}

fn resolve(
    route: &podpin_config::Route,
    service: &str,
    (services, before): (&[Arc<ServiceState>], Option<&ConfigSnapshot>),
) -> Option<Arc<Route>> {
    // The configuration has no route to an unknown service: podpin-config refuses it.
    let service = services.iter().find(|known| *known.name == *service)?;
    let mut resolved = Route {
        name: route.name.as_str().into(),
        service: Arc::clone(service),
        filters: RouteFilters::new(route),
        withdrawn: Arc::new(AtomicBool::new(false)),
    };
    if let Some(known) = before.and_then(|before| before.route(&resolved)) {
        resolved.withdrawn = Arc::clone(&known.withdrawn);
    }
    Some(Arc::new(resolved))
}
