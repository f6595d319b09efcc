//! A client that has sent a request: its body comes from here, its response goes here.
//!
//! An ordinary request keeps this until its response is complete, and gives an HTTP/1 connection back for the next request.
//! An event stream turns it into a [`StartedResponse`], which lives on in a task of its own.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use podpin_h2::End;
use podpin_wire::http1::body::BodyDecoder;
use podpin_wire::http1::encode::{Framing, Persistence, write_interim_response, write_response_head};
use tokio::io::AsyncWriteExt;

use crate::downstream::body::Downstream;
use crate::downstream::gone::Gone;
use crate::downstream::http1::{Http1Side, IdleConnection, write_and_linger};
use crate::downstream::http2::Http2Stream;
use crate::downstream::lease::{ConnectionLease, ConnectionReturn};
use crate::downstream::request_body::RequestBody;
use crate::downstream::tunnel_client::TunnelClient;
use crate::http::reply::{LocalResponse, ResponseBody};
use crate::net::transport::Transport;

/// Time that a client has for the rest of a response that is cut short.
const CUT_GRACE: Duration = Duration::from_secs(1);

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
    is_http10: bool,
    keep_alive: bool,
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
    /// The connection of HTTP/1, counted as long as the stream runs. A stream of HTTP/2 leaves its connection behind.
    pub connection: Option<ConnectionReturn>,
}

/// A client whose connection carries another protocol from now on.
pub(crate) struct SwitchedClient {
    /// The client side of the tunnel.
    pub client: TunnelClient,
    /// The head of the response, still to be written (HTTP/1).
    pub head: Vec<u8>,
    /// Bytes that the client has sent before it had the response.
    pub ahead: Vec<u8>,
}

impl PendingResponse {
    /// Returns the client of a request that came over HTTP/1.
    pub(crate) fn http1(connection: IdleConnection, terms: Http1Terms) -> PendingResponse {
        let Http1Terms { body, is_http10, keep_alive, expects_continue } = terms;
        let side = Http1Side::new(connection, body, expects_continue);
        PendingResponse::H1(Http1Pending { side, is_http10, keep_alive })
    }

    /// Lets `look` look at the transport of the connection; `None` if the connection has ended.
    pub(crate) fn transport<T>(&self, look: impl FnOnce(&Transport) -> T) -> Option<T> {
        match self {
            PendingResponse::H1(client) => Some(look(&client.side.transport)),
            PendingResponse::H2(stream) => stream.transport(look),
        }
    }

