//! A request with its route and its client's identity.
//!
//! All data paths come through here, so that a client's event stream and its ordinary requests land on one endpoint.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::HeaderMap;
use podpin_affinity::{SessionId, TokenError};
use podpin_config::AmbiguousPaths;
use podpin_drain::ClientName;
use podpin_endpoints::{EndpointId, MoveReason, Ring as _};
use podpin_wire::client::network;
use podpin_wire::headers;
use podpin_wire::http1::request_head::HeadError;
use podpin_wire::http1::target;

use crate::affinity::identify::{ClientIdentity, IdentitySource, identify, new_session};
use crate::affinity::request_view::RequestView;
use crate::affinity::selected::Selected;
use crate::affinity::split;
use crate::balance::client_limit::{ClientKey, ClientOfStream, ClientPermit, Exceeded};
use crate::balance::retry::name_of_address;
use crate::balance::service::{ServiceState, View};
use crate::clock;
use crate::http::reply::ErrorReply;
use crate::routing::route::{self, Backend, Destination, Route};
use crate::routing::snapshot::ConfigSnapshot;
use crate::telemetry::access_log::Record;
use crate::telemetry::labels::AffinityDecision;

/// A request that has a route, with the identity of its client.
#[derive(Debug)]
pub(crate) struct RoutedRequest {
    /// The route as it leads to the service of this request.
    pub route: Arc<Route>,
    /// Path and query for endpoints, before a rewrite; `None` if they are as the client sent them.
    pub target: Option<Box<str>>,
    /// The route as it leads to all of its services; `None` if it has one only.
    pub backends: Option<Arc<[Backend]>>,
    /// Session of the client, known or new.
    pub session: SessionId,
    /// Number of the client's address, by which its failures are told from those of others; 0 if it is not known.
    pub client: u64,
    /// Identity of the client.
    pub identity: ClientIdentity,
    /// Whether the request may wait for its pinned endpoint; a stream in flight may not.
    pub may_wait: bool,
}

/// A route that was found, and the path that endpoints get.
struct Found {
    destination: Destination,
    /// The normalised path; `None` if the path is passed on as it was sent.
    path: Option<String>,
}

/// Finds the route of a request by its normalised path. The path is passed on as it was sent where every reading of it leads to that
/// route, else as it was normalised.
///
/// # Errors
/// If there is no route, or an application might read the path as one that leads elsewhere.
fn find(snapshot: &ConfigSnapshot, request: &RequestView<'_>) -> Result<Found, ErrorReply> {
    const AMBIGUOUS: HeadError =
        HeadError::Malformed("the path leads to different routes, by how it is read");
    let table = snapshot.table_of(request.listener);
    let look_up = |path: &str| table.find(request.authority, path, request.fields);
    let normalized = target::normalized(request.path);
    let path = normalized.as_deref().unwrap_or(request.path);
    let destination = look_up(path);
    let leads_here = |path: &str| match (&destination, &look_up(path)) {
        (Some(one), Some(other)) => one.is_same(other),
        (one, other) => one.is_none() && other.is_none(),
    };
    let is_strict = snapshot.limits.ambiguous_paths == AmbiguousPaths::Refuse;
    if is_strict && target::loose(path).is_some_and(|loose| !leads_here(&loose)) {
        return Err(ErrorReply::Head(AMBIGUOUS));
    }
    let passes = normalized.is_none()
        || leads_here(request.path) && target::loose(request.path).is_none_or(|loose| leads_here(&loose));
    let destination = destination.ok_or(ErrorReply::NoRoute)?;
    let rewrites = destination.routes().any(|route| route.filters.rewrites_path());
    Ok(Found { destination, path: normalized.filter(|_| !passes || rewrites) })
}

/// Returns the number of a client's network.
fn number_of_address(address: IpAddr) -> u64 {
    match network(address) {
        IpAddr::V4(address) => (1 << 32) | u64::from(address.to_bits()),
        IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or(0),
    }
}

impl RoutedRequest {
    /// Routes a request and reads its token.
    ///
    /// # Errors
    /// If no route or more than one may be meant; a client with a bad token is a new client.
    pub(crate) fn new(
        snapshot: &ConfigSnapshot,
        request: &RequestView<'_>,
    ) -> Result<RoutedRequest, ErrorReply> {
        let keyring = &snapshot.keyring;
        let Found { destination, path } = find(snapshot, request)?;
        let (route, identity, backends) = match destination {
            Destination::One(route) => {
                let identity = identify(keyring, &route.service, request);
                (route, identity, None)
            }
            Destination::Several(backends) => {
                let chosen = split::choose(keyring, &backends, request).ok_or(ErrorReply::NoRoute)?;
                (chosen.route, chosen.identity, Some(backends))
            }
        };
        if route.service.via.is_in(request.fields) {
            return Err(ErrorReply::Loop);
        }
        let session = identity.session;
        let target = path.map(|path| match request.query {
            Some(query) => format!("{path}?{query}").into(),
            None => path.into(),
        });
        let client = number_of_address(request.client.address);
        Ok(RoutedRequest { route, target, backends, session, client, identity, may_wait: true })
    }

