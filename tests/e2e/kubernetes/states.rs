//! Ready, resting, draining, gone: as clients feel them and as the admin port shows them.

use std::time::{Duration, Instant};

use podpin_testkit::{Proxy, Request, SlicePod, wait_for_some};
use serde_json::Value;

use super::Cluster;

async fn three() -> (Cluster, Proxy) {
    let cluster = Cluster::ready(&["pod-a", "pod-b", "pod-c"]).await;
    let proxy = cluster.setup().start().await;
    (cluster, proxy)
}

async fn new_clients_go_to(proxy: &Proxy, allowed: &[&str]) {
    for _ in 0..30 {
        let pod = proxy.get("/who").await.text();
        assert!(allowed.contains(&pod.as_str()), "a new client came to {pod}");
    }
}

#[tokio::test]
async fn a_resting_pod_that_serves_keeps_its_clients_and_gets_no_new_ones() {
    let (cluster, proxy) = three().await;
    let mut pinned = proxy.pinned_to("pod-a").await;
    let resting = cluster.pod(0).conditions([Some(false), Some(true), Some(false)]);
    cluster.api.put(&cluster.all_but(0, resting));
    proxy.wait_endpoints("chat", &[("pod-a", "resting"), ("pod-b", "ready"), ("pod-c", "ready")]).await;
    assert_eq!(pinned.get("/who").await.text(), "pod-a");
    new_clients_go_to(&proxy, &["pod-b", "pod-c"]).await;
    cluster.api.put(&cluster.chat().pods(cluster.all()));
    proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready"), ("pod-c", "ready")]).await;
    assert_eq!(pinned.get("/who").await.text(), "pod-a");
}

#[tokio::test]
async fn a_pod_that_lost_its_readiness_moves_its_clients() {
    let (cluster, proxy) = three().await;
    let mut pinned = proxy.pinned_to("pod-a").await;
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).unready()));
    proxy.wait_endpoints("chat", &[("pod-a", "resting"), ("pod-b", "ready"), ("pod-c", "ready")]).await;
    assert_ne!(pinned.get("/who").await.text(), "pod-a");
    new_clients_go_to(&proxy, &["pod-b", "pod-c"]).await;
    proxy.wait_metric("podpin_affinity_repins_total", &[("reason", "unready")], 1.0).await;
}

#[tokio::test]
async fn a_draining_pod_gets_no_new_clients_moves_its_own_and_is_gone_in_the_end() {
    let (cluster, proxy) = three().await;
    let mut pinned = proxy.pinned_to("pod-a").await;
    let mut late = proxy.pinned_to("pod-a").await;
    let mut open = pinned.events("/events").await;
    let mut stream = cluster.pods[0].next_stream().await;
    assert_eq!(open.next_data().await, "pod-a");
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    proxy.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "ready"), ("pod-c", "ready")]).await;
    new_clients_go_to(&proxy, &["pod-b", "pod-c"]).await;
    assert_ne!(pinned.get("/who").await.text(), "pod-a", "no request begins on a pod about to die");
    proxy.wait_metric("podpin_endpoints", &[("service", "chat"), ("state", "draining")], 1.0).await;
    stream.event("still here").await;
    assert_eq!(open.next_data().await, "still here");
    cluster.api.put(&cluster.chat().pods([cluster.pod(1), cluster.pod(2)]));
    proxy.wait_endpoints("chat", &[("pod-b", "ready"), ("pod-c", "ready")]).await;
    assert_ne!(late.get("/who").await.text(), "pod-a");
    proxy.wait_metric("podpin_affinity_repins_total", &[("reason", "gone")], 1.0).await;
}

#[tokio::test]
async fn a_terminating_pod_never_becomes_ready_again_but_its_successor_under_the_same_name_is_another() {
    let (cluster, proxy) = three().await;
    let mut pinned = proxy.pinned_to("pod-a").await;
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    let draining = [("pod-a", "draining"), ("pod-b", "ready"), ("pod-c", "ready")];
    proxy.wait_endpoints("chat", &draining).await;
    let marker = SlicePod::new("marker", [127, 0, 0, 99].into());
    cluster.api.put(&cluster.all_but(0, cluster.pod(0)).pod(marker));
    // The marker says that the stale word before it was read.
    wait_for_some("the marker", async || {
        let endpoints = proxy.endpoints("chat").await;
        endpoints.iter().any(|one| one["uid"] == "uid-marker").then_some(())
    })
    .await;
    let listed = proxy.endpoints("chat").await;
    let state = |uid: &str| listed.iter().find(|one| one["uid"] == uid).map(|one| one["state"].clone());
    assert_eq!(state("uid-pod-a"), Some(Value::from("draining")), "a late ready revives nobody");
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).uid("uid-second-life")));
    proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready"), ("pod-c", "ready")]).await;
    pinned.get("/who").await;
    proxy.wait_metric("podpin_affinity_repins_total", &[("reason", "gone")], 1.0).await;
}

