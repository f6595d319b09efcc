//! Affinity keys from their files; read again when they change.

use std::sync::Arc;

use podpin_affinity::{Key, Keyring};
use podpin_config::{AffinityKeys, KeyFile, Position, read_file};
use podpin_discovery::FileWatch;
use podpin_proxy::shared::Shared;
use podpin_proxy::telemetry::labels::ReloadResult;

use crate::error::StartError;

/// Bytes of a key file: far more than a key has.
const KEY_BYTES_MAX: u64 = 64 * 1024;

/// The place that a key comes from, for error messages.
struct Origin<'a> {
    file: &'a str,
    /// The place in the configuration that names the file; `None` if no single one does.
    at: Option<Position>,
}

impl Origin<'_> {
    fn fault(&self, error: &impl ToString) -> StartError {
        StartError::Key { at: self.at, file: self.file.to_owned(), error: error.to_string() }
    }
}

/// Refuses a configuration that says nothing about keys; reads none.
///
/// # Errors
/// [`StartError::NoKeys`].
pub(crate) fn verify_presence(keys: &AffinityKeys) -> Result<(), StartError> {
    match keys {
        AffinityKeys::Absent => Err(StartError::NoKeys),
        AffinityKeys::Ephemeral | AffinityKeys::Files(_) => Ok(()),
    }
}

/// Reads the keyring that the configuration names.
///
/// # Errors
/// Names the file that cannot be read or does not hold a key.
pub(crate) fn load(keys: &AffinityKeys) -> Result<Keyring, StartError> {
    match keys {
        AffinityKeys::Absent => Err(StartError::NoKeys),
        AffinityKeys::Ephemeral => ephemeral(),
        AffinityKeys::Files(files) => from_files(files),
    }
}

fn ephemeral() -> Result<Keyring, StartError> {
    tracing::warn!("affinityKeys: ephemeral - pins are lost at every restart, and replicas do not agree");
    let mut material = [0_u8; 32];
    getrandom::fill(&mut material).map_err(|error| StartError::Random(error.to_string()))?;
    // Raw bytes may begin or end with white space, which the parser of key files trims: hex has none.
    let hex: String = material.iter().map(|byte| format!("{byte:02x}")).collect();
    let origin = Origin { file: "the ephemeral key", at: None };
    ring(vec![key("ephemeral", hex.as_bytes(), &origin)?], &origin)
}

fn from_files(files: &[KeyFile]) -> Result<Keyring, StartError> {
    let mut keys = Vec::with_capacity(files.len());
    for file in files {
        let name = file.file.display().to_string();
        let material = read_file(&file.file, KEY_BYTES_MAX).map_err(|source| StartError::KeyFile {
            at: file.at,
            file: name.clone(),
            source,
        })?;
        keys.push(key(&file.id, &material, &Origin { file: &name, at: Some(file.at) })?);
    }
    ring(keys, &Origin { file: "affinityKeys", at: None })
}

fn key(id: &str, material: &[u8], origin: &Origin<'_>) -> Result<Key, StartError> {
    Key::new(id, material).map_err(|error| origin.fault(&error))
}

fn ring(keys: Vec<Key>, origin: &Origin<'_>) -> Result<Keyring, StartError> {
    Keyring::new(keys).map_err(|error| origin.fault(&error))
}

/// Follows the key files: new keys are in force as soon as all files hold good ones, else the old ones stay.
pub(crate) async fn follow(shared: Arc<Shared>, keys: AffinityKeys) {
    let AffinityKeys::Files(files) = &keys else { return };
    let mut watch = FileWatch::new(files.iter().map(|file| file.file.clone()));
    // The watch does not see changes between the reading of the configuration and its own beginning.
    if let Ok(keyring) = load(&keys) {
        shared.set_keyring(keyring);
    }
    loop {
        watch.changed().await;
        let result = match load(&keys) {
            Ok(keyring) => {
                shared.set_keyring(keyring);
                tracing::info!("affinity keys reloaded");
                ReloadResult::Success
            }
            Err(error) => {
                tracing::error!(%error, "affinity keys cannot be used: the previous ones stay in force");
                ReloadResult::Failure
            }
        };
        shared.metrics.process.keys_reloads.inc(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn keys(text: &str) -> AffinityKeys {
        fixture::parsed(&format!("affinityKeys: {text}\n{}", fixture::MINIMAL)).affinity_keys
    }

    #[test]
    fn ephemeral_keys_load_and_missing_ones_are_an_error_that_says_where() {
        assert!(load(&keys("ephemeral")).is_ok());
        assert!(matches!(load(&AffinityKeys::Absent), Err(StartError::NoKeys)));
        let error = load(&keys("[{id: k1, file: /nonexistent/k1}]")).unwrap_err();
        assert!(matches!(error, StartError::KeyFile { .. }) && error.position().is_some(), "{error}");
    }

    #[test]
    fn a_key_file_that_is_too_short_is_refused_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("k1");
        std::fs::write(&file, "short").unwrap();
        let error = load(&keys(&format!("[{{id: k1, file: {}}}]", file.display()))).unwrap_err();
        assert!(error.to_string().contains("k1") && error.position().is_some(), "{error}");
    }
}
