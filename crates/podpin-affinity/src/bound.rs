//! A session id that the pod issued, with the pin in it: what a client gets instead of the pod's own value.
//!
//! A header such as `Mcp-Session-Id` is given to the client by the pod and comes back with every later request. What the
//! client gets is a token (`token.rs`) with version 2 that the pod's value follows:
//!
//! ```text
//! offset   bytes   field
//! 0        42 + n  as in a token, version 2
//! 42 + n   16      tag
//! 58 + n   rest    the pod's own value, 1 to 1024 bytes
//! ```
//!
//! The tag is over the same fields, the service's name and the value, which is why it cannot be put on another value:
//!
//! ```text
//! tag = HMAC-SHA256(authenticate, version | n | key id | session id | start | endpoint id
//!                   | length of the service's name, 8 bytes | service's name | value)[..16]
//! ```
//!
//! Nothing is kept: a replica that holds the keys reads from the value alone which endpoint it belongs to and what the
//! pod calls it. The text is base64url, hence of visible ASCII only, as the Model Context Protocol wants of session
//! ids. The value can be read in it, which is no loss: the pod gave it to this client.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::token::{Fields, KEY_ID_BYTES_MAX, TokenError, Verified};

/// Longest value of a pod that is bound, bytes. With the pin it makes 1.5 KB in every request of the client.
pub const BOUND_VALUE_BYTES_MAX: usize = 1024;

/// The version of a token that a value follows.
pub(crate) const BOUND_VERSION: u8 = 2;

const BYTES_MAX: usize = 2 + KEY_ID_BYTES_MAX + 16 + 8 + 16 + 16 + BOUND_VALUE_BYTES_MAX;

/// A value whose tag and lifetime were found right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The pin: session and endpoint.
    pub verified: Verified,
    /// The pod's own value.
    pub value: Vec<u8>,
}

/// Writes the text.
pub(crate) fn write(fields: &Fields<'_>, value: &[u8]) -> String {
    let mut bytes = fields.bytes(BOUND_VERSION);
    bytes.extend_from_slice(value);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of a text, which [`split`] takes apart.
pub(crate) fn decode(text: &[u8]) -> Result<Vec<u8>, TokenError> {
    if text.len() > (BYTES_MAX * 4).div_ceil(3) {
        return Err(TokenError::Malformed);
    }
    URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)
}

