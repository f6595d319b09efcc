//! Requests that offer another protocol, WebSocket most often: Pingora's phases in their order, one short method each.
//!
//! Routing, attempts, header fields and replies are those of all other requests; Pingora contributes the framing, the retry
//! loop, and the two directions once the protocol has changed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header;
use http::{StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;
use pingora::protocols::Digest;
use pingora::server::configuration::ServerConf;
use pingora_proxy::{FailToProxy, ProxyWarnLogContext};
use pingora_proxy::{HttpProxy, http_proxy};
use podpin_time::Millis;
use podpin_wire::http1::request_head::FIELDS_MAX;
use podpin_wire::http1::response_head::INTERIM_BYTES_MAX;

use crate::affinity::routed_request::RoutedRequest;
use crate::clock;
use crate::http::reply::{ErrorReply, LocalResponse};
use crate::net::tls::provider::provider;
use crate::request_context::RequestContext;
use crate::shared::{InFlight, Shared};
use crate::telemetry::access_log::Record;
use crate::telemetry::labels::{CloseReason, Label as _};
use crate::upgrade::client_stream::Progress;
use crate::upgrade::response::{
    connect_error, downstream_reply, is_overdue, is_slow_client, rewrite_request, rewrite_response,
    upstream_error, write_response,
};
use crate::upstream::attempts::{Attempts, Purpose};
use crate::upstream::error::UpstreamError;
use crate::upstream::unserved::{self, Unserved};

/// Time that a client has for the rest of a response that is cut short.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// No time of Pingora's for an idle connection: it comes back to this proxy.
const KEEP_ALIVE_UNTIMED: u64 = 0;
/// Bytes of a status line and the empty line behind the fields.
const INTERIM_LINE_BYTES: usize = 20;

/// The proxy's part in Pingora's forwarding.
pub(crate) struct Pipeline {
    shared: Arc<Shared>,
}

/// The state of an upgrade request when Pingora takes it over.
pub(crate) struct UpgradeStart {
    /// The request with the configuration that it sees.
    pub context: RequestContext,
    /// Progress of the request, watched by the client's stream, which keeps the deadline of the response head.
    pub progress: Arc<Progress>,
    /// Whether the connection goes on behind the request if the offer is not taken.
    pub keeps: bool,
}

/// The state of one request between Pingora's phases.
pub(crate) struct UpgradeRequest {
    /// Start of the request; `None` if Pingora has not handed it over yet.
    start: Option<UpgradeStart>,
    /// Attempts; `None` without a route.
    attempts: Option<Attempts>,
    connect_began: Millis,
    /// Whether an endpoint has answered.
    answered: bool,
    /// Whether the route had a response without an endpoint.
    responded_locally: bool,
    /// Whether the request was accounted for already.
    is_settled: bool,
    /// Bytes of interim responses so far.
    interim_bytes: usize,
    reply: Option<ErrorReply>,
    /// Count of the request, until it is over in whatever way.
    _in_flight: InFlight,
}

/// Builds the pipeline of one worker.
pub(crate) fn for_worker(shared: &Arc<Shared>) -> Arc<HttpProxy<Pipeline>> {
    // Before Pingora makes its first connector, which would choose a provider of its own.
    let _ours = provider();
    let conf = ServerConf { threads: 1, max_retries: 64, ..ServerConf::default() };
    Arc::new(http_proxy(&Arc::new(conf), Pipeline::new(Arc::clone(shared))))
}

impl Pipeline {
    /// Returns the pipeline over the state of the process.
    pub(crate) fn new(shared: Arc<Shared>) -> Pipeline {
        Pipeline { shared }
    }
}

impl UpgradeRequest {
    /// Lets the connection go on behind the response, if it may.
    fn keep_alive(&self, session: &mut Session) {
        let keeps = self.start.as_ref().is_some_and(|start| start.keeps);
        session.set_keepalive(keeps.then_some(KEEP_ALIVE_UNTIMED));
    }

    /// Counts an interim response, of which an endpoint may send any number but no more bytes than to any other request.
    fn count_interim(&mut self, response: &ResponseHeader) -> Result<()> {
        let lines = response.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
        self.interim_bytes += lines.sum::<usize>() + INTERIM_LINE_BYTES;
        if self.interim_bytes > INTERIM_BYTES_MAX {
            self.endpoint_failed(&UpstreamError::Protocol("unexpected interim responses"));
            return Err(self.fail(ErrorReply::UpstreamProtocol));
        }
        Ok(())
    }

    fn fail(&mut self, reply: ErrorReply) -> Box<Error> {
        self.reply = Some(reply);
        Error::new(ErrorType::HTTPStatus(reply.status().map_or(499, |status| status.as_u16())))
    }

    /// Counts a failure of the endpoint after which no other is tried.
    fn endpoint_failed(&mut self, error: &UpstreamError) {
        self.reply = Some(error.reply());
        if let Some(attempts) = &self.attempts {
            attempts.count_failure(error);
        }
    }

    /// Accounts for a request that gets no response of an endpoint, as for any other such request; returns the proxy's own.
    fn settle(&mut self, reply: ErrorReply) -> Option<LocalResponse> {
        let Some(UpgradeStart { context, .. }) = &self.start else { return reply.response() };
        let progress = match &self.attempts {
            Some(attempts) => unserved::Progress::Tried { attempts, answered: self.answered },
            None => unserved::Progress::Unrouted,
        };
        self.is_settled = true;
        Unserved { context, progress }.settle(reply).map(|settled| settled.response)
    }

    fn record(&self, context: &RequestContext, session: &Session, error: Option<&Error>) -> Record {
        let mut log = context.record(if session.was_upgraded() { "upgrade" } else { "request" });
        log.status = written_status(session);
        if let Some(attempts) = &self.attempts {
            attempts.describe(self.answered, &mut log);
        }
        (log.reason, log.error) = match (error, self.reply) {
            (None, _) => ("complete", None),
            (Some(error), _) if is_slow_client(error) => {
                (CloseReason::SlowClient.label(), Some("the client took nothing in time".to_owned()))
            }
            (Some(_), Some(reply)) => (reply.log_reason(), Some(reply.to_string())),
            (Some(error), None) => ("error", Some(error.to_string())),
        };
        log.bytes = u64::try_from(session.body_bytes_sent()).unwrap_or(0);
        log.duration_ms = context.elapsed_millis();
        log
    }
}

/// Returns the status that the client was sent; 0 if there was none.
fn written_status(session: &Session) -> u16 {
    let is_final = |head: &&ResponseHeader| !head.status.is_informational() || session.was_upgraded();
    session.response_written().filter(is_final).map_or(0, |head| head.status.as_u16())
}

#[async_trait]
impl ProxyHttp for Pipeline {
    type CTX = UpgradeRequest;

    fn new_ctx(&self) -> UpgradeRequest {
        UpgradeRequest {
            start: None,
            attempts: None,
            connect_began: Millis(0),
            answered: false,
            responded_locally: false,
            is_settled: false,
            interim_bytes: 0,
            reply: None,
            _in_flight: self.shared.in_flight(),
        }
    }

    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        request: &mut UpgradeRequest,
        start: Box<dyn std::any::Any + Send + Sync>,
    ) {
        request.start = start.downcast::<UpgradeStart>().ok().map(|start| *start);
    }

    async fn request_filter(&self, session: &mut Session, request: &mut UpgradeRequest) -> Result<bool> {
        let Some(UpgradeStart { context, .. }) = &request.start else {
            return Err(request.fail(ErrorReply::Internal));
        };
        session.set_read_timeout(Some(context.snapshot.limits.request_body_timeout));
        // RFC 9110 section 15.2: no interim responses for HTTP/1.0.
        session.set_ignore_info_resp(context.head.version == Version::HTTP_10);
        let view = context.view();
        let routed = match RoutedRequest::new(&context.snapshot, &view) {
            Ok(routed) => routed,
            Err(reply) => return Err(request.fail(reply)),
        };
        let response = routed.route.filters.local_response(&context.head, context.client.secure);
        let service = &routed.service().configuration;
        session.set_write_timeout(service.timeouts.client_write);
        let is_refused = response.is_none() && service.protocol.is_http2();
        request.attempts = Some(Attempts::new(routed, Purpose::Request));
        if is_refused {
            return Err(request.fail(ErrorReply::Upgrade));
        }
        let Some(response) = response else { return Ok(false) };
        request.responded_locally = true;
        request.keep_alive(session);
        write_response(session, response).await?;
        Ok(true)
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        request: &mut UpgradeRequest,
    ) -> Result<Box<HttpPeer>> {
        let Some(attempts) = &mut request.attempts else { return Err(request.fail(ErrorReply::Internal)) };
        if let Err(reply) = Box::pin(attempts.select_request()).await {
            return Err(request.fail(reply));
        }
        let Some(endpoint) = attempts.endpoint() else { return Err(request.fail(ErrorReply::Internal)) };
        let service = attempts.service();
        let times = &service.configuration.timeouts;
        let address = endpoint.address;
        let mut peer = HttpPeer::new(address, service.tls.is_some(), String::new());
        if let Some(tls) = &service.tls {
            tls.apply(&mut peer, address.ip().to_string());
        }
        peer.options.connection_timeout = Some(times.connect);
        peer.options.total_connection_timeout = Some(times.connect);
        // Pingora's is a limit between two reads; the deadline of the head is kept where `Progress` is watched.
        peer.options.read_timeout = match &request.start {
            Some(start) => {
                start.progress.await_answer(times.response_header);
                None
            }
            None => times.response_header,
        };
        peer.options.write_timeout = times.response_header;
        // A connection whose offer was not taken is not kept: whose it is, and whether its endpoint drains, is not known there.
        peer.options.idle_timeout = Some(Duration::ZERO);
        request.connect_began = clock::now();
        Ok(Box::new(peer))
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<bytes::Bytes>,
        _end: bool,
        request: &mut UpgradeRequest,
    ) -> Result<()> {
        if let Some(start) = &request.start {
            start.progress.touch();
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
        request: &mut UpgradeRequest,
    ) -> Result<()> {
        if !reused && let Some(attempts) = &mut request.attempts {
            attempts.connected(clock::now().since(request.connect_began));
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        upstream: &mut RequestHeader,
        request: &mut UpgradeRequest,
    ) -> Result<()> {
        let (Some(start), Some(attempts)) = (&request.start, &request.attempts) else {
            return Err(request.fail(ErrorReply::Internal));
        };
        rewrite_request(&start.context, attempts, upstream)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        request: &mut UpgradeRequest,
    ) -> Result<()> {
        if response.headers.len() > FIELDS_MAX {
            request.endpoint_failed(&UpstreamError::Protocol("too many header fields"));
            return Err(request.fail(ErrorReply::UpstreamProtocol));
        }
        let is_switch = response.status == StatusCode::SWITCHING_PROTOCOLS;
        if response.status.is_informational() && !is_switch {
            request.count_interim(response)?;
        }
        let (Some(start), Some(attempts)) = (&request.start, &mut request.attempts) else {
            return Err(request.fail(ErrorReply::Internal));
        };
        if !request.answered && (is_switch || !response.status.is_informational()) {
            request.answered = true;
            attempts.answered(response.status);
            attempts.request.renew_session(&response.headers);
            start.progress.answered();
        }
        if is_switch {
            start.progress.switched();
            // An upgraded connection may be silent for any time.
            session.set_read_timeout(None);
        }
        if session.req_header().version == Version::HTTP_10 {
            // No chunks for HTTP/1.0: the end of the connection is the end of the body.
            response.remove_header(&header::TRANSFER_ENCODING);
            if !response.headers.contains_key(header::CONTENT_LENGTH) {
                session.set_keepalive(None);
            }
        }
        rewrite_response(&start.context, attempts, response)?;
        if !is_switch && !response.status.is_informational() {
            request.keep_alive(session);
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        request: &mut UpgradeRequest,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let failure = connect_error(&error);
        request.reply = Some(failure.reply());
        // A retry only if there is another endpoint.
        let again = request
            .attempts
            .as_mut()
            .is_some_and(|attempts| attempts.failed(&failure) && attempts.has_next());
        error.set_retry(again);
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        request: &mut UpgradeRequest,
        client_reused: bool,
    ) -> Box<Error> {
        error.set_retry(false);
        if *error.esource() != ErrorSource::Upstream {
            return error;
        }
        // A kept connection that the endpoint closed meanwhile is not its failure: a fresh one is tried, if sending twice
        // does no harm and the body is still there.
        let is_harmless =
            session.req_header().method.is_idempotent() && !session.as_ref().retry_buffer_truncated();
        let is_stale = client_reused && !request.answered;
        if is_stale
            && is_harmless
            && let Some(attempts) = request.attempts.as_mut().filter(|attempts| attempts.may_retry())
        {
            attempts.retry_stale();
            error.set_retry(true);
            return error;
        }
        request.endpoint_failed(&upstream_error(&error));
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        request: &mut UpgradeRequest,
    ) -> FailToProxy {
        if is_overdue(error) && request.reply.is_none() {
            request.endpoint_failed(&UpstreamError::ResponseTimeout);
        }
        let reply = request.reply.unwrap_or_else(|| downstream_reply(error));
        request.reply = Some(reply);
        let has_begun = session.response_written().is_some_and(|head| !head.status.is_informational());
        let mut code = 0;
        if has_begun {
            // The gathered bytes of the response go out before the connection that cuts it short.
            if tokio::time::timeout(CUT_GRACE, session.shutdown()).await.is_err() {
                tracing::debug!("a client did not take the end of its response");
            }
        } else if let Some(response) = request.settle(reply) {
            code = response.status.as_u16();
            session.set_keepalive(None);
            if let Err(error) = write_response(session, response).await {
                tracing::debug!(%error, "the client left before its response");
            }
        }
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, request: &mut UpgradeRequest) {
        let Some(UpgradeStart { context, .. }) = request.start.as_ref().filter(|_| !request.is_settled)
        else {
            return;
        };
        let routed = request.attempts.as_ref().map(|attempts| &attempts.request);
        context.count(routed.map(|routed| &*routed.route), written_status(session));
        if let Some(attempts) = request.attempts.as_ref().filter(|_| !request.responded_locally) {
            attempts.request.count_decision(attempts.selected().filter(|_| request.answered));
            let service = attempts.service();
            let took = clock::now().since(context.began);
            service.metrics.request_duration.observe(took.as_secs_f64());
            if let Some(kind) = request.reply.and_then(ErrorReply::refusal) {
                service.refused(kind);
            }
        }
        if self.shared.is_logging() {
            self.shared.log(&request.record(context, session, error));
        }
    }

    fn suppress_error_log(&self, _session: &Session, _request: &UpgradeRequest, error: &Error) -> bool {
        tracing::debug!(%error, "a request failed");
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _request: &UpgradeRequest,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderMap;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::testing::{Scene, nowhere};

    const NAMES: [&str; 2] = ["a", "b"];

    fn scene() -> Scene {
        Scene::new(&NAMES.map(|name| (name, nowhere())))
    }

    /// Session of a client that has sent this request line.
    async fn session(line: &str) -> Session {
        let (mut client, proxy) = tokio::io::duplex(64 * 1024);
        client.write_all(format!("{line}\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut session = Session::new_h1(Box::new(proxy));
        session.as_downstream_mut().read_request().await.unwrap();
        session
    }

    /// The pipeline, and a request of a client that is pinned to `a`.
    fn request(scene: &Scene) -> (Pipeline, UpgradeRequest) {
        let pipeline = Pipeline::new(Arc::clone(&scene.shared));
        let mut request = pipeline.new_ctx();
        let context = scene.context(HeaderMap::new());
        request.start = Some(UpgradeStart { context, progress: Arc::default(), keeps: false });
        request.attempts = Some(Attempts::new(scene.pinned_to("a"), Purpose::Request));
        (pipeline, request)
    }

    fn refused() -> Box<Error> {
        Error::explain(ErrorType::ConnectRefused, "refused").into_up()
    }

    #[tokio::test]
    async fn a_request_that_was_not_handed_over_or_has_no_route_is_refused() {
        let scene = scene();
        let (pipeline, handed) = request(&scene);
        let mut session = session("GET / HTTP/1.1").await;
        let mut lost = pipeline.new_ctx();
        assert!(pipeline.request_filter(&mut session, &mut lost).await.is_err());
        assert_eq!(lost.reply, Some(ErrorReply::Internal));
        let mut unrouted = pipeline.new_ctx();
        let start: Box<dyn std::any::Any + Send + Sync> = Box::new(handed.start.unwrap());
        pipeline.on_connection_reuse(&mut session, &mut unrouted, start);
        assert!(pipeline.request_filter(&mut session, &mut unrouted).await.is_err());
        assert_eq!(unrouted.reply, Some(ErrorReply::NoRoute));
        assert!(pipeline.upstream_peer(&mut session, &mut unrouted).await.is_err(), "no attempts");
    }

    #[tokio::test]
    async fn a_failed_connection_is_retried_as_long_as_there_is_another_endpoint() {
        let scene = scene();
        let (pipeline, mut request) = request(&scene);
        let mut session = session("GET / HTTP/1.1").await;
        for (endpoint, again) in NAMES.into_iter().zip([true, false]) {
            let peer = pipeline.upstream_peer(&mut session, &mut request).await.unwrap();
            assert!(peer.options.connection_timeout.is_some());
            let selected = request.attempts.as_ref().unwrap().endpoint().unwrap();
            assert_eq!(&*selected.name, endpoint);
            let error = pipeline.fail_to_connect(&mut session, &peer, &mut request, refused());
            assert_eq!((error.retry(), request.reply), (again, Some(ErrorReply::UpstreamConnect)));
        }
        assert!(pipeline.upstream_peer(&mut session, &mut request).await.is_err(), "both were tried");
        assert_eq!(scene.metric("podpin_upstream_errors_total", &["connect"]), 2.0);
    }

    #[tokio::test]
    async fn a_stale_connection_is_no_failure_of_the_endpoint_where_a_repetition_does_no_harm() {
        // Method; kept connection; response there; whether it is tried again.
        let table = [
            ("GET", true, false, true),
            ("GET", false, false, false),
            ("GET", true, true, false),
            ("POST", true, false, false),
        ];
        for (method, is_kept, answered, again) in table {
            let scene = scene();
            let (pipeline, mut request) = request(&scene);
            let mut session = session(&format!("{method} / HTTP/1.1")).await;
            let peer = pipeline.upstream_peer(&mut session, &mut request).await.unwrap();
            request.answered = answered;
            let error = Error::explain(ErrorType::ConnectionClosed, "closed").into_up();
            let error = pipeline.error_while_proxy(&peer, &mut session, error, &mut request, is_kept);
            assert_eq!(error.retry(), again, "{method} {is_kept} {answered}");
            let failures = scene.metric("podpin_upstream_errors_total", &[]);
            assert_eq!(failures, f64::from(u8::from(!again)), "{method} {is_kept} {answered}");
        }
        // An error of the client's side is left as it is.
        let scene = scene();
        let (pipeline, mut request) = request(&scene);
        let mut session = session("GET / HTTP/1.1").await;
        let peer = pipeline.upstream_peer(&mut session, &mut request).await.unwrap();
        let error = Error::explain(ErrorType::ReadError, "gone").into_down();
        let error = pipeline.error_while_proxy(&peer, &mut session, error, &mut request, true);
        assert_eq!((error.retry(), request.reply), (false, None));
    }

    #[tokio::test]
    async fn a_response_is_counted_once_it_is_final_and_one_with_too_many_fields_is_refused() {
        let scene = scene();
        let (pipeline, mut request) = request(&scene);
        let mut session = session("GET / HTTP/1.1").await;
        pipeline.upstream_peer(&mut session, &mut request).await.unwrap();
        for (status, answered) in [(103, false), (101, true)] {
            let mut response = ResponseHeader::build(status, None).unwrap();
            pipeline.response_filter(&mut session, &mut response, &mut request).await.unwrap();
            assert_eq!(request.answered, answered, "{status}");
        }
        let mut endless = ResponseHeader::build(200, None).unwrap();
        for number in 0..=FIELDS_MAX {
            endless.append_header(format!("x-{number}"), "1").unwrap();
        }
        assert!(pipeline.response_filter(&mut session, &mut endless, &mut request).await.is_err());
        assert_eq!(request.reply, Some(ErrorReply::UpstreamProtocol));
        assert_eq!(scene.metric("podpin_upstream_errors_total", &["protocol"]), 1.0);
    }

    #[tokio::test]
    async fn a_request_that_got_no_response_is_logged_as_such() {
        let scene = scene();
        let (pipeline, mut request) = request(&scene);
        let mut session = session("GET / HTTP/1.1").await;
        pipeline.upstream_peer(&mut session, &mut request).await.unwrap();
        let context = scene.context(HeaderMap::new());
        let error = request.fail(ErrorReply::UpstreamTimeout);
        let log = request.record(&context, &session, Some(&*error));
        assert_eq!((log.kind, log.status, log.reason), ("request", 0, "error"));
        assert_eq!((log.endpoint.as_deref(), log.service.as_deref()), (Some("a"), Some("chat")));
        assert_eq!(request.record(&context, &session, None).reason, "complete");
        pipeline.logging(&mut session, None, &mut request).await;
        assert_eq!(scene.metric("podpin_affinity_decisions_total", &[]), 1.0);
    }
}
