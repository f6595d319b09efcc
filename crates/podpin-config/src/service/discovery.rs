//! Where a service's endpoints come from: written in the configuration, in a file of their own, in DNS or in Kubernetes.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use saphyr::Scalar;

use crate::{name, node::Node, scalar, section::Section, unit::DurationRange};

/// The choices for `discovery`, as messages name them.
pub(crate) const ONE_OF: &str = "one of `kubernetes`, `static`, `file` and `dns`";

const INTERVAL: DurationRange = DurationRange::new(Duration::from_millis(100), Duration::from_secs(3_600));

/// Exactly one source of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// Written in the configuration; may be empty.
    Static(Vec<StaticEndpoint>),
    /// A YAML list of `{name, address, state, zone, weight, generation}`, re-read on change. Absolute, or joined to the
    /// configuration file's directory.
    File(PathBuf),
    /// The EndpointSlices of a Service, watched.
    Kubernetes(KubernetesService),
    /// The addresses of a name, looked up again and again.
    Dns(DnsName),
}

/// A name in DNS whose addresses are the endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsName {
    /// The name. With a dot at its end it is complete; else the search list of the system applies.
    pub name: String,
    /// The port of all its addresses (A, AAAA). `None` if the name begins with `_` and has SRV records, which say it.
    pub port: Option<u16>,
    /// The longest time between two lookups; a shorter TTL is honoured. 100 ms to 1 h, default 5 s.
    pub interval: Duration,
    /// The name server; `None` if those of the system (`/etc/resolv.conf`).
    pub resolver: Option<SocketAddr>,
}

/// Which addresses of pods that have IPv4 and IPv6 are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IpFamily {
    /// IPv4, and IPv6 of those pods that have no other.
    #[default]
    Prefer4,
    /// IPv6, and IPv4 of those pods that have no other.
    Prefer6,
    /// IPv4 alone.
    Only4,
    /// IPv6 alone.
    Only6,
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
    /// The addresses that are used. Default IPv4 where a pod has it.
    pub ip_family: IpFamily,
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
    pub address: EndpointAddress,
    /// As in `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// The share of new clients relative to others, 1 to 1,000, default 1.
    pub weight: u32,
}

/// Where an endpoint of the configuration listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointAddress {
    /// An IP address with a port.
    Ip(SocketAddr),
    /// A name in DNS, each of whose addresses is an endpoint.
    Name {
        /// The name, such as `localhost`.
        host: String,
        /// The port of all its addresses, not 0.
        port: u16,
    },
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndpointAddress::Ip(address) => address.fmt(out),
            EndpointAddress::Name { host, port } => write!(out, "{host}:{port}"),
        }
    }
}

impl Discovery {
    pub(crate) fn read(node: &Node<'_>) -> Option<Self> {
        let section = Section::of(node)?;
        let keys = ["static", "file", "kubernetes", "dns"];
        let mut present: Vec<_> =
            keys.iter().filter_map(|key| section.get(key).map(|child| (*key, child))).collect();
        present.sort_by_key(|(_, child)| (child.position().line, child.position().column));
        match present.as_slice() {
            [("static", list)] => read_static(list).map(Self::Static),
            [("file", file)] => read_file(file).map(Self::File),
            [("dns", name)] => read_dns(name).map(Self::Dns),
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
    let ip_family = section.get("ipFamily").and_then(read_ip_family).unwrap_or_default();
    Some(KubernetesService {
        namespace: namespace.flatten(),
        service: service?,
        port: port?,
        pods,
        ip_family,
    })
}

fn read_ip_family(node: &Node<'_>) -> Option<IpFamily> {
    match node.scalar() {
        Some(Scalar::Integer(4)) => Some(IpFamily::Only4),
        Some(Scalar::Integer(6)) => Some(IpFamily::Only6),
        _ => node.choice(&[
            ("prefer4", IpFamily::Prefer4),
            ("prefer6", IpFamily::Prefer6),
            ("4", IpFamily::Only4),
            ("6", IpFamily::Only6),
        ]),
    }
}

fn read_dns(node: &Node<'_>) -> Option<DnsName> {
    let section = Section::of(node)?;
    let name = section.require("name", A_HOST_NAME).and_then(|node| {
        let text = node.text(A_HOST_NAME)?;
        match refuse_host(text) {
            None => Some(text.to_owned()),
            Some(refusal) => {
                node.fail(refusal);
                None
            }
        }
    });
    let has_ports = name.as_deref().is_some_and(|name| name.starts_with('_'));
    let port = if has_ports {
        if let Some(port) = section.get("port") {
            port.fail("a name that begins with _ has SRV records, which say the ports: leave it out");
        }
        None
    } else {
        let what = "the port that the endpoints listen on; only SRV records (_port._tcp.name) say their own";
        Some(section.require("port", what).and_then(|node| node.count(1..=u16::MAX))?)
    };
    let interval = section.duration("interval", INTERVAL, Duration::from_secs(5));
    let resolver = section.get("resolver").and_then(|node| node.address(scalar::Port::Fixed));
    Some(DnsName { name: name?, port, interval, resolver })
}

const A_HOST_NAME: &str = "a host name such as chat.internal";

/// Returns why `text` is no name that DNS may have; `None` if it is one. A last label of digits is that of an address.
fn refuse_host(text: &str) -> Option<String> {
    let host = text.strip_suffix('.').unwrap_or(text);
    let last = host.rsplit('.').next().unwrap_or_default();
    if text.parse::<IpAddr>().is_ok() || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(format!("{text:?} is not a host name; addresses are written in `static`"));
    }
    name::refuse_dns_name(host)
}

/// Reads an IP address or a host name, with a port.
fn read_address(node: &Node<'_>) -> Option<EndpointAddress> {
    let text = node.text(A_STATIC_ADDRESS)?;
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    if text.parse::<SocketAddr>().is_ok() || refuse_host(host).is_some() {
        return node.address(scalar::Port::Fixed).map(EndpointAddress::Ip);
    }
    match port.parse::<u16>() {
        Ok(0) => node.fail("the port must not be 0"),
        Ok(port) => return Some(EndpointAddress::Name { host: host.to_owned(), port }),
        Err(_) => node.fail(format!("expected {A_STATIC_ADDRESS}, found {text:?}; the port is missing")),
    }
    None
}

const A_STATIC_ADDRESS: &str = "an address such as 10.0.0.1:8080 or localhost:8080";

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
    addresses: &mut BTreeMap<EndpointAddress, usize>,
) -> Option<StaticEndpoint> {
    let section = Section::of(item)?;
    let name = section.require("name", name::ENDPOINT.what).and_then(|node| {
        let name = node.name(&name::ENDPOINT)?;
        names.insert(node, &name).then_some(name)
    });
    let address = section.require("address", A_STATIC_ADDRESS).and_then(|node| {
        let address = read_address(node)?;
        let canonical = match &address {
            EndpointAddress::Ip(ip) => {
                EndpointAddress::Ip(SocketAddr::new(ip.ip().to_canonical(), ip.port()))
            }
            name @ EndpointAddress::Name { .. } => name.clone(),
        };
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
