//! The query of a request to the API server: path, parameters, label selector.
//!
//! Only what the discovery of a proxy may ask for: EndpointSlices or Pods of one namespace or of all, listed or watched,
//! whole or as metadata only. The selector is the API's own grammar (equality and sets, Kubernetes "Labels and
//! Selectors").

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::On;

/// The media type parameter for metadata only.
const METADATA: &str = "as=PartialObjectMetadata";

/// The resources that the server has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    #[default]
    Slices,
    Pods,
}

impl Resource {
    const ALL: [Resource; 2] = [Resource::Slices, Resource::Pods];

    /// Returns the kind of an object; an object without a kind is a slice.
    pub(super) fn of(object: &Value) -> Resource {
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        let is_it = |resource: &Resource| resource.kind() == kind;
        Resource::ALL.into_iter().find(is_it).unwrap_or_default()
    }

    pub(super) fn kind(self) -> &'static str {
        match self {
            Resource::Slices => "EndpointSlice",
            Resource::Pods => "Pod",
        }
    }

    pub(super) fn api_version(self) -> &'static str {
        match self {
            Resource::Slices => "discovery.k8s.io/v1",
            Resource::Pods => "v1",
        }
    }

    /// Everything below this path is in the resource's group and version.
    fn root(self) -> &'static str {
        match self {
            Resource::Slices => "/apis/discovery.k8s.io/v1/",
            Resource::Pods => "/api/v1/",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Resource::Slices => "endpointslices",
            Resource::Pods => "pods",
        }
    }

    fn list(self) -> On {
        match self {
            Resource::Slices => On::List,
            Resource::Pods => On::ListPods,
        }
    }

    fn watch(self) -> On {
        match self {
            Resource::Slices => On::Watch,
            Resource::Pods => On::WatchPods,
        }
    }

    /// The namespace that a path names; `Some(None)`: all.
    fn namespace(self, path: &str) -> Option<Option<String>> {
        let parts: Vec<_> = path.strip_prefix(self.root())?.split('/').collect();
        match parts.as_slice() {
            [plural] if *plural == self.plural() => Some(None),
            ["namespaces", namespace, plural] if *plural == self.plural() => {
                Some(Some((*namespace).to_owned()))
            }
            _ => None,
        }
    }
}

/// A request's target, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) kind: On,
    pub(super) scope: Scope,
    parameters: BTreeMap<String, String>,
}

/// Which objects a list or a watch is about.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    pub(super) resource: Resource,
    is_metadata_only: bool,
    namespace: Option<String>,
    selector: Vec<Requirement>,
}

/// A requirement of a label selector.
#[derive(Clone, Debug)]
struct Requirement {
    key: String,
    rule: Rule,
}

#[derive(Clone, Debug)]
enum Rule {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Query {
    /// Takes a target and the `Accept` beside it apart. What is no list and no watch is [`On::Other`].
    ///
    /// # Errors
    /// What is wrong with the selector.
    pub(super) fn parse(target: &str, accept: &str) -> Result<Query, String> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parameters: BTreeMap<_, _> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        let named = |resource: Resource| Some((resource, resource.namespace(path)?));
        let found = Resource::ALL.into_iter().find_map(named);
        let watching = parameters.get("watch").is_some_and(|value| value == "true" || value == "1");
        let kind = match (&found, watching) {
            (None, _) => On::Other,
            (Some((resource, _)), true) => resource.watch(),
            (Some((resource, _)), false) => resource.list(),
        };
        let selector = requirements(parameters.get("labelSelector").map_or("", String::as_str))?;
        let (resource, namespace) = found.unwrap_or_default();
        let scope = Scope { resource, is_metadata_only: accept.contains(METADATA), namespace, selector };
        Ok(Query { kind, scope, parameters })
    }

    /// A parameter, unless it is missing or empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A parameter that is a number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// A parameter that is `true`.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }
}

impl Scope {
    /// Whether `object` is one of these.
    pub(super) fn covers(&self, object: &Value) -> bool {
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
        let label = |key: &str| object.get("metadata")?.get("labels")?.get(key)?.as_str();
        self.resource == Resource::of(object)
            && self.namespace.as_deref().is_none_or(|wanted| namespace == Some(wanted))
            && self.selector.iter().all(|requirement| requirement.accepts(label(&requirement.key)))
    }
}

impl Scope {
    /// The kind of a list of these, and its version.
    pub(super) fn list_kind(&self) -> (&'static str, &'static str) {
        match (self.is_metadata_only, self.resource) {
            (true, _) => ("PartialObjectMetadataList", "meta.k8s.io/v1"),
            (false, Resource::Slices) => ("EndpointSliceList", Resource::Slices.api_version()),
            (false, Resource::Pods) => ("PodList", Resource::Pods.api_version()),
        }
    }

    /// The object as it is sent.
    pub(super) fn sent(&self, object: &Value) -> Value {
        if !self.is_metadata_only {
            return object.clone();
        }
        let metadata = object.get("metadata").cloned().unwrap_or_default();
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
    }
}

impl Requirement {
    fn accepts(&self, label: Option<&str>) -> bool {
        let among = |values: &[String]| label.is_some_and(|label| values.iter().any(|value| value == label));
        match &self.rule {
            Rule::In(values) => among(values),
            Rule::NotIn(values) => !among(values),
            Rule::Exists => label.is_some(),
            Rule::Absent => label.is_none(),
        }
    }

