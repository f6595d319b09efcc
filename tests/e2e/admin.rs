//! The operator's port: probes, metrics, lists.

use std::time::Duration;

use podpin_testkit::{Connection, Pod, Proxy, Request, Setup, wait_long};
use serde_json::Value;

async fn with_stream() -> ([Pod; 3], Proxy, podpin_testkit::EventStream) {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0], &pods[1]]).start().await;
    let mut stream = Request::events("/events").open(proxy.address).await;
    stream.next_event().await;
    proxy.wait_metric("podpin_streams_active", &[("service", "chat")], 1.0).await;
    (pods, proxy, stream)
}

#[tokio::test]
async fn the_probes_answer() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    for probe in ["/livez", "/readyz"] {
        assert_eq!(proxy.admin_get(probe).await.status, 200, "{probe}");
        let head = Request::new("HEAD", probe).header("Connection", "close").send(proxy.admin).await;
        assert!(matches!(head.status, 200 | 405), "{probe}");
    }
    assert_eq!(proxy.admin_get("/").await.status, 200, "the status page");
}

#[tokio::test]
async fn the_metrics_have_the_names_types_and_labels_of_the_contract() {
    let (_pods, proxy, stream) = with_stream().await;
    proxy.get("/who").await;
    drop(stream);
    proxy.wait_metric("podpin_streams_closed_total", &[], 1.0).await;
    let response = proxy.admin_get("/metrics").await;
    assert!(response.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    let metrics = proxy.metrics().await;
    let contract = [
        ("podpin_streams_opened_total", "counter", "result service"),
        ("podpin_streams_closed_total", "counter", "reason service"),
        ("podpin_stream_duration_seconds", "histogram", ""),
        ("podpin_stream_events_total", "counter", "service"),
        ("podpin_stream_bytes_total", "counter", "service"),
        ("podpin_stream_keepalives_total", "counter", "service"),
        ("podpin_stream_first_event_seconds", "histogram", ""),
        ("podpin_affinity_decisions_total", "counter", "result service"),
        ("podpin_affinity_repins_total", "counter", "reason service"),
        ("podpin_requests_total", "counter", "code method route service"),
        ("podpin_request_duration_seconds", "histogram", ""),
        ("podpin_upstream_connect_seconds", "histogram", ""),
        ("podpin_upstream_retries_total", "counter", "reason service"),
        ("podpin_upstream_errors_total", "counter", "kind service"),
        ("podpin_refusals_total", "counter", "kind service"),
        ("podpin_endpoints", "gauge", "service state"),
        ("podpin_endpoint_ejections_total", "counter", "service"),
        ("podpin_connections_active", "gauge", "listener"),
        ("podpin_connections_total", "counter", "listener protocol"),
        ("podpin_discovery_connected", "gauge", "service"),
        ("podpin_build_info", "gauge", "version"),
        ("podpin_requests_active", "gauge", ""),
        ("podpin_shutdown_in_progress", "gauge", ""),
    ];
    for (name, kind, labels) in contract {
        assert_eq!(metrics.kind(name), Some(kind), "{name}");
        if !labels.is_empty() {
            assert_eq!(metrics.label_names(name).join(" "), labels, "{name}");
        }
    }
    for name in ["process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"] {
        assert!(metrics.has(name, &[]), "{name}");
    }
    for state in ["ready", "resting", "draining", "ejected"] {
        assert!(metrics.has("podpin_endpoints", &[("service", "chat"), ("state", state)]), "{state}");
    }
    for reason in ["client", "upstream_end", "upstream_reset", "max_duration", "idle", "slow_client", "error"]
    {
        assert!(
            metrics.has("podpin_streams_closed_total", &[("reason", reason)]),
            "{reason} is not there before it moves"
        );
    }
    assert_eq!(metrics.sum("podpin_endpoints", &[("state", "ready")]), 2.0);
}

#[tokio::test]
async fn active_streams_are_counted_by_endpoint_and_state() {
    let (_pods, proxy, _stream) = with_stream().await;
    let labels = proxy.metrics().await.label_names("podpin_streams_active");
    assert_eq!(labels, ["endpoint", "service", "state"]);
}

#[tokio::test]
async fn the_endpoints_are_listed_in_the_shape_of_the_contract() {
    let (pods, proxy, _stream) = with_stream().await;
    let response = proxy.admin_get("/api/endpoints").await;
    assert!(response.header("content-type").is_some_and(|kind| kind.starts_with("application/json")));
    let endpoints = proxy.endpoints("chat").await;
    assert_eq!(endpoints.len(), 2);
    for endpoint in &endpoints {
        let keys: Vec<_> = endpoint.as_object().unwrap().keys().map(String::as_str).collect();
        for key in
            ["name", "uid", "address", "state", "ejected", "since", "zone", "node", "weight", "streams"]
        {
            assert!(keys.contains(&key), "{key} is missing in {endpoint}");
        }
        assert_eq!((endpoint["state"].clone(), endpoint["ejected"].clone()), ("ready".into(), false.into()));
        assert_eq!((endpoint["weight"].clone(), endpoint["zone"].clone()), (1.into(), Value::Null));
        let since = endpoint["since"].as_str().unwrap();
        assert!(since.ends_with('Z') && since.as_bytes()[10] == b'T', "not RFC 3339 in UTC: {since}");
        let pod = pods.iter().find(|pod| endpoint["name"] == pod.name()).unwrap();
        assert_eq!(endpoint["address"], pod.address().to_string());
    }
    let streams: u64 = endpoints.iter().map(|endpoint| endpoint["streams"].as_u64().unwrap()).sum();
    assert_eq!(streams, 1);
}

#[tokio::test]
async fn the_streams_are_listed_in_the_shape_of_the_contract() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0]])
        .service("news", &[&pods[1]])
        .route("{name: all, service: chat}")
        .start()
        .await;
    let holder = &pods[0];
    let _first = Request::events("/events").open(proxy.address).await;
    let mut stream = holder.next_stream().await;
    let _second = Request::events("/events").open(proxy.address).await;
    stream.event_with_id("n-7", "x").await;
    let listed = podpin_testkit::wait_for_some("both streams and the event to be in the list", async || {
        let listed = proxy.admin_get("/api/streams").await.json();
        let seen = listed["streams"].as_array().unwrap().iter().any(|one| one["lastEventId"] == "n-7");
        (seen && listed["total"] == 2).then_some(listed)
    })
    .await;
    assert_eq!(listed["total"], 2);
    for one in listed["streams"].as_array().unwrap() {
        let keys: Vec<_> = one.as_object().unwrap().keys().map(String::as_str).collect();
        let contract = [
            "id",
            "service",
            "endpoint",
            "route",
            "client",
            "since",
            "events",
            "bytes",
            "lastEventId",
            "handovers",
            "state",
        ];
        for key in contract {
            assert!(keys.contains(&key), "{key} is missing in {one}");
        }
        assert_eq!(
            (&one["service"], &one["route"], &one["state"]),
            (&"chat".into(), &"all".into(), &"active".into())
        );
        assert_eq!((&one["client"], &one["handovers"]), (&"127.0.0.1".into(), &0.into()));
    }
    let limited = proxy.admin_get("/api/streams?limit=1").await.json();
    assert_eq!((limited["total"].clone(), limited["streams"].as_array().unwrap().len()), (2.into(), 1));
    let elsewhere = proxy.admin_get("/api/streams?service=news").await.json();
    assert_eq!(elsewhere["total"], 0);
    let here = proxy.admin_get(&format!("/api/streams?service=chat&endpoint={}", holder.name())).await.json();
    assert_eq!(here["total"], 2);
}

