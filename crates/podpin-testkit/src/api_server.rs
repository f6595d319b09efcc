//! A Kubernetes API server as far as EndpointSlices and Pods go: a store with versions, lists, watches, and a fault script.
//!
//! Plain HTTP/1.1 (or TLS 1.2/1.3) over raw sockets, because a real one and every library is too well behaved: half
//! lines, hangs, resets and versions that run backwards are what a client of it must survive. What it knows of the
//! API was measured on a real kube-apiserver 1.36; recordings of it can be replayed with
//! [`ApiServer::replay`]. Every request is logged with its time, so that a test can bound their rate.
//!
//! It writes down what it is told and never judges it: loopback addresses, which the real one refuses, are how
//! scripted pods get into slices.

mod connection;
mod fault;
mod kubeconfig;
mod pod;
mod query;
mod recording;
mod slice;
mod socket;
mod store;
mod tls;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::{Pod, free_port, wait_for};
pub use fault::{Cut, Fault, On};
pub use kubeconfig::Kubeconfig;
pub use pod::PodObject;
pub use recording::{Recording, Step};
pub use slice::{Slice, SlicePod};

use fault::Script;
use query::{Query, Resource, Scope};
use slice::NAMESPACE;
use socket::Acceptor;
use store::{Bookmark, Change, Store};

/// How often a watch gets a bookmark by itself; about what a real one does.
const BOOKMARK_EVERY: Duration = Duration::from_mins(1);

/// A request as the API server received it.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    /// Resource and verb.
    pub on: On,
    /// Method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Value of `Accept`.
    pub accept: Option<String>,
    /// Value of `Authorization`.
    pub authorization: Option<String>,
    /// On which connection it came, counted from 0.
    pub connection: usize,
    /// When its head was complete.
    pub at: Instant,
}

/// A running API server. Dropping it closes its socket and every connection.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

/// State that all connections share.
#[derive(Debug)]
struct Shared {
    acceptor: Acceptor,
    state: Mutex<State>,
    /// Counts the healings: whatever hangs waits for the next one.
    healings: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    store: Store,
    script: Script,
    watches: Vec<Watch>,
    requests: Vec<ApiRequest>,
    connections: usize,
    token: Option<String>,
    /// Services by their path, which can be read but are neither listed nor watched.
    services: HashMap<String, Value>,
}

/// A watch that is open.
#[derive(Debug)]
struct Watch {
    on: On,
    target: String,
    scope: Scope,
    takes_bookmarks: bool,
    is_deaf: bool,
    pushes: mpsc::UnboundedSender<Push>,
}

/// A command to the connection of a watch.
#[derive(Clone, Debug)]
enum Push {
    /// A line: without its line feed, not necessarily JSON.
    Line(String),
    /// An end.
    End(Cut),
}

impl ApiServer {
    /// Starts one over plain HTTP.
    pub async fn start() -> ApiServer {
        ApiServer::start_with(Acceptor::Plain).await
    }

    /// Starts one over TLS with a certificate authority of its own, see [`ApiServer::kubeconfig`].
    pub async fn start_tls() -> ApiServer {
        ApiServer::start_with(Acceptor::tls()).await
    }

    async fn start_with(acceptor: Acceptor) -> ApiServer {
        let state = Mutex::default();
        let shared = Arc::new(Shared { acceptor, state, healings: watch::Sender::new(0) });
        // Not an ephemeral port: between `stop` and `start_again` no outgoing connection may take it.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut server = ApiServer { shared, address, accepting: None };
        server.start_again().await;
        server
    }

    /// Starts one over plain HTTP on a socket that listens already, such as one of another network.
    ///
    /// # Panics
    /// When the socket does not listen.
    pub fn start_on(listener: std::net::TcpListener) -> ApiServer {
        let address = listener.local_addr().expect("a socket that listens");
        let listener = TcpListener::from_std(listener).expect("a socket of this runtime");
        let state = Mutex::default();
        let shared = Arc::new(Shared { acceptor: Acceptor::Plain, state, healings: watch::Sender::new(0) });
        let accepting = Some(tokio::spawn(accept(listener, shared.clone())));
        ApiServer { shared, address, accepting }
    }

