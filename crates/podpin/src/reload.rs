//! The configuration while the proxy runs: read again when its file changes, and at SIGHUP.

use std::path::{Path, PathBuf};

use podpin_config::{Config, ConfigError};
use podpin_discovery::FileWatch;
use podpin_proxy::{ReloadError, Reloader};
use tokio::signal::unix::Signal;

use crate::check::located;

/// The configuration file, and the files that are read with it.
pub(crate) struct Source {
    file: PathBuf,
    also: Vec<PathBuf>,
    watch: FileWatch,
}

impl Source {
    /// Reads the configuration and watches what it was read from, so that no change falls between.
    ///
    /// # Errors
    /// What [`Config::load`] refuses.
    pub(crate) fn open(file: &Path) -> Result<(Source, Config), ConfigError> {
        let config = Config::load(file)?;
        let mut source = Source::watching(file, podpin_proxy::files(&config));
        let config = source.read()?;
        Ok((source, config))
    }

    fn watching(file: &Path, also: Vec<PathBuf>) -> Source {
        let watch = FileWatch::new(std::iter::once(file.to_owned()).chain(also.iter().cloned()));
        Source { file: file.to_owned(), also, watch }
    }

    /// Reads what is watched; watches first what a new configuration names besides.
    fn read(&mut self) -> Result<Config, ConfigError> {
        loop {
            let config = Config::load(&self.file)?;
            let also = podpin_proxy::files(&config);
            if also == self.also {
                return Ok(config);
            }
            *self = Source::watching(&self.file, also);
        }
    }
}

/// Puts in force what the file says whenever it changes, and at every SIGHUP; what cannot be used is said in the log, and
/// what was in force stays.
pub(crate) async fn follow(mut source: Source, mut hang_up: Signal, reloader: Reloader) {
    loop {
        tokio::select! {
            _ = hang_up.recv() => {}
            () = source.watch.changed() => {}
        }
        let config = match source.read() {
            Ok(config) => config,
            Err(error) => {
                reloader.refused();
                tracing::error!(%error, "the configuration cannot be used: the one in force stays");
                continue;
            }
        };
        match reloader.reload(config).await {
            Ok(()) => tracing::info!(file = %source.file.display(), "configuration reloaded"),
            Err(ReloadError::Leaving) => tracing::warn!("not reloaded: the proxy is leaving"),
            Err(error) => {
                let error = located(&source.file, error.position(), &error);
                tracing::error!(%error, "the configuration cannot be used: the one in force stays");
            }
        }
    }
}
