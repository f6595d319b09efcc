//! `limits.streamsPerClient`: the number of event streams that each client has open.
//!
//! A client is counted by its session if its token is valid, else by its address: a thousand requests without cookies are not
//! a thousand clients.

use std::net::IpAddr;
use std::sync::Arc;

use podpin_affinity::SessionId;

use crate::limits::keyed::KeyedLimit;

/// The key that a client's streams are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientKey {
    /// A session of a valid token.
    Session([u8; 16]),
    /// The address of a client without one.
    Address(IpAddr),
}

impl ClientKey {
    /// Returns the key of a client: its session if it proved one, else its address.
    #[must_use]
    pub fn of(session: Option<SessionId>, address: IpAddr) -> ClientKey {
        session.map_or(ClientKey::Address(address), |session| ClientKey::Session(*session.as_bytes()))
    }
}

/// Open streams by client, for one service; only streams opened while there was a limit are counted.
#[derive(Debug, Default)]
pub struct ClientStreams {
    open: KeyedLimit<ClientKey>,
}

/// The permit of one stream, which counts for its client until this is dropped.
#[derive(Debug)]
pub struct ClientPermit {
    of: Arc<ClientStreams>,
    key: ClientKey,
}

impl ClientStreams {
    /// Counts one more stream; returns `None` if the client has `limit` already.
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
