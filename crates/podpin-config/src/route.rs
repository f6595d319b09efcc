//! Which service answers which host and path. How the most specific route is found is the proxy's business.
//!
//! Host names and paths follow the Gateway API: a wildcard stands for one or more labels, never for none; a path prefix
//! is compared element by element.

mod backend;
mod matches;

use std::collections::{BTreeMap, BTreeSet};

pub use self::backend::Backend;
pub use self::matches::{Expression, HeaderMatch, PathMatch, RouteMatch, ValueMatch};
use crate::{
    filters::RouteFilters,
    host::{Host, read_hosts},
    name,
    node::Node,
    section::Section,
    service::Service,
};

/// A route: hosts, matches and the backends that serve them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Unique; a metric label. Default: the service's name, with `-2` and so on when taken.
    pub name: String,
    /// Empty: any host.
    pub hosts: Vec<Host>,
    /// Never empty; one of them is enough. Default: every path.
    pub matches: Vec<RouteMatch>,
    /// Never empty; services are different, and at least one weight is not 0.
    pub backends: Vec<Backend>,
    /// Filters for its requests and responses.
    pub filters: RouteFilters,
}

/// Names that a route may refer to.
pub(crate) struct Known<'a> {
    /// Every name under `services`, faulty ones included.
    pub(crate) names: &'a [&'a str],
    /// The services that could be read.
    pub(crate) services: &'a [Service],
}

/// A route before it has its final name.
struct Draft<'a> {
    name: Option<String>,
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
        hosts: draft.hosts.clone(),
        matches: draft.matches.iter().map(|(one, _)| one.clone()).collect(),
        backends: draft.backends.clone(),
        filters: draft.filters.clone(),
    };
    drafts.iter().map(route).collect()
}

/// Two routes with one and the same host, path and headers: which one wins would be chance.
fn fail_ambiguous(drafts: &[Draft<'_>], routes: &[Route]) {
    let mut seen: BTreeMap<_, Vec<(&[HeaderMatch], usize, &str)>> = BTreeMap::new();
    for (draft, route) in drafts.iter().zip(routes) {
        let mut complained = false;
        for (one, at) in &draft.matches {
            let any_host = draft.hosts.is_empty().then_some(None);
            for host in draft.hosts.iter().map(Some).chain(any_host) {
                let there = seen.entry((host, &one.path)).or_default();
                let Some((_, line, name)) = there.iter().find(|(headers, ..)| *headers == one.headers) else {
                    there.push((&one.headers, draft.line, &route.name));
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

impl<'a> Draft<'a> {
    fn read(item: &Node<'a>, known: &Known<'_>, names: &mut name::Unique) -> Option<Self> {
        let section = Section::of(item)?;
        let name = section.get("name").and_then(|node| {
            let name = node.name(&name::ROUTE)?;
            names.insert(node, &name).then_some(name)
        });
        let hosts = section.get("hostnames").map(read_hosts).unwrap_or_default();
        let mut matches = section.get("matches").map(matches::read_matches).unwrap_or_default();
        if matches.is_empty() {
            matches.push((RouteMatch::anything(), item.clone()));
        }
        let one_prefix = matches!(matches.as_slice(), [(RouteMatch { path: PathMatch::Prefix(_), .. }, _)]);
        let filters = RouteFilters::read(&section, one_prefix);
        let backends = backend::read_backends(&section, known)?;
        Some(Self { name, hosts, matches, backends, filters, line: item.position().line })
    }

    fn first_service(&self) -> &str {
        self.backends.first().map_or("", |backend| &backend.service)
    }
}
