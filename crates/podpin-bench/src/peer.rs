//! The peers: podpin and the proxies beside it, each as a process with one worker.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use rustix::process::Signal;

use crate::accounting;
use crate::certificate::Certificate;
use crate::cli::LeashSignal;
use crate::leash::raise_file_limit;
use crate::peer_config::{self, Beside, ENDPOINTS_FILE, Layout, Upkeep};
use crate::peer_kind::PeerKind;
use crate::pods::{ask, free_address, wait_until_it_listens};
use crate::process::{Process, own_binary};
use crate::protocol::Protocol;

/// How long a reload may take. Generous: other work shares the machine.
const RELOAD_DEADLINE: Duration = Duration::from_secs(15);

/// A peer that can be started.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) kind: PeerKind,
    program: PathBuf,
    /// The version that it prints; for podpin and the relay the crate's.
    pub(crate) version: String,
}

impl Candidate {
    /// Finds `kind` on this machine; `podpin` is the path asked for, if any. Nothing when it is not installed.
    pub(crate) fn find(kind: PeerKind, podpin: Option<&Path>) -> anyhow::Result<Option<Self>> {
        let program = match kind {
            PeerKind::Relay => Some(own_binary()?),
            PeerKind::Haproxy => on_path("haproxy"),
            PeerKind::Nginx => on_path("nginx"),
            PeerKind::Envoy => on_path("envoy").or_else(envoy_of_setup),
            PeerKind::Podpin | PeerKind::PodpinHandover => podpin_binary(podpin),
        };
        let Some(program) = program else { return Ok(None) };
        let version = match kind {
            PeerKind::Relay => format!("relay {}", env!("CARGO_PKG_VERSION")),
            PeerKind::Haproxy | PeerKind::Nginx => version_of(&program, "-v")?,
            PeerKind::Envoy | PeerKind::Podpin | PeerKind::PodpinHandover => {
                version_of(&program, "--version")?
            }
        };
        Ok(Some(Self { kind, program, version }))
    }

    /// The same podpin, with handover.
    pub(crate) fn with_handover(&self) -> Self {
        Self { kind: PeerKind::PodpinHandover, ..self.clone() }
    }
}

fn podpin_binary(asked: Option<&Path>) -> Option<PathBuf> {
    if let Some(path) = asked {
        return Some(path.to_owned());
    }
    let beside = own_binary().ok()?.with_file_name("podpin");
    [beside, PathBuf::from("target/release/podpin")].into_iter().find(|path| path.is_file())
}

/// Returns the Envoy that `scripts/setup.sh envoy` puts into the target directory, if it is there.
fn envoy_of_setup() -> Option<PathBuf> {
    let target = own_binary().ok()?.parent()?.parent()?.join("envoy/bin/envoy");
    [target, PathBuf::from("target/envoy/bin/envoy")].into_iter().find(|path| path.is_file())
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
    Ok(text.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown").trim().to_owned())
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
    /// podpin's admin port.
    admin: SocketAddr,
    process: Process,
    setting: Setting,
}

/// Settings of a peer besides the pods.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// For its files. podpin follows its configuration: one file for two of them would be a reload.
    pub(crate) directory: PathBuf,
    pub(crate) certificate: Option<Certificate>,
    pub(crate) beside: Beside,
    pub(crate) upkeep: Upkeep,
}

impl Peer {
    /// Starts `candidate` before `pods` and waits until it takes connections.
    pub(crate) async fn start(
        candidate: &Candidate,
        pods: &[SocketAddr],
        setting: Setting,
    ) -> anyhow::Result<Self> {
        let kind = candidate.kind;
        let [http, h2c, https, admin] = [free_address()?, free_address()?, free_address()?, free_address()?];
        let layout = layout([http, h2c, https, admin], pods, &setting);
        let file = write_configuration(kind, &layout)?;
        let (signal, arguments) = arguments(kind, &layout, file);
        let log = setting.directory.join(format!("{}.log", kind.name()));
        let mut process = Process::start(log, signal, &candidate.program, arguments)?;
        wait_until_it_listens(http, &mut process)
            .await
            .with_context(|| format!("{} does not start", kind.name()))?;
        Ok(Self { kind, http, h2c, https, admin, process, setting })
    }

