//! Another configuration, put in force without touching what does not differ.
//!
//! ```text
//! Config ─▶ prepare: everything that can fail is read and checked     nothing is changed, an error ends it here
//!        ─▶ begin:   new services get their endpoints                 no request is routed to them yet
//!        ─▶ warm:    first lists from the cluster are awaited         no request meets a service without endpoints
//!        ─▶ compare: names that the cluster does not have             endpoints of before stay for their services
//!        ─▶ publish: one store of the snapshot                        requests see all of it or nothing
//!        ─▶ follow:  watches of what is in force now
//! ```
//!
//! Streams keep the configuration that they began with. The drain ends those whose route or service is gone.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use podpin_config::Config;
use podpin_proxy::balance::service::ServiceState;
use podpin_proxy::clock;
use podpin_proxy::shared::Shared;
use podpin_proxy::telemetry::labels::ReloadResult;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use crate::build::{InForce, Surroundings};
use crate::certificates;
use crate::cluster::ClusterAccess;
use crate::error::ReloadError;
use crate::prepare::{KeyringOrigin, Prepared};
use crate::sources::ServiceStart;
use crate::upstream_tls_files::UpstreamTlsFiles;
use crate::watchers::WatchTasks;

/// The interval between two looks for the first lists of new services.
const WARM_POLL: Duration = Duration::from_millis(10);

/// The longest wait for what the cluster says of changed services: a list that would empty one is confirmed by a second one
/// after a second. Longer delays reloads while the API server is away.
const COMPARE_MAX: Duration = Duration::from_secs(3);

/// The outcome of a reload that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// Everything is as the configuration says.
    Whole,
    /// Services of these names name something that the cluster does not have: they keep the endpoints of before.
    Degraded(Vec<String>),
}

/// A configuration to put in force, and the channel for the outcome.
#[derive(Debug)]
pub(crate) struct ReloadRequest {
    config: Box<Config>,
    outcome: oneshot::Sender<Result<Reloaded, ReloadError>>,
}

/// A handle by which other configurations are put in force.
#[derive(Clone, Debug)]
pub struct Reloader {
    requests: mpsc::Sender<ReloadRequest>,
    shared: Arc<Shared>,
}

impl Reloader {
    pub(crate) fn new(requests: mpsc::Sender<ReloadRequest>, shared: Arc<Shared>) -> Reloader {
        Reloader { requests, shared }
    }

    /// Puts `config` in force, whole or not at all; returns when requests are served by it.
    ///
    /// Success is counted in `podpin_config_reloads_total`, and in `podpin_config_reloads_degraded_total` if services keep
    /// endpoints of before; the caller decides by [`Reloader::refused`] whether a failure counts.
    ///
    /// # Errors
    /// The reason for which the configuration in force stays.
    pub async fn reload(&self, config: Config) -> Result<Reloaded, ReloadError> {
        let (outcome, done) = oneshot::channel();
        let request = ReloadRequest { config: Box::new(config), outcome };
        if self.shared.lifecycle.is_draining() || self.requests.send(request).await.is_err() {
            return Err(ReloadError::Leaving);
        }
        let done = done.await.unwrap_or(Err(ReloadError::Leaving));
        if let Ok(reloaded) = &done {
            self.shared.metrics.config_reloaded(clock::unix_seconds_f64());
            if *reloaded != Reloaded::Whole {
                self.shared.metrics.process.config_reloads_degraded.inc();
            }
        }
        done
    }

    /// Counts a configuration that cannot be used.
    pub fn refused(&self) {
        self.shared.metrics.config_refused();
    }
}

/// The configuration in force, and the watches that follow it.
pub(crate) struct Reload {
    config: Config,
    shared: Arc<Shared>,
    watches: WatchTasks,
    upstream_tls_files: UpstreamTlsFiles,
}

impl Reload {
    pub(crate) fn new(config: Config, shared: Arc<Shared>) -> Reload {
        let upstream_tls_files = UpstreamTlsFiles::of(&config);
        Reload { config, shared, watches: WatchTasks::default(), upstream_tls_files }
    }

    /// Begins to watch everything that the configuration of the start names.
    pub(crate) async fn begin(&mut self, initial: Vec<ServiceStart>) {
        let snapshot = self.shared.snapshot();
        let access = ClusterAccess::verified(&self.config).await;
        self.watches.begin(initial, &access, &snapshot);
        self.watches.follow(&self.shared, &self.config, &snapshot);
    }

    /// Puts one configuration after the other in force, in the order of the requests; returns if no more can come.
    pub(crate) async fn serve(&mut self, requests: &mut mpsc::Receiver<ReloadRequest>) -> Option<Infallible> {
        loop {
            tokio::select! {
                request = requests.recv() => {
                    let ReloadRequest { config, outcome } = request?;
                    if outcome.send(self.catching_panics(*config).await).is_err() {
                        tracing::debug!("the sender of the reload did not wait for its outcome");
                    }
                }
                () = self.upstream_tls_files.changed() => {
                    let config = self.config.clone();
                    let outcome = self.catching_panics(config).await;
                    self.report_upstream_tls(&outcome);
                }
            }
        }
    }

