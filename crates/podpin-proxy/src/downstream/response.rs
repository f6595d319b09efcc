//! The client's side of an ordinary request: its body comes from here, its answer goes here.
//!
//! HTTP/1 owns the socket and gives it back for the next request, with what came of that already; HTTP/2 owns one stream
//! of its connection.

use podpin_wire::http1::encode::{Framing, Persistence, h1_head, push_chunk};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::{HeaderMap, StatusCode};
use pingora::protocols::http::v2::server::HttpSession;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::connection::StreamGuard;
use crate::downstream::body::{Downstream, Dying, Gone};
use crate::downstream::pending::{answer_h2, h2_head, say_and_linger};
use crate::http::reply::{Answer, Body, Failure};
use crate::net::scratch::{self, Scratch};
use crate::net::transport::Transport;
use podpin_wire::http1::body::{BodyDecoder, ChunkError, Piece};
use podpin_wire::http1::request_head::HeadError;

/// Bytes of later requests that are kept while one is served; more stay in the socket.
const AHEAD_BYTES_MAX: usize = 64 * 1024;
/// Of a request body, what is read at a time.
const BODY_READ_BYTES: usize = 16 * 1024;
/// How long a client may take for what was left of a response that is cut short.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long the rest of a request body is read after its response, as nginx does it by default.
const PASS_OVER: Duration = Duration::from_secs(30);
/// And how long it may pause.
const PASS_OVER_PAUSE: Duration = Duration::from_secs(1);

/// A client that asked and waits.
pub(crate) enum ClientSide {
    H1(H1),
    H2(H2),
}

/// A whole HTTP/1.0 or 1.1 connection, for one request.
pub(crate) struct H1 {
    tcp: Transport,
    /// Read already: body, then later requests.
    ahead: BytesMut,
    body: BodyDecoder,
    http10: bool,
    keep_alive: bool,
    /// It sends no body before it is told to (`Expect`).
    asked_first: bool,
    framing: Framing,
}

/// One stream of an HTTP/2 connection, counted there.
pub(crate) struct H2 {
    session: Box<HttpSession>,
    /// Present once the response has begun.
    response: Option<Downstream>,
    body_done: bool,
    _guard: StreamGuard,
}

/// The connection of an HTTP/1 client, and what came of its next request.
pub(crate) type Idle = (Transport, BytesMut);

/// What of the response body follows its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    Nothing,
    /// As much as the head says.
    Length,
    /// Nobody knows how much.
    Unknown,
}

impl ClientSide {
    /// An HTTP/1 client whose request head was read; `ahead` is what came behind it.
    pub(crate) fn h1(
        (tcp, ahead): Idle,
        body: BodyDecoder,
        (http10, keep_alive, asked_first): (bool, bool, bool),
    ) -> ClientSide {
        ClientSide::H1(H1 { tcp, ahead, body, http10, keep_alive, asked_first, framing: Framing::Plain })
    }

    /// An HTTP/2 client.
    pub(crate) fn h2(session: HttpSession, guard: StreamGuard) -> ClientSide {
        let body_done = session.is_body_empty();
        ClientSide::H2(H2 { session: Box::new(session), response: None, body_done, _guard: guard })
    }

    /// The whole request body was read.
    pub(crate) fn is_body_read(&self) -> bool {
        match self {
            ClientSide::H1(client) => client.body == BodyDecoder::Done,
            ClientSide::H2(client) => client.body_done,
        }
    }

    /// Interim responses mean something to it (RFC 9110 section 15.2).
    pub(crate) fn takes_interim(&self) -> bool {
        match self {
            ClientSide::H1(client) => !client.http10,
            // The library sends none.
            ClientSide::H2(_) => false,
        }
    }

    /// Appends what came of the request body, at least a byte or its end.
    pub(crate) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Result<(), Failure>> {
        match self {
            ClientSide::H1(client) => client.poll_body(context, out),
            ClientSide::H2(client) => match ready!(client.session.poll_read_body_bytes(context)) {
                Some(Ok(bytes)) => {
                    out.extend_from_slice(&bytes);
                    Poll::Ready(Ok(()))
                }
                None => {
                    client.body_done = true;
                    Poll::Ready(Ok(()))
                }
                Some(Err(_)) => Poll::Ready(Err(Failure::ClientGone)),
            },
        }
    }

    /// Appends what is there of the request body already, without waiting for more.
    pub(crate) fn body_at_hand(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        match self {
            ClientSide::H1(client) => client.take_ahead(out),
            ClientSide::H2(_) => Ok(()),
        }
    }

