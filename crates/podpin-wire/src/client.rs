//! Who a request comes from: the peer, or what a trusted peer says of its client.

use std::net::IpAddr;

use http::HeaderMap;
use podpin_config::Cidr;

use crate::headers::{FORWARDED_FOR, FORWARDED_PROTO};

/// Whom we talk to, as far as we may believe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The other end of the TCP connection.
    pub peer: IpAddr,
    /// The client itself: the peer, or what trusted proxies say of it.
    pub address: IpAddr,
    /// The peer is in `trustedProxies`.
    pub trusted: bool,
    /// The client's own connection is encrypted, here or at a trusted proxy.
    pub secure: bool,
    /// The subject of its certificate, when it has shown one to us.
    pub subject: Option<String>,
}

impl Client {
    /// Reads what a trusted peer says of its client; anybody else is taken as he comes.
    pub fn of(peer: IpAddr, tls: bool, headers: &HeaderMap, trusted: &[Cidr]) -> Client {
        let peer = peer.to_canonical();
        let is_trusted = |ip: IpAddr| trusted.iter().any(|range| range.contains(ip));
        if !is_trusted(peer) {
            return Client { peer, address: peer, trusted: false, secure: tls, subject: None };
        }
        let told = headers.get_all(&FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        let hops: Vec<&str> = told.flat_map(|list| list.split(',')).map(str::trim).collect();
        let mut address = peer;
        for hop in hops.iter().rev() {
            let Some(ip) = parse_hop(hop) else { break };
            address = ip;
            if !is_trusted(ip) {
                break;
            }
        }
        let https = headers
            .get(&FORWARDED_PROTO)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"https"));
        Client { peer, address, trusted: true, secure: tls || https, subject: None }
    }
}

/// An address in `X-Forwarded-For`: bare, with a port, or an IPv6 one in brackets.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(hop, |(inside, _)| inside);
    let parsed = bare.parse::<IpAddr>().ok();
    parsed.or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|at| at.ip())).map(|ip| ip.to_canonical())
}
