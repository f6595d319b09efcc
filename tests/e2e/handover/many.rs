//! Hundreds of streams of real example pods: a rolling update, and a pod that dies.

use std::time::Duration;

use podpin_example::{ExamplePod, Log, PodSettings, publish_ticks};

use super::crowd::Crowd;
use super::*;

const STREAMS: usize = 300;

/// Three example pods over one log that ticks ten times a second, behind a proxy.
struct Site {
    log: std::sync::Arc<Log>,
    pods: Vec<ExamplePod>,
    file: EndpointsFile,
    setup: Setup,
    proxy: Proxy,
    _ticks: tokio::task::JoinSet<()>,
    _connections: Vec<H2Connection>,
    crowd: Crowd,
}

impl Site {
    async fn new() -> Site {
        let log = Log::memory();
        let pods: Vec<ExamplePod> = ["pod-a", "pod-b", "pod-c"].map(|name| pod(name, &log)).into();
        let file = EndpointsFile::with(&listed(&pods, None));
        let setup = Setup::new().service_in("chat", &file).with("balance: {slowStart: off}").h2c();
        let setup = setup.with("drain: {handover: lastEventId, spread: 500ms}");
        let proxy = setup.start().await;
        let mut ticks = tokio::task::JoinSet::new();
        let published = std::sync::Arc::clone(&log);
        ticks.spawn(async move {
            publish_ticks(published, Duration::from_millis(100)).await;
        });
        let mut site = Site {
            log,
            pods,
            file,
            setup,
            proxy,
            _ticks: ticks,
            _connections: Vec::new(),
            crowd: Crowd::new(),
        };
        site.fill().await;
        site
    }

    /// Half over HTTP/1.1, half over HTTP/2.
    async fn fill(&mut self) {
        for _ in 0..STREAMS / 2 {
            let stream = self.proxy.visitor().events("/events").await;
            self.crowd.add(stream);
        }
        while self.crowd.len() < STREAMS {
            let mut connection = H2Connection::open(self.proxy.address).await;
            for _ in 0..50.min(STREAMS - self.crowd.len()) {
                self.crowd.add(connection.events(&Request::events("/events")).await);
            }
            self._connections.push(connection);
        }
        self.crowd.all_flow().await;
    }

    /// Checks that every client got every event; returns how often streams moved.
    async fn judge(self) -> usize {
        let all = self.crowd.finish().await;
        assert_eq!(all.len(), STREAMS);
        let metrics = self.proxy.metrics().await;
        assert_eq!(metrics.sum("podpin_streams_closed_total", &[]), 0.0);
        assert_eq!(
            metrics.sum("podpin_streams_opened_total", &[]),
            f64::from(u32::try_from(STREAMS).unwrap())
        );
        let moved: usize = all.iter().map(|seen| seen.pods.len() - 1).sum();
        let handed_over = metrics.sum(HANDOVERS, &[("result", "ok")]);
        assert_eq!(metrics.sum(HANDOVERS, &[]), handed_over, "none failed");
        moved
    }
}

fn pod(name: &str, log: &std::sync::Arc<Log>) -> ExamplePod {
    let any_port = ([127, 0, 0, 1], 0).into();
    ExamplePod::start(PodSettings::new(name, any_port, std::sync::Arc::clone(log))).unwrap()
}

/// The pods as the endpoints file lists them, all ready but one.
fn listed<'a>(
    pods: &'a [ExamplePod],
    draining: Option<&str>,
) -> Vec<(&'a str, std::net::SocketAddr, &'static str)> {
    let state = |pod: &ExamplePod| if Some(pod.name()) == draining { "draining" } else { "ready" };
    pods.iter().map(|pod| (pod.name(), pod.address(), state(pod))).collect()
}

#[tokio::test]
async fn a_rolling_update_of_three_pods_under_300_streams_is_noticed_by_nobody() {
    let mut site = Site::new().await;
    for new in ["pod-d", "pod-e", "pod-f"] {
        site.pods.push(pod(new, &site.log));
        let old = site.pods[0].name().to_owned();
        site.file.write(&listed(&site.pods, Some(&old)));
        wait_for("the old pod's streams moving", async || site.pods[0].open_streams() == 0).await;
        let old = site.pods.remove(0);
        site.file.write(&listed(&site.pods, None));
        old.stop();
        site.crowd.all_flow().await;
    }
    let moved = site.judge().await;
    assert!((STREAMS..=3 * STREAMS).contains(&moved), "each once to three times: {moved}");
}

