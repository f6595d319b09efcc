//! The task of one event stream: reads from the pod, writes whole events to the client, and knows when to stop.
//!
//! A hand-written future, so that an idle stream costs its two sockets, one timer and this struct. Bytes are read
//! into a scratch buffer of the worker thread, framed into a second one and written at once; the stream itself owns
//! memory only while an event is incomplete or the client does not take what is there. Then it stops reading, so a
//! slow client holds back its pod and not our memory.
//!
//! ```text
//!            pod bytes                      goodbye / pod's end
//! streaming ----------> streaming           ---------------------> finishing -> done (clean)
//!     |   client does not take it                                      ^
//!     +------------------------> blocked -------- taken ---------------+
//!     pod dies: what is whole goes out, then the stream ends without a last chunk (broken)
//! ```

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use podpin_endpoints::Millis;
use podpin_sse::{Framer, KEEP_ALIVE, retry_line};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::clock;
use crate::downstream::{CHUNK_PREFIX_BYTES, Downstream, Dying, Gone};
use crate::labels::CloseReason;
use crate::streams::{Cause, StreamRecord};
use crate::upstream_h1::{BodyDecoder, Piece};

/// One read: large enough that a burst costs few calls, small enough to stay in the cache.
const READ_BYTES: usize = 64 * 1024;
/// Reads in one turn before other streams of the worker get theirs.
const READS_A_TURN: usize = 4;
/// How long an event that passed `sse.eventBytesMax` may delay the end of `sse.maxDuration` before the stream is cut within it.
const BOUNDARY_WAIT: Duration = Duration::from_secs(5);
const MALFORMED: &str = "a chunk is malformed";
const NEVER: Millis = Millis(u64::MAX);

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch { read: vec![0; READ_BYTES], write: Vec::new() });
}

/// Buffers of a worker thread, used by one stream at a time and empty in between.
struct Scratch {
    read: Vec<u8>,
    write: Vec<u8>,
}

/// What goes from the pod to the client.
pub(crate) enum Body {
    /// `text/event-stream`: whole events.
    Events(Framer),
    /// Anything else, as it comes.
    Opaque,
}

/// Limits of a stream, copied out of the configuration it began with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) upstream_idle: Option<Duration>,
    pub(crate) client_write: Option<Duration>,
    /// The moment of `sse.maxDuration`, jitter included.
    pub(crate) ends_at: Option<Millis>,
    /// Bounds of `sse.retry.drain`, for a goodbye.
    pub(crate) goodbye_retry: (Duration, Duration),
}

/// How a stream ended.
pub(crate) struct Finished {
    pub(crate) reason: CloseReason,
    /// What the pod did wrong, when it did.
    pub(crate) error: Option<&'static str>,
    pub(crate) first_event: Option<Millis>,
    /// The pod broke the framing of its body.
    pub(crate) protocol: bool,
    /// It had to leave, and was cut: within an event, or because the client did not take its goodbye.
    pub(crate) forced: bool,
    /// An HTTP/2 stream whose bad end must wait for what is queued before it.
    pub(crate) dying: Option<Dying>,
    /// The client's socket, when it may carry another request.
    pub(crate) tcp: Option<TcpStream>,
}

impl Finished {
    /// The client left before the stream began.
    pub(crate) fn client_gone() -> Finished {
        Finished {
            reason: CloseReason::Client,
            error: None,
            protocol: false,
            forced: false,
            first_event: None,
            dying: None,
            tcp: None,
        }
    }
}

/// Why the stream is ending, once it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ending {
    reason: CloseReason,
    clean: bool,
    error: Option<&'static str>,
}

/// When and why the stream has to leave.
#[derive(Clone, Copy, Debug)]
struct Leave {
    at: Millis,
    /// Whatever it is in the middle of.
    by: Millis,
    reason: CloseReason,
}

/// A stream between one client and one pod.
pub(crate) struct Relay {
    downstream: Option<Downstream>,
    upstream: TcpStream,
    decoder: BodyDecoder,
    body: Body,
    times: Times,
    record: Arc<StreamRecord>,
    /// Framed bytes that the client has not taken; stops reading from the pod.
    unsent: Vec<u8>,
    unsent_from: usize,
    /// Body bytes that came with the response head.
    early: Vec<u8>,
    timer: Pin<Box<Sleep>>,
    armed: Millis,
    /// The timer, as it is set now, knows the task.
    polled: bool,
    last_read: Millis,
    last_write: Millis,
    first_event: Option<Millis>,
    leave: Option<Leave>,
    forced: bool,
    ending: Option<Ending>,
}

