//! The client as trusted proxies name it: `X-Forwarded-For` and `X-Forwarded-Proto`, or else `Forwarded` (RFC 7239).
//!
//! A proxy adds to the right of what it received, so that lists are read from the right: nothing that a client has put into the left of a
//! list, be it malformed, changes what stands right of it. The scheme is the one of the first hop, which is the client's.

use http::header::{self, HeaderName};

use crate::fields::Fields;

pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Returns the hops before the peer, the last one at the end. What is no address is told by who reads it.
pub(crate) fn hops(fields: &Fields) -> Vec<&[u8]> {
    if fields.contains(&FORWARDED_FOR) {
        return fields.all(&FORWARDED_FOR).flat_map(|value| value.split(|byte| *byte == b',')).collect();
    }
    let elements = fields.all(&header::FORWARDED).flat_map(|value| from_right(value, b','));
    elements.map(|element| parameter(element, b"for").unwrap_or_default()).collect()
}

/// Returns whether the client's own connection is encrypted.
pub(crate) fn is_https(fields: &Fields) -> bool {
    let first = match fields.get(&FORWARDED_PROTO) {
        Some(value) => value.split(|byte| *byte == b',').next(),
        None => {
            let mut elements = fields.all(&header::FORWARDED).flat_map(|value| from_right(value, b','));
            elements.next().and_then(|element| parameter(element, b"proto"))
        }
    };
    let scheme = first.unwrap_or_default().trim_ascii();
    [&b"https"[..], b"wss"].iter().any(|secure| scheme.eq_ignore_ascii_case(secure))
}

/// Splits at separators outside of quotes, which are counted from the right. Returns the parts from left to right.
fn from_right(value: &[u8], separator: u8) -> Vec<&[u8]> {
    let (mut parts, mut end, mut is_quoted) = (Vec::new(), value.len(), false);
    for (at, byte) in value.iter().enumerate().rev() {
        let is_escaped = at > 0 && value.get(at - 1) == Some(&b'\\');
        match *byte {
            b'"' if !is_escaped => is_quoted = !is_quoted,
            byte if byte == separator && !is_quoted => {
                parts.push(value.get(at + 1..end).unwrap_or_default());
                end = at;
            }
            _ => {}
        }
    }
    parts.push(value.get(..end).unwrap_or_default());
    parts.reverse();
    parts
}

/// Returns a parameter of an element, without quotes.
fn parameter<'v>(element: &'v [u8], name: &[u8]) -> Option<&'v [u8]> {
    let value = from_right(element, b';').into_iter().find_map(|pair| {
        let (key, value) = pair.split_at(pair.iter().position(|byte| *byte == b'=')?);
        key.trim_ascii().eq_ignore_ascii_case(name).then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })?;
    Some(value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    use super::*;
    use crate::client::Client;

    /// Header lines, the address of the client and its scheme.
    type Case<'c> = (&'c [(&'c str, &'c [u8])], &'c str, &'c str);

    /// The client of a request with these lines, from the proxy 10.0.0.1 behind others of 10.0.0.0/8: address and scheme.
    fn client(lines: &[(&str, &[u8])]) -> (String, &'static str) {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        let peer = IpAddr::from([10, 0, 0, 1]);
        let client = Client::of(peer, false, &Fields::from(&map), &["10.0.0.0/8".parse().unwrap()]);
        (client.address.to_string(), if client.secure { "https" } else { "http" })
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_not_trusted_and_its_scheme_the_first() {
        const FOR: &str = "x-forwarded-for";
        const PROTO: &str = "x-forwarded-proto";
        const BOTH: &str = "forwarded";
        let cases: &[Case<'_>] = &[
            (&[], "10.0.0.1", "http"),
            (&[(FOR, b"9.9.9.9")], "9.9.9.9", "http"),
            (&[(FOR, b"8.8.8.8, 9.9.9.9")], "9.9.9.9", "http"),
            (&[(FOR, b"8.8.8.8,9.9.9.9:4711,10.0.0.7")], "9.9.9.9", "http"),
            (&[(FOR, b"8.8.8.8"), (FOR, b"9.9.9.9")], "9.9.9.9", "http"),
            (&[(FOR, b"\xff, 9.9.9.9")], "9.9.9.9", "http"),
            (&[(FOR, b"9.9.9.9, \xff, 10.0.0.7")], "10.0.0.7", "http"),
            (&[(FOR, b"9.9.9.9, unknown")], "10.0.0.1", "http"),
            (&[(FOR, b"9.9.9.9, , 10.0.0.7")], "10.0.0.7", "http"),
            (&[(FOR, b"\"[2001:db8::7]:80\"")], "2001:db8::7", "http"),
            (&[(FOR, b"::ffff:9.9.9.9")], "9.9.9.9", "http"),
            (&[(FOR, b"9.9.9.9"), (BOTH, b"for=8.8.8.8;proto=https")], "9.9.9.9", "https"),
            (&[(BOTH, b"for=9.9.9.9;proto=https")], "9.9.9.9", "https"),
            (&[(BOTH, b"For=\"9.9.9.9:80\" ; Proto=HTTPS")], "9.9.9.9", "https"),
            (&[(BOTH, b"for=\"[2001:db8::7]:80\";by=x, for=10.0.0.7;proto=http")], "2001:db8::7", "http"),
            (&[(BOTH, b"for=8.8.8.8;proto=https, for=9.9.9.9;proto=http")], "9.9.9.9", "https"),
            (&[(BOTH, b"for=_hidden")], "10.0.0.1", "http"),
            (&[(BOTH, b"proto=https")], "10.0.0.1", "https"),
            // A client's quote that does not end swallows nothing right of it.
            (&[(BOTH, b"for=\"evil, for=9.9.9.9;proto=http")], "9.9.9.9", "http"),
            (&[(BOTH, b"\xff;for=1.1.1.1, for=9.9.9.9")], "9.9.9.9", "http"),
            (&[(PROTO, b"https")], "10.0.0.1", "https"),
            (&[(PROTO, b"HTTPS, http")], "10.0.0.1", "https"),
            (&[(PROTO, b"http, https")], "10.0.0.1", "http"),
            (&[(PROTO, b"https"), (PROTO, b"http")], "10.0.0.1", "https"),
            (&[(PROTO, b"wss")], "10.0.0.1", "https"),
            (&[(PROTO, b"ws")], "10.0.0.1", "http"),
            (&[(PROTO, b"httpsx")], "10.0.0.1", "http"),
            (&[(PROTO, b"http"), (BOTH, b"for=9.9.9.9;proto=https")], "9.9.9.9", "http"),
        ];
        for (lines, address, scheme) in cases {
            assert_eq!(client(lines), ((*address).to_owned(), *scheme), "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_client_sends_hides_what_a_trusted_proxy_adds(
            left in prop::collection::vec(prop::collection::vec(prop_oneof![32..=126_u8, 128..=255_u8], 0..20), 0..4),
            is_standard: bool,
        ) {
            let (name, added) = match is_standard {
                true => ("forwarded", &b"for=9.9.9.9;proto=http"[..]),
                false => ("x-forwarded-for", &b"9.9.9.9"[..]),
            };
            let joined = left.iter().map(Vec::as_slice).chain([added]).collect::<Vec<_>>().join(&b", "[..]);
            prop_assert_eq!(client(&[(name, &joined)]).0, "9.9.9.9");
        }
    }
}
