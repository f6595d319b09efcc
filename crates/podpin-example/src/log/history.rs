//! The part of the log that a pod holds in memory: the newest events, bounded, read by cursors.
//!
//! A cursor is a position: events get consecutive positions as they enter this history, so a reader knows without
//! searching whether the event after its cursor is still there. In memory a position is the event's number and its id.
//! A history that follows Redis leaves out a position wherever events are missing or the log was lost, and so every
//! cursor from before finds itself overtaken.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// How much of the past a log keeps. The newest event is kept whatever its size.
#[derive(Debug, Clone, Copy)]
pub struct HistoryLimits {
    /// Events kept at most; 0 counts as 1. Redis keeps at least so many and drops them in nodes of 100.
    pub entries_max: usize,
    /// Bytes of event data kept at most (bookkeeping of some 80 bytes an event comes on top).
    pub bytes_max: usize,
}

impl Default for HistoryLimits {
    /// 10,000 events or 4 MiB: nearly three hours of one event a second, and small enough for any pod.
    fn default() -> Self {
        Self { entries_max: 10_000, bytes_max: 4 << 20 }
    }
}

/// An event's SSE id: `42` in memory, `1700000000000-0` where Redis gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventId {
    /// The event's number in a log in memory.
    Number(u64),
    /// The id of an entry of a Redis Stream: milliseconds since 1970 and a sequence number.
    Entry(u64, u64),
}

impl EventId {
    /// Reads either form; `None` if the text is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('-') {
            None => text.parse().ok().map(Self::Number),
            Some((millis, sequence)) => Some(Self::Entry(millis.parse().ok()?, sequence.parse().ok()?)),
        }
    }

    /// Whether both were given by logs of one kind, and so have an order.
    pub(crate) fn is_like(self, other: Self) -> bool {
        matches!((self, other), (Self::Number(_), Self::Number(_)) | (Self::Entry(..), Self::Entry(..)))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(formatter, "{number}"),
            Self::Entry(millis, sequence) => write!(formatter, "{millis}-{sequence}"),
        }
    }
}

/// An event of the log.
#[derive(Debug)]
pub struct Entry {
    pub(super) position: u64,
    pub(super) number: u64,
    pub(super) id: EventId,
    /// The data after the pod's name, written once: `,"at":1,"text":".."}`.
    pub(super) data_tail: Box<str>,
}

impl Entry {
    /// The event's SSE id.
    #[must_use]
    pub fn id(&self) -> EventId {
        self.id
    }

    /// Counted from 1 without a hole over the whole log, the same on every pod.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Where it stands in this history; a cursor of this value reads what follows.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Appends the event as a frame of an event stream: an `id` line, a `data` line and the empty line.
    ///
    /// `pod` is the serving pod's name as a JSON string, quotes included.
    pub fn write_frame(&self, pod: &str, frame: &mut Vec<u8>) {
        let (id, number) = (self.id.to_string(), self.number.to_string());
        for part in ["id: ", &id, "\ndata: {\"n\":", &number, ",\"pod\":", pod, &self.data_tail, "\n\n"] {
            frame.extend_from_slice(part.as_bytes());
        }
    }
}

/// The data of an event after the pod's name. JSON escapes every line end in the text, so it is always one line.
pub(super) fn data_tail(at_micros: u64, text: &str) -> Box<str> {
    format!(",\"at\":{at_micros},\"text\":{}}}", serde_json::Value::from(text)).into_boxed_str()
}

/// Where an id that a client sent stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// Everything after this id is still there, from this position on.
    Held(u64),
    /// The log has dropped events that came after this id.
    Expired,
    /// Never an id of this log: garbled, or of a log that was lost since.
    Unknown,
}

/// Why a reader has to begin anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overtaken {
    /// Events after the cursor were dropped before they were read.
    Behind,
    /// The log was lost, and the one that followed has nothing to do with it.
    Lost,
}

/// The entries after a cursor.
#[derive(Debug)]
pub enum Read {
    /// The next events in order; empty at the end of the log.
    Entries(Vec<Arc<Entry>>),
    /// The event after the cursor is gone.
    Gone(Overtaken),
}

/// The newest events of a log.
#[derive(Debug)]
pub(super) struct History {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    limits: HistoryLimits,
    /// Position that the next event gets.
    next: u64,
    /// Readers before this position read a log that was lost.
    lost_before: u64,
    /// Id of the event just before the oldest one that is held, where it is known.
    before_oldest: Option<EventId>,
    /// Number of the newest event of the log.
    newest_number: u64,
}

