//! Errors of a start and of a reload, with the place in the configuration where there is one.

use std::io;
use std::net::SocketAddr;

use podpin_config::Position;
use podpin_proxy::net::tls::TlsError;

/// Reasons for which the proxy does not start, or a configuration is not put in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A configuration without `affinityKeys`.
    #[error(
        "affinityKeys is missing: without keys no pin would survive a restart, and replicas would not agree.\n\
         Write a key with `podpin keygen --out keys/k1` and configure\n  affinityKeys:\n    - {{id: k1, file: keys/k1}}\n\
         or, where that does not matter, `affinityKeys: ephemeral`"
    )]
    NoKeys,
    /// A key file that cannot be read.
    #[error("affinityKeys: {file}: {source}")]
    KeyFile {
        /// The place in the configuration that names the file.
        at: Position,
        /// The file.
        file: String,
        /// The error of the file system.
        source: io::Error,
    },
    /// A key file that does not hold a usable key.
    #[error("affinityKeys: {file}: {error}")]
    Key {
        /// The place in the configuration that names the file; `None` if the keys do not go together.
        at: Option<Position>,
        /// The file.
        file: String,
        /// The fault of the key.
        error: String,
    },
    /// A file of the admin port's token that cannot be used.
    #[error("admin.token: {file}: {source}")]
    AdminToken {
        /// The place in the configuration that names the file.
        at: Position,
        /// The file.
        file: String,
        /// The error of the file system, or of the token.
        source: io::Error,
    },
    /// TLS files of a listener or of a service that cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An endpoints file that exists and does not parse.
    #[error("{0}")]
    Endpoints(String),
    /// A Kubernetes cluster that cannot be reached by the configuration.
    #[error("{0}")]
    Cluster(String),
    /// An address that cannot be bound.
    #[error("{name}: cannot listen on {address}: {source}")]
    Bind {
        /// `listener http`, `admin`.
        name: String,
        /// The address in the configuration.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// An operating system without random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
    /// Two metrics with one name, which is a bug.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// An access log that cannot be opened, or a thread that cannot be started.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl StartError {
    /// Returns the place in the configuration that does not work; `None` if there is no single one.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            StartError::KeyFile { at, .. } | StartError::AdminToken { at, .. } => Some(*at),
            StartError::Tls(error) => error.position(),
            StartError::Key { at, .. } => *at,
            StartError::NoKeys
            | StartError::Cluster(_)
            | StartError::Endpoints(_)
            | StartError::Bind { .. }
            | StartError::Random(_)
            | StartError::Metrics(_)
            | StartError::Io(_) => None,
        }
    }

    /// Returns whether the operator's input is at fault (exit code 1) rather than the machine.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        !matches!(self, StartError::Metrics(_) | StartError::Random(_))
    }
}

/// Reasons for which the configuration in force stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// A change of settings that are only read at the start.
    #[error("{0}: that needs a restart")]
    NeedsRestart(String),
    /// A file named by the configuration that cannot be used.
    #[error(transparent)]
    Unusable(#[from] StartError),
    /// A shutdown under way.
    #[error("the proxy is shutting down")]
    Leaving,
    /// A panic, which is a bug. Discovery and the admin port go on.
    #[error(
        "reload failed with an internal error (see the panic above); the previous configuration stays in force"
    )]
    Panicked,
}

impl ReloadError {
    /// Returns the place in the configuration that does not work; `None` if there is no single one.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            ReloadError::Unusable(error) => error.position(),
            ReloadError::NeedsRestart(_) | ReloadError::Leaving | ReloadError::Panicked => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bugs_and_the_machine_are_not_blamed_on_the_configuration() {
        assert!(StartError::NoKeys.is_configuration());
        assert!(StartError::Cluster("no way".to_owned()).is_configuration());
        assert!(!StartError::Random("none".to_owned()).is_configuration());
        assert!(ReloadError::Panicked.to_string().contains("stays in force"));
        assert!(ReloadError::Unusable(StartError::NoKeys).position().is_none());
    }
}
