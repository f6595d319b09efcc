//! Leases of client connections: what a stream holds so that its connection stays counted, and may go on afterwards.
//!
//! The connection's own code is above; it lends the connection to the stream and takes it back through
//! [`ResumeConnection`].

use std::net::SocketAddr;
use std::sync::Arc;

use crate::downstream::http1::{Http1Side, IdleConnection};
use crate::limits::connections::ConnectionPermit;

/// The owner of HTTP/1 connections, which serves the requests behind an event stream.
pub(crate) trait ResumeConnection: Send + Sync {
    /// Serves a connection that was lent, in a task of its own.
    fn resume(self: Arc<Self>, lease: ConnectionLease, idle: IdleConnection);
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

/// The HTTP/1 connection that a stream gives back when it ends.
pub(crate) struct ConnectionReturn {
    /// The connection, counted as long as the stream runs.
    pub lease: ConnectionLease,
    /// Whether it may carry another request.
    pub goes_on: bool,
}

impl ConnectionReturn {
    /// Gives the connection back with its socket, once the rest of the request was read, or closes it.
    pub(crate) async fn give_back(self, side: Http1Side) {
        let ConnectionReturn { lease, goes_on } = self;
        if let Some(idle) = side.finish_unread(goes_on).await {
            Arc::clone(&lease.listener).resume(lease, idle);
        }
    }
}
