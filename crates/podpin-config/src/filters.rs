//! The filters of a route, besides placing its requests: redirect, header edits, rewrite, CORS.
//!
//! Names and values are checked here as far as the grammar goes (RFC 9110 section 5), so that the proxy can write them as
//! they are. Lines that the proxy itself is responsible for cannot be edited.

use std::time::Duration;

use crate::{
    name,
    node::{Keys, Node},
    path::refuse_path,
    section::Section,
    unit::DurationRange,
};

/// Everything that a route changes. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteFilters {
    /// The status of a redirect to https for requests that did not come over TLS: 301, 302, 307 or 308.
    pub redirect_to_https: Option<u16>,
    /// For requests on their way to the pod.
    pub request_headers: HeaderEdits,
    /// For the pod's responses.
    pub response_headers: HeaderEdits,
    /// Replaces the path prefix that the route matches; without a slash at its end, so empty for `/`.
    pub path_prefix: Option<String>,
    /// The `Host` sent to the pod; `None` if the client's.
    pub hostname: Option<String>,
    /// Origins that may use the route; `None` if the pods' own answers decide.
    pub cors: Option<Cors>,
}

/// Changes of header lines, made in this order: remove, set, add. Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Lines that are taken out.
    pub remove: Vec<String>,
    /// Lines that replace those of the same name.
    pub set: Vec<(String, String)>,
    /// Lines beside those of the same name.
    pub add: Vec<(String, String)>,
}

/// Cross-origin resource sharing (WHATWG Fetch, section 3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// The allowed serialised origins, such as `https://app.example.com`. `None` if all (`*`).
    pub origins: Option<Vec<String>>,
    /// Whether cookies may come along. Never with `*`.
    pub credentials: bool,
    /// Methods allowed by the answer to a preflight.
    pub methods: Vec<String>,
    /// Which request headers a preflight is told may be sent.
    pub headers: Vec<String>,
    /// How long a browser may remember a preflight, in whole seconds.
    pub max_age: Duration,
}

/// Written by the proxy itself, or meaningful only between two neighbours (RFC 9110 section 7.6.1).
const OURS: [&str; 19] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "host",
    "content-length",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-real-ip",
    "client-cert",
    "client-cert-chain",
];

const METHODS: [&str; 3] = ["GET", "HEAD", "POST"];
/// Header fields that libraries send for event streams over `fetch`, besides the safelisted ones.
const HEADERS: [&str; 3] = ["Cache-Control", "Content-Type", "Last-Event-ID"];
const MAX_AGE: Duration = Duration::from_secs(600);
/// Browsers remember for two hours (Chromium) or a day (Firefox) at most.
const MAX_AGES: DurationRange = DurationRange::whole_seconds(Duration::ZERO, Duration::from_secs(24 * 3_600));

impl RouteFilters {
    /// Reads what a route says; `has_one_prefix`: its only match is a path prefix.
    pub(crate) fn read(route: &Section<'_>, has_one_prefix: bool) -> Self {
        let part = |key| optional(route, key);
        let headers = part("headers");
        let edits = |key| headers.as_ref().map(|both| HeaderEdits::read(&both.section(key)));
        let rewrite = part("rewrite");
        let rewrite = rewrite.as_ref();
        Self {
            redirect_to_https: part("redirect").map(|section| read_redirect(&section)),
            request_headers: edits("request").unwrap_or_default(),
            response_headers: edits("response").unwrap_or_default(),
            path_prefix: rewrite.and_then(|section| read_prefix(section.get("pathPrefix")?, has_one_prefix)),
            hostname: rewrite.and_then(|section| read_hostname(section.get("hostname")?)),
            cors: part("cors").and_then(|section| Cors::read(&section)),
        }
    }
}

/// A section that may be absent or `off`.
fn optional<'a>(route: &Section<'a>, key: &str) -> Option<Section<'a>> {
    route.get(key)?.section_or_off("a mapping").flatten()
}

fn read_redirect(section: &Section<'_>) -> u16 {
    section.choice("scheme", &[("https", ())], ());
    let Some(node) = section.get("statusCode") else { return 302 };
    let code = node.count(300..=399_u16).unwrap_or(302);
    if ![301, 302, 307, 308].contains(&code) {
        node.fail(format!("must be 301, 302, 307 or 308; found {code}"));
    }
    code
}

fn read_prefix(node: &Node<'_>, has_one_prefix: bool) -> Option<String> {
    let path = node.text("a path such as /new")?;
    if !has_one_prefix {
        node.fail("a prefix can be replaced only where the route has exactly one match, of type PathPrefix");
        return None;
    }
    if let Some(refusal) = refuse_path(path) {
        node.fail(refusal);
        return None;
    }
    Some(path.strip_suffix('/').unwrap_or(path).to_owned())
}