    /// Resolves when the client has left. What comes of later requests is kept for them.
    pub(crate) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<Gone> {
        match self {
            ClientSide::H1(client) => client.poll_gone(context),
            ClientSide::H2(H2 { response: Some(response), .. }) => response.poll_gone(context),
            // Both outcomes mean the same: the stream was reset, or its connection is gone.
            ClientSide::H2(client) => Pin::new(&mut client.session.idle()).poll(context).map(|_| Gone),
        }
    }

    /// Begins the answer, appending to `out` what has to be written for that.
    pub(crate) fn begin(
        &mut self,
        status: StatusCode,
        lines: &HeaderMap,
        follows: Follows,
        out: &mut Vec<u8>,
    ) -> Result<(), Gone> {
        match self {
            ClientSide::H1(client) => {
                client.begin(status, lines, follows, out);
                Ok(())
            }
            ClientSide::H2(client) => client.begin(status, lines, follows == Follows::Nothing),
        }
    }

    /// Appends body bytes as they are framed for the client.
    pub(crate) fn frame(&self, data: &[u8], out: &mut Vec<u8>) {
        match self {
            ClientSide::H1(H1 { framing: Framing::Chunked, .. }) => push_chunk(out, data),
            ClientSide::H1(_) | ClientSide::H2(_) => out.extend_from_slice(data),
        }
    }

    /// What has to be written for a clean end.
    pub(crate) fn last_bytes(&self) -> &'static [u8] {
        match self {
            ClientSide::H1(H1 { framing: Framing::Chunked, .. }) => b"0\r\n\r\n",
            ClientSide::H1(_) | ClientSide::H2(_) => b"",
        }
    }

    /// Writes what the client takes now; gives how much that was, at least one byte.
    pub(crate) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Gone>> {
        match self {
            ClientSide::H1(client) => match ready!(Pin::new(&mut client.tcp).poll_write(context, bytes)) {
                Ok(count) if count > 0 => Poll::Ready(Ok(count)),
                Ok(_) | Err(_) => Poll::Ready(Err(Gone)),
            },
            ClientSide::H2(H2 { response: Some(response), .. }) => response.poll_write(context, bytes),
            ClientSide::H2(_) => Poll::Ready(Err(Gone)),
        }
    }

    /// Resolves when nothing waits within TLS.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        match self {
            ClientSide::H1(client) if client.tcp.holds_bytes() => {
                Pin::new(&mut client.tcp).poll_flush(context).map_err(|_| Gone)
            }
            ClientSide::H1(_) | ClientSide::H2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Ends well, after [`ClientSide::last_bytes`]; gives the connection back when it may carry another request.
    pub(crate) async fn finish(self) -> Option<Idle> {
        match self {
            ClientSide::H1(mut client) => {
                let is_read = client.body == BodyDecoder::Done || Box::pin(client.pass_over_body()).await;
                match (is_read, client.keep_alive) {
                    (true, true) => return Some((client.tcp, client.ahead)),
                    (true, false) => client.tcp.close(),
                    (false, _) => say_and_linger(client.tcp, b"").await,
                }
                None
            }
            ClientSide::H2(client) => {
                // Without a response there was nothing to follow its head.
                client.response.and_then(Downstream::finish);
                None
            }
        }
    }

    /// Ends so that the client can tell the response is not complete; `unsent` is what it has not taken of it.
    pub(crate) async fn cut(self, unsent: &[u8]) {
        match self {
            ClientSide::H1(mut client) => {
                let is_told_by_reset = client.framing == Framing::Plain && client.http10;
                let last = async { client.tcp.write_all(unsent).await };
                if tokio::time::timeout(LAST_WORDS, last).await.is_err() {
                    tracing::debug!("a client did not take the end of its response");
                }
                if is_told_by_reset {
                    Downstream::h1(client.tcp, Framing::Plain).abort();
                } else {
                    client.tcp.close();
                }
            }
            ClientSide::H2(client) => {
                if let Some(dying) = client.response.and_then(Downstream::abort) {
                    Dying::reset(dying, LAST_WORDS).await;
                }
            }
        }
    }

    /// Gives an answer of ours; gives the connection back when it may carry another request, which `may_go_on` allows.
    pub(crate) async fn answer(self, answer: Answer, body: Body, may_go_on: bool) -> Option<Idle> {
        match self {
            ClientSide::H1(mut client) => {
                // A body of which all is here needs not be read to be passed over.
                let is_passed_over = client.take_ahead(&mut Vec::new()).is_ok();
                let may_go_on = may_go_on && is_passed_over;
                let goes_on = may_go_on && client.keep_alive && client.body == BodyDecoder::Done;
                let mut bytes = answer.h1(Persistence::of(goes_on, client.http10), body);
                if goes_on {
                    // Only who reads nothing of many answers takes that long for one.
                    tokio::time::timeout(LAST_WORDS, client.say(&bytes)).await.ok()?.ok()?;
                    return Some((client.tcp, client.ahead));
                }
                if may_go_on && client.body != BodyDecoder::Done {
                    tokio::time::timeout(LAST_WORDS, client.say(&bytes)).await.ok()?.ok()?;
                    Box::pin(client.pass_over_body()).await;
                    bytes.clear();
                }
                say_and_linger(client.tcp, &bytes).await;
                None
            }
            ClientSide::H2(client) => {
                answer_h2(*client.session, answer, body).await;
                None
            }
        }
    }
}

