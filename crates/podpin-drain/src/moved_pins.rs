//! Sessions whose stream moved to another endpoint before their cookie did.
//!
//! A client whose stream was moved may show an endpoint in its cookie where the stream is not: the one that it left, when that is
//! there again or was full for the stream alone, or one that another replica chose. Its next request here is answered where the
//! stream is, with a new cookie. So stream and requests meet at every replica.
//!
//! A cookie that names a third endpoint is corrected only while the stream is open, and a few times at most: with a stream at each
//! of two replicas that are at two endpoints, both replicas would correct each other for ever.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use podpin_endpoints::EndpointId;

use crate::reconnects::Session;

/// Sessions remembered at a time, of one service, at about 120 bytes each. A client sends a request or comes back within
/// minutes; one that is forgotten is pinned to the endpoint in its cookie.
const SESSIONS_MAX: usize = 50_000;

/// Cookies with different endpoints that are corrected for one move.
const CORRECTIONS_MAX: u8 = 3;

/// Sessions of one service whose cookie may name an endpoint that their stream has left.
#[derive(Debug, Default)]
pub struct MovedPins {
    sessions: Mutex<Sessions>,
    /// Number of `sessions`, readable without the lock.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Sessions {
    pins: HashMap<Session, MovedPin>,
    /// Sessions by the age of their first move.
    order: BTreeMap<u64, Session>,
    moves: u64,
}

#[derive(Clone, Copy, Debug)]
struct MovedPin {
    /// Endpoint in the client's cookie, as far as it was seen.
    shown: EndpointId,
    /// Endpoint of the stream.
    actual: EndpointId,
    /// Number of the stream that moved last.
    stream: u64,
    /// Place in the order of age.
    age: u64,
    is_open: bool,
    corrections: u8,
}

/// Move of a stream between two endpoints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamMove {
    /// Number of the stream.
    pub(crate) stream: u64,
    /// Endpoint that it left.
    pub(crate) from: EndpointId,
    /// Endpoint that it goes on at.
    pub(crate) to: EndpointId,
}

impl MovedPins {
    /// Remembers that a stream of this session moved.
    pub(crate) fn remember(&self, session: Session, step: StreamMove) {
        let mut sessions = self.sessions.lock();
        let sessions = &mut *sessions;
        let StreamMove { stream, from, to } = step;
        match sessions.pins.get_mut(&session) {
            // The cookie still names the endpoint before the first move.
            Some(known) => {
                *known = MovedPin { actual: to, stream, is_open: true, corrections: 0, ..*known };
            }
            None => {
                sessions.moves += 1;
                let age = sessions.moves;
                let pin = MovedPin { shown: from, actual: to, stream, age, is_open: true, corrections: 0 };
                sessions.pins.insert(session, pin);
                sessions.order.insert(age, session);
            }
        }
        while sessions.order.len() > SESSIONS_MAX {
            if let Some((_, oldest)) = sessions.order.pop_first() {
                sessions.pins.remove(&oldest);
            }
        }
        self.count.store(sessions.pins.len(), Ordering::Relaxed);
    }

    /// Notes that a stream of this session ended. What the client shows from then on counts, unless it is the endpoint that the
    /// stream left.
    pub(crate) fn closed(&self, session: Session, stream: u64) {
        if self.count.load(Ordering::Relaxed) > 0
            && let Some(pin) = self.sessions.lock().pins.get_mut(&session)
            && pin.stream == stream
        {
            pin.is_open = false;
        }
    }

