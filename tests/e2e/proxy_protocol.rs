//! The PROXY protocol: which peers are believed about the client, how, and how all others are treated.
//!
//! The tests connect from 127.0.0.1, so that is the load balancer, trusted or not.

use std::net::SocketAddr;

use podpin_testkit::{
    Authority, Connection, H2Connection, Head, Pod, Proxy, Request, Setup, TlsClient, in_time,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const ERRORS: &str = "podpin_proxy_protocol_errors_total";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const CLIENT: &str = "203.0.113.9";
const CLIENT_6: &str = "2001:db8::9";
const TRUSTED: &str = "trustedProxies: [127.0.0.0/8]";
const STRANGE: &str = "trustedProxies: [10.0.0.0/8]";

/// Version 1 for this client.
fn line(client: &str) -> Vec<u8> {
    let family = if client.contains(':') { "TCP6 " } else { "TCP4 " };
    format!("PROXY {family}{client} {client} 4711 80\r\n").into_bytes()
}

/// Version 2 for this client, with an extension that a NULL of 700 bytes stands for.
fn binary(client: &str) -> Vec<u8> {
    let (family, ip) = match client.parse().unwrap() {
        std::net::IpAddr::V4(ip) => (0x11, ip.octets().to_vec()),
        std::net::IpAddr::V6(ip) => (0x21, ip.octets().to_vec()),
    };
    let addresses = [&ip[..], &ip, &4711_u16.to_be_bytes(), &80_u16.to_be_bytes()].concat();
    let extension = [&[4][..], &700_u16.to_be_bytes(), &[0; 700]].concat();
    version_2(0x21, family, &[addresses, extension].concat())
}

fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

fn setup(pod: &Pod, word: &str, trusted: &str) -> Setup {
    Setup::chat(&[pod]).top(trusted).proxy_protocol(word)
}

async fn tcp(address: SocketAddr, first: &[u8]) -> TcpStream {
    let mut tcp = in_time("connecting", TcpStream::connect(address)).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp.write_all(first).await.unwrap();
    tcp
}

async fn tls(client: &TlsClient, address: SocketAddr, header: &[u8]) -> Connection {
    Connection::over_tls(client.try_over(tcp(address, header).await, "localhost").await.unwrap())
}

/// Sends header and request in one piece and waits for the head of the response.
async fn ask(proxy: &Proxy, header: &[u8], request: &Request) -> (Connection, Head) {
    let mut connection = proxy.connect().await;
    connection.send([header, &request.bytes()].concat()).await;
    let head = connection.head().await;
    (connection, head)
}

/// Asserts the client address that the pod sees in its next request.
async fn assert_seen(pod: &Pod, client: &str) {
    let seen = pod.next_request().await;
    let said = (seen.head.all("x-forwarded-for"), seen.header("x-real-ip"));
    assert_eq!(said, (vec![client], Some(client)), "{}", seen.target);
    assert!(seen.header("forwarded").is_some_and(|value| value.contains(client)), "{:?}", seen.head);
}

/// Asserts that the connection ends without a byte of an answer, and that the reason is counted.
async fn assert_closed(proxy: &Proxy, mut connection: Connection, reason: &str, count: f64) {
    let ending = connection.try_raw(1).await;
    assert!(ending.is_err(), "{reason}: {ending:?}");
    proxy.wait_metric(ERRORS, &[("listener", "http"), ("reason", reason)], count).await;
}

#[tokio::test]
async fn the_client_is_whom_the_header_names_on_both_data_paths() {
    let pod = Pod::start("pod-a").await;
    for word in ["required", "optional"] {
        let proxy = setup(&pod, word, TRUSTED).start().await;
        for (header, client) in [
            (line(CLIENT), CLIENT),
            (binary(CLIENT), CLIENT),
            (line(CLIENT_6), CLIENT_6),
            (binary(CLIENT_6), CLIENT_6),
        ] {
            let mut connection = proxy.connect().await;
            connection.send([header, Request::get("/who").bytes()].concat()).await;
            assert_eq!(connection.response("GET").await.text(), "pod-a", "{word}");
            assert_seen(&pod, client).await;
            // The next request of the connection is of the same client.
            connection.send(Request::events("/events").bytes()).await;
            let head = connection.head().await;
            let stream = pod.next_stream().await;
            let listed = proxy.admin_get("/api/streams").await.json();
            assert_eq!(listed["streams"][0]["client"], client, "{listed}");
            assert_seen(&pod, client).await;
            drop((connection.into_events(head), stream));
            proxy.wait_metric("podpin_streams_active", &[], 0.0).await;
            let logged = |line: &serde_json::Value| line["path"] == "/who" && line["client"] == client;
            proxy.access_log_line(logged).await;
        }
        assert_eq!(proxy.metric(ERRORS, &[]).await, 0.0);
    }
}

#[tokio::test]
async fn a_header_and_a_request_that_come_byte_by_byte_are_what_they_are_in_one_piece() {
    let pod = Pod::start("pod-a").await;
    let proxy = setup(&pod, "optional", TRUSTED).start().await;
    for (header, client) in [(line(CLIENT), CLIENT), (binary(CLIENT_6), CLIENT_6), (vec![], "127.0.0.1")] {
        let requests =
            [Request::new("PUT", "/put").body("x"), Request::new("PROPFIND", "/find"), Request::get("/get")];
        for request in requests {
            let mut connection = proxy.connect().await;
            for byte in [&header[..], &request.bytes()].concat() {
                connection.send([byte]).await;
            }
            assert_eq!(connection.response("GET").await.status, 200);
            assert_seen(&pod, client).await;
        }
    }
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    let certificates = format!("{{certificates: [{}]}}", authority.entry("one"));
    let pod = Pod::start("pod-a").await;
    let proxy = setup(&pod, "optional", TRUSTED).tls(&certificates).start().await;
    for (header, client) in [(line(CLIENT), CLIENT), (binary(CLIENT_6), CLIENT_6), (vec![], "127.0.0.1")] {
        let mut h1 = tls(&authority.client(&["http/1.1"]), proxy.address, &header).await;
        assert_eq!(h1.ask(&Request::get("/h1")).await.text(), "pod-a");
        assert_seen(&pod, client).await;
        let h2 = authority.client(&["h2"]).try_over(tcp(proxy.address, &header).await, "localhost").await;
        let mut h2 = H2Connection::over(h2.unwrap()).await;
        assert_eq!(h2.send(&Request::get("/h2")).await.text(), "pod-a");
        assert_seen(&pod, client).await;
        let mut stream = h2.events(&Request::events("/events")).await;
        pod.next_stream().await.event("one").await;
        assert_eq!(stream.next_data().await, "one");
        assert_seen(&pod, client).await;
    }
    assert_eq!(proxy.metric(ERRORS, &[]).await, 0.0);
    // Inside of TLS it is a bad request, and what only begins like a header is no handshake.
    let mut connection = tls(&authority.client(&[]), proxy.address, b"").await;
    connection.send([line(CLIENT), Request::get("/").bytes()].concat()).await;
    assert_eq!(connection.response("GET").await.status, 400);
    let mut connection = proxy.connect().await;
    for byte in b"PRO\x16\x03" {
        connection.try_send([*byte]).await;
    }
    connection.ending().await;
}

#[tokio::test]
async fn a_listener_with_tls_that_requires_a_header_takes_no_handshake_without() {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    let certificates = format!("{{certificates: [{}]}}", authority.entry("one"));
    let pod = Pod::start("pod-a").await;
    let proxy = setup(&pod, "required", TRUSTED).tls(&certificates).start().await;
    let client = authority.client(&[]);
    assert!(client.try_connect(proxy.address, "localhost").await.is_err());
    proxy.wait_metric(ERRORS, &[("reason", "missing")], 1.0).await;
    assert_eq!(tls(&client, proxy.address, &line(CLIENT)).await.ask(&Request::get("/")).await.status, 200);
}

#[tokio::test]
async fn http_2_without_tls_is_told_from_a_header_that_begins_like_it() {
    let pod = Pod::start("pod-a").await;
    for (word, headers) in [
        ("optional", vec![(line(CLIENT), CLIENT), (binary(CLIENT_6), CLIENT_6), (vec![], "127.0.0.1")]),
        ("required", vec![(line(CLIENT), CLIENT), (binary(CLIENT_6), CLIENT_6)]),
    ] {
        let proxy = setup(&pod, word, TRUSTED).h2c().start().await;
        for (header, client) in headers {
            let mut connection = H2Connection::over(tcp(proxy.address, &header).await).await;
            assert_eq!(connection.send(&Request::get("/who")).await.text(), "pod-a");
            assert_seen(&pod, client).await;
            let mut stream = connection.events(&Request::events("/events")).await;
            pod.next_stream().await.event("one").await;
            assert_eq!(stream.next_data().await, "one");
            assert_seen(&pod, client).await;
        }
    }
}

#[tokio::test]
async fn nobody_who_is_not_trusted_names_a_client() {
    let pod = Pod::start("pod-a").await;
    let proxy = setup(&pod, "optional", STRANGE).start().await;
    let (_, head) = ask(&proxy, b"", &Request::get("/who")).await;
    assert!(head.start_line.contains(" 200 "), "{head:?}");
    assert_seen(&pod, "127.0.0.1").await;
    for header in [line(CLIENT), binary(CLIENT), line(CLIENT_6), binary(CLIENT_6)] {
        let (_, head) = ask(&proxy, &header, &Request::get("/forged")).await;
        assert!(head.start_line.contains(" 400 "), "{head:?}");
    }
    assert_eq!(proxy.metric(ERRORS, &[]).await, 0.0, "a bad request, as it would be without the key");
    let strict = setup(&pod, "required", STRANGE).start_alive().await;
    let before = strict.metric(ERRORS, &[("reason", "untrusted")]).await;
    for (count, header) in [line(CLIENT), binary(CLIENT), vec![]].into_iter().enumerate() {
        let mut connection = strict.connect().await;
        connection.try_send([&header[..], &Request::get("/forged").bytes()].concat()).await;
        assert!(connection.try_raw(1).await.is_err());
        let count = before + count as f64 + 1.0;
        strict.wait_metric_at_least(ERRORS, &[("listener", "http"), ("reason", "untrusted")], count).await;
    }
    assert_eq!(pod.targets(), ["/who"]);
}

#[tokio::test]
async fn whoever_must_name_a_client_and_does_not_is_closed() {
    let pod = Pod::start("pod-a").await;
    let proxy = setup(&pod, "required", TRUSTED).start().await;
    let requests =
        [Request::get("/bare").bytes(), Request::events("/bare").bytes(), b"PRI * HTTP/2.0\r\n\r\n".to_vec()];
    for (count, bytes) in requests.into_iter().enumerate() {
        let mut connection = proxy.connect().await;
        connection.send(bytes).await;
        assert_closed(&proxy, connection, "missing", count as f64 + 1.0).await;
    }
    let (_, head) = ask(&proxy, &line(CLIENT), &Request::get("/who")).await;
    assert!(head.start_line.contains(" 200 "), "and it serves the others: {head:?}");
    assert_eq!(pod.targets(), ["/who"]);
}

#[tokio::test]
async fn a_broken_header_closes_the_connection_in_either_mode() {
    let pod = Pod::start("pod-a").await;
    let broken = [
        ("malformed", b"PROXY TCP4 1.2.3.4\r\n".to_vec()),
        ("malformed", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n".to_vec()),
        ("malformed", version_2(0x21, 0x11, &[0; 11])),
        ("malformed", version_2(0x2f, 0x00, &[])),
        ("malformed", version_2(0x21, 0x77, &[0; 12])),
        ("too_long", [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 100]].concat()),
        ("too_long", version_2(0x21, 0x00, &[0; 5_000])),
    ];
    for word in ["required", "optional"] {
        let proxy = setup(&pod, word, TRUSTED).start().await;
        for (index, (reason, bytes)) in broken.iter().enumerate() {
            let mut connection = proxy.connect().await;
            connection.try_send([&bytes[..], &Request::get("/broken").bytes()].concat()).await;
            let before = broken[..index].iter().filter(|(other, _)| other == reason).count();
            assert_closed(&proxy, connection, reason, before as f64 + 1.0).await;
        }
        for (count, bytes) in [&b"PROXY TCP4 1.2"[..], &binary(CLIENT)[..300]].into_iter().enumerate() {
            let mut connection = proxy.connect().await;
            connection.send(bytes).await;
            connection.finish_sending().await;
            assert_closed(&proxy, connection, "cut_short", count as f64 + 1.0).await;
        }
        let (_, head) = ask(&proxy, &binary(CLIENT), &Request::get("/who")).await;
        assert!(head.start_line.contains(" 200 "), "{head:?}");
    }
    assert!(pod.targets().iter().all(|target| target == "/who"));
}

#[tokio::test]
async fn a_header_that_does_not_come_in_time_closes_the_connection() {
    let pod = Pod::start("pod-a").await;
    let limits = "limits: {requestHeaderTimeout: 300ms}";
    let required = setup(&pod, "required", TRUSTED).top(limits).start().await;
    let optional = setup(&pod, "optional", TRUSTED).top(limits).start().await;
    for (count, bytes) in
        [&b""[..], b"P", b"PROXY TCP4 1.2.3.4", &binary(CLIENT)[..20]].into_iter().enumerate()
    {
        for proxy in [&required, &optional] {
            let mut connection = proxy.connect().await;
            connection.send(bytes).await;
            assert_closed(proxy, connection, "timeout", count as f64 + 1.0).await;
        }
    }
}

#[tokio::test]
async fn a_connection_that_is_nobodys_speaks_for_itself() {
    let pod = Pod::start("pod-a").await;
    let proxy = setup(&pod, "required", TRUSTED).start().await;
    let headers = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 203.0.113.9 203.0.113.9 1 2\r\n".to_vec(),
        version_2(0x20, 0x00, &[]),
        version_2(0x20, 0x11, &[9; 12]),
        version_2(0x21, 0x00, &[]),
        version_2(0x21, 0x31, &[b'/'; 216]),
    ];
    for header in headers {
        let (_, head) = ask(&proxy, &header, &Request::get("/check")).await;
        assert!(head.start_line.contains(" 200 "), "{head:?}");
        assert_seen(&pod, "127.0.0.1").await;
    }
}