/// The fields and the value.
pub(crate) fn split(bytes: &[u8]) -> Result<(Fields<'_>, &[u8]), TokenError> {
    let (fields, value) = Fields::parse(bytes, BOUND_VERSION).ok_or(TokenError::Malformed)?;
    let fits = (1..=BOUND_VALUE_BYTES_MAX).contains(&value.len());
    if fits { Ok((fields, value)) } else { Err(TokenError::Malformed) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Key, Keyring, Lifetime, SessionId, Token};

    const NOW: u64 = 1_800_000_000;
    const DAY: Lifetime = Lifetime { now_seconds: NOW, absolute_timeout_seconds: 86_400 };

    fn keyring(material: u8) -> Keyring {
        Keyring::new(vec![Key::new("k1", &[material; 32]).unwrap()]).unwrap()
    }

    fn token(session: [u8; 16], endpoint: [u8; 16]) -> Token {
        Token { session: SessionId::from_bytes(session), endpoint, started_seconds: NOW }
    }

    #[test]
    fn a_value_that_is_empty_or_too_long_is_not_bound() {
        let token = token([1; 16], [2; 16]);
        assert_eq!(keyring(1).bind("chat", &token, b""), None);
        assert_eq!(keyring(1).bind("chat", &token, &[b'x'; BOUND_VALUE_BYTES_MAX + 1]), None);
        let longest = keyring(1).bind("chat", &token, &[b'x'; BOUND_VALUE_BYTES_MAX]).unwrap();
        assert_eq!(keyring(1).unbind("chat", longest.as_bytes(), DAY).unwrap().value.len(), 1024);
    }

    #[test]
    fn a_cookies_token_is_no_bound_value_and_the_other_way_round() {
        let token = token([1; 16], [2; 16]);
        let cookie = keyring(1).sign("chat", &token);
        assert_eq!(keyring(1).unbind("chat", cookie.as_bytes(), DAY), Err(TokenError::Malformed));
        let bound = keyring(1).bind("chat", &token, b"x").unwrap();
        assert_eq!(keyring(1).verify("chat", bound.as_bytes(), DAY), Err(TokenError::Malformed));
    }

    #[test]
    fn a_bound_value_expires_with_its_session() {
        let bound = keyring(1).bind("chat", &token([1; 16], [2; 16]), b"x").unwrap();
        let later = Lifetime { now_seconds: NOW + 86_401, ..DAY };
        assert_eq!(keyring(1).unbind("chat", bound.as_bytes(), later), Err(TokenError::Expired));
    }

    #[test]
    fn a_bound_value_outlives_a_rotation_of_its_key_and_not_its_removal() {
        let key = |id: &str, material: u8| Key::new(id, &[material; 32]).unwrap();
        let old = Keyring::new(vec![key("k1", 1)]).unwrap();
        let both = Keyring::new(vec![key("k2", 2), key("k1", 1)]).unwrap();
        let new = Keyring::new(vec![key("k2", 2)]).unwrap();
        let text = old.bind("chat", &token([1; 16], [2; 16]), b"x").unwrap();
        let verified = both.unbind("chat", text.as_bytes(), DAY).unwrap().verified;
        assert!(!verified.signed_by_first_key);
        assert_eq!(new.unbind("chat", text.as_bytes(), DAY), Err(TokenError::UnknownKey));
    }

    proptest! {
        #[test]
        fn what_was_bound_is_found_again_and_is_visible_ascii(
            session: [u8; 16],
            endpoint: [u8; 16],
            value in proptest::collection::vec(any::<u8>(), 1..200),
        ) {
            let token = token(session, endpoint);
            let text = keyring(1).bind("chat", &token, &value).unwrap();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
            let bound = keyring(1).unbind("chat", text.as_bytes(), DAY).unwrap();
            prop_assert_eq!(bound.verified, Verified { token, signed_by_first_key: true });
            prop_assert_eq!(bound.value, value);
        }

        #[test]
        fn another_key_and_another_service_are_forgers(value in proptest::collection::vec(any::<u8>(), 1..50)) {
            let token = token([1; 16], [2; 16]);
            let text = keyring(1).bind("chat", &token, &value).unwrap();
            prop_assert_eq!(keyring(2).unbind("chat", text.as_bytes(), DAY), Err(TokenError::Forged));
            prop_assert_eq!(keyring(1).unbind("chats", text.as_bytes(), DAY), Err(TokenError::Forged));
            // The service's name cannot be prolonged by the value's beginning.
            let (name, rest) = (format!("chat{}", char::from(b'a')), value);
            let prolonged = keyring(1).bind(&name, &token, &rest).unwrap();
            prop_assert_eq!(keyring(1).unbind("chat", prolonged.as_bytes(), DAY), Err(TokenError::Forged));
        }

        #[test]
        fn every_change_is_refused(at in 0_usize..70, bit in 0_u8..8, value in "[a-z0-9]{1,40}") {
            let text = keyring(1).bind("chat", &token([1; 16], [2; 16]), value.as_bytes()).unwrap();
            let mut bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let changed = URL_SAFE_NO_PAD.encode(&bytes);
            prop_assert!(keyring(1).unbind("chat", changed.as_bytes(), DAY).is_err());
        }

        #[test]
        fn any_bytes_are_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(keyring(1).unbind("chat", &bytes, DAY).is_err());
            let text = URL_SAFE_NO_PAD.encode(&bytes);
            prop_assert!(keyring(1).unbind("chat", text.as_bytes(), DAY).is_err());
            let mut begun = vec![BOUND_VERSION, 2, b'k', b'1'];
            begun.extend_from_slice(&bytes);
            let text = URL_SAFE_NO_PAD.encode(&begun);
            prop_assert!(keyring(1).unbind("chat", text.as_bytes(), DAY).is_err());
        }
    }
}
