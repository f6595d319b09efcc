//! Why TLS cannot be had from the files that the configuration names.

use podpin_config::Position;

/// Reasons for which TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file that is missing or does not hold what it should.
    #[error("{path}: {error}")]
    File {
        /// The place where the configuration names the file.
        at: Position,
        /// `listeners[0].tls.certificates[1].certFile`
        path: String,
        /// The file and what is wrong with it.
        error: String,
    },
    /// The operating system gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
}

impl TlsError {
    /// Returns the place in the configuration that does not work; `None` if the machine is at fault.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            TlsError::File { at, .. } => Some(*at),
            TlsError::Random(_) => None,
        }
    }
}
