//! Rollouts with a gap: no pod is ready, and those that terminate or are only published stand in.

use podpin_testkit::{Proxy, Request, wait_for};

use super::Cluster;
use crate::crowd::Client;

const DRAIN: &str = "drain: {spread: 500ms, timeout: 60s}";

async fn serve(proxy: &Proxy, expected: &[&str]) {
    for _ in 0..20 {
        let answer = proxy.get("/who").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(expected.contains(&answer.text().as_str()), "{} served", answer.text());
    }
}

/// Returns the clients that are sent to an endpoint, and the reason.
async fn usage(proxy: &Proxy, name: &str) -> (String, String) {
    let endpoints = proxy.endpoints("chat").await;
    let one = endpoints.iter().find(|one| one["name"] == name).unwrap();
    (one["usedBy"].as_str().unwrap().to_owned(), one["why"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn while_nobody_is_ready_pods_that_terminate_and_serve_take_all_clients() {
    let cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    let proxy = cluster.setup().with(DRAIN).start().await;
    let mut pinned = proxy.pinned_to("pod-a").await;
    let mut open = Client::on(&proxy, "pod-a").await;
    cluster.api.put(&cluster.chat().pods([cluster.pod(0).terminating(), cluster.pod(1).unready()]));
    proxy.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "resting")]).await;
    let nobody_is_ready = "draining but serving: nobody is ready";
    assert_eq!(usage(&proxy, "pod-a").await, ("all".into(), nobody_is_ready.into()));
    serve(&proxy, &["pod-a"]).await;
    assert_eq!(pinned.get("/who").await.text(), "pod-a");
    let mut stream = Request::events("/events").open(proxy.address).await;
    assert_eq!(stream.next_data().await, "pod-a", "a new stream");
    // The streams in flight wait: a departure would be a disconnect.
    cluster.pods[0].next_stream().await.event("still here").await;
    assert_eq!(open.stream.next_data().await, "still here");
    cluster.api.put(&cluster.chat().pods([cluster.pod(0).terminating(), cluster.pod(1)]));
    proxy.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "ready")]).await;
    assert_eq!(usage(&proxy, "pod-a").await, ("nobody".into(), "draining".into()));
    assert!(open.left().await.goodbye().is_empty(), "and leave when somebody is");
    serve(&proxy, &["pod-b"]).await;
    assert_eq!(pinned.get("/who").await.text(), "pod-b");
    assert_eq!(proxy.metric("podpin_refusals_total", &[]).await, 0.0);
}

#[tokio::test]
async fn the_only_pod_may_be_replaced_without_a_refusal() {
    let cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    cluster.api.put(&cluster.chat().pod(cluster.pod(0)));
    let proxy = cluster.setup().with(DRAIN).start().await;
    let mut pinned = proxy.pinned_to("pod-a").await;
    let states = [
        (cluster.chat().pod(cluster.pod(0).terminating()), "pod-a"),
        (cluster.chat().pods([cluster.pod(0).terminating(), cluster.pod(1).unready()]), "pod-a"),
        (cluster.chat().pods([cluster.pod(0).terminating(), cluster.pod(1)]), "pod-b"),
        (cluster.chat().pods([cluster.pod(0).ending(), cluster.pod(1)]), "pod-b"),
        (cluster.chat().pod(cluster.pod(1)), "pod-b"),
    ];
    for (slice, expected) in states {
        cluster.api.put(&slice);
        wait_for(expected, async || proxy.get("/who").await.text() == expected).await;
        assert_eq!(pinned.get("/who").await.text(), expected);
    }
    assert_eq!(proxy.metric("podpin_refusals_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_pod_that_is_published_although_it_is_not_ready_is_used_while_nobody_serves() {
    let cluster = Cluster::new(&["pod-a", "pod-b"]).await;
    let published = |index| cluster.pod(index).conditions([Some(true), Some(false), Some(false)]);
    cluster.api.put(&cluster.chat().pod(published(0)));
    let proxy = cluster.setup().start().await;
    proxy.wait_endpoints("chat", &[("pod-a", "resting")]).await;
    serve(&proxy, &["pod-a"]).await;
    let mut pinned = proxy.pinned_to("pod-a").await;
    assert_eq!(pinned.get("/who").await.text(), "pod-a");
    assert_eq!(usage(&proxy, "pod-a").await.0, "all");
    cluster.api.put(&cluster.chat().pods([published(0), cluster.pod(1)]));
    proxy.wait_endpoints("chat", &[("pod-a", "resting"), ("pod-b", "ready")]).await;
    serve(&proxy, &["pod-b"]).await;
}

#[tokio::test]
async fn when_all_are_ejected_all_are_used_and_that_is_counted_and_said_once() {
    let cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    // A port without a listener.
    let closed = cluster.chat().ports(&[("http", podpin_testkit::free_port())]);
    cluster.api.put(&closed.pods(cluster.all()));
    let health = "health: {passive: {failures: 1, ejection: 60s}}";
    let proxy = cluster.setup().with(health).start().await;
    for _ in 0..10 {
        assert_ne!(proxy.get("/who").await.status, 503, "each of them is tried");
    }
    let disregarded = "podpin_endpoint_ejections_disregarded_total";
    proxy.wait_metric_at_least(disregarded, &[("service", "chat")], 2.0).await;
    let said = proxy.process.stderr().into_iter().filter(|line| line.contains("ejection is disregarded"));
    assert_eq!(said.count(), 1);
    let (by, why) = usage(&proxy, "pod-a").await;
    assert!(by == "all" && why.contains("disregarded"), "{by} {why}");
}
