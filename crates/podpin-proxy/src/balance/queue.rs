//! `affinity.onUnavailable: wait`: requests of one service that wait for a place, first come, first served.
//!
//! Whenever a place may have become free, the first in the queue is told and tries; if it cannot use what there is (its
//! own endpoint is still full), it tells the one behind it, and so on to the end. So nobody is overtaken by someone
//! who wants the same, and nobody waits for a place that only another cannot use. What those in the queue want is
//! known, so that whoever comes can tell whether he would take it from them.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use podpin_endpoints::{EndpointId, Phase};
use tokio::sync::Notify;

/// Those who wait.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    /// As many as there are in `waiting`, readable without its lock.
    length: AtomicUsize,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    tickets: u64,
    /// In the order in which they came.
    line: VecDeque<Waiter>,
    /// How many of them would take any place.
    any: usize,
    /// How many would take one of this endpoint only.
    at: HashMap<EndpointId, usize>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    turn: Arc<Notify>,
    want: Want,
}

/// What a waiter takes from others when it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Nothing: it waits for an endpoint that can be used, and there is enough of that for all.
    NoPlace,
    /// A place of this endpoint.
    PlaceAt(EndpointId),
    /// A place of whichever endpoint has one first.
    AnyPlace,
}

/// What those in the queue want.
#[derive(Debug, Default)]
pub struct Ahead {
    pub any: bool,
    /// Places of these.
    pub endpoints: Vec<EndpointId>,
}

impl Ahead {
    /// Whether one of them would take a place of this endpoint.
    pub fn takes(&self, endpoint: EndpointId, phase: Phase) -> bool {
        // Places of others than ready ones are only for those who are pinned there.
        (self.any && phase == Phase::Ready) || self.endpoints.contains(&endpoint)
    }
}

/// A place in the queue, given up when this is dropped.
#[derive(Debug)]
pub struct Ticket {
    queue: Arc<Queue>,
    number: u64,
    turn: Arc<Notify>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.length.load(Ordering::Acquire) == 0
    }

    /// What is for others, who were here before.
    pub fn ahead(&self) -> Ahead {
        if self.is_empty() {
            return Ahead::default();
        }
        let waiting = self.waiting.lock();
        Ahead { any: waiting.any > 0, endpoints: waiting.at.keys().copied().collect() }
    }

    /// Goes to the end of the queue; `None` when `length_max` wait already, or it is closed.
    pub fn join(self: &Arc<Self>, length_max: u32, want: Want) -> Option<Ticket> {
        let mut waiting = self.waiting.lock();
        if waiting.line.len() >= usize::try_from(length_max).unwrap_or(usize::MAX) || self.is_closed() {
            return None;
        }
        waiting.tickets += 1;
        let (number, turn) = (waiting.tickets, Arc::new(Notify::new()));
        waiting.line.push_back(Waiter { number, turn: Arc::clone(&turn), want });
        waiting.count(want);
        self.length.store(waiting.line.len(), Ordering::Release);
        drop(waiting);
        // Places may have become free between a try and this; those in front go first.
        self.wake();
        Some(Ticket { queue: Arc::clone(self), number, turn })
    }

    /// A place may have become free.
    pub fn wake(&self) {
        if !self.is_empty()
            && let Some(first) = self.waiting.lock().line.front()
        {
            first.turn.notify_one();
        }
    }

    /// Nobody waits any more: the proxy is leaving, or the service is gone from the configuration.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waiting.lock().line.iter().for_each(|waiter| waiter.turn.notify_one());
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Waiting {
    fn count(&mut self, want: Want) {
        match want {
            Want::NoPlace => {}
            Want::AnyPlace => self.any += 1,
            Want::PlaceAt(endpoint) => *self.at.entry(endpoint).or_default() += 1,
        }
    }

    fn uncount(&mut self, want: Want) {
        match want {
            Want::NoPlace => {}
            Want::AnyPlace => self.any = self.any.saturating_sub(1),
            Want::PlaceAt(endpoint) => {
                let left = self.at.get(&endpoint).map_or(0, |count| count.saturating_sub(1));
                if left == 0 {
                    self.at.remove(&endpoint)
                } else {
                    self.at.insert(endpoint, left)
                };
            }
        }
    }

    /// Where in the line a ticket stands.
    fn position(&self, number: u64) -> Option<usize> {
        self.line.binary_search_by_key(&number, |waiter| waiter.number).ok()
    }
}

impl Ticket {
    /// Resolves when it is this one's turn to try.
    pub async fn turn(&self) {
        self.turn.notified().await;
    }

