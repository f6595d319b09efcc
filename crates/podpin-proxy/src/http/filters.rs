//! Filters of a route, on all data paths alike: redirect to https, header edits, rewrite (Gateway API's
//! `ReplacePrefixMatch`), CORS (WHATWG Fetch, section 3.3).
//!
//! Built once from the checked configuration; responses of the filters themselves are [`LocalResponse`]s.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use podpin_config as config;

use crate::http::reply::LocalResponse;
use podpin_wire::fields::Fields;
use podpin_wire::header_list::HeaderList;
use podpin_wire::http1::request_head::{self, RequestHead};

/// The filters of one route.
#[derive(Debug, Default)]
pub struct RouteFilters {
    redirect: Option<StatusCode>,
    request: Edits,
    response: Edits,
    prefix: Option<Prefix>,
    hostname: Option<HeaderValue>,
    cors: Option<Cors>,
}

#[derive(Debug, Default)]
struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

/// A path prefix and its replacement; neither ends with a slash.
#[derive(Debug)]
struct Prefix {
    matched: String,
    replacement: String,
}

#[derive(Debug)]
struct Cors {
    /// Origins that may read responses; `None` if all may.
    origins: Option<Vec<HeaderValue>>,
    credentials: bool,
    preflight: Vec<(HeaderName, HeaderValue)>,
}

impl RouteFilters {
    /// Builds the filters that the configuration of a route describes.
    #[must_use]
    pub fn new(route: &config::Route) -> RouteFilters {
        let said = &route.filters;
        let prefix = said.path_prefix.clone().zip(match route.matches.as_slice() {
            [config::RouteMatch { path: config::PathMatch::Prefix(matched), .. }] => {
                Some(matched.trim_end_matches('/').to_owned())
            }
            _ => None,
        });
        RouteFilters {
            redirect: said.redirect_to_https.and_then(|code| StatusCode::from_u16(code).ok()),
            request: Edits::new(&said.request_headers),
            response: Edits::new(&said.response_headers),
            prefix: prefix.map(|(replacement, matched)| Prefix { matched, replacement }),
            hostname: said.hostname.as_deref().and_then(|host| HeaderValue::from_str(host).ok()),
            cors: said.cors.as_ref().map(Cors::new),
        }
    }

