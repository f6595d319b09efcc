//! `affinity.onUnavailable: wait`: requests that are served at once, that wait, and that are turned away.
//!
//! The rules are HAProxy's, where a request with a persistent server waits for that server and any other for the first
//! free one, and where a full queue means another server:
//!
//! * A request that takes nothing from a waiting one is served at once, however long the queue is.
//! * Others wait, first come, first served among requests with the same demand.
//! * If the queue is full, a client that would wait for its own endpoint moves to another one with a free slot, as
//!   `repin` does; without one it is refused.

use std::time::Duration;

use podpin_config::{OnUnavailable, WaitQueue};
use podpin_endpoints::{EndpointId, Phase};
use tokio::time::{Instant, sleep, sleep_until};

use crate::affinity::routed_request::RoutedRequest;
use crate::affinity::select::{SelectedStream, SelectionTerms, select, select_stream};
use crate::affinity::selected::Selected;
use crate::balance::queue::{Demand, QueueDemand};
use crate::balance::service::Kind;
use crate::http::reply::ErrorReply;

/// Interval at which a waiting request looks for a slot without being woken.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Selects an endpoint for a stream as [`select_stream`] does, and waits for a slot if the service has a queue.
///
/// # Errors
/// [`ErrorReply::QueueTimeout`] too.
pub(crate) async fn await_stream(
    request: &RoutedRequest,
    tried: &[EndpointId],
) -> Result<SelectedStream, ErrorReply> {
    await_slot(request, Kind::Stream, tried, |terms| select_stream(request, terms)).await
}

/// Selects an endpoint for an ordinary request as [`select`] does, and waits for it if the service has a queue.
///
/// # Errors
/// [`ErrorReply::QueueTimeout`] too.
pub(crate) async fn await_request(
    request: &RoutedRequest,
    tried: &[EndpointId],
) -> Result<Selected, ErrorReply> {
    await_slot(request, Kind::Request, tried, |terms| select(request, Kind::Request, terms)).await
}