#[tokio::test]
async fn errors_are_json() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let cases = [
        (Request::get("/nothing"), 404),
        (Request::get("/api/nothing"), 404),
        (Request::new("POST", "/livez").body(""), 405),
        (Request::new("DELETE", "/api/endpoints"), 405),
        (Request::new("PUT", "/metrics").body(""), 405),
    ];
    for (request, status) in cases {
        let response = request.header("Connection", "close").send(proxy.admin).await;
        assert_eq!(response.status, status, "{}", response.text());
        assert!(response.json().is_object(), "{}", response.text());
    }
}

#[tokio::test]
async fn connections_are_counted_by_listener_and_protocol() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let labels = [("listener", "http")];
    // The harness has connected once or more before.
    proxy.wait_metric("podpin_connections_active", &labels, 0.0).await;
    let mut connection = proxy.connect().await;
    connection.ask(&Request::get("/")).await;
    proxy.wait_metric("podpin_connections_active", &labels, 1.0).await;
    assert!(proxy.metric("podpin_connections_total", &labels).await >= 1.0);
    drop(connection);
    proxy.wait_metric("podpin_connections_active", &labels, 0.0).await;
    let _stream = Request::events("/events").open(proxy.address).await;
    proxy.wait_metric("podpin_connections_active", &labels, 1.0).await;
}

