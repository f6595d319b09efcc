//! Worker threads: each runs its own event loop, accepts for itself and keeps what it accepted.
//!
//! A connection, its event stream and the stream's upstream live on one thread from beginning to end, so an event
//! crosses the proxy without waking another thread. All workers accept from the same sockets.

use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use podpin_config::ProxyProtocol;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::connection::{Connection, Listener};
use crate::gateway::Gateway;
use crate::pipeline::Pipeline;
use crate::reply::Failure;
use crate::tls::ServerTls;

/// Pause after `accept` failed for want of descriptors or memory: trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound socket and what its connections are called.
pub(crate) struct Bound {
    pub(crate) name: String,
    pub(crate) h2c: bool,
    pub(crate) tls: Option<Arc<ServerTls>>,
    pub(crate) proxy_protocol: ProxyProtocol,
    pub(crate) socket: StdListener,
}

impl Bound {
    /// The same, for one more worker.
    fn try_clone(&self) -> io::Result<Bound> {
        Ok(Bound {
            name: self.name.clone(),
            h2c: self.h2c,
            tls: self.tls.clone(),
            proxy_protocol: self.proxy_protocol,
            socket: self.socket.try_clone()?,
        })
    }
}

/// Starts one worker; it ends when `stop` turns true, and whatever it still serves ends with it.
///
/// # Errors
/// When the thread or its event loop cannot be made.
pub(crate) fn start(
    index: usize,
    gateway: Arc<Gateway>,
    bound: &[Bound],
    stop: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    let mut sockets = Vec::with_capacity(bound.len());
    for listener in bound {
        sockets.push(listener.try_clone()?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        runtime.block_on(run(gateway, sockets, stop));
        // Tasks that outlived the shutdown's deadline are dropped here, and their connections with them.
        runtime.shutdown_timeout(Duration::from_millis(100));
    })
}

async fn run(gateway: Arc<Gateway>, sockets: Vec<Bound>, mut stop: watch::Receiver<bool>) {
    let conf = ServerConf { threads: 1, max_retries: 64, ..ServerConf::default() };
    let proxy = Arc::new(http_proxy(&Arc::new(conf), Pipeline::new(Arc::clone(&gateway))));
    for Bound { name, h2c, tls, proxy_protocol, socket } in sockets {
        let (gateway_of_it, proxy) = (Arc::clone(&gateway), Arc::clone(&proxy));
        let listener = Listener { name, h2c, tls, proxy_protocol, gateway: gateway_of_it, proxy };
        let listener = Arc::new(listener);
        match TcpListener::from_std(socket) {
            Ok(socket) => drop(gateway.tasks.spawn(accept(listener, socket))),
            Err(error) => tracing::error!(%error, listener = %listener.name, "cannot listen"),
        }
    }
    // An error means that the other end is gone, which is the same.
    if stop.wait_for(|stop| *stop).await.is_err() {
        tracing::debug!("the proxy was dropped without being stopped");
    }
}

async fn accept(listener: Arc<Listener>, socket: TcpListener) {
    let mut closing = listener.gateway.closing();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => match Connection::admit(&listener, peer) {
                Some(connection) => {
                    if let Err(error) = tcp.set_nodelay(true) {
                        tracing::debug!(%error, "a client left before it was served");
                        continue;
                    }
                    listener.gateway.tasks.spawn(connection.serve(tcp));
                }
                // Over TLS it would cost a handshake to say why.
                None if listener.tls.is_some() => {}
                None => turn_away(&tcp),
            },
            Err(error) if is_about_one_client(&error) => {}
            Err(error) => {
                tracing::warn!(%error, listener = %listener.name, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_about_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// One write into a fresh socket's empty buffer, and gone: a crowd at the door must cost nothing.
fn turn_away(tcp: &TcpStream) {
    if let Err(error) = socket2::SockRef::from(tcp).send(&Failure::Connections.h1_close()) {
        tracing::trace!(%error, "a client left before it was turned away");
    }
}