    /// Returns the request of a stream in flight whose client is pinned to `endpoint`.
    pub(crate) fn of_stream(route: Arc<Route>, session: SessionId, endpoint: EndpointId) -> RoutedRequest {
        let identity = ClientIdentity::of_stream(session, endpoint);
        RoutedRequest { route, target: None, backends: None, session, client: 0, identity, may_wait: false }
    }

    /// Begins a new session for the client if the endpoint's response says so (`X-Podpin-Session: renew`): after a login, a token that
    /// was planted or seen by others names a session that is none of the client's. One that names itself has its own value.
    pub(crate) fn renew_session(&mut self, received: &HeaderMap) {
        if !headers::renews_session(received) || self.identity.source == IdentitySource::Chosen {
            return;
        }
        self.session = new_session();
        self.identity.session = self.session;
        self.identity.started_seconds = clock::unix_seconds();
        self.identity.reissue = true;
    }

    /// Returns the service that the request is for.
    pub(crate) fn service(&self) -> &Arc<ServiceState> {
        &self.route.service
    }

    /// Returns the services of the route: a client may have a cookie of each.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<ServiceState>> {
        let backends = self.backends.as_deref().unwrap_or_default();
        let only = backends.is_empty().then_some(&self.route);
        only.into_iter().chain(backends.iter().map(|backend| &backend.route)).map(|route| &route.service)
    }

    /// Returns whether clients may not write a field of this name.
    pub(crate) fn claims(&self, name: &[u8]) -> bool {
        route::claims(&self.route, self.backends.as_deref().unwrap_or_default(), name)
    }

    /// Whether the client has shown a valid token.
    pub(crate) fn is_returning(&self) -> bool {
        self.identity.pinned.is_some()
    }

    /// Returns the name by which refusals of the client are counted: its session if it has shown a token, else its address.
    pub(crate) fn client_name(&self, address: IpAddr) -> ClientName {
        if self.is_returning() { *self.session.as_bytes() } else { name_of_address(address) }
    }

    /// Whether the client is expected to come back with this session.
    pub(crate) fn is_recognised(&self) -> bool {
        self.identity.source != IdentitySource::Cookie || self.service().cookie_name().is_some()
    }

    /// Whether the client has shown a session id that its endpoint issued. No other endpoint knows it: an answer of
    /// another one would end a session that is alive.
    pub(crate) fn is_bound(&self) -> bool {
        matches!(self.identity.source, IdentitySource::Bound(_))
    }

    /// Whether the client learns that its stream goes on at an endpoint that the ring would not choose.
    pub(crate) fn may_be_rebalanced(&self) -> bool {
        self.identity.source == IdentitySource::Cookie
    }

    /// Returns the client's own endpoint, so that its requests meet at one: that of its token; for a client that names
    /// itself, that of a stream of its own that moved, else the first on the ring; for one that comes from another service, the first on the ring that takes new ones.
    pub(crate) fn home(&self, view: &View) -> Option<EndpointId> {
        let takes_new =
            |id: &EndpointId| view.snapshot.get(id).is_some_and(|endpoint| view.snapshot.takes_new(endpoint));
        match self.identity.source {
            _ if self.identity.is_displaced => {
                view.ring.first(self.session.as_bytes(), &mut |id| takes_new(id))
            }
            IdentitySource::Chosen => {
                let moved = self.service().drain.moved_pins().of_open_stream(self.session.as_bytes());
                moved.or_else(|| view.steady_ring(clock::now()).first(self.session.as_bytes(), &mut |_| true))
            }
            IdentitySource::Cookie | IdentitySource::Bound(_) => self.identity.pinned,
        }
    }

    /// Whether the client names itself, and is sent where the ring sends its name.
    pub(crate) fn is_named(&self) -> bool {
        self.identity.source == IdentitySource::Chosen
    }

    /// Counts a stream of this client; `None` if clients have no limit.
    ///
    /// # Errors
    /// [`ErrorReply::ClientLimit`].
    pub(crate) fn client_permit(&self, address: IpAddr) -> Result<Option<ClientPermit>, ErrorReply> {
        let Some(client) = self.client_of_stream(address) else { return Ok(None) };
        let counted = self.service().client_streams.try_open(&client);
        counted.map(Some).map_err(|_| ErrorReply::ClientLimit)
    }

    /// Counts a stream of this client, as [`RoutedRequest::client_permit`] does. A client that has all its streams has them look
    /// first whether their client is still there.
    ///
    /// # Errors
    /// [`ErrorReply::ClientLimit`].
    pub(crate) async fn claim_client_permit(
        &self,
        address: IpAddr,
    ) -> Result<Option<ClientPermit>, ErrorReply> {
        let Some(client) = self.client_of_stream(address) else { return Ok(None) };
        let streams = &self.service().client_streams;
        let claimed = match streams.try_open(&client) {
            Err(Exceeded::Client) => Box::pin(streams.claim(&client)).await,
            counted => counted,
        };
        claimed.map(Some).map_err(|_| ErrorReply::ClientLimit)
    }

    /// Returns the client as its streams are counted; `None` if clients have no limit.
    fn client_of_stream(&self, address: IpAddr) -> Option<ClientOfStream> {
        let limits = &self.service().configuration.limits;
        let (limit, network_limit) = (limits.streams_per_client, limits.streams_per_client_ip);
        limit.or(network_limit)?;
        let key = ClientKey::of(self.is_returning().then_some(self.session), address);
        Some(ClientOfStream { key, address, limit, network_limit })
    }

    /// Counts the affinity decision, once an endpoint is selected or the request is refused.
    pub(crate) fn count_decision(&self, selected: Option<&Selected>) {
        let metrics = &self.service().metrics;
        metrics.affinity_decisions.inc(self.decision(selected));
        if let Some(reason) = selected.and_then(|selected| selected.moved) {
            metrics.affinity_repins.inc(reason);
        }
    }

    /// Returns the affinity decision, for metrics and the access log.
    pub(crate) fn decision(&self, selected: Option<&Selected>) -> AffinityDecision {
        let has_own = self.identity.pinned.is_some() || self.identity.source == IdentitySource::Chosen;
        match (self.identity.refused, has_own, selected) {
            (Some(TokenError::Malformed), ..) => AffinityDecision::Malformed,
            (Some(TokenError::UnknownKey), ..) => AffinityDecision::UnknownKey,
            (Some(TokenError::Forged), ..) => AffinityDecision::Forged,
            (Some(TokenError::Expired), ..) => AffinityDecision::Expired,
            (None, false, _) => AffinityDecision::New,
            (None, true, Some(selected)) if !selected.is_pinned => AffinityDecision::Repinned,
            (None, true, _) => AffinityDecision::Pinned,
        }
    }

    /// Writes route, session and endpoint into a line of the access log.
    pub(crate) fn describe(&self, selected: Option<&Selected>, answered: bool, log: &mut Record) {
        log.route = Some(self.route.name.to_string());
        log.service = Some(self.service().name.to_string());
        log.affinity = Some(self.decision(selected.filter(|_| answered)));
        log.session = Some(self.session.to_string());
        if let Some(selected) = selected {
            log.endpoint = Some(selected.endpoint.name.to_string());
            log.repinned = selected.moved.map(MoveReason::as_str);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;
    use crate::testing::{Scene, nowhere};

    #[test]
    fn a_decision_says_whether_the_client_stays() {
        let scene = Scene::new(&[("a", nowhere()), ("b", nowhere())]);
        let id = EndpointId::of_pod("a", 80);
        let session = SessionId::from_bytes([1; 16]);
        let mut request = RoutedRequest::of_stream(Arc::clone(&scene.route), session, id);
        let endpoint = request.service().endpoint(&id).unwrap();
        let elsewhere = Selected::fixed(Arc::clone(&endpoint));
        let own = Selected { is_pinned: true, ..elsewhere.clone() };
        assert_eq!(request.home(&request.service().view()), Some(id));
        assert_eq!(request.decision(Some(&own)), AffinityDecision::Pinned);
        assert_eq!(request.decision(Some(&elsewhere)), AffinityDecision::Repinned);
        request.identity.refused = Some(TokenError::Expired);
        assert_eq!(request.decision(Some(&elsewhere)), AffinityDecision::Expired);
        request.identity = ClientIdentity::begun(session, None);
        assert_eq!((request.decision(Some(&own)), request.is_returning()), (AffinityDecision::New, false));
    }

    #[test]
    fn an_endpoint_renews_a_session_but_not_a_value_of_the_client() {
        let scene = Scene::new(&[("a", nowhere())]);
        let session = SessionId::from_bytes([1; 16]);
        let mut request =
            RoutedRequest::of_stream(Arc::clone(&scene.route), session, EndpointId::of_pod("a", 80));
        let says = |value| HeaderMap::from_iter([(headers::SESSION, HeaderValue::from_static(value))]);
        request.renew_session(&HeaderMap::new());
        request.renew_session(&says("renewed"));
        assert_eq!((request.session, request.identity.reissue), (session, false));
        request.renew_session(&says("Renew"));
        assert_ne!(request.session, session);
        assert_eq!((request.identity.session, request.identity.reissue), (request.session, true));
        assert!(request.identity.started_seconds > 0, "its lifetime begins anew");
        (request.session, request.identity.source) = (session, IdentitySource::Chosen);
        request.renew_session(&says("renew"));
        assert_eq!(request.session, session);
    }
}
