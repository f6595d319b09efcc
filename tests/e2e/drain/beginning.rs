//! The causes for streams to leave, the order among them, and the causes to stay.

use podpin_testkit::{
    Answer, ApiServer, EndpointsFile, Item, Pod, Request, Setup, Slice, SlicePod, start_pods, wait_for,
};

use crate::crowd::{BALANCE, Client, all, crowd, listed, operate, streams, tell_all, watch};

const DRAIN: &str = "drain: {spread: 500ms, timeout: 5s}";

#[tokio::test]
async fn streams_of_a_pod_that_a_file_says_drains_leave_and_those_of_others_go_on() {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&listed(&pods, &["ready"; 3]));
    let proxy = Setup::new().service_in("chat", &file).with(DRAIN).with(BALANCE).start().await;
    let (leaving, mut staying): (Vec<_>, Vec<_>) =
        crowd(&proxy, 30).await.into_iter().partition(|client| client.pod == "pod-a");
    assert!(!leaving.is_empty() && staying.len() >= 10);
    let leaving = watch(streams(leaving));
    file.write(&listed(&pods, &["draining", "ready", "ready"]));
    for left in all(leaving).await {
        assert!(left.goodbye().is_empty(), "{:?}", left.items);
    }
    tell_all(&pods[1], "all").await;
    tell_all(&pods[2], "all").await;
    for client in &mut staying {
        assert_eq!(client.stream.next().await.unwrap(), Item::Event(event("all")));
    }
    for client in crowd(&proxy, 10).await {
        assert_ne!(client.pod, "pod-a", "a draining pod got a new client");
    }
}

fn event(data: &str) -> podpin_testkit::Event {
    podpin_testkit::Event { data: data.to_owned(), ..Default::default() }
}

#[tokio::test]
async fn streams_of_a_pod_that_is_taken_off_the_list_leave() {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&listed(&pods, &["ready"; 3]));
    let proxy = Setup::new().service_in("chat", &file).with(DRAIN).with(BALANCE).start().await;
    let client = Client::on(&proxy, "pod-a").await;
    let mut other = Client::on(&proxy, "pod-b").await;
    file.write(&listed(&pods[1..], &["ready"; 2]));
    assert!(client.left().await.goodbye().is_empty());
    pods[1].next_stream().await.event("still here").await;
    assert_eq!(other.stream.next_data().await, "still here");
}

#[tokio::test]
async fn streams_of_a_terminating_pod_of_the_cluster_leave() {
    let api = ApiServer::start().await;
    let kubeconfig = api.kubeconfig();
    let pods = start_pods(&["pod-a", "pod-b"]).await;
    let slice = || Slice::of("chat", pods[0].address().port());
    api.put(&slice().pods(pods.iter().map(SlicePod::of)));
    let setup =
        Setup::new().service_from("chat", "{kubernetes: {namespace: lab, service: chat, port: http}}");
    let proxy = setup.with(DRAIN).with(BALANCE).top(&kubeconfig.setting()).start().await;
    let client = Client::on(&proxy, "pod-a").await;
    let mut other = Client::on(&proxy, "pod-b").await;
    api.put(&slice().pods([SlicePod::of(&pods[0]).terminating(), SlicePod::of(&pods[1])]));
    assert!(client.left().await.goodbye().is_empty());
    pods[1].next_stream().await.event("still here").await;
    assert_eq!(other.stream.next_data().await, "still here");
    proxy.wait_metric("podpin_drain_departures_total", &[("kind", "polite")], 1.0).await;
}

#[tokio::test]
async fn a_drain_by_hand_names_the_endpoint_or_its_uid_and_gets_its_object() {
    let api = ApiServer::start().await;
    let kubeconfig = api.kubeconfig();
    let pods = start_pods(&["pod-a", "pod-b", "pod-c"]).await;
    api.put(&Slice::of("chat", pods[0].address().port()).pods(pods.iter().map(SlicePod::of)));
    let setup =
        Setup::new().service_from("chat", "{kubernetes: {namespace: lab, service: chat, port: http}}");
    let proxy = setup.with(DRAIN).with(BALANCE).top(&kubeconfig.setting()).start().await;
    for (called, name) in [("pod-a", "pod-a"), ("uid-pod-b", "pod-b")] {
        let client = Client::on(&proxy, name).await;
        let answer = operate(&proxy, called, "drain").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let object = answer.json();
        assert_eq!((&object["name"], &object["state"]), (&name.into(), &"draining".into()), "{object}");
        assert_eq!((&object["uid"], &object["streams"]), (&format!("uid-{name}").into(), &1.into()));
        let listed = proxy.endpoints("chat").await;
        assert!(listed.iter().any(|one| one["name"] == name && one["state"] == "draining"), "{listed:?}");
        assert!(client.left().await.goodbye().is_empty());
    }
    for client in crowd(&proxy, 5).await {
        assert_eq!(client.pod, "pod-c");
    }
}

