//! Another configuration, put in force without touching what does not differ.
//!
//! ```text
//! Config ─▶ prepare: everything that can fail, read and checked      nothing is changed, an error ends it here
//!        ─▶ begin:   new lists in force, new sources followed         services that are new to us get their endpoints
//!        ─▶ warm:    a first list from the cluster is waited for      no request meets a service that knows no pod yet
//!        ─▶ publish: keys, listeners, access log, then the snapshot       one atomic swap; the rest follows
//! ```
//!
//! Streams keep what they began with. Those whose route or service is gone are made to leave by the drain.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use podpin_config::{AccessLog as LogTarget, Config, Position};
use podpin_discovery::FileWatch;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use crate::build::{self, Files, Surroundings};
use crate::error::StartError;
use crate::keys;
use crate::sources::{self, First};
use crate::watchers::{Followers, Way};
use podpin_proxy::balance::service::ServiceState;
use podpin_proxy::clock;
use podpin_proxy::net::listener::ListenerSettings;
use podpin_proxy::net::tls::{self, LoadedTls, ServerTls, pod_tls_files};
use podpin_proxy::routing::snapshot::ConfigSnapshot;
use podpin_proxy::shared::Shared;
use podpin_proxy::telemetry::access_log::LogSink;

/// Between two looks for the first lists of services that are new.
const WARM_POLL: Duration = Duration::from_millis(10);

/// A configuration that is to be in force, and the place for the outcome.
#[derive(Debug)]
pub(crate) struct ReloadRequest {
    config: Box<Config>,
    outcome: oneshot::Sender<Result<(), ReloadError>>,
}

/// Why the configuration in force stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// It changes what is only read at the start.
    #[error("{0}: that needs a restart")]
    NeedsRestart(String),
    /// A file that it names cannot be used.
    #[error(transparent)]
    Unusable(#[from] StartError),
    /// The proxy is leaving.
    #[error("the proxy is leaving")]
    Leaving,
    /// A bug. Whatever was in force goes on, discovery and the admin port with it.
    #[error("podpin failed over it, which is a bug; the panic is above")]
    Panicked,
}

impl ReloadError {
    /// Where the configuration says what does not work.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            ReloadError::Unusable(error) => error.position(),
            ReloadError::NeedsRestart(_) | ReloadError::Leaving | ReloadError::Panicked => None,
        }
    }
}

/// Puts other configurations in force.
#[derive(Clone, Debug)]
pub struct Reloader {
    requests: mpsc::Sender<ReloadRequest>,
    shared: Arc<Shared>,
}

impl Reloader {
    pub(crate) fn new(requests: mpsc::Sender<ReloadRequest>, shared: Arc<Shared>) -> Reloader {
        Reloader { requests, shared }
    }

    /// Puts `config` in force, whole or not at all; done when requests are served by it. Then it is counted
    /// in `podpin_config_reloads_total`; whether one that is not in force counts, [`Reloader::refused`] is told.
    ///
    /// # Errors
    /// Why the one before stays.
    pub async fn reload(&self, config: Config) -> Result<(), ReloadError> {
        let (outcome, done) = oneshot::channel();
        let request = ReloadRequest { config: Box::new(config), outcome };
        if self.shared.lifecycle.is_draining() || self.requests.send(request).await.is_err() {
            return Err(ReloadError::Leaving);
        }
        let done = done.await.unwrap_or(Err(ReloadError::Leaving));
        if done.is_ok() {
            self.shared.metrics.config_reloaded(clock::unix_seconds_f64());
        }
        done
    }

    /// Counts a configuration that is not in force.
    pub fn refused(&self) {
        self.shared.metrics.config_refused();
    }
}

/// The files of the TLS to pods: all of them are read again when one changes.
struct PodFiles {
    paths: Vec<PathBuf>,
    watch: FileWatch,
}

impl PodFiles {
    fn of(config: &Config) -> PodFiles {
        PodFiles::watching(PodFiles::paths(config))
    }

    fn paths(config: &Config) -> Vec<PathBuf> {
        let tls = config.services.iter().filter_map(|service| service.tls.as_ref());
        tls.flat_map(pod_tls_files).cloned().collect()
    }

    fn watching(paths: Vec<PathBuf>) -> PodFiles {
        let watch = FileWatch::new(paths.iter().cloned());
        PodFiles { paths, watch }
    }

    /// Another watch, if the configuration names others.
    fn watch_other(&self, config: &Config) -> Option<PodFiles> {
        Some(PodFiles::paths(config)).filter(|paths| *paths != self.paths).map(PodFiles::watching)
    }
}

/// The configuration in force, and all that has to follow when it changes.
pub(crate) struct Reload {
    config: Config,
    shared: Arc<Shared>,
    followers: Followers,
    pod_files: PodFiles,
}

