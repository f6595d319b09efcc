//! Host and path to a route: exact host, then the longest wildcard, then none; exact path, then the longest prefix.
//!
//! The table is built whole from the configuration and swapped whole. A look-up costs a hash for each label of the
//! host and each element of the path, however many routes there are. Paths are compared as they were sent: decoding
//! is left to the pods, so that what we route on is what they see.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use podpin_config::{Host, PathMatch};

use crate::service::ServiceState;
use crate::treatment::Treatment;

/// A route with the service it leads to.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) name: Arc<str>,
    pub(crate) service: Arc<ServiceState>,
    pub(crate) treatment: Treatment,
    /// Shared with what reloads made of it, for as long as it leads to the same service.
    pub(crate) withdrawn: Arc<AtomicBool>,
}

impl Route {
    /// A reload took it away: its streams leave.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::SeqCst)
    }

    /// Whether a reload made the one of the other.
    pub(crate) fn is_same(&self, other: &Route) -> bool {
        self.name == other.name && self.service.is_same(&other.service)
    }
}

/// Every route, ready for look-up. The value is generic only so that the property test needs no services.
#[derive(Debug)]
pub(crate) struct RouteTable<R = Arc<Route>> {
    exact_hosts: HashMap<String, Paths<R>>,
    /// Keyed by the suffix with its leading dot: `*.example.com` is `.example.com`.
    wildcard_hosts: HashMap<String, Paths<R>>,
    any_host: Paths<R>,
}

#[derive(Debug)]
struct Paths<R> {
    exact: HashMap<String, R>,
    /// Without a trailing slash; the root is the empty string.
    prefixes: HashMap<String, R>,
}

impl<R> Default for Paths<R> {
    fn default() -> Self {
        Paths { exact: HashMap::new(), prefixes: HashMap::new() }
    }
}

impl<R: Clone> RouteTable<R> {
    /// A table of `(hosts, paths, route)`; no hosts means any. The first of two equal matches wins.
    pub(crate) fn new<'a>(routes: impl IntoIterator<Item = (&'a [Host], &'a [PathMatch], R)>) -> Self {
        let mut table = RouteTable {
            exact_hosts: HashMap::new(),
            wildcard_hosts: HashMap::new(),
            any_host: Paths::default(),
        };
        for (hosts, paths, route) in routes {
            if hosts.is_empty() {
                table.any_host.add(paths, &route);
            }
            for host in hosts {
                match host {
                    Host::Exact(name) => {
                        table.exact_hosts.entry(name.clone()).or_default().add(paths, &route)
                    }
                    Host::Wildcard(suffix) => {
                        table.wildcard_hosts.entry(suffix.clone()).or_default().add(paths, &route);
                    }
                }
            }
        }
        table
    }

    /// The route for an authority (host with or without port, any case) and a path without its query.
    pub(crate) fn find(&self, authority: &str, path: &str) -> Option<R> {
        if self.exact_hosts.is_empty() && self.wildcard_hosts.is_empty() {
            return self.any_host.find(path);
        }
        let host = host_of(authority);
        self.exact_hosts
            .get(host.as_str())
            .and_then(|paths| paths.find(path))
            .or_else(|| self.find_wildcard(&host, path))
            .or_else(|| self.any_host.find(path))
    }

    fn find_wildcard(&self, host: &str, path: &str) -> Option<R> {
        host.match_indices('.')
            .filter(|(at, _)| *at > 0)
            .filter_map(|(at, _)| self.wildcard_hosts.get(host.get(at..)?))
            .find_map(|paths| paths.find(path))
    }
}

impl<R: Clone> Paths<R> {
    fn add(&mut self, paths: &[PathMatch], route: &R) {
        for path in paths {
            let (map, key) = match path {
                PathMatch::Exact(value) => (&mut self.exact, value.as_str()),
                PathMatch::Prefix(value) => (&mut self.prefixes, value.trim_end_matches('/')),
            };
            map.entry(key.to_owned()).or_insert_with(|| route.clone());
        }
    }

    fn find(&self, path: &str) -> Option<R> {
        if let Some(route) = self.exact.get(path) {
            return Some(route.clone());
        }
        let mut prefix = path;
        loop {
            if let Some(route) = self.prefixes.get(prefix) {
                return Some(route.clone());
            }
            prefix = prefix.get(..prefix.rfind('/')?)?;
        }
    }
}

