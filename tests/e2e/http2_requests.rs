//! The promises about requests hold over HTTP/2 as over HTTP/1.1: routes' own answers and edits, bodies both ways,
//! streams that answer a POST, sessions that the pod issues, and our own answers when something is wrong.

use podpin_testkit::{
    Answer, Ending, EventStream, H2Connection, H2Frame, H2Upload, Pod, PodStream, Proxy, Reply, Request,
    Setup, StreamAnswer,
};

use crate::h2_front::{Front, GET, asked, with_path};

/// More than every window and buffer on the way.
const LARGE_BYTES: usize = 4 * 1024 * 1024;

/// Requests, one for each data path.
fn both(target: &str) -> [Request; 2] {
    [Request::get(target), Request::events(target)]
}

async fn h2(setup: Setup) -> (Proxy, H2Connection) {
    let proxy = setup.h2c().start().await;
    let connection = H2Connection::open(proxy.address).await;
    (proxy, connection)
}

#[tokio::test]
async fn who_did_not_come_over_tls_is_told_to() {
    let pod = Pod::start("pod-a").await;
    let route = "{name: all, service: chat, redirect: {scheme: https, statusCode: 308}}";
    let setup = Setup::chat(&[&pod]).top("trustedProxies: [127.0.0.0/8]").route(route);
    let (_proxy, mut connection) = h2(setup).await;
    for request in both("/a%20b?x=1&y") {
        let answer = connection.send(&request.host("app.example.com:8080")).await;
        assert_eq!(answer.status, 308);
        assert_eq!(answer.header("location"), Some("https://app.example.com/a%20b?x=1&y"));
    }
    let mut post = connection.begin(&Request::new("POST", "/form")).await;
    assert_eq!(post.response().await.status, 308, "without waiting for the body");
    assert!(pod.targets().is_empty(), "{:?}", pod.targets());
    for request in both("/served") {
        let (status, _stream) = connection.open_stream(&request.header("X-Forwarded-Proto", "https")).await;
        assert_eq!(status, 200);
    }
}

#[tokio::test]
async fn header_lines_are_removed_set_and_added_both_ways() {
    let pod = Pod::start("pod-a").await;
    let lines = [("server", "pod"), ("x-gone", "1"), ("x-kept", "1"), ("x-set", "pod"), ("x-more", "pod")];
    let plain = lines.iter().fold(Reply::new(200), |reply, (name, value)| reply.header(name, value));
    let stream = lines.iter().fold(StreamAnswer::new(), |reply, (name, value)| reply.header(name, value));
    pod.answer("/plain", plain);
    pod.answer("/events", stream);
    let edits = "{set: {X-Set: ours}, add: {X-More: ours}, remove: [X-Gone]}";
    let route = format!("{{name: all, service: chat, headers: {{request: {edits}, response: {edits}}}}}");
    let (_proxy, mut connection) = h2(Setup::chat(&[&pod]).route(&route)).await;
    for request in [Request::get("/plain"), Request::events("/events")] {
        let request = lines.iter().fold(request, |request, (name, value)| request.header(name, value));
        let (_, answer) = connection.open_stream(&request).await;
        let seen = pod.next_request().await;
        for (side, head) in [("request", &seen.head), ("response", &answer.head)] {
            assert_eq!((head.header("x-gone"), head.header("x-kept")), (None, Some("1")), "{side}");
            assert_eq!(head.all("x-set"), ["ours"], "{side}");
            assert_eq!(head.all("x-more"), ["pod", "ours"], "{side}");
        }
    }
}

#[tokio::test]
async fn the_pod_sees_the_rewritten_path_and_host() {
    let pod = Pod::start("pod-a").await;
    let route = "{name: all, service: chat, matches: [{path: {value: /old}}], rewrite: {pathPrefix: /new, hostname: pods.internal}}";
    let slash = "{name: root, service: chat, matches: [{path: {value: /cut/}}], rewrite: {pathPrefix: /}}";
    let (_proxy, mut connection) = h2(Setup::chat(&[&pod]).route(route).route(slash)).await;
    let cases = [
        ("/old/a?b=/old", "/new/a?b=/old", "pods.internal"),
        ("/old", "/new", "pods.internal"),
        ("/cut", "/", "app.example.com"),
        ("/cut/a%2Fb", "/a%2Fb", "app.example.com"),
    ];
    for (asked, target, host) in cases {
        for request in both(asked) {
            let (_, _stream) = connection.open_stream(&request.host("app.example.com")).await;
            let seen = pod.next_request().await;
            assert_eq!((seen.target.as_str(), seen.head.all("host")), (target, vec![host]), "{asked}");
            assert_eq!(seen.header("x-forwarded-host"), Some("app.example.com"));
        }
    }
}

