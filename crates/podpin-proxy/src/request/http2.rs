//! Requests for services whose endpoints speak HTTP/2, gRPC calls among them: the counterpart of `serve.rs`.
//!
//! Selection, header fields, counts and replies are those of all other requests. A request goes to another endpoint, or again
//! to the same one on a fresh connection, only if nothing of it was processed: no connection, a stream refused, a connection
//! that goes away. What has no harm twice is sent again where a kept connection breaks.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::{Method, StatusCode};
use podpin_drain::Cause;
use podpin_time::Millis;
use podpin_wire::grpc::{self, GrpcStatus};
use podpin_wire::http1::request_head::{RequestHead, has_token};
use tokio::time::Sleep;
use tracing::Span;

use crate::affinity::session_headers;
use crate::balance::service::Kind;
use crate::clock;
use crate::downstream::http1::IdleConnection;
use crate::downstream::pending::PendingResponse;
use crate::http::reply::ErrorReply;
use crate::request::account::{self, Ending, Passed};
use crate::request::body_framing::content_length;
use crate::request::call::Call;
use crate::request::pod_transfer::PodTransfer;
use crate::request::served::Served;
use crate::request::transfer_error::TransferError;
use crate::request::transfer_limits::TransferLimits;
use crate::request_context::RequestContext;
use crate::shared::InFlight;
use crate::stream::account::Permits;
use crate::stream::open::{Opened, PendingStream};
use crate::stream::places::Places;
use crate::stream::upload::Rest;
use crate::stream::upstream_reader::UpstreamReader;
use crate::telemetry::labels::CloseReason;
use crate::upstream::attempts::Attempts;
use crate::upstream::error::UpstreamError;
use crate::upstream::http2::{Freshness, PodHead, PodRequest, PodStream};
use crate::upstream::pod_upload::PodUpload;
use crate::upstream::rewrite;
use crate::upstream::unserved::{Progress, Unserved};
use crate::upstream::upload::TrailerRule;

/// Value of `TE` by which a client says that it takes trailers; gRPC asks for it.
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// A request, admitted and routed.
pub(crate) struct Http2Request {
    /// The request.
    pub context: RequestContext,
    /// The attempts, before the first.
    pub attempts: Attempts,
    /// The client.
    pub client: PendingResponse,
    /// The request's share in what a shutdown waits for.
    pub in_flight: InFlight,
}

/// A request on its way.
struct Exchange<'a> {
    context: &'a RequestContext,
    attempts: &'a mut Attempts,
    places: Places,
    is_call: bool,
    deadline: Option<Millis>,
    call: Option<Call>,
    answered: bool,
}

/// How a request went on.
enum Outcome {
    /// A response whose head has begun.
    Answered(Answered),
    /// An event stream.
    Stream(Box<Opened>),
    /// No response that could be passed on.
    Refused(ErrorReply),
}

/// A response that has begun, and its end.
struct Answered {
    passed: Passed,
    ending: Ending,
    /// Bytes that the client has not taken.
    unsent: Vec<u8>,
    /// Meaning of the endpoint's fault for a call.
    fault: Option<GrpcStatus>,
}

/// Serves one request, up to its end.
pub(crate) async fn serve(request: Http2Request) -> Served {
    let Http2Request { context, mut attempts, mut client, in_flight } = request;
    let has_body = !client.is_body_read();
    let mut exchange = Exchange::new(&context, &mut attempts);
    let outcome = exchange.run(&mut client).await;
    let Exchange { call, answered, places, .. } = exchange;
    // A request that waits for a place may have it before the account is settled.
    drop(places);
    let connection = match outcome {
        Outcome::Stream(opened) => {
            let stream = PendingStream { context, attempts, opened: *opened, client, has_body, in_flight };
            return Served::Stream(Box::new(stream));
        }
        Outcome::Refused(reply) => {
            if let Some(call) = call {
                call.end(close_reason_of(reply));
            }
            let progress = Progress::Tried { attempts: &attempts, answered };
            Unserved { context: &context, progress }.refuse(reply, client).await
        }
        Outcome::Answered(response) => response.end(&context, &attempts, client, call).await,
    };
    drop(in_flight);
    connection.into()
}

