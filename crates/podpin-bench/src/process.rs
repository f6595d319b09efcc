//! A process that the benchmark started and therefore ends: on success, on errors and on Ctrl-C alike, by its own pid.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::LeashSignal;

/// How long a process may take from SIGTERM to its end before SIGKILL. Only nginx's master is ended by SIGTERM, and
/// needs milliseconds.
const TERM_GRACE: Duration = Duration::from_secs(2);

/// A running subprocess; ended when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    signal: LeashSignal,
    log: PathBuf,
}

impl Process {
    /// Starts `program` on a leash, its output going to `log`.
    pub(crate) fn start<I, A>(
        log: PathBuf,
        signal: LeashSignal,
        program: &Path,
        args: I,
    ) -> anyhow::Result<Self>
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let signal_word = match signal {
            LeashSignal::Term => "term",
            LeashSignal::Kill => "kill",
        };
        let mut command = Command::new(own_binary()?);
        command.args(["leash", "--parent", &std::process::id().to_string(), "--signal", signal_word, "--"]);
        command.arg(program).args(args.into_iter().map(|arg| OsString::from(arg.as_ref())));
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, signal, log })
    }

    /// This process and its children, as they are now.
    pub(crate) fn pids(&self) -> Vec<u32> {
        std::iter::once(self.child.id()).chain(self.children()).collect()
    }

    /// Returns the ids of the child processes at this moment.
    pub(crate) fn children(&self) -> Vec<u32> {
        let own = self.child.id();
        let listed = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Returns the child processes that hold the socket on which new connections to `address` come.
    pub(crate) fn children_that_listen_at(&self, address: SocketAddr) -> anyhow::Result<Vec<u32>> {
        let table = fs::read_to_string("/proc/net/tcp").context("cannot read /proc/net/tcp")?;
        let sockets = listening_sockets(&table, address.port());
        Ok(self.children().into_iter().filter(|pid| holds_one_of(*pid, &sockets)).collect())
    }

    /// Sends `signal` to this process alone.
    pub(crate) fn send(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no such process")?;
        kill_process(pid, signal).context("a process is gone")
    }

    /// SIGKILL, without a wait for the end.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("a process is gone")
    }

    /// Returns what the process wrote to standard error; `None` if it still runs.
    pub(crate) fn last_words(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(10).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Some(format!("{status}\n{}", tail.join("\n")))
    }

    fn end(&mut self) {
        if self.signal == LeashSignal::Term && self.send(Signal::TERM).is_ok() {
            let deadline = Instant::now() + TERM_GRACE;
            while Instant::now() < deadline {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        // Fails only when it has ended by itself, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A child that was waited for is gone; its pid may be another's by now.
        if let Ok(None) = self.child.try_wait() {
            self.end();
        }
    }
}

/// As links in `/proc/<pid>/fd` name them. The table has local address and port in hexadecimal in its second column,
/// the state in its fourth (`0A` listens) and the inode in its tenth.
fn listening_sockets(table: &str, port: u16) -> Vec<String> {
    let wanted = format!(":{port:04X}");
    let is_it = |columns: &[&str]| match columns {
        [_, local, _, state, ..] => local.ends_with(&wanted) && *state == "0A",
        _ => false,
    };
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|columns| is_it(columns))
        .filter_map(|columns| Some(format!("socket:[{}]", columns.get(9)?)))
        .collect()
}

/// Whether `pid` holds one of `sockets`; false if the process has ended meanwhile.
fn holds_one_of(pid: u32, sockets: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let mut links = descriptors.flatten().filter_map(|one| fs::read_link(one.path()).ok());
    links.any(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
}

/// The file of this very binary.
pub(crate) fn own_binary() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find the path of this binary")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listening_socket_is_told_from_a_connection_at_the_same_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:520B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0\n\
            1: 0100007F:520B 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4\n\
            2: 0100007F:520C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0\n";
        assert_eq!(listening_sockets(table, 0x520B), ["socket:[4711]"]);
    }

    #[test]
    fn this_process_holds_its_listener_until_it_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let sockets = listening_sockets(&table, port);
        assert!(holds_one_of(std::process::id(), &sockets));
        drop(listener);
        assert!(!holds_one_of(std::process::id(), &sockets));
    }
}
