//! An HTTP/2 connection: the socket, the protocol's state, and the streams on it.
//!
//! One task drives the socket; each stream has a task of its own. All of them run on one thread and meet here, so the lock
//! is never waited for. A stream appends frames to the connection's output and wakes the driver, which writes once what
//! all streams appended in one turn: one write, one TLS record. An idle connection owns no buffer: input is read into the
//! thread's, and output is lent by the thread while it is not empty.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use parking_lot::{Mutex, MutexGuard};
use podpin_config::CertificatePart;
use podpin_h2::{
    Closed, Config, Connection, End, ErrorCode, Event, FRAME_HEAD_BYTES, Head, Refusal, StreamId, StreamMut,
    Trust,
};
use podpin_time::Millis;
use podpin_wire::client::ClientCertificate;
use podpin_wire::http1::request_head::HeadError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::clock;
use crate::downstream::http2_stream_state::{RequestProgress, StreamState, register};
use crate::http::reply::ErrorReply;
use crate::net::scratch::{self, Scratch};
use crate::net::transport::Transport;

/// Number of reads in one turn before other tasks of the worker get theirs.
const READS_A_TURN: usize = 4;

/// Number of frames in one write of a large piece: four make 64 KiB, which is what one read brings.
const FRAMES_A_WRITE: usize = 4;

/// An HTTP/2 connection, shared by the task that drives it and the tasks of its streams.
pub(crate) struct Http2Connection(Mutex<State>);

/// A request that a client has opened a stream for.
pub(crate) struct Arrival {
    /// Stream that carries the response; it is open until an `Http2Stream` of this number is dropped.
    pub stream: StreamId,
    /// Request head, or the reason why it is refused.
    pub head: Result<Box<Head>, HeadError>,
}

/// Something that the driver has to act on.
pub(crate) enum Progress {
    /// New requests.
    Arrivals(Vec<Arrival>),
    /// End of the connection; `None` if its socket ended, or nothing more will happen on it.
    Ended(Option<Closed>),
}

/// The rest of a connection that has ended.
pub(crate) struct Remainder {
    /// Connection itself.
    pub transport: Transport,
    /// Bytes still to be written, a GOAWAY among them.
    pub output: Vec<u8>,
}

/// The state behind the lock.
pub(crate) struct State {
    protocol: Connection,
    /// Socket; `None` if the connection has ended.
    transport: Option<Transport>,
    /// Frames that the socket has not taken.
    output: Vec<u8>,
    /// Bytes that were read before the connection was known to be HTTP/2.
    ahead: BytesMut,
    /// Streams with a task, by rising number.
    streams: Vec<StreamState>,
    driver: Option<Waker>,
}

impl Http2Connection {
    /// Begins a connection whose first bytes are `ahead`.
    pub(crate) fn new(
        transport: Transport,
        ahead: BytesMut,
        config: Arc<Config>,
        trust: Trust,
    ) -> Arc<Http2Connection> {
        let mut output = scratch::buffer();
        let protocol = Connection::accept(config, trust, clock::now(), &mut output);
        let (streams, driver) = (Vec::new(), None);
        let transport = Some(transport);
        Arc::new(Http2Connection(Mutex::new(State { protocol, transport, output, ahead, streams, driver })))
    }

