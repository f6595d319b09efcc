//! A request on its way between a client and a stream of HTTP/2 at an endpoint: both directions at once, each at the pace of
//! the side that takes it.
//!
//! The counterpart of `transfer.rs`. A message of gRPC may be of any size and a call may be silent for any time, so that only
//! its own deadline ends it, or its endpoint's.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use podpin_drain::DrainMember as _;
use podpin_sse::session::Fault;
use podpin_time::Millis;
use podpin_wire::grpc::{self, GrpcStatus};
use podpin_wire::trailers;
use tokio::time::Sleep;

use crate::clock;
use crate::downstream::gone::Gone;
use crate::downstream::pending::{BodyLength, PendingResponse};
use crate::http::reply::ErrorReply;
use crate::request::transfer_error::TransferError;
use crate::request::transfer_limits::{Due, Moved, TransferLimits, poll_due};
use crate::request::unsent::Unsent;
use crate::stream_registry::StreamRecord;
use crate::upstream::http2::{PodFault, PodHead, PodRequest, PodStream};
use crate::upstream::pod_upload::PodUpload;
use crate::upstream::upload::BlockedOn;

/// Pieces of a body in one turn before other requests of the worker get theirs.
const PIECES_PER_TURN: usize = 8;

/// How far the response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Bytes of the body may come.
    Body,
    /// The body is over, and fields may follow.
    Trailers,
    /// The response is complete.
    Ended,
}

/// A request that is served over a stream of HTTP/2.
pub(crate) struct PodTransfer<'a> {
    client: &'a mut PendingResponse,
    pod: PodStream,
    upload: PodUpload,
    limits: TransferLimits,
    /// End of a gRPC call; `None` if it has none.
    deadline: Option<Millis>,
    /// The call as a stream that a drain may end; `None` if the request is none.
    call: Option<Arc<StreamRecord>>,
    stage: Stage,
    delivered: u64,
    unsent: Unsent,
    /// Body bytes that need no frame and that the client has not taken.
    piece: Bytes,
    received: Millis,
    grpc_status: Option<u32>,
    /// Meaning of the endpoint's fault for a call.
    fault: Option<GrpcStatus>,
}

