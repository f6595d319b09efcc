//! `affinity.onUnavailable: wait`: a bounded queue, first come, first served; and caps that hold without one.

use std::collections::BTreeMap;

use podpin_testkit::{
    Connection, EndpointsFile, Pod, PodStream, Proxy, Request, Setup, Signal, Visitor, wait_for,
};

use crate::crowd::{BALANCE, Client, listed, operate};

const ONE_PLACE: &str = "limits: {streamsPerEndpoint: 1}";

/// A proxy with one worker, so that requests are served in the order in which they were sent.
async fn in_order(pods: &[&Pod], lines: &[&str]) -> Proxy {
    let setup = Setup::chat(pods).top("workers: 1").with(BALANCE);
    lines.iter().fold(setup, |setup, line| setup.with(line)).start().await
}

/// A connection that has been served once.
async fn connected(proxy: &Proxy) -> Connection {
    let mut connection = proxy.connect().await;
    connection.ask(&Request::get("/who")).await;
    connection
}

/// Clients that ask for `/events?1`, `/events?2` and so on, one after the other.
async fn waiters(proxy: &Proxy, count: usize) -> Vec<Connection> {
    let mut waiters = Vec::new();
    for number in 1..=count {
        let mut connection = connected(proxy).await;
        connection.send(Request::events(&format!("/events?{number}")).bytes()).await;
        // An answer on a connection of its own: the proxy has read what was sent before.
        connected(proxy).await;
        waiters.push(connection);
    }
    waiters
}

/// Asserts that so many event streams were asked for at this pod.
fn assert_asked(pod: &Pod, count: usize) {
    let events = pod.targets().iter().filter(|target| target.starts_with("/events")).count();
    assert_eq!(events, count, "{:?}", pod.targets());
}

