//! The event streams that are open now: for the admin API, for the drain, for the proxy's own shutdown.
//!
//! A record is written by the stream's task alone and read by anyone; to make a stream leave, its record is told when
//! and its task is woken. Sharded, so that opening a stream on one worker does not wait for another.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use podpin_endpoints::{Endpoint, EndpointId};
use podpin_time::Millis;

use crate::balance::service::Kind;
use crate::balance::service::ServiceState;
use crate::drain::tally::Tally;
use crate::routing::route::Route;

/// Power of two; streams open and close far more rarely than events flow.
const SHARDS: usize = 16;
/// Names kept of the endpoints that a stream went through, for the access log; a limit of handovers bounds them, too.
const ENDPOINTS_REMEMBERED: usize = 64;
const NEVER: u64 = u64::MAX;

/// One open stream, as others see it.
#[derive(Debug)]
pub struct StreamRecord {
    pub id: u64,
    /// An event stream, or another answer on its way to a client that asked for one.
    pub kind: Kind,
    pub route: Arc<Route>,
    place: Mutex<Place>,
    pub client: IpAddr,
    /// The session that its client will be recognised by; `None` where there is no cookie.
    pub session: Option<[u8; 16]>,
    pub since: Millis,
    pub events: AtomicU64,
    pub bytes: AtomicU64,
    /// When its last event went to the client; its beginning before the first.
    last_event: AtomicU64,
    last_event_id: Mutex<Vec<u8>>,
    leave_at: AtomicU64,
    /// What the drain that it belongs to wants of it.
    order: Mutex<Option<Box<Order>>>,
    is_queued: AtomicBool,
    is_closed: AtomicBool,
    /// It was told to leave, and `Returns` counts it as such.
    is_counted: AtomicBool,
    may_be_rebalanced: AtomicBool,
    /// It cannot be asked for again: it leaves when it has finished, and is cut at the end.
    pub finishes: bool,
    waker: AtomicWaker,
}

/// Where a stream is, and where it was before.
#[derive(Debug)]
struct Place {
    endpoint: Arc<Endpoint>,
    before: Vec<Arc<str>>,
}

/// Who makes a stream leave, and how.
#[derive(Clone, Debug)]
pub struct Order {
    pub cause: Cause,
    /// When it has to be gone at the latest, whatever it is in the middle of.
    pub by: Millis,
    /// When all of its drain are to be gone.
    pub deadline: Millis,
    pub tally: Arc<Tally>,
    /// No budget is asked for it.
    pub is_free: bool,
}

/// Why streams leave.
#[derive(Clone, Debug)]
pub enum Cause {
    /// Their endpoint goes away.
    Drain,
    /// A reload took their route away, or their service.
    Withdrawn,
    /// The proxy itself does.
    Shutdown,
    /// This endpoint has fewer; it goes there or stays.
    Rebalance(Arc<Endpoint>),
}

/// What is known of a stream when it begins.
pub struct Opening {
    pub kind: Kind,
    pub route: Arc<Route>,
    pub endpoint: Arc<Endpoint>,
    pub client: IpAddr,
    pub session: Option<[u8; 16]>,
    pub since: Millis,
    /// It may go on at another pod.
    pub may_be_rebalanced: bool,
    /// It is not asked to leave before the last moment.
    pub finishes: bool,
}

impl StreamRecord {
    /// The id of the last event that went to the client; empty when there was none.
    pub fn last_event_id(&self) -> Vec<u8> {
        self.last_event_id.lock().clone()
    }

    /// Remembers an id, in the buffer of the one before.
    pub fn set_last_event_id(&self, id: &[u8]) {
        let mut held = self.last_event_id.lock();
        if *held != id {
            held.clear();
            held.extend_from_slice(id);
        }
    }

    /// Whether it is a stream of this service.
    pub fn belongs_to(&self, service: &ServiceState) -> bool {
        self.route.service.is_same(service)
    }

