//! Recordings of a real API server, replayed through the merging of slices and an endpoint table, and compared after
//! every event with a model that is written another way.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that finds something else than it expects may panic anywhere"
)]

#[path = "replay/model.rs"]
mod model;
#[path = "replay/recording.rs"]
mod recording;

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use podpin_config::IpFamily;
use podpin_discovery::{PortRef, observe};
use podpin_endpoints::{Applied, EndpointId, Phase, Table, Update};
use podpin_time::Millis;
use proptest::prelude::*;
use serde_json::Value;

use model::Model;
use recording::{Recording, Step, all};

/// The code under test: the slices by name, merged into a table after every step.
#[derive(Default)]
struct Tested {
    slices: BTreeMap<String, EndpointSlice>,
    table: Table,
    now: u64,
    /// The furthest phase of each identity so far: for pods it only goes on.
    drained: BTreeMap<EndpointId, Phase>,
}

impl Tested {
    fn put(&mut self, object: &Value) {
        let slice: EndpointSlice = serde_json::from_value(object.clone()).unwrap();
        self.slices.insert(slice.metadata.name.clone().unwrap(), slice);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::List(items) => {
                self.slices.clear();
                items.iter().for_each(|item| self.put(item));
            }
            Step::Put(object) => self.put(object),
            Step::Delete(name) => drop(self.slices.remove(name)),
        }
    }

    /// Merges the slices, in any order, and applies the result.
    fn apply(&mut self, port: &PortRef, order: impl FnOnce(&mut Vec<EndpointSlice>)) -> Applied {
        let mut slices: Vec<EndpointSlice> = self.slices.values().cloned().collect();
        order(&mut slices);
        let merged = observe(slices.iter(), port, IpFamily::default());
        assert_eq!(merged.malformed, 0);
        self.now += 1;
        let applied = self.table.apply(Update::Replace(merged.observed), Millis(self.now));
        for endpoint in applied.snapshot.endpoints() {
            let furthest = self.drained.entry(endpoint.id).or_insert(endpoint.phase);
            assert!(
                *furthest != Phase::Draining || endpoint.phase == Phase::Draining,
                "backwards: {endpoint:?}"
            );
            *furthest = endpoint.phase;
        }
        applied
    }
}

/// "name address phase serving zone node hints" of each endpoint, sorted.
fn lines(applied: &Applied) -> Vec<String> {
    let line = |one: &std::sync::Arc<podpin_endpoints::Endpoint>| {
        let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().unwrap_or("-").to_owned();
        let hints = one.zone_hints.as_deref().map(|hints| hints.join(","));
        format!(
            "{} {} {} {} {} {} {} {}",
            one.name,
            text(&one.uid),
            one.address,
            one.phase.as_str(),
            one.serving,
            text(&one.zone),
            text(&one.node),
            hints.unwrap_or_default()
        )
    };
    let mut lines: Vec<String> = applied.snapshot.endpoints().iter().map(line).collect();
    lines.sort();
    lines
}

fn ports_of(recording: &Recording) -> Vec<PortRef> {
    let mut ports = vec![PortRef::Name("http".into())];
    if recording.name.starts_with("slice-") {
        // Long enough with one.
        return ports;
    }
    ports.push(PortRef::Number(8080));
    if recording.name.starts_with("dual-ports") {
        ports.extend([PortRef::Name("admin".into()), PortRef::Number(8081), PortRef::Number(9090)]);
    }
    ports
}

#[test]
fn every_recording_gives_the_endpoints_of_the_model_after_every_event() {
    let mut events = 0;
    for recording in all() {
        for port in ports_of(recording) {
            let (mut tested, mut model) = (Tested::default(), Model::new(&port));
            for (index, step) in recording.steps.iter().enumerate() {
                tested.step(step);
                model.step(step);
                let applied = tested.apply(&port, |_| {});
                assert_eq!(lines(&applied), model.lines(), "{} step {index} {port:?}", recording.name);
                assert_eq!(applied.refused.len(), 0, "{} step {index}", recording.name);
                events += 1;
            }
        }
    }
    assert!(events > 300, "only {events} events");
}

