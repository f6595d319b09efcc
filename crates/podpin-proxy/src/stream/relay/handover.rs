//! A stream that goes on at another pod: what `podpin_sse::Handover` decides is done here.
//!
//! ```text
//! leave ──▶ on_drain ──▶ Open ──▶ the successor is asked, the old pod's events flow ──▶ Swap
//! dead  ──▶ on_upstream_end ──▶ Open ──▶ the successor is asked, the client waits   ──▶ Swap
//!                          └──▶ Goodbye, EndClean, EndBroken: `ending.rs`
//! ```
//!
//! The swap takes one turn of the relay: the old connection is dropped with whatever it had begun, the successor's body
//! begins at a boundary, and what it replays is dropped by the framer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use podpin_endpoints::Phase;
use podpin_sse::{
    Action, Answer, Cause as HandoverCause, Eligibility, End, Handover, Limits, Outcome, Pod, Report, Step,
};
use podpin_time::Millis;

use crate::clock;
use crate::stream::relay::ending::{Fault, LAST_WORDS, Leave, NEVER};
use crate::stream::relay::{Body, Relay};
use crate::stream::successor::{ResumePlan, Successor, SuccessorResult, SuccessorTarget, allows_handover};
use crate::stream_registry::Cause;
use crate::telemetry::labels::{CloseReason, DepartureKind, UpstreamErrorKind};

/// The handovers of one stream.
pub(crate) struct Passage {
    handover: Handover,
    plan: ResumePlan,
    asking: Option<Pin<Box<dyn Future<Output = SuccessorResult> + Send>>>,
    /// A pod that has answered.
    successor: Option<Box<Successor>>,
    /// What the stream ends as, if it comes to that.
    fate: (CloseReason, Fault),
}

impl Passage {
    /// A stream that may be handed over.
    pub(crate) fn new(plan: ResumePlan, limits: Limits) -> Passage {
        Passage {
            handover: Handover::new(Eligibility::Eligible, limits),
            plan,
            asking: None,
            successor: None,
            fate: (CloseReason::Drain, Fault::None),
        }
    }
}

impl Relay {
    /// The framer looks for what the client has already.
    pub(crate) fn awaits_replay(&self) -> bool {
        self.passage.is_some() && matches!(&self.body, Body::Events(framer) if framer.awaits_replay())
    }

    /// When a handover that is under way has taken too long: its own time is over, or that of the drain while the old pod
    /// still flows.
    pub(crate) fn passage_due(&self) -> Millis {
        let Some(due) = self.passage.as_ref().and_then(|passage| passage.handover.due()) else {
            return NEVER;
        };
        let leave = self.leave.as_ref().filter(|_| self.upstream.is_some());
        Millis(due.0).min(leave.map_or(NEVER, |leave| leave.deadline))
    }

    /// When a handover that is under way is given up because the proxy itself goes.
    pub(crate) fn passage_ends(&self) -> Millis {
        let under_way = self.passage.as_ref().filter(|passage| passage.handover.due().is_some());
        let times = under_way.and_then(|passage| passage.plan.shared.lifecycle.shutdown_times());
        times.map_or(NEVER, |times| clock::after(times.begins, times.spread).min(times.deadline))
    }

    /// A handover has taken too long.
    pub(crate) fn passage_time(&mut self, now: Millis) {
        self.decide(now, |handover, _, moment| {
            let due = handover.due().unwrap_or(moment);
            handover.on_time(due.max(moment))
        });
    }

    /// The stream ends: nothing of a handover is wanted any more.
    pub(crate) fn stop_passage(&mut self) {
        if let Some(passage) = &mut self.passage {
            passage.handover.on_finish();
            (passage.asking, passage.successor) = (None, None);
        }
        self.leave_pod();
    }

    /// Closes the connection to the pod, if there is one.
    pub(crate) fn leave_pod(&mut self) {
        if let Some(upstream) = self.upstream.take() {
            upstream.close();
        }
    }