    /// Whether it runs on this endpoint of this service.
    pub fn is_of(&self, service: &ServiceState, id: &EndpointId) -> bool {
        self.place.lock().endpoint.id == *id && self.belongs_to(service)
    }

    /// The endpoint that it runs on.
    pub fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.place.lock().endpoint)
    }

    /// The names of the endpoints that it ran on before, in their order.
    pub fn endpoints_before(&self) -> Vec<Arc<str>> {
        self.place.lock().before.clone()
    }

    /// How often it changed its endpoint.
    pub fn handovers(&self) -> usize {
        self.place.lock().before.len()
    }

    /// It goes on at `endpoint`, and has nothing more to do with what its old one was about. Gives what was wanted of it
    /// there.
    pub fn move_to(&self, endpoint: Arc<Endpoint>) -> Option<Order> {
        let mut place = self.place.lock();
        let old = std::mem::replace(&mut place.endpoint, endpoint);
        if place.before.len() < ENDPOINTS_REMEMBERED {
            place.before.push(Arc::clone(&old.name));
        }
        drop(place);
        let mut held = self.order.lock();
        let order = held.take();
        self.leave_at.store(NEVER, Ordering::Release);
        self.is_queued.store(false, Ordering::Release);
        drop(held);
        self.uncount();
        order.map(|order| *order)
    }

    /// Notes that an event went to the client at this moment.
    pub fn set_last_event(&self, at: Millis) {
        self.last_event.store(at.0, Ordering::Relaxed);
    }

    /// When the last event went to the client.
    pub fn last_event(&self) -> Millis {
        Millis(self.last_event.load(Ordering::Relaxed))
    }

    /// Puts it among those that will leave; false when it is there already.
    pub fn queue(&self, order: Order) -> bool {
        let mut held = self.order.lock();
        if self.is_queued.swap(true, Ordering::AcqRel) {
            return false;
        }
        order.tally.joined();
        *held = Some(Box::new(order));
        true
    }

    /// Takes it out again, unless it was told to leave: its endpoint stays after all.
    pub fn unqueue(&self) {
        let mut held = self.order.lock();
        if !self.is_told()
            && let Some(order) = held.take()
        {
            order.tally.stays();
            self.is_queued.store(false, Ordering::Release);
        }
    }

    /// Asks the stream to say goodbye at this moment, at its next event boundary, but no later than `by`.
    ///
    /// Nothing happens when it does not belong to this drain any more.
    pub fn leave(&self, tally: &Arc<Tally>, at: Millis, (by, deadline): (Millis, Millis)) {
        let mut held = self.order.lock();
        let Some(order) = held.as_mut().filter(|order| Arc::ptr_eq(&order.tally, tally)) else { return };
        (order.by, order.deadline) = (by, deadline);
        self.leave_at.store(at.0, Ordering::Release);
        if !self.is_counted.swap(true, Ordering::SeqCst) {
            self.route.service.returns.tell();
        }
        drop(held);
        if self.is_closed() {
            // It ended meanwhile, and whoever closed it may not have seen that it was told.
            self.uncount();
        }
        self.waker.wake();
    }

    /// It is not on its way any more: it ended, moved, or stays.
    pub fn uncount(&self) {
        if self.is_counted.swap(false, Ordering::SeqCst) {
            self.route.service.returns.told_one_ended();
        }
    }

    /// It stays after all, and is not asked again.
    pub fn stay(&self) {
        self.may_be_rebalanced.store(false, Ordering::Relaxed);
        let mut held = self.order.lock();
        if let Some(order) = held.take() {
            order.tally.stays();
        }
        self.is_queued.store(false, Ordering::Release);
        self.leave_at.store(NEVER, Ordering::Release);
        drop(held);
        self.uncount();
    }

    /// It belongs to a drain.
    pub fn is_queued(&self) -> bool {
        self.is_queued.load(Ordering::Acquire)
    }

    /// Lets its task look at what has changed for it.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// It belongs to the drain with this account.
    pub fn is_queued_by(&self, tally: &Arc<Tally>) -> bool {
        self.order.lock().as_ref().is_some_and(|order| Arc::ptr_eq(&order.tally, tally))
    }

    /// It was asked to leave.
    pub fn is_told(&self) -> bool {
        self.leave_at.load(Ordering::Acquire) != NEVER
    }

    /// What is wanted of it, if it is to leave.
    pub fn order(&self) -> Option<Order> {
        self.order.lock().as_deref().cloned()
    }

    /// As [`StreamRecord::order`], which is settled thereby: nobody else accounts for it.
    pub fn take_order(&self) -> Option<Order> {
        self.order.lock().take().map(|order| *order)
    }

    /// It can be moved for balance's sake, as far as is known.
    pub fn may_be_rebalanced(&self) -> bool {
        self.may_be_rebalanced.load(Ordering::Relaxed)
    }

    /// It has ended.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// When the stream was asked to leave; registers the task to be woken by a later [`StreamRecord::leave`].
    pub fn poll_leave(&self, context: &Context<'_>) -> Option<Millis> {
        self.waker.register(context.waker());
        let at = self.leave_at.load(Ordering::Acquire);
        (at != NEVER).then_some(Millis(at))
    }
}

