//! A real `redis-server` of a test's own: on a free port, in a directory of its own, gone with the test.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::Process;
use crate::{Signal, free_port, in_time, wait_for};

/// A running Redis that writes nothing by itself. Dropping it kills it by its process id.
#[derive(Debug)]
pub struct RedisServer {
    address: SocketAddr,
    directory: TempDir,
    arguments: Vec<String>,
    process: Option<Process>,
}

/// Whether what Redis had is there after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisData {
    /// Written before the end, read again after it.
    Kept,
    /// Killed, and empty.
    Lost,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// When there is no `redis-server`.
    pub async fn start() -> RedisServer {
        RedisServer::start_with(&[]).await
    }

    /// Starts one with more arguments, such as `--maxmemory`.
    ///
    /// # Panics
    /// When there is no `redis-server`.
    pub async fn start_with(arguments: &[&str]) -> RedisServer {
        let mut server = RedisServer {
            address: (Ipv4Addr::LOCALHOST, free_port()).into(),
            directory: TempDir::new().expect("a temporary directory"),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            process: None,
        };
        server.start_again().await;
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL for `REDIS_URL`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Ends it; its clients' connections are closed.
    pub async fn stop(&mut self, data: RedisData) {
        if data == RedisData::Kept {
            assert_eq!(self.command(&["SAVE"]).await, "+OK");
        }
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::KILL);
            process.wait_exit().await;
        }
        if data == RedisData::Lost {
            // Of an earlier stop that kept.
            let _none = std::fs::remove_file(self.directory.path().join("dump.rdb"));
        }
    }

    /// Starts it on the same port, with what the stop left.
    pub async fn start_again(&mut self) {
        let port = self.address.port().to_string();
        let mut command = Command::new(program());
        command.current_dir(self.directory.path());
        command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"]);
        self.process = Some(Process::spawn(command.args(&self.arguments)));
        let address = self.address;
        wait_for("redis-server answering", async || {
            TcpStream::connect(address).await.is_ok() && self.command(&["PING"]).await == "+PONG"
        })
        .await;
    }

    /// Suspends it, as a network that swallows everything does; `SIGCONT` lets it go on.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("a running redis-server").signal(signal);
    }

    /// Sends a command over a connection of its own and returns the first line of the reply, as RESP has it
    /// (`+OK`, `:3`, `-ERR ..`; of a bulk string its text).
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn command(&self, words: &[&str]) -> String {
        let mut connection = TcpStream::connect(self.address).await.expect("redis-server accepts");
        let mut request = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| request.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        connection.write_all(request.as_bytes()).await.expect("redis-server reads");
        let mut reply = Vec::new();
        loop {
            let read = in_time("a reply of redis-server", connection.read_buf(&mut reply)).await;
            assert!(read.is_ok_and(|bytes| bytes > 0), "redis-server broke off");
            let text = String::from_utf8_lossy(&reply);
            let mut lines = text.split("\r\n");
            let (first, second) = (lines.next().unwrap_or_default(), lines.next());
            match (first.starts_with('$') && first != "$-1", second, lines.next()) {
                (false, Some(_), _) => return first.to_owned(),
                (true, Some(value), Some(_)) => return value.to_owned(),
                _ => {}
            }
        }
    }
}

/// Debian keeps it in /usr/bin; a path given by `REDIS_SERVER` wins.
fn program() -> PathBuf {
    std::env::var_os("REDIS_SERVER").map_or_else(|| PathBuf::from("redis-server"), PathBuf::from)
}
