//! The Kubernetes cluster that services are discovered in: how it is reached, and what its events do to a service.

use std::convert::Infallible;
use std::time::Duration;

use podpin_config::{Config, Discovery, Kubernetes};
use podpin_discovery::{FailureKind, KubeError, KubeEvent, KubeService, KubeSettings, Mismatch, Survey};
use podpin_proxy::balance::service::TableWriter;
use podpin_proxy::balance::source::SourceMismatch;
use podpin_proxy::clock;
use podpin_proxy::telemetry::labels::{DiscoveryError, MismatchReason, RelistReason};

use crate::error::{ReloadError, StartError};

/// The longest look at a cluster by `podpin check --live`; a list and the head of a watch take two seconds of a loaded server.
const SURVEY_MAX: Duration = Duration::from_secs(15);

/// How the cluster is reached: the settings, and the contents of the files behind them.
#[derive(Clone, PartialEq)]
pub(crate) struct ClusterAccess {
    settings: Kubernetes,
    /// A digest of kubeconfig and service account; `None` if no service is in a cluster.
    digest: Option<u64>,
}

impl ClusterAccess {
    /// Reads how the cluster is reached, for a start that has verified it already: errors are left to the watch.
    pub(crate) async fn verified(config: &Config) -> ClusterAccess {
        let read = ClusterAccess::read(config).await;
        read.unwrap_or_else(|_| ClusterAccess { settings: config.kubernetes.clone(), digest: None })
    }

    /// Reads how the cluster is reached, and verifies it unless it is the same as `before`.
    ///
    /// # Errors
    /// [`StartError::Cluster`] if it cannot be reached by the configuration.
    pub(crate) async fn checked(
        config: &Config,
        before: Option<&ClusterAccess>,
    ) -> Result<ClusterAccess, ReloadError> {
        let access = ClusterAccess::read(config).await?;
        if before != Some(&access) && access.digest.is_some() {
            let checked = podpin_discovery::check(&KubeSettings::from(&config.kubernetes)).await;
            checked.map_err(|error| StartError::Cluster(error.to_string()))?;
        }
        Ok(access)
    }

    async fn read(config: &Config) -> Result<ClusterAccess, StartError> {
        let settings = config.kubernetes.clone();
        if !is_used(config) {
            return Ok(ClusterAccess { settings, digest: None });
        }
        let digest = podpin_discovery::digest(&KubeSettings::from(&settings)).await;
        let digest = digest.map_err(|error| StartError::Cluster(error.to_string()))?;
        Ok(ClusterAccess { settings, digest: Some(digest) })
    }
}

/// A service of the cluster with the writer of its endpoints.
pub(crate) struct ClusterService {
    pub(crate) writer: TableWriter,
    pub(crate) source: KubeService,
}

/// Returns whether any service is discovered in the cluster.
fn is_used(config: &Config) -> bool {
    config.services.iter().any(|service| matches!(service.discovery, Discovery::Kubernetes(_)))
}

/// Refuses a configuration that needs a cluster which it gives no way to.
///
/// # Errors
/// [`StartError::Cluster`].
pub(crate) fn verify(config: &Config) -> Result<(), StartError> {
    match way_to_cluster(config)? {
        Ok(()) => Ok(()),
        Err(error) => Err(StartError::Cluster(error.to_string())),
    }
}

/// Refuses a configuration that names a way to a cluster which cannot be used; a machine that has none at all is permitted.
///
/// # Errors
/// [`StartError::Cluster`].
pub(crate) fn verify_named(config: &Config) -> Result<(), StartError> {
    match way_to_cluster(config)? {
        Ok(()) | Err(KubeError::NoCluster { .. }) => Ok(()),
        Err(error) => Err(StartError::Cluster(error.to_string())),
    }
}

/// Looks for the way to the cluster, if it is needed.
fn way_to_cluster(config: &Config) -> Result<Result<(), KubeError>, StartError> {
    if !is_used(config) {
        return Ok(Ok(()));
    }
    let settings = KubeSettings::from(&config.kubernetes);
    apart(podpin_discovery::check(&settings))
}

