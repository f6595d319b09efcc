//! The port for probes, metrics and the status page.

use std::net::{Ipv4Addr, SocketAddr};

use crate::{
    host::{Host, read_hosts},
    node::Node,
    scalar::Port,
    section::Section,
    tls::{FileAt, read_file},
};

/// The admin port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Default 127.0.0.1:9901, so that exposing it takes intent. Port 0 takes any free port.
    pub address: SocketAddr,
    /// Names by which the port is asked for, besides addresses, names without a dot and those of the cluster.
    pub hostnames: Vec<Host>,
    /// The file of the token that requests need which change something. `None` if they have to come from this machine.
    pub token: Option<FileAt>,
}

impl Default for Admin {
    fn default() -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9901));
        Self { address, hostnames: Vec::new(), token: None }
    }
}

impl Admin {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let address = section.get("address").and_then(|node: &Node<'_>| node.address(Port::AnyWhenZero));
        let hostnames = section.get("hostnames").map(read_hosts);
        let token = section.get("token").and_then(Section::of);
        let default = Self::default();
        Self {
            address: address.unwrap_or(default.address),
            hostnames: hostnames.unwrap_or_default(),
            token: token.and_then(|token| read_file(&token, "file")),
        }
    }
}
