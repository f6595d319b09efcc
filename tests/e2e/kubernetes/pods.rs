//! When a terminating pod will be killed: as `/api/endpoints` shows it, and that nothing else depends on the right to
//! read Pods.

use std::time::{Duration, Instant};

use podpin_testkit::{
    Cut, Ending, Fault, Item, On, PodObject, Proxy, Setup, SlicePod, wait_for, wait_for_some,
};
use serde_json::Value;

use super::{Cluster, RECOVERY_MAX, REQUESTS_PER_SECOND_MAX};

/// As [`super::CHAT`], with pods.
const CHAT: &str = "{kubernetes: {namespace: lab, service: chat, port: http, pods: true}}";

/// Deadlines come from whole seconds through two clocks and back; they are shown with milliseconds.
const ROUNDING: f64 = 0.1;

/// Three pods, ready in a slice and there as objects.
async fn three() -> Cluster {
    let cluster = Cluster::ready(&["pod-a", "pod-b", "pod-c"]).await;
    for pod in cluster.all() {
        cluster.api.put_pod(&PodObject::of(&pod));
    }
    cluster
}

fn setup(cluster: &Cluster) -> Setup {
    Setup::new().service_from("chat", CHAT).top(&cluster.kubeconfig.setting())
}

async fn endpoint(proxy: &Proxy, name: &str) -> Value {
    let endpoints = proxy.endpoints("chat").await;
    endpoints.into_iter().find(|one| one["name"] == name).unwrap_or_default()
}

/// Seconds since midnight of a time in RFC 3339, UTC, and its date.
fn time(text: &str) -> (&str, f64) {
    let (date, time) = text.strip_suffix('Z').unwrap().split_once('T').unwrap();
    let parts: Vec<f64> = time.split(':').map(|part| part.parse().unwrap()).collect();
    (date, parts[0] * 3_600.0 + parts[1] * 60.0 + parts[2])
}

/// Whether two times are no more than so many seconds apart; midnight may lie between them.
fn is_about(shown: &str, expected: &str, within: f64) -> bool {
    let apart = (time(shown).1 - time(expected).1).abs();
    apart < within || (time(shown).0 != time(expected).0 && 86_400.0 - apart < within)
}

/// Waits until the pod's deadline is shown as this.
async fn shows(proxy: &Proxy, name: &str, expected: Option<&str>) {
    shows_within(proxy, name, expected, ROUNDING).await;
}

async fn shows_within(proxy: &Proxy, name: &str, expected: Option<&str>, seconds: f64) {
    let what = format!("the deadline of {name} to be {expected:?}");
    wait_for(&what, async || {
        let shown = endpoint(proxy, name).await;
        match (shown.get("deadline"), expected) {
            (Some(Value::String(shown)), Some(expected)) => is_about(shown, expected, seconds),
            (Some(Value::Null), None) => true,
            _ => false,
        }
    })
    .await;
}

/// Returns the number of failures to read pods so far.
async fn failures(proxy: &Proxy) -> f64 {
    proxy.metric("podpin_discovery_errors_total", &[("service", "chat"), ("reason", "pods")]).await
}

const DRAINING: [(&str, &str); 3] = [("pod-a", "draining"), ("pod-b", "ready"), ("pod-c", "ready")];

#[tokio::test]
async fn a_deleted_pod_shows_its_deadline_which_moves_when_the_grace_is_shortened() {
    let cluster = three().await;
    let proxy = setup(&cluster).start().await;
    cluster.api.wait_watches(2).await;
    shows(&proxy, "pod-a", None).await;
    let deadline = cluster.api.delete_pod("pod-a", Duration::from_secs(60));
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    proxy.wait_endpoints("chat", &DRAINING).await;
    shows(&proxy, "pod-a", Some(&deadline)).await;
    let since = endpoint(&proxy, "pod-a").await["since"].clone();
    let sooner = cluster.api.delete_pod("pod-a", Duration::from_secs(20));
    assert!(sooner < deadline);
    shows(&proxy, "pod-a", Some(&sooner)).await;
    let last = cluster.api.delete_pod("pod-a", Duration::ZERO);
    // Now, without its milliseconds; the proxy's clock begins with the proxy, which may be within that second.
    shows_within(&proxy, "pod-a", Some(&last), 1.0 + ROUNDING).await;
    assert_eq!(endpoint(&proxy, "pod-a").await["since"], since, "the state is the same");
    shows(&proxy, "pod-b", None).await;
    cluster.api.put(&cluster.chat().pods([cluster.pod(1), cluster.pod(2)]));
    proxy.wait_endpoints("chat", &[("pod-b", "ready"), ("pod-c", "ready")]).await;
    assert_eq!(failures(&proxy).await, 0.0);
}

