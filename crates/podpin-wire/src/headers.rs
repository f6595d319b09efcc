//! Header fields that cross the proxy, and fields that it adds about the client (RFC 9110 section 7.6, RFC 7239).
//!
//! One set of rules for all data paths and both directions: hop-by-hop fields and those that `Connection` nominates
//! end here, forwarding fields are the proxy's own, `X-Podpin-*` never crosses from outside to inside or back.
//!
//! Applications behind CGI, WSGI, Rack and their like read `X-Real-IP` and `X_Real_IP` as one field. A *twin*, which differs from a field of
//! the proxy in that way only, does not cross either.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::client::{Client, ClientCertificate};
use crate::fields::Fields;
use crate::forwarded::{FORWARDED_FOR, FORWARDED_PROTO};

/// Session that the endpoint should restore; stable over re-pins. In a response, `renew` begins another one.
pub const SESSION: HeaderName = HeaderName::from_static("x-podpin-session");
/// Reason why a client that was pinned elsewhere comes to this endpoint.
pub const REPINNED: HeaderName = HeaderName::from_static("x-podpin-repinned");
/// Name of the subject of the client's certificate.
const CLIENT_SUBJECT: HeaderName = HeaderName::from_static("x-podpin-client-subject");
/// Name of the issuer of the client's certificate.
const CLIENT_ISSUER: HeaderName = HeaderName::from_static("x-podpin-client-issuer");
/// Subject alternative names of the client's certificate.
const CLIENT_SAN: HeaderName = HeaderName::from_static("x-podpin-client-san");
/// SHA-256 hash of the client's certificate.
const CLIENT_FINGERPRINT: HeaderName = HeaderName::from_static("x-podpin-client-fingerprint");
/// Certificate of the client (RFC 9440).
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
/// Certificates that the client has shown behind its own (RFC 9440).
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
const OURS: &str = "x-podpin-";
const FORWARDED_PREFIX: &str = "x-forwarded-";
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Whether a field means something between two neighbours only.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
    ) || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings" | "proxy-status")
}

/// Whether a field belongs to two neighbours, or is the proxy's own to write, in a place where it means nothing to others.
pub(crate) fn is_internal(name: &HeaderName) -> bool {
    let text = name.as_str();
    is_hop_by_hop(name)
        || *name == REAL_IP
        || is_client_certificate(name)
        || text.starts_with(OURS)
        || text.starts_with(FORWARDED_PREFIX)
}

/// Whether a field is a certificate of the client (RFC 9440), which only the proxy that saw it may send (section 4).
fn is_client_certificate(name: &HeaderName) -> bool {
    *name == CLIENT_CERT || *name == CLIENT_CERT_CHAIN
}

/// Returns the names that `Connection` nominates (RFC 9110 section 7.6.1), as a set: a head of 32 KiB can nominate
/// 16,000. The length is left out: the recipient finds the end of the message by it.
fn nominated<'a>(connection: impl Iterator<Item = &'a [u8]>) -> HashSet<HeaderName> {
    connection
        .flat_map(|value| value.split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| *name != header::CONTENT_LENGTH)
        .collect()
}

/// Returns the end-to-end fields of a request, for an upstream request of the proxy's own.
///
/// `Host` and `Content-Length` are left out: the caller writes its own or none.
#[must_use]
pub fn request_headers(received: &Fields, client: &Client) -> HeaderMap {
    let nominated = nominated(received.all(&header::CONNECTION));
    received.to_map(|name| {
        !is_replaced(name)
            && !is_hop_by_hop(name)
            && !nominated.contains(name)
            && !is_claimed(name, client)
            // CGI hands it to programs as HTTP_PROXY, which makes them send their own requests there (httpoxy).
            && name.as_str() != "proxy"
            && !is_twin(name, |twin| is_replaced(twin) || is_internal(twin) || *twin == header::FORWARDED)
    })
}

/// Whether the proxy writes a field of a request itself, or leaves it out.
fn is_replaced(name: &HeaderName) -> bool {
    matches!(*name, header::HOST | header::CONTENT_LENGTH)
}

/// Whether a name would be one for which `is_ours` holds, if it had hyphens for its underscores.
pub(crate) fn is_twin(name: &HeaderName, is_ours: impl Fn(&HeaderName) -> bool) -> bool {
    name.as_str().contains('_')
        && HeaderName::from_bytes(name.as_str().replace('_', "-").as_bytes()).is_ok_and(|twin| is_ours(&twin))
}

