//! Clients that name themselves: by a header, a query parameter, their address.

use podpin_testkit::{EndpointsFile, Pod, Proxy, Request, Setup};

const BY_ALL: &str = "affinity: {header: X-Session-Id, query: sid, clientIP: {}}";

/// A file that lists these pods; the one called `leaving` drains.
fn list<'a>(pods: &[&'a Pod], leaving: &str) -> Vec<(&'a str, std::net::SocketAddr, &'static str)> {
    let state = |pod: &Pod| if pod.name() == leaving { "draining" } else { "ready" };
    pods.iter().map(|pod| (pod.name(), pod.address(), state(pod))).collect()
}

/// The pod that answers, for a stream and for an ordinary request.
async fn who(proxy: &Proxy, decorate: impl Fn(Request) -> Request, query: &str) -> String {
    let events = decorate(Request::events(&format!("/events{query}")));
    let streamed = events.open(proxy.address).await.next_data().await;
    let asked = decorate(Request::get(&format!("/who{query}"))).send(proxy.address).await.text();
    assert_eq!(streamed, asked, "a stream and a request of one client met different pods");
    asked
}

async fn by_header(proxy: &Proxy, value: &str) -> String {
    who(proxy, |request| request.header("X-Session-Id", value), "").await
}

async fn by_query(proxy: &Proxy, value: &str) -> String {
    who(proxy, |request| request, &format!("?a=b&sid={value}")).await
}

#[tokio::test]
async fn two_proxies_agree_on_every_client_that_names_itself() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with(BY_ALL);
    // By the same keys: without one of them no client can choose its pod.
    let (one, other) = (setup.start().await, setup.clone().start().await);
    let mut met = std::collections::BTreeSet::new();
    for client in 0..12 {
        let value = format!("client-{client}");
        let pod = by_header(&one, &value).await;
        assert_eq!(by_header(&other, &value).await, pod);
        let queried = by_query(&one, &value).await;
        assert_eq!(by_query(&other, &value).await, queried);
        met.extend([pod, queried]);
    }
    assert!(met.len() > 1, "everybody went to {met:?}");
    one.wait_metric("podpin_affinity_decisions_total", &[("result", "pinned")], 48.0).await;
    one.wait_metric("podpin_streams_opened_total", &[("result", "pinned")], 24.0).await;
}

#[tokio::test]
async fn the_header_comes_before_the_parameter_and_both_before_the_cookie() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).with("affinity: {header: X-Session-Id, query: sid}").start().await;
    let mut visitor = proxy.visitor();
    visitor.get("/").await;
    let cookie = format!("podpin-chat={}", visitor.cookie("podpin-chat").unwrap());
    let by_cookie = pod.next_request().await.header("x-podpin-session").unwrap().to_owned();
    let session = async |header: Option<&str>, target: &str| {
        let request = Request::get(target).header("Cookie", &cookie);
        let request = header.iter().fold(request, |request, value| request.header("x-session-id", value));
        let response = request.send(proxy.address).await;
        assert_eq!(response.header("set-cookie"), None);
        let seen = pod.next_request().await;
        assert_eq!(seen.header("x-session-id"), header);
        seen.header("x-podpin-session").unwrap().to_owned()
    };
    let by_header = session(Some("a"), "/").await;
    assert_eq!(by_header.len(), 32);
    assert_eq!(session(Some("a"), "/?sid=a").await, by_header);
    let by_query = session(None, "/?sid=a").await;
    assert_eq!(session(None, "/?sid=%61").await, by_query);
    assert_eq!(session(None, "/").await, by_cookie);
    assert_eq!(session(None, "/?sid=").await, by_cookie, "an empty value says nothing");
    assert!(by_query != by_header && by_query != by_cookie && by_header != by_cookie);
}

