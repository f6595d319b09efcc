//! Requests that want to become another protocol, WebSocket most often: Pingora's phases in their order, one short method
//! each.
//!
//! Decisions are the same as for all other requests (`admission.rs`, `forward.rs`, `reply.rs`); only the bytes are
//! Pingora's business here: its framing, its retry loop, and the two directions once the protocol has changed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Version;
use http::header;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;
use pingora::protocols::Digest;
use pingora::server::configuration::ServerConf;
use pingora_proxy::{FailToProxy, HttpProxy, ProxyWarnLogContext, http_proxy};
use podpin_endpoints::EndpointId;
use podpin_time::Millis;

use crate::affinity::select::{Admission, Asked, Placement};
use crate::balance::service::Kind;
use crate::clock;
use crate::http::reply::Failure;
use crate::shared::{InFlight, Shared};
use crate::telemetry::labels::{MethodLabel, RetryReason, UpstreamErrorKind};
use crate::upgrade::client_stream::Progress;
use crate::upgrade::response::{
    authority, downstream_failure, is_overdue, own_answer, record, strip_response, treat_request,
    treat_response, write_affinity, write_answer, write_failure,
};
use crate::upstream::pool;
use podpin_wire::client::Client;
use podpin_wire::headers;
use podpin_wire::http1::request_head::FIELDS_MAX;

/// How long a client may take for what was left of a response that is cut short.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Our part in Pingora's forwarding.
pub(crate) struct Pipeline {
    shared: Arc<Shared>,
}

/// Builds Pingora's proxy over this pipeline, for one worker.
pub(crate) fn for_worker(shared: &Arc<Shared>) -> Arc<HttpProxy<Pipeline>> {
    let conf = ServerConf { threads: 1, max_retries: 64, ..ServerConf::default() };
    Arc::new(http_proxy(&Arc::new(conf), Pipeline::new(Arc::clone(shared))))
}

impl Pipeline {
    pub(crate) fn new(shared: Arc<Shared>) -> Pipeline {
        Pipeline { shared }
    }
}

/// What is known of one request.
pub(crate) struct Request {
    pub began: Millis,
    pub client: Option<Client>,
    pub admission: Option<Admission>,
    pub placement: Option<Placement>,
    pub tried: Vec<EndpointId>,
    pub retries: u32,
    pub connect_asked: Millis,
    pub connect_millis: Option<u64>,
    pub answered: bool,
    /// Shared with whoever keeps the deadline: the client's side of the request (`io.rs`).
    pub progress: Option<Arc<Progress>>,
    pub failure: Option<Failure>,
    /// Its route had an answer by itself.
    pub told: bool,
    /// Counts the request as in flight until it is over, whatever happens.
    pub _in_flight: InFlight,
}

impl Request {
    pub(crate) fn fail(&mut self, failure: Failure) -> Box<Error> {
        self.failure = Some(failure);
        Error::new(ErrorType::HTTPStatus(failure.status().map_or(499, |status| status.as_u16())))
    }

    /// Counts a failure of the endpoint and says what the client is told if nothing else helps.
    pub(crate) fn endpoint_failed(&mut self, kind: UpstreamErrorKind) {
        self.failure = Some(match kind {
            UpstreamErrorKind::Connect => Failure::UpstreamConnect,
            UpstreamErrorKind::Timeout => Failure::UpstreamTimeout,
            UpstreamErrorKind::Reset => Failure::UpstreamReset,
            UpstreamErrorKind::Protocol => Failure::UpstreamProtocol,
        });
        if let (Some(admission), Some(placement)) = (&self.admission, &self.placement) {
            admission.service().endpoint_failed(&placement.endpoint, kind);
        }
    }

    pub(crate) fn may_retry(&self) -> bool {
        let attempts = self.admission.as_ref().map(|known| known.service().configuration.retries.attempts);
        attempts.is_some_and(|attempts| self.retries < attempts)
    }

    pub(crate) fn retry(&mut self, reason: RetryReason) {
        self.retries += 1;
        if let Some(admission) = &self.admission {
            admission.service().metrics.upstream_retries.inc(reason);
        }
    }
}

