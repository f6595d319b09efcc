//! EndpointSlices of one Service become endpoints: pure, and the same result in whatever order they are met.
//!
//! Kubernetes spreads a Service over slices as it likes: at most 100 endpoints each, one set per address family and per
//! set of port numbers, written one after the other. So an endpoint may stand in two slices at a time, or an address in
//! two endpoints when a new pod has taken over the address of an old one. kube-proxy's rule settles it: the newcomer
//! wins unless it is terminating. Newcomer is what was written later (the slice's `resourceVersion`).
//!
//! A [`Slice`] keeps what is needed of one object for one port, not the object: a tenth of its memory, and an event
//! costs the reading of its own slice only. What an endpoint may become is decided in [`podpin_endpoints::Table`].

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use podpin_endpoints::{Condition, EndpointId, Observed};

/// Which port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortRef {
    /// The number that the pods listen on (the Service's `targetPort`, not its `port`).
    Number(u16),
    /// The name of the Service's port. The number belongs to the slice: pods may name different ones.
    Name(String),
}

impl From<&podpin_config::Port> for PortRef {
    fn from(port: &podpin_config::Port) -> PortRef {
        match port {
            podpin_config::Port::Number(number) => PortRef::Number(*number),
            podpin_config::Port::Name(name) => PortRef::Name(name.clone()),
        }
    }
}

/// The endpoints of the slices of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The endpoints, one for each identity and for each address, sorted by identity.
    pub observed: Vec<Observed>,
    /// Endpoints that were left out because their meaning is unclear (no or a bad address), slices of host names,
    /// ports out of range.
    pub malformed: u32,
}

/// The endpoints that `slices` of one Service name for `port`.
///
/// IPv4 if any slice names an IPv4 endpoint, else IPv6: in a dual-stack Service every pod stands in both.
#[must_use]
pub fn observe<'s>(slices: impl Iterator<Item = &'s EndpointSlice>, port: &PortRef) -> Merged {
    let slices: Vec<Slice> = slices.map(|slice| Slice::read(slice, port)).collect();
    Merged { observed: merge(slices.iter()), malformed: slices.iter().map(|slice| slice.malformed).sum() }
}

/// An EndpointSlice, as far as it concerns one port.
#[derive(Debug)]
pub(crate) struct Slice {
    family: Family,
    /// `metadata.resourceVersion`; 0 when it is not a number.
    version: u64,
    endpoints: Vec<Observed>,
    /// See [`Merged::malformed`].
    pub(crate) malformed: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    /// Host names (`FQDN`), or what is not known yet: nothing that can be connected to without a resolver.
    Foreign,
}

impl Slice {
    /// Takes what concerns `port` out of `slice`.
    pub(crate) fn read(slice: &EndpointSlice, port: &PortRef) -> Slice {
        let family = match slice.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => Family::Foreign,
        };
        let version = version_of(slice.metadata.resource_version.as_deref()).unwrap_or_default();
        let mut read = Slice { family, version, endpoints: Vec::new(), malformed: 0 };
        if family == Family::Foreign {
            read.malformed = 1;
            return read;
        }
        match number_of(slice.ports.as_deref().unwrap_or_default(), port) {
            Ok(Some(number)) => read.take(&slice.endpoints, number),
            Ok(None) => {}
            Err(OutOfRange) => read.malformed = 1,
        }
        read
    }

    /// Whether the slice has no endpoint for the port.
    pub(crate) fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// The uids of the pods in it.
    pub(crate) fn uids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.endpoints.iter().filter_map(|observed| observed.uid.as_ref())
    }

    fn take(&mut self, endpoints: &[Endpoint], port: u16) {
        let mut words = Words::default();
        self.endpoints.reserve_exact(endpoints.len());
        for endpoint in endpoints {
            match address_of(endpoint, self.family) {
                Some(ip) => {
                    self.endpoints.push(observed(endpoint, SocketAddr::new(ip, port), &mut words));
                }
                None => self.malformed += 1,
            }
        }
    }
}

