//! Event streams that answer a POST, as completions of language models do: unbuffered, sticky, counted, left to finish.

use podpin_testkit::{
    Answer, Ending, EndpointsFile, EventStream, H2Connection, Pod, PodStream, Proxy, Request, Setup,
    StreamAnswer,
};

fn completion() -> Request {
    Request::new("POST", "/v1/chat/completions").body("{\"stream\":true}")
}

async fn pod(name: &str) -> Pod {
    let pod = Pod::start(name).await;
    pod.answer("/v1/chat/completions", Answer::Stream(StreamAnswer::new()));
    pod
}

/// A stream that has begun, from both ends.
async fn begun(proxy: &Proxy, pod: &Pod) -> (EventStream, PodStream) {
    let client = completion().open(proxy.address).await;
    (client, pod.next_stream().await)
}

#[tokio::test]
async fn each_event_of_a_post_arrives_before_the_next_is_sent() {
    let pod = pod("pod-a").await;
    let proxy = Setup::chat(&[&pod]).h2c().start().await;
    let (mut client, mut stream) = begun(&proxy, &pod).await;
    assert_eq!(stream.request.body, b"{\"stream\":true}");
    for word in ["one", "two", "three"] {
        stream.event(word).await;
        assert_eq!(client.next_data().await, word);
    }
    proxy.wait_metric("podpin_streams_active", &[("endpoint", "pod-a")], 1.0).await;
    proxy.wait_metric("podpin_streams_opened_total", &[("result", "new")], 1.0).await;
    proxy.wait_metric("podpin_affinity_decisions_total", &[("result", "new")], 1.0).await;
    stream.finish().await;
    assert_eq!(client.rest().await, (vec![], Ending::Clean));
    proxy.wait_metric("podpin_streams_active", &[("endpoint", "pod-a")], 0.0).await;
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "upstream_end")], 1.0).await;
    proxy.wait_metric("podpin_stream_events_total", &[], 3.0).await;
    let line = proxy.access_log_line(|line| line["kind"] == "stream").await;
    assert_eq!(
        (&line["method"], &line["reason"], &line["events"]),
        (&"POST".into(), &"upstream_end".into(), &3.into())
    );
    let mut h2 = H2Connection::open(proxy.address).await;
    let (status, mut client) = h2.open_stream(&Request::new("POST", "/v1/chat/completions")).await;
    let mut stream = pod.next_stream().await;
    for word in ["one", "two"] {
        stream.event(word).await;
        assert_eq!((status, client.next_data().await.as_str()), (200, word));
    }
}

#[tokio::test]
async fn a_client_that_leaves_its_post_releases_the_pod_and_one_that_breaks_off_is_not_asked_again() {
    let (one, other) = (pod("pod-a").await, pod("pod-b").await);
    let proxy = Setup::chat(&[&one]).start().await;
    let (client, mut stream) = begun(&proxy, &one).await;
    drop(client);
    stream.client_gone().await;
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "client")], 1.0).await;
    let proxy = Setup::chat(&[&one, &other]).with("drain: {handover: lastEventId}").start().await;
    let mut client = completion().open(proxy.address).await;
    let mut stream = tokio::select! {
        stream = one.next_stream() => stream,
        stream = other.next_stream() => stream,
    };
    stream.event_with_id("1", "half").await;
    assert_eq!(client.next_data().await, "half");
    stream.reset();
    let (items, ending) = client.rest().await;
    assert!(items.is_empty() && ending != Ending::Clean, "{items:?} {ending:?}");
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "upstream_reset")], 1.0).await;
    proxy.wait_metric("podpin_upstream_errors_total", &[], 1.0).await;
    assert_eq!(one.requests().len() + other.requests().len(), 2, "it was sent again");
}

#[tokio::test]
async fn the_end_of_a_broken_post_says_what_broke() {
    for (raw, kind, why) in [
        (Some("not a chunk\r\n"), "protocol", "a chunk is malformed"),
        (None, "reset", "the connection ended within the body"),
    ] {
        let pod = pod("pod-a").await;
        let proxy = Setup::chat(&[&pod]).start().await;
        let (mut client, mut stream) = begun(&proxy, &pod).await;
        stream.event("one").await;
        assert_eq!(client.next_data().await, "one");
        match raw {
            Some(raw) => stream.raw(raw).await,
            None => stream.close(),
        }
        assert_ne!(client.rest().await.1, Ending::Clean);
        let line = proxy.access_log_line(|line| line["kind"] == "stream").await;
        assert_eq!((&line["reason"], &line["error"]), (&"upstream_reset".into(), &why.into()), "{line}");
        proxy.wait_metric("podpin_upstream_errors_total", &[("kind", kind)], 1.0).await;
    }
}