/// RFC 9113 section 8.2.3.
#[tokio::test]
async fn cookies_in_several_lines_are_one_line_to_the_pod_and_ours_is_found_among_them() {
    let pods = Pod::start_three().await;
    let (_proxy, mut connection) = h2(Setup::chat(&[&pods[0], &pods[1], &pods[2]])).await;
    let who = connection.send(&Request::get("/who")).await;
    let home = pods.iter().find(|pod| pod.name() == who.text()).unwrap();
    home.next_request().await;
    let ours = who.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    for request in both("/who") {
        let lines = ["a=1", ours.as_str(), "b=2; c=3"];
        let request = lines.iter().fold(request, |request, line| request.header("Cookie", line));
        let (_, _stream) = connection.open_stream(&request).await;
        assert_eq!(home.next_request().await.head.all("cookie"), ["a=1; b=2; c=3"]);
    }
}

#[tokio::test]
async fn pages_of_named_origins_see_answers_refusals_too_and_preflights_need_no_pod() {
    const PAGE: &str = "https://app.example.com";
    let pod = Pod::start("pod-a").await;
    let route =
        "{name: all, service: chat, cors: {origins: [\"https://app.example.com\"], credentials: true}}";
    let nobody = Setup::new().service_at("chat", &[]).route(route);
    let (_proxy, mut connection) = h2(Setup::chat(&[&pod]).route(route)).await;
    let (_other, mut refusing) = h2(nobody).await;
    let allowed = |stream: &EventStream| stream.header("access-control-allow-origin").map(str::to_owned);
    for connection in [&mut connection, &mut refusing] {
        for request in both("/page") {
            let (_, answer) = connection.open_stream(&request.clone().header("Origin", PAGE)).await;
            assert_eq!(allowed(&answer).as_deref(), Some(PAGE), "{:?}", answer.head.headers);
            assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
            let (_, answer) = connection.open_stream(&request.header("Origin", "https://evil.example")).await;
            assert_eq!(allowed(&answer), None);
        }
        let preflight = Request::new("OPTIONS", "/preflight").header("Access-Control-Request-Method", "GET");
        let answer = connection.send(&preflight.header("Origin", PAGE)).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some(PAGE)));
    }
    assert_eq!(asked(&pod, "/preflight"), 0);
}

#[tokio::test]
async fn a_pod_that_does_not_answer_in_time_is_a_504_with_a_line_in_the_log() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/slow", Answer::ByHand);
    let setup = Setup::chat(&[&pod]).with("timeouts: {responseHeader: 300ms}").with("health: {passive: off}");
    for front in Front::both(&setup).await {
        let mut connection = front.client().await;
        for (method, body) in [("GET", ""), ("POST", "a body")] {
            let request = Request::new(method, "/slow");
            let request = if body.is_empty() { request } else { request.body(body) };
            let answer = connection.send(&request).await;
            assert_eq!((answer.status, &answer.ending), (504, &Ending::Clean), "{method}");
            pod.next_stream().await.client_gone().await;
            let line = front.proxy.access_log_line(|line| line["method"] == method).await;
            assert_eq!((&line["status"], &line["protocol"]), (&504.into(), &"HTTP/2".into()), "{line}");
            assert_eq!(line["endpoint"], "pod-a", "{line}");
        }
        front.serves(&pod).await;
        let metrics = front.proxy.metrics().await;
        assert_eq!(metrics.sum("podpin_upstream_errors_total", &[("kind", "timeout")]), 2.0);
        assert_eq!(metrics.sum("podpin_requests_total", &[("code", "504")]), 2.0);
    }
}

#[tokio::test]
async fn large_bodies_pass_both_ways_at_once_and_unchanged() {
    let pod = Pod::start("pod-a").await;
    let down: Vec<u8> = (0..LARGE_BYTES).map(|at| (at % 251) as u8).collect();
    let up: Vec<u8> = (0..LARGE_BYTES).map(|at| (at % 241) as u8).collect();
    pod.answer("/sized", Reply::new(200).body(down.clone()));
    pod.answer("/chunked", Reply::new(200).body(down.clone()).chunked());
    for front in Front::both(&Setup::chat(&[&pod])).await {
        let mut one = front.client().await;
        let mut other = front.client().await;
        for target in ["/sized", "/chunked"] {
            let announced = Request::new("POST", target).body(up.clone());
            let get = Request::get(target);
            let (posted, got) = tokio::join!(one.send(&announced), other.send(&get));
            assert!(posted.body == down && got.body == down, "{target}: not what the pod sent");
            assert_eq!((posted.ending, got.ending), (Ending::Clean, Ending::Clean));
            // Without a length, in many pieces.
            let mut upload = one.begin(&Request::new("POST", target)).await;
            for piece in up.chunks(100_000) {
                assert!(upload.body.send(piece).await);
            }
            upload.body.finish();
            assert!(upload.response().await.body == down, "{target}: not what the pod sent");
        }
    }
    let posts = pod.requests().into_iter().filter(|request| request.method == "POST");
    let whole: Vec<bool> = posts.map(|post| post.body == up && post.body_ending == Ending::Clean).collect();
    assert_eq!(whole, [true; 8]);
}

