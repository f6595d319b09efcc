//! The cost of an idle stream, and its return.

use podpin_testkit::{EventStream, Pod, Proxy, Request, Setup, wait_for};

/// Enough for the fixed costs to vanish in the mean, few enough for every file limit.
const STREAMS: usize = 1_000;

async fn open_all(proxy: &Proxy) -> Vec<EventStream> {
    let mut streams = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS {
        streams.push(Request::events("/events").open(proxy.address).await);
    }
    proxy.wait_metric("podpin_streams_active", &[("service", "chat")], STREAMS as f64).await;
    streams
}

#[tokio::test]
async fn a_thousand_idle_streams_cost_a_few_kilobytes_each_that_are_given_back_and_no_more_the_second_time() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).top("workers: 1").with("sse: {keepAlive: off}").start().await;
    drop(Request::events("/events").open(proxy.address).await);
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "client")], 1.0).await;
    let empty = proxy.process.memory_bytes();
    let first = open_all(&proxy).await;
    let full = proxy.process.memory_bytes();
    let each = full.saturating_sub(empty) / STREAMS as u64;
    // A release build is to stay under 6 KB (see `make bench`); a debug build is allowed a little more.
    assert!(each <= 8 * 1024, "{each} bytes for each idle stream");
    drop(first);
    proxy.wait_metric("podpin_streams_active", &[("service", "chat")], 0.0).await;
    let kept = || proxy.process.memory_bytes().saturating_sub(empty);
    wait_for("the memory of streams that left to be given back", async || kept() <= (full - empty) / 2).await;
    let _second = open_all(&proxy).await;
    let again = proxy.process.memory_bytes();
    let grown = again.saturating_sub(full) / STREAMS as u64;
    assert!(grown <= 1024, "{grown} bytes more for each stream after all clients left and came again");
}
