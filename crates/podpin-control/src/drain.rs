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
        Fact::TakenBack { endpoint } => {
            tracing::info!(service = name, endpoint = %endpoint.name, "the drain was taken back");
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
        returned = report.returned,
        lost = report.lost,
        gap_p50_seconds = seconds(report.gap_millis(500)),
        gap_p99_seconds = seconds(report.gap_millis(990)),
        took_seconds = took.as_secs_f64(),
        "drained"
    );
}
