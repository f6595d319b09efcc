//! Pods as processes of their own that share a real Redis: killed, and replaced one after the other.

use std::net::SocketAddr;
use std::process::Command;

use podpin_testkit::{Process, RedisServer, Signal, podpin_binary, wait_for_some};

use super::crowd::Crowd;
use super::*;

const STREAMS: usize = 50;

/// `podpin-example` beside the binary under test.
fn example() -> Command {
    let path = podpin_binary().with_file_name("podpin-example");
    assert!(path.exists(), "{} is missing: run `cargo build` first", path.display());
    Command::new(path)
}

/// A pod that is a process.
struct PodProcess {
    name: &'static str,
    address: SocketAddr,
    process: Process,
}

impl PodProcess {
    /// Ready when this returns.
    async fn start(name: &'static str, redis: &RedisServer) -> PodProcess {
        let mut command = example();
        command.env("REDIS_URL", redis.url());
        let process =
            Process::spawn(command.args(["--name", name, "--listen", "127.0.0.1:0", "--tick", "100ms"]));
        let address = wait_for_some("the pod saying where it is", async || {
            let lines = process.stdout();
            let url = lines.first()?.split_whitespace().find_map(|word| word.strip_prefix("http://"))?;
            url.trim_end_matches('/').parse().ok()
        })
        .await;
        let health = async || Request::get("/healthz").send(address).await.status;
        wait_for("the pod being ready", async || health().await == 200).await;
        PodProcess { name, address, process }
    }
}

/// Three pods of one Redis behind a proxy, and a crowd on them.
struct Site {
    redis: RedisServer,
    pods: Vec<PodProcess>,
    file: EndpointsFile,
    proxy: Proxy,
    visitors: Vec<Visitor>,
    crowd: Crowd,
}

impl Site {
    async fn new() -> Site {
        let redis = RedisServer::start().await;
        let mut pods = Vec::new();
        for name in ["pod-a", "pod-b", "pod-c"] {
            pods.push(PodProcess::start(name, &redis).await);
        }
        let file = EndpointsFile::with(&listed(&pods, None));
        let setup = Setup::new().service_in("chat", &file).with("balance: {slowStart: off}");
        let proxy = setup.with("drain: {handover: lastEventId, spread: 300ms}").start().await;
        let mut site = Site { redis, pods, file, proxy, visitors: Vec::new(), crowd: Crowd::new() };
        for _ in 0..STREAMS {
            let mut visitor = site.proxy.visitor();
            site.crowd.add(visitor.events("/events").await);
            site.visitors.push(visitor);
        }
        site.crowd.all_flow().await;
        site
    }

    /// Asks once for each client; gives the pods that answered.
    async fn met(&mut self, requests: u64) -> Vec<String> {
        let mut pods = Vec::new();
        for visitor in &mut self.visitors {
            let answer = visitor.get("/whoami").await.json();
            assert_eq!(answer["requests"], requests, "{answer}");
            pods.push(answer["pod"].as_str().unwrap().to_owned());
        }
        pods
    }

    /// Checks that every client got every event over one connection; returns the pods that each was on.
    async fn judge(self) -> Vec<Vec<String>> {
        let all = self.crowd.finish().await;
        assert_eq!(all.len(), STREAMS);
        let metrics = self.proxy.metrics().await;
        assert_eq!(metrics.sum("podpin_streams_closed_total", &[]), 0.0);
        assert_eq!(metrics.sum(HANDOVERS, &[]), metrics.sum(HANDOVERS, &[("result", "ok")]), "none failed");
        all.into_iter().map(|seen| seen.pods).collect()
    }
}

fn listed<'a>(pods: &'a [PodProcess], draining: Option<&str>) -> Vec<(&'a str, SocketAddr, &'static str)> {
    let state = |pod: &PodProcess| if Some(pod.name) == draining { "draining" } else { "ready" };
    pods.iter().map(|pod| (pod.name, pod.address, state(pod))).collect()
}

#[tokio::test]
async fn a_killed_pod_process_is_missed_by_nobody_and_every_session_is_known_on_the_other_pods() {
    let mut site = Site::new().await;
    let before = site.met(1).await;
    let mut victim = site.pods.remove(0);
    victim.process.signal(Signal::KILL);
    victim.process.wait_exit().await;
    site.crowd.all_flow().await;
    let after = site.met(2).await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before == after, before != "pod-a", "{before}, then {after}: who was elsewhere stays");
    }
    let here = before.iter().filter(|pod| *pod == "pod-a").count();
    assert!(here > 0, "a third of them");
    let seen = site.judge().await;
    assert_eq!(seen.iter().filter(|pods| pods.len() > 1).count(), here);
    assert!(seen.iter().all(|pods| pods.last().is_some_and(|pod| pod != "pod-a")));
}

#[tokio::test]
async fn pods_wait_in_their_pre_stop_hook_until_their_streams_have_moved() {
    let mut site = Site::new().await;
    site.met(1).await;
    for (round, new) in (2..).zip(["pod-d", "pod-e", "pod-f"]) {
        site.pods.push(PodProcess::start(new, &site.redis).await);
        let old = site.pods[0].name;
        let admin = site.proxy.admin.to_string();
        let hook = ["pre-stop", "--admin", &admin, "--pod", old, "--timeout", "9s", "--fallback", "9s"];
        // The hook runs before the proxy has heard of it.
        let mut hook = Process::spawn(example().args(hook));
        site.file.write(&listed(&site.pods, Some(old)));
        assert_eq!(hook.wait_exit().await, 0, "{}", hook.output());
        assert_eq!(hook.stdout(), [format!("{admin}: no streams left")]);
        let streams = site.proxy.endpoints("chat").await;
        let of_old = streams.iter().find(|endpoint| endpoint["name"] == old).unwrap();
        assert_eq!(of_old["streams"], 0);
        let mut gone = site.pods.remove(0);
        gone.process.signal(Signal::TERM);
        assert_eq!(gone.process.wait_exit().await, 0);
        site.file.write(&listed(&site.pods, None));
        site.crowd.all_flow().await;
        let pods = site.met(round).await;
        assert!(pods.iter().all(|pod| pod != old));
    }
    let seen = site.judge().await;
    let new = ["pod-d", "pod-e", "pod-f"];
    assert!(seen.iter().all(|pods| pods.len() > 1 && new.contains(&pods.last().unwrap().as_str())));
}
