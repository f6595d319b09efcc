//! The filters of a route, besides placing its requests, on both data paths.

use podpin_testkit::{Pod, Reply, Request, Setup, StreamAnswer};

/// Requests, one for each data path.
fn both(target: &str) -> [Request; 2] {
    [Request::get(target), Request::events(target)]
}

#[tokio::test]
async fn who_did_not_come_over_tls_is_told_to() {
    let pod = Pod::start("pod-a").await;
    let route = "{name: all, service: chat, redirect: {scheme: https, statusCode: 308}}";
    let proxy = Setup::chat(&[&pod]).top("trustedProxies: [127.0.0.0/8]").route(route).start().await;
    for request in both("/a%20b?x=1&y") {
        let answer = proxy.connect().await.ask(&request.clone().host("app.example.com:8080")).await;
        assert_eq!(answer.status, 308);
        assert_eq!(answer.header("location"), Some("https://app.example.com/a%20b?x=1&y"));
    }
    let post = proxy.connect().await.ask(&Request::new("POST", "/form").body("x=1")).await;
    assert_eq!((post.status, post.header("location")), (308, Some("https://localhost/form")));
    assert!(pod.targets().is_empty(), "{:?}", pod.targets());
    for request in both("/served") {
        let mut connection = proxy.connect().await;
        connection.send(request.header("X-Forwarded-Proto", "https").bytes()).await;
        assert!(connection.head().await.start_line.contains(" 200 "));
    }
}

#[tokio::test]
async fn header_lines_are_removed_set_and_added_both_ways() {
    let pod = Pod::start("pod-a").await;
    let lines = [("Server", "pod"), ("X-Gone", "1"), ("X-Kept", "1"), ("X-Set", "pod"), ("X-More", "pod")];
    let plain =
        lines.iter().fold(Reply::new(200).body("x"), |reply, (name, value)| reply.header(name, value));
    let stream = lines.iter().fold(StreamAnswer::new(), |reply, (name, value)| reply.header(name, value));
    pod.answer("/plain", plain);
    pod.answer("/events", stream);
    let edits = "{set: {X-Set: ours}, add: {X-More: ours}, remove: [X-Gone]}";
    let route = format!("{{name: all, service: chat, headers: {{request: {edits}, response: {edits}}}}}");
    let proxy = Setup::chat(&[&pod]).route(&route).start().await;
    for request in [Request::get("/plain"), Request::events("/events")] {
        let request = lines.iter().fold(request, |request, (name, value)| request.header(name, value));
        let mut connection = proxy.connect().await;
        connection.send(request.bytes()).await;
        let (head, seen) = (connection.head().await, pod.next_request().await);
        for (side, head) in [("request", &seen.head), ("response", &head)] {
            let text = String::from_utf8_lossy(&head.raw).to_ascii_lowercase();
            assert_eq!((head.header("x-gone"), head.header("x-kept")), (None, Some("1")), "{side}: {text}");
            assert_eq!(text.matches("x-set: ours").count(), 1, "{side}: {text}");
            assert_eq!(text.matches("x-set").count(), 1, "{side}: {text}");
            assert_eq!(text.matches("x-more: pod").count(), 1, "{side}: {text}");
            assert_eq!(text.matches("x-more: ours").count(), 1, "{side}: {text}");
        }
    }
}

#[tokio::test]
async fn the_pod_sees_the_rewritten_path_and_host() {
    let pod = Pod::start("pod-a").await;
    let route = "{name: all, service: chat, matches: [{path: {value: /old}}], rewrite: {pathPrefix: /new, hostname: pods.internal}}";
    let slash = "{name: root, service: chat, matches: [{path: {value: /cut/}}], rewrite: {pathPrefix: /}}";
    let proxy = Setup::chat(&[&pod]).h2c().route(route).route(slash).start().await;
    let cases = [
        ("/old/a?b=/old", "/new/a?b=/old", "pods.internal"),
        ("/old", "/new", "pods.internal"),
        ("/old/", "/new/", "pods.internal"),
        ("/cut", "/", "app.example.com"),
        ("/cut/a%2Fb", "/a%2Fb", "app.example.com"),
    ];
    for (asked, target, host) in cases {
        for request in both(asked) {
            let mut connection = proxy.connect().await;
            connection.send(request.host("app.example.com").bytes()).await;
            connection.head().await;
            let seen = pod.next_request().await;
            assert_eq!((seen.target.as_str(), seen.header("host")), (target, Some(host)), "{asked}");
            assert_eq!(seen.header("x-forwarded-host"), Some("app.example.com"));
        }
    }
}
