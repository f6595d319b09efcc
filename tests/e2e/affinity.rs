//! The endpoint that a client was last served by: the cookie, and the header for the pod.

use podpin_testkit::{Pod, Proxy, Reply, Request, Setup, Visitor, wait_for};

/// The attributes of a `Set-Cookie`, sorted, behind its name.
fn attributes(set_cookie: &str) -> (String, Vec<String>) {
    let mut parts = set_cookie.split("; ").map(str::to_owned);
    let pair = parts.next().unwrap_or_default();
    let mut attributes: Vec<_> = parts.collect();
    attributes.sort();
    (pair.split('=').next().unwrap_or_default().to_owned(), attributes)
}

/// Opens a stream and asks an ordinary question: the pods that answered.
async fn who(visitor: &mut Visitor) -> (String, String) {
    let streamed = visitor.events("/events").await.next_data().await;
    (streamed, visitor.get("/who").await.text())
}

/// New clients with their pods, each pinned by an event stream.
async fn pinned(proxy: &Proxy, count: usize) -> Vec<(Visitor, String)> {
    let mut visitors = Vec::new();
    for _ in 0..count {
        let mut visitor = proxy.visitor();
        let pod = visitor.events("/events").await.next_data().await;
        visitors.push((visitor, pod));
    }
    visitors
}

#[tokio::test]
async fn the_first_response_sets_the_cookie_with_its_default_attributes_and_the_next_does_not() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0]]).start().await;
    let expected = ["HttpOnly", "Max-Age=86400", "Path=/", "SameSite=Lax"].map(str::to_owned).to_vec();
    let mut streaming = proxy.visitor();
    let first = streaming.events("/events").await;
    assert_eq!(first.head.all("set-cookie").len(), 1);
    assert_eq!(attributes(first.header("set-cookie").unwrap()), ("podpin-chat".to_owned(), expected.clone()));
    assert_eq!(streaming.events("/events").await.header("set-cookie"), None);
    let mut asking = proxy.visitor();
    let first = asking.get("/who").await;
    assert_eq!(attributes(first.header("set-cookie").unwrap()), ("podpin-chat".to_owned(), expected));
    assert_eq!(asking.get("/who").await.header("set-cookie"), None);
    let value = asking.cookie("podpin-chat").unwrap();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == b'.';
    assert!(value.bytes().all(plain), "not base64url: {value}");
    let port = pods[0].address().port().to_string();
    assert!(!value.contains("pod-a") && !value.contains(&port), "the token tells where the pod is: {value}");
}

#[tokio::test]
async fn the_cookie_carries_the_attributes_that_were_configured() {
    let pod = Pod::start("pod-a").await;
    let cookie = "{name: sid, path: /app, domain: example.com, sameSite: None, secure: true, httpOnly: false, \
                  partitioned: true, maxAge: session}";
    let proxy = Setup::chat(&[&pod]).with(&format!("affinity: {{cookie: {cookie}}}")).start().await;
    let response = proxy.get("/app").await;
    let mut expected = ["Domain=example.com", "Partitioned", "Path=/app", "SameSite=None", "Secure"]
        .map(str::to_owned)
        .to_vec();
    expected.sort();
    assert_eq!(attributes(response.header("set-cookie").unwrap()), ("sid".to_owned(), expected));
}

#[tokio::test]
async fn without_the_cookie_nobody_is_pinned() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).with("affinity: {cookie: off}").start().await;
    assert_eq!(proxy.get("/").await.header("set-cookie"), None);
    assert_eq!(Request::events("/events").open(proxy.address).await.header("set-cookie"), None);
}

#[tokio::test]
async fn secure_is_set_when_a_trusted_proxy_says_https_and_only_then() {
    let pod = Pod::start("pod-a").await;
    let trusting = Setup::chat(&[&pod]).top("trustedProxies: [127.0.0.0/8]").start().await;
    let strict = Setup::chat(&[&pod]).start().await;
    for request in [Request::get("/who"), Request::events("/events")] {
        let request = request.header("X-Forwarded-Proto", "https").header("Connection", "close");
        let secure = async |proxy: &Proxy| {
            let mut connection = proxy.connect().await;
            connection.send(request.bytes()).await;
            connection.head().await.header("set-cookie").unwrap().contains("Secure")
        };
        assert!(secure(&trusting).await, "{request:?}");
        assert!(!secure(&strict).await, "{request:?}");
    }
}

