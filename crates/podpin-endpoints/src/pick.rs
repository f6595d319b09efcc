//! Which endpoint serves this request? A client's own one while it can, else where every replica would send it.
//!
//! * A new client goes to the one with fewer streams for its weight of two drawn by weight ("power of two choices"),
//!   or by turn, or at random. Fresh endpoints are drawn less often while they warm up.
//! * With a zone asked for, a new client is drawn among the endpoints that serve this zone while one of them is eligible.
//! * Endpoints that are not ready stand in while none is: `usage.rs` has the table.
//! * A pinned client stays. If its endpoint leaves and has an heir (`heirs.rs`), it goes there, and stays until then if the heir
//!   is awaited. Otherwise its session id is
//!   looked up on the consistent-hash ring. So all replicas and all its parallel requests choose the same successor before
//!   any new cookie has arrived.
//!
//! Works on a [`Snapshot`] and atomics only: no lock, no clock, and no walk over all endpoints unless draws failed or
//! something is ejected. The choice is advice: the caller still takes a permit, and picks again when that fails.

use std::cell::OnceCell;
use std::iter::successors;
use std::sync::Arc;
use std::time::Duration;

use crate::endpoint::{DrainTimes, Endpoint};
use crate::id::EndpointId;
use crate::phase::Phase;
use crate::snapshot::{Snapshot, ejection_is_honoured};
use crate::usage::Tier;
use crate::weighted_set::WeightedSet;
use podpin_time::Millis;

/// Draws before the whole list is walked. With half of the endpoints unusable, eight pairs in a row fail once in
/// 65,000 picks; the walk then costs microseconds, so more tries would buy nothing.
const DRAWS_MAX: usize = 8;

/// How often a warming endpoint is accepted at least, in thousandths of the draws that fall on it: at 0 it would
/// never meet its first request, and its caches would be cold when the slow start is over.
const WARMTH_MIN_PER_MILLE: u64 = 100;

/// Heirs of heirs that are followed: the rollouts that a client may miss, one each, before it goes where the ring sends it.
const HEIRS_MAX: usize = 64;

/// How new clients are spread (`balance.strategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Fewest streams for its weight among two drawn by weight.
    LeastStreams,
    /// By turns, weights respected.
    RoundRobin,
    /// At random, weights respected.
    Random,
}

/// A request for an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct PickRequest<'a> {
    /// The endpoint that a valid token names.
    pub pinned: Option<EndpointId>,
    /// The session id: the key on the ring when the pin cannot be followed.
    pub session: &'a [u8; 16],
    /// How a new client is placed.
    pub strategy: Strategy,
    /// Streams that an endpoint may carry; `None` if the request is no stream, hence not counted.
    pub stream_limit: Option<u32>,
    /// How long a new endpoint warms up; `None` = not at all.
    pub slow_start: Option<Duration>,
    /// The zone whose endpoints a new client should get while one of them is eligible; `None` = zones do not count.
    pub zone: Option<&'a str>,
    /// Until when a pinned client stays on an endpoint that drains and still serves; `None` = it moves at once.
    pub keep: Option<DrainTimes>,
    /// Endpoints that this request has tried in vain.
    pub exclude: &'a [EndpointId],
    /// The present moment.
    pub now: Millis,
}

/// Consistent hashing over the endpoints of a service (ketama, in `podpin-proxy`).
///
/// Must be a function of the members' addresses and weights alone, not of the order in which they came: replicas
/// have to agree.
pub trait Ring {
    /// Returns the first endpoint from the place of `key` onwards that `accept` takes; `None` if it takes none.
    fn first(&self, key: &[u8], accept: &mut dyn FnMut(&EndpointId) -> bool) -> Option<EndpointId>;
}

/// The result of a pick.
#[derive(Clone, Debug)]
pub enum Pick {
    /// The endpoint that the client is pinned to.
    Stay(Arc<Endpoint>),
    /// An endpoint for a new client.
    Place(Arc<Endpoint>),
    /// Another endpoint than the pinned one, and why.
    Move(Arc<Endpoint>, MoveReason),
    /// None can serve now.
    Nowhere(Nowhere),
}

/// Why a pin could not be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MoveReason {
    /// A pinned endpoint that terminates or is drained.
    Draining,
    /// A pinned endpoint that the table does not have (any more).
    Gone,
    /// A pinned endpoint that neither is ready nor serves, or that this request has tried in vain.
    Unready,
    /// Failures have put it aside.
    Ejected,
    /// A pinned endpoint that carries as many streams as it may.
    Full,
}

impl MoveReason {
    /// The word for it in `X-Podpin-Repinned` and in metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            MoveReason::Draining => "draining",
            MoveReason::Gone => "gone",
            MoveReason::Unready => "unready",
            MoveReason::Ejected => "ejected",
            MoveReason::Full => "full",
        }
    }
}

/// Why there is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nowhere {
    /// None is in use that has not been tried.
    NoEndpoint,
    /// At least one lacks nothing but a free place.
    Full,
}

