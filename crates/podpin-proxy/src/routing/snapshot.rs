//! What a reload changes as a whole: routes, services, limits, whom to believe.
//!
//! A request loads the site once and keeps what it found there, so it never sees half of a reload. What a new site takes
//! over from the one before it - endpoints, accounts, queues - is shared by the two, see [`ServiceState::successor`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use podpin_config::{Cidr, Config, ListenerLimits, Service, Shutdown};
use tokio::sync::Notify;

use crate::balance::service::ServiceState;
use crate::control::start::StartError;
use crate::drain::desk::Desk;
use crate::http::filters::Treatment;
use crate::net::tls::PodTls;
use crate::routing::table::{Backend, Destination, Route, RouteTable};
use crate::telemetry::metrics::Metrics;

/// Names our own zone; in a Pod by the downward API or by the overlay for a zone.
const ZONE_VARIABLE: &str = "PODPIN_ZONE";

/// Everything in it is read without waiting.
pub(crate) struct Site {
    pub(crate) table: RouteTable,
    /// Each once for each of its services.
    routes: Vec<Arc<Route>>,
    pub(crate) services: Vec<Arc<ServiceState>>,
    pub(crate) limits: ListenerLimits,
    pub(crate) shutdown: Shutdown,
    pub(crate) trusted_proxies: Vec<Cidr>,
}

impl Site {
    /// What the configuration describes; services that were there `before` go on.
    ///
    /// # Errors
    /// When the TLS to the pods of a service cannot be had from its files.
    pub(crate) fn build(
        config: &Config,
        before: Option<&Site>,
        metrics: &Metrics,
        drain_wake: &Arc<Notify>,
    ) -> Result<Site, StartError> {
        let zone = std::env::var(ZONE_VARIABLE).ok().filter(|zone| !zone.is_empty());
        let zone = zone.as_deref();
        let services = config.services.iter().map(|service| {
            let known = before.and_then(|before| before.service(&service.name));
            match known {
                Some(known) => go_on(known, service, zone),
                None => begin(service, zone, (metrics, drain_wake), before.is_none()),
            }
        });
        let services = services.collect::<Result<Vec<_>, _>>()?;
        let destinations: Vec<_> = config.routes.iter().map(|route| lead(route, &services, before)).collect();
        let table = RouteTable::new(
            config
                .routes
                .iter()
                .zip(&destinations)
                .map(|(route, to)| (&*route.hosts, &*route.matches, to.clone())),
        );
        let (limits, shutdown) = (config.limits, config.shutdown.clone());
        Ok(Site {
            table,
            routes: destinations.iter().flat_map(Destination::routes).cloned().collect(),
            services,
            limits,
            shutdown,
            trusted_proxies: config.trusted_proxies.clone(),
        })
    }

    /// The service called `name`.
    pub(crate) fn service(&self, name: &str) -> Option<&Arc<ServiceState>> {
        self.services.iter().find(|service| *service.name == *name)
    }

    /// What this service is here; `None`: it is not here, at most another one of its name.
    pub(crate) fn counterpart(&self, service: &ServiceState) -> Option<&Arc<ServiceState>> {
        self.service(&service.name).filter(|one| one.is_same(service))
    }

    fn route(&self, route: &Route) -> Option<&Arc<Route>> {
        self.routes.iter().find(|one| one.is_same(route))
    }

    /// Says so to the routes that `next` does not have.
    pub(crate) fn withdraw_routes_missing_in(&self, next: &Site) {
        let missing = self.routes.iter().filter(|route| next.route(route).is_none());
        missing.for_each(|route| route.withdrawn.store(true, Ordering::SeqCst));
    }

    /// The services that `next` does not have.
    pub(crate) fn services_missing_in(&self, next: &Site) -> impl Iterator<Item = &Arc<ServiceState>> {
        self.services.iter().filter(|service| next.counterpart(service).is_none())
    }
}

/// A service that is new.
fn begin(
    service: &Service,
    zone: Option<&str>,
    (metrics, drain_wake): (&Metrics, &Arc<Notify>),
    is_awaited: bool,
) -> Result<Arc<ServiceState>, StartError> {
    let (desk, tls) = (Desk::new(Arc::clone(drain_wake)), PodTls::load(service)?);
    let metrics = metrics.service(&service.name);
    let mut state = ServiceState::new(service.clone(), metrics, zone, (desk, tls));
    state.is_awaited = is_awaited;
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
fn lead(route: &podpin_config::Route, services: &[Arc<ServiceState>], before: Option<&Site>) -> Destination {
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
    (services, before): (&[Arc<ServiceState>], Option<&Site>),
) -> Option<Arc<Route>> {
    // The configuration has no route to an unknown service: podpin-config refuses it.
    let service = services.iter().find(|known| *known.name == *service)?;
    let mut resolved = Route {
        name: route.name.as_str().into(),
        service: Arc::clone(service),
        treatment: Treatment::new(route),
        withdrawn: Arc::new(AtomicBool::new(false)),
    };
    if let Some(known) = before.and_then(|before| before.route(&resolved)) {
        resolved.withdrawn = Arc::clone(&known.withdrawn);
    }
    Some(Arc::new(resolved))
}
