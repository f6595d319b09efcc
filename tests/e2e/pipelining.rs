//! Requests that come before the answer to the one in front of them: served in order, none lost, none invented
//! (RFC 9112 section 9.3.2).

use podpin_testkit::{Answer, Connection, Ending, Pod, Proxy, Reply, Request, Setup};

/// The first requests of a pipeline, and the body that the pod must see.
fn firsts() -> [(Request, &'static [u8]); 4] {
    [
        (Request::get("/first"), b""),
        (Request::new("POST", "/first").body("abc"), b"abc"),
        (Request::new("POST", "/first").chunked(&["ab", "c"]), b"abc"),
        (Request::new("POST", "/first").body(""), b""),
    ]
}

/// Both answers in order, then a third request to see that nothing was left over on either side.
async fn both_are_answered(proxy: &Proxy, pod: &Pod, connection: &mut Connection, first: &Request) {
    let response = connection.response(first.method()).await;
    assert_eq!((response.status, response.text().as_str()), (200, "one"), "{first:?}");
    let response = connection.response("GET").await;
    assert_eq!((response.status, response.text().as_str()), (200, "two"), "{first:?}");
    assert_eq!(connection.ask(&Request::get("/third")).await.text(), "pod-a", "{first:?}");
    assert_eq!(connection.unread(), b"", "{first:?}");
    for target in ["/first", "/second", "/third"] {
        assert_eq!(pod.next_request().await.target, target, "{first:?}");
    }
    assert_eq!(proxy.metric("podpin_upstream_errors_total", &[]).await, 0.0, "{first:?}");
}

#[tokio::test]
async fn two_requests_in_one_segment_are_both_answered_in_order() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/first", Reply::new(200).body("one"));
    pod.answer("/second", Reply::new(200).body("two"));
    let proxy = Setup::chat(&[&pod]).start().await;
    for (first, _) in firsts() {
        let mut connection = proxy.connect().await;
        connection.send([first.bytes(), Request::get("/second").bytes()].concat()).await;
        both_are_answered(&proxy, &pod, &mut connection, &first).await;
    }
}

#[tokio::test]
async fn a_second_request_that_comes_while_the_first_waits_is_answered_after_it() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/first", Answer::ByHand);
    pod.answer("/second", Reply::new(200).body("two"));
    let proxy = Setup::chat(&[&pod]).start().await;
    for (first, _) in firsts() {
        let mut connection = proxy.connect().await;
        connection.send(first.bytes()).await;
        let mut stream = pod.next_stream().await;
        connection.send(Request::get("/second").bytes()).await;
        // Answers to others show that the proxy had the time to see the second request.
        assert_eq!(proxy.admin_get("/livez").await.status, 200);
        stream.raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
        stream.finish().await;
        both_are_answered(&proxy, &pod, &mut connection, &first).await;
    }
}

#[tokio::test]
async fn the_bodies_of_pipelined_requests_reach_the_pod_whole() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut connection = proxy.connect().await;
    let bytes: Vec<_> = firsts().iter().flat_map(|(request, _)| request.bytes()).collect();
    connection.send(bytes).await;
    for (request, body) in firsts() {
        assert_eq!(connection.response(request.method()).await.text(), "pod-a", "{request:?}");
        let seen = pod.next_request().await;
        assert_eq!((seen.method.as_str(), seen.body_ending), (request.method(), Ending::Clean));
        assert_eq!(seen.body, body, "{request:?}");
    }
}

#[tokio::test]
async fn a_second_request_cut_anywhere_is_put_together() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/first", Answer::ByHand);
    pod.answer("/second", Reply::new(200).body("two"));
    let proxy = Setup::chat(&[&pod]).start().await;
    let second = Request::get("/second").bytes();
    for (first, _) in firsts() {
        for at in [1, 10, second.len() - 1] {
            let mut connection = proxy.connect().await;
            connection.send([&first.bytes(), &second[..at]].concat()).await;
            let mut stream = pod.next_stream().await;
            stream.raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
            stream.finish().await;
            assert_eq!(connection.response(first.method()).await.text(), "one", "{first:?} + {at}");
            connection.send(&second[at..]).await;
            assert_eq!(connection.response("GET").await.text(), "two", "{first:?} + {at}");
        }
    }
}
