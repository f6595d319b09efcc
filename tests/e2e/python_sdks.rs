//! The published Python SDKs of those who speak event streams: `openai` for completions, `mcp` for sessions.
//!
//! Their versions are pinned in `python/requirements.txt`; `scripts/setup.sh test` installs them.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use podpin_testkit::{Answer, Pod, PodStream, Process, Setup, StreamAnswer, wait_for};
use serde_json::Value;

/// The interpreter of the virtual environment that `scripts/setup.sh test` makes.
fn interpreter() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/<profile>/deps/e2e-0123456789abcdef
    let made = test.ancestors().nth(3).unwrap().join("python");
    let venv = std::env::var_os("PODPIN_PYTHON_VENV").map_or(made, PathBuf::from);
    let python = venv.join("bin/python");
    assert!(python.exists(), "{} is missing: run `scripts/setup.sh test` first", python.display());
    python
}

/// One of the scripts beside this file. Proxies of the machine's own are not meant for it.
fn script(name: &str, arguments: &[&str]) -> Process {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/python").join(name);
    let mut command = Command::new(interpreter());
    Process::spawn(command.arg(path).args(arguments).env("NO_PROXY", "127.0.0.1"))
}

/// Waits until a script has written this many lines; these, read as JSON where they are.
async fn lines(script: &mut Process, count: usize) -> Vec<Value> {
    wait_for(&format!("{count} lines of a script"), async || {
        let said = script.stdout().len();
        assert!(said >= count || script.exit_code().is_none_or(|code| code == 0), "{:?}", script.stderr());
        said >= count
    })
    .await;
    let read = |line: String| serde_json::from_str(&line).unwrap_or(Value::String(line));
    script.stdout().into_iter().take(count).map(read).collect()
}

/// The next stream that reaches any of the pods, and which pod that is.
async fn next_stream(pods: &[Pod; 3]) -> (usize, PodStream) {
    let [one, two, three] = pods;
    tokio::select! {
        stream = one.next_stream() => (0, stream),
        stream = two.next_stream() => (1, stream),
        stream = three.next_stream() => (2, stream),
    }
}

fn chunk(word: &str) -> String {
    let choice = format!("{{\"index\":0,\"delta\":{{\"content\":\"{word}\"}},\"finish_reason\":null}}");
    let kind = "\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"scripted\"";
    format!("{{\"id\":\"c1\",{kind},\"choices\":[{choice}]}}")
}

/// Three completions of one client: each chunk arrives before the next is sent, and all come from one pod. The SDK's
/// ordinary client leaves at `[DONE]`, its asynchronous one reads to the end.
async fn completions(affinity: &str, by: &str, kind: &str) {
    let pods = Pod::start_three().await;
    let answer = Answer::Stream(StreamAnswer::new().header("Connection", "close"));
    for pod in &pods {
        pod.answer("/v1/chat/completions", answer.clone());
    }
    let proxy = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with(affinity).start().await;
    let mut client = script("chat_client.py", &[&format!("http://{}/v1", proxy.address), by, kind]);
    let mut met = BTreeSet::new();
    let mut expected: Vec<Value> = Vec::new();
    for _ in 0..3 {
        let (pod, mut stream) = next_stream(&pods).await;
        met.insert(pod);
        let asked: Value = serde_json::from_slice(&stream.request.body).unwrap();
        assert_eq!(asked["stream"], true);
        assert_eq!(stream.request.header("authorization"), Some("Bearer none"));
        expected.push("begin".into());
        assert_eq!(lines(&mut client, expected.len()).await, expected);
        for word in ["one", "two", "three"] {
            stream.event(&chunk(word)).await;
            expected.push(format!("chunk {word}").into());
            assert_eq!(lines(&mut client, expected.len()).await, expected);
        }
        if kind == "sync" {
            stream.event("[DONE]").await;
            stream.client_gone().await;
        } else {
            // In one piece: the SDK reads on for a tenth of a second only.
            stream.raw("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n").await;
            stream.close();
        }
        expected.push("end".into());
        assert_eq!(lines(&mut client, expected.len()).await, expected);
    }
    assert_eq!(client.wait_exit().await, 0);
    assert_eq!(client.stdout().len(), expected.len(), "{:?}", client.stdout());
    assert_eq!(met.len(), 1, "a client of one session met several pods");
    let reason = if kind == "sync" { "client" } else { "upstream_end" };
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", reason)], 3.0).await;
    proxy.wait_metric("podpin_stream_events_total", &[], 12.0).await;
}

