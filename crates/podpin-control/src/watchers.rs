//! The tasks of the control thread that watch what changes outside: files, the cluster, the health of endpoints.
//!
//! A reload ends the tasks whose subject is gone or new and starts others; the rest go on, so that a reload which changes a
//! limit does not list a cluster again.

use std::sync::Arc;

use podpin_config::{AffinityKeys, Config, Discovery, KubernetesService};
use podpin_discovery::{Known, KubeService};
use podpin_proxy::balance::service::{ServiceState, TableWriter};
use podpin_proxy::net::tls::ServerTls;
use podpin_proxy::routing::snapshot::ConfigSnapshot;
use podpin_proxy::shared::Shared;
use tokio::task::{AbortHandle, JoinSet};

use crate::certificates;
use crate::cluster::{self, ClusterAccess, ClusterService};
use crate::health_checks;
use crate::keys;
use crate::sources::{self, FollowedSource, ServiceStart};

/// The watches that run now.
#[derive(Default)]
pub(crate) struct WatchTasks {
    tasks: JoinSet<()>,
    keys: Option<Task<AffinityKeys>>,
    certificates: Vec<Task<Arc<ServerTls>>>,
    sources: Vec<Task<EndpointSource>>,
    cluster: Option<Task<ClusterSubject>>,
    health_checks: Vec<Task<Arc<ServiceState>>>,
}

/// A task with its subject; aborted when dropped.
struct Task<S> {
    subject: S,
    handle: AbortHandle,
}

impl<S> Drop for Task<S> {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// The file or the names that list the endpoints of a service.
struct EndpointSource {
    service: Arc<str>,
    discovery: Discovery,
}

/// The cluster, and the services that are discovered in it.
#[derive(PartialEq)]
struct ClusterSubject {
    access: ClusterAccess,
    services: Vec<ClusterSource>,
}

/// The place of a service in the cluster.
#[derive(PartialEq)]
struct ClusterSource {
    service: Arc<str>,
    source: KubernetesService,
}

impl ClusterSubject {
    /// Returns whether the service was followed there already.
    fn has(&self, access: &ClusterAccess, service: &str, source: &KubernetesService) -> bool {
        self.access == *access
            && self.services.iter().any(|one| &*one.service == service && one.source == *source)
    }
}

impl WatchTasks {
    /// Puts the first lists of services in force and watches the sources of all services of the snapshot.
    ///
    /// A service has one source at a time: the watches that the snapshot does not have end here.
    pub(crate) fn begin(
        &mut self,
        initial: Vec<ServiceStart>,
        access: &ClusterAccess,
        snapshot: &ConfigSnapshot,
    ) {
        initial.into_iter().for_each(|start| self.begin_service(start));
        self.retain_sources(snapshot);
        self.follow_cluster(access, snapshot);
    }

    /// Puts the first list of a service in force and watches its file or its names, if it has any.
    pub(crate) fn begin_service(&mut self, start: ServiceStart) {
        let ServiceStart { service, endpoints } = start;
        let writer = TableWriter::new(Arc::clone(&service));
        if service.cluster_source().is_none() {
            // A source before it may have been a cluster that did not have what the service named.
            service.source.settle(None);
            service.metrics.discovery_mismatch.set(None);
        }
        let handle = match endpoints.apply(&writer) {
            None => return,
            Some(FollowedSource::File(file)) => self.tasks.spawn(sources::follow_file(writer, file)),
            Some(FollowedSource::Names(names)) => self.tasks.spawn(sources::follow_all_names(writer, names)),
        };
        let discovery = service.configuration.discovery.clone();
        self.sources
            .push(Task { subject: EndpointSource { service: Arc::clone(&service.name), discovery }, handle });
    }

    /// Ends the watches of files and names that no service of the snapshot has.
    fn retain_sources(&mut self, snapshot: &ConfigSnapshot) {
        let is_current = |source: &EndpointSource| {
            let service = snapshot.service(&source.service);
            service.is_some_and(|service| service.configuration.discovery == source.discovery)
        };
        self.sources.retain(|task| is_current(&task.subject));
    }

    /// Returns how the cluster is reached now; `None` if it is not watched.
    pub(crate) fn cluster_access(&self) -> Option<&ClusterAccess> {
        self.cluster.as_ref().map(|task| &task.subject.access)
    }

    /// Watches the cluster for the services of the snapshot, anew if they or the access differ from before.
    fn follow_cluster(&mut self, access: &ClusterAccess, snapshot: &ConfigSnapshot) {
        let in_cluster: Vec<_> = snapshot
            .services
            .iter()
            .filter_map(|service| Some((service, service.cluster_source()?)))
            .collect();
        let services = in_cluster.iter().map(|(service, source)| ClusterSource {
            service: Arc::clone(&service.name),
            source: (*source).clone(),
        });
        let wanted = ClusterSubject { access: access.clone(), services: services.collect() };
        let runs = |task: &Task<ClusterSubject>| task.subject == wanted && !task.handle.is_finished();
        if self.cluster.as_ref().is_some_and(runs) {
            return;
        }
        // The task before ends first, or two would write one table.
        let before = self.cluster.take();
        if in_cluster.is_empty() {
            return;
        }
        let services = in_cluster.iter().map(|(service, source)| {
            let is_same = before.as_ref().is_some_and(|task| task.subject.has(access, &service.name, source));
            cluster_service(service, source, is_same)
        });
        let handle = self.tasks.spawn(cluster::follow(access.clone(), services.collect()));
        self.cluster = Some(Task { subject: wanted, handle });
    }

