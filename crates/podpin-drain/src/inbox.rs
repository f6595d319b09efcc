//! The shared side of one service's drains: what the control thread and the streams leave for the controller.
//!
//! Everything here may be called from any thread. The controller takes the events at its next turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use podpin_endpoints::{EndpointId, Phase, Transition};

use crate::herd::Herd;
use crate::moved_pins::MovedPins;
use crate::reconnects::ReconnectTracker;
use crate::report::LeavingCount;
use crate::wake::DrainWake;

/// Events for the controller of one service, and counts of the service's streams and clients. The identity of the inbox is
/// the identity of the service: it outlives reloads.
#[derive(Debug)]
pub struct DrainInbox {
    events: Mutex<DrainEvents>,
    open: AtomicU32,
    /// Disconnects since the last turn that the budget has not been charged for.
    unplanned: AtomicU32,
    leaving: Arc<LeavingCount>,
    reconnects: ReconnectTracker,
    moved_pins: MovedPins,
    herd: Herd,
    wake: Arc<DrainWake>,
}

/// Events since the last turn.
#[derive(Debug, Default)]
pub(crate) struct DrainEvents {
    pub(crate) transitions: Vec<Transition>,
    /// Numbers of streams that a group may have missed: they began or arrived on an endpoint that drains.
    pub(crate) late: Vec<u64>,
    /// Endpoints that fail their checks.
    pub(crate) failing: Vec<EndpointId>,
}

impl DrainInbox {
    /// Creates the inbox of a service; `wake` wakes the task that turns its controller.
    #[must_use]
    pub fn new(wake: Arc<DrainWake>) -> DrainInbox {
        DrainInbox {
            events: Mutex::default(),
            open: AtomicU32::new(0),
            unplanned: AtomicU32::new(0),
            leaving: Arc::default(),
            reconnects: ReconnectTracker::default(),
            moved_pins: MovedPins::default(),
            herd: Herd::default(),
            wake,
        }
    }

    /// Reports that endpoints changed their phase; to be called after the new endpoint list is published.
    pub fn report(&self, transitions: Vec<Transition>) {
        let concerns = |one: &Transition| {
            one.to >= Phase::Draining || one.from.is_none_or(|from| from >= Phase::Draining)
        };
        // The controller looks by itself which endpoints hang.
        let hangs = transitions.iter().any(|one| one.to == Phase::NotReady && !one.endpoint.serving);
        if transitions.iter().any(concerns) {
            self.events.lock().transitions.extend(transitions.into_iter().filter(concerns));
            self.wake.notify();
        } else if hangs {
            self.wake.notify();
        }
    }

    /// Reports that an endpoint fails its checks: its streams go on elsewhere, if another endpoint takes them. To be repeated as
    /// long as it fails.
    pub fn report_failing(&self, endpoint: EndpointId) {
        self.events.lock().failing.push(endpoint);
        self.wake.notify();
    }

    /// Charges the budget for a client that had to be disconnected although a handover was planned.
    pub fn charge(&self) {
        self.unplanned.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many event streams of the service are open.
    #[must_use]
    pub fn open_streams(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns how many streams of the service have their moment to leave and have not left yet.
    #[must_use]
    pub fn leaving_streams(&self) -> u32 {
        self.leaving.get()
    }

    /// Returns how many streams have left or have their moment, and are not open at another endpoint yet.
    pub(crate) fn expected_streams(&self) -> u32 {
        self.reconnects().away().saturating_add(self.leaving_streams())
    }

    /// Returns the clients that are awaited back.
    #[must_use]
    pub fn reconnects(&self) -> &ReconnectTracker {
        &self.reconnects
    }

    /// Returns the sessions whose stream moved, perhaps before their cookie did.
    #[must_use]
    pub fn moved_pins(&self) -> &MovedPins {
        &self.moved_pins
    }

    /// Returns the clients that are told when to come back.
    #[must_use]
    pub fn herd(&self) -> &Herd {
        &self.herd
    }

    /// Returns and forgets the events since the last turn.
    pub(crate) fn take_events(&self) -> DrainEvents {
        std::mem::take(&mut *self.events.lock())
    }

    /// Returns and resets the number of disconnects that were not yet charged to the budget.
    pub(crate) fn take_charges(&self) -> u32 {
        self.unplanned.swap(0, Ordering::Relaxed)
    }

    /// Counts a stream that begins.
    pub(crate) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a stream that ended.
    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Reports a stream that a group may have missed.
    pub(crate) fn report_late(&self, id: u64) {
        self.events.lock().late.push(id);
        self.wake.notify();
    }

    /// Returns the counter that new groups share.
    pub(crate) fn leaving(&self) -> &Arc<LeavingCount> {
        &self.leaving
    }

    /// Wakes the task that turns the controllers.
    pub(crate) fn notify(&self) {
        self.wake.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::endpoint;

    #[test]
    fn only_transitions_that_concern_drains_wake_the_controller() {
        use Phase::{Draining, Gone, NotReady, Ready};
        let table = [
            (None, Ready, true),
            (Some(Ready), NotReady, false),
            (Some(NotReady), Ready, false),
            (Some(Ready), Draining, true),
            (Some(Draining), Ready, true),
            (Some(Ready), Gone, true),
        ];
        for (from, to, concerns) in table {
            let inbox = DrainInbox::new(Arc::default());
            inbox.report(vec![Transition { endpoint: endpoint("a"), from, to }]);
            assert_eq!(inbox.take_events().transitions.len(), usize::from(concerns), "{from:?} -> {to:?}");
        }
    }

    #[test]
    fn charges_are_taken_once() {
        let inbox = DrainInbox::new(Arc::default());
        inbox.charge();
        inbox.charge();
        assert_eq!((inbox.take_charges(), inbox.take_charges()), (2, 0));
    }
}
