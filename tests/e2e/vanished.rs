//! A client that vanishes without a word: the kernel finds out, the proxy gives the stream up and says so.
//!
//! In each test one of the two ways to find out is off, so that it cannot do the work of the other.

use podpin_testkit::{EventStream, H2Connection, Network, Pod, PodStream, Proxy, Request, Setup};

/// The client of two streams, over HTTP/1.1 and over HTTP/2.
struct Client {
    _h1: EventStream,
    _h2: (H2Connection, EventStream),
}

/// A proxy whose only way to find out is in `limits`, with a client and its streams, which have begun.
async fn streaming(network: &Network, pod: &Pod, limits: &str) -> (Proxy, Client, [PodStream; 2]) {
    let setup = Setup::chat(&[pod]).host(Network::NEAR).h2c().top(&format!("limits: {limits}"));
    let proxy = setup.with("sse: {keepAlive: off}").with("timeouts: {clientWrite: off}").start().await;
    let mut connection = network.connect(proxy.address);
    connection.send(Request::events("/events").bytes()).await;
    let head = connection.head().await;
    let mut h1 = connection.into_events(head);
    let mut first = pod.next_stream().await;
    let mut connection = network.connect_h2(proxy.address).await;
    let mut h2 = connection.events(&Request::events("/events")).await;
    let mut second = pod.next_stream().await;
    for (client, stream) in [(&mut h1, &mut first), (&mut h2, &mut second)] {
        stream.event("begun").await;
        assert_eq!(client.next_data().await, "begun");
    }
    (proxy, Client { _h1: h1, _h2: (connection, h2) }, [first, second])
}

/// Both streams were given up, and that can be seen from outside.
async fn given_up(proxy: &Proxy, streams: [PodStream; 2]) {
    for mut stream in streams {
        stream.client_gone().await;
    }
    let of = [("service", "chat"), ("reason", "client")];
    proxy.wait_metric("podpin_streams_closed_total", &of, 2.0).await;
    assert_eq!(proxy.metric("podpin_streams_closed_total", &[]).await, 2.0);
    proxy.wait_metric("podpin_streams_active", &[], 0.0).await;
    proxy.wait_metric("podpin_connections_active", &[], 0.0).await;
    for protocol in ["HTTP/1.1", "HTTP/2"] {
        let line = proxy.access_log_line(|line| line["protocol"] == protocol).await;
        assert_eq!((&line["reason"], &line["client"]), (&"client".into(), &"192.0.2.1".into()), "{line}");
    }
}

#[test]
fn a_client_that_is_back_from_another_network_takes_the_places_of_streams_that_nobody_reads() {
    Network::with(async |network| {
        let pod = Pod::start("pod-a").await;
        let setup = Setup::chat(&[&pod]).host(Network::NEAR).h2c();
        let setup = setup.top("limits: {tcpUserTimeout: off, tcpKeepAlive: off}");
        let setup = setup.with("limits: {streamsPerClient: 2}").with("timeouts: {clientWrite: off}");
        let proxy = setup.with("sse: {keepAlive: off, unavailable: status}").start().await;
        let mut visitor = proxy.visitor();
        visitor.get("/").await;
        let cookie = format!("podpin-chat={}", visitor.cookie("podpin-chat").unwrap());
        let request = Request::events("/events").header("Cookie", &cookie);
        let mut connection = network.connect(proxy.address);
        connection.send(request.bytes()).await;
        let head = connection.head().await;
        let h1 = connection.into_events(head);
        let first = pod.next_stream().await;
        let mut connection = network.connect_h2(proxy.address).await;
        let h2 = connection.events(&request).await;
        let second = pod.next_stream().await;
        // While the client lives, it has what it may have.
        assert_eq!(visitor.send(Request::events("/events")).await.status, 429);
        assert_eq!(proxy.metric("podpin_streams_closed_total", &[]).await, 0.0);
        network.all_acknowledged(proxy.address).await;
        network.client_vanishes();
        let mut kept = Vec::new();
        for _ in 0..2 {
            // It may be known to live for five seconds more; then both its streams are silent for good.
            let mut back = loop {
                let mut connection = proxy.connect().await;
                connection.send(request.bytes()).await;
                let head = connection.head().await;
                if head.start_line.contains("200") {
                    break connection.into_events(head);
                }
            };
            let mut stream = pod.next_stream().await;
            stream.event("here").await;
            assert_eq!(back.next_data().await, "here");
            kept.push((back, stream));
        }
        for mut stream in [first, second] {
            stream.client_gone().await;
        }
        proxy.wait_metric("podpin_streams_closed_total", &[("reason", "client")], 2.0).await;
        drop((h1, h2, connection));
    });
}

#[test]
fn a_client_that_vanishes_while_events_flow_is_given_up_after_the_user_timeout() {
    Network::with(async |network| {
        let pod = Pod::start("pod-a").await;
        let limits = "{tcpUserTimeout: 1s, tcpKeepAlive: off}";
        let (proxy, _client, mut streams) = streaming(&network, &pod, limits).await;
        network.client_vanishes();
        for stream in &mut streams {
            stream.event("nobody acknowledges this").await;
        }
        given_up(&proxy, streams).await;
    });
}

#[test]
fn a_client_that_vanishes_from_a_silent_stream_is_given_up_when_it_answers_no_probe() {
    Network::with(async |network| {
        let pod = Pod::start("pod-a").await;
        let limits = "{tcpUserTimeout: off, tcpKeepAlive: {idle: 1s, interval: 1s, count: 1}}";
        let (proxy, _client, streams) = streaming(&network, &pod, limits).await;
        network.all_acknowledged(proxy.address).await;
        network.client_vanishes();
        given_up(&proxy, streams).await;
    });
}
