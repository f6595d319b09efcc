//! Counts how often a pod met each session: the smallest state that a pod can hold about its clients.
//!
//! It is lost with the pod on purpose: on the demo page a count that begins anew shows that the client has moved.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Sessions remembered; the one met first is forgotten first. Bounds the memory to about 1 MiB.
const SESSIONS_MAX: usize = 4_096;

/// Longer names are not ours (podpin's session ids have 22 to 36 characters) and are not kept.
const NAME_BYTES_MAX: usize = 128;

#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    requests: HashMap<String, u64>,
    order: VecDeque<String>,
}

impl Sessions {
    /// Counts one request of `session` and returns how many there were with this one.
    pub(crate) fn count(&self, session: &str) -> u64 {
        if session.len() > NAME_BYTES_MAX {
            return 1;
        }
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(requests) = counts.requests.get_mut(session) {
            *requests += 1;
            return *requests;
        }
        counts.remember(session);
        1
    }
}

impl Counts {
    fn remember(&mut self, session: &str) {
        if self.order.len() >= SESSIONS_MAX
            && let Some(first) = self.order.pop_front()
        {
            self.requests.remove(&first);
        }
        self.requests.insert(session.to_owned(), 1);
        self.order.push_back(session.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_session_has_its_own_count_and_the_first_is_forgotten_when_full() {
        let sessions = Sessions::default();
        assert_eq!(sessions.count("first"), 1);
        assert_eq!(sessions.count("first"), 2);
        for number in 1..SESSIONS_MAX {
            assert_eq!(sessions.count(&number.to_string()), 1);
        }
        assert_eq!(sessions.count("first"), 3);
        assert_eq!(sessions.count("one too many"), 1);
        assert_eq!(sessions.count("first"), 1);
        assert_eq!(sessions.0.lock().unwrap().requests.len(), SESSIONS_MAX);
    }
}
