//! Clients that others wrote.

use std::process::Command;

use podpin_testkit::{Pod, Process, Setup};

/// `curl -N`: installed by `make setup` where it is missing.
fn curl(arguments: &[&str]) -> Process {
    Process::spawn(Command::new("curl").args(["-sS", "-N"]).args(arguments))
}

#[tokio::test]
async fn curl_receives_events_at_once_and_takes_a_clean_end_for_one() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let url = format!("http://{}/events", proxy.address);
    let mut process = curl(&["-H", "Accept: text/event-stream", &url]);
    let mut stream = pod.next_stream().await;
    for data in ["one", "two"] {
        stream.event(data).await;
        let line = format!("data: {data}");
        podpin_testkit::wait_for("curl printing the event", async || process.stdout().contains(&line)).await;
    }
    stream.finish().await;
    assert_eq!(process.wait_exit().await, 0);
}

#[tokio::test]
async fn curl_is_told_when_a_pod_died() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let url = format!("http://{}/events", proxy.address);
    let mut process = curl(&["-H", "Accept: text/event-stream", &url]);
    let mut stream = pod.next_stream().await;
    stream.event("one").await;
    podpin_testkit::wait_for("curl printing the event", async || !process.stdout().is_empty()).await;
    stream.reset();
    let code = process.wait_exit().await;
    // 18: the transfer was partial; 56: the connection was reset.
    assert!(matches!(code, 18 | 56), "{code}: {:?}", process.stderr());
}

#[tokio::test]
async fn curl_stays_on_its_pod_with_a_cookie_jar() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).start().await;
    let directory = tempfile::tempdir().unwrap();
    let jar = directory.path().join("jar").display().to_string();
    let url = format!("http://{}/who", proxy.address);
    let mut answers = Vec::new();
    for _ in 0..5 {
        let mut process = curl(&["-b", &jar, "-c", &jar, &url]);
        assert_eq!(process.wait_exit().await, 0);
        answers.push(process.stdout().concat());
    }
    assert!(
        answers[0].starts_with("pod-") && answers.iter().all(|answer| answer == &answers[0]),
        "{answers:?}"
    );
}
