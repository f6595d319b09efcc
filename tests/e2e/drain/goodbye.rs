//! The goodbye itself, and where its client goes then.

use std::collections::BTreeSet;

use podpin_testkit::{
    Ending, EndpointsFile, Event, H2Connection, Item, Pod, PodRequest, Proxy, Request, Setup,
};

use crate::crowd::{BALANCE, Client, Left, all, listed, watch};

const AT_ONCE: &str = "drain: {spread: 0s, timeout: 5s}";
/// The same for streams that may move, which those without ids cannot.
const HELD: &str = "drain: {spread: 0s, timeout: 5s, handover: lastEventId}";

/// Pods of which the first drains when told so, and a proxy in front of them.
async fn about_to_drain() -> ([Pod; 3], EndpointsFile, Proxy) {
    about_to_drain_with(AT_ONCE).await
}

async fn about_to_drain_with(drain: &str) -> ([Pod; 3], EndpointsFile, Proxy) {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&listed(&pods, &["ready"; 3]));
    let setup = Setup::new().service_in("chat", &file).with(drain).with(BALANCE).h2c();
    let proxy = setup.with("sse: {keepAlive: off, retry: {normal: 2500ms}}").start().await;
    (pods, file, proxy)
}

fn drain(pods: &[Pod], file: &EndpointsFile) {
    file.write(&listed(pods, &["draining", "ready", "ready"]));
}

#[tokio::test]
async fn it_waits_for_the_boundary_and_withholds_what_is_half_received() {
    let (pods, file, proxy) = about_to_drain_with(HELD).await;
    let client = Client::on(&proxy, "pod-a").await;
    let mut stream = pods[0].next_stream().await;
    stream.send("data: whole\n\ndata: half").await;
    drain(&pods, &file);
    let left = client.left().await;
    assert_eq!(left.goodbye(), [Item::Event(Event { data: "whole".into(), ..Event::default() })]);
    let text = left.stream.text();
    assert!(!text.contains("half"), "{text}");
    let last = text.split("\n\n").last().unwrap();
    assert!(last.starts_with("retry: ") && last.ends_with('\n'), "no block of its own: {text:?}");
    stream.client_gone().await;
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "drain")], 1.0).await;
    let line = proxy.access_log_line(|line| line["path"] == "/events").await;
    assert_eq!(
        (&line["reason"], &line["endpoint"], &line["status"]),
        (&"drain".into(), &"pod-a".into(), &200.into())
    );
}

#[tokio::test]
async fn it_waits_for_the_end_of_an_event_that_has_begun_to_pass() {
    let (pods, file, proxy) = about_to_drain().await;
    let mut client = Client::on(&proxy, "pod-a").await;
    let mut stream = pods[0].next_stream().await;
    stream.send("id: 7\ndata: ha").await;
    client.stream.until_contains("data: ha").await;
    drain(&pods, &file);
    proxy.wait_metric("podpin_endpoints", &[("state", "draining")], 1.0).await;
    stream.send("lf\n\n").await;
    let left = client.left().await;
    assert_eq!(
        left.goodbye(),
        [Item::Event(Event { id: "7".into(), data: "half".into(), ..Event::default() })]
    );
}

#[tokio::test]
async fn a_time_that_the_client_was_told_last_is_not_said_again() {
    for (own, said) in
        [("retry: 3000\n", None), ("retry: 5000\n", Some("retry: 3000\n")), ("", Some("retry: 3000\n"))]
    {
        let pods = Pod::start_three().await;
        let file = EndpointsFile::with(&listed(&pods, &["ready"; 3]));
        let setup = Setup::new().service_in("chat", &file).with(AT_ONCE).with(BALANCE);
        let proxy = setup.with("sse: {retry: {normal: off, drain: {min: 3s, max: 3s}}}").start().await;
        let mut client = Client::on(&proxy, "pod-a").await;
        let mut stream = pods[0].next_stream().await;
        stream.send(&format!("{own}data: x\n\n")).await;
        client.stream.until_contains("data: x\n\n").await;
        drain(&pods, &file);
        let (_, ending) = client.stream.rest().await;
        assert_eq!(ending, Ending::Clean);
        let text = client.stream.text();
        let last = text.rsplit("data: x\n\n").next().unwrap();
        assert_eq!(last, said.unwrap_or(""), "{text:?}");
    }
}

