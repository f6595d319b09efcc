//! The arrivals of clients that lost their streams at one moment, by the second since then.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Seconds that are counted one by one; later arrivals count with the last of them.
const SECONDS: usize = 60;

/// Counts of arrivals, shared by all clients. Nothing is counted before the herd begins.
#[derive(Debug)]
pub(super) struct Arrivals {
    since: OnceLock<Instant>,
    served: [AtomicU64; SECONDS],
    told: [AtomicU64; SECONDS],
}

/// Clients that were served, and told to come later, in each second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Curve {
    pub(super) served: Vec<u64>,
    pub(super) told: Vec<u64>,
}

impl Arrivals {
    pub(super) fn new() -> Self {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Self { since: OnceLock::new(), served: zeros(), told: zeros() }
    }

    /// Begins the herd.
    pub(super) fn begin(&self) {
        self.since.get_or_init(Instant::now);
    }

    /// Counts a client whose stream begins.
    pub(super) fn count_served(&self) {
        self.count(&self.served);
    }

    /// Counts a client that is told to come later.
    pub(super) fn count_told(&self) {
        self.count(&self.told);
    }

    fn count(&self, seconds: &[AtomicU64; SECONDS]) {
        if let Some(since) = self.since.get()
            && let Some(second) = seconds.get(place(since.elapsed()))
        {
            second.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the curve up to the last arrival; `None` if there was no herd.
    pub(super) fn curve(&self) -> Option<Curve> {
        self.since.get()?;
        let load = |seconds: &[AtomicU64; SECONDS]| -> Vec<u64> {
            seconds.iter().map(|second| second.load(Ordering::Relaxed)).collect()
        };
        let (mut served, mut told) = (load(&self.served), load(&self.told));
        while served.last() == Some(&0) && told.last() == Some(&0) {
            served.pop();
            told.pop();
        }
        Some(Curve { served, told })
    }
}

fn place(since: Duration) -> usize {
    usize::try_from(since.as_secs()).unwrap_or(usize::MAX).min(SECONDS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_arrivals_of_the_herd_are_counted_and_the_curve_ends_with_the_last_of_them() {
        let arrivals = Arrivals::new();
        arrivals.count_served();
        assert_eq!(arrivals.curve(), None);
        arrivals.begin();
        arrivals.count_served();
        arrivals.count_told();
        arrivals.count_told();
        let curve = arrivals.curve().unwrap();
        assert_eq!((curve.served.iter().sum::<u64>(), curve.told.iter().sum::<u64>()), (1, 2));
        assert_eq!(curve.served.len(), curve.told.len());
        assert_eq!([0, 1, 59, 600].map(|seconds| place(Duration::from_secs(seconds))), [0, 1, 59, 59]);
    }
}
