//! A run from beginning to end: pods and peers up, measurements, table, everything down again.

use std::future::Future;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::bail;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::certificate::Certificate;
use crate::cli::{
    BurstArgs, EventsArgs, Http2Args, KillArgs, LatencyArgs, MemoryArgs, ReloadArgs, RequestsArgs, Role,
    Security, SessionsArgs, Settings,
};
use crate::leash::raise_file_limit;
use crate::measure::{
    Scene, burst, events, http2, kill, latency, memory, reload, requests, scale, sessions, websockets,
};
use crate::peer::{Candidate, Peer};
use crate::peer_kind::PeerKind;
use crate::plan::Plan;
use crate::pods::Pods;
use crate::protocol::{Protocol, STREAMS_ON_A_CONNECTION};
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
    let mut candidates = find_candidates(settings)?;
    if wants_tls(&role) {
        candidates.retain(|candidate| candidate.kind.knows_http());
        anyhow::ensure!(!candidates.is_empty(), "none of these peers speaks TLS");
    }
    let directory = tempfile::Builder::new().prefix("podpin-bench-").tempdir()?;
    let mut report = Report::default();
    let idle: Vec<(Protocol, Vec<u32>)> = memory_of(&role, &plan)
        .into_iter()
        .map(|(protocol, wanted)| (protocol, within_file_limit(&wanted, protocol, &mut report)))
        .collect();
    let most = idle.iter().flat_map(|(_, streams)| streams).max().copied().unwrap_or_default();
    let pods = Pods::start(directory.path(), most).await?;
    let certificate = wants_tls(&role).then(|| Certificate::make(directory.path())).transpose()?;
    let scene = Scene {
        plan: &plan,
        pods: &pods,
        candidates: &candidates,
        directory: directory.path(),
        certificate: certificate.as_ref(),
    };
    for (protocol, streams) in &idle {
        memory::measure(&scene, *protocol, streams, &mut report).await?;
    }
    measure_role(&role, &scene, &mut report).await?;
    let peers: Vec<PeerKind> = candidates.iter().map(|candidate| candidate.kind).collect();
    println!("\n{}", report.table(&peers));
    if let Some(path) = &settings.json {
        report.write_json(path, &peers, description(&plan, &candidates))?;
        eprintln!("every round's figures: {}", path.display());
    }
    Ok(())
}

/// Everything but memory.
async fn measure_role(role: &Role, scene: &Scene<'_>, report: &mut Report) -> anyhow::Result<()> {
    // These start processes of their own.
    match role {
        Role::Memory(_) => return Ok(()),
        Role::Scale => return scale::measure(scene, report).await,
        Role::Http2(arguments) => return http2::measure(scene, arguments, report).await,
        Role::Tls(arguments) if arguments.h2 => {
            http2::measure(scene, &Http2Args { parts: Vec::new(), count: None }, report).await?;
        }
        Role::Kill(arguments) => return kill::measure(scene, arguments, report).await,
        Role::Websockets(arguments) => websockets::memory(scene, arguments, report).await?,
        Role::Reload(arguments) => return reload::measure(scene, arguments, report).await,
        Role::All => {
            kill::measure(scene, &KillArgs { streams: 1_000, rate: 10, delay_ms: 0 }, report).await?;
            reload::measure(scene, &ReloadArgs { streams: 1_000, rate: 10 }, report).await?;
        }
        _ => {}
    }
    let peers = scene.start_all().await?;
    match role {
        Role::Events(arguments) => events::measure(scene, &peers, arguments, report).await?,
        Role::Latency(arguments) => latency::measure(scene, &peers, arguments, report).await?,
        Role::Requests(arguments) => requests::measure(scene, &peers, arguments, report).await?,
        Role::Sessions(arguments) => sessions::measure(scene, &peers, arguments, report).await?,
        Role::Burst(arguments) => burst::measure(scene, &peers, arguments, report).await?,
        Role::Websockets(arguments) => websockets::messages(scene, &peers, arguments, report).await?,
        Role::Tls(_) => {
            let security = Security { tls: true };
            common(scene, &peers, report, security).await?;
            let returning = SessionsArgs { count: None, security, resume: true };
            sessions::measure(scene, &peers, &returning, report).await?;
        }
        Role::All => {
            common(scene, &peers, report, Security { tls: false }).await?;
            latency::measure(scene, &peers, &LatencyArgs { streams: 50, rate: 10 }, report).await?;
            burst::measure(scene, &peers, &BurstArgs { mb: None }, report).await?;
        }
        Role::Memory(_) | Role::Scale | Role::Http2(_) | Role::Kill(_) | Role::Reload(_) => {}
        Role::Pod(_) | Role::Relay(_) | Role::Leash(_) => {}
    }
    Ok(())
}

