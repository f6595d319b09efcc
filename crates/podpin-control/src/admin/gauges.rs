//! Gauges that are read from state at each scrape rather than counted.

use podpin_endpoints::Phase;
use podpin_proxy::balance::service::ServiceState;
use podpin_proxy::clock;
use podpin_proxy::shared::Shared;
use podpin_proxy::stream_registry::StreamRecord;
use podpin_proxy::telemetry::labels::{EndpointState, Label, StreamState};
use podpin_proxy::telemetry::metrics::EndpointMetrics;

use crate::admin::views::{is_ejected, state_of, stream_state};

/// Sets the gauges over endpoints, open streams and requests.
pub(super) fn measure(shared: &Shared) {
    let gauges = &shared.metrics.endpoints;
    let requests = i64::try_from(shared.requests.active()).unwrap_or(i64::MAX);
    shared.metrics.process.requests_active.set(requests);
    gauges.streams_active.reset();
    gauges.upgrades_active.reset();
    gauges.drain_remaining.reset();
    gauges.inheritances.reset();
    gauges.endpoints.reset();
    shared.snapshot().services.iter().for_each(|service| measure_endpoints(gauges, service));
    // Streams are counted one by one: those of an endpoint that left the list are open all the same.
    shared.streams.for_each(|record| measure_stream(gauges, record));
}

fn measure_endpoints(gauges: &EndpointMetrics, service: &ServiceState) {
    let (view, now) = (service.view(), clock::now());
    // Every state and endpoint shows, with 0 if nothing is counted there.
    EndpointState::ALL.iter().for_each(|state| gauges.endpoints.add(&service.name, *state, 0));
    let inheritances = service.inheritances(view.snapshot.endpoints());
    for (endpoint, inherited) in view.snapshot.endpoints().iter().zip(inheritances) {
        gauges.inheritances.add(&service.name, &endpoint.name, i64::from(inherited));
        gauges.endpoints.add(&service.name, endpoint_state(endpoint.phase), 1);
        if is_ejected(&view.snapshot, endpoint, now) {
            gauges.endpoints.add(&service.name, EndpointState::Ejected, 1);
        }
        for gauge in [&gauges.streams_active, &gauges.upgrades_active] {
            gauge.add(&service.name, &endpoint.name, stream_state(endpoint.phase), 0);
        }
        if endpoint.phase == Phase::Draining {
            gauges.drain_remaining.add(&service.name, &endpoint.name, 0);
        }
    }
}

fn endpoint_state(phase: Phase) -> EndpointState {
    match phase {
        Phase::Ready => EndpointState::Ready,
        Phase::NotReady => EndpointState::Resting,
        // A snapshot has no endpoints that are gone.
        Phase::Draining | Phase::Gone => EndpointState::Draining,
    }
}

fn measure_stream(gauges: &EndpointMetrics, record: &StreamRecord) {
    let endpoint = record.endpoint();
    let (service, state) = (&*record.route.service.name, state_of(record));
    let gauge = if record.upgrade.is_some() { &gauges.upgrades_active } else { &gauges.streams_active };
    gauge.add(service, &endpoint.name, state, 1);
    if state == StreamState::Draining {
        gauges.drain_remaining.add(service, &endpoint.name, 1);
    }
}

#[cfg(test)]
mod tests {
    use podpin_proxy::balance::service::Operation;

    use super::*;
    use crate::fixture;

    #[test]
    fn gauges_follow_the_endpoints_and_show_zeros() {
        let shared = fixture::started(&fixture::config(
            "{a: {discovery: {static: [{name: p, address: \"127.0.0.1:9\"}, \
             {name: q, address: \"127.0.0.1:8\"}]}}}",
        ));
        let has = |lines: &[&str]| {
            measure(&shared);
            let text = String::from_utf8(shared.metrics.render()).unwrap();
            for line in lines {
                assert!(text.contains(line), "{line} is not in\n{text}");
            }
            text
        };
        let text = has(&[
            "podpin_endpoints{service=\"a\",state=\"ready\"} 2",
            "podpin_endpoints{service=\"a\",state=\"ejected\"} 0",
            "podpin_streams_active{endpoint=\"p\",service=\"a\",state=\"active\"} 0",
        ]);
        assert!(!text.contains("podpin_drain_streams_remaining{"));
        let service = std::sync::Arc::clone(&shared.snapshot().services[0]);
        let id = service.view().snapshot.endpoints()[0].id;
        service.operate(&id, Operation::Drain).unwrap();
        has(&[
            "podpin_endpoints{service=\"a\",state=\"ready\"} 1",
            "podpin_endpoints{service=\"a\",state=\"draining\"} 1",
            "podpin_drain_streams_remaining{endpoint=\"p\",service=\"a\"} 0",
            "podpin_endpoint_inheritances{endpoint=\"q\",service=\"a\"} 0",
        ]);
    }
}
