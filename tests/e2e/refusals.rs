//! Answers when nothing can serve a client: an event stream client comes back, any other gets a status.

use podpin_testkit::{
    Answer, Ending, EndpointsFile, H2Connection, Item, Pod, Proxy, Reply, Request, Response, Setup, free_port,
};

const REFUSALS: &str = "podpin_refusals_total";

/// Asserts that it is an event stream that asks to come back, says why, and is over.
pub(super) fn assert_invitation(response: &Response, why: &str) {
    assert_eq!((response.status, &response.ending), (200, &Ending::Clean), "{}", response.text());
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!((response.header("set-cookie"), response.header("retry-after")), (None, None));
    let text = response.text();
    let mut parser = podpin_testkit::EventParser::default();
    parser.push(text.as_bytes());
    let items: Vec<Item> = std::iter::from_fn(|| parser.pop()).collect();
    let [Item::Retry(retry), Item::Comment(comment)] = items.as_slice() else { panic!("{text}") };
    assert!((1_000..=10_000).contains(retry), "{retry} ms");
    assert!(comment.contains(why), "{comment}");
    assert!(
        !parser.is_inside_event() && text.ends_with('\n') && !text.contains("\n\n"),
        "no event of its own: {text:?}"
    );
}

/// Asserts what is logged and counted about `count` refused event streams, and that they are no streams.
async fn assert_counted(proxy: &Proxy, kind: &str, why: &str, count: usize) {
    proxy.wait_metric(REFUSALS, &[("service", "chat"), ("kind", kind)], count as f64).await;
    let refused = |line: &serde_json::Value| line["reason"] == "refused" && line["kind"] == "stream";
    let line = proxy.access_log_line(refused).await;
    assert_eq!((&line["status"], &line["service"]), (&200.into(), &"chat".into()), "{line}");
    assert!(line["error"].as_str().is_some_and(|error| error.contains(why)), "{line}");
    let labels = [("service", "chat"), ("method", "GET"), ("code", "200")];
    proxy.wait_metric_at_least("podpin_requests_total", &labels, count as f64).await;
}

/// Asks for an event stream over HTTP/1.1 and over HTTP/2.
async fn both(proxy: &Proxy) -> [Response; 2] {
    let one = Request::events("/events").send(proxy.address).await;
    let other = H2Connection::open(proxy.address).await.send(&Request::events("/events")).await;
    [one, other]
}

#[tokio::test]
async fn without_an_endpoint_event_streams_are_asked_back_and_others_told_503() {
    let file = EndpointsFile::with(&[]);
    let proxy = Setup::new().service_in("chat", &file).h2c().start().await;
    for response in both(&proxy).await {
        assert_invitation(&response, "no endpoint is available");
    }
    assert_counted(&proxy, "no_endpoint", "no endpoint is available", 2).await;
    for request in [Request::get("/"), Request::new("POST", "/events").body("x")] {
        let response = request.send(proxy.address).await;
        assert_eq!(response.status, 503);
        assert!(response.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
    }
    proxy.wait_metric(REFUSALS, &[("kind", "no_endpoint")], 4.0).await;
}

#[tokio::test]
async fn when_every_pod_is_full_event_streams_are_asked_back() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1]]).with("limits: {streamsPerEndpoint: 1}").h2c();
    let proxy = setup.start().await;
    let mut visitor = proxy.visitor();
    let first = visitor.events("/events").await;
    let _second = Request::events("/events").open(proxy.address).await;
    for response in both(&proxy).await {
        assert_invitation(&response, "every endpoint is at its limit");
    }
    let again = visitor.send(Request::events("/events")).await;
    assert_invitation(&again, "every endpoint is at its limit");
    assert_counted(&proxy, "full", "every endpoint is at its limit", 3).await;
    assert_eq!(proxy.get("/who").await.status, 200, "ordinary requests take no place");
    drop(first);
    proxy.wait_metric("podpin_streams_active", &[("service", "chat")], 1.0).await;
    Request::events("/events").open(proxy.address).await.next_event().await;
}

#[tokio::test]
async fn a_client_at_its_limit_is_asked_back() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0]]).with("limits: {streamsPerClient: 1}").h2c().start().await;
    let mut visitor = proxy.visitor();
    visitor.get("/").await;
    let kept = visitor.events("/events").await;
    let refused = visitor.send(Request::events("/events")).await;
    assert_invitation(&refused, "too many streams of this client");
    assert_counted(&proxy, "client_limit", "too many streams of this client", 1).await;
    drop(kept);
    proxy.wait_metric("podpin_streams_active", &[("service", "chat")], 0.0).await;
    visitor.events("/events").await.next_event().await;
}

