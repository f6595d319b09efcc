//! Recordings of a real control plane, replayed: after every event the admin port lists what an independent model lists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use podpin_testkit::{ApiServer, Cut, Recording, Setup, Step, wait_for};
use serde_json::Value;

/// uid and state.
type Pod = (String, &'static str);

/// Rank of the entries of one pod: one that is not terminating, of the newest slice.
type EntryRank = (bool, u64);

/// Rank of the pods' claims to an address: by what can be done with the pod, and when its youngest slice was created.
type Rank = (u8, String);

/// The slices of the one service of a recording, and what they mean.
#[derive(Default)]
struct Model {
    slices: BTreeMap<String, Value>,
    terminated: BTreeSet<(String, String)>,
}

impl Model {
    fn follow(&mut self, step: &Step) {
        let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
        match step {
            Step::List(items) => {
                self.slices.extend(items.iter().map(|item| (name(item), item.clone())));
            }
            Step::Put(object) => drop(self.slices.insert(name(object), object.clone())),
            Step::Delete { name, .. } => drop(self.slices.remove(name)),
            Step::Bookmark | Step::Expired => {}
        }
    }

    /// By address, who may be there. More than one only where a slice lists a pod and its successor under one address
    /// and nothing tells which is which (a real controller does that for some milliseconds).
    fn pods(&mut self) -> BTreeMap<String, BTreeSet<Pod>> {
        let mut of_pods: BTreeMap<(String, String), (EntryRank, &'static str, Rank)> = BTreeMap::new();
        for (slice, port, endpoint) in self.slices.values().flat_map(entries) {
            let uid = endpoint["targetRef"]["uid"].as_str().unwrap().to_owned();
            let address = format!("{}:{port}", endpoint["addresses"][0].as_str().unwrap());
            let said = |name: &str| endpoint["conditions"][name].as_bool();
            // With `publishNotReadyAddresses` only `serving` tells; without it the two agree.
            let unready = said("ready") == Some(false) || said("serving") == Some(false);
            if said("terminating") == Some(true) {
                self.terminated.insert((uid.clone(), address.clone()));
            }
            let state = match (self.terminated.contains(&(uid.clone(), address.clone())), unready) {
                (true, _) => "draining",
                (false, false) => "ready",
                (false, true) => "resting",
            };
            let version = slice["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            let rank = (state != "draining", version);
            let created = slice["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
            let usability = match (said("ready"), said("serving"), said("terminating")) {
                (_, Some(true), Some(true)) => 4,
                (_, _, Some(true)) => 0,
                (Some(true) | None, Some(true) | None, _) => 5,
                (Some(true), Some(false), _) => 3,
                (_, Some(true), _) => 2,
                _ => 1,
            };
            let held =
                of_pods.entry((address, uid)).or_insert_with(|| (rank, state, (usability, created.clone())));
            let created = created.max(held.2.1.clone());
            if rank > held.0 {
                *held = (rank, state, (usability, created));
            } else {
                held.2.1 = created;
            }
        }
        let mut best: BTreeMap<String, (Rank, BTreeSet<Pod>)> = BTreeMap::new();
        for ((address, uid), (_, state, rank)) in of_pods {
            let held = best.entry(address).or_insert_with(|| (rank.clone(), BTreeSet::new()));
            if rank > held.0 {
                *held = (rank.clone(), BTreeSet::new());
            }
            if rank == held.0 {
                held.1.insert((uid, state));
            }
        }
        best.into_iter().map(|(address, (_, pods))| (address, pods)).collect()
    }
}

/// The endpoints of a slice with the number of the port `http`, and the slice.
fn entries(slice: &Value) -> impl Iterator<Item = (&Value, u64, &Value)> {
    let ports = slice["ports"].as_array().into_iter().flatten();
    let port = ports.filter(|port| port["name"] == "http").find_map(|port| port["port"].as_u64());
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    port.into_iter().flat_map(move |port| endpoints.clone().map(move |endpoint| (slice, port, endpoint)))
}

/// Whether one pod that may be there is listed for each address, and nothing else.
fn agree(listed: &[Value], expected: &BTreeMap<String, BTreeSet<Pod>>) -> bool {
    let mut missing: BTreeSet<&str> = expected.keys().map(String::as_str).collect();
    let fits = |one: &Value| {
        let [uid, address, state] =
            ["uid", "address", "state"].map(|key| one[key].as_str().unwrap_or_default());
        let is_one = |pods: &BTreeSet<Pod>| pods.iter().any(|(a, b)| a == uid && *b == state);
        missing.remove(address) && expected.get(address).is_some_and(is_one)
    };
    listed.iter().all(fits) && missing.is_empty()
}

fn recording(name: &str) -> Recording {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/podpin-discovery/tests/fixtures");
    let nested: PathBuf = fixtures.join("endpointslices").join(name);
    Recording::read(&if nested.exists() { nested } else { fixtures.join(name) })
}

/// Replays a recording; `disturb` may act on the API server before each step.
async fn replayed(name: &str, service: &str, mut disturb: impl FnMut(usize, &ApiServer)) {
    let api = ApiServer::start().await;
    let kubeconfig = api.kubeconfig();
    let discovery = format!("{{kubernetes: {{namespace: lab, service: {service}, port: http}}}}");
    let proxy = Setup::new().service_from("chat", &discovery).top(&kubeconfig.setting()).start().await;
    let mut model = Model::default();
    let recording = recording(name);
    for (index, step) in recording.steps.iter().enumerate() {
        disturb(index, &api);
        api.replay(step);
        model.follow(step);
        let expected = model.pods();
        let what = format!("{name}: the endpoints after step {index} to be {expected:?}");
        wait_for(&what, async || agree(&proxy.endpoints("chat").await, &expected)).await;
    }
    assert!(recording.steps.len() > 2, "{name} says nothing");
}

async fn replayed_as_it_was(name: &str, service: &str) {
    replayed(name, service, |_, _| {}).await;
}

#[tokio::test]
async fn a_birth_is_followed() {
    replayed_as_it_was("create.jsonl", "web").await;
}

#[tokio::test]
async fn a_rolling_update_is_followed() {
    replayed_as_it_was("rolling-update.jsonl", "web").await;
}

#[tokio::test]
async fn a_rolling_update_is_followed_through_an_expired_version_before_every_event() {
    let expire = |_, api: &ApiServer| api.cut_watches(Cut::Expired);
    replayed("rolling-update.jsonl", "web", expire).await;
}

#[tokio::test]
async fn a_rolling_update_is_followed_through_watches_that_end_again_and_again() {
    let ways = [Cut::Clean, Cut::Fin, Cut::HalfLine, Cut::Reset];
    replayed("rolling-update.jsonl", "web", |index, api| api.cut_watches(ways[index % 4])).await;
}

#[tokio::test]
async fn deletions_with_and_without_grace_are_followed() {
    replayed_as_it_was("delete-graceful.jsonl", "web").await;
    replayed_as_it_was("force-delete.jsonl", "web").await;
}

#[tokio::test]
async fn a_crash_and_a_dead_node_are_followed() {
    replayed_as_it_was("crash-unready.jsonl", "web").await;
    replayed_as_it_was("node-dead.jsonl", "zoned").await;
}

#[tokio::test]
async fn scaling_is_followed() {
    replayed_as_it_was("scale-up-1-3.jsonl", "web").await;
    replayed_as_it_was("scale-zero-and-back.jsonl", "web").await;
}

#[tokio::test]
async fn changes_of_ports_selectors_and_the_service_itself_are_followed() {
    for name in ["port-change.jsonl", "selector-change.jsonl", "service-delete.jsonl"] {
        replayed_as_it_was(name, "web").await;
    }
    replayed_as_it_was("dual-ports.jsonl", "dual").await;
    replayed_as_it_was("zones-hints.jsonl", "zoned").await;
}

#[tokio::test]
async fn slices_that_split_are_followed() {
    replayed_as_it_was("slice-split.jsonl.gz", "big").await;
}

#[tokio::test]
async fn a_rollout_of_a_hundred_and_thirty_pods_is_followed() {
    replayed_as_it_was("slice-roll.jsonl.gz", "big").await;
}
