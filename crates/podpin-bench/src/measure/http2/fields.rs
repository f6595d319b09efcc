//! Requests with hundreds of fields by one-byte references: what each pins while its pod does not answer, unless the proxy
//! refuses it.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::super::{Scene, progress};
use super::held::WAITING_PATH;
use crate::certificate::Visit;
use crate::client::lane::{self, Lanes};
use crate::client::references::{Bomb, Sent};
use crate::client::request::Request;
use crate::peer::{Candidate, Peer};
use crate::protocol::Protocol;
use crate::report::{Goal, Measure, Report};

const BOMB: Bomb = Bomb { connections: 4, on_each: 100, fields: 900 };
const REQUESTS: u32 = BOMB.connections * BOMB.on_each;
/// How long requests may take until each is refused or at a pod. A proxy may hold some of them back.
const DEADLINE: Duration = Duration::from_secs(5);
/// From one look at the pods to the next, if no refusal comes between.
const LOOK: Duration = Duration::from_millis(20);

/// Measures all candidates.
pub(super) async fn measure(scene: &Scene<'_>, report: &mut Report) -> anyhow::Result<()> {
    let name = format!("h2c request with {} fields by reference: pinned", BOMB.fields);
    let measure = Measure::new(name, "KiB", 1).with_goal(Goal::Refused);
    for candidate in scene.candidates {
        let kind = candidate.kind;
        progress(&measure.name, kind.name());
        let pinned = read(scene, candidate).await;
        match pinned.with_context(|| format!("{}: {}", measure.name, kind.name()))? {
            Some(kib) => report.add(&measure, kind, kib),
            None => report.add_refusal(&measure, kind),
        }
    }
    Ok(())
}

/// Returns the KiB that a request pins; `None` if all are refused.
async fn read(scene: &Scene<'_>, candidate: &Candidate) -> anyhow::Result<Option<f64>> {
    let peer = scene.start(candidate).await?;
    warm_up(scene, &peer).await?;
    tokio::time::sleep(scene.plan.memory_rest).await;
    let before = peer.pss_kib()?;
    let target = scene.target(&peer, Protocol::H2c, Visit::First)?;
    let sent = Sent::send(&target, WAITING_PATH, BOMB).await?;
    let deadline = Instant::now() + DEADLINE;
    while u64::from(sent.refused()) + scene.pods.streams()? < u64::from(REQUESTS) && Instant::now() < deadline
    {
        // The time is up if no refusal comes, which is no error.
        let _ = tokio::time::timeout(LOOK, sent.another()).await;
    }
    tokio::time::sleep(scene.plan.memory_rest).await;
    let with = peer.pss_kib()?;
    let pinned = REQUESTS - sent.refused();
    drop(sent);
    scene.end_what_is_held().await?;
    Ok((pinned > 0).then(|| with.saturating_sub(before) as f64 / f64::from(pinned)))
}

async fn warm_up(scene: &Scene<'_>, peer: &Peer) -> anyhow::Result<()> {
    let target = scene.target(peer, Protocol::H2c, Visit::First)?;
    let lanes = Lanes { connections: BOMB.connections, on_each: 1 };
    let request = Request::get("/", None).prepare(Protocol::H2c)?;
    for lane in &mut lane::open(&target, lanes).await? {
        lane.exchange(&request).await?;
    }
    Ok(())
}