#[tokio::test]
async fn whichever_of_slice_and_pod_is_heard_of_first_the_deadline_is_there_in_the_end() {
    let cluster = three().await;
    let proxy = setup(&cluster).start().await;
    cluster.api.wait_watches(2).await;
    // First the slice.
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    proxy.wait_endpoints("chat", &DRAINING).await;
    shows(&proxy, "pod-a", None).await;
    let first = cluster.api.delete_pod("pod-a", Duration::from_secs(30));
    shows(&proxy, "pod-a", Some(&first)).await;
    // First the pod: it is ready until the slice says otherwise.
    let second = cluster.api.delete_pod("pod-b", Duration::from_secs(40));
    shows(&proxy, "pod-b", Some(&second)).await;
    proxy.wait_endpoints("chat", &DRAINING).await;
    let both = [cluster.pod(0).terminating(), cluster.pod(1).terminating(), cluster.pod(2)];
    cluster.api.put(&cluster.chat().pods(both));
    proxy.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "draining"), ("pod-c", "ready")]).await;
    shows(&proxy, "pod-a", Some(&first)).await;
    shows(&proxy, "pod-b", Some(&second)).await;
    // Another life under the same name has nothing of it.
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).uid("uid-second-life")));
    wait_for_some("the second life", async || {
        (endpoint(&proxy, "pod-a").await["uid"] == "uid-second-life").then_some(())
    })
    .await;
    shows(&proxy, "pod-a", None).await;
}

#[tokio::test]
async fn without_the_right_to_read_pods_everything_else_works_and_it_is_counted_and_logged_once() {
    let cluster = three().await;
    cluster.api.fail(On::ListPods, Fault::Status(403));
    let proxy = setup(&cluster).start().await;
    let labels = [("service", "chat"), ("reason", "pods")];
    proxy.wait_metric_at_least("podpin_discovery_errors_total", &labels, 3.0).await;
    proxy.wait_metric("podpin_discovery_connected", &[("service", "chat")], 1.0).await;
    assert!(proxy.is_ready().await);
    let mut pinned = proxy.pinned_to("pod-a").await;
    cluster.api.delete_pod("pod-a", Duration::from_secs(600));
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    proxy.wait_endpoints("chat", &DRAINING).await;
    shows(&proxy, "pod-a", None).await;
    assert_ne!(pinned.get("/who").await.text(), "pod-a");
    let said: Vec<String> = proxy.process.stderr().into_iter().filter(|line| line.contains("403")).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    for part in ["WARN", "Pods cannot be followed", "lab", "list and watch on the resource pods"] {
        assert!(said[0].contains(part), "{part} is not in {said:?}");
    }
    assert_eq!((cluster.api.count(On::List), cluster.api.count(On::Watch)), (1, 1));
    assert_eq!(proxy.metric("podpin_discovery_connected", &[("service", "chat")]).await, 1.0);
    // A right that is given later is noticed.
    let later = cluster.api.delete_pod("pod-a", Duration::from_secs(60));
    cluster.api.heal();
    shows(&proxy, "pod-a", Some(&later)).await;
}

#[tokio::test]
async fn a_list_of_pods_that_never_comes_keeps_nobody_from_being_ready() {
    let cluster = three().await;
    cluster.api.fail(On::ListPods, Fault::HangBeforeHeaders);
    let proxy = setup(&cluster).start().await;
    assert!(proxy.is_ready().await);
    wait_for("the list to hang", async || cluster.api.count(On::ListPods) == 1).await;
    assert_eq!(proxy.get("/who").await.status, 200);
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    proxy.wait_endpoints("chat", &DRAINING).await;
    proxy.wait_metric("podpin_discovery_connected", &[("service", "chat")], 1.0).await;
}

#[tokio::test]
async fn what_was_deleted_while_the_api_server_restarted_has_its_deadline_afterwards() {
    let mut cluster = three().await;
    let proxy = setup(&cluster).start().await;
    cluster.api.wait_watches(2).await;
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    let first = cluster.api.delete_pod("pod-a", Duration::from_secs(300));
    shows(&proxy, "pod-a", Some(&first)).await;
    let stopped = Instant::now();
    cluster.api.stop().await;
    let both = [cluster.pod(0).terminating(), cluster.pod(1).terminating(), cluster.pod(2)];
    cluster.api.put(&cluster.chat().pods(both));
    let second = cluster.api.delete_pod("pod-b", Duration::from_secs(200));
    cluster.api.expire();
    let labels = [("service", "chat"), ("reason", "pods")];
    proxy.wait_metric_at_least("podpin_discovery_errors_total", &labels, 3.0).await;
    shows(&proxy, "pod-a", Some(&first)).await;
    cluster.api.start_again().await;
    let back = Instant::now();
    shows(&proxy, "pod-b", Some(&second)).await;
    shows(&proxy, "pod-a", Some(&first)).await;
    assert!(back.elapsed() <= RECOVERY_MAX, "only after {:?}", back.elapsed());
    proxy.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "draining"), ("pod-c", "ready")]).await;
    proxy.wait_metric("podpin_discovery_connected", &[("service", "chat")], 1.0).await;
    // Two loops ask.
    let most = cluster.api.most_within(Duration::from_secs(1), stopped);
    assert!(most <= 2 * REQUESTS_PER_SECOND_MAX, "{most} requests within a second");
}

