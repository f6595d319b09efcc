//! Laws of the table and of picking that hold for every sequence of updates, checked against independent models.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics is a test that fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use podpin_endpoints::{
    Applied, Condition, EjectionPolicy, EndpointId, FailureSource, MoveReason, Nowhere, Observed, Phase,
    Pick, PickRequest, Ring, Snapshot, Strategy as Balance, Table, Update, pick,
};
use podpin_time::Millis;
use proptest::prelude::*;

/// Pods 0..PODS; even ones come from a cluster, odd ones from a file (their drain can be taken back).
const PODS: usize = 6;

fn reversible(pod: usize) -> bool {
    pod % 2 == 1
}

fn address(pod: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(pod).unwrap()], 8080))
}

fn observed(pod: usize, condition: Condition) -> Observed {
    let name = format!("pod-{pod}");
    Observed {
        condition,
        reversible_drain: reversible(pod),
        ..Observed::ready(EndpointId::of_address(&name, address(pod)), name, address(pod))
    }
}

fn id(pod: usize) -> EndpointId {
    observed(pod, Condition::Ready).id
}

#[derive(Clone, Debug)]
enum Step {
    Replace(BTreeMap<usize, Condition>),
    Upsert(BTreeMap<usize, Condition>),
    Remove(BTreeSet<usize>),
    Drain(usize),
    Undrain(usize),
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        3 => Just(Condition::Ready),
        1 => any::<bool>().prop_map(|serving| Condition::NotReady { serving }),
        1 => Just(Condition::Published),
        2 => any::<bool>().prop_map(|serving| Condition::Draining { serving }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let list = || prop::collection::btree_map(0..PODS, condition(), 0..=PODS);
    prop_oneof![
        3 => list().prop_map(Step::Replace),
        3 => list().prop_map(Step::Upsert),
        1 => prop::collection::btree_set(0..PODS, 0..3).prop_map(Step::Remove),
        1 => (0..PODS).prop_map(Step::Drain),
        1 => (0..PODS).prop_map(Step::Undrain),
    ]
}

fn take(table: &mut Table, step: &Step, now: Millis) -> Option<Applied> {
    let list =
        |list: &BTreeMap<_, _>| list.iter().map(|(pod, condition)| observed(*pod, *condition)).collect();
    match step {
        Step::Replace(pods) => Some(table.apply(Update::Replace(list(pods)), now)),
        Step::Upsert(pods) => Some(table.apply(Update::Upsert(list(pods)), now)),
        Step::Remove(pods) => {
            Some(table.apply(Update::Remove(pods.iter().map(|pod| id(*pod)).collect()), now))
        }
        Step::Drain(pod) => table.drain(&id(*pod), now),
        Step::Undrain(pod) => table.undrain(&id(*pod), now),
    }
}

/// A model of the table in the plainest words: a map from pod to (what is believed, is it drained by hand), and
/// the pods that were seen terminating and cannot come back.
#[derive(Default)]
struct Model {
    pods: BTreeMap<usize, (Condition, bool)>,
    terminated: BTreeSet<usize>,
}

impl Model {
    fn say(&mut self, pod: usize, said: Condition) {
        let drained = self.pods.get(&pod).is_some_and(|(_, drained)| *drained);
        let is_draining = matches!(said, Condition::Draining { .. });
        let believed = match self.pods.get(&pod) {
            Some((before, _)) if self.terminated.contains(&pod) && !is_draining => *before,
            None if self.terminated.contains(&pod) => Condition::Draining { serving: said.serving() },
            _ => said,
        };
        if is_draining && !reversible(pod) {
            self.terminated.insert(pod);
        }
        self.pods.insert(pod, (believed, drained));
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Replace(list) => {
                self.pods.retain(|pod, _| list.contains_key(pod));
                list.iter().for_each(|(pod, said)| self.say(*pod, *said));
            }
            Step::Upsert(list) => list.iter().for_each(|(pod, said)| self.say(*pod, *said)),
            Step::Remove(pods) => self.pods.retain(|pod, _| !pods.contains(pod)),
            Step::Drain(pod) => self.operate(*pod, true),
            Step::Undrain(pod) => self.operate(*pod, false),
        }
    }

