//! A Redis that goes away, comes back with or without its data, is silent or full.

use super::*;

#[tokio::test]
async fn a_redis_that_comes_back_with_its_data_costs_no_stream_no_event_and_no_duplicate() {
    let mut redis = RedisServer::start().await;
    let first = SharedPod::start("pod-a", &redis.url()).await;
    let second = SharedPod::start("pod-b", &redis.url()).await;
    let mut client = first.events().await;
    let before = first.publish("before").await;
    assert_eq!(client.ids(1, 1).await, [before.as_str()]);
    redis.stop(RedisData::Kept).await;
    first.until_health(503).await;
    let (status, answer) = first.ask(Request::new("POST", "/publish").body("lost")).await;
    assert_eq!((status, &answer["error"]), (503, &"Redis does not answer".into()));
    assert_eq!(first.whoami("s1").await["requests"], Value::Null);
    // Who comes all the same is served from memory.
    let mut meanwhile = first.resume(&before).await;
    redis.start_again().await;
    first.until_health(200).await;
    let after = second_publish(&second).await;
    assert_eq!(client.ids(2, 1).await, [after.as_str()]);
    assert_eq!(meanwhile.ids(2, 1).await, [after.as_str()]);
    assert_eq!(second.resume(&before).await.ids(2, 1).await, [after]);
    assert_eq!((first.pod.open_streams(), client.stream.is_inside_event()), (2, false));
}

