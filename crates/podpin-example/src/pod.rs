//! A pod: a listener with its connections on a thread of its own, so that stopping it is as abrupt as a crash.
//!
//! Every connection of the pod is a task of the pod's own runtime. Dropping that runtime closes all of them in the
//! middle of whatever they were sending, which no graceful shutdown of an HTTP server would do. Several pods in one
//! process share nothing but the [`Log`].
//!
//! ```text
//! Serving --retire--> Retiring --end--> Ending --(streams are done, or too late)--> gone
//!    \__________________________cut____________________________________________/
//! ```

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::control::DemoControl;
use crate::log::Log;
use crate::routes;
use crate::session::Sessions;

/// How a pod is started.
#[derive(Clone)]
pub struct PodSettings {
    /// The name that the pod gives itself in events and answers.
    pub name: String,
    /// Where it listens; port 0 chooses a free one.
    pub listen: SocketAddr,
    /// The log it serves from, shared with the other pods.
    pub log: Arc<Log>,
    /// The control of the demo page over the pods; `None` if the page gets a 404.
    pub control: Option<Arc<dyn DemoControl>>,
    /// A stream that is silent for so long gets a comment.
    pub keep_alive: Duration,
}

/// Well below any proxy's limit for silence (30 s in `deploy/example`, 60 s in nginx), and next to nothing to send.
const KEEP_ALIVE_DEFAULT: Duration = Duration::from_secs(10);

impl PodSettings {
    /// A pod without demo control.
    #[must_use]
    pub fn new(name: &str, listen: SocketAddr, log: Arc<Log>) -> Self {
        Self { name: name.to_owned(), listen, log, control: None, keep_alive: KEEP_ALIVE_DEFAULT }
    }
}

/// A running pod. Dropping it stops it as [`ExamplePod::stop`] does.
pub struct ExamplePod {
    pod: Arc<Pod>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl ExamplePod {
    /// Starts a pod; it accepts connections when this returns.
    ///
    /// # Errors
    /// When the address cannot be bound or the thread not be started.
    pub fn start(settings: PodSettings) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let pod = Arc::new(Pod::new(settings));
        let served = Arc::clone(&pod);
        let thread = std::thread::Builder::new()
            .name(format!("pod {}", pod.name))
            .spawn(move || serve(served, listener, runtime))?;
        Ok(Self { pod, address, thread: Some(thread) })
    }

    /// The name it was started with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.pod.name
    }

    /// Where it listens, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Event streams open now.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.pod.open_streams.load(Ordering::Relaxed)
    }

    /// Stops abruptly: the listener closes and every connection is cut, streams without their last chunk.
    ///
    /// All of it has happened when this returns. Must not be called on the pod's own thread.
    pub fn stop(self) {
        drop(self);
    }

    /// Says on `/healthz` that the pod will end (503), and goes on serving.
    pub fn retire(&self) {
        self.pod.phase.send_if_modified(|phase| advance(phase, Phase::Retiring));
    }

    /// Ends in good order: the listener closes, streams end with their last chunk, open requests are answered.
    /// What is still open after `patience` is cut.
    pub async fn end(self, patience: Duration) {
        self.pod.phase.send_if_modified(|phase| advance(phase, Phase::Ending));
        let closed = self.pod.phase.subscribe();
        tokio::time::timeout(patience, until(closed, Phase::Gone)).await.ok();
    }
}

impl Drop for ExamplePod {
    fn drop(&mut self) {
        self.pod.phase.send_if_modified(|phase| advance(phase, Phase::Cut));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(pod = self.pod.name, "the pod's thread panicked");
        }
    }
}

/// How far a pod has come; never backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Not ready, but serving.
    Retiring,
    /// Streams end, nothing new is accepted.
    Ending,
    /// Everything is dropped where it stands.
    Cut,
    /// The server is done.
    Gone,
}

/// State of the pod that its routes share.
pub(crate) struct Pod {
    pub(crate) name: String,
    /// The name as a JSON string, for the event frames.
    pub(crate) name_json: String,
    pub(crate) log: Arc<Log>,
    pub(crate) control: Option<Arc<dyn DemoControl>>,
    pub(crate) keep_alive: Duration,
    pub(crate) sessions: Sessions,
    pub(crate) open_streams: AtomicUsize,
    pub(crate) phase: watch::Sender<Phase>,
}

impl Pod {
    fn new(settings: PodSettings) -> Self {
        Self {
            name_json: serde_json::Value::from(settings.name.as_str()).to_string(),
            name: settings.name,
            log: settings.log,
            control: settings.control,
            keep_alive: settings.keep_alive,
            sessions: Sessions::default(),
            open_streams: AtomicUsize::new(0),
            phase: watch::Sender::new(Phase::Serving),
        }
    }
}

fn serve(pod: Arc<Pod>, listener: TcpListener, runtime: Runtime) {
    let phase = &pod.phase;
    let served = runtime.block_on(async {
        // An event is a small write that nothing follows: Nagle's algorithm would hold it back.
        let listener = tokio::net::TcpListener::from_std(listener)?.tap_io(|connection| {
            if let Err(error) = connection.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY was refused");
            }
        });
        let server = axum::serve(listener, routes::router(Arc::clone(&pod)))
            .with_graceful_shutdown(until(phase.subscribe(), Phase::Ending));
        tokio::select! {
            served = server => served,
            () = until(phase.subscribe(), Phase::Cut) => Ok(()),
        }
    });
    if let Err(error) = served {
        tracing::error!(pod = pod.name, %error, "the pod cannot serve");
    }
    drop(runtime);
    phase.send_replace(Phase::Gone);
}

/// Waits for exactly this phase: a pod that is cut has skipped the good order of `Ending`.
async fn until(mut phase: watch::Receiver<Phase>, reached: Phase) {
    // The sender lives as long as the pod, whose end is the same to the caller.
    phase.wait_for(|phase| *phase == reached).await.ok();
}

fn advance(phase: &mut Phase, to: Phase) -> bool {
    let forward = *phase < to;
    if forward {
        *phase = to;
    }
    forward
}