#[test]
fn a_rolling_update_never_shows_a_pod_twice_and_drains_every_old_one() {
    let rolling = called("rolling-update");
    let mut tested = Tested::default();
    let mut draining = std::collections::BTreeSet::new();
    for step in &rolling.steps {
        tested.step(step);
        let applied = tested.apply(&PortRef::Name("http".into()), |_| {});
        for step in &applied.transitions {
            match step.to {
                Phase::Draining => drop(draining.insert(step.endpoint.name.to_string())),
                Phase::Gone => {
                    assert!(draining.contains(&*step.endpoint.name), "gone without draining: {step:?}")
                }
                Phase::Ready | Phase::NotReady => {}
            }
        }
    }
    assert_eq!(draining.len(), 3);
}

/// Recordings that are quick enough to be run hundreds of times.
const SHORT: [&str; 9] = [
    "rolling-update",
    "scale-zero-and-back",
    "dual-ports",
    "zones-hints",
    "service-delete",
    "port-change",
    "force-delete",
    "crash-unready",
    "node-dead",
];

fn called(name: &str) -> &'static Recording {
    all().iter().find(|one| one.name == name).unwrap_or_else(|| panic!("no recording {name}"))
}

/// How a run differs from the recording.
#[derive(Clone, Debug)]
enum Trick {
    /// The event comes twice.
    Twice,
    /// The watch is lost before it, and a list is read instead of this event and those before it.
    Relist,
    /// Slices and the endpoints in them come in another order.
    Shuffle(u64),
}

fn tricks() -> impl Strategy<Value = Vec<(prop::sample::Index, Trick)>> {
    let trick = prop_oneof![Just(Trick::Twice), Just(Trick::Relist), any::<u64>().prop_map(Trick::Shuffle)];
    prop::collection::vec((any::<prop::sample::Index>(), trick), 0..24)
}

/// Fisher and Yates, with SplitMix64.
fn shuffle<T>(list: &mut [T], mut state: u64) {
    for last in (1..list.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        list.swap(last, usize::try_from(mixed >> 33).unwrap() % (last + 1));
    }
}

fn shuffled(slices: &mut [EndpointSlice], seed: u64) {
    shuffle(slices, seed);
    for (slice, seed) in slices.iter_mut().zip(seed..) {
        shuffle(&mut slice.endpoints, seed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn order_duplicates_and_lost_watches_change_nothing_in_the_end(
        which in any::<prop::sample::Index>(), tricks in tricks()
    ) {
        let recording = called(which.get::<&str>(&SHORT));
        let port = PortRef::Name("http".into());
        let (mut tested, mut model) = (Tested::default(), Model::new(&port));
        for (index, step) in recording.steps.iter().enumerate() {
            model.step(step);
            let here = tricks.iter().filter(|(at, _)| at.index(recording.steps.len()) == index);
            let here: Vec<&Trick> = here.map(|(_, trick)| trick).collect();
            let seed = here.iter().find_map(|trick| match trick {
                Trick::Shuffle(seed) => Some(*seed),
                Trick::Twice | Trick::Relist => None,
            });
            if here.iter().any(|trick| matches!(trick, Trick::Relist)) {
                tested.step(&Step::List(model.objects()));
            } else {
                tested.step(step);
            }
            if here.iter().any(|trick| matches!(trick, Trick::Twice)) {
                tested.apply(&port, |_| {});
                tested.step(step);
            }
            let applied = tested.apply(&port, |slices| {
                if let Some(seed) = seed {
                    shuffled(slices, seed);
                }
            });
            prop_assert_eq!(lines(&applied), model.lines(), "{} step {}", recording.name, index);
        }
    }

    #[test]
    fn events_that_are_lost_with_a_watch_do_not_matter_after_a_list(
        which in any::<prop::sample::Index>(), lost in prop::collection::vec(any::<prop::sample::Index>(), 1..12)
    ) {
        let recording = called(which.get::<&str>(&SHORT));
        let port = PortRef::Name("http".into());
        let (mut tested, mut model) = (Tested::default(), Model::new(&port));
        let lost: Vec<usize> = lost.iter().map(|at| at.index(recording.steps.len())).collect();
        for (index, step) in recording.steps.iter().enumerate() {
            model.step(step);
            let last = index + 1 == recording.steps.len();
            if lost.contains(&index) && !last {
                continue;
            }
            if last || (index > 0 && lost.contains(&(index - 1))) {
                tested.step(&Step::List(model.objects()));
            } else {
                tested.step(step);
            }
            let applied = tested.apply(&port, |_| {});
            prop_assert_eq!(lines(&applied), model.lines(), "{} step {}", recording.name, index);
        }
    }
}
