//! A path is routed on in one spelling, and what may be read in two ways leads nowhere: no route is gone round.

use podpin_testkit::{H2Connection, Pod, Proxy, Request, Setup};

/// A public service with `pod-a` and one with `pod-b` behind `/admin`.
fn guarded(pods: &[Pod; 2]) -> Setup {
    let setup = Setup::new().service("public", &[&pods[0]]).service("admin", &[&pods[1]]).h2c();
    let admin = "{name: admin, service: admin, matches: [{path: {type: PathPrefix, value: /admin}}]}";
    setup.route("{name: public, service: public}").route(admin)
}

async fn pods() -> [Pod; 2] {
    [Pod::start("pod-a").await, Pod::start("pod-b").await]
}

/// A request of each data path, without another protocol.
fn each(path: &str) -> [Request; 3] {
    [Request::get(path), Request::events(path), Request::new("POST", path).body("a body")]
}

/// Statuses of a request over HTTP/1.1 and HTTP/2.
async fn statuses(proxy: &Proxy, request: &Request) -> [u16; 2] {
    let mut http1 = proxy.connect().await;
    http1.send(request.bytes()).await;
    let head = http1.head().await;
    let status = head.start_line.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or_default();
    let mut http2 = H2Connection::open(proxy.address).await;
    let second = match request.method() {
        "GET" => http2.open_stream(request).await.0,
        _ => http2.send(request).await.status,
    };
    [status, second]
}

#[tokio::test]
async fn a_guarded_path_is_guarded_in_every_spelling_and_arrives_in_one() {
    let pods = pods().await;
    let proxy = guarded(&pods).start().await;
    for spelling in
        ["/x/../admin", "/./admin", "/x/%2e%2E/admin", "/%61dmin", "/../admin", "/a/b/../../admin"]
    {
        for request in each(&format!("{spelling}?q=/../%61")) {
            assert_eq!(statuses(&proxy, &request).await, [200; 2], "{spelling}");
            for _ in 0..2 {
                assert_eq!(pods[1].next_request().await.target, "/admin?q=/../%61", "{spelling}");
            }
        }
        let mut socket = proxy.connect().await;
        socket.send(Request::websocket(spelling).bytes()).await;
        socket.head().await;
        assert_eq!(pods[1].next_request().await.target, "/admin", "{spelling}");
    }
    assert!(pods[0].requests().is_empty(), "{:?}", pods[0].targets());
}

#[tokio::test]
async fn a_path_that_leads_elsewhere_by_another_reading_is_refused() {
    let pods = pods().await;
    let proxy = guarded(&pods).start().await;
    let ambiguous = [
        "//admin",
        "/admin%2f",
        "/admin%2Fx",
        "/x%2f..%2fadmin",
        "/x%5c..%5cadmin",
        "/x\\..\\admin",
        "/admin;v=1",
        "/x/..;/admin",
        "/admin/x%2f..%2f..%2fpublic",
    ];
    for path in ambiguous {
        for request in each(path) {
            assert_eq!(statuses(&proxy, &request).await, [400; 2], "{path}");
        }
    }
    assert!(pods.iter().all(|pod| pod.requests().is_empty()));
    // Both readings lead to one route, and the bytes arrive as they were sent.
    for path in ["/o/a%2Fb", "//x", "/x;v=1", "/a%5cb", "/o/a%2f..%2fb", "/caf%C3%a9"] {
        assert_eq!(statuses(&proxy, &Request::get(path)).await, [200; 2], "{path}");
        assert_eq!(pods[0].next_request().await.target, path);
        assert_eq!(pods[0].next_request().await.target, path);
    }
    // As they were sent, an application that merges slashes or drops parameters first would read `/admin`.
    for path in ["/x//../admin", "/x/.;/../admin", "/x/%2e;a/../admin"] {
        for request in each(path) {
            assert_eq!(statuses(&proxy, &request).await, [200; 2], "{path}");
            assert_eq!(pods[0].next_request().await.target, "/x/admin");
            assert_eq!(pods[0].next_request().await.target, "/x/admin");
        }
        let mut socket = proxy.connect().await;
        socket.send(Request::websocket(path).bytes()).await;
        socket.head().await;
        assert_eq!(pods[0].next_request().await.target, "/x/admin", "{path}");
    }
    let lax = guarded(&pods).top("limits: {ambiguousPaths: pass}").start().await;
    assert_eq!(statuses(&lax, &Request::get("/admin%2f")).await, [200; 2]);
    assert_eq!(pods[0].next_request().await.target, "/admin%2f");
}

#[tokio::test]
async fn a_rewritten_prefix_is_not_left() {
    let pods = pods().await;
    let route = "{name: api, service: public, rewrite: {pathPrefix: /v1}, matches: [{path: {type: PathPrefix, value: /api}}]}";
    let proxy = Setup::new().service("public", &[&pods[0]]).route(route).h2c().start().await;
    assert_eq!(statuses(&proxy, &Request::get("/x/../api/./a")).await, [200; 2]);
    assert_eq!(pods[0].next_request().await.target, "/v1/a");
    assert_eq!(pods[0].next_request().await.target, "/v1/a");
    for (path, status) in
        [("/api/../secret", 404), ("/api/x%2f..%2f..%2fsecret", 400), ("/api/..;/secret", 400)]
    {
        assert_eq!(statuses(&proxy, &Request::get(path)).await, [status; 2], "{path}");
    }
    assert_eq!(pods[0].targets().len(), 2, "{:?}", pods[0].targets());
}
