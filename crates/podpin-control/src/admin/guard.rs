//! Permission to ask on the admin port: requests that a web page made a browser send are refused, and those that change something need
//! the token, or come from this machine.
//!
//! A page anywhere can have its visitor's browser post to any address (cross-site request forgery), and read answers once its own name
//! resolves to that address (DNS rebinding). The browser says where such a request comes from, and what name it asked for; every other
//! client is believed, as the port is meant to be reached by probes, Prometheus and preStop hooks without a setting.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use podpin_config::{Admin, Host};

use crate::admin::problem::Problem;
use crate::admin::token;

/// Whether a browser sends a request for a page of the same origin (W3C Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Paths of probes: they say nothing that is worth a forged name, and change nothing.
const PROBES: [&str; 2] = ["/livez", "/readyz"];

/// Suffixes of names that no stranger can have resolve to anything: the cluster's, and those that are reserved for private use
/// (RFC 6761, and `internal` by ICANN).
const PRIVATE_SUFFIXES: [&str; 5] = [".svc", ".cluster.local", ".internal", ".localhost", ".test"];

/// The address of the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Refuses requests by [`allow`].
pub(super) async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    match allow(&admin, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            let (method, path) = (request.method(), request.uri().path());
            tracing::warn!(%method, path, reason = problem.reason(), "refused on the admin port");
            problem.into_response()
        }
    }
}

/// Decides whether a request is answered.
///
/// # Errors
/// Says what is missing.
fn allow(admin: &Admin, request: &Request) -> Result<(), Problem> {
    let (method, headers) = (request.method(), request.headers());
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    if is_read && PROBES.contains(&request.uri().path()) {
        return Ok(());
    }
    let host = host(request)?;
    if let Some(host) = host.filter(|host| !is_own_name(&admin.hostnames, host)) {
        let error = format!("the host {host:?} is none of this port's: admin.hostnames lists more");
        return Err(Problem::forbidden(error));
    }
    refuse_cross_site(headers, host, is_read)?;
    if is_read { Ok(()) } else { allow_change(admin, request) }
}

/// Returns the authority that a request is for; `None` if it names none, as no browser's does.
///
/// # Errors
/// If it names several, or one that is no text.
fn host(request: &Request) -> Result<Option<&str>, Problem> {
    let mut named = request.headers().get_all(header::HOST).iter();
    let (first, second) = (named.next(), named.next());
    let refused = || Problem::bad_request("the request names no single host");
    let field = first.map(|value| value.to_str().map_err(|_| refused())).transpose()?;
    let target = request.uri().authority().map(|authority| authority.as_str());
    match (field, target, second) {
        (_, _, Some(_)) => Err(refused()),
        (Some(field), Some(target), None) if !field.eq_ignore_ascii_case(target) => Err(refused()),
        (field, target, None) => Ok(field.or(target)),
    }
}

/// Returns whether an authority names this port: by an address, a name that no stranger can have, or a configured one.
fn is_own_name(hostnames: &[Host], authority: &str) -> bool {
    if authority.starts_with('[') {
        return authority.split_once(']').is_some_and(|(ip, _)| ip[1..].parse::<IpAddr>().is_ok());
    }
    let name = authority.rsplit_once(':').map_or(authority, |(name, _)| name).to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    name.parse::<IpAddr>().is_ok()
        || !name.contains('.')
        || PRIVATE_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
        || hostnames.iter().any(|host| host.matches(name))
}

/// Refuses what a browser sends for a page of another origin. Only links to pages may lead here from elsewhere.
fn refuse_cross_site(headers: &HeaderMap, host: Option<&str>, is_read: bool) -> Result<(), Problem> {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(origin) = text(&header::ORIGIN) {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        let is_own = host.zip(authority).is_some_and(|(host, origin)| origin.eq_ignore_ascii_case(host));
        if !is_own {
            return Err(Problem::forbidden("the request is for a page of another origin"));
        }
    }
    let is_link = is_read && text(&SEC_FETCH_MODE) == Some("navigate");
    match text(&SEC_FETCH_SITE) {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) if is_link => Ok(()),
        Some(_) => Err(Problem::forbidden("the request is for a page of another site")),
    }
}

