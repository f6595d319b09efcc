//! How many connections and requests a client may have, what it is told beyond that, and what the kernel watches.

use std::net::Ipv4Addr;

use podpin_testkit::{
    Authority, Connection, Ending, H2_PREFACE, H2Connection, Pod, Proxy, Request, Response, Setup, wait_for,
};

use crate::refusals::assert_invitation;

const REFUSED: &str = "podpin_connections_refused_total";
const TOO_MANY: &str = "too many connections of this client";

/// A proxy that believes PROXY headers of the test, with a limit of two connections for each client.
async fn behind_a_load_balancer(pod: &Pod) -> Proxy {
    let setup =
        Setup::chat(&[pod]).top("trustedProxies: [127.0.0.1]").top("limits: {connectionsPerClientIP: 2}");
    setup.proxy_protocol("optional").start().await
}

/// A connection of this client, through the load balancer.
async fn of(proxy: &Proxy, client: &str) -> Connection {
    let family = if client.contains(':') { "TCP6" } else { "TCP4" };
    let mut connection = proxy.connect().await;
    connection.send(format!("PROXY {family} {client} {client} 1 2\r\n")).await;
    connection
}

/// The same, with a request answered.
async fn answered(proxy: &Proxy, client: &str) -> (Connection, u16) {
    let mut connection = of(proxy, client).await;
    let response = connection.ask(&Request::get("/who")).await;
    (connection, response.status)
}

/// Waits until no connection of the harness is left, with one of these.
async fn quiet(proxy: &Proxy, connect: impl AsyncFn() -> Option<Connection>) {
    // Earlier ones stand before this request in the queue, and may still be closing.
    wait_for("an answer", async || {
        let Some(mut connection) = connect().await else { return false };
        connection.try_send(Request::get("/quiet").bytes()).await;
        connection.try_response("GET").await.is_ok_and(|response| response.status == 200)
    })
    .await;
    proxy.wait_metric("podpin_connections_active", &[], 0.0).await;
}

#[tokio::test]
async fn an_address_has_its_limit_of_connections_and_others_have_theirs() {
    let pod = Pod::start("pod-a").await;
    let proxy = behind_a_load_balancer(&pod).await;
    for (first, second, other) in [
        ("203.0.113.1", "203.0.113.1", "203.0.113.2"),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"),
    ] {
        let kept = (answered(&proxy, first).await, answered(&proxy, second).await);
        assert_eq!((kept.0.1, kept.1.1), (200, 200));
        for client in [first, second] {
            let refused = of(&proxy, client).await.ask(&Request::get("/who")).await;
            assert_eq!(refused.status, 503);
            assert!(
                refused.text().contains(TOO_MANY) && refused.header("retry-after").is_some(),
                "{}",
                refused.text()
            );
        }
        assert_eq!(answered(&proxy, other).await.1, 200);
        drop(kept);
        wait_for("the place to be free again", async || answered(&proxy, first).await.1 == 200).await;
    }
    let limit = [("listener", "http"), ("limit", "connections_per_client_ip")];
    assert!(proxy.metric(REFUSED, &limit).await >= 4.0);
}

#[tokio::test]
async fn an_event_stream_client_over_the_limit_of_its_address_is_asked_back() {
    let pod = Pod::start("pod-a").await;
    let proxy = behind_a_load_balancer(&pod).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut connection = of(&proxy, "203.0.113.1").await;
        connection.send(Request::events("/events").bytes()).await;
        let head = connection.head().await;
        kept.push((connection.into_events(head), pod.next_stream().await));
    }
    let refused = of(&proxy, "203.0.113.1").await.ask(&Request::events("/events")).await;
    assert_invitation(&refused, TOO_MANY);
    proxy.wait_metric("podpin_refusals_total", &[("service", "chat"), ("kind", "connections")], 1.0).await;
    let line = proxy.access_log_line(|line| line["reason"] == "refused").await;
    assert_eq!((&line["client"], &line["status"]), (&"203.0.113.1".into(), &200.into()), "{line}");
    // A stream whose connection goes on keeps its place, and gives it back at its end.
    let (mut client, stream) = kept.remove(0);
    stream.finish().await;
    assert_eq!(client.next().await, Err(Ending::Clean));
    let mut connection = client.into_connection();
    assert_eq!(of(&proxy, "203.0.113.1").await.ask(&Request::get("/who")).await.status, 503);
    assert_eq!(connection.ask(&Request::get("/who")).await.status, 200);
    drop(connection);
    wait_for("the place to be free again", async || answered(&proxy, "203.0.113.1").await.1 == 200).await;
}

