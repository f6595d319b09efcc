//! Libraries that others wrote, at both ends: a Close of podpin is one that they understand, and they come back to the heir.

use std::net::{Ipv4Addr, SocketAddr};

use podpin_testkit::{EndpointsFile, Pod, Process, Proxy, Reply, Setup, wait_for, wait_for_some};
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::python_sdks::{lines, node_script, script};

const NAMES: [&str; 2] = ["pod-a", "pod-b"];

/// Two pods that are servers of a library, and a proxy in front of them.
struct Servers {
    processes: [Process; 2],
    addresses: [SocketAddr; 2],
    file: EndpointsFile,
    proxy: Proxy,
}

impl Servers {
    async fn start(run: impl Fn(&str) -> Process) -> Servers {
        let mut processes = NAMES.map(run);
        let mut addresses = Vec::new();
        for process in &mut processes {
            let port = lines(process, 1).await[0]["port"].as_u64().unwrap();
            addresses.push(SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port).unwrap())));
        }
        let addresses = addresses.try_into().unwrap();
        let file = EndpointsFile::absent();
        write(&file, &addresses, "none");
        let setup = Setup::new().service_in("chat", &file).with("balance: {slowStart: off}");
        let proxy = setup.with("drain: {spread: 0s, timeout: 60s}").start().await;
        Servers { processes, addresses, file, proxy }
    }

    fn drain(&self, name: &str) {
        write(&self.file, &self.addresses, name);
    }

    /// Returns the lines of the pod of this name behind its first.
    fn said(&self, name: &str) -> Vec<Value> {
        let at = NAMES.iter().position(|one| *one == name).unwrap();
        let said = self.processes[at].stdout().into_iter().skip(1);
        said.map(|line| serde_json::from_str(&line).unwrap()).collect()
    }
}

fn write(file: &EndpointsFile, addresses: &[SocketAddr; 2], draining: &str) {
    let state = |name| if name == draining { "draining" } else { "ready" };
    file.write(&[0, 1].map(|at| (NAMES[at], addresses[at], state(NAMES[at]))));
}

/// Returns the name of the pod in an answer.
fn pod_of(answer: &Value) -> String {
    let text = answer["answer"].as_str().unwrap_or_else(|| panic!("no answer: {answer}"));
    text.strip_suffix(": hello").unwrap_or_else(|| panic!("another answer: {answer}")).to_owned()
}

/// Has a client of a library see the drain of its pod.
async fn comes_back(servers: &Servers, mut client: Process) {
    let home = pod_of(&lines(&mut client, 1).await[0]);
    servers.drain(&home);
    let said = lines(&mut client, 3).await;
    assert_eq!(said[1], json!({"code": 1012, "reason": "service restart"}));
    assert_ne!(pod_of(&said[2]), home);
    assert_eq!(client.wait_exit().await, 0, "{:?}", client.stderr());
    wait_for("the pod hearing of it", async || servers.said(&home) == [json!({"closed": 1001})]).await;
    let departures = "podpin_drain_departures_total";
    servers.proxy.wait_metric(departures, &[("kind", "polite")], 1.0).await;
    servers.proxy.wait_metric("podpin_reconnects_total", &[("outcome", "returned")], 1.0).await;
}

#[tokio::test]
async fn libraries_of_python_understand_the_close_and_come_back_to_the_other_pod() {
    for library in ["websockets", "aiohttp"] {
        let servers = Servers::start(|name| script("websocket_server.py", &[library, name])).await;
        let address = servers.proxy.address.to_string();
        comes_back(&servers, script("websocket_client.py", &[library, &address])).await;
    }
}

#[tokio::test]
async fn ws_of_node_understands_the_close_and_comes_back_to_the_other_pod() {
    let servers = Servers::start(|name| node_script("websocket_server.mjs", &["ws", name])).await;
    let address = servers.proxy.address.to_string();
    comes_back(&servers, node_script("websocket_client.mjs", &["ws", &address])).await;
}

#[tokio::test]
async fn socket_io_keeps_its_pod_from_polling_to_websocket_and_comes_back_by_itself() {
    let servers = Servers::start(|name| node_script("websocket_server.mjs", &["socket.io", name])).await;
    let address = servers.proxy.address.to_string();
    let mut client = node_script("websocket_client.mjs", &["socket.io", &address]);
    let said = lines(&mut client, 2).await;
    assert_eq!((&said[0], &said[1]["transport"]), (&json!({"begins": "polling"}), &json!("websocket")));
    let home = pod_of(&said[1]);
    servers.drain(&home);
    let said = lines(&mut client, 5).await;
    assert_eq!(said[2], json!({"reason": "transport close"}));
    assert_eq!((&said[3], &said[4]["transport"]), (&json!({"begins": "polling"}), &json!("websocket")));
    assert_ne!(pod_of(&said[4]), home);
    wait_for("the pod hearing of it", async || servers.said(&home).len() == 1).await;
    assert_eq!(servers.proxy.metric("podpin_upgrades_opened_total", &[]).await, 2.0);
}

/// The script of a page with a WebSocket that comes back when it is told to.
const PAGE: &str = "<!doctype html><meta charset=utf-8><title>websocket</title><script>
window.answers = [];
window.ends = [];
function begin() {
    const socket = new WebSocket('ws://' + location.host + '/ws');
    socket.onopen = () => socket.send('hello');
    socket.onmessage = event => answers.push(event.data);
    socket.onclose = event => { ends.push([event.code, event.reason, event.wasClean]); setTimeout(begin, 50); };
}
begin();
</script>";

#[tokio::test]
async fn a_page_sees_the_close_of_a_drain_and_returns_to_the_heir() {
    let servers = Servers::start(|name| script("websocket_server.py", &["websockets", name])).await;
    let pages = Pod::start("pages").await;
    pages.answer("/page", Reply::new(200).header("Content-Type", "text/html").body(PAGE));
    let file = EndpointsFile::with(&[("pages", pages.address(), "ready")]);
    let route = "{name: page, matches: [{path: {type: Exact, value: /page}}], service: pages}";
    let setup = Setup::new().service_in("chat", &servers.file).with("balance: {slowStart: off}");
    let setup = setup.with("drain: {spread: 0s, timeout: 60s}").service_in("pages", &file);
    let proxy = setup.route(route).route("{name: all, service: chat}").start().await;
    let browser = Browser::start().await;
    browser.open(&format!("http://{}/page", proxy.address)).await;
    let answer = async |at: usize| {
        let text = wait_for_some(&format!("answer {at}"), async || {
            browser.read(&format!("answers[{at}] ?? null")).await.as_str().map(str::to_owned)
        })
        .await;
        text.strip_suffix(": hello").unwrap().to_owned()
    };
    let home = answer(0).await;
    servers.drain(&home);
    let heir = answer(1).await;
    assert_ne!(heir, home);
    assert_eq!(browser.read("ends").await, json!([[1012, "service restart", true]]));
    // The pin has moved: another connection goes there as well.
    browser.read("begin()").await;
    assert_eq!(answer(2).await, heir);
}
