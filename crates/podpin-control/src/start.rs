//! From a configuration to running threads, and back.
//!
//! ```text
//! control thread: admin port, discovery, key files, shutdown
//! worker threads: listeners, connections, streams
//! ```

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::readiness;
use podpin_config::Config;
use podpin_drain::ShutdownTimes;
use podpin_proxy::net::listener::ListenerSettings;
use podpin_proxy::telemetry::access_log::LogSink;
use podpin_proxy::telemetry::metrics::Metrics;
use tokio::sync::{oneshot, watch};

use crate::admin;
use crate::build::{self, Files, Surroundings};
use crate::certificates;
use crate::drain;
use crate::error::StartError;
use crate::keys;
use crate::readiness::Readiness;
use crate::reload::{Reload, ReloadRequest, Reloader};
use crate::rlimit;
use crate::sources;
use crate::sources::First;
use podpin_proxy::clock;
use podpin_proxy::net::tls;
use podpin_proxy::shared::Shared;
use podpin_proxy::stream_registry::StreamRegistry;
use podpin_proxy::worker::{self, BoundListener};

/// How often the end of the last stream is looked for while shutting down.
const SHUTDOWN_POLL: Duration = Duration::from_millis(20);

/// How long connections may take to end once nothing is left to serve on them.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What ending the threads may take; the whole shutdown stays within `shutdown.timeout`.
const THREADS_END: Duration = Duration::from_millis(500);

/// Configurations that wait for the one before them to be in force.
const RELOADS_WAITING_MAX: usize = 4;

/// Connections that wait to be accepted. When a pod dies, thousands of clients may come back within one turn of the event
/// loop, and whoever finds the queue full tries again after a second, then three. The kernel's own bound
/// (`net.core.somaxconn`, 4,096 on Debian) is the one that counts: this is as much as the kernel has ever taken.
const BACKLOG: i32 = 65_535;

