//! A client that has sent a request: its body comes from here, its response goes here.
//!
//! An ordinary request keeps this until its response is complete, and gives an HTTP/1 connection back for the next request.
//! An event stream turns it into a [`StartedResponse`], which lives on in a task of its own.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::{HeaderMap, StatusCode};
use podpin_h2::End;
use podpin_wire::http1::body::BodyDecoder;
use podpin_wire::http1::encode::{Framing, Persistence, write_interim_response, write_response_head};
use podpin_wire::trailers::write_last_chunk;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use crate::downstream::body::Downstream;
use crate::downstream::gone::Gone;
use crate::downstream::hang_up::HangUp;
use crate::downstream::http1::{EARLY_BYTES_MAX, Http1Side, decode_body, write_and_linger};
use crate::downstream::http2::Http2Stream;
use crate::downstream::lease::{ConnectionLease, ConnectionReturn};
use crate::http::reply::{ErrorReply, LocalResponse, ResponseBody};
use crate::net::scratch::{self, Scratch};
use crate::net::transport::Transport;

/// Bytes of a request body that one read takes.
const BODY_READ_BYTES: usize = 16 * 1024;
/// Time that a client has for the rest of a response that is cut short.
const CUT_GRACE: Duration = Duration::from_secs(1);
/// Time for reading the rest of a request body after its response, nginx's default.
const DISCARD_LIMIT: Duration = Duration::from_secs(30);
/// Pause within that rest after which it is given up.
const DISCARD_PAUSE: Duration = Duration::from_secs(1);

/// A client that has sent a request and waits for the response, or takes it.
pub(crate) enum PendingResponse {
    /// A whole HTTP/1.0 or 1.1 connection, for one request.
    H1(Http1Pending),
    /// A stream of an HTTP/2 connection.
    H2(Http2Stream),
}

/// An HTTP/1 connection with a request whose head was read.
pub(crate) struct Http1Pending {
    side: Http1Side,
    /// Bytes that were read already: body, then later requests.
    ahead: BytesMut,
    body: BodyDecoder,
    /// Lines of the request's trailer section.
    trailers: Vec<u8>,
    is_http10: bool,
    keep_alive: bool,
    /// Whether the client sends no body before an interim response (`Expect`).
    expects_continue: bool,
    /// The connection, if it is lent to a stream.
    lease: Option<ConnectionLease>,
    /// The end of a client that has sent more than is kept.
    hang_up: HangUp,
}

/// The facts of a request over HTTP/1, besides the socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Http1Terms {
    /// Framing of the request body.
    pub body: BodyDecoder,
    /// Whether the client speaks HTTP/1.0.
    pub is_http10: bool,
    /// Whether the connection may carry another request.
    pub keep_alive: bool,
    /// Whether the client sends no body before an interim response (`Expect`).
    pub expects_continue: bool,
}

/// An HTTP/1 connection between two requests.
pub(crate) struct IdleConnection {
    /// The connection itself.
    pub transport: Transport,
    /// Bytes of the next request that were read already.
    pub ahead: BytesMut,
}

/// The length of a response body, as its head says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// No body.
    Zero,
    /// The length that the head has.
    Known,
    /// Unknown until the body ends.
    Unknown,
}

impl BodyLength {
    /// Returns the length that a framing tells.
    pub(crate) fn of(body: &BodyDecoder) -> BodyLength {
        match body {
            BodyDecoder::Done => BodyLength::Zero,
            BodyDecoder::Length(_) => BodyLength::Known,
            BodyDecoder::Chunked(_) | BodyDecoder::UntilClose => BodyLength::Unknown,
        }
    }
}

/// Whether a connection may carry another request after a response of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// The connection goes on if client and request allow it.
    Allowed,
    /// The connection is closed.
    Refused,
}

/// A response that has begun and goes on in a task of its own.
pub(crate) struct StartedResponse {
    /// The client side of the body.
    pub downstream: Downstream,
    /// The head, still to be written (HTTP/1).
    pub head: Vec<u8>,
    /// The connection, kept alive and counted as long as the stream runs.
    pub connection: ConnectionReturn,
}

impl PendingResponse {
    /// Returns the client of a request that came over HTTP/1; a stream takes the `lease` with it.
    pub(crate) fn http1(
        connection: IdleConnection,
        terms: Http1Terms,
        lease: Option<ConnectionLease>,
    ) -> PendingResponse {
        let Http1Terms { body, is_http10, keep_alive, expects_continue } = terms;
        let IdleConnection { transport, ahead } = connection;
        let side = Http1Side::new(transport);
        PendingResponse::H1(Http1Pending {
            side,
            ahead,
            body,
            trailers: Vec::new(),
            is_http10,
            keep_alive,
            expects_continue,
            lease,
            hang_up: HangUp::default(),
        })
    }

