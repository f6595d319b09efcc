//! Count of the handovers of one stream, so that two failing endpoints cannot pass it to and fro.

use std::time::Duration;

use podpin_time::Millis;

use super::action::Target;
use super::input::{Eligibility, Outcome, ResumePoint};
use super::settings::Limits;

/// Handovers of one stream: whether one may begin.
#[derive(Debug)]
pub(super) struct Handovers {
    window_ms: u32,
    handover_ms: u32,
    overlap_ms: u32,
    /// Beginning of the window, without its upper half: a window is shorter than that.
    window_from: u32,
    handovers: u16,
    begun: u16,
    eligibility: Eligibility,
    /// Clean ends of endpoints that serve since the last event.
    clean_ends: u8,
}

impl Handovers {
    /// Returns the account of a stream that begins; `limits` is `None` if it stays at one endpoint.
    pub(super) fn new(limits: Option<Limits>) -> Self {
        let eligibility = limits.map_or(Eligibility::Ineligible, |_| Eligibility::Eligible);
        let Limits { handovers, window_ms, handover_ms, overlap_ms } = limits.unwrap_or_default();
        Self {
            window_ms,
            handover_ms,
            overlap_ms,
            window_from: 0,
            handovers,
            begun: 0,
            eligibility,
            clean_ends: 0,
        }
    }

    /// Records that an event came: the endpoint has something to say.
    #[inline]
    pub(super) fn note_event(&mut self) {
        self.clean_ends = 0;
    }

    /// Counts a clean end of an endpoint that serves. Returns the endpoint to ask for the rest; `None` if the stream is
    /// over, for nothing came after such ends of its own endpoint and of another one.
    pub(super) fn after_clean_end(&mut self) -> Option<Target> {
        self.clean_ends = self.clean_ends.saturating_add(1);
        match self.clean_ends {
            1 => Some(Target::Chosen),
            2 => Some(Target::Another),
            _ => None,
        }
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
            ResumePoint::Known | ResumePoint::Overlap if self.take(now) => Ok(()),
            ResumePoint::Known | ResumePoint::Overlap => Err(Outcome::Limit),
        }
    }

    /// Returns the moment at which a handover that began at `from` is given up.
    pub(super) fn give_up_at(&self, from: Millis) -> Millis {
        later(from, self.handover_ms)
    }

    /// Returns the moment until which two upstreams are read that both flow at `from`.
    pub(super) fn overlap_ends(&self, from: Millis) -> Millis {
        later(from, self.overlap_ms)
    }

    /// Counts a handover; false if the limit is reached.
    fn take(&mut self, now: Millis) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "differences of less than 49 days are meant")]
        let now = now.0 as u32;
        if self.begun == 0 || now.wrapping_sub(self.window_from) >= self.window_ms {
            self.window_from = now;
            self.begun = 0;
        }
        let is_within = self.begun < self.handovers;
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
        let mut handovers =
            Handovers::new(Some(Limits { handovers: 2, window_ms: 1_000, handover_ms: 100, overlap_ms: 50 }));
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
