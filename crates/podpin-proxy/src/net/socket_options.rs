//! What the kernel is told about a client's socket as soon as it is accepted.
//!
//! A client that vanishes without a word (a phone in a tunnel, a cut cable) is noticed in one of two ways. While
//! something is sent to it, its acknowledgements are missing: the user timeout ends that, where the kernel alone would
//! retransmit for some fifteen minutes. While nothing is sent, probes ask for them.

//!
//! The listening socket has these options, and the kernel hands them on to what is accepted, which saves six system calls a
//! connection. Those that were in its queue when the options changed have them set one by one.

use std::io;
use std::os::fd::AsFd;
use std::task::Poll;
use std::time::Duration;

use podpin_config::{ListenerLimits, TcpKeepAlive};
use rustix::net::sockopt::{set_tcp_nodelay, set_tcp_user_timeout};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};

type Options = (Option<Duration>, Option<TcpKeepAlive>);

/// What the sockets that a listener accepts bring along.
#[derive(Debug, Default)]
pub struct SocketOptions {
    /// Set on the listening socket.
    set: Option<Options>,
    /// Its queue was empty since.
    is_inherited: bool,
}

impl SocketOptions {
    /// Takes note of an attempt to accept.
    pub fn note<T>(&mut self, attempt: Poll<T>) -> Poll<T> {
        self.is_inherited |= attempt.is_pending() && self.set.is_some();
        attempt
    }

    /// Sees to it that `tcp`, just accepted of `listener`, has what the limits of now say.
    ///
    /// # Errors
    /// When the client is gone already.
    pub fn apply(
        &mut self,
        listener: &TcpListener,
        tcp: &TcpStream,
        limits: &ListenerLimits,
    ) -> io::Result<()> {
        let wanted = (limits.tcp_user_timeout, limits.tcp_keep_alive);
        if self.set != Some(wanted) {
            set(listener, wanted)?;
            *self = SocketOptions { set: Some(wanted), is_inherited: false };
        }
        if self.is_inherited { Ok(()) } else { set(tcp, wanted) }
    }
}

fn set(socket: &impl AsFd, (user_timeout, probes): Options) -> io::Result<()> {
    set_tcp_nodelay(socket, true)?;
    // 0: as the kernel does by itself.
    set_tcp_user_timeout(socket, user_timeout.map_or(0, millis))?;
    let socket = SockRef::from(socket);
    let Some(probes) = probes else { return socket.set_keepalive(false) };
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

    /// Accepts what is there, as the worker does.
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
            // Some that were in the queue before anything was known, and some that come later.
            for waiting in [3, 1, 1] {
                for _ in 0..waiting {
                    clients.push(TcpStream::connect(address).await.unwrap());
                }
                for _ in 0..waiting {
                    assert_has(&accept(&listener, &mut options, &limits).await, &limits);
                }
            }
            // Nobody is there: from now on they bring along what they need.
            let nobody = std::future::poll_fn(|context| {
                Poll::Ready(options.note(listener.poll_accept(context)).is_pending())
            });
            assert!(nobody.await && options.is_inherited);
            clients.push(TcpStream::connect(address).await.unwrap());
            assert_has(&accept(&listener, &mut options, &limits).await, &limits);
        }
    }
}
