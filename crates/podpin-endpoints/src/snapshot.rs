//! All endpoints of one service at one moment, as the request path reads them: immutable, without a lock.
//!
//! What every pick needs is laid out when the snapshot is made (once per change), so that a pick among ten thousand
//! endpoints costs what a pick among ten does. Who may be picked is decided in `pick.rs`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::endpoint::Endpoint;
use crate::id::{EndpointId, IdMap};
use crate::phase::Phase;
use crate::weighted_set::WeightedSet;
use podpin_time::Millis;

/// The endpoints of one service at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    endpoints: Vec<Arc<Endpoint>>,
    index: IdMap<usize>,
    ready: WeightedSet,
    /// The ready ones that serve each zone; see [`Endpoint::zones_served`].
    ready_by_zone: HashMap<Arc<str>, WeightedSet>,
    counts: Counts,
    first_list_seen: bool,
    /// The round-robin turn, shared by all snapshots of the table.
    turn: Arc<AtomicU64>,
}

/// How many endpoints are in each phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In [`Phase::Ready`].
    pub ready: usize,
    /// In [`Phase::NotReady`].
    pub not_ready: usize,
    /// In [`Phase::Draining`].
    pub draining: usize,
}

impl Snapshot {
    /// Lays out `endpoints`, which are sorted already.
    pub(crate) fn new(
        endpoints: Vec<Arc<Endpoint>>,
        first_list_seen: bool,
        turn: Arc<AtomicU64>,
    ) -> Snapshot {
        let index = endpoints.iter().enumerate().map(|(index, endpoint)| (endpoint.id, index)).collect();
        let in_phase = |phase| endpoints.iter().filter(move |endpoint| endpoint.phase == phase);
        let ready = WeightedSet::new(in_phase(Phase::Ready).cloned().collect());
        let counts = Counts {
            ready: ready.endpoints().len(),
            not_ready: in_phase(Phase::NotReady).count(),
            draining: in_phase(Phase::Draining).count(),
        };
        let ready_by_zone = by_zone(ready.endpoints());
        Snapshot { endpoints, index, ready, ready_by_zone, counts, first_list_seen, turn }
    }

    /// All endpoints, sorted by name, then identity: the same order on every replica.
    #[must_use]
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// The endpoint with this identity, in constant time.
    #[must_use]
    pub fn get(&self, id: &EndpointId) -> Option<&Arc<Endpoint>> {
        self.index.get(id).and_then(|index| self.endpoints.get(*index))
    }

    /// The endpoints that a person means by a pod's name or uid (one per port); walks the whole list.
    pub fn called<'a>(&'a self, name_or_uid: &'a str) -> impl Iterator<Item = &'a Arc<Endpoint>> {
        self.endpoints.iter().filter(move |endpoint| {
            &*endpoint.name == name_or_uid || endpoint.uid.as_deref() == Some(name_or_uid)
        })
    }

    /// How many endpoints are in each phase.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether discovery has given a full list, even an empty one, since the table was made.
    #[must_use]
    pub fn first_list_seen(&self) -> bool {
        self.first_list_seen
    }

    /// Whether ejected endpoints are passed over now. When more than half of the ready ones are ejected, the fault is
    /// rather ours or the network's: then ejection is ignored, and `ejected` should not be shown either.
    #[must_use]
    pub fn honours_ejection(&self, now: Millis) -> bool {
        ejection_is_honoured(self.ready.endpoints().iter(), now)
    }

    pub(crate) fn ready(&self) -> &WeightedSet {
        &self.ready
    }

    /// Returns the ready endpoints for new clients of `zone`; `None` if there is none.
    pub(crate) fn ready_in(&self, zone: &str) -> Option<&WeightedSet> {
        self.ready_by_zone.get(zone)
    }

    pub(crate) fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

/// The endpoints of each zone, laid out to draw from; one that is hinted for several zones is in each.
fn by_zone(ready: &[Arc<Endpoint>]) -> HashMap<Arc<str>, WeightedSet> {
    let mut members: HashMap<Arc<str>, Vec<Arc<Endpoint>>> = HashMap::new();
    for endpoint in ready {
        for zone in endpoint.zones_served() {
            match members.get_mut(zone) {
                // A zone that is hinted twice counts once.
                Some(list) if list.last().is_some_and(|last| Arc::ptr_eq(last, endpoint)) => {}
                Some(list) => list.push(Arc::clone(endpoint)),
                None => drop(members.insert(Arc::clone(zone), vec![Arc::clone(endpoint)])),
            }
        }
    }
    members.into_iter().map(|(zone, list)| (zone, WeightedSet::new(list))).collect()
}

/// The rule of [`Snapshot::honours_ejection`] for any set of endpoints.
pub(crate) fn ejection_is_honoured<'a>(
    endpoints: impl Iterator<Item = &'a Arc<Endpoint>>,
    now: Millis,
) -> bool {
    let (mut all, mut ejected) = (0_usize, 0_usize);
    for endpoint in endpoints {
        all += 1;
        ejected += usize::from(endpoint.load.is_ejected(now));
    }
    ejected <= all / 2
}