#[tokio::test]
async fn one_place_is_given_to_three_waiters_in_the_order_in_which_they_came() {
    let pod = Pod::start("pod-a").await;
    let proxy = in_order(&[&pod], &["affinity: {onUnavailable: wait}", ONE_PLACE]).await;
    let mut held: PodStream;
    let mut holder = Some(Request::events("/events?0").open(proxy.address).await);
    held = pod.next_stream().await;
    let waiting = waiters(&proxy, 3).await;
    assert_asked(&pod, 1);
    for (number, mut connection) in waiting.into_iter().enumerate() {
        drop(holder.take());
        held.client_gone().await;
        held = pod.next_stream().await;
        assert_eq!(held.request.target, format!("/events?{}", number + 1));
        assert_asked(&pod, number + 2);
        held.event("served").await;
        let head = connection.head().await;
        let mut stream = connection.into_events(head);
        assert_eq!(stream.next_data().await, "served");
        holder = Some(stream);
    }
    assert_eq!(proxy.metric("podpin_refusals_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_waiter_that_leaves_gives_its_turn_to_the_next() {
    let pod = Pod::start("pod-a").await;
    let proxy = in_order(&[&pod], &["affinity: {onUnavailable: wait}", ONE_PLACE]).await;
    let holder = Request::events("/events?0").open(proxy.address).await;
    pod.next_stream().await;
    let mut waiting = waiters(&proxy, 3).await;
    drop(waiting.remove(0));
    proxy.access_log_line(|line| line["path"] == "/events?1" && line["reason"] == "client").await;
    drop(holder);
    assert_eq!(pod.next_stream().await.request.target, "/events?2");
    assert!(!pod.targets().contains(&"/events?1".to_owned()));
}

#[tokio::test]
async fn a_waiter_whose_time_is_over_is_refused_and_counted() {
    let pod = Pod::start("pod-a").await;
    let line = "affinity: {onUnavailable: wait, queue: {timeout: 300ms}}";
    let proxy = in_order(&[&pod], &[line, ONE_PLACE]).await;
    let _holder = Request::events("/events?0").open(proxy.address).await;
    let refused = Request::events("/events?1").send(proxy.address).await;
    assert_eq!((refused.status, refused.header("content-type")), (200, Some("text/event-stream")));
    assert!(refused.text().starts_with("retry: ") && refused.text().contains("no place became free in time"));
    proxy.wait_metric("podpin_refusals_total", &[("service", "chat"), ("kind", "queue_timeout")], 1.0).await;
    let line = proxy.access_log_line(|line| line["path"] == "/events?1").await;
    assert_eq!((&line["reason"], &line["status"]), (&"refused".into(), &200.into()), "{line}");
    assert!(line["durationMs"].as_u64().is_some_and(|took| took >= 300), "{line}");
    assert_asked(&pod, 1);
}

#[tokio::test]
async fn whoever_comes_to_a_full_queue_is_refused_at_once_and_nobody_loses_a_turn() {
    let pod = Pod::start("pod-a").await;
    let line = "affinity: {onUnavailable: wait, queue: {length: 2, timeout: 1m}}";
    let proxy = in_order(&[&pod], &[line, ONE_PLACE]).await;
    let holder = Request::events("/events?0").open(proxy.address).await;
    pod.next_stream().await;
    let _waiting = waiters(&proxy, 2).await;
    let refused = Request::events("/events?3").send(proxy.address).await;
    assert!(refused.text().starts_with("retry: "), "{}", refused.text());
    proxy.wait_metric("podpin_refusals_total", &[("kind", "queue_timeout")], 1.0).await;
    drop(holder);
    assert_eq!(pod.next_stream().await.request.target, "/events?1");
}

#[tokio::test]
async fn ordinary_requests_wait_for_an_endpoint_and_are_told_503_when_none_comes() {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&[]);
    let line = "affinity: {onUnavailable: wait, queue: {timeout: 1s}}";
    let proxy = Setup::new().service_in("chat", &file).with(line).start().await;
    let refused = proxy.get("/who").await;
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (503, true));
    proxy.wait_metric("podpin_refusals_total", &[("kind", "queue_timeout")], 1.0).await;
    let mut waiting = proxy.connect().await;
    waiting.send(Request::get("/who").bytes()).await;
    let mut posting = proxy.connect().await;
    posting.send(Request::new("POST", "/who").body("x").bytes()).await;
    file.write(&listed(&pods[..1], &["ready"]));
    assert_eq!(waiting.response("GET").await.text(), "pod-a");
    assert_eq!(posting.response("POST").await.text(), "pod-a");
}