    /// Locks the state; tasks of one thread never wait for each other here.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Writes, reads, and does what is due, under the bounds of `config`; `Ready` if there is something for the driver.
    pub(crate) fn poll(
        self: &Arc<Self>,
        context: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        config: &Arc<Config>,
    ) -> Poll<Progress> {
        let mut arrivals = Vec::new();
        let state = &mut *self.lock();
        register(&mut state.driver, context);
        state.protocol.reconfigure(config);
        let mut reads = 0;
        loop {
            if state.poll_write(context).is_err() {
                state.lose();
                return Poll::Ready(Progress::Ended(None));
            }
            state.wake_writers();
            if let Some(closed) = state.protocol.closed() {
                state.wake_all_gone();
                return Poll::Ready(Progress::Ended(Some(closed)));
            }
            if state.is_finished() {
                return Poll::Ready(Progress::Ended(None));
            }
            if reads == READS_A_TURN {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            match state.poll_read(context, &mut arrivals) {
                Poll::Ready(Ok(())) if arrivals.is_empty() => reads += 1,
                Poll::Ready(Ok(())) => return Poll::Ready(Progress::Arrivals(arrivals)),
                Poll::Ready(Err(_)) => {
                    state.lose();
                    return Poll::Ready(Progress::Ended(None));
                }
                // Something that was due may have to be written.
                Poll::Pending => ready!(state.poll_due(context, timer.as_mut())),
            }
        }
    }

    /// Begins the end: a GOAWAY, after which open streams go on.
    pub(crate) fn shut_down(&self) {
        self.lock().with_output(|protocol, now, output| protocol.shut_down(now, output));
    }

    /// Ends the connection at once, with all its streams; the GOAWAY is in the remainder.
    pub(crate) fn close(&self) {
        let state = &mut *self.lock();
        state.with_output(|protocol, now, output| protocol.close(ErrorCode::NO_ERROR, now, output));
        state.wake_all_gone();
    }

    /// Returns how many streams the client has opened.
    pub(crate) fn opened_streams(&self) -> u32 {
        self.lock().protocol.opened_streams()
    }

    /// Returns these parts of the client's certificate; `None` if it has shown none.
    pub(crate) fn certificate(&self, parts: &[CertificatePart]) -> Option<Box<ClientCertificate>> {
        self.lock().transport().and_then(|transport| transport.certificate(parts))
    }

    /// Takes out what is left of a connection that has ended; `None` if its socket is gone.
    pub(crate) fn take_remainder(&self) -> Option<Remainder> {
        let state = &mut *self.lock();
        let output = std::mem::take(&mut state.output);
        state.transport.take().map(|transport| Remainder { transport, output })
    }
}

impl State {
    /// Returns the socket; `None` if the connection has ended.
    pub(crate) fn transport(&self) -> Option<&Transport> {
        self.transport.as_ref()
    }

    /// Whether frames wait that the socket has not taken.
    pub(crate) fn holds_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Returns the connection's side of a stream that has a task.
    pub(crate) fn stream_state(&mut self, id: StreamId) -> Option<&mut StreamState> {
        let place = self.streams.binary_search_by_key(&id, |stream| stream.id).ok()?;
        self.streams.get_mut(place)
    }

