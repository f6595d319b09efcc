//! The table of `usage.rs`, line by line: which endpoint states are used, by which clients, in which order, when the better ones
//! are not there.

#![expect(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use podpin_endpoints::{
    Condition, DrainTimes, EjectionPolicy, EndpointId, FailureSource, MoveReason, Nowhere, Observed, Permit,
    Pick, PickRequest, Ring, Snapshot, Strategy, Table, Update, pick,
};
use podpin_time::Millis;

const READY: Condition = Condition::Ready;
const LEAVING: Condition = Condition::Draining { serving: true };
const PUBLISHED: Condition = Condition::Published;
const RESTING: Condition = Condition::NotReady { serving: true };
const DOWN: Condition = Condition::NotReady { serving: false };
const ENDING: Condition = Condition::Draining { serving: false };

/// States that another endpoint may be in; `None` if there is no other.
const OTHERS: [Option<Condition>; 7] =
    [None, Some(READY), Some(LEAVING), Some(PUBLISHED), Some(RESTING), Some(DOWN), Some(ENDING)];

/// Where a new client goes; `it` is the endpoint of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum New {
    It,
    Either,
    Other,
    Nowhere,
}
use New::{Either, It, Nowhere as No, Other};

/// The fate of a client that is pinned to `it`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    Stays,
    Moves,
    Refused,
}
use Own::{Moves, Refused, Stays};

/// A line for each state of an endpoint, a column for each state of the other one: where a new client goes, and what
/// becomes of a client that is pinned to the endpoint.
#[rustfmt::skip]
const TABLE: [(Condition, [(New, Own); 7]); 6] = [
    //           alone          ready           leaving         published       resting         down            ending
    (READY,     [(It, Stays),   (Either, Stays), (It, Stays),    (It, Stays),    (It, Stays),    (It, Stays),    (It, Stays)]),
    (LEAVING,   [(It, Stays),   (Other, Moves), (Either, Stays), (It, Stays),    (It, Stays),    (It, Stays),    (It, Stays)]),
    (PUBLISHED, [(It, Stays),   (Other, Moves), (Other, Moves), (Either, Stays), (It, Stays),    (It, Stays),    (It, Stays)]),
    (RESTING,   [(No, Stays),   (Other, Stays), (Other, Stays), (Other, Stays), (No, Stays),    (No, Stays),    (No, Stays)]),
    (DOWN,      [(No, Refused), (Other, Moves), (Other, Moves), (Other, Moves), (No, Refused),  (No, Refused),  (No, Refused)]),
    (ENDING,    [(No, Refused), (Other, Moves), (Other, Moves), (Other, Moves), (No, Refused),  (No, Refused),  (No, Refused)]),
];

/// A line for each state, a column for each state of the other one: who is sent to the endpoint, and why, as the admin API
/// says.
#[rustfmt::skip]
const SAID: [(Condition, Option<Condition>, &str, &str); 10] = [
    (READY,     Some(READY),     "all",    "ready"),
    (LEAVING,   None,            "all",    "draining but serving: nobody is ready"),
    (LEAVING,   Some(PUBLISHED), "all",    "draining but serving: nobody is ready"),
    (LEAVING,   Some(READY),     "nobody", "draining"),
    (PUBLISHED, Some(DOWN),      "all",    "published although not ready: nobody serves"),
    (PUBLISHED, Some(LEAVING),   "nobody", "not serving"),
    (RESTING,   None,            "pinned", "not ready, but serving"),
    (DOWN,      None,            "nobody", "not serving"),
    (ENDING,    None,            "nobody", "not serving"),
    (ENDING,    Some(READY),     "nobody", "not serving"),
];

const NOW: Millis = Millis(60_000);
const SESSION: [u8; 16] = [7; 16];

fn observed(name: &str, condition: Condition) -> Observed {
    let address = ([127, 0, 0, 1], 9_000).into();
    Observed {
        condition,
        reversible_drain: true,
        ..Observed::ready(EndpointId::of_address(name, address), name, address)
    }
}

