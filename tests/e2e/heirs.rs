//! Heirs: what a leaving pod had goes to one pod of the next generation, at every replica of the proxy.

use std::time::{SystemTime, UNIX_EPOCH};

use podpin_affinity::{Key, Keyring, Lifetime, Token};
use podpin_testkit::{EndpointsFile, EventStream, Pod, PodStream, Proxy, Request, Setup, Visitor};

const QUICK: &str = "drain: {handover: lastEventId, spread: 0s, handoverTimeout: 2s}";
const CLIENTS: usize = 12;
const KEY: &str = "k1";

/// A client whose stream runs at the first replica, with the cookie that it got first.
struct Client {
    visitor: Visitor,
    events: EventStream,
    /// The place of its pod among the old ones.
    home: usize,
}

/// Pods of two generations, listed in a file, behind two replicas.
struct Scene {
    old: [Pod; 3],
    new: [Pod; 3],
    file: EndpointsFile,
    setup: Setup,
    one: Proxy,
    other: Proxy,
}

impl Scene {
    async fn new() -> Scene {
        let old = [pod("old-a").await, pod("old-b").await, pod("old-c").await];
        let new = [pod("new-a").await, pod("new-b").await, pod("new-c").await];
        let file = EndpointsFile::absent();
        let all: Vec<_> = old.iter().map(|pod| line(pod, "ready", "1")).collect();
        file.write_text(&all.concat());
        let setup = Setup::new().service_in("chat", &file).with("balance: {slowStart: off}").with(QUICK);
        let setup = setup.keys(&[KEY]);
        let (one, other) = (setup.start().await, setup.start().await);
        Scene { old, new, file, setup, one, other }
    }

    /// Lists old and new pods in these states, which both replicas know afterwards; "" leaves a pod out.
    async fn list(&self, old: [&str; 3], new: [&str; 3]) {
        let of = |pods: &'_ [Pod; 3], states: [&str; 3], generation: &str| -> Vec<String> {
            let listed = pods.iter().zip(states).filter(|(_, state)| !state.is_empty());
            listed.map(|(pod, state)| line(pod, state, generation)).collect()
        };
        self.file.write_text(&[of(&self.old, old, "1"), of(&self.new, new, "2")].concat().concat());
        let named = self.old.iter().zip(old).chain(self.new.iter().zip(new));
        let shown = |state| if state == "notReady" { "resting" } else { state };
        let listed = named.filter(|(_, state)| !state.is_empty());
        let expected: Vec<_> = listed.map(|(pod, state)| (pod.name(), shown(state))).collect();
        for replica in [&self.one, &self.other] {
            replica.wait_endpoints("chat", &expected).await;
        }
    }

    async fn open(&self) -> (Client, PodStream) {
        let mut visitor = self.one.visitor();
        let mut events = visitor.events("/events").await;
        let [a, b, c] = &self.old;
        let (home, mut stream) = tokio::select! {
            stream = a.next_stream() => (0, stream),
            stream = b.next_stream() => (1, stream),
            stream = c.next_stream() => (2, stream),
        };
        stream.event_with_id("1", "x").await;
        assert_eq!(events.next_event().await.id, "1");
        (Client { visitor, events, home }, stream)
    }

    /// Requests of a client that still shows its first cookie are answered by `pod` at each replica.
    async fn assert_at(&self, client: &Client, pod: &Pod) {
        for replica in [&self.one, &self.other] {
            assert_eq!(client.visitor.at(replica.address).get("/who").await.text(), pod.name());
        }
    }
}

async fn pod(name: &str) -> Pod {
    let pod = Pod::start(name).await;
    pod.answer("/events", podpin_testkit::StreamAnswer::new());
    pod
}

fn line(pod: &Pod, state: &str, generation: &str) -> String {
    let (name, address) = (pod.name(), pod.address());
    format!("- {{name: {name}, address: \"{address}\", state: {state}, generation: \"{generation}\"}}\n")
}