impl H1 {
    async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tcp.write_all(bytes).await?;
        self.tcp.flush().await
    }

    fn poll_body(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Result<(), Failure>> {
        if !self.ahead.is_empty() {
            return Poll::Ready(self.take_ahead(out));
        }
        scratch::with(|Scratch { read, .. }| {
            let mut buffer = ReadBuf::new(read.get_mut(..BODY_READ_BYTES).unwrap_or_default());
            match ready!(Pin::new(&mut self.tcp).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    let behind = decode(&mut self.body, buffer.filled(), out)?;
                    self.ahead.extend_from_slice(behind);
                    Poll::Ready(Ok(()))
                }
                Ok(()) | Err(_) => Poll::Ready(Err(Failure::ClientGone)),
            }
        })
    }

    /// Reads what is left of a body that nobody needs any more: closed under it, many a client would lose the response that
    /// it has not read yet. Whether all of it came.
    async fn pass_over_body(&mut self) -> bool {
        // It may never come after `Expect`, and a next request must not be taken for it.
        if self.asked_first {
            return false;
        }
        let mut passed = Vec::new();
        let all = async {
            while self.body != BodyDecoder::Done {
                passed.clear();
                let read = poll_fn(|context| self.poll_body(context, &mut passed));
                if !matches!(tokio::time::timeout(PASS_OVER_PAUSE, read).await, Ok(Ok(()))) {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(PASS_OVER, all).await.unwrap_or(false)
    }

    fn take_ahead(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        let left = decode(&mut self.body, &self.ahead, out)?.len();
        self.ahead.advance(self.ahead.len().saturating_sub(left));
        Ok(())
    }

    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<Gone> {
        while self.ahead.len() < AHEAD_BYTES_MAX {
            let mut bytes = [0; 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut self.tcp).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => self.ahead.extend_from_slice(buffer.filled()),
                Ok(()) | Err(_) => return Poll::Ready(Gone),
            }
        }
        Poll::Pending
    }

    fn begin(&mut self, status: StatusCode, lines: &HeaderMap, follows: Follows, out: &mut Vec<u8>) {
        self.framing = match follows {
            Follows::Unknown if !self.http10 => Framing::Chunked,
            Follows::Unknown | Follows::Nothing | Follows::Length => Framing::Plain,
        };
        // Who asked first has its answer, and may never send the body (RFC 9110 section 10.1.1).
        self.keep_alive &= self.body == BodyDecoder::Done || !self.asked_first;
        // The end of the connection is the end of a body that nobody knows the length of.
        self.keep_alive &= !(self.http10 && follows == Follows::Unknown);
        let persistence = Persistence::of(self.keep_alive, self.http10);
        out.reserve(1024);
        h1_head(out, (status, lines), self.framing, persistence);
    }
}

impl H2 {
    fn begin(&mut self, status: StatusCode, lines: &HeaderMap, ends: bool) -> Result<(), Gone> {
        let head = h2_head(status, lines).map_err(|_| Gone)?;
        self.session.write_response_header(head, ends).map_err(|_| Gone)?;
        if !ends {
            let stream = self.session.take_response_body_writer().ok_or(Gone)?;
            self.response = Some(Downstream::h2(stream));
        }
        Ok(())
    }
}

/// Appends body bytes of the input; gives what is behind the body.
fn decode<'a>(body: &mut BodyDecoder, mut input: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Failure> {
    loop {
        match body.decode(&mut input) {
            Ok(Piece::Data(data)) => out.extend_from_slice(data),
            Ok(Piece::More | Piece::End) => return Ok(input),
            Err(ChunkError::TOO_MANY_FIELDS) => return Err(HeadError::TooLarge.into()),
            Err(_) => return Err(Failure::Body),
        }
    }
}
