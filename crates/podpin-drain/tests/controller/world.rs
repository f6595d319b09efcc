//! A service with endpoints, streams whose tasks do as they are asked, and a clock that jumps from one moment that matters
//! to the next.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use podpin_drain::{
    Cause, Departure, DrainController, DrainHandle, DrainInbox, DrainMember, DrainPolicy, DrainRegistry,
    DrainReport, DrainState, EndKind, Fact, LeaveOrder, Mobility, Session, StreamEnd,
};
use podpin_endpoints::{Condition, Endpoint, EndpointId, Observed, Permit, Phase, Snapshot, Table, Update};
use podpin_time::Millis;

pub(crate) type EndpointTable = Arc<Mutex<Table>>;

/// An open stream.
pub(crate) struct Stream {
    pub(crate) drain: DrainHandle,
    inbox: Arc<DrainInbox>,
    id: u64,
    table: EndpointTable,
    place: Mutex<(Arc<Endpoint>, Option<Permit>)>,
    withdrawn: Arc<AtomicBool>,
    session: Option<Session>,
    since: Millis,
    last_event: AtomicU64,
    pub(crate) mobility: Mobility,
    departure: Departure,
}

impl DrainMember for Stream {
    fn drain(&self) -> &DrainHandle {
        &self.drain
    }

    fn inbox(&self) -> &DrainInbox {
        &self.inbox
    }

    fn departure(&self) -> Departure {
        self.departure
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.place.lock().unwrap().0)
    }

    fn endpoint_phase(&self) -> Phase {
        let id = self.endpoint().id;
        let snapshot = self.table.lock().unwrap().snapshot();
        snapshot.get(&id).map_or(Phase::Gone, |endpoint| endpoint.phase)
    }

    fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::SeqCst)
    }

    fn session(&self) -> Option<Session> {
        self.session
    }

    fn since(&self) -> Millis {
        self.since
    }

    fn last_event(&self) -> Millis {
        Millis(self.last_event.load(Ordering::Relaxed))
    }
}

impl Stream {
    pub(crate) fn set_last_event(&self, at: Millis) {
        self.last_event.store(at.0, Ordering::Relaxed);
    }

    pub(crate) fn move_to(&self, endpoint: Arc<Endpoint>) {
        let permit = endpoint.load.try_open(None);
        *self.place.lock().unwrap() = (endpoint, permit);
    }

    /// Returns the order to leave; `None` if the stream stays, because its drain was taken back.
    pub(crate) fn order(&self, registry: &DrainRegistry<Stream>) -> Option<LeaveOrder> {
        let order = self.drain.order()?;
        let is_serving = self.endpoint_phase() < Phase::Draining;
        if order.cause == Cause::Drain && is_serving && !self.is_withdrawn() {
            registry.stayed(self);
            return None;
        }
        Some(order)
    }

    /// The group that it belongs to is one that a report is written of.
    fn is_reported(&self) -> bool {
        match self.drain.state() {
            DrainState::Queued => true,
            DrainState::Leaving => self.drain.order().is_some_and(|order| order.cause != Cause::Rebalance),
            DrainState::Staying | DrainState::Ended => false,
        }
    }
}

/// A stream that is to begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    pub(crate) mobility: Mobility,
    pub(crate) session: Option<Session>,
    pub(crate) route: usize,
    pub(crate) departure: Departure,
}

pub(crate) const OPENING: Opening =
    Opening { mobility: Mobility::DrainOnly, session: None, route: 0, departure: Departure::Handover };

/// Takes a turn of the controller.
#[derive(Clone, Debug)]
pub(crate) struct TurnRecord {
    pub(crate) at: Millis,
    /// Streams that got a moment, and an order that costs budget.
    pub(crate) charged: u32,
    pub(crate) exceeded: u32,
}

pub(crate) struct World {
    pub(crate) registry: Arc<DrainRegistry<Stream>>,
    pub(crate) inbox: Arc<DrainInbox>,
    pub(crate) controller: DrainController<Stream>,
    pub(crate) table: EndpointTable,
    pub(crate) now: Millis,
    pub(crate) streams: Vec<Arc<Stream>>,
    pub(crate) facts: Vec<Fact>,
    pub(crate) turns: Vec<TurnRecord>,
    /// Counts of the streams themselves, of groups that a report is written of.
    pub(crate) counted: DrainReport,
    /// Endpoints that take a stream which has to leave; `None` if they end with goodbyes.
    pub(crate) heirs: Option<usize>,
    routes: Vec<Arc<AtomicBool>>,
    turn_due: Millis,
    seed: u64,
}

/// Opens streams, on any thread.
pub(crate) struct Opener {
    registry: Arc<DrainRegistry<Stream>>,
    inbox: Arc<DrainInbox>,
    table: EndpointTable,
    routes: Vec<Arc<AtomicBool>>,
}

