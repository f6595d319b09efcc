//! HTTP/2 without TLS, where a listener asks for it.

use podpin_testkit::{
    Answer, Ending, H2_PREFACE, H2_SETTINGS, H2Answer, H2Connection, Item, Pod, Reply, Request, Setup,
    h2_request,
};

#[tokio::test]
async fn events_flow_one_by_one_over_http_2_with_the_same_affinity() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).h2c().start().await;
    let mut connection = H2Connection::open(proxy.address).await;
    let mut client = connection.events(&Request::events("/events")).await;
    let home = client.next_data().await;
    assert_eq!((client.header("connection"), client.header("transfer-encoding")), (None, None));
    let cookie = client.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let pod = pods.iter().find(|pod| pod.name() == home).unwrap();
    let mut stream = pod.next_stream().await;
    for data in ["one", "two", "three"] {
        stream.event(data).await;
        assert_eq!(client.next_data().await, data);
    }
    let again = connection.send(&Request::get("/who").header("Cookie", &cookie)).await;
    assert_eq!((again.status, again.text()), (200, home.clone()));
    let mut second = connection.events(&Request::events("/events").header("Cookie", &cookie)).await;
    assert_eq!(second.next_data().await, home);
    stream.finish().await;
    assert_eq!(client.next().await, Err(Ending::Clean));
}

#[tokio::test]
async fn a_stream_that_the_pod_resets_is_reset() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0]]).h2c().start().await;
    let mut connection = H2Connection::open(proxy.address).await;
    let mut client = connection.events(&Request::events("/events")).await;
    client.next_event().await;
    let mut stream = pods[0].next_stream().await;
    stream.send("data: half").await;
    stream.reset();
    let (items, ending) = client.rest().await;
    assert_eq!((items, ending), (vec![], Ending::Reset));
    let response = connection.send(&Request::get("/who")).await;
    assert_eq!(response.text(), "pod-a", "the connection serves on");
}

#[tokio::test]
async fn what_the_pod_sent_before_it_died_comes_before_the_reset() {
    const HEAD: &str =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    const EVENT: &str = "d\r\ndata: whole\n\n\r\n";
    const HALF: &str = "8\r\ndata: ha\r\n";
    let pod = Pod::start("pod-a").await;
    pod.answer("/events", Answer::ByHand);
    let setup = Setup::chat(&[&pod]).with("health: {passive: off}");
    let proxy = setup.with("sse: {keepAlive: off}").h2c().start().await;
    let deaths: [&[String]; 6] = [
        &[[HEAD, EVENT].concat()],
        &[[HEAD, EVENT, HALF].concat()],
        &[[HEAD, EVENT, "nonsense\r\n"].concat()],
        &[HEAD.to_owned(), [EVENT, HALF].concat()],
        &[HEAD.to_owned(), EVENT.to_owned()],
        &[HEAD.to_owned(), EVENT.to_owned(), HALF.to_owned()],
    ];
    let mut connection = H2Connection::open(proxy.address).await;
    let mut wrong = Vec::new();
    for (number, segments) in deaths.iter().cycle().take(3 * deaths.len()).enumerate() {
        let dying = async {
            let mut stream = pod.next_stream().await;
            for segment in *segments {
                stream.raw(segment).await;
            }
            if number % 2 == 0 { stream.close() } else { stream.reset() }
        };
        let request = Request::events("/events");
        let (mut client, ()) = tokio::join!(connection.events(&request), dying);
        let (_, ending) = client.rest().await;
        let seen = (client.text(), ending);
        let has_half = segments.concat().ends_with(HALF);
        let rest = seen.0.strip_prefix("data: whole\n\n").unwrap_or("nothing");
        let is_goodbye = rest.starts_with("retry: ") && rest.ends_with('\n');
        let right = (is_goodbye || (has_half && rest == "data: ha")) && seen.1 == Ending::Reset;
        wrong.extend((!right).then(|| format!("{seen:?} for {segments:?}, number {number}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(connection.send(&Request::get("/who")).await.text(), "pod-a", "the connection serves on");
}

#[tokio::test]
async fn an_authority_that_is_not_a_host_and_port_is_refused() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).h2c().start().await;
    let bad = ["u@app", "u:p@app", "x\";for=6.6.6.6;host=\"y", "a\\b", "a,b", "a/b", "a b", "a?b", "a#b", ""];
    let shapes = bad.iter().flat_map(|value| {
        [vec![(":authority", *value)], vec![("host", *value)], vec![(":authority", "app"), ("host", *value)]]
    });
    let mut wrong = Vec::new();
    for fields in shapes {
        for accept in ["*/*", "text/event-stream"] {
            let mut head = vec![(":method", "GET"), (":scheme", "http"), (":path", "/bad")];
            head.extend(fields.iter().copied());
            head.push(("accept", accept));
            let mut connection = proxy.connect().await;
            connection.send([H2_PREFACE, H2_SETTINGS, &h2_request(&head)].concat()).await;
            let answer = connection.h2_answer().await;
            // RFC 9113 section 8.1.1: what the library finds malformed itself is a stream error.
            let refused = [H2Answer::Status(400), H2Answer::Reset(1)].contains(&answer);
            wrong.extend((!refused).then(|| format!("{answer:?} for {fields:?} with Accept: {accept}")));
        }
    }
    assert!(wrong.is_empty(), "not refused:\n{}", wrong.join("\n"));
    assert_eq!(proxy.get("/good").await.status, 200);
    assert_eq!(pod.targets(), ["/good"]);
}

#[tokio::test]
async fn a_client_that_resets_its_stream_releases_the_pod() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0]]).h2c().start().await;
    let mut connection = H2Connection::open(proxy.address).await;
    let client = connection.events(&Request::events("/events")).await;
    let mut stream = pods[0].next_stream().await;
    drop(client);
    stream.client_gone().await;
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "client")], 1.0).await;
    assert_eq!(connection.send(&Request::get("/who")).await.status, 200);
}

