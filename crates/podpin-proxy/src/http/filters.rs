//! What a route does with requests and responses besides placing them, on both data paths alike: redirect to https,
//! header edits, rewrite (Shared API's `ReplacePrefixMatch`), CORS (WHATWG Fetch, section 3.3).
//!
//! Built once from what podpin-config has checked; the answers that it gives itself are `reply.rs`'s.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use podpin_config as config;

use crate::http::reply::Answer;

/// What one route changes.
#[derive(Debug, Default)]
pub struct Treatment {
    redirect: Option<StatusCode>,
    request: Edits,
    response: Edits,
    prefix: Option<Prefix>,
    hostname: Option<HeaderValue>,
    cors: Option<Cors>,
}

/// Which way a head goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

#[derive(Debug, Default)]
struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

/// A path prefix and what stands in its place; neither ends with a slash.
#[derive(Debug)]
struct Prefix {
    matched: String,
    replacement: String,
}

#[derive(Debug)]
struct Cors {
    /// `None`: everybody.
    origins: Option<Vec<HeaderValue>>,
    credentials: bool,
    preflight: Vec<(HeaderName, HeaderValue)>,
}

impl Treatment {
    /// What the configuration of a route says.
    pub fn new(route: &config::Route) -> Treatment {
        let said = &route.filters;
        let prefix = said.path_prefix.clone().zip(match route.matches.as_slice() {
            [config::RouteMatch { path: config::PathMatch::Prefix(matched), .. }] => {
                Some(matched.trim_end_matches('/').to_owned())
            }
            _ => None,
        });
        Treatment {
            redirect: said.redirect_to_https.and_then(|code| StatusCode::from_u16(code).ok()),
            request: Edits::new(&said.request_headers),
            response: Edits::new(&said.response_headers),
            prefix: prefix.map(|(replacement, matched)| Prefix { matched, replacement }),
            hostname: said.hostname.as_deref().and_then(|host| HeaderValue::from_str(host).ok()),
            cors: said.cors.as_ref().map(Cors::new),
        }
    }

    /// The answer to a request that needs no pod: a preflight, or somebody who should come over TLS.
    pub fn answer(
        &self,
        (method, authority, target): (&Method, &str, &str),
        headers: &HeaderMap,
        secure: bool,
    ) -> Option<Answer> {
        if let Some(cors) = self.cors.as_ref().filter(|_| is_preflight(method, headers)) {
            return Some(Answer::empty(StatusCode::NO_CONTENT, cors.preflight_lines(headers)));
        }
        let status = self.redirect.filter(|_| !secure && !authority.is_empty())?;
        let location = HeaderValue::try_from(format!("https://{}{target}", without_port(authority))).ok()?;
        let mut lines = HeaderMap::new();
        lines.insert(header::LOCATION, location);
        self.cross_origin(headers, &mut lines);
        Some(Answer::empty(status, lines))
    }

    /// Changes the lines of a request to the pod.
    pub fn edit_request(&self, lines: &mut HeaderMap) {
        self.request.make(lines);
    }

    /// Names whose lines may be changed.
    pub fn edited(&self, side: Side) -> impl Iterator<Item = &HeaderName> {
        let edits = if side == Side::Request { &self.request } else { &self.response };
        let written = edits.set.iter().chain(&edits.add).map(|(name, _)| name);
        let cors = CORS_LINES.iter().filter(move |_| side == Side::Response && self.cors.is_some());
        edits.remove.iter().chain(written).chain(cors)
    }

    /// Changes the lines of a pod's response to a request with the lines `asked`.
    pub fn edit_response(&self, asked: &HeaderMap, lines: &mut HeaderMap) {
        self.response.make(lines);
        self.cross_origin(asked, lines);
    }

    /// Says whether the page that asked may see a response, the pod's or ours.
    pub fn cross_origin(&self, asked: &HeaderMap, lines: &mut HeaderMap) {
        if let Some(cors) = &self.cors {
            cors.write(asked, lines);
        }
    }

    /// Path and query for the pod; `None`: as the client said.
    pub fn target(&self, asked: &str) -> Option<String> {
        let prefix = self.prefix.as_ref()?;
        let rest = asked.strip_prefix(prefix.matched.as_str())?;
        if !prefix.replacement.is_empty() {
            return Some(format!("{}{rest}", prefix.replacement));
        }
        // Two slashes at the beginning would be read as a host by whoever redirects to it.
        Some(format!("/{}", rest.trim_start_matches('/')))
    }

