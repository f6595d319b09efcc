//! Handover: a stream goes on at another pod inside the same response, planned or after a death.

mod crowd;
mod deadlines;
mod ids;
mod joins;
mod many;
mod overlap;
mod patience;
mod redis;
mod replay;
mod silent;
mod trouble;

use podpin_testkit::{
    Answer, Ending, EndpointsFile, EventStream, H2Connection, Item, Pod, PodStream, Proxy, Reply, Request,
    Setup, StreamAnswer, Visitor, wait_for,
};

/// Departures begin at once, and a successor has little time.
const QUICK: &str = "drain: {handover: lastEventId, spread: 0s, handoverTimeout: 2s}";
const HANDOVERS: &str = "podpin_handovers_total";
const OPENED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Pods with silent streams, listed in a file, behind a proxy.
struct Scene {
    pods: Vec<Pod>,
    file: EndpointsFile,
    proxy: Proxy,
}

/// A client's stream, and the pod's end of it.
struct Open {
    client: EventStream,
    stream: PodStream,
    at: usize,
    visitor: Visitor,
}

impl Scene {
    async fn new(count: usize, lines: &[&str]) -> Scene {
        let names = ["pod-a", "pod-b", "pod-c"];
        let mut pods = Vec::new();
        for name in names.iter().take(count) {
            let pod = Pod::start(name).await;
            pod.answer("/events", StreamAnswer::new());
            pods.push(pod);
        }
        let file = EndpointsFile::with(&states(&pods, &["ready"; 3]));
        let setup = Setup::new().service_in("chat", &file).with("balance: {slowStart: off}");
        let setup = lines.iter().fold(setup, |setup, line| setup.with(line)).h2c();
        let proxy = setup.start().await;
        Scene { pods, file, proxy }
    }

    /// Opens a stream; whichever pod got it answers.
    async fn open(&self) -> Open {
        let mut visitor = self.proxy.visitor();
        let client = visitor.events("/events").await;
        let before: Vec<usize> = self.pods.iter().map(|pod| pod.requests().len()).collect();
        let at = before.iter().position(|count| *count > 0).expect("a pod was asked");
        let stream = self.pods[at].next_stream().await;
        Open { client, stream, at, visitor }
    }

    fn drain(&self, at: usize) {
        let mut all = ["ready"; 3];
        all[at] = "draining";
        self.file.write(&states(&self.pods, &all));
    }

    /// Makes all pods say that the stream is over for good.
    fn is_over(&self) {
        self.pods.iter().for_each(|pod| pod.answer("/events", Reply::new(204)));
    }

    async fn wait_join(&self, result: &str, count: f64) {
        let labels = [("service", "chat"), ("result", result)];
        self.proxy.wait_metric("podpin_handover_joins_total", &labels, count).await;
    }

    async fn wait_handover(&self, cause: &str, result: &str, count: f64) {
        let labels = [("service", "chat"), ("cause", cause), ("result", result)];
        self.proxy.wait_metric(HANDOVERS, &labels, count).await;
    }
}

fn states<'a>(pods: &'a [Pod], all: &[&'a str]) -> Vec<(&'a str, std::net::SocketAddr, &'a str)> {
    pods.iter().zip(all).map(|(pod, state)| (pod.name(), pod.address(), *state)).collect()
}

/// The next stream that any of `pods` but the one at `not` is asked for.
async fn successor(pods: &[Pod], not: usize) -> (usize, PodStream) {
    let others: Vec<usize> = (0..pods.len()).filter(|at| *at != not).collect();
    let [one, rest @ ..] = others.as_slice() else { panic!("no other pod") };
    match rest {
        [] => (*one, pods[*one].next_stream().await),
        [other, ..] => tokio::select! {
            stream = pods[*one].next_stream() => (*one, stream),
            stream = pods[*other].next_stream() => (*other, stream),
        },
    }
}

async fn ids(client: &mut EventStream, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(client.next_event().await.id);
    }
    ids
}

