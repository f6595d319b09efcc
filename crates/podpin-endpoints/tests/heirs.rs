//! Heirs of endpoints that leave: the rule by tables, and the law that replicas agree on them.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics is a test that fails")]

use std::time::Duration;

use podpin_endpoints::{
    Condition, DrainTimes, EndpointId, HeirPolicy, MoveReason, Observed, Pick, PickRequest, Ring, Snapshot,
    Strategy as Balance, Table, Update, pick,
};
use podpin_time::Millis;
use proptest::prelude::*;

const LIFETIME: Duration = Duration::from_secs(3_600);
const READY: Condition = Condition::Ready;
const NOT_READY: Condition = Condition::NotReady { serving: false };
const DRAINING: Condition = Condition::Draining { serving: true };

/// Drains of 30 s, of which streams need 20.
const TIMES: DrainTimes =
    DrainTimes { spread: Duration::from_secs(20), timeout: Duration::from_secs(30), margin: Duration::ZERO };

fn policy(namesakes: bool) -> HeirPolicy {
    HeirPolicy { lifetime: LIFETIME, namesakes, times: TIMES }
}

/// A table that chooses heirs, and the moment of its last update.
struct World {
    table: Table,
    now: u64,
}

/// Returns pod `a-1` for `a1`: pod a of generation 1. Without a digit (`db`) it has no generation.
fn observed(name: &str, condition: Condition) -> Observed {
    let address = ([10, 0, 0, 1], 80).into();
    let generation = name.contains(|c: char| c.is_ascii_digit()).then(|| name[1..].into());
    Observed { generation, condition, ..Observed::ready(id(name), name, address) }
}

fn id(name: &str) -> EndpointId {
    EndpointId::of_pod(name, 80)
}

impl World {
    /// Begins with a list of ready pods.
    fn new(ready: &[&str]) -> World {
        let mut table = Table::new();
        table.keep_heirs(Some(policy(true)));
        let list = ready.iter().map(|name| observed(name, READY)).collect();
        table.apply(Update::Replace(list), Millis(1));
        World { table, now: 1 }
    }

    fn say(&mut self, names: &[&str], condition: Condition) {
        self.now += 1;
        let list = names.iter().map(|name| observed(name, condition)).collect();
        self.table.apply(Update::Upsert(list), Millis(self.now));
    }

    fn remove(&mut self, names: &[&str]) {
        self.now += 1;
        self.table.apply(Update::Remove(names.iter().map(|name| id(name)).collect()), Millis(self.now));
    }

    /// Returns the name of the heir among `names`; `None` if there is no heir.
    fn heir<'n>(&self, left: &str, names: &[&'n str]) -> Option<&'n str> {
        let heir = *self.table.snapshot().heir(&id(left))?;
        Some(names.iter().copied().find(|name| id(name) == heir).unwrap())
    }

    /// Returns where a client goes that is pinned to `pin`.
    fn pick(&self, pin: &str, exclude: &[EndpointId]) -> Pick {
        pick(&self.table.snapshot(), &request(id(pin), exclude, self.now), &Never, &mut |_| 0)
    }

    fn goes_to(&self, pin: &str) -> EndpointId {
        match self.pick(pin, &[]) {
            Pick::Stay(endpoint) | Pick::Place(endpoint) | Pick::Move(endpoint, _) => endpoint.id,
            Pick::Nowhere(why) => panic!("{why:?}"),
        }
    }
}

fn request(pin: EndpointId, exclude: &[EndpointId], now: u64) -> PickRequest<'_> {
    PickRequest {
        pinned: Some(pin),
        session: &[7; 16],
        strategy: Balance::LeastStreams,
        stream_limit: Some(1),
        slow_start: None,
        zone: None,
        keep: None,
        exclude,
        now: Millis(now),
    }
}

/// A ring without endpoints.
struct Never;

impl Ring for Never {
    fn first(&self, _: &[u8], _: &mut dyn FnMut(&EndpointId) -> bool) -> Option<EndpointId> {
        None
    }
}

