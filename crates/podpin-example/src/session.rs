//! Counts how often each session was met: the smallest state that a service can hold about its clients.
//!
//! With Redis it is kept there under the session's id (`X-Podpin-Session`), so the count goes on wherever the session is
//! moved. In memory it is lost with the pod on purpose: on the demo page a count that begins anew shows that the client
//! has moved.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::log::{Log, Meeting, now_micros};

/// Sessions remembered; the one met first is forgotten first. Bounds the memory to about 1 MiB.
const SESSIONS_MAX: usize = 4_096;

/// Longer names are not ours (podpin's session ids have 22 to 36 characters) and are not kept.
const NAME_BYTES_MAX: usize = 128;

/// The sessions that this pod has met, for a pod whose log is in memory.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    meetings: HashMap<String, Meeting>,
    order: VecDeque<String>,
}

impl Sessions {
    /// Counts one request of `session`; `None` if Redis, which should know how many there were, does not answer.
    pub(crate) async fn meet(&self, log: &Log, session: &str) -> Option<Meeting> {
        let now = now_micros();
        let once = Meeting { requests: 1, first: now };
        match log.store() {
            _ if session.len() > NAME_BYTES_MAX => Some(once),
            // Who has no session has no past to share.
            Some(_) if session.is_empty() => Some(once),
            Some(store) => store.meet(session, now).await.ok(),
            None => Some(self.count(session, once)),
        }
    }

    fn count(&self, session: &str, once: Meeting) -> Meeting {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(meeting) = counts.meetings.get_mut(session) {
            meeting.requests += 1;
            return *meeting;
        }
        counts.remember(session, once);
        once
    }
}

impl Counts {
    fn remember(&mut self, session: &str, once: Meeting) {
        if self.order.len() >= SESSIONS_MAX
            && let Some(first) = self.order.pop_front()
        {
            self.meetings.remove(&first);
        }
        self.meetings.insert(session.to_owned(), once);
        self.order.push_back(session.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_session_has_its_own_count_and_the_first_is_forgotten_when_full() {
        let sessions = Sessions::default();
        let count = |session: &str, now: u64| {
            let meeting = sessions.count(session, Meeting { requests: 1, first: now });
            (meeting.requests, meeting.first)
        };
        assert_eq!(count("first", 10), (1, 10));
        assert_eq!(count("first", 11), (2, 10));
        for number in 1..SESSIONS_MAX {
            assert_eq!(count(&number.to_string(), 12).0, 1);
        }
        assert_eq!(count("first", 13), (3, 10));
        assert_eq!(count("one too many", 14), (1, 14));
        assert_eq!(count("first", 15), (1, 15));
        assert_eq!(sessions.0.lock().unwrap().meetings.len(), SESSIONS_MAX);
    }
}
