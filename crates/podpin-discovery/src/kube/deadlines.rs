//! When the pods that are being deleted will be killed, by uid; pure but for the clock that it is given.
//!
//! Only those that are being deleted are kept: of ten thousand pods, a handful. The API says it as a time of the
//! wall clock, which is turned into a moment of the caller's monotonic clock once, when it is first heard: the same word
//! heard again is the same moment, however the wall clock was set meanwhile.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use podpin_endpoints::Observed;
use podpin_time::Millis;

/// How a time of the wall clock is called on the caller's monotonic clock.
pub(crate) type MomentOf = fn(SystemTime) -> Millis;

/// The deadlines of the pods of one namespace.
pub(crate) struct Deadlines {
    by_uid: HashMap<Arc<str>, Deadline>,
    moment_of: MomentOf,
}

/// A deadline on the wall clock and on the clock of the endpoints.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: SystemTime,
    moment: Millis,
}

impl fmt::Debug for Deadlines {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.by_uid.fmt(out)
    }
}

impl Deadlines {
    /// None known yet.
    pub(crate) fn new(moment_of: MomentOf) -> Deadlines {
        Deadlines { by_uid: HashMap::new(), moment_of }
    }

    /// Sets the time at which the pod `uid` will be killed; `None` if it is not being deleted. Returns whether that is new.
    pub(crate) fn set(&mut self, uid: &str, at: Option<SystemTime>) -> bool {
        let Some(at) = at else { return self.forget(uid) };
        if self.by_uid.get(uid).is_some_and(|held| held.at == at) {
            return false;
        }
        let deadline = Deadline { at, moment: (self.moment_of)(at) };
        self.by_uid.insert(uid.into(), deadline);
        true
    }

    /// Returns whether it was known.
    pub(crate) fn forget(&mut self, uid: &str) -> bool {
        self.by_uid.remove(uid).is_some()
    }

    /// Forgets all others.
    pub(crate) fn keep(&mut self, stays: impl Fn(&str) -> bool) {
        self.by_uid.retain(|uid, _| stays(uid));
    }

    /// Whether one is known for this pod.
    pub(crate) fn knows(&self, uid: &str) -> bool {
        self.by_uid.contains_key(uid)
    }

    /// Whether none is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_uid.is_empty()
    }

    /// Writes to each endpoint what is known of its pod.
    pub(crate) fn fill(&self, observed: &mut [Observed]) {
        if self.by_uid.is_empty() {
            return;
        }
        for one in observed {
            let deadline = one.uid.as_ref().and_then(|uid| self.by_uid.get(uid));
            one.deadline = deadline.map(|deadline| deadline.moment);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_same_word_heard_again_is_the_same_moment() {
        static NOW: AtomicU64 = AtomicU64::new(100);
        let mut deadlines = Deadlines::new(|_| Millis(NOW.fetch_add(1, Ordering::Relaxed)));
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let moment = |deadlines: &Deadlines| deadlines.by_uid.get("u").map(|one| one.moment);
        assert!(deadlines.set("u", at(30)) && !deadlines.set("u", at(30)) && !deadlines.set("u", at(30)));
        assert_eq!(moment(&deadlines), Some(Millis(100)));
        assert!(deadlines.set("u", at(5)));
        assert_eq!(moment(&deadlines), Some(Millis(101)), "asked for when it is new, and not otherwise");
        assert!(deadlines.set("u", None) && !deadlines.set("u", None) && deadlines.is_empty());
    }
}
