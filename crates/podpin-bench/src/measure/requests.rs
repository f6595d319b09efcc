//! CPU for each request on connections that stay open, the client's cookie pinning it.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::Context;
use tokio::task::JoinSet;

use super::{CpuReading, Scene, each, progress};
use crate::certificate::Visit;
use crate::cli::RequestsArgs;
use crate::client::lane::{self, Lane, Lanes};
use crate::client::request::{Prepared, Request};
use crate::peer::Peer;
use crate::protocol::Protocol;
use crate::report::{Measure, Report};

/// A load of requests, one in flight on each lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) protocol: Protocol,
    pub(super) lanes: Lanes,
    pub(super) kind: Kind,
}

/// The body of a request or of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// None, and a few bytes.
    Small,
    /// An answer of so many bytes.
    Download(usize),
    /// A request of so many bytes, with a small answer.
    Upload(usize),
}

impl Load {
    /// Small requests over HTTP/1.1, as the command line says.
    pub(super) fn of(arguments: &RequestsArgs) -> Self {
        let lanes = Lanes { connections: arguments.connections, on_each: 1 };
        Self { protocol: arguments.security.http1(), lanes, kind: Kind::Small }
    }

    fn request(self, cookie: Option<&str>) -> Request {
        match self.kind {
            Kind::Small => Request::get("/", cookie),
            Kind::Download(bytes) => Request::get(&format!("/bytes?count={bytes}"), cookie),
            Kind::Upload(bytes) => Request::post("/upload", cookie, bytes),
        }
    }
}

/// Measures all `peers`, round by round.
pub(crate) async fn measure(
    scene: &Scene<'_>,
    peers: &[Peer],
    arguments: &RequestsArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let load = Load::of(arguments);
    let prefix = load.protocol.prefix();
    let cpu = Measure::new(format!("{prefix}keep-alive request with cookie: CPU"), "µs", 1);
    let rate = Measure::new(format!("{prefix}keep-alive requests"), "1/s", 0);
    for round in 1..=scene.plan.rounds {
        for peer in peers.iter().filter(|peer| peer.kind.speaks(load.protocol)) {
            progress(&format!("{prefix}requests, round {round}"), peer.kind.name());
            let window = read(scene, peer, load, Peer::cpu_ns).await;
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
    load: Load,
    cpu: CpuReading,
) -> anyhow::Result<(u64, u64)> {
    let answers = Rc::new(Cell::new(0_u64));
    let target = scene.target(peer, load.protocol, Visit::First)?;
    let newcomer = Request::get("/", None).prepare(load.protocol)?;
    let mut tasks = JoinSet::new();
    for mut lane in lane::open(&target, load.lanes).await? {
        let cookie = lane.exchange(&newcomer).await?;
        if peer.kind.knows_http() && cookie.is_none() {
            anyhow::bail!("no cookie for a new client");
        }
        let request = load.request(cookie.as_deref()).prepare(load.protocol)?;
        tasks.spawn_local(repeat(lane, request, Rc::clone(&answers)));
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

/// Sends the request again and again; ends only with an error.
async fn repeat(mut lane: Lane, request: Prepared, answers: Rc<Cell<u64>>) -> anyhow::Error {
    loop {
        match lane.exchange(&request).await {
            Ok(_) => answers.set(answers.get() + 1),
            Err(error) => return error,
        }
    }
}
