//! `limits.streamsPerClient`: how many event streams each client has open.
//!
//! A client is its session, as long as its token says so; one without a valid token is its address, or a thousand
//! requests without cookies would be a thousand clients.

use std::net::IpAddr;
use std::sync::Arc;

use podpin_affinity::SessionId;

use crate::limits::keyed::KeyedLimit;

/// Whom streams are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientKey {
    Session([u8; 16]),
    Address(IpAddr),
}

impl ClientKey {
    /// The session if the client proved it, else the address.
    pub fn of(session: Option<SessionId>, address: IpAddr) -> ClientKey {
        session.map_or(ClientKey::Address(address), |session| ClientKey::Session(*session.as_bytes()))
    }
}

/// Open streams of each client of one service, of those that were opened while there was a limit.
#[derive(Debug, Default)]
pub struct ClientStreams {
    open: KeyedLimit<ClientKey>,
}

/// One stream of a client, counted as long as this lives.
#[derive(Debug)]
pub struct ClientPermit {
    of: Arc<ClientStreams>,
    key: ClientKey,
}

impl ClientStreams {
    /// Counts one more stream, or none when the client has `limit` already.
    pub fn try_open(self: &Arc<Self>, key: ClientKey, limit: u32) -> Option<ClientPermit> {
        self.open.take(key, limit).then(|| ClientPermit { of: Arc::clone(self), key })
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
        let streams = Arc::new(ClientStreams::default());
        let one = ClientKey::of(None, "127.0.0.1".parse().unwrap());
        let other = ClientKey::of(Some(SessionId::from_bytes([1; 16])), "127.0.0.1".parse().unwrap());
        let permits = (streams.try_open(one, 2).unwrap(), streams.try_open(one, 2).unwrap());
        assert!(streams.try_open(one, 2).is_none());
        assert!(streams.try_open(other, 2).is_some());
        assert!(streams.try_open(one, 3).is_some(), "a reload raised the limit");
        drop(permits);
        assert_eq!(streams.open.keys(), 0);
    }
}
