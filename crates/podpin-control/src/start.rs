//! From a configuration to running threads, and back.
//!
//! ```text
//! control thread: admin port, discovery, watches of files, drains, shutdown
//! worker threads: listeners, connections, streams
//! ```

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use podpin_config::Config;
use podpin_discovery::Survey;
use podpin_proxy::clock;
use podpin_proxy::shared::Shared;
use podpin_proxy::stream_registry::StreamRegistry;
use podpin_proxy::telemetry::metrics::Metrics;
use podpin_proxy::worker::{self, BoundListener};
use tokio::sync::{oneshot, watch};

use crate::admin;
use crate::build::Surroundings;
use crate::certificates;
use crate::cluster;
use crate::drain;
use crate::error::StartError;
use crate::keys;
use crate::prepare::Prepared;
use crate::readiness::{self, Readiness};
use crate::reload::{Reload, ReloadRequest, Reloader};
use crate::rlimit;
use crate::shutdown;
use crate::sockets::Sockets;
use crate::sources::{InitialEndpoints, ServiceStart};

/// Configurations that wait for the one before them to be in force.
const RELOADS_WAITING_MAX: usize = 4;

/// How long tasks of the control thread may take to end.
const RUNTIME_END: Duration = Duration::from_millis(100);

/// A running proxy.
#[derive(Debug)]
pub struct Running {
    readiness: Arc<Readiness>,
    listeners: Vec<(String, SocketAddr)>,
    admin: SocketAddr,
    reloads: tokio::sync::mpsc::Sender<ReloadRequest>,
    shutdown: oneshot::Sender<()>,
    control: ControlThread,
    workers: Workers,
}

/// The worker threads, and the channel that ends them.
#[derive(Debug)]
struct Workers {
    threads: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

/// The control thread, and the channel that says when its graceful shutdown is over.
#[derive(Debug)]
struct ControlThread {
    thread: JoinHandle<()>,
    ended: mpsc::Receiver<()>,
}

/// The state that the control thread begins with.
struct Control {
    config: Config,
    readiness: Arc<Readiness>,
    initial: Vec<ServiceStart>,
    admin_socket: TcpListener,
}

/// Requests to the control thread.
struct ControlRequests {
    reloads: tokio::sync::mpsc::Receiver<ReloadRequest>,
    shutdown: oneshot::Receiver<()>,
}

/// The parts of the world around a configuration that a check looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// None: the files that it names are on another machine.
    Text,
    /// The files that it names, and the way to the cluster if this machine has any.
    Files,
}

/// Checks what a configuration names, to this depth: keys, certificates, endpoint files that exist, the way to the cluster.
///
/// # Errors
/// The error that [`start()`] would fail with for the same reason.
pub fn verify(config: &Config, depth: Depth) -> Result<(), StartError> {
    if depth == Depth::Text {
        return keys::verify_presence(&config.affinity_keys);
    }
    keys::load(&config.affinity_keys)?;
    admin::verify(&config.admin)?;
    certificates::verify(config)?;
    for service in &config.services {
        InitialEndpoints::read(&service.discovery)?;
    }
    cluster::verify_named(config)
}

/// Asks the cluster whether it has what the services name, and whether it may be read: the name of each service that is discovered
/// there, with what was found.
///
/// # Errors
/// [`StartError::Cluster`] if there is no way to the cluster.
pub fn survey(config: &Config) -> Result<Vec<(String, Survey)>, StartError> {
    cluster::survey(config)
}

/// Starts the proxy: reads files, binds, spawns threads. Returns when it accepts connections.
///
/// # Errors
/// The first thing that keeps it from serving; no thread is left running then.
pub fn start(config: &Config, version: &str) -> Result<Running, StartError> {
    // The first reading is the zero of the monotonic clock.
    clock::now();
    rlimit::warn_if_short(rlimit::raise_limit(), config.limits.connections);
    let (metrics, streams) = (Metrics::new(version)?, Arc::new(StreamRegistry::new()));
    let around = Surroundings { in_force: None, metrics: &metrics, streams: &streams };
    let Prepared { snapshot, listener_tls, initial, .. } = Prepared::read(config, &around)?;
    admin::verify(&config.admin)?;
    cluster::verify(config)?;
    let sockets = Sockets::bind(config)?;
    let (listeners, admin) = (sockets.addresses()?, sockets.admin.local_addr()?);
    listener_tls.iter().for_each(|loaded| loaded.show(&metrics));
    metrics.config_loaded(clock::unix_seconds_f64());

    let shared = Arc::new(Shared::new(snapshot, metrics, streams));
    let initial_list_timeout = config.kubernetes.initial_list_timeout;
    let readiness = Arc::new(Readiness::new(Arc::clone(&shared), initial_list_timeout, clock::now()));
    let workers = Workers::start(worker_count(config), &shared, &sockets.listeners)?;
    let (reloads, reload_requests) = tokio::sync::mpsc::channel(RELOADS_WAITING_MAX);
    let (shutdown, shutdown_request) = oneshot::channel();
    let requests = ControlRequests { reloads: reload_requests, shutdown: shutdown_request };
    let control = Control {
        config: config.clone(),
        readiness: Arc::clone(&readiness),
        initial,
        admin_socket: sockets.admin,
    };
    let control = control.start(requests)?;
    Ok(Running { readiness, listeners, admin, reloads, shutdown, control, workers })
}