#[tokio::test]
async fn when_no_pod_can_be_reached_event_streams_are_asked_back() {
    let nobody = || ([127, 0, 0, 1], free_port()).into();
    let setup = Setup::new().service_at("chat", &[("dead", nobody()), ("gone", nobody())]).h2c();
    let proxy = setup.with("health: {passive: off}").start().await;
    for response in both(&proxy).await {
        assert_invitation(&response, "the endpoint cannot be reached");
    }
    assert_counted(&proxy, "upstream", "the endpoint cannot be reached", 2).await;
    proxy.wait_metric("podpin_upstream_retries_total", &[("reason", "connect")], 2.0).await;
    assert_eq!(proxy.get("/").await.status, 502, "a status for those who can read it");
}

#[tokio::test]
async fn when_every_pod_says_503_that_is_the_answer() {
    let pods = Pod::start_three().await;
    let starting = || Reply::new(503).header("Retry-After", "7").body("starting");
    pods.iter().for_each(|pod| pod.answer("/events", starting()));
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with("health: {passive: off}").h2c();
    let proxy = setup.start().await;
    for response in both(&proxy).await {
        assert_eq!((response.status, response.text().as_str()), (503, "starting"));
        assert_eq!(response.header("retry-after"), Some("7"), "the pod's own");
    }
    assert_eq!(proxy.metric(REFUSALS, &[]).await, 0.0);
    for pod in &pods {
        assert_eq!(pod.targets(), ["/events", "/events"], "{} was asked once each", pod.name());
    }
    proxy.wait_metric("podpin_upstream_retries_total", &[("reason", "status")], 4.0).await;
    assert_eq!(proxy.metric("podpin_streams_opened_total", &[]).await, 0.0);
    proxy.wait_metric("podpin_streams_active", &[], 0.0).await;
}

#[tokio::test]
async fn a_pod_that_resets_or_keeps_silent_is_asked_back_too() {
    let pod = Pod::start("pod-a").await;
    let setup = Setup::chat(&[&pod]).with("health: {passive: off}").with("timeouts: {responseHeader: 300ms}");
    let proxy = setup.start().await;
    for (path, answer, why) in [
        ("/reset", Answer::Reset, "closed the connection"),
        ("/silent", Answer::ByHand, "did not answer in time"),
    ] {
        pod.answer(path, answer);
        let response = Request::events(path).send(proxy.address).await;
        assert_invitation(&response, why);
    }
    proxy.wait_metric(REFUSALS, &[("service", "chat"), ("kind", "upstream")], 2.0).await;
}

#[tokio::test]
async fn a_pod_that_says_502_503_or_504_is_replaced_and_the_cookie_names_the_one_that_answered() {
    for status in [502, 503, 504] {
        let pods = Pod::start_three().await;
        pods[..2].iter().for_each(|pod| pod.answer("/events", Reply::new(status).body("no")));
        let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with("health: {passive: off}");
        let proxy = setup.start().await;
        let mut retries = 0;
        for _ in 0..6 {
            let mut visitor = proxy.visitor();
            let mut stream = visitor.events("/events").await;
            assert_eq!(stream.next_data().await, "pod-c", "{status}");
            assert_eq!(visitor.get("/who").await.text(), "pod-c", "{status}");
            retries = pods[..2].iter().flat_map(Pod::targets).filter(|target| target == "/events").count();
        }
        assert!(retries > 0);
        let labels = [("service", "chat"), ("reason", "status")];
        proxy.wait_metric("podpin_upstream_retries_total", &labels, retries as f64).await;
        assert_eq!(proxy.metric(REFUSALS, &[]).await, 0.0);
        // A client that is pinned gets the answer of its own pod, and stays.
        let mut pinned = proxy.pinned_to("pod-a").await;
        assert_eq!(pinned.send(Request::events("/events")).await.status, status);
        assert_eq!(pinned.get("/who").await.text(), "pod-a");
        // With another list of statuses, so does every other.
        let proxy = setup.with("retries: {statuses: []}").start().await;
        let mut statuses = Vec::new();
        for _ in 0..8 {
            statuses.push(proxy_status(&proxy).await);
        }
        assert!(statuses.contains(&status), "{statuses:?}");
        assert_eq!(proxy.metric("podpin_upstream_retries_total", &[]).await, 0.0);
    }
}

