//! A client's event stream: a greeting, what the client missed, then every event as it is appended.
//!
//! ```text
//! event: hello                         who serves you; without an id, so that ids stay contiguous
//! data: {"pod":"pod-a","session":"..","repinned":null,"lastEventId":"41","newest":43}
//!
//! event: reset                         only when the id was unknown or its successors are gone
//! data: {"reason":"expired","oldest":9}
//!
//! id: 42                               with Redis: 1763800000000-0
//! data: {"n":42,"pod":"pod-a","at":1763800000000000,"text":"tick 42"}
//! ```
//!
//! Without `Last-Event-ID` the stream begins with the next event. With one it begins after that id. With one that
//! the log cannot serve (`"reason":"expired"`: events after it were dropped; `"unknown"`: never an id of this log)
//! it begins at the start of the history, after a `reset` that tells the client to rebuild what it has. A client
//! so slow that the log overtakes it gets the same `reset` with `"reason":"behind"`, and one whose log Redis lost
//! `"unknown"`. `n` counts events without a hole, `oldest` and `newest` (when the stream opened) are such numbers. `at`
//! is the time of publication in microseconds since 1970. Into silence, as while Redis is away, go comments.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::{Body, Bytes};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::log::{Location, Log, Overtaken, Read};
use crate::pod::{Phase, Pod};

/// Events written in one piece to a client that catches up; bounds the piece to some 10 KB of ticks.
const CATCH_UP_ENTRIES: usize = 64;

/// A comment, which no client sees: it tells proxies that the pod is alive while there is nothing to say.
const KEEP_ALIVE: Bytes = Bytes::from_static(b":\n\n");

/// The facts about the client that its request has.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) session: Option<String>,
    pub(crate) repinned: Option<String>,
    pub(crate) last_event_id: Option<String>,
}

/// The body of an event stream. Ends when the pod ends.
pub(crate) fn open(pod: &Arc<Pod>, client: Client) -> Body {
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
    /// Position of the last event sent.
    cursor: u64,
    /// The client to greet before the first event.
    client: Option<Client>,
}

impl EventStream {
    fn open(pod: Arc<Pod>, client: Client) -> Self {
        let (newest, phase) = (pod.log.subscribe(), pod.phase.subscribe());
        Self { pod: OpenStream::new(pod), phase, newest, cursor: 0, client: Some(client) }
    }

    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let silence = self.pod.0.keep_alive;
        if let Some(client) = &self.client {
            // Where the client stands may have to be asked for: the pod's end does not wait for that.
            let (cursor, greeting) = tokio::select! {
                biased;
                greeted = greet(&self.pod.0, client) => greeted,
                () = ended(&mut self.phase) => return None,
                () = sleep(silence) => return Some((Ok(KEEP_ALIVE), self)),
            };
            self.cursor = cursor;
            self.client = None;
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
                () = sleep(silence) => return Some((Ok(KEEP_ALIVE), self)),
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
                    self.cursor = entry.position();
                }
            }
            Read::Gone(Overtaken::Behind) => self.cursor = reset(&pod.log, "behind", &mut frames),
            Read::Gone(Overtaken::Lost) => self.cursor = reset(&pod.log, "unknown", &mut frames),
        }
        frames
    }
}

/// Returns at the polite end; a pod that is cut has nothing to say any more.
async fn ended(phase: &mut watch::Receiver<Phase>) {
    // The sender lives in the pod, which the caller holds: it cannot fail.
    drop(phase.wait_for(|phase| *phase == Phase::Ending).await);
}

/// Where the client begins, and what it is told of that.
async fn greet(pod: &Pod, client: &Client) -> (u64, Vec<u8>) {
    let log = &pod.log;
    log.loaded().await;
    let (end, newest) = (log.end(), log.newest());
    let location = match client.last_event_id.as_deref() {
        Some(id) => Some(log.locate(id).await),
        None => None,
    };
    let mut greeting = hello(&pod.name, client, newest);
    let cursor = match location {
        None => end,
        Some(Location::Held(position)) => position,
        Some(Location::Expired) => reset(log, "expired", &mut greeting),
        Some(Location::Unknown) => reset(log, "unknown", &mut greeting),
    };
    (cursor, greeting)
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
    let (start, oldest) = (log.start(), log.oldest());
    let data = serde_json::json!({"reason": reason, "oldest": oldest});
    frames.extend_from_slice(format!("event: reset\ndata: {data}\n\n").as_bytes());
    start
}