impl Opener {
    pub(crate) fn endpoint(&self, number: usize) -> Option<Arc<Endpoint>> {
        self.table.lock().unwrap().snapshot().get(&id(number)).cloned()
    }

    pub(crate) fn open(&self, number: usize) -> Option<Arc<Stream>> {
        Some(self.open_at(self.endpoint(number)?, OPENING, Millis(1_000)))
    }

    fn open_at(&self, endpoint: Arc<Endpoint>, opening: Opening, now: Millis) -> Arc<Stream> {
        let permit = endpoint.load.try_open(None);
        self.registry.open(|id| Stream {
            drain: DrainHandle::new(opening.mobility),
            inbox: Arc::clone(&self.inbox),
            id,
            table: Arc::clone(&self.table),
            place: Mutex::new((endpoint, permit)),
            withdrawn: Arc::clone(&self.routes[opening.route]),
            session: opening.session,
            since: now,
            last_event: AtomicU64::new(now.0),
            mobility: opening.mobility,
            departure: opening.departure,
        })
    }
}

pub(crate) fn id(number: usize) -> EndpointId {
    EndpointId::of_pod(&format!("u-{number}"), 80)
}

pub(crate) fn observed(number: usize, condition: Condition) -> Observed {
    Observed {
        condition,
        reversible_drain: true,
        ..Observed::ready(id(number), format!("pod-{number}"), ([127, 0, 0, 1], 80).into())
    }
}

