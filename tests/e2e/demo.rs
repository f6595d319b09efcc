//! `podpin demo`: three pods in the process behind the real proxy, for a person and without one.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use podpin_testkit::{Line, Process, Request, free_port, free_port_run, wait_for, wait_for_some};

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

#[tokio::test]
async fn a_browser_on_the_demo_page_stays_on_its_pod_when_its_line_is_cut_and_moves_when_its_pod_stops() {
    let (_process, address) = demo(&local(free_port()), &local(free_port())).await;
    let line = Line::to(address).await;
    let browser = Browser::start().await;
    browser.open(&format!("http://{}/", line.address())).await;
    let events = async || browser.read("window.podpinDemo.ids.length").await.as_u64().unwrap();
    wait_for("the page receiving events", async || events().await >= 5).await;
    let home = browser.read("window.podpinDemo.pod").await;
    let session = browser.read("window.podpinDemo.session").await;

    line.cut();
    wait_for("the browser reconnecting", async || browser.read("window.podpinDemo.reconnects").await == 1)
        .await;
    let before = events().await;
    wait_for("more events", async || events().await >= before + 5).await;
    assert_eq!(browser.read("window.podpinDemo.pod").await, home);
    assert_eq!(browser.read("window.podpinDemo.session").await, session);

    let name = home.as_str().unwrap();
    browser.read(&format!("document.querySelector('[data-stop-pod=\"{name}\"]').click()")).await;
    wait_for("the browser on another pod", async || browser.read("window.podpinDemo.pod").await != home)
        .await;
    let before = events().await;
    wait_for("more events", async || events().await >= before + 5).await;
    assert_eq!(browser.read("window.podpinDemo.session").await, session);
    assert_eq!(browser.read("window.podpinDemo.gaps").await, 0);
    assert_eq!(browser.read("window.podpinDemo.duplicates").await, 0);
}

#[tokio::test]
async fn without_a_person_it_drives_clients_prints_a_table_and_exits_0() {
    let (listen, admin) = (local(free_port()), local(free_port()));
    let mut process =
        Process::start(&["demo", "--for", "2s", "--clients", "30", "--listen", &listen, "--admin", &admin]);
    assert_eq!(process.wait_exit().await, 0, "{}", process.output());
    let table = process.stdout().join("\n");
    for word in ["pod-a", "pod-b", "pod-c", "p50", "p99"] {
        assert!(table.contains(word), "{word} is not in\n{table}");
    }
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
