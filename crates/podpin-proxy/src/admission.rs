//! What a request may ask for: its route, whom it was last served by, and where it goes now.
//!
//! Both data paths come through here, so that a client's event stream and its ordinary requests land on one endpoint.

use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use podpin_affinity::{Claim, Lifetime, SameSite as CookieSameSite, SessionId, SetCookie, Token, TokenError};
use podpin_config::{CookieAttributes, OnUnavailable, SameSite, Secure, Strategy as Configured};
use podpin_endpoints::{
    Endpoint, EndpointId, MoveReason, Nowhere, Permit, Pick, PickRequest, Strategy, pick,
};

use crate::client_limit::{ClientKey, ClientPermit};
use crate::clock;
use crate::forward::{self, Client};
use crate::gateway::Gateway;
use crate::reply::Failure;
use crate::route::Route;
use crate::service::ServiceState;

/// How often a request that waits for a place looks without being told to.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A routed request with its affinity.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) route: Arc<Route>,
    pub(crate) session: SessionId,
    /// Unix seconds of the session's start; a re-pin keeps it.
    started_seconds: u64,
    pinned: Option<EndpointId>,
    /// The token is to be written again whatever the endpoint: there was none, or it was signed by an older key.
    reissue: bool,
    refused: Option<TokenError>,
    /// It may be told to wait for its pin; a stream in flight may not.
    may_wait: bool,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Why a pinned client is not served by its pin.
    pub(crate) moved: Option<MoveReason>,
    stayed: bool,
}

