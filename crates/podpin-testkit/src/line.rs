//! A TCP line between a client and a server that a test can cut, as a network does: neither side has asked for it. It can
//! also be led to another server, as by a load balancer in front of several.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

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
        Line::delayed(target, Duration::ZERO).await
    }

    /// A line to the server at `target` that holds every byte back for so long, however many are on the way.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn delayed(target: SocketAddr, one_way: Duration) -> Line {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("the address");
        let (target, _) = watch::channel(target);
        Line { address, task: tokio::spawn(carry(listener, target.clone(), one_way)), target }
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

async fn carry(listener: TcpListener, target: watch::Sender<SocketAddr>, one_way: Duration) {
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
                () = carry_both(&mut client, &mut server, one_way) => {}
                _cut = cut.changed() => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn carry_both(client: &mut TcpStream, server: &mut TcpStream, one_way: Duration) {
    if one_way.is_zero() {
        drop(copy_bidirectional(client, server).await);
        return;
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    tokio::join!(delay(from_client, to_server, one_way), delay(from_server, to_client, one_way));
}

/// Carries bytes in one direction, each so long after it came.
async fn delay(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, one_way: Duration) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let read = async move {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            let piece = bytes.get(..count).unwrap_or_default().to_vec();
            if sender.send((Instant::now() + one_way, piece)).is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = receiver.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        // The other end hears of it, as late as of everything else.
        drop(to.shutdown().await);
    };
    tokio::join!(read, write);
}
