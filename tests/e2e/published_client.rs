//! A published EventSource client: LaunchDarkly's `eventsource-client`, which reconnects as a browser does.

use std::time::Duration;

use eventsource_client::{Client, ClientBuilder, ReconnectOptions, SSE};
use futures_util::{Stream, StreamExt};
use launchdarkly_sdk_transport::HyperTransport;
use podpin_testkit::{Pod, Setup, in_time};

/// The next event. The client also hands out its errors, and then reconnects.
async fn next_event(
    events: &mut (impl Stream<Item = eventsource_client::Result<SSE>> + Unpin),
) -> (String, String) {
    loop {
        match in_time("the next event", events.next()).await {
            Some(Ok(SSE::Event(event))) => return (event.id.unwrap_or_default(), event.data),
            Some(Ok(SSE::Connected(_) | SSE::Comment(_)) | Err(_)) => {}
            None => panic!("the client gave up"),
        }
    }
}

#[tokio::test]
async fn a_published_event_source_client_resumes_on_its_pod_after_clean_and_unclean_ends() {
    let pods = Pod::start_three().await;
    let proxy =
        Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with("sse: {retry: {normal: 50ms}}").start().await;
    let mut visitor = proxy.visitor();
    let home = visitor.get("/who").await.text();
    let pod = pods.iter().find(|pod| pod.name() == home).unwrap();
    let cookie = format!("podpin-chat={}", visitor.cookie("podpin-chat").unwrap());
    let builder = ClientBuilder::for_url(&format!("http://{}/room", proxy.address)).unwrap();
    let reconnect = ReconnectOptions::reconnect(true).delay(Duration::from_millis(50)).build();
    let builder = builder.header("Cookie", &cookie).unwrap().reconnect(reconnect);
    let client =
        builder.build_with_transport(HyperTransport::builder().disable_proxy().build_http().unwrap());
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let reader = tokio::spawn(async move {
        let mut events = client.stream();
        while sender.send(next_event(&mut events).await).is_ok() {}
    });
    let mut resumed_from = Vec::new();
    for id in ["1", "2", "3"] {
        let mut stream = pod.next_stream().await;
        resumed_from.push(stream.request.header("last-event-id").map(str::to_owned));
        stream.event_with_id(id, "x").await;
        assert_eq!(in_time("the event", seen.recv()).await, Some((id.to_owned(), "x".to_owned())));
        if id == "1" { stream.finish().await } else { stream.reset() }
    }
    reader.abort();
    assert_eq!(resumed_from, [None, Some("1".to_owned()), Some("2".to_owned())]);
}