/// Allows a request that changes something.
fn allow_change(admin: &Admin, request: &Request) -> Result<(), Problem> {
    let Some(file) = &admin.token else {
        let peer = request.extensions().get::<Peer>().map(|Peer(peer)| peer.ip().to_canonical());
        return match peer {
            Some(peer) if peer.is_loopback() => Ok(()),
            _ => Err(Problem::forbidden(
                "without admin.token, changes are asked for from the machine or Pod itself (kubectl port-forward)",
            )),
        };
    };
    let wanted = token::read(&file.file).map_err(|error| {
        tracing::error!(file = %file.file.display(), %error, "admin.token cannot be used: changes are refused");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "admin.token cannot be used: see the log")
    })?;
    let shown = request.headers().get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let is_bearer = shown.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"Bearer "));
    let shown = shown.get(7..).filter(|_| is_bearer).unwrap_or_default();
    match token::is_equal(shown.trim_ascii(), &wanted) {
        true => Ok(()),
        false => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "changes need `Authorization: Bearer` with admin.token",
        )),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use podpin_config::FileAt;

    use super::*;

    fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Request {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    fn from(peer: &str, mut request: Request) -> Request {
        request.extensions_mut().insert(Peer(peer.parse().unwrap()));
        request
    }

    fn status(admin: &Admin, request: &Request) -> u16 {
        allow(admin, request).map_or_else(|problem| problem.into_response().status().as_u16(), |()| 200)
    }

    #[test]
    fn a_host_is_an_address_a_private_name_or_a_configured_one() {
        let hostnames = [Host::Exact("podpin.example.com".into()), Host::Wildcard(".ops.example.com".into())];
        let admin = Admin { hostnames: hostnames.into(), ..Admin::default() };
        let own = [
            "127.0.0.1:9901",
            "10.0.0.7",
            "[::1]:9901",
            "[fe80::1]",
            "localhost:9901",
            "podpin-admin",
            "podpin-admin.prod.svc:9901",
            "podpin-admin.prod.svc.cluster.local.",
            "PODPIN.example.com:9901",
            "a.b.ops.example.com",
            "podpin.internal",
        ];
        let foreign = [
            "evil.example",
            "evil.example:9901",
            "127.0.0.1.evil.example",
            "svc.evil.example",
            "ops.example.com",
            "evilsvc.example",
            "podpin.example.com.evil.example",
            "[evil.example]",
            "a@evil.example",
            "127.0.0.1@evil.example:80",
        ];
        for path in ["/", "/metrics", "/api/endpoints", "/api/drain/wait?pod=a", "/nowhere"] {
            for host in own {
                assert_eq!(status(&admin, &request("GET", path, &[("host", host)])), 200, "{host}");
            }
            for host in foreign {
                assert_eq!(status(&admin, &request("GET", path, &[("host", host)])), 403, "{host}");
            }
        }
        assert_eq!(status(&admin, &request("GET", "/livez", &[("host", "any.example")])), 200);
        assert_eq!(status(&admin, &request("GET", "/metrics", &[])), 200, "HTTP/1.0");
        let two = [("host", "10.0.0.7"), ("host", "evil.example")];
        assert_eq!(status(&admin, &request("GET", "/metrics", &two)), 400);
        let absolute = request("GET", "http://evil.example/metrics", &[("host", "10.0.0.7")]);
        assert_eq!(status(&admin, &absolute), 400);
        assert_eq!(status(&admin, &request("GET", "http://evil.example/metrics", &[])), 403);
    }

    #[test]
    fn a_browser_is_refused_for_pages_of_other_origins() {
        let (admin, own, drain) = (Admin::default(), ("host", "10.0.0.7:9901"), "/api/endpoints/a/p/drain");
        let ask = |method: &str, path: &str, fields: &[(&str, &str)]| {
            let fields = [&[own], fields].concat();
            status(&admin, &from("127.0.0.1:5", request(method, path, &fields)))
        };
        for origin in ["http://evil.example", "null", "http://10.0.0.7:9902", "http://10.0.0.7", ""] {
            assert_eq!(ask("POST", drain, &[("origin", origin)]), 403, "{origin}");
            assert_eq!(ask("GET", "/metrics", &[("origin", origin)]), 403, "{origin}");
        }
        assert_eq!(ask("POST", drain, &[("origin", "http://10.0.0.7:9901")]), 200);
        for site in ["cross-site", "same-site", "nonsense"] {
            let site = ("sec-fetch-site", site);
            assert_eq!(ask("POST", drain, &[site]), 403, "{site:?}");
            assert_eq!(ask("POST", drain, &[site, ("sec-fetch-mode", "navigate")]), 403, "a form");
            assert_eq!(ask("GET", "/api/drain/wait?pod=a", &[site, ("sec-fetch-mode", "no-cors")]), 403);
            assert_eq!(ask("GET", "/", &[site, ("sec-fetch-mode", "navigate")]), 200, "a link");
        }
        for site in ["same-origin", "none"] {
            assert_eq!(ask("POST", drain, &[("sec-fetch-site", site)]), 200, "{site}");
        }
    }

    #[test]
    fn changes_need_the_token_or_this_machine() {
        let drain = |peer: &str, fields: &[(&str, &str)]| {
            from(peer, request("POST", "/api/endpoints/a/p/drain", fields))
        };
        let open = Admin::default();
        for (peer, expected) in
            [("127.0.0.1:5", 200), ("[::1]:5", 200), ("[::ffff:127.0.0.1]:5", 200), ("10.0.0.9:5", 403)]
        {
            assert_eq!(status(&open, &drain(peer, &[])), expected, "{peer}");
        }
        assert_eq!(status(&open, &from("10.0.0.9:5", request("GET", "/api/drain/wait?pod=a", &[]))), 200);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "a-token-of-an-operator\n").unwrap();
        let at = podpin_config::Position { line: 1, column: 1 };
        let closed = Admin { token: Some(FileAt { file: file.clone(), at }), ..Admin::default() };
        for (shown, expected) in [
            ("Bearer a-token-of-an-operator", 200),
            ("bearer a-token-of-an-operator", 200),
            ("Bearer a-token-of-an-operatos", 401),
            ("Bearer a-token-of-an-operator-", 401),
            ("Bearer ", 401),
            ("Basic a-token-of-an-operator", 401),
            ("a-token-of-an-operator", 401),
        ] {
            let request = drain("127.0.0.1:5", &[("authorization", shown)]);
            assert_eq!(status(&closed, &request), expected, "{shown}");
        }
        assert_eq!(status(&closed, &drain("127.0.0.1:5", &[])), 401, "not even from this machine");
        std::fs::write(&file, "another-token-of-an-operator").unwrap();
        let next = [("authorization", "Bearer another-token-of-an-operator")];
        assert_eq!(status(&closed, &drain("10.0.0.9:5", &next)), 200, "the file counts as it is now");
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(status(&closed, &drain("10.0.0.9:5", &[("authorization", "Bearer ")])), 500);
    }
}
