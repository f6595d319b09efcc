//! `limits.streamsPerClient` and `limits.streamsPerClientIP`: the number of event streams that each client has open.
//!
//! A client is counted by its session if its token is valid, else by its address: a thousand requests without cookies are not
//! a thousand clients. A token costs one request, so a client may have many: the second limit counts by network, whatever the
//! tokens say.
//!
//! A client that changes its network leaves streams behind that no client reads and no packet ends. A newcomer that finds all
//! places taken has their streams look whether their client still acknowledges anything ([`ClientStreams::inquire`]); a
//! stream whose client does not gives up its place. Streams of living clients keep theirs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use podpin_affinity::SessionId;
use podpin_time::Millis;
use podpin_wire::client::network;

use crate::clock;
use crate::limits::keyed::KeyedLimit;
use crate::net::peer::Peer;

/// Time for which an answer of a living client stands, and a comment waits for its acknowledgement: a page that reconnects in
/// a loop does not make its streams write more than one comment in it.
const LIVES_FOR: Duration = Duration::from_secs(5);

/// Interval at which the streams of a client look whether it is there.
const INQUIRY_INTERVAL: Duration = Duration::from_millis(50);
/// Number of times that they look for one newcomer: 3 s, in which a network with round trips of 200 ms shows that a client has
/// vanished.
const INQUIRIES: u32 = 60;

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

/// The client of a stream, with the limits that hold for it now.
#[derive(Clone, Copy, Debug)]
pub struct ClientOfStream {
    /// The key of the client.
    pub key: ClientKey,
    /// The address of the client.
    pub address: IpAddr,
    /// Streams that the key may have; `None` if there is no limit.
    pub limit: Option<u32>,
    /// Streams that the client's network may have; `None` if there is no limit.
    pub network_limit: Option<u32>,
}

/// The limit that a stream is beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// `limits.streamsPerClient`.
    Client,
    /// `limits.streamsPerClientIP`.
    Network,
}

/// The result of [`ClientStreams::inquire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inquiry {
    /// Each stream has a client that acknowledges what it is sent.
    AllLive,
    /// Some stream has no answer yet.
    Pending,
}

/// The result of [`ClientPermit::look`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing to be done.
    Nothing,
    /// A comment to be written, so that the client has something to acknowledge.
    Comment,
    /// The end of the stream: its client is not there any more.
    Vanished,
}

/// Open streams by client, for one service; only streams opened while there was a limit are counted.
#[derive(Debug, Default)]
pub struct ClientStreams {
    open: Mutex<HashMap<ClientKey, Vec<Arc<Place>>>>,
    networks: KeyedLimit<IpAddr>,
}

/// The place of one stream.
#[derive(Debug)]
struct Place {
    key: ClientKey,
    /// Network that the stream counts for; `None` if networks have no limit.
    network: Option<IpAddr>,
    stage: AtomicU8,
    /// Moment until which a comment that was written for an inquiry is waited for.
    awaited_until: AtomicU64,
    /// Moment until which the client counts as living.
    lives_until: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

/// Stage of a place whose stream has no task of its own that can be asked: its endpoint has not answered, or it is relayed as
/// an ordinary response.
const UNWATCHED: u8 = 0;
/// Stage of a place whose stream was not asked.
const QUIET: u8 = 1;
/// Stage of a place whose stream is to look at its client.
const ASKED: u8 = 2;

/// The permit of one stream, which counts for its client until this is dropped.
#[derive(Debug)]
pub struct ClientPermit {
    of: Arc<ClientStreams>,
    place: Arc<Place>,
}

impl ClientStreams {
    /// Counts one more stream.
    ///
    /// # Errors
    /// The limit that the client, or its network, has reached.
    pub fn try_open(self: &Arc<Self>, client: &ClientOfStream) -> Result<ClientPermit, Exceeded> {
        let network = client.network_limit.map(|limit| (network(client.address), limit));
        let mut open = self.open.lock();
        let places = open.entry(client.key).or_default();
        if client.limit.is_some_and(|limit| places.len() >= usize::try_from(limit).unwrap_or(usize::MAX)) {
            forget_if_empty(&mut open, &client.key);
            return Err(Exceeded::Client);
        }
        if let Some((network, limit)) = network
            && !self.networks.take(network, limit)
        {
            forget_if_empty(&mut open, &client.key);
            return Err(Exceeded::Network);
        }
        let place = Arc::new(Place::new(client.key, network.map(|(network, _)| network)));
        places.push(Arc::clone(&place));
        Ok(ClientPermit { of: Arc::clone(self), place })
    }

