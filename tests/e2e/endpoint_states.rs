//! The endpoints file: its states, its changes, its mishaps.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use podpin_testkit::{EndpointsFile, Pod, Process, Request, Setup, free_port};

const STATES: &str = "podpin_endpoints";

fn listed<'a>(pods: &'a [Pod], states: &[&'a str]) -> Vec<(&'a str, SocketAddr, &'a str)> {
    pods.iter().zip(states).map(|(pod, state)| (pod.name(), pod.address(), *state)).collect()
}

/// Four pods, so that the choice of a successor is a choice.
async fn four() -> Vec<Pod> {
    let mut pods = Vec::from(Pod::start_three().await);
    let fourth = Pod::start("pod-d").await;
    fourth.greet("/events");
    pods.push(fourth);
    pods
}

#[tokio::test]
async fn a_draining_pod_gets_no_new_clients_and_its_own_move_where_every_proxy_says() {
    let pods = four().await;
    let file = EndpointsFile::with(&listed(&pods, &["ready"; 4]));
    let setup = Setup::new().service_in("chat", &file).with("balance: {slowStart: off}");
    let (one, other) = (setup.start().await, setup.start().await);
    let mut visitors = Vec::new();
    for _ in 0..6 {
        visitors.push(one.pinned_to("pod-a").await);
    }
    file.write(&listed(&pods, &["draining", "ready", "ready", "ready"]));
    one.wait_metric(STATES, &[("state", "draining")], 1.0).await;
    other.wait_metric(STATES, &[("state", "draining")], 1.0).await;
    for visitor in &mut visitors {
        let here = visitor.clone().events("/events").await.next_data().await;
        let there = visitor.at(other.address).get("/who").await.text();
        assert_eq!(here, there, "two proxies move one client to two pods");
        assert_ne!(here, "pod-a");
        let moved = visitor.get("/who").await;
        assert_eq!((moved.text(), moved.header("set-cookie").is_some()), (here.clone(), true));
        assert_eq!(visitor.get("/who").await.header("set-cookie"), None, "the new pin holds");
    }
    one.wait_metric("podpin_affinity_repins_total", &[("service", "chat"), ("reason", "draining")], 12.0)
        .await;
    let told = |pod: &Pod| {
        pod.requests().iter().any(|request| request.header("x-podpin-repinned") == Some("draining"))
    };
    assert!(pods.iter().any(told));
    let before = pods[0].requests().len();
    for _ in 0..20 {
        one.get("/who").await;
    }
    assert_eq!(pods[0].requests().len(), before, "a draining pod got a new client");
}

#[tokio::test]
async fn a_pod_that_is_not_ready_or_gone_moves_its_clients() {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&listed(&pods, &["ready"; 3]));
    let proxy = Setup::new().service_in("chat", &file).start().await;
    let mut unready = proxy.pinned_to("pod-a").await;
    let mut gone = proxy.pinned_to("pod-b").await;
    file.write(&[("pod-a", pods[0].address(), "notReady"), ("pod-c", pods[2].address(), "ready")]);
    proxy.wait_metric(STATES, &[("state", "resting")], 1.0).await;
    proxy.wait_endpoints("chat", &[("pod-a", "resting"), ("pod-c", "ready")]).await;
    assert_eq!(unready.get("/who").await.text(), "pod-c");
    assert_eq!(gone.get("/who").await.text(), "pod-c");
    let told =
        pods[2].requests().into_iter().filter_map(|one| one.header("x-podpin-repinned").map(str::to_owned));
    assert_eq!(told.collect::<Vec<_>>(), ["unready", "gone"]);
    proxy.wait_metric("podpin_affinity_repins_total", &[("reason", "unready")], 1.0).await;
    proxy.wait_metric("podpin_affinity_repins_total", &[("reason", "gone")], 1.0).await;
}

#[tokio::test]
async fn a_stream_in_flight_is_not_touched_by_changes_that_do_not_concern_it() {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&listed(&pods, &["ready", "ready", "ready"]));
    let proxy = Setup::new().service_in("chat", &file).start().await;
    let mut visitor = proxy.pinned_to("pod-a").await;
    let mut client = visitor.events("/events").await;
    let mut stream = pods[0].next_stream().await;
    file.write(&listed(&pods, &["ready", "draining", "notReady"]));
    proxy.wait_metric(STATES, &[("state", "ready")], 1.0).await;
    stream.event("still here").await;
    assert_eq!(client.next_data().await, "pod-a");
    assert_eq!(client.next_data().await, "still here");
}

#[tokio::test]
async fn the_stream_of_an_endpoint_that_left_the_list_is_still_counted() {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&listed(&pods[..2], &["ready"; 2]));
    let proxy = Setup::new().service_in("chat", &file).start().await;
    let mut client = proxy.pinned_to("pod-a").await.events("/events").await;
    let mut stream = pods[0].next_stream().await;
    assert_eq!(client.next_data().await, "pod-a");
    let labels = |state| [("service", "chat"), ("endpoint", "pod-a"), ("state", state)];
    proxy.wait_metric("podpin_streams_active", &labels("active"), 1.0).await;
    file.write(&listed(&pods[1..2], &["ready"]));
    proxy.wait_endpoints("chat", &[("pod-b", "ready")]).await;
    let metrics = proxy.metrics().await;
    assert_eq!(metrics.sum("podpin_streams_active", &labels("draining")), 1.0);
    assert_eq!(metrics.sum("podpin_streams_active", &[]), 1.0, "counted once");
    stream.event("still here").await;
    assert_eq!(client.next_data().await, "still here");
    drop(client);
    proxy.wait_metric("podpin_streams_active", &[], 0.0).await;
}

