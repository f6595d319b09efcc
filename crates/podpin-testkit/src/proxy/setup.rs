//! The configuration of a proxy under test, written as an operator would write it.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use tokio::net::TcpStream;

use super::{Proxy, answers, free_port};
use crate::{EndpointsFile, PATIENCE, Pod, Process, podpin_binary};

/// How often a start is tried with other ports when another process took ours in between.
const STARTS: usize = 5;

/// State that the proxy must have reached before the test goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Ready,
    Alive,
}

/// A configuration in the making. Without anything else it has one listener, one key and routes everything to the
/// first service.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    host: Option<Ipv4Addr>,
    h2c: bool,
    tls: Option<String>,
    proxy_protocol: Option<String>,
    admin: String,
    listeners: Vec<String>,
    keys: Option<Vec<(String, String)>>,
    top: Vec<String>,
    routes: Vec<String>,
    services: Vec<(String, Vec<String>)>,
    environment: Vec<(String, String)>,
    file_limit: Option<u32>,
}

impl Setup {
    /// An empty configuration.
    pub fn new() -> Setup {
        Setup::default()
    }

    /// Makes a setup with one service `chat` and static endpoints, one for each pod.
    pub fn chat(pods: &[&Pod]) -> Setup {
        Setup::new().service("chat", pods)
    }

    /// Adds a service with static endpoints.
    pub fn service(self, name: &str, pods: &[&Pod]) -> Setup {
        let list: Vec<_> = pods.iter().map(|pod| (pod.name(), pod.address())).collect();
        self.service_at(name, &list)
    }

    /// Adds a service with static endpoints: name and address.
    pub fn service_at(mut self, name: &str, endpoints: &[(&str, SocketAddr)]) -> Setup {
        let one = |(name, address): &(&str, SocketAddr)| format!("{{name: {name}, address: \"{address}\"}}");
        let list: Vec<_> = endpoints.iter().map(one).collect();
        let discovery = format!("discovery: {{static: [{}]}}", list.join(", "));
        self.services.push((name.to_owned(), vec![discovery]));
        self
    }

    /// Adds a service with its endpoints in a file.
    pub fn service_in(self, name: &str, file: &EndpointsFile) -> Setup {
        let mut setup = self;
        let discovery = format!("discovery: {{file: {{path: \"{}\"}}}}", file.path().display());
        setup.services.push((name.to_owned(), vec![discovery]));
        setup
    }

    /// Adds a service with a discovery of the test's own words, such as `{kubernetes: {service: chat, port: http}}`.
    pub fn service_from(mut self, name: &str, discovery: &str) -> Setup {
        self.services.push((name.to_owned(), vec![format!("discovery: {discovery}")]));
        self
    }

    /// Adds a line to the service added last, such as `sse: {keepAlive: off}`.
    ///
    /// # Panics
    /// Without a service.
    pub fn with(mut self, line: &str) -> Setup {
        let (_, lines) = self.services.last_mut().expect("a service to configure");
        lines.push(line.to_owned());
        self
    }

    /// Adds a line at the top level, such as `trustedProxies: [127.0.0.0/8]`.
    pub fn top(mut self, line: &str) -> Setup {
        self.top.push(line.to_owned());
        self
    }

    /// Adds keys to `admin`, such as `token: {file: t}`.
    pub fn admin(mut self, keys: &str) -> Setup {
        self.admin = format!(", {keys}");
        self
    }

    /// Adds a listener besides the one that every proxy has, `http`.
    pub fn listener(mut self, name: &str, address: SocketAddr) -> Setup {
        self.listeners.push(format!("{{name: {name}, address: \"{address}\"}}"));
        self
    }

    /// Adds a route, as a mapping: `{name: all, service: chat}`.
    pub fn route(mut self, route: &str) -> Setup {
        self.routes.push(route.to_owned());
        self
    }

