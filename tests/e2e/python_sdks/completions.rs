//! Completions of the `openai` SDK: each chunk at once, all from one pod at either replica.

use std::collections::BTreeSet;

use podpin_testkit::{Pod, PodStream, Process, Setup, StreamAnswer};
use serde_json::Value;

use super::{Replicas, lines, script};

/// The settings of the SDK.
#[derive(Clone, Copy)]
pub(super) struct Scene {
    /// How the client is known: the configuration, and what the script calls it.
    pub(super) affinity: (&'static str, &'static str),
    /// `sync` or `async`: its ordinary client leaves at `[DONE]`, its asynchronous one reads to the end.
    pub(super) kind: &'static str,
    /// Over TLS, `http1` or `http2`.
    pub(super) protocol: Option<&'static str>,
}

pub(super) const BY_COOKIE: (&str, &str) = ("affinity: {absoluteTimeout: 1h}", "cookie");
/// Where the SDK asks.
pub(super) const COMPLETIONS: &str = "/v1/chat/completions";
const BY_HEADER: (&str, &str) = ("affinity: {header: X-Chat, cookie: off}", "header");

/// A client of the SDK, its expected output, and the proxy that it connects to.
pub(super) struct Chat {
    pub(super) pods: [Pod; 3],
    pub(super) replicas: Replicas,
    scene: Scene,
    client: Process,
    said: Vec<Value>,
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

impl Chat {
    /// A client that asks so many times.
    pub(super) async fn start(scene: Scene, questions: &str) -> Chat {
        let pods = Pod::start_three().await;
        for pod in &pods {
            pod.answer(COMPLETIONS, StreamAnswer::new().header("Connection", "close"));
        }
        let (configuration, by) = scene.affinity;
        let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with(configuration);
        let replicas = match scene.protocol {
            None => Replicas::start(&setup).await,
            Some(_) => Replicas::start_tls(setup).await,
        };
        let url = replicas.url("/v1");
        let trust = replicas.trust(scene.protocol.unwrap_or_default());
        let arguments =
            [url.as_str(), questions, by, scene.kind].into_iter().chain(trust.iter().map(String::as_str));
        let client = script("chat_client.py", &arguments.collect::<Vec<_>>());
        Chat { pods, replicas, scene, client, said: Vec::new() }
    }

    /// The client says this next.
    pub(super) async fn says(&mut self, what: &str) {
        self.said.push(what.into());
        assert_eq!(lines(&mut self.client, self.said.len()).await, self.said);
    }

    /// The next question, and at which pod it arrived; its answer has begun.
    pub(super) async fn question(&mut self) -> (usize, PodStream) {
        let (pod, stream) = next_stream(&self.pods).await;
        let asked: Value = serde_json::from_slice(&stream.request.body).unwrap();
        assert_eq!(asked["stream"], true);
        assert_eq!(stream.request.header("authorization"), Some("Bearer none"));
        let version = if self.scene.protocol == Some("http2") { "HTTP/2" } else { "HTTP/1.1" };
        self.says(&format!("begin {version}")).await;
        (pod, stream)
    }

    /// A chunk, which the client has before the next is sent.
    pub(super) async fn word(&mut self, stream: &mut PodStream, word: &str) {
        stream.event(&chunk(word)).await;
        self.says(&format!("chunk {word}")).await;
    }

    /// The whole answer.
    pub(super) async fn answer(&mut self, mut stream: PodStream) {
        for word in ["one", "two", "three"] {
            self.word(&mut stream, word).await;
        }
        if self.scene.kind == "sync" {
            stream.event("[DONE]").await;
            stream.client_gone().await;
        } else {
            // In one piece: the SDK reads on for a tenth of a second only.
            stream.raw("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n").await;
            stream.close();
        }
        self.says("end").await;
    }

    pub(super) async fn ends(mut self) {
        assert_eq!(self.client.wait_exit().await, 0);
        assert_eq!(self.client.stdout().len(), self.said.len(), "{:?}", self.client.stdout());
    }
}

/// Three questions of one client, each on a way of its own to the other replica than the one before.
async fn completions(scene: Scene) {
    let mut chat = Chat::start(scene, "3").await;
    let mut met = BTreeSet::new();
    for turn in 0..3 {
        let (pod, stream) = chat.question().await;
        let replicas = &chat.replicas;
        let next = if turn % 2 == 0 { &replicas.other } else { &replicas.one };
        replicas.line.lead_to(next.address);
        met.insert(pod);
        chat.answer(stream).await;
    }
    assert_eq!(met.len(), 1, "a client of one session met several pods");
    let replicas = &chat.replicas;
    let reason = if scene.kind == "sync" { "client" } else { "upstream_end" };
    replicas.wait_metric("podpin_streams_closed_total", &[("reason", reason)], 3.0).await;
    replicas.wait_metric("podpin_stream_events_total", &[], 12.0).await;
    if scene.protocol.is_some() {
        assert_eq!(replicas.metric("podpin_streams_opened_total", &[]).await, [2.0, 1.0]);
    }
    let strangers = if scene.affinity == BY_COOKIE { 1.0 } else { 0.0 };
    replicas.wait_metric("podpin_affinity_decisions_total", &[("result", "new")], strangers).await;
    replicas.wait_metric("podpin_affinity_decisions_total", &[("result", "pinned")], 3.0 - strangers).await;
    chat.ends().await;
}

#[tokio::test]
async fn the_openai_sdk_receives_each_chunk_at_once_from_one_pod_by_its_cookie() {
    completions(Scene { affinity: BY_COOKIE, kind: "sync", protocol: None }).await;
}

#[tokio::test]
async fn the_openai_sdk_receives_each_chunk_at_once_from_one_pod_by_its_header() {
    completions(Scene { affinity: BY_HEADER, kind: "async", protocol: None }).await;
}

#[tokio::test]
async fn over_tls_the_openai_sdk_keeps_its_pod_at_either_replica_by_its_cookie() {
    completions(Scene { affinity: BY_COOKIE, kind: "async", protocol: Some("http1") }).await;
}

#[tokio::test]
async fn over_http2_the_openai_sdk_keeps_its_pod_at_either_replica_by_its_cookie() {
    completions(Scene { affinity: BY_COOKIE, kind: "sync", protocol: Some("http2") }).await;
}

#[tokio::test]
async fn over_http2_the_openai_sdk_keeps_its_pod_at_either_replica_by_its_header() {
    completions(Scene { affinity: BY_HEADER, kind: "async", protocol: Some("http2") }).await;
}
