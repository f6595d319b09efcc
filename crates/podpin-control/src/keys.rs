//! Affinity keys from their files; read again when they change.

use std::fs;
use std::sync::Arc;

use podpin_affinity::{Key, Keyring};
use podpin_config::{AffinityKeys, KeyFile, Position};
use podpin_discovery::FileWatch;

use crate::error::StartError;
use podpin_proxy::shared::Shared;
use podpin_proxy::telemetry::labels::ReloadResult;

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
    // Raw bytes may begin or end with white space, which a key file's reader trims: hex has none.
    let hex: String = material.iter().map(|byte| format!("{byte:02x}")).collect();
    let place = "the ephemeral key";
    ring(vec![key("ephemeral", hex.as_bytes(), (place, None))?], place)
}

fn from_files(files: &[KeyFile]) -> Result<Keyring, StartError> {
    let mut keys = Vec::with_capacity(files.len());
    for file in files {
        let place = file.file.display().to_string();
        let material = fs::read(&file.file).map_err(|source| StartError::KeyFile {
            at: file.at,
            file: place.clone(),
            source,
        })?;
        keys.push(key(&file.id, &material, (&place, Some(file.at)))?);
    }
    ring(keys, "affinityKeys")
}

fn key(id: &str, material: &[u8], (place, at): (&str, Option<Position>)) -> Result<Key, StartError> {
    Key::new(id, material).map_err(|error| StartError::Key {
        at,
        file: place.to_owned(),
        error: error.to_string(),
    })
}

fn ring(keys: Vec<Key>, place: &str) -> Result<Keyring, StartError> {
    Keyring::new(keys).map_err(|error| StartError::Key {
        at: None,
        file: place.to_owned(),
        error: error.to_string(),
    })
}

/// Follows the key files: new keys are in force as soon as all files hold good ones, else the old ones stay.
pub(crate) async fn follow(shared: Arc<Shared>, keys: AffinityKeys) {
    let AffinityKeys::Files(files) = &keys else { return };
    let mut watch = FileWatch::new(files.iter().map(|file| file.file.clone()));
    // What changed between the reading of the configuration and the watch is no change to the watch.
    if let Ok(keyring) = load(&keys) {
        shared.set_keyring(keyring);
    }
    loop {
        watch.changed().await;
        let result = match load(&keys) {
            Ok(keyring) => {
                shared.set_keyring(keyring);
                tracing::info!("affinity keys read again");
                ReloadResult::Success
            }
            Err(error) => {
                tracing::error!(%error, "affinity keys not usable: the old ones stay");
                ReloadResult::Failure
            }
        };
        shared.metrics.process.keys_reloads.inc(result);
    }
}