impl Answered {
    /// Ends the response for its client, and accounts for it. Returns the connection if it may carry another request.
    async fn end(
        mut self,
        context: &RequestContext,
        attempts: &Attempts,
        client: PendingResponse,
        call: Option<Call>,
    ) -> Option<IdleConnection> {
        let farewell = call.as_ref().and_then(|_| self.farewell());
        if let Some((status, _)) = &farewell {
            self.passed.grpc_status = Some(u32::from(status.code()));
        }
        account::settle(context, attempts, &self.passed, &self.ending);
        if let Some(call) = call {
            call.end(close_reason(&self.ending));
        }
        match (&self.ending, farewell) {
            (Ending::Complete, _) => match client.finish() {
                Ok(connection) => connection,
                Err(client) => client.finish_unread().await,
            },
            (Ending::Cut(_), Some((status, message))) => {
                client.end_with(&self.unsent, status.fields(message)).await;
                None
            }
            (Ending::Cut(_), None) => {
                client.cut(&self.unsent).await;
                None
            }
        }
    }

    /// Returns the status that a call is ended with, in words, where its endpoint has sent none; `None` if the client is gone,
    /// or the answer complete.
    fn farewell(&self) -> Option<(GrpcStatus, &'static str)> {
        let Ending::Cut(error) = &self.ending else { return None };
        Some(match error {
            TransferError::Client(ErrorReply::ClientGone) | TransferError::SlowClient => return None,
            TransferError::Client(ErrorReply::Deadline) => {
                (GrpcStatus::DeadlineExceeded, "podpin: the deadline of the call has passed")
            }
            TransferError::Client(_) => (GrpcStatus::Internal, "podpin: malformed request body"),
            TransferError::Leaving(_) => (GrpcStatus::Unavailable, "podpin: the endpoint is leaving"),
            TransferError::Idle => (GrpcStatus::Unavailable, "podpin: the endpoint was silent for too long"),
            TransferError::Upstream(_) | TransferError::Broken(_) => {
                (self.fault.unwrap_or(GrpcStatus::Unavailable), "podpin: the endpoint broke the call off")
            }
        })
    }
}

