//! `balance.rebalance`: streams in flight move from the fullest to the emptiest endpoint, by handover, at a bounded rate.
//!
//! Decided by podpin-endpoints' `shift.rs`; here streams are chosen (the most silent first, as they notice least) and told.
//! A stream that cannot be handed over stays where it is and is not asked again. A client whose stream moved is still
//! pinned to the old endpoint by its cookie: [`Moved`] remembers it until its next request, which gets a new one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use podpin_config::Rebalance;
use podpin_endpoints::{Balance, Endpoint, EndpointId, Phase, Share, shift};
use podpin_time::Millis;

use crate::balance::service::Kind;
use crate::balance::service::ServiceState;
use crate::clock;
use crate::drain::tally::Tally;
use crate::shared::Shared;
use crate::stream_registry::{Cause, Order, StreamRecord};

/// Sessions remembered at a time, of one service, at about 100 bytes each. A client asks something or comes back within
/// minutes; one that is forgotten is pinned to where it was.
const MOVED_MAX: usize = 50_000;
/// One stream in thousandths, so that a rate times milliseconds is exact.
const STREAM: u64 = 1_000;

/// The rebalancing of one service.
pub struct Rebalancing {
    settings: Rebalance,
    balance: Balance,
    /// Streams that may be told, in thousandths.
    tokens: u64,
    looked: Millis,
    /// Told, and neither moved nor refused yet: where from, where to.
    under_way: Vec<(Arc<StreamRecord>, EndpointId, EndpointId)>,
    tally: Arc<Tally>,
}

impl Rebalancing {
    pub fn new(settings: Rebalance, now: Millis) -> Rebalancing {
        Rebalancing {
            settings,
            balance: Balance::AtRest,
            tokens: 0,
            looked: now,
            under_way: Vec::new(),
            tally: Arc::default(),
        }
    }

    /// Looks once, and tells as many streams as the time since the last look allows.
    pub fn look(&mut self, shared: &Shared, service: &Arc<ServiceState>, now: Millis) {
        let passed = clock::duration_millis(now.since(self.looked));
        self.looked = now;
        let second = u64::from(self.settings.budget_per_second) * STREAM;
        let income = u64::from(self.settings.budget_per_second) * passed;
        self.tokens = (self.tokens + income).min(second.max(STREAM));
        self.under_way.retain(|(record, ..)| !record.is_closed() && record.is_queued_by(&self.tally));
        let view = service.view();
        let endpoints: Vec<&Arc<Endpoint>> =
            view.snapshot.endpoints().iter().filter(|endpoint| can_take(endpoint, now)).collect();
        let shares: Vec<Share> = endpoints.iter().map(|endpoint| self.share(endpoint)).collect();
        let Some(shift) = shift(&shares, self.balance, self.settings.threshold) else {
            self.balance = Balance::AtRest;
            return;
        };
        if self.balance == Balance::AtRest {
            tracing::info!(service = %service.name, "streams move to endpoints that have fewer");
        }
        self.balance = Balance::Moving;
        let count = u64::from(shift.streams).min(self.tokens / STREAM);
        let (Some(from), Some(to)) = (endpoints.get(shift.from), endpoints.get(shift.to)) else { return };
        let count = usize::try_from(count).unwrap_or(0);
        if count > 0 {
            self.tell(shared, service, (from, to), count, now);
        }
    }

    /// What an endpoint will carry when all that is under way has arrived.
    fn share(&self, endpoint: &Endpoint) -> Share {
        let count = |of: fn(&(Arc<StreamRecord>, EndpointId, EndpointId)) -> EndpointId| {
            let ours = self.under_way.iter().filter(|one| of(one) == endpoint.id).count();
            u32::try_from(ours).unwrap_or(u32::MAX)
        };
        let (leaving, coming) = (count(|one| one.1), count(|one| one.2));
        let streams = endpoint.load.open_streams().saturating_sub(leaving).saturating_add(coming);
        Share { streams, weight: endpoint.weight }
    }

    fn tell(
        &mut self,
        shared: &Shared,
        service: &Arc<ServiceState>,
        (from, to): (&Arc<Endpoint>, &Arc<Endpoint>),
        count: usize,
        now: Millis,
    ) {
        let may = |record: &StreamRecord| {
            record.kind == Kind::Stream && record.may_be_rebalanced() && record.is_of(service, &from.id)
        };
        let mut streams = shared.streams.select(may);
        streams.sort_by_key(|record| (record.last_event(), record.id));
        for record in streams.into_iter().take(count) {
            let order = Order {
                cause: Cause::Rebalance(Arc::clone(to)),
                by: Millis(u64::MAX),
                deadline: Millis(u64::MAX),
                tally: Arc::clone(&self.tally),
                is_free: false,
            };
            if record.queue(order) {
                record.leave(&self.tally, now, (Millis(u64::MAX), Millis(u64::MAX)));
                self.tokens = self.tokens.saturating_sub(STREAM);
                self.under_way.push((record, from.id, to.id));
            }
        }
    }
}

