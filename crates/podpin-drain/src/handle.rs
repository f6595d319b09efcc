//! The state of one stream that may have to leave: the one answer to "is this stream leaving?".
//!
//! ```text
//!                  queue                        leave
//!    ┌─────────┐ ────────▶ ┌────────┐ ───────────────────────────▶ ┌─────────┐
//!    │ Staying │           │ Queued │                              │ Leaving │
//!    └─────────┘ ◀──────── └────────┘                              └─────────┘
//!      │  ▲ │  release, moved, stay │                                 │ │
//!      │  │ └─ rebalance, evacuate ──┼─────────────────────────────────▶ │
//!      │  └──────────── moved, stay ┼─────────────────────────────────┘ │
//!      │ end                        │ end                               │ end
//!      └────────────────────────────┴──────▶ ┌───────┐ ◀────────────────┘
//!                                            │ Ended │
//!                                            └───────┘
//! ```
//!
//! The controller calls `queue`, `release`, `leave` and `rebalance`; the stream's task calls `moved`, `stay` and `end`
//! (through [`DrainRegistry`](crate::DrainRegistry)). Both threads may do so at any time: a transition that does not fit
//! the state, or comes from a group that the stream does not belong to, changes nothing. The account of the group changes
//! in the same step as the state, so each stream is counted once.
//!
//! The task looks at the state each time it is polled. While nothing has changed, that is one comparison of pointers:
//! the handle remembers the waker of the task that has seen the present state.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::task::{Context, Waker};

use parking_lot::Mutex;
use podpin_endpoints::Endpoint;
use podpin_time::Millis;

use crate::pacer::BudgetUse;
use crate::report::{Cause, GroupAccount, StreamEnd};

/// Ways in which a stream can leave its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mobility {
    /// Stream that leaves when its endpoint does, and that rebalancing may move.
    Rebalances,
    /// Stream that leaves when its endpoint does.
    DrainOnly,
    /// Stream that cannot be requested again elsewhere: it may finish, and is cut at the deadline.
    CutAtDeadline,
}

/// State of a stream, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainState {
    /// No group wants the stream to leave.
    Staying,
    /// The stream belongs to a group, and has no moment yet.
    Queued,
    /// The stream has its moment.
    Leaving,
    /// The stream is over.
    Ended,
}

/// Times and cause of a stream's departure.
#[derive(Clone, Debug)]
pub struct LeaveOrder {
    /// Reason of the group.
    pub cause: Cause,
    /// Moment of the departure, at the next event boundary.
    pub at: Millis,
    /// Last moment of the stream, even within an event; never for one that may stay.
    pub by: Millis,
    /// End of the group's drain, also for a stream that is moving to another endpoint.
    pub deadline: Millis,
    /// Effect on the budget so far. A planned handover is [`BudgetUse::Free`]: if it ends in a disconnect, that is charged
    /// with [`DrainInbox::charge`](crate::DrainInbox::charge).
    pub budget_use: BudgetUse,
}

/// Times of a departure, as the controller sets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaveTimes {
    pub(crate) at: Millis,
    pub(crate) by: Millis,
    pub(crate) deadline: Millis,
}

/// Result of [`DrainHandle::end`].
#[derive(Debug)]
pub(crate) enum Ending {
    /// End of the stream.
    First {
        /// Group that the stream belonged to; `None` if it belonged to none.
        group: Option<Arc<GroupAccount>>,
    },
    /// Second report of an end, which changes nothing.
    Repeated,
}

/// Drain state of one stream, a field of whatever represents the stream. 48 bytes, and no allocation before the stream has
/// to leave.
///
/// ```
/// use std::task::{Context, Waker};
/// use podpin_drain::{DrainHandle, DrainState, Mobility};
///
/// let handle = DrainHandle::new(Mobility::DrainOnly);
/// // Each poll of the stream's task begins with this.
/// let moment = handle.poll(&Context::from_waker(Waker::noop()));
/// assert_eq!((moment, handle.state()), (None, DrainState::Staying));
/// assert!(handle.order().is_none(), "the order says why and until when, once there is a moment");
/// ```
#[derive(Debug)]
pub struct DrainHandle {
    /// Data pointer of the waker of the task that has seen the present state; null if the task has to look.
    seen_by: AtomicPtr<()>,
    inner: Mutex<Inner>,
}

