//! State that all workers share: the configuration in force, telemetry, open streams, the phase of the process.
//!
//! Every part is read without waiting. A part that is enough is passed alone, so that it can be built in a unit test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, Guard};
use podpin_affinity::Keyring;

use crate::lifecycle::Lifecycle;
use crate::limits::connections::ConnectionLimits;
use crate::limits::requests::RequestLimits;
use crate::routing::snapshot::ConfigSnapshot;
use crate::stream_registry::StreamRegistry;
use crate::telemetry::access_log::Record;
use crate::telemetry::metrics::Metrics;

/// State of the proxy that outlives a configuration, and the configuration in force.
pub struct Shared {
    snapshot: ArcSwap<ConfigSnapshot>,
    /// Metrics of the process.
    pub metrics: Metrics,
    /// Open streams, and the times of their shutdown.
    pub streams: Arc<StreamRegistry>,
    /// Client connections that are open, and the limits on them.
    pub connections: Arc<ConnectionLimits>,
    /// Requests in flight, and the limit on them.
    pub requests: Arc<RequestLimits>,
    /// Phase of the process.
    pub lifecycle: Lifecycle,
    /// Whether a service that a reload removed had a list of endpoints.
    has_listed: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    /// Builds the state of a process that begins with `snapshot`; `streams` is the registry that its services report to.
    #[must_use]
    pub fn new(snapshot: ConfigSnapshot, metrics: Metrics, streams: Arc<StreamRegistry>) -> Shared {
        Shared {
            snapshot: ArcSwap::from_pointee(snapshot),
            metrics,
            streams,
            connections: Arc::default(),
            requests: Arc::default(),
            lifecycle: Lifecycle::default(),
            has_listed: AtomicBool::new(false),
        }
    }

    /// Returns the configuration in force. A request calls this once: a reload may come between two calls.
    #[must_use]
    pub fn snapshot(&self) -> Arc<ConfigSnapshot> {
        self.snapshot.load_full()
    }

    /// Returns the configuration in force for a single look at it.
    #[must_use]
    pub fn current(&self) -> Guard<Arc<ConfigSnapshot>> {
        self.snapshot.load()
    }

    /// Puts another snapshot in force: one store. Streams of routes that `next` does not have leave, and services that it
    /// does not have end with their last stream.
    pub fn replace(&self, next: Arc<ConfigSnapshot>) {
        let before = self.snapshot.swap(Arc::clone(&next));
        if before.services.iter().any(|service| service.view().snapshot.first_list_seen()) {
            self.has_listed.store(true, Ordering::Relaxed);
        }
        before.withdraw_routes_missing_in(&next);
        for gone in before.services_missing_in(&next) {
            gone.queue.close();
            self.metrics.forget_service(&gone.name);
        }
        self.streams.wake().notify();
    }

    /// Returns whether a service that a reload removed had a list of endpoints.
    #[must_use]
    pub fn has_listed(&self) -> bool {
        self.has_listed.load(Ordering::Relaxed)
    }

    /// Puts new keys in force; tokens of streams that are open are not touched.
    pub fn set_keyring(&self, keyring: Keyring) {
        let next = self.current().with_keyring(keyring);
        self.snapshot.store(Arc::new(next));
    }

    /// Returns whether there is an access log; without one its lines need not be made.
    #[must_use]
    pub fn is_logging(&self) -> bool {
        self.current().access_log.is_some()
    }

    /// Queues a line for the access log, or drops and counts it if the queue is full.
    pub fn log(&self, record: &Record) {
        if let Some(sink) = &self.current().access_log
            && sink.write(record).is_err()
        {
            self.metrics.process.access_log_dropped.inc();
        }
    }

    /// Turns readiness off, for good.
    pub fn begin_draining(&self) {
        self.lifecycle.begin_draining();
        self.metrics.process.shutdown_in_progress.set(1);
    }

    /// Closes listeners, idle connections and the wait queues.
    pub fn close_listeners(&self) {
        self.lifecycle.close();
        self.current().services.iter().for_each(|service| service.queue.close());
    }

    /// Returns whether neither a stream nor an ordinary request is open.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.streams.count() == 0 && self.lifecycle.requests() == 0
    }

    /// Counts a request as in flight until the guard is dropped.
    pub fn in_flight(self: &Arc<Self>) -> InFlight {
        self.lifecycle.begin_request();
        InFlight(Arc::clone(self))
    }
}

/// Request in flight, which a shutdown waits for.
pub struct InFlight(Arc<Shared>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lifecycle.end_request();
    }
}
