//! What happens to a connection before its first request: who is it, is there room, and if not, what is it told.
//!
//! A refused client is heard before it is answered, because a browser's `EventSource` stops for good on a 503 (WHATWG
//! HTML, section 9.2.3) and an event stream that only says `retry:` brings it back. A crowd at the door must cost
//! nothing, though: there are few seats to be heard on, each for a short time, and who finds none gets the 503 in one
//! write, or over TLS, where that would cost a handshake, nothing at all.

use std::mem;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use podpin_config::ProxyProtocol;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::http2::{self, Refusal};
use crate::connection::{Connection, Listener, Next};
use crate::downstream::pending::answer_h1;
use crate::http::reply::Failure;
use crate::net::proxy_protocol::{Unheard, introduction};
use crate::net::transport::Transport;
use crate::shared::Shared;
use crate::telemetry::labels::ConnectionLimit;

/// Refused connections that are heard at a time: a few hundred a second, and no more memory than as many requests.
const SEATS: usize = 64;
/// How long each is heard. A client sends its request right behind the connection; one round trip is enough.
const HEARING: Duration = Duration::from_secs(1);
/// The same over TLS, whose handshake takes one or two round trips more.
const HEARING_TLS: Duration = Duration::from_secs(2);
/// One client has all of a /64 (RFC 6177).
const IPV6_PREFIX_BITS: u32 = 64;

/// What a connection takes of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing: it was refused.
    None,
    /// One of `limits.connections`.
    OfAll,
    /// And one of its address's `limits.connectionsPerClientIP`.
    OfAllAndAddress,
}

/// A seat to be heard on, taken as long as this lives.
struct Seat(Arc<Shared>);

