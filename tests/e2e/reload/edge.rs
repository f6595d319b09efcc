//! Keys, certificates, limits, logs: what holds for the next connection, the next request, the next line.

use std::fs;

use podpin_testkit::{Authority, Ending, H2Connection, Pod, Request, Setup, Signal, StreamAnswer, wait_for};

use super::silent_pods;

#[tokio::test]
async fn new_keys_sign_and_old_pins_hold() {
    let pods = Pod::start_three().await;
    let setup = |keys: &[&str]| Setup::chat(&[&pods[0], &pods[1]]).keys(keys);
    let proxy = setup(&["k1"]).start().await;
    let mut visitor = proxy.pinned_to("pod-a").await;
    let old = visitor.cookie("podpin-chat").unwrap().to_owned();
    proxy.reload(&setup(&["k2", "k1"])).await;
    let again = visitor.get("/who").await;
    assert_eq!(again.text(), "pod-a");
    assert_ne!(visitor.cookie("podpin-chat").unwrap(), old, "signed by the new one");
    proxy.reload(&setup(&["k2"])).await;
    assert_eq!(visitor.get("/who").await.text(), "pod-a");
    let mut late = proxy.visitor();
    late.set_cookie("podpin-chat", &old);
    late.get("/who").await;
    let unknown = [("service", "chat"), ("result", "unknown_key")];
    assert_eq!(proxy.metric("podpin_affinity_decisions_total", &unknown).await, 1.0);
    // The files of the new keys are followed, those of the old ones are not.
    let reloads = [("result", "success")];
    fs::write(proxy.directory().join("k2"), "z".repeat(43)).unwrap();
    proxy.wait_metric_at_least("podpin_affinity_key_reloads_total", &reloads, 1.0).await;
}

#[tokio::test]
async fn a_key_that_is_made_at_the_start_lives_as_long_as_the_process() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).top("affinityKeys: ephemeral");
    let proxy = setup.start().await;
    let mut visitor = proxy.pinned_to("pod-b").await;
    let cookie = visitor.cookie("podpin-chat").unwrap().to_owned();
    proxy.reload(&setup.clone().with("timeouts: {connect: 1s}")).await;
    assert_eq!(visitor.get("/who").await.text(), "pod-b");
    assert_eq!(visitor.cookie("podpin-chat").unwrap(), cookie);
}

