//! Pods that die while an SDK speaks with them: the client learns of it, and goes on with another pod.

use super::completions::{BY_COOKIE, Chat, Scene};

/// A pod that dies in the middle of a completion, half an event behind a whole one.
async fn completion_cut_off(kind: &'static str, protocol: &'static str) {
    let mut chat = Chat::start(Scene { affinity: BY_COOKIE, kind, protocol: Some(protocol) }).await;
    let (dead, mut stream) = chat.question().await;
    chat.word(&mut stream, "one").await;
    stream.raw("20\r\ndata: {\"id\":").await;
    chat.pods[dead].stop().await;
    chat.says("error APIConnectionError").await;
    let (pod, stream) = chat.question().await;
    chat.answer(stream).await;
    let (again, stream) = chat.question().await;
    chat.answer(stream).await;
    assert_eq!(pod, again, "the client's new pin was forgotten");
    assert_eq!(chat.pods[dead].requests().len(), 1, "the question that was cut off was asked again");
    chat.replicas.wait_metric("podpin_streams_closed_total", &[("reason", "upstream_reset")], 1.0).await;
    chat.ends().await;
}

#[tokio::test]
async fn a_completion_whose_pod_dies_is_an_error_of_the_openai_sdk_and_the_next_is_answered() {
    completion_cut_off("sync", "http1").await;
}

#[tokio::test]
async fn over_http2_a_completion_whose_pod_dies_is_an_error_of_the_openai_sdk_and_the_next_is_answered() {
    completion_cut_off("async", "http2").await;
}
