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
//!     pod dies: what is whole goes out, then the stream goes on at another pod (relay/passage.rs), or ends without a
//!     last chunk (broken)
//! ```

mod ending;
mod handover;

use podpin_wire::http1::encode::CHUNK_PREFIX_BYTES;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use podpin_sse::{End, Framer};
use podpin_time::Millis;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

use crate::clock;
use crate::downstream::body::{DelayedReset, Downstream, Gone};
use crate::net::scratch::{self, READ_BYTES, Scratch};
use crate::net::transport::Transport;
use crate::stream::task::Permits;
use crate::stream_registry::StreamRecord;
use crate::telemetry::labels::CloseReason;
use podpin_wire::http1::body::{BodyDecoder, Piece};

/// Reads in one turn before other streams of the worker get theirs.
const READS_A_TURN: usize = 4;
use crate::stream::relay::ending::{Ending, Fault, Leave};
pub(crate) use crate::stream::relay::handover::Passage;

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
    pub keep_alive: Option<Duration>,
    pub upstream_idle: Option<Duration>,
    pub client_write: Option<Duration>,
    /// The moment of `sse.maxDuration`, jitter included.
    pub ends_at: Option<Millis>,
    /// Bounds of `sse.retry.drain`, for a goodbye.
    pub goodbye_retry: (Duration, Duration),
}

/// How a stream ended.
pub(crate) struct Finished {
    pub reason: CloseReason,
    /// What the pod did wrong, when it did.
    pub error: Option<&'static str>,
    pub first_event: Option<Millis>,
    /// The pod broke the framing of its body.
    pub protocol: bool,
    /// It had to leave, and was cut: within an event, or because the client did not take its goodbye.
    pub forced: bool,
    /// An HTTP/2 stream whose bad end must wait for what is queued before it.
    pub dying: Option<DelayedReset>,
    /// The client's socket, when it may carry another request.
    pub tcp: Option<Transport>,
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

/// A stream between one client and one pod.
pub(crate) struct Relay {
    downstream: Option<Downstream>,
    /// `None` while the pod is gone and its successor is being asked.
    upstream: Option<Transport>,
    decoder: BodyDecoder,
    body: Body,
    times: Times,
    record: Arc<StreamRecord>,
    /// Its places at the endpoint and of its client; `None` for what is no event stream.
    permits: Option<Permits>,
    /// Present where the stream may go on at another pod.
    passage: Option<Box<Passage>>,
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
    leave: Option<Box<Leave>>,
    forced: bool,
    ending: Option<Ending>,
}

/// What a relay starts from.
pub(crate) struct Start {
    pub downstream: Downstream,
    /// The response head of an HTTP/1 client, still to be written.
    pub head: Vec<u8>,
    /// What the body begins with, before anything of the pod.
    pub preface: Vec<u8>,
    pub upstream: Transport,
    pub decoder: BodyDecoder,
    pub early: Vec<u8>,
    pub body: Body,
    pub times: Times,
    pub record: Arc<StreamRecord>,
    pub permits: Option<Permits>,
    pub passage: Option<Box<Passage>>,
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
            upstream: Some(start.upstream),
            decoder: start.decoder,
            body: start.body,
            times: start.times,
            record: start.record,
            permits: start.permits,
            passage: start.passage,
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

    /// Its places, to be given back.
    pub(crate) fn take_permits(&mut self) -> Option<Permits> {
        self.permits.take()
    }

