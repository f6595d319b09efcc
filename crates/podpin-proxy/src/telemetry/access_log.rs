//! One JSON line for each request or stream, written when it ends.
//!
//! Lines go through a bounded queue to a thread of their own: a full disk or a stuck pipe costs lines (counted in
//! `access_log_dropped_total`), never a stream.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use podpin_config::AccessLog as Target;
use serde::Serialize;

use crate::clock;
use crate::telemetry::labels::AffinityDecision;

/// Lines that may wait for a slow disk: about 2 MB of JSON. Full for long means that the log cannot keep up.
const QUEUE_LINES: usize = 8192;
/// How long the end of the process waits for a slow disk.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// What happened to one request. Absent facts are left out of the line.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// When it began, RFC 3339.
    pub time: String,
    /// `request`, `upgrade` or `stream`.
    pub kind: &'static str,
    pub client: Option<IpAddr>,
    pub method: String,
    pub host: String,
    pub path: String,
    pub protocol: &'static str,
    /// 0 when the client left before an answer.
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The endpoint that served it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Those that a stream went through before, by handover, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints_before: Vec<String>,
    /// The worth of its affinity token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<AffinityDecision>,
    /// Why a pinned client was moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repinned: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Why it ended: a reason of `streams_closed_total`, `complete`, `refused`, or an error.
    pub reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Body bytes to the client.
    pub bytes: u64,
    /// Events to the client (streams only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<u64>,
    pub duration_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_event_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<u64>,
    pub retries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
}

/// An open target of access log lines, with a thread that writes to it and ends when this is dropped.
#[derive(Debug)]
pub struct LogSink(SyncSender<Entry>);

/// A line that was dropped because the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped;

impl LogSink {
    /// Opens a target and starts the thread that writes to it; `None` if the target is off.
    ///
    /// # Errors
    /// If the file cannot be opened for appending.
    pub fn open(target: &Target) -> io::Result<Option<LogSink>> {
        Ok(match target {
            Target::Off => None,
            Target::Stdout => Some(start(io::stdout())?),
            Target::File(path) => Some(start(append(path)?)?),
        })
    }

    /// Waits until everything queued so far is written, at most a second.
    pub fn flush(&self) {
        let (mark, written) = sync_channel(1);
        if self.0.send(Entry::Mark(mark)).is_err() || written.recv_timeout(FLUSH_LIMIT).is_err() {
            tracing::warn!("the access log is behind: its last lines are lost");
        }
    }

    /// Queues one line.
    ///
    /// # Errors
    /// If the queue is full; the line is lost then.
    pub fn write(&self, record: &Record) -> Result<(), Dropped> {
        let Ok(mut line) = serde_json::to_vec(record) else { return Ok(()) };
        line.push(b'\n');
        self.0.try_send(Entry::Line(line)).map_err(|_| Dropped)
    }
}

/// What the writing thread is given.
enum Entry {
    Line(Vec<u8>),
    /// Everything before this is written once it is answered.
    Mark(SyncSender<()>),
}

impl Record {
    /// A record of something that began at this moment.
    pub fn begun(kind: &'static str, at: podpin_time::Millis) -> Record {
        Record { time: clock::rfc3339(at), kind, ..Record::default() }
    }
}

fn append(path: &Path) -> io::Result<std::fs::File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("access log {}: {error}", path.display())))
}

fn start(target: impl Write + Send + 'static) -> io::Result<LogSink> {
    let (queue, lines) = sync_channel(QUEUE_LINES);
    std::thread::Builder::new().name("access-log".to_owned()).spawn(move || drain(&lines, target))?;
    Ok(LogSink(queue))
}

/// Writes what is queued in one go and flushes when nothing waits: few calls under load, no delay without.
fn drain(lines: &Receiver<Entry>, target: impl Write) {
    let mut target = BufWriter::with_capacity(64 * 1024, target);
    while let Ok(first) = lines.recv() {
        let mut next = Some(first);
        let mut marks = Vec::new();
        while let Some(entry) = next {
            match entry {
                Entry::Line(line) => {
                    if let Err(error) = target.write_all(&line) {
                        tracing::warn!(%error, "the access log cannot be written");
                    }
                }
                Entry::Mark(mark) => marks.push(mark),
            }
            next = lines.try_recv().ok();
        }
        if let Err(error) = target.flush() {
            tracing::warn!(%error, "the access log cannot be written");
        }
        for mark in marks {
            // Whoever asked may have given up waiting.
            let _answered = mark.try_send(());
        }
    }
}