fn read_hostname(node: &Node<'_>) -> Option<String> {
    let host = node.text("a hostname")?.to_ascii_lowercase();
    if let Some(refusal) = name::refuse_dns_name(&host) {
        node.fail(refusal);
        return None;
    }
    Some(host)
}

impl HeaderEdits {
    fn read(section: &Section<'_>) -> Self {
        let lines = |key| section.get(key).map(read_lines).unwrap_or_default();
        let remove = section.get("remove").and_then(|list| list.items("a list of header names"));
        let names = remove.unwrap_or_default();
        Self {
            remove: names.iter().filter_map(|node| header_name(node.text("a header name")?, node)).collect(),
            set: lines("set"),
            add: lines("add"),
        }
    }
}

fn read_lines(mapping: &Node<'_>) -> Vec<(String, String)> {
    let line = |(name, node): &(&str, Node<'_>)| {
        let name = header_name(name, node)?;
        let value = node.text("the header's value")?;
        if name::is_field_value(value) {
            return Some((name, value.to_owned()));
        }
        node.fail(name::FIELD_VALUE);
        None
    };
    mapping
        .entries("a mapping of header names to values", Keys::Names)
        .iter()
        .flatten()
        .filter_map(line)
        .collect()
}

/// Returns whether a route may edit header fields of this name: a token, and none that podpin writes itself.
#[must_use]
pub fn may_edit_header(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    name::is_token(name) && !OURS.contains(&lower.as_str()) && !lower.starts_with("x-podpin-")
}

/// The name in lower case, if it may be edited.
fn header_name(text: &str, node: &Node<'_>) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    if !name::is_token(text) {
        node.fail_at_key(format!("{text:?} is not a header name"));
    } else if OURS.contains(&lower.as_str()) || lower.starts_with("x-podpin-") {
        node.fail_at_key(format!("{text} is podpin's own to write; it cannot be edited"));
    } else {
        return Some(lower);
    }
    None
}

impl Cors {
    fn read(section: &Section<'_>) -> Option<Self> {
        let list =
            section.require("origins", "a list of origins such as https://app.example.com, or \"*\"")?;
        let items = list.items("a list of origins").unwrap_or_default();
        if items.is_empty() && list.is_sequence() {
            list.fail("at least one origin is needed");
        }
        let origins: Vec<String> = items.iter().filter_map(read_origin).collect();
        let everybody = origins.iter().any(|origin| origin == "*");
        let credentials = section.boolean("credentials", false);
        if everybody && credentials {
            list.fail("\"*\" with `credentials: true` would let every web page act as its visitor; name the origins");
        }
        if everybody && origins.len() > 1 {
            list.fail("\"*\" stands alone");
        }
        Some(Self {
            origins: (!everybody).then_some(origins),
            credentials,
            methods: tokens(section, "methods", &METHODS),
            headers: tokens(section, "headers", &HEADERS),
            max_age: section.duration("maxAge", MAX_AGES, MAX_AGE),
        })
    }
}

fn read_origin(node: &Node<'_>) -> Option<String> {
    let text = node.text("an origin such as https://app.example.com")?;
    if text == "*" {
        return Some(text.to_owned());
    }
    let (scheme, authority) = text.split_once("://").unwrap_or_default();
    let port = authority.rsplit_once(':').map(|(_, port)| port);
    let is_origin = !scheme.is_empty()
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
        && !authority.is_empty()
        && authority
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_:[]".contains(&byte));
    if !is_origin {
        node.fail(format!(
            "{text:?} is not an origin: scheme://host or scheme://host:port, in lower case, nothing behind it"
        ));
    } else if matches!((scheme, port), ("https", Some("443")) | ("http", Some("80"))) {
        node.fail("browsers leave the scheme's own port out; so must this");
    } else {
        return Some(text.to_owned());
    }
    None
}

fn tokens(section: &Section<'_>, key: &str, default: &[&str]) -> Vec<String> {
    let Some(list) = section.get(key) else { return default.iter().map(|word| (*word).to_owned()).collect() };
    let token = |node: &Node<'_>| {
        let text = node.text("a name")?;
        if !name::is_token(text) || text == "*" {
            node.fail(format!(
                "{text:?} is not a name; `*` would mean different things with and without credentials"
            ));
            return None;
        }
        Some(text.to_owned())
    };
    list.items("a list of names").unwrap_or_default().iter().filter_map(token).collect()
}
