//! The service of a route with several that gets a request.
//!
//! A client stays with the service that it is pinned to, as long as that has a weight. Other clients go by weight, by a
//! keyed hash of the value that they chose, else of their session: replicas agree without talking, and the parallel requests of
//! a client whose service lost its weight meet at one other. The evidence that counts, in this order:
//!
//! 1. a session id that an endpoint issued, bound by a service with a weight, then the cookie of one: of several, the first in
//!    the order of the route;
//! 2. a session id bound by a service without weight;
//! 3. a value that the client chose;
//! 4. the cookie of a service without weight;
//! 5. nothing: the client is new.

use std::sync::Arc;

use podpin_affinity::{Keyring, SessionId, TokenError, split};

use crate::affinity::identify::{
    ClientIdentity, Evidence, IdentitySource, evidence, new_session, session_of_refused,
};
use crate::affinity::request_view::RequestView;
use crate::routing::route::{Backend, Route};

/// The service of a request, and the identity of its client there.
pub(crate) struct ChosenBackend {
    /// The route as it leads to the service.
    pub route: Arc<Route>,
    /// The client as the service knows it.
    pub identity: ClientIdentity,
}

/// Chooses the service of a request; `None` if no service has a weight, which the configuration rules out.
pub(crate) fn choose(
    keyring: &Keyring,
    backends: &[Backend],
    request: &RequestView<'_>,
) -> Option<ChosenBackend> {
    let all = backends.iter().map(|backend| evidence(keyring, &backend.route.service, request));
    let mut table = EvidenceTable { keyring, backends, request, evidence: all.collect() };
    let (at, identity) = table.decide()?;
    Some(ChosenBackend { route: Arc::clone(&backends.get(at)?.route), identity })
}

/// The services of a route, with the request's evidence for each.
struct EvidenceTable<'a> {
    keyring: &'a Keyring,
    backends: &'a [Backend],
    request: &'a RequestView<'a>,
    evidence: Vec<Evidence<'a>>,
}

impl EvidenceTable<'_> {
    /// Returns the index of the service, and the client as the service knows it.
    fn decide(&mut self) -> Option<(usize, ClientIdentity)> {
        let pin = self.pinned(true, true).or_else(|| self.pinned(true, false));
        if let Some(at) = pin {
            return self.known(at, None);
        }
        let refused = self.refused();
        let value = self.own_session().and_then(|session| self.by_weight(session.as_bytes()));
        let former =
            self.pinned(false, true).or_else(|| self.pinned(false, false).filter(|_| value.is_none()));
        if let Some(former) = former {
            return self.displaced(former);
        }
        if let Some(at) = value {
            return self.known(at, refused);
        }
        let session = match refused {
            Some(_) => session_of_refused(self.keyring, "", self.request),
            None => new_session(),
        };
        let at = self.by_weight(session.as_bytes())?;
        Some((at, ClientIdentity::begun(session, refused)))
    }

    /// Returns the first service, with or without a weight, that the client has a token of, bound or in a cookie.
    fn pinned(&self, has_weight: bool, is_bound: bool) -> Option<usize> {
        let is_such = |evidence: &Evidence<'_>| matches!(evidence, Evidence::Token(_, source) if (*source != IdentitySource::Cookie) == is_bound);
        let mut all = self.backends.iter().zip(&self.evidence);
        all.position(|(backend, evidence)| (backend.weight > 0) == has_weight && is_such(evidence))
    }

    /// Returns the session that the client's own value makes, of no service in particular, for the first service that accepts one.
    fn own_session(&self) -> Option<SessionId> {
        let all = self.backends.iter().zip(&self.evidence);
        all.filter(|(backend, _)| backend.weight > 0).find_map(|(_, evidence)| match evidence {
            Evidence::Chosen(source, value, _) => Some(self.keyring.session_of("", *source, value)),
            Evidence::Token(..) | Evidence::Nothing(_) => None,
        })
    }

    fn by_weight(&self, client: &[u8]) -> Option<usize> {
        split(self.backends.iter().map(|one| (&*one.route.service.name, one.weight)), client)
    }

    /// Returns the reason why a token was refused; an expired one is at least genuine and counts first.
    fn refused(&self) -> Option<TokenError> {
        let reasons = || {
            self.evidence.iter().filter_map(|evidence| match evidence {
                Evidence::Chosen(_, _, refused) | Evidence::Nothing(refused) => *refused,
                Evidence::Token(..) => None,
            })
        };
        reasons().find(|reason| *reason == TokenError::Expired).or_else(|| reasons().next())
    }

    /// Returns the client as a service knows it; `refused` if it has no token.
    fn known(&mut self, at: usize, refused: Option<TokenError>) -> Option<(usize, ClientIdentity)> {
        let service = &self.backends.get(at)?.route.service;
        let evidence = std::mem::replace(self.evidence.get_mut(at)?, Evidence::Nothing(None));
        Some((at, ClientIdentity { refused, ..ClientIdentity::new(self.keyring, service, evidence) }))
    }

    /// Returns the client of a service without weight at another one.
    fn displaced(&mut self, from: usize) -> Option<(usize, ClientIdentity)> {
        let evidence = std::mem::replace(self.evidence.get_mut(from)?, Evidence::Nothing(None));
        let Evidence::Token(verified, source) = evidence else { return None };
        let session = verified.token.session;
        Some((self.by_weight(session.as_bytes())?, ClientIdentity::displaced(session, source)))
    }
}

#[cfg(test)]
mod tests {
    use http::header::{self, HeaderMap, HeaderValue};
    use podpin_affinity::{SessionId, Token};
    use podpin_wire::client::Client;
    use podpin_wire::fields::Fields;