#[tokio::test]
async fn a_trusted_proxy_stands_for_many_clients() {
    let pod = Pod::start("pod-a").await;
    let proxy = behind_a_load_balancer(&pod).await;
    let mut kept = Vec::new();
    for header in
        ["", "", "", "PROXY UNKNOWN\r\n", "PROXY UNKNOWN\r\n", "PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n"]
    {
        let mut connection = proxy.connect().await;
        connection.send(header).await;
        assert_eq!(connection.ask(&Request::get("/who")).await.status, 200);
        kept.push(connection);
    }
    assert_eq!(proxy.metric(REFUSED, &[]).await, 0.0);
}

#[tokio::test]
async fn without_a_load_balancer_the_address_is_the_other_ends() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).top("limits: {connectionsPerClientIP: 1}").h2c().start().await;
    quiet(&proxy, async || Some(proxy.connect().await)).await;
    let open = async |last| Connection::open_from(Ipv4Addr::new(127, 0, 0, last).into(), proxy.address).await;
    let mut kept = open(7).await;
    assert_eq!(kept.ask(&Request::get("/who")).await.status, 200);
    assert_eq!(open(7).await.ask(&Request::get("/who")).await.status, 503);
    assert_eq!(open(8).await.ask(&Request::get("/who")).await.status, 200);
    let mut h2 = open(7).await;
    h2.send(H2_PREFACE).await;
    h2.ending().await;
    assert_eq!(kept.ask(&Request::get("/who")).await.status, 200);
}

/// A proxy over TLS with one place for connections, by this limit, and the event stream that has it.
async fn full_over_tls(
    (authority, pod): (&Authority, &Pod),
    limit: &str,
) -> (Proxy, podpin_testkit::EventStream) {
    authority.issue("one", &["localhost"]);
    let setup = Setup::chat(&[pod]).tls(&format!("{{certificates: [{}]}}", authority.entry("one")));
    let proxy = setup.top(&format!("limits: {{{limit}: 1}}")).start().await;
    let client = authority.client(&[]);
    quiet(&proxy, async || {
        Some(Connection::over_tls(client.try_connect(proxy.address, "localhost").await.ok()?))
    })
    .await;
    let mut connection = client.connect(proxy.address, "localhost").await;
    connection.send(Request::events("/events").bytes()).await;
    let head = connection.head().await;
    (proxy, connection.into_events(head))
}

#[tokio::test]
async fn over_tls_a_client_that_finds_no_room_is_told_the_same() {
    for (limit, says) in [("connections", "too many connections"), ("connectionsPerClientIP", TOO_MANY)] {
        let (authority, pod) = (Authority::new(), Pod::start("pod-a").await);
        let (proxy, _stream) = full_over_tls((&authority, &pod), limit).await;
        let (events, post) = (Request::events("/events"), Request::new("POST", "/events").body("x"));
        let (h1, h2) = (authority.client(&[]), authority.client(&["h2"]));
        assert_invitation(&h1.connect(proxy.address, "localhost").await.ask(&events).await, says);
        let mut connection = h2.h2(proxy.address, "localhost").await;
        assert_invitation(&connection.send(&events).await, says);
        connection.closed_by_server().await;
        for request in [Request::get("/who"), post] {
            let one = h1.connect(proxy.address, "localhost").await.ask(&request).await;
            let mut connection = h2.h2(proxy.address, "localhost").await;
            let other = connection.send(&request).await;
            for response in [one, other] {
                assert_eq!((response.status, response.text()), (503, format!("podpin: {says}\n")));
                assert!(response.header("retry-after").is_some());
            }
            connection.closed_by_server().await;
        }
        // No connection waits for ever.
        let mut silent = h1.connect(proxy.address, "localhost").await;
        let mut silent_h2 = h2.h2(proxy.address, "localhost").await;
        let (told, ()) = tokio::join!(silent.response("GET"), silent_h2.closed_by_server());
        assert_eq!(told.status, 503);
        proxy
            .wait_metric("podpin_refusals_total", &[("service", "chat"), ("kind", "connections")], 2.0)
            .await;
        assert_eq!(proxy.metric("podpin_connections_active", &[]).await, 1.0, "they are not counted as open");
        assert_eq!(pod.targets(), ["/quiet", "/events"]);
    }
}