    /// Closes the port and cuts every connection: further connects are refused. The objects stay.
    pub async fn stop(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        accepting.abort();
        // It ends as cancelled; what matters is that its sockets are closed when this returns.
        let _cancelled = accepting.await;
        self.shared.state().watches.clear();
    }

    /// Listens again on the port of before.
    ///
    /// # Panics
    /// When it is running, or the port was taken in between.
    pub async fn start_again(&mut self) {
        assert!(self.accepting.is_none(), "the API server is running");
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("SO_REUSEADDR");
        let address = self.address;
        socket.bind(address).unwrap_or_else(|error| panic!("the API server cannot have {address}: {error}"));
        let listener = socket.listen(1024).expect("listen");
        self.accepting = Some(tokio::spawn(accept(listener, self.shared.clone())));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig that points here, with the certificate authority over TLS and the token that is required.
    pub fn kubeconfig(&self) -> Kubeconfig {
        let token = self.shared.state().token.clone();
        Kubeconfig::write(self.address, self.shared.acceptor.authority(), token.as_deref())
    }

    /// Refuses every request without this bearer token with 401 from now on; open watches go on.
    pub fn require_token(&self, token: &str) {
        self.shared.state().token = Some(token.to_owned());
    }

    /// Creates or replaces a slice.
    pub fn put(&self, slice: &Slice) {
        self.put_value(slice.value());
    }

    /// Creates or replaces a Service of the namespace `lab`, which can be read by its name. A port has a name, a number and a
    /// `targetPort`.
    pub fn put_service(&self, name: &str, ports: &[(&str, u16, Value)]) {
        let port = |(name, port, target): &(&str, u16, Value)| json!({"name": name, "port": port, "targetPort": target});
        let ports: Vec<Value> = ports.iter().map(port).collect();
        let object = json!({
            "kind": "Service", "apiVersion": "v1", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"selector": {"app": name}, "ports": ports},
        });
        self.shared
            .state()
            .services
            .insert(format!("/api/v1/namespaces/{NAMESPACE}/services/{name}"), object);
    }

    /// Creates or replaces an object as it is, but for its version.
    pub fn put_value(&self, object: Value) {
        let mut state = self.shared.state();
        let change = state.store.put(object);
        state.publish(&change);
    }

    /// As [`ApiServer::put`], but no open watch is told: for an event that is lost.
    pub fn put_unseen(&self, slice: &Slice) {
        self.shared.state().store.put(slice.value());
    }

    /// Deletes a slice.
    ///
    /// # Panics
    /// When there is none.
    pub fn delete(&self, slice: &Slice) {
        let (namespace, name) = slice.key();
        self.remove(Resource::Slices, namespace, name);
    }

    /// Creates or replaces a pod.
    pub fn put_pod(&self, pod: &PodObject) {
        self.put_value(pod.value());
    }

    /// Asks for the end of a pod of the namespace `lab` after a grace period in whole seconds, as `kubectl delete` does:
    /// it will be killed at the time that is returned (`metadata.deletionTimestamp`), unless that is moved nearer. With
    /// none it is gone at once.
    ///
    /// # Panics
    /// When there is none.
    pub fn delete_pod(&self, name: &str, grace: Duration) -> String {
        let mut state = self.shared.state();
        let pod = state.store.get(Resource::Pods, NAMESPACE, name);
        let mut pod = pod.unwrap_or_else(|| panic!("no pod {name}"));
        pod::delete(&mut pod, grace, SystemTime::now());
        let deadline = pod::deadline(&pod).expect("it is being deleted").to_owned();
        let change = state.store.put(pod);
        state.publish(&change);
        drop(state);
        if grace.is_zero() {
            self.remove(Resource::Pods, NAMESPACE, name);
        }
        deadline
    }

