//! Interim responses before the head of an event stream, passed on as they come (RFC 9110 section 15.2).
//!
//! They come while endpoints are tried, which knows nothing of the client: that side puts them here, the other takes them out.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use podpin_wire::http1::response_head::ResponseHead;

use crate::downstream::gone::Gone;
use crate::downstream::pending::PendingResponse;
use crate::http::reply::ErrorReply;
use crate::upstream::rewrite;

/// Interim responses that no client has taken yet.
#[derive(Default)]
pub(crate) struct InterimResponses(Mutex<Vec<ResponseHead>>);

/// Bytes of interim responses for an HTTP/1 client.
#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    from: usize,
}

impl InterimResponses {
    /// Adds an interim response of an endpoint.
    pub(crate) fn push(&self, head: ResponseHead) {
        self.0.lock().push(head);
    }

    /// Runs `opening` to its end, with interim responses passed on to the client meanwhile. Returns its result with the bytes
    /// that an HTTP/1 client has not taken of them.
    ///
    /// # Errors
    /// Those of `opening`, and [`ErrorReply::ClientGone`], also if a reply would follow a part of an interim response.
    pub(crate) async fn pass<T>(
        &self,
        client: &mut PendingResponse,
        opening: impl Future<Output = Result<T, ErrorReply>>,
    ) -> Result<(T, Vec<u8>), ErrorReply> {
        let mut opening = pin!(opening);
        let mut unsent = Unsent::default();
        let opened = poll_fn(|context| self.poll(client, context, opening.as_mut(), &mut unsent)).await;
        let Unsent { mut bytes, from } = unsent;
        let opened = opened.map_err(|reply| if from > 0 { ErrorReply::ClientGone } else { reply })?;
        bytes.drain(..from.min(bytes.len()));
        Ok((opened, bytes))
    }

    fn poll<T>(
        &self,
        client: &mut PendingResponse,
        context: &mut Context<'_>,
        opening: Pin<&mut impl Future<Output = Result<T, ErrorReply>>>,
        unsent: &mut Unsent,
    ) -> Poll<Result<T, ErrorReply>> {
        if client.poll_gone(context).is_ready() {
            return Poll::Ready(Err(ErrorReply::ClientGone));
        }
        let opened = opening.poll(context);
        match self.send(client, context, unsent) {
            Ok(()) => opened,
            Err(Gone) => Poll::Ready(Err(ErrorReply::ClientGone)),
        }
    }

    /// Writes what the client takes now.
    fn send(
        &self,
        client: &mut PendingResponse,
        context: &mut Context<'_>,
        unsent: &mut Unsent,
    ) -> Result<(), Gone> {
        for head in self.0.lock().drain(..) {
            if client.takes_interim() {
                client.interim(head.status, &rewrite::interim_headers(head.headers), &mut unsent.bytes)?;
            }
        }
        while let Some(rest) = unsent.bytes.get(unsent.from..).filter(|rest| !rest.is_empty()) {
            match client.poll_write(context, rest)? {
                Poll::Ready(count) => unsent.from += count,
                Poll::Pending => return Ok(()),
            }
        }
        *unsent = Unsent::default();
        // Pending: what waits within TLS goes out with the head.
        match client.poll_flush(context) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }
}
