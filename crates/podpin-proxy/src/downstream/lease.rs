//! Leases of client connections: what a stream holds so that its connection stays counted, and may go on afterwards.
//!
//! The connection's own code is above; it lends the connection to the stream and takes it back through
//! [`ResumeConnection`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use podpin_time::Millis;

use crate::clock;
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
    /// A stream of an HTTP/2 connection.
    H2 {
        /// Count of the stream, kept as long as it runs.
        _stream: StreamLease,
    },
}

impl ConnectionReturn {
    /// Gives the connection back with its socket, or closes that.
    pub(crate) fn give_back(self, transport: Transport) {
        match self {
            ConnectionReturn::H1 { lease, goes_on: true } => lease.resume(transport),
            ConnectionReturn::H1 { .. } | ConnectionReturn::H2 { .. } => transport.close(),
        }
    }
}

/// The number of streams of an HTTP/2 connection, and since when there is none.
#[derive(Debug)]
pub(crate) struct OpenStreams {
    open: AtomicUsize,
    opened: AtomicU32,
    idle_since: AtomicU64,
}

/// A stream of an HTTP/2 connection, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct StreamLease(Arc<OpenStreams>);

impl OpenStreams {
    /// Returns the count of a new connection.
    pub(crate) fn new(now: Millis) -> Arc<OpenStreams> {
        let idle_since = AtomicU64::new(now.0);
        Arc::new(OpenStreams { open: AtomicUsize::new(0), opened: AtomicU32::new(0), idle_since })
    }

    /// Counts a stream.
    pub(crate) fn lease(self: &Arc<Self>) -> StreamLease {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.opened.fetch_add(1, Ordering::Relaxed);
        StreamLease(Arc::clone(self))
    }

    /// Returns how many streams there ever were.
    pub(crate) fn opened(&self) -> u32 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Returns when the connection has been idle for too long, if no stream opens until then: `head_timeout` without a
    /// first stream, or `keep_alive` since the last one ended.
    pub(crate) fn idle_due(&self, now: Millis, head_timeout: Duration, keep_alive: Duration) -> Millis {
        let limit = if self.opened() > 0 { keep_alive } else { head_timeout };
        let is_busy = self.open.load(Ordering::Relaxed) > 0;
        let since = if is_busy { now } else { Millis(self.idle_since.load(Ordering::Relaxed)) };
        clock::after(since, limit)
    }
}

impl Drop for StreamLease {
    fn drop(&mut self) {
        self.0.idle_since.store(clock::now().0, Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_idle_only_without_streams() {
        let (head, idle) = (Duration::from_secs(1), Duration::from_secs(10));
        let streams = OpenStreams::new(Millis(100));
        assert_eq!(streams.idle_due(Millis(500), head, idle), Millis(1_100));
        let stream = streams.lease();
        assert_eq!(streams.idle_due(Millis(20_000), head, idle), Millis(30_000), "busy since now");
        drop(stream);
        assert_eq!(streams.opened(), 1);
        assert!(streams.idle_due(clock::now(), head, idle) >= Millis(10_000));
    }
}
