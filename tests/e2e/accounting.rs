//! The cost of a drain: how streams left, which clients came back and after how long, as metrics and as one record in
//! the log.

use podpin_testkit::{Connection, EndpointsFile, Pod, Proxy, Request, Setup};

use crate::crowd::{BALANCE, Client, all, flood, listed, operate, streams, watch};

const RECONNECTS: &str = "podpin_reconnects_total";
const GAPS: &str = "podpin_reconnect_gap_seconds_count";
const DEPARTURES: &str = "podpin_drain_departures_total";

/// A proxy whose `pod-a` drains at once when it is told so; with these further lines.
async fn setup(drain: &str) -> ([Pod; 3], Proxy) {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with(BALANCE).with("sse: {eventBytesMax: 1KiB}");
    let proxy = setup.with(&format!("drain: {{{drain}}}")).start().await;
    (pods, proxy)
}

/// The records of drains in the log so far.
fn records(proxy: &Proxy) -> Vec<String> {
    proxy.process.stderr().into_iter().filter(|line| line.contains(" drained ")).collect()
}

async fn record(proxy: &Proxy) -> String {
    podpin_testkit::wait_for_some("the record of the drain", async || records(proxy).pop()).await
}

/// The value of a field of a line in the log.
fn field(line: &str, name: &str) -> String {
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(&format!("{name}=")));
    word.unwrap_or_else(|| panic!("no {name} in {line}")).trim_matches('"').to_owned()
}

fn number(line: &str, name: &str) -> f64 {
    let value = field(line, name);
    value.parse().unwrap_or_else(|_| panic!("{name}={value} in {line}"))
}

#[tokio::test]
async fn who_left_and_who_came_back_is_counted_and_written_down_once() {
    let (pods, proxy) = setup("spread: 300ms, timeout: 3s, returnWindow: 2s").await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(Client::on(&proxy, "pod-a").await);
    }
    // One leaves by itself, one is in the middle of a long event, and six are told goodbye.
    let mut cut = clients.pop().unwrap();
    let mut open = pods[0].waiting_streams().await;
    let long = "x".repeat(4 * 1024);
    open.last_mut().unwrap().send(&format!("data: {long}")).await;
    cut.stream.until_contains(&long).await;
    let visitors: Vec<_> = clients.iter().map(|client| client.visitor.clone()).collect();
    assert_eq!(operate(&proxy, "pod-a", "drain").await.status, 200);
    let watched = watch(streams(clients));
    all(watched).await.iter().for_each(|left| assert!(left.goodbye().is_empty()));
    proxy.wait_metric(DEPARTURES, &[("service", "chat"), ("kind", "polite")], 7.0).await;
    let remaining = [("service", "chat"), ("endpoint", "pod-a")];
    assert_eq!(proxy.metric("podpin_drain_streams_remaining", &remaining).await, 1.0);
    assert!(records(&proxy).is_empty(), "it is not over yet");
    let mut back = Vec::new();
    for visitor in visitors.into_iter().take(5) {
        back.push(Client::back(visitor).await);
    }
    proxy.wait_metric(RECONNECTS, &[("service", "chat"), ("outcome", "returned")], 5.0).await;
    cut.left().await;
    proxy.wait_metric(DEPARTURES, &[("service", "chat"), ("kind", "forced")], 1.0).await;
    assert_eq!(proxy.metric("podpin_drain_streams_remaining", &remaining).await, 0.0);
    proxy.wait_metric(RECONNECTS, &[("service", "chat"), ("outcome", "lost")], 3.0).await;
    let line = record(&proxy).await;
    let sums = ["streams", "moved", "polite", "forced", "broken", "left", "returned", "lost"];
    assert_eq!(sums.map(|name| number(&line, name)), [8.0, 0.0, 7.0, 1.0, 0.0, 0.0, 5.0, 3.0], "{line}");
    assert_eq!((field(&line, "service"), field(&line, "endpoint")), ("chat".to_owned(), "pod-a".to_owned()));
    let (p50, p99) = (number(&line, "gap_p50_seconds"), number(&line, "gap_p99_seconds"));
    assert!(0.0 < p50 && p50 <= p99 && p99 < 10.0, "{line}");
    // The last one stayed until the deadline.
    assert!((2.5..10.0).contains(&number(&line, "took_seconds")), "{line}");
    let metrics = proxy.metrics().await;
    assert_eq!(metrics.sum(GAPS, &[("service", "chat")]), 5.0);
    assert!(metrics.sum("podpin_reconnect_gap_seconds_sum", &[("service", "chat")]) > 0.0);
    assert_eq!(metrics.sum("podpin_streams_closed_total", &[("reason", "drain")]), 8.0);
    assert_eq!(metrics.kind(RECONNECTS), Some("counter"));
    // Another drain and its record come after whatever was still to be said of this one.
    let last = Client::on(&proxy, "pod-b").await;
    assert_eq!(operate(&proxy, "pod-b", "drain").await.status, 200);
    last.left().await.goodbye();
    drop(back);
    podpin_testkit::wait_for("the next record", async || record(&proxy).await.contains("pod-b")).await;
    let first = records(&proxy).into_iter().filter(|line| line.contains("pod-a")).count();
    assert_eq!(first, 1, "{:?}", records(&proxy));
}

