//! What is counted and logged of an ordinary request, and the answers to it that are ours.

use http::{Method, StatusCode};

use crate::affinity::select::Admission;
use crate::clock;
use crate::http::reply::{Answer, Body, Failure};
use crate::request::serve::{ClientSide, Idle, Request};
use crate::request::transfer::Trouble;
use crate::stream::open::request_record;
use crate::telemetry::access_log::Record;
use crate::telemetry::labels::{CloseReason, MethodLabel, UpstreamErrorKind};

/// How a request ended.
pub(crate) enum Outcome {
    /// The client had a whole answer of a pod.
    Whole(StatusCode),
    /// It had none, and is told why.
    Failed(Failure),
    /// It had the beginning of one; with what it has not taken of it.
    Cut(StatusCode, Trouble, Vec<u8>),
}

impl Request<'_> {
    /// Answers a request that no pod has, and accounts for it.
    pub(crate) async fn refuse(
        &mut self,
        admission: Option<&Admission>,
        failure: Failure,
        side: ClientSide,
    ) -> Option<Idle> {
        let answer = failure.answer();
        let code = answer.as_ref().map_or(0, |answer| answer.status.as_u16());
        self.count(admission, code);
        if let Some(admission) = admission {
            admission.count(self.placement.as_ref().filter(|_| self.answered));
            let took = clock::now().since(self.began);
            admission.service().metrics.request_duration.observe(took.as_secs_f64());
            if let Some(kind) = failure.refusal() {
                admission.service().refused(kind);
            }
        }
        if self.shared.is_logging() {
            let mut log = self.record(admission, code);
            log.reason = failure.log_reason();
            log.error = Some(failure.to_string());
            self.shared.log(&log);
        }
        let mut answer = answer?;
        if let Some(admission) = admission {
            admission.route.treatment.cross_origin(&self.head.headers, &mut answer.lines);
        }
        let may_go_on = !matches!(failure, Failure::Body | Failure::BodyTimeout | Failure::Internal);
        side.answer(answer, self.body(), may_go_on).await
    }

    /// Gives the answer that a route has for a request by itself, and accounts for it.
    pub(crate) async fn tell(
        &mut self,
        admission: &Admission,
        answer: Answer,
        side: ClientSide,
    ) -> Option<Idle> {
        let code = answer.status.as_u16();
        self.count(Some(admission), code);
        if self.shared.is_logging() {
            self.shared.log(&self.record(Some(admission), code));
        }
        side.answer(answer, self.body(), true).await
    }

    /// Counts an answer of a pod before any of it goes out: a client that has seen it finds it counted.
    pub(crate) fn begin(&self, admission: &Admission, status: StatusCode) {
        self.count(Some(admission), status.as_u16());
        if self.carried.stream.is_none() {
            admission.count(self.placement.as_ref());
        }
    }

    /// Accounts for the end of an answer of a pod, whole or not.
    pub(crate) fn settle(&mut self, admission: &Admission, (status, trouble): (StatusCode, Option<Trouble>)) {
        let stream = self.carried.stream.take();
        if stream.is_none() {
            let took = clock::now().since(self.began);
            admission.service().metrics.request_duration.observe(took.as_secs_f64());
        }
        let failure = trouble.as_ref().map(|trouble| self.judge(admission, trouble, stream.is_some()));
        let log = self.shared.is_logging().then(|| {
            let mut log = self.record(Some(admission), status.as_u16());
            log.kind = if stream.is_some() { "stream" } else { "request" };
            log.bytes = self.carried.bytes;
            if let Some(failure) = failure {
                log.reason = failure.log_reason();
                log.error = Some(failure.to_string());
            }
            log
        });
        match (stream, log) {
            (Some(stream), log) => stream.settle(close_reason(trouble.as_ref()), log),
            (None, Some(log)) => self.shared.log(&log),
            (None, None) => {}
        }
    }

    /// Counts what the endpoint did wrong within its answer; gives what that is in the log. The accounts of a stream count
    /// by themselves.
    pub(crate) fn judge(&self, admission: &Admission, trouble: &Trouble, streams: bool) -> Failure {
        let (kind, failure) = match trouble {
            Trouble::Client(failure) => return *failure,
            Trouble::SlowClient | Trouble::Told => return Failure::ClientGone,
            // A response that pauses for too long is cut; the pod did answer.
            Trouble::Idle => return Failure::UpstreamReset,
            Trouble::Malformed => (UpstreamErrorKind::Protocol, Failure::UpstreamProtocol),
            Trouble::Broken | Trouble::Pod(_) => (UpstreamErrorKind::Reset, Failure::UpstreamReset),
        };
        if !streams {
            self.endpoint_failed(admission, kind);
        }
        failure
    }

    pub(crate) fn body(&self) -> Body {
        if self.head.method == Method::HEAD { Body::Omitted } else { Body::Whole }
    }

    pub(crate) fn count(&self, admission: Option<&Admission>, code: u16) {
        let (service, route) =
            admission.map_or(("", ""), |known| (&*known.service().name, &*known.route.name));
        self.shared.metrics.requests.inc(service, route, MethodLabel::from(&self.head.method), code);
    }

    pub(crate) fn record(&self, admission: Option<&Admission>, code: u16) -> Record {
        let mut log = request_record(self.head, self.client, self.began);
        log.kind = "request";
        log.status = code;
        log.reason = "complete";
        if let Some(admission) = admission {
            admission.write_down(self.placement.as_ref(), self.answered, &mut log);
        }
        log.duration_ms = clock::duration_millis(clock::now().since(self.began));
        log.connect_ms = self.connect_millis;
        log.retries = self.retries;
        log
    }
}

/// Why an event stream ended, unless it was told to leave.
fn close_reason(trouble: Option<&Trouble>) -> CloseReason {
    match trouble {
        None => CloseReason::UpstreamEnd,
        Some(Trouble::Idle) => CloseReason::Idle,
        Some(Trouble::Broken | Trouble::Malformed | Trouble::Pod(_)) => CloseReason::UpstreamReset,
        Some(Trouble::SlowClient) => CloseReason::SlowClient,
        Some(Trouble::Client(_) | Trouble::Told) => CloseReason::Client,
    }
}
