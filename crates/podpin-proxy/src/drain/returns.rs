//! Clients whose stream was ended and who should be back soon: the affinity token recognises them when they are.
//!
//! Told by session id, which a re-pin keeps. Several streams of one session (tabs) are awaited one by one. Bounded: a
//! client that is not back within `drain.returnWindow`, or that more recent ones push out, is lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use podpin_time::Millis;

use crate::drain::tally::Tally;
use crate::telemetry::labels::ReconnectOutcome;
use crate::telemetry::metrics::ServiceMetrics;

/// Clients awaited at a time, of one service: a whole proxy's worth of streams, at about 100 bytes each. Full shows as
/// lost clients in a shutdown of everything behind one service.
const AWAITED_MAX: usize = 200_000;

/// The clients of one service that are awaited back.
#[derive(Debug, Default)]
pub struct Returns {
    awaited: Mutex<Awaited>,
    /// As many as there are in `awaited`, readable without its lock.
    away: AtomicU32,
    /// Streams that were told to leave and have not ended yet.
    told: AtomicU32,
}

#[derive(Debug, Default)]
struct Awaited {
    departures: u64,
    clients: BTreeMap<Ticket, Departed>,
    /// Oldest first; those that came back meanwhile are passed over.
    order: VecDeque<(Millis, Ticket)>,
}

/// A session, and which of its departures.
type Ticket = ([u8; 16], u64);

#[derive(Debug)]
struct Departed {
    at: Millis,
    tally: Option<Arc<Tally>>,
}

impl Returns {
    /// A stream of this session ended through no wish of its client.
    pub fn expect(&self, session: [u8; 16], tally: Option<Arc<Tally>>, now: Millis, to: &ServiceMetrics) {
        if let Some(tally) = &tally {
            tally.awaits();
        }
        let mut awaited = self.awaited.lock();
        awaited.departures += 1;
        let ticket = (session, awaited.departures);
        awaited.clients.insert(ticket, Departed { at: now, tally });
        awaited.order.push_back((now, ticket));
        while awaited.clients.len() > AWAITED_MAX {
            let Some((_, oldest)) = awaited.order.pop_front() else { break };
            if let Some(departed) = awaited.clients.remove(&oldest) {
                departed.settle(ReconnectOutcome::Lost, now, to);
            }
        }
        self.note(&awaited);
    }

    /// A stream of this session begins: one of its departures, if there was any, is made good.
    pub fn came_back(&self, session: [u8; 16], now: Millis, to: &ServiceMetrics) {
        if self.away.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut awaited = self.awaited.lock();
        let first =
            awaited.clients.range((session, 0)..=(session, u64::MAX)).next().map(|(ticket, _)| *ticket);
        if let Some(departed) = first.and_then(|ticket| awaited.clients.remove(&ticket)) {
            self.note(&awaited);
            drop(awaited);
            departed.settle(ReconnectOutcome::Returned, now, to);
        }
    }

    /// Gives up those that are not back within `window`.
    pub fn expire(&self, window: Duration, now: Millis, to: &ServiceMetrics) {
        let mut awaited = self.awaited.lock();
        while let Some((at, ticket)) = awaited.order.front().copied() {
            let is_back = !awaited.clients.contains_key(&ticket);
            if !is_back && now.since(at) < window {
                break;
            }
            awaited.order.pop_front();
            if let Some(departed) = awaited.clients.remove(&ticket) {
                departed.settle(ReconnectOutcome::Lost, now, to);
            }
        }
        self.note(&awaited);
    }

    /// A stream was told to leave.
    pub fn tell(&self) {
        self.told.fetch_add(1, Ordering::Relaxed);
    }

    /// A stream that was told to leave has ended.
    pub fn told_one_ended(&self) {
        self.told.fetch_sub(1, Ordering::Relaxed);
    }

    /// Clients that are away, and streams that will end in a moment.
    pub fn in_motion(&self) -> u32 {
        self.away.load(Ordering::Relaxed).saturating_add(self.told.load(Ordering::Relaxed))
    }

    /// Clients that are awaited.
    pub fn away(&self) -> u32 {
        self.away.load(Ordering::Relaxed)
    }

    fn note(&self, awaited: &Awaited) {
        self.away.store(u32::try_from(awaited.clients.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

impl Departed {
    fn settle(&self, outcome: ReconnectOutcome, now: Millis, to: &ServiceMetrics) {
        let gap = now.since(self.at);
        to.reconnects.inc(outcome);
        if outcome == ReconnectOutcome::Returned {
            to.reconnect_gap.observe(gap.as_secs_f64());
        }
        if let Some(tally) = &self.tally {
            tally.settled(outcome, gap);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    const WINDOW: Duration = Duration::from_secs(30);

    fn metrics() -> ServiceMetrics {
        Metrics::new("0").unwrap().service("chat")
    }

    #[test]
    fn every_departure_of_a_session_is_made_good_once() {
        let (returns, metrics, tally) = (Returns::default(), metrics(), Arc::new(Tally::default()));
        returns.expect([1; 16], Some(Arc::clone(&tally)), Millis(0), &metrics);
        returns.expect([1; 16], Some(Arc::clone(&tally)), Millis(10), &metrics);
        returns.came_back([2; 16], Millis(20), &metrics);
        assert_eq!(returns.away(), 2);
        returns.came_back([1; 16], Millis(900), &metrics);
        returns.came_back([1; 16], Millis(910), &metrics);
        returns.came_back([1; 16], Millis(920), &metrics);
        let sums = tally.sums();
        assert_eq!((returns.away(), sums.returned, sums.lost), (0, 2, 0));
        assert_eq!((sums.gap_millis(0), sums.gap_millis(1_000)), (Some(900), Some(900)));
    }

    #[test]
    fn whoever_is_not_back_in_time_is_lost() {
        let (returns, metrics, tally) = (Returns::default(), metrics(), Arc::new(Tally::default()));
        returns.expect([1; 16], Some(Arc::clone(&tally)), Millis(0), &metrics);
        returns.expect([2; 16], Some(Arc::clone(&tally)), Millis(1_000), &metrics);
        returns.expire(WINDOW, Millis(29_999), &metrics);
        assert_eq!(returns.away(), 2);
        returns.came_back([1; 16], Millis(29_999), &metrics);
        returns.expire(WINDOW, Millis(30_999), &metrics);
        assert_eq!(returns.away(), 1, "the other has its whole time");
        returns.expire(WINDOW, Millis(31_000), &metrics);
        let sums = tally.sums();
        assert_eq!((returns.away(), sums.returned, sums.lost), (0, 1, 1));
        returns.came_back([2; 16], Millis(31_001), &metrics);
        assert_eq!(tally.sums().returned, 1, "too late");
    }
}
