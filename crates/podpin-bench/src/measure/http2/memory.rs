//! KiB of PSS for each of many that are held open, on a fresh process.

use anyhow::Context;

use super::super::{Scene, progress};
use super::MemoryCase;
use super::held::Load;
use crate::peer::Candidate;
use crate::report::Report;

/// As many come and go before the first reading, so that code and tables that they bring in are not counted.
const WARM_UP: u32 = 64;

/// Measures `count` of one kind for all candidates.
pub(super) async fn measure(
    scene: &Scene<'_>,
    case: &MemoryCase,
    count: u32,
    report: &mut Report,
) -> anyhow::Result<()> {
    for candidate in scene.candidates {
        let name = &case.measure.name;
        progress(name, candidate.kind.name());
        let kib = read(scene, candidate, &case.load, count).await;
        let kib = kib.with_context(|| format!("{name}: {}", candidate.kind.name()))?;
        report.add(&case.measure, candidate.kind, kib);
    }
    Ok(())
}

async fn read(scene: &Scene<'_>, candidate: &Candidate, load: &Load, count: u32) -> anyhow::Result<f64> {
    let peer = scene.start(candidate).await?;
    let rest = scene.plan.memory_rest;
    load.open(scene, &peer, WARM_UP).await.context("before the first reading")?.close().await;
    scene.end_what_is_held().await?;
    tokio::time::sleep(rest).await;

    let before = peer.pss_kib()?;
    let mut held = load.open(scene, &peer, count).await?;
    tokio::time::sleep(rest).await;
    let with = peer.pss_kib()?;
    held.check()?;
    held.close().await;
    scene.end_what_is_held().await?;
    Ok(with.saturating_sub(before) as f64 / f64::from(load.whole(count)))
}
