//! Ordinary requests whose client or pod bends the rules: neither may take the bytes of one message for another's.

use podpin_testkit::{Connection, H2Frame, Pod, Reply, Request, Setup};

use crate::h2_front::Front;

async fn answer(stream: &mut TcpStream, bytes: &str) {
    stream.write_all(bytes.as_bytes()).await.unwrap();
}

async fn ok(connection: &mut Connection, pod: &Pod) {
    assert_eq!(connection.ask(&Request::get("/who")).await.text(), pod.name());
}

#[tokio::test]
async fn a_pod_that_nominates_the_length_does_not_take_it_from_the_client() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/x", Reply::new(200).header("Connection", "Content-Length").body("abc"));
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut connection = proxy.connect().await;
    let response = connection.ask(&Request::get("/x")).await;
    assert_eq!((response.text().as_str(), response.header("content-length")), ("abc", Some("3")));
    ok(&mut connection, &pod).await;
}

#[tokio::test]
async fn connect_over_http_2_is_refused_and_reaches_no_pod() {
    let pod = Pod::start("pod-a").await;
    for front in Front::both(&Setup::chat(&[&pod])).await {
        let mut connection = front.begun().await;
        let head = [(":method", "CONNECT"), (":authority", "app:443")];
        assert!(connection.try_frames(&[H2Frame::request(1, &head)]).await);
        let wanted = |frame: &H2Frame| {
            frame.stream() == 1 && (frame.status().is_some() || frame.reset_code().is_some())
        };
        let refused = connection.h2_frame_that(wanted).await.unwrap();
        assert_ne!(refused.status(), Some(200));
    }
    assert!(pod.requests().is_empty(), "{:?}", pod.targets());
}