#[tokio::test]
async fn a_pin_survives_reconnects_of_many_clients() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).start().await;
    for (mut visitor, pod) in pinned(&proxy, 20).await {
        for _ in 0..3 {
            assert_eq!(who(&mut visitor).await, (pod.clone(), pod.clone()));
        }
    }
    proxy.wait_metric("podpin_affinity_decisions_total", &[("result", "new")], 20.0).await;
    proxy.wait_metric("podpin_affinity_decisions_total", &[("result", "pinned")], 120.0).await;
    proxy.wait_metric("podpin_streams_opened_total", &[("result", "pinned")], 60.0).await;
}

#[tokio::test]
async fn a_restart_with_the_same_keys_keeps_every_pin() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]);
    let before = setup.start().await;
    let visitors = pinned(&before, 10).await;
    drop(before);
    let after = setup.start().await;
    for (visitor, pod) in visitors {
        assert_eq!(who(&mut visitor.at(after.address)).await, (pod.clone(), pod));
    }
    after.wait_metric("podpin_affinity_decisions_total", &[("result", "pinned")], 20.0).await;
}

#[tokio::test]
async fn two_proxies_with_the_same_keys_agree_on_every_pin() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]);
    let (one, other) = (setup.start().await, setup.start().await);
    for (visitor, pod) in pinned(&one, 10).await {
        assert_eq!(who(&mut visitor.at(other.address)).await, (pod.clone(), pod.clone()));
        assert_eq!(who(&mut visitor.at(one.address)).await, (pod.clone(), pod));
    }
}

#[tokio::test]
async fn a_token_under_an_older_key_is_reissued_under_the_first() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]);
    let old = setup.clone().keys(&["k1"]).start().await;
    let both = setup.clone().keys(&["k2", "k1"]).start().await;
    let new = setup.clone().keys(&["k2"]).start().await;
    for (visitor, pod) in pinned(&old, 5).await {
        let mut visitor = visitor.at(both.address);
        let stream = visitor.events("/events").await;
        assert!(stream.header("set-cookie").is_some(), "not reissued");
        assert_eq!(who(&mut visitor).await, (pod.clone(), pod.clone()));
        let mut visitor = visitor.at(new.address);
        assert_eq!(visitor.get("/who").await.header("set-cookie"), None, "still under the older key");
        assert_eq!(who(&mut visitor).await, (pod.clone(), pod));
    }
}

#[tokio::test]
async fn a_key_file_that_changes_is_read_again() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut visitor = proxy.visitor();
    visitor.get("/").await;
    std::fs::write(proxy.directory().join("k1"), format!("{:0>43}", "another-key")).unwrap();
    wait_for("the old key to be forgotten", async || {
        visitor.clone().get("/").await.header("set-cookie").is_some()
    })
    .await;
    visitor.get("/").await;
    assert_eq!(
        visitor.get("/").await.header("set-cookie"),
        None,
        "the new key does not verify what it signed"
    );
}

#[tokio::test]
async fn ephemeral_keys_serve_and_are_warned_about() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).top("affinityKeys: ephemeral").start().await;
    let mut visitor = proxy.visitor();
    visitor.get("/").await;
    assert_eq!(visitor.get("/").await.header("set-cookie"), None);
    assert!(proxy.process.stderr().concat().contains("ephemeral"), "{:?}", proxy.process.stderr());
}

#[tokio::test]
async fn our_cookie_stays_here_and_the_others_pass_untouched() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut visitor = proxy.visitor();
    visitor.get("/").await;
    pod.next_request().await;
    let token = visitor.cookie("podpin-chat").unwrap();
    let mixed = format!("a=1; podpin-chat={token}; b=\"x y\"; podpin-chat2=z");
    let alone = format!("podpin-chat={token}");
    for request in [Request::get("/plain"), Request::events("/events")] {
        for (sent, expected) in [(&mixed, Some("a=1; b=\"x y\"; podpin-chat2=z")), (&alone, None)] {
            let mut connection = proxy.connect().await;
            connection.send(request.clone().header("Cookie", sent).bytes()).await;
            connection.head().await;
            assert_eq!(pod.next_request().await.header("cookie"), expected, "{request:?}");
        }
    }
}

#[tokio::test]
async fn our_cookie_reaches_the_pod_when_asked() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).with("affinity: {cookie: {forward: true}}").start().await;
    let mut visitor = proxy.visitor();
    visitor.get("/").await;
    pod.next_request().await;
    let expected = format!("podpin-chat={}", visitor.cookie("podpin-chat").unwrap());
    visitor.get("/").await;
    assert_eq!(pod.next_request().await.header("cookie"), Some(expected.as_str()));
    let _stream = visitor.events("/events").await;
    assert_eq!(pod.next_request().await.header("cookie"), Some(expected.as_str()));
}

