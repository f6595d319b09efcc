//! Another configuration while the proxy runs: what is new holds from then on, and no stream notices.

mod edge;
mod load;
mod refused;
mod services;

use podpin_testkit::{Answer, Ending, Item, Pod, Request, Setup, StreamAnswer};

/// Streams that have to leave do so at once, and politely.
const QUICK: &str = "drain: {spread: 0s, timeout: 5s}";

/// Pods whose streams are opened and fed by the test.
async fn silent_pods(names: &[&str]) -> Vec<Pod> {
    let mut pods = Vec::new();
    for name in names {
        let pod = Pod::start(name).await;
        pod.answer("/events", StreamAnswer::new());
        pods.push(pod);
    }
    pods
}

#[tokio::test]
async fn new_routes_and_services_serve_and_old_streams_go_on() {
    let pods = silent_pods(&["pod-a", "pod-b"]).await;
    let proxy = Setup::chat(&[&pods[0]]).start().await;
    let mut client = proxy.visitor().events("/events").await;
    let mut stream = pods[0].next_stream().await;
    let two = Setup::chat(&[&pods[0]])
        .service("news", &[&pods[1]])
        .route("{name: all, service: chat}")
        .route("{name: news, matches: [{path: {value: /news}}], service: news}");
    proxy.reload(&two).await;
    assert_eq!(proxy.get("/news/who").await.text(), "pod-b");
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
    assert_eq!(proxy.endpoints("news").await.len(), 1);
    stream.event("after").await;
    assert_eq!(client.next_data().await, "after");
    assert_eq!(proxy.metric("podpin_config_last_reload_success", &[]).await, 1.0);
}

#[tokio::test]
async fn a_stream_keeps_the_times_that_it_began_with() {
    let pods = silent_pods(&["pod-a"]).await;
    let setup =
        |keep_alive: &str| Setup::chat(&[&pods[0]]).with(&format!("sse: {{keepAlive: {keep_alive}}}"));
    let proxy = setup("off").start().await;
    let mut old = proxy.visitor().events("/events").await;
    let mut stream = pods[0].next_stream().await;
    proxy.reload(&setup("1s")).await;
    let mut new = proxy.visitor().events("/events").await;
    for _ in 0..2 {
        assert!(matches!(new.next().await, Ok(Item::Comment(_))));
    }
    stream.event("first").await;
    let first = old.next().await;
    assert!(matches!(&first, Ok(Item::Event(event)) if event.data == "first"), "{first:?}");
}

#[tokio::test]
async fn the_streams_of_a_route_that_is_gone_leave_and_no_others() {
    let pods = silent_pods(&["pod-a"]).await;
    pods[0].answer("/admin/events", StreamAnswer::new());
    let setup =
        Setup::chat(&[&pods[0]]).with(QUICK).with("sse: {retry: {normal: off, drain: {min: 3s, max: 3s}}}");
    let admin = "{name: admin, matches: [{path: {value: /admin}}], service: chat}";
    let main = "{name: main, matches: [{path: {value: /events}}], service: chat}";
    let proxy = setup.clone().route(main).route(admin).start().await;
    let mut leaves = proxy.visitor().events("/admin/events").await;
    let _leaves = pods[0].next_stream().await;
    let mut stays = proxy.visitor().events("/events").await;
    let mut stream = pods[0].next_stream().await;
    proxy.reload(&setup.route(main)).await;
    let (items, ending) = leaves.rest().await;
    assert!(matches!(items.as_slice(), [Item::Retry(3_000)]), "{items:?}");
    assert_eq!(ending, Ending::Clean);
    assert_eq!(proxy.get("/admin/who").await.status, 404);
    stream.event("still here").await;
    assert_eq!(stays.next_data().await, "still here");
    let closed = proxy.metrics().await;
    assert_eq!(closed.sum("podpin_streams_closed_total", &[("reason", "drain")]), 1.0);
    assert_eq!(closed.sum("podpin_streams_closed_total", &[]), 1.0);
}

#[tokio::test]
async fn of_several_routes_without_names_the_one_that_is_removed_loses_its_streams_and_no_other() {
    let pods = silent_pods(&["pod-a"]).await;
    pods[0].answer("/admin/events", StreamAnswer::new());
    let setup = Setup::chat(&[&pods[0]]).with(QUICK);
    let first = "{matches: [{path: {value: /admin}}], service: chat}";
    let second = "{matches: [{path: {value: /events}}], service: chat}";
    let proxy = setup.clone().route(first).route(second).start().await;
    let mut leaves = proxy.visitor().events("/admin/events").await;
    let _leaves = pods[0].next_stream().await;
    let mut stays = proxy.visitor().events("/events").await;
    let mut stream = pods[0].next_stream().await;
    // The second one takes over the name of the first.
    proxy.reload(&setup.clone().route(second)).await;
    assert_eq!(leaves.rest().await.1, Ending::Clean);
    stream.event("still here").await;
    assert_eq!(stays.next_data().await, "still here");
    // The same name and other matches: a change of that route, which its streams survive.
    let wider = "{matches: [{path: {value: /events}}, {path: {value: /more}}], service: chat}";
    proxy.reload(&setup.route(wider)).await;
    stream.event("still here").await;
    assert_eq!(stays.next_data().await, "still here");
    let closed = proxy.metrics().await;
    assert_eq!(closed.sum("podpin_streams_closed_total", &[]), 1.0);
}

