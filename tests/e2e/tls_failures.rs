//! Why TLS fails, wherever it does: in the metrics, the access log and the log, for clients and for pods.

use podpin_testkit::{Authority, Pod, Proxy, Request, Setup, acceptor_of};
use tokio::io::AsyncReadExt;
use tokio_rustls::rustls::version;

const NAME: &str = "pod.test";

async fn failures(proxy: &Proxy, owner: (&str, &str), reason: &str, count: f64) {
    proxy.wait_metric("podpin_tls_failures_total", &[owner, ("reason", reason)], count).await;
}

fn listener(authority: &Authority, more: &str) -> String {
    format!("{{certificates: [{}]{more}}}", authority.entry("one"))
}

#[tokio::test]
async fn the_certificate_of_a_pod_that_is_refused_is_named_with_what_is_wrong() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let table = [
        (stranger.sign(&[NAME]), "certificate_authority", "BadSignature"),
        (authority.sign(&["other.test"]), "certificate_name", "for other.test"),
        (authority.sign_for_years(&[NAME], (2019, 2020)), "certificate_expired", "until 2020-01-01"),
        (authority.sign_for_years(&[NAME], (3000, 3001)), "certificate_not_yet_valid", "from 3000-01-01"),
    ];
    let trust = format!("tls: {{serverName: {NAME}, caFile: \"{}\"}}", authority.file("ca.pem").display());
    for ((certificate, key), reason, words) in table {
        let versions = [&version::TLS13, &version::TLS12];
        let pod = Pod::start_tls("pod-a", acceptor_of(&certificate, &key, &versions)).await;
        let proxy = Setup::chat(&[&pod])
            .with(&trust)
            .with("health: {passive: {failures: 2}}")
            .with("sse: {unavailable: status}")
            .start()
            .await;
        for request in [Request::get("/who"), Request::events("/events"), Request::websocket("/ws")] {
            assert_eq!(request.send(proxy.address).await.status, 502, "{reason}");
        }
        failures(&proxy, ("service", "chat"), reason, 3.0).await;
        let line = proxy.access_log_line(|line| line["path"] == "/who").await;
        let attempt = &line["attempts"][0];
        assert_eq!(attempt["endpoint"], "pod-a");
        let error = attempt["error"].as_str().unwrap();
        for part in [words, "an authority for tests", "asked for pod.test"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
        let ejected = proxy.log_line(&["ejected after consecutive failures"]).await;
        assert!(ejected.contains(words), "{ejected}");
    }
}

#[tokio::test]
async fn handshakes_with_clients_are_counted_by_version_and_resumption_and_failures_by_reason() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.issue("one", &["localhost"]);
    let pod = Pod::start("pod-a").await;
    let auth = format!(", clientAuth: {{caFile: \"{}\"}}", authority.file("ca.pem").display());
    let proxy = Setup::chat(&[&pod]).tls(&listener(&authority, &auth)).start().await;
    let known = authority.client_with_certificate(&authority, "known");
    for resumed in ["false", "true"] {
        let mut connection = known.connect(proxy.address, "localhost").await;
        assert_eq!(connection.ask(&Request::get("/who")).await.status, 200);
        let labels = [("version", "1.3"), ("resumed", resumed)];
        assert_eq!(proxy.metric("podpin_tls_handshakes_total", &labels).await, 1.0, "{resumed}");
    }
    let is_refused = async |client: podpin_testkit::TlsClient| {
        if let Ok(mut stream) = client.try_connect(proxy.address, "localhost").await {
            assert!(stream.read(&mut [0; 8]).await.is_err());
        }
    };
    is_refused(authority.client(&[])).await;
    failures(&proxy, ("listener", "http"), "certificate_missing", 1.0).await;
    for count in [1.0, 2.0] {
        is_refused(authority.client_with_certificate(&stranger, "mallory")).await;
        failures(&proxy, ("listener", "http"), "certificate_authority", count).await;
    }
    let line = proxy.log_line(&["certificate_authority"]).await;
    assert!(line.contains("CN=mallory") && line.contains("by \"CN=an authority for tests"), "{line}");
    // A client that does not trust us says so.
    assert!(stranger.client(&[]).try_connect(proxy.address, "localhost").await.is_err());
    failures(&proxy, ("listener", "http"), "refused_by_peer", 1.0).await;
    let mut garbage = proxy.connect().await;
    garbage.send(b"\0\0\0\0\0\0\0\0").await;
    garbage.ending().await;
    failures(&proxy, ("listener", "http"), "not_tls", 1.0).await;
}

