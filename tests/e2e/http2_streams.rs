//! A thousand event streams over ten connections: order, affinity, what they cost, and how they leave.

use podpin_testkit::{EndpointsFile, EventStream, H2Connection, Pod, PodStream, Request, Setup};

use crate::crowd;
use crate::h2_front::Front;

const CONNECTIONS: usize = 10;
/// As many as one connection may have.
const STREAMS_OF_EACH: usize = 100;
const EVENTS: usize = 5;

/// A client's stream, the pod that greeted it and its cookie.
struct Held {
    stream: EventStream,
    pod: String,
    cookie: String,
}

impl Held {
    /// Takes its events, as they come: a client of the h2 library that leaves some hundred of them unread ends its
    /// connection.
    async fn read(mut self) -> Held {
        for number in 0..EVENTS {
            assert_eq!(self.stream.next_data().await, format!("{} {number}", self.pod));
        }
        self
    }
}

async fn open(connection: &mut H2Connection, cookie: Option<&str>) -> Held {
    let request = Request::events("/events");
    let request = cookie.into_iter().fold(request, |request, cookie| request.header("Cookie", cookie));
    let mut stream = connection.events(&request).await;
    let pod = stream.next_data().await;
    let set = stream.header("set-cookie").map(|set| set.split(';').next().unwrap_or_default().to_owned());
    let cookie = set.or(cookie.map(str::to_owned)).expect("a cookie");
    Held { stream, pod, cookie }
}

/// As many streams as the connections may have, opened one after another on each connection and on all at once.
async fn open_all(connections: &mut [H2Connection]) -> Vec<Held> {
    let opening = connections.iter_mut().map(async |connection| {
        let mut held = Vec::with_capacity(STREAMS_OF_EACH);
        for _ in 0..STREAMS_OF_EACH {
            held.push(open(connection, None).await);
        }
        held
    });
    futures_util::future::join_all(opening).await.into_iter().flatten().collect()
}

async fn tell(streams: &mut [PodStream], data: &str) {
    for stream in streams {
        stream.event(data).await;
    }
}

#[tokio::test]
async fn a_thousand_streams_over_ten_connections_get_their_events_in_order_and_leave_politely() {
    let pods = Pod::start_three().await;
    let listed = crowd::listed(&pods, &["ready"; 3]);
    let file = EndpointsFile::with(&listed);
    let setup =
        Setup::new().service_in("chat", &file).with("drain: {spread: 1s}").with("sse: {keepAlive: off}");
    let front = Front::secured(&setup).await;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(front.client().await);
    }
    let held = open_all(&mut connections).await;
    let active = [("service", "chat")];
    let all = (CONNECTIONS * STREAMS_OF_EACH) as f64;
    front.proxy.wait_metric("podpin_streams_active", &active, all).await;
    let reading: Vec<_> = held.into_iter().map(|client| tokio::spawn(client.read())).collect();
    for pod in &pods {
        let mut streams = pod.waiting_streams().await;
        assert!(!streams.is_empty(), "{} has none", pod.name());
        for number in 0..EVENTS {
            tell(&mut streams, &format!("{} {number}", pod.name())).await;
        }
    }
    let mut held = Vec::with_capacity(reading.len());
    for client in reading {
        held.push(client.await.unwrap());
    }
    file.write(&crowd::listed(&pods, &["draining", "ready", "ready"]));
    let (leaving, staying): (Vec<_>, Vec<_>) = held.into_iter().partition(|client| client.pod == "pod-a");
    let cookies: Vec<_> = leaving.iter().map(|client| client.cookie.clone()).collect();
    let left = crowd::all(crowd::watch(leaving.into_iter().map(|client| client.stream))).await;
    for one in &left {
        assert!(one.goodbye().is_empty(), "{:?}", one.items);
    }
    front.proxy.wait_metric("podpin_streams_active", &active, staying.len() as f64).await;
    let mut other = front.client().await;
    for (client, cookie) in
        staying.iter().map(|client| (client.pod.as_str(), client.cookie.as_str())).take(50)
    {
        assert_eq!(open(&mut other, Some(cookie)).await.pod, client, "its cookie pins it");
    }
    for cookie in cookies.iter().take(50) {
        let back = open(&mut other, Some(cookie)).await;
        assert_ne!((back.pod.as_str(), &back.cookie), ("pod-a", cookie), "it has moved");
    }
}

#[tokio::test]
async fn an_idle_stream_of_a_hundred_on_a_connection_costs_a_few_kilobytes() {
    let pod = Pod::start("pod-a").await;
    pod.greet("/events");
    let setup = Setup::chat(&[&pod]).top("workers: 1").with("sse: {keepAlive: off}");
    for front in Front::both(&setup).await {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut connection = front.client().await;
            drop(open(&mut connection, None).await);
            connections.push(connection);
        }
        let closed = [("reason", "client")];
        front.proxy.wait_metric("podpin_streams_closed_total", &closed, CONNECTIONS as f64).await;
        let empty = front.proxy.process.memory_bytes();
        let held = open_all(&mut connections).await;
        let full = front.proxy.process.memory_bytes();
        let each = full.saturating_sub(empty) / held.len() as u64;
        assert!(each <= 8 * 1024, "{each} bytes for each idle HTTP/2 stream");
        drop(held);
        front.proxy.wait_metric("podpin_streams_active", &[("service", "chat")], 0.0).await;
        let _again = open_all(&mut connections).await;
        let grown = front.proxy.process.memory_bytes().saturating_sub(full) / 1000;
        assert!(grown <= 1024, "{grown} bytes more for each stream after all left and came again");
    }
}
