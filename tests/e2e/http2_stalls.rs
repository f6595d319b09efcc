//! HTTP/2 clients that stop: windows that stay shut, sockets that are never read, heads, prefaces and bodies without end.
//!
//! Each is bounded in memory and then cut; others are served meanwhile.

use podpin_testkit::{
    Answer, Connection, Ending, H2_PREFACE, H2Frame, Pod, PodStream, Request, Setup, wait_for,
};

use crate::crowd;
use crate::h2_front::{Front, GET, asked, with_path};

/// REFUSED_STREAM (RFC 9113 section 7).
const REFUSED: u8 = 7;
/// How many streams of one connection stall at once.
const STALLED: u32 = 50;
/// Memory that all of them may cost together.
const STALLED_BYTES: u64 = 8 * 1024 * 1024;

/// So many requests, each on a stream of its own.
fn requests(count: u32, head: &[(&str, &str)]) -> Vec<H2Frame> {
    (0..count).map(|number| H2Frame::request(2 * number + 1, head)).collect()
}

/// A connection with so many requests whose answers may not have a byte of body.
async fn shut(front: &Front, count: u32, head: &[(&str, &str)]) -> Connection {
    let mut connection = front.connect().await;
    connection.begin_h2(&H2Frame::initial_window(0)).await;
    assert!(connection.try_frames(&requests(count, head)).await);
    connection
}

fn events(path: &str) -> Vec<(&str, &str)> {
    [with_path(&GET, path), vec![("accept", "text/event-stream")]].concat()
}

/// Sends events on all streams at once until none is read any more.
async fn flood_all(pod: &Pod, count: u32) -> Vec<PodStream> {
    let mut floods = Vec::new();
    for _ in 0..count {
        let mut stream = pod.next_stream().await;
        floods.push(tokio::spawn(async move {
            crowd::flood(&mut stream).await;
            stream
        }));
    }
    let mut streams = Vec::new();
    for flood in floods {
        streams.push(flood.await.unwrap());
    }
    streams
}

/// Floods the streams of a connection that takes nothing: what they hold then, more than `before`, and that all is
/// given up when it ends.
async fn stalled_streams_hold_little((front, pod): (&Front, &Pod), connection: Connection, before: u64) {
    let mut upstreams = flood_all(pod, STALLED).await;
    let grown = front.proxy.process.memory_bytes().saturating_sub(before);
    front.serves(pod).await;
    assert!(grown <= STALLED_BYTES, "{grown} bytes");
    drop(connection);
    for upstream in &mut upstreams {
        upstream.client_gone().await;
    }
}

#[tokio::test]
async fn event_streams_of_a_client_whose_windows_are_shut_hold_little() {
    let pod = Pod::start("pod-a").await;
    for front in Front::both(&Setup::chat(&[&pod]).with("sse: {keepAlive: off}")).await {
        front.serves(&pod).await;
        let before = front.proxy.process.memory_bytes();
        let connection = shut(&front, STALLED, &events("/events")).await;
        stalled_streams_hold_little((&front, &pod), connection, before).await;
    }
}

#[tokio::test]
async fn event_streams_of_a_client_whose_windows_are_shut_are_cut() {
    let pod = Pod::start("pod-a").await;
    let setup = Setup::chat(&[&pod]).with("timeouts: {clientWrite: 500ms}").with("sse: {keepAlive: off}");
    for front in Front::both(&setup).await {
        let _connection = shut(&front, 5, &events("/events")).await;
        for _ in 0..5 {
            let mut upstream = pod.next_stream().await;
            while upstream.try_send(b"data: more\n\n").await {}
        }
        let cut = [("reason", "slow_client")];
        front.proxy.wait_metric("podpin_streams_closed_total", &cut, 5.0).await;
        front.serves(&pod).await;
    }
}

/// A response that is larger than all buffers, from a pod that writes until it is left.
async fn large(mut upstream: PodStream) {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 4000000000\r\n\r\n";
    if upstream.try_raw(head.as_bytes()).await {
        let piece = vec![b'x'; 40_000];
        while upstream.try_raw(&piece).await {}
    }
}

#[tokio::test]
async fn responses_to_a_client_whose_windows_are_shut_hold_little_and_are_cut() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/large", Answer::ByHand);
    let setup = Setup::chat(&[&pod]).with("timeouts: {clientWrite: 2s}").with("health: {passive: off}");
    for front in Front::both(&setup).await {
        front.serves(&pod).await;
        let before = front.proxy.process.memory_bytes();
        let _connection = shut(&front, STALLED, &with_path(&GET, "/large")).await;
        let mut upstreams = Vec::new();
        for _ in 0..STALLED {
            upstreams.push(tokio::spawn(large(pod.next_stream().await)));
        }
        let mut most = 0;
        wait_for("every response being cut", async || {
            most = most.max(front.proxy.process.memory_bytes().saturating_sub(before));
            upstreams.iter().all(tokio::task::JoinHandle::is_finished)
        })
        .await;
        front.serves(&pod).await;
        assert!(most <= STALLED_BYTES, "{most} bytes");
    }
}

#[tokio::test]
async fn event_streams_of_a_client_that_does_not_read_its_socket_hold_little() {
    let pod = Pod::start("pod-a").await;
    let front = Front::plain(&Setup::chat(&[&pod]).with("sse: {keepAlive: off}")).await;
    front.serves(&pod).await;
    let before = front.proxy.process.memory_bytes();
    let mut connection = Connection::open_with_receive_buffer(front.proxy.address, 4096).await;
    connection.begin_h2(&H2Frame::initial_window(0x7fff_ffff)).await;
    let requests = requests(STALLED, &events("/events"));
    let window = H2Frame::window_update(0, 0x7fff_0000);
    assert!(connection.try_frames(&[vec![window], requests].concat()).await);
    stalled_streams_hold_little((&front, &pod), connection, before).await;
}