    /// Exchanges the connection that the stream of an HTTP/1 client is to take with it.
    pub(crate) fn exchange_lease(&mut self, lease: Option<ConnectionLease>) -> Option<ConnectionLease> {
        match self {
            PendingResponse::H1(client) => std::mem::replace(&mut client.lease, lease),
            PendingResponse::H2(_) => None,
        }
    }

    /// Lets `look` look at the transport of the connection; `None` if the connection has ended.
    pub(crate) fn transport<T>(&self, look: impl FnOnce(&Transport) -> T) -> Option<T> {
        match self {
            PendingResponse::H1(client) => Some(look(&client.side.transport)),
            PendingResponse::H2(stream) => stream.transport(look),
        }
    }

    /// Whether the whole request body was read.
    pub(crate) fn is_body_read(&self) -> bool {
        match self {
            PendingResponse::H1(client) => client.body == BodyDecoder::Done,
            PendingResponse::H2(stream) => stream.is_body_read(),
        }
    }

    /// Whether interim responses can be passed on to the client (RFC 9110 section 15.2).
    pub(crate) fn takes_interim(&self) -> bool {
        match self {
            PendingResponse::H1(client) => !client.is_http10,
            PendingResponse::H2(_) => true,
        }
    }

    /// Passes an interim response on, or appends to `out` what has to be written for that.
    pub(crate) fn interim(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        out: &mut Vec<u8>,
    ) -> Result<(), Gone> {
        match self {
            PendingResponse::H1(_) => {
                write_interim_response(out, status, headers);
                Ok(())
            }
            PendingResponse::H2(stream) => stream.write_interim(status, headers),
        }
    }

    /// Appends bytes of the request body, at least one, or notes its end.
    pub(crate) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Result<(), ErrorReply>> {
        match self {
            PendingResponse::H1(client) => client.poll_body(context, out),
            PendingResponse::H2(stream) => stream.poll_body(context, out),
        }
    }

    /// Appends the bytes of the request body that were read already.
    pub(crate) fn body_at_hand(&mut self, out: &mut Vec<u8>) -> Result<(), ErrorReply> {
        match self {
            PendingResponse::H1(client) => client.take_ahead(out),
            PendingResponse::H2(_) => Ok(()),
        }
    }

    /// Polls for the client's leaving. Bytes of later requests are kept for them.
    pub(crate) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<Gone> {
        match self {
            PendingResponse::H1(client) => client.poll_gone(context),
            PendingResponse::H2(stream) => stream.poll_gone(context),
        }
    }

    /// Resolves when the client has left.
    pub(crate) async fn gone(&mut self) -> Gone {
        poll_fn(|context| self.poll_gone(context)).await
    }

    /// Begins the response, and appends to `out` what has to be written for that.
    pub(crate) fn begin(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        length: BodyLength,
        out: &mut Vec<u8>,
    ) -> Result<(), Gone> {
        match self {
            PendingResponse::H1(client) => {
                client.begin(status, headers, length, out);
                Ok(())
            }
            PendingResponse::H2(stream) => {
                let end = if length == BodyLength::Zero { End::Yes } else { End::No };
                stream.write_head(status, headers, end)
            }
        }
    }

    /// Begins a response that goes on in a task of its own; `None` if the client is gone.
    pub(crate) fn start(
        self,
        status: StatusCode,
        headers: &HeaderMap,
        length: BodyLength,
    ) -> Option<StartedResponse> {
        match self {
            PendingResponse::H1(mut client) => {
                let mut head = Vec::with_capacity(512);
                client.begin(status, headers, length, &mut head);
                // The stream drops what comes of later requests, so the connection cannot go on behind them.
                let goes_on = client.keep_alive && client.ahead.is_empty();
                let connection = ConnectionReturn::H1 { lease: client.lease?, goes_on };
                Some(StartedResponse { downstream: Downstream::H1(client.side), head, connection })
            }
            PendingResponse::H2(mut stream) => {
                stream.write_head(status, headers, End::No).ok()?;
                let (downstream, connection) = (Downstream::H2(stream), ConnectionReturn::H2);
                Some(StartedResponse { downstream, head: Vec::new(), connection })
            }
        }
    }

    /// Appends body bytes as they are framed for the client.
    pub(crate) fn frame(&self, data: &[u8], out: &mut Vec<u8>) {
        match self {
            PendingResponse::H1(client) => client.side.frame_into(data, out),
            PendingResponse::H2(_) => out.extend_from_slice(data),
        }
    }

    /// Takes out the lines of the request's trailer section, once the whole body was read.
    pub(crate) fn take_trailers(&mut self) -> Vec<u8> {
        match self {
            PendingResponse::H1(client) => std::mem::take(&mut client.trailers),
            PendingResponse::H2(stream) => stream.take_trailers(),
        }
    }

