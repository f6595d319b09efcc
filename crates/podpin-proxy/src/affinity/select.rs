//! What a request may ask for: its route, whom it was last served by, and where it goes now.
//!
//! Both data paths come through here, so that a client's event stream and its ordinary requests land on one endpoint.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use podpin_affinity::{SameSite as CookieSameSite, SessionId, SetCookie, Token, TokenError};
use podpin_config::{CookieAttributes, OnUnavailable, SameSite, Secure, Strategy as Configured};
use podpin_endpoints::{
    Endpoint, EndpointId, MoveReason, Nowhere, Permit, Phase, Pick, PickRequest, Ring as _, Strategy, pick,
};

use crate::affinity::identify::{By, Recognition};
use crate::affinity::split;
use crate::affinity::wait::Terms;
use crate::balance::client_limit::{ClientKey, ClientPermit};
use crate::balance::service::{Kind, ServiceState, View};
use crate::clock;
use crate::http::reply::Failure;
use crate::routing::route::{Backend, Destination, Route};
use crate::shared::Shared;
use crate::telemetry::access_log::Record;
use crate::telemetry::labels::AffinityDecision;
use podpin_wire::client::Client;
use podpin_wire::headers::{self, sets_cookie};
use podpin_wire::http1::request_head::{self, RequestHead};

/// A routed request with its affinity.
#[derive(Debug)]
pub(crate) struct Admission {
    /// As it leads to the service of this request.
    pub route: Arc<Route>,
    /// As it leads to all of its services, where those are several.
    pub backends: Option<Arc<[Backend]>>,
    pub session: SessionId,
    pub known: Recognition,
    /// It may be told to wait for its pin; a stream in flight may not.
    pub may_wait: bool,
    /// Who asks, when nothing but an event stream will do as the answer.
    pub only_streams_to: Option<IpAddr>,
}

/// What of a request head tells where it goes.
pub(crate) struct Asked<'a> {
    pub authority: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub client: &'a Client,
}

impl<'a> Asked<'a> {
    pub(crate) fn of(head: &'a RequestHead, client: &'a Client) -> Asked<'a> {
        Asked {
            authority: &head.authority,
            path: head.path(),
            query: head.query(),
            headers: &head.headers,
            client,
        }
    }
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    pub endpoint: Arc<Endpoint>,
    /// Why a pinned client is not served by its pin.
    pub moved: Option<MoveReason>,
    stayed: bool,
}

impl Placement {
    /// At this endpoint, whatever `pick` would say.
    pub(crate) fn at(endpoint: Arc<Endpoint>) -> Placement {
        Placement { endpoint, moved: None, stayed: false }
    }
}

impl Admission {
    /// Routes a request and reads its token.
    ///
    /// # Errors
    /// [`Failure::NoRoute`]; a bad token is no error but a new client.
    pub(crate) fn new(shared: &Shared, asked: &Asked<'_>) -> Result<Admission, Failure> {
        let destination = shared.current().table.find(asked.authority, asked.path, asked.headers);
        let (route, known, backends) = match destination.ok_or(Failure::NoRoute)? {
            Destination::One(route) => {
                let known = Recognition::of(shared, &route.service, asked);
                (route, known, None)
            }
            Destination::Several(backends) => {
                let (route, known) = split::choose(shared, &backends, asked).ok_or(Failure::NoRoute)?;
                (route, known, Some(backends))
            }
        };
        let only_streams = request_head::accepts_only_event_streams(asked.headers);
        let only_streams_to = only_streams.then_some(asked.client.address);
        Ok(Admission { route, backends, session: known.session, known, may_wait: true, only_streams_to })
    }

    /// A stream in flight whose client is pinned to `endpoint`.
    pub(crate) fn of_stream(route: Arc<Route>, session: SessionId, endpoint: EndpointId) -> Admission {
        let known = Recognition::of_stream(session, endpoint);
        Admission { route, backends: None, session, known, may_wait: false, only_streams_to: None }
    }

    pub(crate) fn service(&self) -> &Arc<ServiceState> {
        &self.route.service
    }

    /// The client showed a valid token.
    pub(crate) fn returning(&self) -> bool {
        self.known.pinned.is_some()
    }

