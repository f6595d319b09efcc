//! Idle memory: PSS before, with all streams open, after all left, and with all of them again.
//!
//! On fresh processes for each number of streams, because churn leaves traces (that is what the last two figures show).
//! One round: it hardly varies. A few streams come and go before the first reading, so that code and tables that the
//! first stream brings in are not counted as the price of a stream.

use std::time::Duration;

use anyhow::Context;

use super::{Scene, each, progress};
use crate::certificate::Visit;
use crate::client::streams::{Streams, Wanted};
use crate::peer::Candidate;
use crate::protocol::Protocol;
use crate::report::{Measure, Report};

const WARM_UP_STREAMS: u32 = 64;
/// When the upstream connections of streams that left are counted.
const RELEASE_CHECK: Duration = Duration::from_secs(1);

/// Measures all candidates with each number of streams.
pub(crate) async fn measure(
    scene: &Scene<'_>,
    protocol: Protocol,
    streams: &[u32],
    report: &mut Report,
) -> anyhow::Result<()> {
    for count in streams {
        for candidate in scene.candidates {
            if !candidate.kind.speaks(protocol) {
                continue;
            }
            progress(&format!("memory of {count} {}streams", protocol.prefix()), candidate.kind.name());
            let readings = read(scene, candidate, protocol, *count).await;
            let readings = readings.with_context(|| format!("memory of {}", candidate.kind.name()))?;
            readings.add_to(report, candidate, protocol, *count);
        }
    }
    Ok(())
}

/// PSS in KiB, but for the last two.
struct Readings {
    before: u64,
    with: u64,
    after: u64,
    again: u64,
    opening_cpu_ns: u64,
    /// Upstream connections still open a second after the last client left.
    held: u64,
}

async fn read(
    scene: &Scene<'_>,
    candidate: &Candidate,
    protocol: Protocol,
    count: u32,
) -> anyhow::Result<Readings> {
    let peer = scene.start(candidate).await?;
    let target = scene.target(&peer, protocol, Visit::First)?;
    let wanted = |count| Wanted::new(target.clone(), count, 0);
    let rest = scene.plan.memory_rest;
    Streams::open(wanted(WARM_UP_STREAMS)).await?.close().await;
    scene.end_what_is_held().await?;
    tokio::time::sleep(rest / 2).await;

    let before = peer.pss_kib()?;
    let cpu_before = peer.cpu_ns()?;
    let streams = Streams::open(wanted(count)).await?;
    let opening_cpu_ns = peer.cpu_ns()? - cpu_before;
    tokio::time::sleep(rest).await;
    let with = peer.pss_kib()?;
    streams.check_all_open()?;
    streams.close().await;

    tokio::time::sleep(RELEASE_CHECK).await;
    let held = scene.pods.streams()?;
    tokio::time::sleep(rest).await;
    let after = peer.pss_kib()?;
    scene.end_what_is_held().await?;

    let streams = Streams::open(wanted(count)).await?;
    tokio::time::sleep(rest).await;
    let again = peer.pss_kib()?;
    streams.check_all_open()?;
    streams.close().await;
    scene.end_what_is_held().await?;
    Ok(Readings { before, with, after, again, opening_cpu_ns, held })
}

impl Readings {
    fn add_to(&self, report: &mut Report, candidate: &Candidate, protocol: Protocol, count: u32) {
        let prefix = protocol.prefix();
        let mut add = |name: &str, unit, digits, figure| {
            report.add(
                &Measure::new(format!("{count} idle {prefix}streams: {name}"), unit, digits),
                candidate.kind,
                figure,
            );
        };
        let per_stream = |with: u64| with.saturating_sub(self.before) as f64 / f64::from(count);
        add("each", "KiB", 2, per_stream(self.with));
        add("each, second wave", "KiB", 2, per_stream(self.again));
        add("PSS before", "MiB", 1, each(self.before, 1, 1024.0));
        add("PSS with all", "MiB", 1, each(self.with, 1, 1024.0));
        add("PSS after all left", "MiB", 1, each(self.after, 1, 1024.0));
        add("opening, CPU each", "µs", 1, each(self.opening_cpu_ns, u64::from(count), 1e3));
        add("upstreams held 1 s after", "", 0, self.held as f64);
    }
}