#[tokio::test]
async fn an_operation_on_what_is_not_there_is_404_and_another_method_405() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0]]).start().await;
    let post = |path: &str| Request::new("POST", path).body("");
    let cases = [
        (post("/api/endpoints/chat/pod-z/drain"), 404),
        (post("/api/endpoints/chat/pod-z/undrain"), 404),
        (post("/api/endpoints/news/pod-a/drain"), 404),
        (post("/api/endpoints/chat/pod-a/restart"), 404),
        (Request::get("/api/endpoints/chat/pod-a/drain"), 405),
        (Request::get("/api/endpoints/chat/pod-a/undrain"), 405),
        (Request::new("DELETE", "/api/endpoints/chat/pod-a/drain"), 405),
    ];
    for (request, status) in cases {
        let answer = request.clone().header("Connection", "close").send(proxy.admin).await;
        assert_eq!(answer.status, status, "{request:?}");
        assert!(answer.json()["error"].is_string(), "{request:?}: {}", answer.text());
    }
    assert_eq!(proxy.endpoints("chat").await[0]["state"], "ready");
}

#[tokio::test]
async fn an_undrain_stops_the_departures_and_lets_new_clients_in() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1]]).with("drain: {spread: 60s, timeout: 60s}").with(BALANCE);
    let proxy = setup.with("sse: {keepAlive: 1s}").start().await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(Client::on(&proxy, "pod-a").await);
    }
    let mut streams_there = pods[0].waiting_streams().await;
    assert_eq!(operate(&proxy, "pod-a", "drain").await.status, 200);
    let labels = [("service", "chat"), ("endpoint", "pod-a")];
    proxy.wait_metric_at_least("podpin_streams_closed_total", &[("reason", "drain")], 1.0).await;
    let answer = operate(&proxy, "pod-a", "undrain").await;
    assert_eq!((answer.status, answer.json()["state"].clone()), (200, "ready".into()), "{}", answer.text());
    let closed = proxy.metric("podpin_streams_closed_total", &[("reason", "drain")]).await;
    // At one a second, some would have left meanwhile; one may have been on its way.
    proxy.pass_keep_alives("/silent", 3).await;
    let after = proxy.metric("podpin_streams_closed_total", &[("reason", "drain")]).await;
    assert!(after <= closed + 1.0 && after < 4.0, "{closed} and then {after} left");
    let mut told = 0.0;
    for stream in &mut streams_there {
        told += f64::from(u8::from(stream.try_send(b"data: stay\n\n").await));
    }
    assert_eq!(told, 60.0 - after);
    proxy.wait_metric("podpin_streams_active", &[labels[0], labels[1], ("state", "active")], told).await;
    let back = Client::on(&proxy, "pod-a").await;
    assert_eq!(back.pod, "pod-a", "new clients come again");
    // Drained again, the others are told as well.
    assert_eq!(operate(&proxy, "pod-a", "drain").await.status, 200);
    proxy.wait_metric_at_least("podpin_streams_closed_total", &[("reason", "drain")], after + 1.0).await;
}

#[tokio::test]
async fn a_stream_that_begins_after_its_pod_left_the_list_leaves_as_well() {
    let pods = Pod::start_three().await;
    pods[0].answer("/events", Answer::ByHand);
    let file = EndpointsFile::with(&listed(&pods[..1], &["ready"]));
    let proxy = Setup::new().service_in("chat", &file).with(DRAIN).start().await;
    let mut connection = proxy.connect().await;
    connection.send(Request::events("/events").bytes()).await;
    let mut stream = pods[0].next_stream().await;
    file.write(&listed(&pods[1..], &["ready"; 2]));
    proxy.wait_endpoints("chat", &[("pod-b", "ready"), ("pod-c", "ready")]).await;
    stream.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: late\n\n").await;
    let head = connection.head().await;
    let left = crate::crowd::Left::of(connection.into_events(head)).await;
    assert_eq!(left.goodbye(), [Item::Event(event("late"))]);
}

#[tokio::test]
async fn a_stream_that_begins_on_a_pod_that_drains_already_leaves_as_well() {
    let pods = Pod::start_three().await;
    pods[0].answer("/late", Answer::ByHand);
    let file = EndpointsFile::with(&listed(&pods[..1], &["ready"]));
    let proxy = Setup::new().service_in("chat", &file).with(DRAIN).start().await;
    let early = Client::of(&proxy).await;
    let mut connection = proxy.connect().await;
    connection.send(Request::events("/late").bytes()).await;
    let mut stream = wait_for_late(&pods[0]).await;
    file.write(&listed(&pods, &["draining", "ready", "ready"]));
    assert!(early.left().await.goodbye().is_empty());
    wait_for("the drain to be over", async || {
        proxy.metric("podpin_drain_streams_remaining", &[("endpoint", "pod-a")]).await == 0.0
    })
    .await;
    stream.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: late\n\n").await;
    let head = connection.head().await;
    let left = crate::crowd::Left::of(connection.into_events(head)).await;
    assert_eq!(left.goodbye(), [Item::Event(event("late"))]);
    proxy.wait_metric("podpin_drain_departures_total", &[("kind", "polite")], 2.0).await;
}

async fn wait_for_late(pod: &Pod) -> podpin_testkit::PodStream {
    loop {
        let stream = pod.next_stream().await;
        if stream.request.path() == "/late" {
            return stream;
        }
    }
}
