//! The server of a pod: a listener with its connections on a thread of its own, so that stopping it is as abrupt as a crash.
//!
//! Every connection of the pod is a task of the pod's own runtime. Dropping that runtime closes all of them in the
//! middle of whatever they were sending, which no graceful shutdown of an HTTP server would do. Several pods in one
//! process share nothing but the [`Log`](crate::Log).
//!
//! ```text
//! Serving --retire--> Retiring --end--> Ending --(streams are done, or too late)--> gone
//!    \__________________________cut____________________________________________/
//! ```

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::pod::{Phase, Pod, PodSettings, advance};
use crate::routes;

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
