//! TLS on listeners: who gets which certificate, both protocols, event streams and how they end, files that change.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use podpin_testkit::{
    Authority, Connection, Ending, EndpointsFile, EventStream, Item, Pod, Proxy, Request, Setup,
    StreamAnswer, TlsClient, in_time,
};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ProtocolVersion;

/// An authority with one certificate for `localhost`, and a proxy of three pods that uses it.
async fn secured(lines: &[&str]) -> (Authority, Vec<Pod>, Proxy) {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    let pods = Vec::from(Pod::start_three().await);
    let setup = Setup::chat(&[&pods[0]]).tls(&format!("{{certificates: [{}]}}", authority.entry("one")));
    let setup = lines.iter().fold(setup, |setup, line| setup.top(line));
    let proxy = setup.with("sse: {keepAlive: off}").start().await;
    (authority, pods, proxy)
}

/// The certificate that the proxy showed.
fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

async fn events(mut connection: Connection) -> EventStream {
    connection.send(Request::events("/events").bytes()).await;
    let head = connection.head().await;
    connection.into_events(head)
}

/// Which of the issued certificates a client of `name` is shown; the client takes it for what it is.
async fn certificate_for(client: &TlsClient, proxy: &Proxy, name: &str) -> Option<Vec<u8>> {
    client.try_connect(proxy.address, name).await.ok().map(|stream| shown(&stream))
}

#[tokio::test]
async fn a_client_gets_the_certificate_of_its_name_then_of_the_wildcard_then_the_first() {
    let authority = Authority::new();
    authority.issue("first", &["first.test", "127.0.0.1"]);
    authority.issue("wide", &["*.wide.test"]);
    authority.issue("exact", &["a.wide.test"]);
    let entries: Vec<_> = ["first", "wide", "exact"].iter().map(|file| authority.entry(file)).collect();
    let pod = Pod::start("pod-a").await;
    let setup = Setup::chat(&[&pod]).tls(&format!("{{certificates: [{}]}}", entries.join(", ")));
    let proxy = setup.start().await;
    let client = authority.client(&[]);
    let mut seen = Vec::new();
    for name in ["first.test", "127.0.0.1", "b.wide.test", "B.Wide.Test", "a.wide.test"] {
        seen.push(certificate_for(&client, &proxy, name).await.expect(name));
    }
    assert_eq!(seen[0], seen[1], "without a name it is the first one");
    assert_eq!(seen[2], seen[3], "case does not matter");
    assert!(seen[0] != seen[2] && seen[2] != seen[4] && seen[0] != seen[4]);
    for stranger in ["x.y.wide.test", "wide.test", "other.test"] {
        assert_eq!(certificate_for(&client, &proxy, stranger).await, None, "{stranger} got one of its own");
    }
}

#[tokio::test]
async fn requests_and_the_cookie_say_that_the_client_came_over_tls() {
    let (authority, pods, proxy) = secured(&[]).await;
    let mut connection = authority.client(&["http/1.1"]).connect(proxy.address, "localhost").await;
    for target in ["/one", "/two"] {
        let response = connection.ask(&Request::get(target)).await;
        assert_eq!((response.status, response.text()), (200, "pod-a".to_owned()));
        assert!(response.header("set-cookie").unwrap().contains("Secure"), "{:?}", response.head.headers);
    }
    let mut client = authority.client(&["h2"]).h2(proxy.address, "localhost").await;
    let response = client.send(&Request::get("/three")).await;
    assert!(response.header("set-cookie").unwrap().contains("Secure"));
    let stream = client.events(&Request::events("/events")).await;
    assert!(stream.header("set-cookie").unwrap().contains("Secure"));
    let said: Vec<_> =
        pods[0].requests().iter().map(|one| one.header("x-forwarded-proto").map(str::to_owned)).collect();
    assert_eq!(said, vec![Some("https".to_owned()); 4]);
    for (protocol, count) in [("h1", 1.0), ("h2", 1.0)] {
        let counted = proxy.metric("podpin_connections_total", &[("protocol", protocol)]).await;
        assert!(counted >= count, "{protocol}: {counted}");
    }
}

