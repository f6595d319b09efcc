//! Streams that leave together: their order, their schedule and their account.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use podpin_config::Order;
use podpin_time::Millis;

use crate::fact::{DrainSubject, Fact};
use crate::handle::{LeaveTimes, Mobility};
use crate::member::{Departure, DrainMember};
use crate::pacer::{BudgetUse, DrainSchedule};
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
    /// Schedule of streams that cannot be handed over, where the others are: their departures are charged to the budget.
    goodbye_schedule: DrainSchedule,
    /// Streams without a moment, the next one first.
    queue: VecDeque<Arc<M>>,
    /// Streams without a moment that leave by [`DrainGroup::goodbye_schedule`].
    goodbyes: VecDeque<Arc<M>>,
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
            goodbye_schedule: schedule.charged(),
            queue: VecDeque::new(),
            goodbyes: VecDeque::new(),
            cut_at_deadline: VecDeque::new(),
            account: GroupAccount::new(cause, leaving),
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
        let members =
            self.queue.drain(..).chain(self.goodbyes.drain(..)).chain(self.cut_at_deadline.drain(..));
        members.for_each(|member| member.drain().release(&self.account));
    }

    /// Drops streams that ended or moved, cuts those that did not finish in time, and renews the order by idleness.
    pub(crate) fn prepare(&mut self, order: Order, now: Millis, rng: &mut dyn FnMut(u64) -> u64) {
        if now >= self.schedule.deadline() {
            let times = LeaveTimes { at: now, by: now, deadline: now };
            self.cut_at_deadline.drain(..).for_each(|member| {
                member.drain().leave(&self.account, times, BudgetUse::Charged);
            });
        }
        self.queue.retain(|member| member.drain().is_queued_in(&self.account));
        self.goodbyes.retain(|member| member.drain().is_queued_in(&self.account));
        self.sort_by_departure();
        self.schedule.remaining = count(&self.queue);
        self.goodbye_schedule.remaining = count(&self.goodbyes);
        if order == Order::Idle && now.since(self.ordered) >= REORDER {
            self.put_in_order(order, now, rng);
        }
    }

    /// Puts each stream into the queue for the way in which it would leave now: what a stream has shown of itself may have
    /// changed.
    fn sort_by_departure(&mut self) {
        if self.account.cause() == Cause::Shutdown {
            // The client of an answer that has shown an event id can repair its end: a goodbye, at the pace of all.
            let (repairable, others) =
                split(&mut self.cut_at_deadline, |member| member.departure() == Departure::Goodbye);
            self.cut_at_deadline = others;
            self.queue.extend(repairable);
        }
        if self.schedule.budget_use() == BudgetUse::Free {
            let is_handed_over = |member: &M| member.departure() == Departure::Handover;
            let (stay_free, charged) = split(&mut self.queue, is_handed_over);
            let (free, stay_charged) = split(&mut self.goodbyes, is_handed_over);
            (self.queue, self.goodbyes) = (stay_free, stay_charged);
            self.queue.extend(free);
            self.goodbyes.extend(charged);
        }
    }

    /// Sorts or shuffles the queues.
    pub(crate) fn put_in_order(&mut self, order: Order, now: Millis, rng: &mut dyn FnMut(u64) -> u64) {
        self.ordered = now;
        for queue in [&mut self.queue, &mut self.goodbyes] {
            let queue = queue.make_contiguous();
            match order {
                Order::Oldest => queue.sort_by_key(|member| (member.since(), member.id())),
                // Cached: events flow while this sorts, and a key that changes is no order.
                Order::Idle => queue.sort_by_cached_key(|member| (member.last_event(), member.id())),
                Order::Random => shuffle(queue, rng),
            }
        }
    }

    /// Returns the schedules of the group, for the pacer.
    pub(crate) fn schedules(&mut self) -> [&mut DrainSchedule; 2] {
        [&mut self.schedule, &mut self.goodbye_schedule]
    }

    /// Gives the streams that are due their moments, evenly within the turn. Returns what came of it.
    pub(crate) fn notify_due(&mut self, now: Millis) -> Option<Fact> {
        let mut streams = 0;
        for (schedule, is_goodbye) in [(self.schedule, false), (self.goodbye_schedule, true)] {
            for place in 0..u64::from(schedule.due) {
                let queue = if is_goodbye { &mut self.goodbyes } else { &mut self.queue };
                let Some(member) = queue.pop_front() else { break };
                let times = self.times(now, place, u64::from(schedule.due));
                streams += u32::from(member.drain().leave(&self.account, times, schedule.budget_use()));
            }
        }
        let (subject, remaining) = (self.subject.clone(), count(&self.queue) + count(&self.goodbyes));
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
        let is_due = self.schedule.due > 0 || self.goodbye_schedule.due > 0;
        let is_first = is_due && !std::mem::replace(&mut self.has_warned, true);
        is_first.then(|| Fact::BudgetTooSmall { subject: self.subject.clone() })
    }

    /// Changes the times; streams that have their moment keep it.
    pub(crate) fn reschedule(&mut self, begins: Millis, deadline: Millis) -> Fact {
        let spread = self.policy.times.spread;
        self.schedules().into_iter().for_each(|schedule| schedule.reschedule(begins, spread, deadline));
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
        !self.queue.is_empty() || !self.goodbyes.is_empty()
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
        !self.has_queue() && self.has_ended() && self.schedule.begins() <= now
    }

    /// Returns whether all streams have left and no client is awaited.
    pub(crate) fn is_settled(&self) -> bool {
        self.account.is_settled()
    }
}

/// Returns the length of a queue.
fn count<M>(queue: &VecDeque<Arc<M>>) -> u32 {
    u32::try_from(queue.len()).unwrap_or(u32::MAX)
}

/// Empties a queue into one of the members that `belong` and one of the others, both in their order.
fn split<M>(
    queue: &mut VecDeque<Arc<M>>,
    belong: impl Fn(&M) -> bool,
) -> (VecDeque<Arc<M>>, VecDeque<Arc<M>>) {
    std::mem::take(queue).into_iter().partition(|member| belong(member))
}

/// Shuffles as Fisher and Yates do; `rng(bound)` returns a number below `bound`.
fn shuffle<T>(items: &mut [T], rng: &mut dyn FnMut(u64) -> u64) {
    for last in (1..items.len()).rev() {
        let bound = u64::try_from(last).unwrap_or(u64::MAX).saturating_add(1);
        let other = usize::try_from(rng(bound)).unwrap_or(0).min(last);
        items.swap(last, other);
    }
}
