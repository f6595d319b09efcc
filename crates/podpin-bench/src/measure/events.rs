//! CPU for each event that a client received, with many streams at a steady rate.

use std::time::Duration;

use anyhow::Context;

use super::{Scene, each, progress};
use crate::certificate::Visit;
use crate::cli::EventsArgs;
use crate::client::request::Accept;
use crate::client::streams::{Streams, Wanted};
use crate::peer::Peer;
use crate::protocol::Protocol;
use crate::report::{Measure, Report};

/// A load of events at a steady rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) protocol: Protocol,
    pub(super) streams: u32,
    /// Events a second on each stream.
    pub(super) rate: u32,
    /// Streams that share a connection, over HTTP/2.
    pub(super) on_a_connection: u32,
    pub(super) accept: Accept,
}

/// Measures all `peers`, round by round.
pub(crate) async fn measure(
    scene: &Scene<'_>,
    peers: &[Peer],
    arguments: &EventsArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let protocol = arguments.security.http1();
    let EventsArgs { streams, rate, .. } = *arguments;
    let load = Load { protocol, streams, rate, on_a_connection: 1, accept: Accept::EventStream };
    let name = format!("event, {streams} {}streams x {rate}/s", protocol.prefix());
    let cpu = Measure::new(format!("{name}: CPU"), "µs", 1);
    let delivered = Measure::new(format!("{name}: delivered"), "%", 0);
    for round in 1..=scene.plan.rounds {
        for peer in peers.iter().filter(|peer| peer.kind.speaks(protocol)) {
            progress(&format!("{}events, round {round}", protocol.prefix()), peer.kind.name());
            let window = read(scene, peer, load).await;
            let (cpu_ns, events, share) =
                window.with_context(|| format!("events of {}", peer.kind.name()))?;
            report.add(&cpu, peer.kind, each(cpu_ns, events, 1e3));
            report.add(&delivered, peer.kind, share * 100.0);
        }
    }
    Ok(())
}

/// The first event after that of the opening comes within two periods (`ticks` in `pod.rs`).
fn until_all_flow(rate: u32) -> Duration {
    Duration::from_secs(2) / rate.max(1)
}

/// CPU in ns and events within the window, and the share of the events that the rate promises. A share far below one
/// says that the machine was too busy for the load, not that events were lost.
pub(super) async fn read(scene: &Scene<'_>, peer: &Peer, load: Load) -> anyhow::Result<(u64, u64, f64)> {
    let Load { protocol, streams: count, rate, on_a_connection, accept } = load;
    let target = scene.target(peer, protocol, Visit::First)?;
    let streams =
        Streams::open(Wanted { on_a_connection, accept, ..Wanted::new(target, count, rate) }).await?;
    tokio::time::sleep(scene.plan.warm_up.max(until_all_flow(rate))).await;
    let (events, cpu_ns) = (streams.events(), peer.cpu_ns()?);
    let began = std::time::Instant::now();
    tokio::time::sleep(scene.plan.events_window).await;
    let (events, cpu_ns) = (streams.events() - events, peer.cpu_ns()? - cpu_ns);
    let promised = began.elapsed().as_secs_f64() * f64::from(count) * f64::from(rate);
    streams.check_all_open()?;
    streams.close().await;
    Ok((cpu_ns, events, events as f64 / promised))
}
