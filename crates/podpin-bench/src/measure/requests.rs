//! CPU for each small request on a keep-alive connection, the client's cookie pinning it.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::Context;
use tokio::task::JoinSet;

use super::{CpuReading, Scene, each, progress};
use crate::certificate::Visit;
use crate::cli::RequestsArgs;
use crate::client::http::{Connection, small_request};
use crate::peer::Peer;
use crate::report::{Measure, Report};

/// Measures all `peers`, round by round.
pub(crate) async fn measure(
    scene: &Scene<'_>,
    peers: &[Peer],
    arguments: &RequestsArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let protocol = arguments.security.http1();
    let prefix = protocol.prefix();
    let cpu = Measure::new(format!("{prefix}keep-alive request with cookie: CPU"), "µs", 1);
    let rate = Measure::new(format!("{prefix}keep-alive requests"), "1/s", 0);
    for round in 1..=scene.plan.rounds {
        for peer in peers.iter().filter(|peer| peer.kind.speaks(protocol)) {
            progress(&format!("{}requests, round {round}", protocol.prefix()), peer.kind.name());
            let window = read(scene, peer, arguments, Peer::cpu_ns).await;
            let (cpu_ns, requests) = window.with_context(|| format!("requests to {}", peer.kind.name()))?;
            report.add(&cpu, peer.kind, each(cpu_ns, requests, 1e3));
            report.add(&rate, peer.kind, requests as f64 / scene.plan.requests_window.as_secs_f64());
        }
    }
    Ok(())
}

/// CPU in ns, as `cpu` reads it, and requests within the window.
pub(super) async fn read(
    scene: &Scene<'_>,
    peer: &Peer,
    arguments: &RequestsArgs,
    cpu: CpuReading,
) -> anyhow::Result<(u64, u64)> {
    let answers = Rc::new(Cell::new(0_u64));
    let target = scene.target(peer, arguments.security.http1(), Visit::First)?;
    let mut tasks = JoinSet::new();
    for _ in 0..arguments.connections {
        let mut connection = Connection::new(target.connect().await?);
        let first = connection.exchange(&small_request(None)).await?;
        if peer.kind.knows_http() && first.cookie.is_none() {
            anyhow::bail!("no cookie for a new client");
        }
        let request = small_request(first.cookie.as_deref());
        tasks.spawn_local(repeat(connection, request, Rc::clone(&answers)));
    }
    let measured = async {
        tokio::time::sleep(scene.plan.warm_up / 2).await;
        let (requests, cpu_ns) = (answers.get(), cpu(peer)?);
        tokio::time::sleep(scene.plan.requests_window).await;
        Ok((cpu(peer)? - cpu_ns, answers.get() - requests))
    };
    let outcome = tokio::select! {
        measured = measured => measured,
        Some(ended) = tasks.join_next() => Err(ended.unwrap_or_else(Into::into)),
    };
    tasks.shutdown().await;
    outcome
}

/// Asks again and again; ends only with an error.
async fn repeat(mut connection: Connection, request: String, answers: Rc<Cell<u64>>) -> anyhow::Error {
    loop {
        match connection.exchange(&request).await {
            Ok(_) => answers.set(answers.get() + 1),
            Err(error) => return error,
        }
    }
}