/// The status that a new client's event stream begins with.
async fn proxy_status(proxy: &Proxy) -> u16 {
    let mut connection = proxy.connect().await;
    connection.send(Request::events("/events").bytes()).await;
    let line = connection.head().await.start_line;
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn other_pods_are_asked_within_the_attempts_and_other_answers_are_answers() {
    let pods = Pod::start_three().await;
    for pod in &pods {
        pod.answer("/events", Reply::new(503).body("no"));
        pod.answer("/500", Reply::new(500).body("broken"));
    }
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with("health: {passive: off}");
    let proxy = setup.with("retries: {attempts: 1}").start().await;
    assert_eq!(Request::events("/events").send(proxy.address).await.status, 503);
    let asked = || pods.iter().map(|pod| pod.requests().len()).sum::<usize>();
    assert_eq!(asked(), 2, "one attempt after the first");
    let response = Request::events("/500").send(proxy.address).await;
    assert_eq!((response.status, response.text().as_str()), (500, "broken"));
    assert_eq!(Request::get("/events").send(proxy.address).await.status, 503, "not an event stream request");
    assert_eq!(asked(), 4);
}

#[tokio::test]
async fn with_status_the_last_answer_of_a_pod_passes_through() {
    let pods = Pod::start_three().await;
    for pod in &pods {
        let reply = Reply::new(503).header("Retry-After", "7").header("X-Pod", pod.name()).body("starting");
        pod.answer("/events", reply);
    }
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with("health: {passive: off}").h2c();
    let proxy = setup.with("sse: {unavailable: status}").start().await;
    let [one, other] = both(&proxy).await;
    for response in [&one, &other] {
        assert_eq!((response.status, response.text().as_str()), (503, "starting"));
        assert_eq!(response.header("retry-after"), Some("7"), "the pod's own");
    }
    let latest = pods.iter().max_by_key(|pod| pod.requests().last().map(|request| request.at)).unwrap();
    assert_eq!(other.header("x-pod"), Some(latest.name()), "the last that was asked");
    assert_eq!(pods.iter().map(|pod| pod.requests().len()).sum::<usize>(), 6);
    assert_eq!(proxy.metric(REFUSALS, &[]).await, 0.0);
}

#[tokio::test]
async fn with_status_event_streams_are_told_503_and_when_to_ask_again() {
    let file = EndpointsFile::with(&[]);
    let proxy = Setup::new().service_in("chat", &file).with("sse: {unavailable: status}").h2c().start().await;
    for response in both(&proxy).await {
        assert_eq!(response.status, 503);
        assert!(response.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
        assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
    }
    proxy.wait_metric(REFUSALS, &[("service", "chat"), ("kind", "no_endpoint")], 2.0).await;
}

#[tokio::test]
async fn what_cannot_pass_is_a_status_for_event_streams_too() {
    let pods = Pod::start_three().await;
    let route = "{name: one, service: chat, matches: [{path: {type: PathPrefix, value: /events}}]}";
    let proxy = Setup::chat(&[&pods[0]]).route(route).start().await;
    assert_eq!(Request::events("/elsewhere").send(proxy.address).await.status, 404);
    assert_eq!(Request::events("/events").header("Host", "second").send(proxy.address).await.status, 400);
}

#[tokio::test]
async fn strict_clients_are_not_moved_even_when_others_are_free() {
    let pods = Pod::start_three().await;
    let listed = |state| {
        let rest = pods[1..].iter().map(|pod| (pod.name(), pod.address(), "ready"));
        [(pods[0].name(), pods[0].address(), state)].into_iter().chain(rest).collect::<Vec<_>>()
    };
    let file = EndpointsFile::with(&listed("ready"));
    let setup = Setup::new().service_in("chat", &file).with("affinity: {onUnavailable: strict}");
    let setup = setup.with("limits: {streamsPerEndpoint: 1}").with("drain: {spread: 0s, timeout: 5s}");
    let proxy = setup.start().await;
    let mut client = crate::crowd::Client::on(&proxy, "pod-a").await;
    let second = client.visitor.send(Request::events("/events")).await;
    assert_invitation(&second, "every endpoint is at its limit");
    for state in ["notReady", "draining"] {
        file.write(&listed(state));
        let listed_as = if state == "notReady" { "resting" } else { state };
        proxy.wait_metric("podpin_endpoints", &[("state", listed_as)], 1.0).await;
        let ordinary = client.visitor.get("/who").await;
        assert_eq!((ordinary.status, ordinary.header("retry-after").is_some()), (503, true), "{state}");
        let stream = client.visitor.send(Request::events("/events")).await;
        assert_invitation(&stream, "no endpoint is available");
    }
    let visitor = client.visitor.clone();
    client.left().await.goodbye();
    file.write(&listed("ready"));
    // Until then it is refused, and it has its own pod again afterwards. A drained pod of a file may come back.
    proxy.wait_metric("podpin_endpoints", &[("state", "ready")], 3.0).await;
    assert_eq!(crate::crowd::Client::back(visitor).await.pod, "pod-a");
    assert_eq!(proxy.metric("podpin_affinity_repins_total", &[]).await, 0.0);
    assert_eq!(proxy.get("/who").await.status, 200, "new clients go to the others");
}
