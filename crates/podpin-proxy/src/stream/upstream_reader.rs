//! Upstream's side of a relay: the connection, and where its body is in the HTTP framing.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use podpin_sse::session::{Fault, UpstreamEnd};
use podpin_wire::http1::body::BodyDecoder;
use tokio::io::{AsyncRead, ReadBuf};

use crate::net::transport::Transport;
use crate::upstream::http2::{PodFault, PodStream};

/// Connection to the upstream, from the beginning of the response body on.
pub(crate) struct UpstreamReader {
    connection: Connection,
    /// Position in the framing of the body.
    pub decoder: BodyDecoder,
    /// Body bytes that came with the response head.
    early: Vec<u8>,
}

/// Connection to the upstream, in the layout of an optional one.
enum Connection {
    /// Open connection of HTTP/1.1.
    Open(Transport),
    /// Stream of an HTTP/2 connection.
    Http2(Box<PodReader>),
    /// Connection that failed while it was read along: the system reports a reset once, and a clean end after it.
    Reset,
    /// None: a successor is awaited, or the stream ends.
    Closed,
}

/// Body on a stream of HTTP/2.
struct PodReader {
    pod: PodStream,
    /// Bytes that came and did not fit.
    rest: Bytes,
}

/// Side of the upstream that takes the rest of a request.
pub(crate) enum UpstreamWriter<'a> {
    /// Connection of HTTP/1.1.
    Http1(&'a mut Transport),
    /// Stream of an HTTP/2 connection.
    Http2(&'a mut PodStream),
}

impl PodReader {
    fn poll_read<'b>(
        &mut self,
        context: &mut Context<'_>,
        buffer: &'b mut [u8],
    ) -> Poll<Result<&'b [u8], UpstreamEnd>> {
        // Empty frames say nothing.
        while self.rest.is_empty() {
            self.rest = match ready!(self.pod.poll_data(context)) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Poll::Ready(Err(UpstreamEnd::Clean)),
                Err(PodFault::Malformed(_)) => {
                    return Poll::Ready(Err(UpstreamEnd::Broken(Fault::Malformed)));
                }
                Err(_) => return Poll::Ready(Err(UpstreamEnd::Broken(Fault::Reset))),
            };
        }
        let piece = self.rest.split_to(self.rest.len().min(buffer.len()));
        let Some(filled) = buffer.get_mut(..piece.len()) else { return Poll::Pending };
        filled.copy_from_slice(&piece);
        Poll::Ready(Ok(filled))
    }
}

impl UpstreamReader {
    /// Begins with the body on a stream of HTTP/2; `ends` if there is none.
    pub(crate) fn of_http2(pod: PodStream, ends: bool) -> UpstreamReader {
        let decoder = if ends { BodyDecoder::Done } else { BodyDecoder::UntilClose };
        let reader = Box::new(PodReader { pod, rest: Bytes::new() });
        UpstreamReader { connection: Connection::Http2(reader), decoder, early: Vec::new() }
    }

    /// Begins with a body, of which `early` was read together with the head.
    pub(crate) fn new(transport: Transport, decoder: BodyDecoder, early: Vec<u8>) -> UpstreamReader {
        UpstreamReader { connection: Connection::Open(transport), decoder, early }
    }

