//! A client keeps the service that it is pinned to.

use podpin_testkit::{Answer, EndpointsFile, Pod, Reply, Request, Setup, StreamAnswer};

use super::{DECISIONS, both, route, setup, who};

#[tokio::test]
async fn a_pin_is_kept_whatever_the_weights_and_the_replica() {
    let pods = Pod::start_three().await;
    let proxy = setup(&pods, [1, 1]).start().await;
    // Weights that would send nearly every client to the other service.
    let others = [setup(&pods, [1_000_000, 1]).start().await, setup(&pods, [1, 1_000_000]).start().await];
    for name in ["pod-a", "pod-b", "pod-c"] {
        let visitor = proxy.pinned_to(name).await;
        for proxy in [&proxy, &others[0], &others[1]] {
            assert_eq!(who(proxy, &visitor).await, name);
        }
    }
    for proxy in &others {
        proxy.wait_metric(DECISIONS, &[("result", "pinned")], 15.0).await;
        assert_eq!(proxy.metric(DECISIONS, &[]).await, 15.0, "every client was known");
        let listed = proxy.admin_get("/api/streams?service=chat-next").await.json();
        assert!(listed["total"].as_u64().is_some(), "{listed}");
    }
}

#[tokio::test]
async fn of_two_pins_the_first_in_the_order_of_the_route_counts() {
    let pods = Pod::start_three().await;
    let proxy = setup(&pods, [1, 1_000_000]).start().await;
    let backwards = "{name: all, backends: [{service: chat-next}, {service: chat, weight: 1000000}]}";
    let backwards = both(&pods).route(backwards).start().await;
    let mut visitor = setup(&pods, [1, 0]).start().await.pinned_to("pod-b").await.at(proxy.address);
    let next = proxy.pinned_to("pod-c").await;
    visitor.set_cookie("podpin-chat-next", next.cookie("podpin-chat-next").unwrap());
    assert_eq!(who(&proxy, &visitor).await, "pod-b");
    assert_eq!(who(&backwards, &visitor).await, "pod-c");
}

#[tokio::test]
async fn a_session_id_that_a_pod_issued_counts_before_the_cookie_of_an_earlier_service() {
    let pods = Pod::start_three().await;
    pods[2].answer("/mcp", Reply::new(200).header("Mcp-Session-Id", "own").body("pod-c"));
    let setup = both(&pods).with("affinity: {header: Mcp-Session-Id}").route(&route([1, 1]));
    let proxy = setup.start().await;
    let token = format!("podpin-chat={}", proxy.pinned_to("pod-a").await.cookie("podpin-chat").unwrap());
    let id = proxy.pinned_to("pod-c").await.get("/mcp").await.header("Mcp-Session-Id").unwrap().to_owned();
    for request in [Request::get("/who"), Request::events("/events")] {
        let request = request.header("Cookie", &token).header("Mcp-Session-Id", &id);
        let mut connection = proxy.connect().await;
        connection.send(request.bytes()).await;
        connection.head().await;
        assert_eq!(pods[2].requests().last().unwrap().header("mcp-session-id"), Some("own"));
    }
}

#[tokio::test]
async fn a_token_of_one_service_in_the_cookie_of_the_other_is_a_forgery() {
    let pods = Pod::start_three().await;
    let proxy = setup(&pods, [1, 1]).start().await;
    let chat = proxy.pinned_to("pod-a").await.cookie("podpin-chat").unwrap().to_owned();
    let before = proxy.metric(DECISIONS, &[("result", "pinned")]).await;
    let cases = [
        (format!("podpin-chat-next={chat}"), "forged", 1.0),
        (format!("podpin-chat-next={chat}; podpin-chat=nonsense"), "malformed", 1.0),
        (format!("podpin-chat-next={chat}; podpin-chat={chat}"), "pinned", before + 1.0),
    ];
    for (cookie, result, count) in cases {
        let answer = Request::get("/who").header("Cookie", &cookie).send(proxy.address).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("set-cookie").is_none(), result == "pinned", "{cookie}");
        proxy.wait_metric(DECISIONS, &[("result", result)], count).await;
    }
}