    /// One turn: everything that can be done now. `Ready` when the stream is over.
    fn turn(&mut self, context: &mut Context<'_>) -> Poll<CloseReason> {
        if let Some(at) = self.record.poll_leave(context)
            && self.leave.is_none()
        {
            self.leave = self.asked_to_leave(at);
        }
        for _ in 0..READS_A_TURN {
            self.poll_passage(context);
            if let Poll::Ready(gone) = self.poll_downstream(context) {
                return Poll::Ready(gone);
            }
            if self.is_blocked() || self.ending.is_some() {
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
        if downstream.holds_bytes() {
            match downstream.poll_flush(context) {
                Poll::Ready(Ok(())) => self.last_write = clock::now(),
                Poll::Ready(Err(Gone)) => return Poll::Ready(CloseReason::Client),
                Poll::Pending => return downstream.poll_gone(context).map(|Gone| CloseReason::Client),
            }
        }
        if let Some(ending) = self.ending {
            return Poll::Ready(ending.reason);
        }
        let gone = downstream.poll_gone(context).map(|Gone| CloseReason::Client);
        // What was read may have called for an answer of TLS itself; if it does not go at once, its waker is set.
        if gone.is_pending()
            && downstream.holds_bytes()
            && downstream.poll_flush(context) == Poll::Ready(Err(Gone))
        {
            return Poll::Ready(CloseReason::Client);
        }
        gone
    }

    /// The client has not taken what there is; nothing more is read from the pod until it has.
    fn is_blocked(&self) -> bool {
        !self.unsent.is_empty() || self.downstream.as_ref().is_some_and(Downstream::holds_bytes)
    }

    /// Reads once and forwards what became whole. `Ready` when something happened.
    fn poll_upstream(&mut self, context: &mut Context<'_>) -> Poll<()> {
        scratch::with(|Scratch { read, write }| {
            let early = std::mem::take(&mut self.early);
            if !early.is_empty() {
                let early =
                    if self.awaits_replay() { self.all_there_is(context, early, read) } else { early };
                self.absorb(context, &early, write);
                return Poll::Ready(());
            }
            let Some(upstream) = &mut self.upstream else { return Poll::Pending };
            if self.decoder == BodyDecoder::Done {
                self.upstream_ended(End::Clean, Fault::None);
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(read);
            match ready!(Pin::new(upstream).poll_read(context, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() && self.decoder.ends_at_close() => {
                    self.upstream_ended(End::Clean, Fault::None);
                }
                Ok(()) if buffer.filled().is_empty() => {
                    self.upstream_ended(End::Reset, Fault::Short);
                }
                Ok(()) => self.absorb(context, buffer.filled(), write),
                Err(_) => self.upstream_ended(End::Reset, Fault::Reset),
            }
            Poll::Ready(())
        })
    }

    /// A replay is judged by all that is there of it; what came with the successor's head may be its first bit only.
    fn all_there_is(&mut self, context: &mut Context<'_>, mut early: Vec<u8>, read: &mut [u8]) -> Vec<u8> {
        let Some(upstream) = &mut self.upstream else { return early };
        let mut buffer = ReadBuf::new(read);
        // An end or an error is seen again by the next read.
        if let Poll::Ready(Ok(())) = Pin::new(upstream).poll_read(context, &mut buffer) {
            early.extend_from_slice(buffer.filled());
        }
        early
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
            Ok(true) => self.upstream_ended(End::Clean, Fault::None),
            Err(fault) => self.upstream_ended(End::Reset, fault),
        }
        if out.capacity() > 4 * READ_BYTES {
            *out = Vec::new();
        }
    }

    /// Appends to `out` what may go to the client; `true` when the body is complete.
    fn decode(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<bool, Fault> {
        let (mut events, mut dropped) = (0, 0);
        // What a successor replays is judged by all that one read brought.
        let mut replay = self.awaits_replay().then(Vec::new);
        let ended = loop {
            match self.decoder.decode(&mut bytes) {
                Ok(Piece::Data(data)) => match (&mut self.body, &mut replay) {
                    (Body::Events(_), Some(replay)) => replay.extend_from_slice(data),
                    (Body::Events(framer), None) => events += framer.push(data, out).events,
                    (Body::Opaque, _) => out.extend_from_slice(data),
                },
                Ok(Piece::More) => break Ok(self.decoder == BodyDecoder::Done),
                Ok(Piece::End) => break Ok(true),
                Err(_) => break Err(Fault::Malformed),
            }
        };
        if let (Some(replay), Body::Events(framer)) = (replay, &mut self.body) {
            let pushed = framer.push(&replay, out);
            (events, dropped) = (pushed.events, pushed.dropped);
        }
        if dropped > 0 {
            self.record.route.service.metrics.handover_duplicates.inc_by(u64::from(dropped));
        }
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
}

impl Future for Relay {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Finished> {
        let reason = ready!(self.turn(context));
        Poll::Ready(self.close(reason))
    }
}
