//! Hosts and paths of all Ingresses, as nginx merges them: the oldest Ingress has a path, canaries join it.

use std::collections::{BTreeSet, HashMap};

use crate::class::Class;
use crate::object::{Backend, Ingress, ObjectName, Path, PathKind, Rule};
use crate::options::Options;
use crate::path::{MatchedPath, Reading, Unmatched, map};
use crate::settings::Settings;
use crate::translate::{Canary, Translation};

/// An Ingress that is imported.
pub(crate) struct Member<'a> {
    pub(crate) ingress: &'a Ingress,
    pub(crate) settings: Settings<'a>,
    pub(crate) role: Role,
}

/// Whether an Ingress has paths of its own.
pub(crate) enum Role {
    Main(Translation),
    Canary(Canary),
}

/// A host and a path with the Service behind it.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    /// `None` if every host.
    pub(crate) host: Option<String>,
    pub(crate) path: MatchedPath,
    pub(crate) rewrite: Option<String>,
    /// The member that has it.
    pub(crate) member: usize,
    pub(crate) backend: Backend,
    /// A member whose canary joins it, with the Service.
    pub(crate) canary: Option<(usize, Backend)>,
    /// Members that have the same path, where nobody knows which of them is the oldest.
    pub(crate) rivals: Vec<usize>,
    /// The path stands for more than the Ingress has, and serves to withhold it.
    pub(crate) stands_in: bool,
}

/// All locations, and by host and path which.
#[derive(Default)]
pub(crate) struct Locations {
    pub(crate) all: Vec<Location>,
    index: HashMap<(Option<String>, MatchedPath), usize>,
    /// By host, path and its type as they are written, for canaries.
    written: HashMap<(Option<String>, String, PathKind), Vec<usize>>,
}