/// Removes the twins of fields for which `is_ours` holds, and of other fields of the same head: only one of the two can be meant.
pub fn remove_twins(headers: &mut HeaderMap, is_ours: impl Fn(&HeaderName) -> bool) {
    let is_double = |name: &HeaderName| is_twin(name, |twin| is_ours(twin) || headers.contains_key(twin));
    let twins: Vec<HeaderName> = headers.keys().filter(|name| is_double(name)).cloned().collect();
    for twin in twins {
        headers.remove(twin);
    }
}

/// Whether only the proxy may write a field: clients cannot choose their address or their session.
fn is_claimed(name: &HeaderName, client: &Client) -> bool {
    let text = name.as_str();
    let rewritten = *name == FORWARDED_FOR
        || *name == FORWARDED_PROTO
        || *name == FORWARDED_HOST
        || *name == header::FORWARDED
        || *name == REAL_IP
        || is_client_certificate(name);
    text.starts_with(OURS) || rewritten || (!client.trusted && text.starts_with(FORWARDED_PREFIX))
}

/// Returns the fields about the client: `X-Forwarded-For/-Proto/-Host`, `X-Real-IP` and `Forwarded`, appended to the
/// values of a trusted proxy, in the place of any other client's. `received` are the fields as they came.
#[must_use]
pub fn forwarding_headers(
    received: &Fields,
    client: &Client,
    authority: &str,
) -> Vec<(HeaderName, HeaderValue)> {
    let before = client.trusted.then_some(received);
    let scheme = if client.secure { "https" } else { "http" };
    let peer = client.peer.to_string();
    let certificate = client.certificate.as_deref();
    let certificate_bytes = certificate.map_or(0, ClientCertificate::text_bytes);
    let mut fields = SharedValues::new(2 * (peer.len() + authority.len()) + certificate_bytes);
    if client.address != client.peer && !received.contains(&FORWARDED_FOR) {
        // Named by `Forwarded` alone.
        fields.list(FORWARDED_FOR, None, &[&client.address.to_string(), ", ", &peer]);
    } else {
        fields.list(FORWARDED_FOR, before, &[&peer]);
    }
    fields.first(FORWARDED_PROTO, before, scheme);
    fields.first(FORWARDED_HOST, before, authority);
    if client.address == client.peer {
        fields.list(REAL_IP, None, &[&peer]);
    } else {
        fields.list(REAL_IP, None, &[&client.address.to_string()]);
    }
    // RFC 7239 section 4: IPv6 addresses and hosts with a port are quoted.
    let [before_peer, behind_peer] = if client.peer.is_ipv6() { ["for=\"[", "]\""] } else { ["for=", ""] };
    let [before_host, behind_host] = match authority {
        "" => ["", ""],
        host if is_plain_host(host) => [";host=", ""],
        _ => [";host=\"", "\""],
    };
    let element = [before_peer, &peer, behind_peer, before_host, authority, behind_host, ";proto=", scheme];
    fields.list(header::FORWARDED, before, &element);
    if let Some(certificate) = certificate {
        fields.certificate(certificate);
    }
    fields.finish()
}