    /// `Host` for the pod; `None`: as the client said.
    pub fn hostname(&self) -> Option<&HeaderValue> {
        self.hostname.as_ref()
    }
}

/// Lines of responses that [`Cors::write`] may change.
static CORS_LINES: [HeaderName; 3] =
    [header::ACCESS_CONTROL_ALLOW_ORIGIN, header::ACCESS_CONTROL_ALLOW_CREDENTIALS, header::VARY];

fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn without_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(colon) if !authority.ends_with(']') => authority.get(..colon).unwrap_or(authority),
        _ => authority,
    }
}

impl Edits {
    fn new(said: &config::HeaderEdits) -> Edits {
        let lines = |list: &[(String, String)]| {
            list.iter()
                .filter_map(|(name, value)| Some((name.parse().ok()?, HeaderValue::from_str(value).ok()?)))
                .collect()
        };
        Edits {
            remove: said.remove.iter().filter_map(|name| name.parse().ok()).collect(),
            set: lines(&said.set),
            add: lines(&said.add),
        }
    }

    fn make(&self, lines: &mut HeaderMap) {
        for name in &self.remove {
            lines.remove(name);
        }
        for (name, value) in &self.set {
            lines.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            lines.append(name, value.clone());
        }
    }
}

impl Cors {
    fn new(said: &config::Cors) -> Cors {
        let value = |text: String| HeaderValue::try_from(text).ok();
        let preflight = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, said.methods.join(", ")),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, said.headers.join(", ")),
            (header::ACCESS_CONTROL_MAX_AGE, said.max_age.as_secs().to_string()),
        ];
        Cors {
            origins: said
                .origins
                .as_ref()
                .map(|list| list.iter().filter_map(|origin| value(origin.clone())).collect()),
            credentials: said.credentials,
            preflight: preflight
                .into_iter()
                .filter(|(_, text)| !text.is_empty())
                .filter_map(|(name, text)| Some((name, value(text)?)))
                .collect(),
        }
    }

    /// What `Access-Control-Allow-Origin` says to who asks; `None`: nothing.
    fn allowed(&self, asked: &HeaderMap) -> Option<HeaderValue> {
        let origin = asked.get(header::ORIGIN)?;
        match &self.origins {
            None => Some(HeaderValue::from_static("*")),
            Some(list) => list.contains(origin).then(|| origin.clone()),
        }
    }

    fn preflight_lines(&self, asked: &HeaderMap) -> HeaderMap {
        let mut lines = HeaderMap::new();
        self.write(asked, &mut lines);
        if lines.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            lines.extend(self.preflight.iter().cloned());
        }
        lines
    }

    /// What the pod says of it itself is replaced: two answers would be none to a browser.
    fn write(&self, asked: &HeaderMap, lines: &mut HeaderMap) {
        lines.remove(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        lines.remove(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
        if let Some(origin) = self.allowed(asked) {
            lines.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            if self.credentials {
                lines.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
        // A cache must not give one origin's answer to another, nor an answer without an origin.
        if self.origins.is_some() && !varies_by_origin(lines) {
            lines.append(header::VARY, HeaderValue::from_static("Origin"));
        }
    }
}

fn varies_by_origin(lines: &HeaderMap) -> bool {
    let named = |name: &[u8]| name.trim_ascii() == b"*" || name.trim_ascii().eq_ignore_ascii_case(b"origin");
    lines
        .get_all(header::VARY)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_as_the_gateway_api_says() {
        let cases = [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo?a=/foo", "/foo", "", "/?a=/foo"),
            ("/foo//host/x", "/foo", "", "/host/x"),
            ("/bar?x", "", "/xyz", "/xyz/bar?x"),
        ];
        for (asked, matched, replacement, expected) in cases {
            let prefix = Prefix { matched: matched.to_owned(), replacement: replacement.to_owned() };
            let treatment = Treatment { prefix: Some(prefix), ..Treatment::default() };
            assert_eq!(treatment.target(asked).as_deref(), Some(expected), "{asked} {matched} {replacement}");
        }
    }

    #[test]
    fn the_port_of_an_authority_is_dropped_and_an_address_is_not_cut() {
        for (authority, host) in
            [("a.b:8080", "a.b"), ("a.b", "a.b"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")]
        {
            assert_eq!(without_port(authority), host);
        }
    }
}
