//! Slices as clusters really have them: ghosts at the address of a living pod, two address families, ports and hints.

use podpin_testkit::{SlicePod, wait_for};
use serde_json::json;

use super::Cluster;

#[tokio::test]
async fn a_ghost_does_not_take_a_living_pod_away_whatever_is_written_later() {
    let cluster = Cluster::new(&["pod-a", "pod-b"]).await;
    let ghost = || SlicePod::new("ghost", cluster.pods[0].address().ip());
    let old = |pods: &[SlicePod]| {
        let mut slice = cluster.chat().name("chat-old").pods(pods.iter().cloned()).value();
        slice["metadata"]["creationTimestamp"] = json!("2026-11-01T00:00:00Z");
        slice
    };
    cluster.api.put_value(old(&[ghost()]));
    let (one, other) = (cluster.setup().start().await, cluster.setup().start().await);
    one.wait_endpoints("chat", &[("ghost", "ready")]).await;
    other.wait_endpoints("chat", &[("ghost", "ready")]).await;
    // The address goes to a new pod; the slice of the old one still lists it, in every state that it may be in.
    cluster.api.put(&cluster.chat().pod(cluster.pod(0)));
    for proxy in [&one, &other] {
        proxy.wait_endpoints("chat", &[("pod-a", "ready")]).await;
    }
    let mut pinned = one.pinned_to("pod-a").await;
    let mut open = pinned.events("/events").await;
    let mut stream = cluster.pods[0].next_stream().await;
    assert_eq!(open.next_data().await, "pod-a");
    for (round, pod) in
        [ghost(), ghost().unready(), ghost().terminating(), ghost().ending()].into_iter().enumerate()
    {
        // The slice is written anew because of another pod in it.
        let marker = SlicePod::new(&format!("marker-{round}"), [127, 0, 0, 99].into());
        cluster.api.put_value(old(&[pod, marker]));
        let marker = format!("marker-{round}");
        for proxy in [&one, &other] {
            proxy.wait_endpoints("chat", &[(&marker, "ready"), ("pod-a", "ready")]).await;
        }
    }
    stream.event("never gone").await;
    assert_eq!(open.next_data().await, "never gone");
    assert_eq!(pinned.get("/who").await.text(), "pod-a");
    assert_eq!(one.metric("podpin_affinity_repins_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_pod_that_terminates_and_serves_is_used_until_the_new_one_at_its_address_is_ready() {
    let cluster = Cluster::new(&["pod-a"]).await;
    let old = SlicePod::new("old", cluster.pods[0].address().ip()).terminating();
    cluster.api.put(&cluster.chat().name("chat-old").pod(old));
    let early = cluster.setup().start().await;
    early.wait_endpoints("chat", &[("old", "draining")]).await;
    cluster.api.put(&cluster.chat().pod(cluster.pod(0).unready()));
    let late = cluster.setup().start().await;
    for proxy in [&late, &early] {
        proxy.wait_endpoints("chat", &[("old", "draining")]).await;
        assert_eq!(proxy.get("/who").await.status, 200);
    }
    cluster.api.put(&cluster.chat().pod(cluster.pod(0)));
    for proxy in [&late, &early] {
        proxy.wait_endpoints("chat", &[("pod-a", "ready")]).await;
    }
}

#[tokio::test]
async fn pods_with_ipv6_alone_stay_beside_those_with_ipv4() {
    let cluster = Cluster::new(&["pod-a"]).await;
    let v6 = |name: &str, last: u16| SlicePod::new(name, [0xfd00, 0, 0, 0, 0, 0, 0, last].into());
    let six = cluster.chat().name("chat-6").ipv6().pods([v6("pod-a", 1), v6("pod-six", 2)]);
    cluster.api.put(&six);
    let of = |family: &str| {
        let keys =
            format!("{{kubernetes: {{namespace: lab, service: chat, port: http, ipFamily: {family}}}}}");
        podpin_testkit::Setup::new().service_from("chat", &keys).top(&cluster.kubeconfig.setting())
    };
    let default = cluster.setup().start().await;
    default.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-six", "ready")]).await;
    cluster.api.put(&cluster.chat().pod(cluster.pod(0)));
    let pod_a = |address: &'static str| {
        let default = &default;
        async move || {
            let endpoints = default.endpoints("chat").await;
            endpoints.len() == 2 && endpoints[0]["address"].as_str().unwrap().starts_with(address)
        }
    };
    wait_for("pod-a at its IPv4 address, and pod-six", pod_a("127.0.0.2:")).await;
    let (four, six) = (of("4").start().await, of("prefer6").start().await);
    four.wait_endpoints("chat", &[("pod-a", "ready")]).await;
    six.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-six", "ready")]).await;
    assert!(six.endpoints("chat").await[0]["address"].as_str().unwrap().starts_with("[fd00::1]:"));
}

#[tokio::test]
async fn a_slice_without_a_port_number_is_left_out_when_a_number_is_asked_for() {
    let cluster = Cluster::new(&["pod-a", "pod-b"]).await;
    let mut nil = cluster.chat().name("chat-nil").pod(cluster.pod(0)).value();
    nil["ports"] = json!([{"name": "http", "protocol": "TCP"}]);
    cluster.api.put_value(nil);
    cluster.api.put(&cluster.chat().pod(cluster.pod(1)));
    let port = cluster.pods[0].address().port();
    let keys = format!("{{kubernetes: {{namespace: lab, service: chat, port: {port}}}}}");
    let setup = podpin_testkit::Setup::new().service_from("chat", &keys).top(&cluster.kubeconfig.setting());
    let proxy = setup.start().await;
    proxy.wait_endpoints("chat", &[("pod-b", "ready")]).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-b");
}
