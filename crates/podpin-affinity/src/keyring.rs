//! The keys: the first one signs tokens, all of them verify. The construction is described in `token.rs`.
//!
//! Keys rotate by putting a new one in front and taking the old one away a session's lifetime later; a token
//! under an older key verifies until then and says so, and the proxy reissues it. Reading the files and noticing
//! that they changed is left to the binary. What HMAC does with a key before it meets a message is done once,
//! here, so that a verification costs five or six SHA-256 blocks and no allocation.

use std::fmt;

use hmac::digest::Output;
use hmac::digest::consts::U16;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::bound::{self, BOUND_VALUE_BYTES_MAX, BOUND_VERSION, Bound};
use crate::choice::Source;
use crate::token::{
    EMPTY_ROOM, Fields, KEY_ID_BYTES_MAX, SessionId, Token, TokenError, VERSION, Verified, id_length,
    is_key_id,
};

/// Least key material, bytes: as many as the hash is long, below which RFC 2104, section 3, discourages keys.
pub const KEY_MATERIAL_BYTES_MIN: usize = 32;

/// How far ahead of our clock a session may start, seconds, before its token counts as expired.
///
/// Replicas kept by NTP differ by milliseconds and a badly kept one by minutes. Too small, and clients that change
/// replicas lose their pin (refusals as `expired` at sessions' starts); too large only prolongs a session by as much.
pub const CLOCK_SKEW_SECONDS_MAX: u64 = 300;

type HmacSha256 = Hmac<Sha256>;

/// Salt of the key derivation: it names the format, so that a key file used elsewhere too gives other keys here.
const SALT: &[u8] = b"podpin affinity token v1";

/// Why keys were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The material has fewer than [`KEY_MATERIAL_BYTES_MIN`] bytes after white space was trimmed.
    #[error("the key has {bytes} bytes of material; it takes at least {KEY_MATERIAL_BYTES_MIN}")]
    TooShort {
        /// How many there were.
        bytes: usize,
    },
    /// The id is not 1 to [`KEY_ID_BYTES_MAX`] characters of `[A-Za-z0-9_-]`.
    #[error("the key id {id:?} is not 1 to {KEY_ID_BYTES_MAX} characters of A-Z, a-z, 0-9, _ and -")]
    BadId {
        /// As it was given.
        id: String,
    },
    /// A keyring without keys could sign nothing.
    #[error("there is no key")]
    NoKeys,
    /// Two keys of one keyring have the same id.
    #[error("two keys have the id {id:?}")]
    DuplicateId {
        /// The id in question.
        id: String,
    },
}

/// A key: its id and the HMAC states made of its material.
#[derive(Clone)]
pub struct Key {
    id: String,
    authenticate: HmacSha256,
    conceal: HmacSha256,
    choose: HmacSha256,
}

impl Key {
    /// Makes a key of `material`, used as it is after ASCII white space around it is trimmed.
    ///
    /// # Errors
    /// [`KeyError::BadId`] and [`KeyError::TooShort`].
    pub fn new(id: &str, material: &[u8]) -> Result<Self, KeyError> {
        if !is_key_id(id.as_bytes()) {
            return Err(KeyError::BadId { id: id.to_owned() });
        }
        let material = material.trim_ascii();
        if material.len() < KEY_MATERIAL_BYTES_MIN {
            return Err(KeyError::TooShort { bytes: material.len() });
        }
        let extracted = digest(keyed(SALT), material);
        let derive = |purpose: &[u8]| keyed(&digest(keyed(&extracted).chain_update(purpose), &[1]));
        Ok(Self {
            id: id.to_owned(),
            authenticate: derive(b"authenticate"),
            conceal: derive(b"conceal"),
            choose: derive(b"choose"),
        })
    }

    /// The id, as tokens carry it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The tag over everything a token says, and the service it says it to.
    fn tag(&self, service: &str, token: &Token) -> [u8; 16] {
        first_half(digest(self.begun(VERSION, service, token), service.as_bytes()))
    }

    /// The same, over the pod's own value too.
    fn bound_tag(&self, service: &str, token: &Token, value: &[u8]) -> [u8; 16] {
        let mac = self.begun(BOUND_VERSION, service, token).chain_update(service);
        first_half(digest(mac, value))
    }