    /// Returns the endpoint of an open stream of this session that moved; `None` if there is none. For clients that name themselves:
    /// they have no cookie that learns of the move, and are where they hash to once the stream has ended.
    pub fn of_open_stream(&self, session: &Session) -> Option<EndpointId> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let sessions = self.sessions.lock();
        sessions.pins.get(session).filter(|pin| pin.is_open).map(|pin| pin.actual)
    }

    /// Returns the endpoint of a client whose cookie names `shown`. A client that shows the endpoint of its stream has learned of
    /// the move; it is forgotten when the stream has ended.
    pub fn correct(&self, session: &Session, shown: EndpointId) -> EndpointId {
        if self.count.load(Ordering::Relaxed) == 0 {
            return shown;
        }
        let mut sessions = self.sessions.lock();
        let Some(pin) = sessions.pins.get_mut(session) else { return shown };
        match pin.shown == shown || (pin.is_open && pin.actual == shown) {
            true => pin.actual,
            false if pin.is_open && pin.corrections < CORRECTIONS_MAX => {
                pin.shown = shown;
                pin.corrections += 1;
                pin.actual
            }
            false => {
                let age = pin.age;
                sessions.pins.remove(session);
                sessions.order.remove(&age);
                self.count.store(sessions.pins.len(), Ordering::Relaxed);
                shown
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Session = [1; 16];

    fn ids() -> [EndpointId; 4] {
        ["a", "b", "c", "d"].map(|name| EndpointId::of_pod(name, 80))
    }

    fn step(from: EndpointId, to: EndpointId) -> StreamMove {
        StreamMove { stream: 7, from, to }
    }

    #[test]
    fn a_client_is_corrected_until_its_cookie_says_so() {
        let (moved, [old, new, ..]) = (MovedPins::default(), ids());
        assert_eq!(moved.correct(&SESSION, old), old);
        moved.remember(SESSION, step(old, new));
        assert_eq!((moved.correct(&SESSION, old), moved.correct(&[2; 16], old)), (new, old));
        assert_eq!(moved.correct(&SESSION, old), new, "its answer may have been lost");
        assert_eq!(moved.correct(&SESSION, new), new);
        assert_eq!(moved.correct(&SESSION, old), new, "a request that was on its way");
        moved.closed(SESSION, 7);
        assert_eq!(moved.correct(&SESSION, old), new);
        assert_eq!(moved.correct(&SESSION, new), new);
        assert_eq!(moved.correct(&SESSION, old), old, "forgotten");
    }

    #[test]
    fn a_client_follows_its_stream_over_further_moves_and_never_back() {
        let (moved, [a, b, c, d]) = (MovedPins::default(), ids());
        moved.remember(SESSION, step(a, b));
        moved.remember(SESSION, step(b, c));
        assert_eq!(moved.correct(&SESSION, a), c, "its pod left in turn");
        moved.remember(SESSION, step(c, b));
        assert_eq!(moved.correct(&SESSION, a), b);
        moved.closed(SESSION, 7);
        assert_eq!(moved.correct(&SESSION, d), d, "it was pinned elsewhere since");
        assert_eq!(moved.correct(&SESSION, d), d);
    }

    #[test]
    fn what_another_replica_chose_is_corrected_while_the_stream_is_open_and_not_for_ever() {
        let (moved, [a, b, c, d]) = (MovedPins::default(), ids());
        moved.remember(SESSION, step(a, b));
        assert_eq!([c, c, c, b].map(|shown| moved.correct(&SESSION, shown)), [b; 4], "one cookie");
        moved.closed(SESSION, 8);
        assert_eq!(moved.correct(&SESSION, d), b, "another stream ended");
        assert_eq!(moved.correct(&SESSION, c), b);
        assert_eq!(moved.correct(&SESSION, d), d, "the other replica insists");
        moved.remember(SESSION, step(a, b));
        moved.closed(SESSION, 7);
        assert_eq!(moved.correct(&SESSION, c), c);
    }

    #[test]
    fn the_number_of_sessions_is_bounded() {
        let (moved, [a, b, ..]) = (MovedPins::default(), ids());
        for number in 0..SESSIONS_MAX as u128 + 10 {
            moved.remember(number.to_be_bytes(), step(a, b));
        }
        let sessions = moved.sessions.lock();
        assert_eq!((sessions.pins.len(), sessions.order.len()), (SESSIONS_MAX, SESSIONS_MAX));
    }
}
