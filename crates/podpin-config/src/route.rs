//! Which service answers which host and path. How the most specific route is found is the proxy's business.
//!
//! Host names and paths follow the Gateway API: a wildcard stands for one or more labels, never for none; a path prefix
//! is compared element by element.

mod backend;
mod matches;

use std::collections::{BTreeMap, BTreeSet};

pub use self::backend::Backend;
pub use self::matches::refuse_expression;
pub use self::matches::{Expression, HeaderMatch, PathMatch, RouteMatch, ValueMatch};
use crate::{
    filters::RouteFilters,
    host::{Host, read_hosts},
    name,
    node::Node,
    section::Section,
    service::Service,
    suggest,
};

/// A route: hosts, matches and the backends that serve them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Unique; a metric label. Default: the service's name, with `-2` and so on when taken.
    pub name: String,
    /// Names of the listeners whose requests it serves. Empty: all.
    pub listeners: Vec<String>,
    /// Empty: any host.
    pub hosts: Vec<Host>,
    /// Never empty; one of them is enough. Default: every path.
    pub matches: Vec<RouteMatch>,
    /// Never empty; services are different, and at least one weight is not 0.
    pub backends: Vec<Backend>,
    /// Filters for its requests and responses.
    pub filters: RouteFilters,
}

impl Route {
    /// Returns the text by which the route is known after a reload: its name, or its hosts and matches if it has the name that an
    /// unnamed one gets, since those follow from the order of the routes.
    #[must_use]
    pub fn identity(&self) -> String {
        let service = self.backends.first().map_or("", |backend| backend.service.as_str());
        let suffix = self.name.strip_prefix(service);
        let is_numbered = |suffix: &str| {
            let number = suffix.strip_prefix('-');
            number
                .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
        };
        if !suffix.is_some_and(|suffix| suffix.is_empty() || is_numbered(suffix)) {
            return self.name.clone();
        }
        let mut hosts: Vec<String> = self.hosts.iter().map(Host::to_string).collect();
        let mut matches: Vec<String> = self.matches.iter().map(RouteMatch::to_string).collect();
        hosts.sort_unstable();
        matches.sort_unstable();
        let mut listeners = self.listeners.clone();
        listeners.sort_unstable();
        // No name has a line break.
        let listeners =
            if listeners.is_empty() { String::new() } else { format!("\n\n{}", listeners.join(" ")) };
        format!("\n{}\n{}{listeners}", hosts.join(" "), matches.join("\n"))
    }

    /// Returns whether the route serves requests of the listener called `name`.
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        self.listeners.is_empty() || self.listeners.iter().any(|listener| listener == name)
    }
}

/// Names that a route may refer to.
pub(crate) struct Known<'a> {
    /// Every name under `services`, faulty ones included.
    pub(crate) names: &'a [&'a str],
    /// Every name of a listener.
    pub(crate) listeners: &'a [&'a str],
    /// The services that could be read.
    pub(crate) services: &'a [Service],
}

/// A route before it has its final name.
struct Draft<'a> {
    name: Option<String>,
    listeners: Vec<String>,
    hosts: Vec<Host>,
    /// With the place to complain about.
    matches: Vec<(RouteMatch, Node<'a>)>,
    backends: Vec<Backend>,
    filters: RouteFilters,
    line: usize,
}

/// Reads `routes`.
pub(crate) fn read_routes(list: &Node<'_>, known: &Known<'_>) -> Vec<Route> {
    let items = list.items("a list of routes").unwrap_or_default();
    if items.is_empty() && list.is_sequence() {
        list.fail("at least one route is needed");
    }
    let mut names = name::Unique::new("route name");
    let drafts: Vec<_> = items.iter().filter_map(|item| Draft::read(item, known, &mut names)).collect();
    let routes = finish(&drafts);
    fail_ambiguous(&drafts, &routes);
    routes
}

/// Gives every route a name of its own.
fn finish(drafts: &[Draft<'_>]) -> Vec<Route> {
    let mut taken: BTreeSet<String> = drafts.iter().filter_map(|draft| draft.name.clone()).collect();
    let mut free = |service: &str| {
        let numbered = (2..).map(|number| format!("{service}-{number}"));
        let mut candidates = std::iter::once(service.to_owned()).chain(numbered);
        candidates.find(|name| taken.insert(name.clone())).unwrap_or_default()
    };
    let route = |draft: &Draft<'_>| Route {
        name: draft.name.clone().unwrap_or_else(|| free(draft.first_service())),
        listeners: draft.listeners.clone(),
        hosts: draft.hosts.clone(),
        matches: draft.matches.iter().map(|(one, _)| one.clone()).collect(),
        backends: draft.backends.clone(),
        filters: draft.filters.clone(),
    };
    drafts.iter().map(route).collect()
}

