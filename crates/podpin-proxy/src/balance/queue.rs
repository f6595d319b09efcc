//! `affinity.onUnavailable: wait`: requests of one service that wait for a place, first come, first served.
//!
//! Whenever a place may have become free, the first entry is woken and tries to take it; if it cannot use what there is (its
//! own endpoint is still full), it wakes the next, and so on to the end. So no request is overtaken by one with the same
//! demand, and none waits for a place that only another cannot use. The demand of all entries is known, so that a new
//! request knows whether it would take a place from them.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use podpin_endpoints::EndpointId;
use tokio::sync::Notify;

/// Requests that wait for a place.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    /// The number of entries in `waiting`, readable without its lock.
    length: AtomicUsize,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The number of the last entry.
    last_number: u64,
    /// Entries in the order in which they came.
    line: VecDeque<Waiter>,
    /// The number of entries that would take any place.
    any: usize,
    /// The number of entries that would take a place of one endpoint only.
    at: HashMap<EndpointId, usize>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    turn: Arc<Notify>,
    demand: Demand,
}

/// The places that an entry takes from others when it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// None: the request waits for a usable endpoint, which has room for all.
    NoPlace,
    /// A place of this endpoint.
    PlaceAt(EndpointId),
    /// A place of any endpoint.
    AnyPlace,
}

/// The demand of all entries together.
#[derive(Debug, Default)]
pub struct QueueDemand {
    /// Whether one of them takes any place.
    pub any: bool,
    /// The endpoints that one of them waits for.
    pub endpoints: Vec<EndpointId>,
}

impl QueueDemand {
    /// Returns whether an entry would take a place of this endpoint; `takes_new` says whether the endpoint is in use for
    /// clients that are not pinned to it.
    #[must_use]
    pub fn takes(&self, endpoint: EndpointId, takes_new: bool) -> bool {
        (self.any && takes_new) || self.endpoints.contains(&endpoint)
    }
}

/// An entry of the queue, removed when this is dropped.
#[derive(Debug)]
pub struct QueueEntry {
    queue: Arc<Queue>,
    number: u64,
    turn: Arc<Notify>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.length.load(Ordering::Acquire) == 0
    }

    /// Returns the demand of the requests that came before.
    #[must_use]
    pub fn demand(&self) -> QueueDemand {
        if self.is_empty() {
            return QueueDemand::default();
        }
        let waiting = self.waiting.lock();
        QueueDemand { any: waiting.any > 0, endpoints: waiting.at.keys().copied().collect() }
    }

    /// Appends an entry; returns `None` if `length_max` requests wait already, or the queue is closed.
    pub fn join(self: &Arc<Self>, length_max: u32, demand: Demand) -> Option<QueueEntry> {
        let mut waiting = self.waiting.lock();
        if waiting.line.len() >= usize::try_from(length_max).unwrap_or(usize::MAX) || self.is_closed() {
            return None;
        }
        waiting.last_number += 1;
        let (number, turn) = (waiting.last_number, Arc::new(Notify::new()));
        waiting.line.push_back(Waiter { number, turn: Arc::clone(&turn), demand });
        waiting.count(demand);
        self.length.store(waiting.line.len(), Ordering::Release);
        drop(waiting);
        // Places may have become free between the request's try and this; the entries in front go first.
        self.wake();
        Some(QueueEntry { queue: Arc::clone(self), number, turn })
    }

    /// Wakes the first entry: a place may have become free.
    pub fn wake(&self) {
        if !self.is_empty()
            && let Some(first) = self.waiting.lock().line.front()
        {
            first.turn.notify_one();
        }
    }

    /// Wakes all entries and takes no more: the proxy shuts down, or the service is gone from the configuration.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waiting.lock().line.iter().for_each(|waiter| waiter.turn.notify_one());
    }

    /// Returns whether the queue takes no more entries.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Waiting {
    fn count(&mut self, demand: Demand) {
        match demand {
            Demand::NoPlace => {}
            Demand::AnyPlace => self.any += 1,
            Demand::PlaceAt(endpoint) => *self.at.entry(endpoint).or_default() += 1,
        }
    }

    fn uncount(&mut self, demand: Demand) {
        match demand {
            Demand::NoPlace => {}
            Demand::AnyPlace => self.any = self.any.saturating_sub(1),
            Demand::PlaceAt(endpoint) => {
                let left = self.at.get(&endpoint).map_or(0, |count| count.saturating_sub(1));
                if left == 0 {
                    self.at.remove(&endpoint)
                } else {
                    self.at.insert(endpoint, left)
                };
            }
        }
    }

    /// Returns the position of an entry in the line; `None` if it has left.
    fn position(&self, number: u64) -> Option<usize> {
        self.line.binary_search_by_key(&number, |waiter| waiter.number).ok()
    }
}