#[tokio::test]
async fn forty_streams_share_one_connection() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).h2c().start().await;
    let mut connection = H2Connection::open(proxy.address).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = connection.events(&Request::events("/events")).await;
        client.next_event().await;
        clients.push(client);
    }
    proxy.wait_metric("podpin_streams_active", &[("service", "chat")], 40.0).await;
    for pod in &pods {
        for mut stream in pod.waiting_streams().await {
            stream.event("all").await;
        }
    }
    for client in &mut clients {
        assert_eq!(client.next_data().await, "all");
    }
    drop(connection);
    drop(clients);
    proxy.wait_metric("podpin_streams_active", &[("service", "chat")], 0.0).await;
}

#[tokio::test]
async fn other_answers_and_comments_pass_as_over_http_1() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/204", Reply::new(204));
    pod.answer("/500", Reply::new(500).header("X-Why", "so").body("oops"));
    let proxy = Setup::chat(&[&pod]).with("sse: {keepAlive: 1s}").h2c().start().await;
    let mut connection = H2Connection::open(proxy.address).await;
    assert_eq!(connection.send(&Request::events("/204")).await.status, 204);
    let failed = connection.send(&Request::events("/500")).await;
    assert_eq!((failed.status, failed.text().as_str(), failed.header("x-why")), (500, "oops", Some("so")));
    let mut quiet = connection.events(&Request::events("/events")).await;
    assert!(matches!(quiet.next().await, Ok(Item::Comment(_))));
}

#[tokio::test]
async fn http_1_is_served_on_the_same_listener() {
    let pods = Pod::start_three().await;
    let proxy = Setup::chat(&[&pods[0]]).h2c().start().await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
    assert_eq!(Request::events("/events").open(proxy.address).await.next_data().await, "pod-a");
    let short = Request::get("/").http10().send(proxy.address).await;
    assert_eq!(short.status, 200, "a request shorter than the HTTP/2 preface");
}

#[tokio::test]
async fn the_pod_is_told_the_authority_as_host() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).h2c().start().await;
    let mut connection = H2Connection::open(proxy.address).await;
    for request in [Request::get("/plain"), Request::events("/events")] {
        let (status, _stream) = connection.open_stream(&request.host("app.example")).await;
        assert_eq!(status, 200);
        let seen = pod.next_request().await;
        assert_eq!(seen.head.all("host"), ["app.example"]);
        assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
        assert!(seen.head.start_line.ends_with("HTTP/1.1"));
    }
}

#[tokio::test]
async fn without_h2c_a_preface_is_refused() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let mut connection = proxy.connect().await;
    connection.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let answer = connection.try_head().await;
    assert!(answer.is_err() || answer.is_ok_and(|head| head.start_line.starts_with("HTTP/1.1 ")));
    connection.ending().await;
    assert!(pod.requests().is_empty());
}
