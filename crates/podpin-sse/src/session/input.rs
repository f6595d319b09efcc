//! Facts that a session is given: its settings when it begins, then events as they happen.

use std::time::Duration;

use podpin_time::Millis;

use super::action::{HandoverCause, Reason, Target};
use super::flow::whole_millis;
use super::limits::Limits;

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
    /// Bounds of the `retry:` of a goodbye, `sse.retry.drain`.
    pub goodbye_retry: RetryRange,
    /// Limits of the stream's handovers; `None` if it stays at one endpoint.
    pub handover: Option<Limits>,
}

/// Bounds of a drawn reconnection time, both inclusive.
#[derive(Clone, Copy, Debug, Default)]
pub struct RetryRange {
    min_ms: u32,
    max_ms: u32,
}

impl RetryRange {
    /// Returns the range from `min` to `max`, in whole milliseconds of at most 49 days.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min_ms: whole_millis(min), max_ms: whole_millis(max.max(min)) }
    }

    pub(super) fn pick(self, draw: u64) -> u64 {
        let values = u64::from(self.max_ms - self.min_ms) + 1;
        u64::from(self.min_ms) + draw % values
    }
}

/// Kind of the body that a stream carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// `text/event-stream` that a framer cuts into whole events.
    #[default]
    Events,
    /// Anything else, forwarded as it comes: nothing may be inserted, and only a broken end shows that something is missing.
    Opaque,
}

/// Place in the event stream after the bytes that were forwarded last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Between two events: a comment or a `retry:` may be inserted.
    Boundary,
    /// Within an event that is too large to be held, or in a body without events.
    WithinEvent,
}

impl Position {
    /// Returns the position that [`Framer::at_boundary`](crate::Framer::at_boundary) stands for.
    #[inline]
    pub fn of(at_boundary: bool) -> Self {
        if at_boundary { Self::Boundary } else { Self::WithinEvent }
    }
}

/// State of the client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Everything was taken, TLS records included.
    Ready,
    /// Bytes are left that the client does not take; the upstream is not read meanwhile.
    Blocked,
    /// The client closed or reset its side.
    Gone,
}

/// The stream's current endpoint, as discovery and the framer see it at the moment of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Phase of the endpoint.
    pub standing: Standing,
    /// Point from which a successor can continue.
    pub resume: ResumePoint,
}

/// Phase of an endpoint, as far as a stream's end depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The endpoint takes new clients: a clean end of its body is the end of the stream.
    Serving,
    /// The endpoint drains or is gone: a clean end of its body is the end of its process, not of the stream.
    Leaving,
}

/// Whether a successor can be asked for exactly what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumePoint {
    /// A last event id that fits into `Last-Event-ID`.
    Known,
    /// No such id: none came, it was reset or is too long, or an event was too large to be held.
    Unknown,
}

/// Order to leave the current endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaveOrder {
    /// Moment at which the stream leaves, at an event boundary.
    pub at: Millis,
    /// Moment at which a goodbye no longer waits: neither for a boundary, nor for a client to take it.
    pub by: Millis,
    /// Moment at which a handover is given up while the old upstream flows.
    pub deadline: Millis,
    /// Reason of the order.
    pub cause: LeaveCause,
    /// Whether no budget of disconnects was charged, because a handover was expected.
    pub is_free: bool,
}

/// Reason of a [`LeaveOrder`], which decides what the stream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveCause {
    /// The endpoint drains: handover if possible, else a goodbye. Nothing if the endpoint serves again.
    Drain,
    /// A reload removed the route or the service: goodbye.
    Withdrawn,
    /// The proxy itself shuts down: goodbye.
    Shutdown,
    /// A chosen endpoint has fewer streams: handover to it, or the stream stays.
    Rebalance,
}

impl LeaveCause {
    pub(super) fn target(self) -> Target {
        match self {
            Self::Rebalance => Target::Ordered,
            Self::Drain | Self::Withdrawn | Self::Shutdown => Target::Chosen,
        }
    }
}

/// End of an upstream's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamEnd {
    /// End as HTTP defines it: last chunk, END_STREAM, or a close where the close is the end.
    Clean,
    /// Any other end.
    Broken(Fault),
}

impl UpstreamEnd {
    /// Returns the reason of a stream that ends because of this and is not handed over. A clean end is meant that is
    /// the endpoint's and not the stream's.
    pub(super) fn reason_unless_moved(self) -> Reason {
        match self {
            Self::Clean => Reason::Drain,
            Self::Broken(Fault::Silent) => Reason::Idle,
            Self::Broken(Fault::Truncated | Fault::Reset | Fault::Malformed) => Reason::UpstreamReset,
        }
    }

    pub(super) fn handover_cause(self) -> HandoverCause {
        match self {
            Self::Clean => HandoverCause::Planned,
            Self::Broken(_) => HandoverCause::Crash,
        }
    }
}

/// Fault of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Connection closed within the body.
    Truncated,
    /// Connection reset.
    Reset,
    /// Malformed chunk.
    Malformed,
    /// No byte for `timeouts.upstreamIdle`. As good as dead, but the client is missing nothing that is known to have
    /// begun, so its stream ends with a goodbye.
    Silent,
}

/// Result of opening a successor, all attempts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200 with `text/event-stream`, and whether the stream may be handed over again.
    EventStream(Eligibility),
    /// 204: the stream is over, clients shall not reconnect (WHATWG HTML, section 9.2.3).
    NoContent,
    /// Any other response.
    Refused,
    /// No response, or no endpoint to ask.
    Failed,
}

/// Whether a stream may be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eligibility {
    /// GET on a route with `drain.handover: lastEventId`, without a veto of the application.
    Eligible,
    /// Any other stream.
    Ineligible,
}
