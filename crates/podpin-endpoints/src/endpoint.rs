//! An endpoint: a port of a pod, or an address from a list.
//!
//! An [`Endpoint`] never changes: a new fact is a new `Arc<Endpoint>` in the next snapshot. Only its [`Load`] is
//! shared between the versions, so that streams and failures counted on an old version count on the new one.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::phase::Phase;
use crate::streams::Load;
use crate::update::Observed;
use podpin_time::Millis;

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
    pub(crate) fn position(self) -> u128 {
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

/// A map by identity. Only identities made by [`EndpointId::digest`] are ever inserted, so the bits that SHA-256
/// made random are the hash.
pub(crate) type IdMap<V> = HashMap<EndpointId, V, BuildHasherDefault<IdHasher>>;

/// Passes the bits of an [`EndpointId`] on.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

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

/// The facts about one endpoint at one moment. A clone is the same endpoint: it counts on the same [`Load`].
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The identity, which no fact about the endpoint changes.
    pub id: EndpointId,
    /// The name in logs and on the admin port: the pod's name, or the name in the list.
    pub name: Arc<str>,
    /// The pod's uid, where there is a pod.
    pub uid: Option<Arc<str>>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Topology zone.
    pub zone: Option<Arc<str>>,
    /// The zones that its clients should come from, where the cluster hints at any (EndpointSlice `hints.forZones`,
    /// KEP-2433).
    pub zone_hints: Option<Arc<[Arc<str>]>>,
    /// Node that it runs on.
    pub node: Option<Arc<str>>,
    /// Share of new clients beside the others, at least 1.
    pub weight: u32,
    /// Whether it takes new clients, keeps the pinned ones, or is leaving.
    pub phase: Phase,
    /// Whether it still answers those that it has; true for every ready one.
    pub serving: bool,
    /// When `phase` began.
    pub phase_since: Millis,
    /// When it will be killed, where that is known: the end of a terminating pod's grace period.
    pub deadline: Option<Millis>,
    /// When this identity was first seen.
    pub added: Millis,
    /// Whether new clients come to it gradually; false for members of the very first list.
    pub slow_start: bool,
    /// Streams and failures, shared by all versions of this identity.
    pub load: Arc<Load>,
}

/// How long a drain may take (`drain`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainTimes {
    /// Streams leave evenly over this time.
    pub spread: Duration,
    /// The deadline, counted from the drain's beginning, of an endpoint that does not know its own.
    pub timeout: Duration,
    /// How long before its end an endpoint that knows it is to be empty.
    pub margin: Duration,
}

impl DrainTimes {
    /// By when everything has left this draining endpoint.
    #[must_use]
    pub fn deadline(&self, endpoint: &Endpoint) -> Millis {
        let margin = u64::try_from(self.margin.as_millis()).unwrap_or(u64::MAX);
        let known = endpoint.deadline.map(|end| Millis(end.0.saturating_sub(margin)));
        known.unwrap_or_else(|| endpoint.phase_since.after(self.timeout))
    }

    /// When streams must begin to leave at the latest, to do so evenly.
    #[must_use]
    pub fn last_departures(&self, endpoint: &Endpoint) -> Millis {
        let spread = u64::try_from(self.spread.as_millis()).unwrap_or(u64::MAX);
        Millis(self.deadline(endpoint).0.saturating_sub(spread))
    }
}

impl Endpoint {
    /// A member that is seen for the first time.
    pub(crate) fn joining(observed: Observed, now: Millis, slow_start: bool, load: Arc<Load>) -> Endpoint {
        Endpoint {
            id: observed.id,
            name: observed.name,
            uid: observed.uid,
            address: observed.address,
            zone: observed.zone,
            zone_hints: observed.zone_hints,
            node: observed.node,
            // Zero would be an endpoint that no draw can choose, and a ring without a point.
            weight: observed.weight.max(1),
            phase: observed.condition.phase(),
            serving: observed.condition.serving(),
            phase_since: now,
            deadline: observed.deadline,
            added: now,
            slow_start,
            load,
        }
    }

    /// The next version, with the facts of `observed`; its condition is not taken over, see [`Endpoint::entering`].
    pub(crate) fn described(&self, observed: Observed) -> Endpoint {
        Endpoint {
            phase: self.phase,
            serving: self.serving,
            phase_since: self.phase_since,
            // A pod's end is never taken back; who observes it may not know of it yet.
            deadline: observed.deadline.or(self.deadline),
            ..Endpoint::joining(observed, self.added, self.slow_start, Arc::clone(&self.load))
        }
    }

    /// The next version, in `phase` since `now` unless it was in it before.
    pub(crate) fn entering(self, phase: Phase, serving: bool, now: Millis) -> Endpoint {
        let phase_since = if phase == self.phase { self.phase_since } else { now };
        Endpoint { phase, serving, phase_since, ..self }
    }

    /// The zones whose new clients it should get: those of the hints, or without hints its own.
    pub(crate) fn zones_served(&self) -> impl Iterator<Item = &Arc<str>> {
        let hinted = self.zone_hints.as_deref();
        let own = self.zone.iter().filter(move |_| hinted.is_none());
        hinted.unwrap_or_default().iter().chain(own)
    }

    /// Whether `other` says anything new about the same identity.
    pub(crate) fn differs(&self, other: &Endpoint) -> bool {
        self.phase != other.phase
            || self.serving != other.serving
            || self.reachability_differs(other)
            || self.name != other.name
            || self.uid != other.uid
            || self.zone != other.zone
            || self.zone_hints != other.zone_hints
            || self.node != other.node
            || self.deadline != other.deadline
    }

    /// Whether a ring built for this version is wrong for `other`.
    pub(crate) fn reachability_differs(&self, other: &Endpoint) -> bool {
        self.address != other.address || self.weight != other.weight
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