/// A `resourceVersion` as a number, which it is on every server since KEP-5504 and was before.
pub(crate) fn version_of(text: Option<&str>) -> Option<u64> {
    text?.parse().ok()
}

/// A port number that is no port.
struct OutOfRange;

/// Returns the number of `port` in a slice; `None` if the slice is about other ports.
fn number_of(ports: &[EndpointPort], port: &PortRef) -> Result<Option<u16>, OutOfRange> {
    let tcp = |one: &&EndpointPort| matches!(one.protocol.as_deref(), None | Some("" | "TCP"));
    let mut ports = ports.iter().filter(tcp);
    let found = match port {
        // A slice whose port has no number does not restrict ports.
        PortRef::Number(number) => {
            let matches = |one: &EndpointPort| one.port.is_none_or(|port| port == i32::from(*number));
            ports.any(matches).then_some(i32::from(*number))
        }
        PortRef::Name(name) => {
            let named = ports.find(|one| one.name.as_deref().unwrap_or_default() == name);
            named.map(|one| one.port.unwrap_or_default())
        }
    };
    let number = found.map(u16::try_from).transpose().map_err(|_| OutOfRange)?;
    if number == Some(0) { Err(OutOfRange) } else { Ok(number) }
}

/// The first address: the API says that there is one, and kube-proxy looks at no other.
fn address_of(endpoint: &Endpoint, family: Family) -> Option<IpAddr> {
    let ip: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let fits = (family == Family::V4) == ip.is_ipv4();
    (fits && !ip.is_unspecified() && !ip.is_multicast()).then_some(ip)
}

fn observed(endpoint: &Endpoint, address: SocketAddr, words: &mut Words) -> Observed {
    let target = endpoint.target_ref.as_ref();
    let uid = target.and_then(|target| non_empty(target.uid.as_deref()));
    let named = target.and_then(|target| non_empty(target.name.as_deref()));
    let name: Arc<str> = match named.or_else(|| non_empty(endpoint.hostname.as_deref())) {
        Some(name) => name.into(),
        None => address.ip().to_string().into(),
    };
    Observed {
        id: match uid {
            Some(uid) => EndpointId::of_pod(uid, address.port()),
            None => EndpointId::of_address(&name, address),
        },
        name,
        uid: uid.map(Into::into),
        address,
        zone: non_empty(endpoint.zone.as_deref()).map(|zone| words.word(zone)),
        zone_hints: words.hints(endpoint),
        node: non_empty(endpoint.node_name.as_deref()).map(|node| words.word(node)),
        weight: 1,
        condition: condition_of(endpoint.conditions.as_ref()),
        // A slice without pods is written by a person or a controller of theirs, who may change their mind.
        reversible_drain: uid.is_none(),
        deadline: None,
    }
}

/// The readiness triple. With `publishNotReadyAddresses` every endpoint is `ready`; then serving and terminating say
/// how things are.
fn condition_of(conditions: Option<&EndpointConditions>) -> Condition {
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    match (terminating, ready && serving) {
        (true, _) => Condition::Draining { serving },
        (false, true) => Condition::Ready,
        (false, false) => Condition::NotReady { serving },
    }
}

fn non_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

/// Zones and nodes repeat in a slice; each is kept once.
#[derive(Default)]
struct Words {
    words: HashSet<Arc<str>>,
    hints: HashSet<Arc<[Arc<str>]>>,
}

impl Words {
    fn word(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.words.get(text) {
            return Arc::clone(known);
        }
        let word: Arc<str> = text.into();
        self.words.insert(Arc::clone(&word));
        word
    }

    /// `hints.forZones`; an empty list is no hint.
    fn hints(&mut self, endpoint: &Endpoint) -> Option<Arc<[Arc<str>]>> {
        let zones = endpoint.hints.as_ref()?.for_zones.as_deref().filter(|zones| !zones.is_empty())?;
        let zones: Arc<[Arc<str>]> = zones.iter().map(|zone| self.word(&zone.name)).collect();
        if let Some(known) = self.hints.get(&zones) {
            return Some(Arc::clone(known));
        }
        self.hints.insert(Arc::clone(&zones));
        Some(zones)
    }
}

