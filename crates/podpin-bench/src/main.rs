//! The benchmark: what one event stream, one event and one request cost in podpin, beside nginx, HAProxy, Envoy
//! and a plain TCP relay in the same run.
//!
//! Absolute figures drift between machines and hours; the ratios inside one run are the measure
//! (`docs/performance.md` has the method). This process is the load client and the accountant; pods, relay and proxies
//! are processes of their own, so that the CPU and memory of each can be read from `/proc` and nothing else is in them.

mod accounting;
mod certificate;
mod cli;
mod client;
mod clock;
mod leash;
mod measure;
mod peer;
mod peer_config;
mod peer_kind;
mod plan;
mod pod;
mod pods;
mod process;
mod protocol;
mod relay;
mod report;
mod run;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Role};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.role {
        Some(Role::Pod(arguments)) => pod::run(&arguments),
        Some(Role::Relay(arguments)) => relay::run(&arguments),
        Some(Role::Leash(arguments)) => leash::run(&arguments),
        role => run::run(role, &cli.settings),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("podpin-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