/// All that can fail of a reload, done.
struct Prepared {
    snapshot: ConfigSnapshot,
    /// Whether keys stay as they are when the snapshot is put in force: their files may change until then.
    keeps_keyring: bool,
    /// The TLS of listeners that is new.
    loaded: Vec<LoadedTls>,
    /// Of services whose endpoints come from elsewhere than before.
    firsts: Vec<(Arc<ServiceState>, First)>,
}

impl Reload {
    pub(crate) fn new(config: Config, shared: Arc<Shared>) -> Reload {
        let pod_files = PodFiles::of(&config);
        Reload { config, shared, followers: Followers::default(), pod_files }
    }

    /// Begins to follow everything that the configuration names.
    pub(crate) async fn begin(&mut self, firsts: Vec<First>) {
        let snapshot = self.shared.snapshot();
        for (service, first) in snapshot.services.iter().zip(firsts) {
            sources::begin(service, first, &mut self.followers);
        }
        // It was checked a moment ago; whoever follows it says what is wrong now.
        let digest = sources::digest_of_way(&self.config).await.ok().flatten();
        self.followers.follow_cluster(&Way { said: self.config.kubernetes.clone(), digest }, &snapshot);
        self.follow_the_rest(&snapshot);
    }

    /// Puts one configuration after the other in force, as they are given.
    pub(crate) async fn follow(
        &mut self,
        requests: &mut mpsc::Receiver<ReloadRequest>,
    ) -> Option<Infallible> {
        loop {
            tokio::select! {
                request = requests.recv() => {
                    let ReloadRequest { config, outcome } = request?;
                    if outcome.send(self.guarded(*config).await).is_err() {
                        tracing::debug!("nobody waited for the reload");
                    }
                }
                () = self.pod_files.watch.changed() => {
                    let config = self.config.clone();
                    let done = self.guarded(config).await;
                    self.tell_of_pod_files(&done);
                }
            }
        }
    }

    /// Discovery, drains and the admin port are on this thread, too.
    async fn guarded(&mut self, config: Config) -> Result<(), ReloadError> {
        let done = AssertUnwindSafe(self.reload(config)).catch_unwind().await;
        done.unwrap_or(Err(ReloadError::Panicked))
    }

    fn tell_of_pod_files(&self, done: &Result<(), ReloadError>) {
        let result = match done {
            Ok(()) => {
                tracing::info!("the TLS to pods is read again");
                "success"
            }
            Err(error) => {
                tracing::error!(%error, "the TLS to pods is not usable: the old one stays");
                "failure"
            }
        };
        self.shared.metrics.tls_reloads.with_label_values(&[result]).inc();
    }

    /// A refused configuration leaves nothing of its new services in the metrics.
    fn forget_unborn(&self, config: &Config) {
        let snapshot = self.shared.snapshot();
        let unborn = config.services.iter().filter(|service| snapshot.service(&service.name).is_none());
        unborn.for_each(|service| self.shared.metrics.forget_service(&service.name));
    }

    async fn reload(&mut self, config: Config) -> Result<(), ReloadError> {
        refuse_restart(&self.config, &config)?;
        let digest = sources::digest_of_way(&config).await?;
        let way = Way { said: config.kubernetes.clone(), digest };
        if !self.followers.reaches_by(&way) {
            check_cluster(&config).await?;
        }
        // Before anything is read, so that no change falls between.
        let pod_files = self.pod_files.watch_other(&config);
        // Some small files are read here and now: a thread for that would cost more memory than all the rest.
        let read = Prepared::read(&config, &self.config, &self.shared);
        let mut prepared = read.inspect_err(|_| self.forget_unborn(&config))?;
        // Those that nobody is served by yet. What others are served by changes when all changes.
        let before = self.shared.snapshot();
        let is_new = |(service, _): &mut (Arc<ServiceState>, First)| before.counterpart(service).is_none();
        let mut begun = Vec::new();
        for (service, first) in prepared.firsts.extract_if(.., is_new) {
            sources::begin(&service, first, &mut self.followers);
            begun.push(service);
        }
        // A source that is given up says nothing any more, or two would speak for one service.
        self.followers.forget_files(&prepared.snapshot);
        self.followers.follow_cluster(&way, &prepared.snapshot);
        warm(&begun, config.kubernetes.initial_list_timeout).await;
        self.publish(config, prepared);
        if let Some(watch) = pod_files {
            self.pod_files = watch;
        }
        Ok(())
    }

