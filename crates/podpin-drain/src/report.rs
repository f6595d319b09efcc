//! The account of one group of streams that leave together, and the report that comes of it.
//!
//! A stream is settled when it has ended and its client is back, or has stayed away for `drain.returnWindow`. The account
//! is written a handful of times for each stream, so a lock is cheap enough; it is taken within the lock of a stream's
//! state, never the other way round, so that a state and its account change together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use podpin_time::Millis;

/// Reason why a group of streams leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Drain of their endpoint.
    Drain,
    /// Reload that removed their route or their service.
    Withdrawn,
    /// Shutdown of the proxy.
    Shutdown,
    /// Rebalancing: another endpoint has fewer streams; or an endpoint that fails its checks. A stream goes elsewhere or stays.
    Rebalance,
}

/// Manner in which a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndKind {
    /// Goodbye at an event boundary, because the stream had to leave.
    Graceful,
    /// Cut within an event, or before the client took the goodbye, because the stream had to leave.
    Forced,
    /// Death of the endpoint.
    Broken,
    /// Any other reason: the client or the endpoint ended the stream.
    Left,
}

/// Counts of one group of streams, and the times that returned clients were away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Streams of the group, ended or not.
    pub streams: u32,
    /// Streams that went on at another endpoint.
    pub moved: u32,
    /// Streams that ended with a goodbye.
    pub graceful: u32,
    /// Streams that were cut.
    pub forced: u32,
    /// Streams whose endpoint died.
    pub broken: u32,
    /// Streams that their client or their endpoint ended before their moment.
    pub left: u32,
    /// Clients that came back.
    pub returned: u32,
    /// Clients that did not come back within `drain.returnWindow`.
    pub lost: u32,
    /// Clients that may still come back.
    pub awaited: u32,
    /// Moment when the last stream ended.
    pub last_end: Millis,
    gaps_millis: Vec<u32>,
}

impl DrainReport {
    /// Returns how many streams have left, moved ones included.
    #[must_use]
    pub fn ended(&self) -> u32 {
        self.moved + self.graceful + self.forced + self.broken + self.left
    }

    /// Returns whether all streams have left.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended() >= self.streams
    }

    /// Returns whether all streams have left and no client is awaited.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.has_ended() && self.awaited == 0
    }

    /// Returns the milliseconds that returned clients were without a stream, at `per_mille` (0 to 1,000) of them; `None`
    /// if no client returned.
    #[must_use]
    pub fn gap_millis(&self, per_mille: usize) -> Option<u32> {
        let mut gaps = self.gaps_millis.clone();
        gaps.sort_unstable();
        let last = gaps.len().checked_sub(1)?;
        gaps.get((gaps.len() * per_mille / 1_000).min(last)).copied()
    }
}

/// Number of a service's streams that have their moment to leave and have not left yet.
#[derive(Debug, Default)]
pub(crate) struct LeavingCount(AtomicU32);

impl LeavingCount {
    /// Returns the number.
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Account of one group, shared by its streams and by the clients that are awaited back.
#[derive(Debug)]
pub(crate) struct GroupAccount {
    cause: Cause,
    leaving: Arc<LeavingCount>,
    report: Mutex<DrainReport>,
}

impl GroupAccount {
    /// Creates the account of a group without streams.
    pub(crate) fn new(cause: Cause, leaving: &Arc<LeavingCount>) -> Arc<GroupAccount> {
        let (leaving, report) = (Arc::clone(leaving), Mutex::default());
        Arc::new(GroupAccount { cause, leaving, report })
    }

    /// Returns the reason of the group.
    pub(crate) fn cause(&self) -> Cause {
        self.cause
    }

    /// Counts a stream that joins the group.
    pub(crate) fn joined(&self) {
        self.report.lock().streams += 1;
    }

    /// Takes back [`GroupAccount::joined`] for a stream that stays after all.
    pub(crate) fn unjoin(&self) {
        let mut report = self.report.lock();
        report.streams = report.streams.saturating_sub(1);
    }

