//! Certificates of the listeners: checked before a start, followed when their files change.

use std::sync::Arc;

use podpin_config::Config;
use podpin_discovery::FileWatch;
use podpin_proxy::net::tls::{self, PodTls, ServerTls, TlsError};
use podpin_proxy::shared::Shared;
use podpin_proxy::telemetry::labels::ReloadResult;

/// Checks every file of TLS that the configuration names.
///
/// # Errors
/// Names the first that cannot be used.
pub(crate) fn verify(config: &Config) -> Result<(), TlsError> {
    config.listeners.iter().enumerate().try_for_each(|listener| tls::load(listener, None).map(drop))?;
    config.services.iter().try_for_each(|service| PodTls::load(service).map(drop))
}

/// Follows the files of a listener: new ones are in use as soon as all of them are good, else the old ones stay.
pub(crate) async fn follow(shared: Arc<Shared>, tls: Arc<ServerTls>) {
    let mut watch = FileWatch::new(tls.files());
    // What changed between the reading of the configuration and the watch is no change to the watch.
    if let Err(error) = tls.reload(&shared.metrics) {
        tracing::debug!(%error, "the certificates have just been replaced");
    }
    loop {
        watch.changed().await;
        let result = match tls.reload(&shared.metrics) {
            Ok(()) => {
                tracing::info!(listener = %tls.path(), "certificates read again");
                ReloadResult::Success
            }
            Err(error) => {
                tracing::error!(%error, "certificates not usable: the old ones stay");
                ReloadResult::Failure
            }
        };
        shared.metrics.process.tls_reloads.inc(result);
    }
}
