//! A TCP line between a client and a server that a test can cut, as a network does: neither side has asked for it. It can
//! also be led to another server, as by a load balancer in front of several.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Forwards connections to a server until it is cut. Dropping it ends it.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    /// Where connections go; told to those that are open when they are cut, and only then.
    target: watch::Sender<SocketAddr>,
    task: JoinHandle<()>,
}

impl Line {
    /// A line to the server at `target`.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn to(target: SocketAddr) -> Line {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("the address");
        let (target, _) = watch::channel(target);
        Line { address, task: tokio::spawn(carry(listener, target.clone())), target }
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every connection that is open; new ones are carried again.
    pub fn cut(&self) {
        self.target.send_modify(|_same| {});
    }

    /// Carries new connections to another server; those that are open go on.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_if_modified(|old| {
            *old = target;
            false
        });
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(listener: TcpListener, target: watch::Sender<SocketAddr>) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        let mut cut = target.subscribe();
        let target = *cut.borrow_and_update();
        connections.spawn(async move {
            let Ok(mut server) = TcpStream::connect(target).await else { return };
            // A line that waits for more to send would make every small message late.
            if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
                return;
            }
            tokio::select! {
                // How the copy ended was seen by the two ends.
                _ended = copy_bidirectional(&mut client, &mut server) => {}
                _cut = cut.changed() => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
