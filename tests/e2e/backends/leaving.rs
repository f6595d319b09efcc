//! A service that has no weight any more loses its clients to the others, which get their sessions.

use podpin_testkit::{Ending, Item, Pod, Reply, Request};

use super::{DECISIONS, both, lines, route, setup, who};

#[tokio::test]
async fn a_client_of_a_service_without_weight_moves_with_its_session_and_stays_there() {
    let pods = Pod::start_three().await;
    let (before, after) = (setup(&pods, [1, 1]).start().await, setup(&pods, [1, 0]).start().await);
    let visitor = before.pinned_to("pod-c").await;
    let session = pods[2].requests().last().unwrap().header("x-podpin-session").unwrap().to_owned();
    // Before the client holds another cookie, all of its requests meet at one pod.
    let pod = who(&after, &visitor).await;
    assert_ne!(pod, "pod-c");
    after.wait_metric(DECISIONS, &[("service", "chat"), ("result", "new")], 5.0).await;
    let mut visitor = visitor.at(after.address);
    let moved = visitor.get("/who").await;
    assert_eq!(moved.text(), pod);
    assert!(moved.header("set-cookie").is_some_and(|cookie| cookie.starts_with("podpin-chat=")));
    assert_eq!(visitor.get("/who").await.header("set-cookie"), None);
    let labels = [("service", "chat"), ("result", "pinned")];
    after.wait_metric(DECISIONS, &labels, 1.0).await;
    let home = pods.iter().find(|one| one.name() == pod).unwrap();
    let sessions: Vec<_> =
        home.requests().iter().map(|seen| seen.header("x-podpin-session").map(str::to_owned)).collect();
    assert!(
        sessions.iter().filter(|seen| seen.as_deref() == Some(&session)).count() >= 7,
        "{session}: {sessions:?}"
    );
    // Back where both have a weight, the newer pin is the first of the route.
    assert_eq!(who(&before, &visitor).await, pod);
    assert_eq!(after.metric("podpin_affinity_repins_total", &[]).await, 0.0);
}

#[tokio::test]
async fn nobody_new_goes_to_a_service_without_weight() {
    let pods = Pod::start_three().await;
    let proxy = setup(&pods, [0, 1]).start().await;
    for _ in 0..40 {
        assert_eq!(proxy.get("/who").await.text(), "pod-c");
        assert_eq!(Request::events("/events").open(proxy.address).await.next_data().await, "pod-c");
    }
}

#[tokio::test]
async fn a_session_id_that_a_pod_issued_keeps_its_service_and_leaves_with_the_pods_own_value() {
    const HEADER: &str = "Mcp-Session-Id";
    let pods = Pod::start_three().await;
    for pod in &pods {
        pod.answer("/mcp", Reply::new(200).header(HEADER, &format!("own-{}", pod.name())).body(pod.name()));
    }
    let by_header = "affinity: {header: Mcp-Session-Id, cookie: off}";
    let before = lines(&pods, [1, 1], by_header).start().await;
    let after = lines(&pods, [1, 0], by_header).start().await;
    let mut issued = std::collections::BTreeMap::new();
    while issued.len() < 3 {
        let answer = Request::new("POST", "/mcp").body("{}").send(before.address).await;
        issued.insert(answer.text(), answer.header(HEADER).unwrap().to_owned());
    }
    for (pod, id) in &issued {
        let asked = Request::get("/who").header(HEADER, id);
        assert_eq!(asked.send(before.address).await.text(), *pod);
        let live = Request::events("/events").header(HEADER, id);
        assert_eq!(live.open(before.address).await.next_data().await, *pod);
        let moved = asked.send(after.address).await.text();
        assert_eq!(live.open(after.address).await.next_data().await, moved);
        assert_eq!(moved == *pod, pod != "pod-c");
        let home = pods.iter().find(|one| one.name() == moved).unwrap();
        assert_eq!(home.requests().last().unwrap().header(HEADER), Some(format!("own-{pod}").as_str()));
    }
    before.wait_metric(DECISIONS, &[("result", "pinned")], 6.0).await;
    after.wait_metric(DECISIONS, &[("result", "pinned")], 4.0).await;
    after.wait_metric(DECISIONS, &[("service", "chat"), ("result", "new")], 2.0).await;
    assert_eq!(after.metric(DECISIONS, &[("result", "forged")]).await, 0.0);
}

#[tokio::test]
async fn a_reload_takes_the_weight_and_then_the_backend() {
    let pods = Pod::start_three().await;
    let quick = || both(&pods).with("drain: {spread: 0s}");
    let proxy = quick().route(&route([1, 1])).start().await;
    let mut visitor = proxy.pinned_to("pod-c").await;
    let mut client = visitor.events("/events").await;
    assert_eq!(client.next_data().await, "pod-c");
    let mut stream = pods[2].next_stream().await;
    proxy.reload(&quick().route(&route([1, 0]))).await;
    assert_ne!(visitor.get("/who").await.text(), "pod-c");
    stream.event("still here").await;
    assert_eq!(client.next_data().await, "still here");
    proxy.reload(&quick().route("{name: all, service: chat}")).await;
    let (items, ending) = client.rest().await;
    assert!(matches!(items.as_slice(), [Item::Retry(_)]), "{items:?}");
    assert_eq!(ending, Ending::Clean);
}
