//! A process that the benchmark started and therefore ends: on success, on errors and on Ctrl-C alike, by its own pid.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
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
        let own = self.child.id();
        let listed = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        std::iter::once(own).chain(listed.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
    }

    /// What it wrote, when it has ended already; the reason why it does not answer.
    pub(crate) fn last_words(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(10).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Some(format!("{status}\n{}", tail.join("\n")))
    }

    fn end(&mut self) {
        if self.signal == LeashSignal::Term
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
            && kill_process(pid, Signal::TERM).is_ok()
        {
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

/// The file of this very binary.
pub(crate) fn own_binary() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find the path of this binary")
}
