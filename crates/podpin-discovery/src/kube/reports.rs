//! The faults of objects that were logged, so that the log has each of them once, however often the object is sent.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// A fault that was not met for so long is logged again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// Faults that are remembered. Names are the server's: one that makes up new ones all the time is logged at most as fast.
const REPORTS_MAX: usize = 1_024;

/// The faults that were logged, by the name of the object and their kind.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    met: HashMap<(String, &'static str), Instant>,
}

impl Reports {
    /// Notes a fault of the object `name`. Returns whether it is to be logged.
    pub(crate) fn is_new(&mut self, name: &str, kind: &'static str, now: Instant) -> bool {
        if self.met.len() >= REPORTS_MAX {
            self.met.retain(|_, met| now.duration_since(*met) < FORGOTTEN_AFTER);
        }
        if self.met.len() >= REPORTS_MAX {
            self.met.clear();
        }
        let before = self.met.insert((name.to_owned(), kind), now);
        before.is_none_or(|met| now.duration_since(met) >= FORGOTTEN_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_new_once_for_each_object_and_kind_and_after_a_while() {
        let mut reports = Reports::default();
        let start = Instant::now();
        let mut is_new =
            |name, kind, seconds| reports.is_new(name, kind, start + Duration::from_secs(seconds));
        assert!(is_new("a", "port", 0) && is_new("a", "address", 0) && is_new("b", "port", 0));
        assert!((1..50).all(|second| !is_new("a", "port", second)));
        assert!(!is_new("a", "port", 648) && is_new("a", "port", 1_248));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut reports = Reports::default();
        let now = Instant::now();
        for number in 0..5_000 {
            reports.is_new(&number.to_string(), "port", now);
            assert!(reports.met.len() <= REPORTS_MAX);
        }
    }
}