#[tokio::test]
async fn a_stream_of_a_draining_pod_goes_on_at_its_successor_in_the_same_response() {
    let scene = Scene::new(3, &[QUICK]).await;
    let Open { mut client, mut stream, at, mut visitor } = scene.open().await;
    for id in ["1", "2"] {
        stream.event_with_id(id, "x").await;
    }
    assert_eq!(ids(&mut client, 2).await, ["1", "2"]);
    scene.drain(at);
    let (to, mut next) = successor(&scene.pods, at).await;
    assert_eq!(next.request.header("last-event-id"), Some("2"));
    assert_eq!(next.request.header("x-podpin-repinned"), Some("draining"));
    assert_eq!(next.request.header("x-podpin-session"), stream.request.header("x-podpin-session"));
    assert_eq!(next.request.header("accept"), Some("text/event-stream"));
    stream.client_gone().await;
    // One event too many, as a pod that replays generously.
    next.event_with_id("2", "x").await;
    next.event_with_id("3", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["3"]);
    scene.wait_handover("planned", "ok", 1.0).await;
    let departures = [("service", "chat"), ("kind", "handover")];
    scene.proxy.wait_metric("podpin_drain_departures_total", &departures, 1.0).await;
    scene.proxy.wait_metric("podpin_handover_duplicates_dropped_total", &[], 1.0).await;
    assert_eq!(
        visitor.get("/who").await.text(),
        scene.pods[to].name(),
        "all its other requests go there, too"
    );
    scene.is_over();
    next.finish().await;
    assert_eq!(client.rest().await, (vec![], Ending::Clean));
    let line = scene.proxy.access_log_line(|line| line["path"] == "/events").await;
    assert_eq!(line["endpointsBefore"], serde_json::json!([scene.pods[at].name()]), "{line}");
    assert_eq!(line["endpoint"], scene.pods[to].name(), "{line}");
}

#[tokio::test]
async fn a_half_event_of_the_old_pod_is_dropped_and_comes_whole_from_the_successor() {
    let scene = Scene::new(2, &[QUICK]).await;
    let Open { mut client, mut stream, at, .. } = scene.open().await;
    stream.event_with_id("1", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["1"]);
    stream.send("id: 2\ndata: ha").await;
    scene.drain(at);
    let (_, mut next) = successor(&scene.pods, at).await;
    next.event_with_id("2", "whole").await;
    assert_eq!(client.next_event().await.data, "whole");
    assert!(!client.text().contains("data: ha\n"), "{}", client.text());
}

#[tokio::test]
async fn the_old_pod_flows_until_the_successor_has_answered() {
    let scene = Scene::new(2, &[QUICK]).await;
    let Open { mut client, mut stream, at, .. } = scene.open().await;
    stream.event_with_id("1", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["1"]);
    scene.pods[1 - at].answer("/events", Answer::ByHand);
    scene.drain(at);
    let (_, mut next) = successor(&scene.pods, at).await;
    for id in ["2", "3"] {
        stream.event_with_id(id, "x").await;
    }
    assert_eq!(ids(&mut client, 2).await, ["2", "3"]);
    next.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    stream.client_gone().await;
    next.send("id: 2\ndata: x\n\nid: 3\ndata: x\n\nid: 4\ndata: x\n\n").await;
    assert_eq!(ids(&mut client, 1).await, ["4"]);
}

#[tokio::test]
async fn a_stream_that_breaks_goes_on_whatever_it_was_in_the_middle_of() {
    for ending in ["fin", "rst", "half event", "half chunk"] {
        let scene = Scene::new(2, &[QUICK]).await;
        let Open { mut client, mut stream, at, .. } = scene.open().await;
        stream.event_with_id("1", "x").await;
        assert_eq!(ids(&mut client, 1).await, ["1"]);
        match ending {
            "half event" => stream.send("id: 2\ndata: ha").await,
            "half chunk" => stream.raw("1").await,
            _ => {}
        }
        if ending == "rst" {
            stream.reset();
        } else {
            stream.close();
        }
        // The pod itself is well, and all other requests of this client go there.
        let mut next = scene.pods[at].next_stream().await;
        assert_eq!(next.request.header("last-event-id"), Some("1"), "{ending}");
        assert_eq!(next.request.header("x-podpin-repinned"), None, "{ending}");
        next.event_with_id("2", "whole").await;
        assert_eq!(client.next_event().await.data, "whole", "{ending}");
        scene.wait_handover("crash", "ok", 1.0).await;
        let errors = [("service", "chat"), ("kind", "reset")];
        scene.proxy.wait_metric("podpin_upstream_errors_total", &errors, 1.0).await;
    }
}

