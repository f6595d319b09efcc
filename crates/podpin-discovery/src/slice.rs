//! EndpointSlices of one Service become endpoints: pure, and the same result in whatever order they are met.
//!
//! Kubernetes spreads a Service over slices as it likes: at most 100 endpoints each, one set per address family and per
//! set of port numbers, written one after the other. So an endpoint may stand in two slices at a time, or an address in
//! two endpoints when a new pod has taken over the address of an old one, which a slice still lists. Three rules settle it:
//!
//! 1. Of a pod that has IPv4 and IPv6, the addresses of the preferred family count.
//! 2. Of entries of one pod the newer one wins, unless it is terminating and the other is not (kube-proxy's rule). Newer is
//!    what was written later: the slice's `resourceVersion`.
//! 3. Of two pods at one address, the one wins that can be used best, then the one that stands in the slice created last, then
//!    the one with the greatest identity. A version says nothing here: the slice of a pod that has ended may be written anew for
//!    the sake of another pod in it.
//!
//! The result depends on the slices as they are, and not on what was seen before: replicas with other histories agree.
//!
//! A [`Slice`] keeps what is needed of one object for one port, not the object: a tenth of its memory, and an event
//! costs the reading of its own slice only. What an endpoint may become is decided in [`podpin_endpoints::Table`].

mod port;

use std::collections::{HashMap, HashSet, hash_map};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use podpin_config::IpFamily;
use podpin_endpoints::{Condition, EndpointId, IdMap, Observed, generation_of_pod};

use crate::slice::port::{OutOfRange, number_of};
pub use crate::slice::port::{PortRef, SlicePort};

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
#[must_use]
pub fn observe<'s>(
    slices: impl Iterator<Item = &'s EndpointSlice>,
    port: &PortRef,
    family: IpFamily,
) -> Merged {
    let slices: Vec<Slice> = slices.map(|slice| Slice::read(slice, port)).collect();
    let malformed = slices.iter().map(|slice| slice.malformed).sum();
    let mut observed = merge(slices.iter(), family);
    observed.sort_unstable_by_key(|one| one.id);
    Merged { observed, malformed }
}

/// An EndpointSlice, as far as it concerns one port.
#[derive(Debug)]
pub(crate) struct Slice {
    family: Family,
    /// `metadata.resourceVersion`; 0 when it is not a number.
    version: u64,
    /// `metadata.creationTimestamp` in seconds since 1970; 0 when there is none.
    created: i64,
    endpoints: Vec<Observed>,
    /// The ports that it has, if it has endpoints and not the wanted port; `None` if it has the port, or no endpoints.
    pub(crate) other_ports: Option<Box<[SlicePort]>>,
    /// See [`Merged::malformed`].
    pub(crate) malformed: u32,
    /// The first thing that is wrong in it; `None` if nothing is.
    pub(crate) fault: Option<Fault>,
}

/// A thing in a slice that is left out because its meaning is unclear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Addresses that are no IP addresses.
    Family,
    /// A port number that is none.
    Port,
    /// An endpoint without an address, or with one that cannot be connected to.
    Address,
}

impl Fault {
    /// The words for it in the log.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Fault::Family => "its addressType is neither IPv4 nor IPv6",
            Fault::Port => "its port is not between 1 and 65535",
            Fault::Address => "an endpoint has no address of its addressType that can be connected to",
        }
    }
}

/// The kind of the addresses of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Host names (`FQDN`), or what is not known yet: nothing that can be connected to without a resolver.
    Foreign,
}

impl Family {
    /// Returns its name in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
            Family::Foreign => "FQDN",
        }
    }
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
        let created = slice.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
        let mut read = Slice {
            family,
            version,
            created,
            endpoints: Vec::new(),
            other_ports: None,
            malformed: 0,
            fault: None,
        };
        if family == Family::Foreign {
            read.leave_out(Fault::Family);
            return read;
        }
        match number_of(slice.ports.as_deref().unwrap_or_default(), port) {
            Ok(Some(number)) => read.take(&slice.endpoints, number),
            Ok(None) if slice.endpoints.is_empty() => {}
            Ok(None) => {
                let ports = slice.ports.as_deref().unwrap_or_default();
                read.other_ports = Some(ports.iter().map(SlicePort::from).collect());
            }
            Err(OutOfRange) => read.leave_out(Fault::Port),
        }
        read
    }

    fn leave_out(&mut self, fault: Fault) {
        self.malformed += 1;
        self.fault.get_or_insert(fault);
    }

    /// Returns the kind of its addresses.
    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// Whether the slice has no endpoint for the port.
    pub(crate) fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Returns how many endpoints it has for the port.
    pub(crate) fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Returns the endpoints that are described in another way than `before`; `None` if others are listed, or at other addresses.
    pub(crate) fn changes_since(&self, before: &Slice) -> Option<Vec<Observed>> {
        if self.family != before.family || self.endpoints.len() != before.endpoints.len() {
            return None;
        }
        let mut known: IdMap<&Observed> = before.endpoints.iter().map(|one| (one.id, one)).collect();
        let mut changed = Vec::new();
        for one in &self.endpoints {
            let was = known.remove(&one.id).filter(|was| was.address == one.address)?;
            if was != one {
                changed.push(one.clone());
            }
        }
        Some(changed)
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
                None => self.leave_out(Fault::Address),
            }
        }
    }
}