    /// Returns the response to a request that needs no endpoint: a preflight, or a redirect to https. `None` if an endpoint
    /// has to answer. `is_secure` if the client's connection is encrypted.
    #[must_use]
    pub fn local_response(&self, head: &RequestHead, is_secure: bool) -> Option<LocalResponse> {
        let (method, received) = (&head.method, &head.fields);
        let (target, authority) = (head.target(), head.authority());
        if let Some(cors) = self.cors.as_ref().filter(|_| is_preflight(method, received)) {
            return Some(LocalResponse::empty(StatusCode::NO_CONTENT, cors.preflight_headers(received)));
        }
        let status = self.redirect.filter(|_| !is_secure)?;
        let host = request_head::without_port(authority);
        if host.is_empty() {
            // There is no name to redirect to, and what the route keeps to https is not answered without it.
            return Some(LocalResponse::empty(StatusCode::BAD_REQUEST, HeaderMap::new()));
        }
        let location = HeaderValue::try_from(format!("https://{host}{target}")).ok()?;
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, location);
        self.cross_origin(received, &mut headers);
        Some(LocalResponse::empty(status, headers))
    }

    /// Returns whether the edits of a request set, add or remove a field of this name.
    #[must_use]
    pub fn edits_request(&self, name: &[u8]) -> bool {
        let Edits { remove, set, add } = &self.request;
        let edited = remove.iter().chain(set.iter().chain(add).map(|(edited, _)| edited));
        edited.into_iter().any(|edited| edited.as_str().as_bytes() == name)
    }

    /// Edits the fields of a request to an endpoint.
    pub fn edit_request<'a>(&'a self, fields: &mut HeaderList<'a>) {
        let Edits { remove, set, add } = &self.request;
        for name in remove {
            fields.remove(name.as_str().as_bytes());
        }
        for (name, value) in set {
            fields.insert(name.as_str().as_bytes(), value.as_bytes());
        }
        for (name, value) in add {
            fields.append(name.as_str().as_bytes(), value.as_bytes());
        }
    }

    /// Edits the fields of an endpoint's response to a request with the fields `received`.
    pub fn edit_response(&self, received: &Fields, headers: &mut HeaderMap) {
        self.response.apply(headers);
        self.cross_origin(received, headers);
    }

    /// Writes whether the page that sent a request may read its response, an endpoint's or the proxy's.
    pub fn cross_origin(&self, received: &Fields, headers: &mut HeaderMap) {
        if let Some(cors) = &self.cors {
            cors.write(received, headers);
        }
    }

    /// Returns whether a path gets another prefix.
    #[must_use]
    pub fn rewrites_path(&self) -> bool {
        self.prefix.is_some()
    }

    /// Returns path and query for the endpoint; `None` if they stay as they are.
    #[must_use]
    pub fn target(&self, received: &str) -> Option<String> {
        let prefix = self.prefix.as_ref()?;
        let rest = received.strip_prefix(prefix.matched.as_str())?;
        if !prefix.replacement.is_empty() {
            return Some(format!("{}{rest}", prefix.replacement));
        }
        // An application that redirects to two slashes would name a host.
        Some(format!("/{}", rest.trim_start_matches('/')))
    }

    /// Returns `Host` for the endpoint; `None` if it stays as it is.
    #[must_use]
    pub fn hostname(&self) -> Option<&HeaderValue> {
        self.hostname.as_ref()
    }
}

fn is_preflight(method: &Method, fields: &Fields) -> bool {
    *method == Method::OPTIONS
        && fields.contains(&header::ORIGIN)
        && fields.contains(&header::ACCESS_CONTROL_REQUEST_METHOD)
}

impl Edits {
    fn new(said: &config::HeaderEdits) -> Edits {
        let parsed = |list: &[(String, String)]| {
            list.iter()
                .filter_map(|(name, value)| Some((name.parse().ok()?, HeaderValue::from_str(value).ok()?)))
                .collect()
        };
        Edits {
            remove: said.remove.iter().filter_map(|name| name.parse().ok()).collect(),
            set: parsed(&said.set),
            add: parsed(&said.add),
        }
    }

    fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
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

    /// Returns `Access-Control-Allow-Origin` for a request; `None` if its origin may not read the response.
    fn allowed(&self, received: &Fields) -> Option<HeaderValue> {
        let origin = received.get(&header::ORIGIN)?;
        match &self.origins {
            None => Some(HeaderValue::from_static("*")),
            Some(list) => list.iter().find(|allowed| allowed.as_bytes() == origin).cloned(),
        }
    }

    fn preflight_headers(&self, received: &Fields) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.write(received, &mut headers);
        if headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            headers.extend(self.preflight.iter().cloned());
        }
        headers
    }

    /// Writes the fields of CORS in the place of the endpoint's own: a browser refuses two values.
    fn write(&self, received: &Fields, headers: &mut HeaderMap) {
        headers.remove(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        headers.remove(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
        if let Some(origin) = self.allowed(received) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            if self.credentials {
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
        // A cache must not give one origin's answer to another, nor an answer without an origin.
        if self.origins.is_some() && !varies_by_origin(headers) {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
    }
}

fn varies_by_origin(headers: &HeaderMap) -> bool {
    let named = |name: &[u8]| name.trim_ascii() == b"*" || name.trim_ascii().eq_ignore_ascii_case(b"origin");
    headers
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
            let filters = RouteFilters { prefix: Some(prefix), ..RouteFilters::default() };
            assert_eq!(filters.target(asked).as_deref(), Some(expected), "{asked} {matched} {replacement}");
        }
    }
}
