//! Upgrades of a connection to another protocol (RFC 9110 section 7.8): what a request offers, and what a response takes of it.
//!
//! `Upgrade` means something between two neighbours only, so the proxy repeats the offer to the endpoint, and the choice to
//! the client, in fields of its own.

use http::header::{self, HeaderMap, HeaderValue};

use crate::fields::Fields;

/// The offer of HTTP/2 in plain text, which RFC 9113 section 3.1 has done away with.
const H2C: &[u8] = b"h2c";

/// Returns the protocols that a request offers, as one list without `h2c`; `None` if there is none left.
#[must_use]
pub fn offer(fields: &Fields) -> Option<Box<str>> {
    let mut list = String::new();
    for token in fields.all(&header::UPGRADE).flat_map(tokens) {
        if !list.is_empty() {
            list.push_str(", ");
        }
        list.push_str(token);
    }
    (!list.is_empty()).then(|| list.into_boxed_str())
}

/// Returns whether a list of protocols has another one than `h2c`.
pub(crate) fn has_offer(value: &[u8]) -> bool {
    tokens(value).next().is_some()
}

/// Returns the protocol that a response with these fields switches to; `None` if it names none, or one that is not in the
/// `offer`.
#[must_use]
pub fn choice(offer: &str, headers: &HeaderMap) -> Option<Box<str>> {
    let mut chosen = String::new();
    for value in headers.get_all(header::UPGRADE) {
        for token in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let token = std::str::from_utf8(token).ok().filter(|token| is_offered(offer, token))?;
            if !chosen.is_empty() {
                chosen.push_str(", ");
            }
            chosen.push_str(token);
        }
    }
    (!chosen.is_empty()).then(|| chosen.into_boxed_str())
}

/// Writes the fields of an offer, or of a choice.
pub fn write(protocols: &str, headers: &mut HeaderMap) {
    if let Ok(value) = HeaderValue::from_str(protocols) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, value);
    }
}

/// Whether a protocol is WebSocket (RFC 6455).
#[must_use]
pub fn is_web_socket(protocol: &str) -> bool {
    protocol.eq_ignore_ascii_case("websocket")
}

/// Returns the protocols of a list, without `h2c` and without what is no name of a protocol.
fn tokens(value: &[u8]) -> impl Iterator<Item = &str> {
    let items = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let named = items.filter(|item| {
        !item.is_empty() && !item.eq_ignore_ascii_case(H2C) && item.iter().all(u8::is_ascii_graphic)
    });
    named.filter_map(|item| std::str::from_utf8(item).ok())
}

fn is_offered(offer: &str, token: &str) -> bool {
    offer.split(", ").any(|offered| offered.eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(values: &[&str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (header::UPGRADE, HeaderValue::from_bytes(value.as_bytes()).unwrap()))
            .collect()
    }

    #[test]
    fn an_offer_is_every_protocol_but_http2() {
        let cases = [
            (&["websocket"][..], Some("websocket")),
            (&["SPDY/3.1"], Some("SPDY/3.1")),
            (&["h2c, tcp", "WebSocket"], Some("tcp, WebSocket")),
            (&["h2c", " , ", "H2C"], None),
            (&["a b, c\u{fc}"], None),
            (&[], None),
        ];
        for (values, expected) in cases {
            assert_eq!(offer(&Fields::from(&fields(values))).as_deref(), expected, "{values:?}");
        }
    }

    #[test]
    fn a_choice_is_of_the_offer() {
        let cases = [
            (&["WebSocket"][..], Some("WebSocket")),
            (&["tcp, websocket"], Some("tcp, websocket")),
            (&["SPDY/3.1"], None),
            (&["websocket, SPDY/3.1"], None),
            (&["web"], None),
            (&["websocket,"], None),
            (&[""], None),
            (&[], None),
        ];
        for (values, expected) in cases {
            assert_eq!(choice("websocket, tcp", &fields(values)).as_deref(), expected, "{values:?}");
        }
    }

    #[test]
    fn the_fields_of_an_offer_are_written_for_the_next_hop() {
        let mut headers = HeaderMap::new();
        write("websocket", &mut headers);
        assert_eq!(
            (&headers[header::CONNECTION], &headers[header::UPGRADE]),
            (&"Upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
        assert!(is_web_socket("WebSocket") && !is_web_socket("SPDY/3.1"));
    }
}