/// All open streams of the process.
#[derive(Debug, Default)]
pub struct Streams {
    next: AtomicU64,
    shards: [Mutex<HashMap<u64, Arc<StreamRecord>>>; SHARDS],
}

impl Streams {
    /// Adds a stream that just began; whoever opens it must [`Streams::close`] it.
    pub fn open(&self, opening: Opening) -> Arc<StreamRecord> {
        let Opening { kind, route, endpoint, client, session, since, may_be_rebalanced, finishes } = opening;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let record = Arc::new(StreamRecord {
            id,
            kind,
            route,
            place: Mutex::new(Place { endpoint, before: Vec::new() }),
            client,
            session,
            since,
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            last_event: AtomicU64::new(since.0),
            last_event_id: Mutex::default(),
            leave_at: AtomicU64::new(NEVER),
            order: Mutex::default(),
            is_queued: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            is_counted: AtomicBool::new(false),
            may_be_rebalanced: AtomicBool::new(may_be_rebalanced),
            finishes,
            waker: AtomicWaker::new(),
        });
        if kind == Kind::Stream {
            record.route.service.desk.opened();
        }
        if let Some(shard) = self.shard(id) {
            shard.lock().insert(id, Arc::clone(&record));
        }
        record
    }

    /// Removes a stream that ended.
    pub fn close(&self, record: &StreamRecord) {
        record.is_closed.store(true, Ordering::SeqCst);
        record.uncount();
        if record.kind == Kind::Stream {
            record.route.service.desk.closed();
        }
        if let Some(shard) = self.shard(record.id) {
            let mut streams = shard.lock();
            streams.remove(&record.id);
            if streams.len() < streams.capacity() / 4 {
                streams.shrink_to_fit();
            }
        }
    }

    /// Calls for every open stream; a shard at a time is locked, so this is for the admin port and the drain.
    pub fn for_each(&self, mut visit: impl FnMut(&Arc<StreamRecord>)) {
        for shard in &self.shards {
            let records: Vec<_> = shard.lock().values().cloned().collect();
            records.iter().for_each(&mut visit);
        }
    }

    /// The open streams that `wanted` accepts.
    pub fn select(&self, wanted: impl Fn(&StreamRecord) -> bool) -> Vec<Arc<StreamRecord>> {
        let mut selected = Vec::new();
        for shard in &self.shards {
            selected.extend(shard.lock().values().filter(|record| wanted(record)).cloned());
        }
        selected
    }

    /// How many streams are open.
    pub fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn shard(&self, id: u64) -> Option<&Mutex<HashMap<u64, Arc<StreamRecord>>>> {
        self.shards.get(usize::try_from(id).unwrap_or(0) % SHARDS)
    }
}