/// Merges the slices of one Service, all read for the same port.
pub(crate) fn merge<'s>(slices: impl Iterator<Item = &'s Slice> + Clone) -> Vec<Observed> {
    let named = |family| {
        slices.clone().filter(move |slice| slice.family == family).flat_map(|slice| {
            slice.endpoints.iter().map(|observed| Entry { version: slice.version, observed })
        })
    };
    let mut entries: Vec<Entry<'_>> = named(Family::V4).collect();
    if entries.is_empty() {
        entries = named(Family::V6).collect();
    }
    // First by identity, so that a pod's stale entry cannot keep an address that its newer one has given up.
    let by_identity = winners(entries.into_iter(), |entry| entry.observed.id);
    let by_address = winners(by_identity, |entry| entry.observed.address);
    let mut merged: Vec<Observed> = by_address.map(|entry| entry.observed.clone()).collect();
    merged.sort_unstable_by_key(|observed| observed.id);
    merged
}

/// An endpoint with the version of the slice that it stands in.
#[derive(Clone, Copy)]
struct Entry<'s> {
    version: u64,
    observed: &'s Observed,
}

impl Entry<'_> {
    /// The greater one wins. All that could differ is in it, so that no order of reading matters.
    fn rank(&self) -> impl Ord + use<'_> {
        let one = self.observed;
        let alive = !matches!(one.condition, Condition::Draining { .. });
        let state = (alive, self.version, one.condition == Condition::Ready, one.condition.serving());
        (state, one.id, one.address, &one.name, &one.zone, &one.zone_hints, &one.node)
    }
}

/// The winner among the entries that have the same key.
fn winners<'s, K: Eq + Hash>(
    entries: impl Iterator<Item = Entry<'s>>,
    key: impl Fn(&Entry<'s>) -> K,
) -> impl Iterator<Item = Entry<'s>> {
    let mut best: HashMap<K, Entry<'s>> = HashMap::with_capacity(entries.size_hint().0);
    for entry in entries {
        let held = best.entry(key(&entry)).or_insert(entry);
        if entry.rank() > held.rank() {
            *held = entry;
        }
    }
    best.into_values()
}

#[cfg(test)]
mod tests {
    use podpin_endpoints::Phase;
    use serde_json::{Value, json};

    use super::*;

    /// A slice with this version, of one port `http` 8080; `endpoints` are objects of the API.
    fn slice(version: u32, endpoints: &Value) -> EndpointSlice {
        let ports = json!([{"name": "http", "protocol": "TCP", "port": 8080}]);
        of("IPv4", version, endpoints, &ports)
    }

    fn of(family: &str, version: u32, endpoints: &Value, ports: &Value) -> EndpointSlice {
        let object = json!({
            "metadata": {"name": format!("web-{version}"), "resourceVersion": version.to_string()},
            "addressType": family, "endpoints": endpoints, "ports": ports,
        });
        serde_json::from_value(object).unwrap()
    }

    /// An endpoint of the pod `name` with these conditions: `RST`, `-` for false, `?` for what is not said.
    fn pod(name: &str, ip: &str, conditions: &str) -> Value {
        let said =
            conditions.bytes().zip(["ready", "serving", "terminating"]).filter(|(said, _)| *said != b'?');
        let conditions: serde_json::Map<String, Value> =
            said.map(|(said, name)| (name.to_owned(), json!(said != b'-'))).collect();
        let target = json!({"kind": "Pod", "name": name, "uid": format!("uid-{name}")});
        json!({"addresses": [ip], "conditions": conditions, "targetRef": target})
    }

    fn http() -> PortRef {
        PortRef::Name("http".into())
    }

