//! Makes streams leave: those of endpoints that go away, and all of them when the proxy itself does.
//!
//! One task on the control thread. It is told of endpoints that begin or stop to drain, takes a turn every
//! [`TURN`] while anything has to leave, asks podpin-endpoints' `pace.rs` how many go now, and tells those streams a
//! moment within the turn. The goodbye itself is the stream's own (`relay.rs`). When all streams of a drain have ended and
//! their clients are back or lost, one record of it is written to the log.
//!
//! ```text
//! table ── transition ──▶ desk ──▶ Leaving { departure, streams in their order } ── told ──▶ relay: goodbye
//!                          ▲                     │ all ended, nobody awaited
//!   a stream that begins on a leaving endpoint   ▼
//!                                          the record in the log
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use podpin_config::{Handover, Order as LeavingOrder, Pinned};
use podpin_endpoints::{
    BudgetLimits, Departure, Endpoint, EndpointId, Motion, Pacer, Phase, Purse, Transition,
};
use podpin_time::Millis;

use crate::balance::service::Kind;
use crate::balance::service::ServiceState;
use crate::clock;
pub use crate::drain::desk::Desk;
use crate::drain::leaving::{Leaving, Terms};
use crate::drain::rebalance::Rebalancing;
use crate::routing::snapshot::ConfigSnapshot;
use crate::shared::Shared;
use crate::stream_registry::{Cause, StreamRecord};

/// Between two turns while streams leave. Departures are laid out within it, so it only bounds how late the drain
/// notices a change.
pub const TURN: Duration = Duration::from_millis(50);
/// Between two looks while there is nothing to tell anybody: clients are awaited, or departures have yet to begin.
const LOOK: Duration = Duration::from_millis(250);
/// While nothing goes on at all; news wake the task at once.
const NOTHING: Duration = Duration::from_secs(3_600);
/// How often streams are put in order anew by their silence.
const REORDER: Duration = Duration::from_secs(1);

use crate::lifecycle::ShutdownTimes;

/// Runs all drains for as long as the process runs.
pub async fn run(shared: Arc<Shared>) {
    let mut snapshot = shared.snapshot();
    let mut services: Vec<ServiceDrain> = snapshot.services.iter().map(ServiceDrain::new).collect();
    loop {
        let now = clock::now();
        let current = shared.snapshot();
        if !Arc::ptr_eq(&snapshot, &current) {
            follow(&mut services, &current, &shared, now);
            snapshot = current;
        }
        services.retain(|service| !service.is_over());
        let rest = services.iter_mut().map(|service| service.turn(&shared, now)).min().unwrap_or(NOTHING);
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = shared.drain_wake.notified() => {}
        }
    }
}

/// After a reload: services come, change and go, and the streams of routes that are gone leave.
fn follow(services: &mut Vec<ServiceDrain>, snapshot: &ConfigSnapshot, shared: &Shared, now: Millis) {
    for drain in services.iter_mut() {
        match snapshot.counterpart(&drain.service) {
            Some(service) => drain.adopt(service, now),
            None => drain.is_retired = true,
        }
        drain.withdraw(shared, now);
    }
    for service in snapshot.services.iter() {
        if !services.iter().any(|drain| drain.service.is_same(service)) {
            services.push(ServiceDrain::new(service));
        }
    }
}

/// All that leaves of one service.
struct ServiceDrain {
    service: Arc<ServiceState>,
    /// A reload took it away: it is followed until its last stream has left.
    is_retired: bool,
    pacer: Pacer,
    endpoints: BTreeMap<EndpointId, Leaving>,
    /// Streams of routes that reloads took away.
    withdrawn: Vec<Leaving>,
    shutdown: Option<Leaving>,
    rebalancing: Option<Rebalancing>,
    /// Up to when it is decided who leaves. News come at any time; departures must not come faster for that.
    decided_until: Millis,
    /// Drains whose streams have ended and whose clients are awaited.
    awaited: Vec<Leaving>,
}

impl ServiceDrain {
    fn new(service: &Arc<ServiceState>) -> ServiceDrain {
        ServiceDrain {
            pacer: pacer(service),
            rebalancing: rebalancing(service, clock::now()),
            service: Arc::clone(service),
            is_retired: false,
            endpoints: BTreeMap::new(),
            withdrawn: Vec::new(),
            shutdown: None,
            decided_until: Millis(0),
            awaited: Vec::new(),
        }
    }

