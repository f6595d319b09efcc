//! Worker threads: each runs its own event loop, accepts for itself and keeps the connections that it accepted.
//!
//! A connection, its event stream and the stream's upstream live on one thread from beginning to end, so an event
//! crosses the proxy without waking another thread. All workers accept from the same sockets.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::connection::accepted::Connection;
use crate::connection::http1;
use crate::connection::listener::Listener;
use crate::connection::refusal::turn_away;
use crate::http::reply::ErrorReply;
use crate::net::socket_options::SocketOptions;
use crate::shared::Shared;
use crate::upstream::pool;

/// The pause after `accept` failed for want of descriptors or memory: a retry at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound socket, and the place of its settings in the configuration snapshot.
#[derive(Debug)]
pub struct BoundListener {
    /// The name in the configuration.
    pub name: String,
    /// The index into [`ConfigSnapshot::listeners`](crate::routing::snapshot::ConfigSnapshot::listeners).
    pub index: usize,
    /// The socket, listening and non-blocking.
    pub socket: StdListener,
}

impl BoundListener {
    /// Duplicates the socket for one more worker.
    fn try_clone(&self) -> io::Result<BoundListener> {
        Ok(BoundListener { name: self.name.clone(), index: self.index, socket: self.socket.try_clone()? })
    }
}

/// Starts a worker. When `stop` turns true, the worker ends with every connection that it still serves.
///
/// # Errors
/// If the thread or its event loop cannot be started.
pub fn start(
    index: usize,
    shared: Arc<Shared>,
    bound: &[BoundListener],
    stop: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    let mut sockets = Vec::with_capacity(bound.len());
    for listener in bound {
        sockets.push(listener.try_clone()?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        runtime.block_on(run(shared, sockets, stop));
        // Tasks that outlived the shutdown's deadline are dropped here, and their connections with them.
        runtime.shutdown_timeout(Duration::from_millis(100));
    })
}

/// Serves on these sockets until `stop` turns true.
pub async fn run(shared: Arc<Shared>, sockets: Vec<BoundListener>, mut stop: watch::Receiver<bool>) {
    for BoundListener { name, index, socket } in sockets {
        let Some(settings) = shared.current().listeners.get(index).cloned() else { continue };
        let listener = Listener { name: name.into(), settings, shared: Arc::clone(&shared) };
        match TcpListener::from_std(socket) {
            Ok(socket) => drop(shared.lifecycle.tasks.spawn(accept(listener.into(), index, socket))),
            Err(error) => tracing::error!(%error, listener = %listener.name, "cannot listen"),
        }
    }
    shared.lifecycle.tasks.spawn(pool::sweep(shared.lifecycle.closing()));
    // An error means that the sender is gone, which ends the worker as well.
    if stop.wait_for(|stop| *stop).await.is_err() {
        tracing::debug!("the proxy was dropped without being stopped");
    }
}

async fn accept(mut listener: Arc<Listener>, index: usize, socket: TcpListener) {
    let mut closing = listener.shared.lifecycle.closing();
    let mut short = false;
    let mut options = SocketOptions::default();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            accepted = poll_fn(|context| options.note(socket.poll_accept(context))) => accepted,
        };
        if let Some(current) = listener.shared.current().listeners.get(index)
            && !Arc::ptr_eq(current, &listener.settings)
        {
            listener = Arc::new(listener.with_settings(Arc::clone(current)));
        }
        match accepted {
            Ok((tcp, peer)) => {
                short = false;
                match options.apply(&socket, &tcp, &listener.shared.current().limits) {
                    Ok(()) => serve(&listener, tcp, peer),
                    Err(error) => {
                        tracing::debug!(%error, "a client closed its connection before it was served")
                    }
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                listener.shared.metrics.listeners.accept_errors.inc(&listener.name);
                // Logged once for as long as it lasts: more would fill the log at the worst moment.
                if !mem::replace(&mut short, true) {
                    tracing::warn!(%error, listener = %listener.name, "cannot accept");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a connection in a task of its own, or turns it away.
fn serve(listener: &Arc<Listener>, tcp: TcpStream, peer: SocketAddr) {
    let connection = Connection::new(listener, peer);
    if connection.permit.is_none() {
        return turn_away(connection, tcp, None, ErrorReply::Connections);
    }
    let span = connection.span();
    listener.shared.lifecycle.spawn_in(span, http1::serve(connection, tcp));
}

/// Returns whether an error of `accept` is that of one connection and not of the process.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream as StdStream;

    use podpin_config::ProxyProtocol;

    use super::*;
    use crate::net::listener::ListenerSettings;
    use crate::routing::snapshot::ConfigSnapshot;
    use crate::testing::Scene;

    /// Puts a configuration with one listener in force.
    fn listen(shared: &Shared, proxy_protocol: ProxyProtocol) {
        let settings = ListenerSettings { name: "http".into(), h2c: false, tls: None, proxy_protocol };
        let snapshot = shared.snapshot();
        let listeners = Arc::new([Arc::new(settings)]);
        shared.replace(Arc::new(ConfigSnapshot { listeners, ..(*snapshot).clone() }));
    }

    fn answer(address: SocketAddr) -> String {
        let mut client = StdStream::connect(address).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        // A connection that is refused may be reset, which is no answer either.
        match client.read_to_string(&mut text) {
            Ok(_) | Err(_) => text,
        }
    }

    #[test]
    fn a_worker_accepts_follows_a_reload_and_ends_when_it_is_stopped() {
        let scene = Scene::new(&[]);
        listen(&scene.shared, ProxyProtocol::Off);
        let socket = StdListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        // The settings of a listener that the configuration does not have are those of no socket.
        let unknown = BoundListener { name: "unknown".into(), index: 7, socket: socket.try_clone().unwrap() };
        let bound = [unknown, BoundListener { name: "http".into(), index: 0, socket }];
        let (stop, stopped) = watch::channel(false);
        let worker = start(0, Arc::clone(&scene.shared), &bound, stopped).unwrap();
        assert!(answer(address).starts_with("HTTP/1.1 404 "), "served on the listener that is known");
        listen(&scene.shared, ProxyProtocol::Required);
        assert_eq!(answer(address), "", "the next connection lacks its PROXY header");
        listen(&scene.shared, ProxyProtocol::Off);
        assert!(answer(address).starts_with("HTTP/1.1 404 "));
        stop.send(true).unwrap();
        worker.join().unwrap();
    }

    #[test]
    fn only_errors_of_the_process_make_accepting_pause() {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Other, OutOfMemory};
        for (kind, expected) in [
            (ConnectionAborted, true),
            (ConnectionReset, true),
            (ConnectionRefused, true),
            (OutOfMemory, false),
            (Other, false),
        ] {
            assert_eq!(is_of_one_connection(&kind.into()), expected, "{kind}");
        }
    }
}
