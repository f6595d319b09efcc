//! TLS to the pods: who is trusted, what is shown, and that everything works as it does without.

use std::path::Path;
use std::process::Command;

use podpin_testkit::{
    Answer, Authority, Ending, EndpointsFile, Pod, Proxy, Request, Setup, StreamAnswer, Visitor, acceptor_of,
    wait_for,
};
use tokio_rustls::rustls::version;

use crate::command_line::run;

const NAME: &str = "pod.test";
const QUICK: &str = "drain: {handover: lastEventId, spread: 0s, handoverTimeout: 2s}";

/// `tls` of a service whose pods' certificates are signed by `authority`, with more keys.
fn trusting(authority: &Authority, more: &str) -> String {
    format!("tls: {{serverName: {NAME}, caFile: \"{}\"{more}}}", authority.file("ca.pem").display())
}

/// An authority with a pod that has its certificate.
async fn secured() -> (Authority, Pod) {
    let authority = Authority::new();
    let pod = Pod::start_tls("pod-a", authority.acceptor(&[NAME], None)).await;
    (authority, pod)
}

/// An event stream and an ordinary request by way of `proxy` are answered by `pod`.
async fn is_served(proxy: &Proxy, pod: &Pod) {
    let mut client = Request::events("/events").open(proxy.address).await;
    let mut stream = pod.next_stream().await;
    stream.event_with_id("1", "x").await;
    assert_eq!(client.next_event().await.id, "1");
    assert_eq!(proxy.get("/who").await.text(), pod.name());
    stream.finish().await;
    assert_eq!(client.rest().await, (vec![], Ending::Clean));
}

/// Both are refused, and counted as failures to connect.
async fn is_refused(proxy: &Proxy, pod: &Pod) {
    let failures = [("service", "chat"), ("kind", "connect")];
    assert_eq!(proxy.get("/who").await.status, 502);
    proxy.wait_metric("podpin_upstream_errors_total", &failures, 1.0).await;
    assert_eq!(Request::events("/events").send(proxy.address).await.status, 502);
    proxy.wait_metric("podpin_upstream_errors_total", &failures, 2.0).await;
    assert!(pod.requests().is_empty(), "nothing was sent");
}

fn chat(pod: &Pod, tls: &str) -> Setup {
    Setup::chat(&[pod]).with(tls).with("sse: {keepAlive: off, unavailable: status}")
}

#[tokio::test]
async fn event_streams_and_ordinary_requests_reach_a_pod_over_tls() {
    let (authority, pod) = secured().await;
    let proxy = chat(&pod, &trusting(&authority, "")).start().await;
    is_served(&proxy, &pod).await;
    // Several records at once, and more than one.
    let mut client = Request::events("/events").open(proxy.address).await;
    let mut stream = pod.next_stream().await;
    let long = "x".repeat(200_000);
    for id in ["1", "2", "3"] {
        stream.event_with_id(id, &long).await;
    }
    for id in ["1", "2", "3"] {
        let event = client.next_event().await;
        assert_eq!((event.id.as_str(), event.data.len()), (id, long.len()));
    }
    drop(client);
    stream.client_gone().await;
    proxy.wait_metric("podpin_upstream_errors_total", &[], 0.0).await;
}

#[tokio::test]
async fn a_websocket_and_the_event_stream_of_a_post_reach_a_pod_over_tls() {
    let (authority, pod) = secured().await;
    pod.answer("/ws", Answer::WebSocketEcho);
    pod.answer("/completions", StreamAnswer::new());
    let proxy = chat(&pod, &trusting(&authority, "")).start().await;
    let mut socket = proxy.connect().await;
    assert_eq!(socket.ask(&Request::websocket("/ws")).await.status, 101);
    socket.send(b"\x81\x85abcdhello").await;
    assert_eq!(socket.raw(11).await, b"\x81\x85abcdhello");
    let ask = Request::new("POST", "/completions").body("{}");
    let mut client = ask.open(proxy.address).await;
    let mut stream = pod.next_stream().await;
    stream.event("one").await;
    assert_eq!(client.next_data().await, "one");
    drop(client);
    stream.client_gone().await;
}

#[tokio::test]
async fn a_pods_address_can_be_the_name_in_its_certificate() {
    let authority = Authority::new();
    let pod = Pod::start_tls("pod-a", authority.acceptor(&["127.0.0.1"], None)).await;
    let tls = trusting(&authority, "").replace(NAME, "127.0.0.1");
    is_served(&chat(&pod, &tls).start().await, &pod).await;
}