/// A `resourceVersion` as a number, which it is on every server since KEP-5504 and was before.
pub(crate) fn version_of(text: Option<&str>) -> Option<u64> {
    text?.parse().ok()
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
    let of_pod = target.filter(|target| target.kind.as_deref() == Some("Pod")).and(named);
    let generation = of_pod.and_then(generation_of_pod).map(|generation| words.word(generation));
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
        generation,
        weight: 1,
        condition: condition_of(endpoint.conditions.as_ref()),
        // A slice without pods is written by a person or a controller of theirs, who may change their mind.
        reversible_drain: uid.is_none(),
        deadline: None,
    }
}

/// The readiness triple. With `publishNotReadyAddresses` every endpoint is `ready`; then serving and terminating say
/// how things are, and one that does not serve is published.
fn condition_of(conditions: Option<&EndpointConditions>) -> Condition {
    let said = conditions.and_then(|conditions| conditions.ready);
    let ready = said.unwrap_or(true);
    let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    match (terminating, ready, serving) {
        (true, ..) => Condition::Draining { serving },
        (false, true, true) => Condition::Ready,
        (false, true, false) if said.is_some() => Condition::Published,
        (false, ..) => Condition::NotReady { serving },
    }
}

fn non_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

/// Zones, nodes and generations repeat in a slice; each is kept once.
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

/// Merges the slices of one Service, all read for the same port. One entry for each identity and for each address is left.
pub(crate) fn merge<'s>(slices: impl Iterator<Item = &'s Slice> + Clone, family: IpFamily) -> Vec<Observed> {
    let entries = of_preferred_family(slices, family);
    // First by identity, so that a pod's stale entry cannot keep an address that its newer one has given up.
    let by_identity = joined(entries, IdMap::default(), |entry| entry.observed.id, Entry::of_one_pod);
    let by_address = joined(
        by_identity,
        HashMap::<_, _, BuildHasherDefault<AddressHasher>>::default(),
        |entry| entry.observed.address,
        Entry::at_one_address,
    );
    by_address.into_iter().map(|entry| entry.observed.clone()).collect()
}

/// Keeps one entry for each key, at the place of the first one: what `join` makes of all of them. `places` is empty.
fn joined<'s, K: Eq + Hash, S: BuildHasher>(
    entries: Vec<Entry<'s>>,
    mut places: HashMap<K, usize, S>,
    key: impl Fn(&Entry<'s>) -> K,
    join: impl Fn(Entry<'s>, Entry<'s>) -> Entry<'s>,
) -> Vec<Entry<'s>> {
    places.reserve(entries.len());
    let mut kept: Vec<Entry<'s>> = Vec::with_capacity(entries.len());
    for entry in entries {
        match places.entry(key(&entry)) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(kept.len());
                kept.push(entry);
            }
            hash_map::Entry::Occupied(occupied) => {
                if let Some(held) = kept.get_mut(*occupied.get()) {
                    *held = join(*held, entry);
                }
            }
        }
    }
    kept
}

/// A quick hash of addresses, of which each event meets thousands: FNV-1a (RFC 9923) over words. The API server chooses them,
/// not a client.
#[derive(Clone, Debug)]
struct AddressHasher(u64);

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

impl Default for AddressHasher {
    fn default() -> AddressHasher {
        AddressHasher(FNV_OFFSET)
    }
}

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
        }
    }
}