impl<'a> Exchange<'a> {
    fn new(context: &'a RequestContext, attempts: &'a mut Attempts) -> Exchange<'a> {
        let is_call = context.is_call();
        let timeout =
            context.head.fields.get(&grpc::TIMEOUT).filter(|_| is_call).and_then(grpc::parse_timeout);
        let places = if is_call { Places::for_stream() } else { Places::for_request(context) };
        let deadline = timeout.map(|timeout| context.began.after(timeout));
        Exchange { context, attempts, places, is_call, deadline, call: None, answered: false }
    }

    /// Tries endpoints until one answers, and passes its response on.
    async fn run(&mut self, client: &mut PendingResponse) -> Outcome {
        let mut timer = pin!(clock::unset_timer());
        let rule = TrailerRule::new(self.context, &self.attempts.request);
        let mut upload = PodUpload::new(client.is_body_read() && !client.has_trailers(), rule);
        let mut freshness = Freshness::Any;
        loop {
            let pod = match self.reach(client, freshness).await {
                Ok(Some(pod)) => pod,
                Ok(None) => continue,
                Err(reply) => return Outcome::Refused(reply),
            };
            let mut transfer = PodTransfer::new(client, pod, upload, self.limits(), self.deadline);
            transfer.watch(self.call.as_ref().map(|call| Arc::clone(call.record())));
            let error = match self.ask(&mut transfer, timer.as_mut()).await {
                Ok(head) if self.is_retried(&transfer, head.head.status) => {
                    upload = transfer.into_upload();
                    freshness = Freshness::Any;
                    continue;
                }
                Ok(head) => return self.pass_on(transfer, head, timer).await,
                Err(error) => error,
            };
            match self.next(error, &transfer, freshness) {
                Ok(next) => freshness = next,
                Err(reply) => return Outcome::Refused(reply),
            }
            match transfer.into_upload().again() {
                Some(again) => upload = again,
                None => return Outcome::Refused(ErrorReply::UpstreamReset),
            }
        }
    }

    /// Selects an endpoint and opens a stream to it; `None` if it cannot be reached and another one may be.
    async fn reach(
        &mut self,
        client: &mut PendingResponse,
        freshness: Freshness,
    ) -> Result<Option<PodStream>, ErrorReply> {
        let deadline = self.deadline;
        tokio::select! {
            biased;
            // Ready at once, as a rule.
            selected = self.places.select(self.attempts, self.context.client.address) => selected?,
            _ = client.gone() => return Err(ErrorReply::ClientGone),
            () = passed(deadline) => return Err(ErrorReply::Deadline),
        }
        let Some(endpoint) = self.attempts.endpoint().map(Arc::clone) else {
            return Err(ErrorReply::Internal);
        };
        Span::current().record("endpoint", &*endpoint.name);
        if self.is_call {
            match &self.call {
                Some(call) => call.try_at(&endpoint),
                None => self.call = Some(Call::open(self.context, self.attempts, &endpoint)),
            }
        }
        let service = Arc::clone(self.attempts.service());
        let began = clock::now();
        let opened = tokio::select! {
            biased;
            opened = PodStream::open(&service, &endpoint, freshness) => opened,
            _ = client.gone() => return Err(ErrorReply::ClientGone),
            () = passed(deadline) => return Err(ErrorReply::Deadline),
        };
        match opened {
            Ok(pod) => {
                if !pod.is_kept {
                    self.attempts.connected(clock::now().since(began));
                }
                Ok(Some(pod))
            }
            Err(error) if self.attempts.failed(&error) => Ok(None),
            Err(error) => Err(error.reply()),
        }
    }

    /// Sends the request and reads the response head.
    async fn ask(
        &self,
        transfer: &mut PodTransfer<'_>,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<PodHead, TransferError> {
        let expects = self.context.head.fields.contains(&header::EXPECT);
        transfer.send_head(self.head())?;
        if expects {
            transfer.expect_body()?;
        }
        poll_fn(|context| transfer.poll_head(context, timer.as_mut())).await
    }

    /// Counts an attempt that failed before its response. Returns the connection that the next one needs, or the reply if there
    /// is none.
    fn next(
        &mut self,
        error: TransferError,
        transfer: &PodTransfer<'_>,
        freshness: Freshness,
    ) -> Result<Freshness, ErrorReply> {
        // Behind a part of an interim response the client would take any reply for its rest.
        if transfer.is_within_interim() {
            return Err(ErrorReply::ClientGone);
        }
        let error = match error {
            TransferError::Upstream(error) => error,
            TransferError::Client(reply) => return Err(reply),
            TransferError::Leaving(_) => return Err(ErrorReply::Leaving),
            TransferError::Broken(_) | TransferError::Idle | TransferError::SlowClient => {
                return Err(ErrorReply::Internal);
            }
        };
        let is_harmless = match error {
            UpstreamError::Refused => true,
            // A kept connection that the endpoint closed meanwhile is not its failure.
            UpstreamError::Reset(_) => transfer.is_kept() && self.context.head.method.is_idempotent(),
            _ => false,
        };
        let may_follow = transfer.may_be_repeated() && self.attempts.may_retry();
        if is_harmless && may_follow && freshness == Freshness::Any {
            self.attempts.retry_stale();
            return Ok(Freshness::New);
        }
        let reply = error.reply();
        if self.attempts.failed(&error) && may_follow { Ok(Freshness::Any) } else { Err(reply) }
    }

    /// Returns whether a response of this status is not passed on, because another endpoint can be asked.
    fn is_retried(&mut self, transfer: &PodTransfer<'_>, status: StatusCode) -> bool {
        self.attempts.answered(status);
        self.context.kind == Kind::Stream
            && self.attempts.is_retried(status)
            && !transfer.is_within_interim()
            && transfer.may_be_repeated()
            && self.attempts.rejected(status)
            && self.attempts.has_next_place()
    }

    /// Passes a response on whose head was read.
    async fn pass_on(
        &mut self,
        mut transfer: PodTransfer<'_>,
        mut head: PodHead,
        mut timer: Pin<&mut Sleep>,
    ) -> Outcome {
        self.answered = true;
        self.attempts.request.renew_session(&head.head.headers);
        let Some(selected) = self.attempts.selected() else { return Outcome::Refused(ErrorReply::Internal) };
        let (context, request, status) = (self.context, &self.attempts.request, head.head.status);
        if let Some(call) = &mut self.call {
            call.answered(self.attempts);
        } else {
            let places = std::mem::take(&mut self.places);
            if context.head.method != Method::HEAD && head.head.is_event_stream() {
                return match places.into_permits(request, selected, context.client.address) {
                    Ok(permits) => open_stream(transfer, head, permits),
                    Err(reply) => Outcome::Refused(reply),
                };
            }
            // Others may have them while this response passes.
            drop(places);
        }
        account::count_response(context, self.attempts, status);
        let received = std::mem::take(&mut head.head.headers);
        let fields = rewrite::client_headers(context, request, selected, status, received);
        let passed = match transfer.begin(&head, &fields) {
            Ok(()) => poll_fn(|context| transfer.poll_body(context, timer.as_mut())).await,
            Err(error) => Err(error),
        };
        let grpc_status = transfer.grpc_status().filter(|_| self.is_call);
        Outcome::Answered(Answered {
            passed: Passed { status, delivered: transfer.delivered(), grpc_status },
            ending: passed.map_or_else(Ending::Cut, |()| Ending::Complete),
            fault: transfer.fault(),
            unsent: transfer.into_unsent(),
        })
    }

    /// Returns the head for the endpoint of the current attempt.
    fn head(&self) -> PodRequest {
        let (context, request) = (self.context, &self.attempts.request);
        let mut list = rewrite::upstream_headers(context, request);
        let mut host = String::new();
        if let Some(selected) = self.attempts.selected() {
            session_headers::write_session(request, selected, &mut list);
            host = rewrite::upstream_host(request, &context.head, selected.endpoint.address).into_owned();
        }
        let mut fields = list.to_map();
        fields.remove(header::EXPECT);
        if takes_trailers(&context.head) {
            fields.insert(header::TE, TRAILERS);
        }
        if let Some(length) = content_length(&context.head) {
            fields.insert(header::CONTENT_LENGTH, length.into());
        }
        PodRequest {
            method: context.head.method.clone(),
            host,
            target: rewrite::upstream_target(request, &context.head).into_owned(),
            is_secure: request.service().tls.is_some(),
            fields,
        }
    }

    /// Returns the time limits. A call has its deadline, and no other.
    fn limits(&self) -> TransferLimits {
        if self.is_call {
            TransferLimits::default()
        } else {
            TransferLimits::of(self.context, self.attempts.service())
        }
    }
}