#[tokio::test]
async fn a_stream_over_tls_goes_on_at_another_pod() {
    let authority = Authority::new();
    let mut pods = Vec::new();
    for name in ["pod-a", "pod-b"] {
        let pod = Pod::start_tls(name, authority.acceptor(&[NAME], None)).await;
        pod.answer("/events", StreamAnswer::new());
        pods.push(pod);
    }
    let addresses: Vec<_> = pods.iter().map(|pod| (pod.name().to_owned(), pod.address())).collect();
    let write = |file: &EndpointsFile, states: [&str; 2]| {
        let all = addresses.iter().zip(states);
        file.write(&all.map(|((name, address), state)| (name.as_str(), *address, state)).collect::<Vec<_>>());
    };
    let file = EndpointsFile::with(&[]);
    write(&file, ["ready", "notReady"]);
    let setup = Setup::new().service_in("chat", &file).with(QUICK).with("balance: {slowStart: off}");
    let proxy = setup.with(&trusting(&authority, "")).start().await;
    let mut visitor: Visitor = proxy.visitor();
    let mut client = visitor.events("/events").await;
    let mut first = pods[0].next_stream().await;
    first.event_with_id("1", "x").await;
    assert_eq!(client.next_event().await.id, "1");
    write(&file, ["draining", "ready"]);
    let mut second = pods[1].next_stream().await;
    assert_eq!(second.request.header("last-event-id"), Some("1"));
    first.client_gone().await;
    second.event_with_id("2", "x").await;
    assert_eq!(client.next_event().await.id, "2");
    assert_eq!(visitor.get("/who").await.text(), "pod-b");
    let made = [("service", "chat"), ("cause", "planned"), ("result", "ok")];
    proxy.wait_metric("podpin_handovers_total", &made, 1.0).await;
    // A death says no goodbye, not even TLS's.
    write(&file, ["ready", "ready"]);
    proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready")]).await;
    pods[1].stop().await;
    let mut third = pods[0].next_stream().await;
    assert_eq!(third.request.header("last-event-id"), Some("2"));
    third.event_with_id("3", "x").await;
    assert_eq!(client.next_event().await.id, "3");
}

#[tokio::test]
async fn a_pod_of_another_authority_or_name_is_refused_as_one_that_cannot_be_reached() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let wrong = [stranger.acceptor(&[NAME], None), authority.acceptor(&["other.test"], None)];
    for acceptor in wrong {
        let pod = Pod::start_tls("pod-a", acceptor).await;
        is_refused(&chat(&pod, &trusting(&authority, "")).start().await, &pod).await;
    }
    let pod = Pod::start_tls("pod-a", authority.acceptor(&[NAME], None)).await;
    // The system's authorities do not know it.
    is_refused(&chat(&pod, &format!("tls: {{serverName: {NAME}}}")).start().await, &pod).await;
}

#[tokio::test]
async fn another_pod_is_asked_when_one_is_not_who_it_should_be() {
    let (authority, good) = secured().await;
    let bad = Pod::start_tls("pod-b", Authority::new().acceptor(&[NAME], None)).await;
    let setup = Setup::chat(&[&good, &bad]).with("balance: {strategy: roundRobin, slowStart: off}");
    let proxy = setup.with("health: off").with(&trusting(&authority, "")).start().await;
    for _ in 0..4 {
        assert_eq!(proxy.get("/who").await.text(), "pod-a");
        let client = Request::events("/events").open(proxy.address).await;
        let stream = good.next_stream().await;
        drop((client, stream));
    }
    let retries = [("service", "chat"), ("reason", "connect")];
    proxy.wait_metric_at_least("podpin_upstream_retries_total", &retries, 2.0).await;
    assert!(bad.requests().is_empty());
}

#[tokio::test]
async fn a_pod_that_never_answers_the_handshake_is_given_up_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = Setup::new().service_at("chat", &[("pod-a", silent.local_addr().unwrap())]);
    let setup = setup.with("tls: {verify: false}").with("timeouts: {connect: 200ms}");
    let proxy = setup.with("sse: {unavailable: status}").start().await;
    assert!(proxy.get("/who").await.status >= 502);
    assert!(Request::events("/events").send(proxy.address).await.status >= 502);
    proxy.wait_metric("podpin_upstream_errors_total", &[("service", "chat")], 2.0).await;
}

