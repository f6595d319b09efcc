//! The affinity token: what it says, and how that is written as text. Signing and checking it is `keyring.rs`.
//!
//! The text is base64url without padding (RFC 4648, section 5) of these bytes; numbers are big-endian:
//!
//! ```text
//! offset   bytes   field
//! 0        1       version, 1
//! 1        1       n, length of the key id, 1..=16
//! 2        n       key id, [A-Za-z0-9_-]
//! 2 + n    16      session id, random, the same for the client's whole session
//! 18 + n   8       start of the session, Unix seconds
//! 26 + n   16      concealed endpoint id
//! 42 + n   16      tag
//! ```
//!
//! The keys come out of one key file by HKDF-SHA256 (RFC 5869): `salt` is `podpin affinity token v1`, `info` is
//! `authenticate` for the first and `conceal` for the second, each 32 bytes long; a third one is in `choice.rs`. With them
//!
//! ```text
//! tag       = HMAC-SHA256(authenticate, version | n | key id | session id | start | endpoint id
//!                         | length of the service's name, 8 bytes | service's name)[..16]
//! concealed = endpoint id XOR HMAC-SHA256(conceal, tag)[..16]
//! ```
//!
//! This is a synthetic initialisation vector, as in RFC 5297. The endpoint id is a hash of a pod's name and
//! address that anyone can compute; written openly, a client could confirm a guess of a pod's name offline with
//! nothing but its own cookie. Concealed under the tag it says nothing without the key, it needs no random
//! number, and two replicas write the same token for the same facts. Half of the hash as the tag is the shortest
//! that RFC 2104, section 5, recommends: 128 bits, far beyond guessing online, and it keeps the cookie under 100
//! characters. The service's name is not written, only authenticated: a token of one service is forged to another.
//!
//! A reader refuses what a writer would not have written: other alphabets, padding, trailing bits, other lengths.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Longest key id, bytes. It is part of every cookie, hence short.
pub const KEY_ID_BYTES_MAX: usize = 16;

/// Longest text of a token, bytes. Anything longer is refused unread.
pub const TOKEN_TEXT_BYTES_MAX: usize = (BYTES_MAX * 4).div_ceil(3);

/// The only version there is. A reader that meets another one cannot know where the fields are.
pub(crate) const VERSION: u8 = 1;

const BYTES_MAX: usize = 2 + KEY_ID_BYTES_MAX + 16 + 8 + 16 + 16;

/// A client's session: 128 random bits, drawn by the proxy at the first request and kept through every re-pin.
///
/// Displayed as 32 lower-case hexadecimal digits, the form that pods see in `X-Podpin-Session`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// Takes 16 bytes, random if they are to be unique.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl SessionId {
    /// Appends the id in 32 hexadecimal digits, as it is displayed.
    pub fn write(&self, out: &mut Vec<u8>) {
        let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
        }
        out.extend_from_slice(&digits);
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// The content of a token. A hint, never a permission: it chooses only among endpoints that the route allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The client's session.
    pub session: SessionId,
    /// The endpoint that served the client last, as the bytes of `podpin_endpoints::EndpointId`.
    pub endpoint: [u8; 16],
    /// Start of the session, Unix seconds. A re-pin and a reissue keep it.
    pub started_seconds: u64,
}

/// A token whose tag and lifetime were found right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The fields of the token.
    pub token: Token,
    /// Whether the first key signed it; if not, the proxy reissues it so that the older key can go.
    pub signed_by_first_key: bool,
}

/// Why a token was refused. The client counts as a new one; it never sees an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TokenError {
    /// A text that is no token of a known version.
    #[error("the token is malformed")]
    Malformed,
    /// A key id that the keyring does not hold, perhaps of a key that was rotated out.
    #[error("the token names an unknown key")]
    UnknownKey,
    /// A wrong tag: the token was changed, made without the key, or issued by another service.
    #[error("the token is forged")]
    Forged,
    /// A right tag and a session that is older than the absolute timeout, or starts in the future.
    #[error("the token is expired")]
    Expired,
}

/// The fields of a token as they stand on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields<'a> {
    pub(crate) key_id: &'a [u8],
    pub(crate) session: SessionId,
    pub(crate) started_seconds: u64,
    pub(crate) concealed_endpoint: [u8; 16],
    pub(crate) tag: [u8; 16],
}

/// Room for the bytes of the longest token. Callers keep it on their stack: reading allocates nothing.
pub(crate) type Room = [u8; BYTES_MAX.next_multiple_of(3)];

/// A room to begin with.
pub(crate) const EMPTY_ROOM: Room = [0; BYTES_MAX.next_multiple_of(3)];