/// Chooses an endpoint for `request`.
///
/// `rng(bound)` returns a number below `bound`, evenly; a pinned client needs none.
///
/// ```
/// use podpin_endpoints::{EndpointId, Observed, Pick, PickRequest, Ring, Strategy, Table, Update, pick};
/// use podpin_time::Millis;
///
/// /// A ring on which the same endpoint is first for every key.
/// struct First(EndpointId);
/// impl Ring for First {
///     fn first(&self, _: &[u8], accept: &mut dyn FnMut(&EndpointId) -> bool) -> Option<EndpointId> {
///         Some(self.0).filter(|id| accept(id))
///     }
/// }
///
/// let listed = |name: &str, port: u16| {
///     let address = ([127, 0, 0, 1], port).into();
///     Observed::ready(EndpointId::of_address(name, address), name, address)
/// };
/// let (now, mut table) = (Millis(0), Table::new());
/// table.apply(Update::Replace(vec![listed("pod-a", 9001), listed("pod-b", 9002)]), now);
/// let id = |name: &str| table.snapshot().called(name).next().map(|endpoint| endpoint.id);
/// let (Some(a), Some(b)) = (id("pod-a"), id("pod-b")) else { panic!("both are listed") };
///
/// let request = PickRequest {
///     pinned: Some(a),
///     session: &[7; 16],
///     strategy: Strategy::LeastStreams,
///     stream_limit: None,
///     slow_start: None,
///     zone: None,
///     keep: None,
///     exclude: &[],
///     now,
/// };
/// let mut rng = |_| 0;
/// assert!(matches!(pick(&table.snapshot(), &request, &First(b), &mut rng), Pick::Stay(stay) if stay.id == a));
///
/// // The pinned endpoint drains: the client moves to where the ring sends its session in every replica.
/// table.drain(&a, now);
/// assert!(matches!(pick(&table.snapshot(), &request, &First(b), &mut rng), Pick::Move(to, _) if to.id == b));
/// ```
pub fn pick(
    snapshot: &Snapshot,
    request: &PickRequest<'_>,
    ring: &dyn Ring,
    rng: &mut impl FnMut(u64) -> u64,
) -> Pick {
    let candidates =
        Candidates { snapshot, request, tier: snapshot.tier(), ejection_honoured: OnceCell::new() };
    match &request.pinned {
        Some(pinned) => candidates.follow(pinned, ring),
        None => match candidates.place(rng) {
            Some(endpoint) => Pick::Place(endpoint),
            None => Pick::Nowhere(candidates.nowhere()),
        },
    }
}

/// The endpoints as this request may use them.
struct Candidates<'a> {
    snapshot: &'a Snapshot,
    request: &'a PickRequest<'a>,
    /// The endpoints for clients that are not pinned; `None` if there are none.
    tier: Option<Tier>,
    /// Decided at most once a pick, and only when an ejected endpoint is met: it takes a walk.
    ejection_honoured: OnceCell<bool>,
}

/// The kind of client that a request comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    /// Any endpoint will do.
    New,
    /// The endpoint in question is its own.
    Pinned,
}

