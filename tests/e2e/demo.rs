//! `podpin demo`: three pods in the process behind the real proxy, for a person and without one.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use podpin_testkit::{Line, Process, Request, free_port, free_port_run, wait_for, wait_for_some, wait_long};
use serde_json::{Value, json};

use crate::browser::Browser;

fn local(port: u16) -> String {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string()
}

/// The demo at these addresses with quick events, and the address of its proxy as it says it.
async fn demo(listen: &str, admin: &str) -> (Process, SocketAddr) {
    let process = Process::start(&["demo", "--listen", listen, "--admin", admin, "--tick", "50ms"]);
    let address = wait_for_some("the demo saying where it is", async || {
        let output = process.output();
        let url = output.split_whitespace().find_map(|word| word.strip_prefix("http://"))?;
        url.trim_end_matches('/').parse().ok()
    })
    .await;
    wait_for("the demo listening", async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
    (process, address)
}

/// The demo's page in a browser.
struct Page {
    browser: Browser,
}

impl Page {
    async fn open(address: SocketAddr) -> Page {
        let page = Page { browser: Browser::start().await };
        page.browser.open(&format!("http://{address}/")).await;
        page.more_events().await;
        page
    }

    /// Returns a fact that the page knows of its stream.
    async fn fact(&self, name: &str) -> Value {
        self.browser.read(&format!("window.podpinDemo.{name}")).await
    }

    async fn more_events(&self) {
        let events = async || self.fact("ids.length").await.as_u64().unwrap();
        let before = events().await;
        wait_for("the page receiving events", async || events().await >= before + 5).await;
    }

    /// Presses a button of the pod that serves the page now; the page's stream is elsewhere when this returns.
    async fn press(&self, button: &str) {
        let home = self.fact("pod").await;
        let name = home.as_str().unwrap();
        self.browser.read(&format!("document.querySelector('[data-{button}-pod=\"{name}\"]').click()")).await;
        wait_for("the page on another pod", async || self.fact("pod").await != home).await;
        self.more_events().await;
    }

    async fn assert_whole(&self) {
        assert_eq!((self.fact("gaps").await, self.fact("duplicates").await), (json!(0), json!(0)));
        let contiguous = "podpinDemo.ids.every((id, at, ids) => at === 0 || id === ids[at - 1] + 1)";
        assert_eq!(self.browser.read(contiguous).await, true);
    }
}

#[tokio::test]
async fn a_browser_on_the_demo_page_stays_on_its_pod_when_its_line_is_cut() {
    let (_process, address) = demo(&local(free_port()), &local(free_port())).await;
    let line = Line::to(address).await;
    let page = Page::open(line.address()).await;
    let (home, session) = (page.fact("pod").await, page.fact("session").await);
    line.cut();
    wait_for("the browser reconnecting", async || page.fact("reconnects").await == 1).await;
    page.more_events().await;
    assert_eq!((page.fact("pod").await, page.fact("session").await), (home, session));
    assert_eq!(page.fact("moves").await, 0);
    page.assert_whole().await;
}

#[tokio::test]
async fn a_browser_on_the_demo_page_moves_without_a_reconnect_when_its_pod_is_stopped_and_when_it_is_killed()
{
    let (_process, address) = demo(&local(free_port()), &local(free_port())).await;
    let page = Page::open(address).await;
    page.press("stop").await;
    assert_eq!(page.fact("moves").await, 1);
    page.press("kill").await;
    assert_eq!(page.fact("moves").await, 2);
    assert_eq!(page.fact("reconnects").await, 0);
    assert_eq!(page.browser.read("streams[0].opens").await, 1);
    page.assert_whole().await;
    let said = page.browser.read("document.getElementById('story').textContent").await;
    assert!(said.as_str().unwrap().contains("without a reconnect"), "{said}");
    assert_eq!(page.browser.read("document.getElementById('moves').textContent").await, "2");
}

#[tokio::test]
async fn the_demo_page_shows_what_a_plain_proxy_would_have_done() {
    let (_process, address) = demo(&local(free_port()), &local(free_port())).await;
    let page = Page::open(address).await;
    wait_for("the plain proxy on the page", async || {
        page.browser.read("document.getElementById('plain-card').hidden").await == false
    })
    .await;
    page.browser.read("document.getElementById('plain-open').click()").await;
    wait_for("a stream through the plain proxy", async || !page.fact("plain.pod").await.is_null()).await;
    let pinned = page.fact("plain.pod").await;
    let kill = format!("document.querySelector('[data-kill-pod=\"{}\"]').click()", pinned.as_str().unwrap());
    page.browser.read(&kill).await;
    wait_for("its stream cut and back at another pod", async || page.fact("plain.pod").await != pinned).await;
    assert!(page.fact("plain.reconnects").await.as_u64() >= Some(1));
    page.more_events().await;
    assert_eq!(page.fact("reconnects").await, 0, "podpin's stream is the same one");
    page.assert_whole().await;
}

/// The table of a demo that ran without a person to its end.
async fn table(arguments: &[&str]) -> String {
    let (listen, admin) = (local(free_port()), local(free_port()));
    let places = ["demo", "--listen", &listen, "--admin", &admin];
    let mut process = Process::start(&[&places, arguments].concat());
    // As long as it is told to run, and the seconds in which its proxy lets clients go.
    wait_long(Duration::from_secs(60), "the demo's end", async || process.exit_code().is_some()).await;
    assert_eq!(process.exit_code(), Some(0), "{}", process.output());
    process.stdout().join("\n")
}

/// The value in a row of a table.
fn row<'a>(table: &'a str, name: &str) -> &'a str {
    let line = table.lines().find(|line| line.trim_start().starts_with(name));
    line.and_then(|line| line.rsplit("  ").next()).unwrap_or_else(|| panic!("no {name} in\n{table}")).trim()
}