/// Returns the certificate that a new client is shown: one that was here before may come back by its ticket.
async fn certificate(authority: &Authority, address: std::net::SocketAddr) -> Vec<u8> {
    let client = authority.client(&["http/1.1"]);
    let stream = client.try_connect(address, "localhost").await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn other_certificates_are_shown_to_new_connections_and_old_ones_go_on() {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    authority.issue("two", &["localhost", "two.test"]);
    let pods = silent_pods(&["pod-a"]).await;
    let plain = Setup::chat(&[&pods[0]]);
    let with = |file: &str| plain.clone().tls(&format!("{{certificates: [{}]}}", authority.entry(file)));
    let proxy = with("one").start().await;
    let before = certificate(&authority, proxy.address).await;
    let mut connection = authority.client(&["http/1.1"]).connect(proxy.address, "localhost").await;
    connection.send(Request::events("/events").bytes()).await;
    let head = connection.head().await;
    let mut stream = connection.into_events(head);
    let mut pod = pods[0].next_stream().await;
    proxy.reload(&with("two")).await;
    assert_ne!(certificate(&authority, proxy.address).await, before);
    pod.event("on").await;
    assert_eq!(stream.next_data().await, "on");
    // The new files are followed.
    let renewed = certificate(&authority, proxy.address).await;
    authority.issue("two", &["localhost", "two.test"]);
    proxy.wait_metric("podpin_tls_reloads_total", &[("result", "success")], 1.0).await;
    assert_ne!(certificate(&authority, proxy.address).await, renewed);
    // Even without TLS from now on, this one goes on.
    proxy.reload(&plain).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
    assert!(!proxy.metrics().await.has("podpin_tls_certificate_not_after_seconds", &[]));
    pod.event("and on").await;
    assert_eq!(stream.next_data().await, "and on");
}

#[tokio::test]
async fn http2_without_tls_is_taken_from_the_next_connection_on() {
    let pods = silent_pods(&["pod-a"]).await;
    let setup = Setup::chat(&[&pods[0]]);
    let proxy = setup.start().await;
    proxy.reload(&setup.clone().h2c()).await;
    let mut client = podpin_testkit::H2Connection::open(proxy.address).await;
    assert_eq!(client.send(&Request::get("/who")).await.text(), "pod-a");
}

#[tokio::test]
async fn tls_to_pods_follows_its_files() {
    let (old, new) = (Authority::new(), Authority::new());
    let pod = Pod::start_tls("pod-a", new.acceptor(&["pod.test"], None)).await;
    pod.answer("/events", StreamAnswer::new());
    let file = old.directory().join("trusted.pem");
    fs::copy(old.file("ca.pem"), &file).unwrap();
    let tls = format!("tls: {{serverName: pod.test, caFile: \"{}\"}}", file.display());
    let proxy = Setup::chat(&[&pod]).with(&tls).start().await;
    assert_eq!(proxy.get("/who").await.status, 502);
    let reads = "podpin_tls_reloads_total";
    fs::copy(new.file("ca.pem"), &file).unwrap();
    proxy.wait_metric_at_least(reads, &[("result", "success")], 1.0).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
    let mut client = proxy.visitor().events("/events").await;
    let mut stream = pod.next_stream().await;
    fs::write(&file, "nothing").unwrap();
    proxy.wait_metric_at_least(reads, &[("result", "failure")], 1.0).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a", "the old authorities are kept");
    stream.event("on").await;
    assert_eq!(client.next_data().await, "on");
}

#[tokio::test]
async fn limits_hold_from_then_on() {
    let pods = silent_pods(&["pod-a"]).await;
    let setup = |per_client: &str, header: &str| {
        Setup::chat(&[&pods[0]])
            .with(&format!("limits: {{streamsPerClient: {per_client}}}"))
            .with("sse: {unavailable: status}")
            .top(&format!("limits: {{requestHeaderBytes: {header}}}"))
    };
    let proxy = setup("off", "32KiB").start().await;
    let large = || Request::get("/who").header("X-Large", &"x".repeat(4_000));
    let mut kept = proxy.connect().await;
    assert_eq!(kept.ask(&large()).await.status, 200);
    let mut visitor = proxy.visitor();
    let _old = visitor.events("/events").await;
    proxy.reload(&setup("1", "1KiB")).await;
    assert_eq!(kept.ask(&large()).await.status, 431, "a connection that was open, too");
    let _new = visitor.events("/events").await;
    assert_eq!(visitor.send(Request::events("/events")).await.status, 429);
    proxy.reload(&setup("2", "32KiB")).await;
    let _third = visitor.events("/events").await;
    assert_eq!(proxy.connect().await.ask(&large()).await.status, 200);
}

#[tokio::test]
async fn those_who_are_believed_about_clients_may_change() {
    let pods = silent_pods(&["pod-a"]).await;
    let setup = Setup::chat(&[&pods[0]]);
    let proxy = setup.start().await;
    let ask = async || {
        Request::get("/who").header("X-Forwarded-For", "203.0.113.9").send(proxy.address).await;
        pods[0].requests().pop().unwrap().header("x-real-ip").unwrap().to_owned()
    };
    assert_eq!(ask().await, "127.0.0.1");
    proxy.reload(&setup.clone().top("trustedProxies: [127.0.0.0/8]")).await;
    assert_eq!(ask().await, "203.0.113.9");
}

#[tokio::test]
async fn the_access_log_goes_elsewhere_and_is_opened_anew_when_asked() {
    let pods = silent_pods(&["pod-a"]).await;
    let setup = Setup::chat(&[&pods[0]]);
    let proxy = setup.start().await;
    proxy.get("/one").await;
    proxy.access_log_line(|line| line["path"] == "/one").await;
    proxy.reload(&setup.clone().top("accessLog: {path: access.log}")).await;
    let has = |file: &str, path: &str| {
        let text = fs::read_to_string(proxy.directory().join(file)).unwrap_or_default();
        text.contains(&format!("\"path\":\"{path}\""))
    };
    proxy.get("/two").await;
    wait_for("a line in the file", async || has("access.log", "/two")).await;
    // As logrotate does it.
    fs::rename(proxy.directory().join("access.log"), proxy.directory().join("access.log.1")).unwrap();
    proxy.reload_with("success", || proxy.signal(Signal::HUP)).await;
    proxy.get("/three").await;
    wait_for("a line in the new file", async || has("access.log", "/three")).await;
    assert!(has("access.log.1", "/two") && !has("access.log.1", "/three"));
    proxy.reload(&setup.clone().top("accessLog: off")).await;
    proxy.get("/four").await;
    proxy.reload(&setup).await;
    proxy.get("/five").await;
    proxy.access_log_line(|line| line["path"] == "/five").await;
    let lines = proxy.process.stdout();
    assert!(!lines.iter().any(|line| ["/two", "/three", "/four"].iter().any(|path| line.contains(path))));
}

#[tokio::test]
async fn the_shutdown_takes_the_times_in_force() {
    let pods = silent_pods(&["pod-a"]).await;
    let setup = |times: &str| Setup::chat(&[&pods[0]]).top(&format!("shutdown: {{{times}}}"));
    let mut proxy = setup("announce: 5m, spread: 0s, timeout: 10m").start().await;
    let mut client = proxy.visitor().events("/events").await;
    let _stream = pods[0].next_stream().await;
    proxy.reload(&setup("announce: 0s, spread: 0s, timeout: 5s")).await;
    proxy.signal(Signal::TERM);
    assert_eq!(client.rest().await.1, Ending::Clean);
    assert_eq!(proxy.wait_exit().await, 0);
}

#[tokio::test]
async fn the_proxy_protocol_is_asked_of_new_connections_from_then_on() {
    let pods = silent_pods(&["pod-a"]).await;
    let setup = Setup::chat(&[&pods[0]]).top("trustedProxies: [127.0.0.0/8]");
    let proxy = setup.start().await;
    let mut kept = proxy.connect().await;
    assert_eq!(kept.ask(&Request::get("/who")).await.status, 200);
    proxy.reload(&setup.clone().proxy_protocol("required")).await;
    let mut introduced = proxy.connect().await;
    introduced.send("PROXY TCP4 203.0.113.9 203.0.113.1 40000 80\r\n").await;
    assert_eq!(introduced.ask(&Request::get("/who")).await.status, 200);
    assert_eq!(pods[0].requests().pop().unwrap().header("x-real-ip"), Some("203.0.113.9"));
    let mut plain = proxy.connect().await;
    plain.send(Request::get("/who").bytes()).await;
    assert!(plain.try_head().await.is_err(), "without a header it is closed");
    assert_eq!(kept.ask(&Request::get("/who")).await.status, 200, "whoever was there stays");
}

#[tokio::test]
async fn an_open_http_2_connection_has_the_new_limits_with_its_next_head() {
    let pod = Pod::start("pod-a").await;
    let setup =
        |bytes: &str| Setup::chat(&[&pod]).h2c().top(&format!("limits: {{requestHeaderBytes: {bytes}}}"));
    let proxy = setup("16KiB").start().await;
    let mut client = H2Connection::open(proxy.address).await;
    let request = Request::get("/who").header("x-large", &"x".repeat(9_000));
    for (bytes, expected) in [("8KiB", 431), ("16KiB", 200)] {
        proxy.reload(&setup(bytes)).await;
        assert_eq!(client.send(&request).await.status, expected, "{bytes}");
    }
}
