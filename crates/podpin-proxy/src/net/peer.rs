//! Signs of life of the peer of a TCP connection, as the kernel counts them (`TCP_INFO`).

use std::os::fd::AsRawFd as _;

use pingora_core::protocols::l4::ext::get_tcp_info;
use tokio::net::TcpStream;

/// Retransmissions in a row that nothing acknowledged, from which a peer counts as vanished. The kernel doubles the time
/// between them: 1.4 s over a fast network, where it begins at 200 ms, and 4 s where round trips take half a second. A
/// shorter row would end streams over a weak radio link.
const RETRANSMISSIONS: u8 = 3;

/// State of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Peer that has acknowledged everything that was sent.
    Acknowledged,
    /// Peer that has not acknowledged everything yet.
    Behind,
    /// Peer that acknowledges nothing any more.
    Vanished,
}

impl Peer {
    /// Returns the state of the peer of a connection. One that the kernel says nothing of is not vanished.
    #[must_use]
    pub fn of(tcp: &TcpStream) -> Peer {
        let Ok(info) = get_tcp_info(tcp.as_raw_fd()) else { return Peer::Behind };
        Peer::from_counts(info.tcpi_retransmits.max(info.tcpi_probes), info.tcpi_unacked)
    }

    /// Returns the state for this number of retransmissions or probes without an answer, and of unacknowledged segments.
    fn from_counts(unanswered: u8, unacknowledged: u32) -> Peer {
        match (unanswered, unacknowledged) {
            (RETRANSMISSIONS.., _) => Peer::Vanished,
            (0, 0) => Peer::Acknowledged,
            _ => Peer::Behind,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::testing::connected;

    #[test]
    fn a_peer_has_vanished_after_three_unanswered_retransmissions() {
        assert_eq!(Peer::from_counts(0, 0), Peer::Acknowledged);
        assert_eq!(Peer::from_counts(0, 1), Peer::Behind);
        assert_eq!(Peer::from_counts(2, 1), Peer::Behind);
        assert_eq!(Peer::from_counts(3, 1), Peer::Vanished);
        assert_eq!(Peer::from_counts(3, 0), Peer::Vanished, "a closed window is probed");
    }

    #[tokio::test]
    async fn a_peer_that_answers_has_acknowledged_what_it_answers() {
        let (mut client, mut proxy) = connected().await;
        proxy.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        client.write_all(b"y").await.unwrap();
        proxy.read_exact(&mut [0]).await.unwrap();
        assert_eq!(Peer::of(&proxy), Peer::Acknowledged);
    }
}
