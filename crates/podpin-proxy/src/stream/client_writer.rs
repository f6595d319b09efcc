//! Client's side of a relay: writes the response body, keeps what the client does not take, notices that it left.

use std::task::{Context, Poll};

use http::HeaderMap;
use podpin_sse::session::{Client, ResponseBody};
use podpin_wire::http1::encode::CHUNK_PREFIX_BYTES;

use crate::downstream::body::{Downstream, Gone};
use crate::downstream::http1::Http1Side;
use crate::downstream::request_body::RequestBody;
use crate::net::peer::Peer;

/// Response body of one stream, with the bytes that the client has not taken.
pub(crate) struct ClientWriter {
    /// Response body; `None` if it is closed.
    downstream: Option<Downstream>,
    /// Framed bytes that the client has not taken.
    unsent: Vec<u8>,
    /// Number of bytes of `unsent` that it has taken after all.
    taken: usize,
    /// Fields to be sent behind the body, where it ends as its upstream's did; `None` if there are none.
    trailers: Option<Box<HeaderMap>>,
}

/// Result of [`ClientWriter::flush`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flushed {
    /// State of the client's side.
    pub client: Client,
    /// Whether the client took any bytes.
    pub took_bytes: bool,
}

impl ClientWriter {
    /// Begins with the response head, still to be written.
    pub(crate) fn new(downstream: Downstream, head: Vec<u8>) -> ClientWriter {
        ClientWriter { downstream: Some(downstream), unsent: head, taken: 0, trailers: None }
    }

    /// Writes what is left to be written.
    pub(crate) fn flush(&mut self, context: &mut Context<'_>) -> Flushed {
        let mut took_bytes = false;
        let Some(downstream) = &mut self.downstream else {
            return Flushed { client: Client::Gone, took_bytes };
        };
        while let Some(rest) = self.unsent.get(self.taken..).filter(|rest| !rest.is_empty()) {
            match downstream.poll_write(context, rest) {
                Poll::Ready(Ok(count)) => {
                    self.taken += count;
                    took_bytes = true;
                }
                Poll::Ready(Err(Gone)) => return Flushed { client: Client::Gone, took_bytes },
                Poll::Pending => return Flushed { client: blocked(downstream, context), took_bytes },
            }
        }
        if self.taken > 0 {
            (self.unsent, self.taken) = (Vec::new(), 0);
        }
        if !downstream.holds_bytes() {
            return Flushed { client: Client::Ready, took_bytes };
        }
        match downstream.poll_flush(context) {
            Poll::Ready(Ok(())) => Flushed { client: Client::Ready, took_bytes: true },
            Poll::Ready(Err(Gone)) => Flushed { client: Client::Gone, took_bytes },
            Poll::Pending => Flushed { client: blocked(downstream, context), took_bytes },
        }
    }

    /// Looks whether a client that has taken everything is still there.
    pub(crate) fn watch(&mut self, context: &mut Context<'_>) -> Client {
        let Some(downstream) = &mut self.downstream else { return Client::Gone };
        if downstream.poll_gone(context).is_ready() {
            return Client::Gone;
        }
        // Reading may have called for an answer of TLS itself; if it does not go at once, its waker is set.
        if downstream.holds_bytes() && downstream.poll_flush(context) == Poll::Ready(Err(Gone)) {
            return Client::Gone;
        }
        if downstream.holds_bytes() { Client::Blocked } else { Client::Ready }
    }

    /// Returns the body of the client's request; `None` if its side is closed.
    pub(crate) fn request_body(&mut self) -> Option<RequestBody<'_>> {
        self.downstream.as_mut().map(Downstream::request_body)
    }

    /// Returns the state of the client, as far as its connection tells.
    pub(crate) fn peer(&self) -> Peer {
        self.downstream.as_ref().map_or(Peer::Behind, Downstream::peer)
    }

    /// Sends `out[CHUNK_PREFIX_BYTES..]`, framed in place, and keeps what the client does not take at once: then it is
    /// [`Client::Blocked`]. A client that is gone is noticed by the next [`ClientWriter::flush`].
    pub(crate) fn send(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>) -> Client {
        let Some(downstream) = &mut self.downstream else { return Client::Gone };
        let mut from = downstream.frame(out);
        while let Some(rest) = out.get(from..).filter(|rest| !rest.is_empty()) {
            match downstream.poll_write(context, rest) {
                Poll::Ready(Ok(count)) => from += count,
                Poll::Ready(Err(Gone)) | Poll::Pending => {
                    self.unsent.extend_from_slice(rest);
                    return Client::Blocked;
                }
            }
        }
        if downstream.holds_bytes() { Client::Blocked } else { Client::Ready }
    }

    /// Adds bytes to the body that are written with the next [`ClientWriter::flush`].
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        let Some(downstream) = self.downstream.as_ref().filter(|_| !bytes.is_empty()) else { return };
        let mut piece = vec![0; CHUNK_PREFIX_BYTES];
        piece.extend_from_slice(bytes);
        let from = downstream.frame(&mut piece);
        self.unsent.extend_from_slice(piece.get(from..).unwrap_or_default());
    }

    /// Sets the fields behind the body of the present upstream.
    pub(crate) fn set_trailers(&mut self, trailers: HeaderMap) {
        self.trailers = Some(trailers).filter(|fields| !fields.is_empty()).map(Box::new);
    }

    /// Adds the end of a complete body with the fields behind it, written with the next [`ClientWriter::flush`].
    pub(crate) fn append_end(&mut self) {
        let trailers = self.trailers.take().map(|fields| *fields).unwrap_or_default();
        if let Some(downstream) = &mut self.downstream {
            downstream.end_body(trailers, &mut self.unsent);
        }
    }

    /// Closes the body. One that is not clean ends so that the client notices. Returns the socket of HTTP/1, behind a clean
    /// end.
    pub(crate) fn close(&mut self, body: ResponseBody) -> Option<Http1Side> {
        let downstream = self.downstream.take()?;
        match body {
            ResponseBody::Clean => downstream.finish(),
            ResponseBody::Broken | ResponseBody::Cut => {
                downstream.abort();
                None
            }
        }
    }
}