    /// Leaves for another pod; false when this stream cannot.
    pub(crate) fn leave_for_another(&mut self, leave: &Leave, now: Millis) -> bool {
        let Some(passage) = &mut self.passage else { return self.stays(leave) };
        passage.fate = (leave.reason, Fault::None);
        match &leave.target {
            Some(_) => {
                self.decide(now, Handover::on_rebalance);
                // Not possible: it stays.
                self.passage_due() != NEVER || self.stays(leave)
            }
            None => self.decide(now, Handover::on_drain),
        }
    }

    /// A stream that need not leave goes on where it is; false for others.
    fn stays(&mut self, leave: &Leave) -> bool {
        if leave.target.is_none() {
            return false;
        }
        self.stay();
        true
    }

    /// It goes on where it is.
    pub(crate) fn stay(&mut self) {
        self.leave = None;
        self.record.stay();
        // Its endpoint, or the proxy, may have begun to leave meanwhile, and passed over a stream that was on its way.
        self.record.route.service.desk.report_late(Arc::clone(&self.record));
    }

    /// The pod's body has come to its end, one way or another.
    pub(crate) fn upstream_ended(&mut self, end: End, fault: Fault) {
        let reason = match end {
            End::Clean => CloseReason::UpstreamEnd,
            End::Reset => CloseReason::UpstreamReset,
            End::Silent => CloseReason::Idle,
        };
        let Some(passage) = &mut self.passage else {
            return match end {
                End::Clean => self.end(reason, None),
                End::Reset => self.broken(fault),
                // Of anything but events there may be more to come, which only a bad end can tell.
                End::Silent if matches!(self.body, Body::Opaque) => self.broken(fault),
                End::Silent => self.goodbye(reason),
            };
        };
        let service = &self.record.route.service;
        let phase =
            service.endpoint(&self.record.endpoint().id).map_or(Phase::Gone, |endpoint| endpoint.phase);
        let pod = if phase >= Phase::Draining { Pod::Leaving } else { Pod::Ready };
        let planned = (end, pod) == (End::Clean, Pod::Leaving);
        passage.fate = (if planned { CloseReason::Drain } else { reason }, fault);
        self.decide(clock::now(), |handover, id, now| handover.on_upstream_end(end, pod, id, now));
        if self.ending.is_none() {
            self.upstream = None;
        }
    }

    /// Looks whether the successor has answered.
    pub(crate) fn poll_passage(&mut self, context: &mut Context<'_>) {
        let Some(passage) = &mut self.passage else { return };
        let Some(asking) = &mut passage.asking else { return };
        let Poll::Ready(asked) = asking.as_mut().poll(context) else { return };
        passage.asking = None;
        let answer = match asked {
            SuccessorResult::Stream(successor) => {
                passage.successor = Some(successor);
                Answer::EventStream
            }
            SuccessorResult::Not(Answer::Refused | Answer::Failed) if self.may_go_elsewhere() => {
                self.ask();
                return self.poll_passage(context);
            }
            SuccessorResult::Not(answer) => answer,
        };
        self.decide(clock::now(), |handover, id, now| handover.on_answer(answer, id, now));
    }

    /// It was asked to go to one pod, for balance's sake, and lost its own meanwhile: any other will do from now on.
    fn may_go_elsewhere(&mut self) -> bool {
        let target = self.leave.as_mut().filter(|_| self.upstream.is_none()).map(|leave| &mut leave.target);
        target.is_some_and(|target| target.take().is_some())
    }

    /// Tells the state machine what happened, and does what it says; false where there is none.
    fn decide(
        &mut self,
        now: Millis,
        happened: impl FnOnce(&mut Handover, Option<&[u8]>, Millis) -> Step,
    ) -> bool {
        let (Some(passage), Body::Events(framer)) = (&mut self.passage, &self.body) else { return false };
        let resume_id = framer.resume_id().filter(|id| is_field_value(id));
        let step = happened(&mut passage.handover, resume_id, now);
        if let Some(report) = step.report {
            self.count_handover(report);
        }
        self.obey(step.action, now);
        true
    }

