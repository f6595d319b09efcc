//! Objects of the cluster, read leniently: a field of a wrong type becomes a fault that the report shows, and never ends
//! the import of the others.
//!
//! Ingresses of `networking.k8s.io/v1` and of the two versions before it are read. Server-side fields, `status` and the
//! like are passed over.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::document;

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace, `default` where the object says none.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An Ingress.
#[derive(Clone, Debug)]
pub(crate) struct Ingress {
    pub(crate) name: ObjectName,
    pub(crate) annotations: BTreeMap<String, String>,
    /// Names of annotations whose values are no text.
    pub(crate) odd_annotations: Vec<String>,
    /// `spec.ingressClassName`.
    pub(crate) class: Option<String>,
    pub(crate) default_backend: Option<Backend>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) tls: Vec<TlsEntry>,
    /// As it is written; times of the API server sort as text.
    pub(crate) created: Option<String>,
    /// Fields that could not be read.
    pub(crate) faults: Vec<String>,
    /// Everything that the import reads, for finding two that differ.
    whole: Value,
}

/// A rule of an Ingress.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// `None` if for every host.
    pub(crate) host: Option<String>,
    pub(crate) paths: Vec<Path>,
}

/// A path of a rule.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) path: String,
    pub(crate) kind: PathKind,
    pub(crate) backend: Backend,
}

/// `pathType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PathKind {
    Exact,
    Prefix,
    ImplementationSpecific,
}

/// The other end of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Service {
        name: String,
        port: ServicePort,
    },
    /// The kind of a resource that is no Service.
    Resource(String),
    /// Nothing that could be read.
    Missing,
}

/// A port of a Service as an Ingress names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ServicePort {
    Name(String),
    Number(u16),
    Missing,
}

/// An entry of `spec.tls`.
#[derive(Clone, Debug)]
pub(crate) struct TlsEntry {
    pub(crate) hosts: Vec<String>,
    pub(crate) secret: Option<String>,
}

/// A Service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Service {
    pub(crate) external_name: Option<String>,
    pub(crate) has_selector: bool,
    pub(crate) ports: Vec<Port>,
}

/// A port of a Service.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) name: Option<String>,
    pub(crate) number: u16,
    /// The number that pods listen on; `None` if it is a name, which differs from pod to pod.
    pub(crate) target: Option<u16>,
    pub(crate) app_protocol: Option<String>,
}

/// Objects that an import is made of.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub(crate) ingresses: Vec<Ingress>,
    /// Names that two different Ingresses have.
    pub(crate) contradictions: Vec<ObjectName>,
    pub(crate) services: BTreeMap<ObjectName, Service>,
    pub(crate) config_maps: BTreeMap<ObjectName, BTreeMap<String, String>>,
    /// Names of Secrets, and the keys in them. The values are not kept.
    pub(crate) secrets: BTreeMap<ObjectName, Vec<String>>,
    /// Names of IngressClasses, and whether each is the default.
    pub(crate) classes: BTreeMap<String, bool>,
    /// Texts that are no objects, each with its place.
    pub(crate) faults: Vec<(String, String)>,
    /// Kinds that the import has no use for, and how many of each.
    pub(crate) unused: BTreeMap<String, usize>,
}

impl Objects {
    /// Adds the objects of a manifest: YAML with any number of documents, or JSON. `place` is its name in the report.
    pub fn add_text(&mut self, place: &str, text: &str) {
        for value in document::values(text) {
            match value {
                Ok(value) => self.add_value(place, &value),
                Err(fault) => self.faults.push((place.to_owned(), fault)),
            }
        }
    }

    /// Adds a text that could not be read at all, with the reason.
    pub fn add_fault(&mut self, place: &str, reason: &str) {
        self.faults.push((place.to_owned(), reason.to_owned()));
    }

    /// Adds an object, or the objects of a List.
    pub fn add_value(&mut self, place: &str, value: &Value) {
        let kind = text(value, "kind").unwrap_or_default();
        if kind == "List" || (kind.ends_with("List") && value.get("items").is_some()) {
            let items = value.get("items").and_then(Value::as_array);
            let item_kind = kind.strip_suffix("List").unwrap_or_default();
            for item in items.into_iter().flatten() {
                if text(item, "kind").is_some() || item_kind.is_empty() {
                    self.add_value(place, item);
                } else {
                    // Lists of the API leave the kind of their items out.
                    self.add_object(place, item_kind, item);
                }
            }
            return;
        }
        self.add_object(place, kind, value);
    }