#[tokio::test]
async fn a_post_takes_the_places_of_a_stream() {
    let pod = pod("pod-a").await;
    let limits = "limits: {streamsPerEndpoint: 1}";
    let proxy = Setup::chat(&[&pod]).with(limits).start().await;
    let (_client, stream) = begun(&proxy, &pod).await;
    let refused = completion().send(proxy.address).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    proxy.wait_metric("podpin_refusals_total", &[("kind", "full")], 1.0).await;
    stream.finish().await;
    proxy.wait_metric("podpin_streams_active", &[("endpoint", "pod-a")], 0.0).await;
    drop(completion().open(proxy.address).await);
    let proxy = Setup::chat(&[&pod]).with("limits: {streamsPerClient: 1}").start().await;
    let _client = completion().open(proxy.address).await;
    assert_eq!(completion().send(proxy.address).await.status, 429);
}

#[tokio::test]
async fn a_post_that_names_event_streams_is_refused_before_a_pod_does_its_work() {
    let pod = pod("pod-a").await;
    let accepting = |accept: &str| completion().header("Accept", accept);
    for (limits, status) in [("streamsPerEndpoint", 503), ("streamsPerClient", 429)] {
        let proxy = Setup::chat(&[&pod]).with(&format!("limits: {{{limits}: 1}}")).start().await;
        let (_client, stream) = begun(&proxy, &pod).await;
        let asked = pod.requests().len();
        for accept in ["text/event-stream", "application/json, text/event-stream"] {
            assert_eq!(accepting(accept).send(proxy.address).await.status, status);
        }
        assert_eq!(pod.requests().len(), asked, "{limits}");
        // What these will be answered with, only the pod knows.
        for accept in ["*/*", "text/event-stream;q=0"] {
            assert_eq!(accepting(accept).send(proxy.address).await.status, status);
            pod.next_stream().await;
        }
        assert_eq!(pod.requests().len(), asked + 2, "{limits}");
        stream.finish().await;
        proxy.wait_metric("podpin_streams_active", &[("endpoint", "pod-a")], 0.0).await;
        let mut client = accepting("text/event-stream").open(proxy.address).await;
        pod.next_stream().await.event("one").await;
        assert_eq!(client.next_data().await, "one", "a place that was only looked at is free");
    }
}

#[tokio::test]
async fn a_post_may_finish_while_its_pod_drains_and_is_cut_at_the_deadline() {
    let pod = pod("pod-a").await;
    let file = EndpointsFile::with(&[("pod-a", pod.address(), "ready")]);
    let setup = Setup::new().service_in("chat", &file).h2c();
    let patient = setup.clone().with("drain: {spread: 0s, timeout: 1h}").start().await;
    let hasty = setup.with("drain: {spread: 0s, timeout: 1s}").start().await;
    let (mut client, mut stream) = begun(&patient, &pod).await;
    let (mut cut, _silent) = begun(&hasty, &pod).await;
    let mut h2 = H2Connection::open(hasty.address).await;
    let (_, mut cut_h2) = h2.open_stream(&Request::new("POST", "/v1/chat/completions")).await;
    file.write(&[("pod-a", pod.address(), "draining")]);
    let (_, ending) = cut.rest().await;
    assert_ne!(ending, Ending::Clean);
    assert_ne!(cut_h2.rest().await.1, Ending::Clean);
    hasty.wait_metric("podpin_streams_closed_total", &[("reason", "drain")], 2.0).await;
    patient.wait_endpoints("chat", &[("pod-a", "draining")]).await;
    stream.event("last words").await;
    assert_eq!(client.next_data().await, "last words");
    stream.finish().await;
    assert_eq!(client.rest().await, (vec![], Ending::Clean));
    patient.wait_metric("podpin_streams_closed_total", &[("reason", "upstream_end")], 1.0).await;
}
