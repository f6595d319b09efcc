//! Credential plugins of a kubeconfig, while they work and while they hang.

use std::fs;
use std::time::Duration;

use podpin_testkit::{Signal, wait_long};

use super::Cluster;

/// The text of a kubeconfig whose user has a plugin that does nothing for a long time.
fn with_a_plugin_that_hangs(text: &str) -> String {
    let exec = "exec: {apiVersion: client.authentication.k8s.io/v1, command: sleep, args: [\"1000\"]}";
    assert!(text.contains("user: {}"), "{text}");
    text.replace("user: {}", &format!("user: {{{exec}}}"))
}

#[tokio::test]
async fn a_plugin_that_hangs_in_a_reload_costs_that_reload_and_no_later_one() {
    let cluster = Cluster::ready(&["pod-a"]).await;
    let proxy = cluster.setup().start().await;
    proxy.wait_endpoints("chat", &[("pod-a", "ready")]).await;
    let good = fs::read_to_string(cluster.kubeconfig.path()).unwrap();
    fs::write(cluster.kubeconfig.path(), with_a_plugin_that_hangs(&good)).unwrap();
    proxy.signal(Signal::HUP);
    let words = "the credential plugin sleep of the kubeconfig has not answered within 15s, and was killed";
    wait_long(Duration::from_secs(60), "the reload's failure", async || {
        proxy.process.output().contains(words)
    })
    .await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
    fs::write(cluster.kubeconfig.path(), good).unwrap();
    proxy.reload(&cluster.setup().with("limits: {streamsPerEndpoint: 7}")).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
}
