//! Clients that are recognised by what they call themselves are split by a hash, the same in every replica.

use podpin_testkit::{Pod, Proxy, Request};

use super::lines;

const BY_ALL: &str = "affinity: {header: X-Session-Id, query: sid, clientIP: {}}";

/// The pod that a client of this number comes to, recognised by header, parameter and address, in this order.
async fn who(proxy: &Proxy, client: u8) -> [String; 3] {
    let (value, address) = (format!("client-{client}"), format!("198.51.100.{client}"));
    let mut met = Vec::new();
    for request in [
        |target: &str, value: &str, _: &str| Request::get(target).header("X-Session-Id", value),
        |target: &str, value: &str, _: &str| Request::get(&format!("{target}?sid={value}")),
        |target: &str, _: &str, address: &str| Request::get(target).header("X-Forwarded-For", address),
    ] {
        let plain = request("/who", &value, &address).send(proxy.address).await;
        assert_eq!(plain.header("set-cookie"), None);
        let events = request("/events", &value, &address).header("Accept", "text/event-stream");
        assert_eq!(events.open(proxy.address).await.next_data().await, plain.text());
        met.push(plain.text());
    }
    met.try_into().unwrap()
}

#[tokio::test]
async fn replicas_agree_on_every_client_that_names_itself_and_a_weight_moves_nobody_else() {
    let pods = Pod::start_three().await;
    let setup = |weights, keys| {
        let setup = lines(&pods, weights, BY_ALL).top("trustedProxies: [127.0.0.0/8]");
        setup.keys(keys)
    };
    // A key that does not sign does not count.
    let (one, other) = (setup([2, 1], &["k1"]).start().await, setup([2, 1], &["k1", "k9"]).start().await);
    let more = setup([2, 3], &["k1"]).start().await;
    let mut met = std::collections::BTreeSet::new();
    let mut moved = 0;
    for client in 0..20 {
        let home = who(&one, client).await;
        assert_eq!(who(&other, client).await, home);
        for (before, after) in home.iter().zip(who(&more, client).await) {
            assert!(*before == after || after == "pod-c", "{before} became {after}");
            moved += usize::from(*before != after);
        }
        met.extend(home);
    }
    assert_eq!(met.len(), 3, "{met:?}");
    // From one third to three fifths of sixty clients are 16, by hashes that never change.
    assert!((8..=24).contains(&moved), "{moved}");
}