impl<'a> PodTransfer<'a> {
    /// Returns the transfer of a request before anything of it is sent.
    pub(crate) fn new(
        client: &'a mut PendingResponse,
        pod: PodStream,
        upload: PodUpload,
        limits: TransferLimits,
        deadline: Option<Millis>,
    ) -> PodTransfer<'a> {
        let now = clock::now();
        PodTransfer {
            client,
            pod,
            upload,
            limits,
            deadline,
            call: None,
            stage: Stage::Body,
            delivered: 0,
            unsent: Unsent::new(now),
            piece: Bytes::new(),
            received: now,
            grpc_status: None,
            fault: None,
        }
    }

    /// Has the drain of its endpoint end the call.
    pub(crate) fn watch(&mut self, call: Option<Arc<StreamRecord>>) {
        self.call = call;
    }

    /// Sends the request head.
    pub(crate) fn send_head(&mut self, head: PodRequest) -> Result<(), TransferError> {
        let sent = self.pod.send_head(head, self.upload.is_over());
        sent.map_err(|fault| TransferError::Upstream(fault.into()))
    }

    /// Has the client send its body, which it holds back for an interim response: the endpoint's would not be seen.
    pub(crate) fn expect_body(&mut self) -> Result<(), TransferError> {
        Ok(self.client.interim(StatusCode::CONTINUE, &HeaderMap::new(), self.unsent.bytes())?)
    }

    /// Sends the request and reads the response head.
    pub(crate) fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        timer: Pin<&mut Sleep>,
    ) -> Poll<Result<PodHead, TransferError>> {
        self.poll_leave(context)?;
        let _blocked = self.poll_flush(context)?;
        let blocked_on = self.poll_upload(context)?;
        if let Poll::Ready(head) = self.pod.poll_head(context) {
            return Poll::Ready(head.map_err(|fault| self.fail_early(fault)));
        }
        // While the client's body is read, that read notices its leaving.
        if blocked_on != BlockedOn::Client && self.client.poll_gone(context).is_ready() {
            return Poll::Ready(Err(Gone.into()));
        }
        let due = self.limits.before_head(blocked_on, self.upload.moved());
        poll_due(context, timer, [due, self.deadline_due()])
    }

    /// Begins the response whose `head` was read, with the `fields` for the client.
    pub(crate) fn begin(&mut self, head: &PodHead, fields: &HeaderMap) -> Result<(), TransferError> {
        self.upload.forget();
        self.received = clock::now();
        self.unsent.note_written(self.received);
        if head.ends {
            self.stage = Stage::Ended;
            self.grpc_status = grpc::status_of(fields);
        }
        let length = match head.ends {
            true => BodyLength::Zero,
            false if fields.contains_key(http::header::CONTENT_LENGTH) => BodyLength::Known,
            false => BodyLength::Unknown,
        };
        self.client.begin(head.head.status, fields, length, self.unsent.bytes())?;
        if head.ends && length == BodyLength::Zero {
            self.client.end_body(HeaderMap::new(), self.unsent.bytes());
        }
        Ok(())
    }

    /// Passes the response body on, and the rest of the request's.
    pub(crate) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        timer: Pin<&mut Sleep>,
    ) -> Poll<Result<(), TransferError>> {
        self.poll_leave(context)?;
        let mut pieces = 0;
        let (blocked, blocked_on) = loop {
            let blocked = self.poll_flush(context)?.is_pending();
            // Looked at after each piece, the last one too: a response that is whole is not cut.
            if !blocked && self.stage == Stage::Ended {
                return Poll::Ready(Ok(()));
            }
            let blocked_on = self.poll_upload(context)?;
            if !blocked && pieces == PIECES_PER_TURN {
                context.waker().wake_by_ref();
                break (blocked, blocked_on);
            }
            if blocked || self.poll_pod(context)?.is_pending() {
                break (blocked, blocked_on);
            }
            pieces += 1;
        };
        if blocked_on != BlockedOn::Client && self.client.poll_gone(context).is_ready() {
            return Poll::Ready(Err(Gone.into()));
        }
        let (upload, written) = (self.upload.moved(), self.unsent.written());
        let moved = Moved { upload, received: self.received, written };
        let dues = self.limits.within_body(blocked, blocked_on, moved);
        poll_due(context, timer, dues.into_iter().chain([self.deadline_due()]))
    }

    /// Whether all of the request is still there for another attempt.
    pub(crate) fn may_be_repeated(&self) -> bool {
        self.upload.may_be_repeated()
    }

    /// Whether the stream's connection has carried requests before.
    pub(crate) fn is_kept(&self) -> bool {
        self.pod.is_kept
    }

    /// Whether a part of an interim response went to the client, so that no reply can follow.
    pub(crate) fn is_within_interim(&self) -> bool {
        self.unsent.is_begun()
    }

    /// Returns the stream, the rest of the request, and bytes of an interim response that the client has not taken: for a response
    /// that goes on by itself.
    pub(crate) fn into_parts(self) -> (PodStream, PodUpload, Vec<u8>) {
        let mut upload = self.upload;
        upload.forget();
        (self.pod, upload, self.unsent.into_rest())
    }

    /// Returns the upload, for another attempt.
    pub(crate) fn into_upload(self) -> PodUpload {
        self.upload
    }

    /// Returns the body bytes of the response that were framed for the client.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Returns the status of the call; `None` if the endpoint has sent none.
    pub(crate) fn grpc_status(&self) -> Option<u32> {
        self.grpc_status
    }

    /// Returns what the endpoint's fault means for a call; `None` if it has none.
    pub(crate) fn fault(&self) -> Option<GrpcStatus> {
        self.fault
    }

    /// Returns the bytes of the response that the client has not taken.
    pub(crate) fn into_unsent(self) -> Vec<u8> {
        let mut unsent = self.unsent.into_rest();
        unsent.extend_from_slice(&self.piece);
        unsent
    }

    fn poll_upload(&mut self, context: &mut Context<'_>) -> Result<BlockedOn, TransferError> {
        self.upload.poll(context, self.client.body(), &mut self.pod).map_err(TransferError::Client)
    }

    /// Looks whether the drain of the endpoint ends the call.
    fn poll_leave(&self, context: &Context<'_>) -> Result<(), TransferError> {
        let Some(call) = &self.call else { return Ok(()) };
        if call.drain().poll(context).is_some()
            && let Some(order) = call.drain().order()
        {
            return Err(TransferError::Leaving(order.cause));
        }
        Ok(())
    }

    /// Writes what is kept to the client.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, TransferError> {
        if self.unsent.poll_write(context, self.client)?.is_pending() {
            return Ok(Poll::Pending);
        }
        while !self.piece.is_empty() {
            match self.client.poll_write(context, &self.piece)? {
                Poll::Ready(count) => {
                    let _sent = self.piece.split_to(count.min(self.piece.len()));
                    self.unsent.note_written(clock::now());
                }
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        Ok(self.client.poll_flush(context)?)
    }

    /// Reads a piece from the endpoint; it is passed on by the next flush.
    fn poll_pod(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, TransferError> {
        match self.stage {
            Stage::Body => match self.pod.poll_data(context) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Ok(Some(bytes))) => self.take(bytes),
                Poll::Ready(Ok(None)) => self.stage = Stage::Trailers,
                Poll::Ready(Err(fault)) => return Err(self.fail(fault)),
            },
            Stage::Trailers => match self.pod.poll_trailers(context) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Ok(fields)) => {
                    let fields = trailers::passed_fields(fields);
                    let fields = fields.map_err(|_| TransferError::Broken(Fault::Malformed))?;
                    self.grpc_status = grpc::status_of(&fields);
                    self.client.end_body(fields, self.unsent.bytes());
                    self.stage = Stage::Ended;
                }
                Poll::Ready(Err(fault)) => return Err(self.fail(fault)),
            },
            Stage::Ended => {}
        }
        self.received = clock::now();
        Ok(Poll::Ready(()))
    }

    fn take(&mut self, bytes: Bytes) {
        let count = u64::try_from(bytes.len()).unwrap_or(0);
        self.delivered += count;
        if let Some(call) = &self.call {
            call.bytes.fetch_add(count, Ordering::Relaxed);
        }
        if self.client.is_framed() {
            self.client.frame(&bytes, self.unsent.bytes());
        } else {
            self.piece = bytes;
        }
        self.unsent.note_written(clock::now());
    }

    /// Notes what a fault before the response means for a call.
    fn fail_early(&mut self, fault: PodFault) -> TransferError {
        self.fault = Some(meaning(&fault));
        TransferError::Upstream(fault.into())
    }

    fn fail(&mut self, fault: PodFault) -> TransferError {
        self.fault = Some(meaning(&fault));
        TransferError::Broken(match fault {
            PodFault::Malformed(_) => Fault::Malformed,
            PodFault::Refused | PodFault::Reset(_) | PodFault::Lost(_) => Fault::Reset,
        })
    }

    fn deadline_due(&self) -> Due {
        self.deadline.map(|at| (at, TransferError::Client(ErrorReply::Deadline)))
    }
}

/// Returns what a fault of an endpoint means for a call.
fn meaning(fault: &PodFault) -> GrpcStatus {
    match fault {
        PodFault::Reset(reason) => GrpcStatus::of_reset((*reason).into()),
        PodFault::Malformed(_) => GrpcStatus::Internal,
        PodFault::Refused | PodFault::Lost(_) => GrpcStatus::Unavailable,
    }
}
