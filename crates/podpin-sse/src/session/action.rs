//! Orders of a session to the relay that owns the sockets, and facts to be counted.

use super::input::{Fault, LeaveCause, Outcome, Standing, UpstreamEnd};

/// Result of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// Action to be done now.
    pub action: Action,
    /// Handover to be counted now.
    pub report: Option<Report>,
    /// Whether a disconnect has to be charged to the drain's budget, because none was expected of this stream.
    pub charges_budget: bool,
}

impl Step {
    pub(super) const CONTINUE: Self = Self::of(Action::Continue);

    pub(super) const fn of(action: Action) -> Self {
        Self { action, report: None, charges_budget: false }
    }
}

/// Action of the relay. In any case it closes its upstream connection once
/// [`Session::has_upstream`](super::Session::has_upstream) is false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing to do.
    Continue,
    /// [`KEEP_ALIVE`](crate::KEEP_ALIVE) to be written.
    KeepAlive,
    /// Successor to be opened with the last event id; its answer goes to
    /// [`Session::on_answer`](super::Session::on_answer).
    Open {
        /// Endpoint to be asked.
        target: Target,
    },
    /// Successor that has answered to be read beside the old upstream, for [`Overlap`](crate::Overlap) to recognise an event.
    Overlap,
    /// Continuation at the successor that has answered; the old connection is closed.
    Swap,
    /// The stream stays where it is: its order is returned to the drain, and an attempt to open a successor is dropped.
    Stay,
    /// Bytes that are held back to be sent: the rest of the event did not come in time.
    PassHeld,
    /// Last bytes to be written. Once the client has taken all of them, [`Client::Ready`](super::Client::Ready) is reported.
    Finish(Farewell),
    /// Client connection to be closed now.
    Close(Close),
}

/// Endpoint that a handover goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The one that the session's other requests go to.
    Chosen,
    /// The one that the order names.
    Ordered,
    /// Any but the present one, which comes last.
    Another,
}

impl Target {
    /// Returns the target of a handover for this reason.
    pub(super) fn of(cause: LeaveCause) -> Self {
        match cause {
            LeaveCause::Rebalance => Self::Ordered,
            LeaveCause::Drain | LeaveCause::Withdrawn | LeaveCause::Shutdown => Self::Chosen,
        }
    }
}

/// Last bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// A drawn `retry:` where [`Session::tells_retry`](super::Session::tells_retry), then the end of the body.
    Goodbye,
    /// End of the body.
    Clean,
    /// A drawn `retry:` where [`Session::tells_retry`](super::Session::tells_retry), and no end of the body.
    BrokenGoodbye,
    /// Nothing: the body is left without its end, so that no client takes it for a whole one.
    Broken,
}

/// End of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// Reason to be counted.
    pub reason: Reason,
    /// State of the response body.
    pub body: ResponseBody,
    /// Fault that the upstream ended the stream with.
    pub fault: Option<Fault>,
    /// Whether a stream that had to leave was cut: within an event, or before the client took its goodbye.
    pub is_forced: bool,
}

impl Close {
    pub(super) fn clean(reason: Reason) -> Self {
        let fault = (reason == Reason::Idle).then_some(Fault::Silent);
        Self { reason, body: ResponseBody::Clean, fault, is_forced: false }
    }

    pub(super) fn broken(fault: Fault) -> Self {
        let (reason, body) = (Reason::UpstreamReset, ResponseBody::Broken);
        Self { reason, body, fault: Some(fault), is_forced: false }
    }
}

/// Response body at the end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    /// Complete: an HTTP/1.1 connection may carry another request.
    Clean,
    /// Everything was taken, the end of the body is left out.
    Broken,
    /// Bytes were not taken, or the client is gone.
    Cut,
}

/// Reason for the end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The client closed its side.
    ClientGone,
    /// The client took nothing for `timeouts.clientWrite`.
    SlowClient,
    /// The upstream, or a successor by a 204, ended the stream.
    UpstreamEnd,
    /// The upstream broke.
    UpstreamReset,
    /// The upstream was silent for `timeouts.upstreamIdle`.
    Idle,
    /// The endpoint or the route leaves.
    Drain,
    /// The proxy shuts down.
    Shutdown,
    /// `sse.maxDuration` is over.
    MaxDuration,
}

impl Reason {
    /// Returns the reason of a stream that ends by an order to leave.
    pub fn of(cause: LeaveCause) -> Self {
        match cause {
            LeaveCause::Drain | LeaveCause::Withdrawn | LeaveCause::Rebalance => Self::Drain,
            LeaveCause::Shutdown => Self::Shutdown,
        }
    }

    /// Returns the reason of a stream that ends because of this and is not handed over.
    pub(super) fn unless_moved(end: UpstreamEnd, standing: Standing) -> Self {
        match end {
            UpstreamEnd::Clean if standing == Standing::Serving => Self::UpstreamEnd,
            UpstreamEnd::Clean => Self::Drain,
            UpstreamEnd::Broken(Fault::Silent) => Self::Idle,
            UpstreamEnd::Broken(Fault::Truncated | Fault::Reset | Fault::Malformed) => Self::UpstreamReset,
        }
    }
}

/// Reason for a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoverCause {
    /// The endpoint leaves, or another one is preferred.
    Planned,
    /// The upstream died.
    Crash,
}

impl HandoverCause {
    /// Returns the reason of a handover after this end.
    pub(super) fn of(end: UpstreamEnd) -> Self {
        match end {
            UpstreamEnd::Clean => Self::Planned,
            UpstreamEnd::Broken(_) => Self::Crash,
        }
    }
}

/// A handover that is over. Each that begins, or was due and could not begin, has exactly one report, with three
/// exceptions: the stream ends meanwhile for a reason of its own, its drain is taken back, or a rebalancing could not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Reason of the handover.
    pub cause: HandoverCause,
    /// Result.
    pub outcome: Outcome,
    /// Milliseconds from its beginning, or from the end of the old upstream if that came meanwhile. Zero for one that could not begin.
    pub took_ms: u64,
    /// End that the handover averts, or fails to avert; `None` if the stream could have stayed.
    pub otherwise_ends_with: Option<Reason>,
    /// Fault that the old upstream ended with; `None` if it was still there, or ended cleanly.
    pub fault: Option<Fault>,
}
