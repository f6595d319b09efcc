//! The tasks of the control thread that follow what changes outside: files, the cluster, the health of endpoints.
//!
//! A reload ends those whose subject is gone or new and starts others; the rest go on as they are, so that a reload which
//! changes a limit does not list a cluster again.

use std::path::PathBuf;
use std::sync::Arc;

use podpin_config::{AffinityKeys, Kubernetes, KubernetesService};
use podpin_discovery::{FileSource, KubeService, KubeSettings};
use tokio::task::{AbortHandle, JoinSet};

use crate::certificates;
use crate::health_checks;
use crate::keys;
use crate::sources;
use podpin_proxy::balance::service::{ServiceState, TableWriter};
use podpin_proxy::net::tls::ServerTls;
use podpin_proxy::routing::snapshot::ConfigSnapshot;
use podpin_proxy::shared::Shared;

/// What is followed now.
#[derive(Default)]
pub(crate) struct Followers {
    tasks: JoinSet<()>,
    keys: Option<Task<AffinityKeys>>,
    certificates: Vec<Task<Arc<ServerTls>>>,
    files: Vec<Task<(Arc<str>, PathBuf)>>,
    cluster: Option<Task<Cluster>>,
    checks: Vec<Task<Arc<ServiceState>>>,
}

/// A task, and what it follows.
struct Task<S> {
    subject: S,
    handle: AbortHandle,
}

/// How the cluster is reached: by what the configuration says, and by what was in the files behind it.
#[derive(Clone, PartialEq)]
pub(crate) struct Way {
    pub(crate) said: Kubernetes,
    pub(crate) digest: Option<u64>,
}

/// What of the cluster is followed, by which services.
#[derive(Clone, PartialEq)]
struct Cluster {
    way: Way,
    services: Vec<(Arc<str>, KubernetesService)>,
}

impl Followers {
    /// Follows the keys that the configuration names, if they are in files.
    pub(crate) fn follow_keys(&mut self, shared: &Arc<Shared>, keys: &AffinityKeys) {
        if self.keys.as_ref().is_some_and(|task| task.subject == *keys) {
            return;
        }
        self.keys.take().iter().for_each(Task::end);
        let handle = self.tasks.spawn(keys::follow(Arc::clone(shared), keys.clone()));
        self.keys = Some(Task { subject: keys.clone(), handle });
    }

    /// Follows the certificates of these listeners and no others.
    pub(crate) fn follow_certificates(&mut self, shared: &Arc<Shared>, listeners: &[Arc<ServerTls>]) {
        let is_current = |tls: &Arc<ServerTls>| listeners.iter().any(|one| Arc::ptr_eq(one, tls));
        self.certificates.retain(|task| is_current(&task.subject) || task.ended());
        for one in listeners {
            if !self.certificates.iter().any(|task| Arc::ptr_eq(&task.subject, one)) {
                let handle = self.tasks.spawn(certificates::follow(Arc::clone(shared), Arc::clone(one)));
                self.certificates.push(Task { subject: Arc::clone(one), handle });
            }
        }
    }

    /// Ends to follow files that are no longer any service's.
    pub(crate) fn forget_files(&mut self, snapshot: &ConfigSnapshot) {
        let is_current = |(name, path): &(Arc<str>, PathBuf)| {
            snapshot.service(name).is_some_and(|service| service.endpoints_file() == Some(path))
        };
        self.files.retain(|task| is_current(&task.subject) || task.ended());
    }

    /// Follows an endpoints file.
    pub(crate) fn follow_file(&mut self, writer: TableWriter, source: FileSource, path: PathBuf) {
        let subject = (Arc::clone(&writer.service().name), path);
        let handle = self.tasks.spawn(sources::follow_file(writer, source));
        self.files.push(Task { subject, handle });
    }

    /// Whether the cluster is followed in this way already.
    pub(crate) fn reaches_by(&self, way: &Way) -> bool {
        self.cluster.as_ref().is_some_and(|task| task.subject.way == *way)
    }

    /// Follows the cluster for the services of the snapshot, anew if they or the way to it are others than before.
    pub(crate) fn follow_cluster(&mut self, way: &Way, snapshot: &ConfigSnapshot) {
        let services = snapshot.services.iter();
        let of_cluster = services.filter_map(|service| Some((service, service.cluster_source()?.clone())));
        let of_cluster: Vec<_> = of_cluster.collect();
        let names = of_cluster.iter().map(|(service, of)| (Arc::clone(&service.name), of.clone()));
        let wanted = Cluster { way: way.clone(), services: names.collect() };
        let runs = |task: &Task<Cluster>| task.subject == wanted && !task.handle.is_finished();
        if self.cluster.as_ref().is_some_and(runs) {
            return;
        }
        self.cluster.take().iter().for_each(Task::end);
        if of_cluster.is_empty() {
            return;
        }
        let writers = of_cluster
            .iter()
            .map(|(service, of)| (TableWriter::new(Arc::clone(service)), known_service(service, of)));
        let handle = self.tasks.spawn(follow_cluster(KubeSettings::from(&way.said), writers.collect()));
        self.cluster = Some(Task { subject: wanted, handle });
    }

    /// Checks the endpoints of the services that ask for it.
    pub(crate) fn check_health(&mut self, snapshot: &ConfigSnapshot) {
        let is_current =
            |state: &Arc<ServiceState>| snapshot.services.iter().any(|one| Arc::ptr_eq(one, state));
        let (current, others) =
            std::mem::take(&mut self.checks).into_iter().partition(|task| is_current(&task.subject));
        self.checks = current;
        for task in &others {
            task.end();
            let next = snapshot.counterpart(&task.subject);
            if next.is_none_or(|next| next.configuration.health.active.is_none()) {
                // Nobody would ever find them healthy again.
                for endpoint in task.subject.view().snapshot.endpoints() {
                    let _was_ejected = endpoint.load.checked(true);
                }
            }
        }
        for service in snapshot.services.iter() {
            let Some(settings) = &service.configuration.health.active else { continue };
            if !self.checks.iter().any(|task| Arc::ptr_eq(&task.subject, service)) {
                let handle = self.tasks.spawn(health_checks::run(Arc::clone(service), settings.clone()));
                self.checks.push(Task { subject: Arc::clone(service), handle });
            }
        }
        // Those that have ended are kept until somebody asks.
        while self.tasks.try_join_next().is_some() {}
    }
}

impl<S> Task<S> {
    fn end(&self) {
        self.handle.abort();
    }

    /// Ends it; false, to be left out by `retain`.
    fn ended(&self) -> bool {
        self.end();
        false
    }
}

async fn follow_cluster(settings: KubeSettings, services: Vec<(TableWriter, KubeService)>) {
    let Err(error) = sources::follow_cluster(settings, services).await;
    tracing::error!(%error, "the endpoints of the cluster cannot be followed");
}

/// Describes how a service is followed in the cluster, with what is known of it.
fn known_service(service: &ServiceState, of: &KubernetesService) -> KubeService {
    let is_occupied = !service.view().snapshot.endpoints().is_empty();
    KubeService { is_occupied, ..KubeService::from(of) }
}
