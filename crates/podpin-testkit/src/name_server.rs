//! Name servers of a test's own: a real one (Debian's dnsmasq) that answers from a file, and one that misbehaves.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use crate::process::Process;
use crate::{Signal, free_port, wait_for};

/// A running dnsmasq that knows the names under `test` which it was given, and no others. Dropping it kills it.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    directory: TempDir,
    arguments: Vec<String>,
    process: Option<Process>,
}

impl NameServer {
    /// Starts one whose answers are good for a second.
    ///
    /// # Panics
    /// When there is no `dnsmasq`.
    pub async fn start() -> NameServer {
        NameServer::start_with(&[]).await
    }

    /// Starts one with more arguments, such as `--srv-host=..`.
    ///
    /// # Panics
    /// When there is no `dnsmasq`.
    pub async fn start_with(arguments: &[&str]) -> NameServer {
        NameServer::start_at((Ipv4Addr::LOCALHOST, free_port()).into(), arguments).await
    }

    /// Starts one at this address, with more arguments.
    ///
    /// # Panics
    /// When there is no `dnsmasq`, or the address is in use.
    pub async fn start_at(address: SocketAddr, arguments: &[&str]) -> NameServer {
        let mut server = NameServer {
            address,
            directory: TempDir::new().expect("a temporary directory"),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            process: None,
        };
        std::fs::write(server.hosts(), "").expect("the file of names");
        server.start_again().await;
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has these names and addresses from now on, and no others.
    pub fn set(&self, entries: &[(&str, &str)]) {
        let mut text = String::new();
        for (name, address) in entries {
            writeln!(text, "{address} {name}").expect("written to memory");
        }
        std::fs::write(self.hosts(), text).expect("the file of names");
        if let Some(process) = &self.process {
            process.signal(Signal::HUP);
        }
    }

    /// Ends it: questions are not answered any more.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::KILL);
            process.wait_exit().await;
        }
    }

    /// Starts it on the same port, with the names of before.
    pub async fn start_again(&mut self) {
        let mut command = Command::new(program());
        command.args([
            "--no-daemon",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
        ]);
        command.args(["--local=/test/", "--local-ttl=1", "--log-facility=-"]);
        command.arg(format!("--listen-address={}", self.address.ip()));
        command.arg(format!("--port={}", self.address.port()));
        command.arg(format!("--addn-hosts={}", self.hosts().display()));
        command.arg(format!("--pid-file={}", self.directory.path().join("pid").display()));
        self.process = Some(Process::spawn(command.args(&self.arguments)));
        let address = self.address;
        wait_for("dnsmasq answering", async || TcpStream::connect(address).await.is_ok()).await;
    }

    fn hosts(&self) -> PathBuf {
        self.directory.path().join("hosts")
    }
}

/// Debian keeps it where only root looks; a path given by `DNSMASQ` wins.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("DNSMASQ") {
        return path.into();
    }
    let debian = PathBuf::from("/usr/sbin/dnsmasq");
    if debian.exists() { debian } else { PathBuf::from("dnsmasq") }
}

/// A name server that answers no question, or each with an error.
#[derive(Debug)]
pub struct BadNameServer {
    task: JoinHandle<()>,
}

impl BadNameServer {
    /// Listens at `address` (UDP). Answers with this code (2: SERVFAIL, 5: REFUSED), or not at all.
    ///
    /// # Panics
    /// When the address is taken.
    pub async fn start(address: SocketAddr, code: Option<u8>) -> BadNameServer {
        let socket = UdpSocket::bind(address).await.expect("a free port");
        let task = tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                let Some(code) = code else { continue };
                let mut answer = question.get(..length).unwrap_or_default().to_vec();
                // QR, RD, RA and the code (RFC 1035, section 4.1.1); the question stays, without additional records.
                if let Some([_, _, first, second, _, _, _, _, _, _, high, low]) = answer.first_chunk_mut() {
                    (*first, *second) = (0x81, 0x80 | code);
                    (*high, *low) = (0, 0);
                }
                let end = question_end(&answer);
                answer.truncate(end);
                // A client that has gone away is no failure.
                let _sent = socket.send_to(&answer, from).await;
            }
        });
        BadNameServer { task }
    }
}

impl BadNameServer {
    /// Ends it. Its port is free afterwards.
    pub async fn stop(mut self) {
        self.task.abort();
        // It ends as cancelled; what matters is that its socket is closed when this returns.
        let _cancelled = (&mut self.task).await;
    }
}

impl Drop for BadNameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns where the first question of a message ends.
fn question_end(message: &[u8]) -> usize {
    let mut at = 12;
    while let Some(length) = message.get(at).filter(|length| **length > 0) {
        at += 1 + usize::from(*length);
    }
    (at + 5).min(message.len())
}