impl Candidates<'_> {
    fn follow(&self, pinned: &EndpointId, ring: &dyn Ring) -> Pick {
        let Some(own) = self.snapshot.get(pinned) else { return self.relocate(MoveReason::Gone, ring) };
        let Some(reason) = self.obstacle(own, Client::Pinned) else { return Pick::Stay(Arc::clone(own)) };
        match (self.relocate(reason, ring), reason) {
            // A doubtful endpoint is better than none.
            (Pick::Nowhere(Nowhere::NoEndpoint), MoveReason::Ejected) => Pick::Stay(Arc::clone(own)),
            (Pick::Nowhere(_), MoveReason::Full) => Pick::Nowhere(Nowhere::Full),
            (elsewhere, _) => elsewhere,
        }
    }

    fn relocate(&self, reason: MoveReason, ring: &dyn Ring) -> Pick {
        let mut accept =
            |id: &EndpointId| self.snapshot.get(id).is_some_and(|endpoint| self.eligible(endpoint));
        let on_ring = || ring.first(self.request.session, &mut accept).and_then(|id| self.snapshot.get(&id));
        let leaves = matches!(reason, MoveReason::Draining | MoveReason::Gone);
        let heir = self.request.pinned.filter(|_| leaves).and_then(|left| self.heir(left));
        match heir.or_else(on_ring).or_else(|| self.nearest()) {
            Some(endpoint) => Pick::Move(Arc::clone(endpoint), reason),
            None => Pick::Nowhere(self.nowhere()),
        }
    }

    /// Returns the endpoint that has inherited from `left`, directly or from heir to heir, if it may be used; `None` if there is
    /// none, or if it may not.
    fn heir(&self, left: EndpointId) -> Option<&Arc<Endpoint>> {
        let heirs = successors(Some(left), |left| self.snapshot.heir(left).copied());
        let listed = heirs.skip(1).take(HEIRS_MAX).filter_map(|id| self.snapshot.get(&id));
        listed.into_iter().find(|endpoint| self.eligible(endpoint))
    }

    /// The ring may lag behind the snapshot for a moment. Identities and session ids are both even over 128 bits, so
    /// "the next identity after the session id" is a consistent hash of its own, and every replica's the same.
    fn nearest(&self) -> Option<&Arc<Endpoint>> {
        let session = u128::from_be_bytes(*self.request.session);
        let eligible = self.in_use().iter().filter(|endpoint| self.eligible(endpoint));
        eligible.min_by_key(|endpoint| endpoint.id.position().wrapping_sub(session))
    }

    /// The endpoints of the tier in use.
    fn in_use(&self) -> &[Arc<Endpoint>] {
        self.tier.map(|tier| self.snapshot.in_tier(tier).endpoints()).unwrap_or_default()
    }

    fn place(&self, rng: &mut impl FnMut(u64) -> u64) -> Option<Arc<Endpoint>> {
        match self.tier? {
            Tier::Ready => {
                let near = self.request.zone.and_then(|zone| self.snapshot.ready_in(zone));
                near.and_then(|set| self.place_among(set, rng))
                    .or_else(|| self.place_among(self.snapshot.in_tier(Tier::Ready), rng))
            }
            Tier::Terminating | Tier::Published => self.place_on_fewest(rng),
        }
    }

    /// A makeshift until some endpoint is ready: whatever the strategy, the one with the fewest streams, since all of them
    /// have to move once more.
    fn place_on_fewest(&self, rng: &mut impl FnMut(u64) -> u64) -> Option<Arc<Endpoint>> {
        let eligible: Vec<_> = self.in_use().iter().filter(|endpoint| self.eligible(endpoint)).collect();
        let count = u64::try_from(eligible.len()).ok().filter(|count| *count > 0)?;
        // Begins anywhere, so that of several with equally few none is always the one.
        let start = usize::try_from(rng(count).min(count - 1)).unwrap_or_default();
        let (before, after) = eligible.split_at_checked(start)?;
        after.iter().chain(before).copied().reduce(less_loaded).cloned()
    }

    fn place_among(&self, ready: &WeightedSet, rng: &mut impl FnMut(u64) -> u64) -> Option<Arc<Endpoint>> {
        for _ in 0..DRAWS_MAX {
            let drawn = match self.request.strategy {
                Strategy::LeastStreams => self.draw_two(ready, rng)?,
                Strategy::RoundRobin => self.draw_turn(ready, rng)?,
                Strategy::Random => self.draw_one(ready, rng)?,
            };
            if let Some(endpoint) = drawn {
                return Some(Arc::clone(endpoint));
            }
        }
        self.place_after_a_walk(ready.endpoints(), rng)
    }

    /// The outer `None` if there is no endpoint to draw from, the inner one if the drawn endpoints cannot be used.
    fn draw_two<'l>(
        &self,
        set: &'l WeightedSet,
        rng: &mut impl FnMut(u64) -> u64,
    ) -> Option<Option<&'l Arc<Endpoint>>> {
        let first = set.draw(rng)?;
        let second = set.draw_other(first, rng);
        let mut usable = |index: usize| set.get(index).filter(|endpoint| self.usable_now(endpoint, rng));
        Some(match (usable(first), second.and_then(&mut usable)) {
            (Some(first), Some(second)) => Some(less_loaded(first, second)),
            (first, second) => first.or(second),
        })
    }

    fn draw_turn<'l>(
        &self,
        set: &'l WeightedSet,
        rng: &mut impl FnMut(u64) -> u64,
    ) -> Option<Option<&'l Arc<Endpoint>>> {
        let endpoint = set.at_turn(self.snapshot.next_turn())?;
        Some(self.usable_now(endpoint, rng).then_some(endpoint))
    }

    fn draw_one<'l>(
        &self,
        set: &'l WeightedSet,
        rng: &mut impl FnMut(u64) -> u64,
    ) -> Option<Option<&'l Arc<Endpoint>>> {
        let endpoint = set.get(set.draw(rng)?)?;
        Some(self.usable_now(endpoint, rng).then_some(endpoint))
    }

    /// The draws met only unusable ones: looks at all, so that an eligible one is found whenever there is one.
    fn place_after_a_walk(
        &self,
        ready: &[Arc<Endpoint>],
        rng: &mut impl FnMut(u64) -> u64,
    ) -> Option<Arc<Endpoint>> {
        let eligible: Vec<_> = ready.iter().filter(|endpoint| self.eligible(endpoint)).cloned().collect();
        let warm: Vec<_> = eligible.iter().filter(|endpoint| self.warm(endpoint, rng)).cloned().collect();
        let set = WeightedSet::new(if warm.is_empty() { eligible } else { warm });
        let first = set.draw(rng)?;
        match self.request.strategy {
            Strategy::LeastStreams => {
                let second = set.draw_other(first, rng).and_then(|index| set.get(index));
                let first = set.get(first)?;
                Some(Arc::clone(second.map_or(first, |second| less_loaded(first, second))))
            }
            Strategy::RoundRobin => set.at_turn(self.snapshot.next_turn()).cloned(),
            Strategy::Random => set.get(first).cloned(),
        }
    }

    fn usable_now(&self, endpoint: &Endpoint, rng: &mut impl FnMut(u64) -> u64) -> bool {
        self.eligible(endpoint) && self.warm(endpoint, rng)
    }

    fn eligible(&self, endpoint: &Endpoint) -> bool {
        self.obstacle(endpoint, Client::New).is_none()
    }

    /// Returns the reason why this endpoint cannot serve this client; `None` if it can.
    fn obstacle(&self, endpoint: &Endpoint, client: Client) -> Option<MoveReason> {
        match endpoint.phase {
            _ if endpoint.tier().is_some() && endpoint.tier() == self.tier => {}
            Phase::Ready => {}
            Phase::NotReady if client == Client::Pinned && endpoint.serving => {}
            Phase::NotReady => return Some(MoveReason::Unready),
            Phase::Draining if client == Client::Pinned && self.is_kept(endpoint) => {}
            Phase::Draining => return Some(MoveReason::Draining),
            Phase::Gone => return Some(MoveReason::Gone),
        }
        if self.excluded(endpoint) {
            Some(MoveReason::Unready)
        } else if endpoint.load.is_full(self.request.stream_limit) {
            Some(MoveReason::Full)
        } else if endpoint.load.is_ejected(self.request.now) && self.ejection_is_honoured() {
            Some(MoveReason::Ejected)
        } else {
            None
        }
    }

    /// Whether a client that is pinned to this draining endpoint may still begin something there.
    fn is_kept(&self, endpoint: &Endpoint) -> bool {
        let now = self.request.now;
        let is_kept = self.request.keep.is_some_and(|times| now < times.last_departures(endpoint));
        endpoint.serving && (is_kept || self.snapshot.held_until(&endpoint.id, now).is_some())
    }

    fn excluded(&self, endpoint: &Endpoint) -> bool {
        self.request.exclude.contains(&endpoint.id)
    }

    /// Not when more than half of the endpoints that could serve this request are ejected: the few that are left
    /// would drown, and the fault is rather not theirs.
    fn ejection_is_honoured(&self) -> bool {
        *self.ejection_honoured.get_or_init(|| {
            let limit = self.request.stream_limit;
            let usable = self
                .in_use()
                .iter()
                .filter(|endpoint| !self.excluded(endpoint) && !endpoint.load.is_full(limit));
            ejection_is_honoured(usable, self.request.now)
        })
    }

    /// Whether a draw that fell on `endpoint` counts: as often as the share of its slow start that is over.
    fn warm(&self, endpoint: &Endpoint, rng: &mut impl FnMut(u64) -> u64) -> bool {
        let Some(slow_start) = self.request.slow_start.filter(|_| endpoint.slow_start) else { return true };
        // Counted from when it became ready: a pod is listed long before that.
        let age = self.request.now.since(endpoint.phase_since);
        if age >= slow_start {
            return true;
        }
        let per_mille =
            age.as_millis().saturating_mul(1_000).checked_div(slow_start.as_millis()).unwrap_or(1_000);
        let warmth = u64::try_from(per_mille).unwrap_or(1_000).max(WARMTH_MIN_PER_MILLE);
        rng(1_000) < warmth
    }

    /// No endpoint is eligible: is it for want of places only? Ejection alone never empties the list.
    fn nowhere(&self) -> Nowhere {
        let untried = self.in_use().iter().any(|endpoint| !self.excluded(endpoint));
        if untried { Nowhere::Full } else { Nowhere::NoEndpoint }
    }
}

