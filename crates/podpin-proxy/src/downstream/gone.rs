//! The end of a client, as both versions of HTTP report it.

use std::io;
use std::time::Duration;

/// Time that a client has for reading a response of the proxy before its connection or stream is closed.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// The client is gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gone;

impl From<Gone> for io::Error {
    fn from(Gone: Gone) -> io::Error {
        io::ErrorKind::ConnectionReset.into()
    }
}
