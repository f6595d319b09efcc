//! The cost of a request and a session under a large configuration: the same load beside a thousand routes, a thousand
//! services, ten thousand endpoints, and beside ten thousand of which a hundredth is replaced ten times a second. podpin
//! alone; flat is what it should be.
//!
//! A change is the work of other threads, so beside changes only the time of the workers counts for a request or a session;
//! what a change costs all threads is a figure of its own.

use anyhow::Context;

use super::churn::{Churn, PERIOD};
use super::sessions::AT_ONCE;
use super::{CpuReading, Scene, each, progress, requests, sessions};
use crate::certificate::Visit;
use crate::cli::{RequestsArgs, Security};
use crate::client::target::Target;
use crate::peer::Peer;
use crate::peer_config::{Beside, CHANGED_OF};
use crate::peer_kind::PeerKind;
use crate::protocol::Protocol;
use crate::report::{Measure, Report};

const SIZES: [Beside; 4] =
    [Beside::Nothing, Beside::Routes(1_000), Beside::Services(1_000), Beside::Endpoints(10_000)];

/// Measures podpin with each size, round by round.
pub(crate) async fn measure(scene: &Scene<'_>, report: &mut Report) -> anyhow::Result<()> {
    let podpin = scene.candidates.iter().find(|one| one.kind == PeerKind::Podpin).context("no podpin")?;
    let mut peers = Vec::new();
    for size in SIZES {
        peers.push(scene.start_beside(podpin, size).await.with_context(|| size.name())?);
    }
    // What reading the configuration took goes back first.
    tokio::time::sleep(scene.plan.memory_rest * 3).await;
    for peer in &peers {
        let memory = Measure::new(format!("{}: PSS", peer.beside().name()), "MiB", 1);
        report.add(&memory, PeerKind::Podpin, each(peer.pss_kib()?, 1, 1024.0));
    }
    let mut changes = 0;
    for round in 1..=scene.plan.rounds {
        for peer in &peers {
            let name = peer.beside().name();
            progress(&format!("scale, round {round}"), &name);
            let figures = read(scene, peer, Peer::cpu_ns).await.with_context(|| name.clone())?;
            add(report, &name, figures);
            if let Beside::Endpoints(_) = peer.beside() {
                changes = read_beside_changes(scene, peer, changes, report).await?;
            }
        }
    }
    Ok(())
}

fn add(report: &mut Report, beside: &str, figures: [f64; 2]) {
    for (what, figure) in ["keep-alive request: CPU", "new session: CPU"].iter().zip(figures) {
        report.add(&Measure::new(format!("{beside}: {what}"), "µs", 1), PeerKind::Podpin, figure);
    }
}

/// The same while endpoints change, and what a change costs; `before` were made already. Gives how many were made then.
async fn read_beside_changes(
    scene: &Scene<'_>,
    peer: &Peer,
    before: u32,
    report: &mut Report,
) -> anyhow::Result<u32> {
    let share = 100 / CHANGED_OF;
    let name = format!("{}, {share} % replaced every {} ms", peer.beside().name(), PERIOD.as_millis());
    progress("scale", &name);
    let churn = Churn::start(peer, scene.pods.addresses(), before);
    tokio::time::sleep(scene.plan.warm_up).await;
    let (changes, all_ns, workers_ns) = (churn.changes(), peer.cpu_ns()?, peer.worker_cpu_ns()?);
    tokio::time::sleep(scene.plan.events_window).await;
    let changes = u64::from(churn.changes() - changes);
    let costs =
        [("CPU", peer.cpu_ns()? - all_ns), ("CPU of the workers", peer.worker_cpu_ns()? - workers_ns)];
    for (what, ns) in costs {
        let measure = Measure::new(format!("{name}: one change: {what}"), "ms", 2);
        report.add(&measure, PeerKind::Podpin, each(ns, changes, 1e6));
    }
    let figures = read(scene, peer, Peer::worker_cpu_ns).await.with_context(|| name.clone())?;
    add(report, &name, figures);
    churn.stop(peer).await.context(name)
}

/// CPU in µs of a request and of a session, as `cpu` reads it.
async fn read(scene: &Scene<'_>, peer: &Peer, cpu: CpuReading) -> anyhow::Result<[f64; 2]> {
    let arguments = RequestsArgs { connections: 16, security: Security { tls: false } };
    let (cpu_ns, count) = requests::read(scene, peer, requests::Load::of(&arguments), cpu).await?;
    let clients = (0..AT_ONCE).map(|_| scene.target(peer, Protocol::Http1, Visit::First));
    let clients: Vec<Target> = clients.collect::<anyhow::Result<_>>()?;
    let sessions_ns = sessions::read(peer, &clients, Visit::First, scene.plan.sessions, cpu).await?;
    Ok([each(cpu_ns, count, 1e3), each(sessions_ns, u64::from(scene.plan.sessions), 1e3)])
}
