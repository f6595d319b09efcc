//! `health.active`: checks every ready endpoint of a service at an interval, with the checks of `pingora-load-balancing` and
//! two of our own, a connection with its TLS handshake and a call of gRPC.
//!
//! In a cluster the kubelet's readiness is the authority; this is for endpoints from files, and for a node that died while
//! its EndpointSlices still say ready. A failed check only ejects an endpoint for a while: picking never leaves out more
//! than half, and streams in flight go on elsewhere only where they can be handed over and another endpoint takes them.

mod grpc;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddress;
use pingora_core::{Error, ErrorType, OrErr};
use pingora_load_balancing::health_check::{HealthCheck, HttpHealthCheck, TcpHealthCheck};
use pingora_load_balancing::{Backend, Extensions};
use podpin_config::{ActiveHealth, Probe};
use podpin_endpoints::{Endpoint, EndpointId, Phase};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use podpin_proxy::balance::service::ServiceState;
use podpin_proxy::net::tls::UpstreamTls;

use crate::health_checks::grpc::GrpcCheck;

/// Checks of one service under way at a time: thousands of endpoints are checked in batches, not in one burst of connections.
const BATCH_MAX: usize = 64;

/// The result of one check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Health {
    #[default]
    Unhealthy,
    Healthy,
}

/// The last checks of an endpoint that had the same result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Streak {
    health: Health,
    length: u32,
}

impl Streak {
    /// Adds a check.
    fn add(&mut self, health: Health) {
        let length = if self.health == health { self.length.saturating_add(1) } else { 1 };
        *self = Streak { health, length };
    }

    /// Returns whether the streak is long enough to count.
    fn is_decisive(self, settings: &ActiveHealth) -> bool {
        match self.health {
            Health::Healthy => self.length >= settings.successes,
            Health::Unhealthy => self.length >= settings.failures,
        }
    }
}

/// Checks the ready endpoints of a service for as long as the process runs.
pub(crate) async fn run(service: Arc<ServiceState>, settings: ActiveHealth) {
    let Some(check) = check(&settings, &service).map(Arc::from) else { return };
    let mut rounds = tokio::time::interval(settings.interval);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut streaks: HashMap<EndpointId, Streak> = HashMap::new();
    loop {
        rounds.tick().await;
        let snapshot = service.view().snapshot.clone();
        let ready = snapshot.endpoints().iter().filter(|endpoint| endpoint.phase == Phase::Ready);
        let endpoints: Vec<Arc<Endpoint>> = ready.cloned().collect();
        streaks.retain(|id, _| snapshot.get(id).is_some());
        for batch in endpoints.chunks(BATCH_MAX) {
            for Checked { endpoint, health, failure } in check_batch(&check, batch, settings.timeout).await {
                let streak = streaks.entry(endpoint.id).or_default();
                streak.add(health);
                if streak.is_decisive(&settings) {
                    record(&service, &endpoint, health, &failure);
                }
            }
        }
    }
}

/// Takes back what checks have found: without checks, no endpoint would ever be found healthy again.
pub(crate) fn forget(service: &ServiceState) {
    for endpoint in service.view().snapshot.endpoints() {
        let _was_ejected = endpoint.load.checked(true);
    }
}

type Check = Arc<dyn HealthCheck + Send + Sync>;

/// An endpoint with the result of its check.
struct Checked {
    endpoint: Arc<Endpoint>,
    health: Health,
    /// The failure in words; empty if the check passed.
    failure: String,
}

async fn check_batch(check: &Check, batch: &[Arc<Endpoint>], limit: Duration) -> Vec<Checked> {
    let mut checks = JoinSet::new();
    for endpoint in batch {
        let (check, endpoint) = (Arc::clone(check), Arc::clone(endpoint));
        checks.spawn(async move {
            let backend =
                Backend { addr: PingoraAddress::Inet(endpoint.address), weight: 1, ext: Extensions::new() };
            // The limit holds for the whole check: a body that never ends would pass its own read timeout for ever.
            let (health, failure) = match tokio::time::timeout(limit, check.check(&backend)).await {
                Ok(Ok(())) => (Health::Healthy, String::new()),
                Ok(Err(error)) => {
                    tracing::debug!(endpoint = %endpoint.name, %error, "health check failed");
                    (Health::Unhealthy, error.to_string())
                }
                Err(_) => (Health::Unhealthy, "no answer in time".to_owned()),
            };
            Checked { endpoint, health, failure }
        });
    }
    checks.join_all().await
}