/// Hands over a response that is an event stream, which goes on by itself.
fn open_stream(transfer: PodTransfer<'_>, head: PodHead, permits: Permits) -> Outcome {
    let (pod, upload, interim) = transfer.into_parts();
    let PodHead { head, ends } = head;
    let (body, upload) = (UpstreamReader::of_http2(pod, ends), Rest::Http2(upload));
    Outcome::Stream(Box::new(Opened { head, body, permits, interim, upload }))
}

/// Resolves when a deadline has passed; never without one.
async fn passed(deadline: Option<Millis>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(clock::instant(deadline)).await,
        None => std::future::pending().await,
    }
}

/// Whether a client takes trailers of the response, as it says.
fn takes_trailers(head: &RequestHead) -> bool {
    head.fields.all(&header::TE).any(|value| has_token(value, b"trailers"))
}

/// Returns the reason for which a call ended with its response.
fn close_reason(ending: &Ending) -> CloseReason {
    let Ending::Cut(error) = ending else { return CloseReason::UpstreamEnd };
    match error {
        TransferError::Client(reply) => close_reason_of(*reply),
        TransferError::SlowClient => CloseReason::SlowClient,
        TransferError::Idle => CloseReason::Idle,
        TransferError::Leaving(Cause::Shutdown) => CloseReason::Shutdown,
        TransferError::Leaving(_) => CloseReason::Drain,
        TransferError::Upstream(_) | TransferError::Broken(_) => CloseReason::UpstreamReset,
    }
}

