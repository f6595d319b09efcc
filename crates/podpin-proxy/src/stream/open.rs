//! The beginning of an event stream: an endpoint has answered with one, whatever the request said, and the stream goes on as a
//! [`Relay`], detached from the connection that began it.
//!
//! Everything else that served the request is dropped here.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use podpin_config::Handover;
use podpin_drain::{Comer, Mobility};
use podpin_sse::Framer;
use podpin_sse::session::{Content, Recovery, Settings};
use podpin_wire::http1::response_head::ResponseHead;

use crate::affinity::routed_request::RoutedRequest;
use crate::affinity::selected::Selected;
use crate::balance::retry::Occasion;
use crate::clock;
use crate::downstream::lease::ConnectionLease;
use crate::downstream::pending::{BodyLength, PendingResponse};
use crate::request_context::RequestContext;
use crate::shared::InFlight;
use crate::stream::account::{Accounts, Finished, Permits};
use crate::stream::body::Body;
use crate::stream::handover::{EARLIEST, HandoverDriver, LAST_EVENT_ID, allows_handover, limits};
use crate::stream::relay::Relay;
use crate::stream::start::Start;
use crate::stream::task::StreamTask;
use crate::stream::upload::{RequestRest, Rest};
use crate::stream::upstream_reader::UpstreamReader;
use crate::stream_registry::{self, ReturnEvidence};
use crate::telemetry::labels::{OpenedStream, Resumption};
use crate::upstream::attempts::Attempts;
use crate::upstream::rewrite;

/// A request that was answered with an event stream.
struct Opening<'a> {
    context: &'a RequestContext,
    attempts: Attempts,
    repetition: Repetition,
}

/// Whether the request of a stream may be sent again, to another endpoint or by its client, without doing anything twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repetition {
    /// A GET without a body: the stream may go on elsewhere.
    Harmless,
    /// Any other request: the stream stays where it is.
    Forbidden,
}

/// An endpoint that answered, with the places of the stream.
pub(crate) struct Opened {
    /// Head of the response.
    pub head: ResponseHead,
    /// Body of the response.
    pub body: UpstreamReader,
    /// Places under the limits of the endpoint and of the client.
    pub permits: Permits,
    /// Bytes of interim responses that an HTTP/1 client has not taken.
    pub interim: Vec<u8>,
    /// The request, as far as it was sent.
    pub upload: Rest,
}

/// A request that was answered with an event stream, and its client, which has nothing of that yet.
pub(crate) struct PendingStream {
    /// The request.
    pub context: RequestContext,
    /// The attempts, with the endpoint that answered.
    pub attempts: Attempts,
    /// The response.
    pub opened: Opened,
    /// The client.
    pub client: PendingResponse,
    /// Whether the request had a body, which is not kept.
    pub has_body: bool,
    /// The request's share in what a shutdown waits for, until the stream is registered.
    pub in_flight: InFlight,
}

impl PendingStream {
    /// Answers the client and starts the relay, which takes an HTTP/1 connection with it by its `lease`.
    pub(crate) fn begin(self, lease: Option<ConnectionLease>) {
        let PendingStream { context, attempts, opened, client, has_body, in_flight } = self;
        let may_repeat = context.head.method == Method::GET && !has_body;
        let repetition = if may_repeat { Repetition::Harmless } else { Repetition::Forbidden };
        Opening { context: &context, attempts, repetition }.begin(opened, client, lease);
        drop(in_flight);
    }
}

/// Returns whether a client had a stream before.
pub(crate) fn comer(context: &RequestContext, request: &RoutedRequest) -> Comer {
    let is_back = request.is_returning() || context.head.fields.contains(&LAST_EVENT_ID);
    if is_back { Comer::Returning } else { Comer::New }
}

/// Returns the kind of an event stream: one that the relay can frame, or one that it cannot.
fn content_of(head: &ResponseHead) -> Content {
    if head.is_plain_event_stream() { Content::Events } else { Content::Encoded }
}

/// Whether nothing may be written into a response but its endpoint's own bytes (RFC 9111 section 5.2.2.6).
fn is_fixed(headers: &HeaderMap) -> bool {
    let is_no_transform = |directive: &str| directive.trim().eq_ignore_ascii_case("no-transform");
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(is_no_transform)
}

