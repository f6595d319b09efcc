//! Parts of streams for unit tests: connections, and a service with endpoints and drains.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::header::HeaderMap;
use http::{Method, Version};
use podpin_affinity::{Key, Keyring, SessionId};
use podpin_config::{Config, Listener};
use podpin_drain::{DrainController, DrainMember, DrainPolicy, DrainState, Mobility};
use podpin_endpoints::{DrainTimes, EndpointId, Observed, Update};
use podpin_wire::client::Client;
use podpin_wire::fields::Fields;
use podpin_wire::http1::body::BodyDecoder;
use podpin_wire::http1::request_head::RequestHead;
use tokio::net::{TcpListener, TcpStream};

use crate::affinity::routed_request::RoutedRequest;
use crate::balance::service::{FirstList, Kind, Operation, ServiceParts, ServiceState, TableWriter};
use crate::clock;
use crate::downstream::http1::{Http1Side, IdleConnection};
use crate::downstream::pending::{Http1Terms, PendingResponse};
use crate::http::filters::RouteFilters;
use crate::net::transport::Transport;
use crate::request_context::RequestContext;
use crate::routing::route::Route;
use crate::routing::snapshot::ConfigSnapshot;
use crate::routing::table::RouteTable;
use crate::shared::Shared;
use crate::stream_registry::{Opening, StreamRecord, StreamRegistry};
use crate::telemetry::metrics::Metrics;

/// Connects two sockets: the peer's end and the proxy's.
pub(crate) async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap());
    let (peer, accepted) = tokio::join!(peer, listener.accept());
    (peer.unwrap(), accepted.unwrap().0)
}

/// Returns the response to a request without a body on this connection, which may carry another one.
pub(crate) fn pending(client: TcpStream) -> PendingResponse {
    let connection = IdleConnection { transport: Transport::Plain(client), ahead: Default::default() };
    let body = BodyDecoder::Done;
    let terms = Http1Terms { body, is_http10: false, keep_alive: true, expects_continue: false };
    PendingResponse::http1(connection, terms)
}

/// Returns a listener whose TLS has `cert.pem` and `key.pem` of this directory, and these keys more.
pub(crate) fn tls_listener(directory: &Path, more: &str) -> Listener {
    let at = directory.display();
    let text = format!(
        "listeners:\n  - name: https\n    address: 127.0.0.1:1\n    tls: \
         {{certificates: [{{certFile: {at}/cert.pem, keyFile: {at}/key.pem}}]{more}}}\n\
         admin: {{address: 127.0.0.1:2}}\naffinityKeys: ephemeral\nroutes: [{{service: a}}]\n\
         services: {{a: {{discovery: {{static: []}}}}}}\n"
    );
    Config::parse(&text, "test", Path::new("")).unwrap().listeners.remove(0)
}

/// Returns the client side of a request without a body on this connection.
pub(crate) fn http1_side(client: TcpStream) -> Http1Side {
    let connection = IdleConnection { transport: Transport::Plain(client), ahead: Default::default() };
    Http1Side::new(connection, BodyDecoder::Done, false)
}

/// Shared state with one service, `chat`, and its endpoints.
pub(crate) struct Scene {
    pub(crate) shared: Arc<Shared>,
    pub(crate) route: Arc<Route>,
    drains: DrainController<StreamRecord>,
}

impl Scene {
    /// A service with these ready endpoints, from which streams leave at once when one drains.
    pub(crate) fn new(endpoints: &[(&str, SocketAddr)]) -> Scene {
        Scene::with("drain: {handover: lastEventId}", endpoints)
    }

    /// A scene whose service has these lines in its configuration.
    pub(crate) fn with(service: &str, endpoints: &[(&str, SocketAddr)]) -> Scene {
        Scene::named("chat", service, endpoints)
    }

    /// A scene with a service of this name.
    pub(crate) fn named(name: &str, service: &str, endpoints: &[(&str, SocketAddr)]) -> Scene {
        let text = "listeners: [{name: http, address: 127.0.0.1:1}]\nadmin: {address: 127.0.0.1:2}\n\
                    affinityKeys: ephemeral\nroutes: [{service: chat}]\nservices:\n  chat:\n    \
                    discovery: {static: [{name: pod-a, address: \"127.0.0.1:3\"}]}\n";
        let lines = service.lines().map(|line| format!("    {line}\n"));
        let text = std::iter::once(text.to_owned()).chain(lines).collect::<String>();
        let text = text.replace("chat", name);
        let config = Config::parse(&text, "test", Path::new("")).unwrap();
        let (registry, metrics) = (Arc::new(StreamRegistry::new()), Metrics::new("0").unwrap());
        let settings = config.services[0].clone();
        let parts = ServiceParts {
            metrics: metrics.service(name),
            drain: registry.inbox(),
            tls: None,
            first_list: FirstList::Awaited,
        };
        let service = Arc::new(ServiceState::new(settings, None, parts));
        let observed = endpoints.iter().map(|(name, address)| observed(name, *address)).collect();
        TableWriter::new(Arc::clone(&service)).apply(Update::Replace(observed));
        let policy = DrainPolicy::of(&service.configuration);
        let policy = DrainPolicy { times: DrainTimes { spread: Duration::ZERO, ..policy.times }, ..policy };
        let inbox = Arc::clone(&service.drain);
        let drains = DrainController::new(Arc::clone(&registry), inbox, policy, clock::now());
        let route = Arc::new(Route {
            name: name.into(),
            identity: name.into(),
            service: Arc::clone(&service),
            filters: RouteFilters::new(&config.routes[0]),
            withdrawn: Arc::new(AtomicBool::new(false)),
        });
        let snapshot = ConfigSnapshot {
            table: Arc::new(RouteTable::new(std::iter::empty())),
            listener_tables: Arc::new([]),
            routes: Arc::new([Arc::clone(&route)]),
            services: Arc::new([service]),
            listeners: Arc::new([]),
            http2: crate::limits::http2::config(&config.limits),
            limits: config.limits,
            shutdown: config.shutdown,
            trusted_proxies: Arc::new([]),
            keyring: Arc::new(Keyring::new(vec![Key::new("k", &[7; 32]).unwrap()]).unwrap()),
            access_log: None,
        };
        Scene { shared: Arc::new(Shared::new(snapshot, metrics, registry)), route, drains }
    }

