//! Options of a client's socket, in force as soon as it is accepted, and of an endpoint's whose connection was upgraded.
//!
//! A client that vanishes (a phone in a tunnel, a cut cable) is noticed in one of two ways. While something is sent to it, its
//! acknowledgements are missing: the user timeout ends that, where the kernel alone would retransmit for some fifteen
//! minutes. While nothing is sent, probes make the peer send them.
//!
//! The listening socket has these options, and accepted sockets inherit them from it, which saves six system calls a
//! connection. Sockets that were in its queue when the options changed have them set one by one.

use std::io;
use std::os::fd::AsFd;
use std::task::Poll;
use std::time::Duration;

use podpin_config::{ListenerLimits, TcpKeepAlive};
use rustix::net::sockopt::{set_tcp_nodelay, set_tcp_user_timeout};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};

/// The options of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Options {
    user_timeout: Option<Duration>,
    keep_alive: Option<TcpKeepAlive>,
}

/// The options that accepted sockets inherit from their listening socket.
#[derive(Debug, Default)]
pub struct SocketOptions {
    /// The options of the listening socket; `None` if none are set yet.
    set: Option<Options>,
    /// Whether the queue was empty since, so that every socket from now on inherits them.
    is_inherited: bool,
}

impl SocketOptions {
    /// Records an attempt to accept: if it is pending, the queue is empty.
    pub fn note<T>(&mut self, attempt: Poll<T>) -> Poll<T> {
        self.is_inherited |= attempt.is_pending() && self.set.is_some();
        attempt
    }

    /// Applies the options of `limits` to `tcp`, which `listener` has just accepted.
    ///
    /// # Errors
    /// If the client is gone already.
    pub fn apply(
        &mut self,
        listener: &TcpListener,
        tcp: &TcpStream,
        limits: &ListenerLimits,
    ) -> io::Result<()> {
        let wanted = Options { user_timeout: limits.tcp_user_timeout, keep_alive: limits.tcp_keep_alive };
        if self.set != Some(wanted) {
            set(listener, wanted)?;
            *self = SocketOptions { set: Some(wanted), is_inherited: false };
        }
        if self.is_inherited { Ok(()) } else { set(tcp, wanted) }
    }
}

/// Has the kernel notice a peer that vanished, as it does for clients with these limits.
///
/// # Errors
/// If the socket is closed already.
pub fn watch(tcp: &TcpStream, limits: &ListenerLimits) -> io::Result<()> {
    set(tcp, Options { user_timeout: limits.tcp_user_timeout, keep_alive: limits.tcp_keep_alive })
}

fn set(socket: &impl AsFd, options: Options) -> io::Result<()> {
    set_tcp_nodelay(socket, true)?;
    // 0 is the kernel's default.
    set_tcp_user_timeout(socket, options.user_timeout.map_or(0, millis))?;
    let socket = SockRef::from(socket);
    let Some(probes) = options.keep_alive else { return socket.set_keepalive(false) };
    let probes =
        TcpKeepalive::new().with_time(probes.idle).with_interval(probes.interval).with_retries(probes.count);
    socket.set_tcp_keepalive(&probes)
}

fn millis(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use podpin_config::TcpKeepAlive;
    use rustix::net::sockopt::{
        socket_keepalive, tcp_keepcnt, tcp_keepidle, tcp_keepintvl, tcp_nodelay, tcp_user_timeout,
    };

    use super::*;

    fn limits(user_timeout: Option<u64>, idle: Option<u64>) -> ListenerLimits {
        let probes = |idle| TcpKeepAlive {
            idle: Duration::from_secs(idle),
            interval: Duration::from_secs(7),
            count: 5,
        };
        ListenerLimits {
            tcp_user_timeout: user_timeout.map(Duration::from_millis),
            tcp_keep_alive: idle.map(probes),
            ..ListenerLimits::default()
        }
    }

    fn assert_has(tcp: &TcpStream, limits: &ListenerLimits) {
        assert!(tcp_nodelay(tcp).unwrap());
        let timeout = limits.tcp_user_timeout.map_or(0, millis);
        assert_eq!(tcp_user_timeout(tcp).unwrap(), timeout);
        assert_eq!(socket_keepalive(tcp).unwrap(), limits.tcp_keep_alive.is_some());
        if let Some(probes) = limits.tcp_keep_alive {
            assert_eq!(tcp_keepidle(tcp).unwrap(), probes.idle);
            assert_eq!(
                (tcp_keepintvl(tcp).unwrap(), tcp_keepcnt(tcp).unwrap()),
                (probes.interval, probes.count)
            );
        }
    }

    /// Accepts a socket as the worker does.
    async fn accept(
        listener: &TcpListener,
        options: &mut SocketOptions,
        limits: &ListenerLimits,
    ) -> TcpStream {
        let attempt = std::future::poll_fn(|context| options.note(listener.poll_accept(context)));
        let (tcp, _) = attempt.await.unwrap();
        options.apply(listener, &tcp, limits).unwrap();
        tcp
    }

    #[tokio::test]
    async fn the_kernel_has_what_the_limits_say_when_they_change_too() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut options = SocketOptions::default();
        let mut clients = Vec::new();
        for limits in [limits(Some(1_500), Some(61)), limits(Some(900), None), limits(None, Some(30))] {
            // Some are in the queue before the options are set, and some come later.
            for waiting in [3, 1, 1] {
                for _ in 0..waiting {
                    clients.push(TcpStream::connect(address).await.unwrap());
                }
                for _ in 0..waiting {
                    assert_has(&accept(&listener, &mut options, &limits).await, &limits);
                }
            }
            // The queue is empty: sockets inherit the options from now on.
            let is_empty = std::future::poll_fn(|context| {
                Poll::Ready(options.note(listener.poll_accept(context)).is_pending())
            });
            assert!(is_empty.await && options.is_inherited);
            clients.push(TcpStream::connect(address).await.unwrap());
            assert_has(&accept(&listener, &mut options, &limits).await, &limits);
        }
    }
}