    /// Whether the client comes back with this session, as far as can be told.
    pub(crate) fn is_recognised(&self) -> bool {
        self.known.by != By::Cookie || self.service().cookie_name().is_some()
    }

    /// Whether the client learns of it when its stream goes on at another endpoint that the ring would not choose.
    pub(crate) fn may_be_rebalanced(&self) -> bool {
        self.known.by == By::Cookie
    }

    /// Picks an endpoint, leaving out those already tried.
    ///
    /// # Errors
    /// [`Failure::NoEndpoint`] or [`Failure::Full`].
    pub(crate) fn place(&self, kind: Kind, tried: &[EndpointId]) -> Result<Placement, Failure> {
        self.place_on(kind, &Terms::after(tried))
    }

    pub(crate) fn place_on(&self, kind: Kind, terms: &Terms<'_>) -> Result<Placement, Failure> {
        let service = self.service();
        let balance = &service.configuration.balance;
        let limit = service.configuration.limits.streams_per_endpoint;
        let view = service.view();
        let pinned = self.home(&view);
        let exclude = terms.left_out(pinned);
        let request = PickRequest {
            pinned,
            session: self.session.as_bytes(),
            strategy: strategy(balance.strategy),
            stream_limit: limit.filter(|_| kind == Kind::Stream),
            slow_start: balance.slow_start,
            zone: service.near.as_deref(),
            keep: service.keep(),
            exclude: &exclude,
            now: clock::now(),
        };
        let picked = pick(&view.snapshot, &request, &*view.ring, &mut |bound| fastrand::u64(..bound.max(1)));
        let placement = match picked {
            Pick::Stay(endpoint) => Placement { endpoint, moved: None, stayed: true },
            Pick::Place(endpoint) => Placement { endpoint, moved: None, stayed: false },
            Pick::Move(endpoint, reason) => self.relocate(endpoint, reason, terms)?,
            Pick::Nowhere(Nowhere::NoEndpoint) => return Err(Failure::NoEndpoint),
            Pick::Nowhere(Nowhere::Full) => return Err(Failure::Full),
        };
        if terms.ahead.takes(placement.endpoint.id, placement.endpoint.phase) {
            Err(Failure::Full)
        } else {
            Ok(placement)
        }
    }

    /// The endpoint that is the client's own: what its token says; for one that names itself, the first on the ring, and
    /// for one that comes from another service, the first there that takes new clients: so its requests meet at one.
    pub(crate) fn home(&self, view: &View) -> Option<EndpointId> {
        let is_ready =
            |id: &EndpointId| view.snapshot.get(id).is_some_and(|endpoint| endpoint.phase == Phase::Ready);
        match self.known.by {
            _ if self.known.displaced => view.ring.first(self.session.as_bytes(), &mut |id| is_ready(id)),
            By::Choice => view.ring.first(self.session.as_bytes(), &mut |_| true),
            By::Cookie | By::Bound(_) => self.known.pinned,
        }
    }

    /// Whether a client may leave its pin, as `affinity.onUnavailable` says.
    pub(crate) fn relocate(
        &self,
        endpoint: Arc<Endpoint>,
        reason: MoveReason,
        terms: &Terms<'_>,
    ) -> Result<Placement, Failure> {
        let refusal = if reason == MoveReason::Full { Failure::Full } else { Failure::NoEndpoint };
        match (self.service().configuration.affinity.on_unavailable, reason) {
            (OnUnavailable::Strict, _) => Err(refusal),
            // A pin that failed this very request is not waited for.
            (OnUnavailable::Wait(_), MoveReason::Unready | MoveReason::Ejected | MoveReason::Full)
                if terms.waits && self.may_wait =>
            {
                Err(refusal)
            }
            (OnUnavailable::Repin | OnUnavailable::Wait(_), _) => {
                Ok(Placement { endpoint, moved: Some(reason), stayed: false })
            }
        }
    }

    /// Counts a stream of this client; `None` where clients have no limit.
    ///
    /// # Errors
    /// [`Failure::ClientLimit`].
    pub(crate) fn client_permit(&self, client: &Client) -> Result<Option<ClientPermit>, Failure> {
        self.client_permit_at(client.address)
    }

