//! Names of the configuration that the cluster does not have: a Service without EndpointSlices, a port that none of them has.
//!
//! Both are a service without endpoints, which a cluster may also mean: a Deployment of no replicas has slices without
//! endpoints, and they say nothing about ports. A mismatch is therefore judged by slices that have endpoints, and by whole lists.

use std::fmt::{self, Write};

use crate::kube::KubeService;
use crate::slice::{Family, PortRef, Slice, SlicePort};

/// Ports that are named in a message; a Service has more of them only by accident.
const PORTS_SHOWN: usize = 8;

/// The reason for which nothing of a Service fits what the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// No EndpointSlice belongs to the Service: it does not exist, or has no selector.
    Service,
    /// Slices with endpoints, none of which has the port.
    Port {
        /// The ports that they have, each once, sorted.
        there: Vec<SlicePort>,
    },
    /// Endpoints that have only addresses of another kind than the wanted one.
    Family {
        /// The kinds that there are: `IPv4`, `IPv6` or `FQDN`, each once, sorted.
        there: Vec<&'static str>,
    },
}

impl Mismatch {
    /// Returns the words for it, with what may be done about it.
    #[must_use]
    pub fn words(&self, of: &KubeService) -> String {
        let namespace = match &of.namespace {
            Some(namespace) => format!("the namespace {namespace}"),
            None => "podpin's own namespace".to_owned(),
        };
        let service = &of.service;
        match self {
            Mismatch::Service => {
                format!(
                    "no EndpointSlice belongs to a Service {service} in {namespace}: does the Service exist?"
                )
            }
            Mismatch::Port { there } if there.is_empty() => format!(
                "the EndpointSlices of the Service {service} in {namespace} have no port: does its targetPort name a port \
                 of the pods?"
            ),
            Mismatch::Port { there } => {
                let hint = match &of.port {
                    PortRef::Number(number) => format!(
                        "; a number is the port that the pods listen on (targetPort), and {number} may be the Service's own \
                         port: name the port instead"
                    ),
                    PortRef::Name(_) => String::new(),
                };
                let (port, there) = (&of.port, Listed(there));
                format!(
                    "no EndpointSlice of the Service {service} in {namespace} has a port {port}; there are: {there}{hint}"
                )
            }
            Mismatch::Family { there } => {
                let there = there.join(", ");
                format!(
                    "the EndpointSlices of the Service {service} in {namespace} have only addresses that ipFamily leaves \
                     out: {there}"
                )
            }
        }
    }

    /// Judges the slices of a Service, read for one port, of which no endpoint is used; `None` if they have no endpoints at all.
    pub(super) fn of<'s>(slices: impl Iterator<Item = &'s Slice> + Clone) -> Option<Mismatch> {
        if slices.clone().next().is_none() {
            return Some(Mismatch::Service);
        }
        let has_endpoints = |slice: &&Slice| !slice.is_empty() || slice.family() == Family::Foreign;
        let mut families: Vec<_> =
            slices.clone().filter(has_endpoints).map(|slice| slice.family().as_str()).collect();
        families.sort_unstable();
        families.dedup();
        let without = slices.filter_map(|slice| slice.other_ports.as_deref());
        let mut there: Vec<SlicePort> = Vec::new();
        let mut is_without_port = false;
        for ports in without {
            is_without_port = true;
            there.extend(ports.iter().cloned());
        }
        there.sort_unstable();
        there.dedup();
        match (is_without_port, families.is_empty()) {
            (true, _) => Some(Mismatch::Port { there }),
            (false, false) => Some(Mismatch::Family { there: families }),
            (false, true) => None,
        }
    }
}

/// Ports in a message.
struct Listed<'p>(&'p [SlicePort]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, port) in self.0.iter().take(PORTS_SHOWN).enumerate() {
            write!(f, "{}{port}", if index > 0 { ", " } else { "" })?;
        }
        if self.0.len() > PORTS_SHOWN {
            f.write_str(", ")?;
            f.write_char('…')?;
        }
        Ok(())
    }
}
