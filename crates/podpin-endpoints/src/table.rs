//! The endpoint table: the only writer of a service's endpoints. It believes discovery as far as it can be true, and
//! publishes snapshots.
//!
//! For every identity the table keeps what discovery said last and whether an operator drains it by hand; the phase
//! that the world sees follows from both. It returns facts (who changed, what was refused); logging, counting and
//! moving streams is left to the caller.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::endpoint::Endpoint;
use crate::heirs::{HeirPolicy, Heirs};
use crate::id::{EndpointId, IdMap};
use crate::leaver::Departed;
use crate::phase::{Drain, Phase};
use crate::snapshot::Snapshot;
use crate::tombstones::{End, Tombstones};
use crate::update::{Condition, Observed, Update};
use crate::usage::Tier;
use podpin_time::Millis;

/// The endpoints of one service, written by one task.
#[derive(Debug, Default)]
pub struct Table {
    members: IdMap<Member>,
    tombstones: Tombstones,
    heirs: Heirs,
    snapshot: Arc<Snapshot>,
    turn: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Member {
    endpoint: Arc<Endpoint>,
    /// The last condition that discovery reported, refused or not.
    said: Condition,
    /// The last that could be believed.
    believed: Condition,
    drain: Drain,
    operator: Operator,
}

/// The wish of an operator, beside the reports of discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Content,
    Drains,
}

/// The result of one update.
#[derive(Debug)]
pub struct Applied {
    /// Endpoints that joined, changed phase or went, in the order of the update.
    pub transitions: Vec<Transition>,
    /// Reports that cannot be true; each appears once, not with every list that repeats it.
    pub refused: Vec<Refused>,
    /// The state after the update; the same `Arc` as before when nothing changed.
    pub snapshot: Arc<Snapshot>,
    /// Whether identities, addresses or weights changed, so that a ring over them has to be built anew.
    pub members_changed: bool,
}

/// A step of one endpoint from phase to phase.
#[derive(Clone, Debug)]
pub struct Transition {
    /// The version of the endpoint after the step; one that went has [`Phase::Gone`].
    pub endpoint: Arc<Endpoint>,
    /// The phase before; `None` if the endpoint joined.
    pub from: Option<Phase>,
    /// The phase now.
    pub to: Phase,
}

/// A step backwards that was not taken: a pod that terminates does not become ready again.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The endpoint as it stays.
    pub endpoint: Arc<Endpoint>,
    /// The phase that discovery asked for.
    pub asked: Phase,
}

/// The changes that an update has made so far.
#[derive(Default)]
struct Changes {
    transitions: Vec<Transition>,
    refused: Vec<Refused>,
    joined: Vec<Arc<Endpoint>>,
    /// Members that were there before, in their new versions.
    changed: Vec<Arc<Endpoint>>,
    order: Order,
    members_changed: bool,
    any: bool,
}

/// The order of the endpoints in a snapshot, beside the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    /// The same identities under the same names.
    #[default]
    Same,
    /// An endpoint joined, went, or has another name.
    New,
}

impl Table {
    /// A table that has seen no list yet.
    #[must_use]
    pub fn new() -> Table {
        Table::default()
    }

    /// The state after the last update.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    /// Chooses heirs for the endpoints that leave from now on ([`Snapshot::heir`]). With `None`, as at first, no heirs are chosen,
    /// and all are forgotten.
    pub fn keep_heirs(&mut self, policy: Option<HeirPolicy>) {
        self.heirs.keep(policy);
    }

    /// Returns the endpoints that drain or are gone and whose heirs are chosen or remembered, the last one first.
    pub fn departed(&self) -> impl Iterator<Item = Departed> {
        self.heirs.departed()
    }

    /// Returns how many endpoints a listed one has inherited from.
    #[must_use]
    pub fn inheritances(&self, id: &EndpointId) -> u32 {
        self.heirs.inheritances(id)
    }

