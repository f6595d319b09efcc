//! The measurements. Each of them goes through the peers round by round, so that a slow minute of the machine hits
//! all of them.

pub(crate) mod burst;
mod churn;
pub(crate) mod events;
pub(crate) mod http2;
pub(crate) mod kill;
pub(crate) mod latency;
pub(crate) mod memory;
pub(crate) mod reload;
pub(crate) mod requests;
pub(crate) mod scale;
pub(crate) mod sessions;
pub(crate) mod websockets;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::certificate::{Certificate, Visit};
use crate::client::target::Target;
use crate::peer::{Candidate, Peer, Setting};
use crate::peer_config::{Beside, Upkeep};
use crate::plan::Plan;
use crate::pods::Pods;
use crate::protocol::Protocol;

/// The inputs of every measurement.
pub(crate) struct Scene<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) pods: &'a Pods,
    pub(crate) candidates: &'a [Candidate],
    /// For files of the peers.
    pub(crate) directory: &'a Path,
    /// The certificate that all peers show to clients; `None` if TLS is not measured.
    pub(crate) certificate: Option<&'a Certificate>,
}

impl Scene<'_> {
    /// Starts all candidates; they idle while another is measured.
    pub(crate) async fn start_all(&self) -> anyhow::Result<Vec<Peer>> {
        let mut peers = Vec::new();
        for candidate in self.candidates {
            peers.push(self.start(candidate).await?);
        }
        Ok(peers)
    }

    /// Starts one candidate.
    pub(crate) async fn start(&self, candidate: &Candidate) -> anyhow::Result<Peer> {
        Peer::start(candidate, self.pods.addresses(), self.setting(self.directory.to_owned())).await
    }

    /// Starts one that knows much more than what it is asked for.
    pub(crate) async fn start_beside(&self, candidate: &Candidate, beside: Beside) -> anyhow::Result<Peer> {
        let setting = Setting { beside, ..self.setting(self.own_directory(&beside.name())?) };
        Peer::start(candidate, self.pods.addresses(), setting).await
    }

    /// Starts one before these `pods` whose files are in a directory of that name.
    pub(crate) async fn start_apart(
        &self,
        candidate: &Candidate,
        name: &str,
        pods: &[SocketAddr],
        upkeep: Upkeep,
    ) -> anyhow::Result<Peer> {
        let setting = Setting { upkeep, ..self.setting(self.own_directory(name)?) };
        Peer::start(candidate, pods, setting).await
    }

    fn own_directory(&self, name: &str) -> anyhow::Result<PathBuf> {
        let directory = self.directory.join(name);
        std::fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(directory)
    }

    fn setting(&self, directory: PathBuf) -> Setting {
        let certificate = self.certificate.cloned();
        Setting { directory, certificate, beside: Beside::Nothing, upkeep: Upkeep::Left }
    }

    /// Ends what the pods still hold. A proxy that keeps upstreams of clients that left would run out of descriptors at the
    /// next wave, and keep the pods busy for the next peer.
    ///
    /// # Errors
    /// If they do not end, or a pod is gone.
    pub(crate) async fn end_what_is_held(&self) -> anyhow::Result<()> {
        for _ in 0..100 {
            if self.pods.streams()? == 0 {
                return Ok(());
            }
            self.pods.end_streams()?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("the pods' streams do not end")
    }

    /// Where clients of `protocol` reach `peer`; over TLS with no ticket yet.
    pub(crate) fn target(&self, peer: &Peer, protocol: Protocol, visit: Visit) -> anyhow::Result<Target> {
        let tls = if protocol.is_tls() {
            let certificate = self.certificate.context("the peers have no certificate")?;
            Some(certificate.client(protocol, visit)?)
        } else {
            None
        };
        Ok(Target { address: peer.address(protocol), protocol, tls })
    }
}

/// Which of a peer's CPU time counts: [`Peer::cpu_ns`] or [`Peer::worker_cpu_ns`].
type CpuReading = fn(&Peer) -> anyhow::Result<u64>;

/// Says on standard error what is being measured; the table goes to standard output.
fn progress(what: &str, peer: &str) {
    eprintln!("  {what}: {peer}");
}

/// `total` for each of `count`, scaled by `unit` (1e3 makes ns to µs).
fn each(total: u64, count: u64, unit: f64) -> f64 {
    total as f64 / unit / (count.max(1)) as f64
}
