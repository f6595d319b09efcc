//! HTTP/2 with programs of others: Node and gRPC as clients, and HAProxy, nginx and Envoy in front.

use std::path::{Path, PathBuf};
use std::process::Command;

use podpin_testkit::{Answer, Pod, PodStream, Process, Proxy, Request, Setup, free_port, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::http2_clients::{LARGE, pod};
use crate::python_sdks::{lines, script};

/// Requests in flight over a front.
const AT_ONCE: usize = 30;

fn said(lines: &[Value], key: &str, scene: &str) -> Value {
    let line = lines.iter().find(|line| line[key] == scene);
    line.unwrap_or_else(|| panic!("{scene}: {lines:?}"))["said"].clone()
}

#[tokio::test]
async fn node_speaks_to_the_proxy() {
    let pod = pod().await;
    let proxy = Setup::chat(&[&pod]).h2c().start().await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/node/http2_client.mjs");
    let mut client = Process::spawn(Command::new("node").arg(path).arg(proxy.address.port().to_string()));
    let lines = lines(&mut client, 6).await;
    let said = |scene| said(&lines, "scene", scene);
    assert_eq!(said("many"), json!({"statuses": [200], "sizes": [5, LARGE]}));
    for scene in ["upload", "expect"] {
        let answer = said(scene);
        assert_eq!((&answer["status"], &answer["size"]), (&json!(200), &json!(5)), "{scene}: {answer}");
    }
    assert_eq!(said("ping"), true);
    assert_eq!(said("events"), "data: first\n\n");
    assert_eq!(said("after"), 200);
    assert_eq!(client.wait_exit().await, 0, "{:?}", client.stderr());
    let stream = pod.next_stream().await;
    wait_for("the pod seeing that the stream was given up", async || stream.is_client_gone()).await;
    let upload = pod.requests().into_iter().find(|request| request.body.len() == LARGE);
    assert!(upload.is_some(), "the upload arrives whole");
}

/// Message of gRPC: no compression, four bytes of length.
fn message(text: &str) -> String {
    format!("\0\0\0\0{}{text}", char::from(u8::try_from(text.len()).unwrap()))
}

/// Answers a call with these messages and this trailer section, in chunks.
async fn answer_call(stream: &mut PodStream, messages: &[&str], trailers: Option<&str>) {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nConnection: close\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    stream.raw(head).await;
    for text in messages {
        let message = message(text);
        stream.raw(&format!("{:x}\r\n{message}\r\n", message.len())).await;
    }
    if let Some(trailers) = trailers {
        stream.raw(&format!("0\r\n{trailers}\r\n")).await;
    }
}

#[tokio::test]
async fn grpc_calls_pass_to_pods_that_speak_http_1() {
    let pod = Pod::start("pod-a").await;
    for call in ["Say", "Fail", "Listen", "Endless"] {
        pod.answer(&format!("/chat.Chat/{call}"), Answer::ByHand);
    }
    let proxy = Setup::chat(&[&pod]).h2c().start().await;
    let mut client = script("grpc_client.py", &[&proxy.address.port().to_string()]);
    let mut call = pod.next_stream().await;
    assert_eq!(call.request.body, message("hello").as_bytes());
    assert_eq!(call.request.header("x-room"), Some("a"));
    assert_eq!(call.request.header("bin-bin"), Some("AP8"));
    answer_call(&mut call, &["world"], Some("grpc-status: 0\r\nx-sum: abc\r\n")).await;
    let mut call = pod.next_stream().await;
    answer_call(&mut call, &[], Some("grpc-status: 5\r\ngrpc-message: no%20such%20room\r\n")).await;
    let mut call = pod.next_stream().await;
    answer_call(&mut call, &["one", "two", "three"], Some("grpc-status: 0\r\n")).await;
    let mut endless = pod.next_stream().await;
    answer_call(&mut endless, &["one"], None).await;
    let lines = lines(&mut client, 6).await;
    let said = |call| said(&lines, "call", call);
    assert_eq!(said("unary"), json!(["world", "OK", "abc"]));
    assert_eq!(said("failure"), json!(["NOT_FOUND", "no such room"]));
    assert_eq!(said("first of stream"), "one");
    assert_eq!(said("rest of stream"), json!(["two", "three"]));
    assert_eq!(said("cancelled"), "CANCELLED");
    wait_for("the pod seeing that the call was given up", async || endless.is_client_gone()).await;
    assert_eq!(client.wait_exit().await, 0, "{:?}", client.stderr());
}

/// A load balancer that speaks HTTP/1.1 to its clients and HTTP/2 to the proxy.
pub(super) struct Front {
    address: std::net::SocketAddr,
    _process: Process,
    _directory: TempDir,
}

impl Front {
    /// Starts a program with a configuration that listens at a port and asks the proxy at another.
    async fn start(
        program: impl Into<PathBuf>,
        arguments: &[&str],
        configuration: impl FnOnce(u16, &Path) -> String,
    ) -> Front {
        let directory = TempDir::new().unwrap();
        let port = free_port();
        let file = directory.path().join("front.conf");
        std::fs::write(&file, configuration(port, directory.path())).unwrap();
        let mut command = Command::new(program.into());
        command.args(arguments).arg(&file).env("PATH", path_with_daemons());
        let mut process = Process::spawn(&mut command);
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        wait_for("a front listening", async || {
            assert_eq!(process.exit_code(), None, "{:?}", process.stderr());
            TcpStream::connect(address).await.is_ok()
        })
        .await;
        Front { address, _process: process, _directory: directory }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// Starts HAProxy, which shares one connection to the proxy among its clients.
    pub(super) async fn haproxy(proxy: &Proxy) -> Front {
        let upstream = proxy.address;
        Front::start("haproxy", &["-db", "-f"], |port, _| {
            format!(
                "global\n maxconn 200\n nbthread 1\ndefaults\n mode http\n option abortonclose\n timeout client 60s\n timeout server 60s\n \
                 timeout connect 5s\nfrontend f\n bind 127.0.0.1:{port}\n default_backend b\nbackend b\n http-reuse always\n \
                 server s {upstream} proto h2\n"
            )
        })
        .await
    }

    async fn nginx(proxy: &Proxy) -> Front {
        let upstream = proxy.address;
        // Of nginx only what passes gRPC on speaks HTTP/2 to servers; it takes other requests as well.
        Front::start("nginx", &["-c"], |port, directory| {
            let directory = directory.display();
            let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("{kind}_temp_path {directory}/{kind};"))
                .join(" ");
            format!(
                "daemon off; worker_processes 1; pid {directory}/pid; error_log stderr; events {{}} http {{ \
                 access_log off; {temporary} server {{ listen 127.0.0.1:{port}; location / {{ \
                 grpc_pass grpc://{upstream}; }} }} }}"
            )
        })
        .await
    }

    /// Starts Envoy.
    pub(super) async fn envoy(proxy: &Proxy) -> Front {
        let upstream = proxy.address;
        let program = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("envoy/bin/envoy");
        assert!(program.exists(), "{} is missing: run `scripts/setup.sh test` first", program.display());
        Front::start(program, &["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"], |port, _| {
            let address = |port| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
            let router = json!({"name": "envoy.filters.http.router", "typed_config":
                {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}});
            let manager = json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "f", "http_filters": [router],
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes":
                    [{"match": {"prefix": "/"}, "route": {"cluster": "b", "timeout": "0s"}}]}]},
            });
            let protocol = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}}});
            let endpoint = json!({"endpoint": {"address": address(upstream.port())}});
            json!({"static_resources": {
                "listeners": [{"name": "f", "address": address(port), "filter_chains": [{"filters": [
                    {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}],
                "clusters": [{"name": "b", "type": "STATIC", "typed_extension_protocol_options": protocol,
                    "load_assignment": {"cluster_name": "b", "endpoints": [{"lb_endpoints": [endpoint]}]}}],
            }})
            .to_string()
        })
        .await
    }
}

