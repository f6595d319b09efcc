//! Count of the handovers of one stream, so that two failing endpoints cannot pass it to and fro.

use std::time::Duration;

use podpin_time::Millis;

use super::action::Outcome;
use super::input::{Eligibility, ResumePoint};
use super::settings::Limits;

/// Handovers of one stream: whether one may begin.
#[derive(Debug)]
pub(super) struct Handovers {
    limits: Limits,
    eligibility: Eligibility,
    begun: u16,
    window_from: Millis,
}

impl Handovers {
    /// Returns the account of a stream that begins; `limits` is `None` if it stays at one endpoint.
    pub(super) fn new(limits: Option<Limits>) -> Self {
        let eligibility = limits.map_or(Eligibility::Ineligible, |_| Eligibility::Eligible);
        Self { limits: limits.unwrap_or_default(), eligibility, begun: 0, window_from: Millis(0) }
    }

    pub(super) fn is_eligible(&self) -> bool {
        self.eligibility == Eligibility::Eligible
    }

    pub(super) fn set_eligibility(&mut self, eligibility: Eligibility) {
        self.eligibility = eligibility;
    }

    /// Begins a handover of an eligible stream.
    ///
    /// # Errors
    /// The outcome of one that cannot begin.
    pub(super) fn begin(&mut self, resume: ResumePoint, now: Millis) -> Result<(), Outcome> {
        match resume {
            ResumePoint::Unknown => Err(Outcome::NoId),
            ResumePoint::Known if self.take(now) => Ok(()),
            ResumePoint::Known => Err(Outcome::Limit),
        }
    }

    /// Returns the moment at which a handover that began at `from` is given up.
    pub(super) fn give_up_at(&self, from: Millis) -> Millis {
        later(from, self.limits.handover_ms)
    }

    /// Counts a handover; false if the limit is reached.
    fn take(&mut self, now: Millis) -> bool {
        if self.begun == 0 || later(self.window_from, self.limits.window_ms) <= now {
            self.window_from = now;
            self.begun = 0;
        }
        let is_within = self.begun < self.limits.handovers;
        self.begun += u16::from(is_within);
        is_within
    }
}

fn later(from: Millis, milliseconds: u32) -> Millis {
    from.after(Duration::from_millis(u64::from(milliseconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: ResumePoint = ResumePoint::Known;

    #[test]
    fn the_limit_is_forgotten_after_its_window() {
        let mut handovers = Handovers::new(Some(Limits { handovers: 2, window_ms: 1_000, handover_ms: 100 }));
        let limit = Err(Outcome::Limit);
        for (now, result) in
            [(5, Ok(())), (1_004, Ok(())), (1_004, limit), (1_005, Ok(())), (2_004, Ok(())), (2_004, limit)]
        {
            assert_eq!(handovers.begin(KNOWN, Millis(now)), result, "{now}");
        }
    }

    #[test]
    fn a_limit_of_none_is_none() {
        let mut handovers = Handovers::new(Some(Limits { handovers: 0, ..Limits::default() }));
        for now in [1, 100_000] {
            assert_eq!(handovers.begin(KNOWN, Millis(now)), Err(Outcome::Limit));
        }
        assert_eq!(handovers.give_up_at(Millis(1)), Millis(10_001));
    }

    #[test]
    fn a_handover_without_an_id_does_not_count() {
        let mut handovers = Handovers::new(Some(Limits { handovers: 1, ..Limits::default() }));
        assert_eq!(handovers.begin(ResumePoint::Unknown, Millis(1)), Err(Outcome::NoId));
        assert_eq!(handovers.begin(KNOWN, Millis(2)), Ok(()));
    }
}
