//! Relay of one stream: moves bytes from the upstream to the client, reports to its [`Session`] and obeys it.
//!
//! A hand-written future, so that an idle stream costs its two sockets, one timer and this struct. Bytes are read into a
//! buffer of the worker thread, framed into a second one and written at once; the stream itself owns memory only while an
//! event is incomplete or the client does not take what is there. Then the relay stops reading, so a slow client holds back
//! its upstream and not our memory.
//!
//! ```text
//!  upstream ──▶ UpstreamReader ──▶ Body ──▶ ClientWriter ──▶ client
//!                    │ end         │ events       │ taken, blocked, gone
//!                    ▼             ▼              ▼
//!  order to leave ─▶ Session ── Step: keep-alive, open a successor, swap, stay, finish, close
//! ```
//!
//! When a stream ends or moves is decided by the session alone. What the relay adds is the order of one turn: orders, the
//! successor's answer, the client, the upstream, then time.

mod client;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use podpin_drain::{BudgetUse, Cause, Departure, DrainMember};
use podpin_endpoints::Phase;
use podpin_sse::session::{
    Action, Answer, Client, Close, Farewell, Held, LeaveOrder, ResumePoint, Session, Standing, Step, Target,
    Upstream, UpstreamEnd,
};
use podpin_sse::{KEEP_ALIVE, retry_line};
use podpin_time::Millis;
use podpin_wire::http1::encode::CHUNK_PREFIX_BYTES;
use podpin_wire::trailers;

use crate::balance::retry::Occasion;
use crate::clock;
use crate::net::scratch::{self, Scratch};
use crate::stream::account::{Finished, Permits};
use crate::stream::body::{Body, Decoded};
use crate::stream::client_writer::ClientWriter;
use crate::stream::handover::{self, HandoverDriver, ResumeFrom, SuccessorTarget, Takeover};
use crate::stream::start::Start;
use crate::stream::timer::Timer;
use crate::stream::upload::RequestRest;
use crate::stream::upstream_reader::UpstreamReader;
use crate::stream_registry::{StreamRecord, StreamRegistry};

/// Number of reads in one turn before other streams of the worker get theirs.
const READS_A_TURN: usize = 4;

/// Stream between one client and one upstream.
pub(crate) struct Relay {
    client: ClientWriter,
    upstream: UpstreamReader,
    body: Body,
    session: Session,
    streams: Arc<StreamRegistry>,
    record: Arc<StreamRecord>,
    /// Places that it holds until it ends.
    permits: Option<Permits>,
    /// Rest of the request; `None` if all of it was sent.
    request: Option<Box<RequestRest>>,
    /// Handovers; `None` if the stream stays at one endpoint.
    handover: Option<Box<HandoverDriver>>,
    timer: Timer,
}

impl Relay {
    /// Returns the relay of a stream whose response begins.
    pub(crate) fn new(start: Start) -> Relay {
        let now = clock::now();
        let mut relay = Relay {
            client: ClientWriter::new(start.downstream, start.head),
            upstream: start.upstream,
            body: start.body,
            session: Session::new(&start.settings, fastrand::f64(), now),
            streams: start.streams,
            record: start.record,
            permits: start.permits,
            request: start.request,
            handover: start.handover,
            timer: Timer::new(now),
        };
        if relay.upstream.is_empty() {
            // A response without a body is whole, whatever becomes of its endpoint.
            let upstream = Upstream { standing: Standing::Serving, resume: ResumePoint::Unknown };
            let step = relay.session.on_upstream_end(UpstreamEnd::Clean, upstream, now);
            if let Action::Finish(farewell) = step.action {
                relay.finish(farewell);
            }
        }
        relay.note_departure();
        relay
    }

    /// Notes how the stream would leave its endpoint now.
    fn note_departure(&self) {
        let may_move = self.session.may_move(self.body.resume_point());
        self.record.set_departure(match self.session.is_resumable() {
            _ if may_move => Departure::Handover,
            true => Departure::Goodbye,
            false => Departure::Cut,
        });
    }

    /// Takes out the places, to be given back.
    pub(crate) fn take_permits(&mut self) -> Option<Permits> {
        self.permits.take()
    }

