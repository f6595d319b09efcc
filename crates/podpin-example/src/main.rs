//! The example service as a program of its own, for a container: one pod with a log in memory.
//!
//! SIGTERM: `/healthz` turns 503, the pod serves on for `--linger`, then its streams end and it exits with 0.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use podpin_example::{ExamplePod, HistoryLimits, Log, PodSettings, parse_interval, publish_ticks};
use tokio::signal::unix::{SignalKind, signal};

/// Streams end at once; this is for requests that are being answered. Below Kubernetes' default grace of 30 s.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// The example event stream service for podpin.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Name that this pod gives itself [default: the host's name]
    #[arg(long)]
    name: Option<String>,
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
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("podpin-example: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> std::io::Result<()> {
    let log = Log::bounded(HistoryLimits { entries_max: arguments.history, ..HistoryLimits::default() });
    let name = arguments.name.unwrap_or_else(host_name);
    let pod = ExamplePod::start(PodSettings::new(&name, arguments.listen, Arc::clone(&log)))?;
    println!("{name} listens on http://{}/", pod.address());
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let ticks = publish_ticks_unless_zero(log, arguments.tick);
        tokio::pin!(ticks);
        tokio::select! {
            () = &mut ticks => {}
            signalled = termination() => signalled?,
        }
        pod.retire();
        tokio::select! {
            () = &mut ticks => {}
            () = tokio::time::sleep(arguments.linger) => {}
        }
        pod.end(END_PATIENCE).await;
        Ok(())
    })
}

/// Never returns; a period of zero means that only `/publish` makes events.
async fn publish_ticks_unless_zero(log: Arc<Log>, period: Duration) {
    if period.is_zero() {
        std::future::pending::<()>().await;
    }
    publish_ticks(log, period).await;
}

async fn termination() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "pod".to_owned() } else { name.trim().to_owned() }
}