#[tokio::test]
async fn a_client_whose_pod_died_counts_as_returned_when_it_comes_back() {
    let (pods, proxy) = setup("spread: 1s").await;
    let mut client = Client::on(&proxy, "pod-a").await;
    pods[0].next_stream().await.reset();
    client.stream.rest().await;
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "upstream_reset")], 1.0).await;
    assert_eq!(proxy.metric(RECONNECTS, &[]).await, 0.0);
    let again = Client::back(client.visitor.clone()).await;
    proxy.wait_metric(RECONNECTS, &[("service", "chat"), ("outcome", "returned")], 1.0).await;
    proxy.wait_metric(GAPS, &[("service", "chat")], 1.0).await;
    // A second tab is no return: its client was never away.
    let _tab = Client::back(client.visitor.clone()).await;
    assert_eq!(proxy.metric(RECONNECTS, &[]).await, 1.0);
    assert!(records(&proxy).is_empty(), "nothing was drained");
    drop(again);
}

#[tokio::test]
async fn a_client_that_left_by_itself_is_not_awaited() {
    let (pods, proxy) = setup("spread: 1s, returnWindow: 1s").await;
    let client = Client::on(&proxy, "pod-a").await;
    drop(client.stream);
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "client")], 1.0).await;
    let client = Client::back(client.visitor).await;
    pods.iter()
        .find(|pod| pod.name() == client.pod)
        .unwrap()
        .waiting_streams()
        .await
        .pop()
        .unwrap()
        .finish()
        .await;
    client.left().await;
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "upstream_end")], 1.0).await;
    // Clients that are awaited after them are lost after them.
    let died = Client::on(&proxy, "pod-b").await;
    pods[1].waiting_streams().await.pop().unwrap().reset();
    died.left().await;
    proxy.wait_metric(RECONNECTS, &[("outcome", "lost")], 1.0).await;
    assert_eq!(proxy.metric(RECONNECTS, &[]).await, 1.0);
}

#[tokio::test]
async fn a_client_that_comes_back_too_late_is_lost() {
    let (_pods, proxy) = setup("spread: 0s, timeout: 5s, returnWindow: 1s").await;
    let client = Client::on(&proxy, "pod-a").await;
    let visitor = client.visitor.clone();
    assert_eq!(operate(&proxy, "pod-a", "drain").await.status, 200);
    client.left().await.goodbye();
    proxy.wait_metric(RECONNECTS, &[("service", "chat"), ("outcome", "lost")], 1.0).await;
    let line = record(&proxy).await;
    assert_eq!((number(&line, "returned"), number(&line, "lost")), (0.0, 1.0), "{line}");
    let _late = Client::back(visitor).await;
    assert_eq!(proxy.metric(RECONNECTS, &[("outcome", "returned")]).await, 0.0);
}

