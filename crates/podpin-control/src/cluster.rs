//! The Kubernetes cluster that services are discovered in: how it is reached, and what its events do to a service.

use std::convert::Infallible;

use podpin_config::{Config, Discovery, Kubernetes};
use podpin_discovery::{KubeError, KubeEvent, KubeService, KubeSettings};
use podpin_proxy::balance::service::TableWriter;
use podpin_proxy::clock;
use podpin_proxy::telemetry::labels::{DiscoveryError, RelistReason};

use crate::error::{ReloadError, StartError};

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
    if !is_used(config) {
        return Ok(());
    }
    let settings = KubeSettings::from(&config.kubernetes);
    // On a thread of its own: the caller may be in an event loop already.
    let check = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let checked = runtime.block_on(podpin_discovery::check(&settings));
        checked.map_err(|error| StartError::Cluster(error.to_string()))
    };
    match std::thread::scope(|scope| scope.spawn(check).join()) {
        Ok(checked) => checked,
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
    let (mut writers, mut sources) = (Vec::new(), Vec::new());
    for ClusterService { writer, source } in services {
        writers.push(writer);
        sources.push(source);
    }
    podpin_discovery::follow(settings, sources, move |event| apply(&writers, event)).await
}

/// Applies an event to the service that it is about, by its number.
fn apply(writers: &[TableWriter], event: KubeEvent) {
    let (KubeEvent::Endpoints { service, .. }
    | KubeEvent::Connected { service, .. }
    | KubeEvent::Failed { service, .. }
    | KubeEvent::Heard { service }
    | KubeEvent::Relist { service, .. }
    | KubeEvent::Malformed { service }
    | KubeEvent::PodsFailed { service }) = &event;
    let Some(writer) = writers.get(*service) else { return };
    let metrics = &writer.service().metrics;
    match event {
        KubeEvent::Endpoints { update, .. } => writer.apply(update),
        KubeEvent::Connected { connected, .. } => metrics.discovery_connected.set(i64::from(connected)),
        KubeEvent::Failed { reason, .. } => writer.service().discovery_failed(reason),
        KubeEvent::Heard { .. } => writer.heard(),
        KubeEvent::Relist { reason, .. } => metrics.discovery_relists.inc(relist_label(reason)),
        KubeEvent::Malformed { .. } => metrics.discovery_errors.inc(DiscoveryError::Malformed),
        KubeEvent::PodsFailed { .. } => metrics.discovery_errors.inc(DiscoveryError::Pods),
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

    use podpin_endpoints::Update;

    use super::*;
    use crate::fixture;

    #[test]
    fn an_event_reaches_the_service_of_its_number_and_no_other() {
        let shared = fixture::shared("{a: {discovery: {static: []}}, b: {discovery: {static: []}}}");
        let services = Arc::clone(&shared.snapshot().services);
        let writers: Vec<_> = services.iter().map(|one| TableWriter::new(Arc::clone(one))).collect();
        let seen = || services.iter().map(|one| one.view().snapshot.first_list_seen()).collect::<Vec<_>>();
        apply(&writers, KubeEvent::Endpoints { service: 1, update: Update::Replace(Vec::new()) });
        assert_eq!(seen(), [false, true]);
        apply(&writers, KubeEvent::Failed { service: 0, reason: "403".into() });
        assert_eq!(services[0].discovery_failure().as_deref(), Some("403"));
        apply(&writers, KubeEvent::Heard { service: 7 });
        apply(&writers, KubeEvent::Relist { service: 0, reason: podpin_discovery::RelistReason::Confirm });
        let text = String::from_utf8(shared.metrics.render()).unwrap();
        assert!(
            text.contains("podpin_discovery_relists_total{reason=\"confirm\",service=\"a\"} 1"),
            "{text}"
        );
    }

    #[test]
    fn a_configuration_without_a_cluster_needs_no_way_to_one() {
        let config = fixture::config("{a: {discovery: {static: []}}}");
        verify(&config).unwrap();
    }
}