    /// Ends the response body with these fields behind it, where the client's framing has a place for them, and appends to
    /// `out` what has to be written for that.
    pub(crate) fn end_body(&mut self, trailers: HeaderMap, out: &mut Vec<u8>) {
        match self {
            PendingResponse::H1(client) if client.side.framing == Framing::Chunked => {
                write_last_chunk(out, &trailers);
            }
            PendingResponse::H1(_) => {}
            PendingResponse::H2(stream) => stream.set_trailers(trailers),
        }
    }

    /// Writes what the client takes now; returns how much, at least one byte.
    pub(crate) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Gone>> {
        match self {
            PendingResponse::H1(client) => client.side.poll_write(context, bytes),
            PendingResponse::H2(stream) => stream.poll_write(context, bytes),
        }
    }

    /// Polls until nothing waits within TLS.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        match self {
            PendingResponse::H1(client) if client.side.transport.holds_bytes() => {
                client.side.poll_flush(context)
            }
            PendingResponse::H1(_) | PendingResponse::H2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Ends well, after [`PendingResponse::end_body`]; returns the connection if it may carry another request. `Err` if some
    /// of the request body is unread, which [`Http1Pending::finish_unread`] waits for.
    pub(crate) fn finish(self) -> Result<Option<IdleConnection>, Box<Http1Pending>> {
        match self {
            PendingResponse::H1(client) if client.body != BodyDecoder::Done => Err(Box::new(client)),
            PendingResponse::H1(client) if client.keep_alive => Ok(Some(client.into_idle())),
            PendingResponse::H1(client) => {
                client.side.transport.close();
                Ok(None)
            }
            PendingResponse::H2(stream) => {
                stream.finish();
                Ok(None)
            }
        }
    }

    /// Ends so that the client can tell the response is not complete; `unsent` is what it has not taken of it.
    pub(crate) async fn cut(self, unsent: &[u8]) {
        match self {
            PendingResponse::H1(mut client) => {
                let needs_reset = client.side.framing == Framing::Plain && client.is_http10;
                let last = async { client.side.transport.write_all(unsent).await };
                if tokio::time::timeout(CUT_GRACE, last).await.is_err() {
                    tracing::debug!("a client did not take the end of its response");
                }
                if needs_reset {
                    client.side.reset();
                } else {
                    client.side.transport.close();
                }
            }
            PendingResponse::H2(stream) => stream.abort_behind(unsent, CUT_GRACE).await,
        }
    }

    /// Sends a response of the proxy; returns the connection if it may carry another request.
    pub(crate) async fn answer(
        self,
        response: LocalResponse,
        body: ResponseBody,
        reuse: Reuse,
    ) -> Option<IdleConnection> {
        match self {
            PendingResponse::H1(client) => client.answer(&response, body, reuse).await,
            PendingResponse::H2(stream) => {
                stream.answer(response, body).await;
                None
            }
        }
    }
}

impl Http1Pending {
    /// Ends a complete response to a request whose body is not all read; returns the connection if it may carry another.
    pub(crate) async fn finish_unread(mut self) -> Option<IdleConnection> {
        if !Box::pin(self.discard_body()).await {
            write_and_linger(self.side.transport, b"").await;
            return None;
        }
        if self.keep_alive {
            return Some(self.into_idle());
        }
        self.side.transport.close();
        None
    }

    async fn answer(
        mut self,
        response: &LocalResponse,
        body: ResponseBody,
        reuse: Reuse,
    ) -> Option<IdleConnection> {
        // A body of which all was read with the head costs nothing to discard.
        let is_discarded = self.take_ahead(&mut Vec::new()).is_ok();
        let may_go_on = reuse == Reuse::Allowed && is_discarded;
        let goes_on = may_go_on && self.keep_alive && self.body == BodyDecoder::Done;
        let mut bytes = response.http1(Persistence::of(goes_on, self.is_http10), body);
        if goes_on {
            // Only a client that pipelines requests and never reads can run into this timeout.
            tokio::time::timeout(CUT_GRACE, self.write(&bytes)).await.ok()?.ok()?;
            return Some(self.into_idle());
        }
        if may_go_on && self.body != BodyDecoder::Done {
            // A close under an upload would destroy the response that the client has not read yet.
            tokio::time::timeout(CUT_GRACE, self.write(&bytes)).await.ok()?.ok()?;
            Box::pin(self.discard_body()).await;
            bytes.clear();
        }
        write_and_linger(self.side.transport, &bytes).await;
        None
    }

    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<Gone> {
        if self.side.poll_gone(context, Some(&mut self.ahead)).is_ready() {
            return Poll::Ready(Gone);
        }
        if self.ahead.len() < EARLY_BYTES_MAX {
            return Poll::Pending;
        }
        self.hang_up.poll(context, self.side.transport.tcp())
    }