#[tokio::test]
async fn the_protocol_is_the_one_that_both_like_best() {
    let (authority, _pods, proxy) = secured(&[]).await;
    let agreed = async |offered: &[&str]| {
        let stream = authority.client(offered).try_connect(proxy.address, "localhost").await.unwrap();
        stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
    };
    assert_eq!(agreed(&["http/1.1", "h2"]).await.as_deref(), Some("h2"));
    assert_eq!(agreed(&["http/1.1"]).await.as_deref(), Some("http/1.1"));
    assert_eq!(agreed(&[]).await, None);
}

#[tokio::test]
async fn an_older_version_than_the_configured_one_is_refused() {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    let pod = Pod::start("pod-a").await;
    let certificates = format!("certificates: [{}]", authority.entry("one"));
    let strict = Setup::chat(&[&pod]).tls(&format!("{{minVersion: \"1.3\", {certificates}}}")).start().await;
    let lax = Setup::chat(&[&pod]).tls(&format!("{{{certificates}}}")).start().await;
    let old = authority.old_client();
    assert!(old.try_connect(strict.address, "localhost").await.is_err());
    let stream = old.try_connect(lax.address, "localhost").await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    let stream = authority.client(&[]).try_connect(strict.address, "localhost").await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn events_flow_one_by_one_and_the_connection_goes_on_after_them() {
    let (authority, pods, proxy) = secured(&[]).await;
    let pod = &pods[0];
    pod.answer("/events", StreamAnswer::new());
    let mut connection = authority.client(&["http/1.1"]).connect(proxy.address, "localhost").await;
    connection.send(Request::events("/events").bytes()).await;
    let head = connection.head().await;
    let mut client = connection.into_events(head);
    let mut stream = pod.next_stream().await;
    for data in ["one", "two", &"x".repeat(300_000)] {
        stream.event(data).await;
        assert_eq!(client.next_data().await, data);
    }
    stream.finish().await;
    assert_eq!(client.rest().await, (vec![], Ending::Clean));
    let mut connection = client.into_connection();
    assert_eq!(connection.ask(&Request::get("/who")).await.text(), "pod-a");
}

#[tokio::test]
async fn events_flow_over_http_2_beside_other_requests() {
    let (authority, pods, proxy) = secured(&[]).await;
    let mut connection = authority.client(&["h2"]).h2(proxy.address, "localhost").await;
    let mut client = connection.events(&Request::events("/events")).await;
    assert_eq!(client.next_data().await, "pod-a");
    let mut stream = pods[0].next_stream().await;
    stream.event("one").await;
    assert_eq!(client.next_data().await, "one");
    assert_eq!(connection.send(&Request::get("/who")).await.text(), "pod-a");
    stream.finish().await;
    assert_eq!(client.next().await, Err(Ending::Clean));
}

#[tokio::test]
async fn a_pod_that_breaks_off_is_no_clean_end() {
    let (authority, pods, proxy) = secured(&[]).await;
    let mut client = events(authority.client(&[]).connect(proxy.address, "localhost").await).await;
    assert_eq!(client.next_data().await, "pod-a");
    let mut stream = pods[0].next_stream().await;
    stream.event("whole").await;
    stream.send("data: half").await;
    stream.reset();
    assert_eq!(client.next_data().await, "whole");
    // No last chunk and no close_notify: to the client an accident, as it was.
    assert_eq!(client.next().await, Err(Ending::Reset));
}

#[tokio::test]
async fn a_client_that_leaves_releases_the_pod_however_it_leaves() {
    let (authority, pods, proxy) = secured(&[]).await;
    for politely in [true, false] {
        let mut connection = authority.client(&[]).connect(proxy.address, "localhost").await;
        connection.send(Request::events("/events").bytes()).await;
        connection.head().await;
        let mut stream = pods[0].next_stream().await;
        if politely {
            connection.finish_sending().await;
        } else {
            connection.reset();
        }
        stream.client_gone().await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_back_its_pod_and_is_cut() {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    let pod = Pod::start("pod-a").await;
    pod.answer("/events", StreamAnswer::new());
    let setup = Setup::chat(&[&pod]).tls(&format!("{{certificates: [{}]}}", authority.entry("one")));
    let proxy = setup.with("timeouts: {clientWrite: 1s}").start().await;
    let mut connection = authority.client(&[]).connect(proxy.address, "localhost").await;
    connection.send(Request::events("/events").bytes()).await;
    let mut stream = pod.next_stream().await;
    let event = format!("data: {}\n\n", "x".repeat(60_000));
    while stream.try_send(event.as_bytes()).await {}
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "slow_client")], 1.0).await;
}