    /// Applies one sentence of discovery.
    ///
    /// ```
    /// use podpin_endpoints::{Condition, EndpointId, Observed, Phase, Table, Update};
    /// use podpin_time::Millis;
    ///
    /// let listed = |name: &str, port: u16| {
    ///     let address = ([127, 0, 0, 1], port).into();
    ///     Observed::ready(EndpointId::of_address(name, address), name, address)
    /// };
    /// let mut table = Table::new();
    /// let joined = table.apply(Update::Replace(vec![listed("pod-a", 9001)]), Millis(0));
    /// assert_eq!(joined.transitions[0].to, Phase::Ready);
    ///
    /// let draining = Observed { condition: Condition::Draining { serving: true }, ..listed("pod-a", 9001) };
    /// table.apply(Update::Upsert(vec![draining]), Millis(10));
    /// // A late "ready" does not revive a draining endpoint.
    /// let late = table.apply(Update::Upsert(vec![listed("pod-a", 9001)]), Millis(20));
    /// assert_eq!(late.refused[0].asked, Phase::Ready);
    /// assert_eq!(late.snapshot.endpoints()[0].phase, Phase::Draining);
    /// ```
    pub fn apply(&mut self, update: Update, now: Millis) -> Applied {
        let mut changes = Changes::default();
        let mut first_list_seen = self.snapshot.first_list_seen();
        match update {
            Update::Replace(list) => {
                self.replace(list, now, &mut changes);
                changes.any |= !first_list_seen;
                first_list_seen = true;
            }
            Update::Upsert(list) => list.into_iter().for_each(|one| self.upsert(one, now, &mut changes)),
            Update::Remove(ids) => ids.iter().for_each(|id| self.remove(id, now, &mut changes)),
        }
        self.publish(changes, first_list_seen, now)
    }

    /// An operator drains `id` by hand: it is draining whatever discovery says, until [`Table::undrain`] or until it
    /// is gone. `None` if it is unknown.
    pub fn drain(&mut self, id: &EndpointId, now: Millis) -> Option<Applied> {
        self.operate(id, Operator::Drains, now)
    }

    /// The operator takes the drain back; what discovery said last counts again, so a terminating pod stays draining.
    /// `None` if it is unknown.
    pub fn undrain(&mut self, id: &EndpointId, now: Millis) -> Option<Applied> {
        self.operate(id, Operator::Content, now)
    }

    fn operate(&mut self, id: &EndpointId, operator: Operator, now: Millis) -> Option<Applied> {
        let member = self.members.get_mut(id)?;
        member.operator = operator;
        let next = Endpoint::clone(&member.endpoint).entering(member.phase(), member.believed, now);
        let mut changes = Changes::default();
        changes.advance(member, next);
        self.heirs.expect_by_hand(*id);
        Some(self.publish(changes, self.snapshot.first_list_seen(), now))
    }

    fn replace(&mut self, list: Vec<Observed>, now: Millis, changes: &mut Changes) {
        let last: IdMap<usize> = list.iter().enumerate().map(|(index, one)| (one.id, index)).collect();
        let previous = Arc::clone(&self.snapshot);
        for endpoint in previous.endpoints().iter().filter(|endpoint| !last.contains_key(&endpoint.id)) {
            self.remove(&endpoint.id, now, changes);
        }
        for (index, observed) in list.into_iter().enumerate() {
            if last.get(&observed.id) == Some(&index) {
                self.upsert(observed, now, changes);
            }
        }
    }

    fn upsert(&mut self, observed: Observed, now: Millis, changes: &mut Changes) {
        let Some(member) = self.members.get_mut(&observed.id) else {
            return self.join(observed, now, changes);
        };
        let asked = observed.condition;
        // Most of a list is what the one before said.
        if asked == member.said
            && observed.drain() == member.drain
            && member.endpoint.is_described_by(&observed)
        {
            return;
        }
        let possible = member.believed.phase().may_become(asked.phase(), observed.drain());
        let news = asked != member.said;
        member.said = asked;
        member.drain = observed.drain();
        if possible {
            member.believed = asked;
        }
        let described = member.endpoint.described(observed);
        changes.advance(member, described.entering(member.phase(), member.believed, now));
        if !possible && news {
            changes.refused.push(Refused { endpoint: Arc::clone(&member.endpoint), asked: asked.phase() });
        }
    }