/// Records a decisive result; logs and counts it if it changes anything.
fn record(service: &ServiceState, endpoint: &Endpoint, health: Health, failure: &str) {
    let has_handover = service.configuration.drain.handover.moves_streams();
    // Where too many fail to be left out, the fault is rather not theirs.
    if health == Health::Unhealthy
        && has_handover
        && service.view().snapshot.honours_ejection(podpin_proxy::clock::now())
    {
        service.drain.report_failing(endpoint.id);
    }
    if !endpoint.load.checked(health == Health::Healthy) {
        return;
    }
    match health {
        Health::Healthy => {
            tracing::info!(service = %service.name, endpoint = %endpoint.name, "passes its health checks again");
        }
        Health::Unhealthy => {
            service.endpoint_ejected();
            tracing::warn!(
                service = %service.name,
                endpoint = %endpoint.name,
                address = %endpoint.address,
                reason = failure,
                "ejected: it fails its health checks"
            );
        }
    }
    service.queue.wake();
}

/// A connection with its TLS handshake, verified as for the requests that will follow.
///
/// Pingora's TCP check would not show our certificate.
struct TlsCheck {
    tls: Arc<UpstreamTls>,
    service: Arc<ServiceState>,
}

#[async_trait]
impl HealthCheck for TlsCheck {
    async fn check(&self, target: &Backend) -> pingora_core::Result<()> {
        let PingoraAddress::Inet(address) = target.addr else {
            return Error::e_explain(ErrorType::ConnectError, "not an IP address");
        };
        let tcp = TcpStream::connect(address).await.or_err(ErrorType::ConnectError, "health check")?;
        let connected = self.tls.connect(tcp, address).await;
        let connected = connected
            .inspect_err(|failure| self.service.metrics.tls_failures.inc(failure.reason))
            .or_err(ErrorType::TLSHandshakeFailure, "health check")?;
        // Without a proper close, the endpoint's log would fill with connections that were cut.
        connected.close();
        Ok(())
    }

    fn health_threshold(&self, _success: bool) -> usize {
        // Counted by `Streak`.
        1
    }
}

fn check(settings: &ActiveHealth, service: &Arc<ServiceState>) -> Option<Box<dyn HealthCheck + Send + Sync>> {
    match (&settings.probe, service.tls.as_ref()) {
        (Probe::Tcp, Some(tls)) => {
            Some(Box::new(TlsCheck { tls: Arc::clone(tls), service: Arc::clone(service) }))
        }
        (Probe::Tcp, None) => {
            let mut check = TcpHealthCheck::new();
            check.peer_template.options.connection_timeout = Some(settings.timeout);
            Some(check)
        }
        (Probe::Http { path }, tls) => {
            let mut check = HttpHealthCheck::<()>::new("podpin", tls.is_some());
            if let Some(tls) = tls {
                tls.apply(&mut check.peer_template, "podpin".to_owned());
            }
            check.peer_template.options.connection_timeout = Some(settings.timeout);
            check.peer_template.options.read_timeout = Some(settings.timeout);
            if service.configuration.protocol.is_http2() {
                check.peer_template.options.set_http_version(2, 2);
            }
            match path.parse() {
                Ok(target) => check.req.set_uri(target),
                Err(error) => {
                    tracing::error!(%error, path, "health checks are off: the path is not a URI path");
                    return None;
                }
            }
            check.validator = Some(Box::new(|head| {
                let fine = (200..400).contains(&head.status.as_u16());
                if fine { Ok(()) } else { Err(Error::new(ErrorType::HTTPStatus(head.status.as_u16()))) }
            }));
            Some(Box::new(check))
        }
        (Probe::Grpc { service: name }, _) => Some(Box::new(GrpcCheck::new(Arc::clone(service), name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn only_a_streak_that_is_long_enough_ejects_and_readmits() {
        let config = fixture::config(
            "{a: {discovery: {static: [{name: p, address: \"127.0.0.1:9\"}]}, \
             health: {active: {type: tcp, failures: 2, successes: 3}}}}",
        );
        let settings = config.services[0].health.active.clone().unwrap();
        let mut streak = Streak::default();
        let decisive =
            [Health::Unhealthy, Health::Unhealthy, Health::Healthy, Health::Healthy, Health::Healthy].map(
                |health| {
                    streak.add(health);
                    streak.is_decisive(&settings)
                },
            );
        assert_eq!(decisive, [false, true, false, false, true]);
    }

    #[test]
    fn a_result_is_counted_when_it_changes_and_forgotten_with_the_checks() {
        let shared = fixture::started(&fixture::config(
            "{a: {discovery: {static: [{name: p, address: \"127.0.0.1:9\"}]}}}",
        ));
        let service = Arc::clone(&shared.snapshot().services[0]);
        let endpoint = Arc::clone(&service.view().snapshot.endpoints()[0]);
        record(&service, &endpoint, Health::Unhealthy, "x");
        record(&service, &endpoint, Health::Unhealthy, "x");
        let now = podpin_proxy::clock::now();
        assert!(endpoint.load.is_ejected(now) && service.metrics.ejections.get() == 1);
        forget(&service);
        assert!(!endpoint.load.is_ejected(now));
    }
}
