//! Which header lines pass, on both data paths and in both directions (RFC 9110 section 7.6, RFC 7239).

use podpin_testkit::{Head, Pod, PodRequest, Proxy, Reply, Request, Setup, StreamAnswer};

/// Requests, one for each data path.
fn both() -> [Request; 2] {
    [Request::get("/plain"), Request::events("/events")]
}

/// Sends it and waits for the head of the response: what the pod saw, and what came back.
async fn exchange(proxy: &Proxy, pod: &Pod, request: &Request) -> (PodRequest, Head) {
    let mut connection = proxy.connect().await;
    connection.send(request.bytes()).await;
    let head = connection.head().await;
    (pod.next_request().await, head)
}

#[tokio::test]
async fn what_belongs_to_one_connection_does_not_reach_the_pod() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    for request in both() {
        let request = request
            .header("Connection", "keep-alive, X-Nominated , x-other")
            .header("X-Nominated", "1")
            .header("X-Other", "1")
            .header("Keep-Alive", "timeout=5")
            .header("Proxy-Connection", "keep-alive")
            .header("Proxy-Authorization", "Basic abc")
            .header("TE", "trailers")
            .header("Trailer", "X-T")
            .header("X-End-To-End", "stays")
            .header("Authorization", "Bearer stays");
        let (seen, _) = exchange(&proxy, &pod, &request).await;
        for name in [
            "x-nominated",
            "x-other",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "te",
            "trailer",
        ] {
            assert_eq!(seen.header(name), None, "{name} reached the pod for {}", seen.target);
        }
        let connection = seen.header("connection").unwrap_or_default().to_ascii_lowercase();
        assert!(!connection.contains("nominated"), "{connection}");
        assert_eq!(seen.header("x-end-to-end"), Some("stays"));
        assert_eq!(seen.header("authorization"), Some("Bearer stays"));
    }
}

#[tokio::test]
async fn what_belongs_to_one_connection_does_not_reach_the_client() {
    let pod = Pod::start("pod-a").await;
    let lines = [
        ("Connection", "X-Nominated"),
        ("X-Nominated", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("X-Podpin-Session", "leak"),
        ("X-End-To-End", "stays"),
        ("Set-Cookie", "app=1; Path=/"),
        ("Vary", "Accept"),
    ];
    let plain =
        lines.iter().fold(Reply::new(200).body("x"), |reply, (name, value)| reply.header(name, value));
    let stream = lines.iter().fold(StreamAnswer::new(), |stream, (name, value)| stream.header(name, value));
    pod.answer("/plain", plain);
    pod.answer("/events", stream);
    let proxy = Setup::chat(&[&pod]).start().await;
    for request in both() {
        let (_, head) = exchange(&proxy, &pod, &request).await;
        for name in ["x-nominated", "keep-alive", "proxy-connection", "x-podpin-session"] {
            assert_eq!(head.header(name), None, "{name} reached the client: {head:?}");
        }
        assert_eq!((head.header("x-end-to-end"), head.header("vary")), (Some("stays"), Some("Accept")));
        assert!(head.all("set-cookie").contains(&"app=1; Path=/"), "the pod's own cookie: {head:?}");
    }
}

#[tokio::test]
async fn nobody_outside_says_who_the_client_is() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    for request in both() {
        let request = request
            .host("App.example:8080")
            .header("X-Forwarded-For", "1.2.3.4")
            .header("x-forwarded-for", "5.6.7.8")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Host", "evil.example")
            .header("X-Real-IP", "1.2.3.4")
            .header("Forwarded", "for=1.2.3.4;proto=https");
        let (seen, _) = exchange(&proxy, &pod, &request).await;
        assert_eq!(seen.head.all("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(seen.head.all("x-forwarded-proto"), ["http"]);
        assert_eq!(seen.head.all("x-forwarded-host"), ["App.example:8080"]);
        let forwarded = seen.head.all("forwarded").join(", ");
        assert!(forwarded.contains("for=127.0.0.1") && forwarded.contains("proto=http"), "{forwarded}");
        assert!(!forwarded.contains("1.2.3.4") && !forwarded.contains("https"), "{forwarded}");
        assert!(seen.header("x-real-ip").is_none_or(|ip| ip == "127.0.0.1"), "{:?}", seen.head);
    }
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_appended_to() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).top("trustedProxies: [127.0.0.1/32, 10.0.0.0/8]").start().await;
    for request in both() {
        let request = request
            .header("X-Forwarded-For", "1.2.3.4, 10.0.0.9")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Host", "outside.example")
            .header("Forwarded", "for=1.2.3.4;proto=https");
        let (seen, _) = exchange(&proxy, &pod, &request).await;
        let addresses: Vec<_> =
            seen.head.all("x-forwarded-for").join(",").split(',').map(|a| a.trim().to_owned()).collect();
        assert_eq!(addresses, ["1.2.3.4", "10.0.0.9", "127.0.0.1"]);
        assert_eq!(seen.head.all("x-forwarded-proto"), ["https"]);
        assert_eq!(seen.head.all("x-forwarded-host"), ["outside.example"]);
        let forwarded = seen.head.all("forwarded").join(", ");
        assert!(
            forwarded.starts_with("for=1.2.3.4;proto=https, ") && forwarded.contains("for=127.0.0.1"),
            "{forwarded}"
        );
    }
    let line = proxy.access_log_line(|line| line.get("path").is_some_and(|path| path == "/plain")).await;
    assert_eq!(line.get("client").and_then(|client| client.as_str()), Some("1.2.3.4"), "{line}");
}

#[tokio::test]
async fn the_host_is_kept_and_the_target_is_passed_as_it_came() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    for path in ["/plain", "/events"] {
        let target = format!("{path}/a%2Fb/../c;p=1?q=%20&q=2&r");
        for request in [Request::get(&target), Request::events(&target)] {
            let (seen, _) = exchange(&proxy, &pod, &request.host("app.example:81")).await;
            assert_eq!(
                (seen.target.as_str(), seen.header("host")),
                (target.as_str(), Some("app.example:81"))
            );
            assert_eq!(seen.head.all("host").len(), 1);
        }
    }
}

