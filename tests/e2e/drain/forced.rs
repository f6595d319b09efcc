//! Streams that cannot leave politely: within a long event, or because the client takes nothing. Cut at the deadline.

use podpin_testkit::{Connection, Ending, EndpointsFile, H2Connection, Pod, Proxy, Request, Setup};

use crate::crowd::{BALANCE, Client, Left, flood, listed};

async fn until_deadline(lines: &[&str]) -> ([Pod; 3], EndpointsFile, Proxy) {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&listed(&pods[..1], &["ready"]));
    let setup =
        Setup::new().service_in("chat", &file).with("drain: {spread: 0s, timeout: 1500ms}").with(BALANCE);
    let setup = lines.iter().fold(setup, |setup, line| setup.with(line));
    let proxy = setup.h2c().start().await;
    (pods, file, proxy)
}

async fn departed(proxy: &Proxy, kind: &str) -> f64 {
    proxy.metric("podpin_drain_departures_total", &[("service", "chat"), ("kind", kind)]).await
}

#[tokio::test]
async fn an_event_beyond_the_bound_may_end_and_is_cut_at_the_deadline_if_it_does_not() {
    let (pods, file, proxy) = until_deadline(&["sse: {eventBytesMax: 1KiB, keepAlive: off}"]).await;
    let mut long = "x".repeat(4 * 1024);
    let mut clients = [Client::of(&proxy).await, Client::of(&proxy).await];
    let mut open = [pods[0].next_stream().await, pods[0].next_stream().await];
    for (client, stream) in clients.iter_mut().zip(&mut open) {
        stream.send(&format!("data: {long}")).await;
        client.stream.until_contains(&long).await;
    }
    file.write(&listed(&pods, &["draining", "ready", "ready"]));
    proxy.wait_metric("podpin_endpoints", &[("state", "draining")], 1.0).await;
    open[0].send("!\n\n").await;
    let [ends, cut] = clients;
    let left = ends.left().await;
    long.push('!');
    assert!(matches!(left.goodbye(), [podpin_testkit::Item::Event(event)] if event.data == long));
    assert_eq!(departed(&proxy, "forced").await, 0.0, "the other has time until the deadline");
    let left = cut.left().await;
    assert!(left.items.is_empty() && left.stream.is_inside_event(), "{:?}", left.items);
    proxy.wait_metric("podpin_drain_departures_total", &[("kind", "forced")], 1.0).await;
    assert_eq!(departed(&proxy, "polite").await, 1.0);
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "drain")], 2.0).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_at_the_deadline() {
    let (pods, file, proxy) = until_deadline(&[]).await;
    let mut connection = Connection::open_with_receive_buffer(proxy.address, 4096).await;
    connection.send(Request::events("/events").bytes()).await;
    let mut stream = pods[0].next_stream().await;
    flood(&mut stream).await;
    file.write(&listed(&pods, &["draining", "ready", "ready"]));
    stream.client_gone().await;
    proxy.wait_metric("podpin_drain_departures_total", &[("kind", "forced")], 1.0).await;
    assert_eq!(departed(&proxy, "polite").await, 0.0);
    let line = proxy.access_log_line(|line| line["path"] == "/events").await;
    assert_eq!((&line["reason"], &line["endpoint"]), (&"drain".into(), &"pod-a".into()), "{line}");
    let head = connection.head().await;
    let left = Left::of(connection.into_events(head)).await;
    assert!(matches!(left.ending, Ending::Cut | Ending::Reset), "{:?}", left.ending);
}

#[tokio::test]
async fn over_http_2_a_client_that_does_not_read_is_cut_at_the_deadline() {
    let (pods, file, proxy) = until_deadline(&[]).await;
    let mut connection = H2Connection::open(proxy.address).await;
    let client = connection.events(&Request::events("/events")).await;
    let mut stream = pods[0].next_stream().await;
    flood(&mut stream).await;
    file.write(&listed(&pods, &["draining", "ready", "ready"]));
    stream.client_gone().await;
    proxy.wait_metric("podpin_drain_departures_total", &[("kind", "forced")], 1.0).await;
    proxy.wait_metric("podpin_streams_active", &[("service", "chat")], 0.0).await;
    assert_eq!(Left::of(client).await.ending, Ending::Reset);
    assert_eq!(connection.send(&Request::get("/who")).await.status, 200, "the connection serves on");
}