/// What a relay starts from.
pub(crate) struct Start {
    pub(crate) downstream: Downstream,
    /// The response head of an HTTP/1 client, still to be written.
    pub(crate) head: Vec<u8>,
    /// What the body begins with, before anything of the pod.
    pub(crate) preface: Vec<u8>,
    pub(crate) upstream: TcpStream,
    pub(crate) decoder: BodyDecoder,
    pub(crate) early: Vec<u8>,
    pub(crate) body: Body,
    pub(crate) times: Times,
    pub(crate) record: Arc<StreamRecord>,
}

impl Relay {
    pub(crate) fn new(start: Start) -> Relay {
        let now = clock::now();
        let mut unsent = start.head;
        if !start.preface.is_empty() {
            let mut piece = vec![0; CHUNK_PREFIX_BYTES];
            piece.extend_from_slice(&start.preface);
            let from = start.downstream.frame(&mut piece);
            unsent.extend_from_slice(piece.get(from..).unwrap_or_default());
        }
        let mut relay = Relay {
            downstream: Some(start.downstream),
            upstream: start.upstream,
            decoder: start.decoder,
            body: start.body,
            times: start.times,
            record: start.record,
            unsent,
            unsent_from: 0,
            early: start.early,
            timer: Box::pin(tokio::time::sleep_until(clock::instant(now))),
            armed: Millis(0),
            polled: false,
            last_read: now,
            last_write: now,
            first_event: None,
            leave: None,
            forced: false,
            ending: None,
        };
        if relay.decoder == BodyDecoder::Done && relay.early.is_empty() {
            relay.end(CloseReason::UpstreamEnd, None);
        }
        relay
    }

    /// One turn: everything that can be done now. `Ready` when the stream is over.
    fn turn(&mut self, context: &mut Context<'_>) -> Poll<CloseReason> {
        if let Some(at) = self.record.poll_leave(context)
            && self.leave.is_none()
        {
            self.leave = self.asked_to_leave(at);
        }
        for _ in 0..READS_A_TURN {
            if let Poll::Ready(gone) = self.poll_downstream(context) {
                return Poll::Ready(gone);
            }
            if !self.unsent.is_empty() || self.ending.is_some() {
                return self.poll_times(context);
            }
            match self.poll_upstream(context) {
                Poll::Ready(()) => {}
                Poll::Pending => return self.poll_times(context),
            }
        }
        context.waker().wake_by_ref();
        self.poll_times(context)
    }

    fn asked_to_leave(&self, at: Millis) -> Option<Leave> {
        let order = self.record.order()?;
        let reason = match order.cause {
            Cause::Drain => CloseReason::Drain,
            Cause::Shutdown => CloseReason::Shutdown,
        };
        Some(Leave { at, by: order.by.max(at), reason })
    }

    /// Writes what is left to write, ends when that was the end, and watches for the client's leaving.
    fn poll_downstream(&mut self, context: &mut Context<'_>) -> Poll<CloseReason> {
        let Some(downstream) = &mut self.downstream else { return Poll::Ready(CloseReason::Error) };
        while let Some(rest) = self.unsent.get(self.unsent_from..).filter(|rest| !rest.is_empty()) {
            match downstream.poll_write(context, rest) {
                Poll::Ready(Ok(count)) => {
                    self.unsent_from += count;
                    self.last_write = clock::now();
                }
                Poll::Ready(Err(Gone)) => return Poll::Ready(CloseReason::Client),
                Poll::Pending => return downstream.poll_gone(context).map(|Gone| CloseReason::Client),
            }
        }
        if self.unsent_from > 0 {
            self.unsent = Vec::new();
            self.unsent_from = 0;
        }
        if let Some(ending) = self.ending {
            return Poll::Ready(ending.reason);
        }
        downstream.poll_gone(context).map(|Gone| CloseReason::Client)
    }

