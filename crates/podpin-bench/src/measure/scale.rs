//! What a request and a session cost when the configuration is large: the same load beside a thousand routes, a thousand
//! services, ten thousand endpoints. podpin alone; flat is what it should be.

use anyhow::Context;

use super::sessions::AT_ONCE;
use super::{Scene, each, progress, requests, sessions};
use crate::certificate::Visit;
use crate::cli::{RequestsArgs, Security};
use crate::client::target::{Protocol, Target};
use crate::peer::{Peer, PeerKind};
use crate::peer_config::Beside;
use crate::report::{Measure, Report};

const SIZES: [Beside; 4] =
    [Beside::Nothing, Beside::Routes(1_000), Beside::Services(1_000), Beside::Endpoints(10_000)];

/// Measures podpin with each size, round by round.
pub(crate) async fn measure(scene: &Scene<'_>, report: &mut Report) -> anyhow::Result<()> {
    let podpin = scene.candidates.iter().find(|one| one.kind == PeerKind::Podpin).context("no podpin")?;
    let mut peers = Vec::new();
    for size in SIZES {
        let peer = scene.start_beside(podpin, size).await.with_context(|| size.name())?;
        peers.push((size.name(), peer));
    }
    // What reading the configuration took goes back first.
    tokio::time::sleep(scene.plan.memory_rest * 3).await;
    for (name, peer) in &peers {
        let memory = Measure::new(format!("{name}: PSS"), "MiB", 1);
        report.add(&memory, PeerKind::Podpin, each(peer.pss_kib()?, 1, 1024.0));
    }
    for round in 1..=scene.plan.rounds {
        for (name, peer) in &peers {
            progress(&format!("scale, round {round}"), name);
            let figures = read(scene, peer).await.with_context(|| name.clone())?;
            for (what, figure) in ["keep-alive request: CPU", "new session: CPU"].iter().zip(figures) {
                report.add(&Measure::new(format!("{name}: {what}"), "µs", 1), PeerKind::Podpin, figure);
            }
        }
    }
    Ok(())
}

/// CPU in µs of a request and of a session.
async fn read(scene: &Scene<'_>, peer: &Peer) -> anyhow::Result<[f64; 2]> {
    let arguments = RequestsArgs { connections: 16, security: Security { tls: false } };
    let (cpu_ns, count) = requests::read(scene, peer, &arguments).await?;
    let clients = (0..AT_ONCE).map(|_| scene.target(peer, Protocol::Http1, Visit::First));
    let clients: Vec<Target> = clients.collect::<anyhow::Result<_>>()?;
    let sessions_ns = sessions::read(peer, &clients, Visit::First, scene.plan.sessions).await?;
    Ok([each(cpu_ns, count, 1e3), each(sessions_ns, u64::from(scene.plan.sessions), 1e3)])
}
