//! Ketama over the members of a service, by `pingora-load-balancing`: where a session goes when its pin is of no use.
//!
//! The ring is built over all members, whatever their state, from addresses and weights alone, so that every replica
//! builds the same one and a change of state moves nobody but those who must move.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddress;
use pingora_load_balancing::selection::consistent::KetamaHashing;
use pingora_load_balancing::selection::{BackendIter, BackendSelection};
use pingora_load_balancing::{Backend, Extensions};
use podpin_endpoints::{Endpoint, EndpointId, Ring};

/// Weights are scaled to at most this many shares of 160 points each: enough to tell 1:16, small enough to sort fast.
const SHARES_MAX: u32 = 16;
/// How far to walk before giving up on the ring: an endpoint with one share of 160 is found within this many points
/// of almost every key, unless nearly all others are unusable.
const WALK_POINTS_MAX: usize = 4096;

/// The ring of one set of members, built when it is first needed: by the first client that must move after members
/// changed. A cluster changes members far more often than most services move anybody.
pub struct KetamaRing {
    built: OnceLock<Arc<KetamaHashing>>,
    weights: Vec<(SocketAddr, u32)>,
    /// Two identities may share an address for a while: a pod that ends, and the one that got its address.
    members: HashMap<SocketAddr, Vec<EndpointId>>,
    /// In the order of their identity: the last resort, the same on every replica.
    sorted: Vec<EndpointId>,
}

impl std::fmt::Debug for KetamaRing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("KetamaRing").field("members", &self.members.len()).finish_non_exhaustive()
    }
}

impl KetamaRing {
    /// Notes the members.
    pub fn new<'a>(endpoints: impl IntoIterator<Item = &'a Arc<Endpoint>>) -> KetamaRing {
        let mut members: HashMap<_, Vec<_>> = HashMap::new();
        let mut sorted = Vec::new();
        let mut weights = Vec::new();
        for endpoint in endpoints {
            sorted.push(endpoint.id);
            weights.push((endpoint.address, endpoint.weight));
            members.entry(endpoint.address).or_default().push(endpoint.id);
        }
        sorted.sort_unstable();
        members.values_mut().for_each(|ids: &mut Vec<EndpointId>| ids.sort_unstable());
        KetamaRing { built: OnceLock::new(), weights, members, sorted }
    }

    /// Costs about 160 hashes a member and a sort, once: 2 ms for 100 members.
    fn hashing(&self) -> &Arc<KetamaHashing> {
        self.built.get_or_init(|| {
            let smallest = self.weights.iter().map(|(_, weight)| *weight).min().unwrap_or(1).max(1);
            let members = self.weights.iter();
            let backends: BTreeSet<Backend> =
                members.map(|(address, weight)| backend(*address, shares(*weight, smallest))).collect();
            Arc::new(KetamaHashing::build(&backends))
        })
    }

    fn resort(&self, key: &[u8], accept: &mut dyn FnMut(&EndpointId) -> bool) -> Option<EndpointId> {
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
        let mut walk = self.hashing().iter(key);
        for _ in 0..WALK_POINTS_MAX {
            let address = walk.next()?.addr.as_inet()?;
            let here = self.members.get(address).map(Vec::as_slice).unwrap_or_default();
            if let Some(id) = here.iter().find(|id| accept(id)) {
                return Some(*id);
            }
        }
        self.resort(key, accept)
    }
}