#[tokio::test]
async fn the_death_of_a_pod_under_300_streams_is_noticed_by_nobody() {
    let mut site = Site::new().await;
    let victim = site.pods.remove(1);
    assert!(victim.open_streams() > 0);
    // It is listed as ready all the time.
    tokio::task::spawn_blocking(|| victim.stop()).await.unwrap();
    site.crowd.all_flow().await;
    let moved = site.judge().await;
    assert!((1..STREAMS).contains(&moved), "those of one pod: {moved}");
}

/// Lists the pods, one of them draining, and waits until the proxy knows.
async fn list(site: &Site, draining: Option<&str>) {
    let all = listed(&site.pods, draining);
    site.file.write(&all);
    let states: Vec<_> = all.iter().map(|(name, _, state)| (*name, *state)).collect();
    site.proxy.wait_endpoints("chat", &states).await;
}

#[tokio::test]
async fn pods_that_drain_and_are_back_within_a_second_cost_nobody_an_event() {
    let site = Site::new().await;
    for name in ["pod-a", "pod-b", "pod-a", "pod-c"] {
        list(&site, Some(name)).await;
        list(&site, None).await;
    }
    site.crowd.all_flow().await;
    site.judge().await;
}

#[tokio::test]
async fn two_drains_that_cross_move_all_streams_and_lose_none() {
    let site = Site::new().await;
    list(&site, Some("pod-a")).await;
    site.proxy.wait_metric_at_least(HANDOVERS, &[("result", "ok")], 1.0).await;
    // Streams are on their way from a to b, and now from b to a.
    list(&site, Some("pod-b")).await;
    wait_for("the second pod's streams moving", async || site.pods[1].open_streams() == 0).await;
    list(&site, Some("pod-a")).await;
    wait_for("the first pod's streams moving", async || site.pods[0].open_streams() == 0).await;
    site.crowd.all_flow().await;
    assert!(site.judge().await >= STREAMS / 3);
}

#[tokio::test]
async fn reloads_in_the_middle_of_it_are_noticed_by_nobody() {
    let mut site = Site::new().await;
    site.pods.push(pod("pod-d", &site.log));
    let old = site.pods[0].name().to_owned();
    site.file.write(&listed(&site.pods, Some(&old)));
    let moved = [("result", "ok")];
    site.proxy.wait_metric_at_least(HANDOVERS, &moved, 1.0).await;
    let left = site.pods[0].open_streams();
    assert!(left > 0, "all have moved already");
    for round in 1..=5 {
        let changed = site.setup.clone().with(&format!("timeouts: {{connect: {round}s}}"));
        site.proxy.reload(&changed.top(&format!("limits: {{connections: {}}}", 10_000 + round))).await;
    }
    wait_for("the old pod's streams moving", async || site.pods[0].open_streams() == 0).await;
    site.crowd.all_flow().await;
    let moved = site.judge().await;
    assert!((1..=STREAMS).contains(&moved), "those of one pod: {moved}");
}

#[tokio::test]
async fn a_reload_while_the_successor_is_asked_does_not_disturb_it() {
    let pods = [Pod::start("pod-a").await, Pod::start("pod-b").await];
    pods.iter().for_each(|pod| pod.answer("/events", StreamAnswer::new()));
    let file = EndpointsFile::with(&[("pod-a", pods[0].address(), "ready")]);
    let setup = Setup::new().service_in("chat", &file).with(QUICK);
    let proxy = setup.start().await;
    let mut client = proxy.visitor().events("/events").await;
    let mut old = pods[0].next_stream().await;
    old.event_with_id("1", "one").await;
    client.next_event().await;
    pods[1].answer("/events", Answer::ByHand);
    let [a, b] = [("pod-a", pods[0].address(), "draining"), ("pod-b", pods[1].address(), "ready")];
    file.write(&[a, b]);
    let mut new = pods[1].next_stream().await;
    proxy.reload(&setup.clone().with("timeouts: {connect: 1s}").with("sse: {keepAlive: off}")).await;
    old.event_with_id("2", "two").await;
    assert_eq!(client.next_data().await, "two");
    new.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await;
    new.raw("id: 2\ndata: two\n\nid: 3\ndata: three\n\n").await;
    assert_eq!(client.next_data().await, "three");
    let labels = [("cause", "planned"), ("result", "ok")];
    proxy.wait_metric(HANDOVERS, &labels, 1.0).await;
}
