//! The published Python SDKs of those who speak event streams: `openai` for completions, `mcp` for sessions.
//!
//! Their versions are pinned in `python/requirements.txt`; `scripts/setup.sh test` installs them. Each scene is of two
//! replicas of the proxy behind one address, as a load balancer shows them, and of three pods.

mod clients;
mod completions;
mod deaths;
mod sessions;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use podpin_testkit::{Authority, Line, Process, Proxy, Setup, wait_for};
use serde_json::Value;

/// The interpreter of the virtual environment that `scripts/setup.sh test` makes.
fn interpreter() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/<profile>/deps/e2e-0123456789abcdef
    let made = test.ancestors().nth(3).unwrap().join("python");
    let venv = std::env::var_os("PODPIN_PYTHON_VENV").map_or(made, PathBuf::from);
    let python = venv.join("bin/python");
    assert!(python.exists(), "{} is missing: run `scripts/setup.sh test` first", python.display());
    python
}

/// Returns the command for a script in `python`, leaving no bytecode beside it. Proxies of the machine's own are not
/// meant for it.
pub(super) fn script(name: &str, arguments: &[&str]) -> Process {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/python").join(name);
    let mut command = Command::new(interpreter());
    Process::spawn(command.arg("-B").arg(path).args(arguments).env("NO_PROXY", "127.0.0.1,localhost"))
}

/// Returns the command for a script in `node`, with the packages that `scripts/setup.sh test` installed.
pub(super) fn node_script(name: &str, arguments: &[&str]) -> Process {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/node").join(name);
    let test = std::env::current_exe().unwrap();
    let modules = test.ancestors().nth(3).unwrap().join("node/node_modules");
    assert!(modules.exists(), "{} is missing: run `scripts/setup.sh test` first", modules.display());
    Process::spawn(Command::new("node").arg(path).args(arguments).env("NODE_MODULES", modules))
}

/// Waits until a script has written this many lines; these, read as JSON where they are.
pub(super) async fn lines(script: &mut Process, count: usize) -> Vec<Value> {
    wait_for(&format!("{count} lines of a script"), async || {
        let said = script.stdout().len();
        assert!(said >= count || script.exit_code().is_none_or(|code| code == 0), "{:?}", script.stderr());
        said >= count
    })
    .await;
    let read = |line: String| serde_json::from_str(&line).unwrap_or(Value::String(line));
    script.stdout().into_iter().take(count).map(read).collect()
}

/// A server of the `mcp` SDK, and where it listens.
async fn mcp_server(name: &str) -> (Process, SocketAddr) {
    let mut process = script("mcp_server.py", &[name]);
    let port = lines(&mut process, 1).await[0]["port"].as_u64().unwrap();
    (process, SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port).unwrap())))
}

/// Returns the records that a server has written, one for each request that it has begun to answer.
fn answered(server: &Process) -> impl Iterator<Item = Value> {
    server.stdout().into_iter().skip(1).map(|line| serde_json::from_str(&line).unwrap())
}

/// Two replicas with the same keys, and the line to them: to the first, until it is led elsewhere.
struct Replicas {
    one: Proxy,
    other: Proxy,
    line: Line,
    authority: Option<Authority>,
}

impl Replicas {
    async fn start(setup: &Setup) -> Replicas {
        let (one, other) = tokio::join!(setup.start(), setup.start());
        let line = Line::to(one.address).await;
        Replicas { one, other, line, authority: None }
    }

    /// As [`Replicas::start`], with a certificate for `localhost` by an authority of their own.
    async fn start_tls(setup: Setup) -> Replicas {
        let authority = Authority::new();
        authority.issue("one", &["localhost"]);
        let setup = setup.tls(&format!("{{certificates: [{}]}}", authority.entry("one")));
        Replicas { authority: Some(authority), ..Replicas::start(&setup).await }
    }

    fn url(&self, path: &str) -> String {
        let port = self.line.address().port();
        let origin = if self.authority.is_some() { "https://localhost" } else { "http://127.0.0.1" };
        format!("{origin}:{port}{path}")
    }

    /// Returns the last arguments of a script: the trusted authority, and the protocol to speak; none without TLS.
    fn trust(&self, protocol: &str) -> Vec<String> {
        let file = |authority: &Authority| authority.file("ca.pem").display().to_string();
        self.authority.iter().map(file).chain(self.authority.iter().map(|_| protocol.to_owned())).collect()
    }

    /// A metric of each.
    async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> [f64; 2] {
        [self.one.metric(name, labels).await, self.other.metric(name, labels).await]
    }

    /// Waits until a metric of both together has this value.
    async fn wait_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let what = format!("{name}{labels:?} = {value} of both");
        wait_for(&what, async || self.metric(name, labels).await.iter().sum::<f64>() == value).await;
    }
}
