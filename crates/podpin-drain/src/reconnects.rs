//! Clients whose stream was ended and who should be back soon; the affinity token recognises them when they are.
//!
//! Clients are known by their session id, which a re-pin keeps. Several streams of one session (tabs) are awaited one by
//! one. The number is bounded: a client that is not back within `drain.returnWindow`, or that more recent ones push out,
//! is lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use podpin_time::Millis;

use crate::report::GroupAccount;

/// Session id of a client.
pub type Session = [u8; 16];

/// Clients awaited at a time, of one service: a whole proxy's worth of streams, at about 100 bytes each. Too small a number
/// shows as lost clients in a shutdown of the endpoints of one service.
const AWAITED_MAX: usize = 200_000;

/// Tickets of returned clients that may stand among those of awaited ones beyond the number of the latter, so that a short
/// list is not searched each time.
const TICKETS_SPARE: usize = 64;

/// Clients of one service that are awaited back.
#[derive(Debug, Default)]
pub struct ReconnectTracker {
    awaited: Mutex<Awaited>,
    /// Number of awaited clients, readable without the lock.
    away: AtomicU32,
}

#[derive(Debug, Default)]
struct Awaited {
    departures: u64,
    clients: BTreeMap<Ticket, Pending>,
    /// Oldest first; tickets of clients that came back meanwhile are skipped, and never more than half by much.
    order: VecDeque<Ticket>,
}

/// Departure of a session, as a key that sorts by session, then by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket {
    session: Session,
    departure: u64,
    at: Millis,
}

/// Client that is between two streams.
#[derive(Debug)]
struct Pending {
    at: Millis,
    /// Group that the stream left with, if it did; the group counts the client as awaited already.
    group: Option<Arc<GroupAccount>>,
}

impl ReconnectTracker {
    /// Awaits the client of a stream that ended. Returns how many older clients had to be given up for that.
    pub(crate) fn expect(&self, session: Session, group: Option<Arc<GroupAccount>>, now: Millis) -> u32 {
        let mut awaited = self.awaited.lock();
        awaited.departures += 1;
        let ticket = Ticket { session, departure: awaited.departures, at: now };
        awaited.clients.insert(ticket, Pending { at: now, group });
        awaited.order.push_back(ticket);
        let mut lost = 0;
        while awaited.clients.len() > AWAITED_MAX {
            let Some(oldest) = awaited.order.pop_front() else { break };
            lost += awaited.lose(&oldest);
        }
        awaited.forget_returned();
        self.publish_count(&awaited);
        lost
    }

    /// Notes that a stream of this session begins. Returns how long the client was away; `None` if it was not awaited.
    pub fn came_back(&self, session: Session, now: Millis) -> Option<Duration> {
        if self.away.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut awaited = self.awaited.lock();
        let from = Ticket { session, departure: 0, at: Millis(0) };
        let to = Ticket { session, departure: u64::MAX, at: Millis(u64::MAX) };
        let first = awaited.clients.range(from..=to).next().map(|(ticket, _)| *ticket)?;
        let pending = awaited.clients.remove(&first)?;
        self.publish_count(&awaited);
        drop(awaited);
        let gap = now.since(pending.at);
        if let Some(group) = pending.group {
            group.returned(gap);
        }
        Some(gap)
    }

    /// Gives up the clients that are not back within `window`. Returns how many were lost.
    pub(crate) fn expire(&self, window: Duration, now: Millis) -> u32 {
        let mut awaited = self.awaited.lock();
        let mut lost = 0;
        while let Some(ticket) = awaited.order.front().copied() {
            let is_away = awaited.clients.contains_key(&ticket);
            if is_away && now.since(ticket.at) < window {
                break;
            }
            awaited.order.pop_front();
            lost += awaited.lose(&ticket);
        }
        self.publish_count(&awaited);
        lost
    }

    /// Returns how many clients are awaited.
    #[must_use]
    pub fn away(&self) -> u32 {
        self.away.load(Ordering::Relaxed)
    }