    fn add_object(&mut self, place: &str, kind: &str, value: &Value) {
        let name = value.pointer("/metadata/name").and_then(Value::as_str);
        let (false, Some(name)) = (kind.is_empty(), name) else {
            let fault = "not a Kubernetes object: `kind` or `metadata.name` is missing";
            self.faults.push((place.to_owned(), fault.to_owned()));
            return;
        };
        let namespace = value.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default");
        let name = ObjectName { namespace: namespace.to_owned(), name: name.to_owned() };
        match kind {
            "Ingress" if is_of_nginx_api(value) => self.add_ingress(Ingress::read(name, value)),
            "Service" => drop(self.services.insert(name, Service::read(value))),
            "ConfigMap" => drop(self.config_maps.insert(name, texts(value.get("data")).0)),
            "Secret" => drop(self.secrets.insert(name, keys(value))),
            "IngressClass" => {
                let (annotations, _) = texts(value.pointer("/metadata/annotations"));
                let is_default = annotations.get("ingressclass.kubernetes.io/is-default-class");
                self.classes.insert(name.name, is_default.is_some_and(|text| text == "true"));
            }
            _ => *self.unused.entry(kind.to_owned()).or_default() += 1,
        }
    }

    fn add_ingress(&mut self, ingress: Ingress) {
        self.ingresses.push(ingress);
    }

    /// Sorts Ingresses as the controller does, the oldest first, and takes out those that stand twice.
    pub(crate) fn settle(&mut self) {
        let key = |one: &Ingress| (one.created.clone().unwrap_or_default(), one.name.clone());
        self.ingresses.sort_by_key(|one| one.name.clone());
        let mut kept: Vec<Ingress> = Vec::with_capacity(self.ingresses.len());
        for ingress in self.ingresses.drain(..) {
            match kept.last() {
                Some(last) if last.name == ingress.name => {
                    if last.whole != ingress.whole && self.contradictions.last() != Some(&last.name) {
                        self.contradictions.push(last.name.clone());
                    }
                }
                _ => kept.push(ingress),
            }
        }
        // A stable order for contradictions: the text that sorts first is the one that is shown.
        kept.sort_by_key(key);
        self.ingresses = kept;
        self.faults.sort();
    }
}

fn is_of_nginx_api(value: &Value) -> bool {
    let version = text(value, "apiVersion").unwrap_or("networking.k8s.io/v1");
    version.starts_with("networking.k8s.io/") || version == "extensions/v1beta1"
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

/// Returns the texts of a mapping, and the names of values that are none; those are written as they would print.
fn texts(mapping: Option<&Value>) -> (BTreeMap<String, String>, Vec<String>) {
    let mut odd = Vec::new();
    let mut all = BTreeMap::new();
    for (name, value) in mapping.and_then(Value::as_object).into_iter().flatten() {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => {
                odd.push(name.clone());
                other.to_string()
            }
        };
        all.insert(name.clone(), text);
    }
    (all, odd)
}

fn keys(secret: &Value) -> Vec<String> {
    let of = |key| secret.get(key).and_then(Value::as_object).map(Map::keys);
    of("data").into_iter().flatten().chain(of("stringData").into_iter().flatten()).cloned().collect()
}

impl Ingress {
    fn read(name: ObjectName, value: &Value) -> Self {
        let mut faults = Vec::new();
        let (annotations, odd_annotations) = texts(value.pointer("/metadata/annotations"));
        let spec = value.get("spec").cloned().unwrap_or(Value::Null);
        if !spec.is_object() {
            faults.push("spec: not a mapping".to_owned());
        }
        let backend = spec.get("defaultBackend").or_else(|| spec.get("backend"));
        let rules = items(&spec, "rules", &mut faults);
        let rules = rules.iter().enumerate().map(|(at, rule)| Rule::read(at, rule, &mut faults)).collect();
        let tls = items(&spec, "tls", &mut faults).into_iter().map(TlsEntry::read).collect();
        let whole = serde_json::json!({ "annotations": annotations, "spec": spec });
        Self {
            name,
            annotations,
            odd_annotations,
            class: text(&spec, "ingressClassName").map(str::to_owned),
            default_backend: backend.map(Backend::read),
            rules,
            tls,
            created: value.pointer("/metadata/creationTimestamp").and_then(Value::as_str).map(str::to_owned),
            faults,
            whole,
        }
    }
}

fn items<'a>(value: &'a Value, key: &str, faults: &mut Vec<String>) -> Vec<&'a Value> {
    match value.get(key) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items.iter().collect(),
        Some(_) => {
            faults.push(format!("spec.{key}: not a list"));
            Vec::new()
        }
    }
}