#[tokio::test]
async fn streams_of_a_pod_that_is_gone_without_a_word_go_on_elsewhere() {
    let mut scene = Scene::new(3, &[QUICK]).await;
    let Open { mut client, mut stream, at, mut visitor } = scene.open().await;
    stream.event_with_id("1", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["1"]);
    drop(scene.pods.remove(at));
    let (to, mut next) = successor(&scene.pods, usize::MAX).await;
    assert_eq!(next.request.header("last-event-id"), Some("1"));
    assert_eq!(next.request.header("x-podpin-repinned"), Some("unready"));
    next.event_with_id("2", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["2"]);
    assert_eq!(visitor.get("/who").await.text(), scene.pods[to].name());
}

#[tokio::test]
async fn a_clean_end_of_a_ready_pod_is_passed_on_if_the_pod_means_it() {
    for goodbye in ["204", "no handover", "nothing more"] {
        let scene = Scene::new(1, &[QUICK]).await;
        if goodbye == "no handover" {
            scene.pods[0].answer("/events", StreamAnswer::new().header("X-Podpin-Handover", "no"));
        }
        let Open { mut client, mut stream, .. } = scene.open().await;
        stream.event_with_id("1", "x").await;
        if goodbye == "204" {
            scene.is_over();
        }
        stream.finish().await;
        if goodbye == "nothing more" {
            for _ in 0..2 {
                let again = scene.pods[0].next_stream().await;
                assert_eq!(again.request.header("last-event-id"), Some("1"));
                again.finish().await;
            }
        }
        let (items, ending) = client.rest().await;
        assert_eq!((items.len(), ending), (1, Ending::Clean), "{goodbye}: {items:?}");
    }
}

#[tokio::test]
async fn a_pod_that_ends_its_streams_before_discovery_knows_is_replaced() {
    let scene = Scene::new(3, &[QUICK]).await;
    let Open { mut client, mut stream, at, .. } = scene.open().await;
    stream.event_with_id("1", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["1"]);
    // It is ready as far as discovery knows, takes one more stream, and ends that as well.
    stream.finish().await;
    scene.pods[at].next_stream().await.finish().await;
    let (_, mut next) = successor(&scene.pods, at).await;
    assert_eq!(next.request.header("last-event-id"), Some("1"));
    next.event_with_id("2", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["2"]);
    scene.wait_handover("planned", "ok", 2.0).await;
}

#[tokio::test]
async fn without_an_id_there_is_a_goodbye_or_an_honest_death() {
    let scene = Scene::new(2, &[QUICK]).await;
    let mut planned = scene.open().await;
    planned.stream.event("x").await;
    assert_eq!(planned.client.next_data().await, "x");
    scene.drain(planned.at);
    let (items, ending) = planned.client.rest().await;
    assert!(matches!(items.as_slice(), [Item::Retry(1_000..=10_000)]), "{items:?}");
    assert_eq!(ending, Ending::Clean);
    scene.wait_handover("planned", "no_id", 1.0).await;
    let polite = [("service", "chat"), ("kind", "polite")];
    scene.proxy.wait_metric("podpin_drain_departures_total", &polite, 1.0).await;
    let mut client = planned.visitor.events("/events").await;
    let mut stream = scene.pods[1 - planned.at].next_stream().await;
    stream.event("y").await;
    assert_eq!(client.next_data().await, "y");
    stream.reset();
    assert_ne!(client.rest().await.1, Ending::Clean);
    scene.wait_handover("crash", "no_id", 1.0).await;
}

