//! The real proxy with a configuration of the test's choosing.

mod setup;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::client::{Connection, Request, Response, Visitor, status};
use crate::{Item, Metrics, Process, wait_for, wait_for_some};
pub use rustix::process::Signal;
pub use setup::Setup;

/// Ports are given out from below the kernel's ephemeral range (from 32768), so that no outgoing connection of any
/// test takes one between our check and the proxy's bind.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// How many new clients come before one of them must have been given a certain pod.
const PINNING_ATTEMPTS: u32 = 200;

/// A port that was free a moment ago and that this process gives out only once.
///
/// # Panics
/// When none is free.
pub fn free_port() -> u16 {
    free_port_run(1)
}

/// The first of `count` ports in a row, as [`free_port`]: for a program that looks for the next free one itself.
///
/// # Panics
/// When there are none.
pub fn free_port_run(count: u16) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let range = u32::from(PORTS.end - PORTS.start);
    // Other test processes begin elsewhere.
    let start = std::process::id() * 97;
    for _ in PORTS {
        let step = NEXT.fetch_add(u32::from(count), Ordering::SeqCst).wrapping_add(start) % range;
        let first = PORTS.start + u16::try_from(step).expect("less than the range of ports");
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if (first..first + count).all(is_free) {
            return first;
        }
    }
    panic!("no free port");
}

/// A running proxy. Dropping it kills the process and removes its files.
#[derive(Debug)]
pub struct Proxy {
    /// Where it serves clients.
    pub address: SocketAddr,
    /// Where it serves its operator.
    pub admin: SocketAddr,
    /// The process.
    pub process: Process,
    directory: TempDir,
}

impl Proxy {
    /// The directory of its configuration; relative paths in it start here.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Replaces its configuration and waits until that is in force.
    pub async fn reload(&self, setup: &Setup) {
        self.reload_with("success", || drop(setup.write(self.directory(), self.address, self.admin))).await;
    }

    /// Replaces its configuration by one that it does not take; what it says about that.
    ///
    /// # Panics
    /// When it says nothing.
    pub async fn reload_refused(&self, setup: &Setup) -> String {
        let said = self.process.stderr().len();
        self.reload_with("failure", || drop(setup.write(self.directory(), self.address, self.admin))).await;
        wait_for_some("what is wrong", async || {
            let lines = self.process.stderr().into_iter().skip(said);
            let lines: Vec<_> = lines.skip_while(|line| !line.contains("cannot be used")).collect();
            (!lines.is_empty()).then(|| lines.join("\n"))
        })
        .await
    }

    /// Does something that makes it read its configuration again, and waits for the result: `success` or `failure`.
    pub async fn reload_with(&self, result: &str, change: impl FnOnce()) {
        let name = "podpin_config_reloads_total";
        let before = self.metric(name, &[("result", result)]).await;
        change();
        self.wait_metric(name, &[("result", result)], before + 1.0).await;
    }

    /// A new client of it.
    pub fn visitor(&self) -> Visitor {
        Visitor::new(self.address)
    }

    /// A new client whose pod is `name`, by what the pods answer at `/who`.
    ///
    /// # Panics
    /// When no new client came to that pod.
    pub async fn pinned_to(&self, name: &str) -> Visitor {
        for _ in 0..PINNING_ATTEMPTS {
            let mut visitor = self.visitor();
            if visitor.get("/who").await.text() == name {
                return visitor;
            }
        }
        panic!("in {PINNING_ATTEMPTS} attempts no new client came to {name}");
    }

    /// A GET without cookies.
    pub async fn get(&self, target: &str) -> Response {
        Request::get(target).send(self.address).await
    }

    /// A connection to it.
    pub async fn connect(&self) -> Connection {
        Connection::open(self.address).await
    }

    /// Lets time pass by the proxy's own clock: until a silent event stream of its own on `target` has shown `count`
    /// keep-alive comments, each after `sse.keepAlive` (a pod must open that stream and leave it silent).
    ///
    /// # Panics
    /// When the stream ends first.
    pub async fn pass_keep_alives(&self, target: &str, count: usize) {
        let mut clock = Request::events(target).open(self.address).await;
        let mut seen = 0;
        while seen < count {
            let item = clock.next().await.unwrap_or_else(|ending| panic!("the clock stopped: {ending:?}"));
            seen += usize::from(matches!(item, Item::Comment(_)));
        }
    }

    /// GET on the admin port.
    pub async fn admin_get(&self, target: &str) -> Response {
        Request::get(target).header("Connection", "close").send(self.admin).await
    }

    /// A scrape.
    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.admin_get("/metrics").await.text())
    }

    /// The sum of a metric over the samples with these labels, now.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().await.sum(name, labels)
    }

    /// Waits until a metric has this value.
    pub async fn wait_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let what = format!("{name}{labels:?} = {value}");
        wait_for(&what, async || self.metric(name, labels).await == value).await;
    }

    /// Waits until a metric has at least this value.
    pub async fn wait_metric_at_least(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let what = format!("{name}{labels:?} >= {value}");
        wait_for(&what, async || self.metric(name, labels).await >= value).await;
    }

    /// The endpoints of a service as the admin port lists them.
    ///
    /// # Panics
    /// When the service is not listed.
    pub async fn endpoints(&self, service: &str) -> Vec<Value> {
        let listed = self.admin_get("/api/endpoints").await.json();
        let services = listed.get("services").and_then(Value::as_array).expect("services");
        let named = |entry: &&Value| entry.get("service").and_then(Value::as_str) == Some(service);
        let found = services.iter().find(named).unwrap_or_else(|| panic!("no {service} in {listed}"));
        found.get("endpoints").and_then(Value::as_array).expect("endpoints").clone()
    }

    /// Waits until the admin port lists exactly these endpoints: name and state.
    pub async fn wait_endpoints(&self, service: &str, expected: &[(&str, &str)]) {
        let what = format!("the endpoints of {service} to be {expected:?}");
        wait_for(&what, async || {
            let text = |entry: &Value, key| entry.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
            let listed = self.endpoints(service).await;
            let mut have: Vec<_> = listed.iter().map(|one| (text(one, "name"), text(one, "state"))).collect();
            have.sort();
            let mut want: Vec<_> = expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            want.sort();
            have == want
        })
        .await;
    }

    /// The first line of the access log that `wanted` accepts, awaited.
    pub async fn access_log_line(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_for_some("a line in the access log", async || {
            let lines = self.process.stdout().into_iter();
            lines.filter_map(|line| serde_json::from_str(&line).ok()).find(&wanted)
        })
        .await
    }

    /// The first line of the process's own log that has all these words, awaited.
    pub async fn log_line(&self, words: &[&str]) -> String {
        wait_for_some("a line in the log", async || {
            self.process.stderr().into_iter().find(|line| words.iter().all(|word| line.contains(word)))
        })
        .await
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for the process to end; its exit code.
    pub async fn wait_exit(&mut self) -> i32 {
        self.process.wait_exit().await
    }

    /// Whether `/readyz` says 200 now.
    pub async fn is_ready(&self) -> bool {
        answers(self.admin, "/readyz").await == Some(200)
    }
}

/// Returns the status of a GET; `None` if there is no answer (yet).
async fn answers(address: SocketAddr, target: &str) -> Option<u16> {
    let stream = TcpStream::connect(address).await.ok()?;
    drop(stream);
    let mut connection = Connection::open(address).await;
    let request = Request::get(target).header("Connection", "close");
    if !connection.try_send(request.bytes()).await {
        return None;
    }
    connection.try_head().await.ok().map(|head| status(&head))
}
