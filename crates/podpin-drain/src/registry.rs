//! All open streams of the process, and the four things that happen to one: it opens, moves, stays, closes.
//!
//! Each is one call that changes the registry, the stream's state, the accounts and the inbox in the order in which no
//! stream is missed. A drain publishes its endpoint's new phase, then scans the registry; a stream is registered, then
//! looks at the phase of its endpoint. So a stream that begins while its endpoint begins to drain is found by one of the
//! two, or by both, and the second finds it [`Queued`](crate::DrainState::Queued).
//!
//! Streams are sharded, so that a worker which opens one does not wait for another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use podpin_endpoints::{EndpointId, Phase};
use podpin_time::Millis;

use crate::handle::Ending;
use crate::inbox::DrainInbox;
use crate::member::DrainMember;
use crate::moved_pins::StreamMove;
use crate::report::{Cause, StreamEnd};
use crate::wake::DrainWake;

/// Number of shards, a power of two; streams open and close far more rarely than events flow.
const SHARDS: usize = 16;

/// Times of the proxy's own shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownTimes {
    /// Moment from which streams leave.
    pub begins: Millis,
    /// Duration over which they leave evenly (`shutdown.spread`).
    pub spread: Duration,
    /// Moment by which all have left.
    pub deadline: Millis,
}

/// Open streams of the process, of all services. `M` represents a stream.
#[derive(Debug)]
pub struct DrainRegistry<M> {
    next: AtomicU64,
    shards: [Mutex<HashMap<u64, Arc<M>>>; SHARDS],
    shutdown: OnceLock<ShutdownTimes>,
    wake: Arc<DrainWake>,
}

impl<M> Default for DrainRegistry<M> {
    fn default() -> DrainRegistry<M> {
        let shards = std::array::from_fn(|_| Mutex::default());
        DrainRegistry { next: AtomicU64::new(0), shards, shutdown: OnceLock::new(), wake: Arc::default() }
    }
}

impl<M: DrainMember> DrainRegistry<M> {
    /// Creates a registry without streams.
    #[must_use]
    pub fn new() -> DrainRegistry<M> {
        DrainRegistry::default()
    }

    /// Returns the wake-up call of the task that turns all controllers.
    #[must_use]
    pub fn wake(&self) -> &Arc<DrainWake> {
        &self.wake
    }

    /// Creates the inbox of a service.
    #[must_use]
    pub fn inbox(&self) -> DrainInbox {
        DrainInbox::new(Arc::clone(&self.wake))
    }

    /// Registers a stream that begins, under a number of its own. The stream leaves with the others where its endpoint
    /// drains, its route was withdrawn or the proxy shuts down. To be closed with [`DrainRegistry::close`].
    pub fn open(&self, build: impl FnOnce(u64) -> M) -> Arc<M> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let member = Arc::new(build(id));
        member.inbox().opened();
        if let Some(shard) = self.shard(id) {
            shard.lock().insert(id, Arc::clone(&member));
        }
        self.report_if_endpoint_leaving(&member);
        member
    }

    /// Notes that a stream goes on at another endpoint than `from`, which [`DrainMember::endpoint`] returns from now on.
    /// Returns the cause of the group that it left; `None` if it belonged to none.
    pub fn moved(&self, member: &M, from: EndpointId, now: Millis) -> Option<Cause> {
        let cause = member.drain().moved(now);
        if let Some(session) = member.session() {
            let step = StreamMove { stream: member.id(), from, to: member.endpoint().id };
            member.inbox().moved_pins().remember(session, step);
        }
        self.report_if_endpoint_leaving(member);
        cause
    }

    /// Notes that a stream goes on where it is although it had a moment to leave. Its endpoint, or the proxy, may have
    /// begun to leave meanwhile: the controller looks again.
    pub fn stayed(&self, member: &M) {
        member.drain().stay();
        member.inbox().report_late(member.id());
    }

    /// Removes a stream that ended, and accounts for it; a second call does nothing. Returns how many clients were given up
    /// because too many are awaited.
    pub fn close(&self, member: &M, end: StreamEnd, now: Millis) -> u32 {
        // Of a route that is gone no client comes back to this service.
        let awaited = member.session().filter(|_| end.is_awaited && !member.is_withdrawn());
        let end = StreamEnd { is_awaited: awaited.is_some(), ..end };
        let Ending::First { group } = member.drain().end(end, now) else { return 0 };
        let inbox = member.inbox();
        if let Some(session) = member.session() {
            inbox.moved_pins().closed(session, member.id());
        }
        let is_last = group.as_ref().is_some_and(|group| group.has_ended());
        let lost = awaited.map_or(0, |session| inbox.reconnects().expect(session, group, now));
        inbox.closed();
        self.remove(member.id());
        if is_last || awaited.is_some() {
            inbox.notify();
        }
        lost
    }

    /// Makes all streams leave, for good. The first call counts.
    pub fn begin_shutdown(&self, times: ShutdownTimes) {
        // The first times are in force already.
        let _ = self.shutdown.set(times);
        self.wake.notify();
    }

    /// Returns the times of the shutdown; `None` if it has not begun.
    #[must_use]
    pub fn shutdown_times(&self) -> Option<ShutdownTimes> {
        self.shutdown.get().copied()
    }

    /// Calls `visit` for each open stream. One shard at a time is locked, and not during a call.
    pub fn for_each(&self, mut visit: impl FnMut(&Arc<M>)) {
        for shard in &self.shards {
            let members: Vec<_> = shard.lock().values().cloned().collect();
            members.iter().for_each(&mut visit);
        }
    }

    /// Returns the open streams that `wanted` accepts.
    pub fn select(&self, wanted: impl Fn(&M) -> bool) -> Vec<Arc<M>> {
        let mut selected = Vec::new();
        for shard in &self.shards {
            selected.extend(shard.lock().values().filter(|member| wanted(member)).cloned());
        }
        selected
    }

    /// Returns how many streams are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Returns the open stream with this number; `None` if it has ended.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Arc<M>> {
        self.shard(id).and_then(|shard| shard.lock().get(&id).cloned())
    }

    /// Returns the open streams of a service that `wanted` accepts.
    pub(crate) fn streams_of(&self, inbox: &DrainInbox, wanted: impl Fn(&M) -> bool) -> Vec<Arc<M>> {
        self.select(|member| std::ptr::eq(member.inbox(), inbox) && wanted(member))
    }

    /// Reports a stream that a group may have missed. The order matters: the stream is registered, or has moved, before
    /// the phase of its endpoint is looked at.
    fn report_if_endpoint_leaving(&self, member: &M) {
        if self.shutdown.get().is_some()
            || member.is_withdrawn()
            || member.endpoint_phase() >= Phase::Draining
        {
            member.inbox().report_late(member.id());
        }
    }

    /// Forgets a stream, and gives memory back when many are gone.
    fn remove(&self, id: u64) {
        let Some(shard) = self.shard(id) else { return };
        let mut members = shard.lock();
        members.remove(&id);
        if members.len() < members.capacity() / 4 {
            members.shrink_to_fit();
        }
    }

    /// Returns the shard of a stream.
    fn shard(&self, id: u64) -> Option<&Mutex<HashMap<u64, Arc<M>>>> {
        self.shards.get(usize::try_from(id).unwrap_or(0) % SHARDS)
    }
}