    /// Counts one more stream of a client that has all of its streams, once one of them turns out to have no client any more.
    ///
    /// # Errors
    /// [`Exceeded`], if their client lives, or it takes too long to find out; it is found out for the client's next attempt.
    pub async fn claim(self: &Arc<Self>, client: &ClientOfStream) -> Result<ClientPermit, Exceeded> {
        for _ in 0..INQUIRIES {
            if self.inquire(&client.key, clock::now()) == Inquiry::AllLive {
                break;
            }
            tokio::time::sleep(INQUIRY_INTERVAL).await;
            match self.try_open(client) {
                Err(Exceeded::Client) => {}
                counted => return counted,
            }
        }
        self.try_open(client)
    }

    /// Has the streams of a client look whether it is still there; each of them does so when it is woken.
    pub fn inquire(&self, key: &ClientKey, now: Millis) -> Inquiry {
        let places = self.open.lock().get(key).cloned().unwrap_or_default();
        let asked = places.iter().filter(|place| place.ask(now)).count();
        if asked == 0 && !places.is_empty() { Inquiry::AllLive } else { Inquiry::Pending }
    }
}

fn forget_if_empty(open: &mut HashMap<ClientKey, Vec<Arc<Place>>>, key: &ClientKey) {
    if open.get(key).is_some_and(Vec::is_empty) {
        open.remove(key);
    }
}

impl Place {
    fn new(key: ClientKey, network: Option<IpAddr>) -> Place {
        Place {
            key,
            network,
            stage: AtomicU8::new(UNWATCHED),
            awaited_until: AtomicU64::new(0),
            lives_until: AtomicU64::new(0),
            waker: Mutex::new(None),
        }
    }

    /// Wakes the stream to look at its client; false if the client is known to live, or no task can look.
    fn ask(&self, now: Millis) -> bool {
        if self.stage.load(Ordering::Acquire) == UNWATCHED || self.lives_until.load(Ordering::Acquire) > now.0
        {
            return false;
        }
        self.stage.store(ASKED, Ordering::Release);
        let waker = self.waker.lock().clone();
        waker.into_iter().for_each(Waker::wake);
        true
    }
}

impl ClientPermit {
    /// Whether the stream has to look at its client. The first call registers the task for the question.
    pub fn is_asked(&self, waker: &Waker) -> bool {
        match self.place.stage.load(Ordering::Acquire) {
            QUIET => false,
            UNWATCHED => {
                *self.place.waker.lock() = Some(waker.clone());
                self.place.stage.store(QUIET, Ordering::Release);
                false
            }
            _ => {
                self.place.stage.store(QUIET, Ordering::Release);
                true
            }
        }
    }