    fn operate(&mut self, pod: usize, drained: bool) {
        if let Some(state) = self.pods.get_mut(&pod) {
            state.1 = drained;
        }
    }

    fn phase(&self, pod: usize) -> Option<Phase> {
        let (believed, drained) = self.pods.get(&pod)?;
        Some(if *drained { Phase::Draining } else { believed.phase() })
    }
}

fn assert_snapshot_is(snapshot: &Snapshot, model: &Model) {
    let seen: Vec<_> = snapshot.endpoints().iter().map(|one| (one.id, one.phase, one.serving)).collect();
    let phase = |pod: &usize| model.phase(*pod).unwrap();
    let expected: Vec<_> =
        model.pods.iter().map(|(pod, (said, _))| (id(*pod), phase(pod), said.serving())).collect();
    assert_eq!(seen, expected, "pods are named in the order of their numbers");
    let in_phase = |wanted| model.pods.keys().filter(|pod| phase(pod) == wanted).count();
    let counts = snapshot.counts();
    assert_eq!(counts.ready, in_phase(Phase::Ready));
    assert_eq!(counts.not_ready, in_phase(Phase::NotReady));
    assert_eq!(counts.draining, in_phase(Phase::Draining));
    for pod in 0..PODS {
        let found = snapshot.get(&id(pod)).map(|one| one.id);
        assert_eq!(found, model.pods.contains_key(&pod).then(|| id(pod)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_is_what_the_model_says_and_transitions_lead_there(steps in prop::collection::vec(step(), 1..24)) {
        let (mut table, mut model) = (Table::new(), Model::default());
        let mut told: BTreeMap<EndpointId, Phase> = BTreeMap::new();
        for (now, step) in (1..).zip(&steps) {
            let before = table.snapshot();
            let applied = take(&mut table, step, Millis(now));
            model.take(step);
            assert_snapshot_is(&table.snapshot(), &model);
            let Some(applied) = applied else { continue };
            let ids = |snapshot: &Snapshot| snapshot.endpoints().iter().map(|one| one.id).collect::<Vec<_>>();
            prop_assert_eq!(applied.members_changed, ids(&before) != ids(&applied.snapshot));
            for step in applied.transitions {
                prop_assert_eq!(step.from, told.get(&step.endpoint.id).copied());
                prop_assert_eq!((step.to, step.endpoint.phase_since), (step.endpoint.phase, Millis(now)));
                if step.to == Phase::Gone {
                    told.remove(&step.endpoint.id);
                } else {
                    told.insert(step.endpoint.id, step.to);
                }
            }
            let phases = applied.snapshot.endpoints().iter().map(|one| (one.id, one.phase)).collect();
            prop_assert_eq!(&told, &phases, "whoever follows the transitions knows every phase");
        }
    }

    #[test]
    fn without_an_operator_a_pod_that_drains_never_turns_back(steps in prop::collection::vec(step(), 1..24)) {
        let mut table = Table::new();
        let mut reached: BTreeMap<EndpointId, Phase> = BTreeMap::new();
        for (now, step) in (1..).zip(&steps) {
            if matches!(step, Step::Drain(_) | Step::Undrain(_)) {
                continue;
            }
            take(&mut table, step, Millis(now));
            for pod in (0..PODS).filter(|pod| !reversible(*pod)) {
                let snapshot = table.snapshot();
                let Some(endpoint) = snapshot.get(&id(pod)) else { continue };
                let before = reached.insert(endpoint.id, endpoint.phase);
                prop_assert!(before != Some(Phase::Draining) || endpoint.phase == Phase::Draining);
            }
        }
    }
}

/// Highest random weight over identities: a stand-in for ketama that knows no order.
struct Rendezvous(Vec<EndpointId>);

impl Rendezvous {
    fn over(snapshot: &Snapshot) -> Rendezvous {
        Rendezvous(snapshot.endpoints().iter().map(|endpoint| endpoint.id).collect())
    }
}

impl Ring for Rendezvous {
    fn first(&self, key: &[u8], accept: &mut dyn FnMut(&EndpointId) -> bool) -> Option<EndpointId> {
        let score = |id: &EndpointId| {
            let bytes = key.iter().chain(id.as_bytes());
            bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            })
        };
        self.0.iter().copied().filter(|id| accept(id)).max_by_key(score)
    }
}

/// A ring that was built before any endpoint was known.
struct Empty;

impl Ring for Empty {
    fn first(&self, _: &[u8], _: &mut dyn FnMut(&EndpointId) -> bool) -> Option<EndpointId> {
        None
    }
}

/// SplitMix64.
fn seeded(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |bound| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        u64::try_from((u128::from(mixed) * u128::from(bound)) >> 64).unwrap()
    }
}

