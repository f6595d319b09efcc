//! Runs the drains of all services: one task, a [`DrainController`] for each service, logs and metrics of what they report.
//!
//! ```text
//! endpoint lists, streams ──▶ DrainInbox ──▶ DrainController ── facts ──▶ logs, metrics
//!                     DrainWake ──▲ turns, at the latest when the first of them is due
//! ```

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use podpin_drain::{DrainController, DrainPolicy, DrainReport, DrainSubject, Fact};
use podpin_proxy::balance::service::ServiceState;
use podpin_proxy::clock;
use podpin_proxy::routing::snapshot::ConfigSnapshot;
use podpin_proxy::shared::Shared;
use podpin_proxy::stream_registry::StreamRecord;
use podpin_proxy::telemetry::labels::ReconnectOutcome;
use podpin_time::Millis;

/// Time between two turns without any service; a reload wakes the task.
const NOTHING: Duration = Duration::from_secs(3_600);

/// Runs all drains for as long as the process runs.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut drains = Drains::new(shared);
    loop {
        let rest = drains.turn(clock::now());
        let wake = drains.shared.streams.wake();
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = poll_fn(|context| wake.poll_notified(context)) => {}
        }
    }
}

/// Drains of all services, those that a reload removed included until their last stream has left.
struct Drains {
    shared: Arc<Shared>,
    snapshot: Arc<ConfigSnapshot>,
    services: Vec<ServiceDrain>,
}

impl Drains {
    /// Begins with the services of the configuration in force.
    fn new(shared: Arc<Shared>) -> Drains {
        let (snapshot, now) = (shared.snapshot(), clock::now());
        let services = snapshot.services.iter().map(|service| ServiceDrain::new(&shared, service, now));
        Drains { services: services.collect(), shared, snapshot }
    }

    /// Takes a turn of each service. Returns the time until the next one.
    fn turn(&mut self, now: Millis) -> Duration {
        let current = self.shared.snapshot();
        if !Arc::ptr_eq(&self.snapshot, &current) {
            self.reload(current, now);
        }
        self.services.retain(|drain| !drain.is_over());
        self.services.iter_mut().map(|drain| drain.turn(now)).min().unwrap_or(NOTHING)
    }

    /// Follows a reload: services come, change and go.
    fn reload(&mut self, snapshot: Arc<ConfigSnapshot>, now: Millis) {
        for drain in &mut self.services {
            let service = snapshot.counterpart(&drain.service);
            drain.controller.reload(service.map(|service| DrainPolicy::of(&service.configuration)), now);
            if let Some(service) = service {
                drain.service = Arc::clone(service);
            }
        }
        for service in snapshot.services.iter() {
            if !self.services.iter().any(|drain| drain.service.is_same(service)) {
                self.services.push(ServiceDrain::new(&self.shared, service, now));
            }
        }
        self.snapshot = snapshot;
    }
}

/// Drains of one service.
struct ServiceDrain {
    service: Arc<ServiceState>,
    controller: DrainController<StreamRecord>,
}

impl ServiceDrain {
    /// Begins with a service from which no stream leaves yet.
    fn new(shared: &Shared, service: &Arc<ServiceState>, now: Millis) -> ServiceDrain {
        let (registry, inbox) = (Arc::clone(&shared.streams), Arc::clone(&service.drain));
        let policy = DrainPolicy::of(&service.configuration);
        let controller = DrainController::new(registry, inbox, policy, now);
        ServiceDrain { service: Arc::clone(service), controller }
    }

    /// Returns whether a reload removed the service, and nothing refers to it any more.
    fn is_over(&self) -> bool {
        // Requests on their way hold the service in one of its versions, each of which holds the inbox.
        let own_inboxes = 2;
        let is_known =
            Arc::strong_count(&self.service) > 1 || Arc::strong_count(self.controller.inbox()) > own_inboxes;
        !is_known && self.controller.is_over()
    }

    /// Does what is due, and logs and counts it. Returns the time until the next turn.
    fn turn(&mut self, now: Millis) -> Duration {
        let service = &self.service;
        let snapshot = || Arc::clone(&service.view().snapshot);
        let turn = self.controller.turn(now, snapshot, &mut |bound| fastrand::u64(..bound.max(1)));
        turn.facts.iter().for_each(|fact| note(service, fact));
        turn.next
    }
}

/// Logs and counts a fact.
fn note(service: &ServiceState, fact: &Fact) {
    let (metrics, name) = (&service.metrics, &*service.name);
    match fact {
        Fact::Began { subject, streams, begins, deadline } => {
            let (begins, deadline) = (clock::rfc3339(*begins), clock::rfc3339(*deadline));
            tracing::debug!(
                service = name,
                endpoint = subject.name(),
                streams,
                begins,
                deadline,
                "drain began"
            );
        }
        Fact::Rescheduled { subject, begins, deadline } => {
            let (begins, deadline) = (clock::rfc3339(*begins), clock::rfc3339(*deadline));
            tracing::debug!(service = name, endpoint = subject.name(), begins, deadline, "drain rescheduled");
        }
        Fact::Notified { subject, streams, remaining } => {
            tracing::trace!(service = name, endpoint = subject.name(), streams, remaining, "streams leave");
        }
        Fact::BudgetExceeded { streams } => metrics.budget_exceeded.inc_by(u64::from(*streams)),
        Fact::BudgetTooSmall { subject } => tracing::warn!(
            service = name,
            endpoint = subject.name(),
            "drain.budget is exceeded: the streams could not leave before their deadline otherwise"
        ),
        Fact::TakenBack { endpoint } if service.view().is_flapping(&endpoint.id, clock::now()) => {}
        Fact::TakenBack { endpoint } => {
            tracing::info!(service = name, endpoint = %endpoint.name, "drain cancelled");
        }
        Fact::ClientsLost { clients } => {
            (0..*clients).for_each(|_| metrics.reconnects.inc(ReconnectOutcome::Lost));
        }
        Fact::RebalanceBegan => {
            tracing::info!(service = name, "streams move to endpoints that have fewer");
        }
        Fact::Finished { subject, report, took } => log_report(name, subject, report, *took),
    }
}

