//! `podpin run`: the proxy until a signal says otherwise.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit_code::INTERRUPTED;
use crate::reload::{self, Source};
use crate::{check, telemetry};

/// Runs until SIGTERM has been followed to its end; SIGINT or a second SIGTERM ends at once.
pub(crate) fn run(file: &Path) -> anyhow::Result<ExitCode> {
    telemetry::init(None);
    let (source, config) = Source::open(file).map_err(|error| anyhow::anyhow!("{error}"))?;
    let signals = tokio::runtime::Builder::new_current_thread().enable_all().build().context("event loop")?;
    let hang_up = {
        let _entered = signals.enter();
        // By default it would end the process, which may have to wait for a slow disk before it can read anything again.
        signal(SignalKind::hangup())?
    };
    let running = podpin_control::start(&config, env!("CARGO_PKG_VERSION"))
        .map_err(|error| anyhow::anyhow!("{}", check::located(file, error.position(), &error)))?;
    for (name, address) in running.listeners() {
        tracing::info!(listener = %name, %address, "listening");
    }
    tracing::info!(address = %running.admin(), "admin port");
    signals.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(reload::follow(source, hang_up, running.reloader()));
        tokio::select! {
            _ = interrupt.recv() => return Ok(ExitCode::from(INTERRUPTED)),
            _ = terminate.recv() => {}
        }
        let leaving = tokio::task::spawn_blocking(move || running.stop());
        tokio::select! {
            _ = interrupt.recv() => std::process::exit(i32::from(INTERRUPTED)),
            _ = terminate.recv() => std::process::exit(0),
            left = leaving => left.context("shutdown")?,
        }
        Ok(ExitCode::SUCCESS)
    })
}
