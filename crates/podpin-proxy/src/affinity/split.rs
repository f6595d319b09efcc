//! The service of a route with several that gets a request.
//!
//! A client stays with the service that it is pinned to, as long as that has a weight. Other clients go by weight, by a
//! hash of the value that they chose, else of their session: replicas agree without talking, and the parallel requests of
//! a client whose service lost its weight meet at one other. The evidence that counts, in this order:
//!
//! 1. a session id that an endpoint issued, bound by a service with a weight, then the cookie of one: of several, the first in
//!    the order of the route;
//! 2. a session id bound by a service without weight;
//! 3. a value that the client chose;
//! 4. the cookie of a service without weight;
//! 5. nothing: the client is new.

use std::sync::Arc;

use podpin_affinity::{Keyring, TokenError, split};

use crate::affinity::identify::{ClientIdentity, Evidence, IdentitySource, evidence, new_session};
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
    let mut table = EvidenceTable { backends, evidence: all.collect() };
    let (at, identity) = table.decide()?;
    Some(ChosenBackend { route: Arc::clone(&backends.get(at)?.route), identity })
}

/// The services of a route, with the request's evidence for each.
struct EvidenceTable<'a> {
    backends: &'a [Backend],
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
        let value = self.own_value().and_then(|value| self.by_weight(value));
        let former =
            self.pinned(false, true).or_else(|| self.pinned(false, false).filter(|_| value.is_none()));
        if let Some(former) = former {
            return self.displaced(former);
        }
        if let Some(at) = value {
            return self.known(at, refused);
        }
        let session = new_session();
        let at = self.by_weight(session.as_bytes())?;
        Some((at, ClientIdentity::begun(session, refused)))
    }

    /// Returns the first service, with or without a weight, that the client has a token of, bound or in a cookie.
    fn pinned(&self, has_weight: bool, is_bound: bool) -> Option<usize> {
        let is_such = |evidence: &Evidence<'_>| matches!(evidence, Evidence::Token(_, source) if (*source != IdentitySource::Cookie) == is_bound);
        let mut all = self.backends.iter().zip(&self.evidence);
        all.position(|(backend, evidence)| (backend.weight > 0) == has_weight && is_such(evidence))
    }

    /// Returns the value that the client chose, for the first service that accepts one.
    fn own_value(&self) -> Option<&[u8]> {
        let all = self.backends.iter().zip(&self.evidence);
        all.filter(|(backend, _)| backend.weight > 0).find_map(|(_, evidence)| match evidence {
            Evidence::Chosen(_, value, _) => Some(&**value),
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
        Some((at, ClientIdentity { refused, ..ClientIdentity::new(service, evidence) }))
    }

    /// Returns the client of a service without weight at another one.
    fn displaced(&mut self, from: usize) -> Option<(usize, ClientIdentity)> {
        let evidence = std::mem::replace(self.evidence.get_mut(from)?, Evidence::Nothing(None));
        let Evidence::Token(verified, source) = evidence else { return None };
        let session = verified.token.session;
        Some((self.by_weight(session.as_bytes())?, ClientIdentity::displaced(session, source)))
    }
}