    /// Goes on under a new configuration of the service. What leaves already keeps the times that it was given.
    fn adopt(&mut self, service: &Arc<ServiceState>, now: Millis) {
        let before = std::mem::replace(&mut self.service, Arc::clone(service));
        let (old, new) = (&before.configuration, &service.configuration);
        if old.drain.budget != new.drain.budget {
            self.pacer = pacer(service);
        }
        if old.balance.rebalance != new.balance.rebalance {
            self.rebalancing = rebalancing(service, now);
        }
    }

    /// Nothing is left to do for a service that is gone.
    fn is_over(&self) -> bool {
        let nobody = self.service.desk.open_streams() == 0 && self.service.returns.away() == 0;
        // Requests on their way to it hold its configuration, and may become streams.
        let is_known = Arc::strong_count(&self.service) > 1 || Arc::strong_count(&self.service.desk) > 1;
        self.is_retired && nobody && !is_known && self.withdrawn.is_empty() && self.awaited.is_empty()
    }

    /// The open streams of routes that are gone leave.
    fn withdraw(&mut self, shared: &Shared, now: Millis) {
        let stray = |record: &StreamRecord| {
            record.kind == Kind::Stream && record.belongs_to(&self.service) && record.route.is_withdrawn()
        };
        let stray = shared.streams.select(stray);
        if stray.is_empty() {
            return;
        }
        let mut leaving = self.begin_withdrawal(now);
        stray.into_iter().for_each(|record| leaving.join(record));
        leaving.put_in_order(self.service.configuration.drain.order, now);
        self.withdrawn.push(leaving);
    }

    fn begin_withdrawal(&self, now: Millis) -> Leaving {
        let drain = &self.service.configuration.drain;
        let deadline = clock::after(now, drain.timeout);
        // Nowhere else may they go on: each of them is a disconnect.
        Leaving::new(Cause::Withdrawn, Departure::new(now, drain.spread, deadline, Purse::Budget), now)
    }

    /// A stream that began late leaves with those of the last reload.
    fn withdraw_one(&mut self, record: Arc<StreamRecord>, now: Millis) {
        if self.withdrawn.is_empty() {
            self.withdrawn.push(self.begin_withdrawal(now));
        }
        if let Some(leaving) = self.withdrawn.last_mut() {
            leaving.join(record);
        }
    }

    /// Does what is due until the next turn; gives how long that may wait.
    fn turn(&mut self, shared: &Shared, now: Millis) -> Duration {
        let news = self.service.desk.take_news();
        for transition in news.transitions {
            self.hear(shared, transition, now);
        }
        if let Some(times) = shared.lifecycle.shutdown_times() {
            self.begin_shutdown(shared, times, now);
        }
        for record in news.late {
            self.join(shared, record, now);
        }
        let window = self.service.configuration.drain.return_window;
        self.service.returns.expire(window, now, &self.service.metrics);
        self.follow_deadlines(now);
        self.let_go(now);
        let may_rebalance = self.shutdown.is_none() && !self.is_retired;
        if let Some(rebalancing) = self.rebalancing.as_mut().filter(|_| may_rebalance) {
            rebalancing.look(shared, &self.service, now);
        }
        self.settle(now);
        self.rest(now)
    }

    /// An endpoint began or stopped to drain, or is gone.
    fn hear(&mut self, shared: &Shared, transition: Transition, now: Millis) {
        let endpoint = transition.endpoint;
        if transition.to < Phase::Draining {
            if let Some(mut leaving) = self.endpoints.remove(&endpoint.id) {
                leaving.release();
                tracing::info!(service = %self.service.name, endpoint = %endpoint.name, "the drain was taken back");
                self.awaited.push(leaving);
                // Those of a route that is gone leave all the same.
                self.withdraw(shared, now);
            }
            return;
        }
        if let Some(leaving) = self.endpoints.get_mut(&endpoint.id) {
            if transition.to == Phase::Gone {
                // Nobody is kept on what is not there.
                let departure = &mut leaving.departure;
                let (begins, deadline) = (departure.begins().min(now), departure.deadline());
                departure.set_deadline(begins, leaving.terms.times.spread, deadline);
            }
            leaving.endpoint = Some(endpoint);
            return;
        }
        if transition.to == Phase::Gone && self.open_streams(shared, &endpoint.id).is_empty() {
            return;
        }
        let departure = self.departure(self.terms().schedule(&endpoint, now));
        self.begin(shared, (endpoint, departure), now);
    }

