//! Makes streams of one service leave: those of endpoints that go away, and all of them when the proxy shuts down.
//!
//! ```text
//!  endpoint transitions ─┐                      ┌─▶ DrainGroup { schedule, streams in order } ── leave ──▶ DrainHandle
//!  late streams, charges ┼─▶ DrainInbox ─ turn ─┤      │ all ended, no client awaited
//!  shutdown, reload ─────┘                      └─▶ facts: begun, rescheduled, budget exceeded, finished, ...
//! ```
//!
//! The caller turns the controller when [`Turn::next`] has passed, or earlier when it is woken, and logs and counts the
//! facts. A turn hears what happened, asks the pacer how many streams leave within the next [`TURN`], and gives each of
//! them a moment in it; how a stream leaves at its moment is the stream's own affair. A group is over when all its streams
//! have left, and finished when their clients are back or lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use podpin_endpoints::{Endpoint, EndpointId, Phase, Snapshot, Transition};
use podpin_time::Millis;

use crate::fact::{DrainSubject, Fact, Turn};
use crate::group::{DrainGroup, TURN};
use crate::inbox::DrainInbox;
use crate::member::{Departure, DrainMember};
use crate::pacer::{BudgetUse, DrainSchedule, InFlight, Pacer};
use crate::policy::{DrainPolicy, DrainWindow, Places, Refuge};
use crate::rebalance::{Rebalancer, ServiceStreams};
use crate::registry::{DrainRegistry, ShutdownTimes};
use crate::report::{Cause, GroupAccount};

/// Time between two turns while no stream gets a moment: clients are awaited, or departures have yet to begin.
const LOOK: Duration = Duration::from_millis(250);
/// Phases at which a group may begin, in thousandths of a stream: a stream that leaves alone does so between a third and three
/// quarters of the time.
const PHASES: std::ops::Range<u64> = 250..700;
/// Time between two turns while nothing goes on; events wake the caller.
const NOTHING: Duration = Duration::from_secs(3_600);

/// Drains, rebalancing and reconnects of one service.
///
/// ```
/// # use std::sync::Arc;
/// # use std::task::{Context, Waker};
/// # use podpin_drain::{
/// #     DrainController, DrainHandle, DrainInbox, DrainMember, DrainPolicy, DrainRegistry, EndKind, Fact, Mobility,
/// #     Session, StreamEnd,
/// # };
/// # use podpin_endpoints::{Endpoint, EndpointId, Observed, Phase, Table, Update};
/// # use podpin_time::Millis;
/// struct Stream {
///     drain: DrainHandle,
///     inbox: Arc<DrainInbox>,
///     endpoint: Arc<Endpoint>,
/// #     id: u64,
/// }
///
/// impl DrainMember for Stream {
///     fn drain(&self) -> &DrainHandle { &self.drain }
///     fn inbox(&self) -> &DrainInbox { &self.inbox }
///     fn endpoint(&self) -> Arc<Endpoint> { Arc::clone(&self.endpoint) }
/// #   fn id(&self) -> u64 { self.id }
/// #   fn endpoint_phase(&self) -> Phase { Phase::Ready }
/// #   fn is_withdrawn(&self) -> bool { false }
/// #   fn session(&self) -> Option<Session> { None }
/// #   fn since(&self) -> Millis { Millis(0) }
/// #   fn last_event(&self) -> Millis { Millis(0) }
///     // The other methods say how old, how idle and how recognisable the stream is.
/// }
///
/// # let id = EndpointId::of_pod("u-1", 80);
/// # let observed = Observed::ready(id, "pod-1", ([127, 0, 0, 1], 80).into());
/// # let other = Observed::ready(EndpointId::of_pod("u-2", 80), "pod-2", ([127, 0, 0, 2], 80).into());
/// # let mut table = Table::new();
/// # let endpoint = Arc::clone(
/// #     table.apply(Update::Replace(vec![observed, other]), Millis(0)).snapshot.get(&id).expect("listed"),
/// # );
/// // One registry for the process; one inbox and one controller for each service.
/// let registry = Arc::new(DrainRegistry::new());
/// let inbox = Arc::new(registry.inbox());
/// let mut controller =
///     DrainController::new(Arc::clone(&registry), Arc::clone(&inbox), DrainPolicy::default(), Millis(0));
/// let drain = DrainHandle::new(Mobility::DrainOnly);
/// let stream = registry.open(|id| Stream { drain, inbox: Arc::clone(&inbox), endpoint, id });
///
/// // The endpoint begins to drain; another one is ready for its clients, so that nothing has to be awaited.
/// inbox.report(table.drain(&id, Millis(1_000)).expect("listed").transitions);
/// let mut now = Millis(1_000);
/// let mut facts = Vec::new();
/// while stream.drain.poll(&Context::from_waker(Waker::noop())).is_none() {
///     let turn = controller.turn(now, || table.snapshot(), &mut |_| 0);
///     facts.extend(turn.facts);
///     now = now.after(turn.next);
/// }
/// assert!(matches!(&facts[..], [Fact::Began { streams: 1, .. }, Fact::Notified { streams: 1, remaining: 0, .. }]));
///
/// // The stream's task says goodbye at its moment, and the drain is finished.
/// let moment = stream.drain.order().expect("notified").at;
/// assert!(moment > Millis(1_000) && moment < Millis(21_000), "somewhere in `drain.spread`");
/// registry.close(&stream, StreamEnd { kind: EndKind::Graceful, is_awaited: true }, moment);
/// let turn = controller.turn(moment, || table.snapshot(), &mut |_| 0);
/// assert!(matches!(&turn.facts[..], [Fact::Finished { report, .. }] if report.graceful == 1));
/// ```
#[derive(Debug)]
pub struct DrainController<M> {
    registry: Arc<DrainRegistry<M>>,
    inbox: Arc<DrainInbox>,
    policy: DrainPolicy,
    /// A reload removed the service; it is followed until its last stream has left.
    is_retired: bool,
    /// A reload came since the last turn: it may have removed routes.
    is_reloaded: bool,
    pacer: Pacer,
    endpoints: BTreeMap<EndpointId, DrainGroup<M>>,
    /// Streams of routes that reloads removed, a group for each reload.
    withdrawn: Vec<DrainGroup<M>>,
    shutdown: Option<DrainGroup<M>>,
    rebalancer: Option<Rebalancer<M>>,
    /// Account of the streams that leave endpoints which fail their checks.
    evacuation: Arc<GroupAccount>,
    /// End of the time for which departures are decided. Events come at any time; departures must not come faster for that.
    decided_until: Millis,
    /// Groups that are over and whose clients are awaited, or that were taken back.
    awaited: Vec<DrainGroup<M>>,
    facts: Vec<Fact>,
}