    /// Publishes the number of awaited clients.
    fn publish_count(&self, awaited: &Awaited) {
        self.away.store(u32::try_from(awaited.clients.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

impl Awaited {
    /// Drops the tickets of clients that came back, once they are more than half of all: each is looked at twice or so.
    fn forget_returned(&mut self) {
        let Awaited { clients, order, .. } = self;
        if order.len() > 2 * clients.len() + TICKETS_SPARE {
            order.retain(|ticket| clients.contains_key(ticket));
        }
    }

    /// Gives up a client. Returns 1 if it was awaited still, else 0.
    fn lose(&mut self, ticket: &Ticket) -> u32 {
        let Some(pending) = self.clients.remove(ticket) else { return 0 };
        if let Some(group) = pending.group {
            group.lost();
        }
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Cause, EndKind, StreamEnd};

    const WINDOW: Duration = Duration::from_secs(30);

    fn group() -> Arc<GroupAccount> {
        GroupAccount::new(Cause::Drain, &Arc::default())
    }

    fn depart(returns: &ReconnectTracker, session: Session, group: &Arc<GroupAccount>, now: Millis) {
        group.joined();
        group.ended(StreamEnd { kind: EndKind::Graceful, is_awaited: true }, now);
        assert_eq!(returns.expect(session, Some(Arc::clone(group)), now), 0);
    }

    #[test]
    fn every_departure_of_a_session_is_made_good_once() {
        let (returns, group) = (ReconnectTracker::default(), group());
        depart(&returns, [1; 16], &group, Millis(0));
        depart(&returns, [1; 16], &group, Millis(10));
        assert_eq!(returns.came_back([2; 16], Millis(20)), None);
        assert_eq!(returns.away(), 2);
        let millis = Duration::from_millis;
        assert_eq!(returns.came_back([1; 16], Millis(900)), Some(millis(900)));
        assert_eq!(returns.came_back([1; 16], Millis(910)), Some(millis(900)));
        assert_eq!(returns.came_back([1; 16], Millis(920)), None);
        let report = group.report();
        assert_eq!((returns.away(), report.returned, report.lost, report.awaited), (0, 2, 0, 0));
        assert_eq!((report.gap_millis(0), report.gap_millis(1_000)), (Some(900), Some(900)));
    }

    #[test]
    fn a_client_that_is_not_back_in_time_is_lost() {
        let (returns, group) = (ReconnectTracker::default(), group());
        depart(&returns, [1; 16], &group, Millis(0));
        depart(&returns, [2; 16], &group, Millis(1_000));
        assert_eq!(returns.expire(WINDOW, Millis(29_999)), 0);
        assert_eq!(returns.away(), 2);
        assert!(returns.came_back([1; 16], Millis(29_999)).is_some());
        assert_eq!(returns.expire(WINDOW, Millis(30_999)), 0);
        assert_eq!(returns.away(), 1, "the other has its whole time");
        assert_eq!(returns.expire(WINDOW, Millis(31_000)), 1);
        let report = group.report();
        assert_eq!((returns.away(), report.returned, report.lost), (0, 1, 1));
        assert_eq!(returns.came_back([2; 16], Millis(31_001)), None, "too late");
        assert_eq!(group.report().returned, 1);
    }

    #[test]
    fn clients_that_come_back_leave_nothing_behind_while_an_older_one_is_awaited() {
        let tracker = ReconnectTracker::default();
        tracker.expect([0; 16], None, Millis(0));
        for departure in 1..=10_000 {
            tracker.expect([1; 16], None, Millis(departure));
            assert!(tracker.came_back([1; 16], Millis(departure)).is_some());
        }
        let places = tracker.awaited.lock().order.len();
        assert!(places <= 2 * TICKETS_SPARE, "{places} places for one client");
        assert_eq!(tracker.expire(WINDOW, Millis(29_999)), 0);
        assert_eq!(tracker.expire(WINDOW, Millis(30_000)), 1, "the oldest is still the first to be lost");
    }

    #[test]
    fn the_number_of_awaited_clients_is_bounded() {
        let returns = ReconnectTracker::default();
        let lost: u32 =
            (0..AWAITED_MAX as u128 + 10).map(|n| returns.expect(n.to_be_bytes(), None, Millis(0))).sum();
        assert_eq!((lost, returns.away()), (10, u32::try_from(AWAITED_MAX).unwrap()));
    }
}
