//! Endpoints that people list by name and address, in the configuration or by a name in DNS.

use std::net::SocketAddr;
use std::sync::Arc;

use podpin_config::{EndpointAddress, StaticEndpoint};
use podpin_endpoints::{Condition, EndpointId, Observed, Update};

/// The endpoints that are written in the configuration, as the one list there will be; `None` if some of them are host names,
/// which [`follow_names`](crate::follow_names) looks up.
#[must_use]
pub fn static_endpoints(list: &[StaticEndpoint]) -> Option<Update> {
    let observed = |endpoint: &StaticEndpoint| match &endpoint.address {
        EndpointAddress::Ip(address) => Some(static_endpoint(endpoint, *address)),
        EndpointAddress::Name { .. } => None,
    };
    list.iter().map(observed).collect::<Option<_>>().map(Update::Replace)
}

/// Returns an endpoint of the configuration at one of its addresses.
pub(crate) fn static_endpoint(endpoint: &StaticEndpoint, address: SocketAddr) -> Observed {
    let zone = endpoint.zone.as_deref().map(Into::into);
    Observed { zone, ..listed(endpoint.name.as_str().into(), address, endpoint.weight) }
}

/// Returns a ready endpoint of a list. Its drain may be taken back: who wrote the list may change it again.
pub(crate) fn listed(name: Arc<str>, address: SocketAddr, weight: u32) -> Observed {
    Observed {
        id: EndpointId::of_address(&name, address),
        name,
        uid: None,
        address,
        zone: None,
        zone_hints: None,
        node: None,
        weight,
        condition: Condition::Ready,
        reversible_drain: true,
        deadline: None,
    }
}

#[cfg(test)]
mod tests {
    use podpin_endpoints::Phase;

    use super::*;

    #[test]
    fn static_endpoints_are_one_full_list_of_ready_ones() {
        let address = "10.0.0.1:80".parse().unwrap();
        let zone = Some("z".to_owned());
        let endpoint =
            StaticEndpoint { name: "a".into(), address: EndpointAddress::Ip(address), zone, weight: 3 };
        let list = [endpoint.clone()];
        let Some(Update::Replace(observed)) = static_endpoints(&list) else { panic!("a list was expected") };
        let [one] = observed.as_slice() else { panic!("{observed:?}") };
        assert_eq!(one.id, EndpointId::of_address("a", address));
        assert_eq!((&*one.name, one.zone.as_deref(), one.weight), ("a", Some("z"), 3));
        assert_eq!(one.condition.phase(), Phase::Ready);
        let host = EndpointAddress::Name { host: "localhost".into(), port: 80 };
        let with_a_name = [endpoint.clone(), StaticEndpoint { address: host, ..endpoint }];
        assert!(static_endpoints(&with_a_name).is_none());
    }
}
