//! Clients that come back together: how long they are told to wait, and what happens to those that come all the same.

use std::collections::BTreeSet;

use podpin_testkit::{Ending, EndpointsFile, EventStream, Item, Pod, Proxy, Request, Setup, Signal};

use crate::crowd::{all, listed, watch};

/// Returns the reconnection times that streams ended with.
fn times(ended: &[crate::crowd::Left]) -> Vec<u64> {
    let last = |left: &crate::crowd::Left| match left.items.last() {
        Some(Item::Retry(time)) => *time,
        other => panic!("no time but {other:?}"),
    };
    ended.iter().map(last).collect()
}

#[tokio::test]
async fn streams_that_break_are_told_a_drawn_time_first() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/events", podpin_testkit::StreamAnswer::new().opening("data: x\n\n"));
    let proxy = Setup::chat(&[&pod]).start().await;
    let (mut clients, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..60 {
        let mut client = proxy.visitor().events("/events").await;
        streams.push(pod.next_stream().await);
        client.next_event().await;
        clients.push(client);
    }
    let watched = watch(clients);
    streams.into_iter().for_each(podpin_testkit::PodStream::reset);
    let ended = all(watched).await;
    assert!(ended.iter().all(|left| left.ending != Ending::Clean), "a death is a death");
    let times = times(&ended);
    assert!(times.iter().all(|time| (1_000..=10_000).contains(time)), "{times:?}");
    assert!(times.iter().collect::<BTreeSet<_>>().len() >= 50, "drawn: {times:?}");
    let tenth = |time: &u64| (time - 1_000) * 10 / 9_001;
    let fullest = (0..10).map(|one| times.iter().filter(|time| tenth(time) == one).count()).max();
    assert!(fullest <= Some(9), "15 % in a tenth of the range: {times:?}");
}

/// Opens a stream, as often as that takes.
async fn admitted(proxy: &Proxy) -> EventStream {
    loop {
        let mut stream = Request::events("/events").header("Last-Event-ID", "7").open(proxy.address).await;
        loop {
            match stream.next().await {
                Ok(Item::Event(_)) => return stream,
                Ok(_) => {}
                // Told to come later.
                Err(_) => break,
            }
        }
    }
}

#[tokio::test]
async fn a_crowd_that_is_sent_away_at_once_is_told_to_come_back_at_the_rate() {
    let pods = [Pod::start("pod-a").await, Pod::start("pod-b").await];
    pods.iter().for_each(|pod| pod.greet("/events"));
    let file = EndpointsFile::with(&listed(&pods[..1], &["ready"]));
    let setup = Setup::new().service_in("chat", &file).with("drain: {spread: 0s, timeout: 5s}");
    let rate = "sse: {retry: {drain: {min: 1s, max: 1s}}, reconnect: {perSecond: 10}}";
    let proxy = setup.with(rate).start().await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(admitted(&proxy).await);
    }
    let watched = watch(clients);
    file.write(&listed(&pods, &["draining", "ready"]));
    let times = times(&all(watched).await);
    assert!(times.iter().all(|time| *time >= 1_000), "{times:?}");
    let early = times.iter().filter(|time| **time < 2_000).count();
    // Ten for each of the two pages that a second touches.
    assert!(early <= 20 && times.iter().any(|time| *time > 2_500), "{times:?}");
}

#[tokio::test]
async fn the_streams_of_a_pod_that_dies_go_on_elsewhere_at_the_rate() {
    let mut pods = [Pod::start("pod-a").await, Pod::start("pod-b").await];
    pods.iter().for_each(|pod| pod.answer("/events", podpin_testkit::StreamAnswer::new()));
    let file = EndpointsFile::with(&listed(&pods[..1], &["ready"]));
    let setup = Setup::new().service_in("chat", &file).with("drain: {handover: lastEventId}");
    let proxy = setup.with("sse: {reconnect: {perSecond: 5}}").start().await;
    let (mut clients, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let begun = async {
            let mut stream = pods[0].next_stream().await;
            stream.event_with_id("8", "x").await;
            stream
        };
        let (client, stream) = tokio::join!(admitted(&proxy), begun);
        clients.push(client);
        streams.push(stream);
    }
    file.write(&listed(&pods, &["ready", "ready"]));
    proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready")]).await;
    pods[0].stop().await;
    drop(streams);
    let mut came = Vec::new();
    for _ in 0..8 {
        let mut stream = pods[1].next_stream().await;
        stream.event_with_id("9", "x").await;
        came.push(std::time::Instant::now());
    }
    // Seven fifths of a second, if the machine keeps up.
    assert!(came[7] - came[0] > std::time::Duration::from_millis(1_000), "in {:?}", came[7] - came[0]);
    proxy.wait_metric("podpin_handovers_total", &[("cause", "crash"), ("result", "ok")], 8.0).await;
    assert_eq!(proxy.metric("podpin_streams_closed_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_client_above_the_rate_is_told_to_come_later_on_a_connection_that_stays_open() {
    let pod = Pod::start("pod-a").await;
    pod.greet("/events");
    pod.greet("/who");
    let proxy = Setup::chat(&[&pod]).with("sse: {reconnect: {perSecond: 1}}").start().await;
    let mut visitor = proxy.visitor();
    let _first = visitor.events("/events").await;
    let mut connection = proxy.connect().await;
    let again = Request::events("/events").header("Last-Event-ID", "7");
    let mut refused = 0;
    // One a second: on the way to it, all are refused on one connection.
    for _ in 0..3 {
        let response = connection.ask(&again).await;
        if response.text().starts_with("retry: ") && response.text().contains("too many clients come back") {
            refused += 1;
            assert_eq!(response.header("connection"), None);
        }
    }
    assert!(refused >= 1);
    proxy.wait_metric_at_least("podpin_refusals_total", &[("kind", "reconnect_rate")], 1.0).await;
    assert_eq!(connection.ask(&Request::get("/who")).await.status, 200);
}

#[tokio::test]
async fn the_shutdown_of_the_proxy_draws_from_its_own_range() {
    let pod = Pod::start("pod-a").await;
    pod.greet("/events");
    let setup = Setup::chat(&[&pod]).top("shutdown: {announce: 0s, spread: 0s, timeout: 5s}");
    let mut proxy = setup.start().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = proxy.visitor().events("/events").await;
        client.next_event().await;
        clients.push(client);
    }
    let watched = watch(clients);
    proxy.signal(Signal::TERM);
    let times = times(&all(watched).await);
    assert!(times.iter().all(|time| (500..=2_000).contains(time)), "{times:?}");
    assert!(times.iter().collect::<BTreeSet<_>>().len() >= 10, "{times:?}");
    assert_eq!(proxy.wait_exit().await, 0);
}
