//! A real browser: headless Chromium, driven through chromedriver (both Debian packages, installed by `make setup`).

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use podpin_example::{ExamplePod, Log, PodSettings, publish_ticks};
use podpin_testkit::{
    EndpointsFile, Pod, Process, Reply, Request, Setup, StreamAnswer, free_port, wait_for, wait_for_some,
};
use serde_json::{Value, json};

/// Quiet, without a display, without phoning home; as root Chromium needs `--no-sandbox`.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];

/// A browser with one tab (W3C WebDriver).
pub(super) struct Browser {
    address: SocketAddr,
    session: String,
    _driver: Process,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub(super) async fn start() -> Browser {
        Browser::with(&[]).await
    }

    /// A browser with these flags besides.
    pub(super) async fn with(flags: &[&str]) -> Browser {
        let port = free_port();
        let driver = Process::spawn(Command::new("chromedriver").arg(format!("--port={port}")));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        wait_for("chromedriver", async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
        let profile = tempfile::tempdir().expect("a directory for the profile");
        let mut arguments: Vec<_> = FLAGS.iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let capabilities =
            json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}});
        let mut browser = Browser { address, session: String::new(), _driver: driver, _profile: profile };
        let created = browser.command("POST", "/session", &capabilities).await;
        browser.session = created["sessionId"].as_str().expect("a session").to_owned();
        browser
    }

    async fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let request =
            Request::new(method, path).header("Content-Type", "application/json").body(body.to_string());
        let host = self.address.to_string();
        let response = request.host(&host).send(self.address).await;
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response.json()["value"].clone()
    }

    pub(super) async fn open(&self, url: &str) {
        self.command("POST", &format!("/session/{}/url", self.session), &json!({"url": url})).await;
    }

    /// Returns the value of a JavaScript expression on the page.
    pub(super) async fn read(&self, expression: &str) -> Value {
        let script = json!({"script": format!("return {expression}"), "args": []});
        self.command("POST", &format!("/session/{}/execute/sync", self.session), &script).await
    }
}

impl Drop for Browser {
    /// Chromium is a child of chromedriver, not of ours: it must be told to go, also when the test has failed.
    fn drop(&mut self) {
        let request = format!("DELETE /session/{} HTTP/1.1\r\nHost: {}\r\n\r\n", self.session, self.address);
        if let Ok(mut stream) = std::net::TcpStream::connect(self.address) {
            let told = stream.write_all(request.as_bytes()).and_then(|()| stream.read(&mut [0; 64]));
            told.map_or_else(|error| eprintln!("chromedriver: {error}"), drop);
        }
    }
}

const PAGE: &str = "<!doctype html><meta charset=utf-8><title>events</title><script>
window.seen = [];
window.opened = 0;
const source = new EventSource('/events', {withCredentials: true});
source.onopen = () => window.opened++;
source.onmessage = event => window.seen.push(event.lastEventId + ':' + event.data);
window.source = source;
</script>";

#[tokio::test]
async fn a_browser_stays_on_its_pod_when_its_stream_is_cut() {
    let pods = Pod::start_three().await;
    for pod in &pods {
        pod.answer("/", Reply::new(200).header("Content-Type", "text/html").body(PAGE));
        pod.answer("/events", StreamAnswer::new());
    }
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]);
    let proxy = setup.with("sse: {retry: {normal: 100ms}}").start().await;
    let browser = Browser::start().await;
    browser.open(&format!("http://{}/", proxy.address)).await;
    let holder = wait_for_some("the browser's stream", async || {
        pods.iter().find(|pod| pod.targets().contains(&"/events".to_owned()))
    })
    .await;
    let mut stream = holder.next_stream().await;
    stream.event_with_id("1", "first").await;
    wait_for("the page seeing the event", async || browser.read("window.seen.length").await == 1).await;
    // Cleanly, then as a death: a browser reconnects after both.
    stream.finish().await;
    let mut again = holder.next_stream().await;
    assert_eq!(again.request.header("last-event-id"), Some("1"));
    again.event_with_id("2", "second").await;
    wait_for("the page seeing the event", async || browser.read("window.seen.length").await == 2).await;
    again.reset();
    let mut third = holder.next_stream().await;
    assert_eq!(third.request.header("last-event-id"), Some("2"));
    third.event_with_id("3", "third").await;
    wait_for("the page seeing the event", async || browser.read("window.seen.length").await == 3).await;
    assert_eq!(browser.read("window.seen").await, json!(["1:first", "2:second", "3:third"]));
    assert_eq!(browser.read("window.opened").await, 3);
    assert_eq!(browser.read("window.source.readyState").await, 1, "open");
    assert_eq!(browser.read("document.cookie").await, "", "our cookie is hidden from scripts");
    let others: Vec<_> =
        pods.iter().filter(|pod| pod.name() != holder.name()).flat_map(Pod::targets).collect();
    assert!(others.iter().all(|target| target != "/events"), "a reconnect went to another pod: {others:?}");
}