#[tokio::test]
async fn a_stream_of_a_draining_pod_says_goodbye_with_a_clean_end() {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    let [pod, ..] = Pod::start_three().await;
    let file = EndpointsFile::with(&[("pod-a", pod.address(), "ready")]);
    let setup = Setup::new().service_in("chat", &file).with("drain: {spread: 0s, timeout: 5s}");
    let setup = setup.with("sse: {keepAlive: off}");
    let proxy = setup.tls(&format!("{{certificates: [{}]}}", authority.entry("one"))).start().await;
    let mut client = events(authority.client(&[]).connect(proxy.address, "localhost").await).await;
    assert_eq!(client.next_data().await, "pod-a");
    file.write(&[("pod-a", pod.address(), "draining")]);
    let (items, ending) = client.rest().await;
    assert!(items.iter().any(|item| matches!(item, Item::Retry(_))), "{items:?}");
    assert_eq!(ending, Ending::Clean);
}

#[tokio::test]
async fn a_stream_goes_on_at_another_pod_over_the_same_tls() {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    let pods = [Pod::start("pod-a").await, Pod::start("pod-b").await];
    for pod in &pods {
        pod.answer("/events", StreamAnswer::new());
    }
    let list = |a, b| [("pod-a", pods[0].address(), a), ("pod-b", pods[1].address(), b)];
    let file = EndpointsFile::with(&list("ready", "notReady"));
    let setup = Setup::new().service_in("chat", &file);
    let setup = setup.with("drain: {handover: lastEventId, spread: 0s, handoverTimeout: 2s}");
    let proxy = setup.tls(&format!("{{certificates: [{}]}}", authority.entry("one"))).start().await;
    let mut client = events(authority.client(&[]).connect(proxy.address, "localhost").await).await;
    let mut stream = pods[0].next_stream().await;
    stream.event_with_id("1", "x").await;
    assert_eq!(client.next_event().await.id, "1");
    file.write(&list("draining", "ready"));
    let mut next = pods[1].next_stream().await;
    assert_eq!(next.request.header("last-event-id"), Some("1"));
    next.event_with_id("2", "x").await;
    assert_eq!(client.next_event().await.id, "2");
}

#[tokio::test]
async fn whoever_speaks_no_tls_is_cut_at_once_and_counted() {
    let (authority, pods, proxy) = secured(&[]).await;
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0\0\0\0\0\0\0\0",
        b"\x16\x03\x01\x00\x04\x01\0\0\0",
        b"PRI * ",
    ];
    for bytes in garbage {
        let mut connection = proxy.connect().await;
        connection.send(bytes).await;
        connection.ending().await;
    }
    proxy.wait_metric_at_least("podpin_tls_handshakes_failed_total", &[("reason", "failed")], 4.0).await;
    assert!(pods[0].requests().is_empty());
    assert!(authority.client(&[]).try_connect(proxy.address, "localhost").await.is_ok());
}

#[tokio::test]
async fn a_handshake_has_as_long_as_a_request_head() {
    let (_authority, _pods, proxy) = secured(&["limits: {requestHeaderTimeout: 300ms}"]).await;
    let mut silent = proxy.connect().await;
    let mut slow = proxy.connect().await;
    slow.send(b"\x16\x03\x01\x02\x00").await;
    silent.ending().await;
    slow.ending().await;
    proxy.wait_metric("podpin_tls_handshakes_failed_total", &[("reason", "timeout")], 2.0).await;
}

/// `tls.crt` and `tls.key` under `..data`, as a mounted Secret has them.
fn mount(authority: &Authority, version: &str, certificate: &str, key: &str) {
    let directory = authority.file(&format!("..{version}"));
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("tls.crt"), certificate).unwrap();
    fs::write(directory.join("tls.key"), key).unwrap();
    symlink(format!("..{version}"), authority.file("..next")).unwrap();
    fs::rename(authority.file("..next"), authority.file("..data")).unwrap();
}