#[tokio::test]
async fn the_access_log_can_be_a_file_or_off() {
    let pod = Pod::start("pod-a").await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let to_file =
        Setup::chat(&[&pod]).top(&format!("accessLog: {{path: \"{}\"}}", path.display())).start().await;
    let off = Setup::chat(&[&pod]).top("accessLog: off").start().await;
    to_file.get("/logged").await;
    off.get("/logged").await;
    podpin_testkit::wait_for("a line in the file", async || {
        std::fs::read_to_string(&path).is_ok_and(|text| text.contains("\"/logged\"") && text.ends_with("}\n"))
    })
    .await;
    assert!(!to_file.process.stdout().concat().contains("/logged"));
    off.wait_metric("podpin_requests_total", &[("code", "200")], 1.0).await;
    assert!(!off.process.stdout().concat().contains("/logged"));
}

/// Half heads at a time, more than the port has places for.
const HALF_HEADS: usize = 300;

#[tokio::test]
async fn half_heads_keep_nobody_from_the_admin_port_and_end() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut half = Vec::new();
    for _ in 0..HALF_HEADS {
        let mut connection = Connection::open(proxy.admin).await;
        connection.send("GET /metrics HTTP/1.1\r\nHost: x\r\nX-A: ").await;
        half.push(connection);
    }
    assert_eq!(proxy.admin_get("/livez").await.status, 200);
    assert_eq!(proxy.admin_get("/api/endpoints").await.status, 200);
    half[0].ending().await;
    let mut last = half.pop().expect("half heads");
    let trickled = async || !last.try_send("a").await;
    wait_long(Duration::from_secs(30), "a head that comes byte by byte to be cut", trickled).await;
}

#[tokio::test]
async fn pages_of_other_origins_neither_drain_nor_read() {
    let pods = [Pod::start("pod-a").await, Pod::start("pod-b").await];
    let proxy = Setup::chat(&[&pods[0], &pods[1]]).admin("hostnames: [admin.example.com]").start().await;
    let drain = || Request::new("POST", "/api/endpoints/chat/pod-a/drain").body("");
    let foreign = [
        drain().header("Origin", "http://evil.example"),
        drain().header("Sec-Fetch-Site", "cross-site"),
        drain().host("evil.example"),
        Request::get("/metrics").host("evil.example"),
    ];
    for request in foreign {
        let response = request.header("Connection", "close").send(proxy.admin).await;
        assert_eq!(response.status, 403, "{}", response.text());
        assert!(response.json()["error"].is_string());
    }
    proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready")]).await;
    let named = drain().host("admin.example.com").header("Connection", "close").send(proxy.admin).await;
    assert_eq!(named.status, 200, "{}", named.text());
    proxy.wait_endpoints("chat", &[("pod-a", "draining"), ("pod-b", "ready")]).await;
}

#[tokio::test]
async fn with_a_token_changes_need_it_and_everything_else_does_not() {
    let pod = Pod::start("pod-a").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
    let token = format!("token: {{file: \"{}\"}}", file.path().display());
    let proxy = Setup::chat(&[&pod]).admin(&token).start().await;
    let ask = async |word: &str, shown: &str| {
        let request = Request::new("POST", &format!("/api/endpoints/chat/pod-a/{word}")).body("");
        let request = request.header("Authorization", shown).header("Connection", "close");
        request.send(proxy.admin).await.status
    };
    assert_eq!(ask("drain", "").await, 401);
    assert_eq!(ask("drain", "Bearer 0123456789abcdeg").await, 401);
    assert_eq!(ask("drain", "Bearer 0123456789abcdef").await, 200);
    assert_eq!(proxy.admin_get("/api/drain/wait?pod=pod-a").await.status, 200);
    assert_eq!(proxy.admin_get("/metrics").await.status, 200);
    std::fs::write(file.path(), "fedcba9876543210").unwrap();
    assert_eq!(ask("undrain", "Bearer 0123456789abcdef").await, 401, "a rotated token counts at once");
    assert_eq!(ask("undrain", "Bearer fedcba9876543210").await, 200);
}
