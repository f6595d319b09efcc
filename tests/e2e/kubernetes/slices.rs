//! The shapes of slices: several, doubled, empty, hand-made, with many ports.

use podpin_testkit::{Setup, SlicePod};

use super::{CHAT, Cluster};

#[tokio::test]
async fn several_slices_are_one_service_and_a_deleted_one_takes_its_own_with_it() {
    let cluster = Cluster::new(&["pod-a", "pod-b"]).await;
    cluster.api.put(&cluster.chat().pod(cluster.pod(0)));
    cluster.api.put(&cluster.chat().name("chat-2").pod(cluster.pod(1)));
    let proxy = cluster.setup().start().await;
    proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready")]).await;
    cluster.api.delete(&cluster.chat());
    proxy.wait_endpoints("chat", &[("pod-b", "ready")]).await;
}

#[tokio::test]
async fn an_endpoint_in_two_slices_is_one_and_stays_while_one_of_them_has_it() {
    let cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    let proxy = cluster.setup().start().await;
    cluster.api.put(&cluster.chat().name("chat-2").pod(cluster.pod(0)));
    cluster.api.put(&cluster.chat().pod(cluster.pod(1)));
    proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready")]).await;
    let mut pinned = proxy.pinned_to("pod-a").await;
    cluster.api.delete(&cluster.chat().name("chat-2"));
    proxy.wait_endpoints("chat", &[("pod-b", "ready")]).await;
    assert_eq!(pinned.get("/who").await.text(), "pod-b");
}

#[tokio::test]
async fn scaled_to_zero_and_back() {
    let cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    let proxy = cluster.setup().start().await;
    cluster.api.put(&cluster.chat());
    proxy.wait_endpoints("chat", &[]).await;
    assert_eq!(proxy.get("/who").await.status, 503);
    assert!(proxy.is_ready().await, "an empty service is known");
    cluster.api.put(&cluster.chat().ports(&[]));
    cluster.api.put(&cluster.chat().pod(cluster.pod(1)));
    proxy.wait_endpoints("chat", &[("pod-b", "ready")]).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-b");
}

#[tokio::test]
async fn a_hand_made_slice_without_targets_and_conditions_is_served() {
    let cluster = Cluster::new(&["pod-a"]).await;
    let bare = cluster.pod(0).without_target().conditions([None, None, None]);
    cluster.api.put(&cluster.chat().pod(bare));
    let proxy = cluster.setup().start().await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
    let endpoints = proxy.endpoints("chat").await;
    assert_eq!((endpoints.len(), &endpoints[0]["uid"]), (1, &serde_json::Value::Null));
    assert_eq!(endpoints[0]["state"], "ready");
}

#[tokio::test]
async fn a_port_is_chosen_by_name_or_by_number() {
    let cluster = Cluster::new(&["pod-a"]).await;
    let port = cluster.pods[0].address().port();
    cluster.api.put(&cluster.chat().ports(&[("admin", 9), ("http", port)]).pod(cluster.pod(0)));
    let numbered = format!("{{kubernetes: {{namespace: lab, service: chat, port: {port}}}}}");
    let by_number = Setup::new().service_from("chat", &numbered).top(&cluster.kubeconfig.setting());
    for setup in [cluster.setup(), by_number] {
        assert_eq!(setup.start().await.get("/who").await.text(), "pod-a");
    }
}

#[tokio::test]
async fn a_port_that_changes_makes_other_endpoints() {
    let cluster = Cluster::ready(&["pod-a"]).await;
    let proxy = cluster.setup().start().await;
    cluster.api.put(&cluster.chat().ports(&[("http", 9)]).pods(cluster.all()));
    podpin_testkit::wait_for("the other port", async || {
        let endpoints = proxy.endpoints("chat").await;
        endpoints.len() == 1 && endpoints[0]["address"] == "127.0.0.2:9"
    })
    .await;
}

#[tokio::test]
async fn more_than_a_hundred_endpoints_come_in_several_slices() {
    let cluster = Cluster::new(&["pod-a"]).await;
    let pod = |number: u16| {
        let [high, low] = number.to_be_bytes();
        SlicePod::new(&format!("pod-{number}"), [10, 9, high, low].into())
    };
    for slice in 0..3_u16 {
        let pods = (slice * 100..slice * 100 + 100).map(pod);
        cluster.api.put(&cluster.chat().name(&format!("chat-{slice}")).pods(pods));
    }
    let proxy = cluster.setup().start().await;
    let ready = ("podpin_endpoints", [("service", "chat"), ("state", "ready")]);
    proxy.wait_metric(ready.0, &ready.1, 300.0).await;
    cluster.api.put(&cluster.chat().name("chat-1").pods((100..150).map(pod).map(SlicePod::terminating)));
    proxy.wait_metric(ready.0, &ready.1, 200.0).await;
    proxy.wait_metric(ready.0, &[("service", "chat"), ("state", "draining")], 50.0).await;
}

#[tokio::test]
async fn services_of_one_namespace_share_a_watch_and_other_namespaces_have_their_own() {
    let cluster = Cluster::ready(&["pod-a", "pod-b", "pod-c"]).await;
    let port = cluster.pods[0].address().port();
    let slice = |service| podpin_testkit::Slice::of(service, port);
    cluster.api.put(&slice("web").pod(cluster.pod(1)));
    cluster.api.put(&slice("news").namespace("other").pod(cluster.pod(2)));
    cluster.api.put(&slice("bystander").pods(cluster.all()));
    let proxy = cluster
        .setup()
        .service_from("web", "{kubernetes: {namespace: lab, service: web, port: http}}")
        .service_from("web-too", "{kubernetes: {namespace: lab, service: web, port: http}}")
        .service_from("news", "{kubernetes: {namespace: other, service: news, port: http}}")
        .start()
        .await;
    proxy.wait_endpoints("web", &[("pod-b", "ready")]).await;
    proxy.wait_endpoints("web-too", &[("pod-b", "ready")]).await;
    proxy.wait_endpoints("news", &[("pod-c", "ready")]).await;
    cluster.api.wait_watches(2).await;
    cluster.api.put(&slice("web").pod(cluster.pod(1).terminating()));
    proxy.wait_endpoints("web", &[("pod-b", "draining")]).await;
    proxy.wait_endpoints("web-too", &[("pod-b", "draining")]).await;
    assert_eq!(proxy.endpoints("chat").await.len(), 3);
    assert_eq!(cluster.api.watches().len(), 2);
}

#[tokio::test]
async fn the_namespace_of_the_context_is_the_default() {
    let cluster = Cluster::ready(&["pod-a"]).await;
    let setup = Setup::new().service_from("chat", &CHAT.replace("namespace: lab, ", ""));
    let proxy = setup.top(&cluster.kubeconfig.setting()).start().await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
}

#[tokio::test]
async fn a_service_of_the_same_name_elsewhere_and_one_with_a_longer_name_are_not_ours() {
    let cluster = Cluster::ready(&["pod-a"]).await;
    let port = cluster.pods[0].address().port();
    let foreign =
        |service, pod| podpin_testkit::Slice::of(service, port).pod(SlicePod::new(pod, [10, 0, 0, 1].into()));
    cluster.api.put(&foreign("chat", "pod-x").namespace("other"));
    cluster.api.put(&foreign("chat-next", "pod-y"));
    let proxy = cluster.setup().start().await;
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    proxy.wait_endpoints("chat", &[("pod-a", "draining")]).await;
}