    fn into_idle(self) -> IdleConnection {
        IdleConnection { transport: self.side.transport, ahead: self.ahead }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.side.transport.write_all(bytes).await?;
        self.side.transport.flush().await
    }

    fn poll_body(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Result<(), ErrorReply>> {
        if !self.ahead.is_empty() {
            return Poll::Ready(self.take_ahead(out));
        }
        scratch::with(|Scratch { read, .. }| {
            let mut buffer = ReadBuf::new(read.get_mut(..BODY_READ_BYTES).unwrap_or_default());
            match ready!(Pin::new(&mut self.side.transport).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    let behind = decode_body(&mut self.body, buffer.filled(), out, &mut self.trailers)?;
                    self.ahead.extend_from_slice(behind);
                    Poll::Ready(Ok(()))
                }
                Ok(()) | Err(_) => Poll::Ready(Err(ErrorReply::ClientGone)),
            }
        })
    }

    /// Reads the rest of a body that no endpoint needs any more: closed under their upload, many clients lose the response
    /// that they have not read yet. Returns whether all of it came.
    async fn discard_body(&mut self) -> bool {
        // After `Expect` the body may never come, and a next request must not be taken for it.
        if self.expects_continue {
            return false;
        }
        let mut discarded = Vec::new();
        let all = async {
            while self.body != BodyDecoder::Done {
                discarded.clear();
                let read = poll_fn(|context| self.poll_body(context, &mut discarded));
                if !matches!(tokio::time::timeout(DISCARD_PAUSE, read).await, Ok(Ok(()))) {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(DISCARD_LIMIT, all).await.unwrap_or(false)
    }

    fn take_ahead(&mut self, out: &mut Vec<u8>) -> Result<(), ErrorReply> {
        let left = decode_body(&mut self.body, &self.ahead, out, &mut self.trailers)?.len();
        self.ahead.advance(self.ahead.len().saturating_sub(left));
        Ok(())
    }

    fn begin(&mut self, status: StatusCode, headers: &HeaderMap, length: BodyLength, out: &mut Vec<u8>) {
        self.side.framing = match length {
            BodyLength::Unknown if !self.is_http10 => Framing::Chunked,
            BodyLength::Unknown | BodyLength::Zero | BodyLength::Known => Framing::Plain,
        };
        // A client that expected an interim response has the final one, and may never send the body (RFC 9110 section
        // 10.1.1).
        self.keep_alive &= self.body == BodyDecoder::Done || !self.expects_continue;
        // In HTTP/1.0 the end of the connection is the end of a body without a length.
        self.keep_alive &= !(self.is_http10 && length == BodyLength::Unknown);
        let persistence = Persistence::of(self.keep_alive, self.is_http10);
        write_response_head(out, status, headers, self.side.framing, persistence);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;

    use super::*;
    use crate::testing::connected;

    async fn client_of(terms: Http1Terms, ahead: &[u8]) -> (TcpStream, PendingResponse) {
        let (client, proxy) = connected().await;
        let connection = IdleConnection { transport: Transport::Plain(proxy), ahead: BytesMut::from(ahead) };
        (client, PendingResponse::http1(connection, terms, None))
    }

    fn terms(body: BodyDecoder) -> Http1Terms {
        Http1Terms { body, is_http10: false, keep_alive: true, expects_continue: false }
    }

    #[tokio::test]
    async fn a_refused_request_leaves_its_connection_to_the_next() {
        let (mut client, pending) = client_of(terms(BodyDecoder::Length(2)), b"okGET /next").await;
        let response = ErrorReply::NoRoute.response().unwrap();
        let idle = pending.answer(response, ResponseBody::Whole, Reuse::Allowed).await.unwrap();
        assert_eq!(&idle.ahead[..], b"GET /next", "the body is discarded");
        drop(idle);
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(
            text.starts_with("HTTP/1.1 404 Not Found\r\n") && !text.contains("Connection: close"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_body_without_a_length_ends_the_connection_of_an_http10_client() {
        for (is_http10, length, goes_on) in [
            (false, BodyLength::Unknown, true),
            (true, BodyLength::Unknown, false),
            (true, BodyLength::Known, true),
        ] {
            let terms = Http1Terms { is_http10, ..terms(BodyDecoder::Done) };
            let (_client, mut pending) = client_of(terms, b"").await;
            pending.begin(StatusCode::OK, &HeaderMap::new(), length, &mut Vec::new()).unwrap();
            assert_eq!(pending.finish().ok().flatten().is_some(), goes_on, "{is_http10} {length:?}");
        }
    }
}
