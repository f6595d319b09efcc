//! Ports of Services: the one that is asked for, and those that a slice has.

use std::fmt;

use k8s_openapi::api::discovery::v1::EndpointPort;

/// Which port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortRef {
    /// The number that the pods listen on (the Service's `targetPort`, not its `port`).
    Number(u16),
    /// The name of the Service's port. The number belongs to the slice: pods may name different ones.
    Name(String),
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortRef::Number(number) => write!(f, "{number}"),
            PortRef::Name(name) => write!(f, "`{name}`"),
        }
    }
}

impl From<&podpin_config::Port> for PortRef {
    fn from(port: &podpin_config::Port) -> PortRef {
        match port {
            podpin_config::Port::Number(number) => PortRef::Number(*number),
            podpin_config::Port::Name(name) => PortRef::Name(name.clone()),
        }
    }
}

/// A port that a slice has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlicePort {
    /// The name of the Service's port; empty if it has none.
    pub name: String,
    /// The number that the pods listen on; `None` if the slice leaves it open.
    pub number: Option<i32>,
    /// `TCP`, `UDP` or `SCTP`; only TCP can be asked for.
    pub protocol: String,
}

impl fmt::Display for SlicePort {
    /// `http (8080)`, `8080`, `dns (53/UDP)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number.map_or_else(|| "any".to_owned(), |number| number.to_string());
        let number = match self.protocol.as_str() {
            "TCP" => number,
            protocol => format!("{number}/{protocol}"),
        };
        match self.name.as_str() {
            "" => f.write_str(&number),
            name => write!(f, "{name} ({number})"),
        }
    }
}

impl From<&EndpointPort> for SlicePort {
    fn from(port: &EndpointPort) -> SlicePort {
        SlicePort {
            name: port.name.clone().unwrap_or_default(),
            number: port.port,
            protocol: port.protocol.as_deref().filter(|one| !one.is_empty()).unwrap_or("TCP").to_owned(),
        }
    }
}

/// A port number that is no port.
pub(super) struct OutOfRange;

/// Returns the number of `port` in a slice; `None` if the slice is about other ports.
pub(super) fn number_of(ports: &[EndpointPort], port: &PortRef) -> Result<Option<u16>, OutOfRange> {
    let tcp = |one: &&EndpointPort| matches!(one.protocol.as_deref(), None | Some("" | "TCP"));
    let mut ports = ports.iter().filter(tcp);
    let found = match port {
        // A slice whose port has no number says nothing about this one.
        PortRef::Number(number) => {
            ports.any(|one| one.port == Some(i32::from(*number))).then_some(i32::from(*number))
        }
        PortRef::Name(name) => {
            let named = ports.find(|one| one.name.as_deref().unwrap_or_default() == name);
            named.map(|one| one.port.unwrap_or_default())
        }
    };
    let number = found.map(u16::try_from).transpose().map_err(|_| OutOfRange)?;
    if number == Some(0) { Err(OutOfRange) } else { Ok(number) }
}