    use super::*;
    use crate::clock;
    use crate::testing::{Scene, nowhere};

    const ONE: usize = 0;
    const OTHER: usize = 1;

    /// Two services and their weights.
    struct Services {
        scenes: [Scene; 2],
        backends: [Backend; 2],
    }

    impl Services {
        fn new(lines: &str, weights: [u32; 2]) -> Services {
            let scenes = ["one", "other"].map(|name| Scene::named(name, lines, &[("a", nowhere())]));
            let backend = |at: usize| Backend { weight: weights[at], route: Arc::clone(&scenes[at].route) };
            Services { backends: [backend(ONE), backend(OTHER)], scenes }
        }

        fn keyring(&self) -> Arc<Keyring> {
            Arc::clone(&self.scenes[ONE].shared.snapshot().keyring)
        }

        /// The cookie of a client that one of the services has served.
        fn cookie(&self, at: usize, session: SessionId, age_seconds: u64) -> String {
            let started_seconds = clock::unix_seconds() - age_seconds;
            let token = Token { endpoint: [7; 16], session, started_seconds };
            let service = &self.backends[at].route.service;
            format!("{}={}", service.cookie_name().unwrap(), self.keyring().sign(&service.name, &token))
        }

        /// Chooses for a request with these fields; returns the index of the service too.
        fn choose(&self, lines: &[(header::HeaderName, &str)]) -> (usize, ClientIdentity) {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name, HeaderValue::from_str(value).unwrap());
            }
            let fields = Fields::from(&headers);
            let client = Client::of([192, 0, 2, 7].into(), false, &fields, &[]);
            let request = RequestView {
                listener: "http",
                authority: "x",
                path: "/",
                query: None,
                fields: &fields,
                client: &client,
            };
            let chosen = choose(&self.keyring(), &self.backends, &request).unwrap();
            let at = usize::from(!Arc::ptr_eq(&chosen.route, &self.backends[ONE].route));
            (at, chosen.identity)
        }
    }

    #[test]
    fn new_clients_go_by_weight_and_none_to_a_service_without() {
        let services = Services::new("drain: {}", [0, 1]);
        assert!((0..100).all(|_| services.choose(&[]).0 == OTHER));
        let services = Services::new("drain: {}", [1, 1]);
        let count = (0..200).filter(|_| services.choose(&[]).0 == ONE).count();
        assert!((20..180).contains(&count), "{count} of 200");
    }

    #[test]
    fn a_client_stays_with_the_service_that_it_is_pinned_to_as_long_as_that_has_a_weight() {
        let session = SessionId::from_bytes([9; 16]);
        let services = Services::new("drain: {}", [1, 1_000]);
        let cookie = services.cookie(ONE, session, 0);
        let (at, identity) = services.choose(&[(header::COOKIE, &cookie)]);
        assert_eq!((at, identity.session, identity.is_displaced), (ONE, session, false));
        assert!(identity.pinned.is_some());
        // Of two, the first in the order of the route.
        let both = format!("{}; {cookie}", services.cookie(OTHER, SessionId::from_bytes([8; 16]), 0));
        assert_eq!(services.choose(&[(header::COOKIE, &both)]).0, ONE);
        let services = Services::new("drain: {}", [0, 1]);
        let cookie = services.cookie(ONE, session, 0);
        let (at, identity) = services.choose(&[(header::COOKIE, &cookie)]);
        assert_eq!((at, identity.session, identity.is_displaced), (OTHER, session, true));
        let both = format!("{cookie}; {}", services.cookie(OTHER, SessionId::from_bytes([8; 16]), 0));
        let (at, identity) = services.choose(&[(header::COOKIE, &both)]);
        assert_eq!((at, identity.is_displaced), (OTHER, false), "the pin with a weight counts");
    }

    #[test]
    fn a_value_that_the_client_chose_decides_for_good_and_before_a_cookie_without_weight() {
        let services = Services::new("affinity: {clientIP: {}}", [1, 1]);
        let (first, identity) = services.choose(&[]);
        assert!((0..20).all(|_| services.choose(&[]).0 == first), "an address is hashed");
        assert_eq!(identity.source, IdentitySource::Chosen);
        let services = Services::new("affinity: {header: X-Client}", [1, 1]);
        let name = header::HeaderName::from_static("x-client");
        let of = |value: &str| services.choose(&[(name.clone(), value)]).0;
        assert!((0..20).all(|_| of("a") == of("a")));
        let seen: std::collections::HashSet<usize> =
            (0..50).map(|one| of(&format!("client {one}"))).collect();
        assert_eq!(seen.len(), 2, "different clients go to different services");
    }

    #[test]
    fn a_refused_token_makes_a_new_client_and_an_expired_one_is_the_reason_that_counts() {
        let session = SessionId::from_bytes([9; 16]);
        let services = Services::new("affinity: {cookie: {name: c}}", [1, 1]);
        let forged = services.choose(&[(header::COOKIE, "c=forged")]).1;
        assert!(forged.refused.is_some() && forged.pinned.is_none());
        let services = Services::new("drain: {}", [1, 1]);
        let old = services.cookie(OTHER, session, 60 * 60 * 24 * 365 * 20);
        let name = services.backends[ONE].route.service.cookie_name().unwrap().to_owned();
        let (_, identity) = services.choose(&[(header::COOKIE, &format!("{name}=forged; {old}"))]);
        assert_eq!(identity.refused, Some(TokenError::Expired));
        assert_ne!(identity.session, session);
    }
}