impl World {
    pub(crate) fn new(policy: DrainPolicy, endpoints: usize) -> World {
        let now = Millis(1_000);
        let registry = Arc::new(DrainRegistry::new());
        let inbox = Arc::new(registry.inbox());
        let mut table = Table::new();
        let list = (0..endpoints).map(|number| observed(number, Condition::Ready)).collect();
        table.apply(Update::Replace(list), Millis(0));
        World {
            controller: DrainController::new(Arc::clone(&registry), Arc::clone(&inbox), policy, now),
            registry,
            inbox,
            table: Arc::new(Mutex::new(table)),
            now,
            streams: Vec::new(),
            facts: Vec::new(),
            turns: Vec::new(),
            counted: DrainReport::default(),
            heirs: None,
            routes: (0..2).map(|_| Arc::default()).collect(),
            turn_due: now,
            seed: 1,
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.table.lock().unwrap().snapshot()
    }

    /// Applies an update and reports it, as a service publishes.
    pub(crate) fn update(&mut self, update: Update) {
        let applied = self.table.lock().unwrap().apply(update, self.now);
        self.inbox.report(applied.transitions);
    }

    pub(crate) fn set_condition(&mut self, number: usize, condition: Condition) {
        self.update(Update::Upsert(vec![observed(number, condition)]));
    }

    pub(crate) fn drain(&mut self, number: usize) {
        self.set_condition(number, Condition::Draining { serving: true });
    }

    pub(crate) fn opener(&self) -> Opener {
        Opener {
            registry: Arc::clone(&self.registry),
            inbox: Arc::clone(&self.inbox),
            table: Arc::clone(&self.table),
            routes: self.routes.clone(),
        }
    }

    pub(crate) fn open(&mut self, number: usize, opening: Opening) -> Option<Arc<Stream>> {
        let endpoint = self.snapshot().get(&id(number)).cloned()?;
        Some(self.open_at(endpoint, opening))
    }

    pub(crate) fn open_at(&mut self, endpoint: Arc<Endpoint>, opening: Opening) -> Arc<Stream> {
        let stream = self.opener().open_at(endpoint, opening, self.now);
        if let Some(session) = opening.session {
            self.inbox.reconnects().came_back(session, self.now);
        }
        self.streams.push(Arc::clone(&stream));
        stream
    }

    pub(crate) fn close(&mut self, stream: &Arc<Stream>, kind: EndKind) {
        if stream.is_reported() {
            let count = match kind {
                EndKind::Graceful => &mut self.counted.graceful,
                EndKind::Forced => &mut self.counted.forced,
                EndKind::Broken => &mut self.counted.broken,
                EndKind::Left => &mut self.counted.left,
            };
            *count += 1;
        }
        let is_awaited = kind != EndKind::Left;
        self.registry.close(stream, StreamEnd { kind, is_awaited }, self.now);
        self.streams.retain(|one| one.id != stream.id);
        drop(stream.place.lock().unwrap().1.take());
    }

    pub(crate) fn move_to(&mut self, stream: &Arc<Stream>, endpoint: Arc<Endpoint>) {
        self.counted.moved += u32::from(stream.is_reported());
        let from = stream.endpoint().id;
        stream.move_to(endpoint);
        self.registry.moved(stream, from, self.now);
    }

    pub(crate) fn reload(&mut self, policy: DrainPolicy, withdrawn_route: Option<usize>) {
        if let Some(route) = withdrawn_route {
            self.routes[route].store(true, Ordering::SeqCst);
        }
        self.controller.reload(Some(policy), self.now);
        self.turn_due = self.now;
    }

    /// Lets time pass: turns are taken when they are due or asked for, and streams leave at their moments.
    pub(crate) fn run_for(&mut self, millis: u64) {
        let end = Millis(self.now.0 + millis);
        loop {
            let is_woken = self.registry.wake().poll_notified(&mut Context::from_waker(Waker::noop()))
                == Poll::Ready(());
            if is_woken || self.now >= self.turn_due {
                self.turn();
            }
            let due: Vec<Arc<Stream>> = self
                .streams
                .iter()
                .filter(|one| moment(one).is_some_and(|at| at <= self.now))
                .cloned()
                .collect();
            due.iter().for_each(|stream| self.depart(stream));
            if !due.is_empty() {
                continue;
            }
            if self.now >= end {
                return;
            }
            let next = self.streams.iter().filter_map(|stream| moment(stream)).min();
            self.now = self.turn_due.min(next.unwrap_or(end)).min(end).max(self.now);
        }
    }

    /// Lets the controller take one turn without chance, and no stream act on it.
    pub(crate) fn turn_once(&mut self) -> Vec<Fact> {
        let snapshot = || self.table.lock().unwrap().snapshot();
        self.controller.turn(self.now, snapshot, &mut |_| 0).facts
    }

    fn turn(&mut self) {
        let before: Vec<bool> = self.streams.iter().map(|one| moment(one).is_some()).collect();
        let table = Arc::clone(&self.table);
        let seed = &mut self.seed;
        let turn = self.controller.turn(self.now, || table.lock().unwrap().snapshot(), &mut |bound| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*seed >> 33) % bound
        });
        let mut record = TurnRecord { at: self.now, charged: 0, exceeded: 0 };
        for (stream, had_moment) in self.streams.iter().zip(before) {
            let Some(order) = stream.drain.order().filter(|_| !had_moment) else { continue };
            check_order(&order, self.now);
            let is_paced = order.cause != Cause::Rebalance && stream.mobility != Mobility::CutAtDeadline;
            let is_charged = is_paced && order.budget_use == podpin_drain::BudgetUse::Charged;
            record.charged += u32::from(is_charged);
        }
        for fact in &turn.facts {
            if let Fact::BudgetExceeded { streams } = fact {
                record.exceeded += streams;
            }
        }
        self.turns.push(record);
        self.facts.extend(turn.facts);
        assert!(!turn.next.is_zero(), "a turn that is due at once would never end");
        self.turn_due = self.now.after(turn.next);
    }

    /// A stream does as its order says.
    fn depart(&mut self, stream: &Arc<Stream>) {
        let Some(order) = stream.order(&self.registry) else { return };
        let is_final = stream.is_withdrawn() || matches!(order.cause, Cause::Withdrawn | Cause::Shutdown);
        let target = match (stream.drain.take_target(), self.heirs) {
            (Some(target), _) => Some(target),
            (None, Some(heir)) if !is_final => self.snapshot().get(&id(heir)).cloned(),
            (None, _) => None,
        };
        match target.filter(|endpoint| endpoint.id != stream.endpoint().id) {
            _ if stream.departure == Departure::Goodbye && order.cause != Cause::Rebalance => {
                self.close(stream, EndKind::Graceful);
            }
            _ if stream.mobility == Mobility::CutAtDeadline => self.close(stream, EndKind::Forced),
            Some(endpoint) => self.move_to(stream, endpoint),
            None if order.cause == Cause::Rebalance => self.registry.stayed(stream),
            None => self.close(stream, EndKind::Graceful),
        }
    }

    /// Reports of all drains that are finished.
    pub(crate) fn reports(&self) -> Vec<(String, DrainReport)> {
        let finished = |fact: &Fact| match fact {
            Fact::Finished { subject, report, .. } => Some((subject.name().to_owned(), (**report).clone())),
            _ => None,
        };
        self.facts.iter().filter_map(finished).collect()
    }
}

/// When a stream has to leave, as its task sees it.
pub(crate) fn moment(stream: &Stream) -> Option<Millis> {
    stream.drain.poll(&Context::from_waker(Waker::noop()))
}

/// No stream leaves before its moment was decided, nor after the deadline while turns are taken.
fn check_order(order: &LeaveOrder, now: Millis) {
    assert!(order.at >= now, "{order:?} at {now:?}");
    assert!(order.by >= order.at && order.deadline >= order.at, "{order:?}");
    assert!(
        order.at <= now.after(std::time::Duration::from_millis(50)).max(order.deadline),
        "{order:?} at {now:?}"
    );
}
