//! One client's event stream: a greeting, what the client missed, then every event as it is appended.
//!
//! ```text
//! event: hello                         who serves you; without an id, so that ids stay contiguous
//! data: {"pod":"pod-a","session":"..","repinned":null,"lastEventId":"41","newest":43}
//!
//! event: reset                         only when the id was unknown or its successors are gone
//! data: {"reason":"expired","oldest":9}
//!
//! id: 42
//! data: {"n":42,"pod":"pod-a","at":1763800000000000,"text":"tick 42"}
//! ```
//!
//! Without `Last-Event-ID` the stream begins with the next event. With one it begins after that id. With one that
//! the log cannot serve (`"reason":"expired"`: events after it were dropped; `"unknown"`: never an id of this log)
//! it begins at the start of the history, after a `reset` that tells the client to rebuild what it has. A client
//! so slow that the log overtakes it gets the same `reset` with `"reason":"behind"`. `at` is the time of
//! publication in microseconds since 1970; `newest` the newest id when the stream opened.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::{Body, Bytes};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::watch;

use crate::log::{Location, Log, Read};
use crate::pod::{Phase, Pod};

/// Events written in one piece to a client that catches up; bounds the piece to some 10 KB of ticks.
const CATCH_UP_ENTRIES: usize = 64;

/// What the request said about the client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) session: Option<String>,
    pub(crate) repinned: Option<String>,
    pub(crate) last_event_id: Option<String>,
}

/// The body of an event stream. Ends when the pod ends.
pub(crate) fn open(pod: &Arc<Pod>, client: &Client) -> Body {
    let events = EventStream::open(Arc::clone(pod), client);
    Body::from_stream(stream::unfold(events, EventStream::next))
}

/// Holds a place in the pod's count of open streams for as long as the stream lives.
struct OpenStream(Arc<Pod>);

impl OpenStream {
    fn new(pod: Arc<Pod>) -> Self {
        pod.open_streams.fetch_add(1, Ordering::Relaxed);
        Self(pod)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open_streams.fetch_sub(1, Ordering::Relaxed);
    }
}

struct EventStream {
    pod: OpenStream,
    phase: watch::Receiver<Phase>,
    newest: watch::Receiver<u64>,
    /// The last id sent.
    cursor: u64,
    /// What is sent before the first event.
    greeting: Option<Vec<u8>>,
}

impl EventStream {
    fn open(pod: Arc<Pod>, client: &Client) -> Self {
        let mut newest = pod.log.subscribe();
        let newest_id = *newest.borrow_and_update();
        let mut greeting = hello(&pod.name, client, newest_id);
        let cursor = match client.last_event_id.as_deref().map(|id| pod.log.locate(id)) {
            None => newest_id,
            Some(Location::Held(id)) => id,
            Some(Location::Expired) => reset(&pod.log, "expired", &mut greeting),
            Some(Location::Unknown) => reset(&pod.log, "unknown", &mut greeting),
        };
        let phase = pod.phase.subscribe();
        Self { pod: OpenStream::new(pod), phase, newest, cursor, greeting: Some(greeting) }
    }

    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if let Some(greeting) = self.greeting.take() {
            return Some((Ok(greeting.into()), self));
        }
        loop {
            let phase = *self.phase.borrow_and_update();
            match phase {
                Phase::Serving | Phase::Retiring => {}
                Phase::Ending => return None,
                // A crash has no last words: a clean end here would reach the client before the cut does.
                Phase::Cut | Phase::Gone => std::future::pending().await,
            }
            // Marked as seen before reading: an append in between wakes the next wait.
            self.newest.borrow_and_update();
            let frames = self.read();
            if !frames.is_empty() {
                return Some((Ok(frames.into()), self));
            }
            // The senders live in the pod and its log, which this stream holds: neither wait can fail.
            tokio::select! {
                _ = self.newest.changed() => {}
                _ = self.phase.changed() => {}
            }
        }
    }

    fn read(&mut self) -> Vec<u8> {
        let pod = &self.pod.0;
        let mut frames = Vec::new();
        match pod.log.read_after(self.cursor, CATCH_UP_ENTRIES) {
            Read::Entries(entries) => {
                for entry in entries {
                    entry.write_frame(&pod.name_json, &mut frames);
                    self.cursor = entry.id();
                }
            }
            Read::Behind { .. } => self.cursor = reset(&pod.log, "behind", &mut frames),
        }
        frames
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Hello<'a> {
    pod: &'a str,
    session: Option<&'a str>,
    repinned: Option<&'a str>,
    last_event_id: Option<&'a str>,
    newest: u64,
}

fn hello(pod: &str, client: &Client, newest: u64) -> Vec<u8> {
    let hello = Hello {
        pod,
        session: client.session.as_deref(),
        repinned: client.repinned.as_deref(),
        last_event_id: client.last_event_id.as_deref(),
        newest,
    };
    let data = serde_json::json!(hello);
    format!("event: hello\ndata: {data}\n\n").into_bytes()
}

/// Tells the client to begin anew and returns the cursor from which the whole history follows.
fn reset(log: &Log, reason: &str, frames: &mut Vec<u8>) -> u64 {
    let oldest = log.oldest();
    let data = serde_json::json!({"reason": reason, "oldest": oldest});
    frames.extend_from_slice(format!("event: reset\ndata: {data}\n\n").as_bytes());
    oldest.saturating_sub(1)
}