#[tokio::test]
async fn ordinary_requests_pass_by_a_full_queue_of_streams() {
    let pod = Pod::start("pod-a").await;
    let line = "affinity: {onUnavailable: wait, queue: {length: 1, timeout: 1m}}";
    let proxy = in_order(&[&pod], &[line, ONE_PLACE]).await;
    let _holder = Request::events("/events?0").open(proxy.address).await;
    let _waiting = waiters(&proxy, 1).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
    assert_eq!(proxy.metric("podpin_refusals_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_pinned_client_waits_for_its_own_pod_and_holds_up_nobody_who_wants_another() {
    let pods = Pod::start_three().await;
    let proxy = in_order(&[&pods[0], &pods[1]], &["affinity: {onUnavailable: wait}", ONE_PLACE]).await;
    let mut client = Client::on(&proxy, "pod-a").await;
    let cookie = format!("podpin-chat={}", client.visitor.cookie("podpin-chat").unwrap());
    let mut tab = connected(&proxy).await;
    tab.send(Request::events("/events?tab").header("Cookie", &cookie).bytes()).await;
    connected(&proxy).await;
    let other = Client::of(&proxy).await;
    assert_eq!(other.pod, "pod-b", "a new client passes by");
    assert!(!pods.iter().any(|pod| pod.targets().contains(&"/events?tab".to_owned())));
    client.stream = {
        drop(client.stream);
        let head = tab.head().await;
        tab.into_events(head)
    };
    assert!(pods[0].targets().contains(&"/events?tab".to_owned()), "its own pod, not the other");
    assert_eq!(proxy.metric("podpin_affinity_repins_total", &[]).await, 0.0);
}

/// A proxy with one place at each of two pods, whose queue is full with a client that waits for the one at `pod-a`.
async fn with_a_full_queue(pods: &[Pod; 3]) -> (Proxy, Client, Connection) {
    let line = "affinity: {onUnavailable: wait, queue: {length: 1, timeout: 1m}}";
    let proxy = in_order(&[&pods[0], &pods[1]], &[line, ONE_PLACE]).await;
    let client = Client::on(&proxy, "pod-a").await;
    let waiting = pinned_tab(&proxy, &client, "/events?waiting").await;
    (proxy, client, waiting)
}

/// A request for another stream of a client, which the proxy has read.
async fn pinned_tab(proxy: &Proxy, client: &Client, target: &str) -> Connection {
    let cookie = format!("podpin-chat={}", client.visitor.cookie("podpin-chat").unwrap());
    let mut tab = connected(proxy).await;
    tab.send(Request::events(target).header("Cookie", &cookie).bytes()).await;
    connected(proxy).await;
    tab
}

#[tokio::test]
async fn a_full_queue_is_no_obstacle_for_whoever_takes_nothing_from_those_who_wait() {
    let pods = Pod::start_three().await;
    let (proxy, client, mut waiting) = with_a_full_queue(&pods).await;
    let other = Client::of(&proxy).await;
    assert_eq!(other.pod, "pod-b");
    assert_eq!(proxy.metric("podpin_refusals_total", &[]).await, 0.0);
    drop(client.stream);
    let head = waiting.head().await;
    assert_eq!(waiting.into_events(head).next_data().await, "pod-a", "and they lose nothing by it");
}

#[tokio::test]
async fn a_full_queue_moves_a_pinned_client_to_another_pod_and_refuses_when_there_is_none() {
    let pods = Pod::start_three().await;
    let (proxy, client, _waiting) = with_a_full_queue(&pods).await;
    let mut moved = pinned_tab(&proxy, &client, "/events?moved").await;
    let head = moved.head().await;
    assert!(head.header("set-cookie").is_some());
    let mut moved = moved.into_events(head);
    assert_eq!(moved.next_data().await, "pod-b");
    let asked = pods[1].requests().into_iter().find(|one| one.target == "/events?moved").unwrap();
    assert_eq!(asked.header("x-podpin-repinned"), Some("full"));
    let mut refused = pinned_tab(&proxy, &client, "/events?refused").await;
    assert!(refused.response("GET").await.text().contains("no place became free in time"));
    proxy.wait_metric("podpin_refusals_total", &[("kind", "queue_timeout")], 1.0).await;
    assert_eq!(proxy.metric("podpin_refusals_total", &[]).await, 1.0);
}

#[tokio::test]
async fn a_pinned_client_whose_pod_drains_is_moved_at_once() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1]]).with(BALANCE).with("drain: {spread: 0s, timeout: 5s}");
    let line = "affinity: {onUnavailable: wait, queue: {timeout: 1m}}";
    let proxy = setup.with(line).start().await;
    let client = Client::on(&proxy, "pod-a").await;
    assert_eq!(operate(&proxy, "pod-a", "drain").await.status, 200);
    let visitor: Visitor = client.visitor.clone();
    client.left().await.goodbye();
    assert_eq!(Client::back(visitor).await.pod, "pod-b");
}

