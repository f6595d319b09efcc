//! Which words may be names: of services, routes, listeners, endpoints, zones and keys.
//!
//! Names end up as metric labels, cookie names and log fields, so they are narrow from the start: widening a rule later
//! breaks no configuration, narrowing it does.

use std::collections::BTreeMap;

use crate::node::Node;

/// A rule for names and its wording in messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameRule {
    /// The named thing, as in "expected a service name".
    pub(crate) what: &'static str,
    /// The rule in words.
    wording: &'static str,
    length_max: usize,
    inner: fn(char) -> bool,
    edge: fn(char) -> bool,
}

fn is_lower(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn is_alphanumeric(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

const LABEL_WORDING: &str = "at most 63 of a-z, 0-9 and -, beginning and ending with a letter or digit";

/// A DNS label (RFC 1123): it becomes part of a cookie name and a metric label.
pub(crate) const SERVICE: NameRule = label("a service name");
/// As a service's: it becomes a metric label.
pub(crate) const ROUTE: NameRule = label("a route name");
/// As a service's: it becomes a metric label.
pub(crate) const LISTENER: NameRule = label("a listener name");

/// A namespace of the cluster.
pub(crate) const NAMESPACE: NameRule = label("a namespace");
/// The name of a Service's port.
pub(crate) const PORT: NameRule = label("a port name");

const fn label(what: &'static str) -> NameRule {
    NameRule {
        what,
        wording: LABEL_WORDING,
        length_max: 63,
        inner: |c| is_lower(c) || c == '-',
        edge: is_lower,
    }
}

/// A pod's name (a DNS subdomain), or what people call a process elsewhere.
pub(crate) const ENDPOINT: NameRule = NameRule {
    what: "an endpoint name",
    wording: "at most 253 of A-Z, a-z, 0-9, ., _ and -, beginning and ending with a letter or digit",
    length_max: 253,
    inner: |c| is_alphanumeric(c) || matches!(c, '.' | '_' | '-'),
    edge: is_alphanumeric,
};

/// The value of a Kubernetes label (`topology.kubernetes.io/zone`).
pub(crate) const ZONE: NameRule = NameRule {
    what: "a zone",
    wording: "at most 63 of A-Z, a-z, 0-9, ., _ and -, beginning and ending with a letter or digit",
    length_max: 63,
    inner: ENDPOINT.inner,
    edge: is_alphanumeric,
};

/// A key's id travels in every token.
pub(crate) const KEY_ID: NameRule = NameRule {
    what: "a key id",
    wording: "1 to 16 of A-Z, a-z, 0-9, _ and -",
    length_max: 16,
    inner: |c| is_alphanumeric(c) || matches!(c, '_' | '-'),
    edge: |c| is_alphanumeric(c) || matches!(c, '_' | '-'),
};

impl NameRule {
    /// Returns the fault of `name`; `None` if it has none.
    pub(crate) fn refuse(&self, name: &str) -> Option<String> {
        let edges = [name.chars().next(), name.chars().next_back()];
        let fits = name.len() <= self.length_max
            && name.chars().all(self.inner)
            && edges.iter().all(|edge| edge.is_some_and(self.edge));
        (!fits).then(|| format!("{name:?} is not {}: {}", self.what, self.wording))
    }
}

/// Names of one kind seen so far, to find the second of a name.
#[derive(Debug)]
pub(crate) struct Unique {
    what: &'static str,
    /// The line of the first of each name.
    lines: BTreeMap<String, usize>,
}

impl Unique {
    /// `what` is named, as in "duplicate listener name".
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, lines: BTreeMap::new() }
    }

    /// Whether `name` is the first of its kind; reported at `node` when not.
    pub(crate) fn insert(&mut self, node: &Node<'_>, name: &str) -> bool {
        if let Some(line) = self.lines.get(name) {
            node.fail(format!("duplicate {} `{name}`; the first is on line {line}", self.what));
            return false;
        }
        self.lines.insert(name.to_owned(), node.position().line);
        true
    }
}

/// Whether `name` is a token of RFC 9110 section 5.6.2, which is what RFC 6265 wants of a cookie's name.
#[must_use]
pub fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether `text` may be written as the value of a header field: visible ASCII and spaces, none of those at its ends.
#[must_use]
pub fn is_field_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) && text.trim() == text
}

/// The rule of [`is_field_value`], for messages.
pub(crate) const FIELD_VALUE: &str = "a header's value is printable ASCII without space around it";

/// Returns the fault of `host` as a DNS name of lower case letters; `None` if it has none.
#[must_use]
pub fn refuse_dns_name(host: &str) -> Option<String> {
    if !host.is_ascii() {
        return Some("write an international name in its ASCII form (xn--...)".to_owned());
    }
    if host.is_empty() || host.len() > 253 {
        return Some("a hostname has 1 to 253 characters".to_owned());
    }
    let is_label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        inner && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    (!host.split('.').all(is_label)).then(|| format!("{host:?} is not a hostname"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_held_to_their_rules() {
        let long = "a".repeat(64);
        let cases = [
            (SERVICE, "chat", true),
            (SERVICE, "chat-2", true),
            (SERVICE, "0", true),
            (SERVICE, "Chat", false),
            (SERVICE, "-chat", false),
            (SERVICE, "chat-", false),
            (SERVICE, "chat.next", false),
            (SERVICE, "", false),
            (SERVICE, &long, false),
            (SERVICE, &long[..63], true),
            (ENDPOINT, "Pod_a.1", true),
            (ENDPOINT, "pod a", false),
            (ENDPOINT, ".pod", false),
            (ZONE, "eu-west-1a", true),
            (ZONE, &long, false),
            (KEY_ID, "-k_2", true),
            (KEY_ID, &long[..16], true),
            (KEY_ID, &long[..17], false),
            (KEY_ID, "k.2", false),
        ];
        for (rule, name, fits) in cases {
            assert_eq!(rule.refuse(name).is_none(), fits, "{} {name}", rule.what);
        }
    }

    #[test]
    fn dns_names_are_labels_between_dots() {
        for good in ["app.example.com", "a", "10.0.0.1", "a_b.svc", "xn--nxasmq6b"] {
            assert_eq!(refuse_dns_name(good), None);
        }
        for bad in
            ["", "a..b", ".a", "-a.b", "a-.b", "a b", "http://a", "a/b", "ü.example", &"a.".repeat(200)]
        {
            assert!(refuse_dns_name(bad).is_some(), "{bad}");
        }
    }
}