    /// It wants something else now.
    pub fn wants(&self, want: Want) {
        let mut waiting = self.queue.waiting.lock();
        let Some(own) = waiting.position(self.number).and_then(|own| waiting.line.get_mut(own)) else {
            return;
        };
        let before = mem::replace(&mut own.want, want);
        waiting.uncount(before);
        waiting.count(want);
    }

    /// There was nothing for this one: the next may try.
    pub fn pass_on(&self) {
        let waiting = self.queue.waiting.lock();
        let behind = waiting.line.partition_point(|waiter| waiter.number <= self.number);
        if let Some(next) = waiting.line.get(behind) {
            next.turn.notify_one();
        }
    }
}

impl Drop for Ticket {
    /// Whatever this one was told and did not use is for the next.
    fn drop(&mut self) {
        self.pass_on();
        let mut waiting = self.queue.waiting.lock();
        if let Some(own) = waiting.position(self.number).and_then(|own| waiting.line.remove(own)) {
            waiting.uncount(own.want);
        }
        self.queue.length.store(waiting.line.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn is_told(ticket: &Ticket) -> bool {
        ticket.turn().now_or_never().is_some()
    }

    #[test]
    fn the_first_is_told_first_and_tells_the_next() {
        let queue = Arc::new(Queue::default());
        let tickets: Vec<Ticket> = (0..3).filter_map(|_| queue.join(3, Want::AnyPlace)).collect();
        assert!(queue.join(3, Want::AnyPlace).is_none(), "full");
        // Each that joined had the first one look again.
        assert!(is_told(&tickets[0]) && !is_told(&tickets[1]));
        queue.wake();
        assert!(is_told(&tickets[0]) && !is_told(&tickets[1]) && !is_told(&tickets[2]));
        tickets[0].pass_on();
        assert!(!is_told(&tickets[0]) && is_told(&tickets[1]) && !is_told(&tickets[2]));
        tickets[2].pass_on();
        assert!(tickets.iter().all(|ticket| !is_told(ticket)), "behind the last is nobody");
    }

    #[test]
    fn whoever_leaves_lets_the_next_look() {
        let queue = Arc::new(Queue::default());
        let mut tickets: VecDeque<Ticket> = (0..3).filter_map(|_| queue.join(3, Want::AnyPlace)).collect();
        let first = tickets.pop_front();
        drop(first);
        assert!(is_told(&tickets[0]) && !is_told(&tickets[1]));
        queue.wake();
        assert!(is_told(&tickets[0]), "it is the first now");
        tickets.clear();
        assert!(queue.is_empty());
        queue.wake();
    }

    #[test]
    fn what_is_for_others_is_known_as_long_as_they_want_it() {
        let queue = Arc::new(Queue::default());
        let (one, other) = (EndpointId::from_bytes([1; 16]), EndpointId::from_bytes([2; 16]));
        let wanted = || {
            let mut ahead = queue.ahead();
            ahead.endpoints.sort();
            (ahead.any, ahead.endpoints)
        };
        assert_eq!(wanted(), (false, vec![]));
        let _request = queue.join(9, Want::NoPlace).unwrap();
        assert_eq!(wanted(), (false, vec![]));
        let first = queue.join(9, Want::PlaceAt(one)).unwrap();
        let second = queue.join(9, Want::PlaceAt(one)).unwrap();
        let third = queue.join(9, Want::PlaceAt(other)).unwrap();
        assert_eq!(wanted(), (false, vec![one, other]));
        drop(first);
        assert_eq!(wanted(), (false, vec![one, other]), "the second still wants it");
        second.wants(Want::AnyPlace);
        assert_eq!(wanted(), (true, vec![other]));
        let ahead = queue.ahead();
        assert!(ahead.takes(one, Phase::Ready), "one who takes any place takes this one");
        assert!(!ahead.takes(one, Phase::NotReady) && ahead.takes(other, Phase::NotReady));
        drop((second, third));
        assert_eq!(wanted(), (false, vec![]));
        assert!(!queue.ahead().takes(one, Phase::Ready));
    }

    #[test]
    fn a_closed_queue_tells_all_and_takes_nobody() {
        let queue = Arc::new(Queue::default());
        let tickets = [queue.join(3, Want::AnyPlace).unwrap(), queue.join(3, Want::AnyPlace).unwrap()];
        queue.close();
        assert!(tickets.iter().all(is_told) && queue.join(3, Want::AnyPlace).is_none());
    }
}
