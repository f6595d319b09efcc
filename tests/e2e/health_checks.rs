//! `health.active`: endpoints that fail their checks are put aside, and come back.

use podpin_testkit::{
    Answer, Authority, EndpointsFile, Pod, Proxy, Reply, Setup, StreamAnswer, free_port, wait_for,
};

const HTTP: &str =
    "health: {active: {path: /healthz, interval: 100ms, timeout: 300ms, failures: 2, successes: 2}}";

async fn ejected(proxy: &Proxy) -> Vec<String> {
    let endpoints = proxy.endpoints("chat").await;
    let names = endpoints.iter().filter(|one| one["ejected"] == true).filter_map(|one| one["name"].as_str());
    names.map(str::to_owned).collect()
}

async fn wait_ejected(proxy: &Proxy, names: &[&str]) {
    wait_for(&format!("{names:?} to be ejected"), async || ejected(proxy).await == names).await;
}

#[tokio::test]
async fn a_pod_that_fails_its_checks_is_put_aside_until_it_passes_them() {
    let pods = Pod::start_three().await;
    for pod in &pods {
        pod.answer("/healthz", Reply::new(204));
    }
    let proxy = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with(HTTP).start().await;
    let mut visitor = proxy.pinned_to("pod-a").await;
    let mut stream = visitor.clone().events("/events").await;
    assert_eq!(stream.next_data().await, "pod-a");
    let failing: [Answer; 4] = [
        Reply::new(503).into(),
        Answer::Reset,
        // No answer in time, and an answer that never ends.
        Answer::ByHand,
        StreamAnswer::new().into(),
    ];
    for answer in failing {
        pods[0].answer("/healthz", answer.clone());
        wait_ejected(&proxy, &["pod-a"]).await;
        let moved = visitor.clone().get("/who").await.text();
        assert_ne!(moved, "pod-a", "{answer:?}");
        for _ in 0..20 {
            assert_ne!(proxy.get("/who").await.text(), "pod-a", "{answer:?}");
        }
        pods[0].answer("/healthz", Reply::new(302));
        wait_ejected(&proxy, &[]).await;
        assert_eq!(visitor.get("/who").await.text(), "pod-a", "{answer:?}");
    }
    proxy.wait_metric("podpin_endpoint_ejections_total", &[("service", "chat")], 4.0).await;
    let told =
        |pod: &Pod| pod.requests().iter().any(|one| one.header("x-podpin-repinned") == Some("ejected"));
    assert!(pods[1..].iter().any(told));
    let mut open = pods[0].next_stream().await;
    while open.request.path() != "/events" {
        open = pods[0].next_stream().await;
    }
    open.event("still here").await;
    assert_eq!(stream.next_data().await, "still here", "streams in flight are not touched");
}

#[tokio::test]
async fn streams_of_a_pod_that_fails_its_checks_go_on_elsewhere_if_another_takes_them() {
    let pods = [Pod::start("pod-a").await, Pod::start("pod-b").await, Pod::start("pod-c").await];
    for pod in &pods {
        pod.answer("/healthz", Reply::new(204));
        pod.answer("/events", StreamAnswer::new());
    }
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with(HTTP);
    let proxy = setup.with("drain: {handover: lastEventId}").start().await;
    let mut client = proxy.pinned_to("pod-a").await.events("/events").await;
    let mut old = pods[0].next_stream().await;
    while old.request.path() != "/events" {
        old = pods[0].next_stream().await;
    }
    old.event_with_id("1", "x").await;
    assert_eq!(client.next_event().await.id, "1");
    for pod in &pods[1..] {
        pod.answer("/events", Reply::new(503));
    }
    pods[0].answer("/healthz", Answer::ByHand);
    let failed = [("service", "chat"), ("cause", "planned"), ("result", "status_5xx")];
    proxy.wait_metric_at_least("podpin_handovers_total", &failed, 2.0).await;
    old.event_with_id("2", "x").await;
    assert_eq!(client.next_event().await.id, "2", "it flows on");
    for pod in &pods[1..] {
        pod.answer("/events", StreamAnswer::new());
    }
    proxy.wait_metric("podpin_handovers_total", &[("cause", "planned"), ("result", "ok")], 1.0).await;
    old.client_gone().await;
    assert_eq!(proxy.metric("podpin_streams_closed_total", &[]).await, 0.0);
}

