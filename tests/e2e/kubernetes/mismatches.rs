//! Names of the configuration that the cluster does not have: what the log, the metrics and the pages say, and that a reload to
//! one moves no client.

use std::time::{Duration, Instant};

use podpin_testkit::{Cut, Fault, On, Proxy, Setup, Slice, SlicePod, wait_for};

use super::{CHAT, Cluster};

/// A name that does not exist is said this soon after the list.
const SAID_WITHIN: Duration = Duration::from_secs(2);

impl Cluster {
    /// A proxy in front of `chat` under these names.
    fn named(&self, service: &str, port: &str) -> Setup {
        let discovery = format!("{{kubernetes: {{namespace: lab, service: {service}, port: {port}}}}}");
        Setup::new().service_from("chat", &discovery).top(&self.kubeconfig.setting())
    }
}

async fn mismatch(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric("podpin_discovery_mismatch", &[("service", "chat"), ("reason", reason)]).await
}

async fn degraded(proxy: &Proxy) -> f64 {
    proxy.metric("podpin_config_reloads_degraded_total", &[]).await
}

#[tokio::test]
async fn a_wrong_port_at_the_start_is_said_with_the_ports_there_are() {
    let cluster = Cluster::ready(&["pod-a"]).await;
    let port = cluster.pods[0].address().port().to_string();
    let proxy = cluster.named("chat", "80").start().await;
    let listed = Instant::now();
    let line = proxy.log_line(&["WARN", "chat", "has a port 80", &format!("http ({port})")]).await;
    assert!(line.contains("targetPort"), "{line}");
    println!("a wrong port is said {:?} after the proxy was ready", listed.elapsed());
    assert!(listed.elapsed() < SAID_WITHIN);
    assert_eq!((mismatch(&proxy, "port").await, mismatch(&proxy, "service").await), (1.0, 0.0));
    let status = proxy.admin_get("/api/status").await.json();
    let one = &status["services"][0];
    assert_eq!(
        (&one["mismatch"]["reason"], &one["mismatch"]["keepsEndpoints"]),
        (&"port".into(), &false.into())
    );
    assert!(proxy.admin_get("/").await.text().contains("has a port 80"));
    proxy.reload(&cluster.named("chat", "http")).await;
    proxy.wait_endpoints("chat", &[("pod-a", "ready")]).await;
    proxy.wait_metric("podpin_discovery_mismatch", &[("service", "chat")], 0.0).await;
    assert_eq!(degraded(&proxy).await, 0.0);
}

#[tokio::test]
async fn a_wrong_name_at_the_start_is_said_and_heals_when_the_service_comes() {
    let cluster = Cluster::ready(&["pod-a"]).await;
    let proxy = cluster.named("chatt", "http").start().await;
    proxy.log_line(&["WARN", "chatt", "does the Service exist?"]).await;
    assert_eq!(mismatch(&proxy, "service").await, 1.0);
    cluster.api.put(&Slice::of("chatt", cluster.pods[0].address().port()).pod(cluster.pod(0)));
    proxy.wait_endpoints("chat", &[("pod-a", "ready")]).await;
    proxy.log_line(&["INFO", "the cluster has the Service and the port now"]).await;
    assert_eq!(mismatch(&proxy, "service").await, 0.0);
}

/// A reload to names that do not exist, with an open stream and a pinned client; what it says.
async fn reloaded_to_nothing(service: &str, port: &str, reason: &str) -> (Cluster, Proxy) {
    let cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    let proxy = cluster.setup().start().await;
    let mut pinned = proxy.pinned_to("pod-a").await;
    let mut open = pinned.events("/events").await;
    let mut stream = cluster.pods[0].next_stream().await;
    assert_eq!(open.next_data().await, "pod-a");
    let began = Instant::now();
    proxy.reload(&cluster.named(service, port)).await;
    println!("{service}:{port}: in force {:?} after the change", began.elapsed());
    assert_eq!((degraded(&proxy).await, mismatch(&proxy, reason).await), (1.0, 1.0));
    proxy.log_line(&["WARN", "degraded", "chat"]).await;
    proxy.log_line(&["WARN", "the endpoints of before are kept"]).await;
    // A list more says the same.
    cluster.api.cut_watches(Cut::Expired);
    cluster.api.wait_watches(1).await;
    proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready")]).await;
    assert_eq!(pinned.get("/who").await.text(), "pod-a");
    stream.event("still here").await;
    assert_eq!(open.next_data().await, "still here");
    assert_eq!(proxy.get("/who").await.status, 200);
    let status = proxy.admin_get("/api/status").await.json();
    assert_eq!(status["services"][0]["mismatch"]["keepsEndpoints"], true);
    (cluster, proxy)
}

