//! The one place where the demo touches the proxy: it starts, becomes ready and stops in this process.

use std::path::Path;
use std::time::Duration;

use podpin_config::Config;

/// The running proxy.
pub(super) struct Front(crate::proxy::Running);

impl Front {
    /// Starts the proxy on the configuration `text`, as `podpin run` would on a file in `directory`.
    pub(super) fn start(text: &str, directory: &Path) -> anyhow::Result<Self> {
        let config = Config::parse(text, "demo.yaml", directory)?;
        Ok(Self(crate::proxy::start(config)?))
    }

    /// Waits until the proxy has its endpoints and accepts connections.
    pub(super) fn wait_ready(&self, timeout: Duration) -> anyhow::Result<()> {
        self.0.wait_ready(timeout)
    }

    pub(super) fn stop(self) {
        self.0.stop();
    }
}
