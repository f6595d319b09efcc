//! Ordinary requests: pick an endpoint, pass the request on, pass its answer back.
//!
//! Decisions are the same as for event streams (`admission.rs`, `lines.rs`, `reply.rs`), and so is the care for bytes that
//! are not taken. What is different: connections to pods are kept (`pool.rs`), there is a body to send (`transfer.rs`), and
//! a request that may have reached a pod is asked again elsewhere only when asking twice does no harm. Whatever wants to
//! become another protocol is left to Pingora (`pipeline.rs`).

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap};
use http::{Method, Version};
use podpin_endpoints::EndpointId;
use podpin_time::Millis;
use tokio::time::Sleep;

use crate::affinity::select::{Admission, Asked, Placement};
use crate::balance::service::Kind;
use crate::clock;
pub(crate) use crate::downstream::response::{ClientSide, Idle};
use crate::http::reply::Failure;
use crate::net::transport::Transport;
use crate::request::account::Outcome;
use crate::request::transfer::{Times, Transfer, Trouble};
use crate::request::upload::{Framing, Upload};
use crate::shared::Shared;
use crate::stream::open::count_failure;
use crate::stream::post::PostStream;
use crate::telemetry::labels::{RetryReason, UpstreamErrorKind};
use crate::upstream::connect::{self, UpstreamError};
use crate::upstream::pool::{self, Target};
use crate::upstream::rewrite;
use podpin_wire::client::Client;
use podpin_wire::http1::request_head::RequestHead;
use podpin_wire::http1::response_head::ResponseHead;

/// Until a deadline is known; no request waits that long.
const SOME_DAY: Duration = Duration::from_secs(86_400);

/// A request on its way, and what is known of it at its end.
pub(crate) struct Request<'a> {
    pub shared: &'a Arc<Shared>,
    pub head: &'a RequestHead,
    pub client: &'a Client,
    pub began: Millis,
    pub placement: Option<Placement>,
    pub tried: Vec<EndpointId>,
    pub retries: u32,
    pub connect_millis: Option<u64>,
    /// A pod's response head was there.
    pub answered: bool,
    pub carried: Carried,
}

/// What went to the client of a response body.
#[derive(Default)]
pub(crate) struct Carried {
    pub bytes: u64,
    /// Present when the answer is an event stream.
    pub stream: Option<PostStream>,
}

impl Carried {
    pub(crate) fn carry(&mut self, bytes: &[u8]) {
        self.bytes += u64::try_from(bytes.len()).unwrap_or(0);
        if let Some(stream) = &mut self.stream {
            stream.carry(bytes);
        }
    }
}

/// Serves one request; gives the connection back when it may carry another.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    head: RequestHead,
    client: Client,
    mut side: ClientSide,
) -> Option<Idle> {
    let _in_flight = shared.in_flight();
    let mut request = Request::new(&shared, &head, &client);
    let admission = match Admission::new(&shared, &Asked::of(&head, &client)) {
        Ok(admission) => admission,
        Err(failure) => return request.refuse(None, failure, side).await,
    };
    let asked = (&head.method, &*head.authority, &*head.target);
    if let Some(answer) = admission.route.treatment.answer(asked, &head.headers, client.secure) {
        return request.tell(&admission, answer, side).await;
    }
    match request.pass(&admission, &mut side).await {
        Outcome::Failed(failure) => request.refuse(Some(&admission), failure, side).await,
        Outcome::Whole(status) => {
            request.settle(&admission, (status, None));
            side.finish().await
        }
        Outcome::Cut(status, trouble, unsent) => {
            request.settle(&admission, (status, Some(trouble)));
            side.cut(&unsent).await;
            None
        }
    }
}

