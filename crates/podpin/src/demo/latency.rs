//! Counts latencies in buckets, so that a long run costs no more memory than a short one.
//!
//! Sixteen buckets to each power of two: a percentile is at most 1/16 too high, never too low.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const STEPS_BITS: u32 = 4;
const STEPS: usize = 1 << STEPS_BITS;

/// The last bucket begins beyond an hour.
const BUCKETS: usize = 30 * STEPS;

/// Latencies, counted from many tasks at once.
pub(super) struct Latencies(Vec<AtomicU64>);

impl Latencies {
    pub(super) fn new() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn count(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.0.get(bucket_of(micros).min(BUCKETS - 1)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the latency that `percent` (0 to 100) of those counted do not exceed; `None` if nothing was counted.
    pub(super) fn percentile(&self, percent: u64) -> Option<Latency> {
        let counts: Vec<u64> = self.0.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let rank = (counts.iter().sum::<u64>() * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let reached = counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        reached.map(|bucket| Latency { micros: upper_end(bucket) })
    }
}

/// A latency as the table shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Latency {
    micros: u64,
}

impl Latency {
    /// Returns a duration that was not counted, but is shown in the same way.
    pub(super) fn of(duration: Duration) -> Self {
        Self { micros: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX) }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { micros } = self;
        match micros {
            0..1_000 => write!(formatter, "{micros} µs"),
            1_000..10_000 => write!(formatter, "{}.{:02} ms", micros / 1_000, micros % 1_000 / 10),
            10_000..1_000_000 => write!(formatter, "{}.{} ms", micros / 1_000, micros % 1_000 / 100),
            _ => write!(formatter, "{}.{:02} s", micros / 1_000_000, micros % 1_000_000 / 10_000),
        }
    }
}

/// Values below 16 have a bucket each; above, the four bits after the highest choose the step.
fn bucket_of(micros: u64) -> usize {
    let octave = (u64::BITS - micros.leading_zeros()).saturating_sub(STEPS_BITS + 1);
    let step = usize::try_from(micros >> octave).unwrap_or(usize::MAX);
    octave as usize * STEPS + step
}

fn upper_end(bucket: usize) -> u64 {
    let octave = (bucket / STEPS).saturating_sub(1);
    let step = bucket - octave * STEPS;
    (((step + 1) as u64) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_at_most_a_sixteenth_below_its_end() {
        let mut micros = 0_u64;
        while micros < 1 << 32 {
            let bucket = bucket_of(micros);
            let end = upper_end(bucket);
            assert!(end >= micros && end - micros <= micros / 16, "{micros}: {end}");
            assert!(bucket == 0 || upper_end(bucket - 1) < micros, "{micros}");
            micros += 1 + micros / 97;
        }
    }

    #[test]
    fn percentiles_are_those_of_the_counted_values() {
        let latencies = Latencies::new();
        assert_eq!(latencies.percentile(50), None);
        for micros in 1..=100 {
            latencies.count(Duration::from_micros(micros * 10));
        }
        let micros = |percent| latencies.percentile(percent).unwrap().micros;
        assert!((500..=531).contains(&micros(50)), "{}", micros(50));
        assert!((990..=1052).contains(&micros(99)), "{}", micros(99));
        latencies.count(Duration::MAX);
        assert!(micros(100) > 3_600_000_000);
    }

    #[test]
    fn a_latency_is_shown_with_the_unit_that_suits_it() {
        let table =
            [(7, "7 µs"), (999, "999 µs"), (1_234, "1.23 ms"), (45_678, "45.6 ms"), (2_345_678, "2.34 s")];
        for (micros, expected) in table {
            assert_eq!(Latency { micros }.to_string(), expected);
        }
    }
}
