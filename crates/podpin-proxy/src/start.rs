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

use arc_swap::ArcSwap;
use podpin_config::{Config, Position};
use tokio::sync::{oneshot, watch};

use crate::gateway::Gateway;
use crate::reload::{Door, Order, Reload, Reloader};
use crate::sources::First;
use crate::worker::{self, Bound, Manner};
use crate::{admin, clock, descriptors, drain, keys, sources, tls};

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

/// Why the proxy does not start, or a configuration is not put in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No `affinityKeys`.
    #[error(
        "affinityKeys is missing: without keys nobody's pin would survive a restart, and replicas would not agree.\n\
         Write a key with `podpin keygen --out keys/k1` and configure\n  affinityKeys:\n    - {{id: k1, file: keys/k1}}\n\
         or, where that does not matter, `affinityKeys: ephemeral`"
    )]
    NoKeys,
    /// A key file cannot be read.
    #[error("affinityKeys: {file}: {source}")]
    KeyFile {
        /// Where the configuration names it.
        at: Position,
        /// The file.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// A key file does not hold a usable key.
    #[error("affinityKeys: {file}: {error}")]
    Key {
        /// Where the configuration names it; `None` for keys together.
        at: Option<Position>,
        /// The file.
        file: String,
        /// What is wrong with it.
        error: String,
    },
    /// The TLS of a listener or to the pods of a service cannot be had from its files.
    #[error("{path}: {error}")]
    Tls {
        /// Where the configuration names the file.
        at: Position,
        /// `listeners[0].tls.certificates[1].certFile`
        path: String,
        /// The file and what is wrong with it.
        error: String,
    },
    /// An endpoints file is there but cannot be understood.
    #[error("{0}")]
    Endpoints(String),
    /// There is no Kubernetes cluster to follow.
    #[error("{0}")]
    Cluster(String),
    /// A listener's address cannot be bound.
    #[error("{name}: cannot listen on {address}: {source}")]
    Bind {
        /// `listener http`, `admin`.
        name: String,
        /// The address asked for.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The operating system gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
    /// Two metrics of one name: a bug.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The access log, or a thread.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl StartError {
    /// Where the configuration says what does not work.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            StartError::KeyFile { at, .. } | StartError::Tls { at, .. } => Some(*at),
            StartError::Key { at, .. } => *at,
            StartError::NoKeys
            | StartError::Cluster(_)
            | StartError::Endpoints(_)
            | StartError::Bind { .. }
            | StartError::Random(_)
            | StartError::Metrics(_)
            | StartError::Io(_) => None,
        }
    }

    /// The operator's input is at fault (exit code 1), not the machine.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        !matches!(self, StartError::Metrics(_) | StartError::Random(_))
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct Running {
    gateway: Arc<Gateway>,
    listeners: Vec<(String, SocketAddr)>,
    admin: SocketAddr,
    reload: tokio::sync::mpsc::Sender<Order>,
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
    tls::verify(config)?;
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
    descriptors::warn_if_short(descriptors::raise_limit(), config.limits.connections);
    let gateway = Arc::new(Gateway::new(config, version)?);
    sources::verify_cluster(config)?;
    let site = gateway.site();
    let firsts = site.services.iter().map(|service| sources::read(&service.configuration.discovery));
    let firsts = firsts.collect::<Result<Vec<_>, _>>()?;
    let bound = bind_all(config, &gateway)?;
    let admin_socket = bind("admin", config.admin.address)?;
    let admin_address = admin_socket.local_addr()?;
    let listeners = bound.iter().map(|one| Ok((one.name.clone(), one.socket.local_addr()?)));
    let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
    let stop = watch::Sender::new(false);
    let mut workers = Vec::new();
    for index in 0..worker_count(config) {
        workers.push(worker::start(index, Arc::clone(&gateway), &bound, stop.subscribe())?);
    }
    let doors = bound.into_iter().map(|one| (one.name, one.manner)).collect();
    let (leave, leaving) = oneshot::channel();
    let (done, left) = mpsc::channel();
    let (reload, reloads) = tokio::sync::mpsc::channel(RELOADS_WAITING_MAX);
    let parts =
        Control { config: config.clone(), gateway: Arc::clone(&gateway), firsts, doors, admin_socket };
    let control = control(parts, reloads, leaving, done)?;
    Ok(Running {
        gateway,
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

fn bind_all(config: &Config, gateway: &Gateway) -> Result<Vec<Bound>, StartError> {
    let listeners = config.listeners.iter().enumerate();
    let bound = listeners.map(|(index, listener)| {
        let loaded = tls::load((index, listener), None)?;
        let socket = bind(&format!("listener {}", listener.name), listener.address)?;
        loaded.iter().for_each(|loaded| loaded.tell(&gateway.metrics));
        let manner = Manner::new(listener, loaded.map(|loaded| loaded.tls));
        Ok(Bound { name: listener.name.clone(), manner: Arc::new(ArcSwap::from_pointee(manner)), socket })
    });
    bound.collect()
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
    gateway: Arc<Gateway>,
    /// Of each service of the site, in its order.
    firsts: Vec<First>,
    doors: Vec<Door>,
    admin_socket: TcpListener,
}

fn control(
    parts: Control,
    mut reloads: tokio::sync::mpsc::Receiver<Order>,
    mut leave: oneshot::Receiver<()>,
    done: mpsc::Sender<()>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("control".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let gateway = Arc::clone(&parts.gateway);
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(admin::watch_readiness(Arc::clone(&gateway)));
            tasks.spawn(drain::run(Arc::clone(&gateway)));
            match tokio::net::TcpListener::from_std(parts.admin_socket) {
                Ok(socket) => drop(tasks.spawn(admin::serve(socket, Arc::clone(&gateway)))),
                Err(error) => tracing::error!(%error, "the admin port is closed"),
            }
            let mut reload = Reload::new(parts.config, parts.gateway, parts.doors);
            reload.begin(parts.firsts).await;
            let asked = tokio::select! {
                asked = &mut leave => asked,
                Some(never) = reload.follow(&mut reloads) => match never {},
            };
            // A dropped sender asks for the same.
            if asked.is_ok() {
                leave_gracefully(&gateway).await;
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
async fn leave_gracefully(gateway: &Gateway) {
    let times = gateway.site().shutdown.clone();
    let gone_by = clock::after(clock::now(), times.timeout.saturating_sub(THREADS_END));
    let deadline = clock::instant(gone_by);
    gateway.begin_leaving();
    tracing::info!(streams = gateway.streams.count(), announce = ?times.announce, "leaving: readiness is off");
    tokio::time::sleep(times.announce).await;
    gateway.close_listeners();
    // The last ones have as long as connections have to take their end.
    gateway.send_streams_away(
        times.spread,
        podpin_endpoints::Millis(gone_by.0.saturating_sub(clock::duration_millis(LAST_WORDS))),
    );
    let mut poll = tokio::time::interval(SHUTDOWN_POLL);
    while !gateway.is_idle() && tokio::time::Instant::now() < deadline {
        poll.tick().await;
    }
    // The drain writes down what it has seen.
    gateway.drain_wake.notify_one();
    tokio::task::yield_now().await;
    gateway.tasks.close();
    // What was written last may still be on its way out of the workers.
    let last_words = deadline.min(tokio::time::Instant::now() + LAST_WORDS);
    if tokio::time::timeout_at(last_words, gateway.tasks.wait()).await.is_err() {
        tracing::debug!("some connections are still open");
    }
    tracing::info!(streams = gateway.streams.count(), "left");
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
        self.gateway.waiting_for().iter().map(|service| service.name.to_string()).collect()
    }

    /// By which another configuration can be put in force.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        Reloader::new(self.reload.clone(), Arc::clone(&self.gateway))
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
        self.gateway.access_log.flush();
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