/// Whose addresses of two families are alternatives.
#[derive(PartialEq, Eq, Hash)]
enum Owner<'s> {
    Pod(&'s str),
    Name(&'s str),
    /// Written by hand, without a name: all of them together.
    Nameless,
}

/// Returns the entries without those whose owner has others of the preferred family.
fn of_preferred_family<'s>(
    slices: impl Iterator<Item = &'s Slice> + Clone,
    family: IpFamily,
) -> Vec<Entry<'s>> {
    let of = |family| {
        slices.clone().filter(move |slice| slice.family == family).flat_map(|slice| {
            let Slice { version, created, .. } = *slice;
            slice.endpoints.iter().map(move |observed| Entry { version, created, observed })
        })
    };
    let (first, second) = match family {
        IpFamily::Prefer4 => (Family::V4, Some(Family::V6)),
        IpFamily::Prefer6 => (Family::V6, Some(Family::V4)),
        IpFamily::Only4 => (Family::V4, None),
        IpFamily::Only6 => (Family::V6, None),
    };
    let mut entries: Vec<Entry<'_>> = of(first).collect();
    let others: Vec<Entry<'_>> = second.into_iter().flat_map(of).collect();
    if !others.is_empty() {
        let served: HashSet<Owner<'_>> = entries.iter().map(Entry::owner).collect();
        entries.extend(others.into_iter().filter(|entry| !served.contains(&entry.owner())));
    }
    entries
}

/// An endpoint with what the slice that it stands in says of its time.
#[derive(Clone, Copy)]
struct Entry<'s> {
    version: u64,
    created: i64,
    observed: &'s Observed,
}

impl<'s> Entry<'s> {
    fn owner(&self) -> Owner<'s> {
        let one = self.observed;
        match &one.uid {
            Some(uid) => Owner::Pod(uid),
            None if one.name.parse() == Ok(one.address.ip()) => Owner::Nameless,
            None => Owner::Name(&one.name),
        }
    }

    /// Returns the entry that counts of two of one pod. Its slice is the younger of both, so that the pod has one age whichever
    /// slice is written anew.
    fn of_one_pod(self, other: Entry<'s>) -> Entry<'s> {
        let newer = if other.rank_in_pod() > self.rank_in_pod() { other } else { self };
        Entry { created: self.created.max(other.created), ..newer }
    }

    /// Returns the rank among entries of one pod. All that could differ is in it, so that no order of reading matters.
    fn rank_in_pod(&self) -> impl Ord + use<'s> {
        let one = self.observed;
        let alive = !matches!(one.condition, Condition::Draining { .. });
        let state = (alive, self.version, usability(one.condition));
        (state, one.address, &one.name, &one.zone, &one.zone_hints, &one.node)
    }

    /// Returns the entry that counts of two pods at one address.
    fn at_one_address(self, other: Entry<'s>) -> Entry<'s> {
        let rank =
            |entry: &Entry<'s>| (usability(entry.observed.condition), entry.created, entry.observed.id);
        if rank(&other) > rank(&self) { other } else { self }
    }
}

