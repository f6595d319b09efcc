//! The API server fails in every way that it can: no endpoint goes away, nothing spins, and what was missed is there
//! soon after it heals.

use std::time::{Duration, Instant};

use podpin_testkit::{ApiServer, Cut, Fault, On, Proxy, wait_for};

use super::{Cluster, RECOVERY_MAX, REQUESTS_PER_SECOND_MAX, relists, wait_relist};

/// How long each outage is watched: some turns of the watch loop, many of a hot one.
const OUTAGE: Duration = Duration::from_secs(2);

/// Fails lists and watches alike and cuts the watches that are open.
fn everything(api: &ApiServer, fault: &Fault) {
    api.fail(On::List, fault.clone());
    api.fail(On::Watch, fault.clone());
    api.cut_watches(Cut::Fin);
}

/// `pod-a` serves, the API server breaks, `pod-b` comes unseen, the API server heals, `pod-b` is seen.
async fn survives(break_it: impl FnOnce(&ApiServer)) -> (Cluster, Proxy) {
    let cluster = Cluster::new(&["pod-a", "pod-b"]).await;
    cluster.api.put(&cluster.chat().pod(cluster.pod(0)));
    let proxy = cluster.setup().start().await;
    cluster.api.wait_watches(1).await;
    let mut pinned = proxy.pinned_to("pod-a").await;
    let mut open = pinned.events("/events").await;
    let mut stream = cluster.pods[0].next_stream().await;
    assert_eq!(open.next_data().await, "pod-a");

    let broken = Instant::now();
    break_it(&cluster.api);
    cluster.api.put(&cluster.chat().pods(cluster.all()));
    stays(&proxy, broken).await;
    stream.event("through the outage").await;
    assert_eq!(open.next_data().await, "through the outage");

    cluster.api.heal();
    recovers(&proxy, &[("pod-a", "ready"), ("pod-b", "ready")]).await;
    let most = cluster.api.most_within(Duration::from_secs(1), broken);
    assert!(most <= REQUESTS_PER_SECOND_MAX, "{most} requests to the API server within a second");
    assert_eq!(pinned.get("/who").await.text(), "pod-a");
    (cluster, proxy)
}

/// For the length of an outage `pod-a` is listed as ready and serves.
async fn stays(proxy: &Proxy, since: Instant) {
    wait_for("the outage to have lasted", async || {
        let endpoints = proxy.endpoints("chat").await;
        let kept = endpoints.iter().any(|one| one["name"] == "pod-a" && one["state"] == "ready");
        assert!(kept, "pod-a is not ready any more: {endpoints:?}");
        assert_eq!(proxy.get("/who").await.status, 200);
        assert!(proxy.is_ready().await);
        since.elapsed() >= OUTAGE
    })
    .await;
}

/// These are the endpoints soon after now.
async fn recovers(proxy: &Proxy, expected: &[(&str, &str)]) {
    let healed = Instant::now();
    proxy.wait_endpoints("chat", expected).await;
    let took = healed.elapsed();
    println!("fresh {took:?} after it healed");
    assert!(took <= RECOVERY_MAX, "fresh only {took:?} after the API server healed");
    proxy.wait_metric("podpin_discovery_connected", &[("service", "chat")], 1.0).await;
}

#[tokio::test]
async fn unauthorized() {
    survives(|api| everything(api, &Fault::Status(401))).await;
}

#[tokio::test]
async fn forbidden() {
    survives(|api| everything(api, &Fault::Status(403))).await;
}

#[tokio::test]
async fn too_many_requests() {
    survives(|api| everything(api, &Fault::Status(429))).await;
}

#[tokio::test]
async fn internal_errors() {
    survives(|api| everything(api, &Fault::Status(500))).await;
}

#[tokio::test]
async fn unavailable() {
    survives(|api| everything(api, &Fault::Status(503))).await;
}

#[tokio::test]
async fn expired_as_a_status_of_lists_and_watches() {
    survives(|api| everything(api, &Fault::Status(410))).await;
}