#[tokio::test]
async fn a_stream_whose_route_is_gone_is_not_handed_over() {
    let pods = silent_pods(&["pod-a", "pod-b"]).await;
    let setup = Setup::chat(&[&pods[0], &pods[1]]).with("drain: {handover: lastEventId, spread: 0s}");
    let route = |name: &str, path: &str| {
        format!("{{name: {name}, matches: [{{path: {{value: {path}}}}}], service: chat}}")
    };
    let proxy = setup.clone().route(&route("main", "/events")).start().await;
    let mut client = proxy.visitor().events("/events").await;
    let at = usize::from(pods[0].requests().is_empty());
    let mut stream = pods[at].next_stream().await;
    stream.send("id: 1\ndata: one\n\n").await;
    client.next_event().await;
    proxy.reload(&setup.route(&route("other", "/other"))).await;
    assert_eq!(client.rest().await.1, Ending::Clean);
    let asked: usize = pods.iter().map(|pod| pod.requests().len()).sum();
    assert_eq!(asked, 1, "a pod was asked to go on with it");
}

#[tokio::test]
async fn a_route_that_leads_elsewhere_from_now_on_is_another_route() {
    let pods = silent_pods(&["pod-a", "pod-b"]).await;
    let setup = |service: &str| {
        let both = Setup::chat(&[&pods[0]]).with(QUICK).service("next", &[&pods[1]]);
        both.route(&format!("{{name: main, service: {service}}}"))
    };
    let proxy = setup("chat").start().await;
    let mut client = proxy.visitor().events("/events").await;
    let _stream = pods[0].next_stream().await;
    proxy.reload(&setup("next")).await;
    assert_eq!(client.rest().await.1, Ending::Clean);
    assert_eq!(proxy.get("/who").await.text(), "pod-b");
}

#[tokio::test]
async fn a_stream_that_begins_while_its_route_is_taken_away_leaves_too() {
    let other = "{name: other, matches: [{path: {value: /other}}], service: chat}";
    begins_late_and_leaves(|setup, _| setup.route(other)).await;
}

#[tokio::test]
async fn a_stream_that_begins_while_its_service_is_taken_away_leaves_too() {
    begins_late_and_leaves(|_, pod| Setup::new().service("news", &[pod])).await;
}

/// A stream whose pod answers after a reload to what `next` makes of the configuration.
async fn begins_late_and_leaves(next: impl FnOnce(Setup, &Pod) -> Setup) {
    let pods = silent_pods(&["pod-a"]).await;
    pods[0].answer("/slow", Answer::ByHand);
    let setup = Setup::chat(&[&pods[0]]).with(QUICK);
    let proxy = setup.clone().route("{name: main, service: chat}").start().await;
    let mut connection = proxy.connect().await;
    connection.send(Request::events("/slow").bytes()).await;
    let mut stream = pods[0].next_stream().await;
    proxy.reload(&next(setup, &pods[0])).await;
    stream.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await;
    let head = connection.head().await;
    assert_eq!(connection.into_events(head).rest().await.1, Ending::Clean);
}

#[tokio::test]
async fn streams_that_leave_keep_the_time_that_they_were_given() {
    let pods = silent_pods(&["pod-a", "pod-b"]).await;
    let setup = |times: &str| Setup::chat(&[&pods[0], &pods[1]]).with(&format!("drain: {{{times}}}"));
    let proxy = setup("spread: 1h, timeout: 2h").start().await;
    let mut clients = Vec::new();
    let mut streams = Vec::new();
    let mut visitor = proxy.pinned_to("pod-a").await;
    for _ in 0..10 {
        clients.push(visitor.events("/events").await);
        streams.push(pods[0].next_stream().await);
    }
    Request::new("POST", "/api/endpoints/chat/pod-a/drain").send(proxy.admin).await;
    let remaining = [("service", "chat"), ("endpoint", "pod-a")];
    proxy.wait_metric("podpin_drain_streams_remaining", &remaining, 10.0).await;
    proxy.reload(&setup("spread: 0s, timeout: 1s")).await;
    // A drain that begins later has the new time: what may finish until its deadline is cut then.
    pods[1].answer("/post", StreamAnswer::new());
    let post = Request::new("POST", "/post").header("Accept", "text/event-stream").body("x");
    let mut other = proxy.pinned_to("pod-b").await.open(post).await;
    let _stream = pods[1].next_stream().await;
    Request::new("POST", "/api/endpoints/chat/pod-b/drain").send(proxy.admin).await;
    assert_ne!(other.rest().await.1, Ending::Clean);
    for (client, stream) in clients.iter_mut().zip(&mut streams) {
        stream.event("still here").await;
        assert_eq!(client.next_data().await, "still here");
    }
}

#[tokio::test]
async fn the_streams_of_a_second_reload_have_their_own_time() {
    let pods = silent_pods(&["pod-a"]).await;
    pods[0].answer("/one", StreamAnswer::new());
    pods[0].answer("/two", StreamAnswer::new());
    let setup = |times: &str, routes: &[&str]| {
        let setup = Setup::chat(&[&pods[0]]).with(&format!("drain: {{{times}}}"));
        routes.iter().fold(setup, |setup, name| {
            setup.route(&format!("{{name: {name}, matches: [{{path: {{value: /{name}}}}}], service: chat}}"))
        })
    };
    let proxy = setup("spread: 1h, timeout: 2h", &["one", "two", "three"]).start().await;
    let mut one = proxy.visitor().events("/one").await;
    let mut one_stream = pods[0].next_stream().await;
    let mut two = proxy.visitor().events("/two").await;
    let _two_stream = pods[0].next_stream().await;
    proxy.reload(&setup("spread: 1h, timeout: 2h", &["two", "three"])).await;
    proxy.reload(&setup("spread: 0s, timeout: 5s", &["three"])).await;
    assert_eq!(two.rest().await.1, Ending::Clean);
    one_stream.event("still here").await;
    assert_eq!(one.next_data().await, "still here");
}