#[tokio::test]
async fn streams_and_requests_of_a_draining_pod_go_to_its_heir_at_every_replica() {
    let scene = Scene::new().await;
    let (mut clients, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..CLIENTS {
        let (client, stream) = scene.open().await;
        clients.push(client);
        streams.push(stream);
    }
    let (mut old, mut new) = (["ready"; 3], [""; 3]);
    for at in 0..3 {
        new[at] = "ready";
        scene.list(old, new).await;
        old[at] = "draining";
        scene.list(old, new).await;
        let heir = &scene.new[at];
        for client in clients.iter_mut().filter(|client| client.home == at) {
            let mut stream = heir.next_stream().await;
            assert_eq!(stream.request.header("x-podpin-repinned"), Some("draining"));
            stream.event_with_id("2", "x").await;
            streams.push(stream);
            scene.assert_at(client, heir).await;
        }
    }
    // The pods are gone, and the cookies are those of the beginning.
    scene.list([""; 3], new).await;
    for client in &mut clients {
        assert_eq!(client.events.next_event().await.id, "2");
        scene.assert_at(client, &scene.new[client.home]).await;
    }
    let moved = [("service", "chat"), ("cause", "planned"), ("result", "ok")];
    let count = u32::try_from(CLIENTS).unwrap();
    scene.one.wait_metric("podpin_handovers_total", &moved, f64::from(count)).await;
}

#[tokio::test]
async fn streams_and_requests_wait_at_a_draining_pod_for_an_heir_that_is_not_ready_yet() {
    let scene = Scene::new().await;
    let (mut client, mut stream) = scene.open().await;
    let mut old = ["ready"; 3];
    old[client.home] = "draining";
    scene.list(old, ["notReady", "", ""]).await;
    scene.assert_at(&client, &scene.old[client.home]).await;
    stream.event_with_id("2", "x").await;
    assert_eq!(client.events.next_event().await.id, "2", "it flows on");
    let shown = &scene.one.endpoints("chat").await;
    let own = shown.iter().find(|one| one["state"] == "draining").unwrap();
    assert_eq!((own["usedBy"].as_str(), own["heir"].as_str()), (Some("pinned"), None));
    scene.list(old, ["ready", "", ""]).await;
    let mut next = scene.new[0].next_stream().await;
    next.event_with_id("3", "x").await;
    assert_eq!(client.events.next_event().await.id, "3");
    scene.assert_at(&client, &scene.new[0]).await;
    for replica in [&scene.one, &scene.other] {
        let shown = replica.endpoints("chat").await;
        let own = shown.iter().find(|one| one["state"] == "draining").unwrap();
        assert_eq!((own["heir"].as_str(), own["generation"].as_str()), (Some("new-a"), Some("1")));
        let labels = [("service", "chat"), ("endpoint", "new-a")];
        assert_eq!(replica.metric("podpin_endpoint_inheritances", &labels).await, 1.0);
    }
    old[client.home] = "";
    scene.list(old, ["ready", "", ""]).await;
    let text = scene.one.admin_get("/api/endpoints").await.text();
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    let departed = &shown["services"][0]["departed"][0];
    assert_eq!(
        (&departed["name"], &departed["heir"]),
        (&scene.old[client.home].name().into(), &"new-a".into())
    );
    assert!(departed["goneSince"].is_string() && shown["services"][0]["departedTotal"] == 1, "{text}");
}

/// Returns the cookie as a replica would have written it whose clock differs by so many seconds.
fn with_clock(cookie: &str, differs_by: i64) -> String {
    let key = Key::new(KEY, format!("{KEY:0>43}").as_bytes()).unwrap();
    let keyring = Keyring::new(vec![key]).unwrap();
    let now_seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let lifetime = Lifetime { now_seconds, absolute_timeout_seconds: 86_400 };
    let Token { session, endpoint, started_seconds } =
        keyring.verify("chat", cookie.as_bytes(), lifetime).unwrap().token;
    let started_seconds = started_seconds.saturating_add_signed(differs_by);
    keyring.sign("chat", &Token { session, endpoint, started_seconds })
}

#[tokio::test]
async fn a_session_is_in_one_place_though_the_clocks_of_replicas_differ_by_seconds() {
    let scene = Scene::new().await;
    let (mut client, _stream) = scene.open().await;
    let cookie = client.visitor.cookie("podpin-chat").unwrap().to_owned();
    let assert_at = async |pod: &Pod| {
        for (replica, seconds) in [(&scene.one, -5), (&scene.one, 5), (&scene.other, -5), (&scene.other, 5)] {
            let mut visitor = replica.visitor();
            visitor.set_cookie("podpin-chat", &with_clock(&cookie, seconds));
            assert_eq!(visitor.get("/who").await.text(), pod.name(), "{seconds}");
        }
    };
    assert_at(&scene.old[client.home]).await;
    let mut old = ["ready"; 3];
    scene.list(old, ["ready", "", ""]).await;
    old[client.home] = "draining";
    scene.list(old, ["ready", "", ""]).await;
    let mut at_heir = scene.new[0].next_stream().await;
    at_heir.event_with_id("2", "x").await;
    assert_eq!(client.events.next_event().await.id, "2");
    assert_at(&scene.new[0]).await;
    old[client.home] = "";
    scene.list(old, ["ready", "", ""]).await;
    assert_at(&scene.new[0]).await;
    for replica in [&scene.one, &scene.other] {
        let expired = [("result", "expired")];
        assert_eq!(replica.metric("podpin_affinity_decisions_total", &expired).await, 0.0);
    }
}

/// Such a replica knows no heirs of pods that left or drained before; the cookie tells it where the stream is.
#[tokio::test]
async fn a_replica_that_starts_in_the_middle_of_a_rollout_learns_from_cookies_where_sessions_are() {
    let scene = Scene::new().await;
    let (mut client, _stream) = scene.open().await;
    let mut old = ["ready"; 3];
    scene.list(old, ["ready", "", ""]).await;
    old[client.home] = "draining";
    scene.list(old, ["ready", "", ""]).await;
    let mut moved = scene.new[0].next_stream().await;
    moved.event_with_id("2", "x").await;
    assert_eq!(client.events.next_event().await.id, "2");
    let late = scene.setup.start().await;
    // Wherever its first request is answered: the replica with the stream has the last word.
    let mut astray = client.visitor.at(late.address);
    assert_ne!(astray.get("/who").await.text(), scene.old[client.home].name());
    let mut back = astray.at(scene.one.address);
    assert_eq!(back.get("/who").await.text(), scene.new[0].name());
    let mut settled = back.at(late.address);
    assert_eq!(settled.get("/who").await.text(), scene.new[0].name());
    // A stream that begins there is where the other one is, and goes on when that pod leaves in turn.
    let mut moved_on = Vec::new();
    let mut events = settled.events("/events").await;
    let mut second = scene.new[0].next_stream().await;
    second.event_with_id("3", "x").await;
    assert_eq!(events.next_event().await.id, "3");
    scene.list(old, ["ready", "ready", ""]).await;
    scene.list(old, ["draining", "ready", ""]).await;
    for _ in 0..2 {
        let mut next = tokio::select! {
            stream = scene.new[1].next_stream() => stream,
            stream = scene.old[(client.home + 1) % 3].next_stream() => stream,
            stream = scene.old[(client.home + 2) % 3].next_stream() => stream,
        };
        next.event_with_id("4", "x").await;
        moved_on.push(next);
    }
    for stream in [&mut client.events, &mut events] {
        assert_eq!(stream.next_event().await.id, "4");
    }
    for replica in [&scene.one, &late] {
        assert_eq!(replica.metric("podpin_streams_closed_total", &[]).await, 0.0);
    }
}

#[tokio::test]
async fn requests_follow_a_stream_whose_pod_restarted_under_one_identity_at_every_replica() {
    let mut pods = [pod("pod-a").await, pod("pod-b").await];
    let setup = Setup::chat(&[&pods[0], &pods[1]]).with(QUICK);
    let (one, other) = (setup.start().await, setup.start().await);
    let mut visitor = one.visitor();
    let mut events = visitor.events("/events").await;
    let (home, mut stream) = tokio::select! {
        stream = pods[0].next_stream() => (0, stream),
        stream = pods[1].next_stream() => (1, stream),
    };
    stream.event_with_id("1", "x").await;
    assert_eq!(events.next_event().await.id, "1");
    let (name, address) = (pods[home].name().to_owned(), pods[home].address());
    pods[home].stop().await;
    drop(stream);
    let mut next = pods[1 - home].next_stream().await;
    next.event_with_id("2", "x").await;
    assert_eq!(events.next_event().await.id, "2");
    let back = Pod::start_at(&name, address).await;
    // The replica without the stream knows nothing of it.
    assert_eq!(visitor.at(other.address).get("/who").await.text(), back.name());
    assert_eq!(visitor.get("/who").await.text(), pods[1 - home].name(), "where the stream is");
    for replica in [&one, &other] {
        assert_eq!(visitor.at(replica.address).get("/who").await.text(), pods[1 - home].name());
    }
}

#[tokio::test]
async fn requests_of_a_client_that_names_itself_follow_its_stream_while_that_is_open() {
    let mut pods = [pod("pod-a").await, pod("pod-b").await];
    let setup = Setup::chat(&[&pods[0], &pods[1]]).with(QUICK);
    let setup = setup.with("affinity: {header: X-Chat, cookie: off}");
    let (proxy, other) = (setup.start().await, setup.start().await);
    let mut events = Request::events("/events").header("X-Chat", "room-7").open(proxy.address).await;
    let (home, mut stream) = tokio::select! {
        stream = pods[0].next_stream() => (0, stream),
        stream = pods[1].next_stream() => (1, stream),
    };
    stream.event_with_id("1", "x").await;
    assert_eq!(events.next_event().await.id, "1");
    let (name, address) = (pods[home].name().to_owned(), pods[home].address());
    pods[home].stop().await;
    drop(stream);
    let mut next = pods[1 - home].next_stream().await;
    next.event_with_id("2", "x").await;
    assert_eq!(events.next_event().await.id, "2");
    let back = Pod::start_at(&name, address).await;
    let who = Request::get("/who").header("X-Chat", "room-7");
    assert_eq!(who.send(proxy.address).await.text(), pods[1 - home].name(), "where the stream is");
    // Another replica cannot know: no cookie tells it, and replicas share nothing.
    assert_eq!(who.send(other.address).await.text(), back.name());
    drop(events);
    proxy.wait_metric("podpin_streams_active", &[], 0.0).await;
    assert_eq!(who.send(proxy.address).await.text(), back.name(), "where the name hashes to");
}

#[tokio::test]
async fn streams_and_requests_of_an_heir_that_vanishes_from_the_list_go_on_together() {
    let scene = Scene::new().await;
    let (mut client, _stream) = scene.open().await;
    let mut old = ["ready"; 3];
    scene.list(old, ["ready", "", ""]).await;
    old[client.home] = "draining";
    scene.list(old, ["ready", "", ""]).await;
    let mut at_heir = scene.new[0].next_stream().await;
    at_heir.event_with_id("2", "x").await;
    assert_eq!(client.events.next_event().await.id, "2");
    // Neither ready nor draining from one list to the next, while the drain of the first pod is still on.
    old = ["", "", ""];
    scene.list(old, ["", "ready", ""]).await;
    let mut next = scene.new[1].next_stream().await;
    assert_eq!(next.request.header("last-event-id"), Some("2"));
    next.event_with_id("3", "x").await;
    assert_eq!(client.events.next_event().await.id, "3");
    scene.assert_at(&client, &scene.new[1]).await;
    assert_eq!(scene.one.metric("podpin_streams_closed_total", &[]).await, 0.0);
}

#[tokio::test]
async fn an_heir_leaves_its_sessions_to_an_heir_of_its_own() {
    let scene = Scene::new().await;
    let (client, _stream) = scene.open().await;
    let mut old = ["ready"; 3];
    scene.list(old, ["ready", "", ""]).await;
    old[client.home] = "";
    scene.list(old, ["ready", "", ""]).await;
    scene.assert_at(&client, &scene.new[0]).await;
    // The next generation is the first one again: the rollout is rolled back.
    let back = pod("back").await;
    let text = [line(&scene.new[0], "draining", "2"), line(&back, "ready", "1")].concat();
    scene.file.write_text(&text);
    for replica in [&scene.one, &scene.other] {
        replica.wait_endpoints("chat", &[("back", "ready"), ("new-a", "draining")]).await;
    }
    scene.assert_at(&client, &back).await;
}

#[tokio::test]
async fn a_pod_without_a_generation_is_succeeded_by_its_namesake() {
    let pods = Pod::start_three().await;
    let listed = |own: &Pod| {
        let rest = pods.iter().skip(1).map(|pod| (pod.name(), pod.address(), "ready"));
        [(pods[0].name(), own.address(), "ready")].into_iter().chain(rest).collect::<Vec<_>>()
    };
    let file = EndpointsFile::with(&listed(&pods[0]));
    let setup = Setup::new().service_in("chat", &file);
    let (one, other) = (setup.start().await, setup.start().await);
    let visitor = one.pinned_to(pods[0].name()).await;
    file.write(&listed(&pods[0])[1..]);
    let left = [(pods[1].name(), "ready"), (pods[2].name(), "ready")];
    for replica in [&one, &other] {
        replica.wait_endpoints("chat", &left).await;
        assert_ne!(visitor.at(replica.address).get("/who").await.text(), pods[0].name());
    }
    let successor = Pod::start(pods[0].name()).await;
    file.write(&listed(&successor));
    for replica in [&one, &other] {
        let all: Vec<_> = pods.iter().map(|pod| (pod.name(), "ready")).collect();
        replica.wait_endpoints("chat", &all).await;
        let seen = visitor.at(replica.address).send(Request::get("/who")).await.text();
        assert_eq!(seen, pods[0].name());
    }
}
