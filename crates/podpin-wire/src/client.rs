//! The client that a request comes from: the peer, or the one that a trusted peer names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podpin_config::Cidr;

use crate::fields::Fields;
use crate::forwarded;

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
    /// Certificate that the client has shown; `None` if it showed none.
    pub certificate: Option<Box<ClientCertificate>>,
}

/// A certificate that a client has shown and that was verified, as far as endpoints are told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Name of the subject (RFC 4514).
    pub subject: Option<String>,
    /// Name of the issuer (RFC 4514).
    pub issuer: Option<String>,
    /// Subject alternative names, as a list of `type:value`.
    pub subject_alt_names: Option<String>,
    /// SHA-256 hash of the certificate in lower-case hexadecimal digits.
    pub fingerprint: Option<String>,
    /// The certificate (RFC 9440 section 2.2).
    pub certificate: Option<String>,
    /// Certificates that came behind it (RFC 9440 section 2.3).
    pub chain: Option<String>,
}

impl Client {
    /// Reads the forwarding fields of a trusted peer; an untrusted peer is the client itself.
    #[must_use]
    pub fn of(peer: IpAddr, tls: bool, fields: &Fields, trusted: &[Cidr]) -> Client {
        let peer = peer.to_canonical();
        let is_trusted = |ip: IpAddr| trusted.iter().any(|range| range.contains(ip));
        if !is_trusted(peer) {
            return Client { peer, address: peer, trusted: false, secure: tls, certificate: None };
        }
        let mut address = peer;
        for hop in forwarded::hops(fields).iter().rev() {
            let Some(ip) = parse_hop(hop) else { break };
            address = ip;
            if !is_trusted(ip) {
                break;
            }
        }
        let https = forwarded::is_https(fields);
        Client { peer, address, trusted: true, secure: tls || https, certificate: None }
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

/// Parses an address of a hop: bare, with a port, or an IPv6 one in brackets, with or without quotes around it.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    let hop = hop.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(hop);
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
            ("\"[2001:db8::7]:80\"", Some("2001:db8::7")),
            ("unknown", None),
            ("_hidden", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_hop(text.as_bytes()), expected.map(|ip| ip.parse().unwrap()), "{text}");
        }
    }
}
