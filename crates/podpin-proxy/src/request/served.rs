//! The end of a request for the connection that it came over.

use crate::downstream::http1::IdleConnection;
use crate::stream::open::PendingStream;
use crate::tunnel::open::PendingTunnel;

/// The end of a request for its connection.
pub(crate) enum Served {
    /// Connection that may carry another request.
    Idle(IdleConnection),
    /// Connection that is over.
    Closed,
    /// Event stream that takes the connection with it.
    Stream(Box<PendingStream>),
    /// Connection that becomes another protocol.
    Tunnel(Box<PendingTunnel>),
}

impl From<Option<IdleConnection>> for Served {
    fn from(connection: Option<IdleConnection>) -> Served {
        connection.map_or(Served::Closed, Served::Idle)
    }
}