    /// A request of a client without a session, with these header fields.
    pub(crate) fn context(&self, headers: HeaderMap) -> RequestContext {
        self.context_of(Kind::Request, headers)
    }

    /// A request of this kind of a client without a session, with these header fields.
    pub(crate) fn context_of(&self, kind: Kind, headers: HeaderMap) -> RequestContext {
        let client = Client::of([192, 0, 2, 7].into(), false, &Fields::from(&headers), &[]);
        let head = request_head(Method::GET, Version::HTTP_11, &headers);
        let shared = Arc::clone(&self.shared);
        let (snapshot, began) = (shared.snapshot(), clock::now());
        let listener = "http".into();
        RequestContext { snapshot, shared, listener, head, kind, client, began, permit: None, offer: None }
            .counted()
    }

    /// A request of a client that is pinned to this endpoint, and may wait for it.
    pub(crate) fn pinned_to(&self, endpoint: &str) -> RoutedRequest {
        let (id, session) = (EndpointId::of_pod(endpoint, 80), SessionId::from_bytes([1; 16]));
        RoutedRequest { may_wait: true, ..RoutedRequest::of_stream(Arc::clone(&self.route), session, id) }
    }

    /// Returns the sum of the samples whose line begins with `name` and has all these parts.
    pub(crate) fn metric(&self, name: &str, parts: &[&str]) -> f64 {
        let text = String::from_utf8(self.shared.metrics.render()).unwrap();
        let wanted = |line: &&str| line.starts_with(name) && parts.iter().all(|part| line.contains(part));
        text.lines().filter(wanted).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Begins to drain an endpoint, or takes that back.
    pub(crate) fn operate(&self, endpoint: &str, operation: Operation) {
        self.route.service.operate(&EndpointId::of_pod(endpoint, 80), operation).unwrap();
    }

    /// Removes an endpoint from the list.
    pub(crate) fn remove(&self, endpoint: &str) {
        let table = TableWriter::new(Arc::clone(&self.route.service));
        table.apply(Update::Remove(vec![EndpointId::of_pod(endpoint, 80)]));
    }

    /// Turns the drains until this stream has its moment to leave.
    pub(crate) fn order_to_leave(&mut self, record: &StreamRecord) {
        let service = Arc::clone(&self.route.service);
        let mut now = clock::now();
        while record.drain().state() != DrainState::Leaving {
            let turn = self.drains.turn(now, || Arc::clone(&service.view().snapshot), &mut |_| 0);
            now = now.after(turn.next);
        }
    }

    /// Registers a stream that begins now on an endpoint.
    pub(crate) fn open(&self, endpoint: &str, mobility: Mobility) -> Arc<StreamRecord> {
        let opening = Opening {
            route: Arc::clone(&self.route),
            endpoint: self.route.service.endpoint(&EndpointId::of_pod(endpoint, 80)).unwrap(),
            client: [127, 0, 0, 1].into(),
            session: Some([1; 16]),
            since: clock::now(),
            mobility,
            upgrade: None,
        };
        self.shared.streams.open(|id| opening.into_record(id))
    }
}

fn observed(name: &str, address: SocketAddr) -> Observed {
    Observed { uid: Some(name.into()), ..Observed::ready(EndpointId::of_pod(name, 80), name, address) }
}

/// Address at which nothing listens.
pub(crate) fn nowhere() -> SocketAddr {
    ([127, 0, 0, 1], 1).into()
}

/// A request of this method for `/a?b`, without an authority.
pub(crate) fn request_head(method: Method, version: Version, headers: &HeaderMap) -> RequestHead {
    let target = b"/a?b";
    let mut text = target.to_vec();
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            text.extend_from_slice(part);
        }
    }
    let end = text.len();
    let fields = Fields::within(text.into(), target.len()..end).unwrap();
    RequestHead::new(method, version, fields, 0..target.len(), 0..0).unwrap()
}