#[test]
fn an_endpoint_that_drains_leaves_its_sessions_to_one_of_a_newer_generation() {
    let mut world = World::new(&["a1", "b1"]);
    world.say(&["c2"], READY);
    world.say(&["a1"], DRAINING);
    assert_eq!(world.heir("a1", &["c2"]), Some("c2"));
    assert!(matches!(world.pick("a1", &[]), Pick::Move(to, MoveReason::Draining) if to.id == id("c2")));
    world.remove(&["a1"]);
    assert!(matches!(world.pick("a1", &[]), Pick::Move(to, MoveReason::Gone) if to.id == id("c2")));
    assert!(matches!(world.pick("b1", &[]), Pick::Stay(_)));
}

#[test]
fn the_heir_is_the_one_with_the_fewest_inheritances() {
    let mut world = World::new(&["a1", "b1", "c1", "d1"]);
    world.say(&["e2", "f2"], READY);
    world.say(&["a1", "b1", "c1", "d1"], DRAINING);
    let heirs = ["a1", "b1", "c1", "d1"].map(|left| world.heir(left, &["e2", "f2"]).unwrap());
    assert_eq!(heirs.iter().filter(|heir| **heir == "e2").count(), 2, "{heirs:?}");
    assert_ne!(heirs[0], heirs[1]);
}

#[test]
fn endpoints_of_the_same_an_older_or_no_generation_do_not_inherit() {
    let mut world = World::new(&["a1", "b1", "c2", "db"]);
    world.say(&["d1"], READY);
    for left in ["a1", "c2"] {
        world.say(&[left], DRAINING);
    }
    assert_eq!(world.heir("a1", &[]), None, "the others were listed with it");
    assert_eq!(world.heir("c2", &["d1"]), Some("d1"), "a rollout that is rolled back");
}

#[test]
fn an_endpoint_that_drains_alone_awaits_its_heir_until_it_is_gone() {
    let mut world = World::new(&["a1", "b1", "c1"]);
    world.say(&["a1", "b1"], DRAINING);
    world.remove(&["b1"]);
    world.say(&["d2"], READY);
    assert_eq!(world.heir("a1", &["d2"]), Some("d2"));
    assert_eq!(world.heir("b1", &["d2"]), None, "its sessions are where the ring has sent them");
}

/// Returns for how many seconds from now the sessions of `left` stay where they are.
fn held(world: &World, left: &str) -> Option<u64> {
    let now = Millis(world.now);
    Some(world.table.snapshot().held_until(&id(left), now)?.0.saturating_sub(world.now) / 1_000)
}

#[test]
fn sessions_stay_while_a_successor_of_their_own_is_listed_and_not_ready_yet() {
    let mut world = World::new(&["a1", "b1", "z1"]);
    world.say(&["a1", "b1"], DRAINING);
    assert_eq!(["a1", "b1", "z1"].map(|left| held(&world, left)), [Some(3), Some(3), None], "none is listed");
    world.say(&["c2", "d2"], NOT_READY);
    assert_eq!(["a1", "b1"].map(|left| held(&world, left)), [Some(9); 2], "20 s before the deadline");
    assert!(matches!(world.pick("a1", &[]), Pick::Stay(_)));
    world.say(&["d2"], READY);
    let names = ["c2", "d2"];
    assert_eq!(["a1", "b1"].map(|left| world.heir(left, &names)), [Some("d2"), None], "one for each");
    assert_eq!(["a1", "b1"].map(|left| held(&world, left)), [None, Some(9)]);
    assert!(
        matches!(world.pick("a1", &[]), Pick::Move(..)) && matches!(world.pick("b1", &[]), Pick::Stay(_))
    );
    world.say(&["c2"], READY);
    assert_eq!((world.heir("b1", &names), held(&world, "b1")), (Some("c2"), None));
}