#[tokio::test]
async fn over_tls_a_crowd_at_the_door_is_closed_without_a_handshake() {
    let (authority, pod) = (Authority::new(), Pod::start("pod-a").await);
    let (proxy, _stream) = full_over_tls((&authority, &pod), "connections").await;
    let client = authority.client(&[]);
    let mut crowd = Vec::new();
    wait_for("no seat to be left", async || {
        for _ in 0..70 {
            crowd.push(proxy.connect().await);
        }
        client.try_connect(proxy.address, "localhost").await.is_err()
    })
    .await;
    drop(crowd);
    wait_for("a seat", async || client.try_connect(proxy.address, "localhost").await.is_ok()).await;
}

/// A proxy with one place, and the stream that has it.
async fn full(pod: &Pod, lines: &[&str]) -> (Proxy, podpin_testkit::EventStream) {
    let setup = lines
        .iter()
        .fold(Setup::chat(&[pod]).top("limits: {connections: 1}"), |setup, line| setup.with(line));
    let proxy = setup.h2c().start().await;
    quiet(&proxy, async || Some(proxy.connect().await)).await;
    let stream = Request::events("/events").open(proxy.address).await;
    (proxy, stream)
}

#[tokio::test]
async fn an_event_stream_client_that_finds_no_room_is_asked_back_and_others_are_told_503() {
    let pod = Pod::start("pod-a").await;
    let (proxy, _stream) = full(&pod, &[]).await;
    let before = proxy.metric(REFUSED, &[]).await;
    assert_invitation(&Request::events("/events").send(proxy.address).await, "too many connections");
    for request in [Request::get("/who"), Request::new("POST", "/events").body("x")] {
        let response = request.send(proxy.address).await;
        assert_eq!((response.status, response.text().as_str()), (503, "podpin: too many connections\n"));
        assert!(response.header("retry-after").is_some());
    }
    let mut h2 = H2Connection::open(proxy.address).await;
    assert_invitation(&h2.send(&Request::events("/events")).await, "too many connections");
    let mut broken = proxy.connect().await;
    broken.send("GET / HTTP/1.1\nHost: a\n\n").await;
    assert_eq!(broken.response("GET").await.status, 503);
    let mut silent = proxy.connect().await;
    assert_eq!(silent.response("GET").await.status, 503, "and whoever says nothing is told as well");
    proxy.wait_metric(REFUSED, &[("listener", "http"), ("limit", "connections")], before + 6.0).await;
    assert_eq!(proxy.metric("podpin_connections_active", &[]).await, 1.0, "they are not counted as open");
    assert_eq!(pod.targets(), ["/quiet", "/events"]);
}

#[tokio::test]
async fn where_a_status_is_wanted_an_event_stream_client_that_finds_no_room_gets_it() {
    let pod = Pod::start("pod-a").await;
    let (proxy, _stream) = full(&pod, &["sse: {unavailable: status}"]).await;
    assert_eq!(Request::events("/events").send(proxy.address).await.status, 503);
}

#[tokio::test]
async fn a_crowd_at_the_door_is_told_503_without_being_heard() {
    let pod = Pod::start("pod-a").await;
    let (proxy, _stream) = full(&pod, &[]).await;
    let ask = async || {
        let mut connection = proxy.connect().await;
        connection.try_send(Request::events("/events").bytes()).await;
        // An answer that comes before the request may be lost with the connection.
        connection.try_response("GET").await.ok()
    };
    let mut crowd = Vec::new();
    wait_for("no seat to be left", async || {
        // Each holds a seat for a second.
        for _ in 0..70 {
            crowd.push(proxy.connect().await);
        }
        ask().await.is_none_or(|response: Response| response.status == 503)
    })
    .await;
    drop(crowd);
    wait_for("a seat", async || ask().await.is_some_and(|response| response.status == 200)).await;
}