    /// Reloads; a panic becomes an error, because discovery, drains and the admin port share this thread.
    async fn catching_panics(&mut self, config: Config) -> Result<Reloaded, ReloadError> {
        let outcome = AssertUnwindSafe(self.reload(config)).catch_unwind().await;
        outcome.unwrap_or(Err(ReloadError::Panicked))
    }

    fn report_upstream_tls(&self, outcome: &Result<Reloaded, ReloadError>) {
        let result = match outcome {
            Ok(_) => {
                tracing::info!("TLS to endpoints reloaded");
                ReloadResult::Success
            }
            Err(error) => {
                tracing::error!(%error, "TLS to endpoints cannot be used: the previous one stays in force");
                ReloadResult::Failure
            }
        };
        self.shared.metrics.process.tls_reloads.inc(result);
    }

    async fn reload(&mut self, config: Config) -> Result<Reloaded, ReloadError> {
        refuse_restart(&self.config, &config)?;
        let access = ClusterAccess::checked(&config, self.watches.cluster_access()).await?;
        // The watch begins before the files are read, so that no change falls between.
        let upstream_tls_files = self.upstream_tls_files.for_next(&config);
        let mut prepared = self.prepare(&config)?;
        // No request is routed to the new services yet. Endpoints of the others change when the snapshot does.
        let new = prepared.take_new(&self.shared.current());
        let cold: Vec<_> = new.iter().map(|start| Arc::clone(&start.service)).collect();
        self.watches.begin(new, &access, &prepared.snapshot);
        let changed: Vec<_> =
            prepared.snapshot.services.iter().filter(|one| is_compared(one)).cloned().collect();
        warm(&cold, config.kubernetes.initial_list_timeout).await;
        let reloaded = compare(&changed, config.kubernetes.initial_list_timeout.min(COMPARE_MAX)).await;
        self.publish(config, prepared);
        if let Some(files) = upstream_tls_files {
            self.upstream_tls_files = files;
        }
        Ok(reloaded)
    }

    fn prepare(&self, config: &Config) -> Result<Prepared, ReloadError> {
        let snapshot = self.shared.snapshot();
        let in_force = Some(InForce { config: &self.config, snapshot: &snapshot });
        let (metrics, streams) = (&self.shared.metrics, &self.shared.streams);
        // Some small files are read on this thread: another one would cost more memory than all the rest.
        let prepared = Prepared::read(config, &Surroundings { in_force, metrics, streams });
        if prepared.is_err() {
            // A refused configuration leaves nothing of its new services in the metrics.
            let is_new = |name: &str| snapshot.service(name).is_none();
            let new = config.services.iter().filter(|service| is_new(&service.name));
            new.for_each(|service| metrics.forget_service(&service.name));
        }
        Ok(prepared?)
    }

    /// Puts the prepared snapshot in force, with one store, and watches what is in force then.
    fn publish(&mut self, config: Config, prepared: Prepared) {
        let Prepared { mut snapshot, keyring, listener_tls, initial } = prepared;
        initial.into_iter().for_each(|start| self.watches.begin_service(start));
        let before = self.shared.snapshot();
        if keyring == KeyringOrigin::InForce {
            // The watch of the key files may have replaced it meanwhile.
            snapshot.keyring = Arc::clone(&before.keyring);
        }
        certificates::show(&listener_tls, &before, &snapshot, &self.shared.metrics);
        let snapshot = Arc::new(snapshot);
        self.shared.replace(Arc::clone(&snapshot));
        self.config = config;
        self.watches.follow(&self.shared, &self.config, &snapshot);
    }
}

/// Refuses a change of what is bound or counted once, at the start.
fn refuse_restart(old: &Config, new: &Config) -> Result<(), ReloadError> {
    let refuse = |change: String| Err(ReloadError::NeedsRestart(change));
    for listener in &new.listeners {
        match old.listeners.iter().find(|known| known.name == listener.name) {
            None => return refuse(format!("listeners: `{}` is new", listener.name)),
            Some(known) if known.address != listener.address => {
                let (from, to) = (known.address, listener.address);
                return refuse(format!(
                    "listeners: the address of `{}` changes from {from} to {to}",
                    listener.name
                ));
            }
            Some(_) => {}
        }
    }
    if let Some(gone) =
        old.listeners.iter().find(|known| !new.listeners.iter().any(|one| one.name == known.name))
    {
        return refuse(format!("listeners: `{}` is gone", gone.name));
    }
    if old.admin.address != new.admin.address {
        return refuse(format!("admin.address changes from {} to {}", old.admin.address, new.admin.address));
    }
    if old.admin != new.admin {
        return refuse("admin changes".to_owned());
    }
    if old.workers != new.workers {
        return refuse("workers changes".to_owned());
    }
    Ok(())
}