#[test]
fn sessions_wait_for_no_longer_than_lets_them_leave_evenly() {
    let mut world = World::new(&["a1", "z1"]);
    world.say(&["b2"], NOT_READY);
    world.say(&["a1"], DRAINING);
    world.now += 9_999;
    assert!(matches!(world.pick("a1", &[]), Pick::Stay(_)));
    world.now += 1;
    assert!(matches!(world.pick("a1", &[]), Pick::Move(to, MoveReason::Draining) if to.id == id("z1")));
    // An endpoint that does not serve is not waited at.
    let mut world = World::new(&["a1", "z1"]);
    world.say(&["b2"], NOT_READY);
    world.say(&["a1"], Condition::Draining { serving: false });
    assert!(held(&world, "a1").is_some(), "streams may flow on");
    assert!(matches!(world.pick("a1", &[]), Pick::Move(..)));
}

#[test]
fn an_endpoint_that_drained_when_it_was_listed_first_waits_for_no_listing() {
    let mut world = World::new(&["a1"]);
    world.say(&["b1"], DRAINING);
    assert_eq!(held(&world, "b1"), None, "its replacement would be there");
    world.say(&["c2"], NOT_READY);
    assert_eq!(held(&world, "b1"), Some(9));
}

#[test]
fn an_heir_that_is_shared_is_given_up_for_one_that_is_listed_and_one_of_an_operator_is_not() {
    let mut world = World::new(&["a1", "b1", "z1"]);
    world.say(&["c2"], READY);
    world.say(&["a1"], DRAINING);
    world.say(&["b1"], DRAINING);
    assert_eq!(
        (world.heir("b1", &["c2"]), held(&world, "a1"), held(&world, "b1")),
        (Some("c2"), None, Some(3))
    );
    world.say(&["d2"], NOT_READY);
    assert_eq!((world.heir("b1", &[]), held(&world, "b1")), (None, Some(9)));
    world.table.drain(&id("z1"), Millis(world.now));
    assert_eq!((world.heir("z1", &["c2"]), held(&world, "z1")), (Some("c2"), None));
    world.remove(&["d2"]);
    assert_eq!(world.heir("b1", &["c2"]), Some("c2"), "what was promised does not come");
}

#[test]
fn while_nobody_is_ready_heirs_are_awaited_one_for_each() {
    let mut world = World::new(&["a1", "b1", "c1"]);
    world.say(&["a1", "b1", "c1"], DRAINING);
    world.remove(&["a1", "b1", "c1"]);
    world.say(&["d2"], READY);
    let names = ["d2", "e2"];
    assert_eq!(["a1", "b1", "c1"].map(|left| world.heir(left, &names)), [Some("d2"), None, None]);
    world.say(&["e2"], READY);
    assert_eq!(["a1", "b1", "c1"].map(|left| world.heir(left, &names)), [Some("d2"), Some("e2"), None]);
}

#[test]
fn an_heir_that_leaves_has_an_heir_of_its_own() {
    let mut world = World::new(&["a1", "z1"]);
    for (new, old) in [("b2", "a1"), ("c3", "b2"), ("d4", "c3")] {
        world.say(&[new], READY);
        world.say(&[old], DRAINING);
        world.remove(&[old]);
        assert_eq!(world.goes_to("a1"), id(new));
    }
    assert_eq!(world.goes_to("c3"), id("d4"));
}

#[test]
fn an_heir_that_is_full_or_failed_is_passed_over() {
    let mut world = World::new(&["a1", "b1"]);
    world.say(&["c2"], READY);
    world.say(&["a1"], DRAINING);
    let tried = [id("c2")];
    assert!(matches!(world.pick("a1", &tried), Pick::Move(to, _) if to.id == id("b1")));
    let _full = world.table.snapshot().get(&id("c2")).unwrap().load.try_open(None);
    assert_eq!(world.goes_to("a1"), id("b1"));
    world.say(&["c2"], NOT_READY);
    assert_eq!(world.goes_to("a1"), id("b1"));
}