    /// Does everything that can be done now. `Ready` when the stream is over.
    fn turn(&mut self, context: &mut Context<'_>) -> Poll<Close> {
        self.poll_order(context);
        if let Some(close) = self.poll_inquiry(context).or_else(|| self.poll_request(context)) {
            return Poll::Ready(close);
        }
        for _ in 0..READS_A_TURN {
            self.poll_successor(context);
            if let Some(close) = self.poll_client(context) {
                return Poll::Ready(close);
            }
            if !self.session.reads_upstream() {
                return self.poll_time(context);
            }
            match self.poll_upstream(context) {
                Poll::Ready(None) => {}
                Poll::Ready(Some(end)) => self.end_upstream(end),
                Poll::Pending => return self.poll_time(context),
            }
        }
        context.waker().wake_by_ref();
        self.poll_time(context)
    }

    /// Looks whether the stream has to leave.
    fn poll_order(&mut self, context: &Context<'_>) {
        let has_order = self.record.drain().poll(context).is_some();
        if has_order
            && self.session.takes_orders()
            && let Some(order) = self.record.drain().order()
        {
            let cause = self.record.leave_cause(order.cause);
            let (at, by, deadline) = (order.at, order.by, order.deadline);
            let already_charged = order.budget_use == BudgetUse::Charged;
            self.session.on_order(LeaveOrder { at, by, deadline, cause, already_charged });
        }
    }

    /// Looks whether the successor that is being opened has answered, and how long the proxy itself is still there.
    fn poll_successor(&mut self, context: &mut Context<'_>) {
        if !self.session.is_moving() {
            return;
        }
        if let Some(times) = self.streams.shutdown_times() {
            self.session.on_shutdown(times.begins.after(times.spread).min(times.deadline));
        }
        // An answer may make another request begin, which has to be polled for its waker.
        while let Some(answer) = self.handover.as_mut().and_then(|handover| handover.poll(context)) {
            if matches!(answer, Answer::EventStream(_)) && self.knows_more() {
                self.open_successor(Target::Chosen);
                continue;
            }
            let now = clock::now();
            let step = self.session.on_answer(answer, self.body.resume_point(), now);
            self.finish_held(step.action);
            self.obey(step, now);
        }
        self.poll_both(context);
    }

    /// Reads the successor beside the old upstream, until both have sent the same event.
    fn poll_both(&mut self, context: &mut Context<'_>) {
        // Within an event the stream stays where it is.
        if !self.session.is_overlapping() || self.body.resume_point() != ResumePoint::Overlap {
            return;
        }
        let met = self.handover.as_mut().map_or(Poll::Pending, |handover| handover.poll_both(context));
        let Poll::Ready(met) = met else { return };
        let now = clock::now();
        let step = self.session.on_meeting(met, now);
        self.obey(step, now);
    }

    /// Whether the successor was to begin at the present moment, and the client has seen an id since: from there on nothing
    /// may be missing.
    fn knows_more(&self) -> bool {
        let resumes = self.handover.as_ref().is_some_and(|handover| handover.resumes());
        !resumes && self.body.resume_point() == ResumePoint::Known && self.body.last_event_id().is_some()
    }

    /// Reads once and forwards what became whole. `Ready` when something happened; the end of the body, if that is it.
    fn poll_upstream(&mut self, context: &mut Context<'_>) -> Poll<Option<UpstreamEnd>> {
        scratch::with(|Scratch { read, write }| {
            let mut early = self.upstream.take_early();
            if !early.is_empty() {
                if self.body.awaits_replay() {
                    // A replay is judged by all that is there of it; what came with the head may be its first bit only.
                    self.upstream.read_along(context, &mut early, read);
                }
                return Poll::Ready(self.absorb(context, &early, write));
            }
            match ready!(self.upstream.poll_read(context, read)) {
                Ok(bytes) => Poll::Ready(self.absorb(context, bytes, write)),
                Err(end) => Poll::Ready(Some(end)),
            }
        })
    }

    /// Decodes, counts and sends one read's worth of bytes. Returns the end of the body, if that is it.
    fn absorb(&mut self, context: &mut Context<'_>, bytes: &[u8], out: &mut Vec<u8>) -> Option<UpstreamEnd> {
        let now = clock::now();
        self.session.on_read(now);
        out.clear();
        out.resize(CHUNK_PREFIX_BYTES, 0);
        let mut decoded = self.body.decode(&mut self.upstream.decoder, bytes, out);
        if let Some(handover) = &mut self.handover {
            decoded.drop_events(handover.pass(out, CHUNK_PREFIX_BYTES));
        }
        self.session.on_held(self.body.held(), now);
        self.forward(context, &decoded, out, now);
        if !decoded.trailers.is_empty() {
            // Fields that HTTP does not allow there are of no use to a client that has all events.
            self.client.set_trailers(trailers::passed(&decoded.trailers).unwrap_or_default());
        }
        decoded.end
    }

