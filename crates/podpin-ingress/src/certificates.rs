//! TLS of the listener: certificates of all Ingresses, and the hosts that they are for.

use std::collections::{BTreeMap, BTreeSet};

use crate::class::Class;
use crate::location::Member;
use crate::object::{ObjectName, Objects, is_object_name};

/// A kind and name that cert-manager's annotations have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Issuer {
    pub(crate) kind: &'static str,
    pub(crate) name: String,
}

/// Certificates and the hosts that they cover.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    /// Secrets with `tls.crt` and `tls.key`, with their host names and who issues them.
    pub(crate) secrets: BTreeMap<ObjectName, (BTreeSet<String>, Option<Issuer>)>,
    exact: BTreeSet<String>,
    /// With the leading dot.
    wildcards: BTreeSet<String>,
}

impl Certificates {
    /// Collects the certificates of all members, and notes what has to be done for them.
    pub(crate) fn collect(members: &mut [Member<'_>], objects: &Objects) -> Self {
        let mut all = Self::default();
        for member in members {
            for entry in &member.ingress.tls {
                let hosts: Vec<String> = if entry.hosts.is_empty() {
                    member.ingress.rules.iter().filter_map(|rule| rule.host.clone()).collect()
                } else {
                    entry.hosts.clone()
                };
                let shown = hosts.join(", ");
                let Some(secret) = &entry.secret else {
                    let note = "no secretName: nginx shows the controller's default certificate; put its Secret into `listeners[].tls.certificates`";
                    member.settings.note("tls", &shown, Class::Approximate, note);
                    continue;
                };
                if !is_object_name(secret) {
                    member.settings.note("tls", secret, Class::NotSupported, "not the name of a Secret");
                    continue;
                }
                let name =
                    ObjectName { namespace: member.ingress.name.namespace.clone(), name: secret.clone() };
                if !objects.secrets.is_empty() && !objects.secrets.contains_key(&name) {
                    let note = "the Secret is not in the input: podpin does not start without its files";
                    member.settings.note("tls", secret, Class::Approximate, note);
                } else {
                    member.settings.note("tls", secret, Class::Exact, "");
                }
                all.add(name, &hosts, issuer(&member.ingress.annotations));
            }
        }
        all
    }

    fn add(&mut self, secret: ObjectName, hosts: &[String], issuer: Option<Issuer>) {
        let (names, issued_by) = self.secrets.entry(secret).or_default();
        names.extend(hosts.iter().cloned());
        *issued_by = issued_by.take().or(issuer);
        for host in hosts {
            match host.strip_prefix('*') {
                Some(suffix) => self.wildcards.insert(suffix.to_owned()),
                None => self.exact.insert(host.clone()),
            };
        }
    }

    /// Whether clients of `host` can come by TLS.
    pub(crate) fn cover(&self, host: Option<&str>) -> bool {
        let Some(host) = host else { return false };
        let parent = host.find('.').and_then(|at| host.get(at..));
        match host.strip_prefix('*') {
            Some(suffix) => self.wildcards.contains(suffix),
            None => self.exact.contains(host) || parent.is_some_and(|parent| self.wildcards.contains(parent)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }
}

fn issuer(annotations: &BTreeMap<String, String>) -> Option<Issuer> {
    let of = |annotation: &str, kind| {
        let name = annotations.get(annotation).filter(|name| is_object_name(name))?;
        Some(Issuer { kind, name: name.clone() })
    };
    of("cert-manager.io/cluster-issuer", "ClusterIssuer").or_else(|| of("cert-manager.io/issuer", "Issuer"))
}