#[tokio::test]
async fn the_reconnection_time_is_drawn_from_the_whole_range() {
    let (pods, file, proxy) = about_to_drain().await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(Client::on(&proxy, "pod-a").await.stream);
    }
    let watched = watch(clients);
    drain(&pods, &file);
    let times: BTreeSet<u64> = all(watched)
        .await
        .iter()
        .flat_map(|left| left.items.clone())
        .filter_map(|item| if let Item::Retry(time) = item { Some(time) } else { None })
        .collect();
    assert!(times.len() >= 50, "drawn, not fixed: {times:?}");
    let (least, most) = (times.first().unwrap(), times.last().unwrap());
    // Of 60 from an even draw, none within a quarter of an end is one in ten million.
    assert!(*least < 3_250 && *most > 7_750 && *least >= 1_000 && *most <= 10_000, "{times:?}");
}

#[tokio::test]
async fn the_connection_carries_the_next_request() {
    let (pods, file, proxy) = about_to_drain().await;
    let client = Client::on(&proxy, "pod-a").await;
    drain(&pods, &file);
    let left = client.left().await;
    assert!(left.goodbye().is_empty());
    let mut connection = left.into_connection();
    assert_eq!(connection.unread(), b"");
    assert_eq!(connection.ask(&Request::get("/who")).await.status, 200);
    connection.send(Request::events("/events").bytes()).await;
    let head = connection.head().await;
    assert_ne!(connection.into_events(head).next_data().await, "pod-a");
}

#[tokio::test]
async fn over_http_2_it_is_the_same_and_the_connection_serves_on() {
    let (pods, file, proxy) = about_to_drain_with(HELD).await;
    let mut connection = H2Connection::open(proxy.address).await;
    let (mut leaving, mut staying) = (Vec::new(), Vec::new());
    // Where each goes is drawn by lot.
    while leaving.is_empty() || staying.is_empty() || leaving.len() + staying.len() < 12 {
        let mut stream = connection.events(&Request::events("/events")).await;
        let pod = stream.next_data().await;
        if pod == "pod-a" { leaving.push(stream) } else { staying.push(stream) }
    }
    for stream in &mut pods[0].waiting_streams().await {
        stream.send("data: whole\n\ndata: half").await;
    }
    drain(&pods, &file);
    for stream in leaving {
        let left = Left::of(stream).await;
        assert_eq!(left.goodbye(), [Item::Event(Event { data: "whole".into(), ..Event::default() })]);
    }
    for pod in &pods[1..] {
        crate::crowd::tell_all(pod, "all").await;
    }
    for stream in &mut staying {
        assert_eq!(stream.next_data().await, "all");
    }
    assert_eq!(connection.send(&Request::get("/who")).await.status, 200);
}

/// The last request for `/events` that any of these pods had.
fn last_events<'a>(pods: &'a [Pod], name: &str) -> (&'a Pod, PodRequest) {
    let pod = pods.iter().find(|pod| pod.name() == name).unwrap();
    let mut requests = pod.requests().into_iter().filter(|request| request.path() == "/events");
    (pod, requests.next_back().unwrap())
}