#[tokio::test]
async fn a_reload_to_a_port_that_does_not_exist_keeps_the_endpoints_until_it_does() {
    let (cluster, proxy) = reloaded_to_nothing("chat", "htpp", "port").await;
    // The name appears: from now on the cluster is believed in everything.
    let port = cluster.pods[0].address().port();
    cluster.api.put(&cluster.chat().pod(cluster.pod(1)).ports(&[("htpp", port)]));
    proxy.wait_endpoints("chat", &[("pod-b", "ready")]).await;
    assert_eq!(mismatch(&proxy, "port").await, 0.0);
}

#[tokio::test]
async fn a_reload_to_a_service_that_does_not_exist_keeps_the_endpoints_over_further_reloads() {
    let (cluster, proxy) = reloaded_to_nothing("chatt", "http", "service").await;
    // Another reload, of another service, changes nothing about this one.
    let pods = [("pod-a", "ready"), ("pod-b", "ready")];
    proxy.reload(&cluster.named("chatt", "http").service_from("news", CHAT)).await;
    proxy.wait_endpoints("news", &pods).await;
    proxy.wait_endpoints("chat", &pods).await;
    assert_eq!(mismatch(&proxy, "service").await, 1.0);
    proxy.reload(&cluster.setup()).await;
    proxy.wait_metric("podpin_discovery_mismatch", &[("service", "chat")], 0.0).await;
    cluster.api.put(&cluster.chat().pod(cluster.pod(0)));
    proxy.wait_endpoints("chat", &[("pod-a", "ready")]).await;
}

#[tokio::test]
async fn a_service_that_is_deleted_under_way_is_said_and_its_next_life_is_found() {
    let cluster = Cluster::ready(&["pod-a"]).await;
    let proxy = cluster.setup().start().await;
    cluster.api.wait_watches(1).await;
    cluster.api.delete(&cluster.chat());
    proxy.log_line(&["WARN", "chat", "does the Service exist?"]).await;
    proxy.wait_endpoints("chat", &[]).await;
    cluster.api.put(&cluster.chat().name("chat-next").pod(cluster.pod(0)));
    proxy.wait_endpoints("chat", &[("pod-a", "ready")]).await;
    assert_eq!(mismatch(&proxy, "service").await, 0.0);
}

#[tokio::test]
async fn failures_of_discovery_are_counted_by_reason_and_shown_until_they_are_over() {
    let cluster = Cluster::ready(&["pod-a"]).await;
    let proxy = cluster.setup().start().await;
    cluster.api.wait_watches(1).await;
    let failed = [
        (Fault::Status(403), "forbidden"),
        (Fault::Status(401), "unauthorized"),
        (Fault::Throttled { code: 429, seconds: 0 }, "throttled"),
        (Fault::Garbage, "malformed"),
        (Fault::Reset, "unreachable"),
        (Fault::Status(500), "refused"),
    ];
    for (fault, reason) in failed {
        cluster.api.fail(On::List, fault.clone());
        cluster.api.fail(On::Watch, fault);
        cluster.api.cut_watches(Cut::Expired);
        let labels = [("service", "chat"), ("reason", reason)];
        proxy.wait_metric_at_least("podpin_discovery_errors_total", &labels, 1.0).await;
        let shown = async || {
            let status = proxy.admin_get("/api/status").await.json();
            status["services"][0]["failure"]["reason"] == reason
        };
        wait_for(&format!("{reason} in the status"), shown).await;
        cluster.api.heal();
        let healed = async || proxy.admin_get("/api/status").await.json()["services"][0]["failure"].is_null();
        wait_for("the end of the failure", healed).await;
    }
    let output = proxy.process.output();
    assert!(
        !output.contains("a Role in that namespace must grant"),
        "nothing of it was missing rights: {output}"
    );
}

#[tokio::test]
async fn a_pod_that_cannot_be_reached_is_said_at_its_first_failure_and_once() {
    let cluster = Cluster::ready(&["pod-a"]).await;
    let nowhere = SlicePod::new("pod-x", [127, 0, 0, 77].into());
    cluster.api.put(&cluster.chat().pods([cluster.pod(0), nowhere]));
    let proxy = cluster.setup().with("health: {passive: {failures: 3}}").start().await;
    let address = format!("127.0.0.77:{}", cluster.pods[0].address().port());
    while proxy.metric("podpin_endpoint_ejections_total", &[]).await == 0.0 {
        assert_eq!(proxy.get("/who").await.text(), "pod-a");
    }
    let of = |words: &str| {
        let lines = proxy.process.stderr().into_iter();
        lines.filter(|line| line.contains(words) && line.contains("pod-x") && line.contains(&address)).count()
    };
    wait_for("the words", async || of("ejected after consecutive failures") == 1).await;
    assert_eq!(of("an endpoint cannot be reached"), 1, "{}", proxy.process.output());
}