#[tokio::test]
async fn without_verification_any_certificate_will_do() {
    let (_, pod) = secured().await;
    for tls in ["tls: {verify: false}", "tls: {verify: false, serverName: other.test}"] {
        is_served(&chat(&pod, tls).start().await, &pod).await;
    }
    let plain = Pod::start("pod-b").await;
    is_refused(&chat(&plain, "tls: {verify: false}").start().await, &plain).await;
}

#[tokio::test]
async fn services_that_trust_different_authorities_share_no_connection_to_a_pod() {
    let (authority, pod) = secured().await;
    let stranger = Authority::new();
    let setup = Setup::new().route("{name: bad, service: bad, matches: [{path: {value: /bad}}]}");
    let setup = setup.route("{name: chat, service: chat}");
    let setup = setup.service("chat", &[&pod]).with(&trusting(&authority, ""));
    let proxy = setup.service("bad", &[&pod]).with(&trusting(&stranger, "")).start().await;
    for _ in 0..3 {
        assert_eq!(proxy.get("/who").await.status, 200);
        assert_eq!(proxy.get("/bad").await.status, 502);
    }
}

#[tokio::test]
async fn a_pod_that_asks_is_shown_our_certificate() {
    let (authority, ours) = (Authority::new(), Authority::new());
    let pod = Pod::start_tls("pod-a", authority.acceptor(&[NAME], Some(&ours))).await;
    ours.issue("podpin", &["podpin.test"]);
    let file = |end: &str| ours.file(&format!("podpin.{end}")).display().to_string();
    let shown = format!(", certFile: \"{}\", keyFile: \"{}\"", file("crt"), file("key"));
    is_served(&chat(&pod, &trusting(&authority, &shown)).start().await, &pod).await;
    let proxy = chat(&pod, &trusting(&authority, "")).start().await;
    let before = pod.requests().len();
    assert_eq!(proxy.get("/who").await.status, 502);
    assert_eq!(Request::events("/events").send(proxy.address).await.status, 502);
    assert_eq!(pod.requests().len(), before);
}

