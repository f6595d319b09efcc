//! Limits of the handovers of one stream, so that two failing endpoints cannot pass it to and fro.

use std::time::Duration;

use podpin_time::Millis;

/// Limits of the handovers of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Handovers that may begin within `window_ms`. Zero: none.
    pub handovers: u16,
    /// Milliseconds that `handovers` are counted for, from the first of them on.
    pub window_ms: u32,
    /// Milliseconds from the beginning of a handover until it is given up, over all successors that are tried.
    pub handover_ms: u32,
}

impl Default for Limits {
    /// Five in a minute: a rolling update moves a stream once or twice, three times when it meets endpoints that are
    /// next. Ten seconds for each: three successors with two seconds to connect and some to answer; a client that waits
    /// longer had better choose anew. If they are too small, `limit` and `timeout` are counted while endpoints are well.
    fn default() -> Self {
        Self { handovers: 5, window_ms: 60_000, handover_ms: 10_000 }
    }
}

/// Handovers of one stream, counted against their limits.
#[derive(Debug)]
pub(super) struct HandoverWindow {
    limits: Limits,
    from: Millis,
    begun: u16,
}

impl HandoverWindow {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, from: Millis(0), begun: 0 }
    }

    /// Counts a handover that begins; false if the limit is reached.
    pub(super) fn take(&mut self, now: Millis) -> bool {
        if self.begun == 0 || later(self.from, self.limits.window_ms) <= now {
            self.from = now;
            self.begun = 0;
        }
        let is_within = self.begun < self.limits.handovers;
        self.begun += u16::from(is_within);
        is_within
    }

    /// Returns the moment at which a handover that began at `from` is given up.
    pub(super) fn gives_up(&self, from: Millis) -> Millis {
        later(from, self.limits.handover_ms)
    }
}

fn later(from: Millis, milliseconds: u32) -> Millis {
    from.after(Duration::from_millis(u64::from(milliseconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_forgotten_after_its_window() {
        let mut window = HandoverWindow::new(Limits { handovers: 2, window_ms: 1_000, handover_ms: 100 });
        for (now, is_within) in
            [(5, true), (1_004, true), (1_004, false), (1_005, true), (2_004, true), (2_004, false)]
        {
            assert_eq!(window.take(Millis(now)), is_within, "{now}");
        }
    }

    #[test]
    fn a_limit_of_none_is_none() {
        let mut window = HandoverWindow::new(Limits { handovers: 0, ..Limits::default() });
        assert!(!window.take(Millis(1)) && !window.take(Millis(100_000)));
        assert_eq!(window.gives_up(Millis(1)), Millis(10_001));
    }
}
