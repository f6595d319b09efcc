//! Host names as `hostnames` lists them.

use std::{fmt, net::Ipv6Addr};

use crate::{name, node::Node};

/// A host name that is answered to, in lower case, without port and trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// This name only. An IPv6 address stands in brackets, in its shortest form (RFC 5952).
    Exact(String),
    /// `*.example.com`, stored as `.example.com`: one or more labels before it.
    Wildcard(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl Host {
    /// Returns whether `name` is meant, in lower case and without port and trailing dot.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Wildcard(suffix) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
        }
    }
}

impl Host {
    /// Returns whether some name is meant by both.
    pub(crate) fn overlaps(&self, other: &Host) -> bool {
        match (self, other) {
            (Self::Exact(name), other) | (other, Self::Exact(name)) => other.matches(name),
            (Self::Wildcard(one), Self::Wildcard(other)) => {
                one.ends_with(other.as_str()) || other.ends_with(one.as_str())
            }
        }
    }
}

/// Reads a list of host names without duplicates.
pub(crate) fn read_hosts(list: &Node<'_>) -> Vec<Host> {
    let items = list.items("a list of host names").unwrap_or_default();
    let mut hosts: Vec<Host> = Vec::new();
    for item in &items {
        match item.text("a host name").map(parse_host) {
            Some(Ok(host)) if hosts.contains(&host) => item.fail(format!("duplicate hostname `{host}`")),
            Some(Ok(host)) => hosts.push(host),
            Some(Err(refusal)) => item.fail(refusal),
            None => {}
        }
    }
    hosts
}

/// Returns the host that `text` names.
///
/// # Errors
/// The fault of `text`, in one line.
pub fn parse_host(text: &str) -> Result<Host, String> {
    let lower = text.to_ascii_lowercase();
    if let Some(inside) = lower.strip_prefix('[') {
        return parse_bracketed(inside);
    }
    if lower.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("write an IPv6 address in brackets: \"[{lower}]\""));
    }
    if lower == "*" {
        return Err("leave `hostnames` out to match any host".to_owned());
    }
    if let Some((host, _)) = lower.split_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()) {
        return Err(format!("a hostname has no port; write `{host}`"));
    }
    let bare = lower.strip_suffix('.').unwrap_or(&lower);
    let (host, name) = match bare.strip_prefix("*.") {
        Some(name) => (Host::Wildcard(format!(".{name}")), name),
        None => (Host::Exact(bare.to_owned()), bare),
    };
    if name.contains('*') {
        return Err("a wildcard is the first label, such as *.example.com".to_owned());
    }
    match name::refuse_dns_name(name) {
        Some(refusal) => Err(refusal),
        None => Ok(host),
    }
}

/// Reads the rest of an IPv6 address after its opening bracket.
fn parse_bracketed(inside: &str) -> Result<Host, String> {
    let (address, after) = inside.split_once(']').unwrap_or((inside, "?"));
    match address.parse::<Ipv6Addr>() {
        Ok(address) if after.is_empty() => Ok(Host::Exact(format!("[{address}]"))),
        Ok(address) if after.starts_with(':') => {
            Err(format!("a hostname has no port; write \"[{address}]\""))
        }
        _ => Err(format!("{:?} is not an IPv6 address in brackets", format!("[{inside}"))),
    }
}
