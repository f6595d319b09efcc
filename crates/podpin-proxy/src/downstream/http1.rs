//! The client side over HTTP/1: one socket, for one request and its response at a time.

use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::HeaderMap;
use podpin_wire::http1::body::{BodyDecoder, ChunkError, Piece};
use podpin_wire::http1::encode::{CHUNK_PREFIX_BYTES, Framing, Persistence, push_chunk, seal_chunk};
use podpin_wire::http1::request_head::HeadError;
use podpin_wire::trailers::write_last_chunk;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::downstream::gone::{Gone, LINGER};
use crate::downstream::hang_up::HangUp;
use crate::http::reply::{ErrorReply, LocalResponse, ResponseBody};
use crate::net::scratch::{self, Scratch};
use crate::net::transport::Transport;

/// Bytes of later requests that are kept while a response goes on; the client is not read beyond.
const AHEAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a request body that one read takes.
const BODY_READ_BYTES: usize = 16 * 1024;
/// Time for reading the rest of a request body after its response, nginx's default.
const DISCARD_LIMIT: Duration = Duration::from_secs(30);
/// Pause within that rest after which it is given up.
const DISCARD_PAUSE: Duration = Duration::from_secs(1);
/// Bytes that a refused client may still send meanwhile: a reset would destroy the response before it is read.
const LINGER_BYTES: usize = 256 * 1024;

/// The socket of an HTTP/1 client, with what it has sent, and the framing of the response that goes to it.
pub(crate) struct Http1Side {
    /// The connection itself.
    pub transport: Transport,
    /// Framing of the response body.
    pub framing: Framing,
    /// Input that is still needed; `None` if there is none: the request was read to its end, and nothing came behind it.
    input: Option<Box<Input>>,
}

/// An HTTP/1 connection between two requests.
pub(crate) struct IdleConnection {
    /// The connection itself.
    pub transport: Transport,
    /// Bytes of the next request that were read already.
    pub ahead: BytesMut,
}

/// Input of an HTTP/1 client behind its request head.
struct Input {
    /// Bytes that were read and not used: body, then later requests.
    ahead: BytesMut,
    /// Framing of the body that is still to come.
    body: BodyDecoder,
    /// Lines of the request's trailer section.
    trailers: Vec<u8>,
    /// Whether the client sends no body before an interim response (`Expect`).
    expects_continue: bool,
    /// The end of a client that has sent more than is kept.
    hang_up: HangUp,
}

impl Input {
    /// Returns the input of a request without a body.
    fn without_body() -> Input {
        Input {
            ahead: BytesMut::new(),
            body: BodyDecoder::Done,
            trailers: Vec::new(),
            expects_continue: false,
            hang_up: HangUp::default(),
        }
    }

    /// Appends the body bytes that were read already.
    fn take_ahead(&mut self, out: &mut Vec<u8>) -> Result<(), ErrorReply> {
        let left = decode(&mut self.body, &self.ahead, out, &mut self.trailers)?.len();
        self.ahead.advance(self.ahead.len().saturating_sub(left));
        Ok(())
    }

    fn is_needed(&self) -> bool {
        self.body != BodyDecoder::Done || !self.ahead.is_empty() || !self.trailers.is_empty()
    }
}

impl Http1Side {
    /// Returns the client side of a request whose head was read, behind which `body` follows.
    pub(crate) fn new(connection: IdleConnection, body: BodyDecoder, expects_continue: bool) -> Http1Side {
        let IdleConnection { transport, ahead } = connection;
        let input = Input { ahead, body, expects_continue, ..Input::without_body() };
        let input = input.is_needed().then(|| Box::new(input));
        Http1Side { transport, framing: Framing::Plain, input }
    }

    /// Returns the connection for its next request.
    pub(crate) fn into_idle(self) -> IdleConnection {
        let ahead = self.input.map(|input| input.ahead).unwrap_or_default();
        IdleConnection { transport: self.transport, ahead }
    }

    /// Whether the whole request body was read.
    pub(crate) fn is_body_read(&self) -> bool {
        self.input.as_ref().is_none_or(|input| input.body == BodyDecoder::Done)
    }

    /// Whether the client holds its body back until it has an interim response.
    pub(crate) fn awaits_continue(&self) -> bool {
        self.input.as_ref().is_some_and(|input| input.body != BodyDecoder::Done && input.expects_continue)
    }