impl Opening<'_> {
    /// Answers the client and starts the relay.
    fn begin(self, opened: Opened, client: PendingResponse, lease: Option<ConnectionLease>) {
        let Opened { head, body: upstream, permits, interim, upload } = opened;
        let Some(selected) = self.attempts.selected() else { return };
        let content = content_of(&head);
        let fields = self.response_fields(&head, selected);
        self.count(selected, head.status);
        let handover = self.handover(&head, selected, content);
        let handover_enabled = handover.is_some();
        let accounts = self.accounts(selected, head.status, handover_enabled);
        if self.repetition == Repetition::Harmless {
            accounts.record().note_return(self.return_evidence(selected), clock::now());
            let name = self.attempts.request.client_name(self.context.client.address);
            self.attempts.service().drain.herd().served(name);
        }
        let Some(started) = client.start(head.status, &fields, BodyLength::Unknown, lease) else {
            accounts.settle(Finished::client_gone());
            return;
        };
        let is_fixed = is_fixed(&head.headers);
        let mut settings = self.settings(content, handover_enabled);
        settings.tells_retry &= !is_fixed;
        let body = self.body(&head, &settings);
        let relay = Relay::new(Start {
            downstream: started.downstream,
            head: [interim, started.head].concat(),
            upstream,
            settings,
            body,
            streams: Arc::clone(&self.context.shared.streams),
            record: Arc::clone(accounts.record()),
            permits: Some(permits),
            request: RequestRest::new(upload, self.context.snapshot.limits.request_body_timeout),
            handover,
        });
        let task = StreamTask::new(relay, accounts, started.connection);
        self.context.shared.lifecycle.spawn(task);
    }

    /// Returns whether the request shows that another stream of the client was ended, by whichever replica.
    fn return_evidence(&self, selected: &Selected) -> ReturnEvidence {
        if selected.has_left() && self.context.head.fields.contains(&LAST_EVENT_ID) {
            ReturnEvidence::LeftEndpoint
        } else {
            ReturnEvidence::None
        }
    }

    /// Returns the driver of the stream's handovers; `None` if it stays at its endpoint.
    fn handover(
        &self,
        head: &ResponseHead,
        selected: &Selected,
        content: Content,
    ) -> Option<Box<HandoverDriver>> {
        let is_wanted = self.attempts.service().configuration.drain.handover.moves_streams();
        let may_move = content == Content::Events && self.repetition == Repetition::Harmless;
        if !(may_move && is_wanted && allows_handover(&head.headers)) {
            return None;
        }
        // The last event id changes, and the session fields differ from endpoint to endpoint.
        let (request, address) = (&self.attempts.request, selected.endpoint.address);
        let mut fields = rewrite::upstream_headers(self.context, &self.attempts.request);
        rewrite::accept_encoding(self.attempts.service(), &mut fields);
        fields.remove(b"expect");
        fields.remove(LAST_EVENT_ID.as_str().as_bytes());
        let head = rewrite::request_head(request, &self.context.head, &fields, address);
        Some(Box::new(HandoverDriver::new(Arc::clone(&self.context.shared), request.session, &head)))
    }

    fn response_fields(&self, head: &ResponseHead, selected: &Selected) -> HeaderMap {
        let (status, received) = (head.status, head.headers.clone());
        let request = &self.attempts.request;
        let mut fields = rewrite::client_headers(self.context, request, selected, status, received);
        fields.remove(header::CONTENT_LENGTH);
        fields
    }

    fn count(&self, selected: &Selected, status: StatusCode) {
        let request = &self.attempts.request;
        request.count_decision(Some(selected));
        self.context.count(Some(&request.route), status.as_u16());
        let is_resumed = self.context.head.fields.contains(&LAST_EVENT_ID);
        let resumption = if is_resumed { Resumption::Resumed } else { Resumption::Fresh };
        let decision = request.decision(Some(selected));
        request.service().metrics.streams_opened.inc(OpenedStream::of(decision, resumption));
    }

    /// Returns the reconnection time in milliseconds for a client that comes back: a goodbye may have set another. For a new
    /// one as well, if it differs from the default. `None` if none is needed.
    fn normal_retry(&self) -> Option<u32> {
        let request = &self.attempts.request;
        let tells = comer(self.context, request) == Comer::Returning
            || request.service().configuration.sse.retry.tells_new();
        // Clients of other methods read a completion, and do not come back.
        let reconnects = self.repetition == Repetition::Harmless;
        let retry = request.service().retry_millis(Occasion::Normal).filter(|_| reconnects && tells)?;
        u32::try_from(retry).ok()
    }

    /// Returns the body of the response. Only a stream that may be handed over is held back event by event.
    fn body(&self, head: &ResponseHead, settings: &Settings) -> Body {
        if settings.content != Content::Events {
            return Body::Encoded;
        }
        let service = &self.attempts.service().configuration;
        let mut framer = match settings.handover {
            Some(_) => {
                let framer = Framer::with_cursor(service.sse.event_bytes_max, service.drain.replay_ids);
                if service.drain.handover == Handover::Overlap { framer.and_overlap() } else { framer }
            }
            None => Framer::unbuffered(),
        };
        // The endpoint's word on where it begins is better than the client's.
        let named = head.headers.get(LAST_EVENT_ID).map(HeaderValue::as_bytes);
        let named = named.filter(|id| *id != EARLIEST);
        if let Some(id) = named.or_else(|| self.context.head.fields.get(&LAST_EVENT_ID)) {
            framer.seed(id);
        }
        if let Some(retry) = self.normal_retry().filter(|_| settings.tells_retry) {
            framer.set_retry(retry);
        }
        Body::Events(framer)
    }

    /// Returns the timeouts and limits of the stream, as the request's configuration has them.
    fn settings(&self, content: Content, handover_enabled: bool) -> Settings {
        let service = &self.attempts.service().configuration;
        Settings {
            content,
            keep_alive: service.sse.keep_alive,
            upstream_idle: service.timeouts.upstream_idle,
            client_write: service.timeouts.client_write,
            max_duration: service.sse.max_duration,
            tells_retry: true,
            handover: handover_enabled.then(|| limits(service)),
            recovery: match self.repetition {
                Repetition::Harmless => Recovery::Reconnects,
                Repetition::Forbidden => Recovery::NeedsEventId,
            },
        }
    }

    fn mobility(&self, handover_enabled: bool) -> Mobility {
        match self.repetition {
            Repetition::Forbidden => Mobility::CutAtDeadline,
            Repetition::Harmless if handover_enabled && self.attempts.request.may_be_rebalanced() => {
                Mobility::Rebalances
            }
            Repetition::Harmless => Mobility::DrainOnly,
        }
    }

    /// Registers the stream, and begins its line of the access log.
    fn accounts(&self, selected: &Selected, status: StatusCode, handover_enabled: bool) -> Accounts {
        let (context, request) = (self.context, &self.attempts.request);
        // No client is expected back for the rest of a response to another method.
        let returns = self.repetition == Repetition::Harmless && request.is_recognised();
        let session = returns.then(|| *request.session.as_bytes());
        let opening = stream_registry::Opening {
            route: Arc::clone(&request.route),
            endpoint: Arc::clone(&selected.endpoint),
            client: context.client.address,
            session,
            since: context.began,
            mobility: self.mobility(handover_enabled),
            upgrade: None,
        };
        Accounts::open(context, &self.attempts, opening, status)
    }
}

#[cfg(test)]
mod tests {
    use podpin_wire::http1::response_head::ResponseHeadReader;

    use super::*;

    #[test]
    fn nothing_is_written_into_a_response_that_forbids_it() {
        for (value, fixed) in [("no-transform", true), ("no-store, No-Transform", true), ("no-cache", false)]
        {
            let headers = HeaderMap::from_iter([(header::CACHE_CONTROL, HeaderValue::from_static(value))]);
            assert_eq!(is_fixed(&headers), fixed, "{value}");
        }
        assert!(!is_fixed(&HeaderMap::new()));
    }

    #[test]
    fn an_encoded_event_stream_is_relayed_as_it_is() {
        let cases = [
            ("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", Content::Events),
            ("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n", Content::Events),
            (
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: identity\r\n\r\n",
                Content::Events,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n",
                Content::Encoded,
            ),
        ];
        for (text, expected) in cases {
            let mut reader = ResponseHeadReader::new(http::Method::GET);
            let start = reader.push(text.as_bytes(), drop).unwrap().unwrap();
            assert_eq!(content_of(&start.head), expected, "{text}");
        }
    }
}