/// The host of an authority: without port and trailing dot, in lower case.
fn host_of(authority: &str) -> String {
    let host = match authority.rfind(':') {
        Some(colon) if !authority.ends_with(']') => authority.get(..colon).unwrap_or(authority),
        _ => authority,
    };
    host.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Spec<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);

    fn table(routes: &[Spec<'_>]) -> RouteTable<usize> {
        let parsed: Vec<(Vec<Host>, Vec<PathMatch>)> = routes
            .iter()
            .map(|(hosts, paths)| (hosts.iter().map(|h| host(h)).collect(), paths.iter().map(path).collect()))
            .collect();
        RouteTable::new(parsed.iter().enumerate().map(|(at, (h, p))| (h.as_slice(), p.as_slice(), at)))
    }

    fn host(text: &str) -> Host {
        match text.strip_prefix('*') {
            Some(suffix) => Host::Wildcard(suffix.to_owned()),
            None => Host::Exact(text.to_owned()),
        }
    }

    fn path((kind, value): &(&str, &str)) -> PathMatch {
        if *kind == "=" {
            PathMatch::Exact((*value).to_owned())
        } else {
            PathMatch::Prefix((*value).to_owned())
        }
    }

    #[test]
    fn the_most_specific_host_wins_and_falls_through_when_no_path_matches() {
        let table = table(&[
            (&[], &[("^", "/")]),
            (&["*.example.com"], &[("^", "/")]),
            (&["*.eu.example.com"], &[("^", "/")]),
            (&["app.example.com"], &[("^", "/events")]),
        ]);
        let cases = [
            ("app.example.com", "/events", 3),
            ("APP.Example.com.:8080", "/events/1", 3),
            ("app.example.com", "/other", 1),
            ("x.eu.example.com", "/", 2),
            ("a.b.example.com", "/", 1),
            ("example.com", "/", 0),
            ("", "/", 0),
            ("[::1]:8080", "/", 0),
        ];
        for (host, path, expected) in cases {
            assert_eq!(table.find(host, path), Some(expected), "{host}{path}");
        }
    }

    #[test]
    fn a_prefix_matches_by_path_element() {
        let table = table(&[
            (&[], &[("^", "/events")]),
            (&[], &[("=", "/events/now")]),
            (&[], &[("^", "/events/a/")]),
        ]);
        let cases = [
            ("/events", Some(0)),
            ("/events/", Some(0)),
            ("/events/now", Some(1)),
            ("/events/now/", Some(0)),
            ("/events/a", Some(2)),
            ("/events/ab", Some(0)),
            ("/eventsource", None),
            ("/", None),
        ];
        for (path, expected) in cases {
            assert_eq!(table.find("h", path), expected, "{path}");
        }
    }

    /// What the documentation says, one rule after the other, over a plain list.
    fn reference(routes: &[(Option<Host>, PathMatch)], host: &str, path: &str) -> Option<usize> {
        let host_rank = |pattern: &Option<Host>| match pattern {
            None => Some(0),
            Some(Host::Wildcard(suffix)) => {
                (host.len() > suffix.len() && host.ends_with(suffix.as_str())).then_some(suffix.len())
            }
            Some(Host::Exact(name)) => (name == host).then_some(usize::MAX),
        };
        let path_rank = |pattern: &PathMatch| match pattern {
            PathMatch::Exact(value) => (value == path).then_some(usize::MAX),
            PathMatch::Prefix(value) => {
                let value = value.trim_end_matches('/');
                (path == value || path.starts_with(&format!("{value}/"))).then_some(value.len())
            }
        };
        routes
            .iter()
            .enumerate()
            .filter_map(|(at, (h, p))| Some((host_rank(h)?, path_rank(p)?, std::cmp::Reverse(at))))
            .max()
            .map(|(_, _, at)| at.0)
    }

    proptest! {
        #[test]
        fn precedence_is_what_the_documentation_says(
            routes in prop::collection::vec(
                (prop::option::of(prop::sample::select(vec!["a.x", "b.a.x", "*.x", "*.a.x", "y"])),
                 prop::bool::ANY,
                 "(/[ab]{1,2}){0,3}"), 1..12),
            host in prop::sample::select(vec!["a.x", "b.a.x", "c.b.a.x", "x", "y", "z"]),
            asked in "(/[ab]{1,2}){1,4}",
        ) {
            let routes: Vec<(Option<Host>, PathMatch)> = routes
                .into_iter()
                .map(|(pattern, exact, value)| {
                    let value = if value.is_empty() { "/".to_owned() } else { value };
                    (pattern.map(super::tests::host), if exact { PathMatch::Exact(value) } else { PathMatch::Prefix(value) })
                })
                .collect();
            let parts: Vec<(Vec<Host>, Vec<PathMatch>)> =
                routes.iter().map(|(h, p)| (h.iter().cloned().collect(), vec![p.clone()])).collect();
            let table = RouteTable::new(parts.iter().enumerate().map(|(at, (h, p))| (h.as_slice(), p.as_slice(), at)));
            prop_assert_eq!(table.find(host, &asked), reference(&routes, host, &asked));
        }
    }
}
