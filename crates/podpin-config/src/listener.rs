//! Where clients come in, and what one client may cost before its request is known.

use std::{net::SocketAddr, time::Duration};

use crate::{
    name,
    node::Node,
    scalar::Port,
    section::Section,
    tls::ListenerTls,
    unit::{Cidr, DurationRange},
};

/// An address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Unique among listeners; a metric label.
    pub name: String,
    /// Port 0 takes any free port. No two listeners and the admin port overlap.
    pub address: SocketAddr,
    /// Whether HTTP/2 without TLS (prior knowledge, RFC 9113 section 3.3) is accepted too. Default: no.
    pub h2c: bool,
    /// TLS, which brings HTTP/2 with it; `None`: plain text.
    pub tls: Option<ListenerTls>,
    /// Whether connections begin with the address of their client. Default: no.
    pub proxy_protocol: ProxyProtocol,
}

/// What a load balancer says of the client before the client's own bytes: the PROXY protocol, versions 1 and 2. Only
/// peers in `trustedProxies` are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Nothing: such bytes are a bad request.
    Off,
    /// A trusted peer may say so.
    Optional,
    /// A trusted peer has to say so, and nobody else is let in.
    Required,
}

/// Limits that apply to every listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Open client connections of all listeners together, 1 to 10,000,000. Default 50,000.
    pub connections: usize,
    /// Request line and headers together, in bytes, 1 KiB to 1 MiB. Default 32 KiB.
    pub request_header_bytes: usize,
    /// For the whole head, from its first byte, not for each read. 100 ms to 5 min, default 10 s.
    pub request_header_timeout: Duration,
    /// How long a request body may stall. 100 ms to 1 h, default 10 s.
    pub request_body_timeout: Duration,
    /// How long an idle client connection is kept for its next request. 1 s to 1 h, default 60 s.
    pub keep_alive_timeout: Duration,
}

const HEADER_TIMEOUT: DurationRange =
    DurationRange::new(Duration::from_millis(100), Duration::from_secs(300));
const BODY_TIMEOUT: DurationRange =
    DurationRange::new(Duration::from_millis(100), Duration::from_secs(3_600));
const KEEP_ALIVE: DurationRange = DurationRange::new(Duration::from_secs(1), Duration::from_secs(3_600));

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections: 50_000,
            request_header_bytes: 32 << 10,
            request_header_timeout: Duration::from_secs(10),
            request_body_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(60),
        }
    }
}

impl ListenerLimits {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let header_bytes = (1 << 10)..=(1 << 20);
        Self {
            connections: section.count("connections", 1..=10_000_000, default.connections),
            request_header_bytes: section.bytes(
                "requestHeaderBytes",
                header_bytes,
                default.request_header_bytes,
            ),
            request_header_timeout: section.duration(
                "requestHeaderTimeout",
                HEADER_TIMEOUT,
                default.request_header_timeout,
            ),
            request_body_timeout: section.duration(
                "requestBodyTimeout",
                BODY_TIMEOUT,
                default.request_body_timeout,
            ),
            keep_alive_timeout: section.duration("keepAliveTimeout", KEEP_ALIVE, default.keep_alive_timeout),
        }
    }
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
        node.fail("nobody would be believed: trustedProxies is empty");
    }
    Some(chosen)
}

/// Whether both cannot be bound at once: the same port on the same address, or on all addresses.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_address = a.ip().to_canonical() == b.ip().to_canonical();
    let everywhere = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && (same_address || everywhere)
}
