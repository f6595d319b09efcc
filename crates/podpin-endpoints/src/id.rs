//! The identity of an endpoint, and maps by it.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::net::SocketAddr;

use sha2::{Digest, Sha256};

/// Identity of an endpoint: 128 bits of SHA-256 (FIPS 180-4), the same on every replica.
///
/// A pod that is restarted under another uid, or an address that another pod took over, is another endpoint. The
/// hash has no key: it hides nothing from someone who can guess the inputs, so a token must not show it bare.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointId([u8; 16]);

impl EndpointId {
    /// The identity of `port` of the pod with this `uid` (`metadata.uid`).
    #[must_use]
    pub fn of_pod(uid: &str, port: u16) -> EndpointId {
        EndpointId::digest(b"pod", uid, &port.to_be_bytes())
    }

    /// The identity of a named `address` from a static list, a file or a slice without `targetRef`.
    #[must_use]
    pub fn of_address(name: &str, address: SocketAddr) -> EndpointId {
        EndpointId::digest(b"address", name, address.to_string().as_bytes())
    }

    /// The sixteen bytes as they stand in a token.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The identity that a token names; any sixteen bytes are one, known or not.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> EndpointId {
        EndpointId(bytes)
    }

    /// `kind` and the length of `name` keep different inputs from meeting in one byte string.
    fn digest(kind: &[u8], name: &str, rest: &[u8]) -> EndpointId {
        let length = u64::try_from(name.len()).unwrap_or(u64::MAX);
        let mut hash = Sha256::new();
        hash.update(kind);
        hash.update([0]);
        hash.update(length.to_be_bytes());
        hash.update(name.as_bytes());
        hash.update(rest);
        let whole: [u8; 32] = hash.finalize().into();
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(whole).for_each(|(to, from)| *to = from);
        EndpointId(bytes)
    }

    /// The bytes as one big-endian number: a place on the circle of all identities.
    pub fn position(self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.position())
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "EndpointId({self})")
    }
}

impl Hash for EndpointId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The low half is as random as the whole, and enough to spread a table.
        state.write_u64(u64::try_from(self.position() & u128::from(u64::MAX)).unwrap_or_default());
    }
}

/// A map by identity. Only identities that were made here are ever inserted, no client's bytes, so the bits that SHA-256
/// made random are the hash.
pub type IdMap<V> = HashMap<EndpointId, V, BuildHasherDefault<IdHasher>>;

/// Passes the bits of an [`EndpointId`] on.
#[derive(Clone, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, bits: u64) {
        self.0 = bits;
    }

    /// Not on the way of [`EndpointId`], which writes one `u64`; correct for whatever else comes.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn identities_are_pinned_down_because_tokens_carry_them() {
        // Computed once with `printf 'pod\0\0\0\0\0\0\0\0\003u-1\037\220' | sha256sum | cut -c1-32` (8080 = 0x1f90),
        // and the same with `address`; a change here makes every cookie in the field point nowhere.
        assert_eq!(EndpointId::of_pod("u-1", 8080).to_string(), "3bd9f120fa01d9915c0139ce2eea9bc5");
        let pod_a = EndpointId::of_address("pod-a", address("127.0.0.1:9001"));
        assert_eq!(pod_a.to_string(), "778bbb2514afd0c2892435daf4d66e28");
    }

    #[test]
    fn every_part_of_an_identity_counts() {
        let ids = [
            EndpointId::of_pod("u-1", 80),
            EndpointId::of_pod("u-1", 81),
            EndpointId::of_pod("u-2", 80),
            EndpointId::of_address("u-1", address("10.0.0.1:80")),
            EndpointId::of_address("u-1", address("10.0.0.1:81")),
            EndpointId::of_address("u-", address("110.0.0.1:80")),
            EndpointId::of_address("u-1", address("[::1]:80")),
        ];
        for (index, id) in ids.iter().enumerate() {
            assert_eq!(ids.iter().position(|other| other == id), Some(index));
        }
    }

    #[test]
    fn bytes_round_trip() {
        let id = EndpointId::of_pod("u-1", 80);
        assert_eq!(EndpointId::from_bytes(*id.as_bytes()), id);
        assert_eq!(format!("{id:?}"), format!("EndpointId({id})"));
    }
}
