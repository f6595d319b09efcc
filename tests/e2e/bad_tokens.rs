//! Tokens that are not worth their name: a new client each, counted by reason, never an error.

use std::time::{SystemTime, UNIX_EPOCH};

use podpin_affinity::{Key, Keyring, SessionId, Token};
use podpin_testkit::{Pod, Proxy, Request, Setup};

/// A token that a proxy of ours would have signed, with a session that began `age_seconds` ago.
fn token(key: &str, service: &str, age_seconds: u64) -> String {
    let keyring = Keyring::new(vec![Key::new(key, format!("{key:0>43}").as_bytes()).unwrap()]).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let token = Token {
        session: SessionId::from_bytes([7; 16]),
        endpoint: [9; 16],
        started_seconds: now - age_seconds,
    };
    keyring.sign(service, &token)
}

fn with_last_changed(token: &str) -> String {
    // The last character of base64url may hold unused bits, so change the one before.
    let mut bytes = token.as_bytes().to_vec();
    let at = bytes.len() - 2;
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    String::from_utf8(bytes).unwrap()
}

async fn expect(proxy: &Proxy, what: &str, cookie: &str, result: &str) {
    for request in [Request::get("/plain"), Request::events("/events")] {
        let before = proxy.metric("podpin_affinity_decisions_total", &[("result", result)]).await;
        let mut connection = proxy.connect().await;
        connection.send(request.clone().header("Cookie", cookie).bytes()).await;
        let head = connection.head().await;
        assert!(head.start_line.starts_with("HTTP/1.1 200"), "{what}: {} for {request:?}", head.start_line);
        assert!(head.header("set-cookie").is_some(), "{what}: a new client gets a cookie ({request:?})");
        let labels = [("service", "chat"), ("result", result)];
        proxy.wait_metric("podpin_affinity_decisions_total", &labels, before + 1.0).await;
    }
}

#[tokio::test]
async fn a_bad_token_is_a_new_client_counted_by_reason() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1]]).service("news", &[&pods[2]]);
    let proxy = setup.route("{name: chat, service: chat}").keys(&["k1"]).start().await;
    let good = token("k1", "chat", 5);
    let cut = &good[..good.len() / 2];
    let cases = [
        ("one bit changed", with_last_changed(&good), "forged"),
        ("signed for another service", token("k1", "news", 5), "forged"),
        ("older than the absolute timeout", token("k1", "chat", 86_400 + 3600), "expired"),
        ("under a key that we do not have", token("k9", "chat", 5), "unknown_key"),
        ("cut in the middle", cut.to_owned(), "malformed"),
        ("empty", String::new(), "malformed"),
        ("no base64url", "%%%".to_owned(), "malformed"),
        ("other base64url", "AAAA".to_owned(), "malformed"),
        ("oversized", format!("{good}{}", "A".repeat(8000)), "malformed"),
    ];
    for (what, value, result) in cases {
        expect(&proxy, what, &format!("podpin-chat={value}"), result).await;
    }
    // Its endpoint is unknown here: another one is found, and the cookie written anew.
    let forged = with_last_changed(&good);
    for beside in [&good, &forged, "", "planted"] {
        let cookies = [
            format!("podpin-chat={good}; podpin-chat={beside}"),
            format!("podpin-chat={beside}; podpin-chat={good}"),
        ];
        for cookie in cookies {
            expect(&proxy, "a good one beside another", &cookie, "repinned").await;
        }
    }
    expect(&proxy, "two bad ones", &format!("podpin-chat={forged}; podpin-chat="), "forged").await;
    assert_eq!(proxy.metric("podpin_affinity_decisions_total", &[("result", "pinned")]).await, 0.0);
}

#[tokio::test]
async fn a_good_token_whose_endpoint_is_unknown_is_moved_and_keeps_its_session() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0]]).keys(&["k1"]).start().await;
    let cookie = format!("podpin-chat={}", token("k1", "chat", 5));
    let response = Request::get("/").header("Cookie", &cookie).send(proxy.address).await;
    assert!(response.header("set-cookie").is_some());
    let seen = pods[0].next_request().await;
    assert_eq!(seen.header("x-podpin-repinned"), Some("gone"));
    let stream = Request::events("/events").header("Cookie", &cookie).open(proxy.address).await;
    assert!(stream.header("set-cookie").is_some());
    let again = pods[0].next_request().await;
    assert_eq!(again.header("x-podpin-repinned"), Some("gone"));
    assert_eq!(again.header("x-podpin-session"), seen.header("x-podpin-session"));
    proxy.wait_metric("podpin_affinity_repins_total", &[("service", "chat"), ("reason", "gone")], 2.0).await;
    proxy.wait_metric("podpin_streams_opened_total", &[("result", "repinned")], 1.0).await;
}

#[tokio::test]
async fn of_bad_pins_of_several_services_one_that_was_ours_is_the_reason() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0]]).service("news", &[&pods[1]]).service("old", &[&pods[2]]);
    let route = "{name: all, backends: [{service: chat}, {service: news}, {service: old, weight: 0}]}";
    let proxy =
        setup.route(route).route("{name: old, service: old, hostnames: [old]}").keys(&["k1"]).start().await;
    let of = |service: &str, age: u64| token("k1", service, age);
    let (day, old) = (86_400 + 3600, of("old", 5));
    let cases = [
        (format!("podpin-chat={}; podpin-news={}", of("news", 5), of("news", day)), "expired"),
        (format!("podpin-chat={}; podpin-news={}", of("chat", day), of("chat", 5)), "expired"),
        (format!("podpin-chat={}; podpin-news=x", of("news", 5)), "forged"),
        ("podpin-news=x".to_owned(), "malformed"),
        (format!("podpin-old={}", of("old", day)), "expired"),
        (format!("podpin-old={old}"), "new"),
        (format!("podpin-old={old}; podpin-news={}", of("news", day)), "new"),
        (format!("podpin-else={}", of("chat", 5)), "new"),
        (format!("podpin-news={}; podpin-chat={old}; podpin-old={old}", of("news", 5)), "repinned"),
    ];
    for (cookie, result) in cases {
        for request in [Request::get("/plain"), Request::events("/events")] {
            let before = proxy.metric("podpin_affinity_decisions_total", &[("result", result)]).await;
            let mut connection = proxy.connect().await;
            connection.send(request.header("Cookie", &cookie).bytes()).await;
            assert!(connection.head().await.header("set-cookie").is_some(), "{cookie}");
            proxy.wait_metric("podpin_affinity_decisions_total", &[("result", result)], before + 1.0).await;
        }
    }
    let counted = proxy.metric("podpin_affinity_decisions_total", &[]).await;
    assert_eq!(counted, 18.0, "one decision for a request");
}
