//! What the kernel is told about a client's socket as soon as it is accepted.
//!
//! A client that vanishes without a word (a phone in a tunnel, a cut cable) is noticed in one of two ways. While
//! something is sent to it, its acknowledgements are missing: the user timeout ends that, where the kernel alone would
//! retransmit for some fifteen minutes. While nothing is sent, probes ask for them.

use std::io;
use std::time::Duration;

use podpin_config::ListenerLimits;
use rustix::net::sockopt::set_tcp_user_timeout;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Sets them. Per connection and not on the listening socket, so that a change of the limits counts for the next one.
///
/// # Errors
/// When the client is gone already.
pub(crate) fn apply(tcp: &TcpStream, limits: &ListenerLimits) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    if let Some(timeout) = limits.tcp_user_timeout {
        set_tcp_user_timeout(tcp, millis(timeout))?;
    }
    let Some(probes) = limits.tcp_keep_alive else { return Ok(()) };
    let probes =
        TcpKeepalive::new().with_time(probes.idle).with_interval(probes.interval).with_retries(probes.count);
    SockRef::from(tcp).set_tcp_keepalive(&probes)
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

    async fn accepted(limits: &ListenerLimits) -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        apply(&tcp, limits).unwrap();
        (tcp, client)
    }

    #[tokio::test]
    async fn the_kernel_has_what_the_limits_say() {
        let limits = ListenerLimits {
            tcp_user_timeout: Some(Duration::from_millis(1_500)),
            tcp_keep_alive: Some(TcpKeepAlive {
                idle: Duration::from_secs(61),
                interval: Duration::from_secs(7),
                count: 5,
            }),
            ..ListenerLimits::default()
        };
        let (tcp, _client) = accepted(&limits).await;
        assert!(tcp_nodelay(&tcp).unwrap() && socket_keepalive(&tcp).unwrap());
        assert_eq!(tcp_user_timeout(&tcp).unwrap(), 1_500);
        assert_eq!(tcp_keepidle(&tcp).unwrap(), Duration::from_secs(61));
        assert_eq!((tcp_keepintvl(&tcp).unwrap(), tcp_keepcnt(&tcp).unwrap()), (Duration::from_secs(7), 5));
    }

    #[tokio::test]
    async fn off_leaves_the_kernel_to_itself() {
        let off =
            ListenerLimits { tcp_user_timeout: None, tcp_keep_alive: None, ..ListenerLimits::default() };
        let (tcp, _client) = accepted(&off).await;
        assert!(tcp_nodelay(&tcp).unwrap() && !socket_keepalive(&tcp).unwrap());
        assert_eq!(tcp_user_timeout(&tcp).unwrap(), 0);
    }
}
