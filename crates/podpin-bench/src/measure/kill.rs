//! A pod dies without a word (SIGKILL) under many streams: how long until all of its streams flow again, and what their
//! clients see of it.
//!
//! On fresh processes for each peer and round, because a proxy remembers that a pod failed. Another pod dies in each round,
//! the same for all peers. The clients are those of `client/returning.rs`. The relay is left out: it sends a third of
//! those who come back to the dead pod.

use std::time::Duration;

use anyhow::{Context, bail};

use super::{Scene, progress};
use crate::certificate::Visit;
use crate::cli::KillArgs;
use crate::client::returning::Returning;
use crate::client::streams::Wanted;
use crate::clock::now_ns;
use crate::peer::Candidate;
use crate::peer_config::Upkeep;
use crate::peer_kind::PeerKind;
use crate::protocol::Protocol;
use crate::report::{Measure, Report};

/// Measures all candidates, and podpin with handover in rows of its own.
pub(crate) async fn measure(
    scene: &Scene<'_>,
    arguments: &KillArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let peers = scene.candidates.iter().filter(|candidate| candidate.kind.knows_http());
    let mut contenders: Vec<Contender> = peers
        .map(|candidate| Contender { candidate: candidate.clone(), column: candidate.kind, rows: "" })
        .collect();
    if let Some(podpin) = scene.candidates.iter().find(|candidate| candidate.kind == PeerKind::Podpin) {
        let candidate = podpin.with_handover();
        contenders.push(Contender { candidate, column: PeerKind::Podpin, rows: ", handover" });
    }
    let mut sums = vec![Sums::default(); contenders.len()];
    for round in 1..=scene.plan.rounds {
        for (contender, sums) in contenders.iter().zip(&mut sums) {
            let name = contender.candidate.kind.name();
            progress(&format!("kill{}, round {round}", contender.rows), name);
            let readings = read(scene, contender, arguments, round).await;
            let readings = readings.with_context(|| format!("a pod's death behind {name}"))?;
            contender.add(report, arguments.delay_ms, &readings.figures());
            sums.add(readings);
        }
    }
    for (contender, sums) in contenders.iter().zip(sums) {
        contender.add(report, arguments.delay_ms, &sums.figures());
        if let Some(why) = sums.why {
            let name = contender.candidate.kind.name();
            report.note(format!("kill{}, {name}: the first error: {why}", contender.rows));
        }
    }
    Ok(())
}

struct Contender {
    candidate: Candidate,
    /// In whose column of the table it stands.
    column: PeerKind,
    /// Prefix of its rows in the table.
    rows: &'static str,
}

/// A row: its name, unit and figure.
type Figure = (&'static str, &'static str, f64);

impl Contender {
    fn add(&self, report: &mut Report, delay_ms: u32, figures: &[Figure]) {
        let after = if delay_ms == 0 { String::new() } else { format!(", clients wait {delay_ms} ms") };
        for (name, unit, figure) in figures {
            let name = format!("kill -9 of a pod{}{after}: {name}", self.rows);
            report.add(&Measure::new(name, unit, 0), self.column, *figure);
        }
    }
}

/// Counts that must be zero and rarely are not: a median would hide them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sums {
    with_error: u64,
    others_ended: u64,
    lost_or_twice: u64,
    why: Option<String>,
}

impl Sums {
    fn add(&mut self, readings: Readings) {
        self.with_error += readings.with_error;
        self.others_ended += readings.others_ended;
        self.lost_or_twice += readings.lost_or_twice;
        self.why = self.why.take().or(readings.why);
    }

    fn figures(&self) -> [Figure; 3] {
        [
            ("clients with an error, all rounds", "", self.with_error as f64),
            ("disconnects of others, all rounds", "", self.others_ended as f64),
            ("events lost or twice, all rounds", "", self.lost_or_twice as f64),
        ]
    }
}

#[derive(Debug, Default)]
struct Readings {
    /// The streams that the pod had.
    streams: u64,
    /// From the signal to the first event of another pod on the last of them.
    all_back_ns: u64,
    with_error: u64,
    ended: u64,
    /// Ended streams of the other pods.
    others_ended: u64,
    lost_or_twice: u64,
    why: Option<String>,
}

async fn read(
    scene: &Scene<'_>,
    contender: &Contender,
    arguments: &KillArgs,
    round: u32,
) -> anyhow::Result<Readings> {
    let KillArgs { streams: count, rate, delay_ms } = *arguments;
    let victim = round as usize % scene.pods.addresses().len();
    let pod = scene.pods.addresses().get(victim).context("there is no pod")?.port();
    let directory = format!("kill{}-{}-{round}", contender.rows, contender.candidate.kind.name());
    let peer =
        scene.start_apart(&contender.candidate, &directory, scene.pods.addresses(), Upkeep::Left).await?;
    let target = scene.target(&peer, Protocol::Http1, Visit::First)?;
    let delay = Duration::from_millis(u64::from(delay_ms));
    let clients = Returning::open(Wanted::new(target, count, rate), delay).await?;
    tokio::time::sleep(scene.plan.warm_up).await;
    if clients.ended(|_| true) > 0 {
        bail!("streams ended before a pod died");
    }

    let streams = clients.at(pod);
    clients.expect_back_from(pod);
    let killed_at = now_ns();
    scene.pods.kill(victim)?;
    let back_at = clients.all_back().await?;
    // What is cut late or comes twice shows after a while.
    tokio::time::sleep(scene.plan.warm_up).await;
    let counts = clients.counts();
    let readings = Readings {
        streams,
        all_back_ns: back_at.saturating_sub(killed_at),
        with_error: counts.with_error,
        ended: clients.ended(|of| of == pod),
        others_ended: clients.ended(|of| of != pod),
        lost_or_twice: counts.lost + counts.twice,
        why: clients.first_error(),
    };
    clients.close().await;
    drop(peer);
    scene.pods.restart(victim).await?;
    if streams == 0 {
        bail!("the pod that died had no stream");
    }
    Ok(readings)
}

impl Readings {
    fn figures(&self) -> [Figure; 3] {
        [
            ("all its streams flow again", "ms", self.all_back_ns as f64 / 1e6),
            ("its streams", "", self.streams as f64),
            ("disconnects", "", self.ended as f64),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rare_is_added_up_and_the_first_error_stays() {
        let why = |text: &str| Some(text.to_owned());
        let mut sums = Sums::default();
        sums.add(Readings { lost_or_twice: 1, ..Readings::default() });
        sums.add(Readings { with_error: 4, others_ended: 2, why: why("status 502"), ..Readings::default() });
        sums.add(Readings { with_error: 3, why: why("status 503"), ..Readings::default() });
        assert_eq!(sums, Sums { with_error: 7, others_ended: 2, lost_or_twice: 1, why: why("status 502") });
    }
}
