//! The services that a route leads to: one, or several with a weight each, as Gateway API's `backendRefs`.

use super::Known;
use crate::{name, node::Node, section::Section, suggest};

/// A service that a route leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The name of a service that exists.
    pub service: String,
    /// The backend's share of new clients among the weights of the route, 0 to 1,000,000. With 0 it gets none.
    pub weight: u32,
}

/// As the Gateway API has it. A request may show a pin of each, and every one is verified.
const BACKENDS_MAX: usize = 16;

const A_SERVICE: &str = "the name of a service";

/// Reads `service` or `backends`, exactly one of which is there. `None` if neither is of use, which has been reported.
pub(super) fn read_backends(route: &Section<'_>, known: &Known<'_>) -> Option<Vec<Backend>> {
    let Some(list) = route.get("backends") else {
        let node = route.require("service", "the name of a service, or `backends`")?;
        return Some(vec![Backend { service: known.service(node)?, weight: 1 }]);
    };
    if route.get("service").is_some() {
        list.fail_at_key("`service` is there too; exactly one of the two is needed");
        return None;
    }
    let items = list.items("a list of services with weights")?;
    let mut names = name::Unique::new("backend");
    let backends: Vec<_> = items.iter().filter_map(|item| read_backend(item, known, &mut names)).collect();
    refuse_list(list, &items, &backends);
    refuse_one_cookie(&backends, known);
    let backends: Vec<_> = backends.into_iter().map(|(backend, _)| backend).collect();
    (!backends.is_empty()).then_some(backends)
}

fn read_backend<'a>(
    item: &Node<'a>,
    known: &Known<'_>,
    names: &mut name::Unique,
) -> Option<(Backend, Node<'a>)> {
    let section = Section::of(item)?;
    let weight = section.count("weight", 0..=1_000_000, 1);
    let node = section.require("service", A_SERVICE)?;
    let service = known.service(node)?;
    names.insert(node, &service).then(|| (Backend { service, weight }, node.clone()))
}

fn refuse_list(list: &Node<'_>, items: &[Node<'_>], backends: &[(Backend, Node<'_>)]) {
    if items.is_empty() {
        list.fail("at least one backend is needed");
    } else if items.len() > BACKENDS_MAX {
        list.fail(format!("a route has at most {BACKENDS_MAX} backends; found {}", items.len()));
    } else if items.len() == backends.len() && backends.iter().all(|(backend, _)| backend.weight == 0) {
        list.fail("every weight is 0; at least one must be more");
    }
}

/// Two backends with one cookie would take each other's pins for forgeries: a browser sends both under that name.
fn refuse_one_cookie(backends: &[(Backend, Node<'_>)], known: &Known<'_>) {
    for (at, (backend, node)) in backends.iter().enumerate() {
        let Some(cookie) = known.cookie(&backend.service) else { continue };
        let mut before = backends.iter().take(at);
        if let Some((rival, _)) = before.find(|(other, _)| known.cookie(&other.service) == Some(cookie)) {
            let rival = &rival.service;
            node.fail(format!("its cookie is named `{cookie}` as that of `{rival}`; the backends of a route need different names"));
        }
    }
}

impl Known<'_> {
    /// The name of a service that exists.
    fn service(&self, node: &Node<'_>) -> Option<String> {
        let service = node.text(A_SERVICE)?;
        // Without any service the fault is in `services`, and has been reported there.
        if self.names.contains(&service) || self.names.is_empty() {
            return Some(service.to_owned());
        }
        let hint = match suggest::nearest(service, self.names.iter().copied()) {
            Some(meant) => format!("; did you mean `{meant}`?"),
            None => format!("; the services are {}", suggest::list(self.names.iter().copied(), "and")),
        };
        node.fail(format!("unknown service {service:?}{hint}"));
        None
    }

    /// The name of the cookie of a service.
    fn cookie(&self, service: &str) -> Option<&str> {
        let service = self.services.iter().find(|known| known.name == service)?;
        service.affinity.cookie.as_ref().map(|cookie| cookie.name.as_str())
    }
}
