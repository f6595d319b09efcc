//! Drains under bad circumstances: endpoints that flap, drains that cross, replicas that start in between.

use podpin_testkit::{EndpointsFile, Pod, Request, Setup, StreamAnswer};

const HANDOVER: &str = "drain: {handover: lastEventId, spread: 0s, handoverTimeout: 2s}";

async fn pods(names: [&str; 2]) -> [Pod; 2] {
    let pods = [Pod::start(names[0]).await, Pod::start(names[1]).await];
    pods.iter().for_each(|pod| pod.answer("/events", StreamAnswer::new()));
    pods
}

fn listed<'a>(pods: &'a [Pod; 2], states: [&'a str; 2]) -> Vec<(&'a str, std::net::SocketAddr, &'a str)> {
    pods.iter().zip(states).map(|(pod, state)| (pod.name(), pod.address(), state)).collect()
}

#[tokio::test]
async fn a_pod_that_flaps_keeps_its_streams() {
    let pods = pods(["pod-a", "pod-b"]).await;
    let file = EndpointsFile::with(&listed(&pods, ["ready", "notReady"]));
    // Streams leave over twenty seconds: those of a drain that is taken back at once stay.
    let proxy = Setup::new().service_in("chat", &file).with("drain: {handover: lastEventId}").start().await;
    let mut client = proxy.visitor().events("/events").await;
    let mut stream = pods[0].next_stream().await;
    for round in 0..6 {
        for (own, other, shown) in
            [("draining", "ready", ["draining", "ready"]), ("ready", "notReady", ["ready", "resting"])]
        {
            file.write(&listed(&pods, [own, other]));
            proxy.wait_endpoints("chat", &[("pod-a", shown[0]), ("pod-b", shown[1])]).await;
        }
        stream.event_with_id(&round.to_string(), "x").await;
        assert_eq!(client.next_event().await.id, round.to_string());
    }
    assert_eq!(proxy.metric("podpin_streams_closed_total", &[("service", "chat")]).await, 0.0);
}

#[tokio::test]
async fn a_stream_goes_there_and_back_when_two_drains_cross() {
    let pods = pods(["pod-a", "pod-b"]).await;
    let file = EndpointsFile::with(&listed(&pods, ["ready", "notReady"]));
    let proxy = Setup::new().service_in("chat", &file).with(HANDOVER).start().await;
    let mut visitor = proxy.visitor();
    let mut client = visitor.events("/events").await;
    let mut stream = pods[0].next_stream().await;
    let mut states = ["draining", "ready"];
    for round in 1..=4 {
        stream.event_with_id(&round.to_string(), "x").await;
        assert_eq!(client.next_event().await.id, round.to_string());
        file.write(&listed(&pods, states));
        stream = pods[round % 2].next_stream().await;
        states.reverse();
    }
    stream.event_with_id("5", "x").await;
    assert_eq!(client.next_event().await.id, "5");
    // Requests are where the stream is, with the first cookie and with the last.
    assert_eq!(visitor.get("/who").await.text(), "pod-a");
    assert_eq!(proxy.metric("podpin_streams_closed_total", &[("service", "chat")]).await, 0.0);
}

#[tokio::test]
async fn a_replica_that_starts_in_the_middle_of_a_rollout_sends_no_one_to_what_leaves() {
    let pods = pods(["chat-old", "chat-new"]).await;
    let line = |pod: &Pod, state: &str, generation: &str| {
        let (name, address) = (pod.name(), pod.address());
        format!("- {{name: {name}, address: \"{address}\", state: {state}, generation: \"{generation}\"}}\n")
    };
    let list = |old: &str, new: &str| [line(&pods[0], old, "1"), line(&pods[1], new, "2")].concat();
    let file = EndpointsFile::absent();
    file.write_text(&line(&pods[0], "ready", "1"));
    let setup = Setup::new().service_in("chat", &file).with(HANDOVER);
    let one = setup.start().await;
    let visitor = one.pinned_to("chat-old").await;
    file.write_text(&list("ready", "ready"));
    one.wait_endpoints("chat", &[("chat-new", "ready"), ("chat-old", "ready")]).await;
    file.write_text(&list("draining", "ready"));
    one.wait_endpoints("chat", &[("chat-new", "ready"), ("chat-old", "draining")]).await;
    let late = setup.start().await;
    for replica in [&one, &late] {
        let mut events = visitor.at(replica.address).events("/events").await;
        let mut stream = pods[1].next_stream().await;
        stream.event_with_id("1", "x").await;
        assert_eq!(events.next_event().await.id, "1");
    }
    assert!(pods[0].waiting_streams().await.is_empty());
}

#[tokio::test]
async fn a_client_that_comes_back_to_another_replica_is_counted_there() {
    let pods = pods(["pod-a", "pod-b"]).await;
    let file = EndpointsFile::with(&listed(&pods, ["ready", "notReady"]));
    let setup = Setup::new().service_in("chat", &file).with("drain: {spread: 0s}");
    let (one, other) = (setup.start().await, setup.start().await);
    let mut visitor = one.visitor();
    let mut client = visitor.events("/events").await;
    let _stream = pods[0].next_stream().await;
    file.write(&listed(&pods, ["draining", "ready"]));
    client.rest().await;
    other.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "ready")]).await;
    let returned = [("outcome", "returned")];
    let again = Request::events("/events").header("Last-Event-ID", "7");
    let _client = visitor.at(other.address).open(again.clone()).await;
    other.wait_metric("podpin_reconnects_total", &returned, 1.0).await;
    // A new client, and one whose pin holds, are none.
    let mut fresh = other.visitor();
    let _fresh = fresh.open(again.clone()).await;
    let _pinned = fresh.open(again).await;
    other.wait_metric("podpin_streams_opened_total", &[("service", "chat")], 3.0).await;
    assert_eq!(other.metric("podpin_reconnects_total", &returned).await, 1.0);
    assert_eq!(one.metric("podpin_reconnects_total", &returned).await, 0.0);
}
