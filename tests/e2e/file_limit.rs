//! At the limit of file descriptors: who is served stays served, who comes waits or is asked back, and it ends with its
//! cause.

use podpin_testkit::{Item, Pod, Proxy, Request, Setup, wait_for};

use crate::refusals::assert_invitation;

/// Enough for the proxy itself and a few dozen clients.
const DESCRIPTORS: u32 = 100;

/// So many descriptors are left. Higher numbers may have been inherited and take none of them away.
fn free(proxy: &Proxy) -> u32 {
    let held = std::fs::read_dir(format!("/proc/{}/fd", proxy.process.id())).unwrap();
    let numbers = held.map(|entry| entry.unwrap().file_name().to_string_lossy().parse::<u32>().unwrap());
    DESCRIPTORS - u32::try_from(numbers.filter(|number| *number < DESCRIPTORS).count()).unwrap()
}

#[tokio::test]
async fn without_descriptors_streams_go_on_newcomers_are_asked_back_or_wait_and_it_passes() {
    let pod = Pod::start("pod-a").await;
    let setup = Setup::chat(&[&pod]).with("sse: {keepAlive: 1s}").top("workers: 1");
    let proxy = setup.file_limit(DESCRIPTORS).start().await;
    let mut client = Request::events("/events").open(proxy.address).await;
    let mut stream = pod.next_stream().await;
    proxy.wait_metric("podpin_connections_active", &[], 1.0).await;
    let mut held = Vec::new();
    while free(&proxy) > 1 {
        let mut connection = proxy.connect().await;
        assert_eq!(connection.ask(&Request::get("/who")).await.status, 200);
        held.push(connection);
    }
    assert_eq!(free(&proxy), 1);
    assert_invitation(&Request::events("/events").send(proxy.address).await, "cannot be reached");
    let refused = |line: &String| line.contains("cannot accept");
    wait_for("the last descriptor to be taken", async || {
        held.push(proxy.connect().await);
        proxy.process.stderr().iter().any(refused)
    })
    .await;
    stream.event("undisturbed").await;
    assert_eq!(client.next_data().await, "undisturbed");
    // A second of silence: twenty attempts.
    assert!(matches!(client.next().await, Ok(Item::Comment(_))));
    drop(held);
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
    let mut another = Request::events("/events").open(proxy.address).await;
    pod.next_stream().await.event("again").await;
    assert_eq!(another.next_data().await, "again");
    // It pauses between two attempts, and does not say each time that it failed.
    let errors = proxy.metric("podpin_accept_errors_total", &[("listener", "http")]).await;
    let said = proxy.process.stderr().iter().filter(|line| refused(line)).count();
    assert!((4.0..2_000.0).contains(&errors) && said * 4 <= errors as usize, "{said} lines, {errors} errors");
}