#[tokio::test]
async fn those_who_wait_are_asked_back_when_the_proxy_leaves() {
    let pod = Pod::start("pod-a").await;
    let setup = Setup::chat(&[&pod]).top("workers: 1").with(ONE_PLACE);
    let setup = setup.with("affinity: {onUnavailable: wait, queue: {timeout: 1m}}");
    let mut proxy = setup.top("shutdown: {announce: 0s, spread: 2s, timeout: 30s}").start().await;
    let holder = Request::events("/events?0").open(proxy.address).await;
    let mut waiting = waiters(&proxy, 2).await;
    proxy.signal(Signal::TERM);
    for connection in &mut waiting {
        let refused = connection.response("GET").await;
        assert!(refused.status == 200 && refused.text().starts_with("retry: "), "{}", refused.text());
        assert!(refused.text().contains("no place became free in time"), "{}", refused.text());
    }
    assert_asked(&pod, 1);
    assert_eq!(proxy.wait_exit().await, 0);
    drop(holder);
}

/// How many of these asked for an event stream at the same time and were served, by pod, and how many were not.
async fn rush(
    proxy: &Proxy,
    count: usize,
) -> (BTreeMap<String, usize>, usize, Vec<podpin_testkit::EventStream>) {
    let address = proxy.address;
    let open = |_| {
        tokio::spawn(async move {
            let mut connection = Connection::open(address).await;
            connection.send(Request::events("/events").bytes()).await;
            let head = connection.head().await;
            let mut stream = connection.into_events(head);
            let first = stream.next().await;
            (first, stream)
        })
    };
    let opening: Vec<_> = (0..count).map(open).collect();
    let (mut served, mut refused, mut streams) = (BTreeMap::new(), 0, Vec::new());
    for one in opening {
        match one.await.unwrap() {
            (Ok(podpin_testkit::Item::Event(event)), stream) => {
                *served.entry(event.data).or_default() += 1;
                streams.push(stream);
            }
            (Ok(podpin_testkit::Item::Retry(_)), _) => refused += 1,
            (other, _) => panic!("{other:?}"),
        }
    }
    (served, refused, streams)
}

#[tokio::test]
async fn caps_hold_when_two_hundred_come_at_once_and_no_place_is_lost() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with("limits: {streamsPerEndpoint: 5}");
    let proxy = setup.start().await;
    for round in 1..=2 {
        let (served, refused, streams) = rush(&proxy, 200).await;
        let full = pods.iter().map(|pod| (pod.name().to_owned(), 5)).collect::<BTreeMap<_, _>>();
        assert_eq!((served, refused), (full, 185));
        for pod in &pods {
            let asked = pod.targets().iter().filter(|target| *target == "/events").count();
            assert_eq!(asked, 5 * round, "{}", pod.name());
        }
        proxy.wait_metric("podpin_refusals_total", &[("kind", "full")], 185.0 * round as f64).await;
        drop(streams);
        proxy.wait_metric("podpin_streams_active", &[("service", "chat")], 0.0).await;
        wait_for("the places to be free", async || {
            proxy.endpoints("chat").await.iter().all(|endpoint| endpoint["streams"] == 0)
        })
        .await;
    }
}

#[tokio::test]
async fn in_a_queue_two_hundred_are_served_fifteen_at_a_time() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with("limits: {streamsPerEndpoint: 5}");
    let proxy = setup.with("affinity: {onUnavailable: wait, queue: {timeout: 1m}}").start().await;
    let address = proxy.address;
    let visit = |_| {
        tokio::spawn(async move {
            let mut stream = Request::events("/events").open(address).await;
            stream.next_data().await
        })
    };
    let visits: Vec<_> = (0..200).map(visit).collect();
    let watched = tokio::spawn(async move {
        for visit in visits {
            visit.await.unwrap();
        }
    });
    let mut most = 0;
    while !watched.is_finished() {
        for endpoint in proxy.endpoints("chat").await {
            most = most.max(endpoint["streams"].as_u64().unwrap());
        }
    }
    watched.await.unwrap();
    assert!((1..=5).contains(&most), "{most} at a time");
    assert_eq!(proxy.metric("podpin_refusals_total", &[]).await, 0.0, "all were served");
    proxy.wait_metric("podpin_streams_active", &[("service", "chat")], 0.0).await;
}