    /// Everything up to the service's name.
    fn begun(&self, version: u8, service: &str, token: &Token) -> HmacSha256 {
        let id = self.id.as_bytes();
        let mut mac = self.authenticate.clone();
        mac.update(&[version, id_length(id)]);
        mac.update(id);
        mac.update(token.session.as_bytes());
        mac.update(&token.started_seconds.to_be_bytes());
        mac.update(&token.endpoint);
        mac.update(&(service.len() as u64).to_be_bytes());
        mac
    }

    fn fields(&self, token: &Token, tag: [u8; 16]) -> Fields<'_> {
        Fields {
            key_id: self.id.as_bytes(),
            session: token.session,
            started_seconds: token.started_seconds,
            concealed_endpoint: self.conceal(&tag, token.endpoint),
            tag,
        }
    }

    /// Conceals an endpoint id under a tag, or reveals it: the same operation.
    fn conceal(&self, tag: &[u8; 16], endpoint: [u8; 16]) -> [u8; 16] {
        let pad = first_half(digest(self.conceal.clone(), tag));
        (u128::from_be_bytes(endpoint) ^ u128::from_be_bytes(pad)).to_be_bytes()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Keys in order: the first signs, all verify. Two replicas with the same keys agree on everything.
///
/// ```
/// use podpin_affinity::{Key, Keyring, Lifetime, SessionId, Token, TokenError};
///
/// let key = |id, byte| Key::new(id, &[byte; 32]);
/// let keyring = Keyring::new(vec![key("2026-02", b'b')?, key("2026-01", b'a')?])?;
/// let session = SessionId::from_bytes([7; 16]);
/// let token = Token { session, endpoint: [9; 16], started_seconds: 1_000 };
/// let text = keyring.sign("chat", &token);
///
/// let lifetime = Lifetime { now_seconds: 2_000, absolute_timeout_seconds: 86_400 };
/// let verified = keyring.verify("chat", text.as_bytes(), lifetime);
/// assert_eq!(verified.map(|verified| verified.token), Ok(token));
/// // Another service's token is as good as a forged one.
/// assert_eq!(keyring.verify("docs", text.as_bytes(), lifetime), Err(TokenError::Forged));
///
/// // A key that is no longer the first one verifies, and the proxy reissues the token.
/// let old = Keyring::new(vec![key("2026-01", b'a')?])?.sign("chat", &token);
/// let verified = keyring.verify("chat", old.as_bytes(), lifetime);
/// assert_eq!(verified.map(|verified| verified.signed_by_first_key), Ok(false));
/// # Ok::<(), podpin_affinity::KeyError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Keyring {
    first: Key,
    older: Vec<Key>,
}

/// How old a token may be, and what time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Now, Unix seconds.
    pub now_seconds: u64,
    /// Longest life of a session from its start, seconds. A session exactly that old still counts.
    pub absolute_timeout_seconds: u64,
}

impl Keyring {
    /// Takes keys in order of age, newest first.
    ///
    /// # Errors
    /// [`KeyError::NoKeys`] and [`KeyError::DuplicateId`].
    pub fn new(keys: Vec<Key>) -> Result<Self, KeyError> {
        let mut keys = keys.into_iter();
        let first = keys.next().ok_or(KeyError::NoKeys)?;
        let mut keyring = Self { first, older: Vec::new() };
        for key in keys {
            if keyring.find(key.id.as_bytes()).is_some() {
                return Err(KeyError::DuplicateId { id: key.id });
            }
            keyring.older.push(key);
        }
        Ok(keyring)
    }

    /// The text of `token`, signed by the first key for `service`: at most
    /// [`TOKEN_TEXT_BYTES_MAX`](crate::TOKEN_TEXT_BYTES_MAX) characters of base64url, fit for a cookie as they are.
    pub fn sign(&self, service: &str, token: &Token) -> String {
        self.first.fields(token, self.first.tag(service, token)).write()
    }