#[tokio::test]
async fn new_certificates_are_in_use_at_once_and_touch_no_connection() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign(&["localhost"]);
    mount(&authority, "v1", &certificate, &key);
    for file in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{file}"), authority.file(file)).unwrap();
    }
    let [pod, ..] = Pod::start_three().await;
    let proxy =
        Setup::chat(&[&pod]).tls(&format!("{{certificates: [{}]}}", authority.entry("tls"))).start().await;
    let client = authority.client(&[]);
    let before = certificate_for(&client, &proxy, "localhost").await;
    let mut events = events(client.connect(proxy.address, "localhost").await).await;
    assert_eq!(events.next_data().await, "pod-a");
    let expiry = [("name", "localhost")];
    assert!(proxy.metric("podpin_tls_certificate_not_after_seconds", &expiry).await > 1.7e9);

    // A pair that is none, then a good one.
    let (new, new_key) = authority.sign(&["localhost"]);
    mount(&authority, "v2", &new, &key);
    proxy.wait_metric("podpin_tls_reloads_total", &[("result", "failure")], 1.0).await;
    let fresh = authority.client(&[]);
    assert_eq!(certificate_for(&fresh, &proxy, "localhost").await, before, "the old pair stays");
    mount(&authority, "v3", &new, &new_key);
    proxy.wait_metric("podpin_tls_reloads_total", &[("result", "success")], 1.0).await;
    let fresh = authority.client(&[]);
    let after = certificate_for(&fresh, &proxy, "localhost").await;
    assert!(after.is_some() && after != before);
    let mut stream = pod.next_stream().await;
    stream.event("still here").await;
    assert_eq!(events.next_data().await, "still here");
}

