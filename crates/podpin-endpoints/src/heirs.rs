//! Heirs: the endpoints that take over the sessions of those that leave.
//!
//! Every replica sees the same endpoints come and go in the same order, so a rule over these events alone makes all replicas
//! choose the same heir without a word among them. The rule:
//!
//! 1. A *successor* of an endpoint is ready, was listed later, and is of another generation (`generation.rs`); of an endpoint
//!    without a generation, a successor has the same name and no generation either.
//! 2. When an endpoint leaves (drains, or is gone), its heir is the successor with the fewest inheritances so far. Without one
//!    its sessions go where the ring sends them, and the first successor that becomes ready before it is gone is its heir. An
//!    endpoint without a generation awaits its namesake after that. One that went when none was ready has an heir as soon as
//!    there is a successor that inherited nothing; until then, what becomes ready first does not get all.
//! 3. An heir is chosen once, and stays the heir until the endpoint that left is back or its drain is taken back. A client with a
//!    pin on an endpoint that left goes to its heir, or to the heir of that.
//! 4. A successor that inherited nothing takes over the latest inheritance of an endpoint that inherited twice, unless its
//!    sessions have settled there: the endpoint that left had an heir when it went.
//! 5. A draining endpoint without an heir of its own (none, or one that inherited before) is *promised* a successor that is listed,
//!    not ready yet and has inherited nothing, one for each, and takes no other heir than one that has inherited nothing. Its
//!    sessions stay until then, or until the last moment at which streams can leave evenly. Without such a successor they stay
//!    for [`LISTING_WAIT`]. Which heir is chosen does not depend on the moment; how long sessions stay does.
//!
//! Heirs were ready when they were chosen, and what is chosen for them in turn is chosen later: chains end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::endpoint::{DrainTimes, Endpoint};
use crate::id::{EndpointId, IdMap};
use crate::leaver::{Departed, Leaver, Stage, Standing, Wait};
use crate::phase::Phase;
use crate::successors::{Choice, Successors};
use podpin_time::Millis;

/// Endpoints that left whose heirs are remembered: a day of rollouts of a thousand pods every three hours, at about 250 bytes
/// each. The oldest is forgotten first; its clients go where the ring sends them.
const LEFT_MAX: usize = 8_192;

/// Time for which a draining endpoint of a generation, without an heir of its own, waits for one to be listed: a pod that replaces
/// it is created in the same second, and listed once it has an address. Too short a time shows as sessions whose stream and
/// requests are at two endpoints after a rollout with `maxUnavailable` above 0.
const LISTING_WAIT: Duration = Duration::from_secs(3);

/// Heirs by the endpoints that left.
pub(crate) type HeirMap = IdMap<EndpointId>;

/// Moments until which draining endpoints keep their sessions, because their heir is awaited.
pub(crate) type Holds = IdMap<Millis>;

/// The endpoints of a table that leave or have left, and who inherits from them.
#[derive(Debug, Default)]
pub(crate) struct Heirs {
    /// `None` if no heirs are chosen.
    policy: Option<HeirPolicy>,
    members: IdMap<Standing>,
    left: IdMap<Leaver>,
    /// All of `left` by their sequence.
    order: BTreeMap<u64, EndpointId>,
    /// Sequences in `order` of leavers without an heir.
    open: BTreeSet<u64>,
    /// Leavers that this update brought, without a sequence yet.
    fresh: Vec<EndpointId>,
    /// Number of the current update.
    update: u64,
    sequence_last: u64,
    /// The endpoint that an operator drains with this update: no other one replaces it.
    by_hand: Option<EndpointId>,
    published: Arc<HeirMap>,
    holds: Arc<Holds>,
    changed: bool,
}

/// The endpoints that have heirs, and how long these are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeirPolicy {
    /// Time for which an endpoint that is gone is remembered.
    pub lifetime: Duration,
    /// Whether an endpoint without a generation is succeeded by the next one of its name (StatefulSets). Streams that are handed
    /// over cannot wait for that one.
    pub namesakes: bool,
    /// How long drains take: departures are held while the heir is awaited, as far as that leaves the time to leave evenly.
    pub times: DrainTimes,
}

impl Heirs {
    /// Chooses heirs from now on; with `None` all are forgotten.
    pub(crate) fn keep(&mut self, policy: Option<HeirPolicy>) {
        if policy.is_none() {
            *self = Heirs::default();
        }
        self.policy = policy;
    }

