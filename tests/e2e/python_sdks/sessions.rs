//! Sessions of the `mcp` SDK with servers that keep them in memory: begun at one replica, continued at the other.

use std::collections::BTreeSet;

use podpin_testkit::{Process, Proxy, Setup, Signal, wait_for};
use serde_json::{Value, json};

use super::{Replicas, answered, lines, mcp_server, script};

/// A process with sessions of the SDK, open at the same time.
struct Client {
    cookies: &'static str,
    protocol: &'static str,
    sessions: usize,
}

impl Client {
    fn start(&self, replicas: &Replicas) -> Process {
        let (url, sessions, trust) =
            (replicas.url("/mcp"), self.sessions.to_string(), replicas.trust(self.protocol));
        let arguments = [url.as_str(), self.cookies, &sessions];
        let trust = trust.iter().map(String::as_str);
        script("mcp_client.py", &arguments.into_iter().chain(trust).collect::<Vec<_>>())
    }

    /// Asserts the answers in one session, if everything came from the server that began it.
    fn assert_talked(&self, report: &Value) {
        let (name, id) = (report["server"].as_str().unwrap(), report["id"].as_str().unwrap());
        let counts: Vec<_> = (1..=4).map(|count| format!("{name} {count}")).collect();
        assert_eq!(report["counts"], json!(counts));
        let heard: Vec<_> = ["announce", "narrate", "go_away"].map(|tool| format!("{tool} {id}")).into();
        assert_eq!(report["heard"], json!(heard));
        // A call that was in flight at the cut has its answer through the other replica.
        let held = (self.protocol == "http1").then(|| format!("{name} held"));
        assert_eq!(report["held"], json!(held));
        assert_eq!(report["resumed"], format!("{name} resumed"));
        assert_eq!(report["tools"], 7);
        let kept: &[&str] = if self.cookies == "cookies" { &["podpin-chat"] } else { &[] };
        assert_eq!(report["cookies"], json!(kept));
        let version = if self.protocol == "http2" { "HTTP/2" } else { "HTTP/1.1" };
        assert_eq!(report["protocols"], json!([version]));
    }
}

/// The requests of sessions on a server until each of these was ended, in order. (A client may come back for its GET
/// stream before it learns that the server has ended the session.)
async fn asked(server: &Process, sessions: usize) -> Vec<Value> {
    let is_end = |one: &Value| one["method"] == "DELETE";
    let ends = async || answered(server).filter(is_end).count() == sessions;
    wait_for("the end of each session", ends).await;
    let mut ended = Vec::new();
    let mut asked = Vec::new();
    for request in answered(server) {
        if ended.contains(&request["session"]) {
            continue;
        }
        if is_end(&request) {
            ended.push(request["session"].clone());
        }
        asked.push(request);
    }
    asked
}

/// Asserts what a server saw of its sessions: ids of its own, nothing of the proxy's, resumptions, and the end of each.
async fn assert_own(server: &Process, sessions: usize, foreign: &BTreeSet<String>) {
    let asked = asked(server, sessions).await;
    let opening: Vec<_> = asked.iter().filter(|one| one["session"] == json!([])).collect();
    let own: BTreeSet<_> = opening.iter().map(|one| one["issued"][0].as_str().unwrap()).collect();
    assert_eq!((opening.len(), own.len()), (sessions, sessions), "{asked:?}");
    for request in &asked {
        assert!(matches!(request["status"].as_u64(), Some(200 | 202)), "{request}");
        assert_eq!(request["cookie"], Value::Null, "the proxy's cookie reached a pod");
        assert_eq!(request["issued"].as_array().unwrap().len(), 1, "{request}");
        for id in request["session"].as_array().unwrap() {
            assert!(own.contains(id.as_str().unwrap()), "{id} is no session of this server");
            assert!(!foreign.contains(id.as_str().unwrap()), "{id} is what the client has");
        }
    }
    // The session's own stream was cut and ended, and that of a call ended. A call that was cut comes on top, and a client
    // that comes back before the server has seen it go comes once more.
    let resumed = asked.iter().filter(|one| !one["last_event_id"].is_null()).count();
    assert!(resumed >= 3 * sessions, "{asked:?}");
}

/// How sessions lose the replica at which they were begun.
#[derive(Clone, Copy)]
enum Leave {
    /// A cut of their connections.
    Cut,
    /// A graceful shutdown: it closes streams, and cuts calls at its deadline.
    Shutdown,
}

impl Leave {
    async fn act(self, replicas: &mut Replicas) {
        replicas.line.lead_to(replicas.other.address);
        match self {
            Leave::Cut => replicas.line.cut(),
            Leave::Shutdown => {
                replicas.one.signal(Signal::TERM);
                assert_eq!(replicas.one.wait_exit().await, 0);
            }
        }
    }
}