    /// With one more environment variable.
    pub fn environment(mut self, name: &str, value: &str) -> Setup {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With at most so many file descriptors.
    pub fn file_limit(mut self, descriptors: u32) -> Setup {
        self.file_limit = Some(descriptors);
        self
    }

    /// Listening at this address of the machine, instead of 127.0.0.1.
    pub fn host(mut self, address: Ipv4Addr) -> Setup {
        self.host = Some(address);
        self
    }

    /// With HTTP/2 without TLS.
    pub fn h2c(mut self) -> Setup {
        self.h2c = true;
        self
    }

    /// With TLS of the test's own words, such as `{certificates: [...]}`.
    pub fn tls(mut self, words: &str) -> Setup {
        self.tls = Some(words.to_owned());
        self
    }

    /// With PROXY headers before everything else: `optional` or `required`.
    pub fn proxy_protocol(mut self, word: &str) -> Setup {
        self.proxy_protocol = Some(word.to_owned());
        self
    }

    /// With these keys in order; equal ids are equal keys in every proxy.
    pub fn keys(self, ids: &[&str]) -> Setup {
        let keys: Vec<_> = ids.iter().map(|id| (*id, *id)).collect();
        self.key_material(&keys)
    }

    /// With these keys in order: id, and the text that the key is made of.
    pub fn key_material(mut self, keys: &[(&str, &str)]) -> Setup {
        self.keys = Some(keys.iter().map(|(id, text)| ((*id).to_owned(), (*text).to_owned())).collect());
        self
    }

    /// Starts the proxy and waits until it serves and is ready.
    ///
    /// # Panics
    /// When it ends or does not become ready.
    pub async fn start(&self) -> Proxy {
        self.start_until(Until::Ready).await
    }

    /// Starts the proxy and waits until it serves, ready or not.
    ///
    /// # Panics
    /// When it ends.
    pub async fn start_alive(&self) -> Proxy {
        self.start_until(Until::Alive).await
    }

    /// Writes the configuration and its keys into `directory`; the path of the configuration.
    ///
    /// # Panics
    /// When the directory cannot be written.
    pub fn write(&self, directory: &Path, address: SocketAddr, admin: SocketAddr) -> String {
        // In one step each: a proxy that runs by them must not read half of one.
        let put = |name: &str, text: String| {
            let (path, next) = (directory.join(name), directory.join("next"));
            std::fs::write(&next, text).expect("a file of the configuration");
            std::fs::rename(&next, &path).expect("the file in its place");
            path.display().to_string()
        };
        for (id, text) in self.keys.iter().flatten() {
            // A key file holds at least 32 bytes.
            put(id, format!("{text:0>43}\n"));
        }
        if self.keys.is_none() {
            put("k1", format!("{:0>43}\n", "k1"));
        }
        put("podpin.yaml", self.text(address, admin))
    }

    /// The configuration's text.
    pub fn text(&self, address: SocketAddr, admin: SocketAddr) -> String {
        let mut text = String::from("listeners:\n");
        let key = |key: &str, words: &Option<String>| words.as_ref().map(|words| format!(", {key}: {words}"));
        let more = [key("tls", &self.tls), key("proxyProtocol", &self.proxy_protocol)];
        let more: String = more.into_iter().flatten().collect();
        writeln!(text, "  - {{name: http, address: \"{address}\", h2c: {}{more}}}", self.h2c)
            .expect("writing to a string");
        let mut line = |line: &str| writeln!(text, "{line}").expect("writing to a string");
        self.listeners.iter().for_each(|listener| line(&format!("  - {listener}")));
        line(&format!("admin: {{address: \"{admin}\"{}}}", self.admin));
        if !self.top.iter().any(|line| line.starts_with("affinityKeys")) {
            line("affinityKeys:");
            let keys = self.keys.clone().unwrap_or_else(|| vec![("k1".to_owned(), "k1".to_owned())]);
            keys.iter().for_each(|(id, _)| line(&format!("  - {{id: {id}, file: {id}}}")));
        }
        self.top.iter().for_each(|entry| line(entry));
        line("routes:");
        let first = self.services.first().map(|(name, _)| name.as_str()).unwrap_or_default();
        let default = [format!("{{name: all, service: {first}}}")];
        let routes = if self.routes.is_empty() { default.as_slice() } else { &self.routes };
        routes.iter().for_each(|route| line(&format!("  - {route}")));
        line("services:");
        for (name, lines) in &self.services {
            line(&format!("  {name}:"));
            lines.iter().for_each(|entry| line(&format!("    {entry}")));
        }
        text
    }

    async fn start_until(&self, until: Until) -> Proxy {
        let mut said = String::new();
        for _ in 0..STARTS {
            match self.try_start(until).await {
                Ok(proxy) => return proxy,
                Err(output) => said = output,
            }
            if !said.to_ascii_lowercase().contains("in use") {
                break;
            }
        }
        panic!("podpin did not start:\n{said}");
    }

    fn command(&self) -> Command {
        let Some(descriptors) = self.file_limit else { return Command::new(podpin_binary()) };
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")]).arg(podpin_binary());
        command
    }

    async fn try_start(&self, until: Until) -> Result<Proxy, String> {
        let local = Ipv4Addr::LOCALHOST;
        let address = SocketAddr::from((self.host.unwrap_or(local), free_port()));
        let admin = SocketAddr::from((local, free_port()));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = self.write(directory.path(), address, admin);
        let mut command = self.command();
        command.args(["run", "--config", &path]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let process = Process::spawn(&mut command);
        let mut proxy = Proxy { address, admin, process, directory };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !is_up(&proxy, until).await {
            if proxy.process.exit_code().is_some() {
                proxy.process.wait_exit().await;
                return Err(proxy.process.output());
            }
            if tokio::time::Instant::now() > deadline {
                return Err(format!("not {until:?} within {PATIENCE:?}\n{}", proxy.process.output()));
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        Ok(proxy)
    }
}

async fn is_up(proxy: &Proxy, until: Until) -> bool {
    let probe = match until {
        Until::Ready => "/readyz",
        Until::Alive => "/livez",
    };
    TcpStream::connect(proxy.address).await.is_ok() && answers(proxy.admin, probe).await == Some(200)
}