    fn parse(text: &str) -> Option<Requirement> {
        let text = text.trim();
        let made = |key: &str, rule| {
            let key = key.trim();
            let clean = !key.is_empty() && !key.contains(|c: char| c.is_whitespace() || "()=!,".contains(c));
            clean.then(|| Requirement { key: key.to_owned(), rule })
        };
        if let Some((key, values)) = text.split_once(" notin ") {
            return made(key, Rule::NotIn(set(values)?));
        }
        if let Some((key, values)) = text.split_once(" in ") {
            return made(key, Rule::In(set(values)?));
        }
        if let Some((key, value)) = text.split_once("!=") {
            return made(key, Rule::NotIn(vec![value.trim().to_owned()]));
        }
        if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            return made(key, Rule::In(vec![value.trim().to_owned()]));
        }
        match text.strip_prefix('!') {
            Some(key) => made(key, Rule::Absent),
            None => made(text, Rule::Exists),
        }
    }
}

fn requirements(selector: &str) -> Result<Vec<Requirement>, String> {
    let mut depth = 0_i32;
    let parts = selector.split(|c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    });
    parts
        .filter(|part| !part.trim().is_empty())
        .map(|part| Requirement::parse(part).ok_or_else(|| format!("unable to parse requirement: {part}")))
        .collect()
}

fn set(text: &str) -> Option<Vec<String>> {
    let inside = text.trim().strip_prefix('(')?.strip_suffix(')')?;
    Some(inside.split(',').map(|value| value.trim().to_owned()).collect())
}

/// Undoes `application/x-www-form-urlencoded`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = [rest.next(), rest.next()].map(|digit| digit.map_or('!', char::from));
                let value = digits.map(|digit| digit.to_digit(16).unwrap_or_default());
                let [high, low] = value;
                bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
            }
            plain => bytes.push(plain),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "/apis/discovery.k8s.io/v1/";

    fn query(parameters: &str) -> Query {
        Query::parse(&format!("{GROUP}namespaces/prod/endpointslices?{parameters}"), "").unwrap()
    }

    #[test]
    fn lists_and_watches_are_told_from_everything_else() {
        let kinds = [
            ("/apis/discovery.k8s.io/v1/endpointslices", On::List),
            ("/apis/discovery.k8s.io/v1/endpointslices?watch=true", On::Watch),
            ("/apis/discovery.k8s.io/v1/namespaces/a/endpointslices?limit=5", On::List),
            ("/apis/discovery.k8s.io/v1/namespaces/a/endpointslices?&watch=1&x", On::Watch),
            ("/apis/discovery.k8s.io/v1/namespaces/a/endpointslices/chat-1", On::Other),
            ("/api/v1/pods?watch=true", On::WatchPods),
            ("/api/v1/namespaces/a/pods", On::ListPods),
            ("/api/v1/namespaces/a/endpointslices", On::Other),
            ("/api/v1/namespaces/a/pods/chat-1", On::Other),
            ("/apis/discovery.k8s.io/v1/namespaces/a/pods", On::Other),
            ("/version", On::Other),
        ];
        for (target, kind) in kinds {
            assert_eq!(Query::parse(target, "").unwrap().kind, kind, "{target}");
        }
    }

    #[test]
    fn a_selector_accepts_as_the_api_does() {
        let of = |service: &str, namespace: &str| json!({"metadata": {"namespace": namespace, "labels": {"kubernetes.io/service-name": service}}});
        let cases = [
            ("", true, true),
            ("labelSelector=kubernetes.io%2Fservice-name%3Dchat", true, false),
            ("labelSelector=kubernetes.io/service-name==chat", true, false),
            ("labelSelector=kubernetes.io%2Fservice-name+in+%28chat%2Cweb%29", true, true),
            ("labelSelector=kubernetes.io%2Fservice-name%20in%20(web,%20x)", false, true),
            ("labelSelector=kubernetes.io/service-name notin (web)", true, false),
            ("labelSelector=kubernetes.io/service-name!=chat", false, true),
            ("labelSelector=kubernetes.io/service-name,other", false, false),
            ("labelSelector=!other,kubernetes.io/service-name%20in%20(chat)", true, false),
        ];
        for (parameters, chat, web) in cases {
            let scope = query(parameters).scope;
            assert_eq!(scope.covers(&of("chat", "prod")), chat, "{parameters}");
            assert_eq!(scope.covers(&of("web", "prod")), web, "{parameters}");
            assert!(!scope.covers(&of("chat", "other")), "{parameters}");
        }
        let unlabelled = json!({"metadata": {"namespace": "prod"}});
        assert!(!query("labelSelector=a=b").scope.covers(&unlabelled));
        assert!(query("labelSelector=a!=b").scope.covers(&unlabelled), "as in the API");
        for wrong in ["a in b", "a in (b", "=b", "a b", "!"] {
            let target = format!("{GROUP}endpointslices?labelSelector={wrong}");
            assert!(Query::parse(&target, "").is_err(), "{wrong}");
        }
    }

    #[test]
    fn metadata_alone_is_sent_where_it_is_asked_for() {
        let pod = json!({"kind": "Pod", "metadata": {"name": "a"}, "spec": {"nodeName": "n"}});
        let scope = |accept| Query::parse("/api/v1/pods", accept).unwrap().scope;
        let whole = scope("application/json");
        assert_eq!((whole.sent(&pod), whole.list_kind().0), (pod.clone(), "PodList"));
        let partial = scope("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
        assert_eq!(partial.list_kind().0, "PartialObjectMetadataList");
        let sent = partial.sent(&pod);
        assert_eq!((&sent["kind"], &sent["metadata"]), (&json!("PartialObjectMetadata"), &pod["metadata"]));
        assert!(sent.get("spec").is_none());
    }
}