/// Opens sessions at one replica, which then leaves them to the other.
async fn sessions(clients: &[Client], leave: Leave, replicas: impl AsyncFnOnce(Setup) -> Replicas) {
    let ((one, a), (two, b), (three, c)) =
        tokio::join!(mcp_server("pod-a"), mcp_server("pod-b"), mcp_server("pod-c"));
    let endpoints = [("pod-a", a), ("pod-b", b), ("pod-c", c)];
    let setup = Setup::new().service_at("chat", &endpoints).with("affinity: {header: Mcp-Session-Id}");
    // Told on the session's own stream, to which the SDK's server says nothing of the kind.
    let setup = setup.with("sse: {retry: {normal: 50ms, drain: {min: 50ms, max: 50ms}}}");
    let mut replicas = replicas(setup.top("shutdown: {announce: 0s, spread: 0s, timeout: 1s}")).await;
    let mut running: Vec<_> = clients.iter().map(|client| client.start(&replicas)).collect();
    for (client, process) in clients.iter().zip(&mut running) {
        // It started, then opened each.
        for step in 1..=1 + client.sessions {
            lines(process, step).await;
        }
    }
    let begun = clients.iter().map(|client| client.sessions).sum();
    assert_all_begun(&replicas.one, begun).await;
    leave.act(&mut replicas).await;
    let mut reports = Vec::new();
    for (client, process) in clients.iter().zip(&mut running) {
        // It talked to all, and reports on each.
        let said = lines(process, 2 + 2 * client.sessions).await;
        assert_eq!(process.wait_exit().await, 0);
        let own = &said[2 + client.sessions..];
        own.iter().for_each(|report| client.assert_talked(report));
        reports.extend_from_slice(own);
    }
    assert_all_continued(&replicas.other, begun).await;
    let text = |report: &Value, key: &str| report[key].as_str().unwrap().to_owned();
    let ids: BTreeSet<_> = reports.iter().map(|report| text(report, "id")).collect();
    assert_eq!(ids.len(), begun);
    let names: Vec<_> = reports.iter().map(|report| text(report, "server")).collect();
    for (name, server) in [("pod-a", &one), ("pod-b", &two), ("pod-c", &three)] {
        assert_own(server, names.iter().filter(|met| *met == name).count(), &ids).await;
    }
    assert!(names.iter().collect::<BTreeSet<_>>().len() > 1, "every session went to {names:?}");
}

/// Returns how often a replica met a stranger, a client whose pod it knew, and any client.
async fn decisions(proxy: &Proxy) -> (f64, f64, f64) {
    let metrics = proxy.metrics().await;
    let sum = |labels: &[(&str, &str)]| metrics.sum("podpin_affinity_decisions_total", labels);
    (sum(&[("result", "new")]), sum(&[("result", "pinned")]), sum(&[]))
}

/// Each session was opened here: the word that it is initialized, its own stream, a call.
async fn assert_all_begun(proxy: &Proxy, sessions: usize) {
    let (new, pinned, all) = decisions(proxy).await;
    assert_eq!((new, all), (sessions as f64, new + pinned), "a session was moved");
    assert!(pinned >= 3.0 * new, "{pinned} of {new} sessions");
}

/// Asserts that no client was a stranger here: streams and calls of sessions that another replica has begun.
async fn assert_all_continued(proxy: &Proxy, sessions: usize) {
    proxy.wait_metric("podpin_streams_active", &[], 0.0).await;
    let (_, pinned, all) = decisions(proxy).await;
    assert_eq!(all, pinned, "a session was moved");
    assert!(pinned >= 10.0 * sessions as f64, "{pinned} of {sessions} sessions");
}

#[tokio::test]
async fn sessions_of_the_mcp_sdk_go_on_with_their_servers_at_another_replica() {
    let client = Client { cookies: "cookies", protocol: "http1", sessions: 6 };
    sessions(&[client], Leave::Cut, async |setup| Replicas::start(&setup).await).await;
}

#[tokio::test]
async fn sessions_of_the_mcp_sdk_need_no_cookies_to_go_on_when_their_replica_shuts_down() {
    let client = Client { cookies: "no-cookies", protocol: "http1", sessions: 6 };
    sessions(&[client], Leave::Shutdown, async |setup| Replicas::start(&setup).await).await;
}

#[tokio::test]
async fn sessions_of_the_mcp_sdk_go_on_over_tls_by_both_protocols() {
    let clients = [("cookies", "http1"), ("no-cookies", "http2")].map(|(cookies, protocol)| Client {
        cookies,
        protocol,
        sessions: 3,
    });
    sessions(&clients, Leave::Shutdown, Replicas::start_tls).await;
}