    /// Sends what became of some bytes, and counts it.
    fn forward(&mut self, context: &mut Context<'_>, decoded: &Decoded, out: &mut Vec<u8>, now: Millis) {
        if out.len() > CHUNK_PREFIX_BYTES {
            self.session.on_forwarded(decoded.events, decoded.position, now);
            self.send(context, out);
        }
        self.count(decoded, now);
    }

    /// Counts the events of one read.
    fn count(&mut self, decoded: &Decoded, now: Millis) {
        if !self.session.is_resumable() && self.body.last_event_id().is_some_and(|id| !id.is_empty()) {
            self.session.on_event_id();
        }
        decoded.count(&self.record, self.body.last_event_id(), now);
        self.note_departure();
    }

    /// Sends `out[CHUNK_PREFIX_BYTES..]`, and counts the bytes.
    fn send(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>) {
        let bytes = u64::try_from(out.len().saturating_sub(CHUNK_PREFIX_BYTES)).unwrap_or(0);
        self.record.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.record.route.service.metrics.stream_bytes.add(bytes);
        if self.client.send(context, out) == Client::Blocked {
            // A client that blocks never ends its stream here; one that left is noticed by the next flush.
            let _still_open = self.session.on_client(Client::Blocked);
        }
    }

    /// Reports the end of the upstream's body.
    fn end_upstream(&mut self, end: UpstreamEnd) {
        let now = clock::now();
        let end = self.upstream.judge_end(end, self.body.is_within_event());
        let step = self.session.on_upstream_end(end, self.standing(), now);
        if end == UpstreamEnd::Clean {
            self.upstream.close();
            self.finish_held(step.action);
        }
        self.obey(step, now);
    }

    /// Adds what is held back behind a body that ended cleanly: no event to a browser, but the last line of many a server that
    /// ends its stream without an empty one.
    fn finish_held(&mut self, action: Action) {
        if self.upstream.is_closed() && action == Action::Finish(Farewell::Clean) {
            self.finish_undecided();
            self.client.append(&self.body.take_held());
        }
    }

    /// Adds events that may be history, but nothing has shown that.
    fn finish_undecided(&mut self) {
        if self.body.held() == Held::Undecided {
            let mut rest = Vec::new();
            let passed = self.body.pass_held(&mut rest);
            self.client.append(&rest);
            self.count(&passed, clock::now());
        }
    }

    /// Does what is due, and sets the timer for what comes next. `Ready` when the stream is over.
    fn poll_time(&mut self, context: &mut Context<'_>) -> Poll<Close> {
        while let Some(due) = self.session.due() {
            let now = clock::now();
            if due > now {
                self.timer.wake_by(context, due, now);
                break;
            }
            let step = self.session.on_time(self.standing(), now);
            match step.action {
                Action::Close(close) => return Poll::Ready(close),
                Action::KeepAlive => self.keep_alive(context),
                Action::PassHeld => self.pass_held(context, now),
                _ => self.obey(step, now),
            }
            // A request that was begun just now has to be polled, so that it registers the waker.
            self.poll_successor(context);
            if let Some(close) = self.poll_client(context) {
                return Poll::Ready(close);
            }
        }
        Poll::Pending
    }

    /// Returns the endpoint as discovery and the body show it now.
    fn standing(&self) -> Upstream {
        let phase = self.record.endpoint_phase();
        let standing = if phase < Phase::Draining { Standing::Serving } else { Standing::Leaving };
        Upstream { standing, resume: self.body.resume_point() }
    }

    /// Does what the session says.
    fn obey(&mut self, step: Step, now: Millis) {
        if let Some(report) = &step.report {
            handover::count(&self.record, report);
        }
        if step.charges_budget {
            self.record.inbox().charge();
        }
        match step.action {
            // Those that need the task's context come from `Session::on_time` only, see `poll_time`.
            Action::Continue | Action::KeepAlive | Action::PassHeld | Action::Close(_) => {}
            Action::Open { target } => self.open_successor(target),
            Action::Overlap => {
                if let Some(handover) = &mut self.handover {
                    handover.read_both();
                }
            }
            Action::Swap => self.swap(now),
            Action::Stay => {
                self.body.stay();
                self.note_departure();
                self.streams.stayed(&self.record);
            }
            Action::Finish(farewell) => self.finish(farewell),
        }
        if !self.session.has_upstream() {
            self.upstream.close();
        }
        if !self.session.wants_successor()
            && let Some(handover) = &mut self.handover
        {
            handover.cancel();
        }
    }

