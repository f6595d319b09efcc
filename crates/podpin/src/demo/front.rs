//! The one place where the demo touches the proxy: it starts, becomes ready and stops in threads of this process.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use podpin_config::Config;
use podpin_control::Running;

/// Time between two looks at the proxy's readiness.
const READY_POLL: Duration = Duration::from_millis(5);

/// The running proxy.
pub(super) struct Front(Running);

impl Front {
    /// Starts the proxy on the configuration `text`, as `podpin run` would on a file in `directory`.
    pub(super) fn start(text: &str, directory: &Path) -> anyhow::Result<Self> {
        let config = Config::parse(text, "demo.yaml", directory)?;
        Ok(Self(podpin_control::start(&config, env!("CARGO_PKG_VERSION"))?))
    }

    /// Waits until every service has endpoints.
    pub(super) fn wait_ready(&self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let waiting = self.0.waiting_for();
            if waiting.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "no endpoints yet for {}", waiting.join(", "));
            std::thread::sleep(READY_POLL);
        }
    }

    /// Shuts the proxy down gracefully.
    pub(super) fn stop(self) {
        self.0.stop();
    }
}
