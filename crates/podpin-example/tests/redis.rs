//! Pods that share their log and sessions through a real Redis, and what they do when it goes away.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "these helpers serve tests only, where a panic is the report"
)]

#[path = "redis/outages.rs"]
mod outages;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use podpin_example::{EventId, ExamplePod, HistoryLimits, Log, PodSettings, follow, publish_ticks};
use podpin_testkit::{
    Ending, Event, EventStream, Line, Process, RedisData, RedisServer, Request, Signal, free_port, wait_for,
};
use serde_json::Value;
use tokio::task::{AbortHandle, JoinSet};

/// A pod as a process of its own would be: its own log, its own connections.
struct SharedPod {
    pod: ExamplePod,
    log: Arc<Log>,
    tasks: JoinSet<()>,
    follower: AbortHandle,
}

impl SharedPod {
    async fn start(name: &str, url: &str) -> SharedPod {
        SharedPod::bounded(name, url, HistoryLimits::default()).await
    }

    /// Ready when this returns.
    async fn bounded(name: &str, url: &str, limits: HistoryLimits) -> SharedPod {
        let log = Log::redis(url, limits).unwrap();
        let settings = PodSettings::new(name, ([127, 0, 0, 1], 0).into(), Arc::clone(&log));
        let pod = ExamplePod::start(settings).unwrap();
        let mut tasks = JoinSet::new();
        let follower = tasks.spawn(followed(Arc::clone(&log)));
        let pod = SharedPod { pod, log, tasks, follower };
        pod.until_health(200).await;
        pod
    }

    async fn ask(&self, request: Request) -> (u16, Value) {
        let response = request.send(self.pod.address()).await;
        (response.status, response.json())
    }

    /// Publishes and returns the event's id.
    async fn publish(&self, text: &str) -> String {
        let (status, answer) = self.ask(Request::new("POST", "/publish").body(text)).await;
        assert_eq!(status, 200, "{answer}");
        answer["id"].as_str().expect("an id of Redis").to_owned()
    }

    async fn health(&self) -> u16 {
        Request::get("/healthz").send(self.pod.address()).await.status
    }

    async fn until_health(&self, status: u16) {
        wait_for("the pod's health", async || self.health().await == status).await;
    }

    async fn events(&self) -> Client {
        Client::greeted(Request::events("/events").open(self.pod.address()).await).await
    }

    async fn resume(&self, id: &str) -> Client {
        let request = Request::events("/events").header("Last-Event-ID", id);
        Client::greeted(request.open(self.pod.address()).await).await
    }

    async fn whoami(&self, session: &str) -> Value {
        self.ask(Request::get("/whoami").header("X-Podpin-Session", session)).await.1
    }
}

async fn followed(log: Arc<Log>) {
    follow(log).await;
}

/// A client behind its greeting.
struct Client {
    stream: EventStream,
    hello: Value,
}

impl Client {
    async fn greeted(mut stream: EventStream) -> Client {
        let hello = stream.next_event().await;
        assert_eq!(hello.kind, "hello");
        Client { stream, hello: serde_json::from_str(&hello.data).unwrap() }
    }

    async fn next(&mut self) -> (Event, Value) {
        let event = self.stream.next_event().await;
        let data = serde_json::from_str(&event.data).unwrap();
        (event, data)
    }

    async fn reset(&mut self) -> Value {
        let (event, data) = self.next().await;
        assert_eq!(event.kind, "reset", "{event:?}");
        data
    }

    /// The ids of the next events; their numbers have to be those from `first` on.
    async fn ids(&mut self, first: u64, count: u64) -> Vec<String> {
        let mut ids = Vec::new();
        for number in first..first + count {
            let (event, data) = self.next().await;
            assert_eq!((event.kind.as_str(), &data["n"]), ("", &number.into()), "{event:?}");
            ids.push(event.id);
        }
        ids
    }
}

#[tokio::test]
async fn what_is_published_on_one_pod_is_streamed_by_all_under_one_id() {
    let redis = RedisServer::start().await;
    let first = SharedPod::start("pod-a", &redis.url()).await;
    let second = SharedPod::start("pod-b", &redis.url()).await;
    let mut clients = [first.events().await, second.events().await, second.events().await];
    let id = first.publish("two\nlines \u{e9}").await;
    assert!(matches!(EventId::parse(&id), Some(EventId::Entry(..))), "{id}");
    let mut frames = BTreeSet::new();
    for client in &mut clients {
        let (event, mut data) = client.next().await;
        assert_eq!((&event.id, &data["text"], &data["n"]), (&id, &"two\nlines \u{e9}".into(), &1.into()));
        frames.insert(data["pod"].take().as_str().unwrap().to_owned());
        assert!(data["at"].as_u64().unwrap() > 1_600_000_000_000_000);
    }
    assert_eq!(frames, BTreeSet::from(["pod-a".to_owned(), "pod-b".to_owned()]));
    // One blocking read for the pod, whatever its streams, and one connection for commands; the fifth is the one that
    // asks.
    let connections = async || redis.command(&["CLIENT", "LIST"]).await.lines().count();
    wait_for("two connections a pod", async || connections().await == 5).await;
    let reading = redis.command(&["CLIENT", "LIST"]).await.matches("cmd=xread ").count();
    assert_eq!(reading, 2);
}