#[tokio::test]
async fn streams_of_a_pod_that_neither_is_ready_nor_serves_go_on_elsewhere() {
    let pods = [Pod::start("pod-a").await, Pod::start("pod-b").await];
    for pod in &pods {
        pod.answer("/events", StreamAnswer::new());
    }
    let [a, b] = [pods[0].address(), pods[1].address()];
    let file = EndpointsFile::with(&[("pod-a", a, "ready"), ("pod-b", b, "ready")]);
    let setup = Setup::new().service_in("chat", &file).with("drain: {handover: lastEventId}");
    let proxy = setup.start().await;
    let mut client = proxy.pinned_to("pod-a").await.events("/events").await;
    let mut old = pods[0].next_stream().await;
    old.event_with_id("1", "x").await;
    assert_eq!(client.next_event().await.id, "1");
    file.write(&[("pod-a", a, "notReady"), ("pod-b", b, "ready")]);
    let mut next = pods[1].next_stream().await;
    assert_eq!(next.request.header("last-event-id"), Some("1"));
    old.client_gone().await;
    next.event_with_id("2", "x").await;
    assert_eq!(client.next_event().await.id, "2");
    proxy.wait_metric("podpin_handovers_total", &[("cause", "planned"), ("result", "ok")], 1.0).await;
    // Without another one that is ready, the next one stays where it is.
    file.write(&[("pod-a", a, "notReady"), ("pod-b", b, "notReady")]);
    proxy.wait_endpoints("chat", &[("pod-a", "resting"), ("pod-b", "resting")]).await;
    next.event_with_id("3", "x").await;
    assert_eq!(client.next_event().await.id, "3");
    assert_eq!(proxy.metric("podpin_streams_closed_total", &[]).await, 0.0);
}

#[tokio::test]
async fn when_most_fail_their_checks_none_is_left_out() {
    let pods = Pod::start_three().await;
    for pod in &pods[..2] {
        pod.answer("/healthz", Reply::new(500));
    }
    pods[2].answer("/healthz", Reply::new(200));
    let proxy = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with(HTTP).start().await;
    proxy.wait_metric("podpin_endpoint_ejections_total", &[("service", "chat")], 2.0).await;
    assert_eq!(ejected(&proxy).await, Vec::<String>::new());
    for name in ["pod-a", "pod-b", "pod-c"] {
        proxy.pinned_to(name).await;
    }
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_fails_the_check_by_tcp() {
    let pod = Pod::start("pod-a").await;
    let nobody = ([127, 0, 0, 1], free_port()).into();
    let setup = Setup::new().service_at("chat", &[("pod-a", pod.address()), ("pod-b", nobody)]);
    let setup = setup.with("health: {passive: off, active: {type: tcp, interval: 100ms, failures: 1}}");
    let proxy = setup.start().await;
    wait_ejected(&proxy, &["pod-b"]).await;
    let errors = proxy.metric("podpin_upstream_errors_total", &[]).await;
    for _ in 0..20 {
        assert_eq!(proxy.get("/who").await.text(), "pod-a");
    }
    assert_eq!(proxy.metric("podpin_upstream_errors_total", &[]).await, errors, "it was not even tried");
    let _back = Pod::start_at("pod-b", nobody).await;
    wait_ejected(&proxy, &[]).await;
    proxy.pinned_to("pod-b").await;
}

#[tokio::test]
async fn the_check_by_tcp_of_a_service_with_tls_shakes_hands() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.issue("own", &["podpin"]);
    let name = &["pod.test"];
    let good = Pod::start_tls("pod-a", authority.acceptor(name, Some(&authority))).await;
    let others = [
        Pod::start_tls("pod-b", stranger.acceptor(name, None)).await,
        Pod::start_tls("pod-b", authority.acceptor(&["other.test"], None)).await,
        Pod::start("pod-b").await,
    ];
    let (ca, own) = (authority.file("ca.pem"), authority.entry("own"));
    let own = own.trim_matches(['{', '}']);
    for bad in &others {
        let setup = Setup::chat(&[&good, bad]);
        let setup =
            setup.with(&format!("tls: {{serverName: pod.test, caFile: \"{}\", {own}}}", ca.display()));
        let setup = setup.with("health: {passive: off, active: {type: tcp, interval: 100ms, failures: 1}}");
        let proxy = setup.start().await;
        wait_ejected(&proxy, &["pod-b"]).await;
        // Checked again and again, and found good each time.
        let checked = good.connections();
        wait_for("more checks", async || good.connections() > checked + 2).await;
        assert_eq!(ejected(&proxy).await, ["pod-b"]);
        for _ in 0..20 {
            assert_eq!(proxy.get("/who").await.text(), "pod-a");
        }
    }
}
