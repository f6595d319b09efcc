//! A request on its way to an endpoint: its head, then its body as it comes from the client, and a copy for another attempt.
//!
//! Bytes that the endpoint does not take are kept, and nothing more is read from the client until they are gone. The response
//! may begin before all is sent, and go on behind it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use podpin_config::HeadersWithUnderscores;
use podpin_time::Millis;
use podpin_wire::http1::encode::{Framing, push_chunk};
use podpin_wire::trailers::{self, write_last_chunk};
use tokio::io::AsyncWrite;

use crate::affinity::routed_request::RoutedRequest;
use crate::clock;
use crate::downstream::request_body::RequestBody;
use crate::http::reply::ErrorReply;
use crate::net::transport::Transport;
use crate::request_context::RequestContext;
use crate::routing::route::{self, Backend, Route};

/// Bytes of a request body that are kept for a second attempt on a fresh connection.
pub(crate) const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// The side that an upload waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockedOn {
    /// Neither: the upload has ended.
    Neither,
    /// Client that sends no more for now.
    Client,
    /// Endpoint that takes no more for now.
    Upstream,
}

/// The rule for fields behind a body: a recipient may merge them into the head, so that none may pass there that the head must not have.
pub(crate) struct TrailerRule {
    route: Arc<Route>,
    /// Services of a route with several; `None` if it has one.
    backends: Option<Arc<[Backend]>>,
    /// `limits.headersWithUnderscores: drop`.
    drops_underscores: bool,
}

impl TrailerRule {
    /// Returns the rule for a request.
    pub(crate) fn new(context: &RequestContext, request: &RoutedRequest) -> TrailerRule {
        let underscores = context.snapshot.limits.headers_with_underscores;
        let drops_underscores = underscores == HeadersWithUnderscores::Drop;
        let (route, backends) = (Arc::clone(&request.route), request.backends.clone());
        TrailerRule { route, backends, drops_underscores }
    }

    /// Removes the fields that may not pass.
    fn apply(&self, fields: &mut HeaderMap) {
        let backends = self.backends.as_deref().unwrap_or_default();
        trailers::remove_claimed(fields, self.drops_underscores, |name| {
            route::claims(&self.route, backends, name)
        });
    }
}

/// Returns the fields behind a body that was read, as far as they may pass.
pub(crate) fn read_trailers(
    body: &mut RequestBody<'_>,
    rule: Option<&TrailerRule>,
) -> Result<HeaderMap, ErrorReply> {
    let mut fields = trailers::passed(&body.take_trailers()).map_err(|_| ErrorReply::Body)?;
    if let Some(rule) = rule.filter(|_| !fields.is_empty()) {
        rule.apply(&mut fields);
    }
    Ok(fields)
}

/// A request, as far as it was sent.
pub(crate) struct Upload {
    framing: Framing,
    /// Framed bytes that the endpoint has not taken, behind the request head.
    unsent: Vec<u8>,
    /// Offset of the first byte of `unsent` that is still to be written.
    unsent_from: usize,
    /// Moment at which something of the request last moved.
    moved: Millis,
    /// All of the body that was sent so far; `None` if it is not needed again.
    replay: Option<Vec<u8>>,
    /// Fields behind the body, if that is kept.
    trailers: Option<Box<HeaderMap>>,
    /// Rule for fields behind the body; `None` if there are none.
    rule: Option<TrailerRule>,
    /// Whether some of the body was sent.
    begun: bool,
    /// Whether the endpoint takes no more of it.
    refused: bool,
    /// Whether all of the body is in `unsent`, or was.
    ended: bool,
}

impl Upload {
    /// Returns the upload of a request whose `head` is still to be sent.
    pub(crate) fn new(head: Vec<u8>, framing: Framing) -> Upload {
        Upload {
            framing,
            unsent: head,
            unsent_from: 0,
            moved: clock::now(),
            replay: None,
            trailers: None,
            rule: None,
            begun: false,
            refused: false,
            ended: false,
        }
    }

    /// Returns the upload of a request that is its `head`, whatever the client sends behind it.
    pub(crate) fn without_body(head: Vec<u8>) -> Upload {
        Upload { ended: true, ..Upload::new(head, Framing::Plain) }
    }

    /// Returns the upload with a rule for the fields behind its body.
    pub(crate) fn with_trailers(self, rule: Option<TrailerRule>) -> Upload {
        Upload { rule, ..self }
    }

    /// Keeps what is sent of the body from now on, for another attempt.
    pub(crate) fn remember(&mut self) {
        self.replay = Some(Vec::new());
    }

    /// Returns the upload for another connection; `None` if the body is not kept.
    pub(crate) fn again(self, head: Vec<u8>) -> Option<Upload> {
        let mut again = Upload { rule: self.rule, ..Upload::new(head, self.framing) };
        if self.begun {
            let body = self.replay?;
            again.frame(&body);
            again.begun = true;
            if self.ended {
                again.end(self.trailers.map(|fields| *fields).unwrap_or_default());
            }
        }
        Some(again)
    }

    /// Whether [`Upload::again`] would return one.
    pub(crate) fn may_be_repeated(&self) -> bool {
        !self.begun || self.replay.is_some()
    }

    /// Whether the endpoint has taken all of the request.
    pub(crate) fn is_sent(&self) -> bool {
        self.ended && !self.refused && self.unsent_from == self.unsent.len()
    }

    /// Whether nothing of the request is left to be sent, so that only the response goes on.
    pub(crate) fn is_over(&self) -> bool {
        self.ended && (self.refused || self.is_sent())
    }

    /// Returns the moment at which something of the request last moved.
    pub(crate) fn moved(&self) -> Millis {
        self.moved
    }