/// Runs the measurements that are worth having with and without TLS, beside memory.
async fn common(
    scene: &Scene<'_>,
    peers: &[Peer],
    report: &mut Report,
    security: Security,
) -> anyhow::Result<()> {
    events::measure(scene, peers, &EventsArgs { streams: 1_000, rate: 10, security }, report).await?;
    requests::measure(scene, peers, &RequestsArgs { connections: 16, security }, report).await?;
    sessions::measure(scene, peers, &SessionsArgs { count: None, security, resume: false }, report).await
}

/// Whether nothing but TLS is measured.
fn wants_tls(role: &Role) -> bool {
    match role {
        Role::Memory(MemoryArgs { security, .. })
        | Role::Events(EventsArgs { security, .. })
        | Role::Requests(RequestsArgs { security, .. })
        | Role::Sessions(SessionsArgs { security, .. }) => security.tls,
        Role::Tls(_) | Role::Http2(_) => true,
        _ => false,
    }
}

/// Returns the protocols whose memory is measured, each with its numbers of streams.
fn memory_of(role: &Role, plan: &Plan) -> Vec<(Protocol, Vec<u32>)> {
    let or_planned = |asked: &[u32], planned: &[u32]| {
        if asked.is_empty() { planned.to_vec() } else { asked.to_vec() }
    };
    match role {
        Role::Memory(arguments) => {
            let protocol = match (arguments.h2c, arguments.h2) {
                (true, _) => Protocol::H2c,
                (false, true) => Protocol::H2Tls,
                (false, false) => arguments.security.http1(),
            };
            vec![(protocol, or_planned(&arguments.streams, &plan.memory_streams))]
        }
        Role::All => vec![(Protocol::Http1, plan.memory_streams.clone())],
        Role::Tls(arguments) => {
            // The most alone: handshakes take their time.
            let most = plan.memory_streams.last().map_or(&[][..], std::slice::from_ref);
            let streams = or_planned(&arguments.streams, most);
            vec![(Protocol::Http1Tls, streams.clone()), (Protocol::H2Tls, streams)]
        }
        _ => Vec::new(),
    }
}

/// As many as the limit of files allows the proxy; what it does not allow is said.
fn within_file_limit(wanted: &[u32], protocol: Protocol, report: &mut Report) -> Vec<u32> {
    let files = raise_file_limit();
    let most = most_streams(files, protocol);
    let mut streams: Vec<u32> = wanted.iter().map(|count| (*count).min(most)).collect();
    if wanted.iter().any(|count| *count > most) {
        report.note(format!("the limit of {files} open files allows {most} streams (ulimit -Hn)"));
    }
    streams.dedup();
    streams
}

/// How many streams a proxy can have open with `files` descriptors. Each takes one to its pod; and one to its client, but
/// over HTTP/2 a hundred share that. This process has only the clients' side and each pod a part of the other, all with
/// the same limit: they never have more open than the proxy.
fn most_streams(files: u64, protocol: Protocol) -> u32 {
    let shared = if protocol.is_h2() { u64::from(STREAMS_ON_A_CONNECTION) } else { 1 };
    let spared = files.saturating_sub(SPARE_FILES);
    u32::try_from(spared.saturating_mul(shared) / (shared + 1)).unwrap_or(u32::MAX)
}

fn find_candidates(settings: &Settings) -> anyhow::Result<Vec<Candidate>> {
    let asked = !settings.peers.is_empty();
    let all = [PeerKind::Relay, PeerKind::Haproxy, PeerKind::Nginx, PeerKind::Envoy, PeerKind::Podpin];
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
            None => {
                let purpose = if *kind == PeerKind::Envoy { "envoy" } else { "bench" };
                eprintln!("{}: not installed, left out (scripts/setup.sh {purpose})", kind.name());
            }
        }
    }
    Ok(candidates)
}

/// Returns the description of the run that stands above the figures.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_descriptors_of_the_proxy_bound_the_number_of_streams() {
        assert_eq!(most_streams(20_000, Protocol::Http1), 9_750);
        assert_eq!(most_streams(20_000, Protocol::H2c), 19_306);
        assert!(most_streams(101_000, Protocol::Http1Tls) >= 50_000);
        assert!(most_streams(51_000, Protocol::H2Tls) >= 50_000);
        assert_eq!(most_streams(100, Protocol::Http1), 0);
        assert_eq!(most_streams(u64::MAX, Protocol::H2c), u32::MAX);
    }
}