#[tokio::test]
async fn the_openai_sdk_receives_each_chunk_at_once_from_one_pod_by_its_cookie() {
    completions("affinity: {absoluteTimeout: 1h}", "cookie", "sync").await;
}

#[tokio::test]
async fn the_openai_sdk_receives_each_chunk_at_once_from_one_pod_by_its_header() {
    completions("affinity: {header: X-Chat, cookie: off}", "header", "async").await;
}

/// A server of the `mcp` SDK, and where it listens.
async fn mcp_server(name: &str) -> (Process, SocketAddr) {
    let mut process = script("mcp_server.py", &[name]);
    let port = lines(&mut process, 1).await[0]["port"].as_u64().unwrap();
    (process, SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port).unwrap())))
}

/// The requests of sessions on a server until each of these was ended, in order. (A client may come back for its GET
/// stream before it learns that the server has ended the session.)
async fn asked(server: &Process, sessions: usize) -> Vec<Value> {
    let is_end = |one: &Value| one["method"] == "DELETE";
    let read =
        || server.stdout().into_iter().skip(1).map(|line| serde_json::from_str::<Value>(&line).unwrap());
    wait_for("the end of each session", async || read().filter(is_end).count() == sessions).await;
    let mut ended = Vec::new();
    let mut asked = Vec::new();
    for request in read() {
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

/// What one session was told, when everything came from the server that began it.
fn assert_talked(report: &Value) {
    let (name, id) = (report["server"].as_str().unwrap(), report["id"].as_str().unwrap());
    let counts: Vec<_> = (1..=4).map(|count| format!("{name} {count}")).collect();
    assert_eq!(report["counts"], serde_json::json!(counts));
    let heard: Vec<_> = ["announce", "narrate", "go_away"].map(|tool| format!("{tool} {id}")).into();
    assert_eq!(report["heard"], serde_json::json!(heard));
    assert_eq!(report["resumed"], format!("{name} resumed"));
    assert_eq!(report["tools"], 5);
}

/// What a server saw of its sessions: ids of its own, nothing of the proxy's, resumptions, and the end of each.
async fn assert_own(server: &Process, sessions: usize, foreign: &BTreeSet<String>) {
    let asked = asked(server, sessions).await;
    let opening: Vec<_> = asked.iter().filter(|one| one["session"] == serde_json::json!([])).collect();
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
    let resumed = asked.iter().filter(|one| !one["last_event_id"].is_null()).count();
    assert_eq!(resumed, 2 * sessions, "{asked:?}");
}

/// Six sessions at a time with three servers that keep their sessions in memory.
async fn sessions(cookies: &str, left_with: &[&str]) {
    const SESSIONS: usize = 6;
    let ((one, a), (two, b), (three, c)) =
        tokio::join!(mcp_server("pod-a"), mcp_server("pod-b"), mcp_server("pod-c"));
    let endpoints = [("pod-a", a), ("pod-b", b), ("pod-c", c)];
    let proxy =
        Setup::new().service_at("chat", &endpoints).with("affinity: {header: Mcp-Session-Id}").start().await;
    let url = format!("http://{}/mcp", proxy.address);
    let mut client = script("mcp_client.py", &[&url, cookies, &SESSIONS.to_string()]);
    let mut said = Vec::new();
    // It started, opened each, talked to all, and reports on each.
    for step in 1..=2 + 2 * SESSIONS {
        said = lines(&mut client, step).await;
    }
    assert_eq!(client.wait_exit().await, 0);
    let reports = &said[2 + SESSIONS..];
    reports.iter().for_each(assert_talked);
    assert!(reports.iter().all(|report| report["cookies"] == serde_json::json!(left_with)), "{reports:?}");
    let text = |report: &Value, key: &str| report[key].as_str().unwrap().to_owned();
    let clients: BTreeSet<_> = reports.iter().map(|report| text(report, "id")).collect();
    assert_eq!(clients.len(), SESSIONS);
    let names: Vec<_> = reports.iter().map(|report| text(report, "server")).collect();
    for (name, server) in [("pod-a", &one), ("pod-b", &two), ("pod-c", &three)] {
        assert_own(server, names.iter().filter(|met| *met == name).count(), &clients).await;
    }
    assert!(names.iter().collect::<BTreeSet<_>>().len() > 1, "every session went to {names:?}");
    proxy.wait_metric("podpin_streams_active", &[], 0.0).await;
}

#[tokio::test]
async fn sessions_of_the_mcp_sdk_stay_with_their_servers_and_resume_there() {
    sessions("cookies", &["podpin-chat"]).await;
}

#[tokio::test]
async fn sessions_of_the_mcp_sdk_need_no_cookies() {
    sessions("no-cookies", &[]).await;
}