const NOW: Millis = Millis(60_000);
const LIMIT: u32 = 1;

/// An endpoint as a request finds it.
#[derive(Clone, Copy, Debug)]
struct Sight {
    condition: Condition,
    full: bool,
    ejected: bool,
    excluded: bool,
    late: bool,
}

fn sight() -> impl Strategy<Value = Sight> {
    let rarely = || prop::bool::weighted(0.3);
    (condition(), rarely(), rarely(), rarely(), any::<bool>()).prop_map(
        |(condition, full, ejected, excluded, late)| Sight { condition, full, ejected, excluded, late },
    )
}

fn balance() -> impl Strategy<Value = Balance> {
    prop_oneof![Just(Balance::LeastStreams), Just(Balance::RoundRobin), Just(Balance::Random)]
}

/// A table in which pod n looks like `sights[n]`.
fn staged(sights: &[Sight]) -> (Arc<Snapshot>, Vec<podpin_endpoints::Permit>, Vec<EndpointId>) {
    let mut table = Table::new();
    let members = |late| {
        let pods = sights.iter().enumerate().filter(move |(_, sight)| sight.late == late);
        pods.map(|(pod, sight)| observed(pod, sight.condition)).collect::<Vec<_>>()
    };
    table.apply(Update::Replace(members(false)), Millis(1));
    let snapshot = table.apply(Update::Upsert(members(true)), Millis(NOW.0 - 1)).snapshot;
    let of = |pod: usize| &snapshot.get(&id(pod)).unwrap().load;
    let (mut permits, mut excluded) = (Vec::new(), Vec::new());
    for (pod, sight) in sights.iter().enumerate() {
        if sight.full {
            permits.extend(of(pod).try_open(None));
        }
        if sight.ejected {
            let policy = EjectionPolicy { failures: 1, ejection: Duration::from_secs(15) };
            of(pod).failed(&policy, FailureSource::Endpoint, NOW);
        }
        if sight.excluded {
            excluded.push(id(pod));
        }
    }
    (snapshot, permits, excluded)
}

/// The state that new clients get, in the plainest words: ready, else terminating and serving, else published.
fn in_use(sights: &[Sight]) -> Condition {
    let order = [Condition::Ready, Condition::Draining { serving: true }, Condition::Published];
    let best = order.into_iter().find(|state| sights.iter().any(|sight| sight.condition == *state));
    best.unwrap_or(Condition::Ready)
}

