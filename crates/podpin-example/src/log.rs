//! The event log that all pods of one application share: append-only, bounded, replayed from by `Last-Event-ID`.
//!
//! Sharing the log is what makes pods exchangeable: whichever pod a client comes back to has the events that it
//! missed. Here it lives in memory; a log that pods in different processes share keeps the same face.
//!
//! A writer appends under a short lock and then announces the newest id. A subscriber keeps only its cursor (the
//! last id it sent) and reads what follows when the announcement wakes it: no queue per subscriber, so a slow one
//! costs nothing and finds out from [`Read::Behind`] that it was overtaken.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// How much of the past a [`Log`] keeps. The newest event is kept whatever its size.
#[derive(Debug, Clone, Copy)]
pub struct HistoryLimits {
    /// Events kept at most; 0 counts as 1.
    pub entries_max: usize,
    /// Bytes of event data kept at most (bookkeeping of some 60 bytes an event comes on top).
    pub bytes_max: usize,
}

impl Default for HistoryLimits {
    /// 10,000 events or 4 MiB: nearly three hours of one event a second, and small enough for any pod.
    fn default() -> Self {
        Self { entries_max: 10_000, bytes_max: 4 << 20 }
    }
}

/// One event of the log.
#[derive(Debug)]
pub struct Entry {
    id: u64,
    /// The data after the pod's name, written once at append: `,"at":1,"text":".."}`.
    data_tail: Box<str>,
}

impl Entry {
    /// Position in the log, counted from 1 without a hole; the event's SSE id in decimal.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Appends the event as a frame of an event stream: an `id` line, a `data` line and the empty line.
    ///
    /// `pod` is the serving pod's name as a JSON string, quotes included.
    pub fn write_frame(&self, pod: &str, frame: &mut Vec<u8>) {
        let id = self.id.to_string();
        for part in ["id: ", &id, "\ndata: {\"n\":", &id, ",\"pod\":", pod, &self.data_tail, "\n\n"] {
            frame.extend_from_slice(part.as_bytes());
        }
    }
}

/// Where an id that a client sent stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// Everything after this id is still there.
    Held(u64),
    /// The log has dropped events that came after this id.
    Expired,
    /// Never an id of this log: garbled, or of a log that was lost since.
    Unknown,
}

/// What follows a cursor.
#[derive(Debug)]
pub enum Read {
    /// The next events in order; empty at the end of the log.
    Entries(Vec<Arc<Entry>>),
    /// The event after the cursor is gone; the oldest that is left has this id.
    Behind {
        /// Id of the oldest event in the history.
        oldest: u64,
    },
}

/// The shared event log.
#[derive(Debug)]
pub struct Log {
    history: RwLock<History>,
    newest: watch::Sender<u64>,
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
        let history = History { entries: VecDeque::new(), bytes: 0, newest: 0, limits };
        Arc::new(Self { history: RwLock::new(history), newest: watch::Sender::new(0) })
    }

    /// Appends an event, wakes all subscribers and returns the event's id.
    pub fn append(&self, text: &str) -> u64 {
        self.append_with(|_| text.to_owned())
    }

    /// The newest id; 0 when nothing was ever appended.
    #[must_use]
    pub fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// Id of the oldest event still held; one past the newest when there is none.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.history.read().unwrap_or_else(PoisonError::into_inner).oldest()
    }

    /// Where the id that a client sent as `Last-Event-ID` stands.
    #[must_use]
    pub fn locate(&self, last_event_id: &str) -> Location {
        let history = self.history.read().unwrap_or_else(PoisonError::into_inner);
        match last_event_id.parse::<u64>() {
            Ok(id) if id > history.newest => Location::Unknown,
            Ok(id) if id.saturating_add(1) < history.oldest() => Location::Expired,
            Ok(id) => Location::Held(id),
            Err(_) => Location::Unknown,
        }
    }

    /// At most `entries_max` events that follow `cursor`.
    #[must_use]
    pub fn read_after(&self, cursor: u64, entries_max: usize) -> Read {
        let history = self.history.read().unwrap_or_else(PoisonError::into_inner);
        let oldest = history.oldest();
        let Some(skipped) = cursor.saturating_add(1).checked_sub(oldest) else {
            return Read::Behind { oldest };
        };
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        Read::Entries(history.entries.iter().skip(skipped).take(entries_max).cloned().collect())
    }

    /// Announces every append, with the newest id.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    fn append_with(&self, text: impl FnOnce(u64) -> String) -> u64 {
        let mut history = self.history.write().unwrap_or_else(PoisonError::into_inner);
        let id = history.newest + 1;
        history.push(Entry { id, data_tail: data_tail(&text(id)).into_boxed_str() });
        // Announced under the lock, so that two writers cannot announce in the wrong order.
        self.newest.send_replace(id);
        drop(history);
        id
    }
}

