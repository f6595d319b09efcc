//! The client that a request comes from: the peer, or the one that a trusted peer names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::HeaderName;
use podpin_config::Cidr;

use crate::fields::Fields;

pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The client of a connection or request, as far as its peer may be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The other end of the TCP connection.
    pub peer: IpAddr,
    /// Address of the client itself: the peer's, or the one that trusted proxies name.
    pub address: IpAddr,
    /// Whether the peer is in `trustedProxies`.
    pub trusted: bool,
    /// Whether the client's own connection is encrypted, here or at a trusted proxy.
    pub secure: bool,
    /// Subject of the certificate that the client has shown; `None` if it showed none.
    pub subject: Option<String>,
}

impl Client {
    /// Reads the forwarding fields of a trusted peer; an untrusted peer is the client itself.
    #[must_use]
    pub fn of(peer: IpAddr, tls: bool, fields: &Fields, trusted: &[Cidr]) -> Client {
        let peer = peer.to_canonical();
        let is_trusted = |ip: IpAddr| trusted.iter().any(|range| range.contains(ip));
        if !is_trusted(peer) {
            return Client { peer, address: peer, trusted: false, secure: tls, subject: None };
        }
        let name = FORWARDED_FOR;
        let lists = fields.all(&name).filter_map(|value| std::str::from_utf8(value).ok());
        let hops: Vec<&str> = lists.flat_map(|list| list.split(',')).map(str::trim).collect();
        let mut address = peer;
        for hop in hops.iter().rev() {
            let Some(ip) = parse_hop(hop) else { break };
            address = ip;
            if !is_trusted(ip) {
                break;
            }
        }
        let https = fields.get(&FORWARDED_PROTO).is_some_and(|value| value.eq_ignore_ascii_case(b"https"));
        Client { peer, address, trusted: true, secure: tls || https, subject: None }
    }
}

/// Prefix of an IPv6 address that is one client (RFC 6177).
const IPV6_CLIENT_BITS: u8 = 64;

/// Returns the network of an address that counts as one client: the address itself, or the /64 of an IPv6 one.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    masked(address, 32, IPV6_CLIENT_BITS)
}

/// Returns an address with all but the first bits cleared, so many of each version.
#[must_use]
pub fn masked(address: IpAddr, ipv4_bits: u8, ipv6_bits: u8) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(ip) => {
            let shift = 32_u32.saturating_sub(u32::from(ipv4_bits));
            Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.checked_shl(shift).unwrap_or(0)).into()
        }
        IpAddr::V6(ip) => {
            let shift = 128_u32.saturating_sub(u32::from(ipv6_bits));
            Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(shift).unwrap_or(0)).into()
        }
    }
}

/// Parses an address in `X-Forwarded-For`: bare, with a port, or an IPv6 one in brackets.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(hop, |(inside, _)| inside);
    let parsed = bare.parse::<IpAddr>().ok();
    parsed.or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|at| at.ip())).map(|ip| ip.to_canonical())
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

    #[test]
    fn an_address_counts_as_far_as_its_prefix() {
        let of = |text: &str, ipv4, ipv6| masked(text.parse().unwrap(), ipv4, ipv6).to_string();
        assert_eq!(of("10.1.2.3", 32, 64), "10.1.2.3");
        assert_eq!(of("10.1.2.3", 24, 64), "10.1.2.0");
        assert_eq!(of("10.1.2.3", 0, 64), "0.0.0.0");
        assert_eq!(of("::ffff:10.1.2.3", 24, 64), "10.1.2.0");
        assert_ne!(of("2001:db8::1", 32, 128), of("2001:db8::2", 32, 128));
    }

    #[test]
    fn a_hop_is_an_address_with_or_without_port_and_brackets() {
        let cases = [
            ("192.0.2.7", Some("192.0.2.7")),
            ("192.0.2.7:4711", Some("192.0.2.7")),
            ("[2001:db8::7]:80", Some("2001:db8::7")),
            ("2001:db8::7", Some("2001:db8::7")),
            ("::ffff:192.0.2.7", Some("192.0.2.7")),
            ("unknown", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_hop(text), expected.map(|ip| ip.parse().unwrap()), "{text}");
        }
    }
}