/// Returns the state of a client that does not take its bytes: it may have left instead.
fn blocked(downstream: &mut Downstream, context: &mut Context<'_>) -> Client {
    if downstream.poll_gone(context).is_ready() { Client::Gone } else { Client::Blocked }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use podpin_wire::http1::encode::Framing;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;

    use super::*;
    use crate::testing::{connected, http1_side};

    async fn writer(preface: &[u8]) -> (ClientWriter, TcpStream) {
        let (client, proxy) = connected().await;
        let mut side = http1_side(proxy);
        side.framing = Framing::Chunked;
        let downstream = Downstream::H1(side);
        let mut writer = ClientWriter::new(downstream, b"HEAD\r\n\r\n".to_vec());
        writer.append(preface);
        (writer, client)
    }

    fn piece(bytes: &[u8]) -> Vec<u8> {
        [&[0; CHUNK_PREFIX_BYTES], bytes].concat()
    }

    /// Sends until the client takes no more; returns how many bytes that were.
    async fn fill(writer: &mut ClientWriter) -> usize {
        let mut sent = 0;
        poll_fn(|context| {
            while writer.send(context, &mut piece(&[b'x'; 64 * 1024])) == Client::Ready {
                sent += 64 * 1024;
            }
            Poll::Ready(())
        })
        .await;
        sent + 64 * 1024
    }

    #[tokio::test]
    async fn head_preface_pieces_and_end_come_in_their_order() {
        let (mut writer, mut client) = writer(b"retry: 5\n\n").await;
        let flushed = poll_fn(|context| Poll::Ready(writer.flush(context))).await;
        assert_eq!(flushed, Flushed { client: Client::Ready, took_bytes: true });
        let sent = poll_fn(|context| Poll::Ready(writer.send(context, &mut piece(b"data: a\n\n")))).await;
        assert_eq!(sent, Client::Ready);
        writer.append_end();
        poll_fn(|context| Poll::Ready(writer.flush(context))).await;
        let socket = writer.close(ResponseBody::Clean);
        assert!(socket.is_some(), "it may carry another request");
        drop(socket);
        let mut read = String::new();
        client.read_to_string(&mut read).await.unwrap();
        let body: String = read.strip_prefix("HEAD\r\n\r\n").unwrap().to_owned();
        let chunks: Vec<&str> = body.split("\r\n").filter(|line| !line.is_empty()).collect();
        assert_eq!(chunks.len(), 5, "{body:?}");
        assert_eq!((chunks[1], chunks[3], chunks[4]), ("retry: 5\n\n", "data: a\n\n", "0"));
    }

    #[tokio::test]
    async fn bytes_that_a_client_does_not_take_are_kept_and_written_later() {
        let (mut writer, mut client) = writer(b"").await;
        let sent = fill(&mut writer).await;
        let flushed = poll_fn(|context| Poll::Ready(writer.flush(context))).await;
        assert_eq!(flushed.client, Client::Blocked);
        let (reader, flusher) = (
            async move {
                let mut count = 0;
                let mut bytes = vec![0; 64 * 1024];
                while count < sent {
                    count += client.read(&mut bytes).await.unwrap();
                }
                client
            },
            poll_fn(|context| match writer.flush(context).client {
                Client::Blocked => Poll::Pending,
                client => Poll::Ready(client),
            }),
        );
        let (client, state) = tokio::join!(reader, flusher);
        assert_eq!(state, Client::Ready);
        drop(client);
    }

    #[tokio::test]
    async fn a_client_that_left_is_noticed_whether_or_not_bytes_wait() {
        for fills in [false, true] {
            let (mut writer, client) = writer(b"").await;
            if fills {
                fill(&mut writer).await;
            } else {
                poll_fn(|context| Poll::Ready(writer.flush(context))).await;
            }
            drop(client);
            poll_fn(|context| {
                let Flushed { client, .. } = writer.flush(context);
                let client = if client == Client::Ready { writer.watch(context) } else { client };
                if client == Client::Gone { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }

    #[tokio::test]
    async fn a_broken_body_has_no_end() {
        let (mut writer, mut client) = writer(b"").await;
        poll_fn(|context| Poll::Ready(writer.flush(context))).await;
        assert!(writer.close(ResponseBody::Broken).is_none());
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"HEAD\r\n\r\n");
    }
}
