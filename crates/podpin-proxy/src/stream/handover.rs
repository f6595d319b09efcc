//! Drives the handovers of one stream: requests successors, and keeps one that has answered until the session decides.
//!
//! ```text
//! Action::Open ──▶ begin ──▶ the request is polled with the relay ──▶ Answer ──▶ Session::on_answer ──▶ take_successor
//!                                                                                   └▶ cancel
//! ```
//!
//! When to open, to swap and to give up is decided by [`podpin_sse::session`]; which endpoint is requested, by
//! `successor.rs`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use podpin_sse::session::{Answer, Eligibility};

use crate::routing::table::Route;
use crate::stream::successor::{
    ResumePlan, Successor, SuccessorResult, SuccessorTarget, may_go_on_elsewhere,
};

/// Handovers of one stream.
pub(crate) struct HandoverDriver {
    plan: ResumePlan,
    /// Request under way.
    request: Option<Pin<Box<dyn Future<Output = SuccessorResult> + Send>>>,
    /// Successor that has answered with an event stream.
    successor: Option<Box<Successor>>,
}

impl HandoverDriver {
    /// Returns the driver of a stream that may be handed over.
    pub(crate) fn new(plan: ResumePlan) -> HandoverDriver {
        HandoverDriver { plan, request: None, successor: None }
    }

    /// Begins to request a successor for what follows `last_event_id`. The task has to poll afterwards.
    pub(crate) fn begin(&mut self, route: &Arc<Route>, last_event_id: Vec<u8>, target: SuccessorTarget) {
        let request = self.plan.request(route, last_event_id);
        self.request = Some(Box::pin(request.send(target)));
    }

    /// Returns the answer of the successor once there is one; `None` if nothing has changed.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Option<Answer> {
        let request = self.request.as_mut()?;
        let Poll::Ready(result) = request.as_mut().poll(context) else { return None };
        self.request = None;
        Some(match result {
            SuccessorResult::Stream(successor) => {
                let may_move_again = may_go_on_elsewhere(&successor.answer.head.headers);
                self.successor = Some(successor);
                Answer::EventStream(if may_move_again {
                    Eligibility::Eligible
                } else {
                    Eligibility::Ineligible
                })
            }
            SuccessorResult::NoContent => Answer::NoContent,
            SuccessorResult::Refused => Answer::Refused,
            SuccessorResult::Failed => Answer::Failed,
        })
    }

    /// Takes the successor that has answered; `None` if none has.
    pub(crate) fn take_successor(&mut self) -> Option<Successor> {
        self.successor.take().map(|successor| *successor)
    }

    /// Drops the request that is under way, and a successor that is not wanted any more.
    pub(crate) fn cancel(&mut self) {
        (self.request, self.successor) = (None, None);
    }
}