#[tokio::test]
async fn a_response_that_breaks_off_is_reset_and_trailers_do_no_harm() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/half", Answer::ByHand);
    let (_proxy, mut connection) = h2(Setup::chat(&[&pod]).with("health: {passive: off}")).await;
    let request = Request::get("/half");
    let pieces: [(&str, Ending); 3] = [
        ("Content-Length: 8\r\n\r\nhalf", Ending::Reset),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", Ending::Reset),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nX-Sum: 1\r\n\r\n", Ending::Clean),
    ];
    for (piece, expected) in pieces {
        let answering = async {
            let mut stream = pod.next_stream().await;
            stream.raw(&format!("HTTP/1.1 200 OK\r\n{piece}")).await;
            stream
        };
        let ((_, mut response), stream) = tokio::join!(connection.open_stream(&request), answering);
        response.until_contains("half").await;
        stream.close();
        assert_eq!(response.rest().await.1, expected, "{piece:?}");
    }
    let mut upload = connection.begin(&Request::new("POST", "/trailers")).await;
    assert!(upload.body.send(b"body").await);
    upload.body.finish_with_trailer("x-sum", "1");
    assert_eq!(upload.response().await.status, 200);
    let seen = pod.requests().into_iter().find(|request| request.path() == "/trailers").unwrap();
    assert_eq!((seen.body.as_slice(), &seen.body_ending), (b"body".as_slice(), &Ending::Clean));
}

/// A POST whose answer is an event stream, from both ends.
async fn completion(connection: &mut H2Connection, pod: &Pod) -> (EventStream, PodStream) {
    let request = Request::new("POST", "/completions").body("{\"stream\":true}");
    let (status, client) = connection.open_stream(&request).await;
    assert_eq!(status, 200);
    (client, pod.next_stream().await)
}

#[tokio::test]
async fn the_event_stream_of_a_post_is_unbuffered_sticky_counted_and_never_asked_for_again() {
    let pods = Pod::start_three().await;
    pods.iter().for_each(|pod| pod.answer("/completions", StreamAnswer::new()));
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with("drain: {handover: lastEventId}");
    let (proxy, mut connection) = h2(setup).await;
    let who = connection.send(&Request::get("/who")).await;
    let home = pods.iter().find(|pod| pod.name() == who.text()).unwrap();
    let cookie = who.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let request = Request::new("POST", "/completions").body("{}").header("Cookie", &cookie);
    let (_, mut client) = connection.open_stream(&request).await;
    let mut stream = home.next_stream().await;
    assert_eq!(stream.request.body, b"{}");
    for word in ["one", "two", "three"] {
        stream.event_with_id(word, word).await;
        assert_eq!(client.next_data().await, word);
    }
    proxy.wait_metric("podpin_streams_active", &[("endpoint", home.name())], 1.0).await;
    stream.reset();
    assert_eq!(client.rest().await, (vec![], Ending::Reset));
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "upstream_reset")], 1.0).await;
    let asked: usize = pods.iter().map(|pod| asked(pod, "/completions")).sum();
    assert_eq!(asked, 1, "it was sent again");
    let line = proxy.access_log_line(|line| line["kind"] == "stream").await;
    assert_eq!((&line["protocol"], &line["events"]), (&"HTTP/2".into(), &3.into()));
}

#[tokio::test]
async fn a_client_that_resets_its_post_releases_the_pod_and_no_other_stream() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/completions", StreamAnswer::new());
    let (proxy, mut connection) = h2(Setup::chat(&[&pod])).await;
    let (gone, mut left) = completion(&mut connection, &pod).await;
    let (mut kept, mut stream) = completion(&mut connection, &pod).await;
    drop(gone);
    left.client_gone().await;
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "client")], 1.0).await;
    stream.event("still there").await;
    assert_eq!(kept.next_data().await, "still there");
    stream.finish().await;
    assert_eq!(kept.rest().await, (vec![], Ending::Clean));
    proxy.wait_metric("podpin_streams_closed_total", &[("reason", "upstream_end")], 1.0).await;
}

#[tokio::test]
async fn a_post_that_may_have_been_executed_is_not_sent_to_another_pod() {
    let pods = Pod::start_three().await;
    pods.iter().for_each(|pod| pod.answer("/order", Answer::Close));
    let (_proxy, mut connection) = h2(Setup::chat(&[&pods[0], &pods[1], &pods[2]])).await;
    let answer = connection.send(&Request::new("POST", "/order").body("one")).await;
    assert_eq!(answer.status, 502);
    assert_eq!(pods.iter().map(|pod| asked(pod, "/order")).sum::<usize>(), 1);
}

