//! Nothing that podpin writes is an event to a published client: comments, the reconnection time before the first event, and
//! that of the goodbye.

use podpin_testkit::{EndpointsFile, Pod, Reply, Setup, StreamAnswer, wait_for, wait_long};

use std::time::Duration;

/// Clients of PyPI; mcp reads its streams with httpx-sse.
const PYTHON: [&str; 5] = ["httpx-sse", "openai", "anthropic", "sseclient-py", "aiohttp-sse-client"];
/// Clients of npm.
const NODE: [&str; 3] = ["eventsource", "eventsource-parser", "fetch-event-source"];

#[tokio::test]
async fn published_clients_see_the_pods_events_and_no_other() {
    let clients = PYTHON.iter().map(|name| (*name, true)).chain(NODE.iter().map(|name| (*name, false)));
    for (name, is_python) in clients {
        let pod = Pod::start("pod-a").await;
        pod.answer("/events", StreamAnswer::new());
        let file = EndpointsFile::with(&[("pod-a", pod.address(), "ready")]);
        let setup = Setup::new().service_in("chat", &file).with("drain: {spread: 0s, timeout: 1s}");
        let proxy = setup
            .with("sse: {keepAlive: 1s, retry: {normal: 50ms, drain: {min: 50ms, max: 100ms}}}")
            .start()
            .await;
        let url = format!("http://{}/events", proxy.address);
        let mut client = if is_python {
            super::script("event_clients.py", &[name, &url])
        } else {
            super::node_script("event_clients.mjs", &[name, &url])
        };
        // On a busy machine a client takes its time to start.
        let asked = async || !pod.requests().is_empty();
        wait_long(Duration::from_secs(60), "the client's request", asked).await;
        let mut stream = pod.next_stream().await;
        let keepalives = "podpin_stream_keepalives_total";
        proxy.wait_metric_at_least(keepalives, &[], 1.0).await;
        stream.event_with_id("1", "one").await;
        proxy.wait_metric_at_least(keepalives, &[], 2.0).await;
        stream.event_with_id("2", "two").await;
        let said = super::lines(&mut client, 2).await;
        // The goodbye; a client that comes back gets the end of the stream.
        pod.answer("/events", Reply::new(204));
        file.write(&[("pod-a", pod.address(), "draining")]);
        stream.client_gone().await;
        wait_for("the client's end", async || client.stdout().last().is_some_and(|line| line == "end")).await;
        let seen: Vec<_> = said.iter().map(|event| (event["id"].clone(), event["data"].clone())).collect();
        assert_eq!(seen, [("1".into(), "one".into()), ("2".into(), "two".into())], "{name}");
        assert_eq!(client.stdout().len(), 3, "{name}: {:?}", client.stdout());
    }
}
