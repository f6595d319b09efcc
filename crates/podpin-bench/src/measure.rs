//! What is measured. Each measurement goes through the peers round by round, so that a slow minute of the machine hits
//! all of them.

pub(crate) mod burst;
pub(crate) mod events;
pub(crate) mod latency;
pub(crate) mod memory;
pub(crate) mod requests;
pub(crate) mod scale;
pub(crate) mod sessions;

use std::path::Path;

use anyhow::Context;

use crate::certificate::{Certificate, Visit};
use crate::client::target::{Protocol, Target};
use crate::peer::{Candidate, Peer};
use crate::peer_config::Beside;
use crate::plan::Plan;
use crate::pods::Pods;

/// What every measurement works with.
pub(crate) struct Scene<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) pods: &'a Pods,
    pub(crate) candidates: &'a [Candidate],
    /// For files of the peers.
    pub(crate) directory: &'a Path,
    /// What all peers show to clients of TLS, if that is measured.
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
        Peer::start(candidate, self.pods, self.directory, self.certificate, Beside::Nothing).await
    }

    /// Starts one that knows much more than what it is asked for.
    pub(crate) async fn start_beside(&self, candidate: &Candidate, beside: Beside) -> anyhow::Result<Peer> {
        // podpin follows its configuration: one file for several of them would be a reload.
        let directory = self.directory.join(beside.name());
        std::fs::create_dir(&directory)?;
        Peer::start(candidate, self.pods, &directory, self.certificate, beside).await
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

/// Says on standard error what is being measured; the table goes to standard output.
fn progress(what: &str, peer: &str) {
    eprintln!("  {what}: {peer}");
}

/// `total` for each of `count`, scaled by `unit` (1e3 makes ns to µs).
fn each(total: u64, count: u64, unit: f64) -> f64 {
    total as f64 / unit / (count.max(1)) as f64
}
