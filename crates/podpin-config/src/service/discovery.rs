//! Where a service's endpoints come from: written in the configuration, in a file of their own, or told by Kubernetes.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use saphyr::Scalar;

use crate::{name, node::Node, scalar, section::Section};

/// The choices for `discovery`, as messages name them.
pub(crate) const ONE_OF: &str = "one of `kubernetes`, `static` and `file`";

/// Exactly one source of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// Written in the configuration; may be empty.
    Static(Vec<StaticEndpoint>),
    /// A YAML list of `{name, address, state, zone, weight}`, re-read on change. Absolute, or joined to the
    /// configuration file's directory.
    File(PathBuf),
    /// The EndpointSlices of a Service, watched.
    Kubernetes(KubernetesService),
}

/// A port of a Service in the cluster of [`crate::Kubernetes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesService {
    /// A DNS label. `None` if absent: the Pod's own namespace, else that of the kubeconfig's context, else `default`.
    pub namespace: Option<String>,
    /// The Service's name, a DNS label.
    pub service: String,
    /// Which of its ports.
    pub port: Port,
    /// Whether Pods are read, too, for when a terminating one will be killed. Default false.
    pub pods: bool,
}

/// A port as EndpointSlices name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// The number that the pods listen on (the Service's `targetPort`, not its `port`).
    Number(u16),
    /// The name of the Service's port, a DNS label.
    Name(String),
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
        let keys = ["static", "file", "kubernetes"];
        let mut present: Vec<_> =
            keys.iter().filter_map(|key| section.get(key).map(|child| (*key, child))).collect();
        present.sort_by_key(|(_, child)| (child.position().line, child.position().column));
        match present.as_slice() {
            [("static", list)] => read_static(list).map(Self::Static),
            [("file", file)] => read_file(file).map(Self::File),
            [(_, service)] => read_kubernetes(service).map(Self::Kubernetes),
            [] => {
                node.fail(format!("exactly {ONE_OF} is needed"));
                None
            }
            [_, (_, second), ..] => {
                second.fail(format!("a second discovery; exactly {ONE_OF} is needed"));
                None
            }
        }
    }
}

fn read_kubernetes(node: &Node<'_>) -> Option<KubernetesService> {
    let section = Section::of(node)?;
    let namespace = section.get("namespace").map(|node| node.name(&name::NAMESPACE));
    let service = section.require("service", name::SERVICE.what).and_then(|node| node.name(&name::SERVICE));
    let port = section.require("port", A_PORT).and_then(read_port);
    let pods = section.boolean("pods", false);
    Some(KubernetesService { namespace: namespace.flatten(), service: service?, port: port?, pods })
}

const A_PORT: &str = "a port's name such as http, or its number";

fn read_port(node: &Node<'_>) -> Option<Port> {
    if let Some(Scalar::Integer(_)) = node.scalar() {
        return node.count(1..=u16::MAX).map(Port::Number);
    }
    let text = node.text(A_PORT)?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        node.fail(format!("write the number of a port without quotes; found {text:?}"));
        return None;
    }
    node.name(&name::PORT).map(Port::Name)
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
        let address = node.address(scalar::Port::Fixed)?;
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