#[tokio::test]
async fn health_is_asked_for_over_tls() {
    let (authority, good) = secured().await;
    let bad = Pod::start_tls("pod-b", Authority::new().acceptor(&[NAME], None)).await;
    let health = "health: {active: {path: /healthz, interval: 100ms, timeout: 2s, failures: 1}}";
    let setup = Setup::chat(&[&good, &bad]).with(health).with(&trusting(&authority, ""));
    let proxy = setup.start().await;
    wait_for("pod-b to be put aside", async || {
        let endpoints = proxy.endpoints("chat").await;
        endpoints.iter().all(|one| one["ejected"] == (one["name"] == "pod-b"))
    })
    .await;
    assert!(good.targets().contains(&"/healthz".to_owned()));
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_refused_at_start_and_by_check() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.issue("one", &[NAME]);
    authority.issue("two", &[NAME]);
    std::fs::write(authority.file("empty.pem"), "").unwrap();
    let at = |name: &str| authority.file(name).display().to_string();
    let pair = |certificate: &str, key: &str| {
        format!("serverName: x, certFile: \"{}\", keyFile: \"{}\"", at(certificate), at(key))
    };
    let cases = [
        (format!("serverName: x, caFile: \"{}\"", at("none.pem")), "services.chat.tls.caFile: ", "none.pem"),
        (
            format!("serverName: x, caFile: \"{}\"", at("empty.pem")),
            "services.chat.tls.caFile: ",
            "no certificate",
        ),
        (pair("one.key", "one.key"), "services.chat.tls.certFile: ", "no certificate"),
        (pair("one.crt", "two.key"), "services.chat.tls.keyFile: ", "not the key of"),
        ("serverName: '1.2.3'".to_owned(), "services.chat.tls.serverName: ", "1.2.3"),
    ];
    let free = ([127, 0, 0, 1], 0).into();
    for (tls, path, said) in cases {
        let setup = Setup::new().service_at("chat", &[("a", ([127, 0, 0, 1], 9).into())]);
        let file = setup.with(&format!("tls: {{{tls}}}")).write(directory.path(), free, free);
        for command in ["check", "run"] {
            let (code, _, stderr) = run(&[command, "--config", &file]).await;
            assert_eq!(code, 1, "{tls}\n{stderr}");
            assert!(stderr.contains(path) && stderr.contains(said), "{tls}\n{stderr}");
            let place = stderr.split_once("podpin.yaml:").map(|(_, rest)| rest.as_bytes()[0]);
            assert!(place.is_some_and(|digit| digit.is_ascii_digit()), "{stderr}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_older_than_the_authorities_goes_on_at_a_pod_of_the_new_ones() {
    let (old, new) = (Authority::new(), Authority::new());
    let pods = [
        Pod::start_tls("pod-a", old.acceptor(&[NAME], None)).await,
        Pod::start_tls("pod-b", new.acceptor(&[NAME], None)).await,
    ];
    pods.iter().for_each(|pod| pod.answer("/events", StreamAnswer::new()));
    let trusted = old.directory().join("trusted.pem");
    std::fs::copy(old.file("ca.pem"), &trusted).unwrap();
    let file = EndpointsFile::with(&[("pod-a", pods[0].address(), "ready")]);
    let tls = format!("tls: {{serverName: {NAME}, caFile: \"{}\"}}", trusted.display());
    let proxy = Setup::new().service_in("chat", &file).with(&tls).with(QUICK).start().await;
    let mut client = Request::events("/events").open(proxy.address).await;
    let mut stream = pods[0].next_stream().await;
    stream.event_with_id("1", "one").await;
    assert_eq!(client.next_data().await, "one");
    std::fs::copy(new.file("ca.pem"), &trusted).unwrap();
    proxy.wait_metric_at_least("podpin_tls_reloads_total", &[("result", "success")], 1.0).await;
    file.write(&[("pod-a", pods[0].address(), "draining"), ("pod-b", pods[1].address(), "ready")]);
    let mut next = pods[1].next_stream().await;
    next.event_with_id("2", "two").await;
    assert_eq!(client.next_data().await, "two");
}

/// Makes a certificate by OpenSSL: `request` are arguments of `openssl req -x509`, or of `openssl x509 -req` where a key of its own
/// signs a request without extensions. Returns certificate and key in PEM.
fn made(directory: &Path, request: &[&str], version1: bool) -> (String, String) {
    let openssl = |arguments: &[&str]| {
        let made = Command::new("openssl").current_dir(directory).args(arguments).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    let new = ["req", "-nodes", "-keyout", "key.pem"];
    if version1 {
        openssl(&[&new[..], &["-new", "-out", "request.pem"], request].concat());
        openssl(&["x509", "-req", "-in", "request.pem", "-signkey", "key.pem", "-out", "cert.pem"]);
    } else {
        openssl(&[&new[..], &["-x509", "-out", "cert.pem"], request].concat());
    }
    let read = |name| std::fs::read_to_string(directory.join(name)).unwrap();
    (read("cert.pem"), read("key.pem"))
}

#[tokio::test]
async fn certificates_of_pods_are_taken_as_openssl_takes_them() {
    let curve = |name: &'static str| ["-newkey", "ec", "-pkeyopt", name];
    let (p256, p521) = (curve("ec_paramgen_curve:P-256"), curve("ec_paramgen_curve:secp521r1"));
    let rsa = ["-newkey", "rsa:2048", "-sha512", "-verbose"];
    let name = ["-subj", "/CN=pod.test"];
    let san = ["-addext", "subjectAltName=DNS:pod.test"];
    let other = ["-addext", "subjectAltName=DNS:other.test"];
    // Key, names, version 1, and whether it is taken by the authority file that it is in itself.
    let table: [(&[&str], &[&str], bool, bool); 7] = [
        (&p256, &san, false, true),
        (&p521, &san, false, true),
        (&rsa, &san, false, true),
        (&p256, &other, false, false),
        // A common name and no subject alternative name.
        (&p256, &[], false, false),
        (&p256, &[], true, false),
        (&rsa, &[], true, false),
    ];
    for (key, names, version1, is_trusted) in table {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, private) = made(directory.path(), &[key, &name, names].concat(), version1);
        for tls_version in [&version::TLS13, &version::TLS12] {
            let pod = Pod::start_tls("pod-a", acceptor_of(&certificate, &private, &[tls_version])).await;
            let file = directory.path().join("cert.pem");
            let verified = format!("tls: {{serverName: {NAME}, caFile: \"{}\"}}", file.display());
            let proxy = chat(&pod, &verified).start().await;
            match is_trusted {
                true => is_served(&proxy, &pod).await,
                false => is_refused(&proxy, &pod).await,
            }
            let any = chat(&pod, "tls: {verify: false}").start().await;
            is_served(&any, &pod).await;
        }
    }
}
