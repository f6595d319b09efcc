//! What became of the streams of one drained endpoint, for the record that is written when the last of them is settled.
//!
//! A stream is settled when it has ended and its client is back, or has stayed away for `drain.returnWindow`. Counted a
//! handful of times a stream, so a lock is cheap enough.

use std::time::Duration;

use parking_lot::Mutex;
use podpin_time::Millis;

use crate::clock;
use crate::telemetry::labels::{DepartureKind, ReconnectOutcome};

/// The account of one drain. Shared by its streams and by the clients that are awaited back.
#[derive(Debug, Default)]
pub struct Tally {
    sums: Mutex<Sums>,
}

/// How many, and how long the returned ones were away.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// Streams that were there, ended or not.
    pub streams: u32,
    /// Went on at another pod.
    pub moved: u32,
    pub polite: u32,
    pub forced: u32,
    /// The endpoint died under them.
    pub broken: u32,
    /// Ended by their client or by the endpoint itself before their turn.
    pub left: u32,
    pub returned: u32,
    pub lost: u32,
    /// Clients that may still come back.
    pub awaited: u32,
    /// When the last stream ended.
    pub last_end: Millis,
    gaps: Vec<u32>,
}

impl Tally {
    /// A stream that is to leave.
    pub fn joined(&self) {
        self.sums.lock().streams += 1;
    }

    /// A stream stays after all: it never was of this drain.
    pub fn stays(&self) {
        let mut sums = self.sums.lock();
        sums.streams = sums.streams.saturating_sub(1);
    }

    /// A stream was moved or ended by us.
    pub fn departed(&self, kind: DepartureKind) {
        self.ended(|sums| match kind {
            DepartureKind::Handover => sums.moved += 1,
            DepartureKind::Polite => sums.polite += 1,
            DepartureKind::Forced => sums.forced += 1,
        });
    }

    /// The endpoint died under a stream.
    pub fn broke(&self) {
        self.ended(|sums| sums.broken += 1);
    }

    /// A stream ended for a reason of its own.
    pub fn left(&self) {
        self.ended(|sums| sums.left += 1);
    }

    /// The client of a stream that ended may come back.
    pub fn awaits(&self) {
        self.sums.lock().awaited += 1;
    }

    /// It did, or it did not.
    pub fn settled(&self, outcome: ReconnectOutcome, gap: Duration) {
        let mut sums = self.sums.lock();
        sums.awaited = sums.awaited.saturating_sub(1);
        match outcome {
            ReconnectOutcome::Returned => {
                sums.returned += 1;
                sums.gaps.push(u32::try_from(gap.as_millis()).unwrap_or(u32::MAX));
            }
            ReconnectOutcome::Lost => sums.lost += 1,
        }
    }

    /// The sums so far.
    pub fn sums(&self) -> Sums {
        self.sums.lock().clone()
    }

    fn ended(&self, count: impl FnOnce(&mut Sums)) {
        let mut sums = self.sums.lock();
        count(&mut sums);
        sums.last_end = clock::now();
    }
}

impl Sums {
    /// Streams that have ended.
    pub fn ended(&self) -> u32 {
        self.moved + self.polite + self.forced + self.broken + self.left
    }

    /// All streams have ended and no client is awaited.
    pub fn is_settled(&self) -> bool {
        self.ended() >= self.streams && self.awaited == 0
    }

    /// How long the clients that returned were without a stream, in milliseconds: at this share of them (0 to 1,000
    /// thousandths) or sooner. `None` when nobody returned.
    pub fn gap_millis(&self, per_mille: usize) -> Option<u32> {
        let mut gaps = self.gaps.clone();
        gaps.sort_unstable();
        let last = gaps.len().checked_sub(1)?;
        gaps.get((gaps.len() * per_mille / 1_000).min(last)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_settled_when_its_streams_have_ended_and_nobody_is_awaited() {
        let tally = Tally::default();
        (0..3).for_each(|_| tally.joined());
        assert!(!tally.sums().is_settled());
        tally.departed(DepartureKind::Polite);
        tally.awaits();
        tally.left();
        tally.broke();
        assert!(!tally.sums().is_settled(), "one client is awaited");
        tally.settled(ReconnectOutcome::Returned, Duration::from_millis(900));
        let sums = tally.sums();
        assert!(sums.is_settled(), "{sums:?}");
        assert_eq!((sums.polite, sums.left, sums.broken, sums.returned, sums.lost), (1, 1, 1, 1, 0));
    }

    #[test]
    fn gaps_are_told_by_share() {
        let tally = Tally::default();
        assert_eq!(tally.sums().gap_millis(500), None);
        for gap in 1..=100 {
            tally.awaits();
            tally.settled(ReconnectOutcome::Returned, Duration::from_millis(gap * 10));
        }
        let sums = tally.sums();
        assert_eq!((sums.gap_millis(500), sums.gap_millis(990)), (Some(510), Some(1_000)));
    }
}
