//! Host, path and headers to a route: exact host, then the longest wildcard, then none; exact path, then the longest
//! prefix; then the match with the most headers, then the order of the file, as the Shared API has it.
//!
//! The table is built whole from the configuration and swapped whole. A look-up hashes each label of the host and each
//! element of the path once, however many routes there are, and none beyond the longest that is configured; headers are
//! looked at only if a match of the path has some. Paths are compared as they were sent: decoding is left to the endpoints,
//! so that they see the path that was routed on.

use std::collections::HashMap;

use http::header::HeaderName;
use podpin_config::{Host, PathMatch, RouteMatch, ValueMatch};
use podpin_wire::fields::Fields;
use podpin_wire::http1::request_head;

use crate::routing::route::Destination;

/// A route with the hosts and matches that lead to it.
#[derive(Clone, Copy, Debug)]
pub struct RouteEntry<'a, R> {
    /// The hosts; empty if any host will do.
    pub hosts: &'a [Host],
    /// The matches, of which one is enough.
    pub matches: &'a [RouteMatch],
    /// The route.
    pub route: R,
}

/// Every route, ready for look-up. The value is generic so that the property test needs no services.
#[derive(Debug)]
pub struct RouteTable<R = Destination> {
    exact_hosts: HashMap<String, Paths<R>>,
    /// By the labels of the suffix from the last on: `*.example.com` is `com`, `example`.
    wildcard_hosts: Tree<Paths<R>>,
    any_host: Paths<R>,
}

#[derive(Debug)]
struct Paths<R> {
    exact: HashMap<String, Vec<Rule<R>>>,
    /// By the elements of the path; the root has none.
    prefixes: Tree<Vec<Rule<R>>>,
}

/// Values by sequences of segments. A look-up hashes each segment of a name once, and none beyond the longest sequence.
#[derive(Debug)]
struct Tree<T> {
    value: Option<T>,
    children: HashMap<String, Tree<T>>,
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Tree { value: None, children: HashMap::new() }
    }
}

impl<T: Default> Tree<T> {
    fn is_empty(&self) -> bool {
        self.value.is_none() && self.children.is_empty()
    }

    /// Returns the value of a sequence, which is new if there was none.
    fn entry<'s>(&mut self, segments: impl Iterator<Item = &'s str>) -> &mut T {
        let mut tree = self;
        for segment in segments {
            tree = tree.children.entry(segment.to_owned()).or_default();
        }
        tree.value.get_or_insert_default()
    }

    /// Returns what `accept` makes of the value of the longest sequence that `segments` begin with and that it accepts.
    ///
    /// The recursion is as deep as the configuration, whatever the request.
    fn longest<'s, O>(
        &self,
        mut segments: impl Iterator<Item = &'s str>,
        accept: &impl Fn(&T) -> Option<O>,
    ) -> Option<O> {
        let next = if self.children.is_empty() { None } else { segments.next() };
        let child = next.and_then(|segment| probe(&self.children, segment));
        let longer = child.and_then(|child| child.longest(segments, accept));
        longer.or_else(|| self.value.as_ref().and_then(accept))
    }
}

/// Looks a key up. Every byte of a request that a look-up hashes passes here, where tests count.
fn probe<'m, V>(map: &'m HashMap<String, V>, key: &str) -> Option<&'m V> {
    #[cfg(test)]
    tests::HASHED_BYTES.set(tests::HASHED_BYTES.get() + key.len());
    map.get(key)
}

/// The header matches of a route whose host and path match. Rules with the most headers come first.
#[derive(Debug)]
struct Rule<R> {
    headers: Vec<(HeaderName, ValueMatch)>,
    route: R,
}

impl<R> Default for Paths<R> {
    fn default() -> Self {
        Paths { exact: HashMap::new(), prefixes: Tree::default() }
    }
}

