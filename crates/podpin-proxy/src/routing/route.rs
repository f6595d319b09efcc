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
    /// The text by which it is known after a reload: its name, or its hosts and matches if it has none.
    pub identity: Arc<str>,
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
        self.identity == other.identity && self.service.is_same(&other.service)
    }

    /// Returns whether both have one name and one service: versions of a route without a name of its own, if its hosts or matches
    /// changed.
    #[must_use]
    pub fn is_namesake(&self, other: &Route) -> bool {
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

/// Returns whether clients may not write a field of this name for a route that has these services besides, because the route writes it
/// itself or reads the session from it.
#[must_use]
pub fn claims(route: &Route, backends: &[Backend], name: &[u8]) -> bool {
    let names_session = |route: &Route| {
        route.service.session_header.as_ref().is_some_and(|own| own.as_str().as_bytes() == name)
    };
    route.filters.edits_request(name)
        || names_session(route)
        || backends.iter().any(|backend| names_session(&backend.route))
}

impl Destination {
    /// Returns whether both are one route of one configuration.
    #[must_use]
    pub fn is_same(&self, other: &Destination) -> bool {
        match (self, other) {
            (Destination::One(one), Destination::One(other)) => Arc::ptr_eq(one, other),
            (Destination::Several(one), Destination::Several(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Returns the route as it leads to each of its services.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        let (one, several) = match self {
            Destination::One(route) => (Some(route), [].as_slice()),
            Destination::Several(backends) => (None, &**backends),
        };
        one.into_iter().chain(several.iter().map(|backend| &backend.route))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scene;

    #[test]
    fn a_destination_has_the_routes_to_all_of_its_services() {
        let scenes = ["one", "other"].map(|name| Scene::named(name, "drain: {}", &[]));
        let backend = |at: usize| Backend { weight: 1, route: Arc::clone(&scenes[at].route) };
        let names = |destination: &Destination| {
            destination.routes().map(|route| route.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(&Destination::One(Arc::clone(&scenes[1].route))), ["other"]);
        assert_eq!(names(&Destination::Several([backend(0), backend(1)].into())), ["one", "other"]);
        assert_eq!(names(&Destination::Several(Arc::new([]))), Vec::<String>::new());
    }

    #[test]
    fn versions_of_one_route_share_its_service_and_not_only_its_name() {
        let (one, same_name) = (Scene::new(&[]), Scene::new(&[]));
        let version = |of: &Scene, name: &str| Route {
            name: name.into(),
            identity: name.into(),
            service: Arc::clone(&of.route.service),
            filters: RouteFilters::default(),
            withdrawn: Arc::default(),
        };
        assert!(one.route.is_same(&version(&one, "chat")));
        assert!(!one.route.is_same(&version(&one, "else")));
        assert!(!one.route.is_same(&version(&same_name, "chat")), "a service that began anew");
    }
}
