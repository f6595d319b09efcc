//! Streams that leave together: their order, their schedule and their account.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use podpin_config::Order;
use podpin_time::Millis;

use crate::fact::{DrainSubject, Fact};
use crate::handle::{LeaveTimes, Mobility};
use crate::member::DrainMember;
use crate::pacer::DrainSchedule;
use crate::policy::DrainPolicy;
use crate::report::{Cause, GroupAccount, LeavingCount};

/// Time between two turns while streams leave. Moments are laid out within it, so it only bounds how late the controller
/// notices a change.
pub(crate) const TURN: Duration = Duration::from_millis(50);
/// Least time of a handover that begins at the very end of a drain: most take milliseconds, and disconnect no client.
const HANDOVER_LEAST: Duration = Duration::from_millis(500);
/// Time after `shutdown.spread` that a client may take for its goodbye, or an event for its end.
const SHUTDOWN_LAG: Duration = Duration::from_millis(300);
/// Interval at which streams are put in order anew by their silence.
const REORDER: Duration = Duration::from_secs(1);

/// Streams that leave together.
#[derive(Debug)]
pub(crate) struct DrainGroup<M> {
    pub(crate) subject: DrainSubject,
    /// Policy at the beginning: a reload changes nothing for streams that leave already.
    pub(crate) policy: DrainPolicy,
    pub(crate) schedule: DrainSchedule,
    /// Streams without a moment, the next one first.
    queue: VecDeque<Arc<M>>,
    /// Streams that may finish until the deadline.
    cut_at_deadline: VecDeque<Arc<M>>,
    account: Arc<GroupAccount>,
    pub(crate) began: Millis,
    ordered: Millis,
    /// Whether [`Fact::BudgetTooSmall`] was reported.
    has_warned: bool,
}

impl<M: DrainMember> DrainGroup<M> {
    /// Creates a group without streams.
    pub(crate) fn new(
        subject: DrainSubject,
        policy: DrainPolicy,
        schedule: DrainSchedule,
        leaving: &Arc<LeavingCount>,
        now: Millis,
    ) -> DrainGroup<M> {
        let cause = match subject {
            DrainSubject::Endpoint(_) => Cause::Drain,
            DrainSubject::WithdrawnRoutes => Cause::Withdrawn,
            DrainSubject::Shutdown => Cause::Shutdown,
        };
        DrainGroup {
            subject,
            policy,
            schedule,
            queue: VecDeque::new(),
            cut_at_deadline: VecDeque::new(),
            account: GroupAccount::new(cause, schedule.budget_use(), leaving),
            began: now,
            ordered: now,
            has_warned: false,
        }
    }

    /// Queues a stream, unless it belongs to a group already or has ended.
    pub(crate) fn join(&mut self, member: Arc<M>) {
        match member.drain().queue(&self.account) {
            Some(Mobility::CutAtDeadline) => self.cut_at_deadline.push_back(member),
            Some(Mobility::Rebalances | Mobility::DrainOnly) => self.queue.push_back(member),
            None => {}
        }
    }

    /// Lets all streams without a moment go.
    pub(crate) fn release(&mut self) {
        let members = self.queue.drain(..).chain(self.cut_at_deadline.drain(..));
        members.for_each(|member| member.drain().release(&self.account));
    }

    /// Drops streams that ended or moved, cuts those that did not finish in time, and renews the order by idleness.
    pub(crate) fn prepare(&mut self, order: Order, now: Millis, rng: &mut dyn FnMut(u64) -> u64) {
        if now >= self.schedule.deadline() {
            let times = LeaveTimes { at: now, by: now, deadline: now };
            self.cut_at_deadline.drain(..).for_each(|member| {
                member.drain().leave(&self.account, times);
            });
        }
        self.queue.retain(|member| member.drain().is_queued_in(&self.account));
        self.schedule.remaining = self.remaining();
        if order == Order::Idle && now.since(self.ordered) >= REORDER {
            self.put_in_order(order, now, rng);
        }
    }

    /// Sorts or shuffles the queue.
    pub(crate) fn put_in_order(&mut self, order: Order, now: Millis, rng: &mut dyn FnMut(u64) -> u64) {
        self.ordered = now;
        let queue = self.queue.make_contiguous();
        match order {
            Order::Oldest => queue.sort_by_key(|member| (member.since(), member.id())),
            // Cached: events flow while this sorts, and a key that changes is no order.
            Order::Idle => queue.sort_by_cached_key(|member| (member.last_event(), member.id())),
            Order::Random => shuffle(queue, rng),
        }
    }