/// Writes the one record of a drain.
fn log_report(service: &str, subject: &DrainSubject, report: &DrainReport, took: Duration) {
    let seconds = |millis: Option<u32>| millis.map(|millis| f64::from(millis) / 1_000.0);
    tracing::info!(
        service,
        endpoint = subject.name(),
        streams = report.streams,
        moved = report.moved,
        polite = report.graceful,
        forced = report.forced,
        broken = report.broken,
        left = report.left,
        seen_again_here = report.returned,
        returned = report.returned,
        lost = report.lost,
        gap_p50_seconds = seconds(report.gap_millis(500)),
        gap_p99_seconds = seconds(report.gap_millis(990)),
        took_seconds = took.as_secs_f64(),
        "drained"
    );
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use podpin_drain::{DrainMember, DrainState, EndKind, Mobility, StreamEnd};
    use podpin_endpoints::EndpointId;
    use podpin_proxy::balance::service::Operation;
    use podpin_proxy::stream_registry::Opening;

    use super::*;
    use crate::fixture;

    const TWO: &str = "{a: {discovery: {static: [{name: pod, address: \"127.0.0.1:3\"}]}, drain: {spread: 0s}}, \
                       b: {discovery: {static: []}}}";

    /// Opens a stream on the only endpoint of service `a`.
    fn open(shared: &Shared) -> Arc<StreamRecord> {
        let route = Arc::clone(&shared.snapshot().routes[0]);
        let endpoint = Arc::clone(&route.service.view().snapshot.endpoints()[0]);
        let opening = Opening {
            route,
            endpoint,
            client: [127, 0, 0, 1].into(),
            session: Some([1; 16]),
            since: clock::now(),
            mobility: Mobility::DrainOnly,
            upgrade: None,
        };
        shared.streams.open(|id| opening.into_record(id))
    }

    fn metric(shared: &Shared, name: &str, part: &str) -> f64 {
        let text = String::from_utf8(shared.metrics.render()).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(part));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    #[test]
    fn a_stream_of_an_endpoint_that_drains_gets_its_moment_and_its_client_is_awaited() {
        let shared = fixture::started(&fixture::config(TWO));
        let mut drains = Drains::new(Arc::clone(&shared));
        let (stream, mut now) = (open(&shared), clock::now());
        assert_eq!(drains.turn(now), NOTHING, "nothing goes on");
        let id: EndpointId = stream.endpoint().id;
        stream.route.service.operate(&id, Operation::Drain).unwrap();
        while stream.drain().state() != DrainState::Leaving {
            now = now.after(drains.turn(now));
        }
        assert!(stream.drain().poll(&Context::from_waker(Waker::noop())).is_some());
        shared.streams.close(&stream, StreamEnd { kind: EndKind::Graceful, is_awaited: true }, now);
        let service = Arc::clone(&stream.route.service);
        assert_eq!(service.drain.reconnects().away(), 1);
        // Longer than `drain.returnWindow`: the client is lost, and that is counted.
        drains.turn(now.after(Duration::from_secs(3_600)));
        assert_eq!((service.drain.reconnects().away(), service.drain.open_streams()), (0, 0));
        assert_eq!(metric(&shared, "podpin_reconnects_total", "outcome=\"lost\""), 1.0);
    }

    #[test]
    fn a_service_that_a_reload_removed_is_followed_until_its_last_stream_has_left() {
        let shared = fixture::started(&fixture::config(TWO));
        let mut drains = Drains::new(Arc::clone(&shared));
        let (stream, mut now) = (open(&shared), clock::now());
        let before = shared.snapshot();
        let other = fixture::started(&fixture::config("{c: {discovery: {static: []}}}"));
        let next = ConfigSnapshot {
            table: Arc::clone(&other.snapshot().table),
            listener_tables: Arc::new([]),
            services: before.services.iter().filter(|service| &*service.name == "b").cloned().collect(),
            routes: Arc::new([]),
            ..(*before).clone()
        };
        before.withdraw_routes_missing_in(&next);
        shared.replace(Arc::new(next));
        drop(before);
        while stream.drain().state() != DrainState::Leaving {
            now = now.after(drains.turn(now));
        }
        assert_eq!(drains.services.len(), 2);
        shared.streams.close(&stream, StreamEnd { kind: EndKind::Graceful, is_awaited: false }, now);
        drop(stream);
        (0..3).for_each(|_| now = now.after(drains.turn(now)));
        let left: Vec<&str> = drains.services.iter().map(|drain| &*drain.service.name).collect();
        assert_eq!(left, ["b"]);
        // And one that a reload brings is followed from its turn on.
        shared.replace(other.snapshot());
        drains.turn(now);
        assert!(drains.services.iter().any(|drain| &*drain.service.name == "c"));
    }

    #[test]
    fn disconnects_beyond_the_budget_are_counted() {
        let shared = fixture::started(&fixture::config(TWO));
        let service = Arc::clone(&shared.snapshot().services[0]);
        note(&service, &Fact::BudgetExceeded { streams: 3 });
        note(&service, &Fact::ClientsLost { clients: 2 });
        assert_eq!(metric(&shared, "podpin_disconnect_budget_exceeded_total", "service=\"a\""), 3.0);
        assert_eq!(metric(&shared, "podpin_reconnects_total", "outcome=\"lost\""), 2.0);
    }
}