    pub(crate) fn client_permit_at(&self, address: IpAddr) -> Result<Option<ClientPermit>, Failure> {
        let service = self.service();
        let Some(limit) = service.configuration.limits.streams_per_client else { return Ok(None) };
        let key = ClientKey::of(self.returning().then_some(self.session), address);
        service.client_streams.try_open(key, limit).map(Some).ok_or(Failure::ClientLimit)
    }

    /// Picks an endpoint and takes one of its places for a stream.
    ///
    /// # Errors
    /// As [`Admission::place`].
    pub(crate) fn place_stream(&self, tried: &[EndpointId]) -> Result<(Placement, Permit), Failure> {
        self.place_stream_on(&Terms::after(tried))
    }

    pub(crate) fn place_stream_on(&self, terms: &Terms<'_>) -> Result<(Placement, Permit), Failure> {
        let limit = self.service().configuration.limits.streams_per_endpoint;
        // Others take places between the pick and the permit; each round sees their newer counts.
        for _ in 0..16 {
            let placement = self.place_on(Kind::Stream, terms)?;
            if let Some(permit) = placement.endpoint.load.try_open(limit) {
                return Ok((placement, permit));
            }
        }
        Err(Failure::Full)
    }

    /// Counts the decision, once a request is placed (or refused).
    pub(crate) fn count(&self, placement: Option<&Placement>) {
        let metrics = &self.service().metrics;
        metrics.affinity_decisions.inc(self.decision(placement));
        if let Some(reason) = placement.and_then(|placement| placement.moved) {
            metrics.affinity_repins.inc(reason);
        }
    }

    /// Returns the worth of the request's token, for metrics and the access log.
    pub(crate) fn decision(&self, placement: Option<&Placement>) -> AffinityDecision {
        let own = self.known.pinned.is_some() || self.known.by == By::Choice;
        match (self.known.refused, own, placement) {
            (Some(TokenError::Malformed), ..) => AffinityDecision::Malformed,
            (Some(TokenError::UnknownKey), ..) => AffinityDecision::UnknownKey,
            (Some(TokenError::Forged), ..) => AffinityDecision::Forged,
            (Some(TokenError::Expired), ..) => AffinityDecision::Expired,
            (None, false, _) => AffinityDecision::New,
            (None, true, Some(placement)) if !placement.stayed => AffinityDecision::Repinned,
            (None, true, _) => AffinityDecision::Pinned,
        }
    }

    /// Writes into a line of the access log where the request belonged and where it went.
    pub(crate) fn write_down(&self, placement: Option<&Placement>, answered: bool, log: &mut Record) {
        log.route = Some(self.route.name.to_string());
        log.service = Some(self.service().name.to_string());
        log.affinity = Some(self.decision(placement.filter(|_| answered)));
        log.session = Some(self.session.to_string());
        if let Some(placement) = placement {
            log.endpoint = Some(placement.endpoint.name.to_string());
            log.repinned = placement.moved.map(MoveReason::as_str);
        }
    }

    /// Takes our cookies out of what the pod will see, of all services of the route, but for those to be forwarded.
    pub(crate) fn strip_cookies(&self, lines: &mut HeaderMap) {
        let cookies = self.services().filter_map(|service| service.configuration.affinity.cookie.as_ref());
        for cookie in cookies.filter(|cookie| !cookie.forward) {
            strip_cookie(lines, &cookie.name);
        }
    }

    /// Whether a `Set-Cookie` line of a pod would take the place of ours, of any service of the route.
    pub(crate) fn sets_pin(&self, line: &HeaderValue) -> bool {
        self.services().filter_map(|service| service.cookie_name()).any(|name| sets_cookie(line, name))
    }

