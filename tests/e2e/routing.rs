//! Host and path to a service: the most specific wins.

use podpin_testkit::{H2Connection, Pod, Proxy, Reply, Request, Setup};

async fn ask(proxy: &Proxy, host: &str, path: &str) -> (String, String) {
    let plain = Request::get(path).host(host).send(proxy.address).await;
    let mut connection = proxy.connect().await;
    connection.send(Request::events(path).host(host).bytes()).await;
    let head = connection.head().await;
    if !head.start_line.starts_with("HTTP/1.1 200") {
        let status = |line: &str| line.split(' ').nth(1).unwrap_or_default().to_owned();
        return (status(&plain.head.start_line), status(&head.start_line));
    }
    let mut stream = connection.into_events(head);
    (plain.text(), stream.next_data().await)
}

async fn named(name: &str, paths: &[&str]) -> Pod {
    let pod = Pod::start(name).await;
    paths.iter().for_each(|path| pod.greet(path));
    pod
}

#[tokio::test]
async fn an_exact_host_wins_over_a_wildcard_and_a_wildcard_over_none() {
    let paths = ["/"];
    let pods = [named("exact", &paths).await, named("wild", &paths).await, named("any", &paths).await];
    let setup = pods.iter().fold(Setup::new(), |setup, pod| setup.service(pod.name(), &[pod]));
    let proxy = setup
        .route("{name: any, service: any}")
        .route("{name: wild, service: wild, hostnames: [\"*.example.com\"]}")
        .route("{name: exact, service: exact, hostnames: [app.example.com]}")
        .start()
        .await;
    let cases = [
        ("app.example.com", "exact"),
        ("APP.Example.COM:8080", "exact"),
        ("app.example.com.", "exact"),
        ("other.example.com", "wild"),
        ("example.com", "any"),
        ("app.example.org", "any"),
        ("127.0.0.1", "any"),
        ("[::1]:80", "any"),
    ];
    for (host, expected) in cases {
        assert_eq!(ask(&proxy, host, "/").await, (expected.to_owned(), expected.to_owned()), "{host}");
    }
}

#[tokio::test]
async fn an_exact_path_wins_over_the_longest_prefix_by_element() {
    let paths = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/exact", "/exact/", "/a/b?x=1"];
    let pods = [
        named("root", &paths).await,
        named("short", &paths).await,
        named("long", &paths).await,
        named("exact", &paths).await,
    ];
    let setup = pods.iter().fold(Setup::new(), |setup, pod| setup.service(pod.name(), &[pod]));
    let prefix = |value: &str| format!("matches: [{{path: {{type: PathPrefix, value: {value}}}}}]");
    let proxy = setup
        .route("{name: root, service: root}")
        .route(&format!("{{name: short, service: short, {}}}", prefix("/a")))
        .route(&format!("{{name: long, service: long, {}}}", prefix("/a/b/")))
        .route("{name: exact, service: exact, matches: [{path: {type: Exact, value: /exact}}, {path: {type: Exact, value: /a/b/c}}]}")
        .start()
        .await;
    let cases = [
        ("/", "root"),
        ("/ab", "root"),
        ("/a", "short"),
        ("/a/", "short"),
        ("/a/b", "long"),
        ("/a/b?x=1", "long"),
        ("/a/b/c", "exact"),
        ("/exact", "exact"),
        ("/exact/", "root"),
    ];
    for (path, expected) in cases {
        assert_eq!(
            ask(&proxy, "localhost", path).await,
            (expected.to_owned(), expected.to_owned()),
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_no_route_matches_is_a_404() {
    let pod = named("chat", &["/x"]).await;
    let proxy = Setup::chat(&[&pod])
        .route("{name: x, service: chat, hostnames: [a.example], matches: [{path: {type: PathPrefix, value: /x}}]}")
        .start()
        .await;
    let not_found = ("404".to_owned(), "404".to_owned());
    assert_eq!(ask(&proxy, "b.example", "/x").await, not_found);
    assert_eq!(ask(&proxy, "a.example", "/y").await, not_found);
    assert_eq!(ask(&proxy, "a.example", "/x").await, ("chat".to_owned(), "chat".to_owned()));
    let mut connection = proxy.connect().await;
    let refused = connection.ask(&Request::get("/y")).await;
    assert_eq!(refused.status, 404);
    if refused.header("connection").is_none_or(|value| !value.contains("close")) {
        let served = connection.ask(&Request::get("/x").host("a.example")).await;
        assert_eq!(served.text(), "chat", "the connection was said to serve on");
    }
    assert!(pod.targets().iter().all(|target| target == "/x"), "{:?}", pod.targets());
}

#[tokio::test]
async fn each_service_has_its_own_pin() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1]]).service("news", &[&pods[1], &pods[2]]);
    let proxy = setup
        .route("{name: news, service: news, matches: [{path: {type: PathPrefix, value: /news}}]}")
        .route("{name: chat, service: chat}")
        .start()
        .await;
    let mut visitor = proxy.visitor();
    let (chat, news) = (visitor.get("/chat").await.text(), visitor.get("/news").await.text());
    assert_ne!(visitor.cookie("podpin-chat"), visitor.cookie("podpin-news"));
    for _ in 0..5 {
        assert_eq!(
            (visitor.get("/chat").await.text(), visitor.get("/news").await.text()),
            (chat.clone(), news.clone())
        );
    }
}

#[tokio::test]
async fn a_host_of_more_than_255_bytes_is_a_400_over_both_versions() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).h2c().start().await;
    let long = "a.".repeat(127) + "a";
    for (host, expected) in [(long.clone(), 200), (format!("{long}:8080"), 200), (format!("b{long}"), 400)] {
        for request in [Request::get("/"), Request::events("/")] {
            let request = request.host(&host);
            let mut connection = proxy.connect().await;
            connection.send(request.bytes()).await;
            let head = connection.head().await;
            assert!(head.start_line.starts_with(&format!("HTTP/1.1 {expected}")), "{}", head.start_line);
            let (status, _stream) = H2Connection::open(proxy.address).await.open_stream(&request).await;
            assert_eq!(status, expected, "{host}");
        }
    }
    assert_eq!(pod.requests().len(), 8);
}

#[tokio::test]
async fn a_path_of_thirty_thousand_slashes_goes_where_its_first_elements_say() {
    let (pod, other) = (named("chat", &[]).await, named("news", &[]).await);
    // A prefix of two elements beside a path of thousands.
    let slashes = "/".repeat(30_000);
    for path in [slashes.clone(), format!("/x{slashes}"), format!("/x/y{slashes}")] {
        pod.answer(&path, Reply::new(200).body("chat"));
        other.answer(&path, Reply::new(200).body("news"));
    }
    let proxy = Setup::chat(&[&pod])
        .service("news", &[&other])
        .route("{name: deep, service: news, matches: [{path: {type: PathPrefix, value: /x/y}}]}")
        .route("{name: all, service: chat}")
        .start()
        .await;
    for (path, expected) in [("", "chat"), ("/x", "chat"), ("/x/y", "news")] {
        assert_eq!(proxy.get(&format!("{path}{slashes}")).await.text(), expected, "{path}");
    }
}