    /// Makes it serve `pods` from now on, without a restart; done when no process takes requests for the ones before.
    ///
    /// # Errors
    /// When it cannot be reloaded, or has not done so in time.
    pub(crate) async fn reload(&self, pods: &[SocketAddr]) -> anyhow::Result<()> {
        let layout = layout([self.http, self.h2c, self.https, self.admin], pods, &self.setting);
        let before = match self.kind {
            PeerKind::Podpin | PeerKind::PodpinHandover => Before::Reloads(reloads(self.admin)?),
            _ => Before::Workers(self.process.children()),
        };
        // podpin follows its file.
        write_configuration(self.kind, &layout)?;
        match self.kind {
            PeerKind::Haproxy => self.process.send(Signal::USR2)?,
            PeerKind::Nginx => self.process.send(Signal::HUP)?,
            PeerKind::Podpin | PeerKind::PodpinHandover => {}
            PeerKind::Relay | PeerKind::Envoy => bail!("{} is not reloaded", self.kind.name()),
        }
        let deadline = Instant::now() + RELOAD_DEADLINE;
        while !self.has_reloaded_since(&before)? {
            if Instant::now() > deadline {
                bail!("{} has not reloaded after {} s", self.kind.name(), RELOAD_DEADLINE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    fn has_reloaded_since(&self, before: &Before) -> anyhow::Result<bool> {
        Ok(match before {
            Before::Reloads(count) => reloads(self.admin)? > *count,
            Before::Workers(old) => {
                let listening = self.process.children_that_listen_at(self.http)?;
                !listening.is_empty() && !listening.iter().any(|pid| old.contains(pid))
            }
        })
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> &Path {
        &self.setting.directory
    }

    /// Returns the configuration that is there besides the measured part.
    pub(crate) fn beside(&self) -> Beside {
        self.setting.beside
    }

    /// The processes that it is made of.
    pub(crate) fn processes(&self) -> usize {
        self.process.pids().len()
    }

    /// Returns the answer of podpin's admin port to a GET of `path`.
    pub(crate) fn ask_admin(&self, path: &str) -> anyhow::Result<String> {
        ask(self.admin, path)
    }

    /// CPU time so far of the threads of podpin that serve clients, in nanoseconds.
    pub(crate) fn worker_cpu_ns(&self) -> anyhow::Result<u64> {
        accounting::cpu_ns_of_threads(&self.process.pids(), "worker")
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

/// State of a peer before a reload.
enum Before {
    /// podpin: how many there had been.
    Reloads(u64),
    /// The others: which processes served clients.
    Workers(Vec<u32>),
}

/// podpin's own count of reloads that are in force.
fn reloads(admin: SocketAddr) -> anyhow::Result<u64> {
    let metrics = ask(admin, "/metrics")?;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("podpin_config_reloads_total{result=\"success\"} "))
        .context("podpin does not count its reloads")?;
    Ok(line.trim().parse()?)
}

fn layout<'a>(addresses: [SocketAddr; 4], pods: &'a [SocketAddr], setting: &'a Setting) -> Layout<'a> {
    let [http, h2c, https, admin] = addresses;
    let Setting { directory, certificate, beside, upkeep } = setting;
    Layout {
        http,
        h2c,
        https,
        admin,
        certificate: certificate.as_ref(),
        pods,
        directory,
        files: raise_file_limit(),
        beside: *beside,
        upkeep: *upkeep,
    }
}

/// Writes the files of `kind`; gives the one that it is told of, if any.
fn write_configuration(kind: PeerKind, layout: &Layout<'_>) -> anyhow::Result<Option<PathBuf>> {
    let write = |name: &str, text: &str| -> anyhow::Result<PathBuf> {
        let path = layout.directory.join(name);
        replace_file(&path, text)?;
        Ok(path)
    };
    Ok(match kind {
        PeerKind::Relay => None,
        PeerKind::Haproxy => Some(write("haproxy.cfg", &peer_config::haproxy(layout))?),
        PeerKind::Nginx => Some(write("nginx.conf", &peer_config::nginx(layout))?),
        PeerKind::Envoy => Some(write("envoy.json", &peer_config::envoy(layout))?),
        PeerKind::Podpin | PeerKind::PodpinHandover => {
            let handover = if kind == PeerKind::PodpinHandover { "lastEventId" } else { "none" };
            write(ENDPOINTS_FILE, &peer_config::endpoints(layout.pods, layout.beside, 0))?;
            Some(write(&format!("{}.yaml", kind.name()), &peer_config::podpin(layout, handover))?)
        }
    })
}

/// Replaces a file whole: a process that follows it must never read a part.
pub(crate) fn replace_file(path: &Path, text: &str) -> anyhow::Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, text).with_context(|| format!("cannot write {}", part.display()))?;
    std::fs::rename(&part, path).with_context(|| format!("cannot write {}", path.display()))
}

fn arguments(kind: PeerKind, layout: &Layout<'_>, file: Option<PathBuf>) -> (LeashSignal, Vec<OsString>) {
    let file = file.unwrap_or_default().into_os_string();
    match kind {
        PeerKind::Relay => {
            let pods: Vec<String> = layout.pods.iter().map(ToString::to_string).collect();
            let words = ["relay", "--listen", &layout.http.to_string(), "--pods", &pods.join(",")]
                .map(OsString::from);
            (LeashSignal::Kill, words.to_vec())
        }
        // Only a master can be reloaded; it ends its workers.
        PeerKind::Haproxy if layout.upkeep == Upkeep::Reloaded => {
            (LeashSignal::Term, vec!["-W".into(), "-db".into(), "-f".into(), file])
        }
        PeerKind::Haproxy => (LeashSignal::Kill, vec!["-db".into(), "-f".into(), file]),
        PeerKind::Nginx => {
            let prefix = layout.directory.as_os_str().to_owned();
            (LeashSignal::Term, vec!["-p".into(), prefix, "-c".into(), file])
        }
        PeerKind::Envoy => {
            let words = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"];
            let mut words = words.map(OsString::from).to_vec();
            words.push(file);
            (LeashSignal::Kill, words)
        }
        PeerKind::Podpin | PeerKind::PodpinHandover => {
            (LeashSignal::Kill, vec!["run".into(), "--config".into(), file])
        }
    }
}
