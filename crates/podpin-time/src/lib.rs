//! The one type for moments: milliseconds on the process's own monotonic clock.
//!
//! Pure crates take moments as arguments and never read a clock; the clock itself belongs to the crates that do IO. One
//! type for all of them means that no moment is ever converted by hand.

use std::time::Duration;

/// Monotonic milliseconds since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// The time from `earlier` to this moment; zero when `earlier` is the later one.
    #[must_use]
    pub fn since(self, earlier: Millis) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The moment `duration` later (whole milliseconds); stays at the end of time instead of overflowing.
    #[must_use]
    pub fn after(self, duration: Duration) -> Millis {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Millis(self.0.saturating_add(millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_runs_backwards_nor_over_the_end() {
        assert_eq!(Millis(5).since(Millis(2)), Duration::from_millis(3));
        assert_eq!(Millis(2).since(Millis(5)), Duration::ZERO);
        assert_eq!(Millis(2).after(Duration::from_millis(3)), Millis(5));
        assert_eq!(Millis(2).after(Duration::MAX), Millis(u64::MAX));
    }
}
