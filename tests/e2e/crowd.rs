//! Event stream clients by the dozen, each noting when and how its stream ended.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use podpin_testkit::{
    Connection, Ending, EventStream, H2Connection, Item, Pod, PodStream, Proxy, Request, Response, Visitor,
    in_time,
};
use tokio::task::JoinHandle;

/// New clients go anywhere: a pod that has many streams still gets one now and then.
pub(super) const BALANCE: &str = "balance: {strategy: random, slowStart: off}";

/// Pods as an endpoints file lists them, in these states.
pub(super) fn listed<'a>(pods: &'a [Pod], states: &[&'a str]) -> Vec<(&'a str, SocketAddr, &'a str)> {
    pods.iter().zip(states).map(|(pod, state)| (pod.name(), pod.address(), *state)).collect()
}

/// A client with its event stream on `/events`.
pub(super) struct Client {
    pub(super) visitor: Visitor,
    pub(super) stream: EventStream,
    /// The pod that has greeted it.
    pub(super) pod: String,
}

impl Client {
    /// A new client, wherever it goes.
    pub(super) async fn of(proxy: &Proxy) -> Client {
        Client::back(proxy.visitor()).await
    }

    /// A new client of this pod.
    pub(super) async fn on(proxy: &Proxy, pod: &str) -> Client {
        for _ in 0..200 {
            let mut visitor = proxy.visitor();
            if visitor.get("/who").await.text() == pod {
                return Client::back(visitor).await;
            }
        }
        panic!("in 200 attempts no new client came to {pod}");
    }

    /// A client that opens a stream (again).
    pub(super) async fn back(mut visitor: Visitor) -> Client {
        let mut stream = visitor.events("/events").await;
        let pod = stream.next_data().await;
        Client { visitor, stream, pod }
    }

    /// Waits for the end of its stream.
    pub(super) async fn left(self) -> Left {
        Left::of(self.stream).await
    }
}

/// So many new clients.
pub(super) async fn crowd(proxy: &Proxy, count: usize) -> Vec<Client> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(Client::of(proxy).await);
    }
    clients
}

/// So many streams of one HTTP/2 connection.
pub(super) async fn h2_crowd(connection: &mut H2Connection, count: usize) -> Vec<EventStream> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = connection.events(&Request::events("/events")).await;
        stream.next_data().await;
        streams.push(stream);
    }
    streams
}

/// How a stream ended.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) at: Instant,
    /// The items that came since its client last looked.
    pub(super) items: Vec<Item>,
    pub(super) ending: Ending,
    pub(super) stream: EventStream,
}

impl Left {
    /// Waits for the end of a stream.
    pub(super) async fn of(mut stream: EventStream) -> Left {
        let (items, ending) = in_time("the end of a stream", stream.rest()).await;
        Left { at: Instant::now(), items, ending, stream }
    }

    /// Returns the items before the goodbye.
    ///
    /// # Panics
    /// When it was none: a reconnection time from `sse.retry.drain` (1 s to 10 s by default) or `sse.retry.shutdown` (500 ms to
    /// 2 s), and a clean end.
    pub(super) fn goodbye(&self) -> &[Item] {
        let Some((Item::Retry(retry), before)) = self.items.split_last() else {
            panic!("no goodbye: {self:?}")
        };
        assert!((500..=10_000).contains(retry), "{retry} ms");
        assert_eq!(
            (&self.ending, self.stream.is_inside_event()),
            (&Ending::Clean, false),
            "{:?}",
            self.items
        );
        before
    }

    /// The connection of a stream that ended cleanly, over HTTP/1.
    pub(super) fn into_connection(self) -> Connection {
        self.stream.into_connection()
    }
}

/// Watches streams in tasks of their own, so that each end is noted when it comes.
pub(super) fn watch(streams: impl IntoIterator<Item = EventStream>) -> Vec<JoinHandle<Left>> {
    streams.into_iter().map(|stream| tokio::spawn(Left::of(stream))).collect()
}

/// All of them, once the last has ended; in the order of [`watch`].
pub(super) async fn all(watched: Vec<JoinHandle<Left>>) -> Vec<Left> {
    let mut all = Vec::with_capacity(watched.len());
    for one in watched {
        all.push(one.await.unwrap());
    }
    all
}

/// The streams of clients.
pub(super) fn streams(clients: Vec<Client>) -> Vec<EventStream> {
    clients.into_iter().map(|client| client.stream).collect()
}

/// Asserts that streams left evenly.
///
/// Every tenth of the time between the first and the last end carries a tenth of them; twice that is a busy machine's
/// due, and what is asked for (12 %) is the business of podpin-endpoints' property tests.
pub(super) fn assert_even(left: &[Left]) {
    let mut ends: Vec<Instant> = left.iter().map(|one| one.at).collect();
    ends.sort();
    let (first, window) = (ends[0], ends[ends.len() - 1] - ends[0]);
    let mut tenths = [0_usize; 10];
    for end in &ends {
        let tenth = (*end - first).as_nanos() * 10 / (window.as_nanos() + 1);
        tenths[usize::try_from(tenth).unwrap()] += 1;
    }
    assert!(tenths.iter().all(|count| *count * 5 <= ends.len()), "in tenths of {window:?}: {tenths:?}");
}

/// The time between the first and the last end.
pub(super) fn window(left: &[Left]) -> Duration {
    let ends = || left.iter().map(|one| one.at);
    ends().max().unwrap() - ends().min().unwrap()
}

/// Asks the admin port to `drain` or `undrain` an endpoint of `chat`.
pub(super) async fn operate(proxy: &Proxy, endpoint: &str, operation: &str) -> Response {
    let path = format!("/api/endpoints/chat/{endpoint}/{operation}");
    Request::new("POST", &path).header("Connection", "close").body("").send(proxy.admin).await
}

/// Sends an event to every stream that was opened at this pod since the last time; the streams, to send more.
pub(super) async fn tell_all(pod: &Pod, data: &str) -> usize {
    let mut streams = pod.waiting_streams().await;
    for stream in &mut streams {
        stream.event(data).await;
    }
    streams.len()
}

/// Sends events until none was read for a second: the client does not read, and the buffers between are full.
pub(super) async fn flood(stream: &mut PodStream) {
    let event = format!("data: {}\n\n", "x".repeat(900)).repeat(64);
    loop {
        match tokio::time::timeout(Duration::from_secs(1), stream.try_send(event.as_bytes())).await {
            Ok(taken) => assert!(taken, "cut while it was flooded"),
            Err(_) => return,
        }
    }
}