    /// All streams that are open on an endpoint leave together.
    fn begin(&mut self, shared: &Shared, (endpoint, departure): (Arc<Endpoint>, Departure), now: Millis) {
        let id = endpoint.id;
        let mut leaving = Leaving::of(Some(endpoint), self.terms(), departure, now);
        self.open_streams(shared, &id).into_iter().for_each(|record| leaving.join(record));
        leaving.put_in_order(self.service.configuration.drain.order, now);
        self.endpoints.insert(id, leaving);
    }

    fn open_streams(&self, shared: &Shared, id: &EndpointId) -> Vec<Arc<StreamRecord>> {
        shared.streams.select(|record| record.kind == Kind::Stream && record.is_of(&self.service, id))
    }

    fn departure(&self, (begins, deadline): (Millis, Millis)) -> Departure {
        let drain = &self.service.configuration.drain;
        let purse = match drain.handover {
            Handover::None => Purse::Budget,
            Handover::LastEventId => Purse::Free,
        };
        Departure::new(begins, drain.spread, deadline, purse)
    }

    fn terms(&self) -> Terms {
        let keeps = self.service.configuration.drain.pinned == Pinned::Keep;
        Terms { times: self.service.drain_times(), keeps }
    }

    fn begin_shutdown(&mut self, shared: &Shared, times: ShutdownTimes, now: Millis) {
        if self.shutdown.is_some() {
            return;
        }
        // Whoever has not been told by the drain of an endpoint leaves with all the others: that drain may have hours.
        self.endpoints.values_mut().chain(&mut self.withdrawn).for_each(Leaving::release);
        let departure = Departure::new(times.begins, times.spread, times.deadline, Purse::Budget);
        let mut leaving = Leaving::new(Cause::Shutdown, departure, now);
        let open =
            shared.streams.select(|record| record.kind == Kind::Stream && record.belongs_to(&self.service));
        // Whoever is on the way to another pod has less time from now on.
        open.iter().filter(|record| record.is_told()).for_each(|record| record.wake());
        open.into_iter().for_each(|record| leaving.join(record));
        leaving.put_in_order(self.service.configuration.drain.order, now);
        self.shutdown = Some(leaving);
    }

    /// A stream began on an endpoint that is leaving, or that has left the list while nothing was open there.
    fn join(&mut self, shared: &Shared, record: Arc<StreamRecord>, now: Millis) {
        let endpoint = record.endpoint();
        let id = endpoint.id;
        if let Some(leaving) = &mut self.shutdown {
            leaving.join(record);
        } else if record.route.is_withdrawn() {
            self.withdraw_one(record, now);
        } else if let Some(leaving) = self.endpoints.get_mut(&id) {
            leaving.join(record);
        } else if self.service.endpoint(&id).is_none() {
            let drain = &self.service.configuration.drain;
            let deadline = clock::after(now, drain.timeout);
            let departure = self.departure((now, deadline));
            self.begin(shared, (endpoint, departure), now);
        }
    }

    /// Deadlines become known, and pods stop to serve, while streams leave.
    fn follow_deadlines(&mut self, now: Millis) {
        let mut changed = Vec::new();
        for (id, leaving) in &self.endpoints {
            let Some(current) = self.service.endpoint(id) else { continue };
            let (begins, deadline) = leaving.terms.schedule(&current, leaving.began);
            let is_new = deadline != leaving.departure.deadline() || begins < leaving.departure.begins();
            let begins = if begins >= now { begins } else { leaving.departure.begins().min(now) };
            changed.push((*id, current, is_new.then_some((begins, deadline))));
        }
        for (id, current, times) in changed {
            let Some(leaving) = self.endpoints.get_mut(&id) else { continue };
            leaving.endpoint = Some(current);
            if let Some((begins, deadline)) = times {
                leaving.departure.set_deadline(begins, leaving.terms.times.spread, deadline);
            }
        }
    }