/// The pods that may take a new client, in the plainest words.
fn eligible(sights: &[Sight], limited: bool) -> Vec<usize> {
    let state = in_use(sights);
    let usable = |sight: &Sight| sight.condition == state && !sight.excluded && !(limited && sight.full);
    let usable: Vec<usize> = (0..sights.len()).filter(|pod| usable(&sights[*pod])).collect();
    let healthy: Vec<usize> = usable.iter().copied().filter(|pod| !sights[*pod].ejected).collect();
    if (usable.len() - healthy.len()) * 2 > usable.len() { usable } else { healthy }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_024, ..ProptestConfig::default() })]

    #[test]
    fn a_new_client_gets_an_eligible_endpoint_whenever_there_is_one(
        sights in prop::collection::vec(sight(), 0..12),
        strategy in balance(),
        limited: bool,
        seed: u64,
    ) {
        let (snapshot, _permits, exclude) = staged(&sights);
        let request = PickRequest {
            pinned: None,
            session: &[1; 16],
            strategy,
            stream_limit: limited.then_some(LIMIT),
            slow_start: Some(Duration::from_secs(30)),
            zone: None,
            keep: None,
            exclude: &exclude,
            now: NOW,
        };
        let eligible = eligible(&sights, limited);
        let full_only = limited && sights.iter().any(|sight| {
            sight.condition == in_use(&sights) && !sight.excluded && sight.full
        });
        match pick(&snapshot, &request, &Empty, &mut seeded(seed)) {
            Pick::Place(endpoint) => prop_assert!(eligible.iter().any(|pod| id(*pod) == endpoint.id)),
            Pick::Nowhere(why) => {
                prop_assert!(eligible.is_empty());
                prop_assert_eq!(why, if full_only { Nowhere::Full } else { Nowhere::NoEndpoint });
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_pinned_client_stays_or_moves_to_an_eligible_endpoint(
        sights in prop::collection::vec(sight(), 0..12),
        pinned in 0_usize..14,
        session: [u8; 16],
        lagging: bool,
    ) {
        let (snapshot, _permits, exclude) = staged(&sights);
        let request = PickRequest {
            pinned: Some(id(pinned)),
            session: &session,
            strategy: Balance::LeastStreams,
            stream_limit: Some(LIMIT),
            slow_start: Some(Duration::from_secs(30)),
            zone: None,
            keep: None,
            exclude: &exclude,
            now: NOW,
        };
        let rendezvous = Rendezvous::over(&snapshot);
        let ring: &dyn Ring = if lagging { &Empty } else { &rendezvous };
        let eligible = eligible(&sights, true);
        match pick(&snapshot, &request, ring, &mut |_| panic!("no chance in following a pin")) {
            Pick::Stay(endpoint) => {
                let sight = sights[pinned];
                prop_assert_eq!(endpoint.id, id(pinned));
                prop_assert!(!sight.excluded && !sight.full);
                let rests = sight.condition == Condition::NotReady { serving: true };
                // A doubtful endpoint is better than none.
                let is_doubtful = sight.ejected && eligible.is_empty();
                prop_assert!(eligible.contains(&pinned) || rests || is_doubtful);
            }
            Pick::Move(endpoint, reason) => {
                prop_assert!(eligible.iter().any(|pod| id(*pod) == endpoint.id && *pod != pinned));
                prop_assert_eq!(reason == MoveReason::Gone, pinned >= sights.len());
                let state = sights.get(pinned).map(|one| one.condition);
                let draining = state.is_some_and(|state| {
                    state.phase() == Phase::Draining && state != in_use(&sights)
                });
                prop_assert_eq!(reason == MoveReason::Draining, draining);
            }
            Pick::Nowhere(_) => prop_assert!(eligible.is_empty()),
            Pick::Place(endpoint) => prop_assert!(false, "{:?}", endpoint),
        }
    }

    #[test]
    fn tables_built_in_different_order_move_a_client_to_the_same_endpoint(
        order in Just((0..PODS).collect::<Vec<_>>()).prop_shuffle(),
        gone in 0..PODS,
        session: [u8; 16],
        lagging: bool,
    ) {
        let all = |pods: &[usize]| pods.iter().map(|pod| observed(*pod, Condition::Ready)).collect::<Vec<_>>();
        let mut listed = Table::new();
        listed.apply(Update::Replace(all(&(0..PODS).collect::<Vec<_>>())), Millis(1));
        listed.apply(Update::Remove(vec![id(gone)]), Millis(2));
        let mut grown = Table::new();
        for pod in order.iter().filter(|pod| **pod != gone) {
            grown.apply(Update::Upsert(all(&[*pod])), Millis(u64::try_from(*pod).unwrap()));
        }
        let moved = [listed, grown].map(|table| {
            let snapshot = table.snapshot();
            let request = PickRequest {
                pinned: Some(id(gone)),
                session: &session,
                strategy: Balance::Random,
                stream_limit: None,
                slow_start: None,
                zone: None,
                keep: None,
                exclude: &[],
                now: NOW,
            };
            let rendezvous = Rendezvous::over(&snapshot);
            let ring: &dyn Ring = if lagging { &Empty } else { &rendezvous };
            match pick(&snapshot, &request, ring, &mut |_| 0) {
                Pick::Move(endpoint, MoveReason::Gone) => endpoint.id,
                other => panic!("{other:?}"),
            }
        });
        prop_assert_eq!(moved[0], moved[1]);
    }
}
