//! A rolling update behind clients that do what a browser does: none gets a status, half an event, or misses one.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use podpin_example::{ExamplePod, Log, PodSettings, publish_ticks};
use podpin_testkit::{
    Answer, Ending, EndpointsFile, Item, Pod, Proxy, Reply, Request, Setup, Visitor, wait_for,
};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::browser::Browser;
use crate::crowd::{Client, all, streams, watch as watch_ends};

const DRAIN: &str = "drain: {spread: 1s, timeout: 8s}";
const RETRY: &str = "sse: {retry: {normal: 100ms, drain: {min: 50ms, max: 400ms}}}";

/// Pods of the example application on one log, as a Deployment replaces them.
struct Deployment {
    log: Arc<Log>,
    ticks: JoinHandle<std::convert::Infallible>,
    pods: Vec<ExamplePod>,
    file: EndpointsFile,
}

impl Deployment {
    async fn start() -> Deployment {
        let log = Log::memory();
        let ticks = tokio::spawn(publish_ticks(Arc::clone(&log), Duration::from_millis(20)));
        let mut deployment = Deployment { log, ticks, pods: Vec::new(), file: EndpointsFile::absent() };
        for name in ["old-a", "old-b", "old-c"] {
            deployment.add(name);
        }
        deployment.list(None);
        deployment
    }

    fn add(&mut self, name: &str) {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        self.pods.push(ExamplePod::start(PodSettings::new(name, listen, Arc::clone(&self.log))).unwrap());
    }

    fn list(&self, draining: Option<&str>) {
        let state = |name| if draining == Some(name) { "draining" } else { "ready" };
        let pods = self.pods.iter().map(|pod| (pod.name(), pod.address(), state(pod.name())));
        self.file.write(&pods.collect::<Vec<_>>());
    }

    /// Replaces every old pod by a new one, one after the other; an old one ends when its streams have left.
    async fn roll(&mut self, proxy: &Proxy) {
        for letter in ["a", "b", "c"] {
            self.add(&format!("new-{letter}"));
            let old = format!("old-{letter}");
            self.list(Some(&old));
            proxy.wait_metric("podpin_endpoints", &[("state", "draining")], 1.0).await;
            let waited = proxy.admin_get(&format!("/api/drain/wait?pod={old}&timeout=9s")).await;
            assert_eq!(waited.status, 200, "{}", waited.text());
            let index = self.pods.iter().position(|pod| pod.name() == old).unwrap();
            let pod = self.pods.remove(index);
            // The last connection closes in the moment in which the wait is answered.
            wait_for("the old pod to be free", async || pod.open_streams() == 0).await;
            self.list(None);
            pod.end(Duration::from_secs(5)).await;
        }
    }

    /// Publishes nothing more; the id of the last event.
    async fn finish(&self) -> u64 {
        self.ticks.abort();
        self.log.append("the last one").await.unwrap();
        self.log.newest()
    }
}

/// The observations of a client until the last event.
struct Seen {
    ids: Vec<u64>,
    streams: usize,
}

/// An event stream client as the WHATWG wants it: it comes back after the time it was told, with the id of the last
/// event and its cookie. An answer that is no event stream would end it for good, and is a panic here.
async fn follow(
    address: SocketAddr,
    mut last: watch::Receiver<u64>,
    seen_one: Arc<tokio::sync::Semaphore>,
) -> Seen {
    let mut visitor = Visitor::new(address);
    let mut seen = Seen { ids: Vec::new(), streams: 0 };
    let mut retry = Duration::from_secs(3);
    loop {
        let request = match seen.ids.last() {
            Some(id) => Request::events("/events").header("Last-Event-ID", &id.to_string()),
            None => Request::events("/events"),
        };
        let mut stream = visitor.open(request).await;
        seen.streams += 1;
        loop {
            let until = *last.borrow_and_update();
            if until > 0 && seen.ids.last().is_some_and(|id| *id >= until) {
                return seen;
            }
            let item = tokio::select! {
                item = stream.next() => item,
                _told = last.changed() => continue,
            };
            match item {
                Ok(Item::Retry(millis)) => retry = Duration::from_millis(millis),
                Ok(Item::Event(event)) if event.kind.is_empty() => {
                    seen.ids.push(event.id.parse().unwrap());
                    if seen.ids.len() == 1 {
                        seen_one.add_permits(1);
                    }
                }
                Ok(Item::Event(event)) => assert_eq!(event.kind, "hello", "{event:?}"),
                Ok(Item::Comment(_)) => {}
                Err(ending) => {
                    assert_eq!((ending, stream.is_inside_event()), (Ending::Clean, false));
                    break;
                }
            }
        }
        // Not to wait for something: the reconnection time is part of what an EventSource does (WHATWG HTML, 9.2.3).
        tokio::time::sleep(retry).await;
    }
}

