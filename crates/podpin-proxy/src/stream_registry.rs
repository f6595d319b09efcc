//! Accounts of the event streams and upgraded connections that are open now: for the admin API, the access log and the drains.
//!
//! A record is written by the stream's task alone and read by any thread. Its [`DrainHandle`] is the stream's drain state;
//! when and why a stream leaves is decided by `podpin-drain`, whose registry holds the records.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;
use podpin_drain::{
    Cause, Departure, DrainHandle, DrainInbox, DrainMember, DrainRegistry, Mobility, Session,
};
use podpin_endpoints::{Endpoint, EndpointId, Phase};
use podpin_sse::session::LeaveCause;
use podpin_time::Millis;

use crate::routing::route::Route;
use crate::telemetry::labels::ReconnectOutcome;

/// Names kept of the endpoints that a stream went through, for the access log; a limit of handovers bounds them, too.
const ENDPOINTS_REMEMBERED: usize = 64;

/// All open streams of the process.
pub type StreamRegistry = DrainRegistry<StreamRecord>;

/// Open event stream or upgraded connection, as the rest of the process sees it.
#[derive(Debug)]
pub struct StreamRecord {
    /// Number of the stream, unique in the process.
    pub id: u64,
    /// Route of the request, with the service.
    pub route: Arc<Route>,
    place: Mutex<Place>,
    /// Address of the client.
    pub client: IpAddr,
    /// Session by which the client is recognised when it comes back; `None` if it has no cookie.
    pub session: Option<Session>,
    /// Moment when the request came.
    pub since: Millis,
    /// Number of events sent to the client.
    pub events: AtomicU64,
    /// Number of body bytes sent to the client.
    pub bytes: AtomicU64,
    /// Moment of the first event; the end of time before it.
    first_event: AtomicU64,
    /// Moment of the last event; the beginning before the first.
    last_event: AtomicU64,
    last_event_id: Mutex<Vec<u8>>,
    drain: DrainHandle,
    /// Place of the present departure in [`DEPARTURES`].
    departure: AtomicU8,
    /// Facts about an upgraded connection; `None` if this is an event stream.
    pub upgrade: Option<Box<UpgradeRecord>>,
}

/// Facts about an upgraded connection beside those of any stream. Its events are messages to the client.
#[derive(Debug)]
pub struct UpgradeRecord {
    /// Protocol that the endpoint chose of those that the client offered.
    pub protocol: Box<str>,
    /// Number of bytes received from the client.
    pub received: AtomicU64,
}

/// Departures, by the number that stands for each.
const DEPARTURES: [Departure; 3] = [Departure::Handover, Departure::Goodbye, Departure::Cut];

/// Endpoint of a stream, and those before it.
#[derive(Debug)]
struct Place {
    endpoint: Arc<Endpoint>,
    before: Vec<Arc<str>>,
}

/// Sign that a client had a stream that was ended, in its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnEvidence {
    /// The id of an event or the offer of another protocol, and a pin on an endpoint that drains or is gone.
    LeftEndpoint,
    /// No such sign.
    None,
}

/// Facts about a stream that begins.
#[derive(Debug)]
pub struct Opening {
    /// Route of the request, with the service.
    pub route: Arc<Route>,
    /// Endpoint that the stream begins on.
    pub endpoint: Arc<Endpoint>,
    /// Address of the client.
    pub client: IpAddr,
    /// Session of the client; `None` if it cannot be recognised when it comes back.
    pub session: Option<Session>,
    /// Moment when the request came.
    pub since: Millis,
    /// Ways in which the stream can leave its endpoint.
    pub mobility: Mobility,
    /// Protocol of an upgraded connection; `None` if this is an event stream.
    pub upgrade: Option<Box<str>>,
}

impl Opening {
    /// Returns the record of the stream under this number, to be registered with [`DrainRegistry::open`].
    #[must_use]
    pub fn into_record(self, id: u64) -> StreamRecord {
        let Opening { route, endpoint, client, session, since, mobility, upgrade } = self;
        let upgrade = upgrade.map(|protocol| UpgradeRecord { protocol, received: AtomicU64::new(0) });
        StreamRecord {
            id,
            route,
            place: Mutex::new(Place { endpoint, before: Vec::new() }),
            client,
            session,
            since,
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            first_event: AtomicU64::new(u64::MAX),
            last_event: AtomicU64::new(since.0),
            last_event_id: Mutex::default(),
            drain: DrainHandle::new(mobility),
            // Until the relay says something else.
            departure: AtomicU8::new(Departure::Cut as u8),
            upgrade: upgrade.map(Box::new),
        }
    }
}

impl StreamRecord {
    /// Returns the id of the last event that went to the client; empty if there was none.
    pub fn last_event_id(&self) -> Vec<u8> {
        self.last_event_id.lock().clone()
    }

    /// Stores an id, in the buffer of the one before.
    pub fn set_last_event_id(&self, id: &[u8]) {
        let mut held = self.last_event_id.lock();
        if *held != id {
            held.clear();
            held.extend_from_slice(id);
        }
    }