#[tokio::test]
async fn a_ready_that_comes_too_late_is_logged_and_counted_once() {
    let (cluster, proxy) = three().await;
    let refused = ("podpin_discovery_refused_updates_total", [("service", "chat")]);
    assert_eq!(proxy.metric(refused.0, &refused.1).await, 0.0);
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    proxy.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "ready"), ("pod-c", "ready")]).await;
    cluster.api.put(&cluster.all_but(0, cluster.pod(0)));
    proxy.wait_metric(refused.0, &refused.1, 1.0).await;
    // The same list with another pod in it repeats the stale word, which is not news.
    let marker = SlicePod::new("marker", [127, 0, 0, 99].into());
    cluster.api.put(&cluster.all_but(0, cluster.pod(0)).pod(marker));
    wait_for_some("the marker", async || {
        let endpoints = proxy.endpoints("chat").await;
        endpoints.iter().any(|one| one["uid"] == "uid-marker").then_some(())
    })
    .await;
    assert_eq!(proxy.metric(refused.0, &refused.1).await, 1.0);
    let is_about = |line: &String| line.contains("discovery update refused") && line.contains("pod-a");
    let lines: Vec<String> = proxy.process.stderr().into_iter().filter(is_about).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["WARN", "chat", "draining", "ready"] {
        assert!(lines[0].contains(part), "{part} is not in {lines:?}");
    }
}

#[tokio::test]
async fn an_address_that_another_pod_took_over_is_another_endpoint() {
    let (cluster, proxy) = three().await;
    let mut pinned = proxy.pinned_to("pod-a").await;
    let taken = SlicePod::new("pod-x", cluster.pods[0].address().ip());
    cluster.api.put(&cluster.all_but(0, taken));
    proxy.wait_endpoints("chat", &[("pod-b", "ready"), ("pod-c", "ready"), ("pod-x", "ready")]).await;
    let moved = pinned.get("/who").await;
    assert!(moved.header("set-cookie").is_some(), "the pin was for the pod, not for its address");
    proxy.wait_metric("podpin_affinity_repins_total", &[("reason", "gone")], 1.0).await;
}

#[tokio::test]
async fn the_admin_port_shows_uid_node_zone_state_since_when_and_streams() {
    let cluster = Cluster::new(&["pod-a", "pod-b"]).await;
    let there = cluster.pod(1).on("node-7", "zone-c").terminating();
    cluster.api.put(&cluster.chat().pods([cluster.pod(0), there]));
    let proxy = cluster.setup().start().await;
    let mut visitor = proxy.visitor();
    let mut stream = visitor.events("/events").await;
    stream.next_event().await;
    let of = async |name: &str| {
        let endpoints = proxy.endpoints("chat").await;
        endpoints.into_iter().find(|one| one["name"] == name).unwrap()
    };
    let (first, second) = (of("pod-a").await, of("pod-b").await);
    assert_eq!((&first["uid"], &first["state"]), (&"uid-pod-a".into(), &"ready".into()));
    assert_eq!((&first["node"], &first["zone"]), (&"node-1".into(), &"zone-a".into()));
    assert_eq!((&first["streams"], &second["streams"]), (&1.into(), &0.into()));
    assert_eq!((&second["node"], &second["zone"]), (&"node-7".into(), &"zone-c".into()));
    assert_eq!((&second["uid"], &second["state"]), (&"uid-pod-b".into(), &"draining".into()));
    assert_eq!(first["address"], cluster.pods[0].address().to_string());
    let since = first["since"].as_str().unwrap().to_owned();
    assert!(since.ends_with('Z') && since.as_bytes()[10] == b'T', "not RFC 3339 in UTC: {since}");
    cluster
        .api
        .put(&cluster.chat().pods([cluster.pod(0).on("node-2", "zone-b"), cluster.pod(1).terminating()]));
    wait_for_some("the other node", async || (of("pod-a").await["node"] == "node-2").then_some(())).await;
    assert_eq!(of("pod-a").await["since"], since, "the state is the same");
}

