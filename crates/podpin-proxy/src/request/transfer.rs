//! One request on its way between a client and a pod: the body one way, the response the other, both at once.
//!
//! Driven by polls, so that whatever can move moves and a request that waits costs one timer. What a read brings is
//! written on at once from the buffers of the thread; only what the other side does not take is kept, and nothing more is
//! read from this side until it has been: a slow client holds back its pod, a slow pod its client, and neither our memory.

use podpin_wire::http1::encode::h1_interim;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, StatusCode, header};
use podpin_time::Millis;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::clock;
use crate::downstream::body::Gone;
use crate::downstream::response::{ClientSide, Follows};
use crate::request::serve::Carried;
use crate::request::upload::Upload;
use podpin_wire::http1::body::{BodyDecoder, Piece};

use crate::http::reply::Failure;
use crate::net::scratch::{self, READ_BYTES, Scratch};
use crate::net::transport::Transport;
use crate::upstream::connect::UpstreamError;
use podpin_wire::headers;
use podpin_wire::http1::response_head::{
    HEAD_BYTES_MAX, INTERIM_RESPONSES_MAX, ResponseHead, is_worth_parsing, parse_head,
};

/// Reads in one turn before others of the worker get theirs.
const READS_A_TURN: usize = 4;
/// Why a transfer ends before its response does.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The client's doing: it left, or its body is none.
    Client(Failure),
    /// The pod's, before its response head was complete.
    Pod(UpstreamError),
    /// The pod's connection ended or broke within the response body.
    Broken,
    /// The pod broke the framing of its response body.
    Malformed,
    /// The pod was silent within the response body for `timeouts.upstreamIdle`.
    Idle,
    /// The client took nothing of the response for `timeouts.clientWrite`.
    SlowClient,
    /// It is an event stream, and had to leave.
    Told,
}

impl From<Gone> for Trouble {
    fn from(Gone: Gone) -> Trouble {
        Trouble::Client(Failure::ClientGone)
    }
}

/// How long each side may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub request_body: Duration,
    pub response_header: Option<Duration>,
    pub upstream_idle: Option<Duration>,
    pub client_write: Option<Duration>,
}

/// Whom a request body waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitsFor {
    Nobody,
    Client,
    Pod,
}

/// A request that is being served by a pod.
pub(crate) struct Transfer<'a> {
    client: &'a mut ClientSide,
    pod: Transport,
    pub upload: Upload,
    times: Times,
    asked: Method,
    /// When something of the request last moved; the pod's time for its head counts from there.
    moved: Millis,
    /// An incomplete response head.
    incoming: Vec<u8>,
    interim: usize,
    decoder: BodyDecoder,
    /// Bytes of the body that came with the head.
    early: Vec<u8>,
    /// The connection may be kept: its response was whole, and nothing came behind it.
    is_reusable: bool,
    ended: bool,
    /// Framed bytes that the client has not taken.
    pub unsent: Vec<u8>,
    unsent_from: usize,
    received: Millis,
    written: Millis,
}