    /// Watches what is in force without having been read first: key files, certificates, the health of endpoints.
    pub(crate) fn follow(&mut self, shared: &Arc<Shared>, config: &Config, snapshot: &ConfigSnapshot) {
        self.follow_keys(shared, &config.affinity_keys);
        self.follow_certificates(shared, &certificates::in_use(snapshot));
        self.check_health(snapshot);
        // The results of ended tasks are kept until they are taken.
        while self.tasks.try_join_next().is_some() {}
    }

    fn follow_keys(&mut self, shared: &Arc<Shared>, keys: &AffinityKeys) {
        if self.keys.as_ref().is_some_and(|task| task.subject == *keys) {
            return;
        }
        let handle = self.tasks.spawn(keys::follow(Arc::clone(shared), keys.clone()));
        self.keys = Some(Task { subject: keys.clone(), handle });
    }

    fn follow_certificates(&mut self, shared: &Arc<Shared>, listeners: &[Arc<ServerTls>]) {
        let is_current = |tls: &Arc<ServerTls>| listeners.iter().any(|one| Arc::ptr_eq(one, tls));
        self.certificates.retain(|task| is_current(&task.subject));
        for one in listeners {
            if !self.certificates.iter().any(|task| Arc::ptr_eq(&task.subject, one)) {
                let handle = self.tasks.spawn(certificates::follow(Arc::clone(shared), Arc::clone(one)));
                self.certificates.push(Task { subject: Arc::clone(one), handle });
            }
        }
    }

    fn check_health(&mut self, snapshot: &ConfigSnapshot) {
        let is_current =
            |state: &Arc<ServiceState>| snapshot.services.iter().any(|one| Arc::ptr_eq(one, state));
        for task in self.health_checks.extract_if(.., |task| !is_current(&task.subject)) {
            let next = snapshot.counterpart(&task.subject);
            if next.is_none_or(|next| next.configuration.health.active.is_none()) {
                health_checks::forget(&task.subject);
            }
        }
        for service in snapshot.services.iter() {
            let Some(settings) = &service.configuration.health.active else { continue };
            if !self.health_checks.iter().any(|task| Arc::ptr_eq(&task.subject, service)) {
                let handle = self.tasks.spawn(health_checks::run(Arc::clone(service), settings.clone()));
                self.health_checks.push(Task { subject: Arc::clone(service), handle });
            }
        }
    }
}

/// Returns a service to follow; `is_same` says whether its endpoints come from the same source already.
fn cluster_service(service: &Arc<ServiceState>, source: &KubernetesService, is_same: bool) -> ClusterService {
    if !is_same {
        service.source.change();
    }
    let known = match service.view().snapshot.endpoints().is_empty() {
        true => Known::Nothing,
        false if is_same && !service.source.keeps_others() => Known::SameSource,
        false => Known::OtherSource,
    };
    ClusterService {
        writer: TableWriter::new(Arc::clone(service)),
        source: KubeService { known, ..KubeService::from(source) },
    }
}

#[cfg(test)]
mod tests {
    use podpin_config::Discovery;

    use super::*;
    use crate::fixture;
    use crate::sources::InitialEndpoints;

    fn begin(tasks: &mut WatchTasks, service: &Arc<ServiceState>) {
        let endpoints = InitialEndpoints::read(&service.configuration.discovery).unwrap();
        tasks.begin_service(ServiceStart { service: Arc::clone(service), endpoints });
    }

    #[tokio::test]
    async fn only_files_and_names_are_watched_and_one_that_no_service_has_any_more_is_not() {
        let shared = fixture::shared(
            "{a: {discovery: {file: {path: /nonexistent/a.yaml}}}, b: {discovery: {static: []}}}",
        );
        let mut tasks = WatchTasks::default();
        let snapshot = shared.snapshot();
        snapshot.services.iter().for_each(|service| begin(&mut tasks, service));
        assert_eq!(tasks.sources.len(), 1);
        tasks.retain_sources(&snapshot);
        assert_eq!(tasks.sources.len(), 1);
        tasks.retain_sources(&fixture::shared("{b: {discovery: {static: []}}}").snapshot());
        assert_eq!(tasks.sources.len(), 0);
        assert!(matches!(snapshot.services[0].configuration.discovery, Discovery::File(_)));
    }

    #[tokio::test]
    async fn a_watch_goes_on_as_long_as_its_subject_is_the_same() {
        let checked = "{a: {discovery: {static: []}, health: {active: {type: tcp}}}}";
        let config = fixture::config(checked);
        let shared = fixture::started(&config);
        let mut tasks = WatchTasks::default();
        let snapshot = shared.snapshot();
        tasks.follow(&shared, &config, &snapshot);
        let first = tasks.health_checks[0].handle.id();
        tasks.follow(&shared, &config, &snapshot);
        assert_eq!(tasks.health_checks[0].handle.id(), first);
        let other = fixture::started(&config).snapshot();
        tasks.follow(&shared, &config, &other);
        assert_eq!(tasks.health_checks.len(), 1);
        assert_ne!(tasks.health_checks[0].handle.id(), first, "another service of the same name");
        assert!(tasks.cluster_access().is_none());
    }
}