    /// Reads once and forwards what became whole. `Ready` when something happened.
    fn poll_upstream(&mut self, context: &mut Context<'_>) -> Poll<()> {
        SCRATCH.with_borrow_mut(|Scratch { read, write }| {
            let early = std::mem::take(&mut self.early);
            if !early.is_empty() {
                self.absorb(context, &early, write);
                return Poll::Ready(());
            }
            if self.decoder == BodyDecoder::Done {
                self.end(CloseReason::UpstreamEnd, None);
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(read);
            match ready!(Pin::new(&mut self.upstream).poll_read(context, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() && self.decoder.ends_at_close() => {
                    self.end(CloseReason::UpstreamEnd, None);
                }
                Ok(()) if buffer.filled().is_empty() => self.broken("the connection ended within the body"),
                Ok(()) => self.absorb(context, buffer.filled(), write),
                Err(_) => self.broken("the connection was reset"),
            }
            Poll::Ready(())
        })
    }

    /// Decodes, frames and sends one read's worth of bytes.
    fn absorb(&mut self, context: &mut Context<'_>, bytes: &[u8], out: &mut Vec<u8>) {
        self.last_read = clock::now();
        out.clear();
        out.resize(CHUNK_PREFIX_BYTES, 0);
        let outcome = self.decode(bytes, out);
        self.forward(context, out);
        match outcome {
            Ok(false) => {}
            Ok(true) => self.end(CloseReason::UpstreamEnd, None),
            Err(error) => self.broken(error),
        }
        if out.capacity() > 4 * READ_BYTES {
            *out = Vec::new();
        }
    }

    /// Appends to `out` what may go to the client; `true` when the body is complete.
    fn decode(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<bool, &'static str> {
        let mut events = 0;
        let ended = loop {
            match self.decoder.decode(&mut bytes) {
                Ok(Piece::Data(data)) => match &mut self.body {
                    Body::Events(framer) => events += framer.push(data, out).events,
                    Body::Opaque => out.extend_from_slice(data),
                },
                Ok(Piece::More) => break Ok(self.decoder == BodyDecoder::Done),
                Ok(Piece::End) => break Ok(true),
                Err(_) => break Err(MALFORMED),
            }
        };
        if events > 0 {
            self.count_events(events);
        }
        ended
    }

    fn count_events(&mut self, events: u32) {
        if self.first_event.is_none() {
            self.first_event = Some(self.last_read);
            let took = self.last_read.since(self.record.since);
            self.record.route.service.metrics.stream_first_event.observe(took.as_secs_f64());
        }
        self.record.set_last_event(self.last_read);
        self.record.events.fetch_add(u64::from(events), Ordering::Relaxed);
        self.record.route.service.metrics.stream_events.add(u64::from(events));
        if let Body::Events(framer) = &self.body
            && let Some(id) = framer.last_event_id()
        {
            self.record.set_last_event_id(id);
        }
    }

    /// Sends `out[CHUNK_PREFIX_BYTES..]`, and keeps what the client does not take at once.
    fn forward(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>) {
        let length = out.len().saturating_sub(CHUNK_PREFIX_BYTES);
        let Some(downstream) = &mut self.downstream else { return };
        if length == 0 {
            return;
        }
        let bytes = u64::try_from(length).unwrap_or(0);
        self.record.bytes.fetch_add(bytes, Ordering::Relaxed);
        if matches!(self.body, Body::Events(_)) {
            self.record.route.service.metrics.stream_bytes.add(bytes);
        }
        let mut from = downstream.frame(out);
        self.last_write = self.last_read;
        while let Some(rest) = out.get(from..).filter(|rest| !rest.is_empty()) {
            match downstream.poll_write(context, rest) {
                Poll::Ready(Ok(count)) => from += count,
                // The client's leaving is noticed again, and acted upon, where it is looked for.
                Poll::Ready(Err(Gone)) | Poll::Pending => {
                    self.unsent.extend_from_slice(rest);
                    break;
                }
            }
        }
    }

    fn at_boundary(&self) -> bool {
        match &self.body {
            Body::Events(framer) => framer.at_boundary(),
            Body::Opaque => false,
        }
    }

    /// Ends well, once everything is written.
    fn end(&mut self, reason: CloseReason, last_words: Option<Vec<u8>>) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(Ending { reason, clean: true, error: None });
        // The client has its time for the end as for anything else.
        self.last_write = clock::now();
        let Some(downstream) = &self.downstream else { return };
        if let Some(words) = last_words {
            let mut piece = vec![0; CHUNK_PREFIX_BYTES];
            piece.extend_from_slice(&words);
            let from = downstream.frame(&mut piece);
            self.unsent.extend_from_slice(piece.get(from..).unwrap_or_default());
        }
        self.unsent.extend_from_slice(downstream.last_bytes());
    }

    /// Ends as a death of the pod: after the last whole event, without a last chunk.
    fn broken(&mut self, error: &'static str) {
        self.ending = Some(Ending { reason: CloseReason::UpstreamReset, clean: false, error: Some(error) });
    }

    /// The polite goodbye: `retry:` drawn from `sse.retry.drain`, then a clean end.
    fn goodbye(&mut self, reason: CloseReason) {
        let (min, max) = self.times.goodbye_retry;
        let (min, max) = (clock::duration_millis(min), clock::duration_millis(max));
        let retry = retry_line(fastrand::u64(min..=max.max(min)));
        let words = self.at_boundary().then(|| retry.into_bytes());
        self.end(reason, words);
    }

    /// Does what is due, and sets the timer for what comes next. `Ready` when the stream must end now.
    fn poll_times(&mut self, context: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            let due = self.due();
            let now = clock::now();
            if due <= now {
                if let Poll::Ready(reason) = self.act(context, now) {
                    return Poll::Ready(reason);
                }
                if let Poll::Ready(reason) = self.poll_downstream(context) {
                    return Poll::Ready(reason);
                }
                continue;
            }
            if due == NEVER {
                return Poll::Pending;
            }
            if due < self.armed || self.armed <= now {
                self.armed = due;
                self.timer.as_mut().reset(clock::instant(due));
                self.polled = false;
            }
            // Pending without a waker when the task's budget is used up: then it is polled again.
            if !self.polled {
                self.polled = self.timer.as_mut().poll(context).is_pending()
                    && tokio::task::coop::has_budget_remaining();
            }
            return Poll::Pending;
        }
    }