    /// Appends bytes of the request body, at least one, or notes its end.
    pub(crate) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Result<(), ErrorReply>> {
        let Some(input) = self.input.as_mut() else { return Poll::Ready(Ok(())) };
        if !input.ahead.is_empty() {
            return Poll::Ready(self.body_at_hand(out));
        }
        let transport = &mut self.transport;
        let read = scratch::with(|Scratch { read, .. }| {
            let mut buffer = ReadBuf::new(read.get_mut(..BODY_READ_BYTES).unwrap_or_default());
            match ready!(Pin::new(transport).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    let behind = decode(&mut input.body, buffer.filled(), out, &mut input.trailers)?;
                    input.ahead.extend_from_slice(behind);
                    Poll::Ready(Ok(()))
                }
                Ok(()) | Err(_) => Poll::Ready(Err(ErrorReply::ClientGone)),
            }
        });
        self.release_input();
        read
    }

    /// Appends the bytes of the request body that were read already.
    pub(crate) fn body_at_hand(&mut self, out: &mut Vec<u8>) -> Result<(), ErrorReply> {
        let taken = self.input.as_mut().map_or(Ok(()), |input| input.take_ahead(out));
        self.release_input();
        taken
    }

    /// Takes out the lines of the request's trailer section, once the whole body was read.
    pub(crate) fn take_trailers(&mut self) -> Vec<u8> {
        let trailers = self.input.as_mut().map(|input| std::mem::take(&mut input.trailers));
        self.release_input();
        trailers.unwrap_or_default()
    }

    /// Gives the memory of input back that nothing needs any more.
    fn release_input(&mut self) {
        self.input.take_if(|input| !input.is_needed());
    }

    /// Whether the client has sent as much of later requests as is kept of them.
    pub(crate) fn is_full(&self) -> bool {
        self.input.as_ref().is_some_and(|input| input.ahead.len() >= AHEAD_BYTES_MAX)
    }

    /// Ends a complete response to a request whose body is not all read. Returns the connection if it may carry another
    /// request, which `goes_on` says of all but that body.
    pub(crate) async fn finish_unread(mut self, goes_on: bool) -> Option<IdleConnection> {
        if !Box::pin(self.discard_body()).await {
            write_and_linger(self.transport, b"").await;
            return None;
        }
        if goes_on {
            return Some(self.into_idle());
        }
        self.transport.close();
        None
    }

    /// Reads the rest of a body that no endpoint needs any more: closed under their upload, many clients lose the response
    /// that they have not read yet. Returns whether all of it came.
    pub(crate) async fn discard_body(&mut self) -> bool {
        // After `Expect` the body may never come, and a next request must not be taken for it.
        if self.awaits_continue() {
            return false;
        }
        let mut discarded = Vec::new();
        let all = async {
            while !self.is_body_read() {
                discarded.clear();
                let read = std::future::poll_fn(|context| self.poll_body(context, &mut discarded));
                if !matches!(tokio::time::timeout(DISCARD_PAUSE, read).await, Ok(Ok(()))) {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(DISCARD_LIMIT, all).await.unwrap_or(false)
    }

    /// Frames `piece[CHUNK_PREFIX_BYTES..]` in place; returns the offset where the framed bytes begin.
    pub(crate) fn frame_in_place(&self, piece: &mut Vec<u8>) -> usize {
        match self.framing {
            Framing::Chunked => seal_chunk(piece),
            Framing::Plain => CHUNK_PREFIX_BYTES,
        }
    }

    /// Appends framed body bytes to `out`.
    pub(crate) fn frame_into(&self, data: &[u8], out: &mut Vec<u8>) {
        match self.framing {
            Framing::Chunked => push_chunk(out, data),
            Framing::Plain => out.extend_from_slice(data),
        }
    }

    /// Appends the end of the body, with these fields behind it if it has chunks.
    pub(crate) fn end_body(&self, trailers: &HeaderMap, out: &mut Vec<u8>) {
        match self.framing {
            Framing::Chunked => write_last_chunk(out, trailers),
            Framing::Plain => {}
        }
    }

    /// Writes what the client takes now; returns how much, at least one byte.
    pub(crate) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Gone>> {
        match ready!(Pin::new(&mut self.transport).poll_write(context, bytes)) {
            Ok(count) if count > 0 => Poll::Ready(Ok(count)),
            Ok(_) | Err(_) => Poll::Ready(Err(Gone)),
        }
    }

    /// Polls until nothing waits within TLS.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        Pin::new(&mut self.transport).poll_flush(context).map_err(|_| Gone)
    }

    /// Polls for the client's leaving. Bytes of later requests are kept for them; if some may be of the body, the task is
    /// polled again.
    pub(crate) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<Gone> {
        loop {
            if self.is_full() {
                let Http1Side { transport, input, .. } = self;
                let end = input.as_mut().map(|input| input.hang_up.poll(context, transport.tcp()));
                return end.unwrap_or(Poll::Pending);
            }
            let mut bytes = [0; 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut self.transport).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(Gone);
            }
            let input = self.input.get_or_insert_with(|| Box::new(Input::without_body()));
            input.ahead.extend_from_slice(buffer.filled());
            if input.body != BodyDecoder::Done {
                context.waker().wake_by_ref();
            }
        }
    }

    /// Ends with a reset. Without chunks only that tells an early end from a proper one; what the client has not read is
    /// lost with it.
    pub(crate) fn reset(self) {
        self.transport.reset();
    }
}