#[tokio::test]
async fn any_id_is_resumed_on_any_pod_without_gap_or_duplicate() {
    const COUNT: u64 = 150;
    let redis = RedisServer::start().await;
    let pods = [SharedPod::start("pod-a", &redis.url()).await, SharedPod::start("pod-b", &redis.url()).await];
    let mut client = pods[0].events().await;
    let mut published = Vec::new();
    for (number, pod) in (0..COUNT).zip(pods.iter().cycle()) {
        published.push(pod.publish(&number.to_string()).await);
    }
    assert_eq!(client.ids(1, COUNT).await, published);
    // A pod that came later has read all of it from Redis.
    let late = SharedPod::start("pod-c", &redis.url()).await;
    for (seen, id) in (1..).zip(&published) {
        let pod = if seen % 2 == 0 { &pods[1] } else { &late };
        let mut client = pod.resume(id).await;
        assert_eq!(client.hello["lastEventId"], Value::from(id.as_str()));
        let rest = client.ids(seen + 1, COUNT - seen).await;
        assert_eq!(rest, published[usize::try_from(seen).unwrap()..]);
    }
    let mut client = late.resume(&published[149]).await;
    let live = pods[0].publish("live").await;
    assert_eq!(client.ids(COUNT + 1, 1).await, [live]);
}

#[tokio::test]
async fn an_id_that_another_pod_sent_a_moment_ago_is_waited_for_and_not_unknown() {
    let redis = RedisServer::start().await;
    let first = SharedPod::start("pod-a", &redis.url()).await;
    let mut second = SharedPod::start("pod-b", &redis.url()).await;
    first.publish("one").await;
    wait_for("pod-b reading the event", async || second.log.newest() == 1).await;
    // From here on nothing comes to pod-b; its commands do go out.
    second.follower.abort();
    wait_for("pod-b reading no more", async || second.follower.is_finished()).await;
    let newest = first.publish("two").await;
    let request = Request::events("/events").header("Last-Event-ID", &newest);
    let mut early = request.open(second.pod.address()).await;
    // One that Redis does not have either needs no waiting.
    let mut stranger = second.resume("9999999999999-0").await;
    assert_eq!(stranger.reset().await["reason"], "unknown");
    assert!(early.received().is_empty());
    second.tasks.spawn(followed(Arc::clone(&second.log)));
    let third = first.publish("three").await;
    assert_eq!(early.next_event().await.kind, "hello");
    let event = early.next_event().await;
    assert_eq!((event.kind.as_str(), &event.id), ("", &third));
}

#[tokio::test]
async fn a_new_client_gets_only_what_comes_after_it() {
    let redis = RedisServer::start().await;
    let pod = SharedPod::start("pod-a", &redis.url()).await;
    let mut first = pod.events().await;
    pod.publish("before").await;
    first.ids(1, 1).await;
    let mut client = pod.events().await;
    assert_eq!(client.hello["newest"], 1);
    let id = pod.publish("after").await;
    assert_eq!(client.ids(2, 1).await, [id]);
}

#[tokio::test]
async fn the_history_is_bounded_in_redis_and_an_id_from_before_it_has_expired() {
    const LIMITS: HistoryLimits = HistoryLimits { entries_max: 50, bytes_max: usize::MAX };
    let redis = RedisServer::start().await;
    let pod = SharedPod::bounded("pod-a", &redis.url(), LIMITS).await;
    let mut first = String::new();
    for number in 0..400 {
        let id = pod.publish(&number.to_string()).await;
        if number == 0 {
            first = id;
        }
    }
    let length: usize = redis.command(&["XLEN", "podpin-example:events"]).await[1..].parse().unwrap();
    assert!((50..=150).contains(&length), "{length}: Redis drops whole nodes of 100");
    let late = SharedPod::bounded("pod-b", &redis.url(), LIMITS).await;
    wait_for("pod-a reading all of it", async || pod.log.newest() == 400).await;
    for pod in [&pod, &late] {
        let mut client = pod.resume(&first).await;
        assert_eq!(client.reset().await, serde_json::json!({"reason": "expired", "oldest": 351}));
        client.ids(351, 50).await;
        for garbage in ["1", "abc", "9999999999999-0", "1-1-1"] {
            let mut client = pod.resume(garbage).await;
            assert_eq!(client.reset().await["reason"], "unknown", "{garbage}");
            client.ids(351, 50).await;
        }
    }
}