    /// Tells as many streams as the pace wants a moment until the next turn.
    fn let_go(&mut self, now: Millis) {
        if now < self.decided_until {
            return;
        }
        self.pacer.charge(self.service.desk.take_charges());
        let order = self.service.configuration.drain.order;
        let others = self.withdrawn.iter_mut().chain(&mut self.shutdown);
        let mut all: Vec<&mut Leaving> = self.endpoints.values_mut().chain(others).collect();
        for leaving in &mut all {
            leaving.cut(now);
            leaving.streams.retain(|record| !record.is_closed() && record.is_queued());
            leaving.departure.remaining = u32::try_from(leaving.streams.len()).unwrap_or(u32::MAX);
            if order == LeavingOrder::Idle && now.since(leaving.reordered) >= REORDER {
                leaving.put_in_order(order, now);
            }
        }
        if all.iter().all(|leaving| leaving.streams.is_empty()) {
            return;
        }
        let retry = &self.service.configuration.sse.retry;
        let motion = Motion {
            streams: self.service.desk.open_streams(),
            away: self.service.returns.in_motion(),
            absence: (retry.drain_min + retry.drain_max) / 2,
        };
        let mut departures: Vec<&mut Departure> =
            all.iter_mut().map(|leaving| &mut leaving.departure).collect();
        // A turn that comes a little late makes up for it, or a budget would lose a part of each.
        let late = now.since(self.decided_until);
        let (from, horizon) = if late < TURN { (self.decided_until, TURN + late) } else { (now, TURN) };
        self.decided_until = now.after(TURN);
        let exceeded = self.pacer.turn(&mut departures, motion, from, horizon);
        if exceeded > 0 {
            self.service.metrics.budget_exceeded.inc_by(u64::from(exceeded));
        }
        for leaving in all {
            if exceeded > 0
                && leaving.departure.due > 0
                && !std::mem::replace(&mut leaving.exceeded_said, true)
            {
                tracing::warn!(
                    service = %self.service.name,
                    endpoint = leaving.name(),
                    "drain.budget is exceeded: the streams could not leave before their deadline otherwise"
                );
            }
            leaving.tell(now);
        }
    }

    /// Drains whose streams have ended are over; those whose clients are settled are written down.
    fn settle(&mut self, now: Millis) {
        let service = Arc::clone(&self.service);
        let over = |leaving: &Leaving| {
            let sums = leaving.tally.sums();
            leaving.streams.is_empty() && sums.ended() >= sums.streams && leaving.departure.begins() <= now
        };
        let is_listed = |id: &EndpointId| service.endpoint(id).is_some();
        let gone: Vec<EndpointId> = (self.endpoints.iter())
            .filter(|(id, leaving)| over(leaving) && (!is_listed(id) || leaving.has_streams_to_tell_of()))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let Some(leaving) = self.endpoints.remove(&id) else { continue };
            if is_listed(&id) {
                // A stream that was on its way when the drain began may still come: it gets a drain of its own.
                let departure = leaving.departure;
                let next = Leaving::of(leaving.endpoint.clone(), leaving.terms, departure, leaving.began);
                self.endpoints.insert(id, next);
            }
            if leaving.has_streams_to_tell_of() {
                self.awaited.push(leaving);
            }
        }
        self.awaited.extend(self.withdrawn.extract_if(.., |leaving| over(leaving)));
        // Nobody will be here to see its clients come back. Whoever still begins leaves with another one.
        self.awaited.extend(self.shutdown.take_if(|leaving| over(leaving)));
        self.awaited.retain(|leaving| {
            let settled = leaving.tally.sums().is_settled();
            if settled {
                leaving.write_down(&service.name);
            }
            !settled
        });
    }

    fn rest(&self, now: Millis) -> Duration {
        let all = self.endpoints.values().chain(&self.withdrawn).chain(&self.shutdown);
        let idle = self.awaited.is_empty() && self.service.returns.away() == 0 && self.rebalancing.is_none();
        let mut rest = if idle && !self.is_retired { NOTHING } else { LOOK };
        for leaving in all {
            let sums = leaving.tally.sums();
            rest =
                rest.min(if !leaving.streams.is_empty() && leaving.departure.begins() <= now.after(LOOK) {
                    self.decided_until.since(now)
                } else if sums.ended() < sums.streams || leaving.endpoint.is_some() {
                    LOOK
                } else {
                    NOTHING
                });
        }
        rest
    }
}

fn pacer(service: &ServiceState) -> Pacer {
    let budget = service.configuration.drain.budget;
    let limits = budget.map(|budget| BudgetLimits { per_second: budget.per_second, percent: budget.percent });
    Pacer::new(limits.unwrap_or_default())
}

fn rebalancing(service: &ServiceState, now: Millis) -> Option<Rebalancing> {
    service.configuration.balance.rebalance.map(|settings| Rebalancing::new(settings, now))
}