#[tokio::test]
async fn sessions_that_the_pod_issues_are_bound_over_posts_and_streams() {
    const HEADER: &str = "mcp-session-id";
    let pods = Pod::start_three().await;
    for pod in &pods {
        let issued = format!("{}-0123456789abcdef", pod.name());
        pod.answer("/mcp", Reply::new(200).header(HEADER, &issued).body(pod.name()));
    }
    let setup =
        Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with("affinity: {header: Mcp-Session-Id, cookie: off}");
    let (_proxy, mut connection) = h2(setup).await;
    for _ in 0..5 {
        let issued = connection.send(&Request::new("POST", "/mcp").body("{}")).await;
        let (id, pod) = (issued.header(HEADER).unwrap().to_owned(), issued.text());
        assert!(!id.contains("0123456789abcdef"), "{id}");
        let post = Request::new("POST", "/who").body("{}").header(HEADER, &id);
        assert_eq!(connection.send(&post).await.text(), pod);
        let mut stream = connection.events(&Request::events("/events").header(HEADER, &id)).await;
        assert_eq!(stream.next_data().await, pod);
        let home = pods.iter().find(|one| one.name() == pod).unwrap();
        let own = format!("{pod}-0123456789abcdef");
        let seen = home.requests().into_iter().rfind(|request| request.path() == "/who").unwrap();
        assert_eq!(seen.head.all(HEADER), [own.as_str()]);
    }
}

#[tokio::test]
async fn heads_that_http_2_does_not_allow_are_refused_and_reach_no_pod() {
    let pod = Pod::start("pod-a").await;
    let field = |name, value| [with_path(&GET, "/bad"), vec![(name, value)]].concat();
    let heads = [
        field("connection", "keep-alive"),
        field("transfer-encoding", "chunked"),
        field("te", "gzip"),
        field("X-Upper", "1"),
        field("x-line", "a\r\nb: c"),
        field(":path", "/twice"),
        field("content-length", "1"),
        field("content-length", "x"),
        field("host", "another"),
        with_path(&GET, "/bad with space"),
        with_path(&GET, "no-slash"),
        with_path(&GET, "http://other/bad"),
        with_path(&[(":method", "CONNECT"), (":scheme", "http"), (":authority", "app")], "/bad"),
        with_path(&[(":method", "GET"), (":authority", "app")], "/bad"),
        GET.to_vec(),
    ];
    let answers = |frame: &H2Frame| {
        let reset = frame.reset_code().or(frame.go_away_code());
        frame.status().is_some() || reset.is_some()
    };
    for front in Front::both(&Setup::chat(&[&pod])).await {
        for head in &heads {
            let mut connection = front.begun().await;
            let good = H2Frame::request(3, &with_path(&GET, "/good"));
            assert!(connection.try_frames(&[H2Frame::request(1, head), good]).await, "{head:?}");
            let refused = connection.h2_frame_that(answers).await;
            let refused = refused.unwrap_or_else(|ending| panic!("{ending:?} for {head:?}"));
            assert_ne!(refused.status(), Some(200), "{head:?}");
            // A field that HPACK itself cannot carry ends the connection.
            if refused.go_away_code().is_none() {
                let served = connection.h2_frame_that(|frame| frame.stream() == 3 && answers(frame)).await;
                assert_eq!(served.unwrap().status(), Some(200), "after {head:?}");
            }
        }
        front.serves(&pod).await;
    }
    assert_eq!(asked(&pod, "/bad"), 0, "{:?}", pod.targets());
    let known = ["/good", "/who"];
    assert!(pod.targets().iter().all(|target| known.contains(&target.as_str())), "{:?}", pod.targets());
}

#[tokio::test]
async fn an_upload_that_nobody_ends_is_let_go_when_the_client_goes() {
    let pod = Pod::start("pod-a").await;
    let (_proxy, mut connection) = h2(Setup::chat(&[&pod])).await;
    // Over the connection to the pod that this leaves, the upload begins at once.
    assert_eq!(connection.send(&Request::get("/who")).await.text(), "pod-a");
    assert_eq!(pod.next_request().await.path(), "/who");
    let mut upload: H2Upload = connection.begin(&Request::new("POST", "/upload")).await;
    assert!(upload.body.send(b"begun").await);
    drop(upload);
    let seen = pod.next_request().await;
    assert_eq!(seen.path(), "/upload");
    assert_ne!(seen.body_ending, Ending::Clean, "a body that was not ended looks whole");
    assert_eq!(connection.send(&Request::get("/who")).await.text(), "pod-a");
}