#[tokio::test]
async fn a_service_that_does_not_want_pods_makes_no_request_for_them() {
    let cluster = three().await;
    let proxy = cluster.setup().start().await;
    cluster.api.wait_watches(1).await;
    cluster.api.delete_pod("pod-a", Duration::from_secs(30));
    cluster.api.cut_watches(Cut::Expired);
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    proxy.wait_endpoints("chat", &DRAINING).await;
    assert_eq!(endpoint(&proxy, "pod-a").await.get("deadline"), Some(&Value::Null), "it is there, and null");
    let asked = cluster.api.requests();
    assert!(asked.iter().all(|one| matches!(one.on, On::List | On::Watch)), "{asked:?}");
    assert_eq!(failures(&proxy).await, 0.0);
}

/// Prints what it measures. The pods as they stand in the API server are 20 MiB.
#[tokio::test]
async fn ten_thousand_pods_of_a_namespace_cost_little() {
    const PODS: usize = 10_000;
    const GROWTH_BYTES_MAX: u64 = 6 << 20;
    let cluster = three().await;
    let without = cluster.setup().start().await;
    cluster.api.wait_watches(1).await;
    for number in 0..PODS {
        cluster.api.put_pod(&PodObject::new(&format!("job-{number:05}")));
    }
    let proxy = setup(&cluster).start().await;
    cluster.api.wait_watches(3).await;
    let lists = cluster.api.count(On::ListPods);
    let (least, listed) = (without.process.memory_bytes(), proxy.process.memory_bytes());
    // Each of them changes once, and then one of ours goes.
    let changed = Instant::now();
    for number in 0..PODS {
        cluster.api.put_pod(&PodObject::new(&format!("job-{number:05}")));
    }
    let deadline = cluster.api.delete_pod("pod-a", Duration::from_secs(30));
    shows(&proxy, "pod-a", Some(&deadline)).await;
    let took = changed.elapsed();
    let after = proxy.process.memory_bytes();
    println!(
        "{PODS} pods: {} KiB without, {} KiB listed in {lists} pages, {} KiB after as many changes in {took:?}",
        least >> 10,
        listed >> 10,
        after >> 10
    );
    assert!(after <= least + GROWTH_BYTES_MAX, "{least} without, {after} with");
    assert_eq!(lists, PODS.div_ceil(500) + 1, "pages of 500; three pods are ours");
    assert_eq!(cluster.api.count(On::ListPods), lists, "changes bring no list");
    let stranger = SlicePod::new("pod-x", [127, 0, 0, 99].into());
    cluster.api.put(&cluster.chat().pod(stranger));
    proxy.wait_endpoints("chat", &[("pod-x", "ready")]).await;
}

#[tokio::test]
async fn streams_have_left_before_their_pod_is_killed() {
    let cluster = three().await;
    // The test's patience is 10 s: without the pod's own deadline it would be over before the first stream leaves.
    let setup = setup(&cluster).with("balance: {strategy: random}");
    let proxy = setup.with("drain: {spread: 2m, timeout: 5m, margin: 2s}").start().await;
    cluster.api.wait_watches(2).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(proxy.pinned_to("pod-a").await.events("/events").await);
    }
    let asked = Instant::now();
    cluster.api.delete_pod("pod-a", Duration::from_secs(5));
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    for client in &mut clients {
        let (items, ending) = client.rest().await;
        assert!(matches!(items.last(), Some(Item::Retry(1_000..=10_000))), "{items:?}");
        assert_eq!(ending, Ending::Clean);
    }
    // Killed 5 s after the deletion, with whole seconds on the way; what is later than that is the machine's business.
    assert!(asked.elapsed() < Duration::from_secs(8), "after {:?}", asked.elapsed());
    let polite = [("service", "chat"), ("kind", "polite")];
    proxy.wait_metric("podpin_drain_departures_total", &polite, 5.0).await;
}