/// Whether a host needs no quotes in `Forwarded`.
fn is_plain_host(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

/// Number of fields about a client.
const CLIENT_FIELDS: usize = 5;
/// Bytes of the values of these fields beside addresses and hosts.
const CLIENT_FIELDS_BYTES: usize = 96;

/// Header fields whose values share one piece of memory.
struct SharedValues {
    text: String,
    ends: Vec<(HeaderName, usize)>,
}

impl SharedValues {
    /// Returns no fields, with room for this many bytes of addresses and hosts.
    fn new(bytes: usize) -> SharedValues {
        let text = String::with_capacity(CLIENT_FIELDS_BYTES + bytes);
        SharedValues { text, ends: Vec::with_capacity(CLIENT_FIELDS) }
    }

    /// Adds a list: the items of the fields of this name before, and one more, of these parts.
    fn list(&mut self, name: HeaderName, before: Option<&Fields>, item: &[&str]) {
        self.join(&name, before);
        if self.is_begun() {
            self.text.push_str(", ");
        }
        self.text.extend(item.iter().copied());
        self.ends.push((name, self.text.len()));
    }

    /// Adds the values of the fields of this name before, or else `otherwise`.
    fn first(&mut self, name: HeaderName, before: Option<&Fields>, otherwise: &str) {
        self.join(&name, before);
        if !self.is_begun() {
            self.text.push_str(otherwise);
        }
        self.ends.push((name, self.text.len()));
    }

    fn certificate(&mut self, certificate: &ClientCertificate) {
        for (name, text) in [
            (CLIENT_SUBJECT, &certificate.subject),
            (CLIENT_ISSUER, &certificate.issuer),
            (CLIENT_SAN, &certificate.subject_alt_names),
            (CLIENT_FINGERPRINT, &certificate.fingerprint),
            (CLIENT_CERT, &certificate.certificate),
            (CLIENT_CERT_CHAIN, &certificate.chain),
        ] {
            self.first(name, None, text.as_deref().unwrap_or_default());
        }
    }

    fn join(&mut self, name: &HeaderName, before: Option<&Fields>) {
        for value in before.into_iter().flat_map(|fields| fields.all(name)) {
            match std::str::from_utf8(value).ok().filter(|text| text.is_ascii()) {
                Some(text) => self.push(text),
                // Bytes that no item has take their item along, and no other.
                None => value.split(|byte| *byte == b',').filter(|item| item.is_ascii()).for_each(|item| {
                    self.push(std::str::from_utf8(item.trim_ascii()).unwrap_or_default());
                }),
            }
        }
    }

    /// Adds an item to the field that is being written.
    fn push(&mut self, item: &str) {
        if self.is_begun() && !item.is_empty() {
            self.text.push_str(", ");
        }
        self.text.push_str(item);
    }

    fn start(&self) -> usize {
        self.ends.last().map_or(0, |(_, end)| *end)
    }

    fn is_begun(&self) -> bool {
        self.text.len() > self.start()
    }

    /// Returns the fields, without empty ones.
    fn finish(self) -> Vec<(HeaderName, HeaderValue)> {
        let text = Bytes::from(self.text);
        let mut start = 0;
        let mut fields = Vec::with_capacity(self.ends.len());
        for (name, end) in self.ends {
            if end > start {
                let value = HeaderValue::from_maybe_shared(text.slice(start..end));
                fields.extend(value.ok().map(|value| (name, value)));
            }
            start = end;
        }
        fields
    }
}

/// Returns whether a response begins a new session for its client.
#[must_use]
pub fn renews_session(received: &HeaderMap) -> bool {
    received.get_all(SESSION).iter().any(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"renew"))
}

/// Returns the end-to-end fields of a response: without hop-by-hop and nominated ones, `X-Podpin-*`, and `Set-Cookie`
/// fields for which `sets_ours` holds.
#[must_use]
pub fn response_headers(mut headers: HeaderMap, sets_ours: impl Fn(&HeaderValue) -> bool) -> HeaderMap {
    let connection = headers.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
    let nominated = nominated(connection);
    let ends_here = |name: &&HeaderName| {
        name.as_str().starts_with(OURS) || is_hop_by_hop(name) || nominated.contains(*name)
    };
    let gone: Vec<HeaderName> = headers.keys().filter(ends_here).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
    if headers.get_all(header::SET_COOKIE).iter().any(&sets_ours) {
        let cookies: Vec<_> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
        headers.remove(header::SET_COOKIE);
        for cookie in cookies.into_iter().filter(|cookie| !sets_ours(cookie)) {
            headers.append(header::SET_COOKIE, cookie);
        }
    }
    headers
}

/// Leaves one `Content-Length` where a response has equal ones, and none with 204 (RFC 9110 section 8.6).
pub fn single_length(status: StatusCode, headers: &mut HeaderMap) {
    if status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
        return;
    }
    let lengths = headers.get_all(header::CONTENT_LENGTH).iter().count();
    if let Some(length) = headers.get(header::CONTENT_LENGTH).filter(|_| lengths > 1).cloned() {
        headers.insert(header::CONTENT_LENGTH, length);
    }
}

/// Returns whether credentials, or a challenge for them, authenticate the connection and not the request: NTLM, and Negotiate,
/// which may be NTLM.
#[must_use]
pub fn is_of_connection(value: &[u8]) -> bool {
    let starts_with = |scheme: &[u8]| {
        let (start, rest) = value.trim_ascii().split_at_checked(scheme.len()).unwrap_or((b"", b"x"));
        start.eq_ignore_ascii_case(scheme) && !rest.first().is_some_and(u8::is_ascii_alphanumeric)
    };
    starts_with(b"NTLM") || starts_with(b"Negotiate")
}

/// Returns how long a response says that its connection is kept (`Keep-Alive: timeout=`, in seconds), less a second for the way of a
/// request; `None` if it does not say.
#[must_use]
pub fn keep_alive_time(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("keep-alive").iter().filter_map(|value| value.to_str().ok());
    let parameters = values.flat_map(|value| value.split([',', ';', ' ']));
    let timeout = |one: &str| {
        let (name, value) = one.trim().split_once('=')?;
        name.eq_ignore_ascii_case("timeout").then(|| value.trim_matches('"').parse::<u32>().ok())?
    };
    parameters
        .filter_map(timeout)
        .min()
        .map(|seconds| Duration::from_secs(u64::from(seconds.saturating_sub(1))))
}