/// State and waker, behind one lock.
#[derive(Debug)]
struct Inner {
    state: State,
    waker: Option<Waker>,
}

/// State with what belongs to it. The mobility stands in each variant, where it costs no space.
#[derive(Debug)]
enum State {
    Staying { mobility: Mobility },
    Queued { mobility: Mobility, group: Arc<GroupAccount> },
    Leaving { mobility: Mobility, departure: Box<Departure> },
    Ended,
}

/// Moment of a stream, and the group that gave it.
#[derive(Debug)]
struct Departure {
    group: Arc<GroupAccount>,
    times: LeaveTimes,
    budget_use: BudgetUse,
    target: Option<Arc<Endpoint>>,
}

impl DrainHandle {
    /// Creates the handle of a stream that begins.
    #[must_use]
    pub fn new(mobility: Mobility) -> DrainHandle {
        let inner = Inner { state: State::Staying { mobility }, waker: None };
        DrainHandle { seen_by: AtomicPtr::new(ptr::null_mut()), inner: Mutex::new(inner) }
    }

    /// Returns the moment to leave; `None` if there is none. Registers the task for a wake-up when that changes.
    ///
    /// Only the stream's own task polls. While the state is unchanged a poll takes no lock.
    #[inline]
    pub fn poll(&self, context: &Context<'_>) -> Option<Millis> {
        let task = context.waker().data().cast_mut();
        // A waker without data cannot be distinguished from others.
        if !task.is_null() && self.seen_by.load(Ordering::Acquire) == task {
            return None;
        }
        self.look(context.waker())
    }

    /// Reads the state, and registers the waker.
    fn look(&self, waker: &Waker) -> Option<Millis> {
        let mut inner = self.inner.lock();
        if let State::Ended = inner.state {
            return None;
        }
        let is_known = inner.waker.as_ref().is_some_and(|known| known.will_wake(waker));
        let old = if is_known { None } else { inner.waker.replace(waker.clone()) };
        let moment = match &inner.state {
            State::Leaving { departure, .. } => Some(departure.times.at),
            State::Staying { .. } | State::Queued { .. } | State::Ended => {
                self.seen_by.store(waker.data().cast_mut(), Ordering::Release);
                None
            }
        };
        drop(inner);
        // The last waker of a task may free that task, which is no work to do under a lock.
        drop(old);
        moment
    }

    /// Returns the present state.
    #[must_use]
    pub fn state(&self) -> DrainState {
        match self.inner.lock().state {
            State::Staying { .. } => DrainState::Staying,
            State::Queued { .. } => DrainState::Queued,
            State::Leaving { .. } => DrainState::Leaving,
            State::Ended => DrainState::Ended,
        }
    }

    /// Returns the ways in which the stream can leave; `None` if it has ended.
    #[must_use]
    pub fn mobility(&self) -> Option<Mobility> {
        match self.inner.lock().state {
            State::Staying { mobility }
            | State::Queued { mobility, .. }
            | State::Leaving { mobility, .. } => Some(mobility),
            State::Ended => None,
        }
    }

    /// Returns why, when and whither the stream leaves; `None` if it has no moment.
    #[must_use]
    pub fn order(&self) -> Option<LeaveOrder> {
        match &self.inner.lock().state {
            State::Leaving { departure, .. } => Some(LeaveOrder {
                cause: departure.group.cause(),
                at: departure.times.at,
                by: departure.times.by,
                deadline: departure.times.deadline,
                budget_use: departure.budget_use,
            }),
            State::Staying { .. } | State::Queued { .. } | State::Ended => None,
        }
    }

    /// Takes the endpoint that the order names, to go on there; `None` if any will do, or it was taken before. The caller
    /// opens its stream there at once: from now on the endpoint's own count has it.
    pub fn take_target(&self) -> Option<Arc<Endpoint>> {
        match &mut self.inner.lock().state {
            State::Leaving { departure, .. } => departure.target.take(),
            State::Staying { .. } | State::Queued { .. } | State::Ended => None,
        }
    }

