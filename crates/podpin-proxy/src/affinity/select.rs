//! Selection of the endpoint that serves a request, by its session and what the service has now.

use std::borrow::Cow;
use std::sync::Arc;

use podpin_config::{OnUnavailable, Strategy as Configured};
use podpin_endpoints::{
    Endpoint, EndpointId, MoveReason, Nowhere, Permit, Pick, PickRequest, Strategy, pick,
};

use crate::affinity::routed_request::RoutedRequest;
use crate::affinity::selected::Selected;
use crate::balance::queue::QueueDemand;
use crate::balance::service::{Kind, View};
use crate::clock;
use crate::http::reply::ErrorReply;

/// Rounds of select and permit before an endpoint counts as full: others take slots in between.
const ROUNDS_MAX: usize = 16;

/// A selected endpoint with one of its stream slots.
#[derive(Debug)]
pub(crate) struct SelectedStream {
    /// The selected endpoint.
    pub selected: Selected,
    /// The slot for the stream.
    pub permit: Permit,
}

/// Endpoints that a selection must leave out, and whether it may fall back.
pub(crate) struct SelectionTerms<'a> {
    /// Endpoints that failed this request.
    tried: &'a [EndpointId],
    /// Demand of the requests that are served first.
    pub ahead: QueueDemand,
    /// Whether the request rather waits for its own endpoint than takes another one.
    pub waits: bool,
}

impl<'a> SelectionTerms<'a> {
    /// Returns terms that leave out `tried` only; a pinned endpoint that failed this very request is not waited for.
    pub(crate) fn after(tried: &'a [EndpointId]) -> SelectionTerms<'a> {
        SelectionTerms { tried, ahead: QueueDemand::default(), waits: tried.is_empty() }
    }

    /// Returns terms for a request behind those that wait already.
    pub(crate) fn behind(ahead: QueueDemand) -> SelectionTerms<'a> {
        SelectionTerms { tried: &[], ahead, waits: true }
    }

    /// Returns the endpoints to leave out. The client's own stays in: the reason why it cannot serve is the reason to
    /// move.
    fn left_out(&self, own: Option<EndpointId>) -> Cow<'a, [EndpointId]> {
        if self.ahead.endpoints.is_empty() {
            return Cow::Borrowed(self.tried);
        }
        let wanted = self.ahead.endpoints.iter().filter(|id| Some(**id) != own);
        Cow::Owned(self.tried.iter().chain(wanted).copied().collect())
    }
}

/// Selects an endpoint.
///
/// # Errors
/// [`ErrorReply::NoEndpoint`] or [`ErrorReply::Full`].
pub(crate) fn select(
    request: &RoutedRequest,
    kind: Kind,
    terms: &SelectionTerms<'_>,
) -> Result<Selected, ErrorReply> {
    let service = request.service();
    let balance = &service.configuration.balance;
    let limit = service.configuration.limits.streams_per_endpoint;
    let view = service.view();
    let pinned = request.home(&view);
    let exclude = terms.left_out(pinned);
    let wanted = PickRequest {
        pinned,
        session: request.session.as_bytes(),
        strategy: strategy(balance.strategy),
        stream_limit: limit.filter(|_| kind == Kind::Stream),
        slow_start: balance.slow_start,
        zone: service.near.as_deref(),
        keep: service.keep(),
        exclude: &exclude,
        now: clock::now(),
    };
    let mut chance = |bound: u64| fastrand::u64(..bound.max(1));
    let picked = match request.is_named() {
        true => pick(&view.snapshot, &wanted, &view.steady_ring(wanted.now), &mut chance),
        false => pick(&view.snapshot, &wanted, &*view.ring, &mut chance),
    };
    let selected = match picked {
        Pick::Stay(endpoint) => Selected { endpoint, moved: None, is_pinned: true },
        Pick::Place(endpoint) => Selected { endpoint, moved: None, is_pinned: false },
        Pick::Move(endpoint, reason) => match issuer(request, &view, reason, terms) {
            Some(endpoint) => Selected { endpoint, moved: None, is_pinned: true },
            None => relocate(request, endpoint, reason, terms)?,
        },
        Pick::Nowhere(Nowhere::NoEndpoint) => return Err(ErrorReply::NoEndpoint),
        Pick::Nowhere(Nowhere::Full) => return Err(ErrorReply::Full),
    };
    // A slot that a waiting request would take is not free.
    if terms.ahead.takes(selected.endpoint.id, view.snapshot.takes_new(&selected.endpoint)) {
        Err(ErrorReply::Full)
    } else {
        Ok(selected)
    }
}