    /// Returns the heirs by the endpoints that left.
    pub(crate) fn published(&self) -> Arc<HeirMap> {
        Arc::clone(&self.published)
    }

    /// Returns the endpoints that drain or are gone, the last one first.
    pub(crate) fn departed(&self) -> impl Iterator<Item = Departed> {
        let leavers = self.order.values().rev().filter_map(|id| self.left.get(id));
        leavers.map(Leaver::departed)
    }

    /// Returns how many endpoints this one has inherited from.
    pub(crate) fn inheritances(&self, id: &EndpointId) -> u32 {
        self.members.get(id).map_or(0, |standing| standing.inheritances)
    }

    /// Returns the moments until which draining endpoints keep their sessions.
    pub(crate) fn holds(&self) -> Arc<Holds> {
        Arc::clone(&self.holds)
    }

    /// Notes that the step of this endpoint that comes next is an operator's.
    pub(crate) fn expect_by_hand(&mut self, id: EndpointId) {
        self.by_hand = Some(id);
    }

    /// Notes a step of an endpoint from phase to phase; `from` is `None` if it joined.
    pub(crate) fn note(&mut self, endpoint: &Endpoint, from: Option<Phase>, now: Millis) {
        if self.policy.is_none() {
            return;
        }
        let id = &endpoint.id;
        if from.is_none() {
            // One that is back and drains has been here before.
            let before = self.left.get(id).map(|leaver| leaver.joined);
            let joined = before.unwrap_or(self.update);
            self.members.insert(*id, Standing { joined, ..Standing::default() });
        }
        match endpoint.phase {
            Phase::Ready => {
                self.take_back(id);
                self.members.entry(*id).or_default().has_been_ready = true;
            }
            Phase::NotReady => self.take_back(id),
            Phase::Draining => self.leave(endpoint, from, Stage::Draining),
            Phase::Gone => {
                self.leave(endpoint, from, Stage::Gone(now));
                self.members.remove(id);
            }
        }
    }

    /// Ends an update: chooses heirs among the endpoints that are `ready` after it, of those that are `listed`.
    pub(crate) fn settle(&mut self, listed: &[Arc<Endpoint>], ready: &[Arc<Endpoint>], now: Millis) {
        self.by_hand = None;
        let Some(HeirPolicy { lifetime, times, .. }) = self.policy else { return };
        self.update += 1;
        self.enqueue();
        self.forget(lifetime, now);
        // Successors that inherited nothing first: what was promised to those who take one is free again.
        self.choose(ready, Choice::Fresh);
        self.promise(listed);
        self.choose(ready, Choice::Any);
        self.relieve(ready);
        if std::mem::take(&mut self.changed) {
            let heirs = self.left.iter().filter_map(|(id, leaver)| Some((*id, leaver.heir?)));
            self.published = Arc::new(heirs.collect());
        }
        self.hold(listed, times);
    }

    fn leave(&mut self, endpoint: &Endpoint, from: Option<Phase>, stage: Stage) {
        if let Some(leaver) = self.left.get_mut(&endpoint.id) {
            leaver.stage = match (stage, leaver.heir) {
                (Stage::Gone(since), Some(_)) => Stage::Settled(since),
                (stage, _) => stage,
            };
            return;
        }
        let standing = self.members.get(&endpoint.id).copied();
        let standing = standing.unwrap_or(Standing { has_been_ready: true, ..Standing::default() });
        // A pod that was never ready leaves nothing, unless it was drained before this replica heard of it.
        if !standing.has_been_ready && from.is_some() {
            return;
        }
        if endpoint.generation.is_none() && !self.policy.is_some_and(|policy| policy.namesakes) {
            return;
        }
        let leaver = Leaver {
            sequence: 0,
            name: Arc::clone(&endpoint.name),
            generation: endpoint.generation.clone(),
            joined: standing.joined,
            heir: None,
            stage,
            wait: match from {
                _ if self.by_hand == Some(endpoint.id) => Wait::Nothing,
                None => Wait::Listed,
                Some(_) => Wait::Any,
            },
            is_promised: false,
        };
        self.left.insert(endpoint.id, leaver);
        self.fresh.push(endpoint.id);
    }

