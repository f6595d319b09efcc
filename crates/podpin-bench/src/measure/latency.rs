//! Added latency: from the pod's write to the client's read, less the same without anything between.
//!
//! Few streams and few events, so that no event waits for a busy core. The client connects to a pod directly in each
//! round as well; a peer's figure is its percentile less the direct one's of that round.

use std::net::SocketAddr;

use anyhow::Context;

use super::{Scene, progress};
use crate::cli::LatencyArgs;
use crate::client::streams::{Streams, Wanted};
use crate::client::target::Target;
use crate::peer::Peer;
use crate::report::{Measure, Report, median, percentile};

/// Measures all `peers`, round by round.
pub(crate) async fn measure(
    scene: &Scene<'_>,
    peers: &[Peer],
    arguments: &LatencyArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let pod = *scene.pods.addresses().first().context("there is no pod")?;
    let added = [Measure::new("added latency, p50", "µs", 0), Measure::new("added latency, p99", "µs", 0)];
    let mut direct_rounds = [Vec::new(), Vec::new()];
    for round in 1..=scene.plan.rounds {
        progress(&format!("latency, round {round}"), "direct");
        let direct = read(scene, pod, arguments).await.context("latency without a proxy")?;
        for (rounds, figure) in direct_rounds.iter_mut().zip(direct) {
            rounds.push(figure);
        }
        for peer in peers {
            progress(&format!("latency, round {round}"), peer.kind.name());
            let latency = read(scene, peer.http, arguments).await;
            let latency = latency.with_context(|| format!("latency of {}", peer.kind.name()))?;
            for ((measure, with), without) in added.iter().zip(latency).zip(direct) {
                report.add(measure, peer.kind, with - without);
            }
        }
    }
    let [p50, p99] = direct_rounds.map(|rounds| median(rounds).unwrap_or(0.0));
    report.note(format!("latency without a proxy: p50 {p50:.0} µs, p99 {p99:.0} µs"));
    Ok(())
}

/// p50 and p99 in µs.
async fn read(scene: &Scene<'_>, target: SocketAddr, arguments: &LatencyArgs) -> anyhow::Result<[f64; 2]> {
    let LatencyArgs { streams: count, rate } = *arguments;
    let streams = Streams::open(Wanted::new(Target::plain(target), count, rate)).await?;
    tokio::time::sleep(scene.plan.warm_up).await;
    streams.keep_latencies();
    tokio::time::sleep(scene.plan.latency_window).await;
    let mut latencies = streams.take_latencies();
    streams.check_all_open()?;
    streams.close().await;
    latencies.sort_unstable();
    let at = |share| percentile(&latencies, share).map(|ns| ns as f64 / 1e3).context("no event came");
    Ok([at(0.5)?, at(0.99)?])
}
