//! Where a service's endpoints come from: written in the configuration, or in a file of their own.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use crate::{name, node::Node, scalar::Port, section::Section};

/// Exactly one source of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// Written in the configuration; may be empty.
    Static(Vec<StaticEndpoint>),
    /// A YAML list of `{name, address, state, zone, weight}`, re-read on change. Absolute, or joined to the
    /// configuration file's directory.
    File(PathBuf),
}

/// An endpoint that is written in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticEndpoint {
    /// Unique within the service; the metrics' `endpoint` label.
    pub name: String,
    /// Unique within the service; the port is not 0.
    pub address: SocketAddr,
    /// As in `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// The share of new clients relative to others, 1 to 1,000, default 1.
    pub weight: u32,
}

impl Discovery {
    pub(crate) fn read(node: &Node<'_>) -> Option<Self> {
        let section = Section::of(node)?;
        match (section.get("static"), section.get("file")) {
            (Some(list), None) => read_static(list).map(Self::Static),
            (None, Some(file)) => read_file(file).map(Self::File),
            (Some(one), Some(other)) => {
                let place = |node: &Node<'_>| (node.position().line, node.position().column);
                let second = if place(one) < place(other) { other } else { one };
                second.fail("a second discovery; exactly one of `static` and `file` is needed");
                None
            }
            (None, None) => {
                if !section.has_refused_keys() {
                    node.fail("exactly one of `static` and `file` is needed");
                }
                None
            }
        }
    }
}

fn read_file(node: &Node<'_>) -> Option<PathBuf> {
    Section::of(node)?.require("path", "the path of a file")?.file_path()
}

fn read_static(list: &Node<'_>) -> Option<Vec<StaticEndpoint>> {
    let items = list.items("a list of endpoints")?;
    let mut names = name::Unique::new("endpoint name");
    let mut addresses = BTreeMap::new();
    Some(items.iter().filter_map(|item| read_endpoint(item, &mut names, &mut addresses)).collect())
}

fn read_endpoint(
    item: &Node<'_>,
    names: &mut name::Unique,
    addresses: &mut BTreeMap<SocketAddr, usize>,
) -> Option<StaticEndpoint> {
    let section = Section::of(item)?;
    let name = section.require("name", name::ENDPOINT.what).and_then(|node| {
        let name = node.name(&name::ENDPOINT)?;
        names.insert(node, &name).then_some(name)
    });
    let address = section.require("address", "an address such as 10.0.0.1:8080").and_then(|node| {
        let address = node.address(Port::Fixed)?;
        let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
        if let Some(line) = addresses.get(&canonical) {
            node.fail(format!("duplicate endpoint address {address}; the first is on line {line}"));
        } else {
            addresses.insert(canonical, node.position().line);
        }
        Some(address)
    });
    let zone = section.get("zone").and_then(|node| node.name(&name::ZONE));
    let weight = section.count("weight", 1..=1_000, 1);
    Some(StaticEndpoint { name: name?, address: address?, zone, weight })
}
