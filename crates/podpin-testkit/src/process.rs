//! A process of the real binary: started, listened to, signalled, and never left behind.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait_for_some;

/// The binary under test: `PODPIN_BIN`, else `podpin` beside the test executable.
///
/// # Panics
/// When it has not been built.
pub fn podpin_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("PODPIN_BIN") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("the test's own path");
    // target/<profile>/deps/e2e-0123456789abcdef
    let profile = test.parent().and_then(Path::parent).expect("a profile's directory");
    let binary = profile.join("podpin");
    assert!(
        binary.exists(),
        "{} is missing: run `cargo build -p podpin` first, or set PODPIN_BIN to the binary",
        binary.display()
    );
    binary
}

/// Lines that a process has written, collected as they come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
}

impl Lines {
    fn collect(&self, source: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = self.lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        })
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A running `podpin`. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts the binary under test.
    pub fn start(arguments: &[&str]) -> Process {
        Process::spawn(Command::new(podpin_binary()).args(arguments))
    }

    /// Starts any command with its output captured.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(command: &mut Command) -> Process {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let readers = vec![
            stdout.collect(child.stdout.take().expect("piped")),
            stderr.collect(child.stderr.take().expect("piped")),
        ];
        Process { child, stdout, stderr, readers }
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and with which code (-1: by a signal).
    pub fn exit_code(&mut self) -> Option<i32> {
        let status = self.child.try_wait().expect("our own child");
        status.map(|status| status.code().unwrap_or(-1))
    }

    /// Waits until it has ended and all of its output was read.
    pub async fn wait_exit(&mut self) -> i32 {
        let code = wait_for_some("the process ending", async || self.exit_code()).await;
        for reader in self.readers.drain(..) {
            reader.join().expect("the reader of a pipe");
        }
        code
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is no longer there.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the process is running");
    }

    /// Returns the lines written to standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.all()
    }

    /// Returns the lines written to standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.all()
    }

    /// Both, for messages that may go to either.
    pub fn output(&self) -> String {
        [self.stdout(), self.stderr()].concat().join("\n")
    }

    /// The memory that is its own, in bytes: the anonymous part of its proportional set size. The program's text is
    /// left out, because its share changes with every other process of the same binary that comes or goes.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn memory_bytes(&self) -> u64 {
        self.memory("Pss_Anon:")
    }

    /// All of its memory that is resident, its program included, in bytes.
    ///
    /// # Panics
    /// When it is no longer there.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("Rss:")
    }

    fn memory(&self, kind: &str) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.id());
        let text = std::fs::read_to_string(path).expect("smaps_rollup");
        let line = text.lines().find(|line| line.starts_with(kind)).expect(kind);
        let kibibytes = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
        kibibytes.expect("a number") * 1024
    }

    /// How many file descriptors it holds.
    ///
    /// # Panics
    /// When it is no longer there.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).expect("its descriptors").count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- last lines of the process ---");
            let lines = self.stderr();
            lines.iter().skip(lines.len().saturating_sub(20)).for_each(|line| eprintln!("{line}"));
        }
        // Both fail only when it has ended and was reaped already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
