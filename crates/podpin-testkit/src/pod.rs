//! A pod that does what the test tells it: an HTTP/1.1 server on 127.0.0.1 with a script.
//!
//! It records every request as it arrived, byte for byte. What it answers is set per path with [`Pod::answer`] (from
//! now on) and [`Pod::answer_once`] (before those, in order). Without a script a request that accepts
//! `text/event-stream` opens a stream and every other request is told the pod's name. A stream is driven by the
//! test through its [`PodStream`].

mod answer;
mod connection;
mod stream;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::in_time;
use crate::wire::{Ending, Head, Wire};
pub use answer::{Answer, Framing, Reply, StreamAnswer};
pub use stream::PodStream;

/// A request as the pod received it.
#[derive(Clone, Debug)]
pub struct PodRequest {
    /// Request head.
    pub head: Head,
    /// Request method.
    pub method: String,
    /// Request target with the query.
    pub target: String,
    /// Request body, decoded.
    pub body: Vec<u8>,
    /// The lines of its trailer section.
    pub trailers: String,
    /// How its body ended.
    pub body_ending: Ending,
    /// On which of the pod's connections it came, counted from 0.
    pub connection: usize,
    /// When its head was complete.
    pub at: Instant,
}

impl PodRequest {
    /// The value of the first field of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// A scripted pod. Dropping it closes its socket and every connection.
#[derive(Debug)]
pub struct Pod {
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
    requests: AsyncMutex<mpsc::UnboundedReceiver<PodRequest>>,
    streams: AsyncMutex<mpsc::UnboundedReceiver<PodStream>>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    address: SocketAddr,
    once: Mutex<HashMap<String, VecDeque<Answer>>>,
    always: Mutex<HashMap<String, Answer>>,
    greeted: Mutex<HashSet<String>>,
    seen: Mutex<Vec<PodRequest>>,
    connections: AtomicUsize,
    requests: mpsc::UnboundedSender<PodRequest>,
    streams: mpsc::UnboundedSender<PodStream>,
}

impl Pod {
    /// Starts a pod on a free port.
    pub async fn start(name: &str) -> Pod {
        Pod::start_at(name, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// Starts a pod at `address`: to bring back one that was stopped.
    ///
    /// # Panics
    /// When the address is taken.
    pub async fn start_at(name: &str, address: SocketAddr) -> Pod {
        Pod::start_with(name, address, None)
    }

    /// Starts a pod on a free port that speaks TLS and nothing else.
    pub async fn start_tls(name: &str, tls: TlsAcceptor) -> Pod {
        Pod::start_with(name, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Some(tls))
    }

    fn start_with(name: &str, address: SocketAddr, tls: Option<TlsAcceptor>) -> Pod {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("SO_REUSEADDR");
        socket.bind(address).unwrap_or_else(|error| panic!("pod {name} cannot have {address}: {error}"));
        let listener = socket.listen(4096).expect("listen");
        let (requests, request_receiver) = mpsc::unbounded_channel();
        let (streams, stream_receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            address: listener.local_addr().expect("the address"),
            once: Mutex::default(),
            always: Mutex::default(),
            greeted: Mutex::default(),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            requests,
            streams,
        });
        Pod {
            accepting: tokio::spawn(accept(listener, tls, shared.clone())),
            shared,
            requests: AsyncMutex::new(request_receiver),
            streams: AsyncMutex::new(stream_receiver),
        }
    }

    /// Starts `pod-a`, `pod-b` and `pod-c`; their streams on `/events` begin with an event that names the pod.
    pub async fn start_three() -> [Pod; 3] {
        let pods = [Pod::start("pod-a").await, Pod::start("pod-b").await, Pod::start("pod-c").await];
        pods.iter().for_each(|pod| pod.greet("/events"));
        pods
    }

    /// The name under which it is listed.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Answers every request for `path` (without query) in this way from now on.
    pub fn answer(&self, path: &str, answer: impl Into<Answer>) {
        locked(&self.shared.always).insert(path.to_owned(), answer.into());
    }

    /// Answers one request for `path` in this way; several of them are used up in order.
    pub fn answer_once(&self, path: &str, answer: impl Into<Answer>) {
        locked(&self.shared.once).entry(path.to_owned()).or_default().push_back(answer.into());
    }

    /// Event streams on `path` begin with an event that names this pod. Other requests for it are not concerned.
    pub fn greet(&self, path: &str) {
        locked(&self.shared.greeted).insert(path.to_owned());
    }

    /// The next request, awaited.
    pub async fn next_request(&self) -> PodRequest {
        let what = format!("the next request at {}", self.name());
        in_time(&what, async { self.requests.lock().await.recv().await }).await.expect("the pod is running")
    }

    /// The next event stream (or hand-made exchange) that was opened here, awaited.
    pub async fn next_stream(&self) -> PodStream {
        let what = format!("the next event stream at {}", self.name());
        in_time(&what, async { self.streams.lock().await.recv().await }).await.expect("the pod is running")
    }

    /// The event streams that were opened here and not yet taken with [`Pod::next_stream`].
    pub async fn waiting_streams(&self) -> Vec<PodStream> {
        let mut receiver = self.streams.lock().await;
        std::iter::from_fn(|| receiver.try_recv().ok()).collect()
    }

    /// Forgets the requests so far, and gives up the streams that no test has taken.
    pub async fn forget(&self) {
        locked(&self.shared.seen).clear();
        let mut requests = self.requests.lock().await;
        while requests.try_recv().is_ok() {}
        drop(self.waiting_streams().await);
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<PodRequest> {
        locked(&self.shared.seen).clone()
    }

    /// The targets of every request so far.
    pub fn targets(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.target).collect()
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Closes the listening socket and all connections: further connects are refused.
    pub async fn stop(&mut self) {
        self.accepting.abort();
        // It ends as cancelled; what matters is that its sockets are closed when this returns.
        let _cancelled = (&mut self.accepting).await;
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    /// Returns the scripted answer to a request with this head.
    fn answer_to(&self, head: &Head) -> Answer {
        let path = head.word(1).split('?').next().unwrap_or_default();
        let once = locked(&self.once).get_mut(path).and_then(VecDeque::pop_front);
        let scripted = once.or_else(|| locked(&self.always).get(path).cloned());
        let accepts_events = head.header("accept").is_some_and(|accept| accept.contains("text/event-stream"));
        let greeted = locked(&self.greeted).contains(path);
        scripted.unwrap_or_else(|| match (accepts_events, greeted) {
            (true, true) => StreamAnswer::new().opening(&format!("data: {}\n\n", self.name)).into(),
            (true, false) => StreamAnswer::new().into(),
            (false, _) => Reply::new(200).body(self.name.clone()).into(),
        })
    }

    fn record(&self, request: PodRequest) {
        locked(&self.seen).push(request.clone());
        // The test has dropped the pod if this fails.
        let _unheard = self.requests.send(request);
    }
}

/// A test that panicked has poisoned nothing that another could misread.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let number = shared.connections.fetch_add(1, Ordering::SeqCst);
        let (tls, shared) = (tls.clone(), shared.clone());
        connections.spawn(async move {
            let wire = match tls {
                None => Wire::new(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Wire::over_tls(stream),
                    // The other end did not like our certificate, or has none.
                    Err(_) => return,
                },
            };
            connection::serve(wire, number, shared).await;
        });
        while connections.try_join_next().is_some() {}
    }
}
