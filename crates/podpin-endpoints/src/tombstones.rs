//! Tombstones of endpoints that are gone, for the two cases in which their identity comes back.
//!
//! An address that is taken out of a file and put back still carries the streams of before, and its cap must count
//! them. A pod that was terminating when it vanished cannot come back ready: a source that says so is late (a slice moved,
//! a list from a stale API server). Their number is bounded; a forgotten endpoint is at worst taken for new.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use crate::id::{EndpointId, IdMap};
use crate::streams::Load;

/// Identities remembered. Twice the largest rollout that stale reports can be about (a relist away, some minutes of
/// pods of one service), at less than 100 bytes each. Too small shows as a `Gone` pod that is `Ready` again.
const REMEMBERED_MAX: usize = 1_024;

/// The tombstones of one table.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    remembered: IdMap<Tombstone>,
    order: VecDeque<(u64, EndpointId)>,
    sequence_last: u64,
}

#[derive(Debug)]
struct Tombstone {
    sequence: u64,
    load: Weak<Load>,
    end: End,
}

/// How an identity ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Terminating when it vanished: a later "ready" of this identity is stale.
    Terminated,
    /// Taken off the list while alive, and perhaps put back.
    Delisted,
}

impl Tombstones {
    /// Remembers `id`; the oldest tombstone makes room.
    pub(crate) fn remember(&mut self, id: EndpointId, load: &Arc<Load>, end: End) {
        self.sequence_last += 1;
        let sequence = self.sequence_last;
        self.remembered.insert(id, Tombstone { sequence, load: Arc::downgrade(load), end });
        self.order.push_back((sequence, id));
        while self.order.len() > REMEMBERED_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((sequence, id)) = self.order.pop_front() else { return };
        // An identity that came and went again since stands further back with a later number.
        if self.remembered.get(&id).is_some_and(|tombstone| tombstone.sequence == sequence) {
            self.remembered.remove(&id);
        }
    }

    /// Takes `id` out and returns its load, if streams or a task still hold it, and how it ended, if that is remembered.
    pub(crate) fn recall(&mut self, id: &EndpointId) -> (Arc<Load>, Option<End>) {
        match self.remembered.remove(id) {
            Some(tombstone) => (tombstone.load.upgrade().unwrap_or_default(), Some(tombstone.end)),
            None => (Arc::default(), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> EndpointId {
        EndpointId::of_pod(&number.to_string(), 80)
    }

    #[test]
    fn a_load_that_streams_still_hold_comes_back() {
        let mut tombstones = Tombstones::default();
        let load = Arc::new(Load::new());
        let permit = load.try_open(None);
        tombstones.remember(id(1), &load, End::Delisted);
        drop(load);
        let (back, end) = tombstones.recall(&id(1));
        assert_eq!((back.open_streams(), end), (1, Some(End::Delisted)));
        drop(permit);
        assert_eq!(back.open_streams(), 0);
        assert_eq!(tombstones.recall(&id(1)).1, None, "recalled once");
    }

    #[test]
    fn the_tombstone_is_bounded_and_forgets_the_oldest_first() {
        let mut tombstones = Tombstones::default();
        let load = Arc::default();
        tombstones.remember(id(0), &load, End::Delisted);
        tombstones.recall(&id(0));
        tombstones.remember(id(1), &load, End::Terminated);
        tombstones.remember(id(0), &load, End::Terminated);
        (2..REMEMBERED_MAX as u32).for_each(|number| tombstones.remember(id(number), &load, End::Delisted));
        assert_eq!(tombstones.order.len(), REMEMBERED_MAX, "the first tombstone of 0 has been pushed out");
        assert_eq!(tombstones.recall(&id(0)).1, Some(End::Terminated), "but not its second");
        tombstones.remember(id(9_999), &load, End::Delisted);
        assert_eq!(tombstones.recall(&id(1)).1, None);
        assert_eq!(tombstones.recall(&id(2)).1, Some(End::Delisted));
    }
}
