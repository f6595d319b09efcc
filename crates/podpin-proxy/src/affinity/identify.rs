//! The identity of a request's client: its session, by the first of header, query parameter, cookie and address that has
//! one.
//!
//! A token of the proxy (in the cookie, or in the header around an endpoint's own session id) names the session and its
//! endpoint. A value that the client chose is hashed into a session without an endpoint of its own: the ring decides.
//! Where a route has several services, `split.rs` reads the evidence for each.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::IpAddr;

use http::header::{self, HeaderName, HeaderValue};
use podpin_affinity::{Bound, Claim, Keyring, Lifetime, SessionId, Source, TokenError, Verified};
use podpin_config::ClientIp;
use podpin_endpoints::EndpointId;

use crate::affinity::request_view::RequestView;
use crate::balance::service::ServiceState;
use crate::clock;
use podpin_wire::client::masked;
use podpin_wire::fields::Fields;
use podpin_wire::http1::target;

/// Session ids that one call to the operating system draws.
const DRAWN_AT_ONCE: usize = 16;

/// The identity of a request's client.
#[derive(Debug)]
pub(crate) struct ClientIdentity {
    /// Session, known or new.
    pub session: SessionId,
    /// Start of the session in Unix seconds; a re-pin keeps it.
    pub started_seconds: u64,
    /// Endpoint that the token names; `None` if there is no token.
    pub pinned: Option<EndpointId>,
    /// Whether the token is written again whatever the endpoint: there was none, or an older key has signed it.
    pub reissue: bool,
    /// The reason why a token was refused; `None` if none was.
    pub refused: Option<TokenError>,
    /// The source of the session.
    pub source: IdentitySource,
    /// Whether the session was issued by a backend whose weight is now 0.
    pub is_displaced: bool,
}

/// Evidence of the client's identity in a request, for one service.
pub(crate) enum Evidence<'a> {
    /// A token of the service, verified.
    Token(Verified, IdentitySource),
    /// A value of the client's own, and the reason why it is no token if it reads like one.
    Chosen(Source, Cow<'a, [u8]>, Option<TokenError>),
    /// Nothing, or a token that was refused.
    Nothing(Option<TokenError>),
}

/// The source of a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum IdentitySource {
    /// The cookie; or nothing, and the client gets one.
    Cookie,
    /// A value that the client chose.
    Chosen,
    /// A session id that the endpoint issued, in its own spelling.
    Bound(HeaderValue),
}

/// Identifies the client of a request to a route's only service.
pub(crate) fn identify(
    keyring: &Keyring,
    service: &ServiceState,
    request: &RequestView<'_>,
) -> ClientIdentity {
    match evidence(keyring, service, request) {
        Evidence::Nothing(refused @ Some(_)) => {
            ClientIdentity::begun(session_of_refused(keyring, &service.name, request), refused)
        }
        evidence => ClientIdentity::new(keyring, service, evidence),
    }
}

/// Returns the session of a client whose tokens are all refused: the same for all its requests until it takes a new one. The address is
/// part of it, so that a planted cookie gives no one the session of its client.
pub(crate) fn session_of_refused(keyring: &Keyring, name: &str, request: &RequestView<'_>) -> SessionId {
    let mut value = request.client.address.to_string().into_bytes();
    for cookies in request.fields.all(&header::COOKIE) {
        value.push(b'\n');
        value.extend_from_slice(cookies);
    }
    keyring.session_of(name, Source::Refused, &value)
}

impl ClientIdentity {
    /// Returns the identity that the evidence for a service proves.
    pub(crate) fn new(keyring: &Keyring, service: &ServiceState, evidence: Evidence<'_>) -> ClientIdentity {
        match evidence {
            Evidence::Token(verified, source) => pinned(service, verified, source),
            Evidence::Chosen(source, value, refused) => {
                chosen(keyring.session_of(&service.name, source, &value), refused)
            }
            Evidence::Nothing(refused) => ClientIdentity::begun(new_session(), refused),
        }
    }

    /// Returns the identity of a new client.
    pub(crate) fn begun(session: SessionId, refused: Option<TokenError>) -> ClientIdentity {
        ClientIdentity {
            session,
            started_seconds: clock::unix_seconds(),
            pinned: None,
            reissue: true,
            refused,
            source: IdentitySource::Cookie,
            is_displaced: false,
        }
    }

    /// Returns the identity of a client with a session of another backend; the session starts anew here.
    pub(crate) fn displaced(session: SessionId, source: IdentitySource) -> ClientIdentity {
        ClientIdentity { source, is_displaced: true, ..ClientIdentity::begun(session, None) }
    }