/// Returns the reason for which a call ended without a response.
fn close_reason_of(reply: ErrorReply) -> CloseReason {
    match reply {
        ErrorReply::ClientGone => CloseReason::Client,
        ErrorReply::Deadline => CloseReason::MaxDuration,
        ErrorReply::Leaving => CloseReason::Drain,
        ErrorReply::UpstreamReset => CloseReason::UpstreamReset,
        _ => CloseReason::Error,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Version};
    use podpin_sse::session::Fault;

    use super::*;
    use crate::testing::request_head;

    fn answered(error: TransferError, fault: Option<GrpcStatus>) -> Answered {
        Answered {
            passed: Passed { status: StatusCode::OK, delivered: 0, grpc_status: None },
            ending: Ending::Cut(error),
            unsent: Vec::new(),
            fault,
        }
    }

    #[test]
    fn a_call_that_is_cut_ends_with_a_status_unless_nobody_takes_it() {
        let client = TransferError::Client;
        let table = [
            (client(ErrorReply::ClientGone), None, None, CloseReason::Client),
            (TransferError::SlowClient, None, None, CloseReason::SlowClient),
            (client(ErrorReply::Deadline), None, Some(4), CloseReason::MaxDuration),
            (client(ErrorReply::Body), None, Some(13), CloseReason::Error),
            (TransferError::Leaving(Cause::Drain), None, Some(14), CloseReason::Drain),
            (TransferError::Leaving(Cause::Shutdown), None, Some(14), CloseReason::Shutdown),
            (TransferError::Idle, None, Some(14), CloseReason::Idle),
            (TransferError::Broken(Fault::Reset), None, Some(14), CloseReason::UpstreamReset),
            (
                TransferError::Broken(Fault::Reset),
                Some(GrpcStatus::Cancelled),
                Some(1),
                CloseReason::UpstreamReset,
            ),
        ];
        for (error, fault, code, reason) in table {
            let answered = answered(error, fault);
            let said = answered.farewell().map(|(status, _)| status.code());
            assert_eq!((said, close_reason(&answered.ending)), (code, reason), "{fault:?}");
        }
        assert_eq!(close_reason(&Ending::Complete), CloseReason::UpstreamEnd);
    }

    #[test]
    fn an_endpoint_is_told_of_the_trailers_that_a_client_takes_and_of_the_length_of_a_body() {
        let head = |name: header::HeaderName, value: &'static str| {
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
            request_head(Method::POST, Version::HTTP_2, &headers)
        };
        for (value, takes) in
            [("trailers", true), ("gzip, Trailers", true), ("gzip;q=0.5", false), ("", false)]
        {
            assert_eq!(takes_trailers(&head(header::TE, value)), takes, "{value}");
        }
        for (value, length) in [("3", Some(3)), ("3, 3", Some(3)), ("x", None)] {
            assert_eq!(content_length(&head(header::CONTENT_LENGTH, value)), length, "{value}");
        }
    }
}