/// Publishes as soon as the pod is back.
async fn second_publish(pod: &SharedPod) -> String {
    pod.until_health(200).await;
    pod.publish("after").await
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_begins_a_new_log_and_every_client_is_told() {
    let mut redis = RedisServer::start().await;
    let pod = SharedPod::start("pod-a", &redis.url()).await;
    let mut client = pod.events().await;
    let mut old = String::new();
    for number in 1..=3 {
        old = pod.publish(&number.to_string()).await;
    }
    client.ids(1, 3).await;
    redis.stop(RedisData::Lost).await;
    pod.until_health(503).await;
    redis.start_again().await;
    pod.until_health(200).await;
    let new = pod.publish("new").await;
    assert_eq!(client.reset().await, serde_json::json!({"reason": "unknown", "oldest": 1}));
    assert_eq!(client.ids(1, 1).await, [new.as_str()]);
    let late = SharedPod::start("pod-b", &redis.url()).await;
    for pod in [&pod, &late] {
        let mut client = pod.resume(&old).await;
        assert_eq!(client.reset().await["reason"], "unknown");
        assert_eq!(client.ids(1, 1).await, [new.as_str()]);
    }
}

#[tokio::test]
async fn another_log_with_earlier_ids_is_read_from_its_beginning() {
    let redis = RedisServer::start().await;
    let line = Line::to(redis.address()).await;
    let pod = SharedPod::start("pod-a", &format!("redis://{}", line.address())).await;
    let mut client = pod.events().await;
    pod.publish("one").await;
    pod.publish("two").await;
    client.ids(1, 2).await;
    // As after a fail-over to a machine whose clock is behind.
    let script = "redis.call('FLUSHALL'); for n = 1, 3 do \
        redis.call('XADD', 'podpin-example:events', n .. '-0', 'n', n, 'at', 1, 'text', 'x') end; return 1";
    redis.command(&["EVAL", script, "0"]).await;
    line.cut();
    assert_eq!(client.reset().await, serde_json::json!({"reason": "unknown", "oldest": 1}));
    assert_eq!(client.ids(1, 3).await, ["1-0", "2-0", "3-0"]);
}

#[tokio::test]
async fn connections_that_break_lose_no_event_and_repeat_none() {
    const COUNT: u64 = 200;
    let redis = RedisServer::start().await;
    let line = Line::to(redis.address()).await;
    let far = SharedPod::start("pod-a", &format!("redis://{}", line.address())).await;
    let near = SharedPod::start("pod-b", &redis.url()).await;
    let mut client = far.events().await;
    let mut published = Vec::new();
    for number in 0..COUNT {
        published.push(near.publish(&number.to_string()).await);
        if number % 20 == 10 {
            line.cut();
        }
    }
    assert_eq!(client.ids(1, COUNT).await, published);
    far.until_health(200).await;
}

#[tokio::test]
async fn events_that_redis_dropped_meanwhile_put_every_reader_behind() {
    let redis = RedisServer::start().await;
    let mut pod = SharedPod::start("pod-a", &redis.url()).await;
    let few = HistoryLimits { entries_max: 10, bytes_max: usize::MAX };
    let publisher = SharedPod::bounded("pod-b", &redis.url(), few).await;
    let mut client = pod.events().await;
    let seen = pod.publish("one").await;
    client.ids(1, 1).await;
    pod.follower.abort();
    wait_for("the pod reading no more", async || pod.follower.is_finished()).await;
    for number in 2..=300 {
        publisher.publish(&number.to_string()).await;
    }
    pod.tasks.spawn(followed(Arc::clone(&pod.log)));
    let reset = client.reset().await;
    let oldest = reset["oldest"].as_u64().unwrap();
    assert_eq!(reset["reason"], "behind");
    assert!(oldest > 2, "{oldest}");
    client.ids(oldest, 301 - oldest).await;
    assert_eq!(
        pod.resume(&seen).await.reset().await,
        serde_json::json!({"reason": "expired", "oldest": oldest})
    );
}

#[tokio::test]
async fn a_command_that_finds_its_connection_dead_brings_a_new_one() {
    let redis = RedisServer::start().await;
    let pod = SharedPod::start("pod-a", &redis.url()).await;
    let mut client = pod.events().await;
    pod.publish("one").await;
    let list = redis.command(&["CLIENT", "LIST"]).await;
    let commands = list.lines().find(|line| line.contains(" cmd=eval ")).expect("the pod's commands");
    let id = commands.strip_prefix("id=").and_then(|line| line.split(' ').next()).unwrap();
    assert_eq!(redis.command(&["CLIENT", "KILL", "ID", id]).await, ":1");
    let publish = async || pod.ask(Request::new("POST", "/publish").body("two")).await.0 == 200;
    wait_for("an event being taken again", publish).await;
    client.ids(1, 2).await;
}

#[tokio::test]
async fn a_redis_that_is_silent_makes_the_pod_unready_and_not_its_streams_end() {
    let redis = RedisServer::start().await;
    let pod = SharedPod::start("pod-a", &redis.url()).await;
    let mut client = pod.events().await;
    redis.signal(Signal::STOP);
    pod.until_health(503).await;
    redis.signal(Signal::CONT);
    pod.until_health(200).await;
    let id = pod.publish("after").await;
    assert_eq!(client.ids(1, 1).await, [id]);
}

#[tokio::test]
async fn a_pod_that_never_reached_redis_is_unready_and_greets_when_it_has() {
    let mut redis = RedisServer::start().await;
    let helper = SharedPod::start("pod-b", &redis.url()).await;
    let old = helper.publish("old").await;
    // More than come in one answer.
    let more = "for _ = 2, 2000 do redis.call('XADD', 'podpin-example:events', '*', \
        'n', redis.call('INCR', 'podpin-example:n'), 'at', 1, 'text', 'x') end; return 1";
    redis.command(&["EVAL", more, "0"]).await;
    redis.stop(RedisData::Kept).await;
    let log = Log::redis(&redis.url(), HistoryLimits::default()).unwrap();
    let settings = PodSettings {
        keep_alive: Duration::from_millis(50),
        ..PodSettings::new("pod-a", ([127, 0, 0, 1], 0).into(), Arc::clone(&log))
    };
    let pod = ExamplePod::start(settings).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(followed(log));
    assert_eq!(Request::get("/healthz").send(pod.address()).await.status, 503);
    let mut new = Request::events("/events").open(pod.address()).await;
    let mut resuming = Request::events("/events").header("Last-Event-ID", "0-1").open(pod.address()).await;
    // Nothing to say yet, and alive.
    new.until_contains(":\n\n:\n\n").await;
    redis.start_again().await;
    let hello: Value = serde_json::from_str(&new.next_event().await.data).unwrap();
    assert_eq!(hello["newest"], 2000, "it knows all that there was");
    assert_eq!(resuming.next_event().await.kind, "hello");
    assert_eq!(resuming.next_event().await.kind, "reset");
    assert_eq!(resuming.next_event().await.id, old);
    let live = second_publish(&helper).await;
    assert_eq!(new.next_event().await.id, live, "a new client gets no history");
}

#[tokio::test]
async fn a_pod_that_ends_does_not_wait_for_redis() {
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    let log = Log::redis(&nobody, HistoryLimits::default()).unwrap();
    let pod = ExamplePod::start(PodSettings::new("pod-a", ([127, 0, 0, 1], 0).into(), log)).unwrap();
    let mut waiting = Request::events("/events").open(pod.address()).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(pod.end(Duration::from_secs(60)));
    let (items, ending) = waiting.rest().await;
    assert_eq!((items.len(), ending), (0, Ending::Clean));
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_full_redis_refuses_events_and_the_streams_go_on() {
    let redis = RedisServer::start_with(&["--maxmemory-policy", "noeviction"]).await;
    let pod = SharedPod::start("pod-a", &redis.url()).await;
    let mut client = pod.events().await;
    assert_eq!(redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await, "+OK");
    let (status, answer) = pod.ask(Request::new("POST", "/publish").body("no room")).await;
    assert_eq!(status, 503);
    assert!(answer["error"].as_str().unwrap().contains("OOM"), "{answer}");
    assert_eq!(pod.health().await, 200, "reading goes on");
    assert_eq!(redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await, "+OK");
    let id = pod.publish("room").await;
    assert_eq!(client.ids(1, 1).await, [id]);
}
