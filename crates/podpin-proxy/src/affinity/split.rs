//! Which of a route's services gets a request, where it has several.
//!
//! The one that the client is pinned to, for as long as the route sends anybody there. Who has no such pin goes where the
//! weights say, by a hash of what the client calls itself, else of its session: so replicas agree without a word, and the
//! parallel requests of a client whose service has no weight any more meet at one other. What counts, in this order:
//!
//! 1. a session id that a pod issued, bound by a service with a weight, then the cookie of one: of several, the first in
//!    the order of the route;
//! 2. a session id bound by a service without weight;
//! 3. a value of the client's own;
//! 4. the cookie of a service without weight;
//! 5. nothing: the client is new.

use std::sync::Arc;

use podpin_affinity::{TokenError, split};

use crate::affinity::identify::{By, Recognition, Shown, new_session, show};
use crate::affinity::select::Asked;
use crate::routing::route::{Backend, Route};
use crate::shared::Shared;

/// The route as it leads to the service, and the client as that service knows it. `None` when no service has a weight,
/// which the configuration does not let happen.
pub(crate) fn choose(
    shared: &Shared,
    backends: &[Backend],
    asked: &Asked<'_>,
) -> Option<(Arc<Route>, Recognition)> {
    let shown = backends.iter().map(|backend| show(shared, &backend.route.service, asked));
    let mut table = Table { backends, shown: shown.collect() };
    let (at, known) = table.decide()?;
    Some((Arc::clone(&backends.get(at)?.route), known))
}

/// The services of a route, and what the request shows to each.
struct Table<'a> {
    backends: &'a [Backend],
    shown: Vec<Shown<'a>>,
}

impl Table<'_> {
    /// The place of the service, and the client as it knows it.
    fn decide(&mut self) -> Option<(usize, Recognition)> {
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
        Some((at, Recognition::begun(session, refused)))
    }

    /// The first service that the client shows a pin of; one with a weight, or one without.
    fn pinned(&self, has_weight: bool, is_bound: bool) -> Option<usize> {
        let is_such =
            |shown: &Shown<'_>| matches!(shown, Shown::Pin(_, by) if (*by != By::Cookie) == is_bound);
        let mut all = self.backends.iter().zip(&self.shown);
        all.position(|(backend, shown)| (backend.weight > 0) == has_weight && is_such(shown))
    }

    /// What the client calls itself, for the first service that asks for it.
    fn own_value(&self) -> Option<&[u8]> {
        let all = self.backends.iter().zip(&self.shown);
        all.filter(|(backend, _)| backend.weight > 0).find_map(|(_, shown)| match shown {
            Shown::Own(_, value, _) => Some(&**value),
            Shown::Pin(..) | Shown::Nothing(_) => None,
        })
    }

    fn by_weight(&self, client: &[u8]) -> Option<usize> {
        split(self.backends.iter().map(|one| (&*one.route.service.name, one.weight)), client)
    }

    /// Why a token was refused: to be expired is to be ours.
    fn refused(&self) -> Option<TokenError> {
        let reasons = || {
            self.shown.iter().filter_map(|shown| match shown {
                Shown::Own(_, _, refused) | Shown::Nothing(refused) => *refused,
                Shown::Pin(..) => None,
            })
        };
        reasons().find(|reason| *reason == TokenError::Expired).or_else(|| reasons().next())
    }

    /// The client as a service knows it; `refused` when it has no pin.
    fn known(&mut self, at: usize, refused: Option<TokenError>) -> Option<(usize, Recognition)> {
        let service = &self.backends.get(at)?.route.service;
        let shown = std::mem::replace(self.shown.get_mut(at)?, Shown::Nothing(None));
        Some((at, Recognition { refused, ..Recognition::new(service, shown) }))
    }

    /// The client of a service that nobody is sent to any more, at another one.
    fn displaced(&mut self, from: usize) -> Option<(usize, Recognition)> {
        let shown = std::mem::replace(self.shown.get_mut(from)?, Shown::Nothing(None));
        let Shown::Pin(verified, by) = shown else { return None };
        let session = verified.token.session;
        Some((self.by_weight(session.as_bytes())?, Recognition::displaced(session, by)))
    }
}
