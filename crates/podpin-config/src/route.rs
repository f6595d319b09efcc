//! Which service answers which host and path. How the most specific route is found is the proxy's business.
//!
//! Host names and paths follow the Gateway API: a wildcard stands for one or more labels, never for none; a path prefix
//! is compared element by element.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv6Addr,
};

use crate::{name, node::Node, section::Section, suggest, treatment::Treatment};

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Unique; a metric label. Default: the service's name, with `-2` and so on when taken.
    pub name: String,
    /// Empty: any host.
    pub hosts: Vec<Host>,
    /// Never empty. Default: every path.
    pub paths: Vec<PathMatch>,
    /// The name of a service that exists.
    pub service: String,
    /// What is done with its requests and responses on their way.
    pub treatment: Treatment,
}

/// A host name that a route answers to, in lower case, without port and trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// This name only. An IPv6 address stands in brackets, in its shortest form (RFC 5952).
    Exact(String),
    /// `*.example.com`, stored as `.example.com`: one or more labels before it.
    Wildcard(String),
}

/// A path that a route answers to; compared as it stands in the request, without decoding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathMatch {
    /// This path only.
    Exact(String),
    /// The path and everything below it: `/`, or a path without a slash at its end.
    Prefix(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "Exact {path}"),
            Self::Prefix(path) => write!(f, "PathPrefix {path}"),
        }
    }
}

/// Longer values are mistakes: no request line that long comes through the header limit's default.
const PATH_BYTES_MAX: usize = 1024;

/// A route before it has its final name.
struct Draft<'a> {
    name: Option<String>,
    hosts: Vec<Host>,
    /// With the place to complain about.
    paths: Vec<(PathMatch, Node<'a>)>,
    service: String,
    treatment: Treatment,
    line: usize,
}

/// Reads `routes`; `services` are the names that a route may refer to.
pub(crate) fn read_routes(list: &Node<'_>, services: &[&str]) -> Vec<Route> {
    let items = list.items("a list of routes").unwrap_or_default();
    if items.is_empty() && list.is_sequence() {
        list.fail("at least one route is needed");
    }
    let mut names = name::Unique::new("route name");
    let drafts: Vec<_> = items.iter().filter_map(|item| Draft::read(item, services, &mut names)).collect();
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
        name: draft.name.clone().unwrap_or_else(|| free(&draft.service)),
        hosts: draft.hosts.clone(),
        paths: draft.paths.iter().map(|(path, _)| path.clone()).collect(),
        service: draft.service.clone(),
        treatment: draft.treatment.clone(),
    };
    drafts.iter().map(route).collect()
}

/// Two routes with one and the same host and path: which one wins would be chance.
fn fail_ambiguous(drafts: &[Draft<'_>], routes: &[Route]) {
    let mut seen: BTreeMap<(Option<&Host>, &PathMatch), (usize, &str)> = BTreeMap::new();
    for (draft, route) in drafts.iter().zip(routes) {
        let mut complained = false;
        for (path, at) in &draft.paths {
            let any_host = draft.hosts.is_empty().then_some(None);
            for host in draft.hosts.iter().map(Some).chain(any_host) {
                let (line, name) = *seen.entry((host, path)).or_insert((draft.line, &route.name));
                if line == draft.line && name == route.name || complained {
                    continue;
                }
                let host = host.map_or_else(|| "any host".to_owned(), Host::to_string);
                at.fail(format!("ambiguous: the route `{name}` on line {line} matches {host}, {path} too"));
                complained = true;
            }
        }
    }
}

impl<'a> Draft<'a> {
    fn read(item: &Node<'a>, services: &[&str], names: &mut name::Unique) -> Option<Self> {
        let section = Section::of(item)?;
        let name = section.get("name").and_then(|node| {
            let name = node.name(&name::ROUTE)?;
            names.insert(node, &name).then_some(name)
        });
        let hosts = section.get("hostnames").map(read_hosts).unwrap_or_default();
        let mut paths = section.get("matches").map(read_matches).unwrap_or_default();
        if paths.is_empty() {
            paths.push((PathMatch::Prefix("/".to_owned()), item.clone()));
        }
        let one_prefix = matches!(paths.as_slice(), [(PathMatch::Prefix(_), _)]);
        let treatment = Treatment::read(&section, one_prefix);
        let service = read_service(&section, services)?;
        Some(Self { name, hosts, paths, service, treatment, line: item.position().line })
    }
}

fn read_service(section: &Section<'_>, services: &[&str]) -> Option<String> {
    if section.has_refused_keys() && section.get("service").is_none() {
        return None;
    }
    let node = section.require("service", "the name of a service")?;
    let service = node.text("the name of a service")?;
    // Without any service the fault is in `services`, and has been reported there.
    if services.contains(&service) || services.is_empty() {
        return Some(service.to_owned());
    }
    let hint = match suggest::nearest(service, services.iter().copied()) {
        Some(meant) => format!("; did you mean `{meant}`?"),
        None => format!("; the services are {}", suggest::list(services.iter().copied(), "and")),
    };
    node.fail(format!("unknown service {service:?}{hint}"));
    None
}

fn read_hosts(list: &Node<'_>) -> Vec<Host> {
    let items = list.items("a list of host names").unwrap_or_default();
    let mut hosts: Vec<Host> = Vec::new();
    for item in &items {
        match item.text("a host name").map(parse_host) {
            Some(Ok(host)) if hosts.contains(&host) => item.fail(format!("duplicate hostname `{host}`")),
            Some(Ok(host)) => hosts.push(host),
            Some(Err(refusal)) => item.fail(refusal),
            None => {}
        }
    }
    hosts
}

fn parse_host(text: &str) -> Result<Host, String> {
    let lower = text.to_ascii_lowercase();
    if let Some(inside) = lower.strip_prefix('[') {
        return parse_bracketed(inside);
    }
    if lower.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("write an IPv6 address in brackets: \"[{lower}]\""));
    }
    if lower == "*" {
        return Err("leave `hostnames` out to match any host".to_owned());
    }
    if let Some((host, _)) = lower.split_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()) {
        return Err(format!("a hostname has no port; write `{host}`"));
    }
    let bare = lower.strip_suffix('.').unwrap_or(&lower);
    let (host, name) = match bare.strip_prefix("*.") {
        Some(name) => (Host::Wildcard(format!(".{name}")), name),
        None => (Host::Exact(bare.to_owned()), bare),
    };
    if name.contains('*') {
        return Err("a wildcard is the first label, such as *.example.com".to_owned());
    }
    match name::refuse_dns_name(name) {
        Some(refusal) => Err(refusal),
        None => Ok(host),
    }
}

