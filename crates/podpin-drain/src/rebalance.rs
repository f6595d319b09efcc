//! `balance.rebalance`: streams in flight move from the fullest to the emptiest endpoint, by handover, at a bounded rate.
//!
//! `rebalance_plan.rs` decides how many; streams are chosen here, by `claim.rs`: replicas choose the same sessions. A stream that
//! cannot be handed over stays where it is and is not chosen again.

use std::cmp::Reverse;
use std::sync::Arc;

use podpin_config::Rebalance;
use podpin_endpoints::{Endpoint, EndpointId, IdMap, Phase, Snapshot};
use podpin_time::Millis;

use crate::claim::claim;
use crate::fact::Fact;
use crate::inbox::DrainInbox;
use crate::member::DrainMember;
use crate::rebalance_plan::{Balance, EndpointShare, plan_rebalance};
use crate::registry::DrainRegistry;
use crate::report::{Cause, GroupAccount, LeavingCount};

/// Thousandths of one stream, so that a rate times milliseconds is exact.
const STREAM: u64 = 1_000;

/// Rebalancing of one service.
#[derive(Debug)]
pub(crate) struct Rebalancer<M> {
    settings: Rebalance,
    balance: Balance,
    /// Streams that the rate allows to move, in thousandths.
    allowance: u64,
    looked: Millis,
    under_way: Vec<UnderWay<M>>,
    account: Arc<GroupAccount>,
}

/// Stream that has a moment to move, and has neither moved nor stayed yet.
#[derive(Debug)]
struct UnderWay<M> {
    member: Arc<M>,
    from: EndpointId,
    to: EndpointId,
}

/// Streams of a service, as the rebalancer finds them.
pub(crate) struct ServiceStreams<'a, M> {
    pub(crate) registry: &'a DrainRegistry<M>,
    pub(crate) inbox: &'a DrainInbox,
    pub(crate) snapshot: &'a Snapshot,
}

/// Endpoints between which streams move.
#[derive(Clone, Copy)]
struct Direction<'a> {
    from: &'a Arc<Endpoint>,
    to: &'a Arc<Endpoint>,
}

impl<M: DrainMember> Rebalancer<M> {
    /// Creates a rebalancer that is at rest.
    pub(crate) fn new(settings: Rebalance, leaving: &Arc<LeavingCount>, now: Millis) -> Rebalancer<M> {
        Rebalancer {
            settings,
            balance: Balance::AtRest,
            allowance: 0,
            looked: now,
            under_way: Vec::new(),
            account: GroupAccount::new(Cause::Rebalance, leaving),
        }
    }

    /// Compares the endpoints, and moves as many streams as the time since the last turn allows.
    pub(crate) fn turn(&mut self, streams: &ServiceStreams<'_, M>, now: Millis) -> Option<Fact> {
        self.refill(now);
        self.under_way.retain(|one| one.member.drain().is_in(&self.account));
        let can_take =
            |endpoint: &&Arc<Endpoint>| endpoint.phase == Phase::Ready && !endpoint.load.is_ejected(now);
        let endpoints: Vec<&Arc<Endpoint>> = streams.snapshot.endpoints().iter().filter(can_take).collect();
        let mut shares: Vec<EndpointShare> = endpoints.iter().map(|endpoint| self.share(endpoint)).collect();
        if plan_rebalance(&shares, self.balance, self.settings.threshold).is_none() {
            self.balance = Balance::AtRest;
            return None;
        }
        let mut movable = movable(streams);
        // An endpoint whose streams cannot move does not keep others from being relieved.
        for (share, endpoint) in shares.iter_mut().zip(&endpoints) {
            share.is_source = movable.contains_key(&endpoint.id);
        }
        let planned = plan_rebalance(&shares, self.balance, self.settings.threshold)?;
        let began = self.balance == Balance::AtRest;
        self.balance = Balance::Moving;
        let count = usize::try_from(u64::from(planned.streams).min(self.allowance / STREAM)).unwrap_or(0);
        if let (Some(from), Some(to), 1..) = (endpoints.get(planned.from), endpoints.get(planned.to), count) {
            let members = movable.remove(&from.id).unwrap_or_default();
            self.move_streams(members, Direction { from, to }, count, now);
        }
        began.then_some(Fact::RebalanceBegan)
    }

    /// Adds what the rate allows for the time since the last turn.
    fn refill(&mut self, now: Millis) {
        let passed = u64::try_from(now.since(self.looked).as_millis()).unwrap_or(u64::MAX);
        self.looked = now;
        let second = u64::from(self.settings.budget_per_second) * STREAM;
        let income = u64::from(self.settings.budget_per_second).saturating_mul(passed);
        self.allowance = self.allowance.saturating_add(income).min(second.max(STREAM));
    }

    /// Returns the load of an endpoint when all streams under way have arrived.
    fn share(&self, endpoint: &Endpoint) -> EndpointShare {
        let count = |wanted: &dyn Fn(&UnderWay<M>) -> bool| {
            let streams = self.under_way.iter().filter(|one| wanted(one)).count();
            u32::try_from(streams).unwrap_or(u32::MAX)
        };
        let leaving = count(&|one| one.from == endpoint.id);
        // A stream that has begun to go on there is open at both.
        let coming = count(&|one| one.to == endpoint.id && one.member.drain().has_target());
        let streams = endpoint.load.open_streams().saturating_sub(leaving).saturating_add(coming);
        EndpointShare { streams, weight: endpoint.weight, is_source: true }
    }

    /// Gives those of `members`, which may move, their moment that the target claims first; of several without a session the most
    /// silent.
    fn move_streams(
        &mut self,
        mut members: Vec<Arc<M>>,
        direction: Direction<'_>,
        count: usize,
        now: Millis,
    ) {
        let Direction { from, to } = direction;
        members.sort_by_cached_key(|member| {
            let claim = member.session().map(|session| claim(&session, &from.id, &to.id));
            (Reverse(claim.unwrap_or(0)), member.last_event(), member.id())
        });
        for member in members.into_iter().take(count) {
            if member.drain().rebalance(&self.account, to, now) {
                self.allowance = self.allowance.saturating_sub(STREAM);
                self.under_way.push(UnderWay { member, from: from.id, to: to.id });
            }
        }
    }
}

/// Returns the streams that may be rebalanced, by their endpoints.
fn movable<M: DrainMember>(streams: &ServiceStreams<'_, M>) -> IdMap<Vec<Arc<M>>> {
    let mut movable = IdMap::<Vec<Arc<M>>>::default();
    for member in streams.registry.streams_of(streams.inbox, |member| member.drain().may_be_rebalanced()) {
        movable.entry(member.endpoint().id).or_default().push(member);
    }
    movable
}