    /// Returns the body of the request.
    pub(crate) fn body(&mut self) -> RequestBody<'_> {
        match self {
            PendingResponse::H1(client) => RequestBody::H1(&mut client.side),
            PendingResponse::H2(stream) => RequestBody::H2(stream),
        }
    }

    /// Whether the whole request body was read.
    pub(crate) fn is_body_read(&self) -> bool {
        match self {
            PendingResponse::H1(client) => client.side.is_body_read(),
            PendingResponse::H2(stream) => stream.is_body_read(),
        }
    }

    /// Whether fields behind the request body are there, which need chunks though there may be no body.
    pub(crate) fn has_trailers(&self) -> bool {
        match self {
            // There are chunks already.
            PendingResponse::H1(_) => false,
            PendingResponse::H2(stream) => stream.has_trailers(),
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

    /// Polls for the client's leaving. Bytes of later requests are kept for them.
    pub(crate) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<Gone> {
        match self {
            PendingResponse::H1(client) => client.side.poll_gone(context),
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

    /// Begins a response that goes on in a task of its own, with the `lease` of an HTTP/1 connection; `None` if the client is
    /// gone.
    pub(crate) fn start(
        self,
        status: StatusCode,
        headers: &HeaderMap,
        length: BodyLength,
        lease: Option<ConnectionLease>,
    ) -> Option<StartedResponse> {
        match self {
            PendingResponse::H1(mut client) => {
                let mut head = Vec::with_capacity(512);
                client.begin(status, headers, length, &mut head);
                let connection = ConnectionReturn { lease: lease?, goes_on: client.keep_alive };
                let connection = Some(connection);
                Some(StartedResponse { downstream: Downstream::H1(client.side), head, connection })
            }
            PendingResponse::H2(mut stream) => {
                stream.write_head(status, headers, End::No).ok()?;
                Some(StartedResponse {
                    downstream: Downstream::H2(stream),
                    head: Vec::new(),
                    connection: None,
                })
            }
        }
    }

    /// Switches the protocol of the connection, or of the stream; `None` if the client is gone. Behind the returned head, which is still to be written, it carries bytes both
    /// ways; those that the client has sent already are among them.
    pub(crate) fn switch(self, headers: &HeaderMap) -> Option<SwitchedClient> {
        match self {
            PendingResponse::H1(client) => {
                let mut head = Vec::with_capacity(512);
                write_interim_response(&mut head, StatusCode::SWITCHING_PROTOCOLS, headers);
                let IdleConnection { transport, ahead } = client.side.into_idle();
                Some(SwitchedClient { client: TunnelClient::Socket(transport), head, ahead: ahead.into() })
            }
            PendingResponse::H2(mut stream) => {
                // RFC 8441 section 5: what 101 is there is 200 here.
                stream.write_head(StatusCode::OK, headers, End::No).ok()?;
                Some(SwitchedClient {
                    client: TunnelClient::Stream(stream),
                    head: Vec::new(),
                    ahead: Vec::new(),
                })
            }
        }
    }

    /// Whether [`PendingResponse::frame`] changes anything about body bytes.
    pub(crate) fn is_framed(&self) -> bool {
        match self {
            PendingResponse::H1(client) => client.side.framing == Framing::Chunked,
            PendingResponse::H2(_) => false,
        }
    }

    /// Appends body bytes as they are framed for the client.
    pub(crate) fn frame(&self, data: &[u8], out: &mut Vec<u8>) {
        match self {
            PendingResponse::H1(client) => client.side.frame_into(data, out),
            PendingResponse::H2(_) => out.extend_from_slice(data),
        }
    }

    /// Ends the response body with these fields behind it, where the client's framing has a place for them, and appends to
    /// `out` what has to be written for that.
    pub(crate) fn end_body(&mut self, trailers: HeaderMap, out: &mut Vec<u8>) {
        match self {
            PendingResponse::H1(client) => client.side.end_body(&trailers, out),
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
            PendingResponse::H1(client) if !client.side.is_body_read() => Err(Box::new(client)),
            PendingResponse::H1(client) if client.keep_alive => Ok(Some(client.side.into_idle())),
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

    /// Ends a response of HTTP/2 early, in words: with `trailers` behind what the client has not taken, `unsent`. Any other
    /// client has no place for them, and the response is cut.
    pub(crate) async fn end_with(self, unsent: &[u8], trailers: HeaderMap) {
        match self {
            PendingResponse::H2(stream) => stream.finish_behind(unsent, trailers, CUT_GRACE).await,
            client @ PendingResponse::H1(_) => client.cut(unsent).await,
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
    pub(crate) async fn finish_unread(self) -> Option<IdleConnection> {
        self.side.finish_unread(self.keep_alive).await
    }

    async fn answer(
        mut self,
        response: &LocalResponse,
        body: ResponseBody,
        reuse: Reuse,
    ) -> Option<IdleConnection> {
        // A body of which all was read with the head costs nothing to discard.
        let is_discarded = self.side.body_at_hand(&mut Vec::new()).is_ok();
        let may_go_on = reuse == Reuse::Allowed && is_discarded;
        let goes_on = may_go_on && self.keep_alive && self.side.is_body_read();
        let mut bytes = response.http1(Persistence::of(goes_on, self.is_http10), body);
        if goes_on {
            // Only a client that pipelines requests and never reads can run into this timeout.
            tokio::time::timeout(CUT_GRACE, self.write(&bytes)).await.ok()?.ok()?;
            return Some(self.side.into_idle());
        }
        if may_go_on && !self.side.is_body_read() {
            // A close under an upload would destroy the response that the client has not read yet.
            tokio::time::timeout(CUT_GRACE, self.write(&bytes)).await.ok()?.ok()?;
            Box::pin(self.side.discard_body()).await;
            bytes.clear();
        }
        write_and_linger(self.side.transport, &bytes).await;
        None
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.side.transport.write_all(bytes).await?;
        self.side.transport.flush().await
    }

    fn begin(&mut self, status: StatusCode, headers: &HeaderMap, length: BodyLength, out: &mut Vec<u8>) {
        self.side.framing = match length {
            BodyLength::Unknown if !self.is_http10 => Framing::Chunked,
            BodyLength::Unknown | BodyLength::Zero | BodyLength::Known => Framing::Plain,
        };
        // A client that expected an interim response has the final one, and may never send the body (RFC 9110 section
        // 10.1.1).
        self.keep_alive &= !self.side.awaits_continue();
        // In HTTP/1.0 the end of the connection is the end of a body without a length.
        self.keep_alive &= !(self.is_http10 && length == BodyLength::Unknown);
        let persistence = Persistence::of(self.keep_alive, self.is_http10);
        write_response_head(out, status, headers, self.side.framing, persistence);
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;

    use super::*;
    use crate::http::reply::ErrorReply;
    use crate::testing::connected;

    async fn client_of(terms: Http1Terms, ahead: &[u8]) -> (TcpStream, PendingResponse) {
        let (client, proxy) = connected().await;
        let connection = IdleConnection { transport: Transport::Plain(proxy), ahead: BytesMut::from(ahead) };
        (client, PendingResponse::http1(connection, terms))
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