#[tokio::test]
async fn pods_see_no_cookie_of_the_route_and_write_none() {
    let pods = Pod::start_three().await;
    let theirs = ["podpin-chat=x; Path=/", "podpin-chat-next=x", "own=1"];
    for pod in &pods {
        pod.answer(
            "/set",
            theirs.iter().fold(Reply::new(200), |reply, line| reply.header("Set-Cookie", line)),
        );
        pod.answer(
            "/live",
            theirs.iter().fold(StreamAnswer::new(), |live, line| live.header("Set-Cookie", line)),
        );
    }
    let proxy = setup(&pods, [1, 1]).start().await;
    for (name, at) in [("pod-a", 0), ("pod-c", 2)] {
        let mut visitor = proxy.pinned_to(name).await;
        let known = ["podpin-chat", "podpin-chat-next"]
            .map(|name| visitor.cookie(name).unwrap_or("other").to_owned());
        let all = format!("a=b; podpin-chat-next={}; podpin-chat={}; c=d", known[1], known[0]);
        for request in [Request::get("/set"), Request::events("/live"), Request::websocket("/set")] {
            let mut connection = proxy.connect().await;
            connection.send(request.header("Cookie", &all).bytes()).await;
            assert_eq!(connection.head().await.all("set-cookie"), ["own=1"]);
            assert_eq!(pods[at].requests().last().unwrap().header("cookie"), Some("a=b; c=d"));
        }
        assert_eq!(visitor.get("/set").await.head.all("set-cookie"), ["own=1"]);
    }
}

#[tokio::test]
async fn a_cookie_that_its_service_forwards_reaches_pods_of_the_other_one() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0]]).service("chat-next", &[&pods[2]]);
    let setup = setup.with("affinity: {cookie: {forward: true}}").route(&route([1, 0]));
    let proxy = setup.start().await;
    for request in [Request::get("/who"), Request::events("/events")] {
        let request = request.header("Cookie", "podpin-chat=x; podpin-chat-next=y");
        let mut connection = proxy.connect().await;
        connection.send(request.bytes()).await;
        connection.head().await;
        assert_eq!(pods[0].next_request().await.header("cookie"), Some("podpin-chat-next=y"));
    }
}

#[tokio::test]
async fn a_websocket_keeps_the_service_and_is_told_where_it_belongs() {
    let pods = Pod::start_three().await;
    pods.iter().for_each(|pod| pod.answer("/ws", Answer::WebSocketEcho));
    let proxy = setup(&pods, [1, 1]).start().await;
    for (name, cookie, at) in [("pod-a", "podpin-chat", 0), ("pod-c", "podpin-chat-next", 2)] {
        let visitor = proxy.pinned_to(name).await;
        let token = format!("{cookie}={}", visitor.cookie(cookie).unwrap());
        let mut connection = proxy.connect().await;
        assert_eq!(connection.ask(&Request::websocket("/ws").header("Cookie", &token)).await.status, 101);
        connection.send("hello").await;
        assert_eq!(connection.raw(5).await, b"hello");
        assert!(pods[at].targets().contains(&"/ws".to_owned()));
    }
    let first = proxy.connect().await.ask(&Request::websocket("/ws")).await;
    assert!(first.header("set-cookie").is_some_and(|cookie| cookie.starts_with("podpin-chat")));
}

#[tokio::test]
async fn a_failed_connect_and_a_drain_stay_within_the_service() {
    let mut pods = Pod::start_three().await;
    let file =
        EndpointsFile::with(&[("pod-b", pods[1].address(), "ready"), ("pod-c", pods[2].address(), "ready")]);
    let setup = Setup::chat(&[&pods[0]]).service_in("chat-next", &file);
    let setup = setup.with("drain: {handover: lastEventId, spread: 0s}").route(&route([1, 1]));
    let proxy = setup.start().await;
    let mut visitor = proxy.pinned_to("pod-c").await;
    let mut client = visitor.events("/events").await;
    assert_eq!(client.next_data().await, "pod-c");
    let mut stream = pods[2].next_stream().await;
    stream.event_with_id("1", "x").await;
    client.next_event().await;
    file.write(&[("pod-b", pods[1].address(), "ready"), ("pod-c", pods[2].address(), "draining")]);
    // Its opening event has no id and is carried; who opened it is known by it.
    assert_eq!(client.next_data().await, "pod-b");
    let labels = [("service", "chat-next"), ("cause", "planned"), ("result", "ok")];
    proxy.wait_metric("podpin_handovers_total", &labels, 1.0).await;
    file.write(&[("pod-b", pods[1].address(), "ready"), ("pod-c", pods[2].address(), "ready")]);
    proxy.wait_endpoints("chat-next", &[("pod-b", "ready"), ("pod-c", "ready")]).await;
    let mut visitor = proxy.pinned_to("pod-c").await;
    pods[2].stop().await;
    assert_eq!(visitor.get("/who").await.text(), "pod-b");
    pods[1].stop().await;
    assert_eq!(visitor.get("/who").await.status, 502, "the other service does not stand in");
}
