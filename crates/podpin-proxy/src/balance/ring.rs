//! Ketama over the members of a service, by `pingora-load-balancing`: the endpoint of a session whose pin cannot be followed.
//!
//! The ring is built over all members, whatever their state, from addresses and weights alone, so that every replica
//! builds the same one and a change of state moves only the clients that must move.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddress;
use pingora_load_balancing::selection::consistent::KetamaHashing;
use pingora_load_balancing::selection::{BackendIter, BackendSelection};
use pingora_load_balancing::{Backend, Extensions};
use podpin_endpoints::{Endpoint, EndpointId, Ring};
use podpin_time::Millis;

use crate::balance::flaps::Flapping;

/// Weights are scaled to at most this many shares of 160 points each: enough for 1:16, small enough to sort fast.
const SHARES_MAX: u32 = 16;
/// The points to walk before giving up on the ring: an endpoint with one share of 160 is found within this many points
/// of almost every key, unless nearly all others are unusable.
const WALK_POINTS_MAX: usize = 4096;

/// The ring of one set of members, built when it is first needed: by the first client that must move after members
/// changed. A cluster changes members far more often than most services move a client.
pub struct KetamaRing {
    members: Vec<Member>,
    built: OnceLock<Built>,
}

/// A member, as far as the ring is concerned.
struct Member {
    id: EndpointId,
    address: SocketAddr,
    weight: u32,
}

/// The points of a ring, and the members at them.
struct Built {
    points: Arc<KetamaHashing>,
    /// Two identities may share an address for a while: an endpoint that ends, and the one that got its address.
    by_address: HashMap<SocketAddr, Vec<EndpointId>>,
    /// Members in the order of their identity: the last resort, the same on every replica.
    sorted: Vec<EndpointId>,
}

impl std::fmt::Debug for KetamaRing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("KetamaRing").field("members", &self.members.len()).finish_non_exhaustive()
    }
}

impl KetamaRing {
    /// Builds the ring of these members, whose points are computed when they are first needed.
    pub fn new<'a>(endpoints: impl IntoIterator<Item = &'a Arc<Endpoint>>) -> KetamaRing {
        let member = |endpoint: &Arc<Endpoint>| Member {
            id: endpoint.id,
            address: endpoint.address,
            weight: endpoint.weight,
        };
        KetamaRing { members: endpoints.into_iter().map(member).collect(), built: OnceLock::new() }
    }

    /// Returns the points; the first call computes about 160 hashes a member and sorts them: 2 ms for 100 members.
    fn built(&self) -> &Built {
        self.built.get_or_init(|| Built::of(&self.members))
    }
}

impl Built {
    fn of(members: &[Member]) -> Built {
        let smallest = members.iter().map(|member| member.weight).min().unwrap_or(1).max(1);
        let backends = members.iter().map(|member| backend(member.address, shares(member.weight, smallest)));
        let points = Arc::new(KetamaHashing::build(&backends.collect::<BTreeSet<Backend>>()));
        let mut sorted: Vec<EndpointId> = members.iter().map(|member| member.id).collect();
        sorted.sort_unstable();
        let mut by_address: HashMap<_, Vec<_>> = HashMap::new();
        for member in members {
            by_address.entry(member.address).or_default().push(member.id);
        }
        by_address.values_mut().for_each(|ids: &mut Vec<EndpointId>| ids.sort_unstable());
        Built { points, by_address, sorted }
    }

    fn last_resort(&self, key: &[u8], accept: &mut dyn FnMut(&EndpointId) -> bool) -> Option<EndpointId> {
        let start =
            key.iter().fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(*byte)));
        let (before, after) = self.sorted.split_at_checked(start.checked_rem(self.sorted.len())?)?;
        after.iter().chain(before).find(|id| accept(id)).copied()
    }
}

fn shares(weight: u32, smallest: u32) -> usize {
    let scaled = weight.saturating_add(smallest / 2) / smallest;
    usize::try_from(scaled.clamp(1, SHARES_MAX)).unwrap_or(1)
}

fn backend(address: SocketAddr, weight: usize) -> Backend {
    Backend { addr: PingoraAddress::Inet(address), weight, ext: Extensions::new() }
}

impl Ring for KetamaRing {
    fn first(&self, key: &[u8], accept: &mut dyn FnMut(&EndpointId) -> bool) -> Option<EndpointId> {
        let built = self.built();
        let mut walk = built.points.iter(key);
        for _ in 0..WALK_POINTS_MAX {
            let address = walk.next()?.addr.as_inet()?;
            let here = built.by_address.get(address).map(Vec::as_slice).unwrap_or_default();
            if let Some(id) = here.iter().find(|id| accept(id)) {
                return Some(*id);
            }
        }
        built.last_resort(key, accept)
    }
}

