//! All endpoints of one service at one moment, as the request path reads them: immutable, without a lock.
//!
//! What every pick needs is laid out when the snapshot is made (once per change), so that a pick among ten thousand
//! endpoints costs what a pick among ten does. Who may be picked is decided in `pick.rs`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::endpoint::{DrainTimes, Endpoint};
use crate::heirs::HeirMap;
use crate::id::{EndpointId, IdMap};
use crate::phase::Phase;
use crate::usage::{Tier, Usage, UseReason, UsedBy};
use crate::weighted_set::WeightedSet;
use podpin_time::Millis;

/// The endpoints of one service at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    endpoints: Vec<Arc<Endpoint>>,
    /// Places in `endpoints`, shared by snapshots of the same endpoints.
    index: Arc<IdMap<usize>>,
    /// The endpoints of each tier, in the order of [`Tier::ALL`].
    tiers: [WeightedSet; Tier::ALL.len()],
    /// The ready ones that serve each zone; see [`by_zone`].
    ready_by_zone: HashMap<Arc<str>, WeightedSet>,
    counts: Counts,
    first_list_seen: bool,
    /// The round-robin turn, shared by all snapshots of the table.
    turn: Arc<AtomicU64>,
    /// The heirs of the endpoints that left, those that are not listed any more included.
    heirs: Arc<HeirMap>,
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
        let index: IdMap<usize> =
            endpoints.iter().enumerate().map(|(index, endpoint)| (endpoint.id, index)).collect();
        Snapshot::laid_out(endpoints, Arc::new(index), first_list_seen, turn)
    }

    /// The same endpoints in the same order, with `changed` ones in their new versions.
    pub(crate) fn with(&self, changed: &[Arc<Endpoint>], first_list_seen: bool) -> Snapshot {
        let mut endpoints = self.endpoints.clone();
        for endpoint in changed {
            let place = self.index.get(&endpoint.id);
            if let Some(held) = place.and_then(|place| endpoints.get_mut(*place)) {
                *held = Arc::clone(endpoint);
            }
        }
        Snapshot::laid_out(endpoints, Arc::clone(&self.index), first_list_seen, Arc::clone(&self.turn))
    }

    fn laid_out(
        endpoints: Vec<Arc<Endpoint>>,
        index: Arc<IdMap<usize>>,
        first_list_seen: bool,
        turn: Arc<AtomicU64>,
    ) -> Snapshot {
        let in_phase = |phase| endpoints.iter().filter(move |endpoint| endpoint.phase == phase);
        let in_tier = |tier| endpoints.iter().filter(move |endpoint| endpoint.tier() == Some(tier));
        let tiers = Tier::ALL.map(|tier| WeightedSet::new(in_tier(tier).cloned().collect()));
        let [ready, ..] = &tiers;
        let counts = Counts {
            ready: ready.endpoints().len(),
            not_ready: in_phase(Phase::NotReady).count(),
            draining: in_phase(Phase::Draining).count(),
        };
        let ready_by_zone = by_zone(ready.endpoints());
        let heirs = Arc::default();
        Snapshot { endpoints, index, tiers, ready_by_zone, counts, first_list_seen, turn, heirs }
    }

    /// The same endpoints with these heirs.
    pub(crate) fn with_heirs(self, heirs: Arc<HeirMap>) -> Snapshot {
        Snapshot { heirs, ..self }
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

    /// Returns the endpoint that takes over the sessions of `left`, which drains or is gone; `None` if it has no heir. The heir may
    /// have left in turn.
    #[must_use]
    pub fn heir(&self, left: &EndpointId) -> Option<&EndpointId> {
        self.heirs.get(left)
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

    /// Returns whether the ready endpoints have places for more than `expected` streams, if each takes `limit` at most: for any
    /// number if there is no limit, for none if no endpoint is ready.
    #[must_use]
    pub fn has_places(&self, limit: Option<u32>, expected: u32) -> bool {
        let ready = self.in_tier(Tier::Ready).endpoints();
        let Some(limit) = limit else { return !ready.is_empty() };
        let free = ready.iter().map(|endpoint| limit.saturating_sub(endpoint.load.open_streams()));
        free.map(u64::from).sum::<u64>() > u64::from(expected)
    }

    /// Whether discovery has given a full list, even an empty one, since the table was made.
    #[must_use]
    pub fn first_list_seen(&self) -> bool {
        self.first_list_seen
    }

    /// Whether ejected endpoints are passed over now. When more than half of those in use are ejected, the fault is
    /// rather ours or the network's: then ejection is ignored, and `ejected` should not be shown either.
    #[must_use]
    pub fn honours_ejection(&self, now: Millis) -> bool {
        self.tier().is_none_or(|tier| ejection_is_honoured(self.in_tier(tier).endpoints().iter(), now))
    }

    /// Returns the tier that clients are sent to which are not pinned; `None` if no endpoint may take them.
    #[must_use]
    pub fn tier(&self) -> Option<Tier> {
        Tier::ALL.into_iter().find(|tier| !self.in_tier(*tier).endpoints().is_empty())
    }

    /// Returns whether clients are sent to `endpoint` that are not pinned there.
    #[must_use]
    pub fn takes_new(&self, endpoint: &Endpoint) -> bool {
        endpoint.tier().is_some_and(|tier| self.tier() == Some(tier))
    }

    /// Returns who is sent to an endpoint of this snapshot at `now`, and why. `keep` is how long pinned clients stay on a
    /// draining endpoint; `None` if they do not.
    #[must_use]
    pub fn usage(&self, endpoint: &Endpoint, keep: Option<DrainTimes>, now: Millis) -> Usage {
        let is_kept = || endpoint.serving && keep.is_some_and(|times| now < times.last_departures(endpoint));
        let (by, why) = match (self.takes_new(endpoint), endpoint.phase) {
            (true, _) if endpoint.load.is_ejected(now) => match self.honours_ejection(now) {
                true => (UsedBy::Nobody, UseReason::Ejected),
                false => (UsedBy::All, UseReason::EjectionDisregarded),
            },
            (true, Phase::Draining) => (UsedBy::All, UseReason::NobodyIsReady),
            (true, Phase::NotReady) => (UsedBy::All, UseReason::NobodyServes),
            (true, Phase::Ready | Phase::Gone) => (UsedBy::All, UseReason::Ready),
            (false, Phase::NotReady) if endpoint.serving => (UsedBy::Pinned, UseReason::NotReadyButServing),
            (false, Phase::Draining) if is_kept() => (UsedBy::Pinned, UseReason::DrainKeepsPinned),
            (false, Phase::Draining) if endpoint.serving => (UsedBy::Nobody, UseReason::Draining),
            (false, _) => (UsedBy::Nobody, UseReason::NotServing),
        };
        Usage { by, why }
    }

    /// Returns the endpoints of a tier.
    pub(crate) fn in_tier(&self, tier: Tier) -> &WeightedSet {
        let [ready, terminating, published] = &self.tiers;
        match tier {
            Tier::Ready => ready,
            Tier::Terminating => terminating,
            Tier::Published => published,
        }
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
///
/// Hints count when each endpoint has one. Otherwise the cluster is about to write or to withdraw them, and those without
/// would get no clients (the safeguard of topology aware routing, KEP-2433): all are then counted to their own zones.
fn by_zone(ready: &[Arc<Endpoint>]) -> HashMap<Arc<str>, WeightedSet> {
    let hints_count = ready.iter().all(|endpoint| endpoint.zone_hints.is_some());
    let mut members: HashMap<Arc<str>, Vec<Arc<Endpoint>>> = HashMap::new();
    for endpoint in ready {
        let hinted = endpoint.zone_hints.as_deref().filter(|_| hints_count);
        let zones = hinted.unwrap_or(endpoint.zone.as_slice());
        for zone in zones {
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
