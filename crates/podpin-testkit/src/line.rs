//! A TCP line between a client and a server that a test can cut, as a network does: neither side has asked for it.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Forwards connections to a server until it is cut. Dropping it ends it.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    cuts: watch::Sender<u64>,
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
        let (cuts, _) = watch::channel(0);
        Line { address, task: tokio::spawn(carry(listener, target, cuts.clone())), cuts }
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every connection that is open; new ones are carried again.
    pub fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(listener: TcpListener, target: SocketAddr, cuts: watch::Sender<u64>) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        let mut cut = cuts.subscribe();
        connections.spawn(async move {
            let Ok(mut server) = TcpStream::connect(target).await else { return };
            tokio::select! {
                // How the copy ended was seen by the two ends.
                _ended = copy_bidirectional(&mut client, &mut server) => {}
                _cut = cut.changed() => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
