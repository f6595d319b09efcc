//! `limits.streamsPerClient`: how many event streams each client has open.
//!
//! A client is its session, as long as its token says so; one without a valid token is its address, or a thousand
//! requests without cookies would be a thousand clients.

use std::net::IpAddr;
use std::sync::Arc;

use podpin_affinity::SessionId;

use crate::occupancy::Occupancy;

/// Whom streams are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClientKey {
    Session([u8; 16]),
    Address(IpAddr),
}

impl ClientKey {
    /// The session if the client proved it, else the address.
    pub(crate) fn of(session: Option<SessionId>, address: IpAddr) -> ClientKey {
        session.map_or(ClientKey::Address(address), |session| ClientKey::Session(*session.as_bytes()))
    }
}

/// Open streams of each client of one service.
#[derive(Debug)]
pub(crate) struct ClientLimit {
    limit: u32,
    open: Occupancy<ClientKey>,
}

/// One stream of a client, counted as long as this lives.
#[derive(Debug)]
pub(crate) struct ClientPermit {
    of: Arc<ClientLimit>,
    key: ClientKey,
}

impl ClientLimit {
    pub(crate) fn new(limit: u32) -> ClientLimit {
        ClientLimit { limit, open: Occupancy::default() }
    }

    /// Counts one more stream, or none when the client is at its limit.
    pub(crate) fn try_open(self: &Arc<Self>, key: ClientKey) -> Option<ClientPermit> {
        self.open.take(key, self.limit).then(|| ClientPermit { of: Arc::clone(self), key })
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        self.of.open.give_back(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_limit_and_leaves_nothing_behind() {
        let limit = Arc::new(ClientLimit::new(2));
        let one = ClientKey::of(None, "127.0.0.1".parse().unwrap());
        let other = ClientKey::of(Some(SessionId::from_bytes([1; 16])), "127.0.0.1".parse().unwrap());
        let permits = (limit.try_open(one).unwrap(), limit.try_open(one).unwrap());
        assert!(limit.try_open(one).is_none());
        assert!(limit.try_open(other).is_some());
        drop(permits);
        assert_eq!(limit.open.keys(), 0);
    }
}