fn worker_count(config: &Config) -> usize {
    // The standard library reads the CPU quota of the control group as well as the affinity mask.
    config.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

impl Workers {
    fn start(count: usize, shared: &Arc<Shared>, bound: &[BoundListener]) -> io::Result<Workers> {
        let stop = watch::Sender::new(false);
        let start = |index| worker::start(index, Arc::clone(shared), bound, stop.subscribe());
        let threads = (0..count).map(start).collect::<io::Result<Vec<_>>>()?;
        Ok(Workers { threads, stop })
    }
}

impl Control {
    /// Starts the control thread.
    fn start(self, requests: ControlRequests) -> io::Result<ControlThread> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (end, ended) = mpsc::channel();
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            runtime.block_on(self.run(requests));
            runtime.shutdown_timeout(RUNTIME_END);
            if end.send(()).is_err() {
                tracing::debug!("the process did not wait for the shutdown");
            }
        })?;
        Ok(ControlThread { thread, ended })
    }

    /// Runs until a shutdown is requested, and through it.
    async fn run(self, mut requests: ControlRequests) {
        let shared = Arc::clone(self.readiness.shared());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(readiness::report_missing_lists(Arc::clone(&self.readiness)));
        tasks.spawn(drain::run(Arc::clone(&shared)));
        match tokio::net::TcpListener::from_std(self.admin_socket) {
            Ok(socket) => {
                let admin = Arc::new(self.config.admin.clone());
                tasks.spawn(admin::serve(socket, admin, self.readiness));
            }
            Err(error) => tracing::error!(%error, "the admin port is closed"),
        }
        let mut reload = Reload::new(self.config, Arc::clone(&shared));
        reload.begin(self.initial).await;
        let requested = tokio::select! {
            requested = &mut requests.shutdown => requested,
            Some(never) = reload.serve(&mut requests.reloads) => match never {},
        };
        // A dropped sender means that the proxy is dropped without a graceful shutdown.
        if requested.is_ok() {
            shutdown::leave_gracefully(&shared).await;
        }
    }
}

impl Running {
    /// Returns the bound addresses of the listeners, by name.
    #[must_use]
    pub fn listeners(&self) -> &[(String, SocketAddr)] {
        &self.listeners
    }

    /// Returns the bound address of the admin port.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Returns the names of services that still wait for their first list of endpoints; empty if the proxy is ready.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<String> {
        self.readiness.waiting_for().iter().map(|service| service.name.to_string()).collect()
    }

    /// Returns the handle by which another configuration can be put in force.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        Reloader::new(self.reloads.clone(), Arc::clone(self.readiness.shared()))
    }

    /// Shuts down gracefully, as the configuration's `shutdown` says; returns when everything has ended.
    pub fn stop(self) {
        let Running { readiness, shutdown, control, workers, .. } = self;
        if shutdown.send(()).is_err() || control.ended.recv().is_err() {
            tracing::error!("the control thread ended early");
        }
        workers.stop.send_replace(true);
        for thread in workers.threads.into_iter().chain([control.thread]) {
            if thread.join().is_err() {
                tracing::error!("a thread ended in a panic");
            }
        }
        if let Some(sink) = &readiness.shared().current().access_log {
            sink.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_proxy_starts_says_where_it_listens_and_stops() {
        let text = format!(
            "affinityKeys: ephemeral\nworkers: 1\nshutdown: {{announce: 0s}}\n{}",
            fixture::MINIMAL.replace("127.0.0.1:1}", "127.0.0.1:0}").replace("127.0.0.1:2}", "127.0.0.1:0}")
        );
        let config = fixture::parsed(&text);
        verify(&config, Depth::Files).unwrap();
        let running = start(&config, "0").unwrap();
        assert_eq!(running.listeners()[0].0, "http");
        assert!(running.listeners()[0].1.port() > 0 && running.admin().port() > 0);
        running.stop();
    }

    #[test]
    fn a_configuration_that_cannot_serve_is_refused_by_the_check_and_by_the_start() {
        let config = fixture::parsed(&format!(
            "affinityKeys: [{{id: k1, file: /nonexistent/k1}}]\n{}",
            fixture::MINIMAL
        ));
        assert!(matches!(verify(&config, Depth::Files), Err(StartError::KeyFile { .. })));
        verify(&config, Depth::Text).unwrap();
        let without = fixture::parsed(fixture::MINIMAL);
        assert!(matches!(verify(&without, Depth::Text), Err(StartError::NoKeys)));
        assert!(matches!(start(&config, "0").err(), Some(StartError::KeyFile { .. })));
    }
}
