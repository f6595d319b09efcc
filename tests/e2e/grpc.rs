//! gRPC by its own library on both sides: `grpcio` as client and as pods, over HTTP/2 all the way.

mod rollouts;

use std::net::{Ipv4Addr, SocketAddr};

use podpin_testkit::{Authority, Process, Proxy, Setup, wait_for};
use serde_json::{Value, json};

use crate::python_sdks::{lines, script};

/// A pod that serves gRPC.
pub(super) struct GrpcPod {
    pub(super) process: Process,
    pub(super) address: SocketAddr,
}

impl GrpcPod {
    async fn start(name: &str) -> GrpcPod {
        GrpcPod::of(script("grpc_pod.py", &[name])).await
    }

    /// A pod of a script that prints its port first.
    pub(super) async fn of(mut process: Process) -> GrpcPod {
        let port = lines(&mut process, 1).await[0]["port"].as_u64().unwrap();
        GrpcPod { process, address: SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port).unwrap())) }
    }

    /// Waits for a line that says this of a call.
    async fn said(&self, call: &str, event: &str) -> Value {
        let mut found = None;
        wait_for(&format!("{call}: {event}"), async || {
            let read = self.process.stdout().into_iter().map(|line| serde_json::from_str(&line).unwrap());
            found = { read }.find(|line: &Value| line["call"] == call && line["event"] == event);
            found.is_some()
        })
        .await;
        found.unwrap()
    }
}

/// A proxy whose service `chat` has these pods, named `pod-a` and so on.
fn setup(pods: &[&GrpcPod]) -> Setup {
    let names = ["pod-a", "pod-b", "pod-c"];
    let list: Vec<_> = names.into_iter().zip(pods.iter().map(|pod| pod.address)).collect();
    Setup::new().service_at("chat", &list).with("protocol: grpc").h2c()
}

