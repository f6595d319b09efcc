//! A route as it leads to one service, and the services that a route may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::balance::service::ServiceState;
use crate::http::filters::RouteFilters;

/// A route with the service that it leads to.
#[derive(Debug)]
pub struct Route {
    /// The name in the configuration.
    pub name: Arc<str>,
    /// The service.
    pub service: Arc<ServiceState>,
    /// The filters of the route.
    pub filters: RouteFilters,
    /// Whether a reload took the route away; shared by all of its versions that lead to the same service.
    pub withdrawn: Arc<AtomicBool>,
}

impl Route {
    /// Returns whether a reload took the route away: its streams leave.
    #[must_use]
    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::SeqCst)
    }

    /// Returns whether both are versions of one route to one service.
    #[must_use]
    pub fn is_same(&self, other: &Route) -> bool {
        self.name == other.name && self.service.is_same(&other.service)
    }
}

/// The services that the requests of a route go to.
#[derive(Clone, Debug)]
pub enum Destination {
    /// A single service.
    One(Arc<Route>),
    /// Several services by weight.
    Several(Arc<[Backend]>),
}

/// A service of a route with several, and the route as it leads there.
#[derive(Debug)]
pub struct Backend {
    /// The share of new clients; 0 for none at all.
    pub weight: u32,
    /// The route to the service.
    pub route: Arc<Route>,
}

impl Destination {
    /// Returns the route as it leads to each of its services.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        let (one, several) = match self {
            Destination::One(route) => (Some(route), [].as_slice()),
            Destination::Several(backends) => (None, &**backends),
        };
        one.into_iter().chain(several.iter().map(|backend| &backend.route))
    }
}
