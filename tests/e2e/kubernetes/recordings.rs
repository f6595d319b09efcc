//! What a real control plane said, replayed: after every event the admin port lists what an independent model lists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use podpin_testkit::{ApiServer, Cut, Proxy, Recording, Setup, Step, wait_for};
use serde_json::Value;

/// uid, address with port, state.
type Line = (String, String, String);

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

    fn lines(&mut self) -> BTreeSet<Line> {
        let mut lines = BTreeSet::new();
        for slice in self.slices.values() {
            let ports = slice["ports"].as_array().into_iter().flatten();
            for port in ports.filter(|port| port["name"] == "http") {
                for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                    let uid = endpoint["targetRef"]["uid"].as_str().unwrap().to_owned();
                    let address = format!("{}:{}", endpoint["addresses"][0].as_str().unwrap(), port["port"]);
                    let said = |name: &str| endpoint["conditions"][name].as_bool();
                    // With `publishNotReadyAddresses` only `serving` tells; without it the two agree.
                    let unready = said("ready") == Some(false) || said("serving") == Some(false);
                    let state = match (said("terminating"), unready) {
                        (Some(true), _) => "draining",
                        (_, false) => "ready",
                        (_, true) => "resting",
                    };
                    if state == "draining" {
                        self.terminated.insert((uid.clone(), address.clone()));
                    }
                    let backwards = self.terminated.contains(&(uid.clone(), address.clone()));
                    lines.insert((uid, address, if backwards { "draining" } else { state }.to_owned()));
                }
            }
        }
        lines
    }
}

async fn listed(proxy: &Proxy) -> BTreeSet<Line> {
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let endpoints = proxy.endpoints("chat").await;
    endpoints.iter().map(|one| (text(one, "uid"), text(one, "address"), text(one, "state"))).collect()
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
        let expected = model.lines();
        let what = format!("{name}: the endpoints after step {index}");
        wait_for(&what, async || {
            let have = listed(&proxy).await;
            if have != expected { eprintln!("only {:?} / only expected {:?}", have.difference(&expected).collect::<Vec<_>>(), expected.difference(&have).collect::<Vec<_>>()); }
            have == expected
        })
        .await;
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