/// Runs a scene of `grpc_calls.py` to its end; what it has said, one list for each line.
async fn calls(proxy: &Proxy, scene: &str, ca: Option<&str>) -> Vec<Value> {
    let port = proxy.address.port().to_string();
    let mut process = script("grpc_calls.py", &[&[&*port, scene][..], ca.as_slice()].concat());
    assert_eq!(process.wait_exit().await, 0, "{}", process.output());
    process.stdout().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The lines of the scene that has all kinds of calls in it.
fn all() -> Vec<Value> {
    vec![
        json!(["unary", "pod-a:hello", "OK", "00ff80", "00ff80", "abc"]),
        json!(["collect", "500 500000"]),
        json!(["count", 300, 1_500_000, "299"]),
        json!(["chat", true]),
        json!(["large", true]),
        json!(["fail", "NOT_FOUND", "no such room: 100 %\nü"]),
        json!(["missing", "UNIMPLEMENTED", "Method not found!"]),
        json!(["deadline", "DEADLINE_EXCEEDED", true]),
        json!(["cancel", "pod-a", "CANCELLED"]),
    ]
}

#[tokio::test]
async fn calls_of_all_kinds_pass() {
    let pod = GrpcPod::start("pod-a").await;
    let proxy = setup(&[&pod]).start().await;
    assert_eq!(calls(&proxy, "all", None).await, all());
    let echo = pod.said("Slow", "begun").await;
    assert!(echo["left"].as_f64().unwrap() < 1.0, "the pod knows the deadline: {echo}");
    pod.said("Slow", "ended").await;
    pod.said("Hold", "ended").await;
    let echo: Value = serde_json::from_str(&pod.process.stdout()[1]).unwrap();
    assert!(echo["session"].is_string(), "{echo}");
    // Each is a stream while it lasts, and a line of the log at its end.
    proxy.wait_metric("podpin_streams_active", &[], 0.0).await;
    let line = proxy.access_log_line(|line| line["path"] == "/chat.Chat/Fail").await;
    assert_eq!(
        (&line["kind"], &line["grpcStatus"], &line["status"]),
        (&json!("call"), &json!(5), &json!(200))
    );
    let line = proxy.access_log_line(|line| line["path"] == "/chat.Chat/Slow").await;
    // The deadline is the client's and the proxy's, and either may be the first to notice that it has passed.
    let (reason, endpoint) = (&line["reason"], &line["endpoint"]);
    assert!([json!("client"), json!("deadline")].contains(reason) && *endpoint == json!("pod-a"), "{line}");
}

#[tokio::test]
async fn calls_pass_over_tls() {
    let (authority, pod) = (Authority::new(), GrpcPod::start("pod-a").await);
    authority.issue("one", &["localhost"]);
    let proxy = setup(&[&pod]).tls(&format!("{{certificates: [{}]}}", authority.entry("one"))).start().await;
    let ca = authority.file("ca.pem").display().to_string();
    assert_eq!(calls(&proxy, "all", Some(&ca)).await, all());
}

#[tokio::test]
async fn calls_pass_to_pods_over_tls_and_only_to_those_that_are_trusted() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.issue("pod", &["pod.test"]);
    let file = |name: &str| authority.file(name).display().to_string();
    let (certificate, key) = (file("pod.crt"), file("pod.key"));
    let pod = GrpcPod::of(script("grpc_pod.py", &["pod-a", &certificate, &key])).await;
    let trusting = |authority: &Authority| {
        let ca = authority.file("ca.pem").display().to_string();
        format!("tls: {{serverName: pod.test, caFile: \"{ca}\"}}")
    };
    let proxy = setup(&[&pod]).with(&trusting(&authority)).start().await;
    assert_eq!(calls(&proxy, "all", None).await, all());
    let wary = setup(&[&pod]).with(&trusting(&other)).start().await;
    let refused = json!(["echo", "UNAVAILABLE", "podpin: the endpoint cannot be reached"]);
    assert_eq!(calls(&wary, "echo", None).await, [refused]);
    let failures = [("service", "chat"), ("kind", "connect")];
    wary.wait_metric_at_least("podpin_upstream_errors_total", &failures, 1.0).await;
    // TLS, but no HTTP/2.
    let plain = podpin_testkit::Pod::start_tls("pod-a", authority.acceptor(&["pod.test"], None)).await;
    let list = [("pod-a", plain.address())];
    let setup = Setup::new().service_at("chat", &list).with("protocol: h2").with(&trusting(&authority)).h2c();
    let proxy = setup.start().await;
    assert_eq!(proxy.get("/who").await.status, 502);
    assert!(plain.requests().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn both_directions_may_be_full_at_once() {
    let pod = GrpcPod::start("pod-a").await;
    let proxy = setup(&[&pod]).start().await;
    let expected = [json!(["amplify", 30_000_000]), json!(["both", 20_000_000])];
    assert_eq!(calls(&proxy, "both", None).await, expected);
}

#[tokio::test]
async fn a_call_of_a_client_goes_to_its_pod() {
    let pods = [GrpcPod::start("pod-a").await, GrpcPod::start("pod-b").await, GrpcPod::start("pod-c").await];
    let pods: Vec<_> = pods.iter().collect();
    let by_header = setup(&pods).with("affinity: {cookie: off, header: X-Room}").start().await;
    for line in calls(&by_header, "pinned", None).await {
        assert_eq!(line[1].as_array().unwrap().len(), 1, "{line}");
    }
    let by_cookie = setup(&pods).start().await;
    assert_eq!(calls(&by_cookie, "cookie", None).await, [json!(["cookie", true])]);
}

#[tokio::test]
async fn what_the_proxy_itself_says_is_a_status_of_grpc() {
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, podpin_testkit::free_port()));
    let setup = Setup::new().service_at("chat", &[("pod-a", nowhere)]).with("protocol: grpc").h2c();
    let proxy = setup.start().await;
    let unreachable = json!(["echo", "UNAVAILABLE", "podpin: the endpoint cannot be reached"]);
    assert_eq!(calls(&proxy, "echo", None).await, [unreachable]);
    let line = proxy.access_log_line(|line| line["path"] == "/chat.Chat/Echo").await;
    assert_eq!(
        (&line["status"], &line["grpcStatus"], &line["kind"]),
        (&json!(200), &json!(14), &json!("call"))
    );
    let elsewhere = setup.route("{name: other, hostnames: [other.example], service: chat}").start().await;
    let unrouted = json!(["echo", "UNIMPLEMENTED", "podpin: no route matches host and path"]);
    assert_eq!(calls(&elsewhere, "echo", None).await, [unrouted]);
}

#[tokio::test]
async fn a_pod_is_asked_for_its_health() {
    let (sick, fine) = (GrpcPod::start("pod-a").await, GrpcPod::start("pod-b").await);
    let health = "health: {active: {type: grpc, service: chat.Chat, interval: 100ms, failures: 1}}";
    let proxy = setup(&[&sick, &fine]).with(health).start().await;
    let check: Value = {
        wait_for("a check", async || sick.process.stdout().len() > 1).await;
        serde_json::from_str(&sick.process.stdout()[1]).unwrap()
    };
    assert_eq!(check, json!({"call": "Check", "about": "chat.Chat"}));
    let ejected = async || proxy.endpoints("chat").await[0]["ejected"] == true;
    sick.process.signal(podpin_testkit::Signal::USR1);
    wait_for("the ejection", ejected).await;
    assert_eq!(proxy.endpoints("chat").await[1]["ejected"], false);
    sick.process.signal(podpin_testkit::Signal::USR1);
    wait_for("the return", async || !ejected().await).await;
}
