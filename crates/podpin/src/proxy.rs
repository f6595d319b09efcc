//! The proxy inside this process, as the demo uses it.

use std::time::{Duration, Instant};

use podpin_config::Config;

/// How often readiness is looked at while waiting for it.
const READY_POLL: Duration = Duration::from_millis(5);

/// A proxy that runs in threads of this process.
pub(crate) struct Running(podpin_control::Running);

/// Starts it.
pub(crate) fn start(config: Config) -> anyhow::Result<Running> {
    Ok(Running(podpin_control::start(&config, env!("CARGO_PKG_VERSION"))?))
}

impl Running {
    /// Waits until every service has endpoints.
    pub(crate) fn wait_ready(&self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let waiting = self.0.waiting_for();
            if waiting.is_empty() {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "no endpoints yet for {}", waiting.join(", "));
            std::thread::sleep(READY_POLL);
        }
    }

    /// Leaves gracefully.
    pub(crate) fn stop(self) {
        self.0.stop();
    }
}
