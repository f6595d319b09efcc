//! Pauses between requests for a successor: they grow, and differ from stream to stream.

use std::time::Duration;

/// First pause, milliseconds: as long as a process takes to open its port once it runs.
const FIRST_MS: u32 = 200;
/// Longest pause, milliseconds: a successor that becomes ready is used that much later at most.
const LONGEST_MS: u32 = 2_000;

/// Source of jitter, a linear congruential generator: streams that began together must not ask together.
#[derive(Debug)]
pub(super) struct Jitter(u32);

impl Jitter {
    /// Returns the source that begins with a number from 0 to 1.
    pub(super) fn new(draw: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number from 0 to 1")]
        let seed = (draw.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u32;
        Self(seed)
    }

    /// Returns the pause after this many failures: half to all of a time that doubles.
    pub(super) fn pause(&mut self, failed: u8) -> Duration {
        // The multiplier and increment of Numerical Recipes; the upper bits are the better ones.
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let whole = FIRST_MS.saturating_mul(1 << failed.min(8)).min(LONGEST_MS);
        let half = whole / 2;
        Duration::from_millis(u64::from(half + (self.0 >> 16) % (half + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ() {
        let (mut one, mut other) = (Jitter::new(0.2), Jitter::new(0.7));
        let mut equal = 0;
        for failed in 0..=u8::MAX {
            let whole = (200 << failed.min(4)).min(2_000);
            let pauses = [one.pause(failed), other.pause(failed)].map(|pause| pause.as_millis());
            for pause in pauses {
                assert!((whole / 2..=whole).contains(&pause), "{failed}: {pause}");
            }
            equal += u32::from(pauses[0] == pauses[1]);
        }
        assert!(equal < 16, "{equal} of 256");
    }
}
