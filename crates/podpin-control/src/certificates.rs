//! Certificates of the listeners: checked before a start, watched for changes of their files, shown in the metrics.

use std::sync::Arc;

use podpin_config::Config;
use podpin_discovery::FileWatch;
use podpin_proxy::net::tls::{self, LoadedTls, ServerTls, TlsError, UpstreamTls};
use podpin_proxy::routing::snapshot::ConfigSnapshot;
use podpin_proxy::shared::Shared;
use podpin_proxy::telemetry::labels::ReloadResult;
use podpin_proxy::telemetry::metrics::Metrics;

/// Checks every TLS file that the configuration names.
///
/// # Errors
/// Names the first one that cannot be used.
pub(crate) fn verify(config: &Config) -> Result<(), TlsError> {
    for (index, listener) in config.listeners.iter().enumerate() {
        tls::load(index, listener, None)?;
    }
    config.services.iter().try_for_each(|service| UpstreamTls::load(service).map(drop))
}

/// Returns the TLS of every listener that has it.
pub(crate) fn in_use(snapshot: &ConfigSnapshot) -> Vec<Arc<ServerTls>> {
    snapshot.listeners.iter().filter_map(|listener| listener.tls.clone()).collect()
}

/// Shows the certificates of a prepared snapshot in the metrics, and no others.
pub(crate) fn show(loaded: &[LoadedTls], before: &ConfigSnapshot, next: &ConfigSnapshot, metrics: &Metrics) {
    loaded.iter().for_each(|loaded| loaded.show(metrics));
    let current = in_use(next);
    let before = in_use(before);
    let gone = before.iter().filter(|old| !current.iter().any(|one| Arc::ptr_eq(one, old)));
    gone.for_each(|old| old.forget(&current, metrics));
}

/// Watches the files of a listener: new ones are in use as soon as all of them are good, else the old ones stay.
pub(crate) async fn follow(shared: Arc<Shared>, tls: Arc<ServerTls>) {
    let mut watch = FileWatch::new(tls.files());
    // The watch does not see changes between the reading of the configuration and its own beginning.
    if let Err(error) = tls.reload(&shared.metrics) {
        tracing::debug!(%error, "the certificate files are being replaced");
    }
    loop {
        watch.changed().await;
        let result = match tls.reload(&shared.metrics) {
            Ok(()) => {
                tracing::info!(listener = %tls.path(), "certificates reloaded");
                ReloadResult::Success
            }
            Err(error) => {
                tracing::error!(%error, "certificates cannot be used: the previous ones stay in force");
                ReloadResult::Failure
            }
        };
        shared.metrics.process.tls_reloads.inc(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_configuration_without_tls_has_nothing_to_check_and_one_with_missing_files_is_refused() {
        let plain = fixture::config("{a: {discovery: {static: []}}}");
        verify(&plain).unwrap();
        assert!(in_use(&fixture::started(&plain).snapshot()).is_empty());
        let missing = fixture::config(
            "{a: {discovery: {static: []}, tls: {caFile: /nonexistent/ca.pem, serverName: a}}}",
        );
        assert!(verify(&missing).unwrap_err().position().is_some());
    }
}
