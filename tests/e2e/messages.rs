//! Messages as RFC 9110 has them: `Date`, `Via` and loops, interim responses, `OPTIONS`, and what pods may get wrong.

use podpin_testkit::{Answer, H2Connection, Pod, Proxy, Reply, Request, Setup, StreamAnswer};

/// A pod that answers by hand, behind a proxy that speaks HTTP/2 too.
async fn by_hand() -> (Pod, Proxy) {
    let pod = Pod::start("pod-a").await;
    pod.answer("/by-hand", Answer::ByHand);
    let proxy = Setup::chat(&[&pod]).h2c().start().await;
    (pod, proxy)
}

/// The value of a field in the head of the answer to a request.
async fn field(proxy: &Proxy, request: &Request, name: &str) -> Option<String> {
    let mut connection = proxy.connect().await;
    connection.send(request.bytes()).await;
    connection.head().await.header(name).map(str::to_owned)
}

fn is_date(text: &str) -> bool {
    // Sun, 06 Nov 1994 08:49:37 GMT
    text.len() == 29 && text.ends_with(" GMT") && text.as_bytes()[3] == b','
}

#[tokio::test]
async fn every_response_has_a_date_and_that_of_a_pod_stays() {
    let pod = Pod::start("pod-a").await;
    const DATED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    pod.answer("/dated", Reply::new(200).header("Date", DATED));
    pod.answer("/ws", Answer::WebSocketEcho);
    let route = "{name: one, hostnames: [a], service: chat}";
    let proxy = Setup::chat(&[&pod]).route(route).h2c().start().await;
    assert_eq!(field(&proxy, &Request::get("/dated").host("a"), "date").await.as_deref(), Some(DATED));
    for request in
        [Request::get("/"), Request::events("/events"), Request::websocket("/ws"), Request::get("/").http10()]
    {
        for host in ["a", "nowhere.example"] {
            let date = field(&proxy, &request.clone().host(host), "date").await;
            assert!(date.as_deref().is_some_and(is_date), "{request:?} {host}: {date:?}");
        }
    }
    let response = H2Connection::open(proxy.address).await.send(&Request::get("/").host("a")).await;
    assert!(response.header("date").is_some_and(is_date));
}

#[tokio::test]
async fn a_request_that_comes_by_again_on_its_way_to_the_same_service_is_a_loop() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).service("other", &[&pod]).h2c();
    let route =
        |host: &str, service: &str| format!("{{name: {service}, hostnames: [{host}], service: {service}}}");
    let proxy = proxy.route(&route("a", "chat")).route(&route("b", "other")).start().await;
    for request in [Request::get("/"), Request::events("/events"), Request::websocket("/")] {
        let request = request.header("Via", "1.0 fred").host("a");
        field(&proxy, &request, "date").await;
        let seen = pod.next_request().await.head.all("via").join(", ");
        assert!(seen.starts_with("1.0 fred, 1.1 podpin-"), "{seen}");
        let again = request.header("Via", &seen);
        let is_upgrade = String::from_utf8(again.bytes()).unwrap().contains("Upgrade:");
        assert_eq!(again.send(proxy.address).await.status, 508);
        if !is_upgrade {
            assert_eq!(H2Connection::open(proxy.address).await.send(&again).await.status, 508);
        }
        // A pod may call another service by way of the same proxy.
        field(&proxy, &again.host("b"), "date").await;
        pod.next_request().await;
    }
}

#[tokio::test]
async fn a_route_may_take_via_off() {
    let pod = Pod::start("pod-a").await;
    let route = "{name: one, service: chat, headers: {request: {remove: [Via]}}}";
    let proxy = Setup::chat(&[&pod]).route(route).start().await;
    proxy.get("/").await;
    assert_eq!(pod.next_request().await.header("via"), None);
}

#[tokio::test]
async fn options_for_the_proxy_are_answered_by_it() {
    let (pod, proxy) = by_hand().await;
    let last = Request::new("OPTIONS", "/by-hand").header("Max-Forwards", "0");
    for request in [Request::new("OPTIONS", "*"), last] {
        let response = request.send(proxy.address).await;
        assert_eq!(response.status, 204);
        assert!(response.header("allow").is_some_and(|methods| methods.contains("GET, HEAD")));
    }
    assert!(pod.requests().is_empty());
    Request::new("OPTIONS", "/").header("Max-Forwards", "3").send(proxy.address).await;
    assert_eq!(pod.next_request().await.header("max-forwards"), Some("2"));
}

