//! Phase of the process: running, draining or closing, with counts of what a shutdown waits for.
//!
//! ```text
//! running ── SIGTERM ──▶ draining (readiness off, still accepting) ── announce ──▶ closing (no listeners) ──▶ ended
//! ```

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};

use crate::clock::Still;

/// Phase of the process, with counts of what is under way.
#[derive(Debug)]
pub struct Lifecycle {
    draining: AtomicBool,
    closing: watch::Sender<bool>,
    requests: AtomicUsize,
    /// Owner of every connection and stream of the workers.
    pub tasks: TaskTracker,
}

impl Default for Lifecycle {
    fn default() -> Lifecycle {
        Lifecycle {
            draining: AtomicBool::new(false),
            closing: watch::Sender::new(false),
            requests: AtomicUsize::new(0),
            tasks: TaskTracker::new(),
        }
    }
}

impl Lifecycle {
    /// Returns whether SIGTERM has come.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Turns readiness off, for good.
    pub fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Closes listeners and idle connections.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Returns whether listeners are closed.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Returns a watch that turns true when listeners close.
    #[must_use]
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Returns how many ordinary requests are in flight.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Spawns a task of a connection, which is awaited before the process ends. A span that is not recorded costs the task
    /// no memory.
    pub(crate) fn spawn_in(&self, span: Span, task: impl Future<Output = ()> + Send + 'static) {
        if span.is_disabled() {
            self.spawn(task);
        } else {
            self.spawn(task.instrument(span));
        }
    }

    /// Spawns a task of a connection, a request or a stream, which is awaited before the process ends.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.tasks.spawn(Still::new(task)));
    }

    /// Counts an ordinary request that begins.
    pub fn begin_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an ordinary request that has ended.
    pub fn end_request(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_goes_before_the_listeners_do() {
        let lifecycle = Lifecycle::default();
        let closing = lifecycle.closing();
        assert!(!lifecycle.is_draining() && !lifecycle.is_closing());
        lifecycle.begin_draining();
        assert!(lifecycle.is_draining() && !lifecycle.is_closing() && !*closing.borrow());
        lifecycle.close();
        assert!(lifecycle.is_closing() && *closing.borrow());
    }

    #[test]
    fn requests_are_counted_while_they_are_in_flight() {
        let lifecycle = Lifecycle::default();
        lifecycle.begin_request();
        lifecycle.begin_request();
        lifecycle.end_request();
        assert_eq!(lifecycle.requests(), 1);
    }
}