    /// Returns the identity of the client of a stream in flight, pinned to `endpoint`.
    pub(crate) fn of_stream(session: SessionId, endpoint: EndpointId) -> ClientIdentity {
        ClientIdentity {
            session,
            started_seconds: 0,
            pinned: Some(endpoint),
            reissue: false,
            refused: None,
            source: IdentitySource::Cookie,
            is_displaced: false,
        }
    }
}

/// Reads the evidence of the client's identity for a service.
pub(crate) fn evidence<'a>(
    keyring: &Keyring,
    service: &ServiceState,
    request: &RequestView<'a>,
) -> Evidence<'a> {
    let by_header = service.session_header.as_ref();
    if let Some(value) = by_header.and_then(|name| value_of(request.fields, name)) {
        return header_evidence(keyring, service, value);
    }
    let affinity = &service.configuration.affinity;
    let by_query = affinity.query.as_deref();
    if let Some(value) = by_query.and_then(|name| parameter(request.query?, name)) {
        return Evidence::Chosen(Source::Query, value.into(), None);
    }
    let refused = match claim(keyring, service, request.fields) {
        Claim::Pinned(verified) => return Evidence::Token(verified, IdentitySource::Cookie),
        Claim::Refused(error) => Some(error),
        Claim::None => None,
    };
    match affinity.client_ip {
        Some(prefixes) => {
            Evidence::Chosen(Source::Address, address_bytes(request.client.address, prefixes).into(), refused)
        }
        None => Evidence::Nothing(refused),
    }
}

fn pinned(service: &ServiceState, verified: Verified, source: IdentitySource) -> ClientIdentity {
    let token = verified.token;
    let shown = EndpointId::from_bytes(token.endpoint);
    let pin = service.drain.moved_pins().correct(token.session.as_bytes(), shown);
    ClientIdentity {
        session: token.session,
        started_seconds: token.started_seconds,
        pinned: Some(pin),
        reissue: !verified.signed_by_first_key || pin != shown,
        refused: None,
        source,
        is_displaced: false,
    }
}

fn chosen(session: SessionId, refused: Option<TokenError>) -> ClientIdentity {
    ClientIdentity {
        session,
        started_seconds: clock::unix_seconds(),
        pinned: None,
        reissue: false,
        refused,
        source: IdentitySource::Chosen,
        is_displaced: false,
    }
}

/// Reads a value in the header: a bound session id, or a value that the client chose.
fn header_evidence<'a>(keyring: &Keyring, service: &ServiceState, value: Cow<'a, [u8]>) -> Evidence<'a> {
    match keyring.unbind(&service.name, &value, lifetime(service)) {
        Ok(Bound { verified, value: own }) => match HeaderValue::from_bytes(&own) {
            Ok(own) => Evidence::Token(verified, IdentitySource::Bound(own)),
            // The value was a header field's when it was signed.
            Err(_) => Evidence::Chosen(Source::Header, value, Some(TokenError::Malformed)),
        },
        // A value that the proxy never issued reads like this.
        Err(TokenError::Malformed) => Evidence::Chosen(Source::Header, value, None),
        Err(error) => Evidence::Chosen(Source::Header, value, Some(error)),
    }
}

fn lifetime(service: &ServiceState) -> Lifetime {
    Lifetime {
        now_seconds: clock::unix_seconds(),
        absolute_timeout_seconds: service.configuration.affinity.absolute_timeout.as_secs(),
    }
}

fn claim(keyring: &Keyring, service: &ServiceState, fields: &Fields) -> Claim {
    let Some(name) = service.cookie_name() else { return Claim::None };
    let lines = fields.all(&header::COOKIE);
    let lifetime = lifetime(service);
    podpin_affinity::claim(lines, name, |value| keyring.verify(&service.name, value, lifetime))
}

/// Returns the value of the header; `None` if it is empty or missing.
fn value_of<'a>(fields: &'a Fields, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    fields.joined(name).filter(|value| !value.is_empty())
}

