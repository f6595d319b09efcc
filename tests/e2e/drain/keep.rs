//! `drain.pinned: keep`: clients may stay on a pod that drains as long as it serves, and not longer than it has.

use std::time::{Duration, Instant};

use podpin_testkit::{ApiServer, EndpointsFile, Pod, Setup, Slice, SlicePod, start_pods};

use crate::crowd::{BALANCE, Client, Left, all, crowd, listed, streams, watch};

#[tokio::test]
async fn kept_clients_come_back_to_their_pod_until_its_last_departures() {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&listed(&pods[..1], &["ready"]));
    let line = "drain: {pinned: keep, spread: 1s, timeout: 4s}";
    let proxy = Setup::new().service_in("chat", &file).with(line).with(BALANCE).start().await;
    let mut returning = Client::of(&proxy).await;
    let watched = watch(streams(crowd(&proxy, 40).await));
    let mut open = pods[0].next_stream().await;
    let began = Instant::now();
    file.write(&listed(&pods, &["draining", "ready", "ready"]));
    proxy.wait_metric("podpin_endpoints", &[("state", "draining")], 1.0).await;
    open.event("still here").await;
    assert_eq!(returning.stream.next_data().await, "still here");
    let tab = Client::back(returning.visitor.clone()).await;
    assert_eq!(tab.pod, "pod-a");
    assert_eq!(returning.visitor.get("/who").await.text(), "pod-a");
    assert_eq!(tab.stream.header("set-cookie"), None);
    assert!(pods[0].requests().iter().all(|request| request.header("x-podpin-repinned").is_none()));
    for client in crowd(&proxy, 10).await {
        assert_ne!(client.pod, "pod-a", "a new client is not kept");
    }
    let left = all(watched).await;
    let first = left.iter().map(|one| one.at).min().unwrap() - began;
    assert!(first > Duration::from_millis(2_500), "the first left after {first:?}");
    assert!(left.iter().all(|one| one.goodbye().is_empty()));
    let returning_left = Left::of(returning.stream).await;
    assert!(returning_left.goodbye().is_empty());
    assert!(Left::of(tab.stream).await.goodbye().is_empty());
    assert_ne!(
        Client::back(returning.visitor).await.pod,
        "pod-a",
        "the time of the last departures has come"
    );
}

#[tokio::test]
async fn kept_clients_move_when_their_pod_stops_serving() {
    let api = ApiServer::start().await;
    let kubeconfig = api.kubeconfig();
    let pods = start_pods(&["pod-a", "pod-b"]).await;
    let slice =
        |first: SlicePod| Slice::of("chat", pods[0].address().port()).pods([first, SlicePod::of(&pods[1])]);
    api.put(&slice(SlicePod::of(&pods[0])));
    let setup =
        Setup::new().service_from("chat", "{kubernetes: {namespace: lab, service: chat, port: http}}");
    let setup = setup.with("drain: {pinned: keep, spread: 300ms, timeout: 60s}").with(BALANCE);
    let proxy = setup.with("sse: {keepAlive: off}").top(&kubeconfig.setting()).start().await;
    let mut client = Client::on(&proxy, "pod-a").await;
    let mut open = pods[0].next_stream().await;
    api.put(&slice(SlicePod::of(&pods[0]).terminating()));
    proxy.wait_metric("podpin_endpoints", &[("state", "draining")], 1.0).await;
    assert_eq!(Client::back(client.visitor.clone()).await.pod, "pod-a", "it still serves");
    open.event("still here").await;
    assert_eq!(client.stream.next_data().await, "still here");
    api.put(&slice(SlicePod::of(&pods[0]).ending()));
    let visitor = client.visitor.clone();
    assert!(client.left().await.goodbye().is_empty());
    assert_eq!(Client::back(visitor).await.pod, "pod-b");
    let told = pods[1].requests();
    assert_eq!(told.last().unwrap().header("x-podpin-repinned"), Some("draining"));
}