#[tokio::test]
async fn the_next_stream_begins_with_the_normal_time_on_another_pod_that_is_told_who_comes() {
    let (pods, file, proxy) = about_to_drain().await;
    let mut client = Client::on(&proxy, "pod-a").await;
    let session = last_events(&pods, "pod-a").1.header("x-podpin-session").unwrap().to_owned();
    let cookie = client.visitor.cookie("podpin-chat").unwrap().to_owned();
    drain(&pods, &file);
    let left = Left::of(client.stream).await;
    assert!(left.goodbye().is_empty());
    let forged = Request::events("/events")
        .header("X-Podpin-Session", "forged")
        .header("X-Podpin-Repinned", "forged")
        .header("x-podpin-other", "forged")
        .header("Last-Event-ID", "41");
    let mut again = client.visitor.open(forged).await;
    let first = again.next().await;
    assert!(
        matches!(first, Ok(Item::Retry(2_000..=3_000))),
        "the normal time, before anything else: {first:?}"
    );
    let home = again.next_data().await;
    assert_ne!(home, "pod-a");
    assert!(again.header("set-cookie").is_some_and(|line| line.starts_with("podpin-chat=")));
    assert_ne!(client.visitor.cookie("podpin-chat"), Some(cookie.as_str()));
    let (_, request) = last_events(&pods, &home);
    assert_eq!(request.head.all("x-podpin-session"), [session.as_str()], "the same session");
    assert_eq!(request.head.all("x-podpin-repinned"), ["draining"]);
    assert_eq!(request.head.all("last-event-id"), ["41"]);
    assert!(!String::from_utf8_lossy(&request.head.raw).contains("forged"));
    // The new pin holds, and is no move any more.
    let third = client.visitor.events("/events").await;
    assert_eq!(third.header("set-cookie"), None);
    assert_eq!(last_events(&pods, &home).1.header("x-podpin-repinned"), None);
    proxy.wait_metric("podpin_streams_opened_total", &[("result", "repinned")], 1.0).await;
}

#[tokio::test]
async fn a_new_client_cannot_make_pods_believe_that_it_was_moved() {
    let (pods, _file, proxy) = about_to_drain().await;
    for request in [Request::events("/events"), Request::get("/who")] {
        let forged = request.header("X-Podpin-Repinned", "gone").header("X-Podpin-Session", "root");
        let mut connection = proxy.connect().await;
        connection.send(forged.bytes()).await;
        connection.head().await;
    }
    let requests: Vec<_> = pods.iter().flat_map(Pod::requests).collect();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(request.header("x-podpin-repinned"), None);
        let sessions = request.head.all("x-podpin-session");
        assert!(matches!(sessions.as_slice(), [session] if *session != "root"), "{sessions:?}");
    }
}

#[tokio::test]
async fn parallel_requests_and_other_proxies_find_the_same_successor() {
    let pods = Pod::start_three().await;
    let fourth = Pod::start("pod-d").await;
    fourth.greet("/events");
    let pods: Vec<Pod> = pods.into_iter().chain([fourth]).collect();
    let file = EndpointsFile::with(&listed(&pods, &["ready"; 4]));
    let setup = Setup::new().service_in("chat", &file).with(AT_ONCE).with(BALANCE);
    let (proxy, other) = (setup.start().await, setup.start().await);
    let mut clients = Vec::new();
    // That one of three successors gets all of so many is one in a million at worst.
    for _ in 0..20 {
        clients.push(Client::on(&proxy, "pod-a").await);
    }
    file.write(&listed(&pods, &["draining", "ready", "ready", "ready"]));
    other.wait_metric("podpin_endpoints", &[("state", "draining")], 1.0).await;
    let mut homes = BTreeSet::new();
    for client in clients {
        let visitor = client.visitor.clone();
        assert_eq!(client.left().await.ending, Ending::Clean);
        let tab =
            async |mut visitor: podpin_testkit::Visitor| visitor.events("/events").await.next_data().await;
        let ask = async |mut visitor: podpin_testkit::Visitor| visitor.get("/who").await.text();
        let elsewhere = visitor.at(other.address);
        let (one, two, three, four) =
            tokio::join!(tab(visitor.clone()), tab(visitor.clone()), ask(visitor.clone()), tab(elsewhere));
        assert_eq!([&two, &three, &four], [&one; 3]);
        homes.insert(one);
    }
    assert!(homes.len() >= 2 && !homes.contains("pod-a"), "they spread over the others: {homes:?}");
}