impl<'a> Request<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, head: &'a RequestHead, client: &'a Client) -> Request<'a> {
        Request {
            shared,
            head,
            client,
            began: clock::now(),
            placement: None,
            tried: Vec::new(),
            retries: 0,
            connect_millis: None,
            answered: false,
            carried: Carried::default(),
        }
    }

    /// Asks endpoints until one answers, within `retries`, and passes its answer on.
    pub(crate) async fn pass(&mut self, admission: &Admission, side: &mut ClientSide) -> Outcome {
        let mut timer = pin!(tokio::time::sleep(SOME_DAY));
        let mut lines = self.lines(admission, side);
        let (framing, length) = self.framing(side);
        let mut before: Option<Upload> = None;
        loop {
            let (target, pod, kept) = match self.reach(admission, side, before.is_some()).await {
                Ok(Some(reached)) => reached,
                Ok(None) => continue,
                Err(failure) => return Outcome::Failed(failure),
            };
            let head = self.upstream_head(admission, &mut lines, &length);
            let upload = match before.take() {
                None => Some(Upload::new(head, framing)),
                Some(before) => before.again(head),
            };
            let Some(upload) = upload else { return Outcome::Failed(Failure::UpstreamReset) };
            let may_repeat = kept && self.head.method.is_idempotent() && self.may_retry(admission);
            let upload = if may_repeat { upload.remember() } else { upload };
            let times = self.times(admission);
            let mut transfer = Transfer::new(side, pod, (upload, self.head.method.clone()), times);
            match poll_fn(|context| transfer.poll_head(context, timer.as_mut())).await {
                Ok(head) => return self.answer(admission, (target, transfer, head), timer.as_mut()).await,
                // A kept connection that the pod closed meanwhile is no failure of the pod: ask again on a fresh one.
                Err(Trouble::Pod(UpstreamError::Reset(_))) if may_repeat && transfer.may_be_repeated() => {
                    self.retry(admission, RetryReason::Reset);
                    before = Some(transfer.into_rest().1);
                }
                Err(trouble) => {
                    let failure = self.failure(admission, trouble);
                    let may_be_told = !transfer.is_within_interim();
                    return Outcome::Failed(if may_be_told { failure } else { Failure::ClientGone });
                }
            }
        }
    }

    /// A connection to the endpoint that the request belongs to, and whether it was kept. `None`: that one cannot be
    /// reached, and another one may be.
    pub(crate) async fn reach(
        &mut self,
        admission: &Admission,
        side: &mut ClientSide,
        fresh: bool,
    ) -> Result<Option<(Target, Transport, bool)>, Failure> {
        let placement = self.place(admission, side).await?;
        let endpoint = Arc::clone(&placement.endpoint);
        self.placement = Some(placement);
        let service = admission.service();
        let target = Target::new(endpoint.address, service.tls.as_deref());
        if !fresh && let Some(pod) = pool::take(&target) {
            return Ok(Some((target, pod, true)));
        }
        let asked = clock::now();
        let limit = service.configuration.timeouts.connect;
        let connecting = connect::connect(endpoint.address, service.tls.as_deref(), limit);
        let connected = tokio::select! {
            biased;
            _ = poll_fn(|context| side.poll_gone(context)) => return Err(Failure::ClientGone),
            connected = connecting => connected,
        };
        match connected {
            Ok(pod) => {
                let took = clock::now().since(asked);
                service.metrics.upstream_connect.observe(took.as_secs_f64());
                self.connect_millis = Some(clock::duration_millis(took));
                Ok(Some((target, pod, false)))
            }
            Err(error) => {
                tracing::debug!(endpoint = %endpoint.name, %error, "an endpoint failed");
                let failure = count_failure(service, &endpoint, &error);
                self.tried.push(endpoint.id);
                // Only if there is another one to ask.
                if self.may_retry(admission) && admission.place(Kind::Request, &self.tried).is_ok() {
                    self.retry(admission, RetryReason::Connect);
                    return Ok(None);
                }
                Err(failure)
            }
        }
    }

    pub(crate) async fn place(
        &self,
        admission: &Admission,
        side: &mut ClientSide,
    ) -> Result<Placement, Failure> {
        let placed = tokio::select! {
            biased;
            // At once, as a rule.
            placed = admission.await_request(&self.tried) => placed,
            _ = poll_fn(|context| side.poll_gone(context)) => Err(Failure::ClientGone),
        };
        match placed {
            Err(failure) if failure != Failure::ClientGone && !self.tried.is_empty() => {
                Err(Failure::UpstreamConnect)
            }
            placed => placed,
        }
    }

    /// Passes on an answer that has begun.
    pub(crate) async fn answer(
        &mut self,
        admission: &Admission,
        (target, mut transfer, mut head): (Target, Transfer<'_>, ResponseHead),
        mut timer: std::pin::Pin<&mut Sleep>,
    ) -> Outcome {
        let Some(placement) = &self.placement else { return Outcome::Failed(Failure::Internal) };
        self.answered = true;
        admission.service().endpoint_succeeded(&placement.endpoint.load);
        if self.head.method != Method::HEAD && head.is_event_stream() {
            match PostStream::open(self, admission, placement) {
                Ok(stream) => self.carried.stream = Some(stream),
                Err(failure) => return Outcome::Failed(failure),
            }
        }
        self.begin(admission, head.status);
        let asked = (self.head, self.client);
        let lines = rewrite::to_client(
            self.shared,
            (admission, placement),
            asked,
            (head.status, std::mem::take(&mut head.headers)),
        );
        let carried = &mut self.carried;
        let mut passed = transfer.begin(&head, &lines, carried);
        if passed.is_ok() {
            passed = poll_fn(|context| transfer.poll_body(context, timer.as_mut(), carried)).await;
        }
        match passed {
            Ok(()) => {
                if let Some(pod) = transfer.into_kept() {
                    pool::keep(target, pod);
                }
                Outcome::Whole(head.status)
            }
            Err(trouble) => Outcome::Cut(head.status, trouble, transfer.into_rest().0),
        }
    }

    /// What the client is told of trouble before its answer has begun.
    pub(crate) fn failure(&self, admission: &Admission, trouble: Trouble) -> Failure {
        match (trouble, &self.placement) {
            (Trouble::Client(failure), _) => failure,
            (Trouble::Pod(error), Some(placement)) => {
                tracing::debug!(endpoint = %placement.endpoint.name, %error, "an endpoint failed");
                count_failure(admission.service(), &placement.endpoint, &error)
            }
            _ => Failure::Internal,
        }
    }

    pub(crate) fn may_retry(&self, admission: &Admission) -> bool {
        self.retries < admission.service().configuration.retries.attempts
    }

    pub(crate) fn retry(&mut self, admission: &Admission, reason: RetryReason) {
        self.retries += 1;
        admission.service().metrics.upstream_retries.inc(reason);
    }

    pub(crate) fn times(&self, admission: &Admission) -> Times {
        let times = &admission.service().configuration.timeouts;
        Times {
            request_body: self.shared.current().limits.request_body_timeout,
            response_header: times.response_header,
            upstream_idle: times.upstream_idle,
            client_write: times.client_write,
        }
    }

    /// The lines that every pod would be sent.
    pub(crate) fn lines(&self, admission: &Admission, side: &ClientSide) -> HeaderMap {
        let mut lines = rewrite::to_pod(admission, self.head, self.client);
        // Whom an interim response cannot be passed on to waits for none.
        if !side.takes_interim() {
            lines.remove(header::EXPECT);
        }
        lines
    }

    pub(crate) fn upstream_head(
        &self,
        admission: &Admission,
        lines: &mut HeaderMap,
        length: &str,
    ) -> Vec<u8> {
        let address = self.placement.as_ref().map(|placement| placement.endpoint.address);
        if let Some(placement) = &self.placement {
            admission.session_lines(lines, placement);
        }
        let pod = || address.map(|address| address.to_string()).unwrap_or_default();
        let mut head = rewrite::request_head(admission, self.head, lines, pod);
        head.extend_from_slice(length.as_bytes());
        head.extend_from_slice(b"\r\n");
        head
    }

    /// How the body is framed for the pod, and the line that says so (RFC 9112 section 6).
    pub(crate) fn framing(&self, side: &ClientSide) -> (Framing, String) {
        let length = self.head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        // HTTP/2 may say the same number several times in one line.
        let length = length.and_then(|text| text.split(',').next()?.trim().parse::<u64>().ok());
        let expects_one = matches!(self.head.method, Method::POST | Method::PUT | Method::PATCH);
        match length {
            Some(length) => (Framing::Plain, format!("Content-Length: {length}\r\n")),
            None if !side.is_body_read() => (Framing::Chunked, "Transfer-Encoding: chunked\r\n".to_owned()),
            None if expects_one && self.head.version == Version::HTTP_2 => {
                (Framing::Plain, "Content-Length: 0\r\n".to_owned())
            }
            None => (Framing::Plain, String::new()),
        }
    }

    /// Counts a failure of the endpoint within its answer.
    pub(crate) fn endpoint_failed(&self, admission: &Admission, kind: UpstreamErrorKind) {
        if let Some(placement) = &self.placement {
            admission.service().endpoint_failed(&placement.endpoint, kind);
        }
    }
}