/// Returns the phase of a group that begins.
fn phase(rng: &mut dyn FnMut(u64) -> u64) -> u64 {
    PHASES.start + rng(PHASES.end - PHASES.start)
}

/// Circumstances of one turn.
struct Now<'a> {
    moment: Millis,
    snapshot: &'a Snapshot,
    rng: &'a mut dyn FnMut(u64) -> u64,
}

impl<M: DrainMember> DrainController<M> {
    /// Creates the controller of a service from which no stream leaves yet.
    #[must_use]
    pub fn new(
        registry: Arc<DrainRegistry<M>>,
        inbox: Arc<DrainInbox>,
        policy: DrainPolicy,
        now: Millis,
    ) -> DrainController<M> {
        DrainController {
            pacer: Pacer::new(policy.budget_limits()),
            rebalancer: policy.rebalance.map(|settings| Rebalancer::new(settings, inbox.leaving(), now)),
            evacuation: GroupAccount::new(Cause::Rebalance, inbox.leaving()),
            registry,
            inbox,
            policy,
            is_retired: false,
            is_reloaded: false,
            endpoints: BTreeMap::new(),
            withdrawn: Vec::new(),
            shutdown: None,
            decided_until: Millis(0),
            awaited: Vec::new(),
            facts: Vec::new(),
        }
    }

    /// Returns the inbox, which identifies the service.
    #[must_use]
    pub fn inbox(&self) -> &Arc<DrainInbox> {
        &self.inbox
    }

    /// Goes on under the configuration of a reload, which has marked the routes that it removed; `None` if it removed the
    /// service. Streams that leave already keep their times; those of removed routes leave from the next turn on.
    pub fn reload(&mut self, policy: Option<DrainPolicy>, now: Millis) {
        self.is_reloaded = true;
        let Some(policy) = policy else {
            self.is_retired = true;
            return;
        };
        let before = std::mem::replace(&mut self.policy, policy);
        if before.budget != policy.budget {
            self.pacer = Pacer::new(policy.budget_limits());
        }
        if before.rebalance != policy.rebalance {
            let leaving = self.inbox.leaving();
            self.rebalancer = policy.rebalance.map(|settings| Rebalancer::new(settings, leaving, now));
        }
    }

