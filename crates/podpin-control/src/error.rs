//! Why the proxy does not start, or a configuration is not put in force.

use std::io;
use std::net::SocketAddr;

use podpin_config::Position;
use podpin_proxy::net::tls::TlsError;

/// Why the proxy does not start, or a configuration is not put in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No `affinityKeys`.
    #[error(
        "affinityKeys is missing: without keys nobody's pin would survive a restart, and replicas would not agree.\n\
         Write a key with `podpin keygen --out keys/k1` and configure\n  affinityKeys:\n    - {{id: k1, file: keys/k1}}\n\
         or, where that does not matter, `affinityKeys: ephemeral`"
    )]
    NoKeys,
    /// A key file cannot be read.
    #[error("affinityKeys: {file}: {source}")]
    KeyFile {
        /// Where the configuration names it.
        at: Position,
        /// The file.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// A key file does not hold a usable key.
    #[error("affinityKeys: {file}: {error}")]
    Key {
        /// Where the configuration names it; `None` for keys together.
        at: Option<Position>,
        /// The file.
        file: String,
        /// What is wrong with it.
        error: String,
    },
    /// The TLS of a listener or to the pods of a service cannot be had from its files.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An endpoints file is there but cannot be understood.
    #[error("{0}")]
    Endpoints(String),
    /// There is no Kubernetes cluster to follow.
    #[error("{0}")]
    Cluster(String),
    /// A listener's address cannot be bound.
    #[error("{name}: cannot listen on {address}: {source}")]
    Bind {
        /// `listener http`, `admin`.
        name: String,
        /// The address asked for.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The operating system gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
    /// Two metrics of one name: a bug.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The access log, or a thread.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl StartError {
    /// Where the configuration says what does not work.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            StartError::KeyFile { at, .. } => Some(*at),
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

    /// The operator's input is at fault (exit code 1), not the machine.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        !matches!(self, StartError::Metrics(_) | StartError::Random(_))
    }
}
