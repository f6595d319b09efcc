//! How podpin itself leaves on SIGTERM.

use std::time::Duration;

use crate::{
    section::Section,
    unit::{DurationRange, format_duration},
};

/// The phases of podpin's own shutdown; `timeout` is longer than `announce` and `spread` together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Not ready, but still accepting, so that load balancers notice. 0 s to 10 min, default 5 s.
    pub announce: Duration,
    /// Streams end evenly over this time. 0 s to 1 h, default 15 s.
    pub spread: Duration,
    /// The process has exited by then, from SIGTERM on. 1 s to 2 h, default 30 s.
    pub timeout: Duration,
}

const ANNOUNCE: DurationRange = DurationRange::new(Duration::ZERO, Duration::from_secs(600));
const SPREAD: DurationRange = DurationRange::new(Duration::ZERO, Duration::from_secs(3_600));
const TIMEOUT: DurationRange = DurationRange::new(Duration::from_secs(1), Duration::from_secs(7_200));

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            announce: Duration::from_secs(5),
            spread: Duration::from_secs(15),
            timeout: Duration::from_secs(30),
        }
    }
}

impl Shutdown {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let shutdown = Self {
            announce: section.duration("announce", ANNOUNCE, default.announce),
            spread: section.duration("spread", SPREAD, default.spread),
            timeout: section.duration("timeout", TIMEOUT, default.timeout),
        };
        let needed = shutdown.announce + shutdown.spread;
        if shutdown.timeout <= needed {
            let at = section.get("timeout").unwrap_or(section.node());
            at.fail(format!(
                "timeout ({}) must be longer than announce and spread together ({})",
                format_duration(shutdown.timeout),
                format_duration(needed)
            ));
        }
        shutdown
    }
}