#[tokio::test]
async fn an_application_can_keep_its_stream_where_it_is() {
    let scene = Scene::new(2, &[QUICK]).await;
    for pod in &scene.pods {
        pod.answer("/events", StreamAnswer::new().header("X-Podpin-Handover", "no"));
    }
    let mut open = scene.open().await;
    assert_eq!(open.client.header("x-podpin-handover"), None, "that is between the pod and us");
    open.stream.event_with_id("1", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["1"]);
    scene.drain(open.at);
    let (items, ending) = open.client.rest().await;
    assert!(matches!(items.as_slice(), [Item::Retry(_)]), "{items:?}");
    assert_eq!(ending, Ending::Clean);
    assert_eq!(scene.pods[1 - open.at].requests().len(), 0);
}

#[tokio::test]
async fn a_successor_that_says_204_ends_the_stream() {
    let scene = Scene::new(2, &[QUICK]).await;
    let mut open = scene.open().await;
    open.stream.event_with_id("1", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["1"]);
    scene.pods[1 - open.at].answer("/events", Reply::new(204));
    scene.drain(open.at);
    assert_eq!(open.client.rest().await, (vec![], Ending::Clean));
    scene.wait_handover("planned", "refused", 1.0).await;
}

#[tokio::test]
async fn a_successor_that_refuses_is_replaced_by_another() {
    let refusals: [Answer; 4] = [
        Reply::new(503).into(),
        Reply::new(200).header("Content-Type", "text/html").body("no").into(),
        Answer::Close,
        Answer::Reset,
    ];
    for refusal in refusals {
        let scene = Scene::new(3, &[QUICK]).await;
        let mut open = scene.open().await;
        open.stream.event_with_id("1", "x").await;
        assert_eq!(ids(&mut open.client, 1).await, ["1"]);
        let others: Vec<usize> = (0..3).filter(|at| *at != open.at).collect();
        for at in &others {
            scene.pods[*at].answer_once("/events", refusal.clone());
        }
        scene.drain(open.at);
        // Each refuses once; then one of them is asked again, and the stream flows meanwhile.
        let (_, mut next) = successor(&scene.pods, open.at).await;
        let asked: usize = others.iter().map(|at| scene.pods[*at].requests().len()).sum();
        assert!(asked >= 3, "{refusal:?}: {asked}");
        next.event_with_id("2", "x").await;
        assert_eq!(ids(&mut open.client, 1).await, ["2"], "{refusal:?}");
        scene.wait_handover("planned", "ok", 1.0).await;
        assert_eq!(scene.proxy.metric(HANDOVERS, &[]).await, 1.0, "{refusal:?}");
    }
}

#[tokio::test]
async fn a_successor_that_is_silent_is_given_up_and_the_next_one_asked() {
    let scene = Scene::new(3, &["drain: {handover: lastEventId, spread: 0s, handoverTimeout: 200ms}"]).await;
    let mut open = scene.open().await;
    open.stream.event_with_id("1", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["1"]);
    for pod in &scene.pods {
        pod.answer_once("/events", Answer::ByHand);
    }
    scene.drain(open.at);
    let (first, _silent) = successor(&scene.pods, open.at).await;
    let second = 3 - open.at - first;
    let _also_silent = scene.pods[second].next_stream().await;
    let (_, mut next) = successor(&scene.pods, open.at).await;
    next.event_with_id("2", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["2"]);
}

#[tokio::test]
async fn two_failing_pods_do_not_play_a_stream_against_each_other() {
    let limit = "drain: {handover: lastEventId, handoversPerStream: {limit: 3, window: 1h}}";
    let scene = Scene::new(1, &[limit]).await;
    let mut open = scene.open().await;
    for id in 1..=4 {
        open.stream.event_with_id(&id.to_string(), "x").await;
        assert_eq!(ids(&mut open.client, 1).await, [id.to_string()]);
        open.stream.reset();
        if id == 4 {
            break;
        }
        open.stream = scene.pods[0].next_stream().await;
    }
    assert_ne!(open.client.rest().await.1, Ending::Clean);
    scene.wait_handover("crash", "ok", 3.0).await;
    scene.wait_handover("crash", "limit", 1.0).await;
}

