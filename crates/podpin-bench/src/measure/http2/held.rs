//! Clients that hold something open and do nothing: connections, event streams, requests whose pod does not answer.

use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::task::JoinSet;

use super::super::Scene;
use crate::certificate::Visit;
use crate::client::lane::{self, Lane, Lanes};
use crate::client::request::{Accept, Request};
use crate::client::streams::{Streams, Wanted};
use crate::client::target::Target;
use crate::peer::Peer;
use crate::protocol::Protocol;

/// Pods answer this path when all are told to end.
pub(super) const WAITING_PATH: &str = "/wait";
/// How long all requests may take until they are at the pods. podpin gives an answer 30 s.
const ARRIVAL_DEADLINE: Duration = Duration::from_secs(20);
/// From one look at the pods to the next.
const LOOK: Duration = Duration::from_millis(20);

/// Something to be held, and over which protocol.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) protocol: Protocol,
    /// How many share a connection; over HTTP/1.1 one.
    pub(super) on_each: u32,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// A connection after its first request.
    Idle,
    /// An event stream after its first event.
    Stream(Accept),
    /// This request, which has no answer yet.
    Waiting(Request),
}

/// Clients of a load.
pub(super) enum Held {
    Idle(Vec<Lane>),
    Streams(Streams),
    Waiting(JoinSet<anyhow::Result<()>>),
}

impl Load {
    /// Opens `count`; done when all are open.
    ///
    /// # Errors
    /// If one of them fails, or they take too long.
    pub(super) async fn open(&self, scene: &Scene<'_>, peer: &Peer, count: u32) -> anyhow::Result<Held> {
        let target = scene.target(peer, self.protocol, Visit::First)?;
        let lanes = Lanes { connections: self.connections(count), on_each: self.on_each };
        match &self.kind {
            Kind::Idle => idle(&target, lanes).await.map(Held::Idle),
            Kind::Stream(accept) => {
                let wanted = Wanted {
                    on_a_connection: self.on_each,
                    accept: *accept,
                    ..Wanted::new(target, self.whole(count), 0)
                };
                Streams::open(wanted).await.map(Held::Streams)
            }
            Kind::Waiting(request) => waiting(scene, &target, lanes, request).await.map(Held::Waiting),
        }
    }

    fn connections(&self, count: u32) -> u32 {
        count.div_ceil(self.on_each)
    }

    /// Returns how many there are on the connections that `count` takes, all of which are full.
    pub(super) fn whole(&self, count: u32) -> u32 {
        self.connections(count) * self.on_each
    }
}

impl Held {
    /// # Errors
    /// If one has ended.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Idle(_) => Ok(()),
            Self::Streams(streams) => streams.check_all_open(),
            Self::Waiting(tasks) => check_none_ended(tasks),
        }
    }

    /// Closes all.
    pub(super) async fn close(self) {
        match self {
            Self::Idle(lanes) => drop(lanes),
            Self::Streams(streams) => streams.close().await,
            Self::Waiting(mut tasks) => tasks.shutdown().await,
        }
    }
}

/// Opens connections, with one request on each.
async fn idle(target: &Target, lanes: Lanes) -> anyhow::Result<Vec<Lane>> {
    let request = Request::get("/", None).prepare(target.protocol)?;
    let mut open = lane::open(target, lanes).await?;
    for lane in &mut open {
        lane.exchange(&request).await?;
    }
    Ok(open)
}

async fn waiting(
    scene: &Scene<'_>,
    target: &Target,
    lanes: Lanes,
    request: &Request,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let request = request.prepare(target.protocol)?;
    let mut tasks = JoinSet::new();
    for mut lane in lane::open(target, lanes).await? {
        let request = request.clone();
        tasks.spawn_local(async move { lane.exchange(&request).await.map(drop) });
    }
    let wanted = tasks.len() as u64;
    let deadline = Instant::now() + ARRIVAL_DEADLINE;
    loop {
        check_none_ended(&mut tasks)?;
        let arrived = scene.pods.streams()?;
        if arrived >= wanted {
            return Ok(tasks);
        }
        if Instant::now() > deadline {
            bail!("only {arrived} of {wanted} requests reached the pods in time");
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn check_none_ended(tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    match tasks.try_join_next() {
        None => Ok(()),
        Some(ended) => {
            ended??;
            bail!("a request was answered before its pod did")
        }
    }
}
