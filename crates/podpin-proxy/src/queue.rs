//! `affinity.onUnavailable: wait`: requests of one service that wait for a place, first come, first served.
//!
//! Whenever a place may have become free, the first in the queue is told and tries; if it cannot use what there is (its
//! own endpoint is still full), it tells the one behind it, and so on to the end. So nobody is overtaken by someone
//! who wants the same, and nobody waits for a place that only another cannot use.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Those who wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    /// As many as there are in `waiting`, readable without its lock.
    length: AtomicUsize,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    tickets: u64,
    /// In the order in which they came.
    line: VecDeque<(u64, Arc<Notify>)>,
}

/// A place in the queue, given up when this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    queue: Arc<Queue>,
    number: u64,
    turn: Arc<Notify>,
}

impl Queue {
    /// Nobody waits: whoever comes may try at once.
    pub(crate) fn is_empty(&self) -> bool {
        self.length.load(Ordering::Acquire) == 0
    }

    /// Goes to the end of the queue; `None` when `length_max` wait already, or it is closed.
    pub(crate) fn join(self: &Arc<Self>, length_max: u32) -> Option<Ticket> {
        let mut waiting = self.waiting.lock();
        if waiting.line.len() >= usize::try_from(length_max).unwrap_or(usize::MAX) || self.is_closed() {
            return None;
        }
        waiting.tickets += 1;
        let (number, turn) = (waiting.tickets, Arc::new(Notify::new()));
        waiting.line.push_back((number, Arc::clone(&turn)));
        self.length.store(waiting.line.len(), Ordering::Release);
        drop(waiting);
        // Places may have become free between a try and this; those in front go first.
        self.wake();
        Some(Ticket { queue: Arc::clone(self), number, turn })
    }

    /// A place may have become free.
    pub(crate) fn wake(&self) {
        if !self.is_empty()
            && let Some((_, first)) = self.waiting.lock().line.front()
        {
            first.notify_one();
        }
    }

    /// Nobody waits any more: the proxy is leaving, or the service is gone from the configuration.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waiting.lock().line.iter().for_each(|(_, turn)| turn.notify_one());
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Ticket {
    /// Resolves when it is this one's turn to try.
    pub(crate) async fn turn(&self) {
        self.turn.notified().await;
    }

    /// There was nothing for this one: the next may try.
    pub(crate) fn pass_on(&self) {
        let waiting = self.queue.waiting.lock();
        let behind = waiting.line.partition_point(|(number, _)| *number <= self.number);
        if let Some((_, next)) = waiting.line.get(behind) {
            next.notify_one();
        }
    }
}

impl Drop for Ticket {
    /// Whatever this one was told and did not use is for the next.
    fn drop(&mut self) {
        self.pass_on();
        let mut waiting = self.queue.waiting.lock();
        let own = waiting.line.partition_point(|(number, _)| *number < self.number);
        if waiting.line.get(own).is_some_and(|(number, _)| *number == self.number) {
            waiting.line.remove(own);
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
        let tickets: Vec<Ticket> = (0..3).filter_map(|_| queue.join(3)).collect();
        assert!(queue.join(3).is_none(), "full");
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
        let mut tickets: VecDeque<Ticket> = (0..3).filter_map(|_| queue.join(3)).collect();
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
    fn a_closed_queue_tells_all_and_takes_nobody() {
        let queue = Arc::new(Queue::default());
        let tickets = [queue.join(3).unwrap(), queue.join(3).unwrap()];
        queue.close();
        assert!(tickets.iter().all(is_told) && queue.join(3).is_none());
    }
}
