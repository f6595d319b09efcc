//! Settings of a session, copied out of the configuration when its stream begins.

use std::time::Duration;

/// Settings of a stream, copied from the configuration it began with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Kind of the response body.
    pub content: Content,
    /// Silence towards the client after which a comment is sent, `sse.keepAlive`; `None` if it is off.
    pub keep_alive: Option<Duration>,
    /// Silence of the upstream after which it counts as dead, `timeouts.upstreamIdle`; `None` if it is off.
    pub upstream_idle: Option<Duration>,
    /// Time that a blocked client has for the next byte, `timeouts.clientWrite`; `None` if it is off.
    pub client_write: Option<Duration>,
    /// Longest life of the stream before jitter, `sse.maxDuration`; `None` if it is off.
    pub max_duration: Option<Duration>,
    /// Whether `retry:` may be written into the response, as into a goodbye.
    pub tells_retry: bool,
    /// Limits of the stream's handovers; `None` if it stays at one endpoint.
    pub handover: Option<Limits>,
    /// Request of the client after an early end.
    pub recovery: Recovery,
}

/// Recovery of a client whose stream the proxy ends early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// A new request by itself, as `EventSource` sends: a clean end is enough.
    #[default]
    Reconnects,
    /// A request for the rest, if the stream has shown event ids; without one a clean end would pass for the whole answer.
    /// That is a response to anything but a GET.
    NeedsEventId,
}

/// Kind of the body that a stream carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// `text/event-stream` that a framer cuts into whole events.
    #[default]
    Events,
    /// `text/event-stream` that the endpoint compressed: nothing may be inserted, and it ends anywhere.
    Encoded,
}

/// Limits of the handovers of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Handovers that may begin within `window_ms`. Zero: none.
    pub handovers: u16,
    /// Milliseconds that `handovers` are counted for, from the first of them on.
    pub window_ms: u32,
    /// Milliseconds without an upstream until a handover is given up, over all successors that are tried.
    pub handover_ms: u32,
    /// Milliseconds that two upstreams are read for an event of both.
    pub overlap_ms: u32,
}

impl Default for Limits {
    /// Five in a minute: a rolling update moves a stream once or twice, three times when it meets endpoints that are
    /// next. Ten seconds for each: three successors with two seconds to connect and some to answer; a client that waits
    /// longer had better choose anew. Five to
    /// recognise an event of both. If they are too small, `limit` and `timeout` are counted while endpoints are well.
    fn default() -> Self {
        Self { handovers: 5, window_ms: 60_000, handover_ms: 10_000, overlap_ms: 5_000 }
    }
}

/// Returns whole milliseconds; longer than 49 days counts as that.
pub(super) fn whole_millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX).min(u32::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_very_long_timeout_is_not_off() {
        assert_eq!(whole_millis(Duration::MAX), u32::MAX - 1);
        assert_eq!(whole_millis(Duration::from_millis(7)), 7);
    }
}