#[tokio::test]
async fn without_a_person_it_drives_clients_prints_a_table_and_exits_0() {
    let table = table(&["--for", "4s", "--clients", "30"]).await;
    for word in ["pod-a", "pod-b", "pod-c", "p50", "p99"] {
        assert!(table.contains(word), "{word} is not in\n{table}");
    }
    assert_eq!(row(&table, "pin kept on reconnect"), "30/30");
}

#[tokio::test]
async fn a_rolling_update_replaces_all_pods_and_no_client_notices() {
    // A quarter of it for each pod: much more than that takes on a machine that is busy with other tests.
    let table = table(&["--for", "4500ms", "--clients", "30", "--rollout"]).await;
    assert_eq!(row(&table, "pods replaced"), "3/3");
    for none in ["disconnects", "gaps", "duplicates"] {
        assert_eq!(row(&table, none), "0", "{none} in\n{table}");
    }
    let moved: u32 = row(&table, "streams moved").parse().unwrap();
    assert!((1..=90).contains(&moved), "each at most three times: {moved} in\n{table}");
    assert!(!table.contains("pod-a") && table.contains("slowest pause"), "{table}");
}

#[tokio::test]
async fn no_client_notices_that_a_pod_dies() {
    let table = table(&["--for", "2s", "--clients", "30", "--kill"]).await;
    assert_eq!(row(&table, "pods killed"), "1/1");
    for none in ["disconnects", "gaps", "duplicates"] {
        assert_eq!(row(&table, none), "0", "{none} in\n{table}");
    }
    let moved: u32 = row(&table, "streams moved").parse().unwrap();
    assert!((1..=30).contains(&moved), "those of one pod: {moved} in\n{table}");
    assert!(!table.contains("pod-a"), "{table}");
}

#[tokio::test]
async fn the_arrivals_of_a_herd_are_shown_by_the_second() {
    let table = table(&["--for", "12s", "--clients", "40", "--herd"]).await;
    let numbers = |name| -> Vec<u32> {
        let values = row(&table, name).split(", ").filter(|text| !text.is_empty());
        values.map(|text| text.parse().unwrap()).collect()
    };
    assert_eq!(numbers("served").iter().sum::<u32>(), 40, "{table}");
    assert_eq!(numbers("served").len(), numbers("told to come later").len(), "{table}");
    assert_eq!(row(&table, "pin kept on reconnect"), "40/40");
}

#[tokio::test]
async fn an_update_and_a_death_are_two_demos() {
    let mut process = Process::start(&["demo", "--rollout", "--kill"]);
    assert_eq!(process.wait_exit().await, 2);
    assert!(process.output().contains("cannot be used with"), "{}", process.output());
}

#[tokio::test]
async fn taken_ports_are_passed_over_and_it_says_so() {
    // Room for both to look for the next free one.
    let first = free_port_run(6);
    let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
    let (process, address) = demo(&local(first), &local(first + 4)).await;
    assert_ne!(address, holder.local_addr().unwrap());
    assert!(process.output().contains(&first.to_string()), "{}", process.output());
    assert_eq!(Request::get("/whoami").send(address).await.status, 200);
}

#[tokio::test]
async fn the_next_free_port_of_the_one_is_not_the_wish_of_the_other() {
    let first = free_port_run(6);
    let _holder = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
    let (_process, address) = demo(&local(first), &local(first + 1)).await;
    assert_eq!(Request::get("/whoami").send(address).await.status, 200);
}
