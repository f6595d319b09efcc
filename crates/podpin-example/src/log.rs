//! The event log that all pods of one application share: append-only, bounded, replayed from by `Last-Event-ID`.
//!
//! Sharing the log is what makes pods exchangeable: whichever pod a client comes back to has the events that it
//! missed. It lives in memory, shared by the pods of one process, or in a Redis Stream, shared by all that reach it.
//!
//! Either way a pod's streams read from a history in memory. A writer appends under a short lock and then announces
//! the newest position. A subscriber keeps only its cursor (the position it has read) and reads what follows when the
//! announcement wakes it: no queue per subscriber, so a slow one costs nothing and finds out from [`Read::Gone`]
//! that it was overtaken. With Redis the writer is [`follow`], one blocking read for the whole pod; replays are served
//! from the same history, so that a thousand clients that come back at once cost Redis nothing.

mod follow;
mod history;
mod store;

use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

pub use follow::follow;
use history::History;
pub use history::{Entry, EventId, HistoryLimits, Location, Overtaken, Read};
pub use store::StoreError;
pub(crate) use store::{Meeting, Store};

/// Between two questions to a Redis that does not answer: short against a person's patience, long against a round trip.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// The shared event log.
#[derive(Debug)]
pub struct Log {
    history: RwLock<History>,
    newest: watch::Sender<u64>,
    /// Where the log lives, when that is not here.
    store: Option<Store>,
}

impl Log {
    /// An empty log in memory with the default limits.
    #[must_use]
    pub fn memory() -> Arc<Self> {
        Self::bounded(HistoryLimits::default())
    }

    /// An empty log in memory with limits of its own.
    #[must_use]
    pub fn bounded(limits: HistoryLimits) -> Arc<Self> {
        Arc::new(Self::new(History::new(limits, Some(EventId::Number(0))), None))
    }

    /// The log in the Redis at `url` (`redis://[user:password@]host[:port][/database]`). [`follow`] has to run for it.
    ///
    /// # Errors
    /// [`StoreError::BadUrl`]; whether a server answers there is not checked.
    pub fn redis(url: &str, limits: HistoryLimits) -> Result<Arc<Self>, StoreError> {
        let store = Store::open(url, limits.entries_max.max(1))?;
        Ok(Arc::new(Self::new(History::new(limits, None), Some(store))))
    }

    fn new(history: History, store: Option<Store>) -> Self {
        Self { history: RwLock::new(history), newest: watch::Sender::new(0), store }
    }

    /// Appends an event, wakes all subscribers and returns the event's id. With Redis they wake when it has come back.
    ///
    /// # Errors
    /// Only with Redis, when it cannot be reached or refuses. [`StoreError::Away`] may come after it took the event:
    /// no code retries it by itself, because that could publish it twice.
    pub async fn append(&self, text: &str) -> Result<EventId, StoreError> {
        match &self.store {
            Some(store) => store.append(text, now_micros()).await,
            None => Ok(EventId::Number(self.append_here(|_| text.to_owned()))),
        }
    }