    /// Lets `send` send on an open stream, and has the output written behind this turn; `None` if the stream is gone.
    pub(crate) fn send<T>(&mut self, id: StreamId, send: impl FnOnce(&mut StreamMut<'_>) -> T) -> Option<T> {
        let before = self.output.len();
        let sent = self.with_output(|protocol, now, output| {
            protocol.stream(id, now, output).map(|mut stream| send(&mut stream))
        });
        if self.output.len() > before {
            self.wake_driver();
        }
        sent
    }

    /// Sends what goes now of a large piece of a body, straight from where it stands: one write of the output before it,
    /// the heads of its frames, and the frames. Returns how much went; `None` if the stream is gone.
    pub(crate) fn send_large(&mut self, id: StreamId, bytes: &[u8]) -> Option<usize> {
        let mut heads = [[0; FRAME_HEAD_BYTES]; FRAMES_A_WRITE];
        let mut lengths = [0; FRAMES_A_WRITE];
        let (mut framed, mut frames) = (0, 0);
        while let (Some(head), Some(length)) = (heads.get_mut(frames), lengths.get_mut(frames))
            && let Some(rest) = bytes.get(framed..).filter(|rest| !rest.is_empty())
        {
            let mut stream = self.protocol.stream(id, clock::now(), &mut self.output)?;
            let frame = stream.frame(rest.len(), End::No).ok()?;
            if frame.payload == 0 {
                break;
            }
            (*head, *length) = (frame.head, frame.payload);
            framed += frame.payload;
            frames += 1;
        }
        let output = std::mem::take(&mut self.output);
        let mut slices = [IoSlice::new(&[]); 1 + 2 * FRAMES_A_WRITE];
        let mut payload = bytes.get(..framed).unwrap_or_default();
        let mut used = slices.iter_mut();
        *used.next()? = IoSlice::new(&output);
        for (head, length) in heads.iter().zip(lengths).take(frames) {
            let (frame, rest) = payload.split_at_checked(length)?;
            *used.next()? = IoSlice::new(head);
            *used.next()? = IoSlice::new(frame);
            payload = rest;
        }
        self.write_through(slices.get_mut(..=2 * frames).unwrap_or_default());
        scratch::give_back(output);
        if framed > 0 {
            // The driver has nothing to write, and would not come to give the next stream its turn.
            self.wake_writers();
        }
        Some(framed)
    }

    /// Writes these pieces; the output, which is empty, keeps what the socket does not take.
    fn write_through(&mut self, mut pieces: &mut [IoSlice<'_>]) {
        let waker = self.driver.as_ref().unwrap_or(Waker::noop());
        let mut context = Context::from_waker(waker);
        if let Some(transport) = &mut self.transport {
            // An error is left to the driver, which meets it as well.
            while !pieces.is_empty()
                && let Poll::Ready(Ok(count)) =
                    Pin::new(&mut *transport).poll_write_vectored(&mut context, pieces)
                && count > 0
            {
                IoSlice::advance_slices(&mut pieces, count);
            }
        }
        if !pieces.is_empty() {
            self.output = scratch::buffer();
            pieces.iter().for_each(|piece| self.output.extend_from_slice(piece));
        }
        if !self.output.is_empty() || self.transport.as_ref().is_some_and(Transport::holds_bytes) {
            self.wake_driver();
        }
    }

    /// Forgets the task of a stream. One that is still open is reset: behind a complete response the client need not send
    /// the rest of its request.
    pub(crate) fn release(&mut self, id: StreamId) {
        let Ok(place) = self.streams.binary_search_by_key(&id, |stream| stream.id) else { return };
        let code = match self.streams.remove(place).is_answered {
            true => ErrorCode::NO_ERROR,
            false => ErrorCode::INTERNAL_ERROR,
        };
        self.with_output(|protocol, now, output| {
            if let Some(stream) = protocol.stream(id, now, output) {
                stream.reset(code);
            }
        });
        // The last stream of a connection that shuts down ends it.
        self.wake_driver();
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Calls into the protocol with the output, which is a buffer of the thread as long as something is in it.
    fn with_output<T>(&mut self, call: impl FnOnce(&mut Connection, Millis, &mut Vec<u8>) -> T) -> T {
        self.lend_output();
        let result = call(&mut self.protocol, clock::now(), &mut self.output);
        self.take_back_output();
        result
    }

    fn lend_output(&mut self) {
        if self.output.capacity() == 0 {
            self.output = scratch::buffer();
        }
    }

    fn take_back_output(&mut self) {
        if self.output.is_empty() {
            scratch::give_back(std::mem::take(&mut self.output));
        }
    }

    /// Writes output until the socket takes no more.
    fn poll_write(&mut self, context: &mut Context<'_>) -> std::io::Result<()> {
        let Some(transport) = &mut self.transport else { return Ok(()) };
        let mut written = 0;
        while let Some(rest) = self.output.get(written..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut *transport).poll_write(context, rest) {
                Poll::Ready(Ok(count)) if count > 0 => written += count,
                Poll::Ready(Ok(_)) => return Err(std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        if written < self.output.len() {
            self.output.drain(..written);
        } else {
            scratch::give_back(std::mem::take(&mut self.output));
            if transport.holds_bytes()
                && let Poll::Ready(flushed) = Pin::new(transport).poll_flush(context)
            {
                flushed?;
            }
        }
        Ok(())
    }

    /// Wakes the streams that may send now.
    fn wake_writers(&mut self) {
        while let Some(id) = self.protocol.next_writer(self.output.len()) {
            match self.stream_state(id) {
                Some(stream) => stream.wake(),
                None => self.release(id),
            }
        }
    }

    /// Whether nothing more will happen, and everything is written.
    fn is_finished(&self) -> bool {
        let holds_bytes = self.transport.as_ref().is_some_and(Transport::holds_bytes);
        self.protocol.is_finished() && self.output.is_empty() && !holds_bytes
    }

    /// Reads once, and takes what that means. An error is the end of the socket.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        arrivals: &mut Vec<Arrival>,
    ) -> Poll<std::io::Result<()>> {
        if !self.protocol.wants_input(self.output.len()) {
            return Poll::Pending;
        }
        let ahead = std::mem::take(&mut self.ahead);
        if !ahead.is_empty() {
            self.receive(&ahead, arrivals);
            return Poll::Ready(Ok(()));
        }
        scratch::with(|Scratch { read, .. }| {
            let Some(transport) = &mut self.transport else { return Poll::Pending };
            let mut buffer = ReadBuf::new(read);
            ready!(Pin::new(transport).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(std::io::ErrorKind::UnexpectedEof.into()));
            }
            self.receive(buffer.filled(), arrivals);
            Poll::Ready(Ok(()))
        })
    }

    /// Takes input: new requests go to `arrivals`, everything else to its stream.
    fn receive(&mut self, mut input: &[u8], arrivals: &mut Vec<Arrival>) {
        self.lend_output();
        let now = clock::now();
        while let Some(event) = self.protocol.receive(now, &mut input, &mut self.output) {
            match event {
                Event::Request { stream, head, ends } => {
                    let request = if ends { RequestProgress::Complete } else { RequestProgress::Open };
                    self.streams.push(StreamState::new(stream, request));
                    arrivals.push(Arrival { stream, head: Ok(head) });
                }
                Event::Refused { stream, refusal } => match self.stream_state(stream) {
                    Some(state) => {
                        state.request = RequestProgress::Refused(body_refusal(refusal));
                        state.wake();
                    }
                    None => {
                        self.streams.push(StreamState::new(stream, RequestProgress::Complete));
                        arrivals.push(Arrival { stream, head: Err(head_refusal(refusal)) });
                    }
                },
                Event::Data { stream, bytes, ends } => self.receive_body(stream, bytes, ends),
                Event::Trailers { stream, trailers } => {
                    if let Some(state) = self.stream_state(stream) {
                        state.trailers = trailers.lines().to_vec();
                    }
                    self.receive_body(stream, &[], true);
                }
                Event::Reset { stream, .. } => {
                    if let Some(state) = self.stream_state(stream) {
                        state.is_gone = true;
                        state.wake();
                    }
                }
                Event::Closed(_) => return,
            }
        }
    }

    /// Keeps body bytes for the task of their stream; without one they are dropped, and their window is given back.
    fn receive_body(&mut self, id: StreamId, bytes: &[u8], ends: bool) {
        let Some(stream) = self.stream_state(id) else {
            self.send(id, |stream| stream.consumed(bytes.len()));
            return;
        };
        stream.body.extend_from_slice(bytes);
        if ends {
            stream.request = RequestProgress::Complete;
        }
        stream.wake();
    }

    /// Does what is due; `Pending` if nothing was.
    fn poll_due(&mut self, context: &mut Context<'_>, timer: Pin<&mut Sleep>) -> Poll<()> {
        let Some(due) = self.protocol.due() else { return Poll::Pending };
        ready!(clock::poll_until(due, context, timer));
        // An end is seen in the protocol's state.
        let _closed = self.with_output(|protocol, now, output| protocol.handle_timeout(now, output));
        Poll::Ready(())
    }

    /// Takes note that the socket is gone.
    fn lose(&mut self) {
        self.transport = None;
        self.output = Vec::new();
        self.wake_all_gone();
    }

    fn wake_all_gone(&mut self) {
        for stream in &mut self.streams {
            stream.is_gone = true;
            stream.wake();
        }
    }
}

fn head_refusal(refusal: Refusal) -> HeadError {
    match refusal {
        Refusal::Malformed(reason) => HeadError::Malformed(reason),
        Refusal::TooManyFields | Refusal::TooLarge => HeadError::TooLarge,
    }
}

/// Returns the reply to a request whose body or trailers break a rule.
fn body_refusal(refusal: Refusal) -> ErrorReply {
    match refusal {
        Refusal::Malformed(_) => ErrorReply::Body,
        Refusal::TooManyFields | Refusal::TooLarge => HeadError::TooLarge.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use http::{HeaderMap, StatusCode};
    use podpin_h2::End;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::downstream::http2::Http2Stream;
    use crate::testing::connected;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// Bytes of each response, within the client's windows.
    const LARGE: usize = 300_000;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// A waker that knows whether it was woken.
    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// A large response whose pod is slow.
    struct Response {
        stream: Http2Stream,
        woken: Arc<Woken>,
    }

    impl Response {
        fn begin(mut stream: Http2Stream) -> Response {
            stream.write_head(StatusCode::OK, &HeaderMap::new(), End::No).unwrap();
            Response { stream, woken: Arc::default() }
        }

        /// Writes so many bytes; whether anything went.
        fn write(&mut self, bytes: usize) -> bool {
            self.woken.0.store(false, Ordering::Relaxed);
            let waker = Arc::clone(&self.woken).into();
            let written = self.stream.poll_write(&mut Context::from_waker(&waker), &vec![b'x'; bytes]);
            written.is_ready()
        }

        fn has_turn(&self) -> bool {
            self.woken.0.load(Ordering::Relaxed)
        }
    }

    /// More streams than have a turn at once send until the socket is full. Behind that, those with a turn write straight
    /// into the socket and then wait for their pods: the others get the next turns although the driver has nothing to do.
    #[tokio::test]
    async fn large_responses_take_turns_without_the_driver() {
        const COUNT: usize = 6;
        let (mut client, proxy) = connected().await;
        let windows = [&[0, 4, 0, 64, 0, 0][..], &[0, 64, 0, 0]];
        let mut input = [PREFACE, &frame(4, 0, 0, windows[0]), &frame(8, 0, 0, windows[1])].concat();
        for stream in (1..).step_by(2).take(COUNT) {
            input.extend(frame(1, 5, stream, &[0x82, 0x86, 0x84, 0x41, 1, b'x']));
        }
        client.write_all(&input).await.unwrap();
        let (config, transport) = (Arc::new(Config::default()), Transport::Plain(proxy));
        let http2 = Http2Connection::new(transport, BytesMut::new(), Arc::clone(&config), Trust::Client);
        let mut timer = pin!(tokio::time::sleep(Duration::from_secs(3600)));
        let mut responses = Vec::new();
        while responses.len() < COUNT {
            let progress = poll_fn(|context| http2.poll(context, timer.as_mut(), &config)).await;
            let Progress::Arrivals(arrivals) = progress else { panic!("the connection ended") };
            let stream = |arrival: Arrival| Http2Stream::new(Arc::clone(&http2), arrival.stream);
            responses.extend(arrivals.into_iter().map(stream).map(Response::begin));
        }
        while responses.iter_mut().filter_map(|response| response.write(LARGE).then_some(())).count() > 0 {}
        let mut read = vec![0; 1 << 20];
        poll_fn(|context| {
            while let Poll::Ready(count) =
                Pin::new(&mut client).poll_read(context, &mut ReadBuf::new(&mut read))
            {
                count.unwrap();
            }
            assert!(http2.poll(context, timer.as_mut(), &config).is_pending());
            let is_done = responses.iter().any(Response::has_turn) && http2.lock().output.is_empty();
            if is_done { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let (mut ahead, behind): (Vec<_>, Vec<_>) = responses.iter_mut().partition(|one| one.has_turn());
        assert!(!behind.is_empty(), "all have a turn at once");
        for response in &mut ahead {
            assert!(response.write(8192), "a turn is a frame");
        }
        assert!(http2.lock().output.is_empty(), "the driver has nothing to write");
        assert!(behind.iter().any(|response| response.has_turn()), "a turn was lost");
    }
}
