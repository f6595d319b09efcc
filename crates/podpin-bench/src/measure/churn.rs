//! podpin's endpoints file, rewritten again and again with a hundredth of its endpoints replaced.
//!
//! A thread of its own writes: making a file of ten thousand lines would delay the load client otherwise.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::peer::{Peer, replace_file};
use crate::peer_config::{Beside, CHANGED_OF, ENDPOINTS_FILE, endpoints, far_endpoint};

/// From one change to the next.
pub(super) const PERIOD: Duration = Duration::from_millis(100);
/// How long the last change may take until it is in force.
const IN_FORCE_DEADLINE: Duration = Duration::from_secs(15);

/// The rewriting, until it is stopped.
pub(super) struct Churn {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<anyhow::Result<()>>>,
}

#[derive(Default)]
struct Shared {
    changes: AtomicU32,
    stopped: AtomicBool,
}

impl Churn {
    /// Begins to rewrite the file of `peer`, whose first endpoints are `pods`, where `before` changes were made already.
    pub(super) fn start(peer: &Peer, pods: &[SocketAddr], before: u32) -> Self {
        let shared = Arc::new(Shared { changes: AtomicU32::new(before), ..Shared::default() });
        let path = peer.directory().join(ENDPOINTS_FILE);
        let (writes, pods, beside) = (Arc::clone(&shared), pods.to_vec(), peer.beside());
        let writer = std::thread::spawn(move || write(&writes, &path, &pods, beside));
        Self { shared, writer: Some(writer) }
    }

    /// How many changes were made so far, those before it began among them.
    pub(super) fn changes(&self) -> u32 {
        self.shared.changes.load(Ordering::Relaxed)
    }

    /// Ends the rewriting; done when `peer` has the last change in force. Gives how many there were.
    ///
    /// # Errors
    /// When a file could not be written, or the last change is not in force in time.
    pub(super) async fn stop(mut self, peer: &Peer) -> anyhow::Result<u32> {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let writer = self.writer.take().context("it was stopped before")?;
        writer.thread().unpark();
        writer.join().map_err(|_| anyhow::anyhow!("the writer of endpoints failed"))??;
        let changes = self.changes();
        // The endpoint that the last change brought.
        let name = format!("\"{}\"", far_endpoint(changes.saturating_sub(1) % CHANGED_OF, changes));
        let deadline = Instant::now() + IN_FORCE_DEADLINE;
        while !peer.ask_admin("/api/endpoints")?.contains(&name) {
            if Instant::now() > deadline {
                bail!("{name} is not among the endpoints after {} s", IN_FORCE_DEADLINE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(changes)
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        if let Some(writer) = &self.writer {
            writer.thread().unpark();
        }
    }
}

fn write(shared: &Shared, path: &Path, pods: &[SocketAddr], beside: Beside) -> anyhow::Result<()> {
    let mut next = Instant::now() + PERIOD;
    while !shared.stopped.load(Ordering::Relaxed) {
        let changes = shared.changes.load(Ordering::Relaxed) + 1;
        let text = endpoints(pods, beside, changes);
        while let Some(left) = next.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
            if shared.stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        replace_file(path, &text)?;
        shared.changes.store(changes, Ordering::Relaxed);
        next += PERIOD;
    }
    Ok(())
}