fn snapshot(list: &[(&str, Condition)]) -> Arc<Snapshot> {
    let list = list.iter().map(|(name, condition)| observed(name, *condition)).collect();
    Table::new().apply(Update::Replace(list), Millis(0)).snapshot
}

fn pair(it: Condition, other: Option<Condition>) -> Arc<Snapshot> {
    let other = other.map(|condition| ("other", condition));
    snapshot(&[("it", it)].into_iter().chain(other).collect::<Vec<_>>())
}

fn id(name: &str) -> EndpointId {
    observed(name, READY).id
}

/// A ring that knows no endpoint yet.
struct Empty;

impl Ring for Empty {
    fn first(&self, _: &[u8], _: &mut dyn FnMut(&EndpointId) -> bool) -> Option<EndpointId> {
        None
    }
}

fn request<'a>() -> PickRequest<'a> {
    PickRequest {
        pinned: None,
        session: &SESSION,
        strategy: Strategy::RoundRobin,
        stream_limit: Some(100),
        slow_start: None,
        zone: None,
        keep: None,
        exclude: &[],
        now: NOW,
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

/// The names of the endpoints that new clients are placed on.
fn placed(snapshot: &Snapshot, request: &PickRequest<'_>) -> BTreeSet<String> {
    let mut rng = seeded(1);
    let picks = (0..64).filter_map(|_| match pick(snapshot, request, &Empty, &mut rng) {
        Pick::Place(endpoint) => Some(endpoint.name.to_string()),
        Pick::Nowhere(_) => None,
        other => panic!("{other:?}"),
    });
    picks.collect()
}

fn new_client(snapshot: &Snapshot) -> New {
    let names = placed(snapshot, &request());
    match (names.contains("it"), names.contains("other")) {
        (true, true) => Either,
        (true, false) => It,
        (false, true) => Other,
        (false, false) => No,
    }
}

fn own_client(snapshot: &Snapshot) -> Own {
    let request = PickRequest { pinned: Some(id("it")), ..request() };
    match pick(snapshot, &request, &Empty, &mut |_| 0) {
        Pick::Stay(endpoint) if endpoint.id == id("it") => Stays,
        Pick::Move(endpoint, _) if endpoint.id == id("other") => Moves,
        Pick::Nowhere(Nowhere::NoEndpoint) => Refused,
        other => panic!("{other:?}"),
    }
}

#[test]
fn states_are_used_in_the_order_of_the_table() {
    for (it, columns) in TABLE {
        for (other, expected) in OTHERS.into_iter().zip(columns) {
            let snapshot = pair(it, other);
            assert_eq!((new_client(&snapshot), own_client(&snapshot)), expected, "{it:?} beside {other:?}");
        }
    }
}

#[test]
fn the_admin_api_says_what_the_table_says() {
    for (it, other, by, why) in SAID {
        let snapshot = pair(it, other);
        let usage = snapshot.usage(snapshot.get(&id("it")).unwrap(), None, NOW);
        assert_eq!((usage.by.as_str(), usage.why.as_str()), (by, why), "{it:?} beside {other:?}");
    }
    // What is said holds for every pair: `all` where new clients go, and `pinned` where only clients of its own do.
    for (it, columns) in TABLE {
        for (other, (new, own)) in OTHERS.into_iter().zip(columns) {
            let snapshot = pair(it, other);
            let usage = snapshot.usage(snapshot.get(&id("it")).unwrap(), None, NOW);
            let expected = match (new, own) {
                (It | Either, _) => "all",
                (_, Stays) => "pinned",
                _ => "nobody",
            };
            assert_eq!(usage.by.as_str(), expected, "{it:?} beside {other:?}");
        }
    }
}

#[test]
fn a_drain_that_keeps_pinned_clients_says_so_until_they_must_leave() {
    let keep = DrainTimes {
        spread: Duration::from_secs(20),
        timeout: Duration::from_secs(90),
        ..DrainTimes::default()
    };
    let snapshot = pair(LEAVING, Some(READY));
    let said = |now| {
        let usage = snapshot.usage(snapshot.get(&id("it")).unwrap(), Some(keep), Millis(now));
        (usage.by.as_str(), usage.why.as_str())
    };
    assert_eq!(said(69_999), ("pinned", "draining, and keeps pinned clients"));
    assert_eq!(said(70_000), ("nobody", "draining"));
}

fn fill(snapshot: &Snapshot, name: &str, streams: usize) -> Vec<Permit> {
    let load = &snapshot.get(&id(name)).unwrap().load;
    (0..streams).map(|_| load.try_open(None).unwrap()).collect()
}

fn eject(snapshot: &Snapshot, name: &str) {
    let policy = EjectionPolicy { failures: 1, ejection: Duration::from_secs(15) };
    assert!(snapshot.get(&id(name)).unwrap().load.failed(&policy, FailureSource::Endpoint, NOW));
}

#[test]
fn while_nobody_is_ready_the_endpoint_with_the_fewest_streams_stands_in_first() {
    let names = ["a", "b", "c", "d"];
    let snapshot = snapshot(&names.map(|name| (name, LEAVING)));
    let permits =
        [("a", 5), ("b", 1), ("c", 3), ("d", 1)].map(|(name, streams)| fill(&snapshot, name, streams));
    assert_eq!(placed(&snapshot, &request()), ["b", "d"].map(str::to_owned).into());
    let tried = [id("b"), id("d")];
    assert_eq!(placed(&snapshot, &PickRequest { exclude: &tried, ..request() }), ["c".to_owned()].into());
    drop(permits);
    assert_eq!(placed(&snapshot, &request()).len(), 4, "with equally many, any");
}

#[test]
fn endpoints_that_are_full_are_waited_for_whatever_else_terminates() {
    let snapshot = pair(READY, Some(LEAVING));
    let _permits = fill(&snapshot, "it", 100);
    let full = pick(&snapshot, &request(), &Empty, &mut |_| 0);
    assert!(matches!(full, Pick::Nowhere(Nowhere::Full)), "{full:?}");
}

#[test]
fn when_more_than_half_are_ejected_ejection_is_disregarded_in_every_line() {
    for condition in [READY, LEAVING, PUBLISHED] {
        let snapshot = snapshot(&["a", "b", "c", "d"].map(|name| (name, condition)));
        let said = |name: &str| snapshot.usage(snapshot.get(&id(name)).unwrap(), None, NOW);
        ["a", "b"].iter().for_each(|name| eject(&snapshot, name));
        assert_eq!(placed(&snapshot, &request()), ["c", "d"].map(str::to_owned).into(), "{condition:?}");
        assert_eq!((said("a").by.as_str(), said("a").why.as_str()), ("nobody", "ejected"));
        ["c", "d"].iter().for_each(|name| eject(&snapshot, name));
        assert_eq!(placed(&snapshot, &request()).len(), 4, "{condition:?}");
        assert_eq!(said("a").by.as_str(), "all");
        assert!(said("a").why.as_str().contains("disregarded"));
    }
}

#[test]
fn a_pin_never_leads_to_another_pod_at_the_same_address() {
    let address = ([10, 0, 0, 1], 8080).into();
    let of = |uid: &str| Observed { id: EndpointId::of_pod(uid, 8080), address, ..observed(uid, READY) };
    let mut table = Table::new();
    table.apply(Update::Replace(vec![of("first")]), Millis(0));
    let snapshot = table.apply(Update::Replace(vec![of("second")]), Millis(1)).snapshot;
    let request = PickRequest { pinned: Some(of("first").id), ..request() };
    match pick(&snapshot, &request, &Empty, &mut |_| 0) {
        Pick::Move(endpoint, MoveReason::Gone) => assert_eq!(&*endpoint.name, "second"),
        other => panic!("{other:?}"),
    }
}