impl Rule {
    fn read(at: usize, value: &Value, faults: &mut Vec<String>) -> Self {
        let place = format!("spec.rules[{at}]");
        let host = match value.get("host") {
            None | Some(Value::Null) => None,
            Some(Value::String(host)) if host.is_empty() => None,
            Some(Value::String(host)) => Some(host.to_ascii_lowercase()),
            Some(other) => {
                faults.push(format!("{place}.host: not a text: {other}"));
                // A name that no request has: never every host.
                Some(String::new())
            }
        };
        let listed = value.pointer("/http/paths").and_then(Value::as_array);
        let listed = listed.map(Vec::as_slice).unwrap_or_default();
        let paths = listed.iter().enumerate().map(|(number, path)| {
            let place = format!("{place}.http.paths[{number}]");
            Path::read(&place, path, faults)
        });
        Self { host, paths: paths.collect() }
    }
}

impl Path {
    fn read(place: &str, value: &Value, faults: &mut Vec<String>) -> Self {
        let path = match value.get("path") {
            None | Some(Value::Null) => "/".to_owned(),
            Some(Value::String(path)) if path.is_empty() => "/".to_owned(),
            Some(Value::String(path)) => path.clone(),
            Some(other) => {
                faults.push(format!("{place}.path: not a text: {other}"));
                String::new()
            }
        };
        let kind = match text(value, "pathType") {
            Some("Exact") => PathKind::Exact,
            Some("Prefix") => PathKind::Prefix,
            Some("ImplementationSpecific") | None => PathKind::ImplementationSpecific,
            Some(other) => {
                faults.push(format!("{place}.pathType: unknown type {other:?}"));
                PathKind::ImplementationSpecific
            }
        };
        Self { path, kind, backend: value.get("backend").map_or(Backend::Missing, Backend::read) }
    }
}

impl Backend {
    fn read(value: &Value) -> Self {
        if let Some(resource) = value.get("resource") {
            return Self::Resource(text(resource, "kind").unwrap_or("a resource").to_owned());
        }
        let service = value.get("service");
        let name = service.and_then(|service| text(service, "name")).or_else(|| text(value, "serviceName"));
        let Some(name) = name else { return Self::Missing };
        let port = match service {
            Some(service) => {
                let by_name = service.pointer("/port/name");
                by_name.filter(|name| !name.is_null()).or_else(|| service.pointer("/port/number"))
            }
            None => value.get("servicePort"),
        };
        Self::Service { name: name.to_owned(), port: ServicePort::read(port) }
    }
}

impl ServicePort {
    fn read(value: Option<&Value>) -> Self {
        let number = |number: u64| u16::try_from(number).ok().filter(|number| *number > 0);
        match value {
            Some(Value::Number(value)) => value.as_u64().and_then(number).map_or(Self::Missing, Self::Number),
            Some(Value::String(text)) => match text.parse().ok().and_then(number) {
                Some(number) => Self::Number(number),
                None if text.is_empty() => Self::Missing,
                None => Self::Name(text.clone()),
            },
            _ => Self::Missing,
        }
    }
}

impl TlsEntry {
    fn read(value: &Value) -> Self {
        let hosts = value.get("hosts").and_then(Value::as_array).into_iter().flatten();
        Self {
            hosts: hosts.filter_map(Value::as_str).map(str::to_ascii_lowercase).collect(),
            secret: text(value, "secretName").filter(|name| !name.is_empty()).map(str::to_owned),
        }
    }
}

impl Service {
    fn read(value: &Value) -> Self {
        let spec = value.get("spec").unwrap_or(&Value::Null);
        let ports = spec.get("ports").and_then(Value::as_array).into_iter().flatten();
        let external = text(spec, "type") == Some("ExternalName");
        Self {
            external_name: text(spec, "externalName").filter(|_| external).map(str::to_owned),
            has_selector: spec.get("selector").and_then(Value::as_object).is_some_and(|map| !map.is_empty()),
            ports: ports.filter_map(Port::read).collect(),
        }
    }
}

impl Port {
    fn read(value: &Value) -> Option<Self> {
        let number = u16::try_from(value.get("port")?.as_u64()?).ok()?;
        let target = match value.get("targetPort") {
            None | Some(Value::Null) => Some(number),
            Some(Value::Number(target)) => target.as_u64().and_then(|target| u16::try_from(target).ok()),
            Some(target) => target.as_str().and_then(|text| text.parse().ok()),
        };
        Some(Self {
            name: text(value, "name").filter(|name| !name.is_empty()).map(str::to_owned),
            number,
            target: target.filter(|target| *target > 0),
            app_protocol: text(value, "appProtocol").map(str::to_owned),
        })
    }
}

/// Whether `text` may be the name of an object: a DNS subdomain.
pub(crate) fn is_object_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    !text.is_empty()
        && text.len() <= 253
        && text.bytes().all(fits)
        && !text.starts_with('.')
        && !text.contains("..")
}
