//! Six reloads under many streams: what they do to memory, to the streams of pods that stay, and to new requests.
//!
//! The first reload removes the last pod, the second brings it back, and so on. The clients are those of
//! `client/returning.rs`; after each reload a seventh of them, others each time, closes its stream and comes again, as
//! clients come and go: without them an old process would have no streams but those from before the first reload. What
//! happens to the streams of the pod that was removed is each proxy's way: nginx and HAProxy leave them to an old process,
//! podpin moves them over `drain.spread`. One round: it hardly varies. The relay and Envoy are left out.
//!
//! Some requests and a reload that takes a fourth pod from a few streams come before the first reading, so that code and
//! tables that they bring in are not counted as growth. (The last pod cannot be removed before: it would be in podpin's
//! slow start when the streams are opened, and have a tenth of them.)

use std::time::Duration;

use anyhow::{Context, bail};

use super::{Scene, each, progress};
use crate::certificate::Visit;
use crate::cli::ReloadArgs;
use crate::client::http::Connection;
use crate::client::request::Request;
use crate::client::returning::Returning;
use crate::client::streams::Wanted;
use crate::client::target::Target;
use crate::peer::{Candidate, Peer};
use crate::peer_config::Upkeep;
use crate::peer_kind::PeerKind;
use crate::protocol::Protocol;
use crate::report::{Measure, Report};

const RELOADS: usize = 6;
const WARM_UP_STREAMS: u32 = 64;
/// Requests after each removal: as many of new clients as of clients whose cookie names the removed pod.
const PROBES: usize = 100;

/// Measures all candidates that are reloaded.
pub(crate) async fn measure(
    scene: &Scene<'_>,
    arguments: &ReloadArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    for candidate in scene.candidates.iter().filter(|candidate| candidate.kind.is_reloaded()) {
        progress(&format!("{RELOADS} reloads"), candidate.kind.name());
        let readings = read(scene, candidate, arguments).await;
        let readings = readings.with_context(|| format!("reloads of {}", candidate.kind.name()))?;
        readings.add_to(report, candidate.kind, arguments.streams);
    }
    Ok(())
}

struct Readings {
    before_kib: u64,
    after_kib: u64,
    processes: usize,
    /// Streams that ended though their pod stayed.
    cut: u64,
    lost: u64,
    strays: u64,
    with_error: u64,
    /// Streams of the removed pod that ended, over all removals.
    of_removed_ended: u64,
    why: Option<String>,
}

async fn read(scene: &Scene<'_>, candidate: &Candidate, arguments: &ReloadArgs) -> anyhow::Result<Readings> {
    let ReloadArgs { streams: count, rate } = *arguments;
    let all = scene.pods.addresses();
    let removed = all.last().context("there is no pod")?;
    let directory = format!("reload-{}", candidate.kind.name());
    let (fourth, process) = scene.pods.one_more().await?;
    let peer = scene.start_apart(candidate, &directory, &[all, &[fourth]].concat(), Upkeep::Reloaded).await?;
    let target = scene.target(&peer, Protocol::Http1, Visit::First)?;
    let wanted = |count| Wanted::new(target.clone(), count, rate);
    warm_up(scene, &peer, &target, wanted(WARM_UP_STREAMS)).await.context("before the first reading")?;
    drop(process);
    let clients = Returning::open(wanted(count), Duration::ZERO).await?;
    tokio::time::sleep(scene.plan.memory_rest).await;
    if clients.ended(|_| true) > 0 {
        bail!("streams ended before a reload");
    }

    let before_kib = peer.pss_kib()?;
    let mut strays = 0;
    for number in 1..=RELOADS {
        if number % 2 == 1 {
            strays += remove(scene, &peer, &clients, &target).await?;
        } else {
            peer.reload(all).await?;
        }
        clients.renew(number, RELOADS + 1).await?;
        tokio::time::sleep(scene.plan.memory_rest).await;
    }
    tokio::time::sleep(scene.plan.memory_rest * 2).await;
    let counts = clients.counts();
    let readings = Readings {
        before_kib,
        after_kib: peer.pss_kib()?,
        processes: peer.processes(),
        cut: clients.ended(|pod| pod != removed.port()),
        lost: counts.lost,
        strays,
        with_error: counts.with_error,
        of_removed_ended: clients.ended(|pod| pod == removed.port()),
        why: clients.first_error(),
    };
    clients.close().await;
    Ok(readings)
}

/// Brings the peer from four pods to those that there are.
async fn warm_up(scene: &Scene<'_>, peer: &Peer, target: &Target, few: Wanted) -> anyhow::Result<()> {
    let clients = Returning::open(few, Duration::ZERO).await?;
    for _ in 0..PROBES {
        ask(target, None).await?;
    }
    peer.reload(scene.pods.addresses()).await?;
    tokio::time::sleep(scene.plan.memory_rest * 2).await;
    clients.renew(0, 2).await?;
    clients.close().await;
    Ok(())
}

/// Removes the last pod; gives the requests that came to it all the same once it was gone.
async fn remove(scene: &Scene<'_>, peer: &Peer, clients: &Returning, target: &Target) -> anyhow::Result<u64> {
    let all = scene.pods.addresses();
    let (removed, staying) = all.split_last().context("there is no pod")?;
    let pinned = clients.cookies_at(removed.port());
    if pinned.is_empty() {
        bail!("the pod to be removed has no client");
    }
    peer.reload(staying).await?;
    let before = scene.pods.requests(all.len() - 1)?;
    for cookie in pinned.iter().take(PROBES) {
        ask(target, Some(cookie)).await.context("a client of the removed pod")?;
    }
    for _ in 0..PROBES {
        ask(target, None).await.context("a new client")?;
    }
    // Some of those whose pod was removed come again.
    clients.renew(0, RELOADS + 1).await?;
    Ok(scene.pods.requests(all.len() - 1)? - before)
}

async fn ask(target: &Target, cookie: Option<&str>) -> anyhow::Result<()> {
    Connection::new(target.connect().await?)
        .exchange(Request::get("/", cookie).http1_head().as_bytes())
        .await
        .map(drop)
}

impl Readings {
    fn add_to(&self, report: &mut Report, column: PeerKind, streams: u32) {
        let mut add = |name: &str, unit, digits, figure| {
            let name = format!("{RELOADS} reloads, {streams} streams: {name}");
            report.add(&Measure::new(name, unit, digits), column, figure);
        };
        let growth = self.after_kib as f64 / self.before_kib.max(1) as f64 - 1.0;
        add("PSS before", "MiB", 1, each(self.before_kib, 1, 1024.0));
        add("PSS after", "MiB", 1, each(self.after_kib, 1, 1024.0));
        add("growth", "%", 1, growth * 100.0);
        add("processes after", "", 0, self.processes as f64);
        add("streams cut whose pod stays", "", 0, self.cut as f64);
        add("events lost", "", 0, self.lost as f64);
        add("strays", "", 0, self.strays as f64);
        add("clients with an error", "", 0, self.with_error as f64);
        add("streams of the removed pod that ended", "", 0, self.of_removed_ended as f64);
        if let Some(why) = &self.why {
            report.note(format!("reloads, {}: {why}", column.name()));
        }
    }
}