/// A running proxy.
#[derive(Debug)]
pub struct Running {
    readiness: Arc<Readiness>,
    listeners: Vec<(String, SocketAddr)>,
    admin: SocketAddr,
    reload: tokio::sync::mpsc::Sender<ReloadRequest>,
    leave: Option<oneshot::Sender<()>>,
    left: mpsc::Receiver<()>,
    control: Option<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

/// Checks what only the files that a configuration names can tell: keys, and endpoint files that are there.
///
/// # Errors
/// What [`start()`] would refuse for the same reason.
pub fn verify(config: &Config) -> Result<(), StartError> {
    keys::load(&config.affinity_keys)?;
    certificates::verify(config)?;
    for service in &config.services {
        sources::verify(&service.discovery)?;
    }
    sources::verify_cluster(config)
}

/// Starts the proxy: binds, reads keys and endpoint files, spawns threads. Returns when it accepts connections.
///
/// # Errors
/// Whatever keeps it from serving; nothing is left running then.
pub fn start(config: &Config, version: &str) -> Result<Running, StartError> {
    clock::now();
    rlimit::warn_if_short(rlimit::raise_limit(), config.limits.connections);
    let metrics = Metrics::new(version)?;
    let keyring = Arc::new(keys::load(&config.affinity_keys)?);
    let access_log = LogSink::open(&config.access_log)?.map(Arc::new);
    let (bound, listeners) = bind_all(config, &metrics)?;
    let streams = Arc::new(StreamRegistry::new());
    let around = Surroundings { before: None, metrics: &metrics, streams: &streams };
    let snapshot = build::snapshot(config, Files { keyring, listeners, access_log }, &around)?;
    metrics.config_loaded(clock::unix_seconds_f64());
    sources::verify_cluster(config)?;
    let firsts = snapshot.services.iter().map(|service| sources::read(&service.configuration.discovery));
    let firsts = firsts.collect::<Result<Vec<_>, _>>()?;
    let shared = Arc::new(Shared::new(snapshot, metrics, streams));
    let readiness = Arc::new(Readiness::new(Arc::clone(&shared), config.kubernetes.initial_list_timeout));
    let admin_socket = bind("admin", config.admin.address)?;
    let admin_address = admin_socket.local_addr()?;
    let listeners = bound.iter().map(|one| Ok((one.name.clone(), one.socket.local_addr()?)));
    let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
    let stop = watch::Sender::new(false);
    let mut workers = Vec::new();
    for index in 0..worker_count(config) {
        workers.push(worker::start(index, Arc::clone(&shared), &bound, stop.subscribe())?);
    }
    let (leave, leaving) = oneshot::channel();
    let (done, left) = mpsc::channel();
    let (reload, reloads) = tokio::sync::mpsc::channel(RELOADS_WAITING_MAX);
    let parts = Control { config: config.clone(), readiness: Arc::clone(&readiness), firsts, admin_socket };
    let control = control(parts, reloads, leaving, done)?;
    Ok(Running {
        readiness,
        listeners,
        admin: admin_address,
        reload,
        leave: Some(leave),
        left,
        control: Some(control),
        workers,
        stop,
    })
}

fn worker_count(config: &Config) -> usize {
    // The standard library reads the CPU quota of the control group as well as the affinity mask.
    config.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// Binds every listener and reads the files of its TLS.
fn bind_all(
    config: &Config,
    metrics: &Metrics,
) -> Result<(Vec<BoundListener>, Vec<Arc<ListenerSettings>>), StartError> {
    let mut bound = Vec::with_capacity(config.listeners.len());
    let mut settings = Vec::with_capacity(config.listeners.len());
    for (index, listener) in config.listeners.iter().enumerate() {
        let loaded = tls::load((index, listener), None)?;
        let socket = bind(&format!("listener {}", listener.name), listener.address)?;
        loaded.iter().for_each(|loaded| loaded.tell(metrics));
        settings.push(Arc::new(ListenerSettings::new(listener, loaded.map(|loaded| loaded.tls()))));
        bound.push(BoundListener { name: listener.name.clone(), index, socket });
    }
    Ok((bound, settings))
}

fn bind(name: &str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let listening = || {
        let socket = TcpListener::bind(address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    listening().map_err(|source| StartError::Bind { name: name.to_owned(), address, source })
}

struct Control {
    config: Config,
    readiness: Arc<Readiness>,
    /// Of each service of the snapshot, in its order.
    firsts: Vec<First>,
    admin_socket: TcpListener,
}

fn control(
    parts: Control,
    mut reloads: tokio::sync::mpsc::Receiver<ReloadRequest>,
    mut leave: oneshot::Receiver<()>,
    done: mpsc::Sender<()>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("control".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let readiness = parts.readiness;
            let shared = Arc::clone(readiness.shared());
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(readiness::report_missing_lists(Arc::clone(&readiness)));
            tasks.spawn(drain::run(Arc::clone(&shared)));
            match tokio::net::TcpListener::from_std(parts.admin_socket) {
                Ok(socket) => drop(tasks.spawn(admin::serve(socket, readiness))),
                Err(error) => tracing::error!(%error, "the admin port is closed"),
            }
            let mut reload = Reload::new(parts.config, Arc::clone(&shared));
            reload.begin(parts.firsts).await;
            let asked = tokio::select! {
                asked = &mut leave => asked,
                Some(never) = reload.follow(&mut reloads) => match never {},
            };
            // A dropped sender asks for the same.
            if asked.is_ok() {
                leave_gracefully(&shared).await;
            }
        });
        runtime.shutdown_timeout(Duration::from_millis(100));
        if done.send(()).is_err() {
            tracing::debug!("nobody waited for the shutdown");
        }
    })
}

/// Readiness off, still accepting for `announce`; listeners closed and streams sent away over `spread`; done when
/// nothing is left, at the latest after `timeout`.
async fn leave_gracefully(shared: &Shared) {
    let times = shared.current().shutdown.clone();
    let gone_by = clock::after(clock::now(), times.timeout.saturating_sub(THREADS_END));
    let deadline = clock::instant(gone_by);
    shared.begin_draining();
    tracing::info!(streams = shared.streams.count(), announce = ?times.announce, "leaving: readiness is off");
    tokio::time::sleep(times.announce).await;
    shared.close_listeners();
    // The last ones have as long as connections have to take their end.
    shared.streams.begin_shutdown(ShutdownTimes {
        begins: clock::now(),
        spread: times.spread,
        deadline: podpin_time::Millis(gone_by.0.saturating_sub(clock::duration_millis(LAST_WORDS))),
    });
    let mut poll = tokio::time::interval(SHUTDOWN_POLL);
    while !shared.is_idle() && tokio::time::Instant::now() < deadline {
        poll.tick().await;
    }
    // The drain writes down what it has seen.
    shared.streams.wake().notify();
    tokio::task::yield_now().await;
    shared.lifecycle.tasks.close();
    // What was written last may still be on its way out of the workers.
    let last_words = deadline.min(tokio::time::Instant::now() + LAST_WORDS);
    if tokio::time::timeout_at(last_words, shared.lifecycle.tasks.wait()).await.is_err() {
        tracing::debug!("some connections are still open");
    }
    tracing::info!(streams = shared.streams.count(), "left");
}

impl Running {
    /// The addresses in force, by listener name.
    #[must_use]
    pub fn listeners(&self) -> &[(String, SocketAddr)] {
        &self.listeners
    }

    /// The admin port's address in force.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Names of services that still wait for their first list of endpoints; empty when the proxy is ready.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<String> {
        self.readiness.waiting_for().iter().map(|service| service.name.to_string()).collect()
    }

    /// By which another configuration can be put in force.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        Reloader::new(self.reload.clone(), Arc::clone(self.readiness.shared()))
    }

    /// Leaves gracefully as the configuration's `shutdown` says; returns when everything has ended.
    pub fn stop(mut self) {
        if let Some(leave) = self.leave.take()
            && leave.send(()).is_err()
        {
            tracing::error!("the control thread ended early");
        }
        if self.left.recv().is_err() {
            tracing::error!("the control thread ended early");
        }
        self.stop.send_replace(true);
        let threads = self.workers.into_iter().chain(self.control);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread ended in a panic");
            }
        }
        if let Some(sink) = &self.readiness.shared().current().access_log {
            sink.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_crowd_that_comes_at_once_does_not_find_the_queue_full() {
        let socket = bind("test", "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        // Nobody accepts. Of a full queue the kernel drops what comes, and the deadline is never waited for otherwise.
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
        let crowd: Vec<TcpStream> = (0..500).map(connect).collect();
        assert_eq!(crowd.len(), 500);
    }
}
