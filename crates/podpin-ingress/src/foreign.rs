//! Annotations that are none of ingress-nginx's: of cert-manager, external-dns and the like, which act on Ingresses, and those
//! of others, which do not concern an import.

use crate::class::Class;
use crate::known::Known;

const CERTIFICATES: &str = "ingress-shim stops when the Ingress goes: the overlay has a Certificate for each Secret of TLS. HTTP-01 challenges \
                            need an ingress controller: use DNS-01, or leave `/.well-known/acme-challenge` on nginx";
const NAMES: &str = "move it to podpin's Service when the host moves";
const OTHER: &str = "of another controller: ingress-nginx does not read it";
const TOOLS: &str = "of a tool that writes objects; no controller reads it";

/// Prefixes of names and what becomes of them; the first that fits counts.
pub const FOREIGN: &[Known] = &[
    row("kubernetes.io/ingress.class", Class::Exact, "chooses what is imported"),
    row("kubernetes.io/tls-acme", Class::Approximate, CERTIFICATES),
    row("cert-manager.io/*", Class::Approximate, CERTIFICATES),
    row("acme.cert-manager.io/*", Class::Approximate, CERTIFICATES),
    row("certmanager.k8s.io/*", Class::Approximate, CERTIFICATES),
    row("external-dns.alpha.kubernetes.io/*", Class::Approximate, NAMES),
    row("nginx.org/*", Class::NotNeeded, OTHER),
    row("nginx.com/*", Class::NotNeeded, OTHER),
    row("traefik.ingress.kubernetes.io/*", Class::NotNeeded, OTHER),
    row("ingress.kubernetes.io/*", Class::NotNeeded, OTHER),
    row("haproxy.org/*", Class::NotNeeded, OTHER),
    row("haproxy-ingress.github.io/*", Class::NotNeeded, OTHER),
    row("alb.ingress.kubernetes.io/*", Class::NotNeeded, OTHER),
    row("konghq.com/*", Class::NotNeeded, OTHER),
    row("kubectl.kubernetes.io/*", Class::NotNeeded, TOOLS),
    row("meta.helm.sh/*", Class::NotNeeded, TOOLS),
    row("argocd.argoproj.io/*", Class::NotNeeded, TOOLS),
    row("*", Class::NotNeeded, "ingress-nginx does not read it"),
];

const fn row(name: &'static str, class: Class, note: &'static str) -> Known {
    let classes = match class {
        Class::Exact => &[Class::Exact],
        Class::Approximate => &[Class::Approximate],
        _ => &[Class::NotNeeded],
    };
    Known { name, target: "-", classes, note, protection: None }
}