fn assert_no_gap(ids: &[u64], last: u64) {
    let expected: Vec<u64> = (ids[0]..=last).collect();
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn a_hundred_clients_survive_a_rolling_update_without_a_gap() {
    let mut deployment = Deployment::start().await;
    let setup = Setup::new().service_in("chat", &deployment.file).with(DRAIN).with(RETRY);
    let proxy = setup.start().await;
    let last = watch::Sender::new(0);
    let seen_one = Arc::new(tokio::sync::Semaphore::new(0));
    let follow = |_| tokio::spawn(follow(proxy.address, last.subscribe(), Arc::clone(&seen_one)));
    let clients: Vec<_> = (0..100).map(follow).collect();
    let _all = podpin_testkit::in_time("an event for everybody", seen_one.acquire_many(100)).await.unwrap();
    deployment.roll(&proxy).await;
    let id = deployment.finish().await;
    last.send_replace(id);
    let mut streams = 0;
    for client in clients {
        let seen = client.await.unwrap();
        assert_no_gap(&seen.ids, id);
        streams += seen.streams;
    }
    let metrics = proxy.metrics().await;
    assert_eq!(metrics.sum("podpin_requests_total", &[("code", "200")]), streams as f64);
    assert_eq!(metrics.sum("podpin_requests_total", &[]), streams as f64, "nothing but 200");
    assert_eq!(metrics.sum("podpin_refusals_total", &[]), 0.0, "and no invitation either");
    let moved = metrics.sum("podpin_drain_departures_total", &[("kind", "polite")]);
    assert_eq!((moved, metrics.sum("podpin_drain_departures_total", &[])), (streams as f64 - 100.0, moved));
    assert!(moved >= 100.0, "everybody had to leave once at least: {moved}");
    assert_eq!(metrics.sum("podpin_reconnects_total", &[("outcome", "returned")]), moved);
    assert_eq!(metrics.sum("podpin_streams_closed_total", &[("reason", "drain")]), moved);
}

const PAGE: &str = "<!doctype html><meta charset=utf-8><title>events</title><script>
window.ids = [];
window.states = [];
window.opened = 0;
const source = new EventSource('/events');
source.onopen = () => window.opened++;
source.onerror = () => window.states.push(source.readyState);
source.onmessage = event => window.ids.push(Number(event.lastEventId));
source.addEventListener('reset', () => window.ids.push(-1));
window.source = source;
</script>";

#[tokio::test]
async fn a_browser_survives_a_rolling_update_without_a_gap() {
    let mut deployment = Deployment::start().await;
    let page = Pod::start("page").await;
    page.answer("/page", Reply::new(200).header("Content-Type", "text/html").body(PAGE));
    let setup =
        Setup::new().service_in("chat", &deployment.file).with(DRAIN).with(RETRY).service("page", &[&page]);
    let setup = setup.route("{name: page, service: page, matches: [{path: {type: Exact, value: /page}}]}");
    let proxy = setup.route("{name: chat, service: chat}").start().await;
    let browser = Browser::start().await;
    browser.open(&format!("http://{}/page", proxy.address)).await;
    wait_for("the page seeing events", async || browser.read("window.ids.length").await.as_u64() >= Some(3))
        .await;
    deployment.roll(&proxy).await;
    let id = deployment.finish().await;
    wait_for("the page seeing the last event", async || browser.read("window.ids.at(-1)").await == id).await;
    let ids: Vec<u64> = serde_json::from_value(browser.read("window.ids").await).unwrap();
    assert_no_gap(&ids, id);
    let states: Vec<Value> = serde_json::from_value(browser.read("window.states").await).unwrap();
    assert!(
        !states.is_empty() && states.iter().all(|state| *state == 0),
        "connecting, never closed: {states:?}"
    );
    assert_eq!(browser.read("window.source.readyState").await, 1, "open");
    assert_eq!(browser.read("window.opened").await, states.len() + 1);
}

#[tokio::test]
async fn a_browser_comes_back_when_for_a_while_nothing_could_serve_it() {
    let page = Pod::start("page").await;
    page.answer("/page", Reply::new(200).header("Content-Type", "text/html").body(PAGE));
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&[]);
    let setup = Setup::new().service_in("chat", &file).with(RETRY).service("page", &[&page]);
    let setup = setup.route("{name: page, service: page, matches: [{path: {type: Exact, value: /page}}]}");
    let proxy = setup.route("{name: chat, service: chat}").start().await;
    let browser = Browser::start().await;
    browser.open(&format!("http://{}/page", proxy.address)).await;
    proxy.wait_metric_at_least("podpin_refusals_total", &[("kind", "no_endpoint")], 3.0).await;
    // It takes connections, and answers nothing yet.
    pods[0].answer("/events", Answer::Reset);
    file.write(&[("pod-a", pods[0].address(), "ready")]);
    proxy.wait_metric_at_least("podpin_refusals_total", &[("kind", "upstream")], 2.0).await;
    file.write(&[("pod-b", pods[1].address(), "ready")]);
    let mut stream = pods[1].next_stream().await;
    stream.event_with_id("7", "at last").await;
    wait_for("the page seeing the event", async || browser.read("window.ids.at(-1)").await == 7).await;
    let states: Vec<Value> = serde_json::from_value(browser.read("window.states").await).unwrap();
    // The page's icon was refused as well.
    assert!(states.len() >= 4 && states.iter().all(|state| *state == 0), "{states:?}");
}

