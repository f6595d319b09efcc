//! The state of a service's source of endpoints: its last failure, and names that the source does not have.
//!
//! Written by discovery on the control thread, read by readiness, the log and the pages of the admin port; requests never see it.

use std::sync::Arc;

use parking_lot::Mutex;
use podpin_time::Millis;

use crate::clock;
use crate::telemetry::labels::{DiscoveryError, MismatchReason};

/// The source of a service's endpoints, as it was heard last.
#[derive(Debug, Default)]
pub struct Source {
    report: Mutex<SourceReport>,
}

/// The state of a source at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceReport {
    /// The failure that is not over yet; `None` if the source can be read.
    pub failure: Option<SourceFailure>,
    /// A name that the source does not have; `None` if it has all.
    pub mismatch: Option<SourceMismatch>,
    /// Whether the source has said which names it has, since it was configured.
    is_settled: bool,
}

/// A source that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFailure {
    /// The kind of the failure.
    pub reason: DiscoveryError,
    /// The failure in words.
    pub words: Arc<str>,
    /// When it was noticed.
    pub since: Millis,
}

/// A name in the configuration of a service that its source does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceMismatch {
    /// The kind of the name.
    pub reason: MismatchReason,
    /// The mismatch in words.
    pub words: Arc<str>,
    /// Whether the endpoints of another source stay meanwhile.
    pub keeps: bool,
    /// When it was noticed.
    pub since: Millis,
}

impl Source {
    /// Returns the state as of now.
    #[must_use]
    pub fn report(&self) -> SourceReport {
        self.report.lock().clone()
    }

    /// Records that the source cannot be read; `words` are `None` if they are those of the failure before.
    pub fn failed(&self, reason: DiscoveryError, words: Option<Arc<str>>) {
        let mut report = self.report.lock();
        let before = report.failure.take();
        let since = before.as_ref().map_or_else(clock::now, |failure| failure.since);
        let words = words.or(before.map(|failure| failure.words)).unwrap_or_default();
        report.failure = Some(SourceFailure { reason, words, since });
    }

    /// Records that the source can be read.
    pub fn recovered(&self) {
        self.report.lock().failure = None;
    }

    /// Returns the words for why the source cannot be read; `None` if it can, or was not tried yet.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<str>> {
        self.report.lock().failure.as_ref().map(|failure| Arc::clone(&failure.words))
    }

    /// Records a name that the source does not have, `None` if it has all. Returns the mismatch that was known before.
    pub fn settle(&self, mismatch: Option<SourceMismatch>) -> Option<SourceMismatch> {
        let mut report = self.report.lock();
        report.is_settled = true;
        std::mem::replace(&mut report.mismatch, mismatch)
    }

    /// Records that the service has another source, which has said nothing yet.
    pub fn change(&self) {
        self.report.lock().is_settled = false;
    }

    /// Returns whether the source has said which names it has, since it was configured.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.report.lock().is_settled
    }

    /// Returns whether endpoints of another source stay in use, because this one has none of the names.
    #[must_use]
    pub fn keeps_others(&self) -> bool {
        self.report.lock().mismatch.as_ref().is_some_and(|mismatch| mismatch.keeps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_lasts_from_its_first_word_until_the_source_can_be_read() {
        let source = Source::default();
        source.failed(DiscoveryError::Forbidden, Some("403".into()));
        let first = source.report().failure.unwrap();
        source.failed(DiscoveryError::Forbidden, None);
        assert_eq!(source.report().failure, Some(first));
        assert_eq!(source.failure().as_deref(), Some("403"));
        source.recovered();
        assert_eq!(source.report().failure, None);
    }

    #[test]
    fn a_source_is_settled_by_its_first_word_and_open_again_when_another_takes_its_place() {
        let source = Source::default();
        assert!(!source.is_settled());
        assert_eq!(source.settle(None), None);
        assert!(source.is_settled() && !source.keeps_others());
        source.change();
        assert!(!source.is_settled());
        let (reason, words) = (MismatchReason::Port, "no port".into());
        source.settle(Some(SourceMismatch { reason, words, keeps: true, since: Millis(1) }));
        assert!(source.is_settled() && source.keeps_others());
    }
}
