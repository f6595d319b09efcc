//! Who is asking? The session of a request, by the first of header, query parameter, cookie and address that tells one.
//!
//! A token of ours (in the cookie, or in the header around a pod's own session id) names the session and its endpoint. A
//! value that the client chose is hashed into a session that has no endpoint of its own: it goes where the ring says.
//! Where a route has several services, `backend.rs` asks this of each.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use podpin_affinity::{Bound, Claim, Lifetime, SessionId, Source, TokenError, Verified};
use podpin_config::ClientIp;
use podpin_endpoints::EndpointId;

use crate::affinity::select::Asked;
use crate::balance::service::ServiceState;
use crate::clock;
use crate::shared::Shared;
use podpin_wire::field;

/// Session ids for which the operating system is asked once.
const DRAWN_AT_ONCE: usize = 16;

/// A request's client, as far as it is known.
#[derive(Debug)]
pub(crate) struct Recognition {
    pub session: SessionId,
    /// Unix seconds of the session's start; a re-pin keeps it.
    pub started_seconds: u64,
    pub pinned: Option<EndpointId>,
    /// The token is to be written again whatever the endpoint: there was none, or it was signed by an older key.
    pub reissue: bool,
    pub refused: Option<TokenError>,
    pub by: By,
    /// Its session comes from another service of the route, to which nobody is sent any more.
    pub displaced: bool,
}

/// What a request shows of its client to a service.
pub(crate) enum Shown<'a> {
    /// A token of the service that is right.
    Pin(Verified, By),
    /// A value of the client's own, and why it is no token of ours where it reads like one.
    Own(Source, Cow<'a, [u8]>, Option<TokenError>),
    /// Nothing, or a token that was refused.
    Nothing(Option<TokenError>),
}

/// What told the session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The cookie; or nothing, and the client gets one.
    Cookie,
    /// A value of the client's own.
    Choice,
    /// A session id of the pod's, which is this to it.
    Bound(HeaderValue),
}

impl Recognition {
    /// The client that a request shows to its only service.
    pub(crate) fn of(shared: &Shared, service: &ServiceState, asked: &Asked<'_>) -> Recognition {
        Recognition::new(service, show(shared, service, asked))
    }

    pub(crate) fn new(service: &ServiceState, shown: Shown<'_>) -> Recognition {
        match shown {
            Shown::Pin(verified, by) => pinned(service, verified, by),
            Shown::Own(source, value, refused) => chosen(service, source, &value, refused),
            Shown::Nothing(refused) => Recognition::begun(new_session(), refused),
        }
    }

    /// A new client.
    pub(crate) fn begun(session: SessionId, refused: Option<TokenError>) -> Recognition {
        Recognition {
            session,
            started_seconds: clock::unix_seconds(),
            pinned: None,
            reissue: true,
            refused,
            by: By::Cookie,
            displaced: false,
        }
    }

    /// A new client that had this session elsewhere; it lives as long as any that begins here now.
    pub(crate) fn displaced(session: SessionId, by: By) -> Recognition {
        Recognition { by, displaced: true, ..Recognition::begun(session, None) }
    }

    /// A stream in flight whose client is pinned to `endpoint`.
    pub(crate) fn of_stream(session: SessionId, endpoint: EndpointId) -> Recognition {
        Recognition {
            session,
            started_seconds: 0,
            pinned: Some(endpoint),
            reissue: false,
            refused: None,
            by: By::Cookie,
            displaced: false,
        }
    }
}

/// Reads what a request shows of its client to a service.
pub(crate) fn show<'a>(shared: &Shared, service: &ServiceState, asked: &Asked<'a>) -> Shown<'a> {
    let by_header = service.session_header.as_ref();
    if let Some(value) = by_header.and_then(|name| value_of(asked.headers, name)) {
        return show_value(shared, service, value);
    }
    let affinity = &service.configuration.affinity;
    let by_query = affinity.query.as_deref();
    if let Some(value) = by_query.and_then(|name| parameter(asked.query?, name)) {
        return Shown::Own(Source::Query, value.into(), None);
    }
    let refused = match claim(shared, service, asked.headers) {
        Claim::Pinned(verified) => return Shown::Pin(verified, By::Cookie),
        Claim::Refused(error) => Some(error),
        Claim::None => None,
    };
    match affinity.client_ip {
        Some(prefixes) => {
            Shown::Own(Source::Address, network(asked.client.address, prefixes).into(), refused)
        }
        None => Shown::Nothing(refused),
    }
}

