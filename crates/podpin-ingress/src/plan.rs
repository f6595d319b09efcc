//! Routes and services out of locations: what is the same is written once, what may not be served answers 503.
//!
//! A route that is withheld keeps its hosts and paths. If it were left out, a shorter prefix of another Ingress would answer,
//! without the protection.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::backend::{Found, find};
use crate::certificates::Certificates;
use crate::class::Class;
use crate::defaults::Defaults;
use crate::location::{Location, Member, Role, is_decided, service_name};
use crate::object::{Backend, ObjectName, Objects};
use crate::tree::{Map, Tree};
use crate::words;

/// The service without endpoints to which routes lead that may not be served.
const WITHHELD: &str = "withheld";

/// Longest beginning of a name, so that a number fits behind it.
const NAME_LENGTH_MAX: usize = 50;

/// A part of the configuration with the lines that are written above it.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) settings: Map,
    pub(crate) comments: Vec<String>,
}

/// Routes and services, in the order in which they are written.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) routes: Vec<Part>,
    pub(crate) services: Vec<Part>,
    /// Namespaces whose EndpointSlices are read.
    pub(crate) namespaces: BTreeSet<String>,
    /// Hosts and paths that answer 503, with the reason.
    pub(crate) withheld: Vec<String>,
    /// Hosts and paths that are served.
    pub(crate) served: BTreeSet<(String, String)>,
}

/// What a plan is made from.
pub(crate) struct Ground<'a> {
    pub(crate) objects: &'a Objects,
    pub(crate) defaults: &'a Defaults,
    pub(crate) certificates: &'a Certificates,
    /// Reasons why no path of a member may be served, by its number.
    pub(crate) blocked: &'a [Vec<String>],
    /// Reasons why no path of a host may be served, whichever Ingress has it.
    pub(crate) blocked_hosts: &'a HashMap<Option<String>, Vec<String>>,
}

/// A route for one host, before routes that differ in hosts and paths only are joined.
struct Draft {
    hosts: Vec<Option<String>>,
    matches: Vec<Map>,
    /// Everything but hosts and matches.
    rest: Map,
    member: usize,
    comment: String,
}

struct Planner<'a, 'b> {
    ground: &'a Ground<'a>,
    members: &'a mut [Member<'b>],
    plan: Plan,
    /// Services by everything that they are made of.
    by_settings: HashMap<String, usize>,
    names: Names,
    /// Namespaces of services by their names here.
    homes: HashMap<String, String>,
    drafts: Vec<Draft>,
    /// Drafts of one host by everything but the matches.
    by_rest: HashMap<(usize, Option<String>, String), usize>,
}

/// Names that are taken.
#[derive(Default)]
struct Names {
    taken: HashSet<String>,
    next: HashMap<String, usize>,
}