/// Returns whether a `Set-Cookie` value sets the cookie called `name`.
#[must_use]
pub fn sets_cookie(value: &HeaderValue, name: &str) -> bool {
    let pair = value.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
    pair.trim_ascii() == name.as_bytes()
}

/// Returns `Cache-Control` for a response that carries the affinity cookie: no shared cache stores it (RFC 9111 section
/// 5.2.2). `None` if the endpoint's own value is private already.
#[must_use]
pub fn private_cache_control(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    let has = |wanted: &str| directives.iter().any(|directive| directive.eq_ignore_ascii_case(wanted));
    if has("private") || has("no-store") {
        return None;
    }
    let shared = |directive: &&str| {
        let name = directive.split('=').next().unwrap_or_default();
        directive.is_empty() || name.eq_ignore_ascii_case("public") || name.eq_ignore_ascii_case("s-maxage")
    };
    let mut kept: Vec<&str> = directives.into_iter().filter(|directive| !shared(directive)).collect();
    kept.push("private");
    HeaderValue::try_from(kept.join(", ")).ok()
}

#[cfg(test)]
mod tests {
    use podpin_config::Cidr;

    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        map
    }

    fn client(peer: &str, lines: &[(&str, &str)], trusted: &[&str]) -> Client {
        let ranges: Vec<Cidr> = trusted.iter().map(|range| range.parse().unwrap()).collect();
        Client::of(peer.parse().unwrap(), false, &Fields::from(&map(lines)), &ranges)
    }

    #[test]
    fn a_pod_says_how_long_it_keeps_a_connection() {
        for (lines, expected) in [
            (&["timeout=5"][..], Some(4)),
            (&["max=100, Timeout=75"], Some(74)),
            (&["timeout=0"], Some(0)),
            (&["timeout=9", "timeout=3"], Some(2)),
            (&["timeout=x"], None),
            (&["max=1"], None),
            (&[], None),
        ] {
            let headers = map(&lines.iter().map(|line| ("keep-alive", *line)).collect::<Vec<_>>());
            assert_eq!(keep_alive_time(&headers), expected.map(Duration::from_secs), "{lines:?}");
        }
    }

    #[test]
    fn ntlm_and_negotiate_authenticate_connections() {
        for (value, expected) in [
            (&b"NTLM TlRMTVNTUAAB"[..], true),
            (b"negotiate", true),
            (b"Negotiate oYG2", true),
            (b"Basic abc", false),
            (b"NTLMx abc", false),
            (b"", false),
        ] {
            assert_eq!(is_of_connection(value), expected, "{value:?}");
        }
    }

    #[test]
    fn only_a_trusted_peer_may_name_the_client() {
        let lines = [("x-forwarded-for", "198.51.100.7, 203.0.113.9"), ("x-forwarded-proto", "https")];
        let stranger = client("203.0.113.1", &lines, &["10.0.0.0/8"]);
        assert_eq!((stranger.address.to_string(), stranger.secure), ("203.0.113.1".into(), false));
        let behind = client("10.1.1.1", &lines, &["10.0.0.0/8"]);
        assert_eq!((behind.address.to_string(), behind.secure), ("203.0.113.9".into(), true));
        let two_hops = client("::ffff:10.1.1.1", &lines, &["10.0.0.0/8", "203.0.113.0/24"]);
        assert_eq!(two_hops.address.to_string(), "198.51.100.7");
    }

    #[test]
    fn a_hop_that_is_no_address_ends_the_walk() {
        let lines = [("x-forwarded-for", "198.51.100.7, unknown, 10.0.0.2")];
        assert_eq!(client("10.0.0.1", &lines, &["10.0.0.0/8"]).address.to_string(), "10.0.0.2");
    }

    #[test]
    fn a_stranger_cannot_pass_hop_by_hop_nominated_or_claimed_fields() {
        let lines = [
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("x-podpin-session", "forged"),
            ("x-forwarded-port", "1"),
            ("forwarded", "for=1.1.1.1"),
            ("host", "a"),
            ("accept-encoding", "br"),
            ("cookie", "a=b"),
            ("last-event-id", "7"),
        ];
        let passed = request_headers(&Fields::from(&map(&lines)), &client("203.0.113.1", &lines, &[]));
        let names: Vec<&str> = passed.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["accept-encoding", "cookie", "last-event-id"]);
    }

    #[test]
    fn a_name_with_underscores_is_no_other_name_of_a_field_of_ours() {
        let dropped = [
            "x_podpin_session",
            "x_podpin_client_subject",
            "x_podpin_client_san",
            "client_cert",
            "client-cert_chain",
            "client-cert",
            "client-cert-chain",
            "x-podpin_repinned",
            "x_forwarded_for",
            "x_forwarded-proto",
            "x_forwarded_anything",
            "x_real_ip",
            "content_length",
            "transfer_encoding",
            "keep_alive",
            "proxy",
        ];
        let kept = ["foo_bar", "x_request_id", "_", "x_real_ips", "forwarded_", "proxy_"];
        let lines: Vec<(&str, &str)> = dropped.iter().chain(&kept).map(|name| (*name, "1")).collect();
        for trusted in [&[][..], &["203.0.113.1/32"]] {
            let passed =
                request_headers(&Fields::from(&map(&lines)), &client("203.0.113.1", &lines, trusted));
            let names: Vec<&str> = passed.keys().map(HeaderName::as_str).collect();
            assert_eq!(names, kept);
        }
        let lines =
            [("x_user", "forged"), ("x-user", "own"), ("x_users", "1"), ("a_b_c", "1"), ("a-b-c", "1")];
        let mut headers = map(&lines);
        remove_twins(&mut headers, |name| name.as_str() == "x-users");
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["a-b-c", "x-user"]);
        let mut headers = map(&lines[2..4]);
        remove_twins(&mut headers, |_| false);
        assert_eq!(headers.len(), 2, "they stand for nothing else");
        remove_twins(&mut headers, |_| true);
        assert!(headers.is_empty());
    }

    #[test]
    fn forwarding_fields_are_replaced_for_strangers_and_appended_for_trusted_peers() {
        let lines = [
            ("x-forwarded-for", "198.51.100.7"),
            ("forwarded", "for=198.51.100.7"),
            ("x-forwarded-host", "o"),
        ];
        let text = |trusted: &[&str]| {
            let told = forwarding_headers(
                &Fields::from(&map(&lines)),
                &client("10.0.0.1", &lines, trusted),
                "h:8080",
            );
            told.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(
            text(&[]),
            [
                "x-forwarded-for=10.0.0.1",
                "x-forwarded-proto=http",
                "x-forwarded-host=h:8080",
                "x-real-ip=10.0.0.1",
                "forwarded=for=10.0.0.1;host=\"h:8080\";proto=http"
            ]
        );
        assert_eq!(
            text(&["10.0.0.0/8"]),
            [
                "x-forwarded-for=198.51.100.7, 10.0.0.1",
                "x-forwarded-proto=http",
                "x-forwarded-host=o",
                "x-real-ip=198.51.100.7",
                "forwarded=for=198.51.100.7, for=10.0.0.1;host=\"h:8080\";proto=http"
            ]
        );
    }

    #[test]
    fn equal_lengths_become_one_and_204_has_none() {
        let mut lengths = map(&[("content-length", "3"), ("content-length", "3")]);
        single_length(StatusCode::OK, &mut lengths);
        assert_eq!(lengths.get_all(header::CONTENT_LENGTH).iter().count(), 1);
        single_length(StatusCode::NO_CONTENT, &mut lengths);
        assert!(lengths.is_empty());
    }

    #[test]
    fn a_pod_cannot_write_our_cookie_or_our_headers() {
        let lines = [
            ("set-cookie", "podpin-chat=evil; Path=/"),
            ("set-cookie", "podpin-chats=fine"),
            ("x-podpin-session", "x"),
            ("transfer-encoding", "chunked"),
        ];
        let passed = response_headers(map(&lines), |line| sets_cookie(line, "podpin-chat"));
        let values: Vec<_> = passed.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(values, [("set-cookie", "podpin-chats=fine")]);
    }

    #[test]
    fn a_response_with_our_cookie_is_never_public() {
        let cases = [
            (&[][..], Some("private")),
            (&[("cache-control", "no-cache")], Some("no-cache, private")),
            (&[("cache-control", "public, max-age=60, s-maxage=9")], Some("max-age=60, private")),
            (&[("cache-control", "Private, max-age=1")], None),
            (&[("cache-control", "no-store")], None),
        ];
        for (lines, expected) in cases {
            let got = private_cache_control(&map(lines));
            assert_eq!(got.as_ref().map(|value| value.to_str().unwrap()), expected, "{lines:?}");
        }
    }
}
