//! Event streams for web pages of other origins (WHATWG Fetch, section 3.3).

use podpin_testkit::{Head, Pod, Proxy, Reply, Request, Setup, StreamAnswer};

const PAGE: &str = "https://app.example.com";
const ROUTE: &str = "{name: all, service: chat, cors: {origins: [\"https://app.example.com\"], credentials: true, maxAge: 5m}}";

async fn head(proxy: &Proxy, request: &Request) -> Head {
    let mut connection = proxy.connect().await;
    connection.send(request.bytes()).await;
    connection.head().await
}

/// Whether the page that asked may see the answer, with credentials.
fn is_shown(head: &Head) -> bool {
    let text = String::from_utf8_lossy(&head.raw).to_ascii_lowercase();
    assert!(text.matches("access-control-allow-origin").count() <= 1, "{text}");
    assert!(head.header("vary").is_some_and(|vary| vary.contains("Origin")), "{text}");
    let allowed = head.header("access-control-allow-origin");
    assert_eq!(allowed.is_some(), head.header("access-control-allow-credentials") == Some("true"), "{text}");
    allowed == Some(PAGE)
}

#[tokio::test]
async fn only_pages_of_the_named_origins_see_answers_whatever_the_pod_says() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/plain", Reply::new(200).header("Access-Control-Allow-Origin", "*").body("x"));
    pod.answer("/events", StreamAnswer::new().header("Access-Control-Allow-Origin", "*"));
    let proxy = Setup::chat(&[&pod]).route(ROUTE).start().await;
    for request in [Request::get("/plain"), Request::events("/events")] {
        assert!(is_shown(&head(&proxy, &request.clone().header("Origin", PAGE)).await));
        let others =
            ["https://app.example.com:8443", "http://app.example.com", "null", "https://evil.example"];
        for other in others {
            assert!(!is_shown(&head(&proxy, &request.clone().header("Origin", other)).await), "{other}");
        }
        assert!(!is_shown(&head(&proxy, &request).await), "without an origin");
    }
}

#[tokio::test]
async fn a_preflight_is_answered_without_a_pod() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).route(ROUTE).start().await;
    let preflight = Request::new("OPTIONS", "/events")
        .header("Access-Control-Request-Method", "GET")
        .header("Access-Control-Request-Headers", "last-event-id");
    let mut connection = proxy.connect().await;
    let allowed = connection.ask(&preflight.clone().header("Origin", PAGE)).await;
    assert_eq!((allowed.status, is_shown(&allowed.head)), (204, true));
    assert_eq!(allowed.header("access-control-allow-methods"), Some("GET, HEAD, POST"));
    assert!(allowed.header("access-control-allow-headers").unwrap().contains("Last-Event-ID"));
    assert_eq!(allowed.header("access-control-max-age"), Some("300"));
    assert_eq!(allowed.header("content-length"), None);
    let refused = connection.ask(&preflight.header("Origin", "https://evil.example")).await;
    assert_eq!((refused.status, is_shown(&refused.head)), (204, false));
    assert_eq!(refused.header("access-control-allow-methods"), None);
    assert!(pod.targets().is_empty());
    // Without what makes it a preflight it is the pod's.
    let plain = connection.ask(&Request::new("OPTIONS", "/events").header("Origin", PAGE)).await;
    assert_eq!((plain.status, pod.targets().len()), (200, 1));
}

#[tokio::test]
async fn refusals_and_invitations_are_shown_too() {
    let proxy = Setup::new().service_at("chat", &[]).route(ROUTE).start().await;
    let refused = head(&proxy, &Request::get("/").header("Origin", PAGE)).await;
    assert_eq!((refused.start_line.contains(" 503 "), is_shown(&refused)), (true, true));
    let invited = head(&proxy, &Request::events("/").header("Origin", PAGE)).await;
    assert_eq!((invited.start_line.contains(" 200 "), is_shown(&invited)), (true, true));
    assert_eq!(invited.header("content-type"), Some("text/event-stream"));
}

#[tokio::test]
async fn everybody_may_where_credentials_may_not() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).route("{service: chat, cors: {origins: [\"*\"]}}").start().await;
    for request in [Request::get("/"), Request::events("/")] {
        let head = head(&proxy, &request.header("Origin", "https://any.example")).await;
        assert_eq!(head.header("access-control-allow-origin"), Some("*"));
        assert_eq!(head.header("access-control-allow-credentials"), None);
    }
}