/// Looks at the services that are discovered in the cluster, once; each with its name in the configuration.
///
/// # Errors
/// [`StartError::Cluster`].
pub(crate) fn survey(config: &Config) -> Result<Vec<(String, Survey)>, StartError> {
    let named = config.services.iter().filter_map(|service| match &service.discovery {
        Discovery::Kubernetes(source) => Some((service.name.clone(), KubeService::from(source))),
        Discovery::Static(_) | Discovery::File(_) | Discovery::Dns(_) => None,
    });
    let (names, services): (Vec<String>, Vec<KubeService>) = named.unzip();
    let settings = KubeSettings::from(&config.kubernetes);
    let surveys = apart(podpin_discovery::survey(&settings, &services, SURVEY_MAX))?;
    let surveys = surveys.map_err(|error| StartError::Cluster(error.to_string()))?;
    Ok(names.into_iter().zip(surveys).collect())
}

/// Waits for a future on a thread of its own: the caller may be in an event loop already.
fn apart<T: Send>(future: impl Future<Output = T> + Send) -> Result<T, StartError> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(future))
    };
    match std::thread::scope(|scope| scope.spawn(run).join()) {
        Ok(outcome) => outcome,
        Err(_) => Err(StartError::Cluster("the Kubernetes client cannot be set up".to_owned())),
    }
}

/// Follows the endpoints of all services of the cluster for as long as the process runs.
pub(crate) async fn follow(access: ClusterAccess, services: Vec<ClusterService>) {
    let Err(error) = watch(&access, services).await;
    tracing::error!(%error, "the endpoints of the cluster cannot be watched");
}

async fn watch(access: &ClusterAccess, services: Vec<ClusterService>) -> Result<Infallible, KubeError> {
    let settings = KubeSettings { moment_of: clock::moment_of, ..KubeSettings::from(&access.settings) };
    let sources = services.iter().map(|service| service.source.clone()).collect();
    podpin_discovery::follow(settings, sources, move |event| apply(&services, event)).await
}

/// Applies an event to the service that it is about, by its number.
fn apply(services: &[ClusterService], event: KubeEvent) {
    let Some(service) = services.get(event.service()) else { return };
    let writer = &service.writer;
    let metrics = &writer.service().metrics;
    match event {
        KubeEvent::Endpoints { update, .. } => writer.apply(update),
        KubeEvent::Connected { connected, .. } => {
            metrics.discovery_connected.set(i64::from(connected));
            if connected {
                writer.service().source.recovered();
            }
        }
        KubeEvent::Failed { kind, words, .. } => {
            let reason = failure_label(kind);
            metrics.discovery_errors.inc(reason);
            writer.service().source.failed(reason, words);
        }
        KubeEvent::Judged { mismatch, keeps, .. } => service.judge(mismatch.as_ref(), keeps),
        KubeEvent::Heard { .. } => writer.heard(),
        KubeEvent::Relist { reason, .. } => metrics.discovery_relists.inc(relist_label(reason)),
        KubeEvent::Malformed { .. } => metrics.discovery_errors.inc(DiscoveryError::Malformed),
        KubeEvent::PodsFailed { .. } => metrics.discovery_errors.inc(DiscoveryError::Pods),
    }
}

impl ClusterService {
    /// Records, counts and logs a name that the cluster does not have, and that it has it again.
    fn judge(&self, mismatch: Option<&Mismatch>, keeps: bool) {
        let service = self.writer.service();
        let found = mismatch.map(|mismatch| SourceMismatch {
            reason: mismatch_label(mismatch),
            words: mismatch.words(&self.source).into(),
            keeps,
            since: clock::now(),
        });
        service.metrics.discovery_mismatch.set(found.as_ref().map(|found| found.reason));
        let before = service.source.settle(found.clone());
        match (before, found) {
            (Some(before), Some(found)) if before.words == found.words && before.keeps == found.keeps => {}
            (_, Some(found)) => {
                let state = if found.keeps { "the endpoints of before are kept" } else { "no endpoints" };
                tracing::warn!(service = %service.name, reason = %found.words, "{state}");
            }
            (Some(_), None) => {
                tracing::info!(service = %service.name, "the cluster has the Service and the port now");
            }
            (None, None) => {}
        }
    }
}

