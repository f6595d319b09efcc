//! Reads the Redis Stream into the pod's history: one blocking read for all of the pod's streams.
//!
//! ```text
//!            read to the end             an error, no answer
//! Starting ------------------> Reading ----------------------> Away
//!     ^                           ^---- read to the end ---------'
//!     '-- as long as nothing was read, an error changes nothing; after each, back-off and two new connections
//! ```
//!
//! The position is the id of the last entry read, so nothing that Redis kept is left out or read twice over a break.
//! Whether Redis still has the same log is told by the numbers: the entry after number 41 is 42. A larger one means
//! that events were dropped meanwhile (readers are behind), a smaller one that this is another log (it is lost).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cmd;
use redis::streams::{StreamId, StreamRangeReply, StreamReadReply};

use super::store::{ANSWER_PATIENCE, EVENTS, Reach, Store, StoreError};
use super::{EventId, Log, history};

/// Before every entry.
const BEGINNING: EventId = EventId::Entry(0, 0);

/// Entries in one answer: bounds it to 50 KB of ticks, 8 MB of the longest texts.
const PAGE_ENTRIES: usize = 512;

/// How long one read waits for events. A Redis that vanished without a word is noticed after this and
/// [`ANSWER_PATIENCE`]; shorter would cost an idle pod more than one question a second.
const BLOCK: Duration = Duration::from_secs(1);

/// Waits between attempts to connect, doubled from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Keeps the log at what Redis has until it is dropped. For a log in memory there is nothing to do.
pub async fn follow(log: Arc<Log>) -> Infallible {
    let Some(store) = log.store() else { return std::future::pending().await };
    let mut wait = BACK_OFF.0;
    loop {
        let failed = tokio::select! {
            Err(error) = read(&log, store) => error,
            () = store.broken.notified() => StoreError::Away,
        };
        store.set_commands(None);
        let fell = store.reach.send_if_modified(|reach| {
            let was_reading = *reach == Reach::Reading;
            if was_reading {
                *reach = Reach::Away;
            }
            was_reading
        });
        if fell {
            wait = BACK_OFF.0;
            tracing::warn!(error = %failed, "no events: streams stay open, and this pod is not ready");
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BACK_OFF.1);
    }
}

/// Reads on two new connections until something fails.
async fn read(log: &Log, store: &Store) -> Result<Infallible, StoreError> {
    let mut reader = store.connect(BLOCK + ANSWER_PATIENCE).await?;
    let mut cursor = log.read().newest_id().unwrap_or(BEGINNING);
    if newest(&mut reader).await? < cursor {
        // Another log, whose ids begin earlier: what follows ours would leave some out.
        cursor = BEGINNING;
    }
    store.set_commands(Some(store.connect(ANSWER_PATIENCE).await?));
    let mut at_end = false;
    loop {
        let page = page_after(&mut reader, cursor, at_end).await?;
        at_end = page.len() < PAGE_ENTRIES;
        cursor = take(log, page, cursor).unwrap_or_else(|| {
            at_end = false;
            BEGINNING
        });
        if at_end && store.reach.send_replace(Reach::Reading) != Reach::Reading {
            tracing::info!(newest = log.newest(), "events come from Redis");
        }
    }
}

/// Id of the newest entry; [`BEGINNING`] when there is none.
async fn newest(reader: &mut MultiplexedConnection) -> Result<EventId, StoreError> {
    let command = cmd("XREVRANGE").arg(EVENTS).arg("+").arg("-").arg("COUNT").arg(1).take();
    let found: StreamRangeReply = command.query_async(reader).await?;
    Ok(found.ids.first().and_then(|entry| EventId::parse(&entry.id)).unwrap_or(BEGINNING))
}

/// The next entries; at the end of the stream it waits for some, at most for [`BLOCK`].
async fn page_after(
    reader: &mut MultiplexedConnection,
    cursor: EventId,
    at_end: bool,
) -> Result<Vec<StreamId>, StoreError> {
    let mut command = cmd("XREAD").arg("COUNT").arg(PAGE_ENTRIES).take();
    if at_end {
        command.arg("BLOCK").arg(u64::try_from(BLOCK.as_millis()).unwrap_or(1));
    }
    command.arg("STREAMS").arg(EVENTS).arg(cursor.to_string());
    let found: Option<StreamReadReply> = command.query_async(reader).await?;
    Ok(found.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids).collect())
}

/// Moves a page into the history and returns the id of the last entry; `None` if it is of another log, and the one
/// that was held is lost.
fn take(log: &Log, page: Vec<StreamId>, cursor: EventId) -> Option<EventId> {
    let mut last = cursor;
    let mut history = log.write();
    for entry in page {
        let Some(id) = EventId::parse(&entry.id) else { continue };
        last = id;
        let fields = (entry.get::<u64>("n"), entry.get::<u64>("at"), entry.get::<String>("text"));
        let (Some(number), Some(at), Some(text)) = fields else {
            tracing::warn!(id = entry.id, "an entry that is no event of ours is left out");
            continue;
        };
        if history.newest_id().is_some() && number <= history.newest_number() {
            tracing::warn!(number, expected = history.newest_number() + 1, "Redis has lost the log");
            history.lose();
            log.newest.send_replace(history.newest_position());
            return None;
        }
        history.push(number, id, history::data_tail(at, &text));
    }
    // Under the lock, as every announcement.
    log.newest.send_replace(history.newest_position());
    drop(history);
    Some(last)
}
