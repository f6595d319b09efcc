//! The load of an endpoint: open streams, counted exactly, and the failures that may eject it for a while.
//!
//! Everything is an atomic, so the request path takes no lock. A [`Permit`] is the count: it is taken when a stream
//! starts and falls with the stream, whatever ends it. Whether an ejection is honoured (never for more than half of
//! a service) is decided in `pick.rs`, which sees the others too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use podpin_time::Millis;

/// How many times the configured ejection time an endpoint may grow to. Ten times the default of 15 s is 2.5 min:
/// long enough to spare clients of a pod that is broken for good, short enough that a repaired one is not forgotten.
const EJECTION_GROWTH_MAX: u32 = 10;

/// Clients of a row of failures that are remembered. More than `failures` by default, so that no client counts twice; too few
/// shows as ejections that a handful of clients cause.
const CLIENTS_MAX: usize = 8;

/// A pod that cannot be reached fails with every request. A minute keeps the log readable, and shows that it still fails.
const REPORT_AGAIN: Duration = Duration::from_secs(60);

/// Open streams and recent failures of one endpoint identity.
#[derive(Debug, Default)]
pub struct Load {
    /// Milliseconds of [`Millis`]; 0 = never ejected.
    ejected_until: AtomicU64,
    streams: AtomicU32,
    consecutive_failures: AtomicU32,
    /// The last clients that count in the row of failures; 0 = none.
    failed_clients: [AtomicU64; CLIENTS_MAX],
    ejections: AtomicU32,
    /// Checks say that it cannot serve.
    is_unhealthy: AtomicBool,
    /// When a failure of the endpoint is reported again, in milliseconds of [`Millis`]; 0 = at once.
    report_again: AtomicU64,
}

/// When failures put an endpoint aside (`health.passive`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectionPolicy {
    /// Consecutive failures that eject; 0 is taken as 1.
    pub failures: u32,
    /// How long the first ejection lasts; the n-th in a row lasts n times as long, ten times at most.
    pub ejection: Duration,
}

/// The cause of a failure, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureSource {
    /// The endpoint: no request has reached it.
    Endpoint,
    /// A client, by a number of its own: its request may have caused the failure, and would at any endpoint.
    Client(u64),
}

impl Load {
    /// A load without streams and failures.
    #[must_use]
    pub fn new() -> Load {
        Load::default()
    }

    /// Streams open now.
    #[must_use]
    pub fn open_streams(&self) -> u32 {
        self.streams.load(Ordering::Relaxed)
    }