#[tokio::test]
async fn more_streams_at_once_than_were_agreed_are_refused_and_not_one_is_lost() {
    let pod = Pod::start("pod-a").await;
    for front in Front::both(&Setup::chat(&[&pod])).await {
        let mut connection = front.begun().await;
        let requests = requests(110, &events("/many"));
        let earlier = asked(&pod, "/many");
        assert!(connection.try_frames(&requests).await);
        let (mut served, mut refused) = (0, 0);
        while served < 100 || refused < 10 {
            let frame = connection.h2_frame().await.unwrap();
            served += usize::from(frame.status() == Some(200));
            refused += usize::from(frame.reset_code() == Some(REFUSED));
        }
        assert_eq!((served, refused, asked(&pod, "/many") - earlier), (100, 10, 100));
        let mut ended = pod.next_stream().await;
        ended.event("last").await;
        ended.finish().await;
        front.proxy.wait_metric("podpin_streams_active", &[("service", "chat")], 99.0).await;
        assert!(connection.try_frames(&[H2Frame::request(221, &with_path(&GET, "/who"))]).await);
        let answered = |frame: &H2Frame| {
            frame.stream() == 221 && (frame.status().or(frame.reset_code().map(u16::from))).is_some()
        };
        assert_eq!(connection.h2_frame_that(answered).await.unwrap().status(), Some(200));
        drop(connection);
        front.proxy.wait_metric("podpin_streams_active", &[("service", "chat")], 0.0).await;
        drop(pod.waiting_streams().await);
    }
}

#[tokio::test]
async fn a_head_that_is_not_finished_in_time_ends_its_connection() {
    let pod = Pod::start("pod-a").await;
    let setup = Setup::chat(&[&pod]).top("limits: {requestHeaderTimeout: 500ms}");
    let block = podpin_testkit::h2_block(&with_path(&GET, "/half"));
    for front in Front::both(&setup).await {
        let request = || H2Frame::request(1, &with_path(&GET, "/who"));
        let stream = || H2Frame::request(1, &events("/events"));
        let half = H2Frame::unfinished_head(3, block.clone());
        let begun = half.bytes()[..12].to_vec();
        for (what, before) in [("after a request", request()), ("beside an event stream", stream())] {
            for unfinished in [half.bytes(), begun.clone()] {
                let mut connection = front.begun().await;
                assert!(connection.try_frames(std::slice::from_ref(&before)).await);
                let status = connection.h2_frame_that(|frame| frame.status().is_some()).await;
                assert_eq!(status.unwrap().status(), Some(200), "{what}");
                connection.send(&unfinished).await;
                let end = connection.h2_frame_that(|frame| frame.go_away_code().is_some()).await;
                assert!(end.is_ok(), "{what}: {end:?}");
            }
        }
        front.wait_cut("unfinished", 4).await;
        front.proxy.wait_metric("podpin_streams_active", &[("service", "chat")], 0.0).await;
        let mut first = front.begun().await;
        first.send(&half.bytes()).await;
        first.h2_frame_that(|_| false).await.unwrap_err();
    }
    assert_eq!(asked(&pod, "/half"), 0);
}

#[tokio::test]
async fn a_head_that_comes_a_byte_at_a_time_has_no_more_time_than_another() {
    let pod = Pod::start("pod-a").await;
    let setup = Setup::chat(&[&pod]).top("limits: {requestHeaderTimeout: 500ms}");
    let head = podpin_testkit::h2_block(&with_path(&GET, &format!("/{}", "x".repeat(100))));
    for front in Front::both(&setup).await {
        // Bytes come as often as keep-alive comments, until the proxy ends the connection.
        let mut connection = front.begun().await;
        let frame = H2Frame::unfinished_head(1, head.clone()).bytes();
        let mut sent = 0;
        let dribble = tokio::time::interval(std::time::Duration::from_millis(50));
        tokio::pin!(dribble);
        while sent < frame.len() {
            dribble.tick().await;
            if !connection.try_send(&frame[sent..=sent]).await {
                break;
            }
            sent += 1;
        }
        assert!(sent < frame.len(), "all of it was taken");
        let mut connection = front.connect().await;
        connection.send(&H2_PREFACE[..10]).await;
        connection.ending().await;
        front.serves(&pod).await;
    }
}

#[tokio::test]
async fn the_body_of_a_request_that_stalls_is_a_408_and_its_pod_is_released() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/upload", Answer::ByHand);
    let setup = Setup::chat(&[&pod]).top("limits: {requestBodyTimeout: 500ms}");
    for front in Front::both(&setup).await {
        let mut connection = front.client().await;
        let mut upload = connection.begin(&Request::new("POST", "/upload").body("ten bytes!")).await;
        assert!(upload.body.send(b"nine byte").await);
        assert_eq!(upload.response().await.status, 408);
        wait_for("the pod to be left", async || asked(&pod, "/upload") > 0).await;
        let half = pod.requests().into_iter().find(|request| request.path() == "/upload").unwrap();
        assert_ne!(half.body_ending, Ending::Clean);
        let line = front.proxy.access_log_line(|line| line["path"] == "/upload").await;
        assert_eq!((&line["status"], &line["protocol"]), (&408.into(), &"HTTP/2".into()));
        assert_eq!(connection.send(&Request::get("/who")).await.text(), "pod-a", "the connection serves on");
    }
}
