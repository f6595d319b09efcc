//! CPU for each new client: a new connection, a request without a cookie, an answer that brings one.
//!
//! The relay gives no sessions and is left out.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::task::JoinSet;

use super::{Scene, each, progress};
use crate::cli::SessionsArgs;
use crate::client::http::{Connection, small_request};
use crate::client::socket::connect;
use crate::peer::Peer;
use crate::report::{Measure, Report};

const AT_ONCE: u32 = 16;
/// After the last answer, for the closing of its connection.
const CLOSING: Duration = Duration::from_millis(50);

/// Measures all `peers` that give sessions, round by round.
pub(crate) async fn measure(
    scene: &Scene<'_>,
    peers: &[Peer],
    arguments: &SessionsArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let cpu = Measure::new("new connection and session: CPU", "µs", 1);
    let count = arguments.count.unwrap_or(scene.plan.sessions);
    for round in 1..=scene.plan.rounds {
        for peer in peers.iter().filter(|peer| peer.kind.knows_http()) {
            progress(&format!("sessions, round {round}"), peer.kind.name());
            let cpu_ns =
                read(peer, count).await.with_context(|| format!("sessions of {}", peer.kind.name()))?;
            report.add(&cpu, peer.kind, each(cpu_ns, u64::from(count), 1e3));
        }
    }
    Ok(())
}

async fn read(peer: &Peer, count: u32) -> anyhow::Result<u64> {
    // Tables grown and upstream connections opened before the count begins.
    open_sessions(peer.http, AT_ONCE * 4).await?;
    let cpu_ns = peer.cpu_ns()?;
    open_sessions(peer.http, count).await?;
    tokio::time::sleep(CLOSING).await;
    Ok(peer.cpu_ns()? - cpu_ns)
}

async fn open_sessions(target: SocketAddr, count: u32) -> anyhow::Result<()> {
    let left = Rc::new(Cell::new(count));
    let mut tasks = JoinSet::new();
    for _ in 0..AT_ONCE {
        let left = Rc::clone(&left);
        tasks.spawn_local(async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                open_session(target).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

async fn open_session(target: SocketAddr) -> anyhow::Result<()> {
    let mut connection = Connection::new(connect(target).await?);
    let answer = connection.exchange(&small_request(None)).await?;
    if answer.cookie.is_none() {
        bail!("no cookie for a new client");
    }
    Ok(())
}