/// Selects an endpoint and takes one of its slots for a stream.
///
/// # Errors
/// As [`select`].
pub(crate) fn select_stream(
    request: &RoutedRequest,
    terms: &SelectionTerms<'_>,
) -> Result<SelectedStream, ErrorReply> {
    let limit = request.service().configuration.limits.streams_per_endpoint;
    // Others take slots between the selection and the permit; each round sees their newer counts.
    for _ in 0..ROUNDS_MAX {
        let selected = select(request, Kind::Stream, terms)?;
        if let Some(permit) = selected.endpoint.load.try_open(limit) {
            return Ok(SelectedStream { selected, permit });
        }
    }
    Err(ErrorReply::Full)
}

/// Returns the endpoint that issued the client's session id, if that is still there and this request has not failed at
/// it: no other one knows the id, so it is asked even while it drains, is not ready or is ejected.
fn issuer(
    request: &RoutedRequest,
    view: &View,
    reason: MoveReason,
    terms: &SelectionTerms<'_>,
) -> Option<Arc<Endpoint>> {
    let is_there = matches!(reason, MoveReason::Draining | MoveReason::Unready | MoveReason::Ejected);
    let may_answer = request.is_bound() && is_there;
    let own = request.home(view).filter(|own| may_answer && !terms.tried.contains(own))?;
    view.snapshot.get(&own).cloned()
}

/// Decides whether a client may leave its pinned endpoint, by `affinity.onUnavailable`.
fn relocate(
    request: &RoutedRequest,
    endpoint: Arc<Endpoint>,
    reason: MoveReason,
    terms: &SelectionTerms<'_>,
) -> Result<Selected, ErrorReply> {
    let refusal = if reason == MoveReason::Full { ErrorReply::Full } else { ErrorReply::NoEndpoint };
    match (request.service().configuration.affinity.on_unavailable, reason) {
        (OnUnavailable::Strict, _) => Err(refusal),
        // A session id that an endpoint issued is known there only.
        (_, MoveReason::Full) if request.is_bound() => Err(refusal),
        (OnUnavailable::Wait(_), MoveReason::Unready | MoveReason::Ejected | MoveReason::Full)
            if terms.waits && request.may_wait =>
        {
            Err(refusal)
        }
        (OnUnavailable::Repin | OnUnavailable::Wait(_), _) => {
            Ok(Selected { endpoint, moved: Some(reason), is_pinned: false })
        }
    }
}

fn strategy(configured: Configured) -> Strategy {
    match configured {
        Configured::LeastStreams => Strategy::LeastStreams,
        Configured::RoundRobin => Strategy::RoundRobin,
        Configured::Random => Strategy::Random,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_of_waiting_requests_is_left_out_but_not_a_clients_own_endpoint() {
        let [one, other, tried] = [1, 2, 3].map(|byte| EndpointId::from_bytes([byte; 16]));
        let ahead = QueueDemand { any: false, endpoints: vec![one, other] };
        let terms = SelectionTerms { tried: &[tried], ahead, waits: true };
        assert_eq!(*terms.left_out(None), [tried, one, other]);
        assert_eq!(*terms.left_out(Some(one)), [tried, other]);
        let failed = [tried];
        let after = SelectionTerms::after(&failed);
        assert_eq!(*after.left_out(Some(tried)), [tried], "it has failed this request");
    }
}
