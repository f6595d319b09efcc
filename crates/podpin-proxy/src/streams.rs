//! The event streams that are open now: for the admin API, for the drain, for the proxy's own shutdown.
//!
//! A record is written by the stream's task alone and read by anyone; to make a stream leave, its record is told when
//! and its task is woken. Sharded, so that opening a stream on one worker does not wait for another.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use podpin_endpoints::{Endpoint, Millis};

use crate::admission::Kind;
use crate::route::Route;

/// Power of two; streams open and close far more rarely than events flow.
const SHARDS: usize = 16;
const NEVER: u64 = u64::MAX;

/// One open stream, as others see it.
#[derive(Debug)]
pub(crate) struct StreamRecord {
    pub(crate) id: u64,
    /// An event stream, or another answer on its way to a client that asked for one.
    pub(crate) kind: Kind,
    pub(crate) route: Arc<Route>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) client: IpAddr,
    pub(crate) since: Millis,
    pub(crate) events: AtomicU64,
    pub(crate) bytes: AtomicU64,
    last_event_id: Mutex<Vec<u8>>,
    leave_at: AtomicU64,
    waker: AtomicWaker,
}

impl StreamRecord {
    /// The id of the last event that went to the client; empty when there was none.
    pub(crate) fn last_event_id(&self) -> Vec<u8> {
        self.last_event_id.lock().clone()
    }

    /// Remembers an id, in the buffer of the one before.
    pub(crate) fn set_last_event_id(&self, id: &[u8]) {
        let mut held = self.last_event_id.lock();
        if *held != id {
            held.clear();
            held.extend_from_slice(id);
        }
    }

    /// Asks the stream to say goodbye at this moment, at its next event boundary.
    pub(crate) fn leave(&self, at: Millis) {
        self.leave_at.store(at.0, Ordering::Release);
        self.waker.wake();
    }

    /// When the stream was asked to leave; registers the task to be woken by a later [`StreamRecord::leave`].
    pub(crate) fn poll_leave(&self, context: &Context<'_>) -> Option<Millis> {
        self.waker.register(context.waker());
        let at = self.leave_at.load(Ordering::Acquire);
        (at != NEVER).then_some(Millis(at))
    }
}

/// All open streams of the process.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    next: AtomicU64,
    shards: [Mutex<HashMap<u64, Arc<StreamRecord>>>; SHARDS],
}

impl Streams {
    /// Adds a stream that just began; whoever opens it must [`Streams::close`] it.
    pub(crate) fn open(
        &self,
        (route, endpoint): (Arc<Route>, Arc<Endpoint>),
        kind: Kind,
        client: IpAddr,
        since: Millis,
    ) -> Arc<StreamRecord> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let record = Arc::new(StreamRecord {
            id,
            kind,
            route,
            endpoint,
            client,
            since,
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            last_event_id: Mutex::default(),
            leave_at: AtomicU64::new(NEVER),
            waker: AtomicWaker::new(),
        });
        if let Some(shard) = self.shard(id) {
            shard.lock().insert(id, Arc::clone(&record));
        }
        record
    }

    /// Removes a stream that ended.
    pub(crate) fn close(&self, record: &StreamRecord) {
        if let Some(shard) = self.shard(record.id) {
            let mut streams = shard.lock();
            streams.remove(&record.id);
            if streams.len() < streams.capacity() / 4 {
                streams.shrink_to_fit();
            }
        }
    }

    /// Calls for every open stream; a shard at a time is locked, so this is for the admin port and the drain.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&Arc<StreamRecord>)) {
        for shard in &self.shards {
            let records: Vec<_> = shard.lock().values().cloned().collect();
            records.iter().for_each(&mut visit);
        }
    }

    /// How many streams are open.
    pub(crate) fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn shard(&self, id: u64) -> Option<&Mutex<HashMap<u64, Arc<StreamRecord>>>> {
        self.shards.get(usize::try_from(id).unwrap_or(0) % SHARDS)
    }
}
