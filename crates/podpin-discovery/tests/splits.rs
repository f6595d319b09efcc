//! The law of merging: any split of the same endpoints into slices, in any order and with any of them twice, gives the same
//! list. Addresses collide on purpose: pods that have ended are listed beside those that got their addresses.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics is a test that fails")]

use std::collections::BTreeSet;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use podpin_config::IpFamily;
use podpin_discovery::{PortRef, observe};
use podpin_endpoints::{Condition, Observed};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

/// A pod, or an endpoint written by hand.
#[derive(Clone, Debug)]
struct Listed {
    number: u8,
    is_pod: bool,
    /// Last bytes of its addresses.
    v4: Option<u8>,
    v6: Option<u8>,
    conditions: [Option<bool>; 3],
    zone: Option<u8>,
    hint: Option<u8>,
}

/// Where a copy of an endpoint goes: which slice, and at which place in it.
type Copies = Vec<(Index, Index)>;

fn listed() -> impl Strategy<Value = Listed> {
    let address = || prop::option::weighted(0.7, 1..12_u8);
    let few = || prop::option::of(0..3_u8);
    let is_pod = prop::bool::weighted(0.9);
    let conditions = prop::array::uniform3(prop::option::weighted(0.9, any::<bool>()));
    (any::<u8>(), is_pod, address(), address(), conditions, few(), few()).prop_map(
        |(number, is_pod, v4, v6, conditions, zone, hint)| Listed {
            number,
            is_pod,
            v4,
            v6,
            conditions,
            zone,
            hint,
        },
    )
}

fn endpoint(one: &Listed, address: &str) -> Value {
    let [ready, serving, terminating] = one.conditions;
    let mut object = json!({
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "zone": one.zone.map(|zone| format!("zone-{zone}")),
    });
    if one.is_pod {
        let name = format!("pod-{}", one.number);
        object["targetRef"] = json!({"kind": "Pod", "name": name, "uid": format!("uid-{name}")});
    }
    if let Some(zone) = one.hint {
        object["hints"] = json!({"forZones": [{"name": format!("zone-{zone}")}]});
    }
    object
}

fn slice(family: &str, version: usize, endpoints: &[Value]) -> EndpointSlice {
    let object = json!({
        "metadata": {"name": format!("s-{version}"), "resourceVersion": version.to_string(),
                     "creationTimestamp": "2026-11-22T13:47:19Z"},
        "addressType": family, "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}],
    });
    serde_json::from_value(object).unwrap()
}

/// The endpoints of one family, as objects.
fn of_family(all: &[Listed], family: &str) -> Vec<Value> {
    let address = |one: &Listed| match family {
        "IPv4" => one.v4.map(|last| format!("10.0.0.{last}")),
        _ => one.v6.map(|last| format!("fd00::{last}")),
    };
    all.iter().filter_map(|one| Some(endpoint(one, &address(one)?))).collect()
}

/// Splits `endpoints` over `count` slices; each copy of an endpoint goes where `copies` says.
fn split(family: &str, endpoints: &[Value], count: usize, copies: &[Copies]) -> Vec<EndpointSlice> {
    let mut contents: Vec<Vec<Value>> = vec![Vec::new(); count];
    for (endpoint, copies) in endpoints.iter().zip(copies.iter().cycle()) {
        for (at, place) in copies {
            let content = &mut contents[at.index(count)];
            let place = place.index(content.len() + 1);
            content.insert(place, endpoint.clone());
        }
    }
    contents.iter().enumerate().map(|(index, content)| slice(family, index + 1, content)).collect()
}

fn list(slices: &[EndpointSlice], family: IpFamily) -> Vec<Observed> {
    observe(slices.iter(), &PortRef::Name("http".into()), family).observed
}

fn families() -> impl Strategy<Value = IpFamily> {
    prop_oneof![
        Just(IpFamily::Prefer4),
        Just(IpFamily::Prefer6),
        Just(IpFamily::Only4),
        Just(IpFamily::Only6)
    ]
}

fn copies() -> impl Strategy<Value = Vec<Copies>> {
    let copy = (any::<Index>(), any::<Index>());
    prop::collection::vec(prop::collection::vec(copy, 1..4), 1..16)
}

/// Returns the list with one entry for each pod, and for each address without a pod: the API says one thing at a time.
fn consistent(mut all: Vec<Listed>) -> Vec<Listed> {
    all.sort_by_key(|one| one.number);
    all.dedup_by_key(|one| one.number);
    let mut by_hand = (BTreeSet::new(), BTreeSet::new());
    all.retain(|one| {
        let is_new = one.v4.is_none_or(|last| by_hand.0.insert(last));
        let is_new = one.v6.is_none_or(|last| by_hand.1.insert(last)) && is_new;
        one.is_pod || is_new
    });
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_split_order_and_duplication_of_the_same_endpoints_gives_the_same_list(
        all in prop::collection::vec(listed(), 0..24),
        (count, copies) in (1..6_usize, copies()),
        order in any::<u64>(),
        family in families(),
    ) {
        let all = consistent(all);
        let whole = ["IPv4", "IPv6"].map(|family| slice(family, 1, &of_family(&all, family)));
        let expected = list(&whole, family);
        let mut slices: Vec<EndpointSlice> = ["IPv4", "IPv6"]
            .iter()
            .flat_map(|family| split(family, &of_family(&all, family), count, &copies))
            .collect();
        let turn = usize::try_from(order % 16).unwrap() % slices.len();
        slices.rotate_left(turn);
        if order % 2 == 1 {
            slices.reverse();
        }
        prop_assert_eq!(&list(&slices, family), &expected);
        let mut addresses: Vec<_> = expected.iter().map(|one| one.address).collect();
        addresses.sort();
        addresses.dedup();
        prop_assert_eq!(addresses.len(), expected.len(), "an address has one owner");
        if let Some(whole) = match family {
            IpFamily::Only4 => whole.first(),
            IpFamily::Only6 => whole.last(),
            IpFamily::Prefer4 | IpFamily::Prefer6 => None,
        } {
            for endpoint in &whole.endpoints {
                // Alone it is what it is; beside others it may have lost its address, but not to one that cannot be used.
                let alone = slice(&whole.address_type, 1, &[serde_json::to_value(endpoint).unwrap()]);
                let alone = list(&[alone], family);
                let owner = expected.iter().find(|one| one.address == alone[0].address).unwrap();
                let is_ready = |one: &Observed| one.condition == Condition::Ready;
                prop_assert!(!is_ready(&alone[0]) || is_ready(owner), "a ghost took a living pod away: {owner:?}");
            }
        }
    }
}
