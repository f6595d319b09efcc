//! Listening sockets, bound once at the start.

use std::io;
use std::net::{SocketAddr, TcpListener};

use podpin_config::Config;
use podpin_proxy::worker::BoundListener;

use crate::error::StartError;

/// Connections that wait to be accepted. When a pod dies, thousands of clients may come back within one turn of the event
/// loop, and a client that finds the queue full retries after a second, then three. The kernel's own bound
/// (`net.core.somaxconn`, 4,096 on Debian) is the one that counts: this is as much as the kernel has ever taken.
const BACKLOG: i32 = 65_535;

/// The sockets of the listeners and of the admin port.
pub(crate) struct Sockets {
    pub(crate) listeners: Vec<BoundListener>,
    pub(crate) admin: TcpListener,
}

impl Sockets {
    /// Binds every address of the configuration.
    ///
    /// # Errors
    /// [`StartError::Bind`] with the first address that cannot be bound.
    pub(crate) fn bind(config: &Config) -> Result<Sockets, StartError> {
        let mut listeners = Vec::with_capacity(config.listeners.len());
        for (index, listener) in config.listeners.iter().enumerate() {
            let socket = bind(&format!("listener {}", listener.name), listener.address)?;
            listeners.push(BoundListener { name: listener.name.clone(), index, socket });
        }
        Ok(Sockets { listeners, admin: bind("admin", config.admin.address)? })
    }

    /// Returns the bound addresses of the listeners by name.
    pub(crate) fn addresses(&self) -> io::Result<Vec<(String, SocketAddr)>> {
        self.listeners.iter().map(|one| Ok((one.name.clone(), one.socket.local_addr()?))).collect()
    }
}

fn bind(name: &str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let listen = || {
        let socket = TcpListener::bind(address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    listen().map_err(|source| StartError::Bind { name: name.to_owned(), address, source })
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_crowd_that_comes_at_once_does_not_find_the_queue_full() {
        let socket = bind("test", "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        // No connection is accepted. Of a full queue the kernel drops what comes, and the deadline is never waited for otherwise.
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
        let crowd: Vec<TcpStream> = (0..500).map(connect).collect();
        assert_eq!(crowd.len(), 500);
    }

    #[test]
    fn an_address_in_use_is_an_error_that_names_the_listener() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = bind("listener http", taken.local_addr().unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("listener http: cannot listen on 127.0.0.1:"), "{error}");
    }
}