    fn merged(slices: &[EndpointSlice], port: &PortRef) -> Merged {
        observe(slices.iter(), port)
    }

    /// "name address phase", `~` after a phase that does not serve; sorted.
    fn words(slices: &[EndpointSlice], port: &PortRef) -> Vec<String> {
        let word = |one: &Observed| {
            let mark = if one.condition.serving() { "" } else { "~" };
            format!("{} {} {}{mark}", one.name, one.address, one.condition.phase().as_str())
        };
        let mut words: Vec<String> = merged(slices, port).observed.iter().map(word).collect();
        words.sort();
        words
    }

    #[test]
    fn the_readiness_triple_becomes_a_condition() {
        let cases = [
            ("RS-", Condition::Ready),
            ("---", Condition::NotReady { serving: false }),
            ("-S-", Condition::NotReady { serving: true }),
            ("-ST", Condition::Draining { serving: true }),
            ("--T", Condition::Draining { serving: false }),
            // What is not said: ready unless it is terminating, serving as it is ready.
            ("???", Condition::Ready),
            ("R??", Condition::Ready),
            ("-??", Condition::NotReady { serving: false }),
            ("?-?", Condition::NotReady { serving: false }),
            ("-?T", Condition::Draining { serving: false }),
            ("??T", Condition::Draining { serving: true }),
            // publishNotReadyAddresses: ready is always said.
            ("R--", Condition::NotReady { serving: false }),
            ("RST", Condition::Draining { serving: true }),
            ("R-T", Condition::Draining { serving: false }),
        ];
        for (triple, expected) in cases {
            let merged = merged(&[slice(1, &json!([pod("a", "10.0.0.1", triple)]))], &http());
            assert_eq!(merged.observed[0].condition, expected, "{triple}");
        }
        let silent = json!([{"addresses": ["10.0.0.1"]}]);
        assert_eq!(merged(&[slice(1, &silent)], &http()).observed[0].condition, Condition::Ready);
    }

    #[test]
    fn everything_that_is_known_of_a_pod_is_carried() {
        let mut one = pod("a", "10.0.0.1", "RS-");
        one["addresses"] = json!(["10.0.0.1", "10.0.0.99"]);
        one["nodeName"] = json!("node-1");
        one["zone"] = json!("z1");
        one["hints"] =
            json!({"forZones": [{"name": "z1"}, {"name": "z2"}], "forNodes": [{"name": "node-1"}]});
        let expected = Observed {
            id: EndpointId::of_pod("uid-a", 8080),
            name: "a".into(),
            uid: Some("uid-a".into()),
            address: "10.0.0.1:8080".parse().unwrap(),
            zone: Some("z1".into()),
            zone_hints: Some(["z1".into(), "z2".into()].into()),
            node: Some("node-1".into()),
            weight: 1,
            condition: Condition::Ready,
            reversible_drain: false,
            deadline: None,
        };
        assert_eq!(
            merged(&[slice(1, &json!([one]))], &http()),
            Merged { observed: vec![expected], malformed: 0 }
        );
        let mut unhinted = pod("a", "10.0.0.1", "RS-");
        unhinted["hints"] = json!({"forZones": []});
        assert_eq!(merged(&[slice(1, &json!([unhinted]))], &http()).observed[0].zone_hints, None);
    }

    #[test]
    fn a_slice_written_by_hand_names_its_endpoints_by_what_there_is() {
        let endpoints = json!([
            {"addresses": ["10.0.0.1"]},
            {"addresses": ["10.0.0.2"], "hostname": "db-0"},
            {"addresses": ["10.0.0.3"], "targetRef": {"kind": "Node", "name": "n"}},
        ]);
        let observed = merged(&[slice(1, &endpoints)], &http()).observed;
        for (name, address) in
            [("10.0.0.1", "10.0.0.1:8080"), ("db-0", "10.0.0.2:8080"), ("n", "10.0.0.3:8080")]
        {
            let address: SocketAddr = address.parse().unwrap();
            let one = observed.iter().find(|one| one.address == address).unwrap();
            assert_eq!((one.id, &*one.name), (EndpointId::of_address(name, address), name));
            assert!(one.uid.is_none() && one.reversible_drain);
        }
    }

