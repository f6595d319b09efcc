//! How event streams are carried (WHATWG HTML, section 9.2 "Server-sent events").

use std::time::Duration;

use crate::{
    section::Section,
    unit::{DurationRange, format_duration},
};

/// Settings of a service's event streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sse {
    /// Silence after which a comment is sent. 1 s to 10 min, default 15 s; `None` if never.
    pub keep_alive: Option<Duration>,
    /// Reconnection times sent to clients.
    pub retry: RetryHint,
    /// Age at which a stream is closed gracefully. 1 s to 9600 h; default `None` if absent: never.
    pub max_duration: Option<Duration>,
    /// Answer to an event stream request that nothing can serve. Default: to come back.
    pub unavailable: Unavailable,
    /// The longest event that is held back until it is whole, in bytes. 1 KiB to 64 MiB, default 1 MiB.
    pub event_bytes_max: usize,
}

/// Answer to an event stream request that nothing can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// 200 with a `retry:` and a clean end: a browser's `EventSource` gives up for good on any other status.
    Retry,
    /// The status that says why, such as 503.
    Status,
}

/// The `retry:` field: how long a browser waits before it reconnects. Whole milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryHint {
    /// Reconnection time on streams of returning clients. 1 ms to 24 h, default 3 s; `None` if never written.
    pub normal: Option<Duration>,
    /// Refusals and goodbyes draw from `drain_min..=drain_max`. 1 ms to 24 h, default 1 s.
    pub drain_min: Duration,
    /// At least `drain_min`, at most 24 h. Default 10 s.
    pub drain_max: Duration,
}

const KEEP_ALIVE: DurationRange = DurationRange::new(Duration::from_secs(1), Duration::from_secs(600));
const RETRY: DurationRange =
    DurationRange::whole_milliseconds(Duration::from_millis(1), Duration::from_secs(86_400));
const MAX_DURATION: DurationRange =
    DurationRange::new(Duration::from_secs(1), Duration::from_secs(9_600 * 3_600));

impl Default for Sse {
    fn default() -> Self {
        Self {
            keep_alive: Some(Duration::from_secs(15)),
            retry: RetryHint::default(),
            max_duration: None,
            unavailable: Unavailable::Retry,
            event_bytes_max: 1 << 20,
        }
    }
}

impl Default for RetryHint {
    fn default() -> Self {
        Self {
            normal: Some(Duration::from_secs(3)),
            drain_min: Duration::from_secs(1),
            drain_max: Duration::from_secs(10),
        }
    }
}

impl Sse {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let event_bytes = (1 << 10)..=(64 << 20);
        Self {
            keep_alive: section.duration_or_off("keepAlive", KEEP_ALIVE, default.keep_alive),
            retry: RetryHint::read(&section.section("retry")),
            max_duration: section.duration_or_off("maxDuration", MAX_DURATION, default.max_duration),
            unavailable: section.choice(
                "unavailable",
                &[("retry", Unavailable::Retry), ("status", Unavailable::Status)],
                default.unavailable,
            ),
            event_bytes_max: section.bytes("eventBytesMax", event_bytes, default.event_bytes_max),
        }
    }
}

impl RetryHint {
    fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let drain = section.section("drain");
        let retry = Self {
            normal: section.duration_or_off("normal", RETRY, default.normal),
            drain_min: drain.duration("min", RETRY, default.drain_min),
            drain_max: drain.duration("max", RETRY, default.drain_max),
        };
        if retry.drain_min > retry.drain_max {
            let (min, max) = (format_duration(retry.drain_min), format_duration(retry.drain_max));
            drain.node().fail(format!("min ({min}) must not be longer than max ({max})"));
        }
        retry
    }
}
