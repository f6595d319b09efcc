//! States of a stream, each named by what it waits for; the picture is in `session.rs`.

use podpin_time::Millis;

use super::action::{Close, HandoverCause, Reason, Report};
use super::flow::NEVER;
use super::input::{Eligibility, Fault, LeaveCause, LeaveOrder, Outcome};

/// State of a stream, named by what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The upstream's next bytes.
    Streaming,
    /// The moment of an order to leave; the upstream flows.
    Leaving(LeaveOrder),
    /// A successor; the upstream flows.
    Opening { attempt: Attempt, order: LeaveOrder },
    /// The moment of the next request for a successor, `order.at`; the upstream flows.
    Pausing { attempt: Attempt, order: LeaveOrder },
    /// An event that both upstreams send, until `order.at`; the old one flows to the client.
    Overlapping { attempt: Attempt, order: LeaveOrder, eligibility: Eligibility },
    /// A successor; no upstream flows.
    AwaitingSuccessor { attempt: Attempt, order: Option<LeaveOrder> },
    /// The client, to take the last bytes; `cut_at` is the last moment for that.
    Finishing { ending: Close, cut_at: Millis },
    /// Nothing.
    Closed,
}

/// Handover that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) cause: HandoverCause,
    pub(super) from: Millis,
    /// End of the stream if no successor takes it; `None` if it then stays.
    pub(super) otherwise_ends_with: Option<Reason>,
    /// Fault of the old upstream; `None` if it still flows, or ended cleanly.
    pub(super) fault: Option<Fault>,
    /// Requests that failed.
    pub(super) failed: u8,
    /// Result of the last of them; [`Outcome::Timeout`] before the first.
    pub(super) last: Outcome,
}

impl Attempt {
    pub(super) fn new(cause: HandoverCause, otherwise_ends_with: Option<Reason>, now: Millis) -> Self {
        Self { cause, from: now, otherwise_ends_with, fault: None, failed: 0, last: Outcome::Timeout }
    }

    pub(super) fn report(self, outcome: Outcome, now: Millis) -> Option<Report> {
        let took_ms = now.0.saturating_sub(self.from.0);
        let Attempt { cause, otherwise_ends_with, fault, .. } = self;
        Some(Report { cause, outcome, took_ms, otherwise_ends_with, fault })
    }
}

impl State {
    #[inline]
    pub(super) fn has_upstream(&self) -> bool {
        match self {
            State::Streaming
            | State::Leaving(_)
            | State::Opening { .. }
            | State::Pausing { .. }
            | State::Overlapping { .. } => true,
            State::AwaitingSuccessor { .. } | State::Finishing { .. } | State::Closed => false,
        }
    }

    #[inline]
    pub(super) fn is_ending(&self) -> bool {
        matches!(self, State::Finishing { .. } | State::Closed)
    }

    /// Returns the handover that is under way; `None` if there is none.
    #[inline]
    pub(super) fn attempt(&self) -> Option<Attempt> {
        match self {
            State::Opening { attempt, .. }
            | State::Pausing { attempt, .. }
            | State::Overlapping { attempt, .. }
            | State::AwaitingSuccessor { attempt, .. } => Some(*attempt),
            State::Streaming | State::Leaving(_) | State::Finishing { .. } | State::Closed => None,
        }
    }

    /// Whether a successor has been requested and has not answered.
    #[inline]
    pub(super) fn is_opening(&self) -> bool {
        matches!(self, State::Opening { .. } | State::AwaitingSuccessor { .. })
    }

    /// Returns the order that the stream has not settled yet; `None` if there is none, or it is part of the end.
    pub(super) fn order(&self) -> Option<LeaveOrder> {
        match self {
            State::Leaving(order)
            | State::Opening { order, .. }
            | State::Pausing { order, .. }
            | State::Overlapping { order, .. } => Some(*order),
            State::AwaitingSuccessor { order, .. } => *order,
            State::Streaming | State::Finishing { .. } | State::Closed => None,
        }
    }

    /// Returns the fault that the upstream ended with; `None` if there was none.
    pub(super) fn fault(&self) -> Option<Fault> {
        match self {
            State::AwaitingSuccessor { attempt, .. } => attempt.fault,
            State::Finishing { ending, .. } => ending.fault,
            State::Streaming
            | State::Leaving(_)
            | State::Opening { .. }
            | State::Pausing { .. }
            | State::Overlapping { .. }
            | State::Closed => None,
        }
    }

    #[inline]
    pub(super) fn takes_orders(&self) -> bool {
        match self {
            State::Streaming | State::AwaitingSuccessor { order: None, .. } => true,
            State::Finishing { cut_at, .. } => *cut_at == NEVER,
            State::Leaving(_)
            | State::Opening { .. }
            | State::Pausing { .. }
            | State::Overlapping { .. }
            | State::AwaitingSuccessor { .. }
            | State::Closed => false,
        }
    }

    pub(super) fn add_order(&mut self, order: LeaveOrder) {
        match self {
            State::Streaming => *self = State::Leaving(order),
            State::AwaitingSuccessor { order: none @ None, .. } => *none = Some(order),
            State::Finishing { cut_at, .. } if *cut_at == NEVER => *cut_at = order.by,
            State::Leaving(_)
            | State::Opening { .. }
            | State::Pausing { .. }
            | State::Overlapping { .. }
            | State::AwaitingSuccessor { .. }
            | State::Finishing { .. }
            | State::Closed => {}
        }
    }

    /// Lets a stream go anywhere that was to go to one endpoint only, and lost its own meanwhile. True the first time.
    pub(super) fn forget_target(&mut self) -> bool {
        match self {
            State::AwaitingSuccessor { order: Some(order), .. } if order.cause == LeaveCause::Rebalance => {
                order.cause = LeaveCause::Drain;
                true
            }
            _ => false,
        }
    }

    /// Waits for the client from here on, at most until the last moment of an order. An end keeps the fault that a
    /// handover could not make good.
    pub(super) fn finish(&mut self, ending: Close) {
        let ending = Close { fault: ending.fault.or(self.fault()), ..ending };
        let cut_at = self.order().map_or(NEVER, |order| order.by);
        *self = State::Finishing { ending, cut_at };
    }

    pub(super) fn set_cut_at(&mut self, moment: Millis) {
        if let State::Finishing { cut_at, .. } = self {
            *cut_at = moment;
        }
    }
}