#[tokio::test]
async fn a_pod_may_pad_the_sizes_of_its_chunks() {
    let (pod, proxy) = by_hand().await;
    let body = "2  \r\nab\r\n 3\t\r\ncde\r\n0 \r\n\r\n";
    for kind in ["text/plain", "text/event-stream"] {
        let head = format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        for request in [Request::get("/by-hand"), Request::events("/by-hand")] {
            let mut connection = proxy.connect().await;
            connection.send(request.bytes()).await;
            pod.next_stream().await.raw(&format!("{head}{body}")).await;
            assert!(connection.response("GET").await.text().ends_with("abcde"), "{kind} {request:?}");
        }
    }
    // A client may not: another server could read it otherwise.
    let mut connection = proxy.connect().await;
    let head = "POST /by-hand HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.send(format!("{head}{body}")).await;
    assert_eq!(connection.response("POST").await.status, 400);
}

#[tokio::test]
async fn early_hints_come_before_the_head_of_an_event_stream() {
    let (pod, proxy) = by_hand().await;
    for request in [Request::events("/by-hand"), Request::get("/by-hand")] {
        let mut connection = proxy.connect().await;
        connection.send(request.bytes()).await;
        let mut stream = pod.next_stream().await;
        for round in 0..20 {
            stream
                .raw(&format!("HTTP/1.1 103 Early Hints\r\nLink: </{round}>\r\nX-Podpin-Session: x\r\n\r\n"))
                .await;
            let hint = connection.head().await;
            assert!(hint.start_line.starts_with("HTTP/1.1 103"), "{hint:?}");
            assert_eq!(
                (hint.header("link"), hint.header("x-podpin-session")),
                (Some(&*format!("</{round}>")), None)
            );
        }
        stream.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: one\n\n").await;
        let head = connection.head().await;
        assert!(head.start_line.starts_with("HTTP/1.1 200"), "{head:?}");
        assert_eq!(connection.into_events(head).next_data().await, "one");
    }
    // HTTP/1.0 knows none.
    let mut old = proxy.connect().await;
    old.send(Request::events("/by-hand").http10().bytes()).await;
    let mut stream = pod.next_stream().await;
    stream
        .raw("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        .await;
    assert!(old.head().await.start_line.contains(" 200 "));
}

#[tokio::test]
async fn interim_responses_without_end_are_bounded_in_bytes() {
    let (pod, proxy) = by_hand().await;
    for request in [Request::events("/by-hand").http10(), Request::get("/by-hand").http10()] {
        let mut connection = proxy.connect().await;
        connection.send(request.bytes()).await;
        let mut stream = pod.next_stream().await;
        let many = "HTTP/1.1 102 Processing\r\n\r\n".repeat(1_000);
        while stream.try_raw(many.as_bytes()).await {}
        let status = connection.response("GET").await.status;
        assert!(matches!(status, 200 | 502), "{status}");
    }
    let labels = [("service", "chat"), ("kind", "protocol")];
    proxy.wait_metric("podpin_upstream_errors_total", &labels, 2.0).await;
    // Passed on before an answer to an offer, too, and bounded as well.
    let mut connection = proxy.connect().await;
    connection.send(Request::websocket("/by-hand").bytes()).await;
    let mut stream = pod.next_stream().await;
    let many = "HTTP/1.1 102 Processing\r\nX: y\r\n\r\n".repeat(3_000);
    stream.try_raw(many.as_bytes()).await;
    let mut count = 0;
    let last = loop {
        let head = connection.head().await;
        if !head.start_line.contains(" 102 ") {
            break head;
        }
        count += 1;
    };
    assert!(last.start_line.contains(" 502 ") && count > 1_000, "{count} {last:?}");
    proxy.wait_metric("podpin_upstream_errors_total", &labels, 3.0).await;
    let line = proxy.access_log_line(|line| line["status"] == 502 && line["path"] == "/by-hand").await;
    assert_eq!((&line["reason"], line["error"].is_string()), (&"error".into(), true), "{line}");
}

#[tokio::test]
async fn an_expectation_is_met_in_every_version() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/upload", Answer::Continue(Reply::new(201).body("stored")));
    pod.answer("/plain", Reply::new(201).body("stored"));
    pod.answer("/events", StreamAnswer::new());
    let proxy = Setup::chat(&[&pod]).h2c().start().await;
    let upload = |path: &str| Request::new("POST", path).header("Expect", "100-continue");
    let mut h2 = H2Connection::open(proxy.address).await;
    let mut request = h2.begin(&upload("/upload")).await;
    assert!(request.body.send(b"abc").await);
    request.body.finish();
    assert_eq!(request.response().await.status, 201);
    assert_eq!(pod.next_request().await.header("expect"), Some("100-continue"));
    // HTTP/1.0 has no interim responses: the pod is not asked for one (RFC 9110 section 10.1.1).
    let response = upload("/plain").body("abc").http10().send(proxy.address).await;
    assert_eq!((response.status, pod.next_request().await.header("expect")), (201, None));
    let _client = Request::events("/events").header("Expect", "100-continue").open(proxy.address).await;
    assert_eq!(pod.next_request().await.header("expect"), None, "there is no body to wait for");
}
