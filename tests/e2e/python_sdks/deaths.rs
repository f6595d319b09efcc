//! Pods that die while an SDK speaks with them: the client learns of it, and goes on with another pod.

use std::collections::{BTreeMap, HashSet};

use podpin_testkit::{Answer, Process, Setup, Signal};
use serde_json::{Value, json};

use super::completions::{BY_COOKIE, COMPLETIONS, Chat, Scene};
use super::{Replicas, answered, lines, mcp_server, script};

/// A pod that dies in the middle of a completion, half an event behind a whole one; then one that does not answer.
async fn completion_cut_off(kind: &'static str, protocol: &'static str) {
    let mut chat = Chat::start(Scene { affinity: BY_COOKIE, kind, protocol: Some(protocol) }, "4").await;
    let (dead, mut stream) = chat.question().await;
    chat.word(&mut stream, "one").await;
    stream.raw("20\r\ndata: {\"id\":").await;
    chat.pods[dead].stop().await;
    chat.says("error APIConnectionError").await;
    let (pod, stream) = chat.question().await;
    chat.pods[pod].answer_once(COMPLETIONS, Answer::Reset);
    chat.answer(stream).await;
    chat.says("error InternalServerError").await;
    let (again, stream) = chat.question().await;
    chat.answer(stream).await;
    assert_eq!(pod, again, "the client's new pin was forgotten");
    let asked: Vec<_> = chat.pods.iter().map(|pod| pod.requests().len()).collect();
    assert_eq!((asked[dead], asked[pod], asked.iter().sum()), (1, 3, 4), "a question was asked again");
    chat.replicas.wait_metric("podpin_streams_closed_total", &[("reason", "upstream_reset")], 1.0).await;
    chat.ends().await;
}

#[tokio::test]
async fn a_completion_whose_pod_dies_is_an_error_of_the_openai_sdk_and_the_next_is_answered() {
    completion_cut_off("sync", "http1").await;
}

#[tokio::test]
async fn over_http2_a_completion_whose_pod_dies_is_an_error_of_the_openai_sdk_and_the_next_is_answered() {
    completion_cut_off("async", "http2").await;
}

/// Servers of the `mcp` SDK by their names, and those that were killed.
struct Servers {
    processes: BTreeMap<String, Process>,
    dead: Vec<String>,
}

impl Servers {
    async fn kill(&mut self, name: &str) {
        let process = self.processes.get_mut(name).unwrap();
        process.signal(Signal::KILL);
        assert_eq!(process.wait_exit().await, -1);
        self.dead.push(name.to_owned());
    }

    /// The sessions that a server has begun, by the ids that it gave them.
    fn issued(&self, name: &str) -> HashSet<Value> {
        answered(&self.processes[name]).map(|request| request["issued"][0].clone()).collect()
    }

    /// The living were asked for sessions of the dead, by the ids that those had given them, and for no other in vain.
    fn assert_asked_in_vain(&self) {
        let gone: HashSet<Value> = self.dead.iter().flat_map(|name| self.issued(name)).collect();
        let living = self.processes.iter().filter(|(name, _)| !self.dead.contains(name));
        let asked: Vec<Value> = living.flat_map(|(_, server)| answered(server)).collect();
        let vain = asked.iter().filter(|request| request["status"] == 404);
        let vain: HashSet<Value> = vain.map(|request| request["session"][0].clone()).collect();
        assert!(!vain.is_empty() && vain.is_subset(&gone), "{vain:?} is not of {gone:?}");
    }
}

/// Where a session is, and how often it has counted there.
struct Place {
    server: String,
    count: u64,
}

impl Place {
    /// After a death: a session that was there is told so and begins anew elsewhere; any other has noticed nothing.
    fn assert_goes_on(&mut self, report: &Value, dead: &[String]) {
        let server = report["server"].as_str().unwrap();
        if dead.contains(&self.server) {
            assert!(!dead.iter().any(|dead| dead == server), "{report}");
            assert_eq!(report["error"], json!({"code": 32600, "message": "Session terminated"}));
            assert_eq!(report["answers"], json!(["GET 404", "POST 404"]));
            *self = Place { server: server.to_owned(), count: 0 };
        } else {
            assert_eq!(report["error"], Value::Null);
            assert_eq!(report["answers"], json!(["POST 200"]));
        }
        self.count += 1;
        assert_eq!(report["count"], format!("{} {}", self.server, self.count));
        assert_eq!(report["heard"], true);
    }
}

#[tokio::test]
async fn a_session_of_the_mcp_sdk_whose_server_is_killed_is_told_so_and_begins_anew_at_once() {
    const SESSIONS: usize = 6;
    let started = tokio::join!(mcp_server("pod-a"), mcp_server("pod-b"), mcp_server("pod-c"));
    let ((one, a), (two, b), (three, c)) = started;
    let endpoints = [("pod-a", a), ("pod-b", b), ("pod-c", c)];
    let named = [("pod-a", one), ("pod-b", two), ("pod-c", three)].map(|(name, one)| (name.to_owned(), one));
    let mut servers = Servers { processes: BTreeMap::from(named), dead: Vec::new() };
    let setup = Setup::new().service_at("chat", &endpoints).with("affinity: {header: Mcp-Session-Id}");
    let replicas = Replicas::start_tls(setup.with("sse: {retry: {normal: 50ms}}")).await;
    let (url, trust) = (replicas.url("/mcp"), replicas.trust("both"));
    let mut client = script("mcp_survivor.py", &[&url, &trust[0], &SESSIONS.to_string(), "2"]);
    let place = |report: &Value| Place { server: report["server"].as_str().unwrap().to_owned(), count: 0 };
    let mut places: Vec<_> = lines(&mut client, SESSIONS).await.iter().map(place).collect();
    let mut cut = 0;
    // The first has cookies, the second has none.
    for death in 0..2 {
        let dead = places[death].server.clone();
        // The session's own stream, and where it can be the call that stayed open.
        let lost = (0..SESSIONS).filter(|session| places[*session].server == dead);
        cut += lost.map(|session| if session % 2 == 0 { 2 } else { 1 }).sum::<u32>();
        servers.kill(&dead).await;
        let said = lines(&mut client, SESSIONS * (2 + death)).await;
        for (place, report) in places.iter_mut().zip(&said[SESSIONS * (1 + death)..]) {
            place.assert_goes_on(report, &servers.dead);
        }
    }
    let held =
        |(session, place): (usize, &Place)| (session % 2 == 0).then(|| format!("{} held", place.server));
    let held: Vec<_> = places.iter().enumerate().map(held).collect();
    assert_eq!(lines(&mut client, 3 * SESSIONS + 1).await.last(), Some(&json!(held)));
    assert_eq!(client.wait_exit().await, 0, "{:?}", client.stderr());
    servers.assert_asked_in_vain();
    let ended = [("reason", "upstream_reset")];
    replicas.wait_metric("podpin_streams_closed_total", &ended, f64::from(cut)).await;
}