#[tokio::test]
async fn an_address_counts_as_trusted_proxies_name_it_and_as_far_as_its_prefix() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod])
        .with("affinity: {cookie: off, clientIP: {ipv4Prefix: 24}}")
        .top("trustedProxies: [127.0.0.0/8]")
        .start()
        .await;
    let mut sessions = Vec::new();
    for address in ["198.51.100.1", "198.51.100.2", "198.51.101.1", "2001:db8::1", "2001:db8::2"] {
        let response = Request::get("/").header("X-Forwarded-For", address).send(proxy.address).await;
        assert_eq!(response.header("set-cookie"), None);
        sessions.push(pod.next_request().await.header("x-podpin-session").unwrap().to_owned());
    }
    assert_eq!((&sessions[0], &sessions[3]), (&sessions[1], &sessions[4]));
    assert!(sessions[0] != sessions[2] && sessions[0] != sessions[3]);
}

#[tokio::test]
async fn only_those_whose_pod_drains_move_and_the_pod_is_told_why() {
    let pods = Pod::start_three().await;
    let all: Vec<&Pod> = pods.iter().collect();
    let file = EndpointsFile::with(&list(&all, ""));
    let setup = Setup::new().service_in("chat", &file).with(BY_ALL);
    let (one, other) = (setup.start().await, setup.start().await);
    let mut before: Vec<String> = Vec::new();
    for client in 0..12 {
        before.push(by_header(&one, &format!("client-{client}")).await);
    }
    let leaving = before[0].clone();
    let listed = list(&all, &leaving);
    file.write(&listed);
    for proxy in [&one, &other] {
        let expected: Vec<_> = listed.iter().map(|(name, _, state)| (*name, *state)).collect();
        proxy.wait_endpoints("chat", &expected).await;
    }
    let mut moved = 0;
    for (client, pod) in before.iter().enumerate() {
        let value = format!("client-{client}");
        let now = by_header(&one, &value).await;
        assert_eq!(by_header(&other, &value).await, now);
        if *pod == leaving {
            moved += 1;
            assert_ne!(now, leaving);
        } else {
            assert_eq!(now, *pod, "moved without need");
        }
    }
    let expected = f64::from(moved * 2);
    one.wait_metric("podpin_affinity_decisions_total", &[("result", "repinned")], expected).await;
    one.wait_metric("podpin_affinity_repins_total", &[("reason", "draining")], expected).await;
    one.wait_metric("podpin_streams_opened_total", &[("result", "repinned")], expected / 2.0).await;
    let now = by_header(&one, "client-0").await;
    let successor = pods.iter().find(|pod| pod.name() == now).unwrap();
    let told = successor.requests().into_iter().rfind(|seen| seen.header("x-session-id") == Some("client-0"));
    assert_eq!(told.unwrap().header("x-podpin-repinned"), Some("draining"));
}

#[tokio::test]
async fn a_stream_of_a_client_that_names_itself_is_handed_over_to_where_its_requests_go() {
    let pods = Pod::start_three().await;
    let all: Vec<&Pod> = pods.iter().collect();
    let file = EndpointsFile::with(&list(&all, ""));
    let proxy = Setup::new()
        .service_in("chat", &file)
        .with(BY_ALL)
        .with("drain: {spread: 100ms, handover: lastEventId}")
        .start()
        .await;
    let home = by_header(&proxy, "a").await;
    for pod in &all {
        pod.answer("/live", podpin_testkit::StreamAnswer::new());
    }
    let leaving = all.iter().find(|pod| pod.name() == home).unwrap();
    drop(leaving.waiting_streams().await);
    let mut client = Request::events("/live").header("X-Session-Id", "a").open(proxy.address).await;
    let mut stream = leaving.next_stream().await;
    stream.event_with_id("1", "one").await;
    assert_eq!(client.next_data().await, "one");
    file.write(&list(&all, &home));
    proxy.wait_metric("podpin_streams_active", &[("endpoint", &home)], 0.0).await;
    let next = Request::get("/who").header("X-Session-Id", "a").send(proxy.address).await.text();
    let successor = all.iter().find(|pod| pod.name() == next).unwrap();
    let mut stream = successor.next_stream().await;
    assert_eq!(stream.request.header("last-event-id"), Some("1"));
    assert_eq!(stream.request.header("x-podpin-repinned"), Some("draining"));
    stream.event_with_id("2", "two").await;
    assert_eq!(client.next_data().await, "two");
}
