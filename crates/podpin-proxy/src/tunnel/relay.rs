//! Relay of one upgraded connection: moves bytes both ways, reports to its [`Session`] and obeys it.
//!
//! A hand-written future, as the relay of an event stream is: bytes are read into a buffer of the worker thread and written
//! at once, so an idle connection costs its two sockets, one timer and this struct. The two directions know nothing of each
//! other: each is held back by its own destination, and ends by itself.
//!
//! ```text
//!            ┌───────────── down: Flow ◀── Follower ◀─────────────┐
//!  client ◀──┤                                                    ├──▶ upstream
//!            └──▶ ClientFrames ──▶ up: Flow ──────────────────────┘
//!  order to leave ─▶ Session ── Insertion: ping, Close; End
//! ```
//!
//! Of a WebSocket the relay follows the frames, so that what the session inserts stands between two messages. Once the client
//! has a Close of the proxy, nothing more goes to it. What it sends goes on up to its own Close, in whose place the upstream
//! gets one of the proxy.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use podpin_drain::{BudgetUse, DrainMember};
use podpin_sse::session::LeaveCause;
use podpin_time::Millis;
use podpin_ws::{Cause, CloseFrames, End, Insertion, LeaveOrder, Manner, Protocol, Session, Settings, Side};

use crate::balance::client_limit::Look;
use crate::clock;
use crate::downstream::tunnel_client::TunnelClient;
use crate::net::scratch::{self, Scratch};
use crate::stream::account::{Failure, Finished, Permits};
use crate::stream::timer::Timer;
use crate::stream_registry::{StreamRecord, StreamRegistry};
use crate::telemetry::labels::CloseReason;
use crate::tunnel::ends::{Broken, Ends};
use crate::tunnel::flow::{Flow, FlowState};
use crate::tunnel::frames::{Frames, close_for_client, close_for_endpoint};

/// Number of reads of each direction in one turn before other connections of the worker get theirs.
const READS_A_TURN: usize = 4;

/// Connection between one client and one upstream, neither of which speaks HTTP any more.
pub(crate) struct Relay {
    /// Both ends; `None` if they are closed.
    ends: Option<Ends>,
    /// Direction to the client.
    down: Flow,
    /// Direction to the upstream.
    up: Flow,
    /// Frames of a WebSocket; `None` if the protocol is another.
    frames: Option<Box<Frames>>,
    session: Session,
    streams: Arc<StreamRegistry>,
    record: Arc<StreamRecord>,
    /// Places that it holds until it ends.
    permits: Option<Permits>,
    timer: Timer,
    /// Side that broke the connection; `None` if neither has.
    broken: Option<Broken>,
}

/// Parts of a relay that begins.
pub(crate) struct Start {
    /// Both ends.
    pub ends: Ends,
    /// Response head, still to be written.
    pub to_client: Vec<u8>,
    /// Bytes of the upstream that came with its response head.
    pub early: Vec<u8>,
    /// Bytes of the client that came before it had the response.
    pub ahead: Vec<u8>,
    /// Protocol and time limits.
    pub settings: Settings,
    /// Registry that `record` is in.
    pub streams: Arc<StreamRegistry>,
    /// Record of the connection.
    pub record: Arc<StreamRecord>,
    /// Places that it holds until it ends.
    pub permits: Permits,
}

impl Relay {
    /// Returns the relay of a connection that begins.
    pub(crate) fn new(start: Start) -> Relay {
        let Start { ends, to_client, early, ahead, settings, streams, record, permits } = start;
        let now = clock::now();
        let mut relay = Relay {
            ends: Some(ends),
            down: Flow::new(to_client),
            up: Flow::new(Vec::new()),
            frames: (settings.protocol == Protocol::WebSocket).then(Box::default),
            session: Session::new(settings, now),
            streams,
            record,
            permits: Some(permits),
            timer: Timer::new(now),
            broken: None,
        };
        // Nothing is to be inserted yet.
        relay.note(Side::Upstream, early.len(), now);
        relay.follow_upstream(&early);
        relay.down.append(&early);
        relay.note(Side::Client, ahead.len(), now);
        let mut passed = Vec::new();
        let ahead = relay.pass_client(&ahead, &mut passed);
        relay.up.append(ahead);
        relay
    }

    /// Takes out the places, to be given back.
    pub(crate) fn take_permits(&mut self) -> Option<Permits> {
        self.permits.take()
    }