#[tokio::test]
async fn http_in_plain_text_is_answered_in_plain_text_or_redirected() {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    let pod = Pod::start("pod-a").await;
    let refusing = Setup::chat(&[&pod]).tls(&listener(&authority, "")).start().await;
    let redirecting = Setup::chat(&[&pod]).tls(&listener(&authority, ", plainHttp: redirect")).start().await;
    let request = Request::get("/a?b=%20c").host("app.test:8443");
    let refused = request.send(refusing.address).await;
    assert_eq!((refused.status, refused.header("connection")), (400, Some("close")));
    assert!(refused.text().contains("https://"), "{}", refused.text());
    let redirected = request.send(redirecting.address).await;
    let location = redirected.header("location");
    assert_eq!((redirected.status, location), (308, Some("https://app.test:8443/a?b=%20c")));
    for proxy in [&refusing, &redirecting] {
        failures(proxy, ("listener", "http"), "plain_http", 1.0).await;
        let bad = without_host(proxy).await;
        assert_eq!(bad, 400, "without a host there is no place to be redirected to");
        assert!(authority.client(&[]).try_connect(proxy.address, "localhost").await.is_ok());
    }
    assert!(pod.requests().is_empty(), "nothing was served");
}

/// Asks once over a new connection; returns how many sessions the proxy has resumed so far.
async fn resumed(proxy: &Proxy, client: &podpin_testkit::TlsClient) -> f64 {
    let mut connection = client.connect(proxy.address, "localhost").await;
    assert_eq!(connection.ask(&Request::get("/who")).await.status, 200);
    proxy.metric("podpin_tls_handshakes_total", &[("resumed", "true")]).await
}

#[tokio::test]
async fn a_session_goes_on_at_another_replica_with_the_same_ticket_keys_and_no_other() {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    let write = |file: &str, text: &str| std::fs::write(authority.file(file), text).unwrap();
    write("old", "0123456789abcdef0123456789abcdef\n");
    write("new", "fedcba9876543210fedcba9876543210");
    let key = |file: &str| format!("{{file: \"{}\"}}", authority.file(file).display());
    let pod = Pod::start("pod-a").await;
    let setup = |more: &str| Setup::chat(&[&pod]).tls(&listener(&authority, more));
    let keys = |list: &[&str]| {
        let list: Vec<_> = list.iter().map(|file| key(file)).collect();
        setup(&format!(", ticketKeys: [{}]", list.join(", ")))
    };
    let (one, other, alone) = (keys(&["old"]), keys(&["old"]), keys(&["new"]));
    let (one, other, alone) = (one.start().await, other.start().await, alone.start().await);
    for client in [authority.client(&[]), authority.old_client()] {
        assert_eq!(resumed(&alone, &client).await, 0.0);
        let before = other.metric("podpin_tls_handshakes_total", &[("resumed", "true")]).await;
        assert_eq!(resumed(&one, &client).await, 0.0, "a ticket of another key is none");
        assert_eq!(resumed(&other, &client).await, before + 1.0);
    }
    // A rotation: the new key comes first, the old one still decrypts.
    let rotated = keys(&["new", "old"]).start().await;
    let client = authority.client(&[]);
    assert_eq!(resumed(&one, &client).await, 0.0);
    assert_eq!(resumed(&rotated, &client).await, 1.0);
    assert_eq!(resumed(&alone, &client).await, 1.0, "it got a ticket of the new key");
    // The files are followed.
    write("old", "another key, thirty-two bytes long");
    other.wait_metric_at_least("podpin_tls_reloads_total", &[("result", "success")], 1.0).await;
    let before = other.metric("podpin_tls_handshakes_total", &[("resumed", "true")]).await;
    assert_eq!(resumed(&rotated, &client).await, 2.0);
    assert_eq!(resumed(&other, &client).await, before, "the key is gone");
}

/// The status of the answer to a request in plain text that names no host.
async fn without_host(proxy: &Proxy) -> u16 {
    let mut connection = proxy.connect().await;
    connection.send(b"GET / HTTP/1.0\r\n\r\n").await;
    connection.response("GET").await.status
}