#[tokio::test]
async fn what_requests_say_of_the_client_is_believed_of_the_address_in_the_header_only() {
    let pod = Pod::start("pod-a").await;
    let trusted = "trustedProxies: [127.0.0.0/8, 198.51.100.0/24]";
    let proxy = setup(&pod, "required", trusted).start().await;
    for request in [Request::get("/who"), Request::events("/events")] {
        let request = request.header("X-Forwarded-For", "1.2.3.4").header("X-Forwarded-Proto", "https");
        ask(&proxy, &line(CLIENT), &request).await;
        let seen = pod.next_request().await;
        assert_eq!(
            (seen.head.all("x-forwarded-for"), seen.header("x-forwarded-proto")),
            (vec![CLIENT], Some("http"))
        );
        // An HTTP proxy of ours behind the load balancer.
        ask(&proxy, &line("198.51.100.4"), &request).await;
        let seen = pod.next_request().await;
        assert_eq!(seen.head.all("x-forwarded-for").join(", "), "1.2.3.4, 198.51.100.4");
        assert_eq!(
            (seen.header("x-real-ip"), seen.header("x-forwarded-proto")),
            (Some("1.2.3.4"), Some("https"))
        );
    }
}

#[tokio::test]
async fn clients_of_one_load_balancer_are_pinned_by_their_own_addresses() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0], &pods[1], &pods[2]])
        .with("affinity: {cookie: off, clientIP: {ipv4Prefix: 32}}")
        .top(TRUSTED)
        .proxy_protocol("required")
        .start()
        .await;
    let mut used = std::collections::BTreeSet::new();
    for number in 0..20 {
        let client = format!("203.0.113.{number}");
        let mut pod_of_it = None;
        for header in [line(&client), binary(&client)] {
            let mut connection = proxy.connect().await;
            connection.send([header, Request::get("/who").bytes()].concat()).await;
            let pod = connection.response("GET").await.text();
            assert_eq!(*pod_of_it.get_or_insert(pod.clone()), pod, "{client}");
        }
        used.extend(pod_of_it);
    }
    assert_eq!(used.len(), 3, "{used:?}");
}

#[tokio::test]
async fn a_second_header_is_a_bad_request() {
    let pod = Pod::start("pod-a").await;
    let proxy = setup(&pod, "required", TRUSTED).start().await;
    for (first, second) in [(line(CLIENT), line(CLIENT_6)), (binary(CLIENT), binary(CLIENT_6))] {
        let (_, head) = ask(&proxy, &[first, second].concat(), &Request::get("/twice")).await;
        assert!(head.start_line.contains(" 400 "), "{head:?}");
    }
    assert!(pod.targets().is_empty());
}
