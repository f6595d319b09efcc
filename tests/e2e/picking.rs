//! Where a client goes: by open streams when new, by the session when its pod is not to be had.

use podpin_testkit::{Answer, Pod, Request, Setup, Visitor, free_port, wait_for};

#[tokio::test]
async fn new_clients_spread_over_the_pods_by_open_streams() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).start().await;
    let mut streams = Vec::new();
    for _ in 0..30 {
        let mut stream = Request::events("/events").open(proxy.address).await;
        streams.push((stream.next_data().await, stream));
    }
    for pod in &pods {
        let count = streams.iter().filter(|(name, _)| name == pod.name()).count();
        // The better of two random choices keeps the counts within one or two of each other.
        assert!((7..=13).contains(&count), "{} has {count} of 30", pod.name());
    }
    // All clients of one pod leave: it is now the emptiest, and the next ones go there.
    streams.retain(|(name, _)| name != "pod-b");
    proxy.wait_metric("podpin_streams_active", &[("endpoint", "pod-b")], 0.0).await;
    let mut there = 0;
    // Each lot of two leaves it out once in three.
    for _ in 0..20 {
        let mut stream = Request::events("/events").open(proxy.address).await;
        let name = stream.next_data().await;
        there += usize::from(name == "pod-b");
        streams.push((name, stream));
    }
    assert!(there >= 1, "nobody went to the empty pod");
}

#[tokio::test]
async fn round_robin_goes_round() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with("balance: {strategy: roundRobin}");
    let proxy = setup.start().await;
    for _ in 0..12 {
        proxy.get("/").await;
    }
    for pod in &pods {
        assert_eq!(pod.requests().len(), 4, "{}", pod.name());
    }
}

#[tokio::test]
async fn a_full_pod_gets_no_more_streams_and_full_pods_refuse_with_a_retry_time() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1]]).with("limits: {streamsPerEndpoint: 2}");
    // A refused event stream is the status here: the reconnecting refusal is another test's subject.
    let proxy = setup.with("sse: {unavailable: status}").start().await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = Request::events("/events").open(proxy.address).await;
        streams.push((stream.next_data().await, stream));
    }
    for pod in &pods[..2] {
        assert_eq!(streams.iter().filter(|(name, _)| name == pod.name()).count(), 2);
    }
    let refused = Request::events("/events").send(proxy.address).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
    proxy.wait_metric("podpin_refusals_total", &[("service", "chat"), ("kind", "full")], 1.0).await;
    assert_eq!(proxy.get("/who").await.status, 200, "ordinary requests are not counted as streams");
    streams.pop();
    wait_for("the place to be free again", async || {
        let mut connection = proxy.connect().await;
        connection.send(Request::events("/events").bytes()).await;
        connection.head().await.start_line.contains(" 200 ")
    })
    .await;
}

#[tokio::test]
async fn a_pinned_client_whose_pod_is_full_is_moved_and_told() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1]]).with("limits: {streamsPerEndpoint: 1}");
    let proxy = setup.start().await;
    let mut visitor = proxy.visitor();
    let mut first = visitor.events("/events").await;
    let home = first.next_data().await;
    let mut second = visitor.events("/events").await;
    assert_ne!(second.next_data().await, home);
    proxy.wait_metric("podpin_affinity_repins_total", &[("reason", "full")], 1.0).await;
    let other = pods.iter().find(|pod| pod.name() != home).unwrap();
    assert_eq!(other.next_request().await.header("x-podpin-repinned"), Some("full"));
}

#[tokio::test]
async fn a_client_with_too_many_streams_is_refused() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0]])
        .with("limits: {streamsPerClient: 2}")
        .with("sse: {unavailable: status}")
        .start()
        .await;
    let mut visitor = proxy.visitor();
    visitor.get("/").await;
    let _kept = [visitor.events("/events").await, visitor.events("/events").await];
    let refused = visitor.send(Request::events("/events")).await;
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").is_some());
    proxy.wait_metric("podpin_refusals_total", &[("service", "chat"), ("kind", "client_limit")], 1.0).await;
}

#[tokio::test]
async fn of_seven_tabs_at_a_limit_of_six_none_is_put_out() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0]]).with("limits: {streamsPerClient: 6}");
    let proxy = setup.with("sse: {unavailable: status}").start().await;
    let mut visitor = proxy.visitor();
    visitor.get("/").await;
    let mut tabs = Vec::new();
    for _ in 0..6 {
        tabs.push((visitor.events("/events").await, pods[0].next_stream().await));
    }
    for _ in 0..3 {
        assert_eq!(visitor.send(Request::events("/events")).await.status, 429);
    }
    for (tab, stream) in &mut tabs {
        stream.event("still here").await;
        while tab.next_data().await != "still here" {}
    }
    assert_eq!(proxy.metric("podpin_streams_closed_total", &[]).await, 0.0);
    drop(tabs.pop());
    proxy.wait_metric("podpin_streams_active", &[], 5.0).await;
    let _seventh = visitor.events("/events").await;
}

#[tokio::test]
async fn an_address_has_its_limit_whatever_tokens_it_shows() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0]]).with("limits: {streamsPerClient: 2, streamsPerClientIP: 3}");
    let proxy = setup.with("sse: {unavailable: status}").start().await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut visitor = proxy.visitor();
        visitor.get("/").await;
        kept.push(visitor.events("/events").await);
    }
    let mut visitor = proxy.visitor();
    visitor.get("/").await;
    assert_eq!(visitor.send(Request::events("/events")).await.status, 429);
    drop(kept.pop());
    proxy.wait_metric("podpin_streams_active", &[], 2.0).await;
    let _fits = visitor.events("/events").await;
}