    fn join(&mut self, observed: Observed, now: Millis, changes: &mut Changes) {
        let (load, end) = self.tombstones.recall(&observed.id);
        let (said, drain) = (observed.condition, observed.drain());
        let slow_start = self.snapshot.first_list_seen();
        let late = end == Some(End::Terminated) && !Phase::Draining.may_become(said.phase(), drain);
        let believed = if late { Condition::Draining { serving: said.serving() } } else { said };
        let joining = Endpoint::joining(observed, now, slow_start, load);
        let endpoint = Arc::new(joining.entering(believed.phase(), believed, now));
        changes.join(&endpoint);
        if late {
            changes.refused.push(Refused { endpoint: Arc::clone(&endpoint), asked: said.phase() });
        }
        let operator = Operator::Content;
        self.members.insert(endpoint.id, Member { endpoint, said, believed, drain, operator });
    }

    fn remove(&mut self, id: &EndpointId, now: Millis, changes: &mut Changes) {
        let Some(member) = self.members.remove(id) else { return };
        let terminated = member.believed.phase() == Phase::Draining && member.drain == Drain::Final;
        let end = if terminated { End::Terminated } else { End::Delisted };
        self.tombstones.remember(*id, &member.endpoint.load, end);
        let last = Endpoint::clone(&member.endpoint).entering(
            Phase::Gone,
            Condition::NotReady { serving: false },
            now,
        );
        changes.go(member.endpoint.phase, last);
    }

    fn publish(&mut self, changes: Changes, first_list_seen: bool, now: Millis) -> Applied {
        if changes.any {
            let snapshot = match changes.order {
                Order::Same => self.snapshot.with(&changes.changed, first_list_seen),
                Order::New => {
                    let endpoints = self.sorted(&changes.joined);
                    Snapshot::new(endpoints, first_list_seen, Arc::clone(&self.turn))
                }
            };
            for step in &changes.transitions {
                self.heirs.note(&step.endpoint, step.from, now);
            }
            self.heirs.settle(snapshot.endpoints(), snapshot.in_tier(Tier::Ready).endpoints(), now);
            self.snapshot = Arc::new(snapshot.with_heirs(self.heirs.published(), self.heirs.holds()));
        }
        Applied {
            transitions: changes.transitions,
            refused: changes.refused,
            snapshot: self.snapshot(),
            members_changed: changes.members_changed,
        }
    }

    /// The members by name and identity. Those of the last snapshot are in order already, and this sort is quick on
    /// runs.
    fn sorted(&self, joined: &[Arc<Endpoint>]) -> Vec<Arc<Endpoint>> {
        let mut endpoints: Vec<Arc<Endpoint>> = (self.snapshot.endpoints().iter())
            .chain(joined)
            .filter_map(|endpoint| self.members.get(&endpoint.id))
            .map(|member| Arc::clone(&member.endpoint))
            .collect();
        endpoints.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.id.cmp(&b.id)));
        endpoints
    }
}

impl Member {
    /// The phase that the world sees.
    fn phase(&self) -> Phase {
        match self.operator {
            Operator::Content => self.believed.phase(),
            Operator::Drains => self.believed.phase().max(Phase::Draining),
        }
    }
}

impl Changes {
    /// The member takes on `new`, if that says anything new.
    fn advance(&mut self, member: &mut Member, new: Endpoint) {
        let from = member.endpoint.phase;
        if !member.endpoint.differs(&new) {
            return;
        }
        self.any = true;
        self.members_changed |= member.endpoint.reachability_differs(&new);
        if member.endpoint.name != new.name {
            self.order = Order::New;
        }
        member.endpoint = Arc::new(new);
        self.changed.push(Arc::clone(&member.endpoint));
        let to = member.endpoint.phase;
        if from != to {
            self.transitions.push(Transition {
                endpoint: Arc::clone(&member.endpoint),
                from: Some(from),
                to,
            });
        }
    }

