//! The session of a client that names itself: by a header or a query parameter of its own choice, or by its address.
//!
//! ```text
//! session id = SHA-256(length of the service's name, 8 bytes | service's name | source, 1 byte | value)[..16]
//! ```
//!
//! No key: every replica gives the same session to the same value, whichever keys it holds, and keys can rotate without
//! moving any client. A client that chooses another's value shares the other's pod, as it could with any session id that it
//! knows; whether it may see the other's session is for the pod to say.

use hmac::digest::consts::U16;
use sha2::{Digest as _, Sha256};

use crate::SessionId;

/// Where a value that makes a session comes from. Its number is part of the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The value of a request header.
    Header = 1,
    /// The value of a query parameter.
    Query = 2,
    /// The client's address, as far as it counts.
    Address = 3,
    /// Cookies that are no tokens, with the address that they came from.
    Refused = 4,
}

impl SessionId {
    /// The session that `value` makes in `service`.
    pub fn chosen(service: &str, source: Source, value: &[u8]) -> Self {
        let hash = Sha256::new()
            .chain_update((service.len() as u64).to_be_bytes())
            .chain_update(service)
            .chain_update([source as u8])
            .chain_update(value)
            .finalize();
        Self::from_bytes(hash.split::<U16>().0.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by another implementation (Python's hashlib). If this fails, every client of this kind moves at the next
    /// rollout.
    #[test]
    fn the_hash_is_the_documented_one() {
        let session = SessionId::chosen("chat", Source::Header, b"user-42");
        assert_eq!(session.to_string(), "ede2b5cdc9688e3134815be2eec8a087");
    }

    #[test]
    fn services_sources_and_values_make_different_sessions() {
        let sessions = [
            SessionId::chosen("chat", Source::Header, b"a"),
            SessionId::chosen("chat", Source::Query, b"a"),
            SessionId::chosen("chat", Source::Address, b"a"),
            SessionId::chosen("chats", Source::Header, b"a"),
            SessionId::chosen("chat", Source::Header, b"b"),
        ];
        for (index, one) in sessions.iter().enumerate() {
            assert!(!sessions[..index].contains(one), "{index}");
        }
    }
}
