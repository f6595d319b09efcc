//! One run from beginning to end: pods and peers up, measurements, table, everything down again.

use std::future::Future;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::bail;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::cli::{
    BurstArgs, EventsArgs, LatencyArgs, MemoryArgs, RequestsArgs, Role, SessionsArgs, Settings,
};
use crate::client::streams::Protocol;
use crate::leash::raise_file_limit;
use crate::measure::{Scene, burst, events, latency, memory, requests, sessions};
use crate::peer::{Candidate, PeerKind};
use crate::plan::Plan;
use crate::pods::Pods;
use crate::report::Report;

/// Descriptors that a proxy needs beside two for each stream.
const SPARE_FILES: u64 = 500;

/// Measures `role` (nothing: all) and prints the table.
pub(crate) fn run(role: Option<Role>, settings: &Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, unless_interrupted(measure(role.unwrap_or(Role::All), settings)))
}

/// Dropping the run ends its processes; a signal only has to stop it.
async fn unless_interrupted(run: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        outcome = run => outcome,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
        _ = hang_up.recv() => bail!("the terminal is gone"),
    }
}

async fn measure(role: Role, settings: &Settings) -> anyhow::Result<()> {
    let plan = Plan::new(settings);
    let candidates = find_candidates(settings)?;
    let directory = tempfile::Builder::new().prefix("podpin-bench-").tempdir()?;
    let pods = Pods::start(directory.path()).await?;
    let scene = Scene { plan: &plan, pods: &pods, candidates: &candidates, directory: directory.path() };
    let mut report = Report::default();
    measure_role(&role, &scene, &mut report).await?;
    let peers: Vec<PeerKind> = candidates.iter().map(|candidate| candidate.kind).collect();
    println!("\n{}", report.table(&peers));
    if let Some(path) = &settings.json {
        report.write_json(path, &peers, description(&plan, &candidates))?;
        eprintln!("every round's figures: {}", path.display());
    }
    Ok(())
}

async fn measure_role(role: &Role, scene: &Scene<'_>, report: &mut Report) -> anyhow::Result<()> {
    let all = matches!(role, Role::All);
    if let Some(arguments) = memory_arguments(role) {
        let protocol = if arguments.h2c { Protocol::H2c } else { Protocol::Http1 };
        let wanted =
            if arguments.streams.is_empty() { &scene.plan.memory_streams } else { &arguments.streams };
        let streams = within_file_limit(wanted, protocol, report);
        memory::measure(scene, protocol, &streams, report).await?;
    }
    if matches!(role, Role::Memory(_)) {
        return Ok(());
    }
    let peers = scene.start_all().await?;
    match role {
        Role::Events(arguments) => events::measure(scene, &peers, arguments, report).await?,
        Role::Latency(arguments) => latency::measure(scene, &peers, arguments, report).await?,
        Role::Requests(arguments) => requests::measure(scene, &peers, arguments, report).await?,
        Role::Sessions(arguments) => sessions::measure(scene, &peers, arguments, report).await?,
        Role::Burst(arguments) => burst::measure(scene, &peers, arguments, report).await?,
        _ if all => {
            events::measure(scene, &peers, &EventsArgs { streams: 1_000, rate: 10 }, report).await?;
            latency::measure(scene, &peers, &LatencyArgs { streams: 50, rate: 10 }, report).await?;
            requests::measure(scene, &peers, &RequestsArgs { connections: 16 }, report).await?;
            sessions::measure(scene, &peers, &SessionsArgs { count: None }, report).await?;
            burst::measure(scene, &peers, &BurstArgs { mb: None }, report).await?;
        }
        _ => {}
    }
    Ok(())
}

fn memory_arguments(role: &Role) -> Option<MemoryArgs> {
    match role {
        Role::Memory(arguments) => Some(arguments.clone()),
        Role::All => Some(MemoryArgs { streams: Vec::new(), h2c: false }),
        _ => None,
    }
}

/// Each stream takes two descriptors of the proxy; over HTTP/2 many share one to the client, and every pod has its own.
fn within_file_limit(wanted: &[u32], protocol: Protocol, report: &mut Report) -> Vec<u32> {
    let files = raise_file_limit();
    let each = match protocol {
        Protocol::Http1 => 2.0,
        Protocol::H2c => 1.1,
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of files, rounded down"
    )]
    let most =
        (f64::from(u32::try_from(files.saturating_sub(SPARE_FILES)).unwrap_or(u32::MAX)) / each) as u32;
    let mut streams: Vec<u32> = wanted.iter().map(|count| (*count).min(most)).collect();
    if wanted.iter().any(|count| *count > most) {
        report.note(format!("the limit of {files} open files allows {most} streams (ulimit -Hn)"));
    }
    streams.dedup();
    streams
}

fn find_candidates(settings: &Settings) -> anyhow::Result<Vec<Candidate>> {
    let asked = !settings.peers.is_empty();
    let all = [PeerKind::Relay, PeerKind::Haproxy, PeerKind::Nginx, PeerKind::Podpin];
    let kinds = if asked { settings.peers.as_slice() } else { &all };
    let mut candidates = Vec::new();
    for kind in kinds {
        match Candidate::find(*kind, settings.podpin.as_deref())? {
            Some(candidate) => {
                eprintln!("{}: {}", kind.name(), candidate.version);
                candidates.push(candidate);
            }
            None if asked => bail!("{} is not installed here", kind.name()),
            None if *kind == PeerKind::Podpin => bail!("no podpin binary: cargo build --release -p podpin"),
            None => eprintln!("{}: not installed, left out (scripts/setup.sh bench)", kind.name()),
        }
    }
    Ok(candidates)
}

/// What the figures are of.
fn description(plan: &Plan, candidates: &[Candidate]) -> Value {
    let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let versions: serde_json::Map<String, Value> = candidates
        .iter()
        .map(|candidate| (candidate.kind.name().to_owned(), json!(candidate.version)))
        .collect();
    json!({
        "unixSeconds": unix_seconds,
        "kernel": kernel.trim(),
        "cores": cores,
        "rounds": plan.rounds,
        "versions": versions,
    })
}