#[tokio::test]
async fn watches_that_are_expired_as_a_status_while_lists_work() {
    survives(|api| {
        api.fail(On::Watch, Fault::Status(410));
        api.cut_watches(Cut::Fin);
    })
    .await;
}

#[tokio::test]
async fn watches_that_are_expired_as_an_event_while_lists_work() {
    let (_cluster, proxy) = survives(|api| {
        api.fail(On::Watch, Fault::ExpiredEvent);
        api.cut_watches(Cut::Expired);
    })
    .await;
    assert!(relists(&proxy, "expired").await >= 1.0);
}

#[tokio::test]
async fn watches_that_are_forbidden_while_lists_work() {
    survives(|api| {
        api.fail(On::Watch, Fault::Status(403));
        api.cut_watches(Cut::Fin);
    })
    .await;
}

#[tokio::test]
async fn watches_that_end_at_once() {
    survives(|api| {
        api.fail(On::Watch, Fault::EndAtOnce);
        api.cut_watches(Cut::Clean);
    })
    .await;
}

#[tokio::test]
async fn lists_that_end_at_once() {
    survives(|api| everything(api, &Fault::EndAtOnce)).await;
}

#[tokio::test]
async fn requests_that_hang_before_the_headers() {
    survives(|api| everything(api, &Fault::HangBeforeHeaders)).await;
}

#[tokio::test]
async fn requests_that_hang_after_the_headers() {
    survives(|api| everything(api, &Fault::HangAfterHeaders)).await;
}

#[tokio::test]
async fn connections_that_are_accepted_and_never_served() {
    survives(|api| {
        api.fail(On::Connect, Fault::HangBeforeHeaders);
        api.cut_watches(Cut::Reset);
    })
    .await;
}

#[tokio::test]
async fn connections_that_are_reset() {
    survives(|api| {
        api.fail(On::Connect, Fault::Reset);
        api.cut_watches(Cut::Reset);
    })
    .await;
}

#[tokio::test]
async fn requests_that_are_reset() {
    survives(|api| everything(api, &Fault::Reset)).await;
}

#[tokio::test]
async fn requests_that_are_closed_without_an_answer() {
    survives(|api| everything(api, &Fault::Close)).await;
}

#[tokio::test]
async fn answers_that_are_cut_in_the_middle() {
    survives(|api| everything(api, &Fault::Half)).await;
}

#[tokio::test]
async fn answers_that_are_not_json() {
    survives(|api| everything(api, &Fault::Garbage)).await;
}

#[tokio::test]
async fn answers_of_another_type() {
    survives(|api| everything(api, &Fault::WrongType)).await;
}

#[tokio::test]
async fn a_watch_that_ends_in_half_a_line() {
    survives(|api| {
        api.fail(On::Watch, Fault::Half);
        api.cut_watches(Cut::HalfLine);
    })
    .await;
}

#[tokio::test]
async fn a_slow_api_server() {
    survives(|api| everything(api, &Fault::SlowDrip { bytes: 16, every: Duration::from_millis(10) })).await;
}

#[tokio::test]
async fn lists_that_are_empty_by_mistake_are_not_believed_until_they_are_confirmed() {
    let cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    let proxy = cluster.setup().start().await;
    cluster.api.wait_watches(1).await;
    let before = cluster.api.count(On::List);
    cluster.api.fail_once(On::List, Fault::EmptyList);
    cluster.api.cut_watches(Cut::Expired);
    wait_for("the second list", async || {
        assert_eq!(proxy.endpoints("chat").await.len(), 2, "an empty list was believed at once");
        cluster.api.count(On::List) >= before + 2
    })
    .await;
    wait_relist(&proxy, "confirm").await;
    cluster.api.wait_watches(1).await;
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    proxy.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "ready")]).await;
}

