//! Outgoing connections from many addresses of 127.0.0.0/8: one address has 28,000 ports, and a closed connection keeps
//! its port for a minute.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use tokio::net::{TcpSocket, TcpStream};

/// 16 × 28,000 ports: more than a run opens in a minute.
const SOURCES: u32 = 16;

static CONNECTIONS: AtomicU32 = AtomicU32::new(0);

/// Connects to `target`, from the next source address in turn.
pub(crate) async fn connect(target: SocketAddr) -> anyhow::Result<TcpStream> {
    let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed) % SOURCES;
    let last = u8::try_from(number + 1).unwrap_or(1);
    let source = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, last), 0));
    let socket = TcpSocket::new_v4()?;

    socket.bind(source)?;
    let stream = socket.connect(target).await.with_context(|| format!("cannot connect to {target}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
