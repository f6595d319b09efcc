//! Reloads under load: no client notices, nothing grows.

use podpin_testkit::{EventStream, H2Connection, Request, Setup, wait_for};

use super::silent_pods;

const STREAMS: usize = 1_000;
const RELOADS: u32 = 10;
/// Thirty reloads that each kept 7 KB would pass it.
const GROWTH_MAX: u64 = 200 * 1024;

#[tokio::test]
async fn ten_reloads_under_a_thousand_streams_touch_none_and_cost_nothing() {
    let pods = silent_pods(&["pod-a", "pod-b"]).await;
    let setup = |round: u32| {
        let chat = Setup::chat(&[&pods[0], &pods[1]]).with("sse: {keepAlive: off}").h2c();
        let times = format!("timeouts: {{connect: {}ms}}", 1_000 + round);
        chat.with(&times).top(&format!("limits: {{connections: {}}}", 5_000 + round))
    };
    let proxy = setup(0).start().await;
    let mut clients: Vec<EventStream> = Vec::new();
    let mut connections = Vec::new();
    while clients.len() < STREAMS / 2 {
        let mut connection = H2Connection::open(proxy.address).await;
        for _ in 0..50 {
            clients.push(connection.events(&Request::events("/events")).await);
        }
        connections.push(connection);
    }
    while clients.len() < STREAMS {
        clients.push(Request::events("/events").open(proxy.address).await);
    }
    // The first scrape of so many streams has a price of its own.
    proxy.metrics().await;
    let (id, full) = (proxy.process.id(), proxy.process.resident_bytes());
    for round in 1..=RELOADS {
        proxy.reload(&setup(round)).await;
    }
    // What is freed goes back to the system a second later: of a release build's 19 MB 1.8 % are 1 % then.
    let within = || proxy.process.resident_bytes() <= full + full / 50;
    wait_for("ten reloads to cost no more than 2 %", async || within()).await;
    let warm = proxy.process.memory_bytes();
    for round in RELOADS + 1..=4 * RELOADS {
        proxy.reload(&setup(round)).await;
    }
    let stays = || proxy.process.memory_bytes() <= warm + GROWTH_MAX;
    wait_for("thirty more to cost nothing", async || stays()).await;
    assert_eq!(children_of(id), Vec::<u32>::new(), "one process");
    for pod in &pods {
        for mut stream in pod.waiting_streams().await {
            stream.event("after").await;
        }
    }
    for client in &mut clients {
        assert_eq!(client.next_data().await, "after");
    }
    let metrics = proxy.metrics().await;
    assert_eq!(metrics.sum("podpin_streams_closed_total", &[]), 0.0);
    assert_eq!(metrics.sum("podpin_config_reloads_total", &[]), f64::from(4 * RELOADS));
}

fn children_of(id: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let children =
        threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("children")).unwrap());
    children
        .flat_map(|text| text.split_whitespace().map(|child| child.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}
