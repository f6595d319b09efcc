//! Header fields that cross the proxy, and fields that it adds about the client (RFC 9110 section 7.6, RFC 7239).
//!
//! One set of rules for all data paths and both directions: hop-by-hop fields and those that `Connection` nominates
//! end here, forwarding fields are the proxy's own, `X-Podpin-*` never crosses from outside to inside or back.
//!
//! Applications behind CGI, WSGI, Rack and their like read `X-Real-IP` and `X_Real_IP` as one field. A *twin*, which differs from a field of
//! the proxy in that way only, does not cross either.

use std::collections::HashSet;
use std::time::Duration;

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::client::Client;
use crate::fields::Fields;
use crate::header_list::HeaderList;

/// Session that the endpoint should restore; stable over re-pins. In a response, `renew` begins another one.
pub const SESSION: HeaderName = HeaderName::from_static("x-podpin-session");
/// [`SESSION`] in the fields of a request.
pub const SESSION_NAME: &[u8] = b"x-podpin-session";
/// Reason why a client that was pinned elsewhere comes to this endpoint.
pub const REPINNED_NAME: &[u8] = b"x-podpin-repinned";
/// Name of the subject of the client's certificate.
pub(crate) const CLIENT_SUBJECT: &[u8] = b"x-podpin-client-subject";
/// Name of the issuer of the client's certificate.
pub(crate) const CLIENT_ISSUER: &[u8] = b"x-podpin-client-issuer";
/// Subject alternative names of the client's certificate.
pub(crate) const CLIENT_SAN: &[u8] = b"x-podpin-client-san";
/// SHA-256 hash of the client's certificate.
pub(crate) const CLIENT_FINGERPRINT: &[u8] = b"x-podpin-client-fingerprint";
/// Certificate of the client (RFC 9440).
pub(crate) const CLIENT_CERT: &[u8] = b"client-cert";
/// Certificates that the client has shown behind its own (RFC 9440).
pub(crate) const CLIENT_CERT_CHAIN: &[u8] = b"client-cert-chain";
const OURS: &[u8] = b"x-podpin-";
const FORWARDED_PREFIX: &[u8] = b"x-forwarded-";
pub(crate) const FORWARDED_FOR: &[u8] = b"x-forwarded-for";
pub(crate) const FORWARDED_PROTO: &[u8] = b"x-forwarded-proto";
pub(crate) const FORWARDED_HOST: &[u8] = b"x-forwarded-host";
pub(crate) const FORWARDED: &[u8] = b"forwarded";
pub(crate) const REAL_IP: &[u8] = b"x-real-ip";

/// Whether a field means something between two neighbours only.
fn is_hop_by_hop(name: &[u8]) -> bool {
    matches!(
        name,
        b"connection"
            | b"http2-settings"
            | b"keep-alive"
            | b"proxy-authenticate"
            | b"proxy-authorization"
            | b"proxy-connection"
            | b"proxy-status"
            | b"te"
            | b"trailer"
            | b"transfer-encoding"
            | b"upgrade"
    )
}

/// Whether a field belongs to two neighbours, or is the proxy's own to write, in a place where it means nothing to others.
pub(crate) fn is_internal(name: &[u8]) -> bool {
    is_hop_by_hop(name)
        || name == REAL_IP
        || is_client_certificate(name)
        || name.starts_with(OURS)
        || name.starts_with(FORWARDED_PREFIX)
}

/// Whether a field is a certificate of the client (RFC 9440), which only the proxy that saw it may send (section 4).
fn is_client_certificate(name: &[u8]) -> bool {
    name == CLIENT_CERT || name == CLIENT_CERT_CHAIN
}

/// Names that `Connection` nominates (RFC 9110 section 7.6.1). A head of 32 KiB can nominate 16,000.
struct Nominated<'a> {
    few: Vec<&'a [u8]>,
    many: HashSet<Vec<u8>>,
}

impl<'a> Nominated<'a> {
    /// Number of names that are compared one by one.
    const FEW: usize = 8;