#[tokio::test]
async fn a_service_that_was_emptied_during_an_outage_is_empty_after_a_second_list() {
    let mut cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    let proxy = cluster.setup().start().await;
    cluster.api.stop().await;
    proxy.wait_metric("podpin_discovery_connected", &[("service", "chat")], 0.0).await;
    cluster.api.put(&cluster.chat());
    cluster.api.expire();
    cluster.api.start_again().await;
    proxy.wait_endpoints("chat", &[]).await;
    wait_relist(&proxy, "confirm").await;
    assert_eq!(proxy.get("/who").await.status, 503);
}

#[tokio::test]
async fn a_restart_of_the_api_server_with_changes_in_between() {
    let mut cluster = Cluster::ready(&["pod-a", "pod-b", "pod-c"]).await;
    let proxy = cluster.setup().start().await;
    cluster.api.wait_watches(1).await;
    let stopped = Instant::now();
    cluster.api.stop().await;
    cluster.api.put(&cluster.chat().pods([cluster.pod(0), cluster.pod(1).terminating()]));
    cluster.api.expire();
    stays(&proxy, stopped).await;
    assert_eq!(proxy.endpoints("chat").await.len(), 3);
    proxy.wait_metric("podpin_discovery_connected", &[("service", "chat")], 0.0).await;
    cluster.api.start_again().await;
    recovers(&proxy, &[("pod-a", "ready"), ("pod-b", "draining")]).await;
    let most = cluster.api.most_within(Duration::from_secs(1), stopped);
    assert!(most <= REQUESTS_PER_SECOND_MAX, "{most} requests within a second");
}

#[tokio::test]
async fn a_restarted_api_server_that_refuses_a_valid_account_for_a_moment_is_not_given_up() {
    let mut cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    let proxy = cluster.setup().start().await;
    cluster.api.wait_watches(1).await;
    cluster.api.stop().await;
    cluster.api.fail_once(On::List, Fault::Status(403));
    cluster.api.fail_once(On::Watch, Fault::Status(403));
    cluster.api.start_again().await;
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    proxy.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "ready")]).await;
}

#[tokio::test]
async fn an_expired_version_is_relisted_at_once() {
    let cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    let proxy = cluster.setup().start().await;
    cluster.api.wait_watches(1).await;
    cluster.api.cut_watches(Cut::Expired);
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    recovers(&proxy, &[("pod-a", "draining"), ("pod-b", "ready")]).await;
    assert_eq!(relists(&proxy, "expired").await, 1.0);
    cluster.api.wait_watches(1).await;
}

#[tokio::test]
async fn a_watch_that_ends_cleanly_is_resumed_without_a_list() {
    let cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    let proxy = cluster.setup().start().await;
    cluster.api.wait_watches(1).await;
    let lists = cluster.api.count(On::List);
    cluster.api.bookmark();
    cluster.api.cut_watches(Cut::Clean);
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    recovers(&proxy, &[("pod-a", "draining"), ("pod-b", "ready")]).await;
    assert_eq!(cluster.api.count(On::List), lists, "the watch could resume");
}

/// How long such a watch stays deaf is the business of the periodic relist, minutes away; here something else asks for
/// the list.
#[tokio::test]
async fn a_list_that_is_older_than_the_last_one_is_the_truth_after_a_restored_backup() {
    let cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    let backup = cluster.api.backup();
    for round in 0..5 {
        cluster.api.put(&cluster.chat().pods(cluster.all()).name(&format!("chat-x{round}")));
    }
    let proxy = cluster.setup().start().await;
    cluster.api.wait_watches(1).await;
    cluster.api.restore(&backup);
    cluster.api.put(&cluster.all_but(0, cluster.pod(0).terminating()));
    wait_for("the watch that is deaf", async || cluster.api.watches().len() == 1).await;
    proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready")]).await;
    cluster.api.send_line("{{{");
    proxy.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "ready")]).await;
    wait_for("a watch from the older version", async || cluster.api.watches().len() == 1).await;
    cluster.api.put(&cluster.chat().pod(cluster.pod(1)));
    proxy.wait_endpoints("chat", &[("pod-b", "ready")]).await;
}
