//! The counters of event streams, for those over HTTP/1.1 and over HTTP/2 alike.

use std::cell::{Cell, RefCell};

use tokio::sync::{Notify, Semaphore};

use super::request::Accept;
use super::stamps::Stamps;
use super::target::Target;
use crate::clock::now_ns;
use crate::protocol::STREAMS_ON_A_CONNECTION;

/// Streams being opened at the same time: keeps every proxy busy and every backlog short.
pub(super) const OPENING_AT_ONCE: usize = 64;
pub(super) const READ_BYTES: usize = 64 * 1024;

/// The streams to open.
pub(crate) struct Wanted {
    pub(crate) target: Target,
    pub(crate) count: u32,
    /// Events a second on each stream; 0 for the first event and then silence.
    pub(crate) rate: u32,
    /// Streams that share a connection, over HTTP/2.
    pub(crate) on_a_connection: u32,
    pub(crate) accept: Accept,
}

impl Wanted {
    /// Announced streams; over HTTP/2 a hundred share a connection.
    pub(crate) fn new(target: Target, count: u32, rate: u32) -> Self {
        let on_a_connection = STREAMS_ON_A_CONNECTION;
        Self { target, count, rate, on_a_connection, accept: Accept::EventStream }
    }
}

/// Counters that all streams share.
#[derive(Debug)]
pub(super) struct Tally {
    /// Streams whose first event came.
    pub(super) opened: Cell<u32>,
    /// Streams that ended by themselves.
    pub(super) ended: Cell<u32>,
    pub(super) why: RefCell<Option<String>>,
    pub(super) changed: Notify,
    pub(super) events: Cell<u64>,
    /// Nanoseconds from the pod's write to our read, while they are wanted.
    pub(super) latencies: RefCell<Option<Vec<u64>>>,
    pub(super) scratch: RefCell<Vec<u8>>,
    pub(super) opening: Semaphore,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            opened: Cell::new(0),
            ended: Cell::new(0),
            why: RefCell::new(None),
            changed: Notify::new(),
            events: Cell::new(0),
            latencies: RefCell::new(None),
            scratch: RefCell::new(vec![0; READ_BYTES]),
            opening: Semaphore::new(OPENING_AT_ONCE),
        }
    }

    pub(super) fn count_opened(&self) {
        self.opened.set(self.opened.get() + 1);
        self.changed.notify_one();
    }

    pub(super) fn count_end(&self, why: &anyhow::Error) {
        self.ended.set(self.ended.get() + 1);
        self.why.borrow_mut().get_or_insert_with(|| format!("{why:#}"));
        self.changed.notify_one();
    }

    /// Counts the events in `bytes`; true when there was one.
    pub(super) fn count_events(&self, stamps: &mut Stamps, bytes: &[u8]) -> bool {
        let now = now_ns();
        let before = self.events.get();
        stamps.feed(bytes, |sent| {
            self.events.set(self.events.get() + 1);
            if let Some(latencies) = self.latencies.borrow_mut().as_mut() {
                latencies.push(now.saturating_sub(sent));
            }
        });
        self.events.get() > before
    }
}
