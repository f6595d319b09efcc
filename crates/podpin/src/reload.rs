//! The configuration while the proxy runs: read again when its file changes, and at SIGHUP.

use std::path::{Path, PathBuf};
use std::time::Duration;

use podpin_config::{Config, ConfigError};
use podpin_control::{ReloadError, Reloaded, Reloader};
use podpin_discovery::FileWatch;
use tokio::signal::unix::Signal;

use crate::check::located;

/// How often a configuration is tried again whose files are not as it needs them: a Secret may be mounted after the
/// ConfigMap that names its keys.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// The configuration file.
pub(crate) struct Source {
    file: PathBuf,
    watch: FileWatch,
}

impl Source {
    /// Watches the configuration and reads it, so that no change falls between.
    ///
    /// # Errors
    /// What [`Config::load`] refuses.
    pub(crate) fn open(file: &Path) -> Result<(Source, Config), ConfigError> {
        let watch = FileWatch::new([file.to_owned()]);
        let config = Config::load(file)?;
        Ok((Source { file: file.to_owned(), watch }, config))
    }
}

/// Result of reading a file.
enum Outcome {
    /// A configuration that is in force, or never will be as it is.
    Settled,
    /// A configuration that waits for the files that it names; the text says what is wrong with them.
    Waiting(String),
}

/// Puts in force what the file says whenever it changes, and at every SIGHUP; what cannot be used is said in the log, and
/// what was in force stays.
pub(crate) async fn follow(mut source: Source, mut hang_up: Signal, reloader: Reloader) {
    let mut outcome = Outcome::Settled;
    loop {
        let is_waiting = matches!(outcome, Outcome::Waiting(_));
        tokio::select! {
            _ = hang_up.recv() => outcome = Outcome::Settled,
            () = source.watch.changed() => outcome = Outcome::Settled,
            () = tokio::time::sleep(TRY_AGAIN), if is_waiting => {}
        }
        outcome = read(&source.file, &reloader, outcome).await;
    }
}

/// Says and counts what was not said before.
async fn read(file: &Path, reloader: &Reloader, before: Outcome) -> Outcome {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => {
            reloader.refused();
            tracing::error!(%error, "the configuration cannot be used: the one in force stays");
            return Outcome::Settled;
        }
    };
    match reloader.reload(config).await {
        Ok(Reloaded::Whole) => tracing::info!(file = %file.display(), "configuration reloaded"),
        Ok(Reloaded::Degraded(services)) => tracing::warn!(
            file = %file.display(),
            services = services.join(", "),
            "configuration reloaded, degraded: the cluster does not have what these services name"
        ),
        Err(ReloadError::Leaving) => tracing::warn!("not reloaded: the proxy is leaving"),
        Err(error) => {
            let said = located(file, error.position(), &error);
            if !matches!(before, Outcome::Waiting(known) if known == said) {
                reloader.refused();
                tracing::error!(error = %said, "the configuration cannot be used: the one in force stays");
            }
            if matches!(error, ReloadError::Unusable(_)) {
                return Outcome::Waiting(said);
            }
        }
    }
    Outcome::Settled
}