    /// Gives the streams that are due their moments, evenly within the turn. Returns what came of it.
    pub(crate) fn notify_due(&mut self, now: Millis) -> Option<Fact> {
        let due = self.schedule.due;
        let mut streams = 0;
        for place in 0..u64::from(due) {
            let Some(member) = self.queue.pop_front() else { break };
            let times = self.times(now, place, u64::from(due));
            streams += u32::from(member.drain().leave(&self.account, times));
        }
        let (subject, remaining) = (self.subject.clone(), self.remaining());
        (streams > 0).then_some(Fact::Notified { subject, streams, remaining })
    }

    /// Returns the times of the stream at this place of `due` in the turn.
    fn times(&self, now: Millis, place: u64, due: u64) -> LeaveTimes {
        let turn = u64::try_from(TURN.as_millis()).unwrap_or(u64::MAX);
        let deadline = self.schedule.deadline();
        let at = Millis(now.0 + turn * place / due).min(deadline.max(now));
        // Until the beginning the endpoint keeps its clients.
        let at = at.max(self.schedule.begins().min(deadline));
        let by = match self.account.cause() {
            Cause::Drain | Cause::Withdrawn | Cause::Rebalance => deadline.max(at),
            // The process waits for the last of them.
            Cause::Shutdown => self.schedule.ends().max(at).after(SHUTDOWN_LAG),
        };
        LeaveTimes { at, by, deadline: deadline.max(at.after(HANDOVER_LEAST)) }
    }

    /// Returns the warning that the budget is too small, once.
    pub(crate) fn warn_of_budget(&mut self) -> Option<Fact> {
        let is_first = self.schedule.due > 0 && !std::mem::replace(&mut self.has_warned, true);
        is_first.then(|| Fact::BudgetTooSmall { subject: self.subject.clone() })
    }

    /// Changes the times; streams that have their moment keep it.
    pub(crate) fn reschedule(&mut self, begins: Millis, deadline: Millis) -> Fact {
        self.schedule.reschedule(begins, self.policy.times.spread, deadline);
        Fact::Rescheduled { subject: self.subject.clone(), begins, deadline }
    }

    /// Returns the fact that the group begins to leave.
    pub(crate) fn began(&self) -> Fact {
        Fact::Began {
            subject: self.subject.clone(),
            streams: self.account.streams(),
            begins: self.schedule.begins(),
            deadline: self.schedule.deadline(),
        }
    }

    /// Returns the report of the whole drain; `None` if no stream was concerned.
    pub(crate) fn finished(&self) -> Option<Fact> {
        let report = self.account.report();
        let took = report.last_end.since(self.began);
        let (subject, is_told) = (self.subject.clone(), report.streams > 0);
        is_told.then(|| Fact::Finished { subject, report: Box::new(report), took })
    }

    /// Returns whether streams wait for their moment.
    pub(crate) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Returns whether any stream was concerned.
    pub(crate) fn has_streams(&self) -> bool {
        self.account.streams() > 0
    }

    /// Returns whether all streams have left.
    pub(crate) fn has_ended(&self) -> bool {
        self.account.has_ended()
    }

    /// Returns whether the drain is over, but for clients that are awaited.
    pub(crate) fn is_over(&self, now: Millis) -> bool {
        self.queue.is_empty() && self.has_ended() && self.schedule.begins() <= now
    }

    /// Returns whether all streams have left and no client is awaited.
    pub(crate) fn is_settled(&self) -> bool {
        self.account.is_settled()
    }

    /// Returns how many streams wait for their moment.
    fn remaining(&self) -> u32 {
        u32::try_from(self.queue.len()).unwrap_or(u32::MAX)
    }
}

/// Shuffles as Fisher and Yates do; `rng(bound)` returns a number below `bound`.
fn shuffle<T>(items: &mut [T], rng: &mut dyn FnMut(u64) -> u64) {
    for last in (1..items.len()).rev() {
        let bound = u64::try_from(last).unwrap_or(u64::MAX).saturating_add(1);
        let other = usize::try_from(rng(bound)).unwrap_or(0).min(last);
        items.swap(last, other);
    }
}
