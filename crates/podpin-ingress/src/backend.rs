//! Services of the cluster as podpin discovers them: the port that an Ingress names is the Service's, podpin wants its name or
//! the number that pods listen on.

use podpin_config::rule;

use crate::class::Class;
use crate::object::{ObjectName, Objects, Port, Service, ServicePort};
use crate::tree::{Map, Tree};

/// A Service that podpin can follow.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// `discovery` of the service.
    pub(crate) discovery: Map,
    /// The namespace whose EndpointSlices are read; `None` if none are.
    pub(crate) namespace: Option<String>,
    /// Words for a comment.
    pub(crate) title: String,
    /// Differences.
    pub(crate) notes: Vec<(Class, String)>,
}

/// Returns how podpin finds the pods of a Service's port.
///
/// # Errors
/// The reason why it cannot, and what to do.
pub(crate) fn find(objects: &Objects, name: &ObjectName, port: &ServicePort) -> Result<Found, String> {
    if !is_label(&name.namespace) || !is_label(&name.name) {
        return Err(format!("{name} is not the name of a Service"));
    }
    let service = objects.services.get(name);
    if let Some(Service { external_name: Some(host), ports, .. }) = service {
        return external(name, host, ports, port);
    }
    let mut notes = Vec::new();
    let port = match service {
        None => unseen(name, port, &mut notes)?,
        Some(service) => seen(name, service, port, &mut notes)?,
    };
    let kubernetes = Map::of([
        ("namespace", Tree::text(name.namespace.clone())),
        ("service", Tree::text(name.name.clone())),
        ("port", port.clone()),
    ]);
    Ok(Found {
        discovery: Map::of([("kubernetes", Tree::Map(kubernetes))]),
        namespace: Some(name.namespace.clone()),
        title: format!("Service {name}, port {}", port.flow()),
        notes,
    })
}

/// Whether `text` is a DNS label, as podpin wants of namespaces, Services and names of ports.
pub(crate) fn is_label(text: &str) -> bool {
    let is_lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let edges = [text.bytes().next(), text.bytes().last()];
    text.len() <= 63
        && edges.iter().all(|edge| edge.is_some_and(is_lower))
        && text.bytes().all(|b| is_lower(b) || b == b'-')
}

fn unseen(name: &ObjectName, port: &ServicePort, notes: &mut Vec<(Class, String)>) -> Result<Tree, String> {
    match port {
        ServicePort::Name(port) if is_label(port) => {
            notes.push((
                Class::Approximate,
                format!("Service {name} is not in the input: its port is not checked"),
            ));
            Ok(Tree::text(port.clone()))
        }
        ServicePort::Number(number) => Err(format!(
            "Service {name} is not in the input, and {number} is its own port, not that of its pods: add the output of \
             `kubectl get service -n {} {} -o yaml`",
            name.namespace, name.name
        )),
        ServicePort::Name(_) | ServicePort::Missing => Err(format!("no usable port of Service {name}")),
    }
}

fn seen(
    name: &ObjectName,
    service: &Service,
    wanted: &ServicePort,
    notes: &mut Vec<(Class, String)>,
) -> Result<Tree, String> {
    let is_wanted = |port: &&Port| match wanted {
        ServicePort::Name(wanted) => port.name.as_ref() == Some(wanted),
        ServicePort::Number(number) => port.number == *number,
        ServicePort::Missing => false,
    };
    let Some(port) = service.ports.iter().find(is_wanted) else {
        let known: Vec<String> = service
            .ports
            .iter()
            .map(|port| {
                port.name
                    .as_ref()
                    .map_or_else(|| port.number.to_string(), |name| format!("{name} ({})", port.number))
            })
            .collect();
        let wanted = match wanted {
            ServicePort::Name(name) => name.clone(),
            ServicePort::Number(number) => number.to_string(),
            ServicePort::Missing => "without a name".to_owned(),
        };
        return Err(format!("Service {name} has no port {wanted}; it has: {}", known.join(", ")));
    };
    if !service.has_selector {
        let note = format!(
            "Service {name} has no selector: EndpointSlices made by hand are followed, Endpoints are mirrored"
        );
        notes.push((Class::Approximate, note));
    }
    if let Some(protocol) = port.app_protocol.as_deref() {
        let is_http = matches!(protocol, "http" | "HTTP" | "kubernetes.io/ws");
        if !is_http {
            let note = format!(
                "appProtocol {protocol}: nginx goes by `backend-protocol` alone; see `protocol` for pods that speak HTTP/2"
            );
            notes.push((Class::Approximate, note));
        }
    }
    match (&port.name, port.target) {
        (Some(port), _) if is_label(port) => Ok(Tree::text(port.clone())),
        (None, Some(target)) => Ok(Tree::word(target)),
        _ => Err(format!(
            "the port of Service {name} has no name, and its targetPort is one: give the port a name"
        )),
    }
}

fn external(name: &ObjectName, host: &str, ports: &[Port], port: &ServicePort) -> Result<Found, String> {
    let number = match port {
        ServicePort::Number(number) => Some(*number),
        ServicePort::Name(wanted) => {
            ports.iter().find(|port| port.name.as_ref() == Some(wanted)).map(|port| port.number)
        }
        ServicePort::Missing => None,
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let is_name = rule::refuse_dns_name(&host).is_none() && !host.starts_with('_');
    let Some(number) = number.filter(|_| is_name && host.parse::<std::net::IpAddr>().is_err()) else {
        return Err(format!("Service {name} of type ExternalName has no usable name or port"));
    };
    let dns = Map::of([("name", Tree::text(host.clone())), ("port", Tree::word(number))]);
    let note = format!("Service {name} is of type ExternalName: each address of {host} is an endpoint");
    Ok(Found {
        discovery: Map::of([("dns", Tree::Map(dns))]),
        namespace: None,
        title: format!("Service {name}, which is {host}"),
        notes: vec![(Class::Approximate, note)],
    })
}