#[async_trait]
impl ProxyHttp for Pipeline {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        Request {
            began: clock::now(),
            client: None,
            admission: None,
            placement: None,
            tried: Vec::new(),
            retries: 0,
            connect_asked: Millis(0),
            connect_millis: None,
            answered: false,
            progress: None,
            failure: None,
            told: false,
            _in_flight: self.shared.in_flight(),
        }
    }

    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        request: &mut Request,
        context: Box<dyn std::any::Any + Send + Sync>,
    ) {
        request.progress = context.downcast::<Arc<Progress>>().ok().map(|progress| *progress);
    }

    async fn request_filter(&self, session: &mut Session, request: &mut Request) -> Result<bool> {
        session.set_read_timeout(Some(self.shared.current().limits.request_body_timeout));
        // RFC 9110 section 15.2: no interim responses for HTTP/1.0.
        let http10 = session.req_header().version == Version::HTTP_10;
        session.set_ignore_info_resp(http10);
        let head = session.req_header();
        let peer = session.client_addr().and_then(|address| address.as_inet()).map(std::net::SocketAddr::ip);
        let Some(peer) = peer else { return Err(request.fail(Failure::Internal)) };
        let tls = session.digest().and_then(|digest| digest.ssl_digest.as_ref());
        let mut client =
            Client::of(peer, tls.is_some(), &head.headers, &self.shared.current().trusted_proxies);
        client.subject = tls.and_then(|tls| tls.organization.clone());
        let secure = client.secure;
        let asked = Asked {
            authority: authority(head),
            path: head.uri.path(),
            query: head.uri.query(),
            headers: &head.headers,
            client: &client,
        };
        let admitted = Admission::new(&self.shared, &asked);
        request.client = Some(client);
        match admitted {
            Ok(admission) => {
                let answer = own_answer(&admission, session, secure);
                session.set_write_timeout(admission.service().configuration.timeouts.client_write);
                request.admission = Some(admission);
                let Some(answer) = answer else { return Ok(false) };
                request.told = true;
                if !session.as_downstream_mut().is_body_empty() {
                    // Nobody reads the body that comes behind the answer.
                    session.set_keepalive(None);
                }
                write_answer(session, answer).await?;
                Ok(true)
            }
            Err(failure) => Err(request.fail(failure)),
        }
    }

    async fn upstream_peer(&self, _session: &mut Session, request: &mut Request) -> Result<Box<HttpPeer>> {
        let Some(admission) = &request.admission else { return Err(request.fail(Failure::Internal)) };
        let placement = match Box::pin(admission.await_request(&request.tried)).await {
            Ok(placement) => placement,
            Err(_) if !request.tried.is_empty() => return Err(request.fail(Failure::UpstreamConnect)),
            Err(failure) => return Err(request.fail(failure)),
        };
        let service = admission.service();
        let times = &service.configuration.timeouts;
        let address = placement.endpoint.address;
        let mut peer = HttpPeer::new(address, service.tls.is_some(), String::new());
        if let Some(tls) = &service.tls {
            tls.apply(&mut peer, address.ip().to_string());
        }
        peer.options.connection_timeout = Some(times.connect);
        peer.options.total_connection_timeout = Some(times.connect);
        // Pingora's is a limit between two reads; the deadline of the head is kept where `Progress` is watched.
        peer.options.read_timeout = match &request.progress {
            Some(progress) => {
                progress.await_answer(times.response_header);
                None
            }
            None => times.response_header,
        };
        peer.options.write_timeout = times.response_header;
        peer.options.idle_timeout = Some(pool::IDLE_MAX);
        request.placement = Some(placement);
        request.connect_asked = clock::now();
        Ok(Box::new(peer))
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<bytes::Bytes>,
        _end: bool,
        request: &mut Request,
    ) -> Result<()> {
        if let Some(progress) = &request.progress {
            progress.touch();
        }
        Ok(())
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::fd::RawFd,
        _digest: Option<&Digest>,
        request: &mut Request,
    ) -> Result<()> {
        if !reused && let Some(admission) = &request.admission {
            let took = clock::now().since(request.connect_asked);
            admission.service().metrics.upstream_connect.observe(took.as_secs_f64());
            request.connect_millis = Some(clock::duration_millis(took));
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        request: &mut Request,
    ) -> Result<()> {
        let (Some(client), Some(admission), Some(placement)) =
            (&request.client, &request.admission, &request.placement)
        else {
            return Err(request.fail(Failure::Internal));
        };
        for name in headers::claimed_lines(&upstream.headers, client) {
            upstream.remove_header(&name);
        }
        let mut lines = http::HeaderMap::new();
        for value in upstream.headers.get_all(header::COOKIE) {
            lines.append(header::COOKIE, value.clone());
        }
        upstream.remove_header(&header::COOKIE);
        admission.strip_cookies(&mut lines);
        if let Some((name, own)) = admission.own_session_id() {
            upstream.insert_header(name, own)?;
        }
        let asked = session.req_header();
        treat_request(&admission.route.treatment, asked, upstream, &mut lines)?;
        admission.session_lines(&mut lines, placement);
        for (name, value) in headers::forwarding_lines(&asked.headers, client, authority(asked)) {
            lines.insert(name, value);
        }
        if !upstream.headers.contains_key(header::HOST) && asked.uri.authority().is_none() {
            upstream.insert_header(header::HOST, placement.endpoint.address.to_string())?;
        }
        for (name, value) in &lines {
            upstream.append_header(name.clone(), value.clone())?;
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        request: &mut Request,
    ) -> Result<()> {
        let (Some(client), Some(admission), Some(placement)) =
            (&request.client, &request.admission, &request.placement)
        else {
            return Err(request.fail(Failure::Internal));
        };
        if response.headers.len() > FIELDS_MAX {
            request.endpoint_failed(UpstreamErrorKind::Protocol);
            return Err(request.fail(Failure::UpstreamProtocol));
        }
        let upgrade = response.status == http::StatusCode::SWITCHING_PROTOCOLS;
        if !request.answered && (upgrade || !response.status.is_informational()) {
            request.answered = true;
            admission.service().endpoint_succeeded(&placement.endpoint.load);
            if let Some(progress) = &request.progress {
                progress.answered();
            }
        }
        if upgrade {
            // An upgraded connection may be silent for as long as it likes.
            session.set_read_timeout(None);
        }
        if session.req_header().version == Version::HTTP_10 {
            // No chunks for HTTP/1.0: the end of the connection is the end of the body.
            response.remove_header(&header::TRANSFER_ENCODING);
            if !response.headers.contains_key(header::CONTENT_LENGTH) {
                session.set_keepalive(None);
            }
        }
        strip_response(response, upgrade, |line| admission.sets_pin(line))?;
        if upgrade || !response.status.is_informational() {
            treat_response(&admission.route.treatment, &session.req_header().headers, response)?;
            write_affinity(&self.shared, ((admission, placement), client), response)?;
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        request: &mut Request,
        mut error: Box<Error>,
    ) -> Box<Error> {
        request.endpoint_failed(UpstreamErrorKind::Connect);
        if let Some(placement) = &request.placement {
            request.tried.push(placement.endpoint.id);
        }
        // Only if there is another one to ask.
        let elsewhere =
            request.admission.as_ref().map(|known| known.place(Kind::Request, &request.tried).is_ok());
        let again = request.may_retry() && elsewhere == Some(true);
        if again {
            request.retry(RetryReason::Connect);
        }
        error.set_retry(again);
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        request: &mut Request,
        client_reused: bool,
    ) -> Box<Error> {
        if *error.esource() != ErrorSource::Upstream {
            error.set_retry(false);
            return error;
        }
        // A kept connection that the pod closed meanwhile is no failure of the pod: ask again on a fresh one, if
        // asking twice does no harm and the body is still there.
        let harmless =
            session.req_header().method.is_idempotent() && !session.as_ref().retry_buffer_truncated();
        let stale = client_reused && !request.answered;
        if stale && harmless && request.may_retry() {
            request.retry(RetryReason::Reset);
            error.set_retry(true);
            return error;
        }
        request.endpoint_failed(match error.etype() {
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => UpstreamErrorKind::Timeout,
            ErrorType::InvalidHTTPHeader | ErrorType::H1Error => UpstreamErrorKind::Protocol,
            _ => UpstreamErrorKind::Reset,
        });
        error.set_retry(false);
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        request: &mut Request,
    ) -> FailToProxy {
        if is_overdue(error) && request.failure.is_none() {
            request.endpoint_failed(UpstreamErrorKind::Timeout);
        }
        let failure = request.failure.unwrap_or_else(|| downstream_failure(error));
        request.failure = Some(failure);
        let code = failure.status().map_or(0, |status| status.as_u16());
        let begun = session.response_written().is_some_and(|head| !head.status.is_informational());
        if !begun && code > 0 {
            session.set_keepalive(None);
            if let Err(error) = write_failure(session, failure, request.admission.as_ref()).await {
                tracing::debug!(%error, "the client left before its answer");
            }
        }
        if begun {
            // What was gathered of the response goes out before the connection that cuts it short.
            if tokio::time::timeout(LAST_WORDS, session.shutdown()).await.is_err() {
                tracing::debug!("a client did not take the end of its response");
            }
        }
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, request: &mut Request) {
        let written = session
            .response_written()
            .filter(|head| !head.status.is_informational() || session.was_upgraded());
        let status = written.map_or(0, |head| head.status.as_u16());
        let admission = request.admission.as_ref();
        let (service, route) =
            admission.map_or(("", ""), |known| (&*known.service().name, &*known.route.name));
        let method = MethodLabel::from(&session.req_header().method);
        self.shared.metrics.requests.inc(service, route, method, status);
        if let Some(admission) = admission.filter(|_| !request.told) {
            let placement = request.placement.as_ref().filter(|_| request.answered);
            let service = admission.service();
            admission.count(placement);
            let took = clock::now().since(request.began);
            service.metrics.request_duration.observe(took.as_secs_f64());
            if let Some(kind) = request.failure.and_then(Failure::refusal) {
                service.refused(kind);
            }
        }
        if self.shared.is_logging() {
            self.shared.log(&record(session, error, request, status));
        }
    }

    fn suppress_error_log(&self, _session: &Session, _request: &Request, error: &Error) -> bool {
        tracing::debug!(%error, "a request failed");
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _request: &Request,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