#[tokio::test]
async fn a_pod_that_cannot_be_reached_is_passed_over_and_the_cookie_tells_where_the_client_ended_up() {
    let pods = Pod::start_three().await;
    let nobody = ([127, 0, 0, 1], free_port()).into();
    let setup = Setup::new().service_at("chat", &[("dead", nobody), ("pod-a", pods[0].address())]);
    let proxy = setup.with("health: {passive: off}").start().await;
    for round in 0..10 {
        let mut visitor = proxy.visitor();
        let mut stream = visitor.events("/events").await;
        assert_eq!(stream.next_data().await, "pod-a", "round {round}");
        assert_eq!(visitor.get("/who").await.text(), "pod-a");
        let mut asking = proxy.visitor();
        assert_eq!(asking.get("/who").await.text(), "pod-a");
        let tries = proxy.metric("podpin_upstream_retries_total", &[("reason", "connect")]).await;
        assert_eq!(asking.get("/who").await.text(), "pod-a");
        assert_eq!(asking.events("/events").await.next_data().await, "pod-a");
        let after = proxy.metric("podpin_upstream_retries_total", &[("reason", "connect")]).await;
        assert_eq!(after, tries, "the cookie does not name the pod that served");
    }
    assert!(
        proxy.metric("podpin_upstream_retries_total", &[("service", "chat"), ("reason", "connect")]).await
            >= 1.0
    );
}

#[tokio::test]
async fn a_pinned_client_whose_pod_died_is_served_by_another_and_stays_there() {
    let mut pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]);
    let (proxy, other) = (setup.start().await, setup.start().await);
    let mut visitor = proxy.visitor();
    let home = visitor.get("/who").await.text();
    let dead = pods.iter_mut().find(|pod| pod.name() == home).unwrap();
    dead.stop().await;
    let before = visitor.clone();
    let moved = visitor.get("/who").await;
    assert_eq!(moved.status, 200);
    assert_ne!(moved.text(), home);
    assert!(moved.header("set-cookie").is_some(), "the cookie must tell the truth");
    assert_eq!(visitor.events("/events").await.next_data().await, moved.text());
    let elsewhere = before.at(other.address).events("/events").await.next_data().await;
    assert_eq!(elsewhere, moved.text(), "another proxy moves the same client to another pod");
}

#[tokio::test]
async fn when_no_pod_can_be_reached_it_is_a_502() {
    let nobody = ([127, 0, 0, 1], free_port()).into();
    let setup = Setup::new().service_at("chat", &[("dead", nobody)]).with("health: {passive: off}");
    let proxy = setup.with("sse: {unavailable: status}").start().await;
    for request in [Request::get("/"), Request::events("/events"), Request::new("POST", "/").body("x")] {
        assert_eq!(request.send(proxy.address).await.status, 502, "{request:?}");
    }
    proxy.wait_metric_at_least("podpin_upstream_errors_total", &[("kind", "connect")], 3.0).await;
}

#[tokio::test]
async fn a_pod_that_fails_again_and_again_is_taken_out_for_a_while() {
    let pods = Pod::start_three().await;
    let nobody = ([127, 0, 0, 1], free_port()).into();
    let setup = Setup::new().service_at("chat", &[("dead", nobody), ("pod-a", pods[0].address())]);
    let proxy = setup.with("health: {passive: {failures: 2, ejection: 60s}}").start().await;
    wait_for("the dead pod to be ejected", async || {
        assert_eq!(proxy.get("/who").await.text(), "pod-a");
        proxy.metric("podpin_endpoints", &[("service", "chat"), ("state", "ejected")]).await == 1.0
    })
    .await;
    proxy.wait_metric("podpin_endpoint_ejections_total", &[("service", "chat")], 1.0).await;
    let tries = proxy.metric("podpin_upstream_retries_total", &[]).await;
    for _ in 0..10 {
        assert_eq!(proxy.get("/who").await.text(), "pod-a");
    }
    assert_eq!(proxy.metric("podpin_upstream_retries_total", &[]).await, tries, "it is still tried");
    let listed = proxy.endpoints("chat").await;
    let ejected = |name: &str| listed.iter().find(|one| one["name"] == name).unwrap()["ejected"].clone();
    assert_eq!((ejected("dead"), ejected("pod-a")), (true.into(), false.into()));
}

#[tokio::test]
async fn a_request_that_may_have_been_executed_is_not_sent_twice() {
    let pods = Pod::start_three().await;
    for pod in &pods {
        pod.answer("/order", Answer::Close);
    }
    let proxy = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).start().await;
    let response = Request::new("POST", "/order").body("one").send(proxy.address).await;
    assert_eq!(response.status, 502);
    let orders: usize =
        pods.iter().map(|pod| pod.targets().iter().filter(|target| *target == "/order").count()).sum();
    assert_eq!(orders, 1);
}

#[tokio::test]
async fn parallel_first_requests_of_one_session_do_not_split_it() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).start().await;
    let mut visitor = proxy.visitor();
    let home = visitor.get("/who").await.text();
    let ask = async |mut visitor: Visitor| visitor.get("/who").await.text();
    let answers =
        tokio::join!(ask(visitor.clone()), ask(visitor.clone()), ask(visitor.clone()), ask(visitor));
    assert_eq!(answers, (home.clone(), home.clone(), home.clone(), home));
}