#[test]
fn an_operator_who_takes_a_drain_back_takes_the_inheritance_back() {
    let mut world = World::new(&["a1", "b1"]);
    world.say(&["c2", "d2"], READY);
    world.table.drain(&id("a1"), Millis(8));
    let first = world.heir("a1", &["c2", "d2"]).unwrap();
    world.table.undrain(&id("a1"), Millis(9));
    assert_eq!(world.heir("a1", &[]), None);
    assert_eq!(world.goes_to("a1"), id("a1"));
    world.say(&["b1"], DRAINING);
    assert_eq!(world.heir("b1", &["c2", "d2"]), Some(first), "it has inherited nothing");
}

#[test]
fn an_endpoint_that_is_back_has_no_heir_any_more() {
    let mut world = World::new(&["a1", "b1"]);
    world.say(&["c2"], READY);
    world.remove(&["a1"]);
    assert_eq!(world.heir("a1", &["c2"]), Some("c2"));
    world.say(&["a1"], READY);
    assert_eq!((world.heir("a1", &[]), world.goes_to("a1")), (None, id("a1")));
}

#[test]
fn one_that_inherited_nothing_takes_over_what_another_inherited_last() {
    // One of another generation that was listed with those that leave is no successor.
    let mut world = World::new(&["a1", "b1", "z0"]);
    world.say(&["c2"], READY);
    world.say(&["a1"], DRAINING);
    world.say(&["b1"], DRAINING);
    let names = ["c2", "d2"];
    assert_eq!(["a1", "b1"].map(|left| world.heir(left, &names)), [Some("c2"); 2]);
    world.say(&["d2"], READY);
    assert_eq!(["a1", "b1"].map(|left| world.heir(left, &names)), [Some("c2"), Some("d2")]);
}

#[test]
fn sessions_that_have_settled_are_not_taken_over() {
    let mut world = World::new(&["a1", "b1", "z1"]);
    world.say(&["c2"], READY);
    world.say(&["a1", "b1"], DRAINING);
    world.remove(&["a1", "b1"]);
    world.say(&["d2"], READY);
    assert_eq!(["a1", "b1"].map(|left| world.heir(left, &["c2", "d2"])), [Some("c2"); 2]);
}

#[test]
fn a_pod_that_was_never_ready_leaves_nothing() {
    let mut world = World::new(&["a1"]);
    world.say(&["b2"], NOT_READY);
    world.say(&["c3"], READY);
    world.say(&["b2"], DRAINING);
    assert_eq!(world.heir("b2", &[]), None);
}

#[test]
fn an_endpoint_without_a_generation_is_succeeded_by_its_namesake_where_streams_can_wait() {
    for namesakes in [true, false] {
        let mut world = World::new(&["a1"]);
        world.table.keep_heirs(Some(policy(namesakes)));
        let namesake = |uid: &str, name: &str| Observed { id: id(uid), ..observed(name, READY) };
        let list = vec![namesake("old", "db"), namesake("other", "dc")];
        world.table.apply(Update::Upsert(list), Millis(2));
        world.now = 2;
        world.remove(&["old"]);
        assert_eq!(world.heir("old", &[]), None);
        world.table.apply(Update::Upsert(vec![namesake("new", "db")]), Millis(4));
        assert_eq!(world.heir("old", &["new"]), namesakes.then_some("new"));
        if namesakes {
            assert_eq!(world.goes_to("old"), id("new"));
        }
    }
}

#[test]
fn heirs_are_forgotten_after_their_lifetime_and_when_none_are_kept() {
    let mut world = World::new(&["a1", "b1"]);
    world.say(&["c2"], READY);
    world.remove(&["a1"]);
    world.now += 3_599_999;
    world.say(&["d2"], READY);
    assert_eq!(world.heir("a1", &["c2"]), Some("c2"));
    world.say(&["d2"], NOT_READY);
    assert_eq!(world.heir("a1", &[]), None);
    world.remove(&["b1"]);
    assert_eq!(world.heir("b1", &["c2"]), Some("c2"));
    world.table.keep_heirs(None);
    world.say(&["e2"], READY);
    assert_eq!(world.heir("b1", &[]), None);
}