    /// Forgets that an endpoint left: it is back. An heir keeps the count of what has settled.
    fn take_back(&mut self, id: &EndpointId) {
        let leaver = self.remove(id).filter(|leaver| leaver.stage == Stage::Draining);
        if let Some(heir) = leaver.and_then(|leaver| leaver.heir) {
            self.give_back(&heir);
        }
    }

    fn remove(&mut self, id: &EndpointId) -> Option<Leaver> {
        let leaver = self.left.remove(id)?;
        self.order.remove(&leaver.sequence);
        self.open.remove(&leaver.sequence);
        self.changed |= leaver.heir.is_some();
        Some(leaver)
    }

    /// Gives the leavers of this update their sequence, in the order of their names: the order of a list says nothing.
    fn enqueue(&mut self) {
        let mut fresh = std::mem::take(&mut self.fresh);
        let name = |id: &EndpointId| self.left.get(id).map(|leaver| Arc::clone(&leaver.name));
        fresh.sort_by_cached_key(|id| (name(id), *id));
        fresh.dedup();
        for id in fresh {
            let Some(leaver) = self.left.get_mut(&id).filter(|leaver| leaver.sequence == 0) else { continue };
            self.sequence_last += 1;
            leaver.sequence = self.sequence_last;
            self.order.insert(leaver.sequence, id);
            self.open.insert(leaver.sequence);
        }
    }

    fn forget(&mut self, lifetime: Duration, now: Millis) {
        let is_over = |leaver: &Leaver| match leaver.stage {
            Stage::Draining => false,
            Stage::Gone(since) | Stage::Orphaned(since) | Stage::Settled(since) => {
                now.since(since) > lifetime
            }
        };
        let over = self.left.iter().filter(|(_, leaver)| is_over(leaver)).map(|(id, _)| *id);
        let excess = self.order.len().saturating_sub(LEFT_MAX);
        let forgotten: Vec<EndpointId> = over.chain(self.order.values().take(excess).copied()).collect();
        forgotten.iter().for_each(|id| drop(self.remove(id)));
    }

    /// Chooses heirs for the leavers without one, in their order.
    fn choose(&mut self, ready: &[Arc<Endpoint>], choice: Choice) {
        if self.open.is_empty() {
            return;
        }
        if ready.is_empty() {
            return self.orphan();
        }
        let open = self.open.iter().filter_map(|sequence| self.left.get(self.order.get(sequence)?));
        let mut successors = Successors::new(open, &self.members, ready);
        for sequence in self.open.clone() {
            let Some(id) = self.order.get(&sequence).copied() else { continue };
            let Some(leaver) = self.left.get_mut(&id) else { continue };
            if let Some(heir) = successors.take_first(leaver, choice) {
                leaver.heir = Some(heir);
                self.members.entry(heir).or_default().inherit();
                self.open.remove(&sequence);
                self.changed = true;
            } else if choice == Choice::Any
                && leaver.generation.is_some()
                && matches!(leaver.stage, Stage::Gone(_))
            {
                // Its sessions are where the ring has sent them.
                self.remove(&id);
            }
        }
    }

    /// Notes of leavers that are gone without an heir that no endpoint is ready.
    fn orphan(&mut self) {
        for id in self.open.iter().filter_map(|sequence| self.order.get(sequence)) {
            let Some(leaver) = self.left.get_mut(id) else { continue };
            if let Stage::Gone(since) = leaver.stage {
                leaver.stage = Stage::Orphaned(since);
            }
        }
    }

    /// Promises each draining endpoint without an heir of its own a successor that is listed and not ready yet. An heir that it
    /// shares with others is none of its own, and taken back.
    fn promise(&mut self, listed: &[Arc<Endpoint>]) {
        let is_coming = |one: &&Arc<Endpoint>| one.phase == Phase::NotReady && self.received(&one.id) == 0;
        let mut coming: Vec<(&Arc<Endpoint>, u64)> =
            listed.iter().filter(is_coming).map(|one| (one, self.joined(&one.id))).collect();
        for id in self.waiting(listed) {
            let Some(leaver) = self.left.get_mut(&id) else { continue };
            let own = coming.iter().position(|(other, joined)| leaver.may_be_succeeded_by(other, *joined));
            leaver.is_promised = own.is_some();
            let Some(place) = own else { continue };
            coming.remove(place);
            if let Some(heir) = leaver.heir.take() {
                self.open.insert(leaver.sequence);
                self.changed = true;
                self.give_back(&heir);
            }
        }
    }

