//! Who is measured: podpin and the proxies beside it, each as a process with one worker.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use clap::ValueEnum;

use crate::accounting;
use crate::certificate::Certificate;
use crate::cli::LeashSignal;
use crate::client::target::Protocol;
use crate::leash::raise_file_limit;
use crate::peer_config::{self, Beside, Layout};
use crate::pods::{Pods, free_address, wait_until_it_listens};
use crate::process::{Process, own_binary};

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub(crate) enum PeerKind {
    /// The TCP copy loop of this crate.
    Relay,
    /// Debian's `haproxy`.
    Haproxy,
    /// Debian's `nginx-light`.
    Nginx,
    /// Our own, with every default.
    Podpin,
    /// Our own, with streams that may go on at another pod.
    PodpinHandover,
}

impl PeerKind {
    /// The name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Podpin => "podpin",
            Self::PodpinHandover => "podpin-handover",
        }
    }

    /// Whether it knows HTTP, so that it can give a session to a client.
    pub(crate) fn knows_http(self) -> bool {
        self != Self::Relay
    }

    /// Whether clients may speak `protocol` with it.
    pub(crate) fn speaks(self, protocol: Protocol) -> bool {
        self.knows_http() || protocol == Protocol::Http1
    }
}

/// A peer that can be started.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) kind: PeerKind,
    program: PathBuf,
    /// What it says of its version; of podpin and the relay the crate's.
    pub(crate) version: String,
}

impl Candidate {
    /// Finds `kind` on this machine; `podpin` is the path asked for, if any. Nothing when it is not installed.
    pub(crate) fn find(kind: PeerKind, podpin: Option<&Path>) -> anyhow::Result<Option<Self>> {
        let program = match kind {
            PeerKind::Relay => Some(own_binary()?),
            PeerKind::Haproxy => on_path("haproxy"),
            PeerKind::Nginx => on_path("nginx"),
            PeerKind::Podpin | PeerKind::PodpinHandover => podpin_binary(podpin),
        };
        let Some(program) = program else { return Ok(None) };
        let version = match kind {
            PeerKind::Relay => format!("relay {}", env!("CARGO_PKG_VERSION")),
            PeerKind::Haproxy | PeerKind::Nginx => version_of(&program, "-v")?,
            PeerKind::Podpin | PeerKind::PodpinHandover => version_of(&program, "--version")?,
        };
        Ok(Some(Self { kind, program, version }))
    }
}

fn podpin_binary(asked: Option<&Path>) -> Option<PathBuf> {
    if let Some(path) = asked {
        return Some(path.to_owned());
    }
    let beside = own_binary().ok()?.with_file_name("podpin");
    [beside, PathBuf::from("target/release/podpin")].into_iter().find(|path| path.is_file())
}

/// Debian keeps daemons in /usr/sbin, which is not on the path of everyone.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    directories.map(|directory| directory.join(name)).find(|file| file.is_file())
}

fn version_of(program: &Path, flag: &str) -> anyhow::Result<String> {
    let said = Command::new(program).arg(flag).output();
    let said = said.with_context(|| format!("cannot run {}", program.display()))?;
    let text = if said.stdout.is_empty() { said.stderr } else { said.stdout };
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(text.lines().next().unwrap_or("unknown").trim().to_owned())
}

/// A running peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) kind: PeerKind,
    /// Where it takes HTTP/1.1.
    pub(crate) http: SocketAddr,
    /// Where it takes HTTP/2 in plaintext; the relay nowhere.
    h2c: SocketAddr,
    /// Where it takes both over TLS; the relay nowhere.
    https: SocketAddr,
    process: Process,
}

impl Peer {
    /// Starts `candidate` before `pods` and waits until it takes connections. Its files go to `directory`.
    pub(crate) async fn start(
        candidate: &Candidate,
        pods: &Pods,
        directory: &Path,
        certificate: Option<&Certificate>,
        beside: Beside,
    ) -> anyhow::Result<Self> {
        let kind = candidate.kind;
        let [http, h2c, https, admin] = [free_address()?, free_address()?, free_address()?, free_address()?];
        let files = raise_file_limit();
        let pods = pods.addresses();
        let layout = Layout { http, h2c, https, admin, certificate, pods, directory, files, beside };
        let (signal, arguments) = arguments(kind, &layout)?;
        let log = directory.join(format!("{}.log", kind.name()));
        let mut process = Process::start(log, signal, &candidate.program, arguments)?;
        wait_until_it_listens(http, &mut process)
            .await
            .with_context(|| format!("{} does not start", kind.name()))?;
        Ok(Self { kind, http, h2c, https, process })
    }

    /// Where it takes `protocol`.
    pub(crate) fn address(&self, protocol: Protocol) -> SocketAddr {
        match protocol {
            Protocol::Http1 => self.http,
            Protocol::H2c => self.h2c,
            Protocol::Http1Tls | Protocol::H2Tls => self.https,
        }
    }

    /// CPU time so far of the process and its children, in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> anyhow::Result<u64> {
        accounting::cpu_ns(&self.process.pids()).with_context(|| format!("{} is gone", self.kind.name()))
    }

    /// PSS of the process and its children, in KiB.
    pub(crate) fn pss_kib(&self) -> anyhow::Result<u64> {
        accounting::pss_kib(&self.process.pids()).with_context(|| format!("{} is gone", self.kind.name()))
    }
}

fn arguments(kind: PeerKind, layout: &Layout<'_>) -> anyhow::Result<(LeashSignal, Vec<OsString>)> {
    let write = |name: &str, text: String| -> anyhow::Result<OsString> {
        let path = layout.directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.into_os_string())
    };
    Ok(match kind {
        PeerKind::Relay => {
            let pods: Vec<String> = layout.pods.iter().map(ToString::to_string).collect();
            let words = ["relay", "--listen", &layout.http.to_string(), "--pods", &pods.join(",")]
                .map(OsString::from);
            (LeashSignal::Kill, words.to_vec())
        }
        PeerKind::Haproxy => {
            let file = write("haproxy.cfg", peer_config::haproxy(layout))?;
            (LeashSignal::Kill, vec!["-db".into(), "-f".into(), file])
        }
        PeerKind::Nginx => {
            let file = write("nginx.conf", peer_config::nginx(layout))?;
            let prefix = layout.directory.as_os_str().to_owned();
            (LeashSignal::Term, vec!["-p".into(), prefix, "-c".into(), file])
        }
        PeerKind::Podpin | PeerKind::PodpinHandover => {
            let handover = if kind == PeerKind::PodpinHandover { "lastEventId" } else { "none" };
            write("endpoints.yaml", peer_config::endpoints(layout))?;
            let file = write(&format!("{}.yaml", kind.name()), peer_config::podpin(layout, handover))?;
            (LeashSignal::Kill, vec!["run".into(), "--config".into(), file])
        }
    })
}
