//! Another configuration, put in force without touching what does not differ.
//!
//! ```text
//! Config ─▶ prepare: everything that can fail, read and checked      nothing is changed, an error ends it here
//!        ─▶ begin:   new lists in force, new sources followed         services that are new to us get their endpoints
//!        ─▶ warm:    a first list from the cluster is waited for      no request meets a service that knows no pod yet
//!        ─▶ publish: keys, listeners, access log, then the site       one atomic swap; the rest follows
//! ```
//!
//! Streams keep what they began with. Those whose route or service is gone are made to leave by `drain.rs`.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use podpin_affinity::Keyring;
use podpin_config::{AccessLog as LogTarget, Config, Listener, Position};
use podpin_discovery::FileWatch;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use crate::balance::service;
use crate::balance::service::ServiceState;
use crate::control::keys;
use crate::control::sources::{self, First};
use crate::control::start::StartError;
use crate::control::watchers::{Followers, Way};
use crate::net::tls::{self, Loaded, ServerTls, pod_tls_files};
use crate::routing::snapshot::Site;
use crate::shared::Gateway;
use crate::telemetry::access_log::{AccessLog, Pages};
use crate::worker::Manner;

/// Between two looks for the first lists of services that are new.
const WARM_POLL: Duration = Duration::from_millis(10);

/// A listener by its name, and how its clients are spoken to.
pub(crate) type Door = (String, Arc<ArcSwap<Manner>>);

/// The TLS of a listener, by the listener's name.
type NamedTls = (String, Option<Arc<ServerTls>>);

/// A configuration that is to be in force, and where to tell how that went.
pub(crate) type Order = (Box<Config>, oneshot::Sender<Result<(), ReloadError>>);

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
    orders: mpsc::Sender<Order>,
    gateway: Arc<Gateway>,
}

impl Reloader {
    pub(crate) fn new(orders: mpsc::Sender<Order>, gateway: Arc<Gateway>) -> Reloader {
        Reloader { orders, gateway }
    }

    /// Puts `config` in force, whole or not at all; done when requests are served by it. Then it is counted
    /// in `podpin_config_reloads_total`; whether one that is not in force counts, [`Reloader::refused`] is told.
    ///
    /// # Errors
    /// Why the one before stays.
    pub async fn reload(&self, config: Config) -> Result<(), ReloadError> {
        let (tell, told) = oneshot::channel();
        if self.gateway.is_leaving() || self.orders.send((Box::new(config), tell)).await.is_err() {
            return Err(ReloadError::Leaving);
        }
        let done = told.await.unwrap_or(Err(ReloadError::Leaving));
        if done.is_ok() {
            self.gateway.metrics.config_reloaded(service::unix_seconds_f64());
        }
        done
    }

    /// Counts a configuration that is not in force.
    pub fn refused(&self) {
        self.gateway.metrics.config_refused();
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
    gateway: Arc<Gateway>,
    doors: Vec<Door>,
    followers: Followers,
    pod_files: PodFiles,
}

/// All that can fail of a reload, done.
struct Prepared {
    site: Arc<Site>,
    /// `None`: the keys stay.
    keyring: Option<Keyring>,
    /// In their order.
    doors: Vec<(Listener, Option<Loaded>)>,
    /// Of services whose endpoints come from elsewhere than before.
    firsts: Vec<(Arc<ServiceState>, First)>,
    log: LogChange,
}

enum LogChange {
    Stays,
    GoesOnIn(Option<Pages>),
}

impl Reload {
    pub(crate) fn new(config: Config, gateway: Arc<Gateway>, doors: Vec<Door>) -> Reload {
        let pod_files = PodFiles::of(&config);
        Reload { config, gateway, doors, followers: Followers::default(), pod_files }
    }

    /// Begins to follow everything that the configuration names.
    pub(crate) async fn begin(&mut self, firsts: Vec<First>) {
        let site = self.gateway.site();
        for (service, first) in site.services.iter().zip(firsts) {
            sources::begin(service, first, &mut self.followers);
        }
        // It was checked a moment ago; whoever follows it says what is wrong now.
        let digest = sources::digest_of_way(&self.config).await.ok().flatten();
        self.followers.follow_cluster(&Way { said: self.config.kubernetes.clone(), digest }, &site);
        self.follow_the_rest(&site);
    }

