//! Client connections that are open, and what the limits on them still allow.

use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;

use crate::limits::keyed::KeyedLimit;

/// Counts behind `limits.connections` and `limits.connectionsPerClientIP`.
#[derive(Debug, Default)]
pub struct ConnectionLimits {
    /// Connections that are open now.
    pub open: AtomicUsize,
    /// Connections of each address, where that is limited.
    pub addresses: KeyedLimit<IpAddr>,
    /// Refused connections whose request is read now.
    pub refusals: AtomicUsize,
}