fn pinned(service: &ServiceState, verified: Verified, by: By) -> Recognition {
    let token = verified.token;
    let shown = EndpointId::from_bytes(token.endpoint);
    let pin = service.drain.moved_pins().correct(token.session.as_bytes(), shown);
    Recognition {
        session: token.session,
        started_seconds: token.started_seconds,
        pinned: Some(pin),
        reissue: !verified.signed_by_first_key || pin != shown,
        refused: None,
        by,
        displaced: false,
    }
}

fn chosen(service: &ServiceState, source: Source, value: &[u8], refused: Option<TokenError>) -> Recognition {
    Recognition {
        session: SessionId::chosen(&service.name, source, value),
        started_seconds: clock::unix_seconds(),
        pinned: None,
        reissue: false,
        refused,
        by: By::Choice,
        displaced: false,
    }
}

/// A value in the header: ours, around a pod's own, or whatever the client likes.
fn show_value<'a>(shared: &Shared, service: &ServiceState, value: Cow<'a, [u8]>) -> Shown<'a> {
    match shared.current().keyring.unbind(&service.name, &value, lifetime(service)) {
        Ok(Bound { verified, value: own }) => match HeaderValue::from_bytes(&own) {
            Ok(own) => Shown::Pin(verified, By::Bound(own)),
            // It was a header's value when it was signed.
            Err(_) => Shown::Own(Source::Header, value, Some(TokenError::Malformed)),
        },
        // Every value that was never ours reads like this.
        Err(TokenError::Malformed) => Shown::Own(Source::Header, value, None),
        Err(error) => Shown::Own(Source::Header, value, Some(error)),
    }
}

fn lifetime(service: &ServiceState) -> Lifetime {
    Lifetime {
        now_seconds: clock::unix_seconds(),
        absolute_timeout_seconds: service.configuration.affinity.absolute_timeout.as_secs(),
    }
}

fn claim(shared: &Shared, service: &ServiceState, headers: &HeaderMap) -> Claim {
    let Some(name) = service.cookie_name() else { return Claim::None };
    let lines = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    let lifetime = lifetime(service);
    podpin_affinity::claim(lines, name, |value| {
        shared.current().keyring.verify(&service.name, value, lifetime)
    })
}

/// The value of the header, unless it is empty.
fn value_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    field::value(headers, name).filter(|value| !value.is_empty())
}

/// The value of the first parameter of this name, unless it is empty (WHATWG URL, section 5.1).
fn parameter(query: &str, name: &str) -> Option<Vec<u8>> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values =
        pairs.filter(|(key, _)| decoded(key) == name.as_bytes()).map(|(_, value)| decoded(value));
    values.next().filter(|value| !value.is_empty())
}

/// Returns the text without percent-encoding and `+` (WHATWG URL, section 5.1). What is no encoding stays as it is.
fn decoded(text: &str) -> Vec<u8> {
    let spaced = if text.contains('+') { Cow::from(text.replace('+', " ")) } else { Cow::from(text) };
    percent_encoding::percent_decode_str(&spaced).collect()
}

/// The part of an address that counts.
fn network(address: IpAddr, prefixes: ClientIp) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(ip) => {
            let shift = 32_u32.saturating_sub(u32::from(prefixes.ipv4_prefix_bits));
            let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
            (ip.to_bits() & mask).to_be_bytes().to_vec()
        }
        IpAddr::V6(ip) => {
            let shift = 128_u32.saturating_sub(u32::from(prefixes.ipv6_prefix_bits));
            let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
            (ip.to_bits() & mask).to_be_bytes().to_vec()
        }
    }
}

/// 128 random bits from the operating system: a session id is a name that must not be guessed. Asked for by the dozen.
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
        let of = |text: &str, prefixes| network(text.parse().unwrap(), prefixes);
        assert_eq!(of("10.1.2.3", prefixes(32, 64)), [10, 1, 2, 3]);
        assert_eq!(of("10.1.2.3", prefixes(24, 64)), [10, 1, 2, 0]);
        assert_eq!(of("::ffff:10.1.2.3", prefixes(24, 64)), [10, 1, 2, 0]);
        assert_eq!(of("2001:db8::1", prefixes(32, 64)), of("2001:db8::2", prefixes(32, 64)));
        assert_ne!(of("2001:db8::1", prefixes(32, 128)), of("2001:db8::2", prefixes(32, 128)));
    }
}
