//! Everything that is not an event stream: passed on by the same rules, with the same affinity.

use podpin_testkit::{Answer, Ending, H2Connection, Pod, Reply, Request, Setup};

#[tokio::test]
async fn one_connection_serves_many_requests_on_few_pod_connections() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut connection = proxy.connect().await;
    for number in 0..20 {
        let response = connection.ask(&Request::get(&format!("/{number}"))).await;
        assert_eq!((response.status, response.text().as_str()), (200, "pod-a"));
    }
    assert_eq!(pod.requests().len(), 20);
    assert!(pod.connections() <= 2, "{} connections for 20 requests in a row", pod.connections());
    proxy
        .wait_metric(
            "podpin_requests_total",
            &[("service", "chat"), ("method", "GET"), ("code", "200")],
            20.0,
        )
        .await;
}

#[tokio::test]
async fn bodies_pass_whole_in_both_framings() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let big: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 253) as u8).collect();
    let mut connection = proxy.connect().await;
    let requests = [
        (Request::new("POST", "/length").body("abc"), b"abc".to_vec()),
        (Request::new("PUT", "/chunks").chunked(&["ab", "c", "defg"]), b"abcdefg".to_vec()),
        (Request::new("POST", "/big").body(big.clone()), big),
        (Request::new("POST", "/none").body(""), vec![]),
        (Request::new("DELETE", "/delete"), vec![]),
    ];
    for (request, body) in requests {
        assert_eq!(connection.ask(&request).await.status, 200);
        let seen = pod.next_request().await;
        assert_eq!((seen.method.as_str(), seen.body_ending), (request.method(), Ending::Clean));
        assert!(seen.body == body, "{} bytes instead of {}", seen.body.len(), body.len());
    }
}

#[tokio::test]
async fn a_big_response_passes_whole_in_both_framings() {
    let pod = Pod::start("pod-a").await;
    let big: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 249) as u8).collect();
    pod.answer("/length", Reply::new(200).body(big.clone()));
    pod.answer("/chunks", Reply::new(200).body(big.clone()).chunked());
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut connection = proxy.connect().await;
    for path in ["/length", "/chunks", "/length"] {
        let response = connection.ask(&Request::get(path)).await;
        assert!(response.body == big, "{path}: {} bytes, {:?}", response.body.len(), response.ending);
    }
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_continue() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/upload", Answer::Continue(Reply::new(201).body("stored")));
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut connection = proxy.connect().await;
    connection
        .send("POST /upload HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .await;
    let interim = connection.head().await;
    assert!(interim.start_line.starts_with("HTTP/1.1 100"), "{interim:?}");
    connection.send("hello").await;
    let response = connection.response("POST").await;
    assert_eq!((response.status, response.text().as_str()), (201, "stored"));
    assert_eq!(pod.next_request().await.body, b"hello");
}

#[tokio::test]
async fn a_websocket_has_the_same_affinity_and_carries_every_byte() {
    let pods = Pod::start_three().await;
    for pod in &pods {
        pod.answer("/ws", Answer::WebSocketEcho);
    }
    let proxy = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).start().await;
    for _ in 0..5 {
        let mut visitor = proxy.visitor();
        let home = visitor.get("/who").await.text();
        let token = format!("podpin-chat={}", visitor.cookie("podpin-chat").unwrap());
        let mut connection = proxy.connect().await;
        let accepted = connection.ask(&Request::websocket("/ws").header("Cookie", &token)).await;
        assert_eq!(accepted.status, 101);
        assert_eq!(accepted.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        let pod = pods.iter().find(|pod| pod.targets().contains(&"/ws".to_owned()) && pod.name() == home);
        assert!(pod.is_some(), "the upgrade did not go to {home}");
        for frame in [&b"\x81\x85abcdhello"[..], &[0x82, 0xfe, 0xff][..], &[0; 10_000][..]] {
            connection.send(frame).await;
            assert_eq!(connection.raw(frame.len()).await, frame);
        }
    }
}

#[tokio::test]
async fn a_first_websocket_sets_the_cookie() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/ws", Answer::WebSocketEcho);
    let proxy = Setup::chat(&[&pod]).start().await;
    let accepted = proxy.connect().await.ask(&Request::websocket("/ws")).await;
    assert!(accepted.header("set-cookie").is_some_and(|cookie| cookie.starts_with("podpin-chat=")));
}