#[tokio::test]
async fn a_connection_ends_after_its_last_request() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).top("limits: {requestsPerConnection: 3}").start().await;
    let mut connection = proxy.connect().await;
    let requests = [Request::get("/1"), Request::new("POST", "/2").body("x"), Request::get("/3")];
    for (request, says) in requests.iter().zip([None, None, Some("close")]) {
        let response = connection.ask(request).await;
        assert_eq!((response.status, response.header("connection")), (200, says));
    }
    assert_eq!(connection.ending().await, Ending::Cut);
    // Event streams count, and the count goes on behind them.
    let mut connection = proxy.connect().await;
    assert_eq!(connection.ask(&Request::get("/1")).await.status, 200);
    for header in [None, Some("close")] {
        connection.send(Request::events("/events").bytes()).await;
        let head = connection.head().await;
        assert_eq!(head.header("connection"), header);
        let mut client = connection.into_events(head);
        let mut stream = pod.next_stream().await;
        stream.event("one").await;
        assert_eq!(client.next_data().await, "one");
        stream.finish().await;
        assert_eq!(client.next().await, Err(Ending::Clean));
        connection = client.into_connection();
    }
    assert_eq!(connection.ending().await, Ending::Cut);
}

#[tokio::test]
async fn a_request_behind_the_last_one_is_not_served() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).top("limits: {requestsPerConnection: 1}").start().await;
    let mut connection = proxy.connect().await;
    connection.send([Request::get("/1").bytes(), Request::get("/2").bytes()].concat()).await;
    assert_eq!(connection.response("GET").await.header("connection"), Some("close"));
    connection.ending().await;
    assert_eq!(pod.targets(), ["/1"]);
}

#[tokio::test]
async fn an_http_2_connection_takes_no_streams_after_its_last_and_ends_with_those_that_are_open() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).top("limits: {requestsPerConnection: 3}").h2c().start().await;
    let mut connection = H2Connection::open(proxy.address).await;
    let mut client = connection.events(&Request::events("/events")).await;
    let mut stream = pod.next_stream().await;
    for target in ["/2", "/3"] {
        assert_eq!(connection.send(&Request::get(target)).await.status, 200);
    }
    // The client learns of it with an acknowledgement in between, and opens no more by itself.
    connection.refuses_streams().await;
    stream.event("still here").await;
    assert_eq!(client.next_data().await, "still here");
    stream.finish().await;
    assert_eq!(client.next().await, Err(Ending::Clean));
    connection.closed_by_server().await;
    assert_eq!(pod.targets(), ["/events", "/2", "/3"]);
}

#[tokio::test]
async fn the_kernel_probes_a_silent_client() {
    let pod = Pod::start("pod-a").await;
    for (line, probed) in [("limits: {}", true), ("limits: {tcpKeepAlive: off}", false)] {
        let proxy = Setup::chat(&[&pod]).top(line).start().await;
        let mut connection = proxy.connect().await;
        assert_eq!(connection.ask(&Request::get("/who")).await.status, 200);
        let ports = (proxy.address.port(), connection.local_address().port());
        // "02": a keep-alive timer runs; "00": none does, once all is acknowledged.
        let wanted = if probed { "02" } else { "00" };
        wait_for("the timer of the connection", async || timer(ports).as_deref() == Some(wanted)).await;
    }
}

/// Which timer the kernel has for the connection between these ports of 127.0.0.1, from the end of the first.
fn timer((local, remote): (u16, u16)) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ends = [format!("0100007F:{local:04X}"), format!("0100007F:{remote:04X}")];
    let row = table
        .lines()
        .find(|row| row.split_whitespace().skip(1).take(2).eq(ends.iter().map(String::as_str)))?;
    row.split_whitespace().nth(5)?.split(':').next().map(str::to_owned)
}