/// Whether streams may be moved to and from it.
fn can_take(endpoint: &Endpoint, now: Millis) -> bool {
    endpoint.phase == Phase::Ready && !endpoint.load.is_ejected(now)
}

/// Clients whose stream was moved, and whose cookie does not say so yet.
#[derive(Debug, Default)]
pub struct Moved {
    sessions: Mutex<Sessions>,
    /// As many as there are in `sessions`, readable without its lock.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Sessions {
    /// What the cookie says, and where the stream is.
    endpoints: HashMap<[u8; 16], (EndpointId, EndpointId)>,
    order: VecDeque<[u8; 16]>,
}

impl Moved {
    /// The stream of this session went from one endpoint to another without its client.
    pub fn remember(&self, session: [u8; 16], (from, to): (EndpointId, EndpointId)) {
        let mut sessions = self.sessions.lock();
        match sessions.endpoints.get_mut(&session) {
            // The cookie still says what it said before the first move.
            Some(known) => known.1 = to,
            None => {
                sessions.endpoints.insert(session, (from, to));
                sessions.order.push_back(session);
            }
        }
        while sessions.order.len() > MOVED_MAX {
            if let Some(oldest) = sessions.order.pop_front() {
                sessions.endpoints.remove(&oldest);
            }
        }
        self.count.store(sessions.endpoints.len(), Ordering::Relaxed);
    }

    /// The stream of this session went on to `to` for another reason: if its client is remembered, it follows.
    pub fn follow(&self, session: [u8; 16], to: EndpointId) {
        if self.count.load(Ordering::Relaxed) > 0
            && let Some(known) = self.sessions.lock().endpoints.get_mut(&session)
        {
            known.1 = to;
        }
    }

    /// Where a client that shows `pinned` really belongs. Once it shows anything but what it was told before its stream
    /// moved, it is forgotten.
    pub fn correct(&self, session: &[u8; 16], pinned: EndpointId) -> EndpointId {
        if self.count.load(Ordering::Relaxed) == 0 {
            return pinned;
        }
        let mut sessions = self.sessions.lock();
        match sessions.endpoints.get(session).copied() {
            Some((from, to)) if from == pinned => to,
            Some(_) => {
                sessions.endpoints.remove(session);
                sessions.order.retain(|one| one != session);
                self.count.store(sessions.endpoints.len(), Ordering::Relaxed);
                pinned
            }
            None => pinned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_corrected_until_its_cookie_says_so() {
        let moved = Moved::default();
        let (old, new) = (EndpointId::of_pod("a", 80), EndpointId::of_pod("b", 80));
        assert_eq!(moved.correct(&[1; 16], old), old);
        moved.remember([1; 16], (old, new));
        assert_eq!((moved.correct(&[1; 16], old), moved.correct(&[2; 16], old)), (new, old));
        assert_eq!(moved.correct(&[1; 16], old), new, "its answer may have been lost");
        assert_eq!(moved.correct(&[1; 16], new), new);
        assert_eq!(moved.correct(&[1; 16], old), old, "forgotten");
    }

    #[test]
    fn a_client_follows_its_stream_over_further_moves_and_never_back() {
        let moved = Moved::default();
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| EndpointId::of_pod(name, 80));
        moved.follow([1; 16], b);
        assert_eq!(moved.correct(&[1; 16], a), a, "whoever was not moved for balance's sake is left to pick");
        moved.remember([1; 16], (a, b));
        moved.follow([1; 16], c);
        assert_eq!(moved.correct(&[1; 16], a), c, "its pod left in turn");
        moved.remember([1; 16], (c, b));
        assert_eq!(moved.correct(&[1; 16], a), b);
        assert_eq!(moved.correct(&[1; 16], d), d, "it was told something else since");
        assert_eq!(moved.correct(&[1; 16], d), d);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let moved = Moved::default();
        let id = EndpointId::of_pod("a", 80);
        for number in 0..MOVED_MAX as u128 + 10 {
            moved.remember(number.to_be_bytes(), (id, id));
        }
        assert_eq!(moved.sessions.lock().endpoints.len(), MOVED_MAX);
    }
}