#[tokio::test]
async fn a_mounted_config_map_that_is_swapped_is_read_again() {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::absent();
    file.swap(&listed(&pods[..1], &["ready"]));
    let proxy = Setup::new().service_in("chat", &file).start().await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
    for pod in [&pods[1], &pods[2], &pods[0]] {
        let swapped = Instant::now();
        file.swap(&[(pod.name(), pod.address(), "ready")]);
        proxy.wait_endpoints("chat", &[(pod.name(), "ready")]).await;
        // Far below any polling of contents: the change itself must have been noticed.
        assert!(swapped.elapsed() < Duration::from_secs(2), "noticed after {:?}", swapped.elapsed());
        assert_eq!(proxy.get("/who").await.text(), pod.name());
    }
}

#[tokio::test]
async fn an_empty_list_counts_at_once() {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&listed(&pods, &["ready"]));
    let proxy = Setup::new().service_in("chat", &file).start().await;
    assert_eq!(proxy.get("/who").await.status, 200);
    file.write(&[]);
    proxy.wait_metric(STATES, &[("service", "chat")], 0.0).await;
    let refused = proxy.get("/who").await;
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    assert!(proxy.is_ready().await, "an empty list is a list");
    proxy.wait_metric("podpin_refusals_total", &[("service", "chat"), ("kind", "no_endpoint")], 1.0).await;
}

#[tokio::test]
async fn a_missing_file_is_not_ready_until_it_comes() {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::absent();
    let proxy = Setup::new().service_in("chat", &file).start_alive().await;
    assert_eq!(proxy.admin_get("/readyz").await.status, 503);
    assert_eq!(proxy.get("/who").await.status, 503);
    proxy.wait_metric("podpin_discovery_connected", &[("service", "chat")], 0.0).await;
    assert!(proxy.process.stderr().concat().contains("endpoints.yaml"), "{:?}", proxy.process.stderr());
    file.write(&listed(&pods, &["ready"]));
    podpin_testkit::wait_for("readiness", async || proxy.is_ready().await).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
    proxy.wait_metric("podpin_discovery_connected", &[("service", "chat")], 1.0).await;
}

#[tokio::test]
async fn a_file_that_is_garbled_later_changes_nothing_but_a_metric() {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&listed(&pods, &["ready"]));
    let proxy = Setup::new().service_in("chat", &file).start().await;
    let connected = ("podpin_discovery_connected", [("service", "chat")]);
    for garbage in ["- {name: pod-a, address: nowhere}\n", "{{{", "- name: [\n", "", "just words", "- 7\n"] {
        file.write_text(garbage);
        proxy.wait_metric(connected.0, &connected.1, 0.0).await;
        assert_eq!(proxy.get("/who").await.text(), "pod-a", "{garbage:?}");
        file.write(&listed(&pods, &["ready"]));
        proxy.wait_metric(connected.0, &connected.1, 1.0).await;
    }
    let labels = [("service", "chat"), ("reason", "garbled")];
    proxy.wait_metric("podpin_discovery_errors_total", &labels, 6.0).await;
    file.write_text("{{{");
    proxy.wait_metric(connected.0, &connected.1, 0.0).await;
    file.write(&listed(&pods[1..], &["ready"]));
    proxy.wait_endpoints("chat", &[("pod-b", "ready")]).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-b");
    proxy.wait_metric(connected.0, &connected.1, 1.0).await;
}

#[tokio::test]
async fn a_file_that_vanishes_later_changes_nothing() {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&listed(&pods, &["ready"]));
    let proxy = Setup::new().service_in("chat", &file).start().await;
    file.remove();
    proxy.wait_metric("podpin_discovery_connected", &[("service", "chat")], 0.0).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
    file.write(&listed(&pods[2..], &["ready"]));
    proxy.wait_endpoints("chat", &[("pod-c", "ready")]).await;
}

#[tokio::test]
async fn a_file_that_is_garbled_at_the_start_is_an_exit_with_its_line() {
    let file = EndpointsFile::absent();
    file.write_text("- {name: pod-a, address: \"127.0.0.1:1\"}\n- {name: pod-b, address: nowhere}\n");
    let directory = tempfile::tempdir().unwrap();
    let local = || ([127, 0, 0, 1], free_port()).into();
    let path = Setup::new().service_in("chat", &file).write(directory.path(), local(), local());
    let mut process = Process::start(&["run", "--config", &path]);
    assert_eq!(process.wait_exit().await, 1);
    let output = process.output();
    assert!(output.contains("endpoints.yaml:2:"), "{output}");
}

#[tokio::test]
async fn requests_keep_flowing_while_the_list_changes() {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&listed(&pods, &["ready"; 3]));
    let proxy = Setup::new().service_in("chat", &file).start().await;
    for round in 0..10 {
        let mut states = ["ready"; 3];
        states[round % 3] = ["draining", "notReady"][round % 2];
        file.write(&listed(&pods, &states));
        for _ in 0..10 {
            assert_eq!(Request::get("/who").send(proxy.address).await.status, 200);
        }
    }
}