/// Debian keeps daemons where the path of most users does not lead.
fn path_with_daemons() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Sends all kinds of requests through a front.
async fn serves_through(pod: &Pod, front: &Front) {
    let asked = async |target: &'static str| Request::get(target).send(front.address).await;
    let all = (0..AT_ONCE).map(|at| asked(if at % 2 == 0 { "/small" } else { "/large" }));
    for (at, response) in futures_util::future::join_all(all).await.into_iter().enumerate() {
        let expected = if at % 2 == 0 { 5 } else { LARGE };
        assert_eq!((response.status, response.body.len()), (200, expected));
    }
    let upload = Request::new("POST", "/small").body("z".repeat(LARGE)).send(front.address).await;
    assert_eq!((upload.status, &*upload.text()), (200, "small"));
    assert_eq!(pod.requests().last().unwrap().body.len(), LARGE);
    let mut events = Request::events("/events").open(front.address).await;
    assert_eq!(events.next_data().await, "first");
    let mut stream = pod.next_stream().await;
    stream.event("second").await;
    assert_eq!(events.next_data().await, "second");
    events.reset();
    wait_for("the pod seeing that the stream was given up", async || stream.is_client_gone()).await;
    assert_eq!(asked("/small").await.status, 200);
}

async fn behind() -> (Pod, Proxy) {
    let pod = pod().await;
    let proxy = Setup::chat(&[&pod]).top("trustedProxies: [127.0.0.1]").h2c().start().await;
    (pod, proxy)
}

#[tokio::test]
async fn haproxy_in_front_speaks_http2_to_the_proxy() {
    let (pod, proxy) = behind().await;
    serves_through(&pod, &Front::haproxy(&proxy).await).await;
}

#[tokio::test]
async fn nginx_in_front_speaks_http2_to_the_proxy() {
    let (pod, proxy) = behind().await;
    serves_through(&pod, &Front::nginx(&proxy).await).await;
}

#[tokio::test]
async fn envoy_in_front_speaks_http2_to_the_proxy() {
    let (pod, proxy) = behind().await;
    serves_through(&pod, &Front::envoy(&proxy).await).await;
}