    /// Returns the endpoint that the stream runs on.
    pub fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.place.lock().endpoint)
    }

    /// Returns the names of the endpoints that the stream ran on before, in their order.
    pub fn endpoints_before(&self) -> Vec<Arc<str>> {
        self.place.lock().before.clone()
    }

    /// Returns how often the stream changed its endpoint.
    pub fn handovers(&self) -> usize {
        self.place.lock().before.len()
    }

    /// Stores that the stream goes on at `endpoint`, and returns the one that it left. [`DrainRegistry::moved`] comes next.
    pub fn move_to(&self, endpoint: Arc<Endpoint>) -> EndpointId {
        let mut place = self.place.lock();
        let old = std::mem::replace(&mut place.endpoint, endpoint);
        if place.before.len() < ENDPOINTS_REMEMBERED {
            place.before.push(Arc::clone(&old.name));
        }
        old.id
    }

    /// Returns what an order to leave for this cause means now. A stream whose route was removed meanwhile goes nowhere else.
    pub fn leave_cause(&self, cause: Cause) -> LeaveCause {
        match cause {
            Cause::Shutdown => LeaveCause::Shutdown,
            Cause::Withdrawn => LeaveCause::Withdrawn,
            Cause::Drain | Cause::Rebalance if self.is_withdrawn() => LeaveCause::Withdrawn,
            Cause::Drain => LeaveCause::Drain,
            Cause::Rebalance => LeaveCause::Rebalance,
        }
    }

    /// Stores the moment of the first event; false if there was one before.
    pub fn note_first_event(&self, at: Millis) -> bool {
        let is_first = self.first_event.load(Ordering::Relaxed) == u64::MAX;
        if is_first {
            self.first_event.store(at.0, Ordering::Relaxed);
        }
        is_first
    }

    /// Returns the moment of the first event; `None` if there was none.
    pub fn first_event(&self) -> Option<Millis> {
        Some(self.first_event.load(Ordering::Relaxed)).filter(|at| *at != u64::MAX).map(Millis)
    }

    /// Stores how the stream would leave its endpoint now.
    #[inline]
    pub fn set_departure(&self, departure: Departure) {
        self.departure.store(departure as u8, Ordering::Relaxed);
    }

    /// Stores that an event went to the client at this moment.
    pub fn set_last_event(&self, at: Millis) {
        self.last_event.store(at.0, Ordering::Relaxed);
    }

    /// Accounts for a client that is back with this stream: one that was awaited here, or one that another replica sent away.
    pub fn note_return(&self, evidence: ReturnEvidence, now: Millis) {
        let service = &self.route.service;
        let gap = self.session.and_then(|session| service.drain.reconnects().came_back(session, now));
        if gap.is_some() || evidence == ReturnEvidence::LeftEndpoint {
            service.metrics.reconnects.inc(ReconnectOutcome::Returned);
        }
        if let Some(gap) = gap {
            service.metrics.reconnect_gap.observe(gap.as_secs_f64());
        }
    }
}

impl DrainMember for StreamRecord {
    fn drain(&self) -> &DrainHandle {
        &self.drain
    }

    fn inbox(&self) -> &DrainInbox {
        &self.route.service.drain
    }

    fn departure(&self) -> Departure {
        let place = usize::from(self.departure.load(Ordering::Relaxed));
        DEPARTURES.get(place).copied().unwrap_or(Departure::Cut)
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn endpoint(&self) -> Arc<Endpoint> {
        StreamRecord::endpoint(self)
    }

    fn endpoint_phase(&self) -> Phase {
        let id = self.place.lock().endpoint.id;
        self.route.service.endpoint(&id).map_or(Phase::Gone, |endpoint| endpoint.phase)
    }

    fn is_withdrawn(&self) -> bool {
        self.route.is_withdrawn()
    }

    fn session(&self) -> Option<Session> {
        self.session
    }

    fn since(&self) -> Millis {
        self.since
    }

    fn last_event(&self) -> Millis {
        Millis(self.last_event.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use podpin_drain::DrainState;

    use super::*;
    use crate::balance::service::Operation;
    use crate::testing::{Scene, nowhere};

    fn scene() -> Scene {
        Scene::new(&[("a", nowhere()), ("b", nowhere())])
    }

    #[test]
    fn a_stream_that_moves_remembers_where_it_was() {
        let scene = scene();
        let record = scene.open("a", Mobility::DrainOnly);
        let other = scene.open("b", Mobility::DrainOnly);
        let from = record.move_to(other.endpoint());
        assert_eq!(scene.shared.streams.moved(&record, from, Millis(0)), None, "it belonged to no drain");
        assert_eq!((record.endpoint().id, from), (other.endpoint().id, EndpointId::of_pod("a", 80)));
        assert_eq!((record.handovers(), &*record.endpoints_before()[0]), (1, "a"));
        for _ in 0..2 * ENDPOINTS_REMEMBERED {
            record.move_to(other.endpoint());
        }
        assert_eq!(record.handovers(), ENDPOINTS_REMEMBERED, "the names are bounded");
    }

    #[test]
    fn a_stream_that_begins_on_a_draining_endpoint_leaves_with_the_others() {
        let mut scene = scene();
        scene.operate("a", Operation::Drain);
        let (late, other) = (scene.open("a", Mobility::DrainOnly), scene.open("b", Mobility::DrainOnly));
        scene.order_to_leave(&late);
        assert_eq!(other.drain().state(), DrainState::Staying);
        assert_eq!((late.endpoint_phase(), other.endpoint_phase()), (Phase::Draining, Phase::Ready));
    }

    #[test]
    fn a_stream_on_an_endpoint_that_left_the_list_is_on_one_that_is_gone() {
        let scene = scene();
        let record = scene.open("a", Mobility::DrainOnly);
        scene.remove("a");
        assert_eq!(record.endpoint_phase(), Phase::Gone);
    }

    #[test]
    fn an_id_is_replaced_by_the_next() {
        let record = scene().open("a", Mobility::DrainOnly);
        for id in [&b"1"[..], b"22", b""] {
            record.set_last_event_id(id);
            assert_eq!(record.last_event_id(), id);
        }
        assert_eq!(record.last_event(), record.since);
        record.set_last_event(Millis(7_000_000));
        assert_eq!(record.last_event(), Millis(7_000_000));
    }
}