#[test]
fn the_number_of_heirs_is_bounded() {
    let mut world = World::new(&["z1"]);
    world.say(&["z2"], READY);
    let names: Vec<String> = (0..9_000).map(|number| format!("p{number}")).collect();
    for names in names.chunks(3_000) {
        let old: Vec<Observed> = names
            .iter()
            .map(|name| Observed { generation: Some("1".into()), ..observed(name, DRAINING) })
            .collect();
        let ids: Vec<EndpointId> = old.iter().map(|one| one.id).collect();
        // Listed before an heir, so that there is one for each.
        world.table.apply(Update::Upsert(old), Millis(10));
        let heir = Observed { generation: Some("3".into()), ..observed(&format!("h{}", names[0]), READY) };
        world.table.apply(Update::Upsert(vec![heir]), Millis(11));
        world.table.apply(Update::Remove(ids), Millis(12));
    }
    let snapshot = world.table.snapshot();
    assert_eq!(names.iter().filter(|name| snapshot.heir(&id(name)).is_some()).count(), 8_192);
    assert!(snapshot.heir(&id(&names[0])).is_none() && snapshot.heir(&id(&names[8_999])).is_some());
}

/// An event of discovery about one of twelve pods of three generations.
#[derive(Clone, Debug)]
enum Event {
    Say(usize, Condition),
    Remove(usize),
}

fn pod(number: usize) -> String {
    format!("{}{}", ["a", "b", "c", "d"][number % 4], number / 4)
}

fn event() -> impl Strategy<Value = Event> {
    let condition = prop_oneof![4 => Just(READY), 1 => Just(NOT_READY), 3 => Just(DRAINING)];
    prop_oneof![
        5 => (0_usize..12, condition).prop_map(|(pod, condition)| Event::Say(pod, condition)),
        2 => (0_usize..12).prop_map(Event::Remove),
    ]
}

impl Event {
    fn update(&self) -> Update {
        match self {
            Event::Say(number, condition) => Update::Upsert(vec![observed(&pod(*number), *condition)]),
            Event::Remove(number) => Update::Remove(vec![id(&pod(*number))]),
        }
    }
}

/// Returns a table after these events, at these moments.
fn told(events: &[Event], moments: impl Iterator<Item = u64>) -> Table {
    let mut table = Table::new();
    table.keep_heirs(Some(policy(true)));
    table.apply(Update::Replace(Vec::new()), Millis(0));
    for (event, moment) in events.iter().zip(moments) {
        table.apply(event.update(), Millis(moment));
    }
    table
}

fn heirs(snapshot: &Snapshot) -> Vec<Option<EndpointId>> {
    (0..12).map(|number| snapshot.heir(&id(&pod(number))).copied()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_024, ..ProptestConfig::default() })]

    #[test]
    fn replicas_that_hear_the_same_events_at_other_moments_choose_the_same_heirs(
        events in prop::collection::vec(event(), 1..60),
        pauses in prop::collection::vec(0_u64..30_000, 60),
    ) {
        let late = pauses.iter().scan(0, |now, pause| {
            *now += pause;
            Some(*now)
        });
        let (one, other) = (told(&events, 1..), told(&events, late));
        prop_assert_eq!(heirs(&one.snapshot()), heirs(&other.snapshot()));
    }

    #[test]
    fn every_chain_of_heirs_ends(events in prop::collection::vec(event(), 1..80)) {
        let snapshot = told(&events, 1..).snapshot();
        for number in 0..12 {
            let mut at = id(&pod(number));
            let mut hops = 0;
            while let Some(heir) = snapshot.heir(&at) {
                at = *heir;
                hops += 1;
                prop_assert!(hops < 12, "a circle");
            }
        }
    }

    #[test]
    fn an_endpoint_that_has_not_left_has_no_heir(events in prop::collection::vec(event(), 1..60)) {
        let snapshot = told(&events, 1..).snapshot();
        for endpoint in snapshot.endpoints() {
            let leaves = endpoint.phase == podpin_endpoints::Phase::Draining;
            prop_assert!(leaves || snapshot.heir(&endpoint.id).is_none());
        }
    }
}
