//! Endpoints and streams as the admin API shows them: plain values, made from state.

use std::sync::atomic::Ordering;

use podpin_drain::DrainMember;
use podpin_endpoints::{Departed, DrainTimes, Endpoint, EndpointId, Phase, Snapshot};
use podpin_proxy::balance::service::ServiceState;
use podpin_proxy::clock;
use podpin_proxy::stream_registry::StreamRecord;
use podpin_proxy::telemetry::labels::StreamState;
use podpin_time::Millis;
use serde::Serialize;

/// An endpoint as the admin API shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointView {
    pub(super) name: String,
    uid: Option<String>,
    pub(super) address: String,
    pub(super) state: &'static str,
    pub(super) ejected: bool,
    /// The clients that are sent there now: all, pinned ones, or none; see [`podpin_endpoints::UsedBy`].
    used_by: &'static str,
    /// The reason for that, in words.
    why: &'static str,
    pub(super) since: String,
    /// The time at which its pod will be killed; `None` if it does not terminate or the time is unknown.
    deadline: Option<String>,
    zone: Option<String>,
    node: Option<String>,
    /// The rollout that made it; `None` if it is unknown.
    generation: Option<String>,
    /// The name of the endpoint that takes over its sessions; `None` if it does not leave, or has none.
    heir: Option<String>,
    weight: u32,
    pub(super) streams: u32,
}

/// An endpoint that drains or is gone, with its heir.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DepartedView {
    name: String,
    generation: Option<String>,
    /// The name of its heir; `None` if it has none, or if that is gone in turn.
    heir: Option<String>,
    /// The time since when it is not listed any more; `None` if it drains.
    gone_since: Option<String>,
}

impl DepartedView {
    /// Builds the view of an endpoint of `service`.
    pub(super) fn new(service: &ServiceState, departed: &Departed) -> DepartedView {
        DepartedView {
            name: departed.name.to_string(),
            generation: departed.generation.as_deref().map(str::to_owned),
            heir: departed.heir.and_then(|heir| name_of(&service.view().snapshot, &heir)),
            gone_since: departed.gone_since.map(clock::rfc3339),
        }
    }
}

/// Returns the name of an endpoint; `None` if it is not listed.
fn name_of(snapshot: &Snapshot, id: &EndpointId) -> Option<String> {
    snapshot.get(id).map(|endpoint| endpoint.name.to_string())
}

impl EndpointView {
    /// Builds the view of an endpoint of `service` at `now`.
    pub(super) fn new(service: &ServiceState, endpoint: &Endpoint, now: Millis) -> EndpointView {
        EndpointView::in_snapshot(&service.view().snapshot, service.keep(), endpoint, now)
    }

    fn in_snapshot(
        snapshot: &Snapshot,
        keep: Option<DrainTimes>,
        endpoint: &Endpoint,
        now: Millis,
    ) -> EndpointView {
        let usage = snapshot.usage(endpoint, keep, now);
        EndpointView {
            name: endpoint.name.to_string(),
            uid: endpoint.uid.as_deref().map(str::to_owned),
            address: endpoint.address.to_string(),
            state: endpoint.phase.as_str(),
            ejected: is_ejected(snapshot, endpoint, now),
            used_by: usage.by.as_str(),
            why: usage.why.as_str(),
            since: clock::rfc3339(endpoint.phase_since),
            deadline: endpoint.deadline.map(clock::rfc3339),
            zone: endpoint.zone.as_deref().map(str::to_owned),
            node: endpoint.node.as_deref().map(str::to_owned),
            generation: endpoint.generation.as_deref().map(str::to_owned),
            heir: snapshot.heir(&endpoint.id).and_then(|heir| name_of(snapshot, heir)),
            weight: endpoint.weight,
            streams: endpoint.load.open_streams(),
        }
    }

    /// Returns the endpoints of a service, in the order of its list.
    pub(super) fn all(service: &ServiceState, now: Millis) -> Vec<EndpointView> {
        let (view, keep) = (service.view(), service.keep());
        let endpoints = view.snapshot.endpoints().iter();
        endpoints.map(|endpoint| EndpointView::in_snapshot(&view.snapshot, keep, endpoint, now)).collect()
    }
}

/// Returns whether picking leaves an endpoint out because of failures; if too many failed, it leaves none out.
pub(super) fn is_ejected(snapshot: &Snapshot, endpoint: &Endpoint, now: Millis) -> bool {
    endpoint.load.is_ejected(now) && snapshot.honours_ejection(now)
}

/// Returns the state of streams whose endpoint is in this phase.
pub(super) fn stream_state(phase: Phase) -> StreamState {
    match phase {
        Phase::Ready | Phase::NotReady => StreamState::Active,
        Phase::Draining | Phase::Gone => StreamState::Draining,
    }
}

/// Returns the state of a stream.
pub(super) fn state_of(record: &StreamRecord) -> StreamState {
    let service = &record.route.service;
    stream_state(service.endpoint(&record.endpoint().id).map_or(Phase::Gone, |endpoint| endpoint.phase))
}

/// An event stream or upgraded connection as the admin API shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StreamView {
    id: u64,
    kind: &'static str,
    protocol: Option<String>,
    service: String,
    endpoint: String,
    route: String,
    client: String,
    since: String,
    last_activity: String,
    events: u64,
    bytes: u64,
    bytes_received: Option<u64>,
    last_event_id: Option<String>,
    handovers: usize,
    state: StreamState,
}

impl StreamView {
    /// Builds the view of an open stream.
    pub(super) fn new(record: &StreamRecord) -> StreamView {
        let (id, upgrade) = (record.last_event_id(), record.upgrade.as_deref());
        StreamView {
            id: record.id,
            kind: if upgrade.is_some() { "upgrade" } else { "stream" },
            protocol: upgrade.map(|upgrade| upgrade.protocol.to_string()),
            service: record.route.service.name.to_string(),
            endpoint: record.endpoint().name.to_string(),
            route: record.route.name.to_string(),
            client: record.client.to_string(),
            since: clock::rfc3339(record.since),
            last_activity: clock::rfc3339(record.last_event()),
            events: record.events.load(Ordering::Relaxed),
            bytes: record.bytes.load(Ordering::Relaxed),
            bytes_received: upgrade.map(|upgrade| upgrade.received.load(Ordering::Relaxed)),
            last_event_id: (!id.is_empty()).then(|| String::from_utf8_lossy(&id).into_owned()),
            handovers: record.handovers(),
            state: state_of(record),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn an_endpoint_shows_its_state_under_the_names_of_the_api() {
        let shared = fixture::started(&fixture::config(
            "{a: {discovery: {static: [{name: p, address: \"127.0.0.1:9\", weight: 3}]}}}",
        ));
        let views = EndpointView::all(&shared.snapshot().services[0], clock::now());
        let json = serde_json::to_value(&views).unwrap();
        assert_eq!(
            (&json[0]["name"], &json[0]["address"], &json[0]["state"], &json[0]["weight"]),
            (&"p".into(), &"127.0.0.1:9".into(), &"ready".into(), &3.into())
        );
        assert_eq!((&json[0]["ejected"], &json[0]["streams"]), (&false.into(), &0.into()));
        assert_eq!((&json[0]["usedBy"], &json[0]["why"]), (&"all".into(), &"ready".into()));
    }

    #[test]
    fn streams_of_endpoints_that_leave_are_draining() {
        let states = [Phase::Ready, Phase::NotReady, Phase::Draining, Phase::Gone].map(stream_state);
        use StreamState::{Active, Draining};
        assert_eq!(states, [Active, Active, Draining, Draining]);
    }
}