/// Returns the value of the first parameter called `name` (WHATWG URL, section 5.1); `None` if it is empty or missing.
fn parameter(query: &str, name: &str) -> Option<Vec<u8>> {
    let mut start = 0;
    // A client may send as many parameters as bytes: one loop over them all costs less than a search for each.
    let mut end_of_name = None;
    for (at, byte) in query.bytes().enumerate() {
        match byte {
            b'=' if end_of_name.is_none() => end_of_name = Some(at),
            b'&' => {
                if stands_for(query.get(start..end_of_name.unwrap_or(at))?, name) {
                    return value(query.get(end_of_name? + 1..at)?);
                }
                start = at + 1;
                end_of_name = None;
            }
            _ => {}
        }
    }
    let last = query.get(start..end_of_name.unwrap_or(query.len()))?;
    if stands_for(last, name) { value(query.get(end_of_name? + 1..)?) } else { None }
}

/// Returns a value without its encoding; `None` if it is empty.
fn value(text: &str) -> Option<Vec<u8>> {
    Some(decoded(text)).filter(|value| !value.is_empty())
}

/// Whether an encoded name is `name`; compared byte by byte, up to the first that differs.
fn stands_for(key: &str, name: &str) -> bool {
    let mut rest = key.as_bytes();
    for wanted in name.bytes() {
        let [first, after @ ..] = rest else { return false };
        let octet = if *first == b'%' { target::encoded(after) } else { None };
        let byte = octet.unwrap_or(if *first == b'+' { b' ' } else { *first });
        if byte != wanted {
            return false;
        }
        rest = if octet.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    rest.is_empty()
}

/// Returns the text without percent-encoding and `+` (WHATWG URL, section 5.1). Broken encodings stay as they are.
fn decoded(text: &str) -> Vec<u8> {
    let spaced = if text.contains('+') { Cow::from(text.replace('+', " ")) } else { Cow::from(text) };
    percent_encoding::percent_decode_str(&spaced).collect()
}

/// Returns the bytes of an address that count, by `affinity.clientIP`.
fn address_bytes(address: IpAddr, prefixes: ClientIp) -> Vec<u8> {
    match masked(address, prefixes.ipv4_prefix_bits, prefixes.ipv6_prefix_bits) {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Returns 128 random bits from the operating system: a session id must not be guessed. Drawn by the dozen.
pub(crate) fn new_session() -> SessionId {
    thread_local! {
        static DRAWN: RefCell<Vec<[u8; 16]>> = const { RefCell::new(Vec::new()) };
    }
    DRAWN.with_borrow_mut(|drawn| {
        loop {
            if let Some(id) = drawn.pop() {
                return SessionId::from_bytes(id);
            }
            drawn.resize(DRAWN_AT_ONCE, [0; 16]);
            if getrandom::fill(drawn.as_flattened_mut()).is_err() {
                // Only before the kernel's pool is seeded; guessable names are worse than none, but no reason to fail.
                drawn.fill_with(|| fastrand::u128(..).to_be_bytes());
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_whatever_its_encoding() {
        let table: [(&str, Option<&[u8]>); 10] = [
            ("session=a", Some(b"a")),
            ("x=1&session=a&session=b", Some(b"a")),
            ("se%73sion=a%20b+c", Some(b"a b c")),
            ("session=100%", Some(b"100%")),
            ("session=%zz%4", Some(b"%zz%4")),
            ("session=%C3%a9", Some("\u{e9}".as_bytes())),
            ("session=", None),
            ("session", None),
            ("sessions=a&xsession=b", None),
            ("", None),
        ];
        for (query, expected) in table {
            assert_eq!(parameter(query, "session").as_deref(), expected, "{query}");
        }
    }

    #[test]
    fn no_session_is_drawn_twice() {
        let drawn: std::collections::HashSet<SessionId> =
            (0..10 * DRAWN_AT_ONCE).map(|_| new_session()).collect();
        assert_eq!(drawn.len(), 10 * DRAWN_AT_ONCE);
    }

    #[test]
    fn an_address_counts_as_far_as_its_prefix() {
        let prefixes = |ipv4_prefix_bits, ipv6_prefix_bits| ClientIp { ipv4_prefix_bits, ipv6_prefix_bits };
        let of = |text: &str, prefixes| address_bytes(text.parse().unwrap(), prefixes);
        assert_eq!(of("10.1.2.3", prefixes(32, 64)), [10, 1, 2, 3]);
        assert_eq!(of("10.1.2.3", prefixes(24, 64)), [10, 1, 2, 0]);
        assert_eq!(of("::ffff:10.1.2.3", prefixes(24, 64)), [10, 1, 2, 0]);
        assert_eq!(of("2001:db8::1", prefixes(32, 64)), of("2001:db8::2", prefixes(32, 64)));
        assert_ne!(of("2001:db8::1", prefixes(32, 128)), of("2001:db8::2", prefixes(32, 128)));
    }
}