/// The one with fewer streams for its weight; `first` when they are even. Both were drawn by weight, so while nothing
/// is open (or only ordinary requests come, which do not count) the shares are the weights.
fn less_loaded<'l>(first: &'l Arc<Endpoint>, second: &'l Arc<Endpoint>) -> &'l Arc<Endpoint> {
    // first/w1 <= second/w2, without division: 32 bits times 32 bits fit.
    let first_crossed = u64::from(first.load.open_streams()) * u64::from(second.weight);
    let second_crossed = u64::from(second.load.open_streams()) * u64::from(first.weight);
    if first_crossed <= second_crossed { first } else { second }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::observed;
    use crate::{Condition, EjectionPolicy, FailureSource, Observed, Permit, Table, Update};

    const SESSION: [u8; 16] = [7; 16];
    const NOW: Millis = Millis(1_000_000);

    /// A ring that walks the identities of a fixed list in order.
    struct InOrder(Vec<EndpointId>);

    impl Ring for InOrder {
        fn first(&self, key: &[u8], accept: &mut dyn FnMut(&EndpointId) -> bool) -> Option<EndpointId> {
            assert_eq!(key, SESSION);
            self.0.iter().copied().find(|id| accept(id))
        }
    }

    /// SplitMix64, reduced by multiplication: small, even, and the same everywhere.
    fn seeded(mut state: u64) -> impl FnMut(u64) -> u64 {
        move |bound| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            ((u128::from(mixed) * u128::from(bound)) >> 64) as u64
        }
    }

    fn request<'a>() -> PickRequest<'a> {
        PickRequest {
            pinned: None,
            session: &SESSION,
            strategy: Strategy::LeastStreams,
            stream_limit: Some(2),
            slow_start: None,
            zone: None,
            keep: None,
            exclude: &[],
            now: NOW,
        }
    }

    fn snapshot(list: Vec<Observed>) -> Arc<Snapshot> {
        Table::new().apply(Update::Replace(list), Millis(0)).snapshot
    }

    fn ready(names: &[&str]) -> Arc<Snapshot> {
        snapshot(names.iter().map(|name| observed(name, Condition::Ready)).collect())
    }

    fn weighted(weights: &[u32]) -> Arc<Snapshot> {
        let list = weights.iter().enumerate().map(|(index, weight)| Observed {
            weight: *weight,
            ..observed(&format!("pod-{index:02}"), Condition::Ready)
        });
        snapshot(list.collect())
    }

    fn id(name: &str) -> EndpointId {
        observed(name, Condition::Ready).id
    }

    fn load<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Arc<crate::Load> {
        &snapshot.get(&id(name)).unwrap().load
    }

    fn eject(snapshot: &Snapshot, name: &str) {
        let policy = EjectionPolicy { failures: 1, ejection: Duration::from_secs(15) };
        assert!(load(snapshot, name).failed(&policy, FailureSource::Endpoint, NOW));
    }

    fn fill(snapshot: &Snapshot, name: &str) -> [Permit; 2] {
        [(); 2].map(|()| load(snapshot, name).try_open(None).unwrap())
    }

    /// "stay a", "move b draining", "nowhere full" and so on; the ring goes a, b, c.
    fn outcome(snapshot: &Snapshot, request: &PickRequest<'_>) -> String {
        let ring = InOrder(["a", "b", "c"].map(id).to_vec());
        match pick(snapshot, request, &ring, &mut seeded(1)) {
            Pick::Stay(endpoint) => format!("stay {}", endpoint.name),
            Pick::Place(endpoint) => format!("place {}", endpoint.name),
            Pick::Move(endpoint, reason) => format!("move {} {}", endpoint.name, reason.as_str()),
            Pick::Nowhere(Nowhere::NoEndpoint) => "nowhere".into(),
            Pick::Nowhere(Nowhere::Full) => "nowhere full".into(),
        }
    }

    fn pinned_to(name: &str) -> PickRequest<'static> {
        PickRequest { pinned: Some(id(name)), ..request() }
    }

    #[test]
    fn a_pinned_client_stays_while_its_endpoint_can_serve_it() {
        let cases = [
            (Condition::Ready, "stay b"),
            (Condition::NotReady { serving: true }, "stay b"),
            (Condition::NotReady { serving: false }, "move a unready"),
            (Condition::Draining { serving: true }, "move a draining"),
            (Condition::Draining { serving: false }, "move a draining"),
        ];
        for (condition, expected) in cases {
            let own = observed("b", condition);
            let snapshot = snapshot(vec![observed("a", Condition::Ready), own]);
            assert_eq!(outcome(&snapshot, &pinned_to("b")), expected, "{condition:?}");
        }
        assert_eq!(outcome(&ready(&["a", "b"]), &pinned_to("z")), "move a gone");
    }

    #[test]
    fn a_pin_that_drains_is_kept_until_the_last_departures_begin() {
        let times = DrainTimes {
            spread: Duration::from_secs(20),
            timeout: Duration::from_secs(30),
            margin: Duration::from_secs(2),
        };
        let kept = |now| PickRequest { keep: Some(times), now: Millis(now), ..pinned_to("b") };
        let of = |serving, deadline| {
            let own = Observed { deadline, ..observed("b", Condition::Draining { serving }) };
            snapshot(vec![observed("a", Condition::Ready), own])
        };
        // Draining since 0, so until 30 s - 20 s.
        assert_eq!(outcome(&of(true, None), &kept(9_999)), "stay b");
        assert_eq!(outcome(&of(true, None), &kept(10_000)), "move a draining");
        assert_eq!(outcome(&of(false, None), &kept(1)), "move a draining");
        // Killed at 100 s, so until 98 s - 20 s.
        assert_eq!(outcome(&of(true, Some(Millis(100_000))), &kept(77_999)), "stay b");
        assert_eq!(outcome(&of(true, Some(Millis(100_000))), &kept(78_000)), "move a draining");
        let new = PickRequest { pinned: None, ..kept(1) };
        assert_eq!(outcome(&of(true, None), &new), "place a", "only those who are there already");
    }

    #[test]
    fn a_pin_that_was_tried_in_vain_or_is_ejected_or_full_moves() {
        let snapshot = ready(&["a", "b", "c"]);
        let tried = [id("b")];
        assert_eq!(outcome(&snapshot, &PickRequest { exclude: &tried, ..pinned_to("b") }), "move a unready");
        let permits = fill(&snapshot, "b");
        assert_eq!(outcome(&snapshot, &pinned_to("b")), "move a full");
        let ordinary = PickRequest { stream_limit: None, ..pinned_to("b") };
        assert_eq!(outcome(&snapshot, &ordinary), "stay b", "the cap is for streams only");
        drop(permits);
        eject(&snapshot, "b");
        assert_eq!(outcome(&snapshot, &pinned_to("b")), "move a ejected");
        let later = PickRequest { now: NOW.after(Duration::from_secs(15)), ..pinned_to("b") };
        assert_eq!(outcome(&snapshot, &later), "stay b");
    }

    #[test]
    fn the_successor_is_the_first_on_the_ring_that_could_take_a_new_client() {
        let list = vec![
            observed("a", Condition::NotReady { serving: true }),
            observed("b", Condition::Ready),
            observed("c", Condition::Ready),
        ];
        let snapshot = snapshot(list);
        assert_eq!(outcome(&snapshot, &pinned_to("z")), "move b gone");
        let permits = fill(&snapshot, "b");
        assert_eq!(outcome(&snapshot, &pinned_to("z")), "move c gone");
        let tried = [id("c")];
        let retry = PickRequest { exclude: &tried, ..pinned_to("z") };
        assert_eq!(outcome(&snapshot, &retry), "nowhere full");
        drop(permits);
        assert_eq!(outcome(&snapshot, &retry), "move b gone");
    }

    #[test]
    fn a_ring_that_lags_behind_still_leads_somewhere_and_everywhere_to_the_same() {
        let snapshot = ready(&["x", "y", "w", "v"]);
        let expected = outcome(&snapshot, &pinned_to("z"));
        assert!(expected.starts_with("move "), "{expected}");
        let turned = ready(&["v", "w", "y", "x"]);
        assert_eq!(outcome(&turned, &pinned_to("z")), expected);
    }

    #[test]
    fn a_ring_that_lags_behind_does_not_send_everyone_to_one() {
        let snapshot = weighted(&[1; 4]);
        let sessions: Vec<[u8; 16]> = (0..=255).map(|byte| [byte; 16]).collect();
        let requests = sessions.iter().map(|session| PickRequest { session, ..pinned_to("z") });
        let mut met: Vec<Arc<str>> = requests
            .filter_map(|request| match pick(&snapshot, &request, &Behind, &mut seeded(1)) {
                Pick::Move(endpoint, MoveReason::Gone) => Some(Arc::clone(&endpoint.name)),
                _ => None,
            })
            .collect();
        assert_eq!(met.len(), 256);
        met.sort();
        met.dedup();
        assert_eq!(met.len(), 4);
    }

    /// A ring that has no endpoint yet.
    struct Behind;

    impl Ring for Behind {
        fn first(&self, _: &[u8], _: &mut dyn FnMut(&EndpointId) -> bool) -> Option<EndpointId> {
            None
        }
    }

    #[test]
    fn with_nowhere_to_go_the_answer_says_whether_a_place_is_all_that_lacks() {
        assert_eq!(outcome(&ready(&[]), &request()), "nowhere");
        assert_eq!(outcome(&ready(&[]), &pinned_to("a")), "nowhere");
        let leaving = snapshot(vec![
            observed("a", Condition::Draining { serving: false }),
            observed("b", Condition::NotReady { serving: true }),
        ]);
        assert_eq!(outcome(&leaving, &request()), "nowhere");
        assert_eq!(outcome(&leaving, &pinned_to("a")), "nowhere");
        let _permits = fill(&leaving, "b");
        assert_eq!(outcome(&leaving, &pinned_to("b")), "nowhere full");
        let one = ready(&["a"]);
        let tried = [id("a")];
        assert_eq!(outcome(&one, &PickRequest { exclude: &tried, ..request() }), "nowhere");
        let _permits = fill(&one, "a");
        assert_eq!(outcome(&one, &request()), "nowhere full");
        assert_eq!(outcome(&one, &pinned_to("a")), "nowhere full");
        assert_eq!(outcome(&one, &PickRequest { stream_limit: None, ..request() }), "place a");
    }

    #[test]
    fn never_more_than_half_are_passed_over_as_ejected() {
        let snapshot = ready(&["a", "b", "c", "d"]);
        eject(&snapshot, "a");
        eject(&snapshot, "b");
        assert!(snapshot.honours_ejection(NOW));
        assert_eq!(outcome(&snapshot, &pinned_to("a")), "move c ejected");
        let tried = [id("d")];
        let retry = PickRequest { exclude: &tried, ..pinned_to("a") };
        assert_eq!(outcome(&snapshot, &retry), "stay a", "two of the three that are left");
        eject(&snapshot, "c");
        assert!(!snapshot.honours_ejection(NOW));
        assert_eq!(outcome(&snapshot, &pinned_to("a")), "stay a");
        let placed: Vec<String> =
            (0..200).map(|seed| place(&snapshot, &request(), &mut seeded(seed))).collect();
        assert!(["a", "b", "c", "d"].iter().all(|name| placed.iter().any(|placed| placed == name)));
    }

    #[test]
    fn an_ejected_endpoint_that_only_rests_keeps_its_clients_when_there_is_no_other() {
        let snapshot = snapshot(vec![observed("b", Condition::NotReady { serving: true })]);
        eject(&snapshot, "b");
        assert_eq!(outcome(&snapshot, &pinned_to("b")), "stay b");
    }

    fn place(snapshot: &Snapshot, request: &PickRequest<'_>, rng: &mut impl FnMut(u64) -> u64) -> String {
        match pick(snapshot, request, &InOrder(vec![]), rng) {
            Pick::Place(endpoint) => endpoint.name.to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// Places `clients` new clients and counts them by endpoint, in the order of names; streams stay open or not.
    fn spread(snapshot: &Snapshot, request: &PickRequest<'_>, clients: u32, streams: Streams) -> Vec<u32> {
        let mut rng = seeded(42);
        let mut permits = Vec::new();
        let mut counts = vec![0; snapshot.endpoints().len()];
        for _ in 0..clients {
            let name = place(snapshot, request, &mut rng);
            let index = snapshot.endpoints().iter().position(|endpoint| *endpoint.name == name).unwrap();
            counts[index] += 1;
            if streams == Streams::Held {
                permits.push(snapshot.endpoints()[index].load.try_open(None).unwrap());
            }
        }
        counts
    }

    #[derive(PartialEq)]
    enum Streams {
        Held,
        None,
    }

    #[test]
    fn two_choices_keep_streams_level() {
        let request = PickRequest { stream_limit: None, ..request() };
        let counts = spread(&weighted(&[1; 10]), &request, 10_000, Streams::Held);
        // A single choice strays by about 90 here; two choices by about 3 (log log n).
        assert!(counts.iter().all(|count| count.abs_diff(1_000) <= 6), "{counts:?}");
        let alone = spread(&weighted(&[1; 10]), &request, 10_000, Streams::None);
        assert!(alone.iter().all(|count| count.abs_diff(1_000) <= 150), "{alone:?}");
    }

    #[test]
    fn every_strategy_respects_weights() {
        for strategy in [Strategy::LeastStreams, Strategy::RoundRobin, Strategy::Random] {
            for streams in [Streams::Held, Streams::None] {
                let request = PickRequest { strategy, stream_limit: None, ..request() };
                let two = spread(&weighted(&[1, 9]), &request, 10_000, streams);
                assert!(two[0].abs_diff(1_000) <= 150, "{strategy:?}: {two:?}");
            }
            let request = PickRequest { strategy, stream_limit: None, ..request() };
            let held = spread(&weighted(&[1, 2, 5, 2]), &request, 10_000, Streams::Held);
            // The random strategy strays by about 40; the others keep to the weights more closely than that.
            let tolerance = if strategy == Strategy::Random { 200 } else { 15 };
            for (count, expected) in held.iter().zip([1_000_u32, 2_000, 5_000, 2_000]) {
                assert!(count.abs_diff(expected) <= tolerance, "{strategy:?}: {held:?}");
            }
        }
    }

    /// `name:own zone:hinted zones`, such as `a:z1:z2,z3`.
    fn zoned(list: &[&str]) -> Vec<Observed> {
        let one = |text: &&str| {
            let mut parts = text.split(':').map(|part| Some(part).filter(|part| !part.is_empty()));
            let mut part = || parts.next().flatten();
            let name = part().unwrap();
            let zone = part().map(Into::into);
            let zone_hints = part().map(|zones| zones.split(',').map(Into::into).collect());
            Observed { zone, zone_hints, ..observed(name, Condition::Ready) }
        };
        list.iter().map(one).collect()
    }

    /// The names that new clients from zone z1 are placed on.
    fn placed_in_z1(snapshot: &Snapshot, request: &PickRequest<'_>) -> Vec<String> {
        let request = PickRequest { zone: Some("z1"), stream_limit: Some(1), ..*request };
        let mut names: Vec<String> =
            (0..200).map(|seed| place(snapshot, &request, &mut seeded(seed))).collect();
        names.sort();
        names.dedup();
        names
    }

    #[test]
    fn a_zone_is_preferred_by_hints_and_without_hints_by_where_endpoints_are() {
        let cases: [(&[&str], &[&str]); 9] = [
            (&["a:z1", "b:z2", "c:z1"], &["a", "c"]),
            (&["a:z1:z2", "b:z2:z1", "c:z1:z1"], &["b", "c"]),
            (&["a:z1:z2", "b:z2:z1,z2", "c:z3:z3"], &["b"]),
            (&["a:z1:z2", "b:z2:z2"], &["a", "b"]),
            (&["a", "b:z2", "c"], &["a", "b", "c"]),
            (&["a::z1,z1", "b::z2"], &["a"]),
            // One without a hint: none counts.
            (&["a:z1:z2", "b:z2:z1,z2", "c:z3"], &["a"]),
            (&["a:z1:z2", "b:z1"], &["a", "b"]),
            (&["a::z1,z1", "b"], &["a", "b"]),
        ];
        for (list, expected) in cases {
            for strategy in [Strategy::LeastStreams, Strategy::RoundRobin, Strategy::Random] {
                let request = PickRequest { strategy, ..request() };
                assert_eq!(placed_in_z1(&snapshot(zoned(list)), &request), expected, "{list:?} {strategy:?}");
            }
        }
    }

    #[test]
    fn a_zone_that_cannot_take_a_client_is_left() {
        let snapshot = snapshot(zoned(&["a:z1", "b:z1", "c:z2", "d:z2", "e:z2"]));
        let tried = [id("a")];
        let retry = PickRequest { exclude: &tried, ..request() };
        assert_eq!(placed_in_z1(&snapshot, &retry), ["b"]);
        let permits = fill(&snapshot, "b");
        assert_eq!(placed_in_z1(&snapshot, &retry), ["c", "d", "e"]);
        drop(permits);
        eject(&snapshot, "b");
        assert_eq!(placed_in_z1(&snapshot, &retry), ["c", "d", "e"]);
        assert_eq!(placed_in_z1(&snapshot, &request()), ["a"]);
    }

    #[test]
    fn a_pin_and_its_successor_do_not_care_for_zones() {
        let snapshot = snapshot(zoned(&["a:z2", "b:z1"]));
        let in_z1 = |name| PickRequest { zone: Some("z1"), ..pinned_to(name) };
        assert_eq!(outcome(&snapshot, &in_z1("a")), "stay a");
        assert_eq!(outcome(&snapshot, &in_z1("z")), "move a gone", "all replicas agree, wherever they are");
    }

    #[test]
    fn only_ready_endpoints_count_for_a_zone() {
        let mut list = zoned(&["a:z1", "b:z2"]);
        list[0].condition = Condition::Draining { serving: true };
        assert_eq!(placed_in_z1(&snapshot(list), &request()), ["b"]);
    }

    #[test]
    fn round_robin_takes_turns_across_snapshots() {
        let mut table = Table::new();
        let list = || ["a", "b", "c"].map(|name| observed(name, Condition::Ready)).to_vec();
        let request = PickRequest { strategy: Strategy::RoundRobin, ..request() };
        let turn = |snapshot: Arc<Snapshot>| place(&snapshot, &request, &mut seeded(1));
        let first = table.apply(Update::Replace(list()), Millis(0)).snapshot;
        assert_eq!(turn(Arc::clone(&first)), "a");
        let zoned = list().into_iter().map(|one| Observed { zone: Some("z".into()), ..one }).collect();
        let second = table.apply(Update::Replace(zoned), Millis(1)).snapshot;
        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!([turn(Arc::clone(&second)), turn(second)], ["b", "c"]);
    }

    /// `old` and `new`, of which `new` joined later, at 1,000,000 ms.
    fn grown(conditions: [Condition; 2]) -> (Table, Arc<Snapshot>) {
        let mut table = Table::new();
        let [old, new] = conditions;
        table.apply(Update::Replace(vec![observed("a-old", old)]), Millis(0));
        let snapshot = table.apply(Update::Upsert(vec![observed("b-new", new)]), NOW).snapshot;
        (table, snapshot)
    }

    fn share_of_new(snapshot: &Snapshot, age: u64) -> u32 {
        let now = NOW.after(Duration::from_secs(age));
        let slow_start = Some(Duration::from_secs(30));
        // The newcomer is empty, so it wins whenever its draw counts.
        let permits: Vec<Permit> = (0..5).filter_map(|_| load_of_old(snapshot)?.try_open(None)).collect();
        let request = PickRequest { slow_start, now, stream_limit: None, ..request() };
        let share = spread(snapshot, &request, 10_000, Streams::None)[1];
        drop(permits);
        share
    }

    fn load_of_old(snapshot: &Snapshot) -> Option<&Arc<crate::Load>> {
        snapshot.endpoints().first().map(|endpoint| &endpoint.load)
    }

    #[test]
    fn a_newcomer_warms_up_from_a_tenth_to_its_full_share() {
        let (_table, snapshot) = grown([Condition::Ready, Condition::Ready]);
        for (age, expected) in [(0, 1_000_u32), (3, 1_000), (15, 5_000), (24, 8_000), (30, 10_000)] {
            let share = share_of_new(&snapshot, age);
            assert!(share.abs_diff(expected) <= 200, "{share} of 10,000 after {age} s");
        }
    }

    #[test]
    fn members_of_the_first_list_do_not_warm_up() {
        let snapshot = weighted(&[1, 1]);
        let request = PickRequest { slow_start: Some(Duration::from_secs(30)), now: Millis(1), ..request() };
        let mut rng = |bound: u64| {
            assert!(bound <= 2, "a draw among two, and never one about warmth");
            bound - 1
        };
        assert_eq!(place(&snapshot, &request, &mut rng), "pod-01");
    }

    #[test]
    fn warming_up_begins_when_the_newcomer_is_ready_and_not_when_it_is_listed() {
        let (mut table, _) = grown([Condition::Ready, Condition::NotReady { serving: false }]);
        let ready_at = NOW.after(Duration::from_secs(60));
        let ready = Update::Upsert(vec![observed("b-new", Condition::Ready)]);
        let snapshot = table.apply(ready, ready_at).snapshot;
        assert!(share_of_new(&snapshot, 60).abs_diff(1_000) <= 200);
        assert_eq!(share_of_new(&snapshot, 90), 10_000);
    }

    #[test]
    fn a_newcomer_takes_everything_when_nothing_else_is_eligible() {
        let (_table, snapshot) = grown([Condition::Draining { serving: true }, Condition::Ready]);
        for strategy in [Strategy::LeastStreams, Strategy::RoundRobin, Strategy::Random] {
            let slow_start = Some(Duration::from_secs(30));
            let request = PickRequest { strategy, slow_start, ..request() };
            assert_eq!(spread(&snapshot, &request, 100, Streams::None), [0, 100]);
        }
    }

    #[test]
    fn the_only_usable_one_of_many_is_found() {
        let names: Vec<String> = (0..500).map(|number| format!("pod-{number}")).collect();
        let snapshot = snapshot(names.iter().map(|name| observed(name, Condition::Ready)).collect());
        let usable = snapshot.get(&id("pod-250")).unwrap().id;
        let others: Vec<_> = snapshot.endpoints().iter().filter(|endpoint| endpoint.id != usable).collect();
        let permits: Vec<_> = others.iter().map(|endpoint| endpoint.load.try_open(None)).collect();
        for strategy in [Strategy::LeastStreams, Strategy::RoundRobin, Strategy::Random] {
            let request = PickRequest { strategy, stream_limit: Some(1), ..request() };
            assert_eq!(place(&snapshot, &request, &mut seeded(3)), "pod-250", "{strategy:?}");
        }
        drop(permits);
    }
}