    #[test]
    fn nothing_in_a_slice_is_nobody() {
        for (endpoints, ports) in [
            (json!(null), json!(null)),
            (json!([]), json!([])),
            (json!([pod("a", "10.0.0.1", "RS-")]), json!(null)),
        ] {
            let merged = merged(&[of("IPv4", 1, &endpoints, &ports)], &http());
            assert_eq!(merged, Merged { observed: vec![], malformed: 0 }, "{endpoints} {ports}");
        }
    }

    #[test]
    fn the_number_of_a_named_port_belongs_to_the_slice() {
        let endpoints = |name: &str, ip: &str| json!([pod(name, ip, "RS-")]);
        let ports = |number: u16| json!([{"name": "admin", "port": 9000}, {"name": "http", "port": number}]);
        let slices = [
            of("IPv4", 1, &endpoints("a", "10.0.0.1"), &ports(8080)),
            of("IPv4", 2, &endpoints("b", "10.0.0.2"), &ports(8081)),
        ];
        assert_eq!(words(&slices, &http()), ["a 10.0.0.1:8080 ready", "b 10.0.0.2:8081 ready"]);
        assert_eq!(words(&slices, &PortRef::Number(8081)), ["b 10.0.0.2:8081 ready"]);
        let admin = words(&slices, &PortRef::Number(9000));
        assert_eq!(admin, ["a 10.0.0.1:9000 ready", "b 10.0.0.2:9000 ready"]);
        assert_eq!(words(&slices, &PortRef::Name("metrics".into())), [""; 0]);
    }

    #[test]
    fn a_port_is_one_of_tcp_and_in_range() {
        let cases = [
            (json!([{"name": "http", "port": 80, "protocol": "UDP"}]), 0, 0, 0),
            (json!([{"name": "http", "port": 80, "protocol": "UDP"}, {"name": "http", "port": 81}]), 1, 0, 0),
            (json!([{"port": 80}]), 0, 1, 0),
            (json!([{"name": ""}]), 0, 1, 0),
            (json!([{"name": "http"}]), 0, 1, 1),
            (json!([{"name": "http", "port": 0}]), 0, 0, 1),
            (json!([{"name": "http", "port": 70_000}]), 0, 0, 1),
            (json!([{"name": "http", "port": -1}]), 0, 0, 1),
        ];
        for (ports, by_name, by_number, malformed) in cases {
            let slices = [of("IPv4", 1, &json!([pod("a", "10.0.0.1", "RS-")]), &ports)];
            let named = merged(&slices, &http());
            assert_eq!((named.observed.len(), named.malformed), (by_name, malformed), "{ports}");
            assert_eq!(merged(&slices, &PortRef::Number(80)).observed.len(), by_number, "{ports}");
        }
    }

    #[test]
    fn one_address_family_is_used_and_it_is_ipv4_where_there_is_any() {
        let ports = json!([{"name": "http", "port": 8080}]);
        let v4 = of("IPv4", 1, &json!([pod("a", "10.0.0.1", "RS-")]), &ports);
        let v6 = of("IPv6", 2, &json!([pod("a", "fd00::1", "RS-"), pod("b", "fd00::2", "RS-")]), &ports);
        let empty = of("IPv4", 3, &json!(null), &json!(null));
        assert_eq!(words(&[v6.clone(), v4.clone()], &http()), ["a 10.0.0.1:8080 ready"]);
        let only_v6 = ["a [fd00::1]:8080 ready", "b [fd00::2]:8080 ready"];
        assert_eq!(words(&[v6.clone(), empty], &http()), only_v6);
        let ids = |slice: &EndpointSlice| merged(std::slice::from_ref(slice), &http()).observed[0].id;
        assert_eq!(ids(&v4), EndpointId::of_pod("uid-a", 8080), "the family is no part of the identity");
    }