#[tokio::test]
async fn a_response_that_is_cut_short_is_not_made_whole() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/x", Answer::ByHand);
    let proxy = Setup::chat(&[&pod]).start().await;
    for framing in ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let mut connection = proxy.connect().await;
        connection.send(Request::new("POST", "/x").body("x").bytes()).await;
        let mut stream = pod.next_stream().await;
        stream.raw(&format!("HTTP/1.1 200 OK\r\n{framing}")).await;
        stream.close();
        let response = connection.response("POST").await;
        assert_eq!(response.text(), "half", "{framing}");
        assert!(matches!(response.ending, Ending::Cut | Ending::Reset), "{framing}: {:?}", response.ending);
    }
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/x", Reply::new(200).body("abc").chunked());
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut connection = proxy.connect().await;
    let response = connection.ask(&Request::get("/x").http10()).await;
    assert_eq!((response.status, response.text().as_str()), (200, "abc"));
    assert_eq!(response.header("transfer-encoding"), None);
    connection.ending().await;
}

#[tokio::test]
async fn an_event_stream_of_a_post_flows_as_well() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/completions", podpin_testkit::StreamAnswer::new());
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut connection = proxy.connect().await;
    let request = Request::new("POST", "/completions").header("Accept", "text/event-stream").body("{}");
    connection.send(request.bytes()).await;
    let mut stream = pod.next_stream().await;
    let head = connection.head().await;
    let mut client = connection.into_events(head);
    for data in ["one", "two"] {
        stream.event(data).await;
        assert_eq!(client.next_data().await, data);
    }
    stream.finish().await;
    assert_eq!(client.next().await, Err(Ending::Clean));
}

#[tokio::test]
async fn http_1_0_clients_get_no_interim_responses() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/x", Answer::ByHand);
    let proxy = Setup::chat(&[&pod]).start().await;
    let requests = [
        Request::get("/x").http10(),
        Request::new("POST", "/x").http10().body("abc"),
        Request::new("POST", "/x").http10().header("Expect", "100-continue").body("abc"),
        Request::events("/x").http10(),
    ];
    for request in requests {
        for interim in ["100 Continue", "103 Early Hints\r\nLink: </x>"] {
            let mut connection = proxy.connect().await;
            connection.send(request.bytes()).await;
            let mut stream = pod.next_stream().await;
            stream.raw(&format!("HTTP/1.1 {interim}\r\n\r\n")).await;
            stream.raw("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc").await;
            let head = connection.head().await;
            assert_eq!(head.start_line.split(' ').nth(1), Some("200"), "{interim}: {head:?}");
            assert_eq!(connection.raw(3).await, b"abc");
            stream.close();
            assert_eq!(connection.unread(), b"");
        }
    }
}

#[tokio::test]
async fn lengths_come_once_and_never_with_204() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/204", Reply::new(204).header("Content-Length", "0"));
    pod.answer("/twice", Reply::new(200).header("Content-Length", "3").body("abc"));
    let proxy = Setup::chat(&[&pod]).h2c().start().await;
    let mut connection = proxy.connect().await;
    let mut h2 = H2Connection::open(proxy.address).await;
    let mut wrong = Vec::new();
    for of in [Request::get, Request::events] {
        for (path, status, lengths, body) in [("/204", 204, &[][..], ""), ("/twice", 200, &["3"], "abc")] {
            for response in [connection.ask(&of(path)).await, h2.send(&of(path)).await] {
                let seen = (response.status, response.text(), response.head.all("content-length"));
                let right = seen == (status, body.to_owned(), lengths.to_vec());
                wrong.extend(
                    (!right).then(|| format!("{} for {:?}: {seen:?}", response.head.start_line, of(path))),
                );
                assert_eq!(response.header("transfer-encoding"), None, "{:?}", response.head);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(connection.unread(), b"");
}

/// The client waits for the head of an answer, or for the rest of one.
#[tokio::test]
async fn a_client_that_leaves_lets_go_of_the_pod() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/x", Answer::ByHand);
    let proxy = Setup::chat(&[&pod]).h2c().start().await;
    for request in [Request::get("/x"), Request::new("POST", "/x").body("abc")] {
        for begun in ["", "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf"] {
            let mut connection = proxy.connect().await;
            connection.send(request.bytes()).await;
            let mut stream = pod.next_stream().await;
            stream.raw(begun).await;
            if !begun.is_empty() {
                assert_eq!(connection.head().await.header("content-length"), Some("8"));
            }
            drop(connection);
            stream.client_gone().await;
            let status = if begun.is_empty() { 0 } else { 200 };
            let of_it =
                |line: &serde_json::Value| line["status"] == status && line["method"] == request.method();
            assert_eq!(proxy.access_log_line(of_it).await["reason"], "client");
        }
        let mut h2 = H2Connection::open(proxy.address).await;
        let mut asking = h2.begin(&Request::new(request.method(), "/x")).await;
        asking.body.finish();
        let mut stream = pod.next_stream().await;
        drop(asking);
        stream.client_gone().await;
    }
    assert_eq!(proxy.metric("podpin_upstream_errors_total", &[]).await, 0.0, "no failure of the pod");
}