    /// Reads the values of `Connection`. The length is left out: the recipient finds the end of the message by it.
    fn by(connection: impl Iterator<Item = &'a [u8]>) -> Nominated<'a> {
        let names = connection.flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        let mut nominated = Nominated { few: Vec::new(), many: HashSet::new() };
        for name in names.filter(|name| !name.eq_ignore_ascii_case(b"content-length")) {
            if nominated.few.len() < Self::FEW {
                nominated.few.push(name);
            } else {
                nominated.many.insert(name.to_ascii_lowercase());
            }
        }
        nominated
    }

    /// Returns whether a name, in lower case, is among them.
    fn contains(&self, name: &[u8]) -> bool {
        self.few.iter().any(|nominee| nominee.eq_ignore_ascii_case(name))
            || (!self.many.is_empty() && self.many.contains(name))
    }
}

/// Returns the end-to-end fields of a request, for an upstream request of the proxy's own.
///
/// `Host` and `Content-Length` are left out: the caller writes its own or none.
#[must_use]
pub fn request_headers<'a>(received: &'a Fields, client: &Client) -> HeaderList<'a> {
    let nominated = Nominated::by(received.all(&header::CONNECTION));
    let passes = |name: &[u8]| {
        !is_replaced(name)
            && !is_hop_by_hop(name)
            && !nominated.contains(name)
            && !is_claimed(name, client)
            // CGI hands it to programs as HTTP_PROXY, which makes them send their own requests there (httpoxy).
            && name != b"proxy"
            && !is_twin(name, |twin| is_replaced(twin) || is_internal(twin) || twin == FORWARDED)
    };
    let mut fields = HeaderList::with_capacity(received.len() + ADDED_FIELDS, ADDED_BYTES);
    for (name, value) in received.iter().filter(|(name, _)| passes(name)) {
        fields.append(name, value);
    }
    fields
}

/// Whether the proxy writes a field of a request itself, or leaves it out.
fn is_replaced(name: &[u8]) -> bool {
    matches!(name, b"host" | b"content-length")
}

/// Whether a name would be one for which `is_ours` holds, if it had hyphens for its underscores.
pub(crate) fn is_twin(name: &[u8], is_ours: impl Fn(&[u8]) -> bool) -> bool {
    name.contains(&b'_') && is_ours(&hyphenated(name))
}

fn hyphenated(name: &[u8]) -> Vec<u8> {
    name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect()
}

/// Removes the twins of fields for which `is_ours` holds, and of other fields of the same head: only one of the two can be meant.
pub fn remove_twins(fields: &mut HeaderList<'_>, is_ours: impl Fn(&[u8]) -> bool) {
    let is_double = |name: &[u8]| is_twin(name, |twin| is_ours(twin) || fields.contains(twin));
    let twins: Vec<&[u8]> = fields.iter().map(|(name, _)| name).filter(|name| is_double(name)).collect();
    for twin in twins {
        fields.remove(twin);
    }
}

/// Whether only the proxy may write a field: clients cannot choose their address or their session.
fn is_claimed(name: &[u8], client: &Client) -> bool {
    name.starts_with(OURS)
        || matches!(name, FORWARDED | REAL_IP | CLIENT_CERT | CLIENT_CERT_CHAIN)
        || (name.starts_with(FORWARDED_PREFIX)
            && (!client.trusted || matches!(name, FORWARDED_FOR | FORWARDED_PROTO | FORWARDED_HOST)))
}

/// Number of fields that the proxy adds to most requests.
const ADDED_FIELDS: usize = 8;
/// Bytes of the values that the proxy writes into most requests.
const ADDED_BYTES: usize = 512;

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
    let nominated = Nominated::by(connection);
    let ends_here = |name: &&HeaderName| {
        let name = name.as_str().as_bytes();
        name.starts_with(OURS) || is_hop_by_hop(name) || nominated.contains(name)
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

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
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
        let received = Fields::from(&map(&lines));
        let passed = request_headers(&received, &client("203.0.113.1", &lines, &[]));
        let names: Vec<&str> = passed.iter().map(|(name, _)| text(name)).collect();
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
            let received = Fields::from(&map(&lines));
            let passed = request_headers(&received, &client("203.0.113.1", &lines, trusted));
            let names: Vec<&str> = passed.iter().map(|(name, _)| text(name)).collect();
            assert_eq!(names, kept);
        }
        let lines =
            [("x_user", "forged"), ("x-user", "own"), ("x_users", "1"), ("a_b_c", "1"), ("a-b-c", "1")];
        let left = |lines: &[(&'static str, &'static str)], is_ours: fn(&[u8]) -> bool| {
            let mut fields = HeaderList::default();
            lines.iter().for_each(|(name, value)| fields.append(name.as_bytes(), value.as_bytes()));
            remove_twins(&mut fields, is_ours);
            fields.iter().map(|(name, _)| text(name).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(left(&lines, |name| name == b"x-users"), ["x-user", "a-b-c"]);
        assert_eq!(left(&lines[2..4], |_| false).len(), 2, "they stand for nothing else");
        assert!(left(&lines[2..4], |_| true).is_empty());
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
