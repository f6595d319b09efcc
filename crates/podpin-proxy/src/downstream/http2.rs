//! The client side over HTTP/2: one stream, from its request head to the end of its response.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::StatusCode;
use http::header::HeaderMap;
use podpin_h2::{End, Field, SendError, StreamId};

use crate::downstream::gone::{Gone, LINGER};
use crate::downstream::http2_connection::Http2Connection;
use crate::downstream::http2_stream_state::RequestProgress;
use crate::http::reply::{ErrorReply, LocalResponse, ResponseBody};
use crate::net::peer::Peer;
use crate::net::transport::Transport;

/// Bytes beyond which a piece is written from where it stands; less is gathered with what other streams send in this turn.
const LARGE: usize = 4 * 1024;

/// A stream of an HTTP/2 connection. Dropped before its response is complete, it is reset.
pub(crate) struct Http2Stream {
    connection: Arc<Http2Connection>,
    id: StreamId,
    /// Fields behind the response body; `None` if there are none.
    trailers: Option<Box<HeaderMap>>,
}

impl Http2Stream {
    /// Returns the stream of a number.
    pub(crate) fn new(connection: Arc<Http2Connection>, id: StreamId) -> Http2Stream {
        Http2Stream { connection, id, trailers: None }
    }

    /// Lets `look` look at the transport of the connection; `None` if that has ended.
    pub(crate) fn transport<T>(&self, look: impl FnOnce(&Transport) -> T) -> Option<T> {
        self.connection.lock().transport().map(look)
    }

    /// Returns the state of the client, as far as its connection tells.
    pub(crate) fn peer(&self) -> Peer {
        let connection = self.connection.lock();
        // Bytes that the kernel does not have cannot have been acknowledged.
        let transport = connection.transport().filter(|_| !connection.holds_output());
        transport.map_or(Peer::Behind, |transport| Peer::of(transport.tcp()))
    }

    /// Whether the whole request body was taken.
    pub(crate) fn is_body_read(&self) -> bool {
        let mut connection = self.connection.lock();
        let stream = connection.stream_state(self.id);
        stream.is_none_or(|stream| stream.request == RequestProgress::Complete && stream.body.is_empty())
    }

    /// Whether fields behind the request body are there.
    pub(crate) fn has_trailers(&self) -> bool {
        self.connection.lock().stream_state(self.id).is_some_and(|stream| !stream.trailers.is_empty())
    }

    /// Appends bytes of the request body, or notes its end: then there are none.
    pub(crate) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Result<(), ErrorReply>> {
        let mut connection = self.connection.lock();
        let Some(stream) = connection.stream_state(self.id).filter(|stream| !stream.is_gone) else {
            return Poll::Ready(Err(ErrorReply::ClientGone));
        };
        if stream.body.is_empty() {
            return match stream.request {
                RequestProgress::Complete => Poll::Ready(Ok(())),
                RequestProgress::Refused(reply) => Poll::Ready(Err(reply)),
                RequestProgress::Open => {
                    stream.wake_later(context);
                    Poll::Pending
                }
            };
        }
        let count = stream.body.len();
        if out.is_empty() {
            std::mem::swap(out, &mut stream.body);
        } else {
            out.append(&mut stream.body);
        }
        connection.send(self.id, |stream| stream.consumed(count));
        Poll::Ready(Ok(()))
    }

    /// Reads bytes of the request body into `buffer`; returns how many, none at its end.
    ///
    /// # Errors
    /// [`Gone`] if the stream was reset or broke a rule, or its connection has ended.
    pub(crate) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize, Gone>> {
        let mut connection = self.connection.lock();
        let Some(stream) = connection.stream_state(self.id).filter(|stream| !stream.is_gone) else {
            return Poll::Ready(Err(Gone));
        };
        if stream.body.is_empty() {
            return match stream.request {
                RequestProgress::Complete => Poll::Ready(Ok(0)),
                RequestProgress::Refused(_) => Poll::Ready(Err(Gone)),
                RequestProgress::Open => {
                    stream.wake_later(context);
                    Poll::Pending
                }
            };
        }
        let count = stream.body.len().min(buffer.len());
        if let (Some(taken), Some(place)) = (stream.body.get(..count), buffer.get_mut(..count)) {
            place.copy_from_slice(taken);
        }
        if count == stream.body.len() {
            stream.body = Vec::new();
        } else {
            stream.body.drain(..count);
        }
        connection.send(self.id, |stream| stream.consumed(count));
        Poll::Ready(Ok(count))
    }

    /// Ends what goes to the client, with the trailers if there are any; it may go on sending.
    pub(crate) fn end(&mut self) -> Result<(), Gone> {
        let mut connection = self.connection.lock();
        let trailers = self.trailers.as_deref();
        let ended = connection.send(self.id, |stream| match trailers {
            Some(trailers) => stream.trailers(fields(trailers)),
            None => stream.data(&[], End::Yes).map(drop),
        });
        match (ended, connection.stream_state(self.id)) {
            (Some(Ok(())), Some(stream)) => {
                stream.is_answered = true;
                Ok(())
            }
            _ => Err(Gone),
        }
    }

