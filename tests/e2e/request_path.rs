//! Ordinary requests whose client or pod bends the rules: neither may take the bytes of one message for another's.

use podpin_testkit::{H2Frame, Pod, Setup};

use crate::h2_front::Front;

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
