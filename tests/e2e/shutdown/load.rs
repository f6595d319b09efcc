//! SIGTERM under load, and against those who do not play along.

use std::time::Duration;

use podpin_testkit::{
    Answer, Connection, Ending, H2Connection, Pod, Proxy, Reply, Request, Setup, Signal, wait_for,
};

use crate::crowd::{BALANCE, Client, all, assert_even, crowd, h2_crowd, operate, streams, watch, window};

/// A proxy with one pod that greets.
async fn proxy(top: &str, line: &str) -> ([Pod; 3], Proxy) {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1]]).with(BALANCE).with(line).h2c();
    let proxy = setup.top(&format!("shutdown: {top}")).start().await;
    (pods, proxy)
}

#[tokio::test]
async fn under_load_all_end_cleanly_evenly_and_the_process_with_code_0() {
    let (pods, mut proxy) =
        proxy("{announce: 1s, spread: 2s, timeout: 30s}", "drain: {spread: 1h, timeout: 2h}").await;
    for pod in &pods {
        pod.answer("/slow", Answer::ByHand);
    }
    let mut leaving = streams(crowd(&proxy, 200).await);
    let mut connections = [H2Connection::open(proxy.address).await, H2Connection::open(proxy.address).await];
    for connection in &mut connections {
        leaving.extend(h2_crowd(connection, 50).await);
    }
    let mut slow = Vec::new();
    for _ in 0..5 {
        let mut connection = proxy.connect().await;
        connection.send(Request::get("/slow").bytes()).await;
        slow.push(connection);
    }
    proxy.signal(Signal::TERM);
    wait_for("not ready", async || !proxy.is_ready().await).await;
    // While it announces its end it serves as ever.
    leaving.extend(streams(crowd(&proxy, 20).await));
    leaving.extend(h2_crowd(&mut connections[0], 10).await);
    assert_eq!(proxy.get("/who").await.status, 200);
    let watched = watch(leaving);
    let left = all(watched).await;
    assert!(left.iter().all(|one| one.goodbye().is_empty()));
    assert_even(&left);
    assert!(window(&left) > Duration::from_millis(1_500), "over {:?}", window(&left));
    // The streams are gone, but no client that still waits for an answer is left alone.
    for pod in &pods[..2] {
        for mut answer in pod.waiting_streams().await.into_iter().filter(|one| one.request.path() == "/slow")
        {
            answer.raw("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
        }
    }
    for mut connection in slow {
        assert_eq!(connection.response("GET").await.text(), "done");
    }
    assert_eq!(proxy.wait_exit().await, 0);
    let lines: Vec<serde_json::Value> =
        proxy.process.stdout().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let streams =
        lines.iter().filter(|line| line["kind"] == "stream" && line["reason"] == "shutdown").count();
    assert_eq!(streams, 330, "a line for every stream");
}

#[tokio::test]
async fn streams_that_were_about_to_leave_a_draining_pod_leave_in_time() {
    for pinned in ["repin", "keep"] {
        let line = format!("drain: {{pinned: {pinned}, spread: 1h, timeout: 2h}}");
        let (_pods, mut proxy) = proxy("{announce: 0s, spread: 1s, timeout: 8s}", &line).await;
        let clients = crowd(&proxy, 20).await;
        assert_eq!(operate(&proxy, "pod-a", "drain").await.status, 200);
        let late = Client::of(&proxy).await;
        let watched = watch(streams(clients).into_iter().chain([late.stream]));
        proxy.signal(Signal::TERM);
        for left in all(watched).await {
            assert!(left.goodbye().is_empty());
        }
        assert_eq!(proxy.wait_exit().await, 0);
    }
}

#[tokio::test]
async fn a_client_that_never_reads_a_pod_that_never_answers_and_one_that_never_ends_do_not_hold_it_up() {
    let (pods, mut proxy) =
        proxy("{announce: 0s, spread: 200ms, timeout: 3s}", "sse: {eventBytesMax: 1KiB}").await;
    for pod in &pods {
        pod.answer("/silent", Answer::ByHand);
        pod.answer("/endless", Answer::EndlessHead);
        pod.answer("/flood", Reply::new(200).body(vec![b'x'; 32 << 20]));
    }
    let mut held = Vec::new();
    for request in [
        Request::events("/silent"),
        Request::get("/silent"),
        Request::new("POST", "/silent").header("Content-Length", "5"),
        Request::get("/flood"),
        Request::events("/flood"),
    ] {
        let mut connection = Connection::open_with_receive_buffer(proxy.address, 4096).await;
        connection.send(request.bytes()).await;
        held.push(connection);
    }
    // A half head, an idle connection, and a stream in the middle of an event without an end.
    let mut half = proxy.connect().await;
    half.send("GET / HTTP/1.1\r\nHos").await;
    let idle = proxy.connect().await;
    let mut client = Client::on(&proxy, "pod-a").await;
    let mut open = loop {
        let stream = pods[0].next_stream().await;
        if stream.request.path() == "/events" {
            break stream;
        }
    };
    let long = "x".repeat(4 * 1024);
    open.send(&format!("data: {long}")).await;
    client.stream.until_contains(&long).await;
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit().await, 0);
    drop((held, half, idle));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    for (second, code) in [(Signal::TERM, 0), (Signal::INT, 130)] {
        let top = "{announce: 60s, spread: 60s, timeout: 150s}";
        let (_pods, mut proxy) = proxy(top, "drain: {spread: 1s}").await;
        let client = Client::of(&proxy).await;
        proxy.signal(Signal::TERM);
        wait_for("not ready", async || !proxy.is_ready().await).await;
        proxy.signal(second);
        assert_eq!(proxy.wait_exit().await, code, "{second:?}");
        assert_ne!(client.left().await.ending, Ending::Clean, "nobody has pretended that it was complete");
    }
}

#[tokio::test]
async fn an_interrupt_ends_it_at_once() {
    let (_pods, mut proxy) =
        proxy("{announce: 60s, spread: 60s, timeout: 150s}", "drain: {spread: 1s}").await;
    let _client = Client::of(&proxy).await;
    proxy.signal(Signal::INT);
    assert_eq!(proxy.wait_exit().await, 130);
}

#[tokio::test]
async fn a_budget_stretches_it() {
    let line = "drain: {spread: 1s, budget: {perSecond: 20}}";
    let (_pods, mut proxy) = proxy("{announce: 0s, spread: 0s, timeout: 60s}", line).await;
    let watched = watch(streams(crowd(&proxy, 50).await));
    proxy.signal(Signal::TERM);
    let left = all(watched).await;
    assert!(left.iter().all(|one| one.goodbye().is_empty()));
    assert!(window(&left) > Duration::from_millis(2_000), "over {:?}", window(&left));
    assert_eq!(proxy.wait_exit().await, 0);
    assert!(!proxy.process.stderr().concat().contains("drain.budget is exceeded"));
}

#[tokio::test]
async fn a_budget_does_not_stretch_it_beyond_the_timeout() {
    let line = "drain: {spread: 1s, budget: {perSecond: 1, percent: 1}}";
    let (_pods, mut proxy) = proxy("{announce: 0s, spread: 0s, timeout: 4s}", line).await;
    let watched = watch(streams(crowd(&proxy, 60).await));
    proxy.signal(Signal::TERM);
    let left = all(watched).await;
    assert!(left.iter().all(|one| one.goodbye().is_empty()), "none is cut");
    assert_even(&left);
    assert_eq!(proxy.wait_exit().await, 0);
    assert!(proxy.process.stderr().concat().contains("drain.budget is exceeded"));
}
