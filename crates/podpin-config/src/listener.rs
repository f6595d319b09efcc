//! Where clients come in, and what one client may cost before its request is known.

mod limits;

use std::net::SocketAddr;

pub use self::limits::{AmbiguousPaths, HeadersWithUnderscores, ListenerLimits, TcpKeepAlive};
use crate::{name, node::Node, scalar::Port, section::Section, tls::ListenerTls, unit::Cidr};

/// An address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Unique among listeners; a metric label.
    pub name: String,
    /// Port 0 takes any free port. No two listeners and the admin port overlap.
    pub address: SocketAddr,
    /// Whether HTTP/2 without TLS (prior knowledge, RFC 9113 section 3.3) is accepted too. Default: no.
    pub h2c: bool,
    /// TLS, which brings HTTP/2 with it; `None` if plain text.
    pub tls: Option<ListenerTls>,
    /// Whether connections begin with the address of their client. Default: no.
    pub proxy_protocol: ProxyProtocol,
}

/// The PROXY protocol, versions 1 and 2, by which a load balancer names the client before the client's own bytes. Only
/// peers in `trustedProxies` are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Nothing: such bytes are a bad request.
    Off,
    /// A trusted peer may say so.
    Optional,
    /// A trusted peer has to send the header, and no other peer is let in.
    Required,
}

/// Reads `listeners`. Addresses must not overlap with one another or with `admin`.
pub(crate) fn read_listeners(list: &Node<'_>, admin: SocketAddr, trusted: &[Cidr]) -> Vec<Listener> {
    let items = list.items("a list of listeners").unwrap_or_default();
    if items.is_empty() && list.is_sequence() {
        list.fail("at least one listener is needed");
    }
    let mut names = name::Unique::new("listener name");
    let mut taken = vec![(admin, "the admin port".to_owned())];
    items.iter().filter_map(|item| read_listener(item, trusted, &mut names, &mut taken)).collect()
}

fn read_listener(
    item: &Node<'_>,
    trusted: &[Cidr],
    names: &mut name::Unique,
    taken: &mut Vec<(SocketAddr, String)>,
) -> Option<Listener> {
    let section = Section::of(item)?;
    let name = section.require("name", name::LISTENER.what).and_then(|node| {
        let name = node.name(&name::LISTENER)?;
        names.insert(node, &name).then_some(name)
    });
    let address = section.require("address", "an address such as 0.0.0.0:8080").and_then(|node| {
        let address = node.address(Port::AnyWhenZero)?;
        match taken.iter().find(|(other, _)| overlap(*other, address)) {
            Some((_, owner)) => node.fail(format!("{address} is already taken by {owner}")),
            None => taken.push((address, format!("the listener on line {}", node.position().line))),
        }
        Some(address)
    });
    let h2c = section.boolean("h2c", false);
    let tls = section.get("tls").and_then(ListenerTls::read);
    let proxy_protocol = section.get("proxyProtocol").and_then(|node| read_proxy_protocol(node, trusted));
    let proxy_protocol = proxy_protocol.unwrap_or(ProxyProtocol::Off);
    Some(Listener { name: name?, address: address?, h2c, tls, proxy_protocol })
}

fn read_proxy_protocol(node: &Node<'_>, trusted: &[Cidr]) -> Option<ProxyProtocol> {
    if node.is_off() {
        return Some(ProxyProtocol::Off);
    }
    let words = [
        ("off", ProxyProtocol::Off),
        ("optional", ProxyProtocol::Optional),
        ("required", ProxyProtocol::Required),
    ];
    let chosen = node.choice(&words)?;
    if trusted.is_empty() {
        node.fail("no peer would be believed: trustedProxies is empty");
    }
    Some(chosen)
}

/// Whether both cannot be bound at once: the same port on the same address, or on all addresses.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_address = a.ip().to_canonical() == b.ip().to_canonical();
    let everywhere = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && (same_address || everywhere)
}