    /// Returns whether the response has no body at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.decoder == BodyDecoder::Done && self.early.is_empty()
    }

    /// Returns the connection, for the rest of the request; `None` if there is none any more.
    pub(crate) fn writer(&mut self) -> Option<UpstreamWriter<'_>> {
        match &mut self.connection {
            Connection::Open(transport) => Some(UpstreamWriter::Http1(transport)),
            Connection::Http2(reader) => Some(UpstreamWriter::Http2(&mut reader.pod)),
            Connection::Reset | Connection::Closed => None,
        }
    }

    /// Takes the bytes that came with the response head; empty after the first call.
    pub(crate) fn take_early(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.early)
    }

    /// Reads once into `buffer`. Returns the bytes, or the end of the body.
    pub(crate) fn poll_read<'b>(
        &mut self,
        context: &mut Context<'_>,
        buffer: &'b mut [u8],
    ) -> Poll<Result<&'b [u8], UpstreamEnd>> {
        let transport = match &mut self.connection {
            Connection::Open(transport) => transport,
            Connection::Http2(_) if self.decoder == BodyDecoder::Done => {
                return Poll::Ready(Err(UpstreamEnd::Clean));
            }
            Connection::Http2(reader) => return reader.poll_read(context, buffer),
            Connection::Reset => return Poll::Ready(Err(UpstreamEnd::Broken(Fault::Reset))),
            Connection::Closed => return Poll::Pending,
        };
        if self.decoder == BodyDecoder::Done {
            return Poll::Ready(Err(UpstreamEnd::Clean));
        }
        let mut filled = ReadBuf::new(&mut *buffer);
        let read = ready!(Pin::new(transport).poll_read(context, &mut filled));
        Poll::Ready(match (read, filled.filled().len()) {
            (Err(_), _) => Err(UpstreamEnd::Broken(Fault::Reset)),
            (Ok(()), 0) if self.decoder.ends_at_close() => Err(UpstreamEnd::Clean),
            (Ok(()), 0) => Err(UpstreamEnd::Broken(Fault::Truncated)),
            (Ok(()), count) => Ok(buffer.get(..count).unwrap_or_default()),
        })
    }

    /// Returns the end of the body as it is for an event stream: a close is the end of some bodies, but no endpoint ends its
    /// stream within an event.
    pub(crate) fn judge_end(&self, end: UpstreamEnd, is_within_event: bool) -> UpstreamEnd {
        // HTTP/2 has a word for the end.
        let is_told = matches!(self.connection, Connection::Http2(_)) || self.decoder == BodyDecoder::Done;
        let is_torn = is_within_event && self.decoder.ends_at_close() && !is_told;
        match end {
            UpstreamEnd::Clean if is_torn => UpstreamEnd::Broken(Fault::Truncated),
            end => end,
        }
    }

    /// Appends to `early` the bytes that are there at once; an end or an error is what the next read returns.
    pub(crate) fn read_along(&mut self, context: &mut Context<'_>, early: &mut Vec<u8>, buffer: &mut [u8]) {
        let transport = match &mut self.connection {
            Connection::Open(transport) => transport,
            Connection::Http2(reader) => {
                // An end or an error is told again.
                if let Poll::Ready(Ok(bytes)) = reader.poll_read(context, buffer) {
                    early.extend_from_slice(bytes);
                }
                return;
            }
            Connection::Reset | Connection::Closed => return,
        };
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(transport).poll_read(context, &mut buffer) {
            Poll::Ready(Ok(())) => early.extend_from_slice(buffer.filled()),
            Poll::Ready(Err(_)) => self.connection = Connection::Reset,
            Poll::Pending => {}
        }
    }

    /// Whether there is no connection any more.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.connection, Connection::Closed)
    }

    /// Closes the connection, if there is one.
    pub(crate) fn close(&mut self) {
        match std::mem::replace(&mut self.connection, Connection::Closed) {
            Connection::Open(transport) => transport.close(),
            // Cancelled with its last handle.
            Connection::Http2(_) | Connection::Reset | Connection::Closed => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use podpin_wire::http1::body::FIRST_CHUNK;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpStream;

    use super::*;
    use crate::testing::connected;

    async fn reader(decoder: BodyDecoder) -> (UpstreamReader, TcpStream) {
        let (upstream, proxy) = connected().await;
        (UpstreamReader::new(Transport::Plain(proxy), decoder, b"early".to_vec()), upstream)
    }

    async fn read(reader: &mut UpstreamReader) -> Result<Vec<u8>, UpstreamEnd> {
        let mut buffer = [0; 64];
        poll_fn(|context| reader.poll_read(context, &mut buffer).map_ok(<[u8]>::to_vec)).await
    }

    #[tokio::test]
    async fn an_end_is_clean_only_where_the_framing_says_so() {
        let table = [
            (BodyDecoder::UntilClose, UpstreamEnd::Clean),
            (BodyDecoder::Done, UpstreamEnd::Clean),
            (BodyDecoder::Length(3), UpstreamEnd::Broken(Fault::Truncated)),
            (BodyDecoder::Chunked(FIRST_CHUNK), UpstreamEnd::Broken(Fault::Truncated)),
        ];
        for (decoder, end) in table {
            let (mut reader, upstream) = reader(decoder).await;
            drop(upstream);
            assert_eq!(read(&mut reader).await, Err(end), "{decoder:?}");
        }
    }

    #[tokio::test]
    async fn a_reset_is_a_fault() {
        let (mut reader, upstream) = reader(BodyDecoder::UntilClose).await;
        socket2::SockRef::from(&upstream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(upstream);
        assert_eq!(read(&mut reader).await, Err(UpstreamEnd::Broken(Fault::Reset)));
    }

    #[tokio::test]
    async fn a_reset_behind_early_bytes_is_no_clean_end() {
        let (mut reader, upstream) = reader(BodyDecoder::UntilClose).await;
        socket2::SockRef::from(&upstream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(upstream);
        let Connection::Open(Transport::Plain(socket)) = &reader.connection else {
            unreachable!("made above")
        };
        socket.readable().await.unwrap();
        let (mut early, mut buffer) = (reader.take_early(), [0; 64]);
        // The system reports a reset once; the next read would be a clean end.
        poll_fn(|context| {
            reader.read_along(context, &mut early, &mut buffer);
            Poll::Ready(())
        })
        .await;
        assert_eq!(&early[..], b"early");
        assert_eq!(read(&mut reader).await, Err(UpstreamEnd::Broken(Fault::Reset)));
    }

    #[tokio::test]
    async fn bytes_that_came_with_the_head_come_first_and_once() {
        let (mut reader, mut upstream) = reader(BodyDecoder::UntilClose).await;
        assert!(!reader.is_empty());
        upstream.write_all(b"late").await.unwrap();
        upstream.shutdown().await.unwrap();
        let mut early = reader.take_early();
        let mut buffer = [0; 64];
        poll_fn(|context| {
            reader.read_along(context, &mut early, &mut buffer);
            if early.len() < 9 { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        assert_eq!((&early[..], &reader.take_early()[..]), (&b"earlylate"[..], &b""[..]));
        assert_eq!(read(&mut reader).await, Err(UpstreamEnd::Clean));
    }
}