/// A ring that passes over endpoints which flap, as long as there are others.
pub struct SteadyRing<'v> {
    ring: &'v KetamaRing,
    flapping: &'v Flapping,
    now: Millis,
}

impl<'v> SteadyRing<'v> {
    /// Builds the view of a ring at `now`.
    pub(crate) fn new(ring: &'v KetamaRing, flapping: &'v Flapping, now: Millis) -> SteadyRing<'v> {
        SteadyRing { ring, flapping, now }
    }
}

impl std::fmt::Debug for SteadyRing<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SteadyRing").field("flapping", &self.flapping.len()).finish_non_exhaustive()
    }
}

impl Ring for SteadyRing<'_> {
    fn first(&self, key: &[u8], accept: &mut dyn FnMut(&EndpointId) -> bool) -> Option<EndpointId> {
        if self.flapping.is_empty() {
            return self.ring.first(key, accept);
        }
        let is_steady = |id: &EndpointId| self.flapping.get(id).is_none_or(|until| *until <= self.now);
        let steady = self.ring.first(key, &mut |id| is_steady(id) && accept(id));
        steady.or_else(|| self.ring.first(key, accept))
    }
}

#[cfg(test)]
mod tests {
    use podpin_endpoints::{Observed, Snapshot, Table, Update};

    use super::*;

    /// Members `0..count` with equal weights.
    fn members(count: u8) -> Arc<Snapshot> {
        let observed = (0..count).map(|number| {
            Observed::ready(
                EndpointId::from_bytes([number; 16]),
                format!("pod-{number}"),
                SocketAddr::from(([127, 0, 0, 1], 1_000 + u16::from(number))),
            )
        });
        Table::new().apply(Update::Replace(observed.collect()), Millis(0)).snapshot
    }

    fn chosen(ring: &KetamaRing, key: u16) -> EndpointId {
        ring.first(&key.to_be_bytes(), &mut |_| true).unwrap()
    }

    #[test]
    fn a_member_that_is_not_acceptable_moves_its_own_sessions_and_no_others() {
        let (snapshot, gone) = (members(5), EndpointId::from_bytes([3; 16]));
        let ring = KetamaRing::new(snapshot.endpoints());
        let mut moved = 0;
        for key in 0..500_u16 {
            let before = chosen(&ring, key);
            let after = ring.first(&key.to_be_bytes(), &mut |id| *id != gone).unwrap();
            assert!(after == before || before == gone, "session {key}");
            moved += u32::from(before == gone);
        }
        assert!((50..150).contains(&moved), "{moved} of 500 sessions on one of five members");
    }

    #[test]
    fn a_ring_without_an_acceptable_member_has_none() {
        let snapshot = members(2);
        assert_eq!(KetamaRing::new(snapshot.endpoints()).first(b"key", &mut |_| false), None);
        assert_eq!(KetamaRing::new([]).first(b"key", &mut |_| true), None);
    }

    #[test]
    fn a_member_that_flaps_is_passed_over_until_it_is_steady_and_taken_when_there_is_no_other() {
        let (snapshot, flaps) = (members(5), EndpointId::from_bytes([3; 16]));
        let ring = KetamaRing::new(snapshot.endpoints());
        let flapping = Flapping::from_iter([(flaps, Millis(10))]);
        let steady = |now, key: u16| {
            SteadyRing::new(&ring, &flapping, Millis(now)).first(&key.to_be_bytes(), &mut |_| true)
        };
        for key in 0..500_u16 {
            let without = ring.first(&key.to_be_bytes(), &mut |id| *id != flaps);
            assert_eq!(steady(9, key), without, "session {key}");
            assert_eq!(steady(10, key), Some(chosen(&ring, key)), "session {key}");
        }
        let alone = SteadyRing::new(&ring, &flapping, Millis(9)).first(b"key", &mut |id| *id == flaps);
        assert_eq!(alone, Some(flaps));
    }

    #[test]
    fn weights_become_at_most_sixteen_shares() {
        let table = [(1, 1, 1), (3, 1, 3), (100, 1, 16), (5, 10, 1), (15, 10, 2)];
        for (weight, smallest, expected) in table {
            assert_eq!(shares(weight, smallest), expected, "{weight} of {smallest}");
        }
    }
}