    /// Whether the response was ended.
    pub(crate) fn is_ended(&self) -> bool {
        self.connection.lock().stream_state(self.id).is_none_or(|stream| stream.is_answered)
    }

    /// Takes out the lines of the request's trailer section.
    pub(crate) fn take_trailers(&self) -> Vec<u8> {
        let mut connection = self.connection.lock();
        connection
            .stream_state(self.id)
            .map(|stream| std::mem::take(&mut stream.trailers))
            .unwrap_or_default()
    }

    /// Sets the fields that [`Http2Stream::finish`] sends behind the body.
    pub(crate) fn set_trailers(&mut self, trailers: HeaderMap) {
        self.trailers = Some(trailers).filter(|fields| !fields.is_empty()).map(Box::new);
    }

    /// Polls for a reset of the stream, or the end of its connection.
    pub(crate) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<Gone> {
        match self.connection.lock().stream_state(self.id) {
            Some(stream) if !stream.is_gone => {
                stream.wake_later(context);
                Poll::Pending
            }
            _ => Poll::Ready(Gone),
        }
    }

    /// Writes an interim response (RFC 9110 section 15.2).
    pub(crate) fn write_interim(&mut self, status: StatusCode, headers: &HeaderMap) -> Result<(), Gone> {
        sent(self.connection.lock().send(self.id, |stream| stream.interim(status.as_u16(), fields(headers))))
    }

    /// Writes the response head, which is all of the response with [`End::Yes`].
    pub(crate) fn write_head(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        end: End,
    ) -> Result<(), Gone> {
        let mut connection = self.connection.lock();
        sent(connection.send(self.id, |stream| stream.head(status.as_u16(), fields(headers), end)))?;
        if end == End::Yes
            && let Some(stream) = connection.stream_state(self.id)
        {
            stream.is_answered = true;
        }
        Ok(())
    }

    /// Writes what the client's windows take now; returns how much, at least one byte.
    pub(crate) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Gone>> {
        let mut connection = self.connection.lock();
        let sent = if bytes.len() > LARGE {
            connection.send_large(self.id, bytes)
        } else {
            connection.send(self.id, |stream| stream.data(bytes, End::No).ok()).flatten()
        };
        match sent {
            Some(0) => {}
            Some(count) => return Poll::Ready(Ok(count)),
            None => return Poll::Ready(Err(Gone)),
        }
        match connection.stream_state(self.id) {
            Some(stream) => {
                stream.wake_later(context);
                Poll::Pending
            }
            None => Poll::Ready(Err(Gone)),
        }
    }

    /// Ends the response well.
    pub(crate) fn finish(mut self) {
        if self.end().is_err() {
            tracing::debug!("the client left before the end of its response");
        }
    }

    /// Ends the response so that the client can tell it is not complete: with a reset behind all that was written.
    pub(crate) fn abort(self) {}

    /// Sends a response of the proxy.
    pub(crate) async fn answer(mut self, response: LocalResponse, body: ResponseBody) {
        let mut headers = response.standard_headers();
        headers.extend(response.headers);
        let is_whole = body == ResponseBody::Omitted || response.body.is_empty();
        let end = if is_whole { End::Yes } else { End::No };
        if self.write_head(response.status, &headers, end).is_err() || is_whole {
            return;
        }
        if tokio::time::timeout(LINGER, self.write_all(response.body.as_bytes())).await == Ok(Ok(())) {
            self.finish();
        } else {
            tracing::debug!("the client left before its response");
        }
    }

    /// Writes all bytes that the client takes within `limit`, and then aborts.
    pub(crate) async fn abort_behind(mut self, bytes: &[u8], limit: Duration) {
        if tokio::time::timeout(limit, self.write_all(bytes)).await.is_err() {
            tracing::debug!("a client did not take the end of its response");
        }
    }

    /// Writes all bytes that the client takes within `limit`, and then ends the response with these fields.
    pub(crate) async fn finish_behind(mut self, bytes: &[u8], trailers: HeaderMap, limit: Duration) {
        if let Ok(Ok(())) = tokio::time::timeout(limit, self.write_all(bytes)).await {
            self.set_trailers(trailers);
            self.finish();
        } else {
            tracing::debug!("a client did not take the end of its response");
        }
    }

    async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let count = poll_fn(|context| self.poll_write(context, bytes)).await?;
            bytes = bytes.get(count..).unwrap_or_default();
        }
        Ok(())
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        self.connection.lock().release(self.id);
    }
}

/// Returns whether a head went out; the stream may be gone.
fn sent(sent: Option<Result<(), SendError>>) -> Result<(), Gone> {
    match sent {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => {
            tracing::debug!(%error, "a response was not sent");
            Err(Gone)
        }
        None => Err(Gone),
    }
}

fn fields(headers: &HeaderMap) -> impl Iterator<Item = Field<'_>> {
    headers.iter().map(|(name, value)| Field { name: name.as_str().as_bytes(), value: value.as_bytes() })
}