    /// The services of the route: a client may have a cookie of each.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<ServiceState>> {
        let backends = self.backends.as_deref().unwrap_or_default();
        let only = backends.is_empty().then_some(&self.route);
        only.into_iter().chain(backends.iter().map(|backend| &backend.route)).map(|route| &route.service)
    }

    /// What the pod itself calls the session, instead of what the client was given.
    pub(crate) fn own_session_id(&self) -> Option<(HeaderName, HeaderValue)> {
        let name = self.service().session_header.clone()?;
        match &self.known.by {
            By::Bound(own) => Some((name, own.clone())),
            By::Cookie | By::Choice => None,
        }
    }

    /// What the client is given instead of the session id that the pod's response carries.
    pub(crate) fn bound_session_id(
        &self,
        shared: &Shared,
        (endpoint, lines): (EndpointId, &HeaderMap),
    ) -> Option<(HeaderName, HeaderValue)> {
        let name = self.service().session_header.clone()?;
        let mut values = lines.get_all(&name).iter();
        let (Some(own), None) = (values.next(), values.next()) else { return None };
        let text = shared.current().keyring.bind(&self.service().name, &self.token(endpoint), own.as_bytes());
        Some((name, HeaderValue::try_from(text?).ok()?))
    }

    pub(crate) fn token(&self, endpoint: EndpointId) -> Token {
        Token {
            session: self.session,
            endpoint: *endpoint.as_bytes(),
            started_seconds: self.known.started_seconds,
        }
    }

    /// Tells the pod which session this is, and why it comes here when it was pinned elsewhere.
    pub(crate) fn session_lines(&self, lines: &mut HeaderMap, placement: &Placement) {
        if let Ok(session) = HeaderValue::try_from(self.session.to_string()) {
            lines.insert(headers::SESSION, session);
        }
        match placement.moved {
            Some(reason) => drop(lines.insert(headers::REPINNED, HeaderValue::from_static(reason.as_str()))),
            None => drop(lines.remove(headers::REPINNED)),
        }
    }

    /// The `Set-Cookie` that makes the client's cookie tell the truth; `None` when it does already.
    pub(crate) fn set_cookie(
        &self,
        shared: &Shared,
        endpoint: EndpointId,
        client: &Client,
    ) -> Option<HeaderValue> {
        let attributes = self.service().configuration.affinity.cookie.as_ref()?;
        let is_told_otherwise = self.known.by != By::Cookie;
        if is_told_otherwise || (!self.known.reissue && self.known.pinned == Some(endpoint)) {
            return None;
        }
        let value = shared.current().keyring.sign(&self.service().name, &self.token(endpoint));
        let cookie = set_cookie(attributes, &value, client);
        HeaderValue::try_from(cookie.to_string()).ok()
    }
}

/// Takes the cookie of this name out.
fn strip_cookie(lines: &mut HeaderMap, name: &str) {
    if !lines.contains_key(header::COOKIE) {
        return;
    }
    let before: Vec<HeaderValue> = lines.get_all(header::COOKIE).iter().cloned().collect();
    lines.remove(header::COOKIE);
    for line in before {
        let rest = podpin_affinity::without_cookie(line.as_bytes(), name);
        if let Some(value) = rest.and_then(|rest| HeaderValue::from_bytes(&rest).ok()) {
            lines.append(header::COOKIE, value);
        }
    }
}

fn set_cookie<'a>(attributes: &'a CookieAttributes, value: &'a str, client: &Client) -> SetCookie<'a> {
    SetCookie {
        name: &attributes.name,
        value,
        path: &attributes.path,
        domain: attributes.domain.as_deref(),
        max_age_seconds: attributes.max_age.map(|age| age.as_secs()),
        same_site: match attributes.same_site {
            SameSite::Strict => CookieSameSite::Strict,
            SameSite::Lax => CookieSameSite::Lax,
            SameSite::None => CookieSameSite::None,
        },
        secure: match attributes.secure {
            // Browsers drop `SameSite=None` and `Partitioned` cookies without `Secure`.
            Secure::Auto => client.secure || attributes.partitioned || attributes.same_site == SameSite::None,
            Secure::Always => true,
            Secure::Never => false,
        },
        http_only: attributes.http_only,
        partitioned: attributes.partitioned,
    }
}

fn strategy(configured: Configured) -> Strategy {
    match configured {
        Configured::LeastStreams => Strategy::LeastStreams,
        Configured::RoundRobin => Strategy::RoundRobin,
        Configured::Random => Strategy::Random,
    }
}
