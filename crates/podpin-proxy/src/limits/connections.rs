//! Counts of open client connections, for the limits on them.

use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;

use crate::limits::keyed::KeyedLimit;

/// Counts behind `limits.connections` and `limits.connectionsPerClientIP`.
#[derive(Debug, Default)]
pub struct ConnectionLimits {
    /// Open connections.
    pub open: AtomicUsize,
    /// Open connections by address, if they are limited.
    pub addresses: KeyedLimit<IpAddr>,
    /// Refused connections whose request is being read.
    pub refusals: AtomicUsize,
}