#[tokio::test]
async fn over_http2_it_is_the_same() {
    let scene = Scene::new(2, &[QUICK]).await;
    let mut connection = H2Connection::open(scene.proxy.address).await;
    let mut client = connection.events(&Request::events("/events")).await;
    let at = usize::from(scene.pods[0].requests().is_empty());
    let mut stream = scene.pods[at].next_stream().await;
    stream.event_with_id("1", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["1"]);
    scene.drain(at);
    let (to, mut next) = successor(&scene.pods, at).await;
    next.event_with_id("2", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["2"]);
    // Its pod was drained by hand and is back; then the other one dies.
    scene.file.write(&states(&scene.pods, &["ready", "ready"]));
    scene.proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready")]).await;
    next.send("id: 3\ndata: ha").await;
    next.reset();
    let mut again = scene.pods[to].next_stream().await;
    assert_eq!(again.request.header("last-event-id"), Some("2"));
    again.event_with_id("3", "whole").await;
    assert_eq!(client.next_event().await.data, "whole");
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_it_takes_the_attempt_along() {
    let scene = Scene::new(2, &[QUICK]).await;
    let Open { mut client, mut stream, at, .. } = scene.open().await;
    stream.event_with_id("1", "x").await;
    assert_eq!(ids(&mut client, 1).await, ["1"]);
    scene.pods[1 - at].answer("/events", Answer::ByHand);
    scene.drain(at);
    let (_, mut next) = successor(&scene.pods, at).await;
    drop(client);
    stream.client_gone().await;
    next.client_gone().await;
    scene.proxy.wait_metric("podpin_streams_active", &[], 0.0).await;
    wait_for("both places to be free", async || {
        scene.proxy.endpoints("chat").await.iter().all(|endpoint| endpoint["streams"] == 0)
    })
    .await;
}

#[tokio::test]
async fn streams_move_to_a_pod_that_joins_when_that_is_wished() {
    let lines = ["drain: {handover: lastEventId}"];
    let mut scene = Scene::new(1, &lines).await;
    // `balance` is written by the scene; rebalancing needs its own.
    scene.proxy = {
        let setup = Setup::new().service_in("chat", &scene.file);
        let setup = setup
            .with("balance: {slowStart: off, rebalance: {threshold: 1.5, budgetPerSecond: 1000}}")
            .with("drain: {handover: lastEventId}");
        setup.start().await
    };
    let mut opens = Vec::new();
    for _ in 0..6 {
        let mut visitor = scene.proxy.visitor();
        let mut client = visitor.events("/events").await;
        let mut stream = scene.pods[0].next_stream().await;
        stream.event_with_id("1", "x").await;
        assert_eq!(ids(&mut client, 1).await, ["1"]);
        opens.push((visitor, client, stream));
    }
    let fresh = Pod::start("pod-b").await;
    fresh.answer("/events", StreamAnswer::new());
    scene.pods.push(fresh);
    scene.file.write(&states(&scene.pods, &["ready", "ready"]));
    let mut moved = Vec::new();
    for _ in 0..3 {
        moved.push(scene.pods[1].next_stream().await);
    }
    scene.wait_handover("planned", "ok", 3.0).await;
    for stream in &mut moved {
        stream.event_with_id("2", "moved").await;
    }
    let mut arrived = 0;
    for (visitor, client, stream) in &mut opens {
        if stream.is_client_gone() {
            assert_eq!(client.next_event().await.data, "moved");
            assert_eq!(visitor.get("/who").await.text(), "pod-b", "its other requests follow");
            assert_eq!(visitor.get("/who").await.header("set-cookie"), None, "and its cookie has");
            arrived += 1;
        } else {
            assert_eq!(visitor.get("/who").await.text(), "pod-a");
        }
    }
    assert_eq!(arrived, 3);
    let labels = |endpoint| [("service", "chat"), ("endpoint", endpoint)];
    scene.proxy.wait_metric("podpin_streams_active", &labels("pod-a"), 3.0).await;
    scene.proxy.wait_metric("podpin_streams_active", &labels("pod-b"), 3.0).await;
    assert_eq!(scene.proxy.metric("podpin_streams_closed_total", &[]).await, 0.0);
}
