//! How event streams are carried (WHATWG HTML, section 9.2 "Server-sent events").

use std::time::Duration;

use crate::{
    node::Node,
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
    /// Clients that come back to the service each second at most, 1 to 1,000,000; default `None` if absent: any number.
    pub reconnects_per_second: Option<u32>,
    /// Age at which a stream is closed gracefully. 1 s to 9600 h; default `None` if absent: never.
    pub max_duration: Option<Duration>,
    /// Answer to an event stream request that nothing can serve. Default: to come back.
    pub unavailable: Unavailable,
    /// Encodings that pods are asked for. Default: the client's, where no handover needs plain text.
    pub accept_encoding: AcceptEncoding,
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

/// `Accept-Encoding` of event streams. podpin writes nothing into an encoded one: no keep-alive, no goodbye, no handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptEncoding {
    /// `identity` with `drain.handover: lastEventId`, else the client's.
    Auto,
    /// `identity`.
    Identity,
    /// The client's.
    Client,
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
    /// Goodbyes at the shutdown of the proxy draw from `shutdown_min..=shutdown_max`. 1 ms to 24 h, default 500 ms.
    pub shutdown_min: Duration,
    /// At least `shutdown_min`, at most 24 h. Default 2 s.
    pub shutdown_max: Duration,
}

/// Default of [`RetryHint::normal`], which is about what browsers do by themselves.
const NORMAL: Duration = Duration::from_secs(3);
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
            reconnects_per_second: None,
            max_duration: None,
            unavailable: Unavailable::Retry,
            accept_encoding: AcceptEncoding::Auto,
            event_bytes_max: 1 << 20,
        }
    }
}

impl Default for RetryHint {
    fn default() -> Self {
        Self {
            normal: Some(NORMAL),
            drain_min: Duration::from_secs(1),
            drain_max: Duration::from_secs(10),
            shutdown_min: Duration::from_millis(500),
            shutdown_max: Duration::from_secs(2),
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
            reconnects_per_second: section.get("reconnect").and_then(read_reconnect),
            max_duration: section.duration_or_off("maxDuration", MAX_DURATION, default.max_duration),
            accept_encoding: section.choice(
                "acceptEncoding",
                &[
                    ("auto", AcceptEncoding::Auto),
                    ("identity", AcceptEncoding::Identity),
                    ("client", AcceptEncoding::Client),
                ],
                default.accept_encoding,
            ),
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
    /// Returns whether new clients are told the normal time as well: one that differs from the default is not what they do by
    /// themselves.
    #[must_use]
    pub fn tells_new(&self) -> bool {
        self.normal.is_some_and(|normal| normal != NORMAL)
    }

    fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let (drain, shutdown) = (section.section("drain"), section.section("shutdown"));
        let (drain_min, drain_max) = read_range(&drain, default.drain_min, default.drain_max);
        let (shutdown_min, shutdown_max) = read_range(&shutdown, default.shutdown_min, default.shutdown_max);
        Self {
            normal: section.duration_or_off("normal", RETRY, default.normal),
            drain_min,
            drain_max,
            shutdown_min,
            shutdown_max,
        }
    }
}

/// Reads `min` and `max`.
fn read_range(section: &Section<'_>, min: Duration, max: Duration) -> (Duration, Duration) {
    let (min, max) = (section.duration("min", RETRY, min), section.duration("max", RETRY, max));
    if min > max {
        let (shown_min, shown_max) = (format_duration(min), format_duration(max));
        section.node().fail(format!("min ({shown_min}) must not be longer than max ({shown_max})"));
    }
    (min, max)
}

/// Reads `reconnect`; `None` if it is off.
fn read_reconnect(node: &Node<'_>) -> Option<u32> {
    let section = node.section_or_off("a mapping of perSecond")??;
    if section.is_blank() {
        node.fail("an empty reconnect limits nothing; write perSecond or `off`");
    }
    section.count_or_off("perSecond", 1..=1_000_000, None)
}