    /// The next moment at which silence itself means something.
    fn due(&self) -> Millis {
        let mut due = NEVER;
        if self.unsent.is_empty() && self.ending.is_none() {
            if let Some(silence) = self.times.keep_alive.filter(|_| self.at_boundary()) {
                due = due.min(clock::after(self.last_write, silence));
            }
            if let Some(silence) = self.times.upstream_idle {
                due = due.min(clock::after(self.last_read, silence));
            }
        } else if let Some(limit) = self.times.client_write {
            due = due.min(clock::after(self.last_write, limit));
        }
        if self.ending.is_none() && matches!(self.body, Body::Events(_)) {
            due = due.min(self.leaves_at().unwrap_or(due)).min(self.ends_by().unwrap_or(due));
        }
        if let Some(leave) = self.leave.filter(|_| self.is_leaving()) {
            due = due.min(leave.by);
        }
        due
    }

    /// Its goodbye was said, and waits to be taken.
    fn is_leaving(&self) -> bool {
        let ending = self.ending.map(|ending| ending.reason);
        self.leave.is_some_and(|leave| ending == Some(leave.reason))
    }

    /// Within an event that is passed through, a goodbye waits for its boundary as long as there is time.
    fn leaves_at(&self) -> Option<Millis> {
        self.leave.map(|leave| if self.at_boundary() { leave.at } else { leave.by })
    }

    fn ends_by(&self) -> Option<Millis> {
        self.times.ends_at.map(|at| self.at_a_boundary_from(at))
    }

    /// Within an event that is passed through, an end waits for its boundary, but not for ever.
    fn at_a_boundary_from(&self, moment: Millis) -> Millis {
        if self.at_boundary() { moment } else { clock::after(moment, BOUNDARY_WAIT) }
    }

    fn act(&mut self, context: &mut Context<'_>, now: Millis) -> Poll<CloseReason> {
        let passed = |moment: Option<Millis>| moment.is_some_and(|moment| moment <= now);
        let since =
            |moment: Millis, limit: Option<Duration>| passed(limit.map(|limit| clock::after(moment, limit)));
        let by = self.leave.filter(|_| self.is_leaving()).map(|leave| leave.by);
        if !self.unsent.is_empty() && since(self.last_write, self.times.client_write) {
            return Poll::Ready(CloseReason::SlowClient);
        }
        if let (Some(ending), true) = (&mut self.ending, passed(by)) {
            ending.clean = false;
            self.forced = true;
            return Poll::Ready(ending.reason);
        }
        if self.ending.is_some() {
            return Poll::Pending;
        }
        let streams = matches!(self.body, Body::Events(_));
        if let Some(leave) = self.leave.filter(|_| streams && passed(self.leaves_at())) {
            self.forced = !self.at_boundary();
            self.goodbye(leave.reason);
        } else if streams && passed(self.ends_by()) {
            self.end(CloseReason::MaxDuration, None);
        } else if self.unsent.is_empty() && since(self.last_read, self.times.upstream_idle) {
            self.goodbye(CloseReason::Idle);
        } else if self.unsent.is_empty() && since(self.last_write, self.times.keep_alive) {
            self.keep_alive(context, now);
        }
        Poll::Pending
    }

    fn keep_alive(&mut self, context: &mut Context<'_>, now: Millis) {
        self.record.route.service.metrics.stream_keepalives.add(1);
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.write.clear();
            scratch.write.resize(CHUNK_PREFIX_BYTES, 0);
            scratch.write.extend_from_slice(KEEP_ALIVE);
            self.forward(context, &mut scratch.write);
        });
        self.last_write = now;
    }

    fn close(&mut self, reason: CloseReason) -> Finished {
        let clean = self.ending.filter(|ending| ending.reason == reason);
        let downstream = self.downstream.take();
        let mut dying = None;
        let tcp = match (downstream, clean) {
            (Some(downstream), Some(Ending { clean: true, .. })) => downstream.finish(),
            (Some(downstream), _) => {
                dying = downstream.abort();
                None
            }
            (None, _) => None,
        };
        let error = self.ending.and_then(|ending| ending.error);
        Finished {
            reason,
            error,
            protocol: error == Some(MALFORMED),
            forced: self.forced,
            first_event: self.first_event,
            dying,
            tcp,
        }
    }
}

impl Future for Relay {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Finished> {
        let reason = ready!(self.turn(context));
        Poll::Ready(self.close(reason))
    }
}