impl<'a> Fields<'a> {
    /// Writes the text. The key id is at most [`KEY_ID_BYTES_MAX`] bytes long (`Key` sees to it).
    pub(crate) fn write(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.bytes(VERSION))
    }

    /// The bytes.
    pub(crate) fn bytes(&self, version: u8) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES_MAX);
        bytes.extend_from_slice(&[version, id_length(self.key_id)]);
        bytes.extend_from_slice(self.key_id);
        bytes.extend_from_slice(self.session.as_bytes());
        bytes.extend_from_slice(&self.started_seconds.to_be_bytes());
        bytes.extend_from_slice(&self.concealed_endpoint);
        bytes.extend_from_slice(&self.tag);
        bytes
    }

    /// Reads the text into `room`. The only error is [`TokenError::Malformed`].
    pub(crate) fn read(text: &[u8], room: &'a mut Room) -> Result<Self, TokenError> {
        if text.len() > TOKEN_TEXT_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let length = URL_SAFE_NO_PAD.decode_slice(text, room).map_err(|_| TokenError::Malformed)?;
        let parsed = room.get(..length).and_then(|bytes| Self::parse(bytes, VERSION));
        parsed.filter(|(_, rest)| rest.is_empty()).map(|(fields, _)| fields).ok_or(TokenError::Malformed)
    }

    /// The fields at the beginning of `bytes`, and what follows them.
    pub(crate) fn parse(bytes: &'a [u8], expected: u8) -> Option<(Self, &'a [u8])> {
        let (&[version, id_length], rest) = bytes.split_first_chunk()?;
        let (key_id, rest) = rest.split_at_checked(usize::from(id_length))?;
        let (&session, rest) = rest.split_first_chunk()?;
        let (&started, rest) = rest.split_first_chunk()?;
        let (&concealed_endpoint, rest) = rest.split_first_chunk()?;
        let (&tag, rest) = rest.split_first_chunk()?;
        let fields = Self {
            key_id,
            session: SessionId(session),
            started_seconds: u64::from_be_bytes(started),
            concealed_endpoint,
            tag,
        };
        (version == expected && is_key_id(key_id)).then_some((fields, rest))
    }
}

/// The length byte of a key id.
pub(crate) fn id_length(key_id: &[u8]) -> u8 {
    debug_assert!(key_id.len() <= KEY_ID_BYTES_MAX, "Key::new lets no longer id in");
    key_id.len() as u8
}

/// Whether `id` may name a key: 1 to [`KEY_ID_BYTES_MAX`] characters of `[A-Za-z0-9_-]`.
pub(crate) fn is_key_id(id: &[u8]) -> bool {
    (1..=KEY_ID_BYTES_MAX).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(key_id: &[u8]) -> Fields<'_> {
        Fields {
            key_id,
            session: SessionId([0xa5; 16]),
            started_seconds: 0x0102_0304_0506_0708,
            concealed_endpoint: [0x11; 16],
            tag: [0x22; 16],
        }
    }

    fn is_read(text: &str) -> bool {
        let mut room = EMPTY_ROOM;
        Fields::read(text.as_bytes(), &mut room).is_ok()
    }

    fn bytes(key_id: &[u8]) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(sealed(key_id).write()).unwrap()
    }

    #[test]
    fn a_session_id_reads_as_32_lower_case_hexadecimal_digits() {
        let id = SessionId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff]);
        assert_eq!(id.to_string(), "000102030405060708090a0b0c0d0eff");
        assert_eq!(format!("{id:?}"), "SessionId(000102030405060708090a0b0c0d0eff)");
    }

    #[test]
    fn key_ids_of_every_length_are_written_and_read() {
        for length in 1..=KEY_ID_BYTES_MAX {
            let id = vec![b'k'; length];
            let text = sealed(&id).write();
            assert!(text.len() <= TOKEN_TEXT_BYTES_MAX, "{length}");
            let mut room = EMPTY_ROOM;
            assert_eq!(Fields::read(text.as_bytes(), &mut room), Ok(sealed(&id)));
        }
        assert_eq!(sealed(&[b'k'; KEY_ID_BYTES_MAX]).write().len(), TOKEN_TEXT_BYTES_MAX);
    }

    #[test]
    fn other_versions_lengths_and_key_ids_are_malformed() {
        type Change = fn(&mut Vec<u8>);
        let table: [(&str, Change); 9] = [
            ("version 0", |bytes| bytes[0] = 0),
            ("version 2", |bytes| bytes[0] = 2),
            ("one byte more", |bytes| bytes.push(0)),
            ("one byte less", |bytes| bytes.truncate(59)),
            ("longer id than there is", |bytes| bytes[1] = 255),
            ("id one byte longer", |bytes| bytes[1] += 1),
            ("no id", |bytes| drop(bytes.splice(1..4, [0]))),
            ("a space in the id", |bytes| bytes[2] = b' '),
            ("nothing", Vec::clear),
        ];
        assert!(is_read(&URL_SAFE_NO_PAD.encode(bytes(b"k1"))));
        for (name, change) in table {
            let mut bytes = bytes(b"k1");
            change(&mut bytes);
            assert!(!is_read(&URL_SAFE_NO_PAD.encode(bytes)), "{name}");
        }
    }

    #[test]
    fn only_the_one_canonical_base64url_text_is_read() {
        // With a key id of one byte the token is 59 bytes long: 79 characters, the last of which has two idle bits.
        let mut token = bytes(b"k");
        token[57..].fill(0xff);
        let text = URL_SAFE_NO_PAD.encode(&token);
        assert!(is_read(&text));
        assert_eq!((text.len(), text.ends_with("_8")), (79, true));

        let idle_bits = format!("{}9", &text[..78]);
        let other_alphabet = text.replace('_', "/");
        for bad in [idle_bits, other_alphabet, format!("{text}="), format!("\"{text}\""), format!("{text} ")]
        {
            assert!(!is_read(&bad), "{bad}");
        }
        assert!(!is_read(""));
        assert!(!is_read(&"A".repeat(100_000)));
    }
}