    /// Returns whether nothing is left to do for a service that a reload removed. Requests that still hold the service may
    /// become streams: the caller drops the controller when nothing else holds the inbox.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let is_empty = self.inbox.open_streams() == 0 && self.inbox.reconnects().away() == 0;
        self.is_retired && is_empty && self.withdrawn.is_empty() && self.awaited.is_empty()
    }

    /// Does what is due until the next turn. `snapshot` returns the newest endpoint list and is called once, after the
    /// events were taken; `rng(bound)` returns a number below `bound`, evenly.
    pub fn turn(
        &mut self,
        now: Millis,
        snapshot: impl FnOnce() -> Arc<Snapshot>,
        rng: &mut dyn FnMut(u64) -> u64,
    ) -> Turn {
        let (events, registry) = (self.inbox.take_events(), Arc::clone(&self.registry));
        let snapshot = snapshot();
        let now = &mut Now { moment: now, snapshot: &snapshot, rng };
        if std::mem::take(&mut self.is_reloaded) {
            self.withdraw(now);
        }
        for transition in events.transitions {
            self.follow(transition, now);
        }
        if let Some(times) = self.registry.shutdown_times().filter(|_| self.shutdown.is_none()) {
            self.begin_shutdown(times, now);
        }
        for member in events.late.into_iter().filter_map(|id| registry.get(id)) {
            self.join(member, now);
        }
        events.failing.iter().for_each(|id| self.evacuate(id, now));
        let clients = self.inbox.reconnects().expire(self.policy.return_window, now.moment);
        self.facts.extend((clients > 0).then_some(Fact::ClientsLost { clients }));
        self.follow_deadlines(now);
        self.schedule_departures(now);
        self.rebalance(now);
        self.retire_finished_groups(now);
        Turn { facts: std::mem::take(&mut self.facts), next: self.until_next_turn(now.moment) }
    }

    /// Begins to drain the open streams of withdrawn routes.
    fn withdraw(&mut self, now: &mut Now<'_>) {
        let withdrawn = self.registry.streams_of(&self.inbox, M::is_withdrawn);
        if withdrawn.is_empty() {
            return;
        }
        let mut group = self.withdrawal(now.moment);
        withdrawn.into_iter().for_each(|member| group.join(member));
        // After another reload, those of the last one may still be leaving: they have a group.
        if group.has_streams() {
            group.put_in_order(self.policy.order, now.moment, now.rng);
            self.facts.push(group.began());
            self.withdrawn.push(group);
        }
    }

    /// Returns a group for streams of withdrawn routes. They may go on nowhere, so each of them is a disconnect.
    fn withdrawal(&self, now: Millis) -> DrainGroup<M> {
        let schedule = self.schedule(self.policy.window_from(now), BudgetUse::Charged);
        self.group(DrainSubject::WithdrawnRoutes, schedule, now)
    }

    /// Returns a schedule within a window, under the present policy.
    fn schedule(&self, window: DrainWindow, budget_use: BudgetUse) -> DrainSchedule {
        DrainSchedule::new(window.begins, self.policy.times.spread, window.deadline, budget_use)
    }

    /// Returns a group without streams.
    fn group(&self, subject: DrainSubject, schedule: DrainSchedule, now: Millis) -> DrainGroup<M> {
        DrainGroup::new(subject, self.policy, schedule, self.inbox.leaving(), now)
    }

    /// Begins, hurries or takes back the drain of an endpoint whose phase changed.
    fn follow(&mut self, transition: Transition, now: &mut Now<'_>) {
        let Transition { endpoint, to, .. } = transition;
        if to < Phase::Draining {
            return self.take_back(endpoint, now);
        }
        if let Some(group) = self.endpoints.get_mut(&endpoint.id) {
            group.subject = DrainSubject::Endpoint(endpoint);
            if to == Phase::Gone && group.schedule.begins() > now.moment {
                // The endpoint is gone, so `pinned: keep` no longer applies: streams start leaving now.
                let deadline = group.schedule.deadline();
                self.facts.push(group.reschedule(now.moment, deadline));
            }
        } else if to != Phase::Gone || !self.streams_at(&endpoint.id).is_empty() {
            let window = self.policy.window(&endpoint, now.moment, self.refuge(&endpoint.id, now));
            self.begin(endpoint, window, now);
        }
    }

    /// Releases the streams of an endpoint that stays after all. Streams that have their moment check the endpoint again
    /// when it comes.
    fn take_back(&mut self, endpoint: Arc<Endpoint>, now: &mut Now<'_>) {
        let id = endpoint.id;
        let Some(mut group) = self.endpoints.remove(&id) else { return };
        group.release();
        self.awaited.push(group);
        self.facts.push(Fact::TakenBack { endpoint });
        // Streams of a route that is gone leave all the same, and all of them when the proxy shuts down.
        self.withdraw(now);
        if let Some(group) = &mut self.shutdown {
            let streams = self.registry.streams_of(&self.inbox, |member| member.endpoint().id == id);
            streams.into_iter().for_each(|member| group.join(member));
        }
    }

    /// Begins to drain all streams that are open on an endpoint.
    fn begin(&mut self, endpoint: Arc<Endpoint>, window: DrainWindow, now: &mut Now<'_>) {
        let id = endpoint.id;
        let schedule = self.schedule(window, self.policy.budget_use()).at_phase(phase(now.rng));
        let mut group = self.group(DrainSubject::Endpoint(endpoint), schedule, now.moment);
        self.streams_at(&id).into_iter().for_each(|member| group.join(member));
        group.put_in_order(self.policy.order, now.moment, now.rng);
        self.facts.push(group.began());
        self.endpoints.insert(id, group);
    }

    /// Returns whether a stream that leaves an endpoint now has another one to go to.
    fn refuge(&self, left: &EndpointId, now: &Now<'_>) -> Refuge {
        Refuge::from(left, now.snapshot, now.moment, self.places())
    }

    /// Returns the places of endpoints. Streams that left before have not all arrived: their places are taken.
    fn places(&self) -> Places {
        Places { each: self.policy.streams_per_endpoint, taken: self.inbox.expected_streams() }
    }

    /// Returns the open streams of an endpoint.
    fn streams_at(&self, id: &EndpointId) -> Vec<Arc<M>> {
        self.registry.streams_of(&self.inbox, |member| member.endpoint().id == *id)
    }

    /// Moves all streams without a moment into one group.
    fn begin_shutdown(&mut self, times: ShutdownTimes, now: &mut Now<'_>) {
        // Streams without a moment leave with all the others: the drain of their endpoint may have hours.
        self.endpoints.values_mut().chain(&mut self.withdrawn).for_each(DrainGroup::release);
        let schedule = DrainSchedule::new(times.begins, times.spread, times.deadline, BudgetUse::Charged);
        let schedule = schedule.at_phase(phase(now.rng));
        let mut group = self.group(DrainSubject::Shutdown, schedule, now.moment);
        for member in self.registry.streams_of(&self.inbox, |_| true) {
            if member.drain().order().is_some() {
                // A stream on its way to another endpoint has less time from now on.
                member.drain().wake();
            }
            group.join(member);
        }
        group.put_in_order(self.policy.order, now.moment, now.rng);
        // Once it is over it begins anew each turn, for streams that come late.
        self.facts.extend(group.has_streams().then(|| group.began()));
        self.shutdown = Some(group);
    }

    /// Has the streams of an endpoint that fails its checks look for another one.
    fn evacuate(&self, id: &EndpointId, now: &Now<'_>) {
        let movable = |member: &Arc<M>| member.departure() == Departure::Handover;
        for member in self.streams_at(id).into_iter().filter(movable) {
            member.drain().evacuate(&self.evacuation, now.moment);
        }
    }

    /// Adds a stream that began or arrived on an endpoint which drains, or which went while no stream was open there.
    fn join(&mut self, member: Arc<M>, now: &mut Now<'_>) {
        let endpoint = member.endpoint();
        if let Some(group) = &mut self.shutdown {
            group.join(member);
        } else if member.is_withdrawn() {
            if self.withdrawn.is_empty() {
                self.withdrawn.push(self.withdrawal(now.moment));
            }
            if let Some(group) = self.withdrawn.last_mut() {
                group.join(member);
            }
        } else if let Some(group) = self.endpoints.get_mut(&endpoint.id) {
            group.join(member);
        } else if now.snapshot.get(&endpoint.id).is_none() {
            self.begin(endpoint, self.policy.window_from(now.moment), now);
        }
    }

    /// Reschedules groups whose endpoint learned its deadline or stopped to serve, or whose streams have another endpoint
    /// to go to from now on, or none any more.
    fn follow_deadlines(&mut self, now: &Now<'_>) {
        let places = self.places();
        for (id, group) in &mut self.endpoints {
            let Some(current) = now.snapshot.get(id) else { continue };
            let refuge = Refuge::from(id, now.snapshot, now.moment, places);
            let DrainWindow { begins, deadline } = group.policy.window(current, group.began, refuge);
            let before = (group.schedule.begins(), group.schedule.deadline());
            group.subject = DrainSubject::Endpoint(Arc::clone(current));
            let waits_longer = refuge != Refuge::Ready && begins > before.0.max(now.moment);
            if deadline != before.1 || begins < before.0 || waits_longer {
                let begins = if begins >= now.moment { begins } else { before.0.min(now.moment) };
                let is_new = (begins, deadline) != before;
                self.facts.extend(is_new.then(|| group.reschedule(begins, deadline)));
            }
        }
    }

    /// Gives as many streams as the pace wants a moment until the next turn.
    fn schedule_departures(&mut self, now: &mut Now<'_>) {
        if now.moment < self.decided_until {
            return;
        }
        self.pacer.charge(self.inbox.take_charges());
        let others = self.withdrawn.iter_mut().chain(&mut self.shutdown);
        let mut groups: Vec<&mut DrainGroup<M>> = self.endpoints.values_mut().chain(others).collect();
        groups.iter_mut().for_each(|group| group.prepare(self.policy.order, now.moment, now.rng));
        if !groups.iter().any(|group| group.has_queue()) {
            return;
        }
        let in_flight = InFlight {
            streams: self.inbox.open_streams(),
            away: self.inbox.expected_streams(),
            absence: self.policy.absence,
        };
        // A turn that comes a little late makes up for it, or a budget would lose a part of each.
        let late = now.moment.since(self.decided_until);
        let (from, horizon) =
            if late < TURN { (self.decided_until, TURN + late) } else { (now.moment, TURN) };
        self.decided_until = now.moment.after(TURN);
        let mut schedules: Vec<_> = groups.iter_mut().flat_map(|group| group.schedules()).collect();
        let exceeded = self.pacer.turn(&mut schedules, in_flight, from, horizon);
        self.facts.extend((exceeded > 0).then_some(Fact::BudgetExceeded { streams: exceeded }));
        for group in groups {
            self.facts.extend(if exceeded > 0 { group.warn_of_budget() } else { None });
            self.facts.extend(group.notify_due(now.moment));
        }
    }

    /// Moves streams for balance's sake, as long as the service is there to stay.
    fn rebalance(&mut self, now: &Now<'_>) {
        if self.shutdown.is_some() || self.is_retired {
            return;
        }
        let Some(rebalancer) = &mut self.rebalancer else { return };
        let streams = ServiceStreams { registry: &self.registry, inbox: &self.inbox, snapshot: now.snapshot };
        self.facts.extend(rebalancer.turn(&streams, now.moment));
    }

    /// Sets groups aside whose streams have left, and reports those whose clients are settled.
    fn retire_finished_groups(&mut self, now: &Now<'_>) {
        let is_listed = |id: &EndpointId| now.snapshot.get(id).is_some();
        let over: Vec<EndpointId> = (self.endpoints.iter())
            .filter(|(id, group)| group.is_over(now.moment) && (!is_listed(id) || group.has_streams()))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            let Some(group) = self.endpoints.remove(&id) else { continue };
            if is_listed(&id) {
                // A stream that was on its way when the drain began may still come: it gets a group of its own.
                let DrainGroup { subject, policy, schedule, began, .. } = &group;
                let next = DrainGroup::new(subject.clone(), *policy, *schedule, self.inbox.leaving(), *began);
                self.endpoints.insert(id, next);
            }
            if group.has_streams() {
                self.awaited.push(group);
            }
        }
        self.awaited.extend(self.withdrawn.extract_if(.., |group| group.is_over(now.moment)));
        // Clients come back to another replica. Streams that still begin leave with a group of their own.
        self.awaited.extend(self.shutdown.take_if(|group| group.is_over(now.moment)));
        for group in self.awaited.extract_if(.., |group| group.is_settled()) {
            self.facts.extend(group.finished());
        }
    }

    /// Returns the time until the next turn.
    fn until_next_turn(&self, now: Millis) -> Duration {
        let is_idle = self.awaited.is_empty()
            && self.inbox.reconnects().away() == 0
            && self.rebalancer.is_none()
            && !self.is_retired;
        let groups = self.endpoints.values().chain(&self.withdrawn).chain(&self.shutdown);
        let times = groups.map(|group| {
            let is_near = group.schedule.begins() <= now.after(LOOK);
            let is_endpoint = matches!(group.subject, DrainSubject::Endpoint(_));
            match group.has_queue() {
                true if is_near => self.decided_until.since(now),
                true => LOOK,
                false if is_endpoint || !group.has_ended() => LOOK,
                false => NOTHING,
            }
        });
        times.fold(if is_idle { NOTHING } else { LOOK }, Duration::min)
    }
}