/// Returns the hosts on which nginx reads paths as expressions.
pub(crate) fn hosts_of_expressions(members: &[Member<'_>]) -> BTreeSet<Option<String>> {
    let mut hosts = BTreeSet::new();
    for member in members {
        let Role::Main(translation) = &member.role else { continue };
        let rewrites =
            |path: &Path| translation.rewrite_target.as_ref().is_some_and(|target| *target != path.path);
        for rule in &member.ingress.rules {
            if translation.is_regex || rule.paths.iter().any(rewrites) {
                hosts.extend(hosts_of(rule, translation));
            }
        }
    }
    hosts
}

impl Locations {
    /// Adds the paths of the member `number`, which is no canary.
    pub(crate) fn add(
        &mut self,
        members: &mut [Member<'_>],
        number: usize,
        expressions: &BTreeSet<Option<String>>,
        options: &Options,
    ) {
        let Some(member) = members.get_mut(number) else { return };
        let Role::Main(translation) = &member.role else { return };
        let ingress = member.ingress;
        let mut worst = Class::NotNeeded;
        for rule in rules(ingress) {
            if options.host.as_ref().is_some_and(|host| rule.host.as_ref() != Some(host)) {
                continue;
            }
            if let Some(fault) =
                rule.host.as_ref().and_then(|host| podpin_config::rule::parse_host(host).err())
            {
                let host = rule.host.as_deref().unwrap_or_default();
                member.settings.note("host", host, Class::NotSupported, &format!("not routed: {fault}"));
            }
            for host in hosts_of(&rule, translation) {
                for path in &rule.paths {
                    let place = format!("{}{}", host.as_deref().unwrap_or("any host"), path.path);
                    let target = translation.rewrite_target.as_deref().filter(|target| *target != path.path);
                    let is_expression = expressions.contains(&host) || target.is_some();
                    let reading = if is_expression { Reading::Expression(target) } else { Reading::Literal };
                    let wanted = Wanted { path, place: &place, reading, rule_host: &rule.host };
                    let class = self.add_path(&mut member.settings, number, &host, wanted);
                    worst = worst.max(class);
                }
            }
        }
        for name in ["rewrite-target", "use-regex"] {
            let known =
                if name == "use-regex" { translation.is_regex } else { translation.rewrite_target.is_some() };
            if known {
                member.settings.judge_by_row(name, worst.max(Class::Approximate));
            }
        }
    }

    fn add_path(
        &mut self,
        settings: &mut Settings<'_>,
        member: usize,
        host: &Option<String>,
        wanted: Wanted<'_>,
    ) -> Class {
        let Wanted { path, place, reading, rule_host } = wanted;
        let mut worst = Class::Exact;
        match map(path, reading) {
            Ok(all) => {
                for one in all {
                    if one.note.is_empty() {
                        settings.note("path", place, Class::Exact, "");
                    } else {
                        settings.note("path", place, Class::Approximate, one.note);
                        worst = Class::Approximate;
                    }
                    let location = Location {
                        host: host.clone(),
                        path: one.path,
                        rewrite: one.rewrite,
                        member,
                        backend: path.backend.clone(),
                        canary: None,
                        rivals: Vec::new(),
                        stands_in: false,
                    };
                    let at = self.put(settings, location, place);
                    self.written
                        .entry((rule_host.clone(), path.path.clone(), path.kind))
                        .or_default()
                        .push(at);
                }
            }
            Err(Unmatched { within, reason }) => {
                worst = Class::NotSupported;
                let note = format!("{reason}: not routed; write routes for what it means");
                settings.note("path", place, Class::NotSupported, &note);
                let location = Location {
                    host: host.clone(),
                    path: MatchedPath { is_exact: false, value: within },
                    rewrite: None,
                    member,
                    backend: Backend::Missing,
                    canary: None,
                    rivals: Vec::new(),
                    stands_in: true,
                };
                self.all.push(location);
            }
        }
        worst
    }

    /// Puts a location in its place, unless an older Ingress has it; returns the number of the one that is there.
    fn put(&mut self, settings: &mut Settings<'_>, location: Location, place: &str) -> usize {
        let key = (location.host.clone(), location.path.clone());
        let next = self.all.len();
        let at = *self.index.entry(key).or_insert(next);
        if at == next {
            self.all.push(location);
            return at;
        }
        if let Some(there) = self.all.get_mut(at) {
            if there.member != location.member {
                there.rivals.push(location.member);
            }
            if there.backend != location.backend || there.member != location.member {
                let note = "another path is the same to podpin; the oldest Ingress has it, as in nginx, and by name where no \
                            creationTimestamp says which that is";
                settings.note("path", place, Class::Approximate, note);
            }
        }
        at
    }

    /// Joins the paths of a canary to those of main Ingresses.
    pub(crate) fn join_canary(
        &mut self,
        settings: &mut Settings<'_>,
        number: usize,
        ingress: &Ingress,
        options: &Options,
    ) {
        for rule in rules(ingress) {
            if options.host.as_ref().is_some_and(|host| rule.host.as_ref() != Some(host)) {
                continue;
            }
            for path in &rule.paths {
                let place = format!("{}{}", rule.host.as_deref().unwrap_or("any host"), path.path);
                let key = (rule.host.clone(), path.path.clone(), path.kind);
                let Some(found) = self.written.get(&key) else {
                    let note = "no main Ingress has this host, path and type: nginx ignores the canary there";
                    settings.note("path", &place, Class::NotSupported, note);
                    continue;
                };
                for at in found {
                    let Some(location) = self.all.get_mut(*at) else { continue };
                    if location.canary.is_some() {
                        let note = "a second canary of this path: nginx takes one of them, podpin the first by age and name";
                        settings.note("path", &place, Class::Approximate, note);
                    } else {
                        location.canary = Some((number, path.backend.clone()));
                        settings.note("path", &place, Class::Exact, "");
                    }
                }
            }
        }
    }
}

/// A path to be added.
struct Wanted<'a> {
    path: &'a Path,
    place: &'a str,
    reading: Reading<'a>,
    /// The host that canaries name, also for aliases.
    rule_host: &'a Option<String>,
}

/// Returns the rules of an Ingress; its default backend becomes the path `/` of hosts that have none, or of every host.
fn rules(ingress: &Ingress) -> Vec<Rule> {
    let mut rules = ingress.rules.clone();
    let Some(backend) = &ingress.default_backend else { return rules };
    let root = || Path { path: "/".to_owned(), kind: PathKind::Prefix, backend: backend.clone() };
    if rules.is_empty() {
        return vec![Rule { host: None, paths: vec![root()] }];
    }
    let with_root: BTreeSet<Option<String>> = rules
        .iter()
        .filter(|rule| rule.paths.iter().any(|path| path.path == "/" && path.kind != PathKind::Exact))
        .map(|rule| rule.host.clone())
        .collect();
    let mut done = with_root;
    for rule in &mut rules {
        if done.insert(rule.host.clone()) {
            rule.paths.push(root());
        }
    }
    rules
}

/// Returns the hosts of a rule that podpin can match, aliases included.
fn hosts_of(rule: &Rule, translation: &Translation) -> Vec<Option<String>> {
    let own = match &rule.host {
        None => Some(None),
        Some(host) => podpin_config::rule::parse_host(host).ok().map(|host| Some(host.to_string())),
    };
    let aliases = translation.aliases.iter().cloned().map(Some);
    own.into_iter().chain(aliases).collect()
}

/// Returns whether it is known which of two Ingresses is older.
pub(crate) fn is_decided(one: &Ingress, other: &Ingress) -> bool {
    matches!((&one.created, &other.created), (Some(one), Some(other)) if one != other)
}

/// Returns the name of the Service of a backend.
pub(crate) fn service_name(backend: &Backend, namespace: &str) -> Option<ObjectName> {
    match backend {
        Backend::Service { name, .. } => {
            Some(ObjectName { namespace: namespace.to_owned(), name: name.clone() })
        }
        Backend::Resource(_) | Backend::Missing => None,
    }
}