    /// Counts a stream that got its moment to leave.
    pub(crate) fn notified(&self) {
        self.leaving.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes back [`GroupAccount::notified`] for a stream that left or stays.
    pub(crate) fn denotified(&self) {
        self.leaving.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a stream that went on at another endpoint.
    pub(crate) fn moved(&self, now: Millis) {
        let mut report = self.report.lock();
        report.moved += 1;
        report.last_end = now;
    }

    /// Counts a stream that ended, and its client as awaited where it is expected back. One step, or the report could
    /// be taken for settled in between.
    pub(crate) fn ended(&self, end: StreamEnd, now: Millis) {
        let mut report = self.report.lock();
        match end.kind {
            // A rebalanced stream is free to stay: its end is its own.
            EndKind::Graceful | EndKind::Forced if self.cause == Cause::Rebalance => report.left += 1,
            EndKind::Graceful => report.graceful += 1,
            EndKind::Forced => report.forced += 1,
            EndKind::Broken => report.broken += 1,
            EndKind::Left => report.left += 1,
        }
        report.awaited += u32::from(end.is_awaited);
        report.last_end = now;
    }

    /// Counts an awaited client as returned.
    pub(crate) fn returned(&self, gap: Duration) {
        let mut report = self.report.lock();
        report.awaited = report.awaited.saturating_sub(1);
        report.returned += 1;
        // Rebalancing never ends, so its account would grow for ever.
        if self.cause != Cause::Rebalance {
            report.gaps_millis.push(u32::try_from(gap.as_millis()).unwrap_or(u32::MAX));
        }
    }

    /// Counts an awaited client as lost.
    pub(crate) fn lost(&self) {
        let mut report = self.report.lock();
        report.awaited = report.awaited.saturating_sub(1);
        report.lost += 1;
    }

    /// Returns a copy of the report so far.
    pub(crate) fn report(&self) -> DrainReport {
        self.report.lock().clone()
    }

    /// Returns how many streams have joined.
    pub(crate) fn streams(&self) -> u32 {
        self.report.lock().streams
    }

    /// Returns whether all streams have left.
    pub(crate) fn has_ended(&self) -> bool {
        self.report.lock().has_ended()
    }

    /// Returns whether all streams have left and no client is awaited.
    pub(crate) fn is_settled(&self) -> bool {
        self.report.lock().is_settled()
    }
}

/// End of a stream, as its owner reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamEnd {
    /// Manner of the end.
    pub kind: EndKind,
    /// Whether the client should come back: the stream ended through no wish of the client, and the proxy will be there.
    pub is_awaited: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(7);

    fn account(cause: Cause) -> Arc<GroupAccount> {
        GroupAccount::new(cause, &Arc::default())
    }

    fn end(kind: EndKind, is_awaited: bool) -> StreamEnd {
        StreamEnd { kind, is_awaited }
    }

    #[test]
    fn a_drain_is_settled_when_its_streams_have_ended_and_no_client_is_awaited() {
        let account = account(Cause::Drain);
        (0..3).for_each(|_| account.joined());
        assert!(!account.is_settled());
        account.ended(end(EndKind::Graceful, true), NOW);
        account.ended(end(EndKind::Left, false), NOW);
        account.ended(end(EndKind::Broken, false), NOW);
        assert!(account.has_ended() && !account.is_settled(), "one client is awaited");
        account.returned(Duration::from_millis(900));
        let report = account.report();
        assert!(report.is_settled(), "{report:?}");
        assert_eq!(
            (report.graceful, report.left, report.broken, report.returned, report.lost),
            (1, 1, 1, 1, 0)
        );
        assert_eq!(report.last_end, NOW);
    }

    #[test]
    fn gaps_are_reported_by_share() {
        let account = account(Cause::Drain);
        assert_eq!(account.report().gap_millis(500), None);
        for gap in 1..=100 {
            account.returned(Duration::from_millis(gap * 10));
        }
        let report = account.report();
        assert_eq!((report.gap_millis(500), report.gap_millis(990)), (Some(510), Some(1_000)));
    }

    #[test]
    fn a_stream_that_rebalancing_could_not_move_ended_for_its_own_reason() {
        let account = account(Cause::Rebalance);
        (0..2).for_each(|_| account.joined());
        account.ended(end(EndKind::Graceful, false), NOW);
        account.moved(NOW);
        account.returned(Duration::ZERO);
        let report = account.report();
        assert_eq!((report.left, report.graceful, report.moved), (1, 0, 1));
        assert_eq!(report.gap_millis(0), None, "an account that lives as long as its service stays small");
    }
}
