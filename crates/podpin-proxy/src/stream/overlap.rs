//! Successor of a stream without usable ids, read beside the old upstream until both have sent the same event; then the filter
//! for what the old one sent meanwhile. What is recognised, and when to go on, is [`podpin_sse`]'s.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use podpin_endpoints::{Endpoint, Permit};
use podpin_sse::session::Meeting;
use podpin_sse::{Outstanding, Overlap};
use podpin_wire::http1::body::{BodyDecoder, Piece};

use crate::net::scratch::{self, Scratch};
use crate::stream::upstream_reader::UpstreamReader;

/// Number of reads in one turn before the old upstream and other streams get theirs.
const READS_A_TURN: usize = 4;

/// Two upstreams of one stream.
pub(crate) struct TwoUpstreams {
    overlap: Overlap,
    /// Successor; `None` if it has not answered.
    successor: Option<Beside>,
}

/// Successor that is read beside the old upstream.
pub(crate) struct Beside {
    /// The endpoint itself.
    pub endpoint: Arc<Endpoint>,
    /// The slot for the stream.
    pub permit: Permit,
    /// The response.
    pub reader: UpstreamReader,
}

/// Where the successor goes on.
pub(crate) struct Continuation {
    /// Successor, from its next bytes on.
    pub successor: Beside,
    /// Bytes that it has sent behind the event of both.
    pub rest: Vec<u8>,
    /// Events that the client has and the successor is going to send.
    pub outstanding: Outstanding,
    /// Whether an event of both was found.
    pub is_recognised: bool,
}

impl TwoUpstreams {
    /// Returns the comparison for a successor that is requested now.
    pub(crate) fn new(event_bytes_max: usize) -> TwoUpstreams {
        TwoUpstreams { overlap: Overlap::new(event_bytes_max), successor: None }
    }

    /// Takes what the client was sent of the old upstream.
    pub(crate) fn sent(&mut self, bytes: &[u8]) {
        self.overlap.sent(bytes);
    }

    /// Adds the successor, which has answered.
    pub(crate) fn add(&mut self, successor: Beside) {
        self.overlap.answered();
        self.successor = Some(successor);
    }

    /// Reads the successor, and looks whether the two have met. Pending before it has answered.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Meeting> {
        let Some(Beside { reader, .. }) = &mut self.successor else { return Poll::Pending };
        for _ in 0..READS_A_TURN {
            if self.overlap.is_recognised() {
                return Poll::Ready(Meeting::Recognised);
            }
            if !self.overlap.takes_more() {
                return Poll::Pending;
            }
            if ready!(read(&mut self.overlap, reader, context)) {
                let is_recognised = self.overlap.is_recognised();
                return Poll::Ready(if is_recognised { Meeting::Recognised } else { Meeting::Ended });
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Returns where the successor goes on; `None` if there is none.
    pub(crate) fn join(self) -> Option<Continuation> {
        let is_recognised = self.overlap.is_recognised();
        let successor = self.successor?;
        let (rest, outstanding) = self.overlap.join();
        Some(Continuation { successor, rest, outstanding, is_recognised })
    }
}

/// Reads once. Returns whether the body is over.
fn read(overlap: &mut Overlap, reader: &mut UpstreamReader, context: &mut Context<'_>) -> Poll<bool> {
    let early = reader.take_early();
    if !early.is_empty() {
        return Poll::Ready(receive(overlap, &mut reader.decoder, &early));
    }
    scratch::with(|Scratch { read, .. }| match ready!(reader.poll_read(context, read)) {
        Ok(bytes) => Poll::Ready(receive(overlap, &mut reader.decoder, bytes)),
        Err(_) => Poll::Ready(true),
    })
}

/// Removes the framing of one read. Returns whether the body is over.
fn receive(overlap: &mut Overlap, decoder: &mut BodyDecoder, mut bytes: &[u8]) -> bool {
    loop {
        match decoder.decode_padded(&mut bytes) {
            Ok(Piece::Data(data)) => overlap.received(data),
            Ok(Piece::Trailers(_)) => {}
            Ok(Piece::More) => return *decoder == BodyDecoder::Done,
            Ok(Piece::End) | Err(_) => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use podpin_wire::http1::body::FIRST_CHUNK;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::net::transport::Transport;
    use crate::testing::{Scene, connected, nowhere};

    fn beside(scene: &Scene, early: &[u8], transport: Transport) -> Beside {
        let endpoint = Arc::clone(&scene.route.service.view().snapshot.endpoints()[0]);
        let permit = endpoint.load.try_open(None).unwrap();
        let reader = UpstreamReader::new(transport, BodyDecoder::Chunked(FIRST_CHUNK), early.to_vec());
        Beside { endpoint, permit, reader }
    }

    #[tokio::test]
    async fn a_successor_is_read_until_both_have_sent_the_same_or_it_ends() {
        let scene = Scene::new(&[("b", nowhere())]);
        let (mut upstream, proxy) = connected().await;
        let mut two = TwoUpstreams::new(1_024);
        two.add(beside(&scene, b"9\r\ndata: a\n\n\r\n", Transport::Plain(proxy)));
        upstream.write_all(b"9\r\ndata: b\n\n\r\n").await.unwrap();
        two.sent(b"data: b\n\n");
        assert_eq!(poll_fn(|context| two.poll(context)).await, Meeting::Recognised);
        let Continuation { mut successor, rest, is_recognised, .. } = two.join().unwrap();
        assert_eq!((&rest[..], is_recognised), (&b""[..], true));
        successor.reader.close();
        let (upstream, proxy) = connected().await;
        drop(upstream);
        let mut two = TwoUpstreams::new(1_024);
        two.add(beside(&scene, b"", Transport::Plain(proxy)));
        assert_eq!(poll_fn(|context| two.poll(context)).await, Meeting::Ended);
    }
}