    /// Records the state of the client, and returns what its stream does to find out more. A client lives that has acknowledged
    /// everything, a comment of late among it.
    pub fn look(&self, peer: Peer, takes_comments: bool, now: Millis) -> Look {
        let (place, later) = (&self.place, now.after(LIVES_FOR).0);
        match peer {
            Peer::Vanished => return Look::Vanished,
            Peer::Behind => {}
            Peer::Acknowledged if place.awaited_until.swap(0, Ordering::AcqRel) > now.0 => {
                place.lives_until.store(later, Ordering::Release);
            }
            Peer::Acknowledged if takes_comments => {
                place.awaited_until.store(later, Ordering::Release);
                return Look::Comment;
            }
            Peer::Acknowledged => {}
        }
        Look::Nothing
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        let mut open = self.of.open.lock();
        if let Some(places) = open.get_mut(&self.place.key) {
            places.retain(|place| !Arc::ptr_eq(place, &self.place));
        }
        forget_if_empty(&mut open, &self.place.key);
        drop(open);
        if let Some(network) = &self.place.network {
            self.of.networks.give_back(network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(session: Option<u8>, limit: u32) -> ClientOfStream {
        let address = "127.0.0.1".parse().unwrap();
        let key = ClientKey::of(session.map(|byte| SessionId::from_bytes([byte; 16])), address);
        ClientOfStream { key, address, limit: Some(limit), network_limit: None }
    }

    #[test]
    fn a_client_has_its_limit_and_leaves_nothing_behind() {
        let streams = Arc::new(ClientStreams::default());
        let one = client(None, 2);
        let permits = (streams.try_open(&one).unwrap(), streams.try_open(&one).unwrap());
        assert_eq!(streams.try_open(&one).err(), Some(Exceeded::Client));
        assert!(streams.try_open(&client(Some(1), 2)).is_ok());
        assert!(streams.try_open(&client(None, 3)).is_ok(), "a reload raised the limit");
        assert_eq!(streams.try_open(&client(Some(2), 0)).err(), Some(Exceeded::Client));
        drop(permits);
        assert!(streams.open.lock().is_empty());
    }

    #[test]
    fn a_network_has_its_limit_whatever_tokens_its_clients_have() {
        let streams = Arc::new(ClientStreams::default());
        let of = |session| ClientOfStream { network_limit: Some(2), limit: None, ..client(session, 0) };
        let permits = (streams.try_open(&of(Some(1))).unwrap(), streams.try_open(&of(Some(2))).unwrap());
        assert_eq!(streams.try_open(&of(Some(3))).err(), Some(Exceeded::Network));
        let elsewhere = ClientOfStream { address: "127.0.1.1".parse().unwrap(), ..of(Some(3)) };
        assert!(streams.try_open(&elsewhere).is_ok());
        drop(permits);
        assert_eq!((streams.open.lock().len(), streams.networks.keys()), (0, 0));
    }

    #[test]
    fn a_stream_is_asked_once_its_task_is_there_and_not_again_while_its_client_lives() {
        let streams = Arc::new(ClientStreams::default());
        let one = client(None, 1);
        let permit = streams.try_open(&one).unwrap();
        assert_eq!(streams.inquire(&one.key, Millis(0)), Inquiry::AllLive, "its endpoint has not answered");
        assert!(!permit.is_asked(Waker::noop()) && !permit.is_asked(Waker::noop()));
        assert_eq!(streams.inquire(&one.key, Millis(0)), Inquiry::Pending);
        assert!(permit.is_asked(Waker::noop()) && !permit.is_asked(Waker::noop()));
        let look = |peer, now| permit.look(peer, true, Millis(now));
        assert_eq!(permit.look(Peer::Acknowledged, false, Millis(50)), Look::Nothing, "within an event");
        assert_eq!(look(Peer::Acknowledged, 50), Look::Comment);
        assert_eq!(look(Peer::Behind, 60), Look::Nothing);
        assert_eq!(look(Peer::Acknowledged, 100), Look::Nothing);
        assert_eq!(streams.inquire(&one.key, Millis(5_099)), Inquiry::AllLive);
        assert!(!permit.is_asked(Waker::noop()));
        assert_eq!(streams.inquire(&one.key, Millis(5_100)), Inquiry::Pending);
        assert!(permit.is_asked(Waker::noop()));
        assert_eq!(look(Peer::Acknowledged, 5_100), Look::Comment);
        assert_eq!(look(Peer::Acknowledged, 10_100), Look::Comment, "the first one was too long ago");
        assert_eq!(look(Peer::Vanished, 10_200), Look::Vanished);
        drop(permit);
        assert_eq!(streams.inquire(&one.key, Millis(6_000)), Inquiry::Pending, "the place is free");
    }
}
