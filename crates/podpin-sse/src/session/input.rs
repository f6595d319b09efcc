//! Facts that a session is given as they happen.

use podpin_time::Millis;

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

/// Bytes that the framer keeps back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// None.
    Nothing,
    /// The beginning of an event.
    Block,
    /// Events of a successor that may be history.
    Undecided,
}

/// Whether a successor can be asked for exactly what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumePoint {
    /// A last event id that fits into `Last-Event-ID`, or a client that has seen no event.
    Known,
    /// No such id, but whole events, which may be recognised where they come from both endpoints.
    Overlap,
    /// No such id: events came without one, it was reset or is too long, or an event was too large to be held.
    Unknown,
}

impl ResumePoint {
    /// Returns the point of a stream whose endpoint does not flow any more.
    pub(super) fn after_end(self) -> Self {
        match self {
            Self::Known => Self::Known,
            Self::Overlap | Self::Unknown => Self::Unknown,
        }
    }
}

/// Order to leave the current endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaveOrder {
    /// Moment at which the stream leaves, at an event boundary.
    pub at: Millis,
    /// Last moment of a goodbye: it waits no longer, neither for a boundary nor for a client to take it. The session waits
    /// five seconds after `at` at most.
    pub by: Millis,
    /// Moment until which successors are requested while the old upstream flows.
    pub deadline: Millis,
    /// Reason of the order.
    pub cause: LeaveCause,
    /// Whether the budget of disconnects was charged; false if a handover was expected.
    pub already_charged: bool,
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

/// End of an upstream's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamEnd {
    /// End as HTTP defines it: last chunk, END_STREAM, or a close where the close is the end.
    Clean,
    /// Any other end.
    Broken(Fault),
}

impl UpstreamEnd {
    /// Returns the fault; `None` if the end is clean.
    pub(super) fn fault(self) -> Option<Fault> {
        match self {
            Self::Clean => None,
            Self::Broken(fault) => Some(fault),
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
    /// Anything else, and what the last attempt came to.
    Failed(Outcome),
}

/// Change in what is known of two upstreams that are both read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// Both have sent the same event.
    Recognised,
    /// The successor ended.
    Ended,
}

/// Result of a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Success: the stream continues at another endpoint.
    Ok,
    /// Response of the last successor that is neither an event stream nor a failure: 204, or another type.
    Refused,
    /// Response of 400 to 499: the application's answer, which no other endpoint is asked for.
    Status4xx,
    /// Response of 500 to 599.
    Status5xx,
    /// Endpoints under `limits.streamsPerEndpoint` only.
    Cap,
    /// No endpoint that could be asked.
    NoEndpoint,
    /// No connection to the last successor, or none that lasted until its response.
    Connect,
    /// No successor in time.
    Timeout,
    /// No point to resume from: no id came, it was reset or is too long, or an event was too large to be held.
    NoId,
    /// No event in time that both endpoints sent.
    NoOverlap,
    /// Too many handovers of this stream within the window.
    Limit,
}

/// Whether a stream may be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eligibility {
    /// GET on a route with `drain.handover`, without a veto of the application.
    Eligible,
    /// Any other stream.
    Ineligible,
}
