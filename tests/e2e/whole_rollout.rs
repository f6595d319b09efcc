//! A rolling update behind two replicas of the proxy, of streams most of which have nothing to say: none of them notices, and each
//! session is at one pod afterwards.

use std::collections::BTreeMap;

use podpin_testkit::{EndpointsFile, EventStream, Pod, PodStream, Proxy, Setup, StreamAnswer, Visitor};

const STREAMS: usize = 60;
/// Number of streams of which a single one has shown an event.
const SILENT: usize = 10;

/// A client with its stream.
struct Client {
    visitor: Visitor,
    events: EventStream,
}

async fn pod(name: &str) -> Pod {
    let pod = Pod::start(name).await;
    pod.answer("/events", StreamAnswer::new());
    pod
}

/// The lines of an endpoints file; "" leaves a pod out.
fn lines(pods: &[Pod], states: [&str; 3], generation: &str) -> String {
    let listed = pods.iter().zip(states).filter(|(_, state)| !state.is_empty());
    let line = |(pod, state): (&Pod, &str)| {
        let (name, address) = (pod.name(), pod.address());
        format!("- {{name: {name}, address: \"{address}\", state: {state}, generation: \"{generation}\"}}\n")
    };
    listed.map(line).collect()
}

/// Opens all streams, in turn at each replica; one in so many gets an event.
async fn open_all(replicas: &[Proxy; 2], old: &[Pod]) -> (Vec<Client>, Vec<PodStream>) {
    let (mut clients, mut streams) = (Vec::new(), Vec::new());
    for number in 0..STREAMS {
        let mut visitor = replicas[number % 2].visitor();
        let mut events = visitor.events("/events").await;
        let mut stream = tokio::select! {
            stream = old[0].next_stream() => stream,
            stream = old[1].next_stream() => stream,
            stream = old[2].next_stream() => stream,
        };
        if number % SILENT == 0 {
            stream.event_with_id("1", "x").await;
            assert_eq!(events.next_event().await.id, "1");
        }
        clients.push(Client { visitor, events });
        streams.push(stream);
    }
    (clients, streams)
}

#[tokio::test]
async fn a_whole_rollout_disconnects_none_and_leaves_each_session_at_one_pod() {
    let old = [pod("old-a").await, pod("old-b").await, pod("old-c").await];
    let new = [pod("new-a").await, pod("new-b").await, pod("new-c").await];
    let (mut before, mut after) = (["ready"; 3], [""; 3]);
    let file = EndpointsFile::absent();
    file.write_text(&lines(&old, before, "1"));
    let setup = Setup::new().service_in("chat", &file).with("balance: {slowStart: off}");
    let setup = setup.with("drain: {handover: lastEventId, spread: 500ms, handoverTimeout: 5s}");
    let replicas = [setup.start().await, setup.start().await];
    let (mut clients, streams) = open_all(&replicas, &old).await;
    for at in 0..3 {
        for (own, next) in [("ready", "ready"), ("draining", "ready"), ("", "ready")] {
            (before[at], after[at]) = (own, next);
            file.write_text(&[lines(&old, before, "1"), lines(&new, after, "2")].concat());
            if own == "draining" {
                for replica in &replicas {
                    let left = [("service", "chat"), ("endpoint", old[at].name())];
                    replica.wait_metric("podpin_streams_active", &left, 0.0).await;
                }
            }
        }
    }
    drop(streams);
    let mut at = BTreeMap::new();
    let mut moved = Vec::new();
    for pod in &new {
        let mut streams = pod.waiting_streams().await;
        at.insert(pod.name(), streams.len());
        for stream in &mut streams {
            stream.event_with_id("2", pod.name()).await;
        }
        moved.extend(streams);
    }
    assert_eq!(moved.len(), STREAMS, "one move for each: {at:?}");
    assert!(at.values().all(|count| *count * 3 * 100 <= STREAMS * 115), "{at:?}");
    for Client { visitor, events } in &mut clients {
        let home = events.next_event().await.data;
        for replica in &replicas {
            assert_eq!(visitor.at(replica.address).get("/who").await.text(), home);
        }
    }
    for replica in &replicas {
        assert_eq!(replica.metric("podpin_streams_closed_total", &[]).await, 0.0);
        assert_eq!(replica.metric("podpin_reconnects_total", &[("outcome", "lost")]).await, 0.0);
        let ok = replica.metric("podpin_handovers_total", &[("result", "ok")]).await;
        assert_eq!(ok, f64::from(u32::try_from(STREAMS / 2).unwrap()));
        assert_eq!(replica.metric("podpin_handovers_total", &[]).await, ok, "none failed");
    }
}
