//! The port for probes, metrics and the status page.

use std::net::{Ipv4Addr, SocketAddr};

use crate::{node::Node, scalar::Port, section::Section};

/// The admin port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Default 127.0.0.1:9901, so that exposing it takes intent. Port 0 takes any free port.
    pub address: SocketAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9901)) }
    }
}

impl Admin {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let address = section.get("address").and_then(|node: &Node<'_>| node.address(Port::AnyWhenZero));
        address.map_or_else(Self::default, |address| Self { address })
    }
}