    /// Takes a place for one stream; `None` if `limit` streams are open already. `limit` is `None` if there is no limit.
    ///
    /// Exact under concurrency: never more than `limit` permits taken with that limit are alive at a time.
    #[must_use]
    pub fn try_open(self: &Arc<Self>, limit: Option<u32>) -> Option<Permit> {
        let limit = limit.unwrap_or(u32::MAX);
        // Relaxed is enough: the count guards no other memory.
        self.streams
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
                (open < limit).then(|| open.saturating_add(1))
            })
            .ok()
            .map(|_| Permit(Arc::clone(self)))
    }

    /// Whether a stream more would pass `limit`.
    pub(crate) fn is_full(&self, limit: Option<u32>) -> bool {
        limit.is_some_and(|limit| self.open_streams() >= limit)
    }

    /// Notes a failure before the answer; true when it ejected the endpoint just now. Each client counts once in a row of
    /// failures, as far as the last eight go.
    pub fn failed(&self, policy: &EjectionPolicy, source: FailureSource, now: Millis) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        // Failures that arrive while it is aside are echoes of requests that were already on their way.
        if now.0 < until {
            return false;
        }
        if let FailureSource::Client(client) = source
            && !self.counts(client)
        {
            return false;
        }
        let failures = self.consecutive_failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        failures >= policy.failures && self.eject(policy, until, now)
    }

    /// Returns whether a failure is to be reported now; if not, another was a moment ago.
    pub fn reports_failure(&self, now: Millis) -> bool {
        let again = self.report_again.load(Ordering::Relaxed);
        let next = now.after(REPORT_AGAIN).0.max(1);
        // Of several concurrent failures a single one wins the exchange.
        now.0 >= again
            && self.report_again.compare_exchange(again, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Returns whether a client is new in the row of failures, and remembers it.
    fn counts(&self, client: u64) -> bool {
        // 0 is an empty slot.
        let client = client.max(1);
        if self.failed_clients.iter().any(|slot| slot.load(Ordering::Relaxed) == client) {
            return false;
        }
        let at =
            usize::try_from(self.consecutive_failures.load(Ordering::Relaxed)).unwrap_or(0) % CLIENTS_MAX;
        if let Some(slot) = self.failed_clients.get(at) {
            slot.store(client, Ordering::Relaxed);
        }
        true
    }

    fn end_row(&self) {
        self.consecutive_failures.store(0, Ordering::Relaxed);
        self.failed_clients.iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
    }

    /// Ejects the endpoint. Of several concurrent failures a single one wins the exchange; the others see its result.
    fn eject(&self, policy: &EjectionPolicy, seen: u64, now: Millis) -> bool {
        let growth = self.ejections.load(Ordering::Relaxed).saturating_add(1).min(EJECTION_GROWTH_MAX);
        let until = now.after(policy.ejection.saturating_mul(growth)).0.max(1);
        let won =
            self.ejected_until.compare_exchange(seen, until, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if won {
            self.ejections.store(growth, Ordering::Relaxed);
            self.end_row();
        }
        won
    }

    /// Notes a success: failures are no longer consecutive, and the next ejection is a step shorter again.
    pub fn succeeded(&self) {
        // Reads first: in good times no request writes to this cache line.
        if self.consecutive_failures.load(Ordering::Relaxed) != 0 {
            self.end_row();
        }
        if self.ejections.load(Ordering::Relaxed) != 0 {
            // An Err means that another success took the last step: nothing is left to do.
            let _ = self
                .ejections
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |ejections| ejections.checked_sub(1));
        }
    }

    /// Whether failures or checks have put it aside. Picking may overrule this, see
    /// [`Snapshot::honours_ejection`](crate::Snapshot::honours_ejection).
    #[must_use]
    pub fn is_ejected(&self, now: Millis) -> bool {
        now.0 < self.ejected_until.load(Ordering::Relaxed) || self.is_unhealthy.load(Ordering::Relaxed)
    }

    /// Notes what active checks found: an unhealthy endpoint is put aside until they find otherwise. True when that is new.
    pub fn checked(&self, healthy: bool) -> bool {
        self.is_unhealthy.swap(!healthy, Ordering::Relaxed) == healthy
    }
}

/// A permit for one open stream on an endpoint; dropping it decrements the count.
///
/// ```
/// use std::sync::Arc;
/// use podpin_endpoints::Load;
///
/// let load = Arc::new(Load::new());
/// let permit = load.try_open(Some(1));
/// assert!(permit.is_some() && load.try_open(Some(1)).is_none());
/// drop(permit);
/// assert_eq!(load.open_streams(), 0);
/// ```
#[derive(Debug)]
pub struct Permit(Arc<Load>);

impl Permit {
    /// The load that this permit counts on.
    #[must_use]
    pub fn load(&self) -> &Arc<Load> {
        &self.0
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    const POLICY: EjectionPolicy = EjectionPolicy { failures: 3, ejection: Duration::from_millis(100) };

    fn fail(load: &Load, times: u32, now: u64) -> u32 {
        (0..times).map(|_| u32::from(load.failed(&POLICY, FailureSource::Endpoint, Millis(now)))).sum()
    }

    #[test]
    fn a_permit_counts_exactly_as_long_as_it_lives() {
        let load = Arc::new(Load::new());
        let first = load.try_open(Some(2)).unwrap();
        let second = load.try_open(Some(2)).unwrap();
        assert!(load.try_open(Some(2)).is_none());
        assert_eq!(load.open_streams(), 2);
        drop(first);
        assert_eq!(load.open_streams(), 1);
        assert!(load.try_open(Some(2)).is_some(), "a freed place can be taken again");
        assert!(load.try_open(None).is_some());
        drop(second);
        assert_eq!(load.open_streams(), 0);
        assert!(load.try_open(Some(0)).is_none());
    }

    #[test]
    fn concurrent_threads_never_pass_the_cap_and_the_count_returns_to_zero() {
        const CAP: u32 = 3;
        let load = Arc::new(Load::new());
        let alive = AtomicU32::new(0);
        let refused = AtomicBool::new(false);
        let start = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..20_000 {
                        let Some(permit) = load.try_open(Some(CAP)) else {
                            refused.store(true, Ordering::Relaxed);
                            continue;
                        };
                        assert!(alive.fetch_add(1, Ordering::SeqCst) < CAP);
                        thread::yield_now();
                        alive.fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert!(refused.into_inner(), "eight threads must have met a cap of three");
        assert_eq!(load.open_streams(), 0);
    }

    #[test]
    fn consecutive_failures_eject_once_and_for_the_configured_time() {
        let load = Load::new();
        assert_eq!(fail(&load, 2, 10), 0);
        load.succeeded();
        assert_eq!(fail(&load, 2, 10), 0, "a success in between starts the count anew");
        assert_eq!(fail(&load, 1, 10), 1);
        assert!(load.is_ejected(Millis(10)) && load.is_ejected(Millis(109)));
        assert!(!load.is_ejected(Millis(110)));
        assert_eq!(fail(&load, 9, 50), 0, "failures while aside are echoes");
        assert!(!load.is_ejected(Millis(110)));
    }

    #[test]
    fn ejections_grow_up_to_ten_times_and_shrink_with_successes() {
        let load = Load::new();
        let mut now = 0;
        let mut lengths = Vec::new();
        for _ in 0..12 {
            assert_eq!(fail(&load, 3, now), 1);
            let end = (now..).find(|millis| !load.is_ejected(Millis(*millis))).unwrap();
            lengths.push(end - now);
            now = end;
        }
        assert_eq!(lengths, [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1000, 1000]);
        (0..9).for_each(|_| load.succeeded());
        fail(&load, 3, now);
        assert!(load.is_ejected(Millis(now + 199)) && !load.is_ejected(Millis(now + 200)));
    }

    #[test]
    fn one_client_alone_ejects_nothing_and_several_do() {
        let load = Load::new();
        let fail = |client| load.failed(&POLICY, FailureSource::Client(client), Millis(10));
        assert!((0..100).all(|round| !fail(1 + round % 2)), "two clients are not three");
        assert!(fail(9));
        assert!(load.is_ejected(Millis(10)));
        let load = Load::new();
        let fail = |client| load.failed(&POLICY, FailureSource::Client(client), Millis(10));
        assert!(!fail(1) && !fail(2));
        load.succeeded();
        assert!(!fail(1) && !fail(2), "a success ends the row, and its clients count again");
        assert_eq!(super::tests::fail(&load, 1, 10), 1, "failures of the endpoint count beside them");
    }

    #[test]
    fn a_failure_that_was_overtaken_does_not_eject_again() {
        let load = Load::new();
        assert!(load.eject(&POLICY, 0, Millis(7)));
        assert!(!load.eject(&POLICY, 0, Millis(8)), "it saw the time before the ejection");
        assert!(!load.is_ejected(Millis(107)));
    }

    #[test]
    fn of_concurrent_failures_one_ejects() {
        for _ in 0..200 {
            let load = Load::new();
            let start = Barrier::new(4);
            let once = EjectionPolicy { failures: 1, ..POLICY };
            let ejections: u32 = thread::scope(|scope| {
                let fail = || {
                    start.wait();
                    u32::from(load.failed(&once, FailureSource::Endpoint, Millis(7)))
                };
                let threads = [(); 4].map(|()| scope.spawn(fail));
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert_eq!(ejections, 1);
            assert!(load.is_ejected(Millis(106)) && !load.is_ejected(Millis(107)));
        }
    }
}