    /// Puts one configuration after the other in force, as they are given.
    pub(crate) async fn follow(&mut self, orders: &mut mpsc::Receiver<Order>) -> Option<Infallible> {
        loop {
            tokio::select! {
                order = orders.recv() => {
                    let (config, tell) = order?;
                    if tell.send(self.guarded(*config).await).is_err() {
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
        self.gateway.metrics.tls_reloads.with_label_values(&[result]).inc();
    }

    /// A refused configuration leaves nothing of its new services in the metrics.
    fn forget_unborn(&self, config: &Config) {
        let site = self.gateway.site();
        let unborn = config.services.iter().filter(|service| site.service(&service.name).is_none());
        unborn.for_each(|service| self.gateway.metrics.forget_service(&service.name));
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
        let doors = self.doors.iter().map(|(name, manner)| (name.clone(), manner.load().tls.clone()));
        // Some small files are read here and now: a thread for that would cost more memory than all the rest.
        let read = Prepared::read(&config, (&self.config, doors.collect()), &self.gateway);
        let mut prepared = read.inspect_err(|_| self.forget_unborn(&config))?;
        // Those that nobody is served by yet. What others are served by changes when all changes.
        let before = self.gateway.site();
        let is_new = |(service, _): &mut (Arc<ServiceState>, First)| before.counterpart(service).is_none();
        let mut begun = Vec::new();
        for (service, first) in prepared.firsts.extract_if(.., is_new) {
            sources::begin(&service, first, &mut self.followers);
            begun.push(service);
        }
        // A source that is given up says nothing any more, or two would speak for one service.
        self.followers.forget_files(&prepared.site);
        self.followers.follow_cluster(&way, &prepared.site);
        warm(&begun, config.kubernetes.initial_list_timeout).await;
        self.publish(config, prepared);
        if let Some(watch) = pod_files {
            self.pod_files = watch;
        }
        Ok(())
    }

    fn publish(&mut self, config: Config, prepared: Prepared) {
        let Prepared { site, keyring, doors, firsts, log } = prepared;
        for (service, first) in firsts {
            sources::begin(&service, first, &mut self.followers);
        }
        if let Some(keyring) = keyring {
            self.gateway.set_keyring(keyring);
        }
        if let LogChange::GoesOnIn(pages) = log {
            self.gateway.access_log.go_on_in(pages);
        }
        let before = self.tls_in_use();
        for ((_, manner), (listener, loaded)) in self.doors.iter().zip(doors) {
            loaded.iter().for_each(|loaded| loaded.tell(&self.gateway.metrics));
            manner.store(Arc::new(Manner::new(&listener, loaded.map(|loaded| loaded.tls))));
        }
        let current = self.tls_in_use();
        let is_gone = |old: &&Arc<ServerTls>| !current.iter().any(|one| Arc::ptr_eq(one, old));
        before.iter().filter(is_gone).for_each(|old| old.forget(&current, &self.gateway.metrics));
        self.gateway.move_to(Arc::clone(&site));
        self.config = config;
        self.follow_the_rest(&site);
    }

    /// What is followed without being read first.
    fn follow_the_rest(&mut self, site: &Site) {
        self.followers.follow_keys(&self.gateway, &self.config.affinity_keys);
        self.followers.follow_certificates(&self.gateway, &self.tls_in_use());
        self.followers.check_health(site);
    }

    fn tls_in_use(&self) -> Vec<Arc<ServerTls>> {
        self.doors.iter().filter_map(|(_, manner)| manner.load().tls.clone()).collect()
    }
}

impl Prepared {
    fn read(
        config: &Config,
        (old, old_tls): (&Config, Vec<NamedTls>),
        gateway: &Gateway,
    ) -> Result<Prepared, ReloadError> {
        let before = gateway.site();
        // Those in force may be newer than their files were at the last look, or made here.
        let stays = old.affinity_keys == config.affinity_keys;
        let keyring = if stays { None } else { Some(keys::load(&config.affinity_keys)?) };
        let site = Site::build(config, Some(&before), &gateway.metrics, &gateway.drain_wake)?;
        let mut firsts = Vec::new();
        for service in &site.services {
            let known = before.counterpart(service);
            let discovery = &service.configuration.discovery;
            if known.is_none_or(|known| known.configuration.discovery != *discovery) {
                firsts.push((Arc::clone(service), sources::read(discovery)?));
            }
        }
        let mut doors = Vec::with_capacity(old_tls.len());
        for (name, old_tls) in old_tls {
            let found = config.listeners.iter().enumerate().find(|(_, listener)| listener.name == name);
            let Some((index, listener)) = found else { continue };
            let loaded = tls::load((index, listener), old_tls.as_ref())?;
            doors.push((listener.clone(), loaded));
        }
        let log = log_change(&old.access_log, &config.access_log)?;
        Ok(Prepared { site: Arc::new(site), keyring, doors, firsts, log })
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

/// A file is opened anew: whoever moved it away (logrotate) wants that.
fn log_change(old: &LogTarget, new: &LogTarget) -> Result<LogChange, StartError> {
    match new {
        LogTarget::File(_) => Ok(LogChange::GoesOnIn(AccessLog::open(new)?)),
        LogTarget::Off | LogTarget::Stdout if old == new => Ok(LogChange::Stays),
        LogTarget::Off | LogTarget::Stdout => Ok(LogChange::GoesOnIn(AccessLog::open(new)?)),
    }
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
