//! The key of a WebSocket that came over HTTP/2 and goes on over HTTP/1.1 (RFC 8441 section 5): the client has none, and the
//! endpoint wants one.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap};

/// Bytes that are appended to a key before it is hashed (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Returns a new key.
pub(crate) fn draw() -> Box<str> {
    STANDARD.encode(fastrand::u128(..).to_be_bytes()).into_boxed_str()
}

/// Whether a response with these fields proves that its endpoint has read the `key`.
pub(crate) fn is_proven(key: &str, headers: &HeaderMap) -> bool {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
    let expected = STANDARD.encode(hash);
    let mut values = headers.get_all(header::SEC_WEBSOCKET_ACCEPT).iter();
    values.next().is_some_and(|value| value.as_bytes().trim_ascii() == expected.as_bytes())
        && values.next().is_none()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_example_of_the_rfc_is_proven_and_nothing_else() {
        let headers =
            |value| HeaderMap::from_iter([(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static(value))]);
        let proof = headers("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(is_proven("dGhlIHNhbXBsZSBub25jZQ==", &proof) && !is_proven(&draw(), &proof));
        assert!(!is_proven("dGhlIHNhbXBsZSBub25jZQ==", &HeaderMap::new()));
        assert_eq!(draw().len(), 24);
    }
}
