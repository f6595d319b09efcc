//! Everything that a request is made of: its head, its client, its beginning, and the configuration that it sees.
//!
//! The snapshot is loaded once, when the head is complete, and passed down from here: a reload in between changes
//! nothing for the request.

use std::sync::Arc;

use http::{Version, header};
use podpin_time::Millis;
use podpin_wire::client::Client;
use podpin_wire::grpc;
use podpin_wire::http1::request_head::RequestHead;
use podpin_wire::upgrade;

use crate::affinity::request_view::RequestView;
use crate::balance::service::Kind;
use crate::clock;
use crate::limits::requests::RequestPermit;
use crate::routing::route::Route;
use crate::routing::snapshot::ConfigSnapshot;
use crate::shared::Shared;
use crate::telemetry::access_log::Record;
use crate::telemetry::labels::{MethodLabel, protocol_name};

/// A request with the configuration that it sees from beginning to end.
pub(crate) struct RequestContext {
    /// State of the process.
    pub shared: Arc<Shared>,
    /// Configuration in force when the head was complete.
    pub snapshot: Arc<ConfigSnapshot>,
    /// Name of the listener that it came over.
    pub listener: Arc<str>,
    /// Request head.
    pub head: RequestHead,
    /// Announced event stream, a GET without a body that names the type in `Accept`, or any other request.
    pub kind: Kind,
    /// Client of the request.
    pub client: Client,
    /// Moment at which the head was complete.
    pub began: Millis,
    /// Count under `limits.requests`; `None` if there is no room for it, or the request [is bounded as its
    /// connection](RequestContext::is_bounded_as_connection).
    pub permit: Option<RequestPermit>,
    /// Offer of another protocol; `None` if there is none.
    pub offer: Option<Box<Offer>>,
}

/// A client's offer of another protocol for its connection, or for its stream of HTTP/2.
pub(crate) struct Offer {
    /// Protocols that the client offers.
    pub protocols: Box<str>,
    /// Key of the proxy's own; `None` if the client's passes. Over HTTP/2 it has none (RFC 8441 section 5).
    pub key: Option<Box<str>>,
}

impl RequestContext {
    /// Returns the request, counted under `limits.requests` if there is room for it.
    pub(crate) fn counted(mut self) -> RequestContext {
        let limit = self.snapshot.limits.requests;
        self.permit = self.shared.requests.try_begin(limit, self.head.held_bytes());
        self
    }

    /// Returns the request as one that offers the protocols of its `Upgrade` fields.
    pub(crate) fn with_offer(mut self) -> RequestContext {
        let offer = upgrade::offer(&self.head.fields);
        self.offer = offer.map(|protocols| Box::new(Offer { protocols, key: None }));
        self
    }

    /// Returns the request as the offer of a WebSocket over HTTP/2 (RFC 8441), with this key for its endpoint.
    pub(crate) fn with_web_socket(mut self, key: Box<str>) -> RequestContext {
        self.offer = Some(Box::new(Offer { protocols: "websocket".into(), key: Some(key) }));
        self
    }

    /// Returns the key of the proxy's own for a WebSocket that came over HTTP/2; `None` if this is anything else.
    pub(crate) fn web_socket_key(&self) -> Option<&str> {
        self.offer.as_ref()?.key.as_deref()
    }

    /// Returns whether the request has a connection of its own from now on, and counts as that: it offers another protocol for all
    /// of it. A stream of HTTP/2 is one of many.
    pub(crate) fn is_bounded_as_connection(&self) -> bool {
        self.offer.as_ref().is_some_and(|offer| offer.key.is_none())
    }

    /// Returns the parts of the request that decide its route and its client's session.
    pub(crate) fn view(&self) -> RequestView<'_> {
        RequestView {
            listener: &self.listener,
            authority: self.head.authority(),
            path: self.head.path(),
            query: self.head.query(),
            fields: &self.head.fields,
            client: &self.client,
        }
    }

    /// Whether the request is a call of gRPC, which is HTTP/2 on both sides, or would be.
    pub(crate) fn is_call(&self) -> bool {
        self.head.version == Version::HTTP_2 && grpc::is_call(&self.head.method, &self.head.fields)
    }

    /// Returns the kind of the request in the access log, as long as nothing is known of the answer.
    pub(crate) fn log_kind(&self) -> &'static str {
        match self.kind {
            Kind::Stream => "stream",
            Kind::Request if self.is_call() => "call",
            Kind::Request => "request",
        }
    }

    /// Returns a line of the access log with all that is known of the request itself.
    pub(crate) fn record(&self, kind: &'static str) -> Record {
        let mut log = Record::begun(kind, self.began);
        log.client = Some(self.client.address);
        log.method = self.head.method.to_string();
        self.head.authority().clone_into(&mut log.host);
        self.head.target().clone_into(&mut log.path);
        log.protocol = protocol_name(self.head.version);
        log.user_agent = self.head.fields.text(&header::USER_AGENT).map(str::to_owned);
        log
    }

    /// Counts the response to the request; status 0 if the client left before one.
    pub(crate) fn count(&self, route: Option<&Route>, status: u16) {
        let (service, route) = route.map_or(("", ""), |route| (&*route.service.name, &*route.name));
        let method = MethodLabel::from(&self.head.method);
        self.shared.metrics.requests.inc(service, route, method, status);
    }

    /// Returns the milliseconds since the head was complete.
    pub(crate) fn elapsed_millis(&self) -> u64 {
        clock::duration_millis(clock::now().since(self.began))
    }
}
