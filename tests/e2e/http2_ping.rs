//! PINGs into the silence of HTTP/2 clients with open streams (`limits.http2Ping`).

use podpin_testkit::{Connection, Ending, H2Frame, Pod, PodStream, Setup};

use crate::h2_front::{Front, GET, with_path};

fn setup(pod: &Pod, ping: &str) -> Setup {
    Setup::chat(&[pod]).top(&format!("limits: {{http2Ping: {ping}}}"))
}

/// A connection with an open event stream that has had its head.
async fn streaming(front: &Front, pod: &Pod) -> (Connection, PodStream) {
    let mut connection = front.begun().await;
    let head = [with_path(&GET, "/events"), vec![("accept", "text/event-stream")]].concat();
    assert!(connection.try_frames(&[H2Frame::request(1, &head)]).await);
    let stream = pod.next_stream().await;
    assert_eq!(connection.h2_frame_that(|frame| frame.status().is_some()).await.unwrap().status(), Some(200));
    (connection, stream)
}

/// Waits for an event on stream 1; PINGs before it are left alone.
async fn event(connection: &mut Connection, data: &str) {
    let wanted = |frame: &H2Frame| frame.stream() == 1 && frame.contains(data.as_bytes());
    connection.h2_frame_that(wanted).await.unwrap();
}

#[tokio::test]
async fn a_silent_client_that_answers_keeps_its_stream() {
    let pod = Pod::start("pod-a").await;
    for front in Front::both(&setup(&pod, "1s")).await {
        let (mut connection, mut stream) = streaming(&front, &pod).await;
        for _ in 0..3 {
            let ping = connection.h2_frame_that(H2Frame::is_ping).await.unwrap();
            assert!(connection.try_frames(&[ping.pong()]).await);
        }
        stream.event("still there").await;
        event(&mut connection, "still there").await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_closed_and_its_pod_released() {
    let pod = Pod::start("pod-a").await;
    for front in Front::both(&setup(&pod, "1s")).await {
        let (mut connection, mut stream) = streaming(&front, &pod).await;
        connection.h2_frame_that(H2Frame::is_ping).await.unwrap();
        let end = connection.h2_frame_that(|frame| frame.go_away_code().is_some()).await.unwrap();
        assert_eq!(end.go_away_code(), Some(0));
        assert_eq!(connection.ending().await, Ending::Cut);
        stream.client_gone().await;
        front.proxy.wait_metric("podpin_streams_closed_total", &[("reason", "client")], 1.0).await;
        front.serves(&pod).await;
    }
}

#[tokio::test]
async fn a_reload_reaches_connections_that_are_open() {
    let pod = Pod::start("pod-a").await;
    let front = Front::plain(&setup(&pod, "off")).await;
    let (mut connection, mut stream) = streaming(&front, &pod).await;
    front.proxy.reload(&setup(&pod, "1s").h2c()).await;
    stream.event("one").await;
    event(&mut connection, "one").await;
    let ping = connection.h2_frame_that(H2Frame::is_ping).await.unwrap();
    assert!(connection.try_frames(&[ping.pong()]).await);
    connection.h2_frame_that(H2Frame::is_ping).await.unwrap();
}