    /// Sends a comment.
    fn keep_alive(&mut self, context: &mut Context<'_>) {
        self.record.route.service.metrics.stream_keepalives.add(1);
        scratch::with(|Scratch { write, .. }| {
            write.clear();
            write.resize(CHUNK_PREFIX_BYTES, 0);
            write.extend_from_slice(KEEP_ALIVE);
            self.send(context, write);
        });
    }

    /// Sends what is held back.
    fn pass_held(&mut self, context: &mut Context<'_>, now: Millis) {
        scratch::with(|Scratch { write, .. }| {
            write.clear();
            write.resize(CHUNK_PREFIX_BYTES, 0);
            let passed = self.body.pass_held(write);
            if let Some(handover) = &mut self.handover {
                handover.pass(write, CHUNK_PREFIX_BYTES);
            }
            self.forward(context, &passed, write, now);
        });
    }

    /// Adds the last bytes of the stream.
    fn finish(&mut self, farewell: Farewell) {
        if farewell != Farewell::Broken {
            self.finish_undecided();
        }
        let is_shutdown = || self.record.drain().order().is_some_and(|order| order.cause == Cause::Shutdown);
        match farewell {
            Farewell::Goodbye if is_shutdown() => self.say_retry(Occasion::Shutdown),
            Farewell::Goodbye => self.say_retry(Occasion::Goodbye),
            Farewell::BrokenGoodbye => self.say_retry(Occasion::Break),
            Farewell::Clean | Farewell::Broken => {}
        }
        if farewell == Farewell::Goodbye {
            self.client.set_trailers(HeaderMap::new());
        }
        if matches!(farewell, Farewell::Goodbye | Farewell::Clean) {
            self.client.append_end();
        }
    }

    /// Adds a drawn reconnection time, if one may be written and the client does not know it.
    fn say_retry(&mut self, occasion: Occasion) {
        if self.session.tells_retry()
            && let Some(retry) = self.record.route.service.retry_millis(occasion)
            && self.body.told_retry() != Some(retry)
        {
            self.client.append(retry_line(retry).as_bytes());
        }
    }

    /// Requests a successor.
    fn open_successor(&mut self, target: Target) {
        let Some(handover) = &mut self.handover else { return };
        let target = SuccessorTarget::of(target, &self.record, self.session.has_upstream());
        let last_event_id = self.body.begin_handover();
        let resume = ResumeFrom { last_event_id, known: self.body.known_ids() };
        handover.begin(&self.record.route, resume, target);
    }

    /// Continues at the successor: its body begins at a boundary, and its replay is dropped.
    fn swap(&mut self, now: Millis) {
        let is_flowing = !self.upstream.is_closed();
        let Some(Takeover { endpoint, permit, upstream, first, join }) =
            self.handover.as_mut().and_then(|handover| handover.take_successor(&mut self.body, is_flowing))
        else {
            return;
        };
        self.record.route.service.metrics.handover_joins.inc(join);
        tracing::debug!(stream = self.record.id, to = %endpoint.name, "handed over");
        tracing::Span::current().record("endpoint", &*endpoint.name);
        self.upstream.close();
        self.upstream = upstream;
        self.client.set_trailers(HeaderMap::new());
        if let Some(permits) = &mut self.permits {
            permits.move_to(permit);
        }
        self.append_first(&first, now);
        // First the record, then the registry, which looks at the endpoint that the stream runs on.
        let from = self.record.move_to(endpoint);
        self.note_departure();
        self.streams.moved(&self.record, from, now);
    }

    /// Adds what a successor sent while it was read beside the old upstream.
    fn append_first(&mut self, bytes: &[u8], now: Millis) {
        if bytes.is_empty() {
            return;
        }
        let mut out = Vec::new();
        let mut pushed = self.body.push(bytes, &mut out);
        if let Some(handover) = &mut self.handover {
            pushed.drop_events(handover.pass(&mut out, 0));
        }
        self.client.append(&out);
        self.session.on_held(self.body.held(), now);
        self.session.on_forwarded(pushed.events, pushed.position, now);
        self.count(&pushed, now);
    }