    fn remove(&self, resource: Resource, namespace: &str, name: &str) {
        let mut state = self.shared.state();
        let change = state.store.delete(resource, namespace, name);
        state.publish(&change.unwrap_or_else(|| panic!("no {namespace}/{name}")));
    }

    /// Forgets the history: a watch that resumes from an earlier version, or a list that is continued, gets a 410.
    pub fn expire(&self) {
        self.shared.state().store.expire();
    }

    /// The objects and the version as of now, for [`ApiServer::restore`].
    pub fn backup(&self) -> Backup {
        Backup(self.shared.state().store.clone())
    }

    /// Everything as it was, with the versions running again from there; all watches are cut, as at the restart that
    /// comes with a restored etcd. A watch that resumes from a later version is served in silence.
    pub fn restore(&self, backup: &Backup) {
        self.shared.state().store.restore(&backup.0);
        self.cut_watches(Cut::Fin);
    }

    /// Sends a bookmark to every watch that takes them.
    pub fn bookmark(&self) {
        self.shared.state().bookmark(|_| true);
    }

    /// Misbehaves in this way from now on.
    pub fn fail(&self, on: On, fault: Fault) {
        self.shared.state().script.always(on, fault);
    }

    /// Misbehaves in this way once; several are used up in order, before the standing ones.
    pub fn fail_once(&self, on: On, fault: Fault) {
        self.shared.state().script.once(on, fault);
    }

    /// Ends all misbehaviour; whatever hangs is reset.
    pub fn heal(&self) {
        self.shared.state().script = Script::default();
        self.shared.healings.send_modify(|count| *count += 1);
    }

    /// Sends a line to every open watch, JSON or not.
    pub fn send_line(&self, line: &str) {
        self.shared.state().watches.iter().for_each(|watch| watch.push(Push::Line(line.to_owned())));
    }

    /// Sends a line to every open watch of Pods, JSON or not.
    pub fn send_line_of_pods(&self, line: &str) {
        let state = self.shared.state();
        let of_pods = state.watches.iter().filter(|watch| watch.on == On::WatchPods);
        of_pods.for_each(|watch| watch.push(Push::Line(line.to_owned())));
    }

    /// Sends an event to every open watch, whatever the store says.
    pub fn send_event(&self, kind: &str, object: &Value) {
        self.send_line(&json!({"type": kind, "object": object}).to_string());
    }

    /// Ends every open watch.
    pub fn cut_watches(&self, cut: Cut) {
        let mut state = self.shared.state();
        let expired = store::Refusal::new(410, "too old resource version").event().to_string();
        if cut == Cut::Expired {
            state.store.expire();
        }
        for watch in state.watches.drain(..) {
            if cut == Cut::Expired {
                watch.push(Push::Line(expired.clone()));
            }
            watch.push(Push::End(cut));
        }
    }

    /// The targets of the watches that are open.
    pub fn watches(&self) -> Vec<String> {
        self.shared.state().open_watches().iter().map(|watch| watch.target.clone()).collect()
    }