/// What follows the opening bracket of an IPv6 address.
fn parse_bracketed(inside: &str) -> Result<Host, String> {
    let (address, after) = inside.split_once(']').unwrap_or((inside, "?"));
    match address.parse::<Ipv6Addr>() {
        Ok(address) if after.is_empty() => Ok(Host::Exact(format!("[{address}]"))),
        Ok(address) if after.starts_with(':') => {
            Err(format!("a hostname has no port; write \"[{address}]\""))
        }
        _ => Err(format!("{:?} is not an IPv6 address in brackets", format!("[{inside}"))),
    }
}

fn read_matches<'a>(list: &Node<'a>) -> Vec<(PathMatch, Node<'a>)> {
    let items = list.items("a list of matches").unwrap_or_default();
    let mut paths: Vec<(PathMatch, Node<'a>)> = Vec::new();
    for (path, at) in items.iter().filter_map(read_match) {
        if paths.iter().any(|(other, _)| *other == path) {
            at.fail(format!("duplicate match {path}"));
        } else {
            paths.push((path, at));
        }
    }
    paths
}

#[derive(Clone, Copy)]
enum PathKind {
    Exact,
    Prefix,
}

fn read_match<'a>(item: &Node<'a>) -> Option<(PathMatch, Node<'a>)> {
    let section = Section::of(item)?;
    let section = Section::of(section.require("path", "a path such as {type: PathPrefix, value: /events}")?)?;
    let kinds = [("Exact", PathKind::Exact), ("PathPrefix", PathKind::Prefix)];
    let kind = section.choice("type", &kinds, PathKind::Prefix);
    let node = section.require("value", "a path such as /events")?;
    let value = node.text("a path such as /events")?;
    if let Some(refusal) = refuse_path(value) {
        node.fail(refusal);
        return None;
    }
    let path = match kind {
        PathKind::Exact => PathMatch::Exact(value.to_owned()),
        PathKind::Prefix if value == "/" => PathMatch::Prefix(value.to_owned()),
        PathKind::Prefix => PathMatch::Prefix(value.strip_suffix('/').unwrap_or(value).to_owned()),
    };
    Some((path, node.clone()))
}

/// Why `path` could never match a request's path, if so.
pub(crate) fn refuse_path(path: &str) -> Option<String> {
    let dots =
        |element: &str| matches!(element.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    if !path.starts_with('/') {
        return Some(format!("a path begins with /; found {path:?}"));
    }
    if path.len() > PATH_BYTES_MAX {
        return Some(format!("a path has at most {PATH_BYTES_MAX} bytes"));
    }
    if let Some(c) = path.chars().find(|c| matches!(c, '?' | '#')) {
        return Some(format!("a path must not contain `{c}`; only the path is compared"));
    }
    if !path.bytes().all(|b| b.is_ascii_graphic()) {
        return Some("write spaces, control and non-ASCII characters percent-encoded".to_owned());
    }
    if path.contains("//") {
        return Some("a path must not contain //".to_owned());
    }
    path.split('/').any(dots).then(|| "a path must not contain the elements . or ..".to_owned())
}