impl Seat {
    fn take(shared: &Arc<Shared>) -> Option<Seat> {
        let seat = Seat(Arc::clone(shared));
        (shared.connections.refusals.fetch_add(1, Ordering::Relaxed) < SEATS).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.connections.refusals.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    /// Counts a new connection.
    ///
    /// # Errors
    /// When `limits.connections` is reached; it is not counted then, and can only be turned away.
    pub(crate) fn admit(listener: &Arc<Listener>, peer: SocketAddr) -> Result<Connection, Connection> {
        let shared = &listener.shared;
        let before = shared.connections.open.fetch_add(1, Ordering::Relaxed);
        shared.metrics.listeners.connections_active.inc(&listener.name);
        let listener_of_it = Arc::clone(listener);
        let mut connection = Connection { listener: listener_of_it, peer, requests: 0, place: Place::OfAll };
        if before < shared.current().limits.connections {
            return Ok(connection);
        }
        connection.vacate();
        Err(connection)
    }

    /// Gives back what it takes of the limits.
    pub(crate) fn vacate(&mut self) {
        let shared = &self.listener.shared;
        match mem::replace(&mut self.place, Place::None) {
            Place::None => return,
            Place::OfAll => {}
            Place::OfAllAndAddress => shared.connections.addresses.give_back(&network(self.peer.ip())),
        }
        shared.connections.open.fetch_sub(1, Ordering::Relaxed);
        shared.metrics.listeners.connections_active.dec(&self.listener.name);
    }

    /// Counts it among the connections of its address; `false`: there are too many. A trusted proxy stands for many
    /// clients and has no limit.
    pub(crate) fn take_place_of_address(&mut self) -> bool {
        let shared = &self.listener.shared;
        let Some(limit) = shared.current().limits.connections_per_client_ip else { return true };
        let address = self.peer.ip();
        if shared.current().trusts(address) {
            return true;
        }
        let taken = shared.connections.addresses.take(network(address), limit);
        if taken {
            self.place = Place::OfAllAndAddress;
        }
        taken
    }

    /// Who is it? On listeners without PROXY headers, whoever connected. Gives the bytes that were read and are the
    /// client's own; `None`: it has ended.
    pub(crate) async fn introduced(&mut self, tcp: &mut TcpStream) -> Option<BytesMut> {
        match self.listener.settings.proxy_protocol {
            ProxyProtocol::Off => Some(BytesMut::new()),
            header => Box::pin(self.introduce(tcp, header)).await,
        }
    }

    /// Lets a trusted proxy name the client, within the time that a request head may take.
    async fn introduce(&mut self, tcp: &mut TcpStream, header: ProxyProtocol) -> Option<BytesMut> {
        let shared = &self.listener.shared;
        let mut closing = shared.lifecycle.closing();
        let unheard = if shared.current().trusts(self.peer.ip()) {
            let introduced = tokio::select! {
                introduced = timeout(shared.current().limits.request_header_timeout, introduction(tcp, header)) => introduced,
                _ = closing.wait_for(|closing| *closing) => Ok(Err(Unheard::Closed)),
            };
            match introduced {
                // Nothing of TLS begins like a header, so bytes that did are none.
                Ok(Ok(introduced)) if self.listener.tls().is_some() && !introduced.ahead.is_empty() => {
                    Unheard::Missing
                }
                Ok(Ok(introduced)) => {
                    self.peer = introduced.client.unwrap_or(self.peer);
                    return Some(introduced.ahead);
                }
                Ok(Err(unheard)) => unheard,
                Err(_) => Unheard::Timeout,
            }
        } else if header == ProxyProtocol::Optional {
            return Some(BytesMut::new());
        } else {
            Unheard::Untrusted
        };
        if let Some(reason) = unheard.label() {
            tracing::debug!(peer = %self.peer, %unheard, "closed");
            shared.metrics.listeners.proxy_protocol_errors.inc(&self.listener.name, reason);
        }
        None
    }

    /// Tells a client that there is no room for it. `ahead` is what was read already; `None`: not even who it is.
    pub(crate) fn turn_away(mut self, tcp: TcpStream, ahead: Option<BytesMut>, failure: Failure) {
        self.vacate();
        let shared = Arc::clone(&self.listener.shared);
        let limit = match failure {
            Failure::Connections => ConnectionLimit::All,
            _ => ConnectionLimit::Client,
        };
        shared.metrics.listeners.connections_refused.inc(&self.listener.name, limit);
        match Seat::take(&shared) {
            Some(seat) => drop(shared.lifecycle.tasks.spawn(self.hear(seat, tcp, ahead, failure))),
            None if self.listener.tls().is_some() => {}
            None => tell(&tcp, failure),
        }
    }

    async fn hear(mut self, _seat: Seat, mut tcp: TcpStream, ahead: Option<BytesMut>, failure: Failure) {
        let over_tls = self.listener.tls().is_some();
        let deadline = Instant::now() + if over_tls { HEARING_TLS } else { HEARING };
        let ahead = match ahead {
            Some(ahead) => ahead,
            None => match timeout_at(deadline, self.introduced(&mut tcp)).await {
                Ok(Some(ahead)) => ahead,
                Ok(None) | Err(_) => return,
            },
        };
        let mut closing = self.listener.shared.lifecycle.closing();
        let refusal = Refusal { failure, deadline };
        let mut tcp = if over_tls {
            match timeout_at(deadline, Box::pin(self.handshake(tcp))).await {
                Ok(Some((tls, true))) => {
                    return Box::pin(http2::serve(self, (tls, ahead), closing, Some(refusal))).await;
                }
                Ok(Some((tls, false))) => tls,
                Ok(None) | Err(_) => return,
            }
        } else {
            Transport::Plain(tcp)
        };
        match timeout_at(deadline, self.next((&mut tcp, ahead), true, &mut closing)).await {
            Ok(Next::Request(asked)) if asked.facts.event_stream => {
                Box::pin(self.serve_event_stream(tcp, *asked, Some(failure))).await;
            }
            Ok(Next::Request(_) | Next::Refused(_)) | Err(_) => {
                if let Some(answer) = failure.answer() {
                    Box::pin(answer_h1(tcp, &answer)).await;
                }
            }
            Ok(Next::H2(bytes)) => Box::pin(http2::serve(self, (tcp, bytes), closing, Some(refusal))).await,
            // Nobody to tell.
            Ok(Next::Closed) => {}
        }
    }
}

/// One write into a fresh socket's empty buffer, and gone.
fn tell(tcp: &TcpStream, failure: Failure) {
    if let Err(error) = socket2::SockRef::from(tcp).send(&failure.h1_close()) {
        tracing::trace!(%error, "a client left before it was turned away");
    }
}

/// What of an address is one client.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> IPV6_PREFIX_BITS << IPV6_PREFIX_BITS).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_address_or_a_64() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(of("203.0.113.9"), "203.0.113.9");
        assert_eq!(of("::ffff:203.0.113.9"), "203.0.113.9");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("2001:db8:1:2::"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::"), of("2001:db8:1:3::"));
    }
}