    fn obey(&mut self, action: Action, now: Millis) {
        let Some(passage) = &mut self.passage else { return };
        let (reason, fault) = passage.fate;
        match action {
            Action::Nothing if passage.handover.due().is_none() => {
                // It was given up, and the stream stays.
                (passage.asking, passage.successor) = (None, None);
                if let Some(leave) = self.leave.clone() {
                    self.stays(&leave);
                }
            }
            Action::Nothing => {}
            Action::Open { .. } => self.ask(),
            Action::Swap => self.swap(now),
            Action::Goodbye => {
                self.forced = reason == CloseReason::Drain && !self.at_boundary();
                if let Some(leave) = &mut self.leave {
                    // The time that it had went with the attempt.
                    leave.by = leave.by.max(clock::after(now, LAST_WORDS));
                    self.record.route.service.desk.charge();
                }
                self.goodbye(reason);
            }
            Action::EndClean => self.end(CloseReason::UpstreamEnd, None),
            Action::EndBroken => self.broken(fault),
        }
    }

    fn ask(&mut self) {
        let (Some(passage), Body::Events(framer)) = (&mut self.passage, &mut self.body) else { return };
        let id = framer.tell().unwrap_or_default().to_vec();
        let target = self.leave.as_ref().and_then(|leave| leave.target.clone());
        let target =
            target.map_or_else(|| SuccessorTarget::From(self.record.endpoint().id), SuccessorTarget::To);
        let request = passage.plan.request(&self.record.route, id);
        passage.asking = Some(Box::pin(request.send(target)));
    }

    /// Goes on at the successor.
    fn swap(&mut self, now: Millis) {
        let (Some(passage), Body::Events(framer)) = (&mut self.passage, &mut self.body) else { return };
        let Some(successor) = passage.successor.take() else { return };
        let shared = Arc::clone(&passage.plan.shared);
        let Successor { endpoint, permit, response } = *successor;
        tracing::debug!(stream = self.record.id, to = %endpoint.name, "handed over");
        framer.adopt();
        if let Some(left) = self.upstream.replace(response.transport) {
            left.close();
        }
        (self.decoder, self.early) = (response.start.body, response.start.rest);
        self.last_read = now;
        if let Some(permits) = &mut self.permits {
            permits.move_to(permit);
        }
        self.settle_departure(endpoint);
        if !allows_handover(&response.start.head.headers) {
            self.passage = None;
        }
        shared.leave_with_the_others(&self.record);
    }

    /// The drain that the stream was part of has one less.
    fn settle_departure(&mut self, to: Arc<podpin_endpoints::Endpoint>) {
        let service = &self.record.route.service;
        let (from, to_id) = (self.record.endpoint().id, to.id);
        let order = self.record.move_to(to);
        let is_rebalance = matches!(order.as_ref().map(|order| &order.cause), Some(Cause::Rebalance(_)));
        if let Some(order) = order {
            order.tally.departed(DepartureKind::Handover);
        }
        match self.record.session {
            Some(session) if is_rebalance => service.moved.remember(session, (from, to_id)),
            Some(session) => service.moved.follow(session, to_id),
            None => {}
        }
        self.leave = None;
        if self.passage.as_ref().is_some_and(|passage| passage.fate.0 == CloseReason::Drain) {
            service.metrics.drain_departures.inc(DepartureKind::Handover.label());
        }
    }

    fn count_handover(&self, report: Report) {
        let metrics = &self.record.route.service.metrics;
        metrics.handovers.inc(report.cause, report.outcome);
        let reset = self.passage.as_ref().is_some_and(|passage| passage.fate.0 == CloseReason::UpstreamReset);
        if reset && report.outcome == Outcome::Ok {
            // Of a stream that ends for it, its end tells.
            metrics.upstream_errors.inc(UpstreamErrorKind::Reset.label());
        }
        if matches!(report.outcome, Outcome::Ok | Outcome::Refused | Outcome::Timeout) {
            metrics.handover_duration.observe(std::time::Duration::from_millis(report.took_ms).as_secs_f64());
        }
        tracing::debug!(
            stream = self.record.id,
            endpoint = %self.record.endpoint().name,
            planned = report.cause == HandoverCause::Planned,
            outcome = ?report.outcome,
            millis = report.took_ms,
            "handover"
        );
    }
}

/// Whether it can stand in a header line (RFC 9110 section 5.5), which is how a successor is told.
fn is_field_value(id: &[u8]) -> bool {
    id.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
}
