//! Requests on a connection whose certificate is not for their host (421), as browsers that coalesce connections send them.

use podpin_testkit::{Authority, H2Connection, Pod, Proxy, Request, Setup};

use crate::h2_front::asked;

/// A proxy with a certificate for several names, and others for others.
async fn proxy(authority: &Authority, pod: &Pod, lines: &[&str]) -> Proxy {
    authority.issue("one", &["a.test", "b.test", "*.wide.test", "127.0.0.1"]);
    authority.issue("two", &["c.test"]);
    let entries = [authority.entry("one"), authority.entry("two")].join(", ");
    let setup = Setup::chat(&[pod]).tls(&format!("{{certificates: [{entries}]}}"));
    lines.iter().fold(setup, |setup, line| setup.top(line)).start().await
}

/// Asks for each host over one HTTP/1.1 and one HTTP/2 connection, both for `name`.
async fn ask_all((proxy, authority): (&Proxy, &Authority), name: &str, table: &[(&str, u16)]) {
    let mut h1 = authority.client(&["http/1.1"]).connect(proxy.address, name).await;
    let mut h2: H2Connection = authority.client(&["h2"]).h2(proxy.address, name).await;
    for (host, status) in table {
        let target = if *status == 421 { "/misdirected" } else { "/who" };
        for request in [Request::get(target).host(host), Request::new("POST", target).host(host).body("x")] {
            let answers = [h1.ask(&request).await, h2.send(&request).await];
            for response in answers {
                assert_eq!(response.status, *status, "{host} on a connection for {name}");
                assert_ne!(response.header("connection"), Some("close"));
            }
        }
    }
}

#[tokio::test]
async fn a_host_that_the_certificate_of_the_connection_is_not_for_is_misdirected() {
    let (authority, pod) = (Authority::new(), Pod::start("pod-a").await);
    let proxy = proxy(&authority, &pod, &[]).await;
    let table = [
        ("a.test", 200),
        ("c.test", 421),
        ("b.test:8443", 200),
        ("x.WIDE.test", 200),
        ("x.y.wide.test", 421),
        ("unknown.test:443", 421),
        ("127.0.0.1:8443", 200),
        ("[::1]", 200),
        ("a.test.", 200),
    ];
    ask_all((&proxy, &authority), "a.test", &table).await;
    ask_all((&proxy, &authority), "c.test", &[("c.test", 200), ("a.test", 421)]).await;
    assert_eq!(asked(&pod, "/misdirected"), 0);
    let refused = proxy.metric("podpin_request_heads_refused_total", &[("code", "421")]).await;
    assert_eq!(refused, 16.0);
}

#[tokio::test]
async fn every_kind_of_request_is_misdirected_alone() {
    let (authority, pod) = (Authority::new(), Pod::start("pod-a").await);
    let proxy = proxy(&authority, &pod, &[]).await;
    let mut h2 = authority.client(&["h2"]).h2(proxy.address, "a.test").await;
    let mut stream = h2.events(&Request::events("/events").host("b.test")).await;
    let mut upstream = pod.next_stream().await;
    assert_eq!(h2.send(&Request::events("/misdirected").host("c.test")).await.status, 421);
    upstream.event("goes on").await;
    assert_eq!(stream.next_data().await, "goes on");
    let mut h1 = authority.client(&["http/1.1"]).connect(proxy.address, "a.test").await;
    let response = h1.ask(&Request::events("/misdirected").host("c.test")).await;
    assert_eq!(
        (response.status, response.text().as_str()),
        (421, "podpin: the connection is not for this host\n")
    );
    let head = h1.ask(&Request::new("HEAD", "/misdirected").host("c.test")).await;
    assert_eq!((head.status, head.text().as_str()), (421, ""));
    assert_eq!(h1.ask(&Request::websocket("/misdirected").host("c.test")).await.status, 421);
    assert_eq!(h1.ask(&Request::get("/who").host("a.test")).await.status, 200, "the connection goes on");
    assert_eq!(asked(&pod, "/misdirected"), 0);
}

#[tokio::test]
async fn a_client_that_asked_for_no_name_and_a_trusted_proxy_may_ask_for_any_host() {
    let (authority, pod) = (Authority::new(), Pod::start("pod-a").await);
    let any = [("a.test", 200), ("c.test", 200), ("unknown.test", 200)];
    let untrusted = proxy(&authority, &pod, &[]).await;
    ask_all((&untrusted, &authority), "127.0.0.1", &any).await;
    let trusted = proxy(&authority, &pod, &["trustedProxies: [127.0.0.1]"]).await;
    ask_all((&trusted, &authority), "a.test", &any).await;
}

#[tokio::test]
async fn an_open_connection_is_judged_by_the_certificates_that_it_began_with() {
    let (authority, pod) = (Authority::new(), Pod::start("pod-a").await);
    let proxy = proxy(&authority, &pod, &[]).await;
    let mut h1 = authority.client(&["http/1.1"]).connect(proxy.address, "a.test").await;
    let mut h2 = authority.client(&["h2"]).h2(proxy.address, "a.test").await;
    authority.issue("one", &["a.test", "new.test"]);
    proxy.wait_metric_at_least("podpin_tls_reloads_total", &[("result", "success")], 1.0).await;
    for (host, status) in [("a.test", 200), ("b.test", 200), ("x.wide.test", 200), ("new.test", 421)] {
        let request = Request::get("/who").host(host);
        assert_eq!([h1.ask(&request).await.status, h2.send(&request).await.status], [status; 2], "{host}");
    }
    let mut later = authority.client(&["h2"]).h2(proxy.address, "a.test").await;
    for (host, status) in [("new.test", 200), ("b.test", 421)] {
        assert_eq!(later.send(&Request::get("/who").host(host)).await.status, status, "{host}");
    }
}
