//! Client connections that are open, and the permits of the limits on them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use podpin_wire::client::network;
use prometheus::IntGauge;

use crate::limits::keyed::KeyedLimit;

/// Refused connections whose request is read at a time: a few hundred a second, and no more memory than as many requests.
const REFUSALS_MAX: usize = 64;

/// Counts behind `limits.connections` and `limits.connectionsPerClientIP`.
#[derive(Debug, Default)]
pub struct ConnectionLimits {
    open: AtomicUsize,
    /// Connections of each network, where that is limited.
    networks: KeyedLimit<IpAddr>,
    refusals: AtomicUsize,
}

/// An open connection, counted until this is dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    limits: Arc<ConnectionLimits>,
    active: IntGauge,
    /// Network of the client; `None` if it is not limited. Boxed, because every stream task holds a permit.
    network: Option<Box<IpAddr>>,
}

/// A refused connection whose request is read, counted until this is dropped.
#[derive(Debug)]
pub struct RefusalSlot(Arc<ConnectionLimits>);

impl ConnectionLimits {
    /// Counts a connection, in the gauge `active` too; `None` if `limit` are open.
    pub fn try_open(self: &Arc<Self>, limit: usize, active: IntGauge) -> Option<ConnectionPermit> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        active.inc();
        let permit = ConnectionPermit { limits: Arc::clone(self), active, network: None };
        (before < limit).then_some(permit)
    }

    /// Takes a slot for a refused connection; `None` if all are taken.
    pub fn try_refuse(self: &Arc<Self>) -> Option<RefusalSlot> {
        let slot = RefusalSlot(Arc::clone(self));
        (self.refusals.fetch_add(1, Ordering::Relaxed) < REFUSALS_MAX).then_some(slot)
    }

    /// Returns the number of open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl ConnectionPermit {
    /// Counts the connection among those of its client's network; false if `limit` of them are open.
    pub fn try_limit_network(&mut self, client: IpAddr, limit: u32) -> bool {
        let network = network(client);
        let is_free = self.limits.networks.take(network, limit);
        self.network = is_free.then(|| Box::new(network));
        is_free
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        if let Some(network) = &self.network {
            self.limits.networks.give_back(network);
        }
        self.limits.open.fetch_sub(1, Ordering::Relaxed);
        self.active.dec();
    }
}

impl Drop for RefusalSlot {
    fn drop(&mut self) {
        self.0.refusals.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_gives_everything_back() {
        let limits = Arc::<ConnectionLimits>::default();
        let active = IntGauge::new("active", "x").unwrap();
        let address = "192.0.2.7".parse().unwrap();
        let mut one = limits.try_open(2, active.clone()).unwrap();
        let mut two = limits.try_open(2, active.clone()).unwrap();
        assert!(limits.try_open(2, active.clone()).is_none(), "and a refused one is not counted");
        assert_eq!((limits.open(), active.get()), (2, 2));
        assert!(one.try_limit_network(address, 1) && !two.try_limit_network(address, 1));
        drop(two);
        assert_eq!(limits.networks.keys(), 1, "the network has the other still");
        drop(one);
        assert_eq!((limits.open(), active.get(), limits.networks.keys()), (0, 0, 0));
    }

    #[test]
    fn refusal_slots_are_few() {
        let limits = Arc::<ConnectionLimits>::default();
        let slots: Vec<_> = (0..REFUSALS_MAX).filter_map(|_| limits.try_refuse()).collect();
        assert_eq!(slots.len(), REFUSALS_MAX);
        assert!(limits.try_refuse().is_none());
        drop(slots);
        assert!(limits.try_refuse().is_some());
    }
}