/// Two routes with one and the same host, path and headers: which one wins would be chance.
fn fail_ambiguous(drafts: &[Draft<'_>], routes: &[Route]) {
    let mut seen: BTreeMap<_, Vec<(&[HeaderMatch], usize, &Route)>> = BTreeMap::new();
    for (draft, route) in drafts.iter().zip(routes) {
        let meets = |other: &Route| {
            let is_everywhere = route.listeners.is_empty() || other.listeners.is_empty();
            is_everywhere || route.listeners.iter().any(|listener| other.is_on(listener))
        };
        let mut complained = false;
        for (one, at) in &draft.matches {
            let any_host = draft.hosts.is_empty().then_some(None);
            for host in draft.hosts.iter().map(Some).chain(any_host) {
                let there = seen.entry((host, &one.path)).or_default();
                let is_rival = |headers: &[HeaderMatch], other| headers == one.headers && meets(other);
                let rival = there.iter().find(|(headers, _, other)| is_rival(headers, other));
                let Some((_, line, Route { name, .. })) = rival else {
                    there.push((&one.headers, draft.line, route));
                    continue;
                };
                if *name == route.name || complained {
                    continue;
                }
                let host = host.map_or_else(|| "any host".to_owned(), Host::to_string);
                at.fail(format!("ambiguous: the route `{name}` on line {line} matches {host}, {one} too"));
                complained = true;
            }
        }
    }
}

/// Returns whether some host leads to both of these services.
pub(crate) fn meet_on_a_host(routes: &[Route], services: &[String; 2]) -> bool {
    let [one, other] = services;
    let of = |service: &str| {
        let service = service.to_owned();
        routes.iter().filter(move |route| route.backends.iter().any(|backend| backend.service == service))
    };
    of(one).any(|one| of(other).any(|other| share_a_host(&one.hosts, &other.hosts)))
}

/// Whether some host is in both lists, of which an empty one has all.
fn share_a_host(one: &[Host], other: &[Host]) -> bool {
    one.is_empty() || other.is_empty() || one.iter().any(|one| other.iter().any(|other| one.overlaps(other)))
}

/// Reads `listeners`: names of some that exist.
fn read_listeners(list: &Node<'_>, known: &Known<'_>) -> Vec<String> {
    let items = list.items("a list of names of listeners").unwrap_or_default();
    if items.is_empty() && list.is_sequence() {
        list.fail("at least one listener is needed");
    }
    let mut names = name::Unique::new("listener");
    let read = |item: &Node<'_>| {
        let name = item.text(name::LISTENER.what)?;
        // Without any listener the fault is in `listeners`, and has been reported there.
        if !known.listeners.contains(&name) && !known.listeners.is_empty() {
            let hint = match suggest::nearest(name, known.listeners.iter().copied()) {
                Some(meant) => format!("; did you mean `{meant}`?"),
                None => {
                    format!("; the listeners are {}", suggest::list(known.listeners.iter().copied(), "and"))
                }
            };
            item.fail(format!("unknown listener {name:?}{hint}"));
            return None;
        }
        names.insert(item, name).then(|| name.to_owned())
    };
    items.iter().filter_map(read).collect()
}

impl<'a> Draft<'a> {
    fn read(item: &Node<'a>, known: &Known<'_>, names: &mut name::Unique) -> Option<Self> {
        let section = Section::of(item)?;
        let name = section.get("name").and_then(|node| {
            let name = node.name(&name::ROUTE)?;
            names.insert(node, &name).then_some(name)
        });
        let hosts = section.get("hostnames").map(read_hosts).unwrap_or_default();
        let listeners = section.get("listeners").map(|list| read_listeners(list, known)).unwrap_or_default();
        let mut matches = section.get("matches").map(matches::read_matches).unwrap_or_default();
        if matches.is_empty() {
            matches.push((RouteMatch::anything(), item.clone()));
        }
        let one_prefix = matches!(matches.as_slice(), [(RouteMatch { path: PathMatch::Prefix(_), .. }, _)]);
        let filters = RouteFilters::read(&section, one_prefix);
        let backends = backend::read_backends(&section, known)?;
        Some(Self { name, listeners, hosts, matches, backends, filters, line: item.position().line })
    }

    fn first_service(&self) -> &str {
        self.backends.first().map_or("", |backend| &backend.service)
    }
}
