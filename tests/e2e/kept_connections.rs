//! Connections to pods that serve one request after another: whose bytes they carry, and what happens when they break.

use podpin_testkit::{Answer, Connection, Pod, Proxy, Reply, Request, Setup, wait_for};

async fn proxied(pod: &Pod) -> Proxy {
    Setup::chat(&[pod]).with("health: {passive: off}").start().await
}

/// An ordinary request leaves a connection to the pod behind it.
async fn leave_one(connection: &mut Connection, pod: &Pod) {
    assert_eq!(connection.ask(&Request::get("/first")).await.text(), "pod-a");
    assert_eq!(pod.next_request().await.target, "/first");
}

#[tokio::test]
async fn bytes_behind_a_response_reach_nobody() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/more", Answer::ByHand);
    let proxy = proxied(&pod).await;
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let answers = [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "abc"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "abc"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 44\r\n\r\n", ""),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n", ""),
        ("POST", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
    ];
    for (method, answer, text) in answers {
        let mut connection = proxy.connect().await;
        connection.send(Request::new(method, "/more").bytes()).await;
        let mut stream = pod.next_stream().await;
        stream.raw(&format!("{answer}{evil}")).await;
        assert_eq!(connection.response(method).await.text(), text, "{answer:?}");
        stream.client_gone().await;
        assert_eq!(connection.ask(&Request::get("/who")).await.text(), "pod-a", "{answer:?}");
        assert_eq!(connection.unread(), b"", "{answer:?}");
    }
    // What comes later is looked at before the connection is used again.
    let mut connection = proxy.connect().await;
    connection.send(Request::get("/more").bytes()).await;
    let mut stream = pod.next_stream().await;
    stream.raw("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").await;
    assert_eq!(connection.response("GET").await.text(), "abc");
    stream.raw(evil).await;
    stream.client_gone().await;
    assert_eq!(connection.ask(&Request::get("/who")).await.text(), "pod-a");
}

#[tokio::test]
async fn what_may_be_asked_twice_is_asked_again_when_its_pod_leaves_a_kept_connection() {
    let pod = Pod::start("pod-a").await;
    let proxy = proxied(&pod).await;
    let mut connection = proxy.connect().await;
    let large: Vec<u8> = (0..60_000_u32).map(|number| (number % 251) as u8).collect();
    let requests = [
        Request::get("/again"),
        Request::new("DELETE", "/again"),
        Request::new("PUT", "/again").body("abc"),
        Request::new("PUT", "/again").chunked(&["ab", "c"]),
        Request::new("PUT", "/again").body(large),
    ];
    for (count, request) in (1_u32..).zip(requests) {
        leave_one(&mut connection, &pod).await;
        pod.answer_once("/again", Answer::Close);
        assert_eq!(connection.ask(&request).await.text(), "pod-a", "{request:?}");
        let (one, other) = (pod.next_request().await, pod.next_request().await);
        assert_ne!(one.connection, other.connection, "{request:?}");
        assert!(one.body == other.body && one.body_ending == other.body_ending, "{request:?}");
        let retried = [("service", "chat"), ("reason", "reset")];
        proxy.wait_metric("podpin_upstream_retries_total", &retried, f64::from(count)).await;
    }
    assert_eq!(proxy.metric("podpin_upstream_errors_total", &[]).await, 0.0, "no failure of the pod");
}

#[tokio::test]
async fn what_may_not_be_asked_twice_is_a_502_when_its_pod_leaves_a_kept_connection() {
    let pod = Pod::start("pod-a").await;
    let proxy = proxied(&pod).await;
    for request in
        [Request::new("POST", "/once").body("abc"), Request::new("PATCH", "/once").chunked(&["abc"])]
    {
        let mut connection = proxy.connect().await;
        leave_one(&mut connection, &pod).await;
        pod.answer_once("/once", Answer::Close);
        assert_eq!(connection.ask(&request).await.status, 502, "{request:?}");
        assert_eq!(pod.next_request().await.target, "/once");
    }
    assert_eq!(pod.requests().len(), 4, "asked once each");
    assert_eq!(proxy.metric("podpin_upstream_retries_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_connection_that_its_pod_does_not_keep_is_not_used_again() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/close", Reply::new(200).header("Connection", "close").body("x"));
    pod.answer("/by-hand", Answer::ByHand);
    let proxy = proxied(&pod).await;
    let mut connection = proxy.connect().await;
    assert_eq!(connection.ask(&Request::get("/close")).await.text(), "x");
    let answers = [
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: x, Close\r\n\r\nx", false),
        ("HTTP/1.1 200 OK\r\n\r\nx", true),
    ];
    for (answer, ends) in answers {
        connection.send(Request::get("/by-hand").bytes()).await;
        let mut stream = pod.next_stream().await;
        stream.raw(answer).await;
        if ends {
            stream.close();
        } else {
            stream.client_gone().await;
        }
        assert_eq!(connection.response("GET").await.text(), "x", "{answer:?}");
    }
    assert_eq!(connection.ask(&Request::get("/who")).await.text(), "pod-a");
    assert_eq!(pod.connections(), 5);
}

#[tokio::test]
async fn connections_that_pods_close_are_given_up_without_a_request() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/x", Answer::ByHand);
    let proxy = proxied(&pod).await;
    let mut connection = proxy.connect().await;
    connection.send(Request::get("/x").bytes()).await;
    let mut stream = pod.next_stream().await;
    stream.raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx").await;
    assert_eq!(connection.response("GET").await.text(), "x");
    let with_one = proxy.process.open_files();
    stream.close();
    wait_for("its descriptor to be given back", async || proxy.process.open_files() < with_one).await;
}

#[tokio::test]
async fn our_own_answers_leave_the_connection_open() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod])
        .service_at("nobody", &[])
        .route("{name: none, hostnames: [nobody.example], service: nobody}")
        .route("{name: all, hostnames: [a], service: chat}")
        .start()
        .await;
    let mut connection = proxy.connect().await;
    for method in ["GET", "HEAD", "POST"] {
        for (host, status) in [("nobody.example", 503), ("elsewhere.example", 404), ("a", 200)] {
            let request = Request::new(method, "/").host(host);
            let response = connection.ask(&request).await;
            assert_eq!((response.status, response.header("connection")), (status, None), "{method} {host}");
            assert_eq!(response.body.is_empty(), method == "HEAD", "{method} {host}");
        }
    }
    // A body is no reason to close when all of it is there.
    let request = Request::new("POST", "/").host("elsewhere.example").body("abc");
    let response = connection.ask(&request).await;
    assert_eq!((response.status, response.header("connection")), (404, None));
    assert_eq!(connection.ask(&Request::get("/").host("a")).await.status, 200);
}
