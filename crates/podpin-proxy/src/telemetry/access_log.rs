//! The access log: a JSON line for each request or stream, written when it ends.
//!
//! Lines go through a bounded queue to a thread of their own: a full disk or a stuck pipe costs lines (counted in
//! `access_log_dropped_total`), never a stream.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use podpin_config::AccessLog as Target;
use serde::Serialize;

use crate::clock;
use crate::telemetry::labels::AffinityDecision;

/// Lines that may wait for a slow disk. A queue that is full for long means that the log cannot keep up.
const QUEUE_LINES: usize = 8192;
/// Bytes of JSON that may wait: twice what as many lines of the usual size have. A client chooses the length of its path.
const QUEUE_BYTES: usize = 4 << 20;
/// The time that the end of the process waits for a slow disk.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// A line about one request or stream. Absent facts are left out.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The beginning of the request, RFC 3339.
    pub time: String,
    /// `request`, `call`, `upgrade` or `stream`.
    pub kind: &'static str,
    /// The client's address; behind trusted proxies, as they say.
    pub client: Option<IpAddr>,
    /// The request method.
    pub method: String,
    /// The authority as the client sent it.
    pub host: String,
    /// The request target.
    pub path: String,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'static str,
    /// The status code of the answer; 0 if the client left before.
    pub status: u16,
    /// The status of a gRPC call, as its client has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u32>,
    /// The route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The last endpoint of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The endpoints before the last one, in the order of the handovers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints_before: Vec<String>,
    /// The worth of the affinity token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<AffinityDecision>,
    /// The reason for which a pinned client was moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repinned: Option<&'static str>,
    /// The session of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The reason of the end: one of `streams_closed_total`, `complete`, `refused`, or an error.
    pub reason: &'static str,
    /// The error in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Body bytes to the client.
    pub bytes: u64,
    /// Protocol of an upgraded connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<String>,
    /// Bytes of an upgraded connection from the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_received: Option<u64>,
    /// Events to the client, or messages of a WebSocket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<u64>,
    /// The time from the request head to the end.
    pub duration_ms: u64,
    /// The time from the request head to the first event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_event_ms: Option<u64>,
    /// The time that the connection to the last endpoint took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<u64>,
    /// The number of endpoints tried after the first.
    pub retries: u32,
    /// The attempts that failed, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<FailedAttempt>,
    /// The client's `User-Agent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
}

/// An attempt at an endpoint that failed, in a line of the log.
#[derive(Clone, Debug, Serialize)]
pub struct FailedAttempt {
    /// The endpoint.
    pub endpoint: String,
    /// The error in words.
    pub error: String,
}

/// An open target of access log lines, with a thread that writes to the target and ends when this is dropped.
#[derive(Debug)]
pub struct LogSink {
    queue: SyncSender<Entry>,
    /// Bytes of the lines in the queue.
    waiting: Arc<AtomicUsize>,
}

/// The error of a line that was dropped because the queue is full.
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
        if self.queue.send(Entry::Mark(mark)).is_err() || written.recv_timeout(FLUSH_LIMIT).is_err() {
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
        let bytes = line.len();
        // Relaxed is enough: the count guards no other memory.
        if self.waiting.fetch_add(bytes, Ordering::Relaxed) < QUEUE_BYTES
            && self.queue.try_send(Entry::Line(line)).is_ok()
        {
            return Ok(());
        }
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        Err(Dropped)
    }
}

/// An entry of the queue to the writing thread.
enum Entry {
    /// A line with its end.
    Line(Vec<u8>),
    /// A mark that is answered when everything before it is written.
    Mark(SyncSender<()>),
}

impl Record {
    /// Builds the record of a request or stream that began at this moment.
    #[must_use]
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
    let waiting = Arc::new(AtomicUsize::new(0));
    let written = Arc::clone(&waiting);
    std::thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(move || drain(&lines, &written, target))?;
    Ok(LogSink { queue, waiting })
}

/// Writes what is queued in one go and flushes when nothing waits: few calls under load, no delay without.
fn drain(lines: &Receiver<Entry>, waiting: &AtomicUsize, target: impl Write) {
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
                    waiting.fetch_sub(line.len(), Ordering::Relaxed);
                }
                Entry::Mark(mark) => marks.push(mark),
            }
            next = lines.try_recv().ok();
        }
        if let Err(error) = target.flush() {
            tracing::warn!(%error, "the access log cannot be written");
        }
        for mark in marks {
            // The receiver may have given up waiting.
            let _answered = mark.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target that keeps what is written.
    #[derive(Clone, Default)]
    struct Kept(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flush_writes_every_line_with_only_the_facts_that_are_known() {
        let kept = Kept::default();
        let sink = start(kept.clone()).unwrap();
        let affinity = Some(AffinityDecision::Repinned);
        let record = Record { kind: "stream", reason: "drain", affinity, ..Record::default() };
        sink.write(&record).unwrap();
        sink.write(&Record { retries: 2, ..record }).unwrap();
        sink.flush();
        let text = String::from_utf8(kept.0.lock().clone()).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["affinity"], &lines[1]["retries"]), (&"repinned".into(), &2.into()));
        assert!(lines[0].get("endpoint").is_none() && lines[0].get("session").is_none(), "{text}");
    }

    /// A disk that is stuck until a test lets it go.
    struct Stuck(Receiver<()>, Kept);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _released = self.0.recv();
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_waits_for_a_stuck_disk_is_bounded_in_bytes() {
        let (release, stuck) = sync_channel(0);
        let kept = Kept::default();
        let sink = start(Stuck(stuck, kept.clone())).unwrap();
        let record = Record { path: "/".repeat(64 << 10), ..Record::default() };
        let queued = (0..QUEUE_LINES).take_while(|_| sink.write(&record).is_ok()).count();
        // The writer has a line or two in its hands.
        assert!((64..=67).contains(&queued), "{queued} lines of 64 KiB");
        assert_eq!(sink.write(&Record::default()), Err(Dropped), "a short one as well");
        drop(release);
        sink.flush();
        sink.write(&Record::default()).unwrap();
        sink.flush();
        assert_eq!(sink.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(kept.0.lock().iter().filter(|byte| **byte == b'\n').count(), queued + 1);
    }

    #[test]
    fn a_target_that_is_off_has_no_sink_and_one_that_cannot_be_opened_names_its_file() {
        assert!(LogSink::open(&Target::Off).unwrap().is_none());
        let error = LogSink::open(&Target::File("/nonexistent/access.log".into())).unwrap_err();
        assert!(error.to_string().starts_with("access log /nonexistent/access.log:"), "{error}");
    }
}
