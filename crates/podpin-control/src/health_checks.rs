//! `health.active`: asks every ready endpoint of a service again and again, with the checks of `pingora-load-balancing`
//! and one of our own, a connection with its TLS handshake.
//!
//! In a cluster the kubelet's readiness is the authority; this is for endpoints from files, and for a node that died while
//! its EndpointSlices still say ready. A verdict only puts an endpoint aside, as ejection does: picking never leaves out
//! more than half, and streams in flight are not touched.

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
use podpin_proxy::net::tls::PodTls;

/// Checks of one service under way at a time: the endpoints of a large service are checked in batches, not in one burst of connections.
const CHECKS_MAX: usize = 64;

/// The last checks of an endpoint that had the same outcome.
#[derive(Clone, Copy, Debug, Default)]
struct Streak {
    /// Number of checks.
    length: u32,
    good: bool,
}

/// Checks for as long as the process runs.
pub(crate) async fn run(service: Arc<ServiceState>, settings: ActiveHealth) {
    let Some(check) = check(&settings, service.tls.as_ref()).map(Arc::from) else { return };
    let mut rounds = tokio::time::interval(settings.interval);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut streaks: HashMap<EndpointId, Streak> = HashMap::new();
    loop {
        rounds.tick().await;
        let view = service.view().snapshot.clone();
        let ready = view.endpoints().iter().filter(|endpoint| endpoint.phase == Phase::Ready);
        let endpoints: Vec<Arc<Endpoint>> = ready.cloned().collect();
        streaks.retain(|id, _| view.get(id).is_some());
        for batch in endpoints.chunks(CHECKS_MAX) {
            for (endpoint, good) in ask(&check, batch, settings.timeout).await {
                let streak = streaks.entry(endpoint.id).or_default();
                *streak = Streak {
                    length: if streak.good == good { streak.length.saturating_add(1) } else { 1 },
                    good,
                };
                record(&service, &endpoint, *streak, &settings);
            }
        }
    }
}

type Check = Arc<dyn HealthCheck + Send + Sync>;

async fn ask(check: &Check, batch: &[Arc<Endpoint>], limit: Duration) -> Vec<(Arc<Endpoint>, bool)> {
    let mut asked = JoinSet::new();
    for endpoint in batch {
        let (check, endpoint) = (Arc::clone(check), Arc::clone(endpoint));
        asked.spawn(async move {
            let backend =
                Backend { addr: PingoraAddress::Inet(endpoint.address), weight: 1, ext: Extensions::new() };
            // The limit holds for the whole check: a body that never ends would pass its own read timeout for ever.
            let checked = tokio::time::timeout(limit, check.check(&backend)).await;
            let good = matches!(checked, Ok(Ok(())));
            if let Ok(Err(error)) = checked {
                tracing::debug!(endpoint = %endpoint.name, %error, "a check failed");
            }
            (endpoint, good)
        });
    }
    asked.join_all().await
}

fn record(service: &ServiceState, endpoint: &Endpoint, streak: Streak, settings: &ActiveHealth) {
    let needed = if streak.good { settings.successes } else { settings.failures };
    if streak.length < needed || !endpoint.load.checked(streak.good) {
        return;
    }
    if streak.good {
        tracing::info!(service = %service.name, endpoint = %endpoint.name, "passes its checks again");
    } else {
        service.metrics.ejections.inc();
        tracing::warn!(service = %service.name, endpoint = %endpoint.name, "ejected: it fails its checks");
    }
    service.queue.wake();
}

/// A connection is accepted, and the pod at its other end is who it should be: as for the requests that will follow.
///
/// Not Pingora's: it would show the pod no certificate of ours.
struct TlsCheck(Arc<PodTls>);

#[async_trait]
impl HealthCheck for TlsCheck {
    async fn check(&self, target: &Backend) -> pingora_core::Result<()> {
        let PingoraAddress::Inet(address) = target.addr else {
            return Error::e_explain(ErrorType::ConnectError, "no address of the internet");
        };
        let shaken = async { self.0.connect(TcpStream::connect(address).await?, address).await };
        let connected = shaken.await;
        let connected = connected.or_err(ErrorType::ConnectError, "a check")?;
        // Else the pod's log would fill with connections that were cut.
        connected.close();
        Ok(())
    }

    fn health_threshold(&self, _success: bool) -> usize {
        // Counted here, in `Streak`.
        1
    }
}

fn check(settings: &ActiveHealth, tls: Option<&Arc<PodTls>>) -> Option<Box<dyn HealthCheck + Send + Sync>> {
    match (&settings.probe, tls) {
        (Probe::Tcp, Some(tls)) => Some(Box::new(TlsCheck(Arc::clone(tls)))),
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
            match path.parse() {
                Ok(target) => check.req.set_uri(target),
                Err(error) => {
                    tracing::error!(%error, path, "health checks are off: this is no path");
                    return None;
                }
            }
            check.validator = Some(Box::new(|head| {
                let fine = (200..400).contains(&head.status.as_u16());
                if fine { Ok(()) } else { Err(Error::new(ErrorType::HTTPStatus(head.status.as_u16()))) }
            }));
            Some(Box::new(check))
        }
    }
}
