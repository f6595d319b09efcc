//! Before the first list: readiness, the words about it, credentials.

use std::time::{Duration, Instant};

use podpin_testkit::{
    ApiServer, Cut, Fault, On, Process, Proxy, Setup, Slice, SlicePod, free_port, start_pods, wait_for,
};

use super::{CHAT, Cluster, RECOVERY_MAX};

#[tokio::test]
async fn readiness_waits_for_the_first_list_and_names_the_service_that_is_missing() {
    let cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    cluster.api.fail(On::List, Fault::HangBeforeHeaders);
    let proxy = cluster.setup().service("news", &[&cluster.pods[1]]).start_alive().await;
    wait_for("the list to hang", async || cluster.api.count(On::List) > 0).await;
    let answer = proxy.admin_get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("chat") && !answer.text().contains("news"), "{}", answer.text());
    proxy.wait_metric("podpin_discovery_connected", &[("service", "chat")], 0.0).await;
    cluster.api.heal();
    wait_for("readiness", async || proxy.is_ready().await).await;
    assert_eq!(proxy.get("/who").await.status, 200);
    proxy.wait_metric("podpin_discovery_connected", &[("service", "chat")], 1.0).await;
}

#[tokio::test]
async fn readiness_waits_only_so_long_and_then_the_log_and_a_metric_say_what_is_missing() {
    let cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    cluster.api.fail(On::List, Fault::Status(403));
    let setting = cluster.kubeconfig.setting().replace('}', ", initialListTimeout: 3s}");
    let setup = Setup::new().service_from("chat", CHAT).top(&setting);
    let proxy = setup.service("news", &[&cluster.pods[1]]).start_alive().await;
    assert!(!proxy.is_ready().await);
    wait_for("readiness without the list", async || proxy.is_ready().await).await;
    let ready = |line: &String| line.contains("ready without it") && line.contains("403");
    wait_for("the word about it", async || proxy.process.stderr().iter().any(ready)).await;
    proxy.wait_metric("podpin_discovery_connected", &[("service", "chat")], 0.0).await;
    let answer = proxy.admin_get("/readyz").await.text();
    assert!(answer.contains("chat") && !answer.contains("news"), "{answer}");
    let said = |line: &String| line.contains("chat") && (line.contains("WARN") || line.contains("ERROR"));
    assert!(proxy.process.stderr().iter().any(said), "{}", proxy.process.output());
    cluster.api.heal();
    proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready")]).await;
}

/// A start with two services of the cluster that nothing can be heard about, up to the word about it; the words on stderr.
async fn never_listed(cluster: &Cluster, reason: &str) -> Proxy {
    let setting = cluster.kubeconfig.setting().replace('}', ", initialListTimeout: 1s}");
    let setup = Setup::new().service_from("chat", CHAT).service_from("news", CHAT).top(&setting);
    let proxy = setup.start_alive().await;
    for service in ["chat", "news"] {
        let said =
            |line: &String| ["ERROR", "not ready", service, reason].iter().all(|word| line.contains(word));
        wait_for("the word that it is not ready", async || proxy.process.stderr().iter().any(said)).await;
    }
    let answer = proxy.admin_get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(["chat", "news", reason].iter().all(|word| answer.text().contains(word)), "{}", answer.text());
    let output = proxy.process.output();
    assert!(output.contains("no endpoints are known yet") && !output.contains("last known"), "{output}");
    proxy
}

#[tokio::test]
async fn a_replica_without_rights_is_never_ready_and_says_why() {
    let cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    cluster.api.fail(On::List, Fault::Status(403));
    let proxy = never_listed(&cluster, "403").await;
    cluster.api.heal();
    wait_for("readiness", async || proxy.is_ready().await).await;
    cluster.api.wait_watches(1).await;
    cluster.api.fail(On::List, Fault::Status(403));
    cluster.api.fail(On::Watch, Fault::Status(403));
    cluster.api.cut_watches(Cut::Expired);
    let kept = async || proxy.process.output().contains("the last known endpoints are kept");
    wait_for("the word that endpoints are kept", kept).await;
    assert!(proxy.is_ready().await);
}

#[tokio::test]
async fn a_replica_that_cannot_reach_the_api_server_is_not_ready_until_it_can() {
    let mut cluster = Cluster::ready(&["pod-a"]).await;
    cluster.api.stop().await;
    let proxy = never_listed(&cluster, "cannot be reached").await;
    cluster.api.start_again().await;
    wait_for("readiness", async || proxy.is_ready().await).await;
}