    /// Number of the newest event that this pod knows; 0 when there was none.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.read().newest_number()
    }

    /// Number of the oldest event still held; one past the newest when there is none.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.read().oldest_number()
    }

    /// Where a reader stands that wants only what comes from now on.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.read().newest_position()
    }

    /// Where a reader stands that wants the whole history.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.read().oldest_position().saturating_sub(1)
    }

    /// Where the id that a client sent as `Last-Event-ID` stands.
    ///
    /// With Redis, an id that is newer than all that has come here is asked for there: another pod may have sent it a
    /// moment ago. Then this waits until it has come here too, and for as long as Redis is away.
    pub async fn locate(&self, last_event_id: &str) -> Location {
        let Some(id) = EventId::parse(last_event_id) else { return Location::Unknown };
        loop {
            let mut newest = self.subscribe();
            let here = self.read().locate(id);
            if let Some(location) = here {
                return location;
            }
            let Some(store) = &self.store else { return Location::Unknown };
            match store.holds(id).await {
                Ok(false) => return self.read().locate(id).unwrap_or(Location::Unknown),
                // The sender lives in `self`: it cannot fail.
                Ok(true) => drop(newest.changed().await),
                Err(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
    }

    /// At most `entries_max` events that follow `cursor`.
    #[must_use]
    pub fn read_after(&self, cursor: u64, entries_max: usize) -> Read {
        self.read().read_after(cursor, entries_max)
    }

    /// Announces every append, with the newest position.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Whether events reach this pod at this moment. A pod for which it is false had better not get new clients.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.store.as_ref().is_none_or(Store::is_reading)
    }

    /// Waits until the history has been read once: before, no position in it is known.
    pub(crate) async fn loaded(&self) {
        if let Some(store) = &self.store {
            store.started().await;
        }
    }

    pub(crate) fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    fn append_here(&self, text: impl FnOnce(u64) -> String) -> u64 {
        let mut history = self.write();
        let number = history.newest_number() + 1;
        let data_tail = history::data_tail(now_micros(), &text(number));
        history.push(number, EventId::Number(number), data_tail);
        // Announced under the lock, so that two writers cannot announce in the wrong order.
        self.newest.send_replace(history.newest_position());
        drop(history);
        number
    }

    fn read(&self) -> RwLockReadGuard<'_, History> {
        self.history.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, History> {
        self.history.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Appends `tick <number>` every `period` until it is dropped. One for the whole log, however many pods share it.
///
/// With Redis every pod may run it all the same: a period begins at a multiple of `period` on Redis' own clock, and the
/// first pod that comes in it publishes, in one step with leaving a note of that; the others find the note.
pub async fn publish_ticks(log: Arc<Log>, period: Duration) -> Infallible {
    let period = period.max(Duration::from_millis(1));
    if let Some(store) = log.store() {
        loop {
            let until_next = store.tick(period, now_micros()).await;
            tokio::time::sleep(until_next.unwrap_or(ASK_AGAIN)).await;
        }
    }
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        log.append_here(|number| format!("tick {number}"));
    }
}

/// Time of publication, in microseconds since 1970.
pub(crate) fn now_micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(read: Read) -> Vec<u64> {
        match read {
            Read::Entries(entries) => entries.iter().map(|entry| entry.number()).collect(),
            Read::Gone(why) => panic!("{why:?}"),
        }
    }

    async fn log_of(limits: HistoryLimits, count: usize) -> Arc<Log> {
        let log = Log::bounded(limits);
        for _ in 0..count {
            log.append("0123456789").await.unwrap();
        }
        log
    }

    #[tokio::test]
    async fn ids_are_contiguous_from_one_and_read_in_order() {
        let log = log_of(HistoryLimits::default(), 5).await;
        assert_eq!(numbers(log.read_after(0, 64)), [1, 2, 3, 4, 5]);
        assert_eq!(numbers(log.read_after(3, 64)), [4, 5]);
        assert_eq!(numbers(log.read_after(1, 2)), [2, 3]);
        assert!(numbers(log.read_after(5, 64)).is_empty());
        assert!(numbers(log.read_after(u64::MAX, 64)).is_empty());
    }

    #[tokio::test]
    async fn the_history_is_bounded_by_count() {
        let log = log_of(HistoryLimits { entries_max: 3, bytes_max: usize::MAX }, 10).await;
        assert_eq!((log.oldest(), log.newest()), (8, 10));
        assert_eq!(numbers(log.read_after(7, 64)), [8, 9, 10]);
        assert!(matches!(log.read_after(6, 64), Read::Gone(Overtaken::Behind)));
    }

    #[tokio::test]
    async fn the_history_is_bounded_by_bytes_and_keeps_the_newest_event_whatever_its_size() {
        let entry_bytes = history::data_tail(now_micros(), "0123456789").len();
        let log = log_of(HistoryLimits { entries_max: 100, bytes_max: 2 * entry_bytes }, 10).await;
        assert_eq!((log.oldest(), log.newest()), (9, 10));
        log.append(&"x".repeat(10 * entry_bytes)).await.unwrap();
        assert_eq!((log.oldest(), log.newest()), (11, 11));
    }

    #[tokio::test]
    async fn an_id_is_held_expired_or_unknown() {
        let log = log_of(HistoryLimits { entries_max: 3, bytes_max: usize::MAX }, 10).await;
        let table = [
            ("10", Location::Held(10)),
            ("7", Location::Held(7)),
            ("6", Location::Expired),
            ("0", Location::Expired),
            ("11", Location::Unknown),
            ("18446744073709551615", Location::Unknown),
            ("18446744073709551616", Location::Unknown),
            ("seven", Location::Unknown),
            ("-1", Location::Unknown),
            ("1526919030474-55", Location::Unknown),
        ];
        for (id, expected) in table {
            assert_eq!(log.locate(id).await, expected, "{id:?}");
        }
        assert_eq!(Log::memory().locate("0").await, Location::Held(0));
        assert_eq!(Log::memory().locate("1").await, Location::Unknown);
    }

    #[tokio::test]
    async fn a_frame_is_one_data_line_whatever_the_text() {
        let log = Log::memory();
        log.append("two\nlines \"quoted\"\r\u{2028}").await.unwrap();
        let mut frame = Vec::new();
        let Read::Entries(entries) = log.read_after(0, 1) else { panic!("behind") };
        entries[0].write_frame("\"pod-a\"", &mut frame);
        let frame = String::from_utf8(frame).unwrap();
        let lines: Vec<&str> = frame.split('\n').collect();
        assert_eq!(lines.len(), 4, "{frame:?}");
        assert_eq!(lines[0], "id: 1");
        let data: serde_json::Value = serde_json::from_str(lines[1].strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data["n"], 1);
        assert_eq!(data["pod"], "pod-a");
        assert_eq!(data["text"], "two\nlines \"quoted\"\r\u{2028}");
        assert!(data["at"].as_u64().unwrap() > 1_600_000_000_000_000);
    }

    #[tokio::test]
    async fn an_append_wakes_every_subscriber() {
        let log = Log::memory();
        let mut subscribers = [log.subscribe(), log.subscribe()];
        log.append("news").await.unwrap();
        for subscriber in &mut subscribers {
            subscriber.changed().await.unwrap();
            assert_eq!(*subscriber.borrow(), 1);
        }
    }
}