impl History {
    /// `before`: the id after which the first event follows, where there is one.
    pub(super) fn new(limits: HistoryLimits, before: Option<EventId>) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            limits,
            next: 1,
            lost_before: 0,
            before_oldest: before,
            newest_number: 0,
        }
    }

    pub(super) fn newest_number(&self) -> u64 {
        self.newest_number
    }

    /// Position that nothing here has passed: a cursor of this value reads what is still to come.
    pub(super) fn newest_position(&self) -> u64 {
        self.next - 1
    }

    /// Position of the oldest event held; one past the newest when there is none.
    pub(super) fn oldest_position(&self) -> u64 {
        self.entries.front().map_or(self.next, |entry| entry.position)
    }

    /// Number of the oldest event held; one past the newest when there is none.
    pub(super) fn oldest_number(&self) -> u64 {
        self.entries.front().map_or(self.newest_number + 1, |entry| entry.number)
    }

    pub(super) fn newest_id(&self) -> Option<EventId> {
        self.entries.back().map(|entry| entry.id)
    }

    /// Adds the next event; events that are missing before it overtake every reader.
    pub(super) fn push(&mut self, number: u64, id: EventId, data_tail: Box<str>) {
        if !self.entries.is_empty() && number != self.newest_number + 1 {
            self.clear();
        }
        let entry = Entry { position: self.next, number, id, data_tail };
        self.next += 1;
        self.newest_number = number;
        self.bytes += entry.data_tail.len();
        self.entries.push_back(Arc::new(entry));
        while self.entries.len() > 1 && self.is_over_limits() {
            let Some(dropped) = self.entries.pop_front() else { break };
            self.bytes -= dropped.data_tail.len();
            self.before_oldest = Some(dropped.id);
        }
    }

    /// The log was lost: what is held belongs to nothing any more.
    pub(super) fn lose(&mut self) {
        self.clear();
        self.lost_before = self.newest_position();
        self.newest_number = 0;
    }

    /// Empties the history and leaves out a position, which no cursor can get past unnoticed.
    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
        self.next += 1;
        self.before_oldest = None;
    }

    /// Returns the place of an id; `None` if it is newer than any entry.
    pub(super) fn locate(&self, id: EventId) -> Option<Location> {
        if self.before_oldest == Some(id) {
            return Some(Location::Held(self.oldest_position() - 1));
        }
        let newest = self.newest_id().or(self.before_oldest)?;
        if !id.is_like(newest) {
            return Some(Location::Unknown);
        }
        if id > newest {
            return None;
        }
        Some(match self.entries.binary_search_by_key(&id, |entry| entry.id) {
            Ok(index) => {
                self.entries.get(index).map_or(Location::Unknown, |entry| Location::Held(entry.position))
            }
            // Before the first event of all there was never another.
            Err(0) if self.oldest_number() > 1 => Location::Expired,
            Err(_) => Location::Unknown,
        })
    }

    pub(super) fn read_after(&self, cursor: u64, entries_max: usize) -> Read {
        let Some(skipped) = cursor.saturating_add(1).checked_sub(self.oldest_position()) else {
            return Read::Gone(if cursor < self.lost_before { Overtaken::Lost } else { Overtaken::Behind });
        };
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        Read::Entries(self.entries.iter().skip(skipped).take(entries_max).cloned().collect())
    }

    fn is_over_limits(&self) -> bool {
        self.entries.len() > self.limits.entries_max || self.bytes > self.limits.bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history of three events at most that follows Redis, with events of these numbers, all of one millisecond.
    fn history(numbers: &[u64]) -> History {
        let mut history = History::new(HistoryLimits { entries_max: 3, bytes_max: usize::MAX }, None);
        numbers.iter().for_each(|number| push(&mut history, *number));
        history
    }

    fn push(history: &mut History, number: u64) {
        history.push(number, EventId::Entry(7, number), "".into());
    }

    fn numbers(history: &History, cursor: u64) -> Result<Vec<u64>, Overtaken> {
        match history.read_after(cursor, 64) {
            Read::Entries(entries) => Ok(entries.iter().map(|entry| entry.number()).collect()),
            Read::Gone(why) => Err(why),
        }
    }

    fn located(history: &History, id: &str) -> Option<Location> {
        history.locate(EventId::parse(id).unwrap())
    }

    #[test]
    fn a_history_may_begin_in_the_middle_of_the_log() {
        let history = history(&[41, 42]);
        assert_eq!(numbers(&history, 0), Ok(vec![41, 42]));
        assert_eq!((history.oldest_number(), history.newest_number()), (41, 42));
        let table = [
            ("7-42", Some(Location::Held(2))),
            ("7-41", Some(Location::Held(1))),
            ("7-40", Some(Location::Expired)),
            ("7-43", None),
            ("8-0", None),
            ("42", Some(Location::Unknown)),
        ];
        for (id, expected) in table {
            assert_eq!(located(&history, id), expected, "{id}");
        }
    }

    #[test]
    fn the_event_that_was_dropped_last_is_still_a_place_to_resume_from() {
        let history = history(&[1, 2, 3, 4, 5]);
        assert_eq!(located(&history, "7-2"), Some(Location::Held(2)));
        assert_eq!(numbers(&history, 2), Ok(vec![3, 4, 5]));
        assert_eq!(located(&history, "7-1"), Some(Location::Expired));
    }

    #[test]
    fn before_the_first_event_of_all_there_is_no_id() {
        let history = history(&[1, 2]);
        assert_eq!(located(&history, "6-999"), Some(Location::Unknown));
    }

    #[test]
    fn an_event_that_is_missing_overtakes_every_reader() {
        let mut history = history(&[1, 2]);
        push(&mut history, 4);
        for cursor in 0..=2 {
            assert_eq!(numbers(&history, cursor), Err(Overtaken::Behind), "{cursor}");
        }
        let start = history.oldest_position() - 1;
        assert_eq!(numbers(&history, start), Ok(vec![4]));
        assert_eq!(located(&history, "7-2"), Some(Location::Expired));
    }

    #[test]
    fn a_lost_log_is_told_apart_from_one_that_went_on() {
        let mut history = history(&[1, 2]);
        history.lose();
        assert_eq!(numbers(&history, 2), Err(Overtaken::Lost));
        let start = history.oldest_position() - 1;
        assert_eq!(start, history.newest_position());
        assert_eq!(numbers(&history, start), Ok(Vec::new()));
        push(&mut history, 1);
        assert_eq!(numbers(&history, 2), Err(Overtaken::Lost));
        assert_eq!(numbers(&history, start), Ok(vec![1]));
        // Behind on the new log is behind.
        push(&mut history, 9);
        assert_eq!(numbers(&history, start), Err(Overtaken::Behind));
    }
}