impl QueueEntry {
    /// Resolves when it is the turn of this entry to try.
    pub async fn turn(&self) {
        self.turn.notified().await;
    }

    /// Changes the demand of this entry.
    pub fn set_demand(&self, demand: Demand) {
        let mut waiting = self.queue.waiting.lock();
        let Some(own) = waiting.position(self.number).and_then(|own| waiting.line.get_mut(own)) else {
            return;
        };
        let before = mem::replace(&mut own.demand, demand);
        waiting.uncount(before);
        waiting.count(demand);
    }

    /// Wakes the next entry: there was nothing for this one.
    pub fn pass_on(&self) {
        let waiting = self.queue.waiting.lock();
        let behind = waiting.line.partition_point(|waiter| waiter.number <= self.number);
        if let Some(next) = waiting.line.get(behind) {
            next.turn.notify_one();
        }
    }
}

impl Drop for QueueEntry {
    /// A wake-up that was not used goes to the next entry.
    fn drop(&mut self) {
        self.pass_on();
        let mut waiting = self.queue.waiting.lock();
        if let Some(own) = waiting.position(self.number).and_then(|own| waiting.line.remove(own)) {
            waiting.uncount(own.demand);
        }
        self.queue.length.store(waiting.line.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn is_woken(entry: &QueueEntry) -> bool {
        entry.turn().now_or_never().is_some()
    }

    #[test]
    fn the_first_is_woken_first_and_tells_the_next() {
        let queue = Arc::new(Queue::default());
        let entries: Vec<QueueEntry> = (0..3).filter_map(|_| queue.join(3, Demand::AnyPlace)).collect();
        assert!(queue.join(3, Demand::AnyPlace).is_none(), "full");
        // Each that joined had the first one look again.
        assert!(is_woken(&entries[0]) && !is_woken(&entries[1]));
        queue.wake();
        assert!(is_woken(&entries[0]) && !is_woken(&entries[1]) && !is_woken(&entries[2]));
        entries[0].pass_on();
        assert!(!is_woken(&entries[0]) && is_woken(&entries[1]) && !is_woken(&entries[2]));
        entries[2].pass_on();
        assert!(entries.iter().all(|entry| !is_woken(entry)), "the last has no next");
    }

    #[test]
    fn an_entry_that_leaves_wakes_the_next() {
        let queue = Arc::new(Queue::default());
        let mut entries: VecDeque<QueueEntry> =
            (0..3).filter_map(|_| queue.join(3, Demand::AnyPlace)).collect();
        let first = entries.pop_front();
        drop(first);
        assert!(is_woken(&entries[0]) && !is_woken(&entries[1]));
        queue.wake();
        assert!(is_woken(&entries[0]), "it is the first now");
        entries.clear();
        assert!(queue.is_empty());
        queue.wake();
    }

    #[test]
    fn demand_is_known_as_long_as_it_lasts() {
        let queue = Arc::new(Queue::default());
        let (one, other) = (EndpointId::from_bytes([1; 16]), EndpointId::from_bytes([2; 16]));
        let wanted = || {
            let mut ahead = queue.demand();
            ahead.endpoints.sort();
            (ahead.any, ahead.endpoints)
        };
        assert_eq!(wanted(), (false, vec![]));
        let _request = queue.join(9, Demand::NoPlace).unwrap();
        assert_eq!(wanted(), (false, vec![]));
        let first = queue.join(9, Demand::PlaceAt(one)).unwrap();
        let second = queue.join(9, Demand::PlaceAt(one)).unwrap();
        let third = queue.join(9, Demand::PlaceAt(other)).unwrap();
        assert_eq!(wanted(), (false, vec![one, other]));
        drop(first);
        assert_eq!(wanted(), (false, vec![one, other]), "the second still wants it");
        second.set_demand(Demand::AnyPlace);
        assert_eq!(wanted(), (true, vec![other]));
        let ahead = queue.demand();
        assert!(ahead.takes(one, true), "one who takes any place takes this one");
        assert!(!ahead.takes(one, false) && ahead.takes(other, false));
        drop((second, third));
        assert_eq!(wanted(), (false, vec![]));
        assert!(!queue.demand().takes(one, true));
    }

    #[test]
    fn a_closed_queue_wakes_all_and_takes_no_more() {
        let queue = Arc::new(Queue::default());
        let entries = [queue.join(3, Demand::AnyPlace).unwrap(), queue.join(3, Demand::AnyPlace).unwrap()];
        queue.close();
        assert!(entries.iter().all(is_woken) && queue.join(3, Demand::AnyPlace).is_none());
    }
}