    /// Does everything that can be done now. `Ready` when the connection is over.
    fn turn(&mut self, context: &mut Context<'_>) -> Poll<Finished> {
        self.poll_order(context);
        let Some(mut ends) = self.ends.take() else { return Poll::Ready(Finished::client_gone()) };
        let turned = self.poll_ends(context, &mut ends);
        self.ends = Some(ends);
        turned
    }

    /// Moves bytes both ways, then looks at the time.
    fn poll_ends(&mut self, context: &mut Context<'_>, ends: &mut Ends) -> Poll<Finished> {
        if self.poll_inquiry(context, ends) == Look::Vanished {
            return Poll::Ready(finished(CloseReason::Client));
        }
        let mut has_moved = true;
        for _ in 0..READS_A_TURN {
            let down = self.poll_down(context, ends);
            let up = self.poll_up(context, ends);
            match (down, up) {
                (Err(broken), _) | (_, Err(broken)) => return Poll::Ready(self.break_off(broken)),
                (Ok(down), Ok(up)) => has_moved = down.is_ready() || up.is_ready(),
            }
            if !has_moved {
                break;
            }
        }
        if has_moved {
            context.waker().wake_by_ref();
        }
        if self.down.is_over() && self.up.is_over() && !self.session.is_closing() {
            return Poll::Ready(finished(self.first_end()));
        }
        self.poll_time(context, ends)
    }

    /// Returns the reason of a connection that its sides have ended by themselves.
    fn first_end(&self) -> CloseReason {
        match self.session.first_to_end() {
            Some(Side::Client) => CloseReason::Client,
            Some(Side::Upstream) | None => CloseReason::UpstreamEnd,
        }
    }

    /// Looks whether the connection has to leave.
    fn poll_order(&mut self, context: &Context<'_>) {
        let has_order = self.record.drain().poll(context).is_some();
        if !has_order || self.session.is_closing() {
            return;
        }
        let Some(order) = self.record.drain().order() else { return };
        let cause = match self.record.leave_cause(order.cause) {
            LeaveCause::Drain => Cause::Drain,
            LeaveCause::Withdrawn => Cause::Withdrawn,
            LeaveCause::Shutdown => Cause::Shutdown,
            // An upgraded connection cannot go elsewhere, so it stays.
            LeaveCause::Rebalance => return self.streams.stayed(&self.record),
        };
        let (at, by, deadline) = (order.at, order.by, order.deadline);
        self.session.on_order(LeaveOrder { cause, at, by, deadline });
    }

    /// Looks whether the client still acknowledges anything, when a newcomer would like to have its place.
    fn poll_inquiry(&mut self, context: &Context<'_>, ends: &Ends) -> Look {
        let Some(permit) = self.permits.as_ref().and_then(Permits::of_client) else { return Look::Nothing };
        if !permit.is_asked(context.waker()) {
            return Look::Nothing;
        }
        let now = clock::now();
        let look = permit.look(ends.client.peer(), self.is_between_messages(), now);
        if look == Look::Comment {
            self.insert(Insertion::Ping, now);
        }
        look
    }

    /// Whether a frame may be inserted behind all that goes to the client.
    fn is_between_messages(&self) -> bool {
        self.down.state() == FlowState::Open
            && !self.session.is_closing()
            && self.frames.as_ref().is_some_and(|frames| {
                let closes = frames.down.has_closed() || frames.up.follower().has_closed();
                frames.down.is_between_messages() && !closes
            })
    }

