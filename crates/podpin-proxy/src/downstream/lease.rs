//! Leases of client connections: what a stream holds so that its connection stays counted, and may go on afterwards.
//!
//! The connection's own code is above; it lends the connection to the stream and takes it back through
//! [`ResumeConnection`].

use std::net::SocketAddr;
use std::sync::Arc;

use crate::limits::connections::ConnectionPermit;
use crate::net::transport::Transport;

/// The owner of HTTP/1 connections, which serves the requests behind an event stream.
pub(crate) trait ResumeConnection: Send + Sync {
    /// Serves a connection that was lent, in a task of its own.
    fn resume(self: Arc<Self>, lease: ConnectionLease, transport: Transport);
}

/// An HTTP/1 connection without its socket.
pub(crate) struct ConnectionLease {
    /// Owner that takes the connection back.
    pub listener: Arc<dyn ResumeConnection>,
    /// Address of the client.
    pub peer: SocketAddr,
    /// Number of requests that the connection has carried.
    pub requests: u32,
    /// Count of the connection.
    pub permit: ConnectionPermit,
}

impl ConnectionLease {
    /// Gives the connection back to its owner.
    pub(crate) fn resume(self, transport: Transport) {
        Arc::clone(&self.listener).resume(self, transport);
    }
}

/// The connection that a stream gives back when it ends.
pub(crate) enum ConnectionReturn {
    /// An HTTP/1 connection.
    H1 {
        /// The connection, counted as long as the stream runs.
        lease: ConnectionLease,
        /// Whether it may carry another request.
        goes_on: bool,
    },
    /// A stream of an HTTP/2 connection, which goes on without it.
    H2,
}

impl ConnectionReturn {
    /// Gives the connection back with its socket, or closes that.
    pub(crate) fn give_back(self, transport: Transport) {
        match self {
            ConnectionReturn::H1 { lease, goes_on: true } => lease.resume(transport),
            ConnectionReturn::H1 { .. } | ConnectionReturn::H2 => transport.close(),
        }
    }
}
