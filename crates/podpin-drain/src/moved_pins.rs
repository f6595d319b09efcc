//! Sessions whose stream moved to another endpoint before their cookie did.
//!
//! A client whose stream was rebalanced is still pinned to the old endpoint by its cookie. It is remembered until its next
//! request, whose answer brings a new cookie.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use podpin_endpoints::EndpointId;

use crate::reconnects::Session;

/// Sessions remembered at a time, of one service, at about 100 bytes each. A client sends a request or comes back within
/// minutes; one that is forgotten is pinned to its old endpoint.
const SESSIONS_MAX: usize = 50_000;

/// Sessions of one service whose cookie names an endpoint that their stream has left.
#[derive(Debug, Default)]
pub struct MovedPins {
    sessions: Mutex<Sessions>,
    /// Number of `sessions`, readable without the lock.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Sessions {
    pins: HashMap<Session, MovedPin>,
    order: VecDeque<Session>,
}

#[derive(Clone, Copy, Debug)]
struct MovedPin {
    /// Endpoint in the client's cookie.
    shown: EndpointId,
    /// Endpoint of the stream.
    actual: EndpointId,
}

impl MovedPins {
    /// Remembers that the stream of this session was rebalanced.
    pub(crate) fn remember(&self, session: Session, from: EndpointId, to: EndpointId) {
        let mut sessions = self.sessions.lock();
        match sessions.pins.get_mut(&session) {
            // The cookie still names the endpoint before the first move.
            Some(known) => known.actual = to,
            None => {
                sessions.pins.insert(session, MovedPin { shown: from, actual: to });
                sessions.order.push_back(session);
            }
        }
        while sessions.order.len() > SESSIONS_MAX {
            if let Some(oldest) = sessions.order.pop_front() {
                sessions.pins.remove(&oldest);
            }
        }
        self.count.store(sessions.pins.len(), Ordering::Relaxed);
    }

    /// Notes that the stream of this session moved for another reason; does nothing unless the session is remembered.
    pub(crate) fn follow(&self, session: Session, to: EndpointId) {
        if self.count.load(Ordering::Relaxed) > 0
            && let Some(known) = self.sessions.lock().pins.get_mut(&session)
        {
            known.actual = to;
        }
    }

    /// Returns the endpoint of a client whose cookie names `shown`. A client that shows another pin than the remembered
    /// one has learned of the move, and is forgotten.
    pub fn correct(&self, session: &Session, shown: EndpointId) -> EndpointId {
        if self.count.load(Ordering::Relaxed) == 0 {
            return shown;
        }
        let mut sessions = self.sessions.lock();
        match sessions.pins.get(session).copied() {
            Some(pin) if pin.shown == shown => pin.actual,
            Some(_) => {
                sessions.pins.remove(session);
                sessions.order.retain(|one| one != session);
                self.count.store(sessions.pins.len(), Ordering::Relaxed);
                shown
            }
            None => shown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_corrected_until_its_cookie_says_so() {
        let moved = MovedPins::default();
        let (old, new) = (EndpointId::of_pod("a", 80), EndpointId::of_pod("b", 80));
        assert_eq!(moved.correct(&[1; 16], old), old);
        moved.remember([1; 16], old, new);
        assert_eq!((moved.correct(&[1; 16], old), moved.correct(&[2; 16], old)), (new, old));
        assert_eq!(moved.correct(&[1; 16], old), new, "its answer may have been lost");
        assert_eq!(moved.correct(&[1; 16], new), new);
        assert_eq!(moved.correct(&[1; 16], old), old, "forgotten");
    }

    #[test]
    fn a_client_follows_its_stream_over_further_moves_and_never_back() {
        let moved = MovedPins::default();
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| EndpointId::of_pod(name, 80));
        moved.follow([1; 16], b);
        assert_eq!(moved.correct(&[1; 16], a), a, "a client that was not rebalanced is left to pick");
        moved.remember([1; 16], a, b);
        moved.follow([1; 16], c);
        assert_eq!(moved.correct(&[1; 16], a), c, "its pod left in turn");
        moved.remember([1; 16], c, b);
        assert_eq!(moved.correct(&[1; 16], a), b);
        assert_eq!(moved.correct(&[1; 16], d), d, "it was pinned elsewhere since");
        assert_eq!(moved.correct(&[1; 16], d), d);
    }

    #[test]
    fn the_number_of_sessions_is_bounded() {
        let moved = MovedPins::default();
        let id = EndpointId::of_pod("a", 80);
        for number in 0..SESSIONS_MAX as u128 + 10 {
            moved.remember(number.to_be_bytes(), id, id);
        }
        assert_eq!(moved.sessions.lock().pins.len(), SESSIONS_MAX);
    }
}