    /// Closes both sides.
    fn close(&mut self, close: Close) -> Finished {
        self.upstream.close();
        let client = self.client.close(close.body);
        let finished = Finished { client, ..Finished::of(close, self.record.first_event()) };
        let broken = self.request.take().and_then(|request| request.failure());
        Finished { failure: broken.or(finished.failure), ..finished }
    }
}

impl Future for Relay {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Finished> {
        let close = ready!(self.turn(context));
        Poll::Ready(self.close(close))
    }
}

#[cfg(test)]
mod tests {
    use podpin_affinity::SessionId;
    use podpin_drain::{DrainState, Mobility};
    use podpin_sse::Framer;
    use podpin_sse::session::{Content, Fault, Settings};
    use podpin_wire::http1::body::{BodyDecoder, FIRST_CHUNK};
    use podpin_wire::http1::encode::Framing;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::balance::service::Operation;
    use crate::downstream::body::Downstream;
    use crate::net::transport::Transport;
    use crate::stream::account::Failure;
    use crate::stream::handover::limits;
    use crate::telemetry::labels::CloseReason;
    use crate::testing::{Scene, connected, http1_side, nowhere};

    /// Relay on `a`, with the upstream's and the client's end.
    struct Line {
        relay: Relay,
        upstream: TcpStream,
        client: TcpStream,
    }

    impl Line {
        async fn new(scene: &Scene, decoder: BodyDecoder, body: Body) -> Line {
            let ((upstream, from), (client, to)) = (connected().await, connected().await);
            let (shared, record) = (&scene.shared, scene.open("a", Mobility::Rebalances));
            let moves = matches!(&body, Body::Events(_));
            let head = b"GET / HTTP/1.1\r\nhost: x\r\n";
            let driver = || HandoverDriver::new(Arc::clone(shared), SessionId::from_bytes([1; 16]), head);
            let settings = Settings {
                content: if moves { Content::Events } else { Content::Encoded },
                tells_retry: true,
                handover: moves.then(|| limits(&scene.route.service.configuration)),
                ..Settings::default()
            };
            let mut side = http1_side(to);
            side.framing = Framing::Chunked;
            let relay = Relay::new(Start {
                downstream: Downstream::H1(side),
                head: b"HEAD\r\n\r\n".to_vec(),
                upstream: UpstreamReader::new(Transport::Plain(from), decoder, Vec::new()),
                body,
                settings,
                streams: Arc::clone(&shared.streams),
                record,
                permits: None,
                request: None,
                handover: moves.then(|| Box::new(driver())),
            });
            Line { relay, upstream, client }
        }

        async fn events(scene: &Scene) -> Line {
            let body = Body::Events(Framer::with_cursor(1_024, 64));
            Line::new(scene, BodyDecoder::Chunked(FIRST_CHUNK), body).await
        }

        /// Runs the relay to its end. Returns that, and everything that the client read.
        async fn finish(self) -> (Finished, String) {
            let Line { relay, upstream, mut client } = self;
            let mut finished = relay.await;
            drop((finished.client.take(), upstream));
            let mut read = String::new();
            client.read_to_string(&mut read).await.unwrap();
            (finished, read)
        }
    }

    fn scene() -> Scene {
        // While no other endpoint is ready, departures wait.
        Scene::new(&[("a", nowhere()), ("b", nowhere())])
    }

    fn chunk(text: &str) -> Vec<u8> {
        format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
    }

    /// Reads from the client's end until `text` has come.
    async fn expect(client: &mut TcpStream, text: &str) -> String {
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(text) {
            assert!(client.read_buf(&mut read).await.unwrap() > 0, "the body ended: {read:?}");
        }
        String::from_utf8(read).unwrap()
    }