    /// Wakes the stream's task, which looks at what has changed around it.
    pub fn wake(&self) {
        let waker = self.inner.lock().waker.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// `Staying` → `Queued`. Returns the stream's mobility; `None` if it belongs to a group already, or has ended.
    pub(crate) fn queue(&self, group: &Arc<GroupAccount>) -> Option<Mobility> {
        let mut inner = self.inner.lock();
        let State::Staying { mobility } = inner.state else { return None };
        group.joined();
        inner.state = State::Queued { mobility, group: Arc::clone(group) };
        Some(mobility)
    }

    /// `Queued` → `Staying`: the group lets the stream go. A stream that has its moment keeps it.
    pub(crate) fn release(&self, group: &Arc<GroupAccount>) {
        let mut inner = self.inner.lock();
        if let State::Queued { mobility, group: own } = &inner.state
            && Arc::ptr_eq(own, group)
        {
            group.unjoin();
            inner.state = State::Staying { mobility: *mobility };
        }
    }

    /// `Queued` → `Leaving`. Wakes the task; false if the stream does not wait in the group any more.
    pub(crate) fn leave(&self, group: &Arc<GroupAccount>, times: LeaveTimes, budget_use: BudgetUse) -> bool {
        let mut inner = self.inner.lock();
        let mobility = match &inner.state {
            State::Queued { mobility, group: own } if Arc::ptr_eq(own, group) => *mobility,
            State::Staying { .. } | State::Queued { .. } | State::Leaving { .. } | State::Ended => {
                return false;
            }
        };
        group.notified();
        let departure = Departure { group: Arc::clone(group), times, budget_use, target: None };
        inner.state = State::Leaving { mobility, departure: Box::new(departure) };
        let waker = self.changed(&inner);
        drop(inner);
        waker.into_iter().for_each(Waker::wake);
        true
    }

    /// `Staying` → `Leaving`, to one endpoint and without a deadline; false if the stream may not be rebalanced now.
    pub(crate) fn rebalance(&self, group: &Arc<GroupAccount>, target: &Arc<Endpoint>, now: Millis) -> bool {
        self.try_leave(group, Some(target), |mobility| mobility == Mobility::Rebalances, now)
    }

    /// `Staying` → `Leaving`, to any endpoint that takes the stream, which stays if none does; false if it may not leave now.
    pub(crate) fn evacuate(&self, group: &Arc<GroupAccount>, now: Millis) -> bool {
        self.try_leave(group, None, |mobility| mobility != Mobility::CutAtDeadline, now)
    }

    /// `Staying` → `Leaving` without a deadline, if `may` holds for the stream; to any endpoint without a `target`.
    fn try_leave(
        &self,
        group: &Arc<GroupAccount>,
        target: Option<&Arc<Endpoint>>,
        may: fn(Mobility) -> bool,
        now: Millis,
    ) -> bool {
        let never = Millis(u64::MAX);
        let mut inner = self.inner.lock();
        let State::Staying { mobility } = inner.state else { return false };
        if !may(mobility) {
            return false;
        }
        let times = LeaveTimes { at: now, by: never, deadline: never };
        let (group_of, target) = (Arc::clone(group), target.map(Arc::clone));
        let departure = Departure { group: group_of, times, budget_use: BudgetUse::Free, target };
        group.joined();
        group.notified();
        inner.state = State::Leaving { mobility, departure: Box::new(departure) };
        let waker = self.changed(&inner);
        drop(inner);
        waker.into_iter().for_each(Waker::wake);
        true
    }

    /// `Queued`, `Leaving` → `Staying`: the stream goes on at another endpoint, where it starts anew. Returns the cause of
    /// the group that it leaves; `None` if it belonged to none.
    pub(crate) fn moved(&self, now: Millis) -> Option<Cause> {
        let mut inner = self.inner.lock();
        let (mobility, group) = inner.state.leave_group()?;
        group.moved(now);
        inner.state = State::Staying { mobility };
        Some(group.cause())
    }

    /// `Queued`, `Leaving` → `Staying`: the stream goes on where it is, and is not rebalanced again.
    pub(crate) fn stay(&self) {
        let mut inner = self.inner.lock();
        let mobility = match &inner.state {
            State::Staying { mobility } => *mobility,
            State::Queued { .. } | State::Leaving { .. } => {
                let Some((mobility, group)) = inner.state.leave_group() else { return };
                group.unjoin();
                mobility
            }
            State::Ended => return,
        };
        let mobility = match mobility {
            Mobility::Rebalances | Mobility::DrainOnly => Mobility::DrainOnly,
            Mobility::CutAtDeadline => Mobility::CutAtDeadline,
        };
        inner.state = State::Staying { mobility };
    }

    /// Any state → `Ended`. The account of the group that the stream belonged to has counted the end.
    pub(crate) fn end(&self, end: StreamEnd, now: Millis) -> Ending {
        let mut inner = self.inner.lock();
        if let State::Ended = inner.state {
            return Ending::Repeated;
        }
        let group = inner.state.leave_group().map(|(_, group)| group);
        if let Some(group) = &group {
            group.ended(end, now);
        }
        inner.state = State::Ended;
        self.seen_by.store(ptr::null_mut(), Ordering::Release);
        let waker = inner.waker.take();
        drop(inner);
        drop(waker);
        Ending::First { group }
    }

    /// Returns whether the stream belongs to this group, with or without a moment.
    pub(crate) fn is_in(&self, group: &Arc<GroupAccount>) -> bool {
        match &self.inner.lock().state {
            State::Queued { group: own, .. } => Arc::ptr_eq(own, group),
            State::Leaving { departure, .. } => Arc::ptr_eq(&departure.group, group),
            State::Staying { .. } | State::Ended => false,
        }
    }

    /// Returns whether the stream has an order with an endpoint to go on at, and has not begun to.
    pub(crate) fn has_target(&self) -> bool {
        matches!(&self.inner.lock().state, State::Leaving { departure, .. } if departure.target.is_some())
    }

    /// Returns whether the stream waits in this group for its moment.
    pub(crate) fn is_queued_in(&self, group: &Arc<GroupAccount>) -> bool {
        matches!(&self.inner.lock().state, State::Queued { group: own, .. } if Arc::ptr_eq(own, group))
    }

    /// Returns whether rebalancing may move the stream now.
    pub(crate) fn may_be_rebalanced(&self) -> bool {
        matches!(self.inner.lock().state, State::Staying { mobility: Mobility::Rebalances })
    }

    /// Makes the next poll look at the state. Returns the waker, which the caller wakes without the lock.
    fn changed(&self, inner: &Inner) -> Option<Waker> {
        self.seen_by.store(ptr::null_mut(), Ordering::Release);
        inner.waker.clone()
    }
}

impl State {
    /// Leaves the group, whose report is still to be written: the state is `Ended` until the caller sets another one.
    fn leave_group(&mut self) -> Option<(Mobility, Arc<GroupAccount>)> {
        match std::mem::replace(self, State::Ended) {
            State::Queued { mobility, group } => Some((mobility, group)),
            State::Leaving { mobility, departure } => {
                departure.group.denotified();
                Some((mobility, departure.group))
            }
            unchanged @ (State::Staying { .. } | State::Ended) => {
                *self = unchanged;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;
    use crate::report::{DrainReport, EndKind, LeavingCount};
    use crate::testing::endpoint;

    const NOW: Millis = Millis(1_000);
    const TIMES: LeaveTimes = LeaveTimes { at: Millis(1_010), by: Millis(6_010), deadline: Millis(30_000) };
    const END: StreamEnd = StreamEnd { kind: EndKind::Graceful, is_awaited: false };

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Scene {
        handle: DrainHandle,
        own: Arc<GroupAccount>,
        other: Arc<GroupAccount>,
        leaving: Arc<LeavingCount>,
    }

    impl Scene {
        /// A handle in this state; `Queued` and `Leaving` are those of `own`.
        fn at(state: DrainState, mobility: Mobility) -> Scene {
            let leaving = Arc::default();
            let account = || GroupAccount::new(Cause::Drain, &leaving);
            let (handle, own, other) = (DrainHandle::new(mobility), account(), account());
            if matches!(state, DrainState::Queued | DrainState::Leaving) {
                handle.queue(&own).unwrap();
            }
            if state == DrainState::Leaving {
                assert!(handle.leave(&own, TIMES, BudgetUse::Charged));
            }
            if state == DrainState::Ended {
                handle.end(END, NOW);
            }
            assert_eq!(handle.state(), state);
            Scene { handle, own, other, leaving }
        }

        /// Streams that joined, and streams that left for each way to leave.
        fn counts(&self) -> (u32, u32, u32) {
            let DrainReport { streams, moved, graceful, .. } = self.own.report();
            (streams, moved, graceful)
        }
    }

    type Transition = (&'static str, fn(&Scene));

    const TRANSITIONS: [Transition; 10] = [
        ("queue", |scene| {
            _ = scene.handle.queue(&scene.own);
        }),
        ("queue other", |scene| {
            _ = scene.handle.queue(&scene.other);
        }),
        ("release", |scene| scene.handle.release(&scene.own)),
        ("release other", |scene| scene.handle.release(&scene.other)),
        ("leave", |scene| {
            _ = scene.handle.leave(&scene.own, TIMES, BudgetUse::Charged);
        }),
        ("leave other", |scene| {
            _ = scene.handle.leave(&scene.other, TIMES, BudgetUse::Charged);
        }),
        ("rebalance", |scene| {
            _ = scene.handle.rebalance(&scene.own, &endpoint("b"), NOW);
        }),
        ("moved", |scene| {
            _ = scene.handle.moved(NOW);
        }),
        ("stay", |scene| scene.handle.stay()),
        ("end", |scene| drop(scene.handle.end(END, NOW))),
    ];

    #[test]
    fn every_transition_from_every_state_is_the_one_of_the_diagram() {
        use DrainState::{Ended, Leaving, Queued, Staying};
        // For each transition: the state after it from Staying, Queued, Leaving, Ended.
        let expected = [
            ("queue", [Queued, Queued, Leaving, Ended]),
            ("queue other", [Queued, Queued, Leaving, Ended]),
            ("release", [Staying, Staying, Leaving, Ended]),
            ("release other", [Staying, Queued, Leaving, Ended]),
            ("leave", [Staying, Leaving, Leaving, Ended]),
            ("leave other", [Staying, Queued, Leaving, Ended]),
            ("rebalance", [Leaving, Queued, Leaving, Ended]),
            ("moved", [Staying, Staying, Staying, Ended]),
            ("stay", [Staying, Staying, Staying, Ended]),
            ("end", [Ended, Ended, Ended, Ended]),
        ];
        for ((name, transition), (expected_name, after)) in TRANSITIONS.iter().zip(expected) {
            assert_eq!(*name, expected_name);
            for (from, to) in [Staying, Queued, Leaving, Ended].into_iter().zip(after) {
                let scene = Scene::at(from, Mobility::Rebalances);
                transition(&scene);
                assert_eq!(scene.handle.state(), to, "{from:?} --{name}-->");
                assert_eq!(scene.leaving.get(), u32::from(to == Leaving), "{from:?} --{name}-->");
            }
        }
    }

    #[test]
    fn the_account_changes_with_the_state_and_counts_a_stream_once() {
        use DrainState::{Ended, Leaving, Queued, Staying};
        // (state, transition) -> (joined, moved, graceful) in the stream's own group.
        let table = [
            (Staying, "queue", (1, 0, 0)),
            (Staying, "moved", (0, 0, 0)),
            (Staying, "stay", (0, 0, 0)),
            (Staying, "end", (0, 0, 0)),
            (Queued, "queue", (1, 0, 0)),
            (Queued, "release", (0, 0, 0)),
            (Queued, "release other", (1, 0, 0)),
            (Queued, "leave", (1, 0, 0)),
            (Queued, "moved", (1, 1, 0)),
            (Queued, "stay", (0, 0, 0)),
            (Queued, "end", (1, 0, 1)),
            (Leaving, "release", (1, 0, 0)),
            (Leaving, "leave", (1, 0, 0)),
            (Leaving, "moved", (1, 1, 0)),
            (Leaving, "stay", (0, 0, 0)),
            (Leaving, "end", (1, 0, 1)),
            (Ended, "queue", (0, 0, 0)),
            (Ended, "moved", (0, 0, 0)),
            (Ended, "stay", (0, 0, 0)),
            (Ended, "end", (0, 0, 0)),
        ];
        for (from, name, expected) in table {
            let scene = Scene::at(from, Mobility::DrainOnly);
            let (_, transition) = TRANSITIONS.into_iter().find(|one| one.0 == name).unwrap();
            transition(&scene);
            assert_eq!(scene.counts(), expected, "{from:?} --{name}-->");
        }
    }

    #[test]
    fn mobility_outlives_a_move_and_rebalancing_gives_up_on_a_stream_that_stayed() {
        for mobility in [Mobility::Rebalances, Mobility::DrainOnly, Mobility::CutAtDeadline] {
            let scene = Scene::at(DrainState::Leaving, mobility);
            scene.handle.moved(NOW);
            assert_eq!(scene.handle.queue(&scene.own), Some(mobility));
            scene.handle.stay();
            let stayed = if mobility == Mobility::CutAtDeadline { mobility } else { Mobility::DrainOnly };
            assert!(!scene.handle.may_be_rebalanced());
            assert!(!scene.handle.rebalance(&scene.own, &endpoint("b"), NOW));
            assert_eq!(scene.handle.queue(&scene.own), Some(stayed));
        }
    }

    #[test]
    fn an_order_says_why_and_until_when_and_stands() {
        let scene = Scene::at(DrainState::Leaving, Mobility::DrainOnly);
        let order = scene.handle.order().unwrap();
        assert_eq!(
            (order.cause, order.at, order.by, order.deadline),
            (Cause::Drain, TIMES.at, TIMES.by, TIMES.deadline)
        );
        assert!(!scene.handle.leave(&scene.own, LeaveTimes { at: NOW, ..TIMES }, BudgetUse::Charged));
        assert_eq!(scene.handle.order().unwrap().at, TIMES.at);
        let scene = Scene::at(DrainState::Staying, Mobility::Rebalances);
        assert!(scene.handle.rebalance(&scene.own, &endpoint("b"), NOW));
        let order = scene.handle.order().unwrap();
        assert_eq!((order.at, order.deadline), (NOW, Millis(u64::MAX)));
        assert!(scene.handle.has_target());
        assert_eq!(scene.handle.take_target().map(|target| target.name.clone()).as_deref(), Some("b"));
        assert!(!scene.handle.has_target() && scene.handle.take_target().is_none(), "it is taken once");
    }

    #[test]
    fn a_task_is_woken_when_it_gets_its_moment_whichever_comes_first() {
        let (scene, wakes) = (Scene::at(DrainState::Queued, Mobility::DrainOnly), Arc::new(Wakes::default()));
        let waker = Waker::from(Arc::clone(&wakes));
        let context = Context::from_waker(&waker);
        assert_eq!((scene.handle.poll(&context), scene.handle.poll(&context)), (None, None));
        assert!(scene.handle.leave(&scene.own, TIMES, BudgetUse::Charged));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!(scene.handle.poll(&context), Some(TIMES.at));
        assert_eq!(scene.handle.poll(&context), Some(TIMES.at), "until it has left");
        scene.handle.moved(NOW);
        assert_eq!(scene.handle.poll(&context), None);
        // Another task polls from now on.
        let (later, other) = (Arc::new(Wakes::default()), Scene::at(DrainState::Queued, Mobility::DrainOnly));
        assert_eq!(other.handle.poll(&context), None);
        assert_eq!(other.handle.poll(&Context::from_waker(&Waker::from(Arc::clone(&later)))), None);
        assert!(other.handle.leave(&other.own, TIMES, BudgetUse::Charged));
        assert_eq!((wakes.0.load(Ordering::Relaxed), later.0.load(Ordering::Relaxed)), (1, 1));
    }

    #[test]
    fn the_poll_of_an_idle_stream_takes_no_lock() {
        for state in [DrainState::Staying, DrainState::Queued] {
            let scene = Scene::at(state, Mobility::DrainOnly);
            let waker = Waker::from(Arc::new(Wakes::default()));
            let context = Context::from_waker(&waker);
            assert_eq!(scene.handle.poll(&context), None);
            let _held = scene.handle.inner.lock();
            assert_eq!(scene.handle.poll(&context), None, "a lock would never be given");
        }
    }

    #[test]
    fn an_ended_stream_holds_no_waker() {
        let (scene, wakes) =
            (Scene::at(DrainState::Leaving, Mobility::DrainOnly), Arc::new(Wakes::default()));
        let waker = Waker::from(Arc::clone(&wakes));
        assert!(scene.handle.poll(&Context::from_waker(&waker)).is_some());
        assert_eq!(Arc::strong_count(&wakes), 3);
        scene.handle.end(END, NOW);
        assert_eq!(scene.handle.poll(&Context::from_waker(&waker)), None);
        assert_eq!(Arc::strong_count(&wakes), 2);
    }

    #[test]
    fn a_handle_is_no_larger_than_the_fields_that_it_replaces() {
        // leave_at, order, waker and five flags of the stream record were 53 bytes, 56 with padding.
        assert!(size_of::<DrainHandle>() <= 48, "{}", size_of::<DrainHandle>());
    }
}