#[tokio::test]
async fn a_request_keeps_its_accepted_encodings_where_no_handover_needs_plain_text() {
    let pod = Pod::start("pod-a").await;
    let handover = "drain: {handover: lastEventId}";
    for (lines, expected) in [
        (&[][..], "gzip, br"),
        (&[handover], "identity"),
        (&[handover, "sse: {acceptEncoding: client}"], "gzip, br"),
        (&["sse: {acceptEncoding: identity}"], "identity"),
    ] {
        let setup = lines.iter().fold(Setup::chat(&[&pod]), |setup, line| setup.with(line));
        let proxy = setup.start().await;
        let plain = Request::get("/plain").header("Accept-Encoding", "gzip, br");
        let (seen, _) = exchange(&proxy, &pod, &plain).await;
        assert_eq!(seen.header("accept-encoding"), Some("gzip, br"));
        let events = Request::events("/events").header("Accept-Encoding", "gzip, br");
        let (seen, _) = exchange(&proxy, &pod, &events).await;
        assert_eq!(seen.head.all("accept-encoding"), [expected], "{lines:?}");
        let (seen, _) = exchange(&proxy, &pod, &Request::events("/events")).await;
        assert_eq!(seen.head.all("accept-encoding"), ["identity"], "without the field any would do");
    }
}

#[tokio::test]
async fn an_offer_of_http_2_is_passed_over_and_not_passed_on() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let offering = |request: Request| {
        let request = request.header("Connection", "Upgrade, HTTP2-Settings").header("Upgrade", "h2c");
        request.header("HTTP2-Settings", "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA")
    };
    let mut connection = proxy.connect().await;
    for _ in 0..2 {
        assert_eq!(connection.ask(&offering(Request::get("/who"))).await.text(), "pod-a");
        let seen = pod.next_request().await;
        for name in ["connection", "upgrade", "http2-settings"] {
            assert_eq!(seen.header(name), None);
        }
    }
    connection.send(offering(Request::events("/events")).bytes()).await;
    let head = connection.head().await;
    pod.next_stream().await.event("one").await;
    assert_eq!(connection.into_events(head).next_data().await, "one", "it is an event stream like any other");
    proxy.wait_metric("podpin_streams_active", &[("endpoint", "pod-a")], 0.0).await;
}

#[tokio::test]
async fn a_name_with_underscores_does_not_stand_for_a_field_of_the_proxy() {
    let pod = Pod::start("pod-a").await;
    let route = "{name: all, service: chat, headers: {request: {set: {X-Team: ours}, remove: [X-Gone]}}}";
    let setup = Setup::chat(&[&pod]).route(route).with("affinity: {header: X-Session-Id}");
    let proxy = setup.top("trustedProxies: [127.0.0.0/8]").start().await;
    let twins = [
        "X_Podpin_Client_Subject",
        "X_Forwarded_For",
        "X-Real_IP",
        "X_Team",
        "x_gone",
        "X_Session_Id",
        "Proxy",
    ];
    for request in [Request::get("/who"), Request::events("/events"), Request::websocket("/socket")] {
        let request = twins.iter().fold(request, |request, name| request.header(name, "forged"));
        let mut connection = proxy.connect().await;
        connection.send(request.header("X_Request_Id", "kept").bytes()).await;
        connection.head().await;
        let seen = pod.next_request().await;
        for name in twins {
            assert_eq!(seen.header(name), None, "{name}");
        }
        assert_eq!((seen.header("x_request_id"), seen.header("x-team")), (Some("kept"), Some("ours")));
    }
}

#[tokio::test]
async fn other_names_with_underscores_pass_unless_they_are_dropped_or_stand_beside_their_twin() {
    let pod = Pod::start("pod-a").await;
    let pass = Setup::chat(&[&pod]).start().await;
    let drop = Setup::chat(&[&pod]).top("limits: {headersWithUnderscores: drop}").start().await;
    for (proxy, alone) in [(&pass, Some("1")), (&drop, None)] {
        for request in [Request::get("/who"), Request::events("/events"), Request::websocket("/socket")] {
            let request = request.header("api_key", "1").header("X_User", "root").header("X-User", "ann");
            let (seen, _) = exchange(proxy, &pod, &request).await;
            let names = ["api_key", "x_user", "x-user"].map(|name| seen.header(name));
            assert_eq!(names, [alone, None, Some("ann")], "{}", seen.target);
        }
    }
}
