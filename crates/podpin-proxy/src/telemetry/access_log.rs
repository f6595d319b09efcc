//! One JSON line for each request or stream, written when it ends.
//!
//! Lines go through a bounded queue to a thread of their own: a full disk or a stuck pipe costs lines (counted in
//! `access_log_dropped_total`), never a stream.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use podpin_config::AccessLog as Target;
use serde::Serialize;

use crate::clock;

/// Lines that may wait for a slow disk: about 2 MB of JSON. Full for long means that the log cannot keep up.
const QUEUE_LINES: usize = 8192;
/// How long the end of the process waits for a slow disk.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// What happened to one request. Absent facts are left out of the line.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// When it began, RFC 3339.
    pub(crate) time: String,
    /// `request`, `upgrade` or `stream`.
    pub(crate) kind: &'static str,
    pub(crate) client: Option<IpAddr>,
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) protocol: &'static str,
    /// 0 when the client left before an answer.
    pub(crate) status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<String>,
    /// The endpoint that served it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<String>,
    /// Those that a stream went through before, by handover, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) endpoints_before: Vec<String>,
    /// `pinned`, `new`, `repinned`, `forged`, `expired`, `malformed` or `unknown_key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) affinity: Option<&'static str>,
    /// Why a pinned client was moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repinned: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<String>,
    /// Why it ended: a reason of `streams_closed_total`, `complete`, `refused`, or an error.
    pub(crate) reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Body bytes to the client.
    pub(crate) bytes: u64,
    /// Events to the client (streams only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) events: Option<u64>,
    pub(crate) duration_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_event_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connect_ms: Option<u64>,
    pub(crate) retries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_agent: Option<String>,
}

/// Where lines go.
#[derive(Debug)]
pub(crate) struct AccessLog {
    queue: ArcSwapOption<Pages>,
    dropped: prometheus::IntCounter,
}

/// A target that is open. Its thread ends when this is dropped and everything is written.
#[derive(Debug)]
pub(crate) struct Pages(SyncSender<Entry>);

impl AccessLog {
    /// Writes nothing yet.
    pub(crate) fn new(dropped: prometheus::IntCounter) -> AccessLog {
        AccessLog { queue: ArcSwapOption::empty(), dropped }
    }

    /// Opens a target and starts the thread that writes to it.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub(crate) fn open(target: &Target) -> io::Result<Option<Pages>> {
        Ok(match target {
            Target::Off => None,
            Target::Stdout => Some(start(io::stdout())?),
            Target::File(path) => Some(start(append(path)?)?),
        })
    }

    /// Lines go there from now on.
    pub(crate) fn go_on_in(&self, pages: Option<Pages>) {
        self.queue.store(pages.map(Arc::new));
    }

    /// Whether anybody reads the lines; if not, they need not be made.
    pub(crate) fn is_on(&self) -> bool {
        self.queue.load().is_some()
    }

    /// Waits until everything queued so far is written, at most a second.
    pub(crate) fn flush(&self) {
        let Some(pages) = self.queue.load_full() else { return };
        let queue = &pages.0;
        let (mark, written) = sync_channel(1);
        if queue.send(Entry::Mark(mark)).is_err() || written.recv_timeout(FLUSH_LIMIT).is_err() {
            tracing::warn!("the access log is behind: its last lines are lost");
        }
    }

    /// Queues one line, or drops and counts it when the queue is full.
    pub(crate) fn write(&self, record: &Record) {
        let pages = self.queue.load();
        let Some(Pages(queue)) = pages.as_deref() else { return };
        let Ok(mut line) = serde_json::to_vec(record) else { return };
        line.push(b'\n');
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(Entry::Line(line))
        {
            self.dropped.inc();
        }
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
    pub(crate) fn begun(kind: &'static str, at: podpin_time::Millis) -> Record {
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

fn start(target: impl Write + Send + 'static) -> io::Result<Pages> {
    let (queue, lines) = sync_channel(QUEUE_LINES);
    std::thread::Builder::new().name("access-log".to_owned()).spawn(move || drain(&lines, target))?;
    Ok(Pages(queue))
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
