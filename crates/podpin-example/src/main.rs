//! The example service as a program of its own, for a container: one pod, with its log in Redis or in memory.
//!
//! SIGTERM: `/healthz` turns 503, the pod serves on for `--linger`, then its streams end and it exits with 0.
//! `podpin-example pre-stop` is another program in the same file, because the image has no shell: see `pre_stop.rs`.

mod pre_stop;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use podpin_example::{
    ExamplePod, HistoryLimits, Log, PodSettings, StoreError, follow, parse_interval, publish_ticks,
};
use tokio::signal::unix::{SignalKind, signal};

/// Streams end at once; this is for requests that are being answered. Below Kubernetes' default grace of 30 s.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// The example event stream service for podpin.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    PreStop(pre_stop::PreStopArguments),
}

#[derive(Debug, clap::Args)]
struct ServeArguments {
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Name that this pod gives itself [default: POD_NAME, else the host's name]
    #[arg(long)]
    name: Option<String>,
    /// Redis in which all pods share their events and sessions, such as redis://redis:6379 [default: REDIS_URL, else
    /// each pod has its own in memory]
    #[arg(long)]
    redis_url: Option<String>,
    /// Time between the numbered events; 0s publishes none
    #[arg(long, default_value = "1s", value_parser = parse_interval)]
    tick: Duration,
    /// Events kept for clients that resume
    #[arg(long, default_value_t = HistoryLimits::default().entries_max)]
    history: usize,
    /// On SIGTERM, time to go on serving as not ready before the streams end
    #[arg(long, default_value = "0s", value_parser = parse_interval)]
    linger: Duration,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        None => serve(arguments.serve),
        Some(Command::PreStop(asked)) => pre_stop::run(&asked, pod_name),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("podpin-example: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: ServeArguments) -> std::io::Result<()> {
    let log = log(&arguments).map_err(std::io::Error::other)?;
    let name = arguments.name.unwrap_or_else(pod_name);
    let pod = ExamplePod::start(PodSettings::new(&name, arguments.listen, Arc::clone(&log)))?;
    println!("{name} listens on http://{}/", pod.address());
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let events = events(log, arguments.tick);
        tokio::pin!(events);
        tokio::select! {
            () = &mut events => {}
            signalled = termination() => signalled?,
        }
        pod.retire();
        tokio::select! {
            () = &mut events => {}
            () = tokio::time::sleep(arguments.linger) => {}
        }
        tokio::select! {
            () = &mut events => {}
            () = pod.end(END_PATIENCE) => {}
        }
        Ok(())
    })
}

fn log(arguments: &ServeArguments) -> Result<Arc<Log>, StoreError> {
    let limits = HistoryLimits { entries_max: arguments.history, ..HistoryLimits::default() };
    match arguments.redis_url.clone().or_else(|| variable("REDIS_URL")) {
        Some(url) => Log::redis(&url, limits),
        None => Ok(Log::bounded(limits)),
    }
}

/// Brings events into the log and never returns. A period of zero means that only `/publish` makes some.
async fn events(log: Arc<Log>, period: Duration) {
    let ticks = async {
        if period.is_zero() {
            std::future::pending::<()>().await;
        }
        publish_ticks(Arc::clone(&log), period).await;
    };
    tokio::select! {
        () = ticks => {}
        _ = follow(Arc::clone(&log)) => {}
    }
}

async fn termination() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}

/// The pod's name by the downward API, else the host's, which Kubernetes makes the same unless told otherwise.
fn pod_name() -> String {
    variable("POD_NAME").unwrap_or_else(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        if name.trim().is_empty() { "pod".to_owned() } else { name.trim().to_owned() }
    })
}

/// An environment variable that is set to something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
