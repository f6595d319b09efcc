//! Requests in flight over all listeners, and the memory of their heads.
//!
//! Over HTTP/2 one connection carries many requests, so a limit of connections bounds neither. A request counts from its
//! complete head until its response is done, or until it is an event stream of its own; upgraded connections have one
//! request each and are bounded as connections are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of heads that each request of the limit adds to what all heads together may hold. A browser's request with
/// cookies costs about 2 KiB by the measure of `RequestHead::held_bytes`; too few show as refusals while
/// `podpin_requests_active` is below the limit.
const HEAD_BYTES_EACH: usize = 8 << 10;
/// Bytes of heads that may be held under any limit: several heads of the largest `limits.requestHeaderBytes`.
const HEAD_BYTES_MIN: usize = 4 << 20;

/// Counts behind `limits.requests`.
#[derive(Debug, Default)]
pub struct RequestLimits {
    active: AtomicUsize,
    head_bytes: AtomicUsize,
}

/// A request in flight, counted until this is dropped.
#[derive(Debug)]
pub struct RequestPermit {
    limits: Arc<RequestLimits>,
    head_bytes: usize,
}

impl RequestLimits {
    /// Counts a request whose head holds so many bytes; `None` if `limit` requests are in flight, or their heads hold as
    /// much as they may.
    pub fn try_begin(self: &Arc<Self>, limit: usize, head_bytes: usize) -> Option<RequestPermit> {
        let active = self.active.fetch_add(1, Ordering::Relaxed);
        let held = self.head_bytes.fetch_add(head_bytes, Ordering::Relaxed);
        let permit = RequestPermit { limits: Arc::clone(self), head_bytes };
        let head_bytes_max = limit.saturating_mul(HEAD_BYTES_EACH).max(HEAD_BYTES_MIN);
        (active < limit && held.saturating_add(head_bytes) <= head_bytes_max).then_some(permit)
    }

    /// Returns the number of requests in flight.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.limits.active.fetch_sub(1, Ordering::Relaxed);
        self.limits.head_bytes.fetch_sub(self.head_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_and_a_limit_that_was_lowered_holds_for_the_next() {
        let limits = Arc::<RequestLimits>::default();
        let one = limits.try_begin(2, 100).unwrap();
        let two = limits.try_begin(2, 100).unwrap();
        assert!(limits.try_begin(2, 100).is_none(), "and a refused one is not counted");
        assert_eq!(limits.active(), 2);
        drop(two);
        assert!(limits.try_begin(1, 100).is_none());
        drop(one);
        assert!(limits.try_begin(1, 100).is_some());
        assert_eq!((limits.active(), limits.head_bytes.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn heads_are_bounded_together_and_none_is_too_large_alone() {
        let limits = Arc::<RequestLimits>::default();
        let largest = (1 << 20) + 128 * 256;
        let few: Vec<_> = (0..100).map_while(|_| limits.try_begin(100, largest)).collect();
        assert_eq!(few.len(), HEAD_BYTES_MIN / largest, "the limit has less to give than the least");
        drop(few);
        let many: Vec<_> = (0..10_000).map_while(|_| limits.try_begin(1_000, 32 << 10)).collect();
        assert_eq!(many.len(), 250);
        assert!(limits.try_begin(1_000, 1).is_none());
        drop(many);
        assert_eq!(limits.head_bytes.load(Ordering::Relaxed), 0);
    }
}
