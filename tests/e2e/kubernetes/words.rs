//! Watch events that no API server should send: no endpoint is lost by them, and what they hid is learnt from a list.

use podpin_testkit::{On, Proxy, wait_for};
use serde_json::json;

use super::{Cluster, wait_relist};

async fn watched() -> (Cluster, Proxy) {
    let cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    let proxy = cluster.setup().start().await;
    cluster.api.wait_watches(1).await;
    (cluster, proxy)
}

/// Checks that a list makes up for the garbled line.
async fn is_cured(line: &str) {
    let (cluster, proxy) = watched().await;
    cluster.api.put_unseen(&cluster.all_but(0, cluster.pod(0).terminating()));
    cluster.api.send_line(line);
    proxy.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "ready")]).await;
    wait_relist(&proxy, "malformed").await;
    let counted = [("service", "chat"), ("reason", "malformed")];
    assert!(proxy.metric("podpin_discovery_errors_total", &counted).await >= 1.0);
    cluster.api.wait_watches(1).await;
    cluster.api.put(&cluster.chat().pod(cluster.pod(1)));
    proxy.wait_endpoints("chat", &[("pod-b", "ready")]).await;
}

#[tokio::test]
async fn a_line_that_is_not_json() {
    is_cured("<html>502 Bad Gateway</html>").await;
}

#[tokio::test]
async fn a_line_that_is_json_and_no_event() {
    is_cured("[7]").await;
}

#[tokio::test]
async fn an_object_of_another_shape() {
    let object = json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": 4, "endpoints": "seven",
        "metadata": {"name": "chat-1", "namespace": "lab", "resourceVersion": "7"},
    });
    is_cured(&json!({"type": "MODIFIED", "object": object}).to_string()).await;
}

#[tokio::test]
async fn an_event_of_an_unknown_type_is_left_out() {
    let (cluster, proxy) = watched().await;
    cluster.api.send_event("SURPRISE", &cluster.chat().value());
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    proxy.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "ready")]).await;
}

#[tokio::test]
async fn an_error_event_that_is_no_410() {
    let (cluster, proxy) = watched().await;
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "etcdserver: no leader", "reason": "InternalError", "code": 500,
    });
    cluster.api.put_unseen(&cluster.all_but(0, cluster.pod(0).terminating()));
    cluster.api.send_event("ERROR", &status);
    proxy.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "ready")]).await;
    assert!(proxy.is_ready().await);
}

#[tokio::test]
async fn a_garbled_word_in_every_list_is_no_hot_loop() {
    let (cluster, proxy) = watched().await;
    let since = std::time::Instant::now();
    wait_for("many garbled words", async || {
        cluster.api.send_line("{{{");
        assert_eq!(proxy.endpoints("chat").await.len(), 2);
        since.elapsed() > std::time::Duration::from_secs(2)
    })
    .await;
    let most = cluster.api.most_within(std::time::Duration::from_secs(1), since);
    assert!(most <= super::REQUESTS_PER_SECOND_MAX, "{most} requests within a second");
    assert!(cluster.api.count(On::List) >= 2);
}

#[tokio::test]
async fn an_event_with_a_version_of_the_past_changes_nothing_that_follows() {
    let (cluster, proxy) = watched().await;
    let mut stale = cluster.chat().pods(cluster.all()).value();
    stale["metadata"]["resourceVersion"] = json!("3");
    cluster.api.send_event("MODIFIED", &stale);
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    proxy.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "ready")]).await;
}

#[tokio::test]
async fn a_deletion_of_a_slice_that_nobody_knows_changes_nothing() {
    let (cluster, proxy) = watched().await;
    cluster.api.send_event("DELETED", &cluster.chat().name("chat-99").value());
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    proxy.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "ready")]).await;
}

#[tokio::test]
async fn what_is_wrong_in_a_slice_is_logged_once_for_each_slice_and_kind() {
    let cluster = Cluster::ready(&["pod-a"]).await;
    let proxy = cluster.setup().start().await;
    let count = |words: &str| proxy.process.stderr().iter().filter(|line| line.contains(words)).count();
    let mut malformed = 0.0;
    for round in 0..5 {
        let mut broken = cluster.chat().name("chat-broken").pod(cluster.pod(0)).value();
        broken["endpoints"] = match round % 2 {
            0 => json!([{"addresses": []}]),
            _ => json!("no list"),
        };
        cluster.api.put_value(broken);
        malformed += 1.0;
        proxy
            .wait_metric_at_least("podpin_discovery_errors_total", &[("reason", "malformed")], malformed)
            .await;
    }
    assert_eq!(count("a part of an EndpointSlice is left out"), 1);
    assert_eq!(count("an object that cannot be read is left out"), 1);
    proxy.wait_endpoints("chat", &[("pod-a", "ready")]).await;
}