    /// Decides until when draining endpoints keep their sessions for a better heir.
    fn hold(&mut self, listed: &[Arc<Endpoint>], times: DrainTimes) {
        let waiting: HashSet<EndpointId> = self.waiting(listed).into_iter().collect();
        if waiting.is_empty() && self.holds.is_empty() {
            return;
        }
        let held = listed.iter().filter(|endpoint| waiting.contains(&endpoint.id));
        let holds = held.filter_map(|endpoint| {
            let (leaver, last) = (self.left.get(&endpoint.id)?, times.last_departures(endpoint));
            let until = match (leaver.is_promised, leaver.wait) {
                (true, _) => last,
                (false, Wait::Any) => endpoint.phase_since.after(LISTING_WAIT).min(last),
                (false, Wait::Listed | Wait::Nothing) => return None,
            };
            Some((endpoint.id, until))
        });
        self.holds = Arc::new(holds.collect());
    }

    /// Returns the draining endpoints of a generation that have no heir, or share theirs with one that left before, in the order in
    /// which they left.
    fn waiting(&self, listed: &[Arc<Endpoint>]) -> Vec<EndpointId> {
        let draining = listed.iter().filter(|endpoint| endpoint.phase == Phase::Draining);
        let mut leavers: Vec<(&Leaver, EndpointId)> =
            draining.filter_map(|endpoint| Some((self.left.get(&endpoint.id)?, endpoint.id))).collect();
        leavers.sort_unstable_by_key(|(leaver, _)| leaver.sequence);
        // Inheritances of each heir that came before, those that have settled first.
        let mut before: IdMap<u32> = IdMap::default();
        for heir in leavers.iter().filter_map(|(leaver, _)| leaver.heir) {
            let all = self.inheritances(&heir);
            let settled = before.entry(heir).or_insert(all);
            *settled = settled.saturating_sub(1);
        }
        leavers.retain(|(leaver, _)| {
            let shares = leaver.heir.and_then(|heir| before.get_mut(&heir)).is_none_or(|before| {
                *before = before.saturating_add(1);
                *before > 1
            });
            shares && leaver.generation.is_some() && leaver.wait != Wait::Nothing
        });
        leavers.into_iter().map(|(_, id)| id).collect()
    }

    /// Takes an inheritance back of which no session has come yet.
    fn give_back(&mut self, heir: &EndpointId) {
        if let Some(standing) = self.members.get_mut(heir) {
            standing.inheritances = standing.inheritances.saturating_sub(1);
            standing.received = standing.received.saturating_sub(1);
        }
    }

    fn joined(&self, id: &EndpointId) -> u64 {
        self.members.get(id).map_or(0, |standing| standing.joined)
    }

    fn received(&self, id: &EndpointId) -> u32 {
        self.members.get(id).map_or(0, |standing| standing.received)
    }

    /// Moves inheritances from endpoints that have several to successors that have none.
    fn relieve(&mut self, ready: &[Arc<Endpoint>]) {
        let mut movable: Vec<EndpointId> = Vec::new();
        for (id, leaver) in &self.left {
            let crowded = leaver.heir.is_some_and(|heir| self.inheritances(&heir) > 1);
            if crowded && !matches!(leaver.stage, Stage::Settled(_)) {
                movable.push(*id);
            }
        }
        if movable.is_empty() {
            return;
        }
        let mut idle: Vec<&Arc<Endpoint>> =
            ready.iter().filter(|endpoint| self.received(&endpoint.id) == 0).collect();
        idle.sort_unstable_by_key(|endpoint| endpoint.id);
        for endpoint in idle {
            let joined = self.joined(&endpoint.id);
            let latest = movable.iter().filter_map(|id| {
                let leaver = self.left.get(id)?;
                let heir = leaver.heir?;
                let burden = self.inheritances(&heir);
                let fits = burden > 1 && leaver.may_be_succeeded_by(endpoint, joined);
                fits.then_some((burden, Reverse(heir), leaver.sequence, *id))
            });
            let Some((_, Reverse(heir), _, id)) = latest.max() else { continue };
            if let Some(leaver) = self.left.get_mut(&id) {
                leaver.heir = Some(endpoint.id);
            }
            if let Some(standing) = self.members.get_mut(&heir) {
                standing.inheritances = standing.inheritances.saturating_sub(1);
            }
            self.members.entry(endpoint.id).or_default().inherit();
            self.changed = true;
        }
    }
}