    /// The session that `value` makes in `service`, by the first key.
    pub fn session_of(&self, service: &str, source: Source, value: &[u8]) -> SessionId {
        let mac = self.first.choose.clone();
        let mac = mac.chain_update((service.len() as u64).to_be_bytes()).chain_update(service);
        SessionId::from_bytes(first_half(digest(mac.chain_update([source as u8]), value)))
    }

    /// Signs `value`, a session id that a pod issued, together with the pin, under the first key and for `service`: the
    /// result, in base64url, is what the client gets instead. `None` if `value` is empty or longer than
    /// [`BOUND_VALUE_BYTES_MAX`].
    pub fn bind(&self, service: &str, token: &Token, value: &[u8]) -> Option<String> {
        let fits = (1..=BOUND_VALUE_BYTES_MAX).contains(&value.len());
        let tag = || self.first.bound_tag(service, token, value);
        fits.then(|| bound::write(&self.first.fields(token, tag()), value))
    }

    /// Reads and checks what [`Keyring::bind`] wrote.
    ///
    /// # Errors
    /// As [`Keyring::verify`]; [`TokenError::Malformed`] is what a value of the client's own choice almost always is.
    pub fn unbind(&self, service: &str, text: &[u8], lifetime: Lifetime) -> Result<Bound, TokenError> {
        let bytes = bound::decode(text)?;
        let (fields, value) = bound::split(&bytes)?;
        let verified = self.check(&fields, lifetime, |key, token| key.bound_tag(service, token, value))?;
        Ok(Bound { verified, value: value.to_vec() })
    }

    /// Reads and checks the text of a token for `service`. Allocates nothing.
    ///
    /// # Errors
    /// In this order: [`TokenError::Malformed`], [`TokenError::UnknownKey`], [`TokenError::Forged`] (tags are
    /// compared in constant time) and, only for a token that is truly ours, [`TokenError::Expired`].
    pub fn verify(&self, service: &str, text: &[u8], lifetime: Lifetime) -> Result<Verified, TokenError> {
        let mut room = EMPTY_ROOM;
        let fields = Fields::read(text, &mut room)?;
        self.check(&fields, lifetime, |key, token| key.tag(service, token))
    }

    fn check(
        &self,
        fields: &Fields<'_>,
        lifetime: Lifetime,
        tag: impl FnOnce(&Key, &Token) -> [u8; 16],
    ) -> Result<Verified, TokenError> {
        let key = self.find(fields.key_id).ok_or(TokenError::UnknownKey)?;
        let token = Token {
            session: fields.session,
            endpoint: key.conceal(&fields.tag, fields.concealed_endpoint),
            started_seconds: fields.started_seconds,
        };
        if !bool::from(tag(key, &token).ct_eq(&fields.tag)) {
            return Err(TokenError::Forged);
        }
        if !lifetime.covers(token.started_seconds) {
            return Err(TokenError::Expired);
        }
        Ok(Verified { token, signed_by_first_key: std::ptr::eq(key, &self.first) })
    }

    fn find(&self, id: &[u8]) -> Option<&Key> {
        std::iter::once(&self.first).chain(&self.older).find(|key| key.id.as_bytes() == id)
    }
}

impl Lifetime {
    fn covers(self, started_seconds: u64) -> bool {
        started_seconds <= self.now_seconds.saturating_add(CLOCK_SKEW_SECONDS_MAX)
            && self.now_seconds.saturating_sub(started_seconds) <= self.absolute_timeout_seconds
    }
}

/// HMAC with a key no longer than a block, which RFC 2104 fills up with zeros.
fn keyed(key: &[u8]) -> HmacSha256 {
    let mut block = hmac::digest::Key::<HmacSha256>::default();
    debug_assert!(key.len() <= block.len(), "keys are digests and the salt");
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    HmacSha256::new(&block)
}

fn digest(mut mac: HmacSha256, last: &[u8]) -> Output<HmacSha256> {
    mac.update(last);
    mac.finalize().into_bytes()
}