#[tokio::test]
async fn a_fresh_pod_gets_its_share_of_a_returning_crowd_and_caps_hold() {
    let pods = Pod::start_three().await;
    let fresh = Pod::start("pod-d").await;
    fresh.greet("/events");
    let pods: Vec<Pod> = pods.into_iter().chain([fresh]).collect();
    let file = EndpointsFile::with(&crate::crowd::listed(&pods[..1], &["ready"]));
    let setup = Setup::new().service_in("chat", &file).with("drain: {spread: 500ms, timeout: 8s}");
    let setup = setup.with("limits: {streamsPerEndpoint: 75}").with("balance: {slowStart: 1h}");
    let proxy = setup.start().await;
    let clients = crate::crowd::crowd(&proxy, 75).await;
    // Two others are busy already when the crowd comes: to the fewest streams all of it would go to the fresh one.
    file.write(&crate::crowd::listed(&pods[..3], &["ready"; 3]));
    proxy.wait_metric("podpin_endpoints", &[("state", "ready")], 3.0).await;
    let _busy = crate::crowd::crowd(&proxy, 60).await;
    let visitors: Vec<Visitor> = clients.iter().map(|client| client.visitor.clone()).collect();
    let watched = watch_ends(streams(clients));
    file.write(&crate::crowd::listed(&pods, &["draining", "ready", "ready", "ready"]));
    all(watched).await.iter().for_each(|left| assert!(left.goodbye().is_empty()));
    let mut back = Vec::new();
    for visitor in visitors {
        back.push(Client::back(visitor).await);
    }
    let there = |name: &str| back.iter().filter(|client| client.pod == name).count();
    let shares = ["pod-a", "pod-b", "pod-c", "pod-d"].map(there);
    // A third each by the ring, 25 of 75 give or take; by the number of streams it were 45 of them for the fresh one.
    assert!(shares[0] == 0 && shares[1..].iter().all(|share| (8..=41).contains(share)), "{shares:?}");
}

#[tokio::test]
async fn caps_hold_against_a_returning_crowd() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with("drain: {spread: 300ms, timeout: 8s}");
    let proxy = setup.with("limits: {streamsPerEndpoint: 20}").start().await;
    let (leaving, staying): (Vec<_>, Vec<_>) =
        crate::crowd::crowd(&proxy, 45).await.into_iter().partition(|client| client.pod == "pod-a");
    let visitors: Vec<Visitor> = leaving.iter().map(|client| client.visitor.clone()).collect();
    let free = 40 - staying.len();
    let watched = watch_ends(streams(leaving));
    assert_eq!(crate::crowd::operate(&proxy, "pod-a", "drain").await.status, 200);
    all(watched).await;
    // All of them at once, each with three tabs: more than there are places.
    let come_back = |mut visitor: Visitor| {
        tokio::spawn(async move {
            let mut stream = visitor.events("/events").await;
            loop {
                match stream.next().await {
                    Ok(Item::Event(event)) => return Some((event.data, stream)),
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        })
    };
    let coming: Vec<_> = visitors.iter().cycle().take(3 * visitors.len()).cloned().map(come_back).collect();
    let mut served = Vec::new();
    for one in coming {
        served.extend(one.await.unwrap());
    }
    assert_eq!(served.len(), free, "every place is taken, and none twice");
    for endpoint in proxy.endpoints("chat").await {
        let streams = endpoint["streams"].as_u64().unwrap();
        assert_eq!(streams, if endpoint["name"] == "pod-a" { 0 } else { 20 }, "{endpoint}");
    }
    drop(staying);
}