#[tokio::test]
async fn streams_that_end_otherwise_while_their_pod_drains_are_told_apart() {
    let (pods, proxy) = setup("spread: 1h, timeout: 2h, returnWindow: 1s").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::on(&proxy, "pod-a").await);
    }
    let mut open = pods[0].waiting_streams().await;
    assert_eq!(operate(&proxy, "pod-a", "drain").await.status, 200);
    proxy.wait_metric("podpin_drain_streams_remaining", &[("endpoint", "pod-a")], 3.0).await;
    open.pop().unwrap().reset();
    clients.pop().unwrap().left().await;
    open.pop().unwrap().finish().await;
    clients.pop().unwrap().left().await;
    drop(clients);
    let line = record(&proxy).await;
    let sums = ["streams", "polite", "forced", "broken", "left"];
    assert_eq!(sums.map(|name| number(&line, name)), [3.0, 0.0, 0.0, 1.0, 2.0], "{line}");
    assert_eq!(proxy.metric(DEPARTURES, &[]).await, 0.0);
}

#[tokio::test]
async fn every_drained_endpoint_has_its_own_record_and_a_client_is_counted_once() {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&listed(&pods, &["ready"; 3]));
    let setup = Setup::new().service_in("chat", &file).with(BALANCE);
    let proxy = setup.with("drain: {spread: 200ms, timeout: 5s}").start().await;
    let mut clients = Vec::new();
    for pod in ["pod-a", "pod-a", "pod-b"] {
        clients.push(Client::on(&proxy, pod).await);
    }
    let visitors: Vec<_> = clients.iter().map(|client| client.visitor.clone()).collect();
    let watched = watch(streams(clients));
    file.write(&listed(&pods, &["draining", "draining", "ready"]));
    all(watched).await;
    let mut back = Vec::new();
    for visitor in visitors {
        back.push(Client::back(visitor).await);
    }
    podpin_testkit::wait_for("both records", async || records(&proxy).len() == 2).await;
    let mut seen: Vec<_> = records(&proxy)
        .iter()
        .map(|line| (field(line, "endpoint"), number(line, "streams"), number(line, "returned")))
        .collect();
    seen.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(seen, [("pod-a".to_owned(), 2.0, 2.0), ("pod-b".to_owned(), 1.0, 1.0)]);
}

#[tokio::test]
async fn a_client_that_takes_nothing_and_is_cut_is_awaited_as_well() {
    let (pods, proxy) = setup("spread: 0s, timeout: 1s, returnWindow: 1s").await;
    let mut visitor = proxy.visitor();
    while visitor.get("/who").await.text() != "pod-a" {
        visitor = proxy.visitor();
    }
    let cookie = format!("podpin-chat={}", visitor.cookie("podpin-chat").unwrap());
    let mut connection = Connection::open_with_receive_buffer(proxy.address, 4096).await;
    connection.send(Request::events("/events").header("Cookie", &cookie).bytes()).await;
    let mut stream = pods[0].next_stream().await;
    flood(&mut stream).await;
    assert_eq!(operate(&proxy, "pod-a", "drain").await.status, 200);
    proxy.wait_metric(DEPARTURES, &[("kind", "forced")], 1.0).await;
    proxy.wait_metric(RECONNECTS, &[("outcome", "lost")], 1.0).await;
    drop(connection);
}

#[tokio::test]
async fn the_proxys_own_end_is_written_down_too() {
    let pods = Pod::start_three().await;
    let times = "shutdown: {announce: 0s, spread: 0s, timeout: 5s}";
    let mut proxy = Setup::chat(&[&pods[0], &pods[1]]).top(times).start().await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = proxy.visitor().events("/events").await;
        client.next_event().await;
        clients.push(client);
    }
    proxy.signal(podpin_testkit::Signal::TERM);
    for client in &mut clients {
        client.rest().await;
    }
    assert_eq!(proxy.wait_exit().await, 0);
    let records = records(&proxy);
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(
        (field(&records[0], "service"), field(&records[0], "endpoint")),
        ("chat".into(), "(all)".into())
    );
    assert_eq!((number(&records[0], "streams"), number(&records[0], "polite")), (5.0, 5.0), "{}", records[0]);
}