/// How well an endpoint can be used, in the order in which clients are sent to endpoints ([`podpin_endpoints::Tier`]); then
/// those that keep their clients, those that may come to something, and those that will not.
fn usability(condition: Condition) -> u8 {
    match condition {
        Condition::Ready => 5,
        Condition::Draining { serving: true } => 4,
        Condition::Published => 3,
        Condition::NotReady { serving: true } => 2,
        Condition::NotReady { serving: false } => 1,
        Condition::Draining { serving: false } => 0,
    }
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
        observe(slices.iter(), port, IpFamily::Prefer4)
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
            ("R--", Condition::Published),
            ("R-?", Condition::Published),
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
            uid: Some("uid-a".into()),
            zone: Some("z1".into()),
            zone_hints: Some(["z1".into(), "z2".into()].into()),
            node: Some("node-1".into()),
            ..Observed::ready(EndpointId::of_pod("uid-a", 8080), "a", "10.0.0.1:8080".parse().unwrap())
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
    fn the_generation_of_a_pod_is_that_of_its_replica_set() {
        let mut node = pod("chat-7d4b9c-bbbbb", "10.0.0.3", "RS-");
        node["targetRef"]["kind"] = json!("Node");
        let endpoints = json!([
            pod("chat-7d4b9c-x2x9k", "10.0.0.1", "RS-"),
            pod("chat-0", "10.0.0.2", "RS-"),
            node,
            {"addresses": ["10.0.0.4"], "hostname": "chat-7d4b9c-x2x9k"},
        ]);
        let merged = merged(&[slice(1, &endpoints)], &http());
        let mut generations: Vec<_> = merged
            .observed
            .iter()
            .filter_map(|one| Some((one.address.ip().to_string(), one.generation.as_deref()?)))
            .collect();
        generations.sort();
        assert_eq!(generations, [("10.0.0.1".to_owned(), "chat-7d4b9c")]);
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
            (json!([{"name": ""}]), 0, 0, 0),
            (json!([{"name": "http"}]), 0, 0, 1),
            (json!([{"name": "any"}, {"name": "other", "port": 80}]), 0, 1, 0),
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

    /// Returns the endpoints by each preference: prefer4, prefer6, 4, 6.
    fn by_family(slices: &[EndpointSlice]) -> [Vec<String>; 4] {
        [IpFamily::Prefer4, IpFamily::Prefer6, IpFamily::Only4, IpFamily::Only6].map(|family| {
            let observed = observe(slices.iter(), &http(), family).observed;
            let mut words: Vec<String> =
                observed.iter().map(|one| format!("{} {}", one.name, one.address.ip())).collect();
            words.sort();
            words
        })
    }

    #[test]
    fn of_each_pod_the_addresses_of_the_preferred_family_are_used() {
        let ports = json!([{"name": "http", "port": 8080}]);
        let v4 = of("IPv4", 1, &json!([pod("a", "10.0.0.1", "RS-"), pod("b", "10.0.0.2", "RS-")]), &ports);
        let v6 = of("IPv6", 2, &json!([pod("a", "fd00::1", "RS-"), pod("c", "fd00::3", "RS-")]), &ports);
        let expected: [&[&str]; 4] = [
            &["a 10.0.0.1", "b 10.0.0.2", "c fd00::3"],
            &["a fd00::1", "b 10.0.0.2", "c fd00::3"],
            &["a 10.0.0.1", "b 10.0.0.2"],
            &["a fd00::1", "c fd00::3"],
        ];
        assert_eq!(by_family(&[v6.clone(), v4.clone()]), expected);
        assert_eq!(by_family(&[v4.clone(), v6.clone()]), expected);
        let empty = of("IPv4", 3, &json!(null), &json!(null));
        let [prefer4, _, only4, _] = by_family(&[v6.clone(), empty]);
        assert_eq!((prefer4, only4), (vec!["a fd00::1".to_owned(), "c fd00::3".to_owned()], vec![]));
        let ids = |slice: &EndpointSlice, family| {
            observe([slice].into_iter(), &http(), family)
                .observed
                .iter()
                .map(|one| one.id)
                .collect::<Vec<_>>()
        };
        let id = |name: &str| EndpointId::of_pod(&format!("uid-{name}"), 8080);
        let [one, other] = [ids(&v4, IpFamily::Only4), ids(&v6, IpFamily::Only6)];
        assert!(one.contains(&id("a")) && other.contains(&id("a")), "the family is no part of the identity");
    }

    #[test]
    fn endpoints_without_pods_are_told_apart_by_name_and_those_without_a_name_not_at_all() {
        let ports = json!([{"name": "http", "port": 8080}]);
        let nameless = |address: &str| json!({"addresses": [address]});
        let host = |name: &str, address: &str| json!({"addresses": [address], "hostname": name});
        let v4 = of("IPv4", 1, &json!([nameless("10.0.0.1"), host("db-0", "10.0.0.2")]), &ports);
        let six = json!([nameless("fd00::1"), host("db-0", "fd00::2"), host("db-1", "fd00::3")]);
        let v6 = of("IPv6", 2, &six, &ports);
        let [prefer4, prefer6, ..] = by_family(&[v4, v6]);
        assert_eq!(prefer4, ["10.0.0.1 10.0.0.1", "db-0 10.0.0.2", "db-1 fd00::3"]);
        assert_eq!(prefer6, ["db-0 fd00::2", "db-1 fd00::3", "fd00::1 fd00::1"]);
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
    fn of_entries_of_one_pod_the_newcomer_wins_unless_it_is_terminating() {
        // The pod in an older slice, and in a newer one, and what comes of it.
        let cases = [
            (["10.0.0.1", "RS-"], ["10.0.0.1", "---"], "a 10.0.0.1:8080 resting~"),
            (["10.0.0.1", "---"], ["10.0.0.1", "RS-"], "a 10.0.0.1:8080 ready"),
            (["10.0.0.1", "RS-"], ["10.0.0.1", "-ST"], "a 10.0.0.1:8080 ready"),
            (["10.0.0.1", "RS-"], ["10.0.0.2", "RS-"], "a 10.0.0.2:8080 ready"),
        ];
        for (older, newer, expected) in cases {
            let list = |[ip, conditions]: [&str; 2]| json!([pod("a", ip, conditions)]);
            // As a number, 10 is newer than 9.
            let slices = [slice(9, &list(older)), slice(10, &list(newer))];
            assert_eq!(words(&slices, &http()), [expected]);
            let [old, new] = slices;
            assert_eq!(words(&[new, old], &http()), [expected], "in whatever order they come");
        }
    }

    /// The name of the pod that has the address of both, whichever slice is newer.
    fn owner(first: [&str; 2], second: [&str; 2]) -> String {
        let list = |[name, conditions]: [&str; 2]| json!([pod(name, "10.0.0.1", conditions)]);
        let words = [[1, 2], [2, 1]].map(|[one, other]| {
            let slices = [slice(one, &list(first)), slice(other, &list(second))];
            let [only] = merged(&slices, &http()).observed.try_into().unwrap();
            let only: Observed = only;
            only.name.to_string()
        });
        assert_eq!(words[0], words[1], "{first:?} {second:?}: versions say nothing of two pods");
        words[0].clone()
    }

    #[test]
    fn of_two_pods_at_one_address_the_one_that_can_be_used_wins() {
        // In each line the first wins over the second, which ended and is still listed, or has just begun.
        let cases = [
            ("RS-", "---"),
            ("RS-", "-ST"),
            ("RS-", "--T"),
            ("RS-", "R--"),
            ("-ST", "---"),
            ("-ST", "--T"),
            ("-ST", "R--"),
            ("-ST", "-S-"),
            ("R--", "---"),
            ("R--", "-S-"),
            ("-S-", "---"),
            ("-S-", "--T"),
            ("---", "--T"),
        ];
        for (winner, ghost) in cases {
            assert_eq!(owner(["a", winner], ["b", ghost]), "a", "{winner} {ghost}");
            assert_eq!(owner(["b", winner], ["a", ghost]), "b", "{winner} {ghost}");
        }
        assert_eq!(
            owner(["a", "RS-"], ["b", "RS-"]),
            owner(["b", "RS-"], ["a", "RS-"]),
            "the same everywhere"
        );
    }

    /// A slice with these pods at one address, all of them in these conditions, which was created at `second`.
    fn created(version: u32, second: u32, names: &[&str], conditions: &str) -> EndpointSlice {
        let pods: Vec<Value> = names.iter().map(|name| pod(name, "10.0.0.1", conditions)).collect();
        let mut slice = slice(version, &json!(pods));
        slice.metadata.creation_timestamp =
            Some(serde_json::from_value(json!(format!("2026-11-22T13:47:{second:02}Z"))).unwrap());
        slice
    }

    #[test]
    fn of_two_equal_pods_at_one_address_the_one_in_the_younger_slice_wins() {
        for conditions in ["RS-", "---", "-ST", "R--", "--T"] {
            for (old, young) in [("a", "b"), ("b", "a")] {
                // Whichever of the slices is written anew.
                for (of_old, of_young) in [(1, 2), (2, 1)] {
                    let slices = [
                        created(of_old, 10, &[old], conditions),
                        created(of_young, 11, &[young], conditions),
                    ];
                    assert_eq!(&*merged(&slices, &http()).observed[0].name, young, "{conditions}");
                }
            }
        }
    }

    #[test]
    fn a_pod_in_two_slices_is_as_young_as_the_younger_one() {
        for (of_old, of_young) in [(1, 2), (2, 1)] {
            let slices = [
                created(of_old, 10, &["a"], "RS-"),
                created(of_young, 12, &["a"], "RS-"),
                created(3, 11, &["b"], "RS-"),
            ];
            assert_eq!(&*merged(&slices, &http()).observed[0].name, "a");
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
    fn slices_beyond_measure_are_read_as_what_they_are() {
        let many: Vec<Value> =
            (0..1_000).map(|n| json!({"name": format!("p{n}"), "port": 1_000 + n})).collect();
        let port = |n: u32| PortRef::Name(format!("p{n}"));
        let ports = of("IPv4", 1, &json!([pod("a", "10.0.0.1", "RS-")]), &json!(many));
        assert_eq!(words(std::slice::from_ref(&ports), &port(999)), ["a 10.0.0.1:1999 ready"]);
        assert_eq!(words(&[ports], &port(1_000)), [""; 0]);
        let crowd: Vec<Value> = (0..100).map(|n| pod(&format!("a{n}"), "10.0.0.1", "---")).collect();
        let living = slice(2, &json!([pod("living", "10.0.0.1", "RS-")]));
        assert_eq!(words(&[slice(1, &json!(crowd)), living], &http()), ["living 10.0.0.1:8080 ready"]);
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