    /// Writes what waits for the client, then reads the upstream once. `Ready` when something moved.
    fn poll_down(&mut self, context: &mut Context<'_>, ends: &mut Ends) -> Result<Poll<()>, Broken> {
        let was_ending = self.down.state() == FlowState::Ending;
        match self.down.poll_drain(context, &mut ends.client) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) if self.session.is_closing() => {
                self.down.abandon();
                self.session.on_end(Side::Client);
            }
            Poll::Ready(Err(_)) => return Err(Broken::Client),
            Poll::Pending => return Ok(Poll::Pending),
        }
        if self.down.state() == FlowState::Over {
            return Ok(if was_ending { Poll::Ready(()) } else { Poll::Pending });
        }
        scratch::with(|Scratch { read, write }| match ends.upstream.poll_read_some(context, read) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Err(_)) => {
                if !self.session.is_closing() {
                    return Err(Broken::Upstream);
                }
                self.end_upstream();
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Ok([])) => {
                self.end_upstream();
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Ok(bytes)) => {
                let now = clock::now();
                self.note(Side::Upstream, bytes.len(), now);
                let sent = self.send_down(context, &mut ends.client, bytes, write);
                sent.map(Poll::Ready).map_err(|_| Broken::Client)
            }
        })
    }

    /// Notes the end of what the upstream sends.
    fn end_upstream(&mut self) {
        self.session.on_end(Side::Upstream);
        if self.session.is_closing() { self.down.finish() } else { self.down.end() }
    }

    /// Sends bytes of the upstream to the client, with what the session inserts between two messages in them.
    fn send_down(
        &mut self,
        context: &mut Context<'_>,
        client: &mut TunnelClient,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        let boundary = self.follow_upstream(bytes);
        if self.session.is_closing() {
            // The client has the Close, behind which nothing may stand.
            return Ok(());
        }
        let now = clock::now();
        let Some((at, insertion)) = boundary.and_then(|at| Some((at, self.session.insertion(now)?))) else {
            return self.down.send(context, client, bytes);
        };
        let (before, behind) = bytes.split_at(at.min(bytes.len()));
        out.clear();
        out.extend_from_slice(before);
        out.extend_from_slice(&self.inserted(insertion, now));
        if insertion == Insertion::Ping {
            out.extend_from_slice(behind);
        }
        self.down.send(context, client, out)
    }

    /// Follows the frames of the upstream; returns the last boundary between two messages in `bytes`.
    fn follow_upstream(&mut self, bytes: &[u8]) -> Option<usize> {
        let frames = self.frames.as_mut()?;
        let followed = frames.down.follow(bytes);
        self.record.events.fetch_add(u64::from(followed.messages), Ordering::Relaxed);
        if frames.down.has_closed() {
            self.session.on_close(Side::Upstream);
        }
        followed.boundary
    }

    /// Writes what waits for the upstream, then reads the client once. `Ready` when something moved.
    fn poll_up(&mut self, context: &mut Context<'_>, ends: &mut Ends) -> Result<Poll<()>, Broken> {
        let was_ending = self.up.state() == FlowState::Ending;
        match self.up.poll_drain(context, &mut ends.upstream) {
            Poll::Ready(Ok(())) => {}
            // What the upstream has sent before it closed is still to be read.
            Poll::Ready(Err(_)) => self.up.abandon(),
            Poll::Pending => return Ok(Poll::Pending),
        }
        if self.up.state() == FlowState::Over {
            return Ok(if was_ending { Poll::Ready(()) } else { Poll::Pending });
        }
        scratch::with(|Scratch { read, write }| match ends.client.poll_read(context, read) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Err(_)) if !self.session.is_closing() => Err(Broken::Client),
            Poll::Ready(Err(_) | Ok([])) => {
                self.end_client();
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Ok(bytes)) => {
                self.note(Side::Client, bytes.len(), clock::now());
                let passed = self.pass_client(bytes, write);
                // What the upstream has sent before it closed is still to be read.
                if self.up.send(context, &mut ends.upstream, passed).is_err() {
                    self.up.abandon();
                }
                if self.frames.as_ref().is_some_and(|frames| frames.up.has_ended()) {
                    self.end_client();
                }
                Ok(Poll::Ready(()))
            }
        })
    }

    /// Returns those bytes of the client that go to the upstream.
    fn pass_client<'b>(&mut self, bytes: &'b [u8], out: &'b mut Vec<u8>) -> &'b [u8] {
        let Some(frames) = self.frames.as_mut() else { return bytes };
        let closes = if self.session.is_closing() { CloseFrames::End } else { CloseFrames::Pass };
        let passed = frames.up.pass(bytes, closes, out);
        if closes == CloseFrames::Pass && frames.up.follower().has_closed() {
            self.session.on_close(Side::Client);
        }
        passed
    }

    /// Notes the end of what the client sends: of its connection, or its answer to a Close.
    fn end_client(&mut self) {
        self.session.on_end(Side::Client);
        if self.session.is_closing() { self.close_upstream() } else { self.up.end() }
    }

    /// Says the Close to the upstream, unless a frame of the client is incomplete, or its own Close went there.
    fn close_upstream(&mut self) {
        let Some(frames) = &self.frames else { return };
        let (position, is_answer) = (frames.up.follower(), frames.up.has_ended());
        if self.up.state() == FlowState::Open {
            if is_answer || (position.is_between_frames() && !position.has_closed()) {
                self.up.append(&close_for_endpoint());
            }
            self.up.finish();
        }
    }

    /// Counts bytes that came.
    fn note(&mut self, side: Side, count: usize, now: Millis) {
        if count == 0 {
            return;
        }
        self.session.on_bytes(side, now);
        self.record.set_last_event(now);
        let (record, count) = (&self.record, u64::try_from(count).unwrap_or(0));
        let metrics = &record.route.service.metrics;
        match (side, &record.upgrade) {
            (Side::Upstream, _) => {
                record.bytes.fetch_add(count, Ordering::Relaxed);
                metrics.upgrade_bytes.add(count);
            }
            (Side::Client, Some(upgrade)) => {
                upgrade.received.fetch_add(count, Ordering::Relaxed);
                metrics.upgrade_received_bytes.add(count);
            }
            (Side::Client, None) => {}
        }
    }

    /// Appends a frame of the proxy to what goes to the client.
    fn insert(&mut self, insertion: Insertion, now: Millis) {
        let frame = self.inserted(insertion, now);
        self.down.append(&frame);
    }

    /// Returns a frame of the proxy, which is inserted now.
    fn inserted(&mut self, insertion: Insertion, now: Millis) -> Vec<u8> {
        self.session.on_inserted(insertion, now);
        match insertion {
            Insertion::Ping => self.frames.as_mut().map(|frames| frames.ping()).unwrap_or_default(),
            Insertion::Close(cause) => {
                let order = self.record.drain().order();
                if order.is_some_and(|order| order.budget_use == BudgetUse::Free) {
                    self.record.inbox().charge();
                }
                close_for_client(cause, &self.record.route.service.configuration.websocket)
            }
        }
    }

    /// Does what is due, and sets the timer for what comes next. `Ready` when the connection is over.
    fn poll_time(&mut self, context: &mut Context<'_>, ends: &mut Ends) -> Poll<Finished> {
        let now = clock::now();
        if self.is_between_messages()
            && let Some(insertion) = self.session.insertion(now)
        {
            self.insert(insertion, now);
            // Registers the waker if the client does not take it at once; an error is what the next turn finds.
            if let Poll::Ready(Err(_)) = self.down.poll_drain(context, &mut ends.client) {
                context.waker().wake_by_ref();
            }
        }
        if let Some(end) = self.session.end(now) {
            return Poll::Ready(self.end(context, end, ends));
        }
        if let Some(due) = self.session.due(now) {
            self.timer.wake_by(context, due, now);
        }
        Poll::Pending
    }

    /// Ends the connection as the session has decided. The upstream gets its Close, if it takes that at once.
    fn end(&mut self, context: &mut Context<'_>, end: End, ends: &mut Ends) -> Finished {
        if !self.up.holds_bytes() {
            self.close_upstream();
        }
        if let Poll::Ready(Err(error)) = self.up.poll_drain(context, &mut ends.upstream) {
            tracing::trace!(%error, "the upstream closed first");
        }
        let is_forced = end.manner == Manner::Cut || self.down.holds_bytes();
        let reason = match end.cause {
            Cause::Drain | Cause::Withdrawn => CloseReason::Drain,
            Cause::Shutdown => CloseReason::Shutdown,
            Cause::Idle => CloseReason::Idle,
            Cause::Vanished => CloseReason::Client,
            Cause::HalfClosed => self.first_end(),
        };
        let failure = (end.cause == Cause::Vanished).then_some(Failure::Vanished);
        Finished { forced: is_forced, failure, ..finished(reason) }
    }

    /// Ends a connection that broke.
    fn break_off(&mut self, broken: Broken) -> Finished {
        self.broken = Some(broken);
        match broken {
            Broken::Client => finished(CloseReason::Client),
            Broken::Upstream => {
                let failure = Some(Failure::Upstream(podpin_sse::session::Fault::Reset));
                Finished { failure, ..finished(CloseReason::UpstreamReset) }
            }
        }
    }
}

/// Returns the end of a connection for this reason.
fn finished(reason: CloseReason) -> Finished {
    Finished { reason, ..Finished::client_gone() }
}

impl Future for Relay {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Finished> {
        let finished = ready!(self.turn(context));
        // Only a WebSocket has a word for its end: in any other protocol a break would look like one.
        let broken = self.broken.filter(|_| self.frames.is_none());
        if let Some(ends) = self.ends.take() {
            ends.close(broken);
        }
        Poll::Ready(finished)
    }
}