async fn await_slot<S>(
    request: &RoutedRequest,
    kind: Kind,
    tried: &[EndpointId],
    attempt: impl Fn(&SelectionTerms<'_>) -> Result<S, ErrorReply>,
) -> Result<S, ErrorReply> {
    match request.service().configuration.affinity.on_unavailable {
        // After a failure the request takes what there is now, or nothing.
        // Boxed: every request that waits for its response would have room for it.
        OnUnavailable::Wait(limits) if tried.is_empty() => {
            Box::pin(queue_up(request, kind, limits, attempt)).await
        }
        OnUnavailable::Wait(_) | OnUnavailable::Repin | OnUnavailable::Strict => {
            attempt(&SelectionTerms::after(tried))
        }
    }
}

async fn queue_up<S>(
    request: &RoutedRequest,
    kind: Kind,
    limits: WaitQueue,
    attempt: impl Fn(&SelectionTerms<'_>) -> Result<S, ErrorReply>,
) -> Result<S, ErrorReply> {
    let queue = &request.service().queue;
    let mut terms = SelectionTerms::behind(ahead(request, kind));
    match attempt(&terms) {
        Err(ErrorReply::NoEndpoint | ErrorReply::Full) => {}
        other => return other,
    }
    let Some(entry) = queue.join(limits.length, demand(request, kind)) else {
        if queue.is_closed() {
            return Err(ErrorReply::QueueTimeout);
        }
        terms.waits = false;
        return attempt(&terms).map_err(|_| ErrorReply::QueueTimeout);
    };
    let deadline = Instant::now() + limits.timeout;
    loop {
        tokio::select! {
            biased;
            () = entry.turn() => {}
            () = sleep_until(deadline) => return Err(ErrorReply::QueueTimeout),
            // The end of an ejection wakes no entry.
            () = sleep(LOOK_AGAIN) => {
                queue.wake();
                continue;
            }
        }
        match attempt(&SelectionTerms::after(&[])) {
            Err(ErrorReply::NoEndpoint | ErrorReply::Full) if queue.is_closed() => {
                return Err(ErrorReply::QueueTimeout);
            }
            Err(ErrorReply::NoEndpoint | ErrorReply::Full) => {
                // The client's own endpoint may be gone meanwhile.
                entry.set_demand(demand(request, kind));
                entry.pass_on();
            }
            other => return other,
        }
    }
}

/// Returns the demand of the requests that are served before this one. An ordinary request takes no slot and passes by
/// those that wait for one.
fn ahead(request: &RoutedRequest, kind: Kind) -> QueueDemand {
    match kind {
        Kind::Stream => request.service().queue.demand(),
        Kind::Request => QueueDemand::default(),
    }
}

fn demand(request: &RoutedRequest, kind: Kind) -> Demand {
    let view = request.service().view();
    let own = request.home(&view).and_then(|id| view.snapshot.get(&id));
    match (kind, own) {
        (Kind::Request, _) => Demand::NoPlace,
        (Kind::Stream, Some(own)) if matches!(own.phase, Phase::Ready | Phase::NotReady) => {
            Demand::PlaceAt(own.id)
        }
        // An endpoint that drains or is gone is not waited for.
        (Kind::Stream, _) => Demand::AnyPlace,
    }
}

#[cfg(test)]
mod tests {
    use podpin_endpoints::Permit;

    use super::*;
    use crate::balance::service::Operation;
    use crate::testing::{Scene, nowhere};

    /// A service with one slot an endpoint, where `length` requests may wait for `timeout`.
    fn scene(names: &[&str], length: u32, timeout: &str) -> Scene {
        let lines = format!(
            "affinity: {{onUnavailable: wait, queue: {{length: {length}, timeout: {timeout}}}}}\n\
             limits: {{streamsPerEndpoint: 1}}"
        );
        Scene::with(&lines, &names.iter().map(|name| (*name, nowhere())).collect::<Vec<_>>())
    }

    /// Takes the only slot of an endpoint.
    fn occupy(scene: &Scene, endpoint: &str) -> Permit {
        let endpoint = scene.route.service.endpoint(&EndpointId::of_pod(endpoint, 80)).unwrap();
        endpoint.load.try_open(Some(1)).unwrap()
    }

    #[tokio::test]
    async fn a_client_waits_for_its_own_endpoint_and_is_served_when_a_slot_is_free() {
        let scene = scene(&["a", "b"], 10, "10s");
        let (request, occupied) = (scene.pinned_to("a"), occupy(&scene, "a"));
        let queue = &scene.route.service.queue;
        let frees = async {
            assert_eq!(queue.demand().endpoints, [EndpointId::of_pod("a", 80)]);
            drop(occupied);
            queue.wake();
        };
        let (selected, ()) = tokio::join!(await_stream(&request, &[]), frees);
        assert_eq!(&*selected.unwrap().selected.endpoint.name, "a");
        assert!(queue.demand().endpoints.is_empty());
    }

    #[tokio::test]
    async fn a_client_that_finds_the_queue_full_moves_and_one_without_another_endpoint_is_refused() {
        let scene = scene(&["a", "b"], 1, "10s");
        let (request, occupied) = (scene.pinned_to("a"), occupy(&scene, "a"));
        let others = async {
            let moved = await_stream(&request, &[]).await.unwrap();
            assert_eq!(&*moved.selected.endpoint.name, "b");
            let refused = await_stream(&request, &[]).await;
            assert_eq!(refused.err(), Some(ErrorReply::QueueTimeout), "b is full, too");
            drop(occupied);
            scene.route.service.queue.wake();
        };
        let (waited, ()) = tokio::join!(await_stream(&request, &[]), others);
        assert_eq!(&*waited.unwrap().selected.endpoint.name, "a");
    }

    #[tokio::test]
    async fn waiting_ends_with_its_time_or_with_the_queue() {
        let scene = scene(&["a"], 10, "10ms");
        let (request, _occupied) = (scene.pinned_to("a"), occupy(&scene, "a"));
        assert_eq!(await_stream(&request, &[]).await.err(), Some(ErrorReply::QueueTimeout));
        let patient = self::scene(&["a"], 10, "10m");
        let (request, _occupied) = (patient.pinned_to("a"), occupy(&patient, "a"));
        let closes = async { patient.route.service.queue.close() };
        let (refused, ()) = tokio::join!(await_stream(&request, &[]), closes);
        assert_eq!(refused.err(), Some(ErrorReply::QueueTimeout));
        assert_eq!(await_stream(&request, &[]).await.err(), Some(ErrorReply::QueueTimeout), "at once");
    }

    #[tokio::test]
    async fn only_a_stream_needs_a_slot() {
        let scene = scene(&["a"], 10, "10ms");
        let (request, _occupied) = (scene.pinned_to("a"), occupy(&scene, "a"));
        assert_eq!(&*await_request(&request, &[]).await.unwrap().endpoint.name, "a");
        assert_eq!(await_stream(&request, &[]).await.err(), Some(ErrorReply::QueueTimeout));
        // After a failure nothing is waited for.
        let tried = [EndpointId::of_pod("a", 80)];
        assert_eq!(await_stream(&request, &tried).await.err(), Some(ErrorReply::NoEndpoint));
    }

    #[tokio::test]
    async fn a_request_demands_its_own_slot_as_long_as_its_endpoint_is_there() {
        let scene = scene(&["a", "b"], 10, "10s");
        let (request, own) = (scene.pinned_to("a"), EndpointId::of_pod("a", 80));
        assert_eq!(demand(&request, Kind::Request), Demand::NoPlace);
        assert_eq!(demand(&request, Kind::Stream), Demand::PlaceAt(own));
        scene.operate("a", Operation::Drain);
        assert_eq!(demand(&request, Kind::Stream), Demand::AnyPlace);
        scene.remove("a");
        assert_eq!(demand(&request, Kind::Stream), Demand::AnyPlace);
    }
}