impl<'a> Transfer<'a> {
    pub(crate) fn new(
        client: &'a mut ClientSide,
        pod: Transport,
        (upload, asked): (Upload, Method),
        times: Times,
    ) -> Transfer<'a> {
        let now = clock::now();
        Transfer {
            client,
            pod,
            upload,
            times,
            asked,
            moved: now,
            incoming: Vec::new(),
            interim: 0,
            decoder: BodyDecoder::Done,
            early: Vec::new(),
            is_reusable: false,
            ended: false,
            unsent: Vec::new(),
            unsent_from: 0,
            received: now,
            written: now,
        }
    }

    /// Sends the request, at least its head, and reads the response head.
    pub(crate) fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        timer: Pin<&mut Sleep>,
    ) -> Poll<Result<ResponseHead, Trouble>> {
        let waits = self.poll_upload(context)?;
        let blocked = self.poll_send(context)?.is_pending();
        if !blocked && let Poll::Ready(head) = self.poll_read_head(context)? {
            return Poll::Ready(Ok(head));
        }
        if waits != WaitsFor::Client && self.client.poll_gone(context).is_ready() {
            return Poll::Ready(Err(Gone.into()));
        }
        let due = if waits == WaitsFor::Client {
            Some((self.times.request_body, Trouble::Client(Failure::BodyTimeout)))
        } else {
            self.times.response_header.map(|limit| (limit, Trouble::Pod(UpstreamError::ResponseTimeout)))
        };
        let Some((limit, trouble)) = due else { return Poll::Pending };
        ready!(poll_until(self.moved.after(limit), context, timer));
        Poll::Ready(Err(trouble))
    }

    /// Begins the answer that `head` was read for; the lines are the client's.
    pub(crate) fn begin(
        &mut self,
        head: &ResponseHead,
        lines: &http::HeaderMap,
        carried: &mut Carried,
    ) -> Result<(), Trouble> {
        let follows = match self.decoder {
            BodyDecoder::Done => Follows::Nothing,
            BodyDecoder::Length(_) => Follows::Length,
            BodyDecoder::Chunked(_) | BodyDecoder::UntilClose => Follows::Unknown,
        };
        self.is_reusable = head.keep_alive && self.decoder != BodyDecoder::UntilClose;
        self.received = clock::now();
        self.written = self.received;
        self.client.begin(head.status, lines, follows, &mut self.unsent)?;
        let early = std::mem::take(&mut self.early);
        let mut unsent = std::mem::take(&mut self.unsent);
        let absorbed = self.absorb(&early, &mut unsent, carried);
        self.unsent = unsent;
        absorbed
    }

    /// Passes the response body on, and what is left of the request's.
    pub(crate) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        timer: Pin<&mut Sleep>,
        carried: &mut Carried,
    ) -> Poll<Result<(), Trouble>> {
        let mut waits = WaitsFor::Nobody;
        let mut blocked = false;
        for turn in 0..=READS_A_TURN {
            blocked = self.poll_send(context)?.is_pending();
            if !blocked && self.ended {
                return Poll::Ready(Ok(()));
            }
            waits = self.poll_upload(context)?;
            if blocked || self.poll_pod(context, carried)?.is_pending() {
                break;
            }
            if turn == READS_A_TURN {
                context.waker().wake_by_ref();
            }
        }
        if waits != WaitsFor::Client && self.client.poll_gone(context).is_ready() {
            return Poll::Ready(Err(Gone.into()));
        }
        if carried.stream.as_ref().is_some_and(|stream| stream.has_to_leave(context)) {
            return Poll::Ready(Err(Trouble::Told));
        }
        let client_due = self.times.client_write.filter(|_| blocked);
        let pod_due = self.times.upstream_idle.filter(|_| !blocked);
        let body_due = Some(self.times.request_body).filter(|_| waits == WaitsFor::Client);
        let dues = [
            client_due.map(|limit| (self.written.after(limit), Trouble::SlowClient)),
            pod_due.map(|limit| (self.received.after(limit), Trouble::Idle)),
            body_due.map(|limit| (self.moved.after(limit), Trouble::Client(Failure::BodyTimeout))),
        ];
        let first = dues.into_iter().flatten().min_by_key(|(due, _)| *due);
        let Some((due, trouble)) = first else { return Poll::Pending };
        ready!(poll_until(due, context, timer));
        Poll::Ready(Err(trouble))
    }

    /// Nothing of a response has come, and all of the request is still there.
    pub(crate) fn may_be_repeated(&self) -> bool {
        self.interim == 0 && self.incoming.is_empty() && self.upload.may_be_repeated()
    }

    /// The client has taken a part of an interim response, and cannot be told anything else now.
    pub(crate) fn is_within_interim(&self) -> bool {
        self.unsent_from > 0
    }

    /// The pod's connection, when it may carry another request.
    pub(crate) fn into_kept(self) -> Option<Transport> {
        let is_sent = self.upload.is_sent() && !self.pod.holds_bytes();
        let is_whole = self.decoder == BodyDecoder::Done && self.is_reusable && is_sent;
        is_whole.then_some(self.pod)
    }

    /// What the client has not taken of a response that is cut short, and what there is of the request for another try.
    pub(crate) fn into_rest(self) -> (Vec<u8>, Upload) {
        let mut unsent = self.unsent;
        unsent.drain(..self.unsent_from.min(unsent.len()));
        (unsent, self.upload)
    }

    /// Sends what there is of the request.
    fn poll_upload(&mut self, context: &mut Context<'_>) -> Result<WaitsFor, Trouble> {
        if self.upload.refused {
            return Ok(WaitsFor::Nobody);
        }
        if !self.upload.begun && !self.upload.ended && self.upload.unsent_from == 0 {
            // What came with the head goes with the head.
            self.take_body_at_hand()?;
        }
        loop {
            if self.poll_write_pod(context).is_pending() {
                return Ok(WaitsFor::Pod);
            }
            if self.upload.ended || self.upload.refused {
                return Ok(WaitsFor::Nobody);
            }
            let start = self.upload.unsent.len();
            match self.client.poll_body(context, &mut self.upload.unsent) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(failure)) => return Err(Trouble::Client(failure)),
                Poll::Pending => return Ok(WaitsFor::Client),
            }
            self.moved = clock::now();
            self.took(start);
        }
    }

    fn take_body_at_hand(&mut self) -> Result<(), Trouble> {
        let start = self.upload.unsent.len();
        if !self.client.is_body_read() {
            self.client.body_at_hand(&mut self.upload.unsent).map_err(Trouble::Client)?;
        }
        self.took(start);
        Ok(())
    }

    fn took(&mut self, start: usize) {
        self.upload.took(start);
        if self.client.is_body_read() {
            self.upload.end();
        }
    }

    /// Writes to the pod. Ready when it has taken everything, or takes nothing any more: its answer may be there still.
    fn poll_write_pod(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let upload = &mut self.upload;
        while let Some(rest) = upload.unsent.get(upload.unsent_from..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.pod).poll_write(context, rest)) {
                Ok(count) if count > 0 => {
                    upload.unsent_from += count;
                    self.moved = clock::now();
                }
                Ok(_) | Err(_) => {
                    upload.refused = true;
                    return Poll::Ready(());
                }
            }
        }
        upload.unsent.clear();
        upload.unsent_from = 0;
        if self.pod.holds_bytes() && ready!(Pin::new(&mut self.pod).poll_flush(context)).is_err() {
            upload.refused = true;
        }
        Poll::Ready(())
    }

    /// Reads the response head; interim ones are passed on.
    fn poll_read_head(&mut self, context: &mut Context<'_>) -> Result<Poll<ResponseHead>, Trouble> {
        loop {
            let read = scratch::with(|Scratch { read, .. }| {
                let mut buffer = ReadBuf::new(read);
                match Pin::new(&mut self.pod).poll_read(context, &mut buffer) {
                    Poll::Pending => Ok(Poll::Pending),
                    Poll::Ready(Err(error)) => Err(UpstreamError::Reset(error)),
                    Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                        Err(UpstreamError::Reset(io::ErrorKind::UnexpectedEof.into()))
                    }
                    Poll::Ready(Ok(())) => self.look(buffer.filled()).map(Poll::Ready),
                }
            });
            match read.map_err(Trouble::Pod)? {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Some(head)) => return Ok(Poll::Ready(head)),
                // An interim response goes out before anything else is waited for.
                Poll::Ready(None) if self.poll_send(context)?.is_pending() => return Ok(Poll::Pending),
                Poll::Ready(None) => {}
            }
        }
    }

    /// Looks for the final head in what came before and now.
    fn look(&mut self, bytes: &[u8]) -> Result<Option<ResponseHead>, UpstreamError> {
        let joined;
        let mut bytes = bytes;
        if !self.incoming.is_empty() {
            let parsed = self.incoming.len();
            self.incoming.extend_from_slice(bytes);
            if self.incoming.len() < HEAD_BYTES_MAX && !is_worth_parsing(&self.incoming, parsed) {
                return Ok(None);
            }
            joined = std::mem::take(&mut self.incoming);
            bytes = &joined;
        }
        while let Some((length, head, decoder)) = parse_head(bytes, &self.asked)? {
            bytes = bytes.get(length..).unwrap_or_default();
            if !head.status.is_informational() {
                self.decoder = decoder;
                self.early = bytes.to_vec();
                return Ok(Some(head));
            }
            self.interim += 1;
            if self.interim > INTERIM_RESPONSES_MAX || head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(UpstreamError::Protocol("unexpected interim responses"));
            }
            if self.client.takes_interim() {
                // No cookie is set by what is not the answer yet.
                let mut lines = headers::response_lines(head.headers, |_| true);
                // RFC 9110 section 8.6: it has no body, and some would wait for one.
                lines.remove(header::CONTENT_LENGTH);
                h1_interim(&mut self.unsent, head.status, &lines);
            }
        }
        if bytes.len() >= HEAD_BYTES_MAX {
            return Err(UpstreamError::Protocol("the response head is too large"));
        }
        self.incoming = bytes.to_vec();
        Ok(None)
    }

    /// Writes to the client what it has not taken.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, Trouble> {
        while let Some(rest) = self.unsent.get(self.unsent_from..).filter(|rest| !rest.is_empty()) {
            match self.client.poll_write(context, rest)? {
                Poll::Ready(count) => {
                    self.unsent_from += count;
                    self.written = clock::now();
                }
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        if self.unsent_from > 0 {
            self.unsent = Vec::new();
            self.unsent_from = 0;
        }
        Ok(self.client.poll_flush(context)?)
    }

    /// Reads once from the pod and passes on what came.
    fn poll_pod(&mut self, context: &mut Context<'_>, carried: &mut Carried) -> Result<Poll<()>, Trouble> {
        scratch::with(|Scratch { read, write }| {
            let mut buffer = ReadBuf::new(read);
            match Pin::new(&mut self.pod).poll_read(context, &mut buffer) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Err(_)) => return Err(Trouble::Broken),
                Poll::Ready(Ok(())) => {}
            }
            self.received = clock::now();
            write.clear();
            if buffer.filled().is_empty() {
                if !self.decoder.ends_at_close() {
                    return Err(Trouble::Broken);
                }
                self.decoder = BodyDecoder::Done;
                self.end(write);
            }
            let absorbed = self.absorb(buffer.filled(), write, carried);
            self.pass_on(context, write)?;
            absorbed.map(Poll::Ready)
        })
    }

    /// Decodes what the pod sent, and frames it for the client.
    fn absorb(&mut self, mut bytes: &[u8], out: &mut Vec<u8>, carried: &mut Carried) -> Result<(), Trouble> {
        if self.ended {
            return Ok(());
        }
        loop {
            match self.decoder.decode(&mut bytes) {
                Ok(Piece::Data(data)) => {
                    carried.carry(data);
                    self.client.frame(data, out);
                }
                Ok(Piece::More) => break,
                Ok(Piece::End) => {
                    // Bytes behind a response are nobody's.
                    self.is_reusable &= bytes.is_empty();
                    self.end(out);
                    break;
                }
                Err(_) => return Err(Trouble::Malformed),
            }
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.ended = true;
        out.extend_from_slice(self.client.last_bytes());
    }

    /// Writes to the client, and keeps what it does not take at once.
    fn pass_on(&mut self, context: &mut Context<'_>, out: &[u8]) -> Result<(), Trouble> {
        let mut from = 0;
        self.written = self.received;
        while let Some(rest) = out.get(from..).filter(|rest| !rest.is_empty()) {
            match self.client.poll_write(context, rest)? {
                Poll::Ready(count) => from += count,
                Poll::Pending => {
                    self.unsent.extend_from_slice(rest);
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Ready at that moment; one timer serves whichever deadline comes next.
fn poll_until(due: Millis, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<()> {
    let at = clock::instant(due);
    loop {
        if due <= clock::now() {
            return Poll::Ready(());
        }
        // One that is set for earlier goes off once for nothing, which costs less than setting it anew each time.
        if timer.is_elapsed() || timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        ready!(timer.as_mut().poll(context));
    }
}

const _: () = assert!(READ_BYTES <= HEAD_BYTES_MAX, "one read brings no more than a head may have");