fn first_half(digest: Output<HmacSha256>) -> [u8; 16] {
    digest.split::<U16>().0.into()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;
    const DAY: Lifetime = Lifetime { now_seconds: NOW, absolute_timeout_seconds: 86_400 };
    const OLD: &[u8] = b"an older key of 32 bytes or more";
    const NEW: &[u8] = b"and its successor, of 34 bytes....";

    fn keyring(keys: &[(&str, &[u8])]) -> Keyring {
        Keyring::new(keys.iter().map(|(id, material)| Key::new(id, material).unwrap()).collect()).unwrap()
    }

    fn token() -> Token {
        Token {
            session: SessionId::from_bytes(*b"session of a tab"),
            endpoint: *b"endpoint of pods",
            started_seconds: NOW,
        }
    }

    #[test]
    fn keys_are_refused_with_the_reason() {
        let material = [b'm'; 32];
        let bad_id = |id: &str| KeyError::BadId { id: id.to_owned() };
        let table: [(&str, &[u8], Result<(), KeyError>); 10] = [
            ("k1", &material, Ok(())),
            ("A-b_9", b" \n mmmmmmmmmmmmmmmm mmmmmmmmmmmmmmm\r\n", Ok(())),
            ("sixteen-letters-", &material, Ok(())),
            ("seventeen-letters", &material, Err(bad_id("seventeen-letters"))),
            ("", &material, Err(bad_id(""))),
            ("k.1", &material, Err(bad_id("k.1"))),
            ("k\u{e9}", &material, Err(bad_id("k\u{e9}"))),
            ("k1", &material[1..], Err(KeyError::TooShort { bytes: 31 })),
            ("k1", b"\tmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm\n", Err(KeyError::TooShort { bytes: 31 })),
            ("k1", b" \n", Err(KeyError::TooShort { bytes: 0 })),
        ];
        for (id, material, expected) in table {
            assert_eq!(Key::new(id, material).map(|_| ()), expected, "{id:?}");
        }
    }

    #[test]
    fn a_keyring_takes_at_least_one_key_and_each_id_once() {
        assert_eq!(Keyring::new(vec![]).map(|_| ()), Err(KeyError::NoKeys));
        let key = |id| Key::new(id, OLD).unwrap();
        let twice = Keyring::new(vec![key("k1"), key("k2"), key("k1")]);
        assert_eq!(twice.map(|_| ()), Err(KeyError::DuplicateId { id: "k1".to_owned() }));
    }

    #[test]
    fn a_key_never_shows_its_secrets_in_debug_output() {
        assert_eq!(format!("{:?}", Key::new("k1", OLD).unwrap()), r#"Key { id: "k1", .. }"#);
    }

    /// Computed by another implementation (Python's hmac) from the description in `token.rs`. If this fails, the
    /// wire format changed, and every client loses its pin at the next rollout: raise the version instead.
    #[test]
    fn the_wire_format_is_the_documented_one() {
        let text = keyring(&[("k1", OLD)]).sign("chat", &token());
        assert_eq!(text, "AQJrMXNlc3Npb24gb2YgYSB0YWIAAAAAa0nSAKxDyPRzPc7ALCDPtMJZXY8fmtokymKsckOhzb3rVSa8");
    }

    #[test]
    fn white_space_around_the_material_makes_no_other_key() {
        let text = keyring(&[("k1", OLD)]).sign("chat", &token());
        let padded = [b" \t", OLD, b"\r\n"].concat();
        assert!(keyring(&[("k1", &padded)]).verify("chat", text.as_bytes(), DAY).is_ok());
    }

    #[test]
    fn a_token_outlives_a_rotation_of_its_key_and_says_that_it_is_old() {
        let before = keyring(&[("k1", OLD)]);
        let during = keyring(&[("k2", NEW), ("k1", OLD)]);
        let after = keyring(&[("k2", NEW)]);
        let (old, new) = (before.sign("chat", &token()), during.sign("chat", &token()));
        let verified = |first| Ok(Verified { token: token(), signed_by_first_key: first });

        assert_eq!(before.verify("chat", old.as_bytes(), DAY), verified(true));
        assert_eq!(during.verify("chat", old.as_bytes(), DAY), verified(false));
        assert_eq!(after.verify("chat", old.as_bytes(), DAY), Err(TokenError::UnknownKey));
        assert_eq!(before.verify("chat", new.as_bytes(), DAY), Err(TokenError::UnknownKey));
        assert_eq!(during.verify("chat", new.as_bytes(), DAY), verified(true));
        assert_eq!(after.verify("chat", new.as_bytes(), DAY), verified(true));
    }

    #[test]
    fn a_token_made_with_other_material_under_the_same_key_id_is_forged() {
        let text = keyring(&[("k1", NEW)]).sign("chat", &token());
        assert_eq!(keyring(&[("k1", OLD)]).verify("chat", text.as_bytes(), DAY), Err(TokenError::Forged));
    }

    #[test]
    fn a_token_of_another_service_is_forged() {
        let keyring = keyring(&[("k1", OLD)]);
        let text = keyring.sign("chat", &token());
        for service in ["chat-next", "cha", "Chat", "", "chat\0"] {
            assert_eq!(keyring.verify(service, text.as_bytes(), DAY), Err(TokenError::Forged), "{service:?}");
        }
    }

    #[test]
    fn a_session_lives_from_a_little_before_its_start_to_its_absolute_timeout() {
        let keyring = keyring(&[("k1", OLD)]);
        let table = [
            (NOW, true),
            (NOW - 86_400, true),
            (NOW - 86_401, false),
            (0, false),
            (NOW + CLOCK_SKEW_SECONDS_MAX, true),
            (NOW + CLOCK_SKEW_SECONDS_MAX + 1, false),
            (u64::MAX, false),
        ];
        for (started_seconds, alive) in table {
            let text = keyring.sign("chat", &Token { started_seconds, ..token() });
            let expected = if alive { Ok(()) } else { Err(TokenError::Expired) };
            assert_eq!(
                keyring.verify("chat", text.as_bytes(), DAY).map(|_| ()),
                expected,
                "{started_seconds}"
            );
        }
    }

    #[test]
    fn a_forged_token_is_forged_even_when_it_would_be_expired() {
        let keyring = keyring(&[("k1", OLD)]);
        let text = keyring.sign("chat", &Token { started_seconds: 0, ..token() });
        assert_eq!(keyring.verify("shop", text.as_bytes(), DAY), Err(TokenError::Forged));
    }

    /// Sessions on one endpoint must not be linkable to it, or to each other, without the key.
    #[test]
    fn the_endpoint_can_not_be_read_and_looks_different_in_every_session() {
        let keyring = keyring(&[("k1", OLD)]);
        let concealed = |token: &Token| {
            let bytes = URL_SAFE_NO_PAD.decode(keyring.sign("chat", token)).unwrap();
            assert!(!bytes.windows(4).any(|window| window == &token.endpoint[..4]));
            bytes[28..44].to_vec()
        };
        let mut seen = vec![concealed(&token())];
        for other in [
            Token { session: SessionId::from_bytes([7; 16]), ..token() },
            Token { started_seconds: NOW + 1, ..token() },
        ] {
            seen.push(concealed(&other));
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn a_token_cut_short_or_made_longer_is_malformed() {
        let keyring = keyring(&[("k1", OLD)]);
        let text = keyring.sign("chat", &token());
        for length in 0..text.len() {
            let cut = &text.as_bytes()[..length];
            assert_eq!(keyring.verify("chat", cut, DAY), Err(TokenError::Malformed), "{length}");
        }
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for length in 0..bytes.len() {
            let cut = URL_SAFE_NO_PAD.encode(&bytes[..length]);
            assert_eq!(keyring.verify("chat", cut.as_bytes(), DAY), Err(TokenError::Malformed), "{length}");
        }
        for more in ["A", "AA", "AAA", "AAAA", "=", " "] {
            let longer = format!("{text}{more}");
            assert_eq!(
                keyring.verify("chat", longer.as_bytes(), DAY),
                Err(TokenError::Malformed),
                "{more:?}"
            );
        }
    }

    #[test]
    fn every_single_flipped_bit_is_refused_for_the_right_reason() {
        // The key "j1" differs from "k1" by one bit: a flip that reaches it is caught by the tag.
        let keyring = keyring(&[("k1", OLD), ("j1", NEW)]);
        let bytes = URL_SAFE_NO_PAD.decode(keyring.sign("chat", &token())).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let text = URL_SAFE_NO_PAD.encode(&flipped);
            let refused = keyring.verify("chat", text.as_bytes(), DAY).unwrap_err();
            let allowed: &[TokenError] = match bit / 8 {
                0 | 1 => &[TokenError::Malformed],
                2 | 3 if &flipped[2..4] == b"j1" => &[TokenError::Forged],
                2 | 3 => &[TokenError::Malformed, TokenError::UnknownKey],
                _ => &[TokenError::Forged],
            };
            assert!(allowed.contains(&refused), "bit {bit}: {refused:?}");
        }
    }

    #[test]
    fn every_single_changed_character_is_refused() {
        let keyring = keyring(&[("k1", OLD)]);
        let text = keyring.sign("chat", &token()).into_bytes();
        for (at, original) in text.iter().copied().enumerate() {
            for character in (0..=255).filter(|character| *character != original) {
                let mut changed = text.clone();
                changed[at] = character;
                assert!(keyring.verify("chat", &changed, DAY).is_err(), "{at}: {character}");
            }
        }
    }

    prop_compose! {
        fn any_token()(session: [u8; 16], endpoint: [u8; 16], started_seconds: u64) -> Token {
            Token { session: SessionId::from_bytes(session), endpoint, started_seconds }
        }
    }

    proptest! {
        #[test]
        fn replicas_with_the_same_keys_write_the_same_token_and_read_what_was_written(
            token in any_token(),
            service in ".{0,80}",
            id in "[A-Za-z0-9_-]{1,16}",
            material in proptest::collection::vec(0x21..=0x7e_u8, 32..200),
        ) {
            let (one, other) = (keyring(&[(&id, &material)]), keyring(&[(&id, &material)]));
            let text = one.sign(&service, &token);
            prop_assert_eq!(&text, &other.sign(&service, &token));
            let lifetime = Lifetime { now_seconds: token.started_seconds, absolute_timeout_seconds: 0 };
            let verified = Verified { token, signed_by_first_key: true };
            prop_assert_eq!(other.verify(&service, text.as_bytes(), lifetime), Ok(verified));
        }

        #[test]
        fn no_input_is_accepted_that_was_not_signed(text in proptest::collection::vec(any::<u8>(), 0..120)) {
            let keyring = keyring(&[("k1", OLD)]);
            prop_assert!(keyring.verify("chat", &text, DAY).is_err());
            prop_assert!(keyring.verify("chat", URL_SAFE_NO_PAD.encode(&text).as_bytes(), DAY).is_err());
        }
    }

    /// Computed by another implementation (Python's hmac). If this fails, every client of this kind moves at the next
    /// rollout.
    #[test]
    fn the_hash_of_a_value_is_the_documented_one() {
        let session = keyring(&[("k1", OLD)]).session_of("chat", Source::Header, b"user-42");
        assert_eq!(session.to_string(), "b975d75f954783ccb952c783f6df8785");
    }

    #[test]
    fn the_first_key_alone_makes_sessions_of_values() {
        let of = |keys: &[(&str, &[u8])]| keyring(keys).session_of("chat", Source::Address, b"a");
        let first = of(&[("k1", OLD)]);
        assert_eq!(first, of(&[("k1", OLD), ("k2", NEW)]), "a key that only verifies moves nobody");
        assert_eq!(first, of(&[("other", OLD)]), "its name is no part of it");
        assert_ne!(first, of(&[("k2", NEW), ("k1", OLD)]), "a new first key moves everybody");
    }

    #[test]
    fn services_sources_and_values_make_different_sessions() {
        let keyring = keyring(&[("k1", OLD)]);
        let sessions = [
            keyring.session_of("chat", Source::Header, b"a"),
            keyring.session_of("chat", Source::Query, b"a"),
            keyring.session_of("chat", Source::Address, b"a"),
            keyring.session_of("chats", Source::Header, b"a"),
            keyring.session_of("chat", Source::Header, b"b"),
        ];
        for (index, one) in sessions.iter().enumerate() {
            assert!(!sessions[..index].contains(one), "{index}");
        }
    }
}