    /// Puts the prepared snapshot in force, with one store.
    fn publish(&mut self, config: Config, prepared: Prepared) {
        let Prepared { mut snapshot, keeps_keyring, loaded, firsts } = prepared;
        for (service, first) in firsts {
            sources::begin(&service, first, &mut self.followers);
        }
        if keeps_keyring {
            snapshot.keyring = Arc::clone(&self.shared.current().keyring);
        }
        let before = tls_in_use(&self.shared.current());
        loaded.iter().for_each(|loaded| loaded.tell(&self.shared.metrics));
        let current = tls_in_use(&snapshot);
        let is_gone = |old: &&Arc<ServerTls>| !current.iter().any(|one| Arc::ptr_eq(one, old));
        before.iter().filter(is_gone).for_each(|old| old.forget(&current, &self.shared.metrics));
        let snapshot = Arc::new(snapshot);
        self.shared.replace(Arc::clone(&snapshot));
        self.config = config;
        self.follow_the_rest(&snapshot);
    }

    /// What is followed without being read first.
    fn follow_the_rest(&mut self, snapshot: &ConfigSnapshot) {
        self.followers.follow_keys(&self.shared, &self.config.affinity_keys);
        self.followers.follow_certificates(&self.shared, &tls_in_use(snapshot));
        self.followers.check_health(snapshot);
    }
}

fn tls_in_use(snapshot: &ConfigSnapshot) -> Vec<Arc<ServerTls>> {
    snapshot.listeners.iter().filter_map(|listener| listener.tls.clone()).collect()
}

impl Prepared {
    fn read(config: &Config, old: &Config, shared: &Shared) -> Result<Prepared, ReloadError> {
        let before = shared.snapshot();
        // Those in force may be newer than their files were at the last look, or made here.
        let keeps_keyring = old.affinity_keys == config.affinity_keys;
        let keyring = match keeps_keyring {
            true => Arc::clone(&before.keyring),
            false => Arc::new(keys::load(&config.affinity_keys)?),
        };
        let mut loaded = Vec::new();
        let mut listeners = Vec::with_capacity(before.listeners.len());
        for known in before.listeners.iter() {
            let mut named = config.listeners.iter().enumerate();
            let Some((index, listener)) = named.find(|(_, listener)| *listener.name == *known.name) else {
                continue;
            };
            let tls = tls::load((index, listener), known.tls.as_ref()).map_err(StartError::from)?;
            listeners.push(Arc::new(ListenerSettings::new(listener, tls.as_ref().map(LoadedTls::tls))));
            loaded.extend(tls);
        }
        let access_log = match keeps_log(&old.access_log, &config.access_log) {
            true => before.access_log.clone(),
            false => LogSink::open(&config.access_log).map_err(StartError::from)?.map(Arc::new),
        };
        let around =
            Surroundings { before: Some(&before), metrics: &shared.metrics, streams: &shared.streams };
        let snapshot = build::snapshot(config, Files { keyring, listeners, access_log }, &around)?;
        let mut firsts = Vec::new();
        for service in snapshot.services.iter() {
            let known = before.counterpart(service);
            let discovery = &service.configuration.discovery;
            if known.is_none_or(|known| known.configuration.discovery != *discovery) {
                firsts.push((Arc::clone(service), sources::read(discovery)?));
            }
        }
        Ok(Prepared { snapshot, keeps_keyring, loaded, firsts })
    }
}

/// What was bound stays as it is: whoever changes that must know that his change is not in force.
fn refuse_restart(old: &Config, new: &Config) -> Result<(), ReloadError> {
    let refuse = |what: String| Err(ReloadError::NeedsRestart(what));
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
    if old.workers != new.workers {
        return refuse("workers changes".to_owned());
    }
    Ok(())
}

/// A plugin for credentials may take its time: nobody on this thread waits for it.
async fn check_cluster(config: &Config) -> Result<(), ReloadError> {
    let config = config.clone();
    let checked = tokio::task::spawn_blocking(move || sources::verify_cluster(&config)).await;
    Ok(checked.map_err(|_| ReloadError::Panicked)??)
}

/// Whether lines go on to the same sink. A file is opened anew: a log rotation that moved it away relies on that.
fn keeps_log(old: &LogTarget, new: &LogTarget) -> bool {
    old == new && !matches!(new, LogTarget::File(_))
}

/// Waits until the cluster has said what endpoints the services have, or has taken too long.
async fn warm(services: &[Arc<ServiceState>], limit: Duration) {
    let deadline = Instant::now() + limit;
    let is_cold = |service: &Arc<ServiceState>| {
        service.is_of_the_cluster() && !service.view().snapshot.first_list_seen()
    };
    while services.iter().any(is_cold) && Instant::now() < deadline {
        sleep(WARM_POLL).await;
    }
    for service in services.iter().filter(|service| is_cold(service)) {
        tracing::error!(service = %service.name, "in force without endpoints: no list from the cluster within kubernetes.initialListTimeout");
    }
}
