//! The body of a request on its way into a stream of HTTP/2, with a copy for another attempt as long as nothing was answered.
//!
//! Bytes that the endpoint does not take are kept, and nothing more is read from the client until they are gone.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use podpin_time::Millis;

use crate::clock;
use crate::downstream::request_body::RequestBody;
use crate::http::reply::ErrorReply;
use crate::upstream::http2::PodStream;
use crate::upstream::upload::{BlockedOn, REPLAY_BYTES_MAX, TrailerRule, read_trailers};

/// The body of a request, as far as it was sent.
pub(crate) struct PodUpload {
    /// Bytes that the endpoint has not taken.
    unsent: Bytes,
    /// Fields behind the body, once all of it was read.
    trailers: Option<Box<HeaderMap>>,
    /// Rule for the fields behind the body.
    rule: TrailerRule,
    /// All of the body that was read so far; `None` if it is not needed again.
    replay: Option<BytesMut>,
    /// Whether all of the body was read.
    is_read: bool,
    /// Whether all of it was sent, or the endpoint takes no more.
    is_over: bool,
    /// Moment at which something of the body last moved.
    moved: Millis,
}

impl PodUpload {
    /// Returns the upload of a request of which only the head was read; `is_read` if that is all of it. Fields behind its body pass
    /// by `rule`.
    pub(crate) fn new(is_read: bool, rule: TrailerRule) -> PodUpload {
        PodUpload {
            unsent: Bytes::new(),
            trailers: None,
            rule,
            replay: Some(BytesMut::new()),
            is_read,
            is_over: is_read,
            moved: clock::now(),
        }
    }

    /// Returns the upload for another stream; `None` if the body is not kept.
    pub(crate) fn again(self) -> Option<PodUpload> {
        let replay = self.replay?;
        let is_over = self.is_read && replay.is_empty() && self.trailers.is_none();
        let (unsent, moved) = (Bytes::from(replay.clone()), clock::now());
        Some(PodUpload { unsent, replay: Some(replay), is_over, moved, ..self })
    }

    /// Whether [`PodUpload::again`] would return one.
    pub(crate) fn may_be_repeated(&self) -> bool {
        self.replay.is_some()
    }

    /// Whether nothing of the request is left to be sent.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Gives up the copy: the request was answered.
    pub(crate) fn forget(&mut self) {
        self.replay = None;
    }

    /// Returns the moment at which something of the body last moved.
    pub(crate) fn moved(&self) -> Millis {
        self.moved
    }

    /// Sends what there is of the body; returns the side that the rest waits for.
    ///
    /// # Errors
    /// [`ErrorReply::ClientGone`], and what is wrong with a body.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut body: RequestBody<'_>,
        pod: &mut PodStream,
    ) -> Result<BlockedOn, ErrorReply> {
        while !self.is_over {
            if !self.unsent.is_empty() || self.is_read {
                if self.poll_send(context, pod).is_pending() {
                    return Ok(BlockedOn::Upstream);
                }
                continue;
            }
            if !body.is_read() {
                let mut read = Vec::new();
                match body.poll(context, &mut read) {
                    Poll::Ready(result) => result?,
                    Poll::Pending => return Ok(BlockedOn::Client),
                }
                self.moved = clock::now();
                self.keep(&read);
                self.unsent = Bytes::from(read);
            }
            if body.is_read() {
                let trailers = read_trailers(&mut body, Some(&self.rule))?;
                self.trailers = Some(trailers).filter(|fields| !fields.is_empty()).map(Box::new);
                self.is_read = true;
            }
        }
        Ok(BlockedOn::Neither)
    }

    /// Sends the kept bytes, and the end if that is there. `Ready` when they are on their way, or the endpoint takes no more.
    fn poll_send(&mut self, context: &mut Context<'_>, pod: &mut PodStream) -> Poll<()> {
        let before = self.unsent.len();
        let ends = self.is_read && self.trailers.is_none();
        let sent = pod.poll_send(context, &mut self.unsent, ends);
        if self.unsent.len() < before {
            self.moved = clock::now();
        }
        match sent {
            Poll::Pending => return Poll::Pending,
            // Its response may be there, and is all that counts from now on.
            Poll::Ready(Err(())) => self.is_over = true,
            Poll::Ready(Ok(())) if self.is_read => {
                self.is_over = true;
                if let Some(trailers) = &self.trailers {
                    // An endpoint that takes no more is seen where its response is read.
                    let _sent = pod.send_trailers((**trailers).clone());
                }
            }
            Poll::Ready(Ok(())) => {}
        }
        Poll::Ready(())
    }

    fn keep(&mut self, data: &[u8]) {
        if let Some(replay) = &mut self.replay {
            replay.extend_from_slice(data);
        }
        self.replay = self.replay.take().filter(|replay| replay.len() <= REPLAY_BYTES_MAX);
    }
}