    #[test]
    fn what_has_no_address_is_left_out_and_counted() {
        let bad = json!([
            pod("a", "pod.example", "RS-"), pod("b", "fd00::1", "RS-"), pod("c", "0.0.0.0", "RS-"),
            pod("d", "224.0.0.1", "RS-"), {"addresses": []}, {"addresses": null}, pod("e", "10.0.0.1", "RS-"),
        ]);
        let merged_all = merged(&[slice(1, &bad)], &http());
        assert_eq!((merged_all.observed.len(), merged_all.malformed), (1, 6));
        let ports = json!([{"name": "http", "port": 8080}]);
        for family in ["FQDN", "", "IPv5"] {
            let names = of(family, 1, &json!([pod("a", "10.0.0.1", "RS-")]), &ports);
            assert_eq!(merged(&[names], &http()), Merged { observed: vec![], malformed: 1 }, "{family}");
        }
    }

    #[test]
    fn of_duplicates_the_newcomer_wins_unless_it_is_terminating() {
        // A pod in an older slice, one in a newer one, and what comes of them.
        let cases = [
            // The same pod moves between slices.
            (["a", "10.0.0.1", "RS-"], ["a", "10.0.0.1", "---"], "a 10.0.0.1:8080 resting~"),
            (["a", "10.0.0.1", "---"], ["a", "10.0.0.1", "RS-"], "a 10.0.0.1:8080 ready"),
            (["a", "10.0.0.1", "RS-"], ["a", "10.0.0.1", "-ST"], "a 10.0.0.1:8080 ready"),
            (["a", "10.0.0.1", "RS-"], ["a", "10.0.0.2", "RS-"], "a 10.0.0.2:8080 ready"),
            // An address that another pod has taken over.
            (["a", "10.0.0.1", "RS-"], ["b", "10.0.0.1", "RS-"], "b 10.0.0.1:8080 ready"),
            (["b", "10.0.0.1", "RS-"], ["a", "10.0.0.1", "RS-"], "a 10.0.0.1:8080 ready"),
            (["a", "10.0.0.1", "-ST"], ["b", "10.0.0.1", "---"], "b 10.0.0.1:8080 resting~"),
            (["a", "10.0.0.1", "RS-"], ["b", "10.0.0.1", "-ST"], "a 10.0.0.1:8080 ready"),
        ];
        for (older, newer, expected) in cases {
            let list = |[name, ip, conditions]: [&str; 3]| json!([pod(name, ip, conditions)]);
            // As a number, 10 is newer than 9.
            let slices = [slice(9, &list(older)), slice(10, &list(newer))];
            assert_eq!(words(&slices, &http()), [expected]);
            let [old, new] = slices;
            assert_eq!(words(&[new, old], &http()), [expected], "in whatever order they come");
        }
    }

    #[test]
    fn an_address_that_a_pod_has_given_up_does_not_drive_out_the_new_owner() {
        // `a` has moved to .2, but its old slice still says .1, where `b` is now.
        let old = slice(1, &json!([pod("a", "10.0.0.1", "RS-")]));
        let new = slice(2, &json!([pod("a", "10.0.0.2", "RS-"), pod("b", "10.0.0.1", "RS-")]));
        assert_eq!(words(&[new, old], &http()), ["a 10.0.0.2:8080 ready", "b 10.0.0.1:8080 ready"]);
    }

    #[test]
    fn the_same_name_with_another_uid_is_another_endpoint() {
        let mut second = pod("db-0", "10.0.0.1", "RS-");
        let first = merged(&[slice(1, &json!([second.clone()]))], &http()).observed;
        second["targetRef"]["uid"] = json!("other");
        let again = merged(&[slice(2, &json!([second]))], &http()).observed;
        assert_ne!(first[0].id, again[0].id);
        assert_eq!(first[0].condition.phase(), Phase::Ready);
    }
}
