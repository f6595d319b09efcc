//! Runs the discovery of each service: what it says goes to the one writer of that service's endpoints.

use std::path::PathBuf;
use std::sync::Arc;

use podpin_config::{Config, Discovery};
use podpin_discovery::{
    FileEvent, FileSource, KubeError, KubeEvent, KubeService, KubeSettings, ReadError, static_endpoints,
};
use podpin_endpoints::{Observed, Update};

use crate::error::StartError;
use crate::watchers::Followers;
use podpin_proxy::balance::service::{ServiceState, TableWriter};
use podpin_proxy::clock;
use podpin_proxy::telemetry::labels::{DiscoveryError, RelistReason};

/// What a source said when it was read first.
pub(crate) enum First {
    Static(Update),
    /// The error is one to wait out.
    File(FileSource, PathBuf, Result<Vec<Observed>, ReadError>),
    /// It is not waited for here.
    Cluster,
}

/// Reads a source once, so that a good start is ready at once and a garbled file is refused at once.
///
/// # Errors
/// [`StartError::Endpoints`] when a file is there and cannot be understood. A missing file is waited for.
pub(crate) fn read(discovery: &Discovery) -> Result<First, StartError> {
    match discovery {
        Discovery::Static(endpoints) => Ok(First::Static(static_endpoints(endpoints))),
        Discovery::File(path) => {
            let source = FileSource::new(path.clone());
            match source.read() {
                Err(error @ ReadError::Garbled(_)) => Err(StartError::Endpoints(error.to_string())),
                list => Ok(First::File(source, path.clone(), list)),
            }
        }
        Discovery::Kubernetes(_) => Ok(First::Cluster),
    }
}

/// Puts what was read in force, and follows what can change. The cluster is followed for all services together.
pub(crate) fn begin(service: &Arc<ServiceState>, first: First, followers: &mut Followers) {
    let writer = TableWriter::new(Arc::clone(service));
    match first {
        First::Static(update) => apply(&writer, update),
        First::File(source, path, list) => {
            match list {
                Ok(observed) => replace(&writer, observed),
                Err(error) => unreadable(&writer, &error),
            }
            followers.follow_file(writer, source, path);
        }
        First::Cluster => {}
    }
}

/// Refuses an endpoints file that is there and cannot be understood.
///
/// # Errors
/// [`StartError::Endpoints`].
pub(crate) fn verify(discovery: &Discovery) -> Result<(), StartError> {
    read(discovery).map(drop)
}

/// Follows a file for as long as the process runs.
pub(crate) async fn follow_file(writer: TableWriter, source: FileSource) {
    source
        .watch(move |event| match event {
            FileEvent::Endpoints(observed) => replace(&writer, observed),
            FileEvent::Garbled(error) => {
                let service = writer.service();
                service.metrics.discovery_errors.inc(DiscoveryError::Garbled);
                service.metrics.discovery_connected.set(0);
                service.discovery_failed(format!("endpoints file not understood: {error}").into());
                tracing::error!(service = %service.name, %error, "endpoints file not understood: {}", kept(service));
            }
            FileEvent::Missing => {
                let service = writer.service();
                service.metrics.discovery_errors.inc(DiscoveryError::Missing);
                service.metrics.discovery_connected.set(0);
                service.discovery_failed("endpoints file is missing".into());
                tracing::warn!(service = %service.name, "endpoints file is missing: {}", kept(service));
            }
        })
        .await;
}

/// Returns the words for the endpoints of a service whose file cannot be read.
fn kept(service: &ServiceState) -> &'static str {
    if service.view().snapshot.first_list_seen() {
        "the last good list is kept"
    } else {
        "no endpoints are known yet"
    }
}

/// Whether any service is in the cluster.
pub(crate) fn asks_cluster(config: &Config) -> bool {
    config.services.iter().any(|service| matches!(service.discovery, Discovery::Kubernetes(_)))
}

/// What the way to the cluster is made of now, in files that the configuration names or leaves to be found; `None`: no
/// service is there.
///
/// # Errors
/// [`StartError::Cluster`] when they cannot be understood.
pub(crate) async fn digest_of_way(config: &Config) -> Result<Option<u64>, StartError> {
    if !asks_cluster(config) {
        return Ok(None);
    }
    let digest = podpin_discovery::digest(&KubeSettings::from(&config.kubernetes)).await;
    digest.map(Some).map_err(|error| StartError::Cluster(error.to_string()))
}

/// Refuses a configuration that needs a cluster where there is no way to one.
///
/// # Errors
/// [`StartError::Cluster`].
pub(crate) fn verify_cluster(config: &Config) -> Result<(), StartError> {
    if !asks_cluster(config) {
        return Ok(());
    }
    let settings = KubeSettings::from(&config.kubernetes);
    // On a thread of its own: whoever starts or reloads the proxy is in an event loop already.
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

/// Follows the EndpointSlices of all services of the cluster for as long as the process runs.
///
/// # Errors
/// When there is no cluster to follow: that is the operator's to mend.
pub(crate) async fn follow_cluster(
    settings: KubeSettings,
    services: Vec<(TableWriter, KubeService)>,
) -> Result<std::convert::Infallible, KubeError> {
    let settings = KubeSettings { moment_of: clock::moment_of, ..settings };
    let (writers, services): (Vec<_>, Vec<_>) = services.into_iter().unzip();
    podpin_discovery::follow(settings, services, move |event| hear(&writers, event)).await
}

fn hear(writers: &[TableWriter], event: KubeEvent) {
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

fn replace(writer: &TableWriter, observed: Vec<Observed>) {
    apply(writer, Update::Replace(observed));
}

fn apply(writer: &TableWriter, update: Update) {
    writer.service().metrics.discovery_connected.set(1);
    writer.apply(update);
}

fn unreadable(writer: &TableWriter, error: &ReadError) {
    let service = writer.service();
    service.metrics.discovery_errors.inc(DiscoveryError::Missing);
    service.discovery_failed(error.to_string().into());
    tracing::warn!(service = %service.name, %error, "not ready: waiting for the endpoints file");
}