#[tokio::test]
async fn a_response_with_our_cookie_is_never_publicly_cacheable() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/silent", Reply::new(200).body("x"));
    pod.answer("/no-store", Reply::new(200).header("Cache-Control", "no-store").body("x"));
    pod.answer("/public", Reply::new(200).header("Cache-Control", "public, max-age=60").body("x"));
    let proxy = Setup::chat(&[&pod]).start().await;
    for request in [Request::get("/silent"), Request::events("/silent")] {
        assert_eq!(request.send(proxy.address).await.header("cache-control"), Some("private"));
    }
    for request in [Request::get("/no-store"), Request::events("/no-store")] {
        assert_eq!(request.send(proxy.address).await.header("cache-control"), Some("no-store"));
    }
    for request in [Request::get("/public"), Request::events("/public")] {
        let response = request.send(proxy.address).await;
        let control = response.head.all("cache-control").join(", ");
        assert!(control.contains("private") && !control.contains("public"), "{control}");
    }
    let mut visitor = proxy.visitor();
    visitor.get("/silent").await;
    assert_eq!(visitor.get("/silent").await.header("cache-control"), None, "a response without our cookie");
    let kept = visitor.get("/public").await;
    assert_eq!(kept.header("cache-control"), Some("public, max-age=60"), "a response without our cookie");
}

#[tokio::test]
async fn the_pod_is_told_a_stable_session_that_no_client_can_claim() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut visitor = proxy.visitor();
    let mut sessions = Vec::new();
    for request in [Request::get("/"), Request::events("/events"), Request::get("/")] {
        let request = request
            .header("X-Podpin-Session", "forged")
            .header("x-podpin-repinned", "draining")
            .header("X-Podpin-Anything", "1");
        let mut connection = proxy.connect().await;
        let cookie = visitor.cookie("podpin-chat").map(|token| format!("podpin-chat={token}"));
        let request = cookie.iter().fold(request, |request, cookie| request.header("Cookie", cookie));
        connection.send(request.bytes()).await;
        let head = connection.head().await;
        if let Some(token) = head.header("set-cookie") {
            let value = token.split(';').next().unwrap().split_once('=').unwrap().1;
            visitor.set_cookie("podpin-chat", value);
        }
        let seen = pod.next_request().await;
        assert_eq!(seen.head.all("x-podpin-session").len(), 1);
        assert_eq!((seen.header("x-podpin-repinned"), seen.header("x-podpin-anything")), (None, None));
        sessions.push(seen.header("x-podpin-session").unwrap().to_owned());
    }
    assert!(!sessions.contains(&"forged".to_owned()));
    assert!(sessions.iter().all(|session| session == &sessions[0]), "{sessions:?}");
    proxy.get("/").await;
    let other = pod.next_request().await;
    assert_ne!(
        other.header("x-podpin-session"),
        Some(sessions[0].as_str()),
        "another client has another session"
    );
}

/// The sessions that the pod is told of clients that name themselves in these ways.
async fn named_sessions(proxy: &Proxy, pod: &Pod) -> Vec<String> {
    let mut sessions = Vec::new();
    for request in
        [Request::get("/a").header("X-User", "ann"), Request::get("/a?user=ann"), Request::events("/events")]
    {
        let mut connection = proxy.connect().await;
        connection.send(request.bytes()).await;
        let seen = pod.next_request().await;
        sessions.push(seen.header("x-podpin-session").unwrap().to_owned());
    }
    sessions
}

#[tokio::test]
async fn replicas_agree_on_named_clients_by_their_keys() {
    let pod = Pod::start("pod-a").await;
    let named = "affinity: {header: X-User, query: user, clientIP: {ipv4Prefix: 24}}";
    let setup = |keys: &[&str]| Setup::chat(&[&pod]).with(named).keys(keys);
    let (one, other) = (setup(&["k1"]).start().await, setup(&["k1", "k2"]).start().await);
    let before = named_sessions(&one, &pod).await;
    assert_eq!(named_sessions(&other, &pod).await, before, "a key that only verifies moves nobody");
    other.reload(&setup(&["k2", "k1"])).await;
    let after = named_sessions(&other, &pod).await;
    assert!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?} {after:?}");
    one.reload(&setup(&["k2"])).await;
    assert_eq!(named_sessions(&one, &pod).await, after);
}