    /// Sends what there is of the request; returns the side that the rest waits for.
    ///
    /// # Errors
    /// [`ErrorReply::ClientGone`], and what is wrong with a body.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut body: RequestBody<'_>,
        upstream: &mut Transport,
    ) -> Result<BlockedOn, ErrorReply> {
        if self.refused {
            return Ok(BlockedOn::Neither);
        }
        if !self.begun && !self.ended && self.unsent_from == 0 {
            // Body bytes that came with the head go on with the head, in one write.
            self.take_body_at_hand(&mut body)?;
        }
        loop {
            if self.poll_write(context, upstream).is_pending() {
                return Ok(BlockedOn::Upstream);
            }
            if self.ended || self.refused {
                return Ok(BlockedOn::Neither);
            }
            let start = self.unsent.len();
            match body.poll(context, &mut self.unsent) {
                Poll::Ready(read) => read?,
                Poll::Pending => return Ok(BlockedOn::Client),
            }
            self.moved = clock::now();
            self.take_appended(&mut body, start)?;
        }
    }

    fn take_body_at_hand(&mut self, body: &mut RequestBody<'_>) -> Result<(), ErrorReply> {
        let start = self.unsent.len();
        if !body.is_read() {
            body.take_ahead(&mut self.unsent)?;
        }
        self.take_appended(body, start)
    }

    fn take_appended(&mut self, body: &mut RequestBody<'_>, start: usize) -> Result<(), ErrorReply> {
        self.frame_appended(start);
        if body.is_read() {
            let fields = read_trailers(body, self.rule.as_ref())?;
            self.end(fields);
        }
        Ok(())
    }

    /// Writes to the endpoint. Ready when it has taken everything, or takes nothing any more: its response may be there
    /// still.
    fn poll_write(&mut self, context: &mut Context<'_>, upstream: &mut Transport) -> Poll<()> {
        while let Some(rest) = self.unsent.get(self.unsent_from..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut *upstream).poll_write(context, rest)) {
                Ok(count) if count > 0 => {
                    self.unsent_from += count;
                    self.moved = clock::now();
                }
                Ok(_) | Err(_) => {
                    self.refused = true;
                    return Poll::Ready(());
                }
            }
        }
        if self.ended {
            // A request that waits for its response keeps nothing that was sent.
            self.unsent = Vec::new();
        } else {
            self.unsent.clear();
        }
        self.unsent_from = 0;
        if upstream.holds_bytes() && ready!(Pin::new(upstream).poll_flush(context)).is_err() {
            self.refused = true;
        }
        Poll::Ready(())
    }

    fn frame(&mut self, data: &[u8]) {
        match self.framing {
            Framing::Chunked => push_chunk(&mut self.unsent, data),
            Framing::Plain => self.unsent.extend_from_slice(data),
        }
    }

    /// Notes the end of the body, with the fields behind it.
    fn end(&mut self, trailers: HeaderMap) {
        self.ended = true;
        if self.framing == Framing::Chunked {
            write_last_chunk(&mut self.unsent, &trailers);
        }
        if self.replay.is_some() && !trailers.is_empty() {
            self.trailers = Some(Box::new(trailers));
        }
    }

    /// Frames the bytes of the client that were appended to `unsent` from `start` on.
    fn frame_appended(&mut self, start: usize) {
        let data = self.unsent.get(start..).unwrap_or_default();
        if data.is_empty() {
            return;
        }
        self.begun = true;
        if let Some(replay) = &mut self.replay {
            replay.extend_from_slice(data);
        }
        self.replay = self.replay.take().filter(|replay| replay.len() <= REPLAY_BYTES_MAX);
        if self.framing == Framing::Chunked {
            let data = self.unsent.split_off(start);
            push_chunk(&mut self.unsent, &data);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    fn upload(framing: Framing, pieces: &[&str]) -> Upload {
        let mut upload = Upload::new(b"HEAD\r\n\r\n".to_vec(), framing);
        upload.remember();
        for piece in pieces {
            let start = upload.unsent.len();
            upload.unsent.extend_from_slice(piece.as_bytes());
            upload.frame_appended(start);
        }
        upload.end(HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("x"))]));
        upload
    }

    #[test]
    fn a_body_is_sent_again_behind_another_head() {
        for (framing, expected) in
            [(Framing::Plain, "hello"), (Framing::Chunked, "5\r\nhello\r\n0\r\nEtag: x\r\n\r\n")]
        {
            let again = upload(framing, &["hel", "lo"]).again(b"AGAIN\r\n\r\n".to_vec()).unwrap();
            let text = String::from_utf8(again.unsent).unwrap();
            assert_eq!(text, format!("AGAIN\r\n\r\n{expected}"));
        }
        let unsent = upload(Framing::Chunked, &["hel", "lo"]).unsent;
        assert!(unsent.ends_with(b"3\r\nhel\r\n2\r\nlo\r\n0\r\nEtag: x\r\n\r\n"));
    }

    #[test]
    fn a_long_body_is_not_kept() {
        let long = "x".repeat(REPLAY_BYTES_MAX + 1);
        let upload = upload(Framing::Plain, &[&long]);
        assert!(!upload.may_be_repeated() && upload.again(Vec::new()).is_none());
    }

    #[test]
    fn a_request_is_sent_once_the_endpoint_has_taken_all() {
        let mut upload = upload(Framing::Plain, &["hello"]);
        assert!(!upload.is_sent());
        upload.unsent_from = upload.unsent.len();
        assert!(upload.is_sent());
        upload.refused = true;
        assert!(!upload.is_sent());
    }
}