/// Whether a request counts as a stream of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Stream,
    Request,
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
    pub(crate) fn new(
        gateway: &Gateway,
        authority: &str,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Admission, Failure> {
        let route = gateway.routes().find(authority, path).ok_or(Failure::NoRoute)?;
        let claim = claim(gateway, &route.service, headers);
        let (session, started_seconds, pinned, reissue, refused) = match claim {
            Claim::Pinned(verified) => {
                let token = verified.token;
                let shown = EndpointId::from_bytes(token.endpoint);
                let pin = route.service.moved.correct(token.session.as_bytes(), shown);
                let reissue = !verified.signed_by_first_key || pin != shown;
                (token.session, token.started_seconds, Some(pin), reissue, None)
            }
            Claim::None => (new_session(), clock::unix_seconds(), None, true, None),
            Claim::Refused(error) => (new_session(), clock::unix_seconds(), None, true, Some(error)),
        };
        Ok(Admission { route, session, started_seconds, pinned, reissue, refused, may_wait: true })
    }

    /// A stream in flight whose client is pinned to `endpoint`.
    pub(crate) fn of_stream(route: Arc<Route>, session: SessionId, endpoint: EndpointId) -> Admission {
        Admission {
            route,
            session,
            started_seconds: 0,
            pinned: Some(endpoint),
            reissue: false,
            refused: None,
            may_wait: false,
        }
    }

    pub(crate) fn service(&self) -> &Arc<ServiceState> {
        &self.route.service
    }

    /// The client showed a valid token.
    pub(crate) fn returning(&self) -> bool {
        self.pinned.is_some()
    }

    /// Picks an endpoint, leaving out those already tried.
    ///
    /// # Errors
    /// [`Failure::NoEndpoint`] or [`Failure::Full`].
    pub(crate) fn place(&self, kind: Kind, tried: &[EndpointId]) -> Result<Placement, Failure> {
        let service = self.service();
        let balance = &service.configuration.balance;
        let limit = service.configuration.limits.streams_per_endpoint;
        let request = PickRequest {
            pinned: self.pinned,
            session: self.session.as_bytes(),
            strategy: strategy(balance.strategy),
            stream_limit: limit.filter(|_| kind == Kind::Stream),
            slow_start: balance.slow_start,
            zone: service.near.as_deref(),
            keep: service.keep(),
            exclude: tried,
            now: clock::now(),
        };
        let view = service.view();
        let picked = pick(&view.snapshot, &request, &*view.ring, &mut |bound| fastrand::u64(..bound.max(1)));
        match picked {
            Pick::Stay(endpoint) => Ok(Placement { endpoint, moved: None, stayed: true }),
            Pick::Place(endpoint) => Ok(Placement { endpoint, moved: None, stayed: false }),
            Pick::Move(endpoint, reason) => self.relocate(endpoint, reason, tried),
            Pick::Nowhere(Nowhere::NoEndpoint) => Err(Failure::NoEndpoint),
            Pick::Nowhere(Nowhere::Full) => Err(Failure::Full),
        }
    }

    /// Whether a client may leave its pin, as `affinity.onUnavailable` says.
    fn relocate(
        &self,
        endpoint: Arc<Endpoint>,
        reason: MoveReason,
        tried: &[EndpointId],
    ) -> Result<Placement, Failure> {
        let refusal = if reason == MoveReason::Full { Failure::Full } else { Failure::NoEndpoint };
        match (self.service().configuration.affinity.on_unavailable, reason) {
            (OnUnavailable::Strict, _) => Err(refusal),
            // A pin that failed this very request is not waited for.
            (OnUnavailable::Wait(_), MoveReason::Unready | MoveReason::Ejected | MoveReason::Full)
                if tried.is_empty() && self.may_wait =>
            {
                Err(refusal)
            }
            (OnUnavailable::Repin | OnUnavailable::Wait(_), _) => {
                Ok(Placement { endpoint, moved: Some(reason), stayed: false })
            }
        }
    }

    /// As [`Admission::place_stream`], waiting for a place where the service has a queue.
    ///
    /// # Errors
    /// [`Failure::QueueTimeout`] too.
    pub(crate) async fn await_stream(&self, tried: &[EndpointId]) -> Result<(Placement, Permit), Failure> {
        self.await_place(tried, || self.place_stream(tried)).await
    }

    /// As [`Admission::place`] for an ordinary request, waiting for a place where the service has a queue.
    ///
    /// # Errors
    /// [`Failure::QueueTimeout`] too.
    pub(crate) async fn await_request(&self, tried: &[EndpointId]) -> Result<Placement, Failure> {
        match self.place(Kind::Request, tried) {
            Err(Failure::NoEndpoint | Failure::Full) => {
                self.await_place(tried, || self.place(Kind::Request, tried)).await
            }
            // It takes no place: whoever can be served passes by those who wait for one.
            other => other,
        }
    }

    async fn await_place<P>(
        &self,
        tried: &[EndpointId],
        attempt: impl Fn() -> Result<P, Failure>,
    ) -> Result<P, Failure> {
        // What is left after a failure is tried at once or not at all.
        let Some(queue) = self.service().queue.as_ref().filter(|_| tried.is_empty()) else {
            return attempt();
        };
        if queue.is_empty() {
            match attempt() {
                Err(Failure::NoEndpoint | Failure::Full) => {}
                other => return other,
            }
        }
        let Some(ticket) = queue.join() else { return Err(Failure::QueueTimeout) };
        let deadline = tokio::time::Instant::now() + queue.timeout;
        loop {
            tokio::select! {
                biased;
                () = ticket.turn() => {}
                () = tokio::time::sleep_until(deadline) => return Err(Failure::QueueTimeout),
                // What ends by itself, as an ejection does, tells nobody.
                () = tokio::time::sleep(LOOK_AGAIN) => {
                    queue.wake();
                    continue;
                }
            }
            match attempt() {
                Err(Failure::NoEndpoint | Failure::Full) if queue.is_closed() => {
                    return Err(Failure::QueueTimeout);
                }
                Err(Failure::NoEndpoint | Failure::Full) => ticket.pass_on(),
                other => return other,
            }
        }
    }

    /// Counts a stream of this client; `None` where clients have no limit.
    ///
    /// # Errors
    /// [`Failure::ClientLimit`].
    pub(crate) fn client_permit(&self, client: &Client) -> Result<Option<ClientPermit>, Failure> {
        let Some(limit) = &self.service().client_limit else { return Ok(None) };
        let session = self.returning().then_some(self.session);
        limit.try_open(ClientKey::of(session, client.address)).map(Some).ok_or(Failure::ClientLimit)
    }

    /// Picks an endpoint and takes one of its places for a stream.
    ///
    /// # Errors
    /// As [`Admission::place`].
    pub(crate) fn place_stream(&self, tried: &[EndpointId]) -> Result<(Placement, Permit), Failure> {
        let limit = self.service().configuration.limits.streams_per_endpoint;
        // Others take places between the pick and the permit; each round sees their newer counts.
        for _ in 0..16 {
            let placement = self.place(Kind::Stream, tried)?;
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
            metrics.affinity_repins.inc(reason.as_str());
        }
    }

    /// The decision as metrics and the access log spell it.
    pub(crate) fn decision(&self, placement: Option<&Placement>) -> &'static str {
        match (self.refused, self.pinned, placement) {
            (Some(TokenError::Malformed), ..) => "malformed",
            (Some(TokenError::UnknownKey), ..) => "unknown_key",
            (Some(TokenError::Forged), ..) => "forged",
            (Some(TokenError::Expired), ..) => "expired",
            (None, None, _) => "new",
            (None, Some(_), Some(placement)) if !placement.stayed => "repinned",
            (None, Some(_), _) => "pinned",
        }
    }

    /// Takes our cookie out of what the pod will see, unless it is to be forwarded.
    pub(crate) fn strip_cookie(&self, lines: &mut HeaderMap) {
        let Some(cookie) = &self.service().configuration.affinity.cookie else { return };
        if cookie.forward || !lines.contains_key(header::COOKIE) {
            return;
        }
        let before: Vec<HeaderValue> = lines.get_all(header::COOKIE).iter().cloned().collect();
        lines.remove(header::COOKIE);
        for line in before {
            let rest = podpin_affinity::without_cookie(line.as_bytes(), &cookie.name);
            if let Some(value) = rest.and_then(|rest| HeaderValue::from_bytes(&rest).ok()) {
                lines.append(header::COOKIE, value);
            }
        }
    }

    /// Tells the pod which session this is, and why it comes here when it was pinned elsewhere.
    pub(crate) fn session_lines(&self, lines: &mut HeaderMap, placement: &Placement) {
        if let Ok(session) = HeaderValue::try_from(self.session.to_string()) {
            lines.insert(forward::SESSION, session);
        }
        if let Some(reason) = placement.moved {
            lines.insert(forward::REPINNED, HeaderValue::from_static(reason.as_str()));
        }
    }

    /// The `Set-Cookie` that makes the client's cookie tell the truth; `None` when it does already.
    pub(crate) fn set_cookie(
        &self,
        gateway: &Gateway,
        endpoint: EndpointId,
        client: &Client,
    ) -> Option<HeaderValue> {
        let attributes = self.service().configuration.affinity.cookie.as_ref()?;
        if !self.reissue && self.pinned == Some(endpoint) {
            return None;
        }
        let token = Token {
            session: self.session,
            endpoint: *endpoint.as_bytes(),
            started_seconds: self.started_seconds,
        };
        let value = gateway.keyring().sign(&self.service().name, &token);
        let cookie = set_cookie(attributes, &value, client);
        HeaderValue::try_from(cookie.to_string()).ok()
    }
}

fn claim(gateway: &Gateway, service: &ServiceState, headers: &HeaderMap) -> Claim {
    let Some(name) = service.cookie_name() else { return Claim::None };
    let lines = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    let lifetime = Lifetime {
        now_seconds: clock::unix_seconds(),
        absolute_timeout_seconds: service.configuration.affinity.absolute_timeout.as_secs(),
    };
    podpin_affinity::claim(lines, name, |value| gateway.keyring().verify(&service.name, value, lifetime))
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

/// 128 random bits from the operating system: a session id is a name that must not be guessed.
fn new_session() -> SessionId {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // Only before the kernel's pool is seeded; a guessable name is worse than none, but no reason to fail.
        bytes = (u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..))).to_be_bytes();
    }
    SessionId::from_bytes(bytes)
}

fn strategy(configured: Configured) -> Strategy {
    match configured {
        Configured::LeastStreams => Strategy::LeastStreams,
        Configured::RoundRobin => Strategy::RoundRobin,
        Configured::Random => Strategy::Random,
    }
}
