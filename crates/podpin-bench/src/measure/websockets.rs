//! WebSockets beside event streams: memory of an idle one, and CPU for each message of 120 bytes.

use anyhow::Context;

use super::{Scene, each, events, progress};
use crate::certificate::Visit;
use crate::cli::WebsocketsArgs;
use crate::client::request::Accept;
use crate::client::streams::{Streams, Wanted};
use crate::peer::{Candidate, Peer};
use crate::protocol::Protocol;
use crate::report::{Measure, Report};

const WARM_UP: u32 = 64;

/// Measures memory on fresh processes of all candidates, each alone.
pub(crate) async fn memory(
    scene: &Scene<'_>,
    arguments: &WebsocketsArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let count = arguments.idle;
    let measure = Measure::new(format!("{count} idle WebSockets: each"), "KiB", 2);
    for candidate in scene.candidates {
        progress(&format!("memory of {count} WebSockets"), candidate.kind.name());
        let kib = read_memory(scene, candidate, count).await;
        let kib = kib.with_context(|| format!("memory of {}", candidate.kind.name()))?;
        report.add(&measure, candidate.kind, kib as f64 / f64::from(count));
    }
    Ok(())
}

/// KiB of PSS that so many bring in.
async fn read_memory(scene: &Scene<'_>, candidate: &Candidate, count: u32) -> anyhow::Result<u64> {
    let peer = scene.start(candidate).await?;
    let target = scene.target(&peer, Protocol::Http1, Visit::First)?;
    let wanted = |count| Wanted { accept: Accept::WebSocket, ..Wanted::new(target.clone(), count, 0) };
    let rest = scene.plan.memory_rest;
    Streams::open(wanted(WARM_UP)).await?.close().await;
    scene.end_what_is_held().await?;
    tokio::time::sleep(rest / 2).await;
    let before = peer.pss_kib()?;
    let sockets = Streams::open(wanted(count)).await?;
    tokio::time::sleep(rest).await;
    let with = peer.pss_kib()?;
    sockets.check_all_open()?;
    sockets.close().await;
    scene.end_what_is_held().await?;
    Ok(with.saturating_sub(before))
}

/// Measures CPU of all `peers`, round by round; messages and events in turn, so that both see the same machine.
pub(crate) async fn messages(
    scene: &Scene<'_>,
    peers: &[Peer],
    arguments: &WebsocketsArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let WebsocketsArgs { sockets: streams, rate, .. } = *arguments;
    for round in 1..=scene.plan.rounds {
        for peer in peers {
            progress(&format!("messages and events, round {round}"), peer.kind.name());
            for (accept, noun) in [(Accept::WebSocket, "message"), (Accept::EventStream, "event")] {
                let protocol = Protocol::Http1;
                let load = events::Load { protocol, streams, rate, on_a_connection: 1, accept };
                let window = events::read(scene, peer, load).await;
                let (cpu_ns, count, share) =
                    window.with_context(|| format!("{noun}s of {}", peer.kind.name()))?;
                let name = format!("{noun} of 120 bytes, {streams} x {rate}/s");
                report.add(
                    &Measure::new(format!("{name}: CPU"), "µs", 1),
                    peer.kind,
                    each(cpu_ns, count, 1e3),
                );
                report.add(&Measure::new(format!("{name}: delivered"), "%", 0), peer.kind, share * 100.0);
                scene.end_what_is_held().await?;
            }
        }
    }
    Ok(())
}
