//! Header matches of routes, on both data paths and over both protocols.

use podpin_testkit::{H2Connection, Pod, Proxy, Request, Setup};

/// Three services of one pod each, called after them.
async fn pods() -> [Pod; 3] {
    let pods = [Pod::start("plain").await, Pod::start("one").await, Pod::start("two").await];
    for pod in &pods {
        ["/", "/a", "/a/b"].iter().for_each(|path| pod.greet(path));
    }
    pods
}

async fn start(pods: &[Pod; 3], routes: &[&str]) -> Proxy {
    let setup = pods.iter().fold(Setup::new(), |setup, pod| setup.service(pod.name(), &[pod]));
    routes.iter().fold(setup, |setup, route| setup.route(route)).h2c().start().await
}

/// The pod that answers a request and an event stream with these lines, over HTTP/1.1 and HTTP/2.
async fn who(proxy: &Proxy, path: &str, lines: &[(&str, &str)]) -> String {
    let with =
        |request| lines.iter().fold(request, |request: Request, (name, value)| request.header(name, value));
    let (plain, events) = (with(Request::get(path)), with(Request::events(path)));
    let mut h2 = H2Connection::open(proxy.address).await;
    let answers = [
        plain.send(proxy.address).await.text(),
        events.open(proxy.address).await.next_data().await,
        h2.send(&plain).await.text(),
        h2.events(&events).await.next_data().await,
    ];
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?} for {lines:?}");
    answers[0].clone()
}

/// A path, header lines, and who answers.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

async fn check(proxy: &Proxy, table: &[Case<'_>]) {
    for (path, lines, expected) in table {
        assert_eq!(who(proxy, path, lines).await, *expected, "{path} {lines:?}");
    }
}

#[tokio::test]
async fn all_headers_of_a_match_must_be_there_and_one_match_is_enough() {
    let pods = pods().await;
    let one = "{name: one, service: one, matches: [{headers: [{name: X-Canary, value: always}, {name: x-tenant, value: blue}]}, {headers: [{name: X-Beta, value: 'yes'}]}]}";
    let proxy = start(&pods, &["{name: plain, service: plain}", one]).await;
    let table: [Case<'_>; 9] = [
        ("/", &[], "plain"),
        ("/", &[("X-Canary", "always")], "plain"),
        ("/", &[("X-Canary", "always"), ("X-Tenant", "green")], "plain"),
        ("/", &[("X-Canary", "always"), ("X-Tenant", "blue")], "one"),
        ("/a", &[("x-cANARY", "always"), ("X-TENANT", "blue"), ("X-Other", "1")], "one"),
        ("/", &[("X-Canary", "Always"), ("X-Tenant", "blue")], "plain"),
        ("/", &[("X-Canary", "always "), ("X-Tenant", "blue")], "one"),
        ("/", &[("X-Canary", "always"), ("X-Canary", "always"), ("X-Tenant", "blue")], "plain"),
        ("/", &[("X-Beta", "yes")], "one"),
    ];
    check(&proxy, &table).await;
}

#[tokio::test]
async fn the_path_counts_more_than_headers_and_more_headers_more_than_fewer() {
    let pods = pods().await;
    let header = |name: &str| format!("{{name: {name}, value: '1'}}");
    let (a, b) = (header("X-A"), header("X-B"));
    let one = format!(
        "{{name: one, service: one, matches: [{{path: {{value: /a}}, headers: [{a}]}}, {{path: {{type: Exact, value: /a/b}}, headers: [{b}]}}]}}"
    );
    let two = format!(
        "{{name: two, service: two, matches: [{{headers: [{a}, {b}]}}, {{path: {{value: /a}}, headers: [{a}, {b}]}}]}}"
    );
    let hosted = "{name: hosted, service: two, hostnames: [app.example.com]}";
    let plain = "{name: plain, service: plain, matches: [{path: {value: /}}, {path: {value: /a}}]}";
    let proxy = start(&pods, &[plain, &one, &two, hosted]).await;
    let (a, b) = (("X-A", "1"), ("X-B", "1"));
    let table: [Case<'_>; 7] = [
        ("/a", &[], "plain"),
        ("/a", &[a], "one"),
        ("/a", &[a, b], "two"),
        ("/a/b", &[a, b], "one"),
        ("/", &[a], "plain"),
        ("/", &[a, b], "two"),
        ("/a/b", &[], "plain"),
    ];
    check(&proxy, &table).await;
    let hosted = Request::get("/a").host("app.example.com").header("X-A", "1").send(proxy.address).await;
    assert_eq!(hosted.text(), "two", "the host counts more than path and headers");
}

#[tokio::test]
async fn of_matches_with_as_many_headers_the_first_in_the_file_wins() {
    let pods = pods().await;
    let route = |name: &str, header: &str| {
        format!("{{name: {name}, service: {name}, matches: [{{headers: [{{name: {header}, value: '1'}}]}}]}}")
    };
    let proxy =
        start(&pods, &[&route("two", "X-B"), &route("one", "X-A"), "{name: plain, service: plain}"]).await;
    check(&proxy, &[("/", &[("X-A", "1"), ("X-B", "1")], "two"), ("/", &[("X-A", "1")], "one")]).await;
}

#[tokio::test]
async fn an_expression_matches_the_whole_value_with_all_lines_of_the_field() {
    let pods = pods().await;
    let of = |service: &str, name: &str, value: &str| {
        format!(
            "{{name: {service}, service: {service}, matches: [{{headers: [{{name: {name}, type: RegularExpression, value: '{value}'}}]}}]}}"
        )
    };
    let routes =
        [of("one", "X-Version", r"v2\.\d+|a, b"), of("two", "Cookie", ".*; canary=(always|yes)(;.*)?")];
    let proxy = start(&pods, &["{name: plain, service: plain}", &routes[0], &routes[1]]).await;
    let table: [Case<'_>; 9] = [
        ("/", &[("X-Version", "v2.13")], "one"),
        ("/", &[("X-Version", "v2.13-rc1")], "plain"),
        ("/", &[("X-Version", "xv2.1")], "plain"),
        ("/", &[("X-Version", "v2")], "plain"),
        ("/", &[("X-Version", "")], "plain"),
        ("/", &[("X-Version", "a"), ("X-Version", "b")], "one"),
        ("/", &[("Cookie", "a=b; canary=always")], "two"),
        ("/", &[("Cookie", "a=b"), ("Cookie", "canary=yes"), ("Cookie", "c=d")], "two"),
        ("/", &[("Cookie", "a=b; canary=never")], "plain"),
    ];
    check(&proxy, &table).await;
}

#[tokio::test]
async fn a_field_that_is_missing_matches_nothing_and_any_value_is_an_expression() {
    let pods = pods().await;
    let any = "{name: one, service: one, matches: [{headers: [{name: X-A, type: RegularExpression, value: '.*'}]}]}";
    let proxy = start(&pods, &[any]).await;
    check(&proxy, &[("/", &[("X-A", "")], "one"), ("/", &[("X-A", "caf\u{e9}")], "one")]).await;
    assert_eq!(proxy.get("/").await.status, 404);
    assert_eq!(Request::events("/").send(proxy.address).await.status, 404);
}
