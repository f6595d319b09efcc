//! Lines of the log that a client or a pod could cause any number of: one for each interval, with the number of those before it.

use std::sync::atomic::{AtomicU64, Ordering};

use podpin_time::Millis;

/// Milliseconds between two lines about the same thing.
const INTERVAL_MILLIS: u64 = 10_000;

/// The rate of one kind of line.
#[derive(Debug, Default)]
pub struct LineRate {
    /// Moment from which another line may be written.
    next: AtomicU64,
    /// Lines that were not written since the last one.
    held: AtomicU64,
}

impl LineRate {
    /// Returns how many lines were not written since the last one, if one may be written `now`; counts it else.
    pub fn permit(&self, now: Millis) -> Option<u64> {
        let next = self.next.load(Ordering::Relaxed);
        let is_due = now.0 >= next
            && self
                .next
                .compare_exchange(next, now.0 + INTERVAL_MILLIS, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_due {
            return Some(self.held.swap(0, Ordering::Relaxed));
        }
        self.held.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_each_interval_says_how_many_were_held_back() {
        let rate = LineRate::default();
        let permits: Vec<_> =
            [5, 6, 7, 10_004, 10_005, 10_006].map(|now| rate.permit(Millis(now))).into_iter().collect();
        assert_eq!(permits, [Some(0), None, None, None, Some(3), None]);
    }
}