/// Appends `tick <id>` every `period` until it is dropped. One for the whole log, however many pods share it.
pub async fn publish_ticks(log: Arc<Log>, period: Duration) -> Infallible {
    let mut interval = tokio::time::interval(period.max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        log.append_with(|id| format!("tick {id}"));
    }
}

#[derive(Debug)]
struct History {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    newest: u64,
    limits: HistoryLimits,
}

impl History {
    fn oldest(&self) -> u64 {
        self.entries.front().map_or(self.newest + 1, |entry| entry.id)
    }

    fn push(&mut self, entry: Entry) {
        self.newest = entry.id;
        self.bytes += entry.data_tail.len();
        self.entries.push_back(Arc::new(entry));
        while self.entries.len() > 1 && self.is_over_limits() {
            let dropped = self.entries.pop_front();
            self.bytes -= dropped.map_or(0, |entry| entry.data_tail.len());
        }
    }

    fn is_over_limits(&self) -> bool {
        self.entries.len() > self.limits.entries_max || self.bytes > self.limits.bytes_max
    }
}

/// JSON escapes every line end in the text, so the data is always one line.
fn data_tail(text: &str) -> String {
    let published_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    format!(",\"at\":{published_at},\"text\":{}}}", serde_json::Value::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(read: Read) -> Vec<u64> {
        match read {
            Read::Entries(entries) => entries.iter().map(|entry| entry.id()).collect(),
            Read::Behind { oldest } => panic!("behind: the oldest is {oldest}"),
        }
    }

    fn log_of(limits: HistoryLimits, count: usize) -> Arc<Log> {
        let log = Log::bounded(limits);
        for _ in 0..count {
            log.append("0123456789");
        }
        log
    }

    #[test]
    fn ids_are_contiguous_from_one_and_read_in_order() {
        let log = log_of(HistoryLimits::default(), 5);
        assert_eq!(ids(log.read_after(0, 64)), [1, 2, 3, 4, 5]);
        assert_eq!(ids(log.read_after(3, 64)), [4, 5]);
        assert_eq!(ids(log.read_after(1, 2)), [2, 3]);
        assert!(ids(log.read_after(5, 64)).is_empty());
        assert!(ids(log.read_after(u64::MAX, 64)).is_empty());
    }

    #[test]
    fn the_history_is_bounded_by_count() {
        let log = log_of(HistoryLimits { entries_max: 3, bytes_max: usize::MAX }, 10);
        assert_eq!((log.oldest(), log.newest()), (8, 10));
        assert_eq!(ids(log.read_after(7, 64)), [8, 9, 10]);
        assert!(matches!(log.read_after(6, 64), Read::Behind { oldest: 8 }));
    }

    #[test]
    fn the_history_is_bounded_by_bytes_and_keeps_the_newest_event_whatever_its_size() {
        let entry_bytes = data_tail("0123456789").len();
        let log = log_of(HistoryLimits { entries_max: 100, bytes_max: 2 * entry_bytes }, 10);
        assert_eq!((log.oldest(), log.newest()), (9, 10));
        log.append(&"x".repeat(10 * entry_bytes));
        assert_eq!((log.oldest(), log.newest()), (11, 11));
    }

    #[test]
    fn an_id_is_held_expired_or_unknown() {
        let log = log_of(HistoryLimits { entries_max: 3, bytes_max: usize::MAX }, 10);
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
            assert_eq!(log.locate(id), expected, "{id:?}");
        }
        assert_eq!(Log::memory().locate("0"), Location::Held(0));
        assert_eq!(Log::memory().locate("1"), Location::Unknown);
    }

    #[test]
    fn a_frame_is_one_data_line_whatever_the_text() {
        let log = Log::memory();
        log.append("two\nlines \"quoted\"\r\u{2028}");
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
        log.append("news");
        for subscriber in &mut subscribers {
            subscriber.changed().await.unwrap();
            assert_eq!(*subscriber.borrow(), 1);
        }
    }
}