/// The script of a page with an EventSource and nothing else. On a page without a policy of its own, such as an answer.
const LISTEN: &str = "(() => {
    window.seen = [];
    window.pods = [];
    window.opened = window.failed = 0;
    window.source = new EventSource('/events');
    source.onopen = () => opened++;
    source.onerror = () => failed++;
    source.onmessage = event => {
        seen.push(Number(event.lastEventId));
        const pod = JSON.parse(event.data).pod;
        if (pods.at(-1) !== pod) pods.push(pod);
    };
})()";

fn example_pod(name: &str, log: &Arc<Log>) -> ExamplePod {
    ExamplePod::start(PodSettings::new(name, ([127, 0, 0, 1], 0).into(), Arc::clone(log))).unwrap()
}

fn listed(pods: &[ExamplePod], draining: &str) -> Vec<(String, SocketAddr, &'static str)> {
    let state = |pod: &ExamplePod| if pod.name() == draining { "draining" } else { "ready" };
    pods.iter().map(|pod| (pod.name().to_owned(), pod.address(), state(pod))).collect()
}

fn write(file: &EndpointsFile, pods: &[ExamplePod], draining: &str) {
    let listed = listed(pods, draining);
    let lines: Vec<_> =
        listed.iter().map(|(name, address, state)| (name.as_str(), *address, *state)).collect();
    file.write(&lines);
}

#[tokio::test]
async fn a_browser_sees_nothing_of_pods_that_are_drained_and_killed_under_its_stream() {
    let log = Log::memory();
    let mut ticks = tokio::task::JoinSet::new();
    let published = Arc::clone(&log);
    ticks.spawn(async move {
        publish_ticks(published, Duration::from_millis(50)).await;
    });
    let mut pods: Vec<ExamplePod> = ["pod-a", "pod-b", "pod-c"].map(|name| example_pod(name, &log)).into();
    let file = EndpointsFile::absent();
    write(&file, &pods, "none");
    let setup = Setup::new().service_in("chat", &file).with("drain: {handover: lastEventId, spread: 0s}");
    let proxy = setup.with("balance: {slowStart: off}").start().await;
    let browser = Browser::start().await;
    browser.open(&format!("http://{}/whoami", proxy.address)).await;
    browser.read(LISTEN).await;
    let more = async || {
        let before = browser.read("seen.length").await.as_u64().unwrap();
        wait_for("events", async || browser.read("seen.length").await.as_u64().unwrap() >= before + 5).await;
    };
    more().await;
    let mut names = vec![browser.read("pods[0]").await];
    for way in ["drained", "killed", "drained", "killed"] {
        let home = names.last().unwrap().as_str().unwrap().to_owned();
        let at = pods.iter().position(|pod| pod.name() == home).unwrap();
        pods.push(example_pod(&format!("pod-{}", names.len()), &log));
        write(&file, &pods, if way == "drained" { &home } else { "none" });
        if way == "drained" {
            wait_for("the streams leaving", async || pods[at].open_streams() == 0).await;
        }
        pods.remove(at).stop();
        write(&file, &pods, "none");
        wait_for("the page on another pod", async || browser.read("pods.at(-1)").await != home).await;
        more().await;
        names.push(browser.read("pods.at(-1)").await);
    }
    assert_eq!(browser.read("pods").await, json!(names));
    assert_eq!(browser.read("seen.every((id, at) => at === 0 || id === seen[at - 1] + 1)").await, true);
    assert_eq!(browser.read("[opened, failed, source.readyState]").await, json!([1, 0, 1]));
    browser.read("source.close()").await;
    let line = proxy.access_log_line(|line| line["kind"] == "stream").await;
    assert_eq!(line["endpointsBefore"], json!(names[..4]), "{line}");
    assert_eq!((&line["endpoint"], &line["reason"]), (&names[4], &json!("client")), "{line}");
    let lines = proxy.process.stdout();
    assert_eq!(lines.iter().filter(|line| line.contains("\"path\":\"/events\"")).count(), 1, "{lines:?}");
}