#[tokio::test]
async fn a_reload_does_not_make_a_replica_ready_that_never_had_a_list() {
    let cluster = Cluster::ready(&["pod-a"]).await;
    cluster.api.fail(On::List, Fault::Status(403));
    let proxy = never_listed(&cluster, "403").await;
    let setting = cluster.kubeconfig.setting().replace('}', ", initialListTimeout: 1s}");
    proxy.reload(&Setup::new().service_from("other", CHAT).top(&setting)).await;
    let answer = proxy.admin_get("/readyz").await;
    assert!(answer.status == 503 && answer.text().contains("other"), "{}", answer.text());
    cluster.api.heal();
    wait_for("readiness", async || proxy.is_ready().await).await;
}

#[tokio::test]
async fn a_service_without_slices_is_empty_and_ready() {
    let cluster = Cluster::new(&["pod-a"]).await;
    let proxy = cluster.setup().start().await;
    assert_eq!(proxy.get("/who").await.status, 503);
    cluster.api.put(&cluster.chat().pod(cluster.pod(0)));
    proxy.wait_endpoints("chat", &[("pod-a", "ready")]).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
}

#[tokio::test]
async fn an_api_server_that_comes_later_is_found() {
    let mut cluster = Cluster::ready(&["pod-a"]).await;
    cluster.api.stop().await;
    let proxy = cluster.setup().start_alive().await;
    assert!(!proxy.is_ready().await);
    assert_eq!(proxy.get("/who").await.status, 503);
    cluster.api.start_again().await;
    let there = Instant::now();
    wait_for("readiness", async || proxy.is_ready().await).await;
    assert!(there.elapsed() <= RECOVERY_MAX, "ready only {:?} after it was there", there.elapsed());
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
}

#[tokio::test]
async fn a_list_in_pages_is_read_to_its_end() {
    // Whether pages are asked for is the client's choice; with this many slices it may be worth it.
    let cluster = Cluster::new(&["pod-a"]).await;
    for number in 0..600_u16 {
        let [high, low] = number.to_be_bytes();
        let pod = SlicePod::new(&format!("pod-{number}"), [10, 8, high, low].into());
        cluster.api.put(&cluster.chat().name(&format!("chat-{number:03}")).pod(pod));
    }
    let proxy = cluster.setup().start().await;
    proxy.wait_metric("podpin_endpoints", &[("service", "chat"), ("state", "ready")], 600.0).await;
}

#[tokio::test]
async fn a_kubeconfig_that_is_not_there_is_an_exit_that_names_it() {
    let setup = Setup::new().service_from("chat", CHAT);
    let setup = setup.top("kubernetes: {kubeconfig: /nowhere/kubeconfig}");
    let directory = tempfile::tempdir().unwrap();
    let local = || ([127, 0, 0, 1], free_port()).into();
    let path = setup.write(directory.path(), local(), local());
    let mut process = Process::start(&["run", "--config", &path]);
    assert_eq!(process.wait_exit().await, 1);
    assert!(process.output().contains("/nowhere/kubeconfig"), "{}", process.output());
}

#[tokio::test]
async fn a_context_that_is_not_there_is_an_exit_that_names_it() {
    let cluster = Cluster::ready(&["pod-a"]).await;
    let setting = cluster.kubeconfig.setting().replace('}', ", context: elsewhere}");
    let setup = Setup::new().service_from("chat", CHAT).top(&setting);
    let directory = tempfile::tempdir().unwrap();
    let local = || ([127, 0, 0, 1], free_port()).into();
    let path = setup.write(directory.path(), local(), local());
    let mut process = Process::start(&["run", "--config", &path]);
    assert_eq!(process.wait_exit().await, 1);
    assert!(process.output().contains("elsewhere"), "{}", process.output());
}

