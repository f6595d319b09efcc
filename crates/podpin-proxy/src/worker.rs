//! Worker threads: each runs its own event loop, accepts for itself and keeps what it accepted.
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

use pingora::server::configuration::ServerConf;
use pingora_proxy::http_proxy;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tracing::Instrument;

use crate::connection::accepted::Connection;
use crate::connection::http1;
use crate::connection::listener::Listener;
use crate::connection::refusal::turn_away;
use crate::http::reply::ErrorReply;
use crate::net::socket_options::SocketOptions;
use crate::shared::Shared;
use crate::upgrade::pipeline::Pipeline;
use crate::upstream::pool;

/// Pause after `accept` failed for want of descriptors or memory: trying at once would only spin.
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
    /// The same, for one more worker.
    fn try_clone(&self) -> io::Result<BoundListener> {
        Ok(BoundListener { name: self.name.clone(), index: self.index, socket: self.socket.try_clone()? })
    }
}

/// Starts one worker; it ends when `stop` turns true, and whatever it still serves ends with it.
///
/// # Errors
/// When the thread or its event loop cannot be made.
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
    let conf = ServerConf { threads: 1, max_retries: 64, ..ServerConf::default() };
    let proxy = Arc::new(http_proxy(&Arc::new(conf), Pipeline::new(Arc::clone(&shared))));
    for BoundListener { name, index, socket } in sockets {
        let Some(settings) = shared.current().listeners.get(index).cloned() else { continue };
        let (shared_too, proxy) = (Arc::clone(&shared), Arc::clone(&proxy));
        let listener = Listener { name: name.into(), settings, shared: shared_too, proxy };
        match TcpListener::from_std(socket) {
            Ok(socket) => drop(shared.lifecycle.tasks.spawn(accept(listener.into(), index, socket))),
            Err(error) => tracing::error!(%error, listener = %listener.name, "cannot listen"),
        }
    }
    shared.lifecycle.tasks.spawn(pool::sweep(shared.lifecycle.closing()));
    // An error means that the other end is gone, which is the same.
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
                    Ok(()) => begin(&listener, tcp, peer),
                    Err(error) => tracing::debug!(%error, "a client left before it was served"),
                }
            }
            Err(error) if is_about_one_client(&error) => {}
            Err(error) => {
                listener.shared.metrics.accept_errors.with_label_values(&[&*listener.name]).inc();
                // Once for as long as it lasts: it would fill the log at the worst of moments.
                if !mem::replace(&mut short, true) {
                    tracing::warn!(%error, listener = %listener.name, "cannot accept");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a connection in a task of its own, or turns it away.
fn begin(listener: &Arc<Listener>, tcp: TcpStream, peer: SocketAddr) {
    let connection = Connection::new(listener, peer);
    if connection.permit.is_none() {
        return turn_away(connection, tcp, None, ErrorReply::Connections);
    }
    let span = connection.span();
    drop(listener.shared.lifecycle.tasks.spawn(http1::serve(connection, tcp).instrument(span)));
}

fn is_about_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