    fn join(&mut self, endpoint: &Arc<Endpoint>) {
        self.any = true;
        self.order = Order::New;
        self.members_changed = true;
        self.joined.push(Arc::clone(endpoint));
        self.transitions.push(Transition { endpoint: Arc::clone(endpoint), from: None, to: endpoint.phase });
    }

    fn go(&mut self, from: Phase, last: Endpoint) {
        self.any = true;
        self.order = Order::New;
        self.members_changed = true;
        self.transitions.push(Transition { endpoint: Arc::new(last), from: Some(from), to: Phase::Gone });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use Condition::{Draining, NotReady, Ready};

    /// A pod called `name` (its uid, too) that says `condition` of itself and cannot take a drain back.
    pub(crate) fn observed(name: &str, condition: Condition) -> Observed {
        let address = "10.0.0.1:8080".parse().unwrap();
        Observed {
            uid: Some(format!("uid-{name}").into()),
            condition,
            ..Observed::ready(EndpointId::of_address(name, address), name, address)
        }
    }

    fn listed(name: &str, condition: Condition) -> Observed {
        Observed { reversible_drain: true, ..observed(name, condition) }
    }

    fn replace(table: &mut Table, list: &[Observed], now: u64) -> Applied {
        table.apply(Update::Replace(list.to_vec()), Millis(now))
    }

    fn steps(applied: &Applied) -> Vec<(&str, Option<Phase>, Phase)> {
        applied.transitions.iter().map(|step| (&*step.endpoint.name, step.from, step.to)).collect()
    }

    fn only(snapshot: &Snapshot) -> &Arc<Endpoint> {
        let [endpoint] = snapshot.endpoints() else { panic!("one endpoint expected: {snapshot:?}") };
        endpoint
    }

    #[test]
    fn a_late_ready_does_not_revive_a_draining_endpoint() {
        let mut table = Table::new();
        replace(&mut table, &[observed("a", Draining { serving: true })], 1);
        let applied = replace(&mut table, &[observed("a", Ready)], 2);
        assert_eq!(steps(&applied), []);
        assert_eq!(applied.refused.len(), 1);
        assert_eq!(
            (applied.refused[0].asked, applied.refused[0].endpoint.phase),
            (Phase::Ready, Phase::Draining)
        );
        assert_eq!(only(&applied.snapshot).phase, Phase::Draining);
        let again = replace(&mut table, &[observed("a", Ready)], 3);
        assert_eq!(again.refused.len(), 0, "told once");
        let other = replace(&mut table, &[observed("a", NotReady { serving: false })], 4);
        assert_eq!(other.refused.len(), 1);
        assert!(only(&other.snapshot).serving, "nothing of a refused word is believed");
    }

    #[test]
    fn a_terminated_pod_that_comes_back_ready_is_still_draining() {
        let mut table = Table::new();
        replace(&mut table, &[observed("a", Draining { serving: true })], 1);
        replace(&mut table, &[], 2);
        let applied = replace(&mut table, &[observed("a", Ready)], 3);
        assert_eq!(steps(&applied), [("a", None, Phase::Draining)]);
        assert_eq!(applied.refused.len(), 1);
        let healthy = table.apply(Update::Upsert(vec![observed("b", Ready)]), Millis(4));
        assert_eq!(steps(&healthy), [("b", None, Phase::Ready)]);
    }

    #[test]
    fn a_pod_that_vanished_alive_comes_back_as_it_is() {
        let mut table = Table::new();
        replace(&mut table, &[observed("a", Ready)], 1);
        let gone = table.apply(Update::Remove(vec![observed("a", Ready).id]), Millis(2));
        assert_eq!(steps(&gone), [("a", Some(Phase::Ready), Phase::Gone)]);
        assert!(gone.snapshot.endpoints().is_empty() && !gone.transitions[0].endpoint.serving);
        let back = replace(&mut table, &[observed("a", Ready)], 3);
        assert_eq!(steps(&back), [("a", None, Phase::Ready)]);
    }

    #[test]
    fn a_drain_in_a_file_can_be_taken_back() {
        let mut table = Table::new();
        replace(&mut table, &[listed("a", Ready)], 1);
        replace(&mut table, &[listed("a", Draining { serving: true })], 2);
        let back = replace(&mut table, &[listed("a", Ready)], 3);
        assert_eq!(steps(&back), [("a", Some(Phase::Draining), Phase::Ready)]);
        assert_eq!(only(&back.snapshot).phase_since, Millis(3));
        replace(&mut table, &[listed("a", Draining { serving: true })], 4);
        replace(&mut table, &[], 5);
        let returned = replace(&mut table, &[listed("a", Ready)], 6);
        assert_eq!(steps(&returned), [("a", None, Phase::Ready)]);
    }

    #[test]
    fn an_operator_drains_and_undrains_but_does_not_revive() {
        let mut table = Table::new();
        let id = observed("a", Ready).id;
        assert!(table.drain(&id, Millis(0)).is_none(), "unknown");
        replace(&mut table, &[observed("a", Ready)], 1);
        let drained = table.drain(&id, Millis(2)).unwrap();
        assert_eq!(steps(&drained), [("a", Some(Phase::Ready), Phase::Draining)]);
        assert!(!drained.members_changed && only(&drained.snapshot).serving);
        let listed_again = replace(&mut table, &[observed("a", Ready)], 3);
        assert_eq!(
            (steps(&listed_again), listed_again.refused.len()),
            (vec![], 0),
            "the drain outlives a list"
        );
        let undrained = table.undrain(&id, Millis(4)).unwrap();
        assert_eq!(steps(&undrained), [("a", Some(Phase::Draining), Phase::Ready)]);
        table.drain(&id, Millis(5));
        replace(&mut table, &[observed("a", Draining { serving: true })], 6);
        let kept = table.undrain(&id, Millis(7)).unwrap();
        assert_eq!(steps(&kept), [], "the pod is terminating by itself");
        assert_eq!(only(&kept.snapshot).phase_since, Millis(5));
    }

    #[test]
    fn readiness_comes_and_goes_and_serving_follows() {
        let mut table = Table::new();
        replace(&mut table, &[observed("a", Ready)], 1);
        let rest = replace(&mut table, &[observed("a", NotReady { serving: true })], 2);
        assert_eq!(steps(&rest), [("a", Some(Phase::Ready), Phase::NotReady)]);
        let silent = replace(&mut table, &[observed("a", NotReady { serving: false })], 3);
        assert_eq!(steps(&silent), []);
        assert!(!only(&silent.snapshot).serving);
        assert_eq!(only(&silent.snapshot).phase_since, Millis(2));
        let ready = replace(&mut table, &[observed("a", Ready)], 4);
        assert_eq!(steps(&ready), [("a", Some(Phase::NotReady), Phase::Ready)]);
        assert!(only(&ready.snapshot).serving);
    }

    #[test]
    fn the_first_list_counts_even_when_empty_and_only_later_members_start_slowly() {
        let mut table = Table::new();
        assert!(!table.snapshot().first_list_seen());
        let early = table.apply(Update::Upsert(vec![observed("a", Ready)]), Millis(1));
        assert!(!early.snapshot.first_list_seen());
        let first = replace(&mut table, &[observed("a", Ready), observed("b", Ready)], 2);
        assert!(first.snapshot.first_list_seen());
        assert!(first.snapshot.endpoints().iter().all(|endpoint| !endpoint.slow_start));
        let later = table.apply(Update::Upsert(vec![observed("c", Ready)]), Millis(3));
        assert!(later.snapshot.get(&observed("c", Ready).id).unwrap().slow_start);
        assert!(replace(&mut Table::new(), &[], 1).snapshot.first_list_seen());
    }

    #[test]
    fn a_list_that_says_nothing_new_publishes_nothing() {
        let mut table = Table::new();
        let list = [observed("a", Ready), observed("b", NotReady { serving: true })];
        let first = replace(&mut table, &list, 1);
        assert!(first.members_changed);
        let again = replace(&mut table, &list, 2);
        assert!(Arc::ptr_eq(&first.snapshot, &again.snapshot));
        assert!(!again.members_changed);
    }

    #[test]
    fn new_facts_make_a_new_version_that_shares_the_load() {
        let mut table = Table::new();
        let old = replace(&mut table, &[observed("a", Ready)], 1).snapshot;
        let permit = only(&old).load.try_open(None);
        let moved = Observed { address: "10.0.0.2:8080".parse().unwrap(), ..observed("a", Ready) };
        let new = replace(&mut table, std::slice::from_ref(&moved), 2);
        assert!(new.members_changed && new.transitions.is_empty());
        assert_eq!(only(&new.snapshot).address, moved.address);
        assert_eq!((only(&new.snapshot).added, only(&new.snapshot).phase_since), (Millis(1), Millis(1)));
        assert_eq!(only(&new.snapshot).load.open_streams(), 1);
        let zoned = Observed { zone: Some("z1".into()), ..moved.clone() };
        let zone = replace(&mut table, &[zoned], 3);
        assert!(!zone.members_changed, "a ring does not care for zones");
        assert_eq!(only(&zone.snapshot).zone.as_deref(), Some("z1"));
        let hints: Arc<[Arc<str>]> = ["z2".into()].into();
        let hinted = Observed { zone_hints: Some(Arc::clone(&hints)), ..moved.clone() };
        let hint = replace(&mut table, &[hinted], 3);
        assert_eq!(only(&hint.snapshot).zone_hints, Some(hints), "hints alone are news, too");
        assert!(replace(&mut table, &[Observed { weight: 2, ..moved }], 4).members_changed);
        drop(permit);
        assert_eq!(only(&table.snapshot()).load.open_streams(), 0);
    }

    #[test]
    fn streams_of_a_delisted_address_still_count_when_it_is_listed_again() {
        let mut table = Table::new();
        let first = replace(&mut table, &[listed("a", Ready)], 1).snapshot;
        let permit = only(&first).load.try_open(Some(1)).unwrap();
        drop(first);
        replace(&mut table, &[], 2);
        let back = replace(&mut table, &[listed("a", Ready)], 3).snapshot;
        assert!(only(&back).load.try_open(Some(1)).is_none());
        drop(permit);
        assert!(only(&back).load.try_open(Some(1)).is_some());
    }

    #[test]
    fn of_an_identity_that_is_listed_twice_the_last_entry_counts() {
        let mut table = Table::new();
        let applied =
            replace(&mut table, &[observed("a", Draining { serving: true }), observed("a", Ready)], 1);
        assert_eq!(steps(&applied), [("a", None, Phase::Ready)]);
        assert_eq!(applied.refused.len(), 0);
    }

    #[test]
    fn a_weight_of_zero_is_one() {
        let applied = replace(&mut Table::new(), &[Observed { weight: 0, ..observed("a", Ready) }], 1);
        assert_eq!(only(&applied.snapshot).weight, 1);
    }

    #[test]
    fn people_find_endpoints_by_name_and_by_uid() {
        let other_port = Observed { id: EndpointId::of_pod("uid-b", 9), ..observed("b", Ready) };
        let list = [observed("b", Ready), observed("a", Ready), other_port];
        let snapshot = replace(&mut Table::new(), &list, 1).snapshot;
        assert_eq!(snapshot.called("b").count(), 2);
        assert_eq!(snapshot.called("uid-b").count(), 2);
        assert_eq!(snapshot.called("uid-a").map(|endpoint| &*endpoint.name).collect::<Vec<_>>(), ["a"]);
        assert_eq!(snapshot.called("c").count(), 0);
    }
}