/// Waits until the cluster has listed the endpoints of all services, or `limit` is over.
async fn warm(services: &[Arc<ServiceState>], limit: Duration) {
    let deadline = Instant::now() + limit;
    let is_cold = |service: &Arc<ServiceState>| {
        service.is_told_by_a_server() && !service.view().snapshot.first_list_seen()
    };
    while services.iter().any(is_cold) && Instant::now() < deadline {
        sleep(WARM_POLL).await;
    }
    for service in services.iter().filter(|service| is_cold(service)) {
        tracing::error!(service = %service.name, "in force without endpoints: no list from the cluster within kubernetes.initialListTimeout");
    }
}

/// Returns whether the cluster has yet to say whether it has what the service names.
fn is_compared(service: &ServiceState) -> bool {
    service.cluster_source().is_some() && !service.source.is_settled()
}

/// Waits until the cluster has said whether it has what these services name, or `limit` is over.
async fn compare(services: &[Arc<ServiceState>], limit: Duration) -> Reloaded {
    let deadline = Instant::now() + limit;
    while services.iter().any(|service| is_compared(service)) && Instant::now() < deadline {
        sleep(WARM_POLL).await;
    }
    let missing = services.iter().filter(|service| service.source.report().mismatch.is_some());
    let names: Vec<String> = missing.map(|service| service.name.to_string()).collect();
    if names.is_empty() { Reloaded::Whole } else { Reloaded::Degraded(names) }
}

#[cfg(test)]
mod tests {
    use podpin_config::Host;

    use super::*;
    use crate::fixture;

    #[test]
    fn what_is_bound_at_the_start_needs_a_restart() {
        let old = fixture::config("{a: {discovery: {static: []}}}");
        refuse_restart(&old, &old).unwrap();
        let mut cases: Vec<(Config, &str)> = Vec::new();
        let mut change = |what: fn(&mut Config), expected| {
            let mut new = old.clone();
            what(&mut new);
            cases.push((new, expected));
        };
        change(|new| new.listeners[0].name = "other".to_owned(), "listeners: `other` is new");
        change(
            |new| new.listeners[0].address = "127.0.0.1:3".parse().unwrap(),
            "the address of `http` changes",
        );
        change(|new| new.listeners.clear(), "listeners: `http` is gone");
        change(|new| new.admin.address = "127.0.0.1:3".parse().unwrap(), "admin.address changes");
        change(|new| new.admin.hostnames = vec![Host::Exact("a.example".to_owned())], "admin changes");
        change(|new| new.workers = Some(7), "workers changes");
        for (new, expected) in cases {
            let error = refuse_restart(&old, &new).unwrap_err().to_string();
            assert!(error.contains(expected) && error.ends_with("that needs a restart"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_reload_is_one_store_of_a_snapshot_with_all_of_it() {
        let config = fixture::config("{a: {discovery: {static: []}}}");
        let shared = fixture::started(&config);
        let mut reload = Reload::new(config, Arc::clone(&shared));
        let before = shared.snapshot();
        let next = fixture::config(
            "{a: {discovery: {static: [{name: p, address: \"127.0.0.1:9\"}]}}, b: {discovery: {static: []}}}",
        );
        reload.reload(next).await.unwrap();
        let after = shared.snapshot();
        assert_eq!((before.services.len(), after.services.len()), (1, 2));
        assert!(after.services.iter().all(|one| one.view().snapshot.first_list_seen()));
        assert_eq!(after.services[0].view().snapshot.endpoints().len(), 1);
        assert!(Arc::ptr_eq(&before.keyring, &after.keyring), "ephemeral keys stay");
    }

    #[tokio::test]
    async fn a_reload_that_is_refused_leaves_everything_as_it_was() {
        let config = fixture::config("{a: {discovery: {static: []}}}");
        let shared = fixture::started(&config);
        let mut reload = Reload::new(config, Arc::clone(&shared));
        let before = shared.snapshot();
        let text = "{a: {discovery: {static: []}}, \
                    b: {discovery: {static: []}, tls: {caFile: /nonexistent/ca.pem, serverName: b}}}";
        let error = reload.reload(fixture::config(text)).await.unwrap_err();
        assert!(error.position().is_some(), "{error}");
        assert!(Arc::ptr_eq(&before, &shared.snapshot()));
        let metrics = String::from_utf8(shared.metrics.render()).unwrap();
        assert!(!metrics.contains("discovery_connected{service=\"b\"}"), "{metrics}");
    }
}