    #[tokio::test]
    async fn events_pass_and_a_clean_end_is_a_clean_end() {
        let scene = scene();
        let mut line = Line::events(&scene).await;
        let record = Arc::clone(&line.relay.record);
        line.upstream.write_all(&chunk("id: 1\ndata: a\n\n")).await.unwrap();
        line.upstream.write_all(b"0\r\n\r\n").await.unwrap();
        let (finished, read) = line.finish().await;
        assert_eq!((finished.reason, finished.failure), (CloseReason::UpstreamEnd, None));
        assert!(finished.first_event.is_some());
        assert!(read.starts_with("HEAD\r\n\r\n") && read.contains("data: a\n\n"), "{read}");
        assert!(read.ends_with("0\r\n\r\n"), "{read}");
        assert_eq!((record.events.load(Ordering::Relaxed), record.last_event_id()), (1, b"1".to_vec()));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_has_no_end() {
        let scene = scene();
        let mut line = Line::new(&scene, BodyDecoder::Length(100), Body::Encoded).await;
        line.upstream.write_all(b"half").await.unwrap();
        line.upstream.shutdown().await.unwrap();
        let (finished, read) = line.finish().await;
        assert_eq!(finished.reason, CloseReason::UpstreamReset);
        assert_eq!(finished.failure, Some(Failure::Upstream(Fault::Truncated)));
        assert!(read.contains("half") && !read.ends_with("0\r\n\r\n"), "{read}");
    }

    #[tokio::test]
    async fn a_response_without_a_body_is_over_at_once() {
        let scene = scene();
        let (finished, read) = Line::new(&scene, BodyDecoder::Done, Body::Encoded).await.finish().await;
        assert_eq!((finished.reason, &*read), (CloseReason::UpstreamEnd, "HEAD\r\n\r\n0\r\n\r\n"));
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_its_stream() {
        let scene = scene();
        let Line { relay, upstream, client } = Line::events(&scene).await;
        drop(client);
        assert_eq!(relay.await.reason, CloseReason::Client);
        drop(upstream);
    }

    #[tokio::test]
    async fn a_stream_without_an_id_leaves_with_a_goodbye() {
        let mut scene = scene();
        let mut line = Line::events(&scene).await;
        line.upstream.write_all(&chunk("data: a\n\n")).await.unwrap();
        scene.operate("a", Operation::Drain);
        let (record, mut client) = (Arc::clone(&line.relay.record), line.client);
        let script = async {
            let read = expect(&mut client, "data: a\n\n").await;
            scene.order_to_leave(&record);
            let mut rest = String::new();
            client.read_to_string(&mut rest).await.unwrap();
            read + &rest
        };
        let relay = async {
            let mut finished = line.relay.await;
            drop(finished.client.take());
            finished
        };
        let (finished, read) = tokio::join!(relay, script);
        assert_eq!((finished.reason, finished.forced), (CloseReason::Drain, false));
        assert!(read.contains("retry: ") && read.ends_with("0\r\n\r\n"), "{read}");
    }

    #[tokio::test]
    async fn a_stream_stays_whose_drain_was_taken_back() {
        let mut scene = scene();
        let Line { mut relay, upstream, client } = Line::events(&scene).await;
        scene.operate("a", Operation::Drain);
        scene.order_to_leave(&relay.record);
        scene.operate("a", Operation::Undrain);
        let record = Arc::clone(&relay.record);
        std::future::poll_fn(|context| {
            assert!(Pin::new(&mut relay).poll(context).is_pending());
            if record.drain().state() == DrainState::Staying { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        drop((upstream, client));
    }

    #[tokio::test]
    async fn a_stream_goes_on_at_a_successor_without_what_the_client_has() {
        let successors = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut scene = Scene::new(&[("a", nowhere()), ("b", successors.local_addr().unwrap())]);
        let Line { relay, mut upstream, mut client } = Line::events(&scene).await;
        let record = Arc::clone(&relay.record);
        let relay = async { relay.await.reason };
        let script = async {
            upstream.write_all(&chunk("id: 1\ndata: a\n\n")).await.unwrap();
            expect(&mut client, "data: a\n\n").await;
            scene.operate("a", Operation::Drain);
            scene.order_to_leave(&record);
            let (mut successor, _) = successors.accept().await.unwrap();
            let request = expect(&mut successor, "\r\n\r\n").await;
            assert!(request.to_lowercase().contains("last-event-id: 1\r\n"), "{request}");
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            successor.write_all(head.as_bytes()).await.unwrap();
            successor.write_all(&chunk("id: 1\ndata: a\n\nid: 2\ndata: b\n\n")).await.unwrap();
            let read = expect(&mut client, "data: b\n\n").await;
            assert!(!read.contains("data: a"), "{read}");
            assert_eq!((&*record.endpoint().name, record.handovers()), ("b", 1));
            assert_eq!(record.drain().state(), DrainState::Staying);
            drop(client);
        };
        let (reason, ()) = tokio::join!(relay, script);
        assert_eq!(reason, CloseReason::Client);
    }
}