impl<R: Clone> RouteTable<R> {
    /// Builds a table; the first of two equal matches wins.
    pub fn new<'a>(routes: impl IntoIterator<Item = RouteEntry<'a, R>>) -> Self
    where
        R: 'a,
    {
        let mut table = RouteTable {
            exact_hosts: HashMap::new(),
            wildcard_hosts: Tree::default(),
            any_host: Paths::default(),
        };
        for RouteEntry { hosts, matches, route } in routes {
            if hosts.is_empty() {
                table.any_host.add(matches, &route);
            }
            for host in hosts {
                match host {
                    Host::Exact(name) => {
                        table.exact_hosts.entry(name.clone()).or_default().add(matches, &route)
                    }
                    Host::Wildcard(suffix) => {
                        let labels = suffix.strip_prefix('.').unwrap_or(suffix).rsplit('.');
                        table.wildcard_hosts.entry(labels).add(matches, &route);
                    }
                }
            }
        }
        table
    }

    /// Returns the route for an authority (host with or without port, any case), a path without its query, and header fields;
    /// `None` if no route matches.
    pub fn find(&self, authority: &str, path: &str, fields: &Fields) -> Option<R> {
        if self.exact_hosts.is_empty() && self.wildcard_hosts.is_empty() {
            return self.any_host.find(path, fields);
        }
        let host = host_of(authority);
        probe(&self.exact_hosts, &host)
            .and_then(|paths| paths.find(path, fields))
            .or_else(|| self.find_wildcard(&host, path, fields))
            .or_else(|| self.any_host.find(path, fields))
    }

    fn find_wildcard(&self, host: &str, path: &str, fields: &Fields) -> Option<R> {
        // A wildcard stands for at least a byte before its dot.
        let dot = host.match_indices('.').map(|(at, _)| at).find(|at| *at > 0)?;
        let suffix = host.get(dot + 1..)?;
        self.wildcard_hosts.longest(suffix.rsplit('.'), &|paths: &Paths<R>| paths.find(path, fields))
    }
}

impl<R: Clone> Paths<R> {
    fn add(&mut self, matches: &[RouteMatch], route: &R) {
        for RouteMatch { path, headers } in matches {
            // podpin-config refuses names that are no field names.
            let header = |one: &podpin_config::HeaderMatch| Some((one.name.parse().ok()?, one.value.clone()));
            let rule = Rule { headers: headers.iter().filter_map(header).collect(), route: route.clone() };
            let rules = match path {
                PathMatch::Exact(value) => self.exact.entry(value.clone()).or_default(),
                PathMatch::Prefix(value) => self.prefixes.entry(elements(value.trim_end_matches('/'))),
            };
            let at = rules.partition_point(|other| other.headers.len() >= rule.headers.len());
            rules.insert(at, rule);
        }
    }

    fn find(&self, path: &str, fields: &Fields) -> Option<R> {
        let exact = if self.exact.is_empty() { None } else { probe(&self.exact, path) };
        exact.and_then(|rules| first(rules, fields)).or_else(|| {
            // `*` has no elements and no prefix.
            path.starts_with('/').then_some(())?;
            self.prefixes.longest(elements(path), &|rules: &Vec<Rule<R>>| first(rules, fields))
        })
    }
}

/// The elements of a path: what follows each slash.
fn elements(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').skip(1)
}

/// Returns the route of the first rule whose headers all match.
fn first<R: Clone>(rules: &[Rule<R>], fields: &Fields) -> Option<R> {
    let has = |(name, wanted): &(HeaderName, ValueMatch)| {
        fields.joined(name).is_some_and(|value| wanted.matches(&value))
    };
    rules.iter().find(|rule| rule.headers.iter().all(has)).map(|rule| rule.route.clone())
}