impl Names {
    /// Returns a free name that begins with `wanted`.
    fn free(&mut self, wanted: &str) -> String {
        let base = words::label(wanted, NAME_LENGTH_MAX).unwrap_or_else(|| "unnamed".to_owned());
        if self.taken.insert(base.clone()) {
            return base;
        }
        let next = self.next.entry(base.clone()).or_insert(2);
        loop {
            let name = format!("{base}-{next}");
            *next += 1;
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }
}

/// Makes the plan of all locations; notes what is found on the way at the members.
pub(crate) fn plan(locations: &[Location], members: &mut [Member<'_>], ground: &Ground<'_>) -> Plan {
    let mut names = Names::default();
    names.taken.insert(WITHHELD.to_owned());
    let mut planner = Planner {
        ground,
        members,
        plan: Plan::default(),
        by_settings: HashMap::new(),
        names,
        homes: HashMap::new(),
        drafts: Vec::new(),
        by_rest: HashMap::new(),
    };
    let protected = planner.withhold_stand_ins(locations);
    for location in locations.iter().filter(|location| !location.stands_in) {
        let within = protected.get(&location.host);
        // The stand-in itself is written already.
        if !location.path.is_exact && within.is_some_and(|paths| paths.contains(&location.path.value)) {
            continue;
        }
        let mut within = within.into_iter().flatten().filter(|path| is_below(&location.path.value, path));
        match within.next() {
            Some(path) => {
                planner.withhold(location, &format!("a protected expression may match below {path}"))
            }
            None => planner.add(location),
        }
    }
    planner.finish()
}

impl Planner<'_, '_> {
    /// Withholds the paths that contain what a protected expression would match; returns them by host.
    fn withhold_stand_ins(&mut self, locations: &[Location]) -> HashMap<Option<String>, BTreeSet<String>> {
        let mut seen: HashMap<Option<String>, BTreeSet<String>> = HashMap::new();
        for location in locations.iter().filter(|location| location.stands_in) {
            let reasons = self.reasons(location);
            let paths = seen.entry(location.host.clone()).or_default();
            if !reasons.is_empty() && paths.insert(location.path.value.clone()) {
                self.withhold(location, &reasons.join(", "));
            }
        }
        seen
    }

    fn reasons(&self, location: &Location) -> Vec<String> {
        let of = |member: usize| self.ground.blocked.get(member).cloned().unwrap_or_default();
        let mut reasons = of(location.member);
        let of_host = self.ground.blocked_hosts.get(&location.host).into_iter().flatten();
        reasons.extend(of_host.filter(|reason| !reasons.contains(reason)).cloned().collect::<Vec<_>>());
        let Some(own) = self.members.get(location.member) else { return reasons };
        for rival in &location.rivals {
            let other = self.members.get(*rival);
            if other.is_some_and(|other| !is_decided(own.ingress, other.ingress)) {
                reasons.extend(of(*rival));
            }
        }
        reasons
    }

    fn add(&mut self, location: &Location) {
        let reasons = self.reasons(location);
        if !reasons.is_empty() {
            self.withhold(location, &reasons.join(", "));
            return;
        }
        match self.backend(location) {
            Ok(backends) => self.serve(location, backends),
            Err(reason) => {
                if let Some(member) = self.members.get_mut(location.member) {
                    member.settings.note("backend", &place(location), Class::NotSupported, &reason);
                }
                self.withhold(location, &reason);
            }
        }
    }

    fn withhold(&mut self, location: &Location, reason: &str) {
        self.plan.withheld.push(format!("{}: {reason}", place(location)));
        let mut rest = Map::default();
        rest.set(&["service"], Tree::text(WITHHELD));
        let comment = format!("withheld: {reason}");
        self.draft(location, rest, matched(location, None), &comment);
    }

    /// Returns the services of a location: that of the main Ingress, and of the canary.
    fn backend(&mut self, location: &Location) -> Result<[Option<String>; 2], String> {
        let main = self.service(location.member, location.member, &location.backend)?;
        let Some((number, backend)) = &location.canary else { return Ok([Some(main), None]) };
        match self.service(*number, location.member, backend) {
            Ok(canary) if canary != main => Ok([Some(main), Some(canary)]),
            Ok(_) => Ok([Some(main), None]),
            Err(reason) => {
                if let Some(member) = self.members.get_mut(*number) {
                    member.settings.note("backend", &place(location), Class::NotSupported, &reason);
                }
                Ok([Some(main), None])
            }
        }
    }

    /// Returns the name of the service for a backend of `owner`, with the settings of `settings_of`.
    fn service(&mut self, owner: usize, settings_of: usize, backend: &Backend) -> Result<String, String> {
        let member = self.members.get_mut(owner).ok_or("no Ingress")?;
        let (name, port) = match backend {
            Backend::Service { port, .. } => match service_name(backend, &member.ingress.name.namespace) {
                Some(name) => (name, port),
                None => return Err("no Service".to_owned()),
            },
            Backend::Resource(kind) => return Err(format!("the backend is {kind}, not a Service")),
            Backend::Missing => return Err("no backend that can be read".to_owned()),
        };
        let Found { discovery, namespace, title, notes } = find(self.ground.objects, &name, port)?;
        for (class, note) in notes {
            member.settings.note("backend", &name.to_string(), class, &note);
        }
        let mut settings = Map::of([("discovery", Tree::Map(discovery))]);
        let settings_of = self.members.get(settings_of).ok_or("no Ingress")?;
        if let Role::Main(translation) = &settings_of.role {
            settings.merge(&translation.service);
        }
        let comment = format!("{title}; settings of Ingress {}", settings_of.ingress.name);
        self.plan.namespaces.extend(namespace);
        Ok(self.put_service(&name, settings, comment))
    }

    fn put_service(&mut self, name: &ObjectName, settings: Map, comment: String) -> String {
        let key = settings.flow();
        if let Some(part) = self.by_settings.get(&key).and_then(|at| self.plan.services.get_mut(*at)) {
            if part.comments.len() < 8 && !part.comments.contains(&comment) {
                part.comments.push(comment);
            }
            return part.name.clone();
        }
        let home = words::label(&name.name, NAME_LENGTH_MAX).and_then(|name| self.homes.get(&name));
        let is_elsewhere = home.is_some_and(|namespace| *namespace != name.namespace);
        let wanted =
            if is_elsewhere { format!("{}-{}", name.name, name.namespace) } else { name.name.clone() };
        let free = self.names.free(&wanted);
        self.homes.entry(free.clone()).or_insert_with(|| name.namespace.clone());
        self.by_settings.insert(key, self.plan.services.len());
        self.plan.services.push(Part { name: free.clone(), settings, comments: vec![comment] });
        free
    }

    fn serve(&mut self, location: &Location, [main, canary]: [Option<String>; 2]) {
        let Some(main) = main else { return };
        let filters = self.filters(location);
        let host = location.host.clone().unwrap_or_else(|| "*".to_owned());
        self.plan.served.insert((host, location.path.value.clone()));
        let title = |service: &str| format!("{} -> {service}", place(location));
        let to = |service: &str| Map::of([("service", Tree::text(service))]);
        let rules = location.canary.as_ref().and_then(|(number, _)| match &self.members.get(*number)?.role {
            Role::Canary(rules) => Some((rules.matches.clone(), rules.weights)),
            Role::Main(_) => None,
        });
        let (Some(canary), Some((matches, [weight, rest]))) = (canary, rules) else {
            self.draft(location, with(to(&main), &filters), matched(location, None), &title(&main));
            return;
        };
        for (header, is_canary) in matches {
            let service = if is_canary { &canary } else { &main };
            let route = with(to(service), &filters);
            self.draft(
                location,
                route,
                matched(location, Some(header)),
                &format!("canary: {}", title(service)),
            );
        }
        let route = if weight == 0 {
            to(&main)
        } else {
            let backend = |service: &str, weight: u64| {
                Tree::Map(Map::of([("service", Tree::text(service)), ("weight", Tree::word(weight))]))
            };
            Map::of([("backends", Tree::List(vec![backend(&main, rest), backend(&canary, weight)]))])
        };
        self.draft(location, with(route, &filters), matched(location, None), &title(&main));
    }

    /// Returns what the route of a location changes.
    fn filters(&self, location: &Location) -> Map {
        let defaults = self.ground.defaults;
        let mut map = Map::default();
        let is_covered = self.ground.certificates.cover(location.host.as_deref());
        let Some(Role::Main(translation)) = self.members.get(location.member).map(|member| &member.role)
        else {
            return map;
        };
        let is_forced = translation.is_redirect_forced || defaults.is_redirect_forced;
        if is_forced || (is_covered && translation.ssl_redirect.unwrap_or(defaults.ssl_redirect)) {
            map.set(&["redirect", "scheme"], Tree::text("https"));
            map.set(&["redirect", "statusCode"], Tree::word(defaults.redirect_code));
        }
        if translation.needs_client_certificates {
            map.set(&["listeners"], Tree::texts(["https"]));
        }
        if let Some(value) = defaults.hsts.as_ref().filter(|_| is_covered) {
            let path = ["headers", "response", "set", "Strict-Transport-Security"];
            map.set_from(&path, Tree::text(value.clone()), "hsts of the controller");
        }
        map.merge(&defaults.route);
        map.merge(&translation.route);
        if let Some(prefix) = &location.rewrite {
            map.set_from(&["rewrite", "pathPrefix"], Tree::text(prefix.clone()), "rewrite-target");
        }
        map
    }

    /// Adds a match to the draft of the same host and settings, or a new draft.
    fn draft(&mut self, location: &Location, rest: Map, one: Map, comment: &str) {
        // A prefix can be replaced only where a route has one match.
        let is_alone = rest.get(&["rewrite", "pathPrefix"]).is_some();
        let alone = if is_alone { one.flow() } else { String::new() };
        let key = (location.member, location.host.clone(), format!("{}{alone}", rest.flow()));
        if let Some(draft) = self.by_rest.get(&key).and_then(|at| self.drafts.get_mut(*at)) {
            if !draft.matches.contains(&one) {
                draft.matches.push(one);
            }
            return;
        }
        self.by_rest.insert(key, self.drafts.len());
        self.drafts.push(Draft {
            hosts: vec![location.host.clone()],
            matches: vec![one],
            rest,
            member: location.member,
            comment: comment.to_owned(),
        });
    }

    /// Joins drafts that differ in hosts only, and names the routes.
    fn finish(mut self) -> Plan {
        let mut joined: Vec<Draft> = Vec::new();
        let mut by_matches: HashMap<(usize, bool, String), usize> = HashMap::new();
        for draft in self.drafts {
            let any_host = draft.hosts.contains(&None);
            let matches = Tree::List(draft.matches.iter().cloned().map(Tree::Map).collect());
            let key = (draft.member, any_host, format!("{}{}", draft.rest.flow(), matches.flow()));
            match by_matches.get(&key).and_then(|at| joined.get_mut(*at)) {
                Some(there) => there.hosts.extend(draft.hosts),
                None => {
                    by_matches.insert(key, joined.len());
                    joined.push(draft);
                }
            }
        }
        let mut names = Names::default();
        let mut withheld = false;
        for draft in joined {
            let Some(member) = self.members.get(draft.member) else { continue };
            let name = names.free(&member.ingress.name.name);
            withheld |= draft.rest.get(&["service"]) == Some(&Tree::text(WITHHELD));
            let mut settings = Map::of([("name", Tree::text(name.clone()))]);
            let hosts: Vec<&str> = draft.hosts.iter().flatten().map(String::as_str).collect();
            if !hosts.is_empty() {
                settings.set(&["hostnames"], Tree::texts(hosts));
            }
            let matches = draft.matches.into_iter().map(Tree::Map).collect();
            settings.set(&["matches"], Tree::List(matches));
            settings.merge(&draft.rest);
            let comments = vec![format!("Ingress {}: {}", member.ingress.name, draft.comment)];
            self.plan.routes.push(Part { name, settings, comments });
        }
        if withheld {
            self.plan.services.push(withheld_service());
        }
        self.plan
    }
}

fn withheld_service() -> Part {
    let mut settings = Map::default();
    settings.set(&["discovery", "static"], Tree::List(Vec::new()));
    settings.set(&["affinity", "cookie"], Tree::word("off"));
    settings.set(&["sse", "unavailable"], Tree::text("status"));
    let comments = vec!["No endpoints: every request gets 503, until REPORT.md is settled.".to_owned()];
    Part { name: WITHHELD.to_owned(), settings, comments }
}

fn with(mut route: Map, filters: &Map) -> Map {
    route.merge(filters);
    route
}

fn place(location: &Location) -> String {
    format!("{}{}", location.host.as_deref().unwrap_or("any host"), location.path.value)
}

fn matched(location: &Location, header: Option<Map>) -> Map {
    let kind = if location.path.is_exact { "Exact" } else { "PathPrefix" };
    let path = Map::of([("type", Tree::text(kind)), ("value", Tree::text(location.path.value.clone()))]);
    let mut map = Map::of([("path", Tree::Map(path))]);
    if let Some(header) = header {
        map.set(&["headers"], Tree::List(vec![Tree::Map(header)]));
    }
    map
}

/// Whether `path` is `prefix` or below it.
fn is_below(path: &str, prefix: &str) -> bool {
    prefix == "/" || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
