//! Ties a program to the life of the benchmark: when the benchmark dies, even by SIGKILL, the kernel ends the program.
//!
//! The benchmark ends what it started by itself (see `process.rs`); this is the net under it. `PR_SET_PDEATHSIG` is set
//! by the process itself and survives `exec`, so a step in between needs no `unsafe` code in a forked child.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, bail};
use rustix::process::{Resource, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit};

use crate::cli::{LeashArgs, LeashSignal};

/// Becomes the command; returns only when that failed.
pub(crate) fn run(arguments: &LeashArgs) -> anyhow::Result<()> {
    let signal = match arguments.signal {
        LeashSignal::Term => Signal::TERM,
        LeashSignal::Kill => Signal::KILL,
    };
    set_parent_process_death_signal(Some(signal)).context("cannot tie the process to its parent")?;
    if getppid().map(|parent| parent.as_raw_nonzero().get()) != Some(arguments.parent) {
        bail!("the benchmark ended before its subprocess began");
    }
    raise_file_limit();
    let Some((program, rest)) = arguments.command.split_first() else { bail!("no command") };
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// Raises the soft limit of open files to the hard one and returns it.
pub(crate) fn raise_file_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let Some(maximum) = limit.maximum else { return limit.current.unwrap_or(u64::MAX) };
    let before = limit.current;
    limit.current = Some(maximum);
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => maximum,
        Err(_) => before.unwrap_or(maximum),
    }
}