#[tokio::test]
async fn new_clients_stay_in_the_zone_of_the_proxy_by_hint_where_that_is_asked_for() {
    let cluster = Cluster::new(&["pod-a", "pod-b"]).await;
    // Nodes lie elsewhere than the hints point: hints win.
    let here = cluster.pod(0).on("node-1", "zone-b").hinted(&["zone-a"]);
    let there = cluster.pod(1).on("node-2", "zone-a").hinted(&["zone-b"]);
    let slice = cluster.chat().pods([here.clone(), there.clone()]);
    cluster.api.put(&slice);
    let setup = cluster.setup().environment("PODPIN_ZONE", "zone-a");
    let anywhere = setup.clone().with("balance: {zone: none}").start().await;
    anywhere.pinned_to("pod-a").await;
    anywhere.pinned_to("pod-b").await;
    let near = setup.with("balance: {zone: prefer}").start().await;
    new_clients_go_to(&near, &["pod-a"]).await;
    cluster.api.put(&cluster.chat().pods([here.unready(), there]));
    near.wait_endpoints("chat", &[("pod-a", "resting"), ("pod-b", "ready")]).await;
    new_clients_go_to(&near, &["pod-b"]).await;
}

/// Prints the median; how fast it must be is not asserted here but measured on a quiet machine.
#[tokio::test]
async fn a_deleted_pod_is_draining_for_new_requests_within_moments() {
    const ROUNDS: usize = 20;
    let cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    let proxy = cluster.setup().with("balance: {slowStart: off}").start().await;
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let life = cluster.pod(1).uid(&format!("uid-{round}"));
        cluster.api.put(&cluster.all_but(1, life.clone()));
        wait_for_some("the next life of pod-b", async || {
            let listed = proxy.endpoints("chat").await;
            listed.iter().any(|one| one["uid"] == format!("uid-{round}")).then_some(())
        })
        .await;
        let visitor = proxy.pinned_to("pod-b").await;
        let slice = cluster.all_but(1, life.terminating());
        let deleted = Instant::now();
        cluster.api.put(&slice);
        while visitor.clone().get("/who").await.text() == "pod-b" {
            assert!(deleted.elapsed() < Duration::from_secs(5), "still not draining");
        }
        took.push(deleted.elapsed());
    }
    took.sort();
    println!(
        "deleted -> draining for new requests: median {:?}, most {:?}",
        took[ROUNDS / 2],
        took[ROUNDS - 1]
    );
    assert!(took[ROUNDS / 2] < Duration::from_secs(1), "the median is {:?}", took[ROUNDS / 2]);
}

#[tokio::test]
async fn a_client_that_names_itself_does_not_go_to_and_fro_with_a_pod_that_flaps() {
    let cluster = Cluster::ready(&["pod-a", "pod-b", "pod-c"]).await;
    let proxy = cluster.setup().with("affinity: {header: X-Session-Id, cookie: off}").start().await;
    let states = |of_a: &'static str| [("pod-a", of_a), ("pod-b", "ready"), ("pod-c", "ready")];
    proxy.wait_endpoints("chat", &states("ready")).await;
    let who =
        async |name: &str| Request::get("/who").header("x-session-id", name).send(proxy.address).await.text();
    let mut number = 0;
    while who(&number.to_string()).await != "pod-a" {
        number += 1;
        assert!(number < 100, "the ring sends nobody to pod-a");
    }
    let mut answers = Vec::new();
    for change in 0..16 {
        let (pod, state) = match change % 2 {
            0 => (cluster.pod(0).unready(), "resting"),
            _ => (cluster.pod(0), "ready"),
        };
        cluster.api.put(&cluster.all_but(0, pod));
        proxy.wait_endpoints("chat", &states(state)).await;
        answers.push(who(&number.to_string()).await);
    }
    assert_ne!(answers[0], "pod-a", "the first change counts at once");
    assert_eq!(answers[1], "pod-a", "and so does the second");
    let settled = &answers[6..];
    assert!(settled[0] != "pod-a" && settled.iter().all(|pod| *pod == settled[0]), "{answers:?}");
}
