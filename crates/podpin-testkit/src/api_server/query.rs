//! What a request asks of the API server: path, parameters, label selector.
//!
//! Only what the discovery of a proxy may ask for: EndpointSlices of one namespace or of all, listed or watched. The
//! selector is the API's own grammar (equality and sets, Kubernetes "Labels and Selectors").

use std::collections::BTreeMap;

use serde_json::Value;

use super::On;

/// Everything below here is EndpointSlices.
const GROUP: &str = "/apis/discovery.k8s.io/v1/";

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
    namespace: Option<String>,
    selector: Vec<Requirement>,
}

/// One requirement of a label selector.
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
    /// Takes a target apart. What is no list and no watch of EndpointSlices is [`On::Other`].
    ///
    /// # Errors
    /// What is wrong with the selector.
    pub(super) fn parse(target: &str) -> Result<Query, String> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parameters: BTreeMap<_, _> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        let namespace = match path.strip_prefix(GROUP).map(|rest| rest.split('/').collect::<Vec<_>>()) {
            Some(parts) if parts == ["endpointslices"] => Some(None),
            Some(parts) => match parts.as_slice() {
                ["namespaces", namespace, "endpointslices"] => Some(Some((*namespace).to_owned())),
                _ => None,
            },
            None => None,
        };
        let watching = parameters.get("watch").is_some_and(|value| value == "true" || value == "1");
        let kind = match (&namespace, watching) {
            (None, _) => On::Other,
            (Some(_), true) => On::Watch,
            (Some(_), false) => On::List,
        };
        let selector = requirements(parameters.get("labelSelector").map_or("", String::as_str))?;
        let scope = Scope { namespace: namespace.flatten(), selector };
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
        self.namespace.as_deref().is_none_or(|wanted| namespace == Some(wanted))
            && self.selector.iter().all(|requirement| requirement.accepts(label(&requirement.key)))
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
    use serde_json::json;

    fn query(parameters: &str) -> Query {
        Query::parse(&format!("{GROUP}namespaces/prod/endpointslices?{parameters}")).unwrap()
    }

    #[test]
    fn lists_and_watches_of_endpoint_slices_are_told_from_everything_else() {
        let kinds = [
            ("/apis/discovery.k8s.io/v1/endpointslices", On::List),
            ("/apis/discovery.k8s.io/v1/endpointslices?watch=true", On::Watch),
            ("/apis/discovery.k8s.io/v1/namespaces/a/endpointslices?limit=5", On::List),
            ("/apis/discovery.k8s.io/v1/namespaces/a/endpointslices?&watch=1&x", On::Watch),
            ("/apis/discovery.k8s.io/v1/namespaces/a/endpointslices/chat-1", On::Other),
            ("/api/v1/pods?watch=true", On::Other),
            ("/version", On::Other),
        ];
        for (target, kind) in kinds {
            assert_eq!(Query::parse(target).unwrap().kind, kind, "{target}");
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
            assert!(Query::parse(&target).is_err(), "{wrong}");
        }
    }
}