#[tokio::test]
async fn a_token_file_is_rotated_while_running_over_tls() {
    let api = ApiServer::start_tls().await;
    api.require_token("first");
    let kubeconfig = api.kubeconfig();
    let pods = start_pods(&["pod-a", "pod-b"]).await;
    let port = pods[0].address().port();
    api.put(&Slice::of("chat", port).pod(SlicePod::of(&pods[0])));
    let proxy = Setup::new().service_from("chat", CHAT).top(&kubeconfig.setting()).start().await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
    api.wait_watches(1).await;
    api.require_token("second");
    kubeconfig.write_token("second");
    let rotated = Instant::now();
    api.cut_watches(Cut::Expired);
    api.put(&Slice::of("chat", port).pods(pods.iter().map(SlicePod::of)));
    wait_for("the new pod", async || {
        assert_eq!(proxy.get("/who").await.status, 200);
        proxy.endpoints("chat").await.len() == 2
    })
    .await;
    println!("fresh {:?} after the token was rotated", rotated.elapsed());
    let last = api.requests().pop().unwrap();
    assert_eq!(last.authorization.as_deref(), Some("Bearer second"));
    let most = api.most_within(Duration::from_secs(1), rotated);
    assert!(most <= super::REQUESTS_PER_SECOND_MAX, "{most} requests within a second");
}

#[tokio::test]
async fn an_api_server_with_a_certificate_of_a_stranger_is_not_believed() {
    let (ours, stranger) = (ApiServer::start_tls().await, ApiServer::start_tls().await);
    stranger.put(&Slice::of("chat", 9).pod(SlicePod::new("pod-x", [10, 0, 0, 1].into())));
    let text = std::fs::read_to_string(ours.kubeconfig().path()).unwrap();
    assert!(text.contains("certificate-authority"));
    let kubeconfig = ours.kubeconfig();
    let redirected = text.replace(&ours.address().to_string(), &stranger.address().to_string());
    // The first kubeconfig is gone with its files: the authority has to be the one of the second.
    let authority = kubeconfig.path().with_file_name("ca.crt").display().to_string();
    let start = redirected.find("certificate-authority: ").unwrap() + "certificate-authority: ".len();
    let end = start + redirected[start..].find('}').unwrap();
    let text = [&redirected[..start], &authority, &redirected[end..]].concat();
    std::fs::write(kubeconfig.path(), text).unwrap();
    let proxy = Setup::new().service_from("chat", CHAT).top(&kubeconfig.setting()).start_alive().await;
    wait_for("attempts", async || stranger.count(On::Connect) >= 2).await;
    assert!(!proxy.is_ready().await);
    assert!(stranger.requests().is_empty(), "nothing was said to a stranger");
}

#[tokio::test]
async fn the_metrics_of_discovery_have_the_names_types_and_labels_of_the_contract() {
    let cluster = Cluster::ready(&["pod-a"]).await;
    let proxy = cluster.setup().start().await;
    cluster.api.wait_watches(1).await;
    let metrics = proxy.metrics().await;
    let contract = [
        ("podpin_discovery_connected", "gauge", "service"),
        ("podpin_discovery_last_event_timestamp_seconds", "gauge", "service"),
        ("podpin_discovery_relists_total", "counter", "reason service"),
        ("podpin_endpoints", "gauge", "service state"),
    ];
    for (name, kind, labels) in contract {
        assert_eq!(metrics.kind(name), Some(kind), "{name}");
        assert_eq!(metrics.label_names(name).join(" "), labels, "{name}");
    }
    for reason in ["start", "expired", "error", "periodic", "malformed", "confirm"] {
        let labels = [("service", "chat"), ("reason", reason)];
        assert!(
            metrics.has("podpin_discovery_relists_total", &labels),
            "{reason} is not there before it moves"
        );
    }
    let heard = metrics.sum("podpin_discovery_last_event_timestamp_seconds", &[("service", "chat")]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - heard).abs() < 60.0, "{heard} is not about now ({now})");
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).unready()));
    proxy.wait_metric("podpin_endpoints", &[("service", "chat"), ("state", "resting")], 1.0).await;
}

#[tokio::test]
async fn a_bookmark_is_a_sign_of_life() {
    let cluster = Cluster::ready(&["pod-a"]).await;
    let proxy = cluster.setup().start().await;
    cluster.api.wait_watches(1).await;
    let labels = [("service", "chat")];
    let before = proxy.metric("podpin_discovery_last_event_timestamp_seconds", &labels).await;
    wait_for("a later sign of life", async || {
        cluster.api.bookmark();
        proxy.metric("podpin_discovery_last_event_timestamp_seconds", &labels).await > before
    })
    .await;
}