/// Returns the host of an authority: without port and trailing dot, in lower case.
fn host_of(authority: &str) -> String {
    request_head::without_port(authority).trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use podpin_config::HeaderMatch;
    use proptest::prelude::*;

    use super::*;

    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<usize>);
    type Spec<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);

    fn table(routes: &[Spec<'_>]) -> RouteTable<usize> {
        let parsed = routes.iter().map(|(hosts, paths)| {
            let matches = paths.iter().map(|one| RouteMatch { path: path(one), headers: Vec::new() });
            (hosts.iter().map(|h| host(h)).collect(), matches.collect())
        });
        table_of(&parsed.collect::<Vec<_>>())
    }

    fn table_of(routes: &[(Vec<Host>, Vec<RouteMatch>)]) -> RouteTable<usize> {
        let entries = routes.iter().enumerate();
        RouteTable::new(entries.map(|(route, (hosts, matches))| RouteEntry { hosts, matches, route }))
    }

    fn headers(pairs: &[(String, String)]) -> Vec<HeaderMatch> {
        let exact = |(name, value): &(String, String)| HeaderMatch {
            name: name.clone(),
            value: ValueMatch::Exact(value.clone()),
        };
        pairs.iter().map(exact).collect()
    }

    fn lines(pairs: &[(String, String)]) -> Fields {
        let mut lines = http::HeaderMap::new();
        for (name, value) in pairs {
            lines.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        Fields::from(&lines)
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
            assert_eq!(table.find(host, path, &Fields::default()), Some(expected), "{host}{path}");
        }
    }

    thread_local! {
        /// Bytes of requests that look-ups of this thread have hashed.
        pub(super) static HASHED_BYTES: Cell<usize> = const { Cell::new(0) };
    }

    fn hashed_bytes(table: &RouteTable<usize>, host: &str, path: &str) -> usize {
        HASHED_BYTES.set(0);
        table.find(host, path, &Fields::default());
        HASHED_BYTES.get()
    }

    #[test]
    fn a_look_up_hashes_no_byte_of_a_path_more_than_twice_for_each_host_that_matches() {
        let deep = "/".repeat(40) + "a";
        let table = table(&[
            (&[], &[("^", "/a/b"), ("^", "/x/"), ("^", &deep), ("=", "/x"), ("^", &"/a".repeat(300))]),
            (&["app.example.com", "*.example.com", "*.com"], &[("^", "/a/b"), ("=", "/y")]),
        ]);
        for bytes in [64, 1024, 32 * 1024] {
            for unit in ["/", "a", "/a", "/a/b", "//a/", "x/", "/x"] {
                let path = format!("/{}", unit.repeat(bytes / unit.len()));
                for host in ["none", "app.example.com", "b.app.example.com"] {
                    let hashed = hashed_bytes(&table, host, &path);
                    let hosts = 4;
                    assert!(
                        hashed <= 2 * (hosts * path.len() + host.len()),
                        "{hashed} for {bytes} of {unit}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_look_up_hashes_no_byte_of_a_host_more_than_twice() {
        let table = table(&[(&["*.a.a", "*.a.b", "a.a.a", "*.example.com"], &[("^", "/")])]);
        for host in [".".repeat(255), "a.".repeat(127) + "a", ".a".repeat(127), "a".repeat(255)] {
            let hashed = hashed_bytes(&table, &host, "/");
            assert!(hashed <= 2 * host.len() + 2, "{hashed} for {host}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_at_least_a_byte_before_its_dot() {
        let table = table(&[(&["*.example.com"], &[("^", "/")])]);
        let cases = [("a.example.com", true), (".example.com", false), ("..example.com", true)];
        let more = [("example.com", false), ("a..example.com", true), ("aexample.com", false), ("", false)];
        for (host, expected) in cases.into_iter().chain(more) {
            assert_eq!(table.find(host, "/", &Fields::default()).is_some(), expected, "{host}");
        }
        assert_eq!(table.find("a.example.com", "*", &Fields::default()), None, "OPTIONS *");
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
            assert_eq!(table.find("h", path, &Fields::default()), expected, "{path}");
        }
    }

    #[test]
    fn the_most_headers_win_on_one_path_and_none_of_them_makes_up_for_a_shorter_one() {
        let one = |path: (&str, &str), pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            (vec![], vec![RouteMatch { path: self::path(&path), headers: headers(&pairs) }])
        };
        let table = table_of(&[
            one(("^", "/"), &[("x-a", "1"), ("x-b", "1"), ("x-c", "1")]),
            one(("^", "/a"), &[]),
            one(("^", "/a"), &[("x-a", "1")]),
            one(("^", "/a"), &[("x-b", "1")]),
            one(("^", "/a"), &[("x-a", "1"), ("x-b", "1")]),
            one(("=", "/a/b"), &[("x-c", "1")]),
        ]);
        let cases: [Case<'_>; 9] = [
            ("/a", &[], Some(1)),
            ("/a", &[("x-a", "1")], Some(2)),
            ("/a", &[("x-a", "2")], Some(1)),
            ("/a", &[("x-a", "1"), ("x-a", "1")], Some(1)),
            ("/a", &[("x-a", "1"), ("x-b", "1"), ("x-c", "1")], Some(4)),
            ("/a/b", &[("x-c", "1")], Some(5)),
            ("/a/b", &[("x-b", "1")], Some(3)),
            ("/", &[("x-a", "1"), ("x-b", "1")], None),
            ("/z", &[("x-a", "1"), ("x-b", "1"), ("x-c", "1")], Some(0)),
        ];
        for (path, pairs, expected) in cases {
            let owned: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            assert_eq!(table.find("h", path, &lines(&owned)), expected, "{path} {pairs:?}");
        }
    }

    /// The rules of the documentation, one after the other, over a plain list.
    fn reference(
        routes: &[(Option<Host>, RouteMatch)],
        (host, path): (&str, &str),
        asked: &[(String, String)],
    ) -> Option<usize> {
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
        let asked = headers(asked);
        let header_rank =
            |wanted: &Vec<HeaderMatch>| wanted.iter().all(|one| asked.contains(one)).then_some(wanted.len());
        routes
            .iter()
            .enumerate()
            .filter_map(|(at, (h, RouteMatch { path, headers }))| {
                Some((host_rank(h)?, path_rank(path)?, header_rank(headers)?, std::cmp::Reverse(at)))
            })
            .max()
            .map(|(.., at)| at.0)
    }

    /// Header fields, each name at most once.
    fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
        let fields = prop::collection::btree_map("x-[abc]", "[12]", 0..3);
        fields.prop_map(|fields| fields.into_iter().collect())
    }

    proptest! {
        #[test]
        fn precedence_is_what_the_documentation_says(
            routes in prop::collection::vec(
                (prop::option::of(prop::sample::select(vec!["a.x", "b.a.x", "*.x", "*.a.x", "y"])),
                 prop::bool::ANY,
                 "(/[ab]{1,2}){0,3}",
                 fields()), 1..12),
            host in prop::sample::select(vec!["a.x", "b.a.x", "c.b.a.x", "x", "y", "z"]),
            asked in "(/[ab]{1,2}){1,4}",
            shown in fields(),
        ) {
            let routes: Vec<(Option<Host>, RouteMatch)> = routes
                .into_iter()
                .map(|(pattern, exact, value, fields)| {
                    let value = if value.is_empty() { "/".to_owned() } else { value };
                    let path = if exact { PathMatch::Exact(value) } else { PathMatch::Prefix(value) };
                    (pattern.map(super::tests::host), RouteMatch { path, headers: headers(&fields) })
                })
                .collect();
            let parts: Vec<(Vec<Host>, Vec<RouteMatch>)> =
                routes.iter().map(|(h, m)| (h.iter().cloned().collect(), vec![m.clone()])).collect();
            let found = table_of(&parts).find(host, &asked, &lines(&shown));
            prop_assert_eq!(found, reference(&routes, (host, &asked), &shown));
        }
    }
}