#[tokio::test]
async fn a_session_is_counted_on_from_pod_to_pod() {
    let redis = RedisServer::start().await;
    let first = SharedPod::start("pod-a", &redis.url()).await;
    let second = SharedPod::start("pod-b", &redis.url()).await;
    let met = first.whoami("s1").await;
    assert_eq!((&met["requests"], &met["pod"]), (&1.into(), &"pod-a".into()));
    assert!(met["firstMet"].as_u64().unwrap() > 1_600_000_000_000_000);
    for (requests, pod) in (2..6).zip([&second, &second, &first, &second]) {
        let again = pod.whoami("s1").await;
        assert_eq!((&again["requests"], &again["firstMet"]), (&requests.into(), &met["firstMet"]));
    }
    assert_eq!(second.whoami("s2").await["requests"], 1);
    let expiry: u64 = redis.command(&["TTL", "podpin-example:session:s1"]).await[1..].parse().unwrap();
    assert!((86_000..=86_400).contains(&expiry), "{expiry}");
    // Without a session, or with one that is none of podpin's, nothing is kept.
    first.ask(Request::get("/whoami")).await;
    assert_eq!(first.whoami(&"x".repeat(200)).await["requests"], 1);
    let sessions = redis.command(&["EVAL", "return #redis.call('KEYS', '*:session:*')", "0"]).await;
    assert_eq!(sessions, ":2");
}

#[tokio::test]
async fn however_many_pods_tick_a_period_has_one_tick() {
    const PERIOD: Duration = Duration::from_millis(100);
    let redis = RedisServer::start().await;
    let mut pods = Vec::new();
    for name in ["pod-a", "pod-b", "pod-c"] {
        let mut pod = SharedPod::start(name, &redis.url()).await;
        let log = Arc::clone(&pod.log);
        pod.tasks.spawn(async move {
            publish_ticks(log, PERIOD).await;
        });
        pods.push(pod);
    }
    let mut client = pods[0].events().await;
    let (first, data) = client.next().await;
    assert_eq!(data["text"], format!("tick {}", data["n"]));
    let mut ids = vec![first.id];
    ids.extend(client.ids(data["n"].as_u64().unwrap() + 1, 14).await);
    // The id of an entry begins with Redis' own time of it.
    let periods: Vec<u64> =
        ids.iter().map(|id| id.split_once('-').unwrap().0.parse::<u64>().unwrap() / 100).collect();
    assert!(periods.is_sorted_by(|one, next| one < next), "two ticks in one period: {periods:?}");
    // A pod that goes takes no tick with it.
    pods.truncate(1);
    let number = client.next().await.1["n"].as_u64().unwrap();
    client.ids(number + 1, 3).await;
}

fn program(arguments: &[&str], variables: &[(&str, &str)]) -> Process {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_podpin-example"));
    command.args(arguments).env_remove("REDIS_URL").env_remove("POD_NAME");
    Process::spawn(command.envs(variables.iter().copied()))
}

/// Returns the address of the process, from the line that it prints.
async fn address_of(process: &Process) -> std::net::SocketAddr {
    wait_for("the line with the address", async || !process.stdout().is_empty()).await;
    let line = process.stdout().remove(0);
    line.rsplit_once("http://").unwrap().1.trim_end_matches('/').parse().unwrap()
}

#[tokio::test]
async fn the_program_takes_redis_from_the_environment_or_its_arguments() {
    let redis = RedisServer::start().await;
    let (url, none) = (redis.url(), "redis://127.0.0.1:1");
    let listen = ["--listen", "127.0.0.1:0", "--tick", "0s"];
    let first = program(&listen, &[("REDIS_URL", &url), ("POD_NAME", "chat-1")]);
    let second = program(&[&listen[..], &["--redis-url", &url]].concat(), &[("REDIS_URL", none)]);
    let (one, two) = (address_of(&first).await, address_of(&second).await);
    assert!(first.stdout()[0].starts_with("chat-1 listens on "), "{:?}", first.stdout());
    for address in [one, two] {
        wait_for("health", async || Request::get("/healthz").send(address).await.status == 200).await;
    }
    let mut client = Client::greeted(Request::events("/events").open(two).await).await;
    let published = Request::new("POST", "/publish").body("x").send(one).await.json();
    assert_eq!(client.ids(1, 1).await, [published["id"].as_str().unwrap()]);
    // SIGTERM still ends it in good order.
    let mut second = second;
    second.signal(Signal::TERM);
    assert_eq!(second.wait_exit().await, 0);
}

#[tokio::test]
async fn a_url_that_is_none_ends_the_program_without_showing_it() {
    let mut process = program(&["--redis-url", "http://user:secret@host"], &[]);
    assert_eq!(process.wait_exit().await, 1);
    let said = process.output();
    assert!(said.contains("the URL of Redis is not of the form") && !said.contains("secret"), "{said}");
}
