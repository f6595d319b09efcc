//! Logs: one line an event to standard error, levels by `PODPIN_LOG` (else `RUST_LOG`, else `info`).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Pingora reports each client that leaves as an error of its own, h2 each that it cuts off as a warning, rustls each hello with an odd name
/// with all bytes of the name: a client must not be able to fill the log. What matters of that is in our own lines and metrics. notify
/// has a line for each directory that a ConfigMap's update takes away, which is what the watch is for.
const DEFAULT: &str =
    "info,h2=error,pingora_core=error,pingora_proxy=error,kube_client=off,rustls=off,notify=off";

/// Turns logging on, for the whole process.
pub(crate) fn init(default: Option<&str>) {
    let filter = std::env::var("PODPIN_LOG")
        .or_else(|_| std::env::var("RUST_LOG"))
        .unwrap_or_else(|_| default.unwrap_or(DEFAULT).to_owned());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    if let Err(error) = subscriber.try_init() {
        eprintln!("podpin: logging: {error}");
    }
}

/// Turns warnings on for a command that ends at once: without the time, and without settings of the environment.
pub(crate) fn init_warnings() {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false);
    if let Err(error) = subscriber.try_init() {
        eprintln!("podpin: logging: {error}");
    }
}