    /// Waits until so many watches are open.
    pub async fn wait_watches(&self, count: usize) {
        let what = format!("{count} open watches");
        wait_for(&what, async || self.watches().len() == count).await;
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<ApiRequest> {
        self.shared.state().requests.clone()
    }

    /// How many requests of a kind came so far; of [`On::Connect`], connections.
    pub fn count(&self, on: On) -> usize {
        let state = self.shared.state();
        match on {
            On::Connect => state.connections,
            On::List | On::Watch | On::ListPods | On::WatchPods | On::Other => {
                state.requests.iter().filter(|one| one.on == on).count()
            }
        }
    }

    /// The most requests that came within `window` anywhere since `since`.
    pub fn most_within(&self, window: Duration, since: Instant) -> usize {
        let times: Vec<_> = self.requests().iter().map(|one| one.at).filter(|at| *at >= since).collect();
        let within =
            |first: &Instant| times.iter().filter(|at| **at >= *first && **at < *first + window).count();
        times.iter().map(within).max().unwrap_or_default()
    }

    /// Does what a step of a recording says.
    pub fn replay(&self, step: &Step) {
        match step {
            Step::List(items) => items.iter().for_each(|item| self.put_value(item.clone())),
            Step::Put(object) => self.put_value(object.clone()),
            Step::Delete { kind, namespace, name } => {
                self.remove(Resource::of(&json!({"kind": kind})), namespace, name);
            }
            Step::Bookmark => self.bookmark(),
            Step::Expired => self.cut_watches(Cut::Expired),
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

/// The objects of an API server at some time.
#[derive(Clone, Debug)]
pub struct Backup(Store);

/// Scripted pods that a slice can list: all on one port, each on a loopback address of its own. They greet on
/// `/events`.
///
/// # Panics
/// When no such port is free.
pub async fn start_pods(names: &[&str]) -> Vec<Pod> {
    let address = |index: usize| IpAddr::from([127, 0, 0, u8::try_from(index + 2).expect("few pods")]);
    let is_free = |port: &u16| {
        (0..names.len()).all(|index| std::net::TcpListener::bind((address(index), *port)).is_ok())
    };
    let port = std::iter::repeat_with(free_port).take(100).find(is_free).expect("a port that all can have");
    let mut pods = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let pod = Pod::start_at(name, SocketAddr::new(address(index), port)).await;
        pod.greet("/events");
        pods.push(pod);
    }
    pods
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked has poisoned nothing that another could misread.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it heals the next time.
    async fn healed(&self) {
        let mut healings = self.healings.subscribe();
        healings.mark_unchanged();
        // The sender lives as long as `self`.
        let _counted = healings.changed().await;
    }
}

impl State {
    /// Tells every watch.
    fn publish(&mut self, change: &Change) {
        for watch in self.open_watches() {
            if let Some(event) = change.event_in(&watch.scope)
                && !watch.is_deaf
            {
                watch.push(Push::Line(event.to_string()));
            }
        }
    }

    fn bookmark(&mut self, wanted: impl Fn(&Watch) -> bool) {
        self.watches.retain(|watch| !watch.pushes.is_closed());
        let takers = self.watches.iter().filter(|watch| watch.takes_bookmarks && !watch.is_deaf);
        for watch in takers.filter(|watch| wanted(watch)) {
            let bookmark = self.store.bookmark(Bookmark::Plain, &watch.scope);
            watch.push(Push::Line(bookmark.to_string()));
        }
    }

    fn open_watches(&mut self) -> &[Watch] {
        self.watches.retain(|watch| !watch.pushes.is_closed());
        &self.watches
    }

    /// Opens a watch: nothing can happen between its beginning and its first push.
    fn open_watch(
        &mut self,
        query: &Query,
        target: &str,
    ) -> Result<mpsc::UnboundedReceiver<Push>, store::Refusal> {
        let beginning = self.store.watch(query)?;
        let (pushes, receiver) = mpsc::unbounded_channel();
        let watch = Watch {
            on: query.kind,
            target: target.to_owned(),
            scope: query.scope.clone(),
            takes_bookmarks: query.flag("allowWatchBookmarks"),
            is_deaf: beginning.is_deaf,
            pushes,
        };
        beginning.events.iter().for_each(|event| watch.push(Push::Line(event.to_string())));
        self.watches.push(watch);
        Ok(receiver)
    }
}

impl Watch {
    fn push(&self, push: Push) {
        // Its connection may have ended.
        let _moot = self.pushes.send(push);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection::serve(stream, shared.clone()));
        while connections.try_join_next().is_some() {}
    }
}

#[cfg(test)]
mod tests;