fn mismatch_label(mismatch: &Mismatch) -> MismatchReason {
    match mismatch {
        Mismatch::Service => MismatchReason::Service,
        Mismatch::Port { .. } => MismatchReason::Port,
        Mismatch::Family { .. } => MismatchReason::Family,
    }
}

fn failure_label(kind: FailureKind) -> DiscoveryError {
    match kind {
        FailureKind::Unreachable => DiscoveryError::Unreachable,
        FailureKind::Forbidden => DiscoveryError::Forbidden,
        FailureKind::Unauthorized => DiscoveryError::Unauthorized,
        FailureKind::Throttled => DiscoveryError::Throttled,
        FailureKind::Malformed => DiscoveryError::Malformed,
        FailureKind::Refused => DiscoveryError::Refused,
    }
}

fn relist_label(reason: podpin_discovery::RelistReason) -> RelistReason {
    use podpin_discovery::RelistReason as Reason;
    match reason {
        Reason::Start => RelistReason::Start,
        Reason::Expired => RelistReason::Expired,
        Reason::Error => RelistReason::Error,
        Reason::Periodic => RelistReason::Periodic,
        Reason::Malformed => RelistReason::Malformed,
        Reason::Confirm => RelistReason::Confirm,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use podpin_config::IpFamily;
    use podpin_discovery::{Known, PortRef};
    use podpin_endpoints::Update;
    use podpin_proxy::balance::service::ServiceState;

    use super::*;
    use crate::fixture;

    #[test]
    fn an_event_reaches_the_service_of_its_number_and_no_other() {
        let shared = fixture::shared("{a: {discovery: {static: []}}, b: {discovery: {static: []}}}");
        let services = Arc::clone(&shared.snapshot().services);
        let source = KubeService {
            namespace: None,
            service: "a".to_owned(),
            port: PortRef::Number(80),
            family: IpFamily::default(),
            pods: false,
            known: Known::OtherSource,
        };
        let follow = |service: &Arc<ServiceState>| ClusterService {
            writer: TableWriter::new(Arc::clone(service)),
            source: source.clone(),
        };
        let writers: Vec<_> = services.iter().map(follow).collect();
        let seen = || services.iter().map(|one| one.view().snapshot.first_list_seen()).collect::<Vec<_>>();
        apply(&writers, KubeEvent::Endpoints { service: 1, update: Update::Replace(Vec::new()) });
        assert_eq!(seen(), [false, true]);
        let failed = |words| KubeEvent::Failed { service: 0, kind: FailureKind::Forbidden, words };
        apply(&writers, failed(Some("403".into())));
        apply(&writers, failed(None));
        assert_eq!(services[0].source.failure().as_deref(), Some("403"));
        apply(&writers, KubeEvent::Connected { service: 0, connected: true });
        assert_eq!(services[0].source.failure(), None);
        let judged = |mismatch| KubeEvent::Judged { service: 0, mismatch, keeps: true };
        apply(&writers, judged(Some(Mismatch::Service)));
        assert!(services[0].source.keeps_others() && !services[1].source.is_settled());
        apply(&writers, KubeEvent::Heard { service: 7 });
        apply(&writers, KubeEvent::Relist { service: 0, reason: podpin_discovery::RelistReason::Confirm });
        let text = String::from_utf8(shared.metrics.render()).unwrap();
        for line in [
            "podpin_discovery_relists_total{reason=\"confirm\",service=\"a\"} 1",
            "podpin_discovery_errors_total{reason=\"forbidden\",service=\"a\"} 2",
            "podpin_discovery_mismatch{reason=\"service\",service=\"a\"} 1",
            "podpin_discovery_mismatch{reason=\"port\",service=\"a\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        apply(&writers, judged(None));
        let text = String::from_utf8(shared.metrics.render()).unwrap();
        assert!(text.contains("podpin_discovery_mismatch{reason=\"service\",service=\"a\"} 0"), "{text}");
    }

    #[test]
    fn a_configuration_without_a_cluster_needs_no_way_to_one() {
        let config = fixture::config("{a: {discovery: {static: []}}}");
        verify(&config).unwrap();
    }
}