#[tokio::test]
async fn files_that_do_not_work_are_named_with_line_and_column() {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    authority.issue("two", &["localhost"]);
    fs::write(authority.file("none.crt"), "no certificate").unwrap();
    fs::write(authority.file("none.key"), "no key").unwrap();
    let pod = Pod::start("pod-a").await;
    let pairs = [
        ("one.crt", "two.key", "keyFile", "not the key of"),
        ("none.crt", "one.key", "certFile", "no certificate in it"),
        ("one.crt", "none.key", "keyFile", "not a private key"),
        ("absent.crt", "one.key", "certFile", "No such file"),
        ("one.crt", "absent.key", "keyFile", "No such file"),
    ];
    for (certificate, key, at, meant) in pairs {
        let directory = tempfile::tempdir().unwrap();
        let entry = format!(
            "{{certFile: \"{}\", keyFile: \"{}\"}}",
            authority.file(certificate).display(),
            authority.file(key).display()
        );
        let local = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let setup = Setup::chat(&[&pod]).tls(&format!("{{certificates: [{entry}]}}"));
        let path = setup.write(directory.path(), local, local);
        for command in ["check", "run"] {
            let (code, _, stderr) = crate::command_line::run(&[command, "-c", &path]).await;
            let named = if at == "keyFile" { key } else { certificate };
            let whole = stderr.contains("podpin.yaml:2:") && stderr.contains(named) && stderr.contains(meant);
            assert!(code == 1 && whole && stderr.contains(at), "{command}: {code} {stderr}");
        }
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_with_a_word() {
    let (authority, _pods, proxy) = secured(&["limits: {keepAliveTimeout: 1s}"]).await;
    let mut stream = authority.client(&[]).try_connect(proxy.address, "localhost").await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, &Request::get("/who").bytes()).await.unwrap();
    let mut bytes = Vec::new();
    // An end without close_notify would be an error here.
    in_time("the end of an idle connection", stream.read_to_end(&mut bytes)).await.unwrap();
    assert!(bytes.ends_with(b"pod-a"));
}

#[tokio::test]
async fn curl_speaks_both_protocols() {
    let (authority, _pods, proxy) = secured(&[]).await;
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let mut command = Command::new("curl");
        command.args(["-sS", flag, "--cacert", authority.file("ca.pem").to_str().unwrap()]);
        command.args(["-w", " %{http_version}"]);
        command.arg(format!("https://localhost:{}/who", proxy.address.port()));
        command.args(["--resolve", &format!("localhost:{}:127.0.0.1", proxy.address.port())]);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text, format!("pod-a {version}"), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn the_pod_is_told_whose_certificate_a_client_has_shown() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.issue("one", &["localhost"]);
    let [pod, ..] = Pod::start_three().await;
    let tls = |mode: &str| {
        let (pair, ca) = (authority.entry("one"), authority.file("ca.pem"));
        format!("{{certificates: [{pair}], clientAuth: {{caFile: \"{}\", mode: {mode}}}}}", ca.display())
    };
    let required = Setup::chat(&[&pod]).tls(&tls("required")).start().await;
    let optional = Setup::chat(&[&pod]).tls(&tls("optional")).start().await;
    let known = authority.client_with_certificate(&authority, "a, OU=admin");
    let forged = Request::get("/who").header("X-Podpin-Client-Subject", "CN=root");
    for proxy in [&required, &optional] {
        let mut connection = known.connect(proxy.address, "localhost").await;
        assert_eq!(connection.ask(&forged).await.status, 200);
        let mut stream = events(connection).await;
        assert_eq!(stream.next_data().await, "pod-a");
    }
    let mut nobody = authority.client(&[]).connect(optional.address, "localhost").await;
    assert_eq!(nobody.ask(&forged).await.status, 200);
    let told: Vec<_> =
        pod.requests().iter().map(|one| one.header("x-podpin-client-subject").map(str::to_owned)).collect();
    let subject = Some(r"CN=a\, OU\=admin".to_owned());
    assert_eq!(told, [subject.clone(), subject.clone(), subject.clone(), subject, None]);
    // TLS 1.3 tells a client that it is refused after its own handshake is over.
    for client in [authority.client(&[]), authority.client_with_certificate(&stranger, "x")] {
        let mut connection = client.connect(required.address, "localhost").await;
        connection.try_send(Request::get("/who").bytes()).await;
        assert!(connection.try_head().await.is_err());
    }
}

/// The request's fields about certificates, but for the subject.
fn certificate_fields(request: &podpin_testkit::PodRequest) -> Vec<(&str, Option<&str>)> {
    let names =
        ["client-cert", "client-cert-chain", "client_cert", "x-podpin-client-issuer", "x-podpin-client-san"];
    names.map(|name| (name, request.header(name))).into()
}

#[tokio::test]
async fn a_clients_certificate_is_forwarded_as_a_whole_and_nobody_else_writes_its_fields() {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    let [pod, ..] = Pod::start_three().await;
    pod.answer("/ws", podpin_testkit::Reply::new(400));
    let (pair, ca) = (authority.entry("one"), authority.file("ca.pem"));
    let words = format!(
        "{{certificates: [{pair}], clientAuth: {{caFile: \"{}\", mode: optional, forward: [issuer, fingerprint, certificate, chain]}}}}",
        ca.display()
    );
    let proxy = Setup::chat(&[&pod]).tls(&words).top("trustedProxies: [127.0.0.1]").start().await;
    let forged = |request: Request| {
        let names = ["Client-Cert", "Client-Cert-Chain", "Client_Cert", "X-Podpin-Client-Issuer"];
        names.iter().fold(request, |request, name| request.header(name, ":Zm9yZ2Vk:"))
    };
    let requests =
        || [Request::get("/who"), Request::events("/events"), Request::websocket("/ws")].map(forged);
    let pem = fs::read_to_string(ca).unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let known = authority.client_with_certificate(&authority, "ann");
    for request in requests() {
        let mut connection = known.connect(proxy.address, "localhost").await;
        connection.send(request.bytes()).await;
        let seen = pod.next_request().await;
        let own = seen.header("client-cert").unwrap();
        assert!(own.starts_with(":MII") && own.ends_with(':') && !own.contains(&base64), "{own}");
        let chain = format!(":{base64}:");
        let expected = [
            ("client-cert", Some(own)),
            ("client-cert-chain", Some(&*chain)),
            ("client_cert", None),
            ("x-podpin-client-issuer", seen.header("x-podpin-client-issuer")),
            ("x-podpin-client-san", None),
        ];
        assert_eq!(certificate_fields(&seen), expected);
        assert!(seen.header("x-podpin-client-issuer").unwrap().starts_with("CN="), "{expected:?}");
        assert_eq!(seen.header("x-podpin-client-fingerprint").unwrap().len(), 64);
        assert_eq!(seen.header("x-podpin-client-subject"), None, "it is not in the list");
    }
    let nobody = authority.client(&[]);
    for request in requests() {
        let mut connection = nobody.connect(proxy.address, "localhost").await;
        connection.send(request.bytes()).await;
        let seen = pod.next_request().await;
        assert!(certificate_fields(&seen).iter().all(|(_, value)| value.is_none()), "{seen:?}");
    }
    let mut h2 = authority.client(&["h2"]).h2(proxy.address, "localhost").await;
    assert_eq!(h2.send(&forged(Request::get("/who"))).await.status, 200);
    let seen = pod.next_request().await;
    assert!(certificate_fields(&seen).iter().all(|(_, value)| value.is_none()), "{seen:?}");
}