/// Appends body bytes of the input, and lines of its trailer section; returns what is behind the body.
fn decode<'a>(
    body: &mut BodyDecoder,
    mut input: &'a [u8],
    out: &mut Vec<u8>,
    trailers: &mut Vec<u8>,
) -> Result<&'a [u8], ErrorReply> {
    loop {
        match body.decode(&mut input) {
            Ok(Piece::Data(data)) => out.extend_from_slice(data),
            Ok(Piece::Trailers(lines)) => trailers.extend_from_slice(lines),
            Ok(Piece::More | Piece::End) => return Ok(input),
            Err(ChunkError::TOO_MANY_FIELDS) => return Err(HeadError::TooLarge.into()),
            Err(_) => return Err(ErrorReply::Body),
        }
    }
}

/// Writes a response of the proxy and closes the connection, so that the client can read it.
pub(crate) async fn close_with(transport: Transport, response: &LocalResponse) {
    write_and_linger(transport, &response.http1(Persistence::Close, ResponseBody::Whole)).await;
}

/// Writes the last bytes of a connection and closes it, so that the client can read them.
pub(crate) async fn write_and_linger(mut transport: Transport, bytes: &[u8]) {
    let written = async {
        transport.write_all(bytes).await?;
        transport.shutdown().await?;
        // Unread bytes of the client would turn the close into a reset, which destroys the response.
        let mut left = LINGER_BYTES;
        let mut unread = [0; 1024];
        loop {
            let count = transport.read(&mut unread).await?;
            left = left.saturating_sub(count);
            if count == 0 || left == 0 {
                return std::io::Result::Ok(());
            }
        }
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, Box::pin(written)).await {
        tracing::trace!(%error, "the client did not read its response");
    }
    if let Err(error) = socket2::SockRef::from(transport.tcp()).shutdown(Shutdown::Both) {
        tracing::trace!(%error, "the client closed first");
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::net::TcpStream;

    use super::*;
    use crate::testing::connected;

    async fn side(body: BodyDecoder, ahead: &[u8]) -> (TcpStream, Http1Side) {
        let (client, proxy) = connected().await;
        let connection = IdleConnection { transport: Transport::Plain(proxy), ahead: ahead.into() };
        (client, Http1Side::new(connection, body, false))
    }

    #[tokio::test]
    async fn bytes_of_later_requests_are_kept_and_the_leaving_is_noticed_behind_them() {
        let (mut client, mut side) = side(BodyDecoder::Done, b"").await;
        client.write_all(b"GET /next").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(poll_fn(|context| side.poll_gone(context)).await, Gone);
        assert_eq!(&side.into_idle().ahead[..], b"GET /next");
    }

    #[tokio::test]
    async fn no_more_is_kept_than_the_limit() {
        let (mut client, mut side) = side(BodyDecoder::Done, b"").await;
        let (sent, is_pending) = tokio::join!(
            async { client.write_all(&vec![b'x'; 2 * AHEAD_BYTES_MAX]).await },
            poll_fn(|context| match side.poll_gone(context) {
                Poll::Pending if !side.is_full() => Poll::Pending,
                state => Poll::Ready(state.is_pending()),
            })
        );
        sent.unwrap();
        assert!(is_pending, "not read beyond");
        assert!(side.into_idle().ahead.len() < AHEAD_BYTES_MAX + 1024);
    }

    #[tokio::test]
    async fn a_body_is_read_in_pieces_and_what_is_behind_it_is_kept() {
        let (mut client, mut side) = side(BodyDecoder::Length(8), b"ab").await;
        client.write_all(b"cdefghGET /next").await.unwrap();
        let mut body = Vec::new();
        while !side.is_body_read() {
            poll_fn(|context| side.poll_body(context, &mut body)).await.unwrap();
        }
        assert_eq!((&body[..], &side.into_idle().ahead[..]), (&b"abcdefgh"[..], &b"GET /next"[..]));
    }

    #[tokio::test]
    async fn a_client_that_awaits_an_interim_response_is_not_waited_for() {
        let (_client, proxy) = connected().await;
        let connection = IdleConnection { transport: Transport::Plain(proxy), ahead: BytesMut::new() };
        let mut side = Http1Side::new(connection, BodyDecoder::Length(8), true);
        assert!(side.awaits_continue() && !side.discard_body().await);
    }
}
